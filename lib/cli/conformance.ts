/**
 * `fake-kvm conformance`: the table that says how faithful the fake is: for each folder of traces (one architecture,
 * subsystem and kernel release) how many recorded answers were compared, and how many are identical. It is made by
 * replaying, never by hand. `--page` writes the page behind the table.
 */
import { basename, dirname, resolve } from "node:path";
import { readTrace } from "../trace/files.ts";
import { knownCalls } from "../trace/known.ts";
import { replay } from "../trace/replay.ts";
import { conformancePage } from "./conformance-page.ts";
import { readKnown, readText, traceFiles, writeOut } from "./files.ts";
import { type Output, UsageError } from "./output.ts";

const BEGIN = "<!-- conformance: made by `npm run conformance` -->";
const END = "<!-- /conformance -->";

interface Row {
  traces: number;
  calls: number;
  identical: number;
}

export interface ConformanceOptions {
  /** puts the table between the markers of this file */
  write?: string;
  /** writes the page to this file */
  page?: string;
  /** a list of calls that are meant to differ; the repository's own where none is named */
  known?: string;
}

/** Prints the table, or puts it between the markers of a file, or writes the page; the exit code. */
export function conformanceCommand(
  folders: readonly string[],
  { write, page, known }: ConformanceOptions,
  output: Output,
): number {
  if (page !== undefined) {
    writeOut(page, conformancePage(folders, readKnown(known, knownCalls)));
    return 0;
  }
  const table = conformanceTable(folders);
  if (write === undefined) output.print(table);
  else writeOut(write, withTable(readText(write), table));
  return 0;
}

/** The text with the table between its markers. */
export function withTable(text: string, table: string): string {
  const begin = text.indexOf(BEGIN);
  const end = text.indexOf(END);
  if (begin < 0 || end < begin) throw new UsageError(`no markers ${BEGIN} … ${END}`);
  return `${text.slice(0, begin + BEGIN.length)}\n${table}\n${text.slice(end)}`;
}

/** Replays every trace of folders of folders: a row each, and a total. */
export function conformanceTable(folders: readonly string[]): string {
  const rows = new Map<string, Row>();
  const total: Row = { traces: 0, calls: 0, identical: 0 };
  for (const { path, name } of traceFiles(folders)) {
    const result = replay({ ...readTrace(path, path), name });
    const group = name.includes("/") ? dirname(name) : basename(dirname(resolve(path)));
    let row = rows.get(group);
    if (row === undefined) rows.set(group, (row = { traces: 0, calls: 0, identical: 0 }));
    for (const sum of [row, total]) {
      sum.traces++;
      sum.calls += result.calls;
      sum.identical += result.identical;
    }
  }
  const line = (name: string, { traces, calls, identical }: Row) =>
    `| ${name} | ${traces} | ${calls} | ${identical} | ${percent(identical, calls)} |`;
  return [
    "| recorded kernel | traces | calls | identical | |",
    "| --- | ---: | ---: | ---: | ---: |",
    ...[...rows].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, row]) => line(name, row)),
    line("**all**", total),
  ].join("\n");
}

/** Rounded down: only what is complete is 100 %. Nothing of nothing is nothing that could be said. */
const percent = (part: number, whole: number): string =>
  whole === 0 ? "" : `${Math.floor((part / whole) * 1000) / 10} %`;
