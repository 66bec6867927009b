/** What the live kernel answered before the first KVM_RUN, and QEMU's own start: every call identical. */
import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { readTrace } from "../../../lib/trace/files.ts";
import { describe as inWords, replay } from "../../../lib/trace/replay.ts";

const root = new URL("../../../fixtures/traces/", import.meta.url).pathname;
const more = readdirSync(`${root}x86_64-kvm-6.18-more`).map((name) => `x86_64-kvm-6.18-more/${name}`);
const setUp = ["qemu_pc", "system", "vcpus", "devices", "memslots"].map(
  (name) => `x86_64-kvm-6.18/${name}.jsonl.gz`,
);

test("there is a trace for every concern", () => expect(more.length).toBe(41));

test.each([...more, ...setUp])("%s", (name) => {
  const result = replay(readTrace(root + name, name));
  expect(result.differences.map(inWords)).toEqual([]);
  expect(result.identical).toBe(result.calls);
});
