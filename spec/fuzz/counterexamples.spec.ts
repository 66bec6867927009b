/** Every program that once showed a difference from a real kernel: identical now. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { knownDifferences } from "../../lib/fuzz/known-differences.ts";
import { readTrace } from "../../lib/trace/files.ts";
import { describe as inWords, replay } from "../../lib/trace/replay.ts";

const fixtures = resolve(dirname(fileURLToPath(import.meta.url)), "../../fixtures");
const folder = join(fixtures, "counterexamples");
const files = readdirSync(folder).sort();

describe("counterexamples", () => {
  test("there are some, and nothing else is in the folder", () => {
    expect(files.length).toBeGreaterThan(0);
    expect(files.filter((file) => !file.endsWith(".jsonl.gz"))).toEqual([]);
  });

  test.each(files)("%s", (file) => {
    const trace = readTrace(join(folder, file));
    expect(trace.lines.length).toBeGreaterThan(0);
    expect(trace.header.about).toMatch(/the kernel/);
    const result = replay(trace);
    expect(result.differences.map(inWords)).toEqual([]);
    expect(result.identical).toBe(result.calls);
  });
});

describe("known differences", () => {
  const source = readFileSync(join(fixtures, "known-differences.json"), "utf8");

  test("each has a call, what differs, and a reason", () => {
    expect(() => knownDifferences(source)).not.toThrow();
    const emulated = readFileSync(join(fixtures, "known-differences-of-tcg.json"), "utf8");
    expect(() => knownDifferences(emulated)).not.toThrow();
    expect(() => knownDifferences('[{"call": "KVM_RUN", "what": "x"}]')).toThrow("reason");
  });

  test("only the same call with the same words is known", () => {
    const known = knownDifferences('[{"call": "read", "what": "at 3", "reason": "why"}]');
    expect(
      known({ operation: 0, call: "read", what: "out: at 3 is 0, the kernel says 1", late: false }),
    ).toBe("why");
    expect(
      known({ operation: 0, call: "read", what: "out: at 4 is 0, the kernel says 1", late: false }),
    ).toBeUndefined();
    expect(known({ operation: 0, call: "write", what: "out: at 3 is 0", late: false })).toBeUndefined();
  });
});
