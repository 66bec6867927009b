/** Survivors that were looked at and are no gap in the tests: each with its reason, found again where lines move. */
import type { Mutant } from "./instrument.ts";

export interface Judged {
  /** a file, or a folder with its slash */
  file: string;
  /** the line that the mutant begins in, without the space around it; any where it is left out */
  source?: string;
  /** a regular expression that the line matches, for lines that are alike */
  like?: string;
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
  const entries = judged.map((one) => ({ ...one, like: new RegExp(one.like ?? "") }));
  return (mutant) =>
    entries.find(
      (one) =>
        (one.file.endsWith("/") ? mutant.file.startsWith(one.file) : one.file === mutant.file) &&
        one.like.test(mutant.source) &&
        fields.every((field) => one[field] === undefined || one[field] === mutant[field]),
    )?.why;
}
