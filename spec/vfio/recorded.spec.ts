/**
 * What real kernels answered about containers, groups and IOMMUs: the recorded scenarios, and random programs (R_…) that
 * were made on the same emulated machine from a seed. Every call identical.
 */
import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { readTrace } from "../../lib/trace/files.ts";
import { describe as inWords, replay } from "../../lib/trace/replay.ts";

const root = new URL("../../fixtures/", import.meta.url).pathname;
const SCENARIO = /\/(A_|B_|H_kvmdev|I_|J_noremap|R_)/;
const OTHER_ARCHITECTURES = /\/(arm64|ppc64le)-[^/]*\/([^/]*vfio|R_tce[^/]*)\.jsonl/;

const names = ["traces", "recorded"]
  .flatMap((folder) => readdirSync(root + folder).map((kernel) => `${folder}/${kernel}`))
  .flatMap((folder) => readdirSync(root + folder).map((name) => `${folder}/${name}`))
  .filter((name) => (name.includes("vfio-") && SCENARIO.test(name)) || OTHER_ARCHITECTURES.test(name));

test("none is missing", () => expect(names.length).toBe(57));

test.each(names)("%s", (name) => {
  const result = replay(readTrace(root + name, name));
  expect(result.differences.map(inWords)).toEqual([]);
  expect(result.identical).toBe(result.calls);
});
