/**
 * A difference as a trace: the program that shows it, made on the kernel that is right, with its answers. Replayed it
 * shows the difference; once the fake is mended it is identical, and stays as a fixture.
 */
import type { TraceHeader, TraceLine, VolatileRange } from "../trace/format.ts";
import { fromHex, toHex } from "../trace/format.ts";
import { record } from "../trace/record.ts";
import { type Kernel, optionsOf } from "./differential.ts";
import { runProgram } from "./interpreter.ts";
import type { Program } from "./program.ts";
import { volatileBytes } from "./rules.ts";

const PATIENCE = 2;

/** Runs a program on a kernel and writes down what it answered. */
export function traceOf(
  program: Program,
  kernel: Kernel,
  header: TraceHeader,
  scenario: string,
  about: string,
): { header: TraceHeader; lines: TraceLine[] } {
  const recorder = record(kernel.process());
  try {
    const settle = (): void => {
      kernel.settle(recorder, PATIENCE);
      recorder.note("everything that was deferred has run");
      const last = recorder.lines.at(-1)!;
      recorder.lines[recorder.lines.length - 1] = { n: last.n, call: "settle" };
    };
    for (const _ of runProgram(program, recorder, { ...optionsOf(kernel, PATIENCE), settle }));
  } finally {
    recorder.exit();
  }
  return { header: { ...header, scenario, about }, lines: tidy(recorder.lines) };
}

/** Without the calls that only wait, numbered anew, and with what follows the clock marked. */
function tidy(lines: readonly TraceLine[]): TraceLine[] {
  const kept = lines.filter((line) => !(line.call === "poll" && line.fds.length === 0));
  return kept.map((line, index) => markVolatile({ ...line, n: index + 1 }));
}

function markVolatile(line: TraceLine): TraceLine {
  if (line.call !== "ioctl" || line.in === undefined) return line;
  const out = line.out ?? line.in;
  const found = volatileBytes(Number(line.request), fromHex(out));
  if (found === undefined) return line;
  const volatile = found.ranges.map(([at, length]): VolatileRange => [at, length]);
  return { ...line, out: toHex(fromHex(out)), volatile };
}
