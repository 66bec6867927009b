/**
 * A trace is recorded twice: what differs is what no replay can be asked to repeat (a clock, a timer's count), and is
 * marked `volatile`.
 *
 * Missing: bytes behind pointers (`deref`) cannot be marked; where they differ the scenario is refused.
 */
import type { Arch } from "../abi/requests.ts";
import { fromHex, type Trace, type TraceHeader, type TraceLine, type VolatileRange } from "./format.ts";
import { differingRuns, type Recordable, type Recorder, record } from "./record.ts";

/** A scenario that did not do the same twice. */
export class NotRepeatable extends Error {
  override readonly name = "NotRepeatable";
}

/**
 * Records a scenario twice, each time in a new process, and marks the bytes of answers that differ. Answers that differ in
 * anything else cannot be marked: the scenario is not repeatable, and that is an exception.
 */
export async function recordTwice(
  start: () => Recordable,
  header: TraceHeader,
  scenario: (process: Recorder) => void | Promise<void>,
): Promise<Pick<Trace, "header" | "lines">> {
  const runs: TraceLine[][] = [];
  for (let run = 0; run < 2; run++) {
    const recorder = record(start(), { arch: header.arch as Arch });
    try {
      await scenario(recorder);
    } finally {
      recorder.exit();
    }
    runs.push(recorder.lines);
  }
  const [first, second] = runs;
  if (first.length !== second.length) throw new NotRepeatable(`${first.length} calls, then ${second.length}`);
  for (const [index, line] of first.entries()) markVolatile(line, second[index]);
  return { header, lines: first };
}

/** Marks the bytes in which two answers to one call differ. */
function markVolatile(first: TraceLine, second: TraceLine): void {
  const plain = (line: TraceLine): string => JSON.stringify({ ...line, in: 0, out: 0, bytes: 0 });
  const refusal = (why: string) => new NotRepeatable(`call ${first.n} ${first.call}: ${why}`);
  if (plain(first) !== plain(second)) throw refusal(`${plain(first)}, then ${plain(second)}`);
  if (first.call === "poke") return;
  const before = answerOf(first);
  const after = answerOf(second);
  if (before === after) return;
  if (before.length !== after.length) throw refusal(`answers of ${before.length} and ${after.length} digits`);
  const ranges: VolatileRange[] = [];
  for (const [from, to] of differingRuns(fromHex(before), fromHex(after))) ranges.push([from, to - from]);
  Object.assign(first, { volatile: ranges });
  // an answer that differed in one run alone is written out, so that the ranges have bytes to lie in
  if (first.call === "ioctl" && first.out === undefined) first.out = before;
}

/** The bytes that a call answered, in hex; without `out` they are those it was given. */
function answerOf(line: TraceLine): string {
  if (line.call === "peek") return line.bytes ?? "";
  if (line.call === "ioctl") return line.out ?? line.in ?? "";
  return line.call === "read" || line.call === "pread" ? (line.out ?? "") : "";
}
