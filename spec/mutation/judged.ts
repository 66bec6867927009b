/** Survivors that were looked at and are no gap in the tests: each with its reason, found again where lines move. */
import type { Mutant } from "./instrument.ts";

export interface Judged {
  file: string;
  /** the line that the mutant begins in, without the space around it; in every line where it is left out */
  source?: string;
  /** by Stryker's name; any where it is left out */
  mutator?: string;
  /** what stands there, and what takes its place; any where they are left out */
  original?: string;
  replacement?: string;
  /** why no test can tell them apart */
  why: string;
}

/** Gives the reason for a mutant, if it has one. */
export function judge(judged: readonly Judged[]): (mutant: Mutant) => string | undefined {
  const fields = ["source", "mutator", "original", "replacement"] as const;
  return (mutant) =>
    judged.find(
      (one) =>
        one.file === mutant.file &&
        fields.every((field) => one[field] === undefined || one[field] === mutant[field]),
    )?.why;
}
