/**
 * `npm run soak [-- --minutes N] [--seed S] [--kinds a,b]`: programs for so many minutes (1 by default), the memory after
 * a forced collection twenty times on the way, and a verdict; exit code 1 where something broke a rule, is left, or grows.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { readTrace } from "../../lib/trace/files.ts";
import { knownCalls } from "../../lib/trace/known.ts";
import { growth, kinds, soak, sum } from "./soak.ts";

const SAMPLES = 20;
const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "1" },
    seed: { type: "string" },
    kinds: { type: "string", default: kinds.join() },
  },
});
const minutes = Number(values.minutes);
const seed = Number(values.seed ?? Date.now() % 2 ** 31);
const chosen = kinds.filter((kind) => values.kinds.split(",").includes(kind));
if (!(minutes > 0) || !Number.isSafeInteger(seed) || chosen.length === 0) {
  console.error(`npm run soak -- --minutes N --seed S --kinds ${kinds.join()}`);
  process.exit(2);
}

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

const root = "fixtures/traces";
const traces = readdirSync(root).flatMap((folder) =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith(".jsonl.gz"))
    .map((name) => () => readTrace(join(root, folder, name), `${folder}/${name}`)),
);

console.log(`seed ${seed}, ${minutes} min`);
let due = 0;
const result = soak({
  seed,
  kinds: chosen,
  traces,
  known: knownCalls(readFileSync("fixtures/known-differences.json", "utf8")),
  more: (_, seconds) => seconds < minutes * 60,
  sample: (_, seconds) => {
    if (seconds < due) return false;
    due = seconds + (minutes * 60) / SAMPLES;
    return true;
  },
  tell: console.log,
  collect: () => {
    collect();
    collect();
  },
  now: () => performance.now(),
});

const { seconds, programs, calls, broken, left, samples } = result;
for (const kind of chosen) console.log(`${kind}: ${programs[kind]} programs, ${calls[kind]} calls`);
const total = sum(calls);
console.log(
  `${sum(programs)} programs, ${total} calls in ${seconds.toFixed(0)} s: ${Math.round(total / seconds)} calls/s`,
);
console.log(`exceptions and broken rules: ${broken.length}`);
console.log(
  `left: ${Object.entries(left)
    .map(([what, count]) => `${count} ${what}`)
    .join(", ")}`,
);
let flat = true;
for (const of of ["heap", "external"] as const) {
  const { slope, rise, flat: here } = growth(samples, of);
  console.log(
    `${of}: ${(rise / 2 ** 20).toFixed(2)} MiB in the second half, ${slope.toFixed(1)} bytes a program: ${here ? "flat" : "GROWS"}`,
  );
  flat &&= here;
}
const fine = broken.length === 0 && sum(left) === 0 && flat;
console.log(fine ? "fine" : "FAILED");
process.exitCode = fine ? 0 : 1;
