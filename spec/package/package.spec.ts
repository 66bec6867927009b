/**
 * The package as it would be published: packed, installed into an empty project without a network, used from
 * TypeScript and from JavaScript.
 */
import { spawnSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const manifest = JSON.parse(readFileSync("package.json", "utf8")) as {
  exports: Record<string, unknown>;
  dependencies: Record<string, string>;
  optionalDependencies: Record<string, string>;
};
const folder = mkdtempSync(join(tmpdir(), "fake-kvm-package-"));
const project = join(folder, "project");

function run(cwd: string, command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: "utf8" });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${status}:\n${stdout}${stderr}`);
  return stdout;
}

/** Packs a copy of the repository, so that nothing is built where others build. */
function pack(): string {
  const copy = join(folder, "repository");
  mkdirSync(copy);
  for (const name of ["package.json", "tsconfig.json", "README.md", "LICENSE", "lib", "docs"])
    cpSync(name, join(copy, name), { recursive: true });
  symlinkSync(resolve("node_modules"), join(copy, "node_modules"));
  run(copy, "npm", "pack", "--pack-destination", folder);
  return join(folder, readdirSync(folder).find((name) => /^fake-kvm-.*\.tgz$/.test(name))!);
}

const files: string[] = [];

beforeAll(() => {
  const tarball = pack();
  files.push(...run(folder, "tar", "tzf", tarball).trim().split("\n"));
  run(
    folder,
    "npm",
    "pack",
    resolve("node_modules/ts-pattern"),
    "--ignore-scripts",
    "--pack-destination",
    folder,
  );
  const pattern = readdirSync(folder).find((name) => name.startsWith("ts-pattern-"))!;
  mkdirSync(project);
  writeFileSync(join(project, "package.json"), `{ "name": "empty", "private": true, "type": "module" }`);
  run(project, "npm", "install", tarball, join(folder, pattern), "--no-save", "--offline", "--omit=optional");
}, 120_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a file of the project. */
function node(name: string, source: string): string {
  writeFileSync(join(project, name), source);
  return run(project, process.execPath, name);
}

describe("an empty project", { timeout: 60_000 }, () => {
  test("gets two packages: this one and ts-pattern", () => {
    expect(readdirSync(join(project, "node_modules")).filter((name) => !name.startsWith("."))).toEqual([
      "fake-kvm",
      "ts-pattern",
    ]);
    expect(Object.keys(manifest.dependencies)).toEqual(["ts-pattern"]);
    expect(Object.keys(manifest.optionalDependencies)).toEqual(["koffi"]);
  });

  test("JavaScript: the first example of the README prints what it says", () => {
    const example = /```ts\n([\s\S]*?)```/.exec(readFileSync("README.md", "utf8"))![1];
    expect(node("example.js", example)).toBe("10\n");
  });

  test("TypeScript: the same, and every entry point has types that hold, Node's known or not", () => {
    const example = /```ts\n([\s\S]*?)```/.exec(readFileSync("README.md", "utf8"))![1];
    writeFileSync(
      join(project, "example.ts"),
      example.replace("console.log(", "export const printed = String("),
    );
    writeFileSync(
      join(project, "entries.ts"),
      `import { Machine, type Process } from "fake-kvm";
import { KvmIrqfd } from "fake-kvm/abi";
import { explore, toText } from "fake-kvm/fuzz";
import { programs } from "fake-kvm/fuzz/fast-check";
import { nativeKernel } from "fake-kvm/native";
import { parseTrace, replay } from "fake-kvm/trace";
import { readTrace } from "fake-kvm/trace/files";
import { Irqchip } from "fake-kvm/vmm";

