/** Guests on the live kernel: every call identical, the bytes of kvm_run and of the guest's memory included. */
import { expect, test } from "vitest";
import { readTrace } from "../../../lib/trace/files.ts";
import { describe as inWords, replay } from "../../../lib/trace/replay.ts";

const root = new URL("../../../fixtures/traces/", import.meta.url).pathname;
const runs = [
  "faults",
  "hello",
  "interrupt_window",
  "ioeventfd",
  "lapic",
  "mmio",
  "pio",
  "resample",
  "split_eoi",
];

test.each([
  ...runs.map((name) => `x86_64-kvm-6.18/run_${name}.jsonl.gz`),
  "x86_64-vfio-7.2/H_resample-intel.jsonl.gz",
])("%s", (name) => {
  const result = replay(readTrace(root + name, name));
  expect(result.differences.map(inWords)).toEqual([]);
  expect(result.identical).toBe(result.calls);
});
