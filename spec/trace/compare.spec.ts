import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { compareBytes, compareResult, errnoOf } from "../../lib/trace/compare.ts";
import { readTrace } from "../../lib/trace/files.ts";

test("two names of one error are the same answer", () => {
  expect(compareResult(-95, -1, "ENOTSUP")).toBeUndefined();
  expect(compareResult(-95, -1, "EOPNOTSUPP")).toBeUndefined();
  expect(compareResult(-22, -1, "ENOTSUP")).toBe("answered EINVAL, the kernel answered ENOTSUP");
});

test("every error that a recorded kernel answered has a number: none differs for its name alone", () => {
  const root = new URL("../../fixtures/traces", import.meta.url).pathname;
  const unknown = new Set<string>();
  for (const file of readdirSync(root, { recursive: true, encoding: "utf8" }))
    if (file.endsWith(".gz"))
      for (const line of readTrace(join(root, file)).lines)
        if ("errno" in line && line.errno !== undefined && !Number.isFinite(errnoOf(line.errno)))
          unknown.add(line.errno);
  expect([...unknown]).toEqual([]);
});

test("long differences are counted, not told one by one", () => {
  const ours = new Uint8Array(20);
  const recorded = Uint8Array.from(ours, (_, at) => (at % 4 === 0 ? 1 : 0));
  expect(compareBytes("out", ours, recorded)).toBe(
    "out: at 0 is 00, the kernel says 01, at 4 is 00, the kernel says 01, at 8 is 00, the kernel says 01, and 2 more",
  );
});
