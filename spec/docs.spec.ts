/**
 * The guides are true: every block of code in docs runs, in the order of its guide and in a folder of its own, and prints
 * what the block of text behind it says.
 */
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { build, type Plugin } from "esbuild";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const folder = mkdtempSync(join(tmpdir(), "fake-kvm-docs-"));
const cli = join(folder, "cli.mjs");

/** `fake-kvm/abi` is lib/abi/index.ts here. */
const ourselves: Plugin = {
  name: "ourselves",
  setup({ onResolve }) {
    onResolve({ filter: /^fake-kvm(\/|$)/ }, ({ path }) => {
      const name = path.split("/").slice(1).join("/");
      const candidates = [`lib/${name}.ts`, `lib/${name}/index.ts`, "lib/index.ts"].map((each) =>
        resolve(each),
      );
      return { path: candidates.find((each) => existsSync(each) && name !== "") ?? resolve("lib/index.ts") };
    });
  },
};

const bundle = (source: string | { file: string }, outfile: string) =>
  build({
    ...(typeof source === "string"
      ? { stdin: { contents: source, resolveDir: resolve("."), loader: "ts" } }
      : { entryPoints: [source.file] }),
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    external: ["koffi", "vitest"],
    banner: {
      js: `import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);`,
    },
    plugins: [ourselves],
    outfile,
    logLevel: "silent",
  });

function run(cwd: string, args: string[], input = ""): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd,
    input,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
  });
  if (status !== 0) throw new Error(`ended with ${status}:\n${stdout}${stderr}`);
  return stdout;
}

interface Block {
  readonly language: string;
  readonly code: string;
  /** what the block of text behind it says */
  readonly prints: string | undefined;
}

function blocksOf(markdown: string): Block[] {
  const found = [...markdown.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)].map(([, language, code]) => ({
    language,
    code,
  }));
  return found.flatMap(({ language, code }, i) =>
    // What stands behind no code, in vmm.md, is compared where that example is tested (spec/examples/small-vmm).
    language === "text"
      ? []
      : [{ language, code, prints: found[i + 1]?.language === "text" ? found[i + 1].code : undefined }],
  );
}

beforeAll(async () => {
  // As an entry point: an import of it would be left out, since package.json says that modules have no side effects.
  await bundle({ file: "lib/cli/main.ts" }, cli);
  symlinkSync(resolve("node_modules"), join(folder, "node_modules"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const guides = readdirSync("docs").filter((name) => name.endsWith(".md"));

test("the guides are listed", () => {
  const listed = [...readFileSync("docs/README.md", "utf8").matchAll(/\(([\w-]+\.md)\)/g)].map(
    (match) => match[1],
  );
  expect([...listed, "README.md"].sort()).toEqual(guides.sort());
});

describe.each(guides)("%s", (guide) => {
  const cwd = join(folder, guide.replace(".md", ""));
  mkdirSync(cwd);
  const blocks = blocksOf(readFileSync(join("docs", guide), "utf8"));

  test("its links lead somewhere", () => {
    const links = [...readFileSync(join("docs", guide), "utf8").matchAll(/\]\(([^)#:]+)\)/g)].map(
      (match) => match[1],
    );
    expect(links.filter((link) => !existsSync(join("docs", dirname(link), link)))).toEqual([]);
  });

  for (const [i, { language, code, prints }] of blocks.entries())
    test(`block ${i + 1} (${language})`, async () => {
      if (language === "sh") {
        let printed = "";
        for (const line of code.trim().split("\n")) {
          const [words, from] = line.split(" < ");
          const [npx, command, ...args] = words.split(" ");
          expect([npx, command]).toEqual(["npx", "fake-kvm"]);
          printed += run(cwd, [cli, ...args], from && readFileSync(join(cwd, from), "utf8"));
        }
        if (prints !== undefined) expect(printed).toBe(prints);
        return;
      }
      expect(["ts", "js"]).toContain(language);
      // A block that begins with the name of a file is that file, for the commands that follow.
      const name = /^\/\/ (\w+\.mjs)\n/.exec(code)?.[1];
      const file = join(cwd, name ?? `block${i}.mjs`);
      await bundle(code, file);
      if (name !== undefined) return;
      if (!code.includes('"fake-kvm/vitest"')) {
        expect(prints).toBeDefined();
        expect(run(cwd, [file])).toBe(prints);
        return;
      }
      writeFileSync(join(cwd, "config.mjs"), `export default { test: { include: ["block${i}.mjs"] } };`);
      const report = JSON.parse(
        run(cwd, [
          resolve("node_modules/vitest/vitest.mjs"),
          "run",
          "--config",
          "config.mjs",
          "--reporter=json",
        ]),
      ) as { numPassedTests: number; numFailedTests: number };
      expect(report).toMatchObject({ numPassedTests: 1, numFailedTests: 0 });
    }, 60_000);
});
