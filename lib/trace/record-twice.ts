/**
 * A trace is recorded twice: what differs is what no replay can be asked to repeat (a clock, a timer's count), and is
 * marked `volatile`, in buffers behind pointers (`deref`), too.
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
  const refusal = (why: string) => new NotRepeatable(`call ${first.n} ${first.call}: ${why}`);
  const [one, two] = [withoutBytes(first), withoutBytes(second)];
  if (one !== two) throw refusal(`${one}, then ${two}`);
  if (first.call === "poke") return;
  const ranges = rangesOf(answerOf(first), answerOf(second), refusal);
  if (ranges.length > 0) {
    Object.assign(first, { volatile: ranges });
    // an answer that differed in one run alone is written out, so that the ranges have bytes to lie in
    if (first.call === "ioctl" && first.out === undefined) first.out = answerOf(first);
  }
  if (first.call !== "ioctl" || second.call !== "ioctl") return;
  first.deref?.forEach((buffer, i) => {
    const other = second.deref![i];
    const [before, after] = [buffer.out ?? buffer.in, other.out ?? other.in];
    const behind = rangesOf(before, after, refusal);
    if (behind.length > 0) Object.assign(buffer, { out: before, volatile: behind });
  });
}

/** What two runs of a call have to agree on: everything but the bytes. */
const withoutBytes = (line: TraceLine): string =>
  JSON.stringify({
    ...line,
    in: 0,
    out: 0,
    bytes: 0,
    deref: "deref" in line ? line.deref?.map(({ at }) => at) : 0,
  });

function rangesOf(before: string, after: string, refusal: (why: string) => NotRepeatable): VolatileRange[] {
  if (before === after) return [];
  if (before.length !== after.length) throw refusal(`answers of ${before.length} and ${after.length} digits`);
  return [...differingRuns(fromHex(before), fromHex(after))].map(([from, to]) => [from, to - from]);
}

/** The bytes that a call answered, in hex; without `out` they are those it was given. */
function answerOf(line: TraceLine): string {
  if (line.call === "peek") return line.bytes ?? "";
  if (line.call === "ioctl") return line.out ?? line.in ?? "";
  return line.call === "read" || line.call === "pread" ? (line.out ?? "") : "";
}
