/** `fake-kvm replay`: makes the calls of recorded traces on the fake kernel and tells what differs. */
import cliProgress from "cli-progress";
import { readTrace } from "../trace/files.ts";
import { knownCalls } from "../trace/known.ts";
import { describe, type KernelFactory, type ReplayResult, replay } from "../trace/replay.ts";
import { readKnown, traceFiles } from "./files.ts";
import type { Output } from "./output.ts";
import { type Column, drawTable } from "./table.ts";

export interface ReplayCommandOptions {
  /** one JSON document instead of a table */
  json?: boolean;
  /** every difference, not only the first of each trace */
  verbose?: boolean;
  /** differences are told, and are no failure */
  report?: boolean;
  /** a list of calls that are meant to differ; the repository's own where none is named */
  known?: string;
  /** builds the kernel under test; the machine of the header by default */
  kernel?: KernelFactory;
}

/** Replays files and folders; the exit code: 0 if every answer is identical (or `report`), else 1. */
export function replayCommand(paths: string[], options: ReplayCommandOptions, output: Output): number {
  const files = traceFiles(paths);
  const known = readKnown(options.known, knownCalls);
  const progress = output.interactive && files.length > 1 ? startProgress(files.length) : undefined;
  const results: ReplayResult[] = [];
  try {
    for (const { path, name } of files) {
      progress?.update(results.length, { name });
      const trace = { ...readTrace(path, path), name };
      results.push(
        replay(trace, options.kernel === undefined ? { known } : { known, kernel: options.kernel }),
      );
    }
  } finally {
    progress?.stop();
  }
  const total = sum(results);
  if (options.json) output.print(JSON.stringify({ ...total, traces: results.length, results }, null, 1));
  else {
    output.print(table(results, output));
    if (options.verbose) for (const result of results) printDifferences(result, output);
    output.print(
      `${results.length} ${results.length === 1 ? "trace" : "traces"}, ${total.calls} calls, ${total.identical} identical, ${total.different} different` +
        (total.known === 0 ? "" : `, ${total.known} known`) +
        (total.excludedBytes === 0
          ? ""
          : `, ${total.excludedBytes} bytes of unmodelled registers not compared`),
    );
  }
  return total.different === 0 || options.report === true ? 0 : 1;
}

function startProgress(count: number): cliProgress.SingleBar {
  const bar = new cliProgress.SingleBar(
    {
      format: "{bar} {value}/{total} {name}",
      stream: process.stderr,
      clearOnComplete: true,
      hideCursor: true,
    },
    cliProgress.Presets.shades_classic,
  );
  bar.start(count, 0, { name: "" });
  return bar;
}

type Total = Pick<ReplayResult, "calls" | "identical" | "different" | "known" | "excludedBytes">;

function sum(results: readonly ReplayResult[]): Total {
  const total = { calls: 0, identical: 0, different: 0, known: 0, excludedBytes: 0 };
  for (const { calls, identical, different, known, excludedBytes } of results) {
    total.known += known;
    total.excludedBytes += excludedBytes;
    total.calls += calls;
    total.identical += identical;
    total.different += different;
  }
  return total;
}

/** The columns of the table by number: which one gives way first where the terminal is narrow. */
const FIRST_DIFFERENCE = 5;
const KERNEL = 1;
const TRACE = 0;

function table(results: readonly ReplayResult[], output: Output): string {
  const { dim, green, red } = output.colors;
  const columns: Column[] = [
    { heading: "trace", narrowest: 14 },
    { heading: "kernel", narrowest: 6, paint: (cell) => dim(cell) },
    { heading: "calls", align: "right" },
    { heading: "identical", align: "right", paint: (cell, row) => (row[4] === "0" ? green(cell) : cell) },
    { heading: "different", align: "right", paint: (cell) => (cell === "0" ? cell : red(cell)) },
    { heading: "first difference", narrowest: 18 },
  ];
  const rows = results.map((result) => [
    result.name,
    result.kernel,
    String(result.calls),
    String(result.identical),
    String(result.different),
    result.differences.length === 0 ? "" : describe(result.differences[0]),
  ]);
  return drawTable(columns, rows, [FIRST_DIFFERENCE, KERNEL, TRACE], output);
}

function printDifferences(result: ReplayResult, output: Output): void {
  if (result.different === 0) return;
  output.print(`\n${output.colors.bold(result.name)} (${result.kernel})`);
  for (const difference of result.differences)
    output.print(`  line ${difference.line}: ${describe(difference)}`);
}
