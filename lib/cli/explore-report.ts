/**
 * What `fake-kvm explore --format json` prints, and how the reports of shards become one: runs are added up, and of the
 * counterexamples with the same reason the smallest stays. A merged report is a report: it can be merged again.
 */
import type { Counterexample, ExploreResult } from "../fuzz/explore/explore.ts";
import type { Program } from "../fuzz/explore/run.ts";
import { readText } from "./files.ts";
import { UsageError } from "./output.ts";

export interface ExploreReport {
  readonly program: string;
  readonly runs: number;
  /** every schedule within the bound was run */
  readonly exhausted: boolean;
  /** how many runs were not over after as many steps as a run may have, where there are such */
  readonly cut?: number;
  /** one a reason, the smallest first */
  readonly counterexamples: readonly Counterexample[];
}

export function reportOf(
  { name }: Program,
  { runs, exhausted, counterexample, cut }: ExploreResult,
): ExploreReport {
  return {
    program: name,
    runs,
    exhausted,
    ...(cut !== undefined && { cut }),
    counterexamples: counterexample === undefined ? [] : [counterexample],
  };
}

/** The order of the reports does not matter. */
export function mergeReports(reports: readonly ExploreReport[]): ExploreReport {
  const [{ program }] = reports;
  const other = reports.find((report) => report.program !== program);
  if (other !== undefined)
    throw new UsageError(`reports of two programs: "${program}" and "${other.program}"`);
  const smallest = new Map<string, Counterexample>();
  for (const each of reports.flatMap(({ counterexamples }) => counterexamples).sort(bySize))
    if (!smallest.has(each.failure.reason)) smallest.set(each.failure.reason, each);
  const cut = reports.reduce((sum, { cut = 0 }) => sum + cut, 0);
  return {
    program,
    runs: reports.reduce((sum, { runs }) => sum + runs, 0),
    ...(cut !== 0 && { cut }),
    exhausted: reports.some(({ exhausted }) => exhausted),
    counterexamples: [...smallest.values()],
  };
}

/** Fewer steps, then fewer turns; the text of what is left decides between equals. */
function bySize(a: Counterexample, b: Counterexample): number {
  const [first, second] = [JSON.stringify(a), JSON.stringify(b)];
  return (
    a.steps.length - b.steps.length ||
    a.deviations.length - b.deviations.length ||
    (first < second ? -1 : first > second ? 1 : 0)
  );
}

export function readReport(path: string): ExploreReport {
  let read: unknown;
  try {
    read = JSON.parse(readText(path));
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`${path}: not JSON: ${(error as Error).message}`);
  }
  if (!isReport(read)) throw new UsageError(`${path} is no report of explore --format json`);
  return read;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null;
const isListOf = (value: unknown, is: (each: unknown) => boolean): boolean =>
  Array.isArray(value) && value.every(is);
const isString = (value: unknown): boolean => typeof value === "string";

const isReport = (value: unknown): value is ExploreReport =>
  isRecord(value) &&
  isString(value.program) &&
  Number.isInteger(value.runs) &&
  typeof value.exhausted === "boolean" &&
  isListOf(value.counterexamples, isCounterexample);

const isCounterexample = (value: unknown): boolean =>
  isRecord(value) &&
  isString(value.program) &&
  isRecord(value.failure) &&
  isString(value.failure.reason) &&
  isListOf(value.schedule, isString) &&
  isListOf(value.deviations, (each) => isRecord(each) && Number.isInteger(each.step)) &&
  isListOf(value.steps, (each) => isRecord(each) && isString(each.actor) && isString(each.label));
