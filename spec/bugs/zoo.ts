/** The zoo: every bug that is expressed, and how it is looked for. */
import { type Counterexample, explore, type Strategy } from "../../lib/fuzz/explore/explore.ts";
import { bug as bug01 } from "./01-mask-removes-route.ts";
import type { Bug } from "./bug.ts";

export const zoo: readonly Bug[] = [bug01];

export const strategies: readonly { name: string; strategy: Strategy }[] = [
  { name: "random", strategy: "random" },
  { name: "PCT d=3", strategy: { pct: { depth: 3 } } },
  { name: "exhaustive p≤2", strategy: { exhaustive: { preemptions: 2 } } },
];

export const SEEDS = 20;
export const MAX_RUNS = 2000;
/** the order may leave the ordinary one so often; the mended ones are searched completely within it */
export const PREEMPTIONS = 3;

export interface Hunt {
  strategy: string;
  /** runs until the bug was found, per seed; infinite where it was not */
  runs: number[];
  /** steps of the shrunk run and deviations of its order, of the last seed */
  smallest: Counterexample | undefined;
}

/** Looks for a bug with every strategy and so many seeds; exhaustive search has no seed and is made once. */
export function hunt(bug: Bug, seeds = SEEDS, firstSeed = 1): Hunt[] {
  return strategies.map(({ name, strategy }) => {
    const count = typeof strategy === "object" && "exhaustive" in strategy ? 1 : seeds;
    let smallest: Counterexample | undefined;
    const runs = Array.from({ length: count }, (_, i) => {
      const result = explore(bug.broken, { strategy, seed: firstSeed + i, runs: MAX_RUNS });
      if (result.counterexample === undefined) return Number.POSITIVE_INFINITY;
      if (smallest === undefined || result.counterexample.steps.length < smallest.steps.length)
        smallest = result.counterexample;
      return result.runs;
    });
    return { strategy: name, runs, smallest };
  });
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}
