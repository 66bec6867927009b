/**
 * `fake-kvm conformance`: the table that says how faithful the fake is: for each folder of traces (one architecture,
 * subsystem and kernel release) how many recorded answers were compared, and how many are identical. It is made by
 * replaying, never by hand.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { readTrace } from "../trace/files.ts";
import { replay } from "../trace/replay.ts";
import { traceFiles } from "./files.ts";
import { type Output, UsageError } from "./output.ts";

const BEGIN = "<!-- conformance: made by `npm run conformance` -->";
const END = "<!-- /conformance -->";

interface Row {
  traces: number;
  calls: number;
  identical: number;
}

/** Prints the table, or puts it between the markers of a file; the exit code. */
export function conformanceCommand(folder: string, options: { write?: string }, output: Output): number {
  const table = conformanceTable(folder);
  if (options.write === undefined) output.print(table);
  else writeFileSync(options.write, withTable(readFileSync(options.write, "utf8"), table));
  return 0;
}

/** The text with the table between its markers. */
export function withTable(text: string, table: string): string {
  const begin = text.indexOf(BEGIN);
  const end = text.indexOf(END);
  if (begin < 0 || end < begin) throw new UsageError(`no markers ${BEGIN} … ${END}`);
  return `${text.slice(0, begin + BEGIN.length)}\n${table}\n${text.slice(end)}`;
}

/** Replays every trace of a folder of folders: a row each, and a total. */
export function conformanceTable(folder: string): string {
  const rows = new Map<string, Row>();
  const total: Row = { traces: 0, calls: 0, identical: 0 };
  for (const { path, name } of traceFiles([folder])) {
    const result = replay({ ...readTrace(path, path), name });
    const group = name.includes("/") ? name.slice(0, name.lastIndexOf("/")) : "";
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

/** Rounded down: only what is complete is 100 %. */
const percent = (part: number, whole: number): string => `${Math.floor((part / whole) * 1000) / 10} %`;