export const process: Process = new Machine().process();
export const bytes: Uint8Array = KvmIrqfd.encode({ fd: 3, gsi: 5 });
// @ts-expect-error: no such field
KvmIrqfd.encode({ gsy: 5 });
export const identical = (path: string): boolean => replay(readTrace(path)).different === 0;
export const used = [explore, programs, toText, nativeKernel, parseTrace, Irqchip];
`,
    );
    const compilerOptions = {
      strict: true,
      target: "es2023",
      lib: ["es2023"],
      module: "nodenext",
      types: [],
      outDir: "out",
    };
    const files = ["example.ts", "entries.ts"];
    writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, files }));
    // a package that the user of fake-kvm/fuzz/fast-check brings
    const brought = join(project, "node_modules/fast-check");
    symlinkSync(resolve("node_modules/fast-check"), brought);
    run(project, process.execPath, resolve("node_modules/typescript/bin/tsc"), "-p", ".");
    rmSync(brought);
    expect(node("run.js", `import { printed } from "./out/example.js"; console.log(printed);`)).toBe("10\n");
  });

  test("TypeScript: every block of the guides has types that hold, however strict", () => {
    mkdirSync(join(project, "guides"));
    const guides = readdirSync("docs").filter((name) => name.endsWith(".md"));
    const blocks = guides.flatMap((name) =>
      [...readFileSync(join("docs", name), "utf8").matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(
        ([, code], i) => {
          writeFileSync(join(project, "guides", `${name}-${i}.ts`), `${code}\nexport {};\n`);
          return name;
        },
      ),
    );
    expect(blocks.length).toBeGreaterThan(10);
    const compilerOptions = {
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      noEmit: true,
      target: "es2023",
      module: "nodenext",
      types: ["node"],
      typeRoots: [resolve("node_modules/@types")],
    };
    writeFileSync(join(project, "guides/tsconfig.json"), JSON.stringify({ compilerOptions }));
    const brought = ["fast-check", "vitest"].map((name) => join(project, "node_modules", name));
    for (const path of brought) symlinkSync(resolve("node_modules", basename(path)), path);
    run(project, process.execPath, resolve("node_modules/typescript/bin/tsc"), "-p", "guides");
    for (const path of brought) rmSync(path);
  });

  test("every entry point is imported; those that need a package name it", () => {
    const needs: Record<string, string> = { "./fuzz/fast-check": "fast-check", "./vitest": "vitest" };
    for (const entry of Object.keys(manifest.exports).filter((name) => name !== "./package.json")) {
      const source = `import("fake-kvm${entry.slice(1)}").then((m) => console.log(Object.keys(m).length > 0), (e) => console.log(e.message))`;
      const printed = node("entry.js", source);
      if (needs[entry] === undefined) expect(printed, entry).toBe("true\n");
      else expect(printed, entry).toContain(`Cannot find package '${needs[entry]}'`);
    }
  });

  // Bun and Deno take the package as it is; where neither is installed, nothing is asked
  const others = [
    ["bun", "run"],
    ["deno", "run", "--allow-all"],
  ].filter(([command]) => spawnSync(command, ["--version"]).status === 0);

  test.skipIf(others.length === 0)("other runtimes: the example, and the command", () => {
    const example = /```ts\n([\s\S]*?)```/.exec(readFileSync("README.md", "utf8"))![1];
    writeFileSync(join(project, "elsewhere.ts"), example);
    const trace = resolve("fixtures/traces/x86_64-kvm-6.18/irqfd_resample.jsonl.gz");
    for (const [command, ...args] of others) {
      expect(run(project, command, ...args, "elsewhere.ts"), command).toBe("10\n");
      const cli = "node_modules/fake-kvm/dist/cli.js";
      expect(run(project, command, ...args, cli, "replay", trace), command).toContain(" 0 different");
    }
  });

  test("the command is there", () => {
    expect(run(project, "npx", "--no-install", "fake-kvm", "--help")).toContain("replay");
  });
});

describe("the tarball", () => {
  test("holds what is used, and nothing of the repository's own work", () => {
    const top = new Set(
      files.map((name) =>
        name
          .split("/")
          .slice(1, name.split("/").length > 3 ? 3 : 2)
          .join("/"),
      ),
    );
    expect([...top].sort()).toEqual(
      [
        "LICENSE",
        "README.md",
        "package.json",
        "docs",
        "dist",
        ...[
          "abi",
          "fuzz",
          "hardware",
          "kernel",
          "kvm",
          "machine",
          "native",
          "trace",
          "vfio",
          "vitest",
          "vmm",
        ].map((room) => `dist/${room}`),
      ].sort(),
    );
    expect(
      files.filter((name) => name.endsWith(".map") || (name.endsWith(".ts") && !name.endsWith(".d.ts"))),
    ).toEqual([]);
  });
});
