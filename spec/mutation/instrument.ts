/**
 * Mutants of lib, made by Stryker's instrumenter: all mutants of a file stand in one text, and a number switches one of
 * them on. Two kinds of bundles of specs and lib are made of it: one that notes which mutants each test comes past, and
 * one for each file that is mutated, in which every other file runs at full speed.
 *
 * A bundle is the body of a function of (require, module, control): calling it again gives a fresh set of modules.
 */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { build, type Plugin } from "esbuild";

export interface Mutant {
  /** relative to the repository */
  file: string;
  /** counted within the file */
  id: number;
  mutator: string;
  /** counted from 1 */
  line: number;
  /** what stands there, and what takes its place */
  original: string;
  replacement: string;
  /** the line it begins in, without the space around it */
  source: string;
}

export interface Instrumented {
  file: string;
  /** with calls of Stryker's helpers */
  text: string;
  mutants: Mutant[];
}

/** What a bundle is told, and what it gives back. */
export interface Control {
  /** switched on from the beginning; −1: none */
  mutant: number;
  /** by number of the mutant: one if it was come past */
  coverage: Uint8Array;
  /** milliseconds of this process's own time */
  time(): number;
  /** put here by the bundle: switches a mutant on until such a time */
  activate?(mutant: number, until: number): void;
}

interface Instrumenter {
  instrument(
    files: { name: string; mutate: boolean; content: string }[],
    options: object,
  ): Promise<{
    files: { content: string }[];
    mutants: {
      id: string;
      mutatorName: string;
      replacement: string;
      location: { start: Place; end: Place };
    }[];
  }>;
}

/** Its own declarations do not stand up to this repository's compiler options: loaded by a name that is no literal. */
const stryker: string = "@stryker-mutator/instrumenter";
const { Instrumenter } = (await import(stryker)) as {
  Instrumenter: new (logger: object) => Instrumenter;
};
const silent = { debug() {}, info() {}, warn() {}, isDebugEnabled: () => false };

/** The mutants of one file. */
export async function instrument(file: string): Promise<Instrumented> {
  const content = readFileSync(file, "utf8");
  const lines = content.split("\n");
  const { files, mutants } = await new Instrumenter(silent).instrument(
    [{ name: file, mutate: true, content }],
    { plugins: null, ignorers: [], excludedMutations: [] },
  );
  return {
    file,
    text: withoutHelpers(files[0].content),
    mutants: mutants.map(({ id, mutatorName, replacement, location: { start, end } }) => ({
      file,
      id: Number(id),
      mutator: mutatorName,
      line: start.line + 1,
      original: textBetween(lines, start, end),
      replacement,
      source: lines[start.line].trim(),
    })),
  };
}

/** Stryker puts functions of its own at the top. */
function withoutHelpers(text: string): string {
  const end = "return isActive(id);\n}";
  return text.slice(0, text.indexOf("function stryNS_")) + text.slice(text.indexOf(end) + end.length);
}

interface Place {
  line: number;
  column: number;
}

function textBetween(lines: string[], start: Place, end: Place): string {
  if (start.line === end.line) return lines[start.line].slice(start.column, end.column);
  return [
    lines[start.line].slice(start.column),
    ...lines.slice(start.line + 1, end.line),
    lines[end.line].slice(0, end.column),
  ].join("\n");
}

const ACTIVE = /stryMutAct_9fa48\("(\d+)"\)/g;
const COVERED = /stryCov_9fa48\(([^)]*)\)/g;

/** The file as it is, but that it notes which of its mutants are come past; the first one's number is `base`. */
export const noting = ({ text }: Instrumented, base: number): string =>
  text.replace(ACTIVE, "false").replace(COVERED, (_, ids: string) =>
    ids
      .split(",")
      .map((id) => `__coverage[${base + Number(JSON.parse(id))}]=1`)
      .join(","),
  );

/** The file with its mutants to be switched on. */
export const switched = ({ text }: Instrumented): string =>
  text.replace(ACTIVE, "(__mutant===$1&&__hit())").replace(COVERED, "__fuel--||__refuel()");

/** Every so many places of a mutated file, and places come past with a mutant, the time is looked at. */
const PRELUDE = `const FUEL = 1 << 18;
let __mutant = control.mutant, __until = Infinity, __fuel = FUEL;
const __coverage = control.coverage;
const __refuel = () => {
  __fuel = FUEL;
  if (control.time() > __until) throw new Error("the mutant runs for too long");
};
const __hit = () => (__fuel-- || __refuel(), true);
control.activate = (mutant, until) => { __mutant = mutant; __until = until; __fuel = FUEL; };
`;

const shim = resolve("spec/mutation/vitest.ts");

/** Bundles the specs with lib, some files of which are replaced; gives the names of packages it imports. */
export async function bundle(
  specs: readonly string[],
  texts: ReadonlyMap<string, string>,
  outfile: string,
): Promise<string[]> {
  const replaced = new Map([...texts].map(([file, text]) => [resolve(file), text]));
  const plugin: Plugin = {
    name: "mutation",
    setup({ onResolve, onLoad }) {
      onResolve({ filter: /^vitest$/ }, ({ importer }) =>
        importer === shim ? { path: "vitest", external: true } : { path: shim },
      );
      onResolve({ filter: /^enter:/ }, ({ path }) => ({ path, namespace: "enter" }));
      onLoad({ filter: /.*/, namespace: "enter" }, ({ path }) => ({
        contents: `import { enterSpec } from ${JSON.stringify(shim)}; enterSpec(${JSON.stringify(path.slice("enter:".length))});`,
        resolveDir: process.cwd(),
      }));
      onLoad({ filter: /\.ts$/ }, ({ path }) => {
        let contents = replaced.get(path) ?? readFileSync(path, "utf8");
        contents = contents.replaceAll("import.meta.url", JSON.stringify(pathToFileURL(path).href));
        // A trace is read once, not once a test.
        if (path === resolve("lib/trace/files.ts"))
          contents = `${contents.replace("export function readTrace(", "function readTraceAnew(")}
const read = new Map<string, Trace>();
export function readTrace(path: string, name = basename(path)): Trace {
  const key = path + " " + name;
  const trace = read.get(key) ?? readTraceAnew(path, name);
  read.set(key, trace);
  return trace;
}`;
        return { contents, loader: "ts" };
      });
    },
  };
  const entry = [
    `export { tests, runTest } from ${JSON.stringify(shim)};`,
    ...specs.map((spec) => `import "enter:${spec}"; import ${JSON.stringify(resolve(spec))};`),
  ].join("\n");
  const { metafile } = await build({
    stdin: { contents: entry, resolveDir: process.cwd(), loader: "ts" },
    outfile,
    bundle: true,
    platform: "node",
    format: "cjs",
    target: "node20",
    packages: "external",
    minifySyntax: true,
    ignoreAnnotations: true, // package.json promises that modules do nothing when they are loaded: specs do
    metafile: true,
    logLevel: "error",
    plugins: [plugin],
    banner: { js: PRELUDE },
  });
  return Object.values(metafile.outputs).flatMap(({ imports }) => imports.map(({ path }) => path));
}
