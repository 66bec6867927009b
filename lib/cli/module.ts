/**
 * The user's modules that a command runs. JavaScript, and TypeScript too: by Node itself where it can (22.18), otherwise
 * by the esbuild that the user's project has, as vite and vitest bring it.
 */
import { rmSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { UsageError } from "./output.ts";

export type Module = Record<string, unknown>;

const load = (path: string): Promise<Module> => import(pathToFileURL(path).href);

/** What a file exports; whatever keeps it from being loaded is a UsageError. */
export async function loadModule(path: string): Promise<Module> {
  const file = resolve(path);
  try {
    return await load(file).catch((error: NodeJS.ErrnoException | null) => {
      if (error?.code !== "ERR_UNKNOWN_FILE_EXTENSION") throw error;
      return loadTypeScript(file);
    });
  } catch (error) {
    throw thrownBy(path, error);
  }
}

/** What a user's module threw, as the message of a command: its words, and the line if the file is in the stack. */
export function thrownBy(path: string, error: unknown): UsageError {
  if (!(error instanceof Error)) return new UsageError(`${path}: ${error} was thrown`);
  const file = resolve(path);
  const places = [pathToFileURL(file).href, file].map((name) => error.stack?.split(`${name}:`)[1]);
  const number = /^\d+/.exec(places.find((place) => place !== undefined) ?? "")?.[0];
  const line = number === undefined ? "" : `:${number}`;
  return new UsageError(`${path}${line}: ${error.message}`);
}

/** The part of esbuild that is used. */
interface Esbuild {
  build(options: object): Promise<unknown>;
}

/** Compiles it to a file beside it, so that it finds its packages, loads that, and removes it. */
async function loadTypeScript(file: string): Promise<Module> {
  let esbuild: Esbuild;
  try {
    esbuild = createRequire(file)("esbuild") as Esbuild;
  } catch {
    throw new Error(
      `Node ${process.versions.node} runs no TypeScript: install esbuild in your project, or compile it to JavaScript`,
    );
  }
  const compiled = join(dirname(file), `.${basename(file)}.${process.pid}.mjs`);
  try {
    await esbuild.build({
      entryPoints: [file],
      outfile: compiled,
      bundle: true,
      packages: "external",
      platform: "node",
      format: "esm",
      logLevel: "silent",
    });
    return await load(compiled);
  } finally {
    rmSync(compiled, { force: true });
  }
}
