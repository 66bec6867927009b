/** What a file of the bug zoo gives: a VMM prototype with a historic fault, and the mended one, on one bench. */
import type { Program } from "../../lib/fuzz/explore/run.ts";

export interface Bug {
  /** its number in the zoo */
  readonly number: number;
  readonly title: string;
  /** where it happened */
  readonly reference: string;
  readonly broken: Program;
  readonly mended: Program;
}
