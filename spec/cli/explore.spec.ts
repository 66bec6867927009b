import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import picocolors from "picocolors";
import { afterAll, expect, test } from "vitest";
import type { Output } from "../../lib/cli/output.ts";
import { run } from "../../lib/cli/program.ts";

const folder = mkdtempSync(join(tmpdir(), "explore-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Two threads that each read a counter and write it back, one more; nothing of the library is imported. */
const source = (update: string) => `
export const program = {
  name: "lost update",
  setup() {
    let counter = 0;
    const step = (label, run) => ({ label: () => label, run });
    function* thread() {
      ${update}
    }
    return {
      kernel: { work: { items: [] }, clock: {} },
      threads: { a: thread(), b: thread() },
      final: () => (counter === 2 ? undefined : "the counter is " + counter),
    };
  },
};`;
const broken = join(folder, "broken.mjs");
const mended = join(folder, "mended.mjs");
writeFileSync(
  broken,
  source('const seen = yield step("read", () => counter); yield step("write", () => (counter = seen + 1));'),
);
writeFileSync(mended, source('yield step("add", () => (counter += 1));'));
writeFileSync(join(folder, "empty.mjs"), "export const other = 1;");

async function explore(...args: string[]) {
  const lines: string[] = [];
  const warnings: string[] = [];
  const output: Output = {
    print: (text) => void lines.push(text),
    warn: (text) => void warnings.push(text),
    width: Number.POSITIVE_INFINITY,
    interactive: false,
    colors: picocolors.createColors(false),
  };
  const code = await run(["explore", ...args], output, true);
  return { code, text: lines.join("\n"), warnings: warnings.join("\n") };
}

test("a program that goes wrong is told, and its schedule makes the run again", async () => {
  const { code, text } = await explore(broken, "--strategy", "exhaustive:1");
  expect(code).toBe(1);
  expect(text).toBe(
    [
      "lost update: the counter is 1",
      "  1  a  read = 0",
      "* 2  b  read = 0",
      "  3  b  write = 1",
      "  4  a  write = 1",
      'schedule: ["a","b","b","a"]',
      "found after 2 runs",
    ].join("\n"),
  );
  const again = await explore(broken, "--replay", 'schedule: ["a","b","b","a"]', "--format", "json");
  expect(again.code).toBe(1);
  expect(JSON.parse(again.text).schedule).toEqual(["a", "b", "b", "a"]);
});

test.each(["text", "mermaid", "perfetto", "html", "json"])("as %s", async (format) => {
  const { code, text } = await explore(broken, "--format", format);
  expect(code).toBe(1);
  expect(text).toContain("the counter is 1");
});

test("a program that is right", async () => {
  const { code, warnings } = await explore(mended, "--strategy", "exhaustive");
  expect([code, warnings]).toEqual([0, "lost update: nothing goes wrong in any of 2 runs"]);
});

test("shards share the runs", async () => {
  const told = await Promise.all(
    [1, 2, 3].map((i) => explore(mended, "--runs", "10", "--strategy", "random", "--shard", `${i}/3`)),
  );
  expect(told.map(({ warnings }) => /of (\d+) runs/.exec(warnings)![1])).toEqual(["3", "3", "4"]);
});

test.each([
  [["empty.mjs"], "exports no `program`"],
  [["missing.mjs"], "missing.mjs"],
  [["broken.mjs", "--strategy", "luck"], "no strategy"],
  [["broken.mjs", "--strategy", "pct:x"], "is not a number"],
  [["broken.mjs", "--format", "gif"], "no format"],
  [["broken.mjs", "--replay", "{}"], "a list of names"],
  [["broken.mjs", "--shard", "5/4"], "is no shard"],
  [["broken.mjs", "--strategy", "exhaustive", "--shard", "1/4"], "has no shards"],
])("%j is refused", async ([file, ...options], message) => {
  const { code, warnings } = await explore(join(folder, file), ...options);
  expect(code).toBe(2);
  expect(warnings).toContain(message);
});
