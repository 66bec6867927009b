/**
 * `npm run bugs`: the bug table. Per bug and strategy the runs until it is found (median of 20 seeds, worst in brackets),
 * the time of the slowest seed, the shrunk length, and how long the mended prototype was searched.
 */
import Table from "cli-table3";
import { explore } from "../../lib/fuzz/explore/explore.ts";
import { toText } from "../../lib/fuzz/explore/report.ts";
import { hunt, isSure, median, notExpressed, PREEMPTIONS, SEEDS, sizeOf, strategies, zoo } from "./zoo.ts";

const verbose = process.argv.includes("--verbose");
const MENDED_RUNS = 100_000;
const MAX_MS = 10_000;

const table = new Table({
  head: ["", "bug", ...strategies.map(({ name }) => name), "slowest", "steps + turns", "mended"],
  style: { head: [], border: [] },
});
const started = Date.now() % 2 ** 20;
let missed = 0;
for (const bug of zoo) {
  const hunts = hunt(bug, SEEDS, started);
  const found = hunts.some((each) => isSure(each) && each.slowest < MAX_MS);
  if (!found) missed++;
  const smallest = hunts.flatMap((entry) => entry.smallest ?? []).sort((a, b) => sizeOf(a) - sizeOf(b))[0];
  const searched = explore(bug.mended, {
    strategy: { exhaustive: { preemptions: PREEMPTIONS } },
    runs: MENDED_RUNS,
  });
  const random = searched.exhausted
    ? undefined
    : explore(bug.mended, { strategy: "random", runs: MENDED_RUNS, seed: started });
  const clean = searched.counterexample === undefined && random?.counterexample === undefined;
  if (!clean) missed++;
  table.push([
    bug.number,
    `${bug.title}\n${bug.reference}`,
    ...hunts.map(({ runs }) => cell(runs)),
    `${Math.ceil(Math.max(...hunts.map(({ slowest }) => slowest)))} ms`,
    smallest === undefined ? "–" : `${smallest.steps.length} + ${smallest.deviations.length}`,
    clean ? (searched.exhausted ? `all ${searched.runs} orders` : `${MENDED_RUNS} runs`) : "FAILS",
  ]);
  if (verbose && smallest !== undefined) console.log(`${toText(smallest)}\n`);
}
console.log(table.toString());
console.log(
  `seeds from ${started} on; mended: every order with at most ${PREEMPTIONS} preemptions, or random runs`,
);
for (const { number, part, reason } of notExpressed)
  console.log(`not expressed: ${number}, ${part}: ${reason}`);
console.log(`${zoo.length} bugs, ${missed} missed`);
process.exitCode = missed === 0 ? 0 : 1;

function cell(runs: readonly number[]): string {
  const show = (value: number) => (value === Number.POSITIVE_INFINITY ? "–" : String(value));
  return runs.length === 1 ? show(runs[0]) : `${show(median(runs))} (${show(Math.max(...runs))})`;
}
