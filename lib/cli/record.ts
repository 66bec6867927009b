/**
 * `fake-kvm record SCRIPT`: runs the calls of a module's function on a kernel, twice, and writes them as a trace; the bytes
 * that differ are marked as volatile. The header is the profile of the host, asked of the kernel.
 */
import { Machine } from "../machine/machine.ts";
import { nativeKernel } from "../native/native.ts";
import { hostRelease, writeTrace } from "../trace/files.ts";
import type { Trace, TraceLine } from "../trace/format.ts";
import { hostHeader, type Names } from "../trace/host-header.ts";
import { type Recordable, type Recorder, record } from "../trace/record.ts";
import { NotRepeatable, recordTwice } from "../trace/record-twice.ts";
import { Strace } from "../trace/strace.ts";
import { writeOut } from "./files.ts";
import { loadModule, thrownBy } from "./module.ts";
import { type Output, UsageError } from "./output.ts";

export interface RecordCommandOptions {
  /** the file to be written */
  out: string;
  /** "native", or "fake" for a host of the default profile */
  on: string;
  /** the name that the module exports the function by */
  export: string;
  /** only one run: nothing is marked as volatile */
  once?: boolean;
  /** prints the calls, too */
  strace?: boolean;
}

type Scenario = (process: Recorder) => void | Promise<void>;

/** The exit code: 0 if the trace is written, 1 if the script did not do the same twice. */
export async function recordCommand(
  path: string,
  options: RecordCommandOptions,
  output: Output,
): Promise<number> {
  const { start, names } = kernelOf(options.on);
  const exported = await loadModule(path);
  const scenario = exported[options.export] as Scenario | undefined;
  if (typeof scenario !== "function")
    throw new UsageError(
      `${path} exports no function \`${options.export}\`: export ${options.export === "default" ? "default " : ""}function …(linux) { … }`,
    );
  const asked = start();
  const header = hostHeader(asked, names, {
    scenario: String(exported.scenario ?? scenario.name),
    ...(exported.about !== undefined && { about: String(exported.about) }),
  });
  asked.exit();
  let trace: Pick<Trace, "header" | "lines">;
  try {
    trace = options.once
      ? { header, lines: await recordOnce(start(), scenario) }
      : await recordTwice(start, header, scenario);
  } catch (error) {
    if (!(error instanceof NotRepeatable)) throw thrownBy(path, error);
    output.warn(`fake-kvm: ${path} did not do the same twice: ${error.message} (--once records one run)`);
    return 1;
  }
  writeOut(options.out, () => writeTrace(options.out, trace));
  if (options.strace) {
    const strace = new Strace(header);
    for (const line of trace.lines) output.print(strace.line(line));
  }
  const { kernel, kvm } = header;
  const bytes = trace.lines.reduce((sum, line) => sum + volatileBytes(line), 0);
  output.print(
    `${trace.lines.length} ${trace.lines.length === 1 ? "line" : "lines"} of Linux ${kernel} (KVM ${kvm}), ${bytes} bytes volatile: ${options.out}`,
  );
  return 0;
}

/** How a process of the kernel that was asked for is started, and what the kernel is called. */
function kernelOf(name: string): { start: () => Recordable; names: Names } {
  if (name === "fake") {
    const { arch, release, flavour } = new Machine().profile;
    return { start: () => new Machine().process(), names: { arch, kernel: release, kvm: flavour } };
  }
  if (name !== "native") throw new UsageError(`--on ${name}: "native" or "fake"`);
  const native = nativeKernel();
  if (!native.available)
    throw new UsageError(`the real kernel cannot be asked: ${native.reason} (--on fake)`);
  return { start: () => native.process(), names: hostRelease() };
}

async function recordOnce(process: Recordable, scenario: Scenario): Promise<TraceLine[]> {
  const recorder = record(process);
  try {
    await scenario(recorder);
    return recorder.lines;
  } finally {
    recorder.exit();
  }
}

const volatileBytes = (line: TraceLine): number => {
  const ranges = [
    ...("volatile" in line ? (line.volatile ?? []) : []),
    ...(line.call === "ioctl" ? (line.deref ?? []).flatMap(({ volatile }) => volatile ?? []) : []),
  ];
  return ranges.reduce((sum, [, length]) => sum + length, 0);
};
