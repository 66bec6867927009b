/**
 * A campaign: program after program from a seed, compared on two kernels; what differs is confirmed, shrunk, and told
 * once per kind.
 */
import fc from "fast-check";
import { type Counts, compareOn, type Difference, type Kernel, newCounts } from "./differential.ts";
import { type GuestKind, guestPrograms } from "./guest-programs.ts";
import type { Program } from "./program.ts";
import { type ProgramOptions, programs } from "./programs.ts";
import { shrink } from "./shrink.ts";

/** A difference that was seen, with the smallest program that shows it. */
export interface Finding {
  readonly difference: Difference;
  readonly program: Program;
  /** the number of the program it was found with */
  readonly index: number;
  /** how many programs showed the same call differ */
  times: number;
}

export interface CampaignOptions extends ProgramOptions {
  programs: number;
  seed: number;
  /** programs that run guests of these kinds, instead of programs of system calls alone */
  guests?: readonly GuestKind[];
  /** make what is found small */
  shrink?: boolean;
  /** reasons by which a difference is known, see known-differences.ts */
  known?: (difference: Difference) => string | undefined;
  /** called after each program */
  progress?: (done: CampaignResult) => void;
  /** called with each new finding */
  found?: (finding: Finding) => void;
  /** end after so many kinds of differences */
  atMost?: number;
}

export interface CampaignResult {
  programs: number;
  readonly counts: Counts;
  readonly findings: Finding[];
  /** differences that did not show again: a matter of speed on the real kernel */
  unstable: number;
  /** by reason */
  readonly known: Map<string, number>;
}

/** How often a difference has to show again, each time with more patience. */
const CONFIRMATIONS = 3;
const SHRINK_ATTEMPTS = 400;

/** The program of a number: the same for the same seed, on every machine. */
export const programAt = (arbitrary: fc.Arbitrary<Program>, seed: number, index: number): Program =>
  fc.sample(arbitrary, { seed: (Math.imul(seed, 1_000_003) + index) | 0, numRuns: 1 })[0];

/** Runs a campaign. */
export function campaign(ours: Kernel, theirs: Kernel, options: CampaignOptions): CampaignResult {
  const arbitrary = options.guests === undefined ? programs(options) : guestPrograms(options.guests);
  const result: CampaignResult = {
    programs: 0,
    counts: newCounts(),
    findings: [],
    unstable: 0,
    known: new Map(),
  };
  for (let index = 0; index < options.programs; index++) {
    const program = programAt(arbitrary, options.seed, index);
    const difference = compareOn(program, ours, theirs, result.counts);
    result.programs++;
    if (difference !== undefined) judge(program, difference, index);
    options.progress?.(result);
    if (result.findings.length >= (options.atMost ?? Number.POSITIVE_INFINITY)) break;
  }
  return result;

  function judge(program: Program, difference: Difference, index: number): void {
    const before = result.findings.find(({ difference: other }) => kindOf(other) === kindOf(difference));
    if (before !== undefined) {
      before.times++;
      return;
    }
    for (let again = 0; again <= CONFIRMATIONS; again++) {
      const shown = again === 0 ? difference : compareOn(program, ours, theirs, undefined, again);
      if (shown === undefined || shown.late) {
        result.unstable++;
        return;
      }
    }
    const reason = options.known?.(difference);
    if (reason !== undefined) {
      result.known.set(reason, (result.known.get(reason) ?? 0) + 1);
      return;
    }
    const cut = program.slice(0, difference.operation + 1);
    const shows = (candidate: Program): boolean => {
      let shown = compareOn(candidate, ours, theirs, undefined, 1);
      if (shown?.stopped) shown = compareOn(candidate, ours, theirs, undefined, CONFIRMATIONS);
      return shown !== undefined && !shown.late && kindOf(shown) === kindOf(difference);
    };
    const smallest = options.shrink === false ? cut : shrink(cut, shows, SHRINK_ATTEMPTS);
    const finding: Finding = {
      difference: compareOn(smallest, ours, theirs, undefined, 1) ?? difference,
      program: smallest,
      index,
      times: 1,
    };
    result.findings.push(finding);
    options.found?.(finding);
  }
}

/** What makes two differences the same: the call, and whether the answers differ as numbers or in which field. */
const kindOf = ({ call, what }: Difference): string =>
  `${call} ${what.replace(/\b(is|says) [^,]+/g, "$1").slice(0, 80)}`;
