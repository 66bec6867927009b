/**
 * Every recorded trace, call by call: identical, but for what stands in fixtures/known-differences.json. Guests in the
 * machine code of other architectures are replayed elsewhere, with scripts in place of the code (spec/kvm/arm64,
 * spec/kvm/ppc).
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { readTrace } from "../../lib/trace/files.ts";
import { knownCalls } from "../../lib/trace/known.ts";
import { describe as inWords, replay } from "../../lib/trace/replay.ts";

const root = new URL("../../fixtures/traces", import.meta.url).pathname;
const known = knownCalls(readFileSync(join(root, "../known-differences.json"), "utf8"));
/** bytes of BARs whose device has no model (a network card, a USB and an NVMe controller): not compared, and counted */
const excluded: Record<string, number> = {
  "x86_64-vfio-6.1/G_table-intel": 124,
  "x86_64-vfio-6.12/G_table-intel": 124,
  "x86_64-vfio-7.2/G_table-intel": 124,
  "x86_64-vfio-7.2/D_config-intel": 16,
  "x86_64-vfio-more/K_power-6.1": 24,
  "x86_64-vfio-more/K_power-6.12": 24,
  "x86_64-vfio-more/K_power-7.2": 24,
};
const folders = readdirSync(root).sort();

describe.each(folders)("%s", (folder) => {
  const files = readdirSync(join(root, folder)).filter((name) => name.endsWith(".jsonl.gz"));

  test.each(files)("%s", (file) => {
    const trace = readTrace(join(root, folder, file));
    const result = replay(trace, { known });
    expect(result.differences.map(inWords)).toEqual([]);
    expect(result.identical + result.known).toBe(result.calls);
    expect(result.excludedBytes).toBe(excluded[`${folder}/${file.slice(0, -".jsonl.gz".length)}`] ?? 0);
  });
});

test("every known difference is one: it does differ", { timeout: 60_000 }, () => {
  const seen = new Set<string>();
  for (const folder of folders)
    for (const file of readdirSync(join(root, folder)).filter((name) => name.endsWith(".jsonl.gz"))) {
      const trace = readTrace(join(root, folder, file));
      for (const { trace: name, call } of known)
        if (trace.header.scenario === name || file.startsWith(name))
          for (const difference of replay(trace).differences)
            if (difference.n === call) seen.add(`${name} ${call}`);
    }
  expect([...seen].sort()).toEqual(known.map(({ trace, call }) => `${trace} ${call}`).sort());
});
