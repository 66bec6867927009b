/**
 * `fake-kvm fuzz`: random programs on the fake and on the real kernel of this host; what differs is shrunk, printed as
 * strace would, and written as a trace.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type CampaignResult, campaign, type Finding } from "../fuzz/campaign.ts";
import { traceOf } from "../fuzz/counterexample.ts";
import { groupNames } from "../fuzz/groups.ts";
import { type GuestKind, guestKinds, usualGuests } from "../fuzz/guest-programs.ts";
import { fakeSide, nativeSide } from "../fuzz/kernels.ts";
import { knownDifferences } from "../fuzz/known-differences.ts";
import { formatProgram } from "../fuzz/program.ts";
import type { Controllers } from "../fuzz/programs.ts";
import { headerOf } from "../fuzz/this-host.ts";
import { nativeKernel } from "../native/native.ts";
import { writeTrace } from "../trace/files.ts";
import { Strace } from "../trace/strace.ts";
import { readKnown, writeOut } from "./files.ts";
import { type Output, UsageError } from "./output.ts";

export interface FuzzOptions {
  against: string;
  programs: number;
  seed: number;
  length?: number;
  shrink: boolean;
  group?: string[];
  without?: string[];
  controllers?: Controllers;
  /** kinds of guests; true for the usual ones */
  guests?: true | string[];
  known?: string;
  out: string;
  atMost?: number;
  programText?: boolean;
  answers?: boolean;
}

/** how often the numbers so far are shown: on a terminal in one line, else a line each time */
const PROGRESS_MS = 1000;
const PROGRESS_LOGGED_MS = 60_000;

/** Runs a campaign; the exit code: 0 if nothing differs that is not known, else 1. */
export function fuzzCommand(options: FuzzOptions, output: Output): number {
  if (options.against !== "native")
    throw new UsageError(`--against ${options.against}: only "native" can be asked`);
  for (const name of [...(options.group ?? []), ...(options.without ?? [])])
    if (!groupNames.includes(name)) throw new UsageError(`no group "${name}": ${groupNames.join(", ")}`);
  if (!["kernel", "split", "none", undefined].includes(options.controllers))
    throw new UsageError(`--controllers ${options.controllers}: kernel, split or none`);
  const groups = (options.group ?? groupNames).filter((name) => !options.without?.includes(name));
  if (groups.length === 0) throw new UsageError("no group of operations is left");
  const guests = guestKindsOf(options.guests);
  const known = readKnown(options.known, knownDifferences);
  const native = nativeKernel();
  if (!native.available) throw new UsageError(`the real kernel cannot be asked: ${native.reason}`);
  const header = headerOf(native);
  const [ours, theirs] = [fakeSide(header), nativeSide(native)];
  const started = Date.now();
  let told = started;
  const tell = (result: CampaignResult): void => {
    const now = Date.now();
    if (now - told < (output.interactive ? PROGRESS_MS : PROGRESS_LOGGED_MS)) return;
    told = now;
    const line = summary(result, now - started);
    if (output.interactive) process.stderr.write(`\r${line}\x1b[K`);
    else output.warn(line);
  };
  const result = campaign(ours, theirs, {
    programs: options.programs,
    seed: options.seed,
    shrink: options.shrink,
    groups,
    known,
    progress: tell,
    ...(guests !== undefined && { guests }),
    ...(options.controllers !== undefined && { controllers: options.controllers }),
    ...(options.length !== undefined && { length: options.length }),
    ...(options.atMost !== undefined && { atMost: options.atMost }),
    found: (finding) => report(finding),
  });
  if (output.interactive) process.stderr.write("\r\x1b[K");
  if (options.answers) printAnswers(result, output);
  for (const [rule, times] of [...result.counts.tamed, ...result.counts.volatile])
    output.print(`  ${rule}: ${times} times`);
  for (const [reason, times] of result.known) output.print(`  known: ${reason}: ${times} times`);
  output.print(`seed ${options.seed}: ${summary(result, Date.now() - started)}`);
  return result.findings.length === 0 ? 0 : 1;

  function report(finding: Finding): void {
    const { difference, program } = finding;
    const name = `${difference.call.toLowerCase().replace(/[^a-z0-9]+/g, "-")}-${options.seed}-${finding.index}`;
    const about = `${difference.call}: ${difference.what}`;
    const trace = traceOf(program, theirs, header, name, about);
    const strace = new Strace(header);
    output.print(`${output.colors.bold(`program ${finding.index}`)} ${about}`);
    for (const line of trace.lines) output.print(`  ${strace.line(line)}`);
    if (options.programText) output.print(formatProgram(program));
    const path = join(options.out, `${name}.jsonl.gz`);
    writeOut(path, () => {
      mkdirSync(options.out, { recursive: true });
      writeTrace(path, trace);
    });
    output.print(`  written to ${path}`);
  }
}

/** The kinds of guests that are asked for. */
function guestKindsOf(asked: true | string[] | undefined): readonly GuestKind[] | undefined {
  if (asked === true) return usualGuests;
  for (const name of asked ?? [])
    if (!guestKinds.includes(name as GuestKind))
      throw new UsageError(`no guests "${name}": ${guestKinds.join(", ")}`);
  return asked as readonly GuestKind[] | undefined;
}

/** How every call was answered: a program that only meets errors is blind. */
function printAnswers({ counts }: CampaignResult, output: Output): void {
  const rows = [...counts.answers].sort(([a], [b]) => (a < b ? -1 : 1));
  for (const [call, answers] of rows) {
    const parts = [...answers]
      .sort(([, a], [, b]) => b - a)
      .map(([name, times]) => `${name === "0" ? "ok" : name} ${times}`);
    output.print(`  ${call}: ${parts.join(", ")}`);
  }
}

function summary(result: CampaignResult, ms: number): string {
  const seconds = Math.max(ms, 1) / 1000;
  const { programs, counts, findings, unstable, known } = result;
  const rate = (n: number): string => String(Math.round(n / seconds));
  const knownTimes = [...known.values()].reduce((sum, times) => sum + times, 0);
  return `${programs} programs (${rate(programs)}/s), ${counts.calls} calls (${rate(counts.calls)}/s), ${seconds.toFixed(1)} s, ${findings.length} differences, ${knownTimes} known, ${unstable} unstable`;
}
