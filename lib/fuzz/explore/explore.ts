/**
 * Looks for a schedule under which a program goes wrong, shrinks it, and tells it.
 *
 *     const result = explore(program, { strategy: { pct: { depth: 3 } }, runs: 2000, seed: 1 });
 *     if (result.counterexample) console.log(toText(result.counterexample));
 */
import { Random } from "../random.ts";
import {
  type Chooser,
  type Failure,
  NotExplorable,
  type Outcome,
  type Program,
  type RunOptions,
  run,
  type Step,
} from "./run.ts";
import {
  deviationChooser,
  Exhaustive,
  inOrder,
  pctChooser,
  randomChooser,
  replayChooser,
} from "./strategies.ts";

/** How the next order is chosen: by chance, by priorities that change (PCT), all with few preemptions, or one again. */
export type Strategy =
  | "random"
  | { pct: { depth: number } }
  | { exhaustive: { preemptions?: number } }
  | { replay: readonly string[] };

/** How orders are chosen, and how many. */
export interface ExploreOptions extends Omit<RunOptions, "log"> {
  strategy?: Strategy;
  /** at most so many runs; exhaustive search ends by itself, the others need it (1,000) */
  runs?: number;
  seed?: number;
  /** asked before each run, with how many were made: whether the search ends here, since another found something */
  stop?: (made: number) => boolean;
}

/** A run that went wrong, made as small as it can be. */
export interface Counterexample {
  readonly program: string;
  readonly failure: Failure;
  /** who went at each step: `replay` makes the run again */
  readonly schedule: readonly string[];
  /** where the run leaves the default order: step (from 0) and who went instead */
  readonly deviations: readonly { step: number; actor: string }[];
  readonly steps: readonly Step[];
}

/** How many orders were run, and the smallest in which the program went wrong. */
export interface ExploreResult {
  readonly runs: number;
  /** every schedule within the bound was run */
  readonly exhausted: boolean;
  readonly counterexample: Counterexample | undefined;
  /** how many runs were not over after `maxSteps` steps, where there are such: a loop that nobody leaves, maybe */
  readonly cut?: number;
}

/** A run that answers otherwise when it is made again is of no use to anyone. */
export class NotDeterministic extends Error {
  override readonly name = "NotDeterministic";
}

export function explore(program: Program, options: ExploreOptions = {}): ExploreResult {
  const { strategy = { pct: { depth: 3 } }, seed = 1, ...limits } = options;
  const runs =
    options.runs ??
    (typeof strategy === "object" && "exhaustive" in strategy ? Number.POSITIVE_INFINITY : 1000);
  const next = choosers(program, strategy, seed, limits);
  let cut = 0;
  const end = (made: number, exhausted: boolean, counterexample?: Counterexample): ExploreResult => ({
    runs: made,
    exhausted,
    counterexample,
    ...(cut !== 0 && { cut }),
  });
  for (let made = 0; made < runs; made++) {
    if (options.stop?.(made) === true) return end(made, false);
    const choose = next(made);
    if (choose === undefined) return end(made, true);
    const outcome = run(program, choose, limits);
    if (outcome.cut) cut++;
    if (outcome.failure === undefined) continue;
    if (outcome.failure.astray) throw new NotExplorable(`${program.name}: ${outcome.failure.reason}`);
    return end(made + 1, false, shrink(program, outcome, limits));
  }
  return end(runs, false);
}

/** The chooser of each run in turn; undefined when there is none left. */
function choosers(
  program: Program,
  strategy: Strategy,
  seed: number,
  limits: RunOptions,
): (run: number) => Chooser | undefined {
  const random = new Random(seed);
  if (strategy === "random") return () => randomChooser(random);
  if ("pct" in strategy) {
    // How long a run is, is learnt from one in order.
    const length = run(program, inOrder, limits).steps;
    return () => pctChooser(random, strategy.pct.depth, length);
  }
  if ("exhaustive" in strategy) {
    const search = new Exhaustive(strategy.exhaustive.preemptions);
    return () => search.next();
  }
  return (made) => (made === 0 ? replayChooser(strategy.replay) : undefined);
}

/**
 * Makes a failing run small: a schedule is the default order and a list of deviations from it, and deviations are left
 * out, many at once, then one by one, as long as the run still fails. Then fewer deviations elsewhere are looked for.
 */
export function shrink(program: Program, outcome: Outcome, limits: RunOptions = {}): Counterexample {
  const again = run(program, replayChooser(outcome.schedule), limits);
  if (again.failure?.reason !== outcome.failure?.reason || again.schedule.join() !== outcome.schedule.join())
    throw new NotDeterministic(
      `${program.name}: the same schedule ended in "${outcome.failure?.reason}" and then in "${again.failure?.reason}"`,
    );
  let best = outcome;
  let deviations = deviationsOf(program, outcome, limits);
  for (let size = deviations.length; size >= 1; size = Math.floor(size / 2))
    for (let from = 0; from < deviations.length; ) {
      const fewer = deviations.filter((_, i) => i < from || i >= from + size);
      const tried = run(
        program,
        deviationChooser(new Map(fewer.map(({ step, actor }) => [step, actor]))),
        limits,
      );
      if (tried.failure === undefined) from += size;
      else {
        best = tried;
        deviations = deviationsOf(program, tried, limits);
        if (deviations.length > fewer.length) deviations = fewer;
      }
    }
  for (let fewer = 1; fewer < deviations.length; fewer++) {
    const found = withDeviations(program, fewer, limits);
    if (found === undefined) continue;
    best = found;
    deviations = deviationsOf(program, found, limits);
  }
  const told = run(program, replayChooser(best.schedule), { ...limits, log: true });
  return {
    program: program.name,
    failure: told.failure ?? best.failure!,
    schedule: told.schedule,
    deviations: deviationsOf(program, told, limits),
    steps: told.log,
  };
}

/** how many runs are spent on looking for an order with fewer deviations */
const SHRINK_RUNS = 4000;

/** The first failing run with exactly so many deviations, in the order of their steps; undefined: none, or too far. */
function withDeviations(program: Program, count: number, limits: RunOptions): Outcome | undefined {
  let budget = SHRINK_RUNS;
  const search = (chosen: ReadonlyMap<number, string>, from: number): Outcome | undefined => {
    const choices: { step: number; actor: string }[] = [];
    const deviate = deviationChooser(chosen);
    const outcome = run(
      program,
      (enabled, current, step) => {
        const place = deviate(enabled, current, step);
        if (step >= from)
          for (const [i, { name }] of enabled.entries()) if (i !== place) choices.push({ step, actor: name });
        return place;
      },
      limits,
    );
    if (chosen.size === count) return outcome.failure === undefined ? undefined : outcome;
    for (const { step, actor } of choices) {
      if (budget-- <= 0) return undefined;
      const found = search(new Map([...chosen, [step, actor]]), step + 1);
      if (found !== undefined) return found;
    }
    return undefined;
  };
  return search(new Map(), 0);
}

/** Where a schedule leaves the default order. */
function deviationsOf(
  program: Program,
  outcome: Outcome,
  limits: RunOptions,
): { step: number; actor: string }[] {
  const deviations: { step: number; actor: string }[] = [];
  const replay = replayChooser(outcome.schedule);
  run(
    program,
    (enabled, current, step) => {
      const made = replay(enabled, current, step);
      if (made !== inOrder(enabled, current, step) && step < outcome.schedule.length)
        deviations.push({ step, actor: outcome.schedule[step] });
      return made;
    },
    limits,
  );
  return deviations;
}
