/**
 * The commands and their arguments. Exit codes: 0 fine, 1 something differs, 2 what was asked for cannot be done (an unknown
 * option, a file that is not there or no trace).
 */
import { Command, CommanderError } from "commander";
import { TraceError } from "../trace/format.ts";
import { type ConformanceOptions, conformanceCommand } from "./conformance.ts";
import { coverageCommand } from "./coverage.ts";
import { exampleCommand } from "./example.ts";
import { explainCommand } from "./explain.ts";
import { exploreCommand } from "./explore.ts";
import type { ExploreCommandOptions } from "./explore-options.ts";
import { KNOWN } from "./files.ts";
import { type FuzzOptions, fuzzCommand } from "./fuzz.ts";
import { type Output, UsageError } from "./output.ts";
import { type RecordCommandOptions, recordCommand } from "./record.ts";
import { type ReplayCommandOptions, replayCommand } from "./replay.ts";
import { type ServeOptions, serveCommand } from "./serve.ts";

const USAGE = 2;
/** that of package.json */
export const VERSION = "0.1.0";

/**
 * Runs the command line; answers the exit code. Of `explore` and `record`, which load a module, it is a promise of one, and
 * so it is awaited by whoever runs any command.
 */
export function run(args: readonly string[], output: Output): number;
export function run(args: readonly string[], output: Output, later: true): number | Promise<number>;
export function run(args: readonly string[], output: Output, later = false): number | Promise<number> {
  let code: number | Promise<number> = 0;
  const program = new Command("fake-kvm")
    .description("A slice of the Linux kernel: /dev/kvm, eventfds, VFIO, answered byte for byte")
    .version(VERSION)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => output.print(text.trimEnd()),
      writeErr: (text) => output.warn(text.trimEnd()),
    });
  program
    .command("replay")
    .description("make the calls of recorded traces and compare every answer")
    .argument("<file|folder...>", "traces (*.jsonl, *.jsonl.gz), folders are searched")
    .option("--json", "print one JSON document")
    .option("--verbose", "print every difference, not only the first of each trace")
    .option("--report", "exit with 0 even if something differs")
    .option("--known <file>", `calls that are meant to differ (default: ${KNOWN}, if there is one)`)
    .action((paths: string[], options: ReplayCommandOptions) => {
      code = replayCommand(paths, options, output);
    });
  program
    .command("record")
    .description("write the calls that a script makes, and what a kernel answers, as a trace")
    .argument("<script>", "a module that exports a function of one argument: a process (*.ts, *.js, *.mjs)")
    .requiredOption("--out <file>", "the trace (*.jsonl, *.jsonl.gz)")
    .option("--on <kernel>", "native (this host's), or fake", "native")
    .option("--once", "one run: two tell which bytes are volatile")
    .option("--strace", "print the calls, too")
    .option("--export <name>", "the name that the module exports it by", "default")
    .action((path: string, options: RecordCommandOptions) => {
      if (!later) throw new UsageError("record has to be awaited");
      code = recordCommand(path, options, output).catch(failed);
    });
  program
    .command("conformance")
    .description("print how many answers are identical, by kernel, as a table in Markdown")
    .argument("<folder...>", "folders with a folder of traces for each kernel")
    .option("--write <file>", "put the table between the markers of this file instead")
    .option("--page <file>", "write a page instead: by kernel and area, with reasons")
    .option("--known <file>", `calls that are meant to differ (default: ${KNOWN}, if there is one)`)
    .action((folders: string[], options: ConformanceOptions) => {
      code = conformanceCommand(folders, options, output);
    });
  program
    .command("explain")
    .description("print a trace as strace would")
    .argument("<file>", "a trace (*.jsonl, *.jsonl.gz)")
    .option("--full", "print structs, arrays and bytes in whole")
    .action((path: string, options: { full?: boolean }) => {
      code = explainCommand(path, options, output);
    });
  program
    .command("coverage")
    .description("list every request of the kernel headers, and whether it is implemented")
    .option("--json", "print one JSON document")
    .action((options: { json?: boolean }) => {
      code = coverageCommand(options, output);
    });
  program
    .command("serve")
    .description(
      "make system calls for another program: questions on standard input, answers on standard output",
    )
    .option("--host <name>", "one of the hosts that come along", "x86_64_6_18_pvm")
    .option("--like <file>", "instead: the host that the header of a trace describes")
    .option("--bare", "only the answers, without the header of a trace before them")
    .action((options: ServeOptions) => {
      if (!later) throw new UsageError("serve has to be awaited");
      code = serveCommand(options, output).catch(failed);
    });
  program
    .command("example")
    .description("run a program that shows something; without a name: which there are")
    .argument("[name]", "resampling, vmm")
    .option("--strace", "print its system calls instead")
    .action((name: string | undefined, options: { strace?: boolean }) => {
      code = exampleCommand(name, options, output);
    });
  const list = (value: string, before: string[] = []): string[] => [...before, ...value.split(",")];
  const number = (value: string): number => {
    if (!/^\d+$/.test(value)) throw new UsageError(`${value} is not a number`);
    if (!Number.isSafeInteger(Number(value))) throw new UsageError(`${value} is too large a number`);
    return Number(value);
  };
  program
    .command("fuzz")
    .description("run random programs on the fake and on another kernel, and compare every answer")
    .option("--against <kernel>", "the kernel to compare with", "native")
    .option("--programs <n>", "how many programs", number, 1000)
    .option("--seed <n>", "another seed, other programs", number, 1)
    .option("--length <n>", "operations in a program, at most", number)
    .option("--group <name...>", "only these groups of operations", list)
    .option("--without <name...>", "all groups but these", list)
    .option(
      "--guests [kind...]",
      "programs that run guests: code, accesses, interrupts, processors, rings; bytes (any bytes as code) only if it is named",
      list,
    )
    .option("--controllers <where>", "interrupt controllers in the kernel, split, or none")
    .option("--at-most <n>", "end after so many kinds of differences", number)
    .option("--shrink", "make the programs of differences small", true)
    .option("--no-shrink", "leave the programs as they were found")
    .option("--answers", "tell how often each call was answered how")
    .option("--program-text", "print the programs as data, too")
    .option("--known <file>", `differences that are meant to be (default: ${KNOWN}, if there is one)`)
    .option("--out <folder>", "where traces of differences are written", "fixtures/counterexamples")
    .action((options: FuzzOptions) => {
      code = fuzzCommand(options, output);
    });
  program
    .command("explore")
    .description("run a program of threads in many orders, and tell the shortest in which it goes wrong")
    .argument("[file]", "a module that exports `program` (*.ts, *.js, *.mjs)")
    .option("--strategy <name>", "random, pct, pct:DEPTH, exhaustive, exhaustive:PREEMPTIONS", "pct")
    .option("--runs <n>", "at most so many", number)
    .option("--seed <n>", "another seed, other orders", number, 1)
    .option("--replay <schedule>", "one run: the schedule as it was printed")
    .option("--format <name>", "text, mermaid, perfetto, html or json", "text")
    .option("--shard <i/n>", "only the i-th of n parts of the runs")
    .option("--jobs <n>", "that many shards at once, each in a thread of its own", number)
    .option("--merge <report...>", "instead of a file: reports of shards (--format json), made one")
    .option("--export <name>", "the name that the module exports it by", "program")
    .action((path: string | undefined, options: ExploreCommandOptions) => {
      if (!later) throw new UsageError("explore has to be awaited");
      code = exploreCommand(path, options, output).catch(failed);
    });

  function failed(error: unknown): number {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE;
    if (error instanceof UsageError || error instanceof TraceError) {
      output.warn(`fake-kvm: ${error.message}`);
      return USAGE;
    }
    throw error;
  }
  try {
    program.parse(args, { from: "user" });
    return code;
  } catch (error) {
    return failed(error);
  }
}
