/** What the README says is true: its example runs and prints what it says, its table is what a replay gives. */
import { readFileSync } from "node:fs";
import { transformSync } from "esbuild";
import { expect, test } from "vitest";
import { conformanceTable, withTable } from "../lib/cli/conformance.ts";
import { conformancePage } from "../lib/cli/conformance-page.ts";
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
