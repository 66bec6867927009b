/** What the README says is true: its example runs and prints what it says, its table is what a replay gives. */
import { existsSync, readFileSync } from "node:fs";
import { transformSync } from "esbuild";
import picocolors from "picocolors";
import { expect, test } from "vitest";
import { conformanceTable, withTable } from "../lib/cli/conformance.ts";
import { conformancePage } from "../lib/cli/conformance-page.ts";
import type { Output } from "../lib/cli/output.ts";
import { run } from "../lib/cli/program.ts";
import { knownCalls } from "../lib/trace/known.ts";

const readme = readFileSync("README.md", "utf8");

test("the first example prints what it says", async () => {
  const example = /<!-- example[^>]*-->\n```ts\n([\s\S]*?)```/.exec(readme)?.[1];
  expect(example).toBeDefined();
  const expected = /\/\/ prints (\S+):/.exec(example!)?.[1];
  const { code } = transformSync(example!, { loader: "ts", format: "esm" });
  // The package's own name is its entry point in lib here.
  const body = code
    .replace(/import \{([^}]*)\} from "fake-kvm";/, "const {$1} = fakeKvm;")
    .replaceAll("console.log(", "print(");
  const printed: unknown[] = [];
  const fakeKvm = await import("../lib/index.ts");
  new Function("fakeKvm", "print", body)(fakeKvm, (value: unknown) => printed.push(value));
  expect(printed).toEqual([expected]);
});

test("the conformance table is what replaying gives", () => {
  expect(readme).toBe(withTable(readme, conformanceTable(["fixtures/traces"])));
}, 120_000);

test("the conformance page is what replaying gives", () => {
  const folders = ["traces", "recorded", "counterexamples"].map((name) => `fixtures/${name}`);
  const known = knownCalls(readFileSync("fixtures/known-differences.json", "utf8"));
  expect(conformancePage(folders, known)).toBe(readFileSync("docs/conformance.md", "utf8"));
}, 120_000);

test("every command in it exists", () => {
  const { scripts } = JSON.parse(readFileSync("package.json", "utf8")) as { scripts: Record<string, string> };
  const named = [...readme.matchAll(/npm run ([a-z:]+)/g)].map((match) => match[1]);
  expect(named.length).toBeGreaterThan(3);
  expect(named.filter((name) => scripts[name] === undefined)).toEqual([]);
});

test("every command of fake-kvm is in it, and no other; every link leads somewhere", () => {
  const help: string[] = [];
  const output: Output = {
    print: (text) => void help.push(text),
    warn: (text) => void help.push(text),
    width: 120,
    interactive: false,
    colors: picocolors.createColors(false),
  };
  run(["--help"], output);
  const commands = [...help.join("\n").matchAll(/^ {2}(\w+) .*[[<]/gm)].map(([, name]) => name);
  const [, table] = /\| `npx fake-kvm …` \|[^\n]*\n[^\n]*\n((?:\|.*\n)*)/.exec(readme)!;
  const named = [...table.matchAll(/`(\w+)/g)].map(([, name]) => name);
  // made by `npm run conformance`; and commander's own
  const others = ["conformance", "help"];
  expect(new Set([...named, ...others])).toEqual(new Set(commands));
  const links = [...readme.matchAll(/\]\(([^)#:]+)\)/g)].map(([, link]) => link);
  expect(links.filter((link) => !existsSync(link))).toEqual([]);
});
