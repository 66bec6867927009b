/**
 * The habits of the house, checked: which floor may import which, no clock, no chance and no promise where the kernel
 * is, nothing that is imported by nobody, no file beyond a sensible length.
 */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const lib = join(root, "lib");

/** By folder of lib; a file imports only from its own floor or from below. */
const floors: Record<string, number> = {
  abi: 0,
  kernel: 1,
  hardware: 1,
  native: 1,
  kvm: 2,
  vfio: 2,
  machine: 3,
  trace: 4,
  fuzz: 4,
  vmm: 5,
  vitest: 5,
  examples: 5,
  cli: 6,
};

/**
 * Rooms of floor 2 meet only through files of the kernel. Hardware knows no kernel; the kernel knows the hardware that
 * its interrupts come from.
 */
const forbidden: [from: string, to: string][] = [
  ["hardware", "kernel"],
  ["hardware", "native"],
  ["kernel", "native"],
  ["kvm", "vfio"],
];

const MAX_LINES = 1000;

function files(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory()
      ? files(join(folder, entry.name))
      : entry.name.endsWith(".ts")
        ? [join(folder, entry.name)]
        : [],
  );
}

interface Source {
  path: string;
  /** relative to lib, with slashes */
  name: string;
  room: string;
  text: string;
  /** relative imports, resolved */
  imports: string[];
  packages: string[];
}

const sources: Source[] = files(lib).map((path) => {
  const name = relative(lib, path).replaceAll("\\", "/");
  const text = readFileSync(path, "utf8");
  const specifiers = [...text.matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)].map((match) => match[1]);
  return {
    path,
    name,
    room: name.includes("/") ? name.slice(0, name.indexOf("/")) : "",
    text,
    imports: specifiers.filter((s) => s.startsWith(".")).map((s) => resolve(dirname(path), s)),
    packages: specifiers.filter((s) => !s.startsWith(".")),
  };
});

const roomOf = (path: string): string => {
  const name = relative(lib, path).replaceAll("\\", "/");
  return name.includes("/") ? name.slice(0, name.indexOf("/")) : "";
};

describe("floors", () => {
  test("every folder of lib has its floor", () => {
    const rooms = [...new Set(sources.map((source) => source.room))].filter((room) => room !== "");
    expect(rooms.filter((room) => floors[room] === undefined)).toEqual([]);
  });

  test("a file imports only from its own floor or from below", () => {
    const wrong = sources.flatMap((source) =>
      source.room === ""
        ? []
        : source.imports
            .filter((target) => floors[roomOf(target)] > floors[source.room])
            .map((target) => `${source.name} → ${relative(lib, target)}`),
    );
    expect(wrong).toEqual([]);
  });

  test("rooms of one floor that must not know each other do not", () => {
    const wrong = sources.flatMap((source) =>
      source.imports
        .filter((target) => forbidden.some(([from, to]) => from === source.room && to === roomOf(target)))
        .map((target) => `${source.name} → ${relative(lib, target)}`),
    );
    expect(wrong).toEqual([]);
  });

  test("the core imports no package and nothing of Node's", () => {
    const core = new Set(["", "abi", "kernel", "hardware", "kvm", "vfio", "machine"]);
    const wrong = sources
      .filter((source) => core.has(source.room))
      .flatMap((source) =>
        source.packages.filter((name) => name !== "ts-pattern").map((name) => `${source.name}: ${name}`),
      );
    expect(wrong).toEqual([]);
  });
});

describe("determinism", () => {
  /** The files that make a promise: nothing in the kernel waits for it. */
  const promises = new Set([
    "kernel/kernel.ts",
    "kernel/long-call.ts",
    "kernel/readable.ts",
    "kernel/process.ts",
    "kernel/syscalls.ts",
  ]);
  const inside = sources.filter(({ room }) =>
    ["kernel", "hardware", "kvm", "vfio", "machine"].includes(room),
  );
  const code = (text: string) => text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/\/\/.*$/gm, "");

  test.each([
    "Date",
    "Math.random",
    "setTimeout",
    "setInterval",
    "setImmediate",
    "queueMicrotask",
    "performance",
  ])("no %s", (word) => {
    const found = inside.filter(({ text }) =>
      new RegExp(`\\b${word.replace(".", "\\.")}\\b`).test(code(text)),
    );
    expect(found.map(({ name }) => name)).toEqual([]);
  });

  test("no promise", () => {
    const found = inside.filter(
      ({ name, text }) =>
        !promises.has(name) && /\bPromise\b|\basync (function|\()|\bawait /.test(code(text)),
    );
    expect(found.map(({ name }) => name)).toEqual([]);
  });

  test("nothing throws where a system call runs", () => {
    const floor = new Set(["kernel", "hardware", "kvm", "vfio"]);
    // The edge that throws on purpose.
    const edge = new Set(["kernel/checked.ts"]);
    const found = sources.filter(
      ({ room, name, text }) => floor.has(room) && !edge.has(name) && /\bthrow\b/.test(code(text)),
    );
    expect(found.map(({ name }) => name)).toEqual([]);
  });
});

describe("files", () => {
  test(`none is longer than ${MAX_LINES} lines, declarations and data aside`, () => {
    const long = sources
      .filter(({ name }) => !name.startsWith("abi/") && !name.startsWith("machine/profiles/"))
      .map(({ name, text }) => ({ name, lines: text.split("\n").length }))
      .filter(({ lines }) => lines > MAX_LINES);
    expect(long).toEqual([]);
  });

  test("each says at its top what it is", () => {
    expect(sources.filter(({ text }) => !/^(#!.*\n)?\/\*\*/.test(text)).map(({ name }) => name)).toEqual([]);
  });

  test("each is imported by another, or is an entry point", () => {
    const imported = new Set(sources.flatMap(({ imports }) => imports));
    const entries = new Set([
      "index.ts",
      "abi/index.ts",
      "trace/index.ts",
      "trace/files.ts",
      "fuzz/index.ts",
      "fuzz/fast-check.ts",
      "vitest/index.ts",
      "native/index.ts",
      "vmm/index.ts",
      "cli/main.ts",
      "examples/guests.ts",
      "examples/seeds.ts",
      "examples/vmm.ts",
      "examples/matrix.ts",
      "examples/resampling.ts",
    ]);
    const dead = sources.filter(({ path, name }) => !imported.has(path) && !entries.has(name));
    expect(dead.map(({ name }) => name)).toEqual([]);
  });

  test("none names a machine's path or a package registry", () => {
    const found = sources.filter(({ text }) => /\/work\/|\/root\/|registry\.npmjs|deb\.debian/.test(text));
    expect(found.map(({ name }) => name)).toEqual([]);
  });
});
