/** The zoo: every bug that is expressed, and how it is looked for. */
import { type Counterexample, explore, type Strategy } from "../../lib/fuzz/explore/explore.ts";
import { bug as bug01 } from "./01-mask-removes-route.ts";
import { bug as bug02 } from "./02-route-before-irqfd-on-mask.ts";
import { bug as bug03 } from "./03-irqfd-before-route-on-unmask.ts";
import { bug as bug04 } from "./04-route-without-a-lock.ts";
import { bug as bug05 } from "./05-routes-outlive-msix.ts";
import { bug as bug06 } from "./06-rewrite-keeps-the-route.ts";
import { bug as bug07 } from "./07-exported-irqfd-never-polled.ts";
import { bug as bug08 } from "./08-posting-survives-the-route.ts";
import { bug as bug09 } from "./09-type-change-not-seen.ts";
import { bug as bug10 } from "./10-hangup-during-assign.ts";
import { bug as bug11 } from "./11-control-written-as-dword.ts";
import { bug as bug12 } from "./12-unmasked-at-power-on.ts";
import { bug as bug13 } from "./13-mask-releases-the-trigger.ts";
import { bug as bug14 } from "./14-assertion-under-mask-dropped.ts";
import { bug as bug15 } from "./15-function-mask-ignored.ts";
import { bug as bug16 } from "./16-pending-bits-by-byte-offset.ts";
import { bug as bug17 } from "./17-trigger-on-every-mask.ts";
import { bug as bug18 } from "./18-growth-arms-everything.ts";
import { bug as bug19 } from "./19-msi-starts-masked.ts";
import { bug as bug20 } from "./20-host-msix-enabled-lazily.ts";
import { bug as bug21 } from "./21-vector-0-stays.ts";
import { bug as bug22 } from "./22-data-none-fires.ts";
import { bug as bug23 } from "./23-self-test-clears-the-table.ts";
import { bug as bug24 } from "./24-intx-never-comes-back.ts";
import { bug as bug25 } from "./25-host-stays-in-msix.ts";
import { bug as bug26 } from "./26-reset-keeps-irqfds.ts";
import { bug as bug26b } from "./26b-reset-deadlocks.ts";
import { bug as bug27 } from "./27-gsis-never-freed.ts";
import { bug as bug28 } from "./28-fewer-vectors-than-asked.ts";
import { bug as bug29 } from "./29-failure-undoes-the-block.ts";
import { bug as bug30 } from "./30-allocation-on-unmask.ts";
import { bug as bug31 } from "./31-eoi-not-forwarded.ts";
import { bug as bug32 } from "./32-resampled-before-acknowledged.ts";
import { bug as bug33 } from "./33-eoi-guessed-from-accesses.ts";
import { bug as bug34 } from "./34-deferred-until-something-else.ts";
import { bug as bug35 } from "./35-intx-between-request-and-disable.ts";
import { bug as bug36 } from "./36-notification-suppressed.ts";
import { bug as bug37 } from "./37-gsi-given-out-twice.ts";
import { bug as bug37b } from "./37b-pending-lost-at-restore.ts";
import { bug as bug38 } from "./38-sixteen-bits-of-a-source.ts";
import { bug as bug39 } from "./39-forwarded-in-flight.ts";
import { bug as bug40 } from "./40-running-before-the-controller.ts";
import { bug as bug40b } from "./40b-one-line-two-sides.ts";
import type { Bug } from "./bug.ts";

export const zoo: readonly Bug[] = [
  bug01,
  bug02,
  bug03,
  bug04,
  bug05,
  bug06,
  bug07,
  bug08,
  bug09,
  bug10,
  bug11,
  bug12,
  bug13,
  bug14,
  bug15,
  bug16,
  bug17,
  bug18,
  bug19,
  bug20,
  bug21,
  bug22,
  bug23,
  bug24,
  bug25,
  bug26,
  bug26b,
  bug27,
  bug28,
  bug29,
  bug30,
  bug31,
  bug32,
  bug33,
  bug34,
  bug35,
  bug36,
  bug37,
  bug37b,
  bug38,
  bug39,
  bug40,
  bug40b,
];

export const strategies: readonly { name: string; strategy: Strategy }[] = [
  { name: "random", strategy: "random" },
  { name: "PCT d=3", strategy: { pct: { depth: 3 } } },
  { name: "exhaustive p≤2", strategy: { exhaustive: { preemptions: 2 } } },
];

export const SEEDS = 20;
export const MAX_RUNS = 2000;
/** steps and turns together */
export const MAX_SIZE = 12;
/** the order may leave the ordinary one so often; the mended ones are searched completely within it */
export const PREEMPTIONS = 3;

/** Every number of the list is in the zoo. What of a number is not, and why. */
export const notExpressed: readonly { number: number; part: string; reason: string }[] = [
  {
    number: 9,
    part: "producers that come and go without the irqfds' lock",
    reason: "a call of the fake is one step: its halves would have to be written out, as for 10",
  },
  {
    number: 29,
    part: "the unsigned loop variable of the first versions",
    reason: "a loop that never ends inside the kernel is not a matter of order",
  },
  {
    number: 34,
    part: "a resample event that is never read",
    reason: "a busy loop loses nothing: a run that does not end is no failure here",
  },
  {
    number: 35,
    part: "DisINTx against SET_IRQS (CVE-2024-26810), DisINTx in MSI mode (899649b7d4)",
    reason: "as for 9; of the three the first is shown",
  },
];

export interface Hunt {
  strategy: string;
  /** runs until the bug was found, per seed; infinite where it was not */
  runs: number[];
  /** steps of the shrunk run and turns of its order together, per seed */
  sizes: number[];
  /** milliseconds of the slowest seed, shrinking included */
  slowest: number;
  smallest: Counterexample | undefined;
}

/** Looks for a bug with every strategy and so many seeds; exhaustive search has no seed and is made once. */
export function hunt(bug: Bug, seeds = SEEDS, firstSeed = 1): Hunt[] {
  return strategies.map(({ name, strategy }) => {
    const count = typeof strategy === "object" && "exhaustive" in strategy ? 1 : seeds;
    const found: Hunt = { strategy: name, runs: [], sizes: [], slowest: 0, smallest: undefined };
    for (let i = 0; i < count; i++) {
      const started = performance.now();
      const { counterexample, runs } = explore(bug.broken, {
        strategy,
        seed: firstSeed + i,
        runs: MAX_RUNS,
      });
      found.slowest = Math.max(found.slowest, performance.now() - started);
      found.runs.push(counterexample === undefined ? Number.POSITIVE_INFINITY : runs);
      if (counterexample === undefined) continue;
      found.sizes.push(sizeOf(counterexample));
      if (found.smallest === undefined || sizeOf(counterexample) < sizeOf(found.smallest))
        found.smallest = counterexample;
    }
    return found;
  });
}

/** Steps, and turns of the order. */
export const sizeOf = ({ steps, deviations }: Counterexample): number => steps.length + deviations.length;

/** Whether every seed found the bug, and shrunk it to so few steps. */
export const isSure = ({ runs, sizes }: Hunt): boolean =>
  Math.max(...runs) <= MAX_RUNS && Math.max(...sizes) <= MAX_SIZE;

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}
