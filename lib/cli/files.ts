/** The files that the arguments of a command name. What keeps one from being read or written is a UsageError. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { basename, join, relative } from "node:path";
import { UsageError } from "./output.ts";

export interface TraceFile {
  path: string;
  /** for tables: the path from the folder that was named on, without the ending */
  name: string;
}

const ending = /\.jsonl(\.gz)?$/;

/** All trace files, each folder's sorted by name. */
export function traceFiles(paths: readonly string[]): TraceFile[] {
  return paths.flatMap((path) => {
    let isFolder: boolean;
    try {
      isFolder = statSync(path).isDirectory();
    } catch (error) {
      throw new UsageError(`${path}: ${reason(error)}`);
    }
    if (!isFolder) return [{ path, name: basename(path).replace(ending, "") }];
    const found = inFolder(path).map((file) => ({
      path: file,
      name: relative(path, file).replace(ending, ""),
    }));
    if (found.length === 0) throw new UsageError(`${path}: no trace (*.jsonl, *.jsonl.gz) in this folder`);
    return found;
  });
}

function inFolder(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .flatMap((entry) => {
        const path = join(folder, entry.name);
        if (entry.isDirectory()) return inFolder(path);
        return ending.test(entry.name) ? [path] : [];
      });
  } catch (error) {
    throw new UsageError(`${folder}: ${reason(error)}`);
  }
}

/** The text of a file. */
export function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new UsageError(`${path}: cannot be read: ${reason(error)}`);
  }
}

/** Writes a text, or what `write` does to the file. */
export function writeOut(path: string, write: string | (() => void)): void {
  try {
    if (typeof write === "string") writeFileSync(path, write);
    else write();
  } catch (error) {
    throw new UsageError(`${path}: cannot be written: ${reason(error)}`);
  }
}

/** Where differences that are meant to be are looked for if nobody says where: in this repository. */
export const KNOWN = "fixtures/known-differences.json";

/** What `parse` makes of a list of known differences: of the file that was named, or of `KNOWN` if there is one. */
export function readKnown<T>(path: string | undefined, parse: (source: string) => T): T {
  if (path === undefined && !existsSync(KNOWN)) return parse("[]");
  const source = readText(path ?? KNOWN);
  try {
    return parse(source);
  } catch (error) {
    throw new UsageError(`${path ?? KNOWN}: ${(error as Error).message}`);
  }
}

/** Why a file could not be reached, without the path and the call that Node adds. */
const reason = (error: unknown): string => {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ENOENT") return "no such file or folder";
  if (code === "EACCES") return "permission denied";
  if (code === "EISDIR") return "it is a folder";
  return message;
};
