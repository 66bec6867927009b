/**
 * The commands and their arguments. Exit codes: 0 fine, 1 something differs, 2 what was asked for cannot be done (an unknown
 * option, a file that is not there or no trace).
 */
import { Command, CommanderError } from "commander";
import { TraceError } from "../trace/format.ts";
import { conformanceCommand } from "./conformance.ts";
import { coverageCommand } from "./coverage.ts";
import { explainCommand } from "./explain.ts";
import { type Output, UsageError } from "./output.ts";
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
    .option("--report", "exit with 0 even if something differs")
    .action((paths: string[], options: { json?: boolean; verbose?: boolean; report?: boolean }) => {
      code = replayCommand(paths, options, output);
    });
  program
    .command("conformance")
    .description("print how many answers are identical, by kernel, as a table in Markdown")
    .argument("<folder>", "a folder with a folder of traces for each kernel")
    .option("--write <file>", "put the table between the markers of this file instead")
    .action((folder: string, options: { write?: string }) => {
      code = conformanceCommand(folder, options, output);
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
