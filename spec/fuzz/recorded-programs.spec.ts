/** Random programs of system calls, and of guests, that a real kernel answered: identical on the fake. */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { parseTrace } from "../../lib/trace/format.ts";
import { describe as inWords, replay } from "../../lib/trace/replay.ts";

const file = new URL("../../fixtures/programs/x86_64-6.18-pvm.jsonl.gz", import.meta.url);
const chunks = gunzipSync(readFileSync(file))
  .toString()
  .split(/^(?=\{"format")/m);
const SLICE = 20;

test.each(Array.from({ length: Math.ceil(chunks.length / SLICE) }, (_, i) => SLICE * i))(
  "programs from %d on",
  (from) => {
    for (const chunk of chunks.slice(from, from + SLICE)) {
      const trace = parseTrace(chunk, "random");
      const result = replay(trace);
      expect([trace.header.scenario, result.differences.map(inWords)]).toEqual([trace.header.scenario, []]);
      expect(result.identical).toBe(result.calls);
    }
  },
);
