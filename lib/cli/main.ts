#!/usr/bin/env node
/** The command line: `fake-kvm replay`, `explain`, `coverage`. Exit codes: 0 fine, 1 something differs, 2 usage. */
import { Command, CommanderError } from "commander";
import { TraceError } from "../trace/format.ts";
import { explainCommand } from "./explain.ts";
import { type Output, standardOutput, UsageError } from "./output.ts";
import { replayCommand } from "./replay.ts";

const USAGE = 2;

/** Runs the command line; answers the exit code. */
export function run(args: readonly string[], output: Output): number {
  let code = 0;
  const program = new Command("fake-kvm")
    .description("A slice of the Linux kernel: /dev/kvm, eventfds, VFIO, answered byte for byte")
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
    .action((paths: string[], options: { json?: boolean; verbose?: boolean }) => {
      code = replayCommand(paths, options, output);
    });
  program
    .command("explain")
    .description("print a trace as strace would")
    .argument("<file>", "a trace (*.jsonl, *.jsonl.gz)")
    .option("--full", "print structs, arrays and bytes in whole")
    .action((path: string, options: { full?: boolean }) => {
      code = explainCommand(path, options, output);
    });
  try {
    program.parse(args, { from: "user" });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE;
    if (error instanceof UsageError || error instanceof TraceError) {
      output.warn(`fake-kvm: ${error.message}`);
      return USAGE;
    }
    throw error;
  }
}

/** A reader that went away (`| head`) is no error. */
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});
process.exitCode = run(process.argv.slice(2), standardOutput());
