/** Tables that fit the terminal: where there is no room, columns give way in an order that the caller names. */
import CliTable from "cli-table3";
import { fit, type Output } from "./output.ts";

export interface Column {
  heading: string;
  align?: "left" | "right";
  /** how narrow it may become; a column without stays as wide as it is */
  narrowest?: number;
  paint?: (cell: string, row: readonly string[]) => string;
}

/** spaces left and right, and the line between two columns */
const COLUMN_EXTRA = 3;
/** no lines between rows */
const compact = { mid: "", "left-mid": "", "mid-mid": "", "right-mid": "" };

/** Draws a table; `givesWay` names the columns that are narrowed, the first one first. */
export function drawTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  givesWay: readonly number[],
  output: Output,
): string {
  const widths = columns.map(({ heading }, i) =>
    Math.max(heading.length, ...rows.map((row) => row[i].length)),
  );
  let over = widths.reduce((sum, width) => sum + width + COLUMN_EXTRA, 1) - output.width;
  for (const i of givesWay) {
    const cut = Math.min(over, widths[i] - (columns[i].narrowest ?? widths[i]));
    if (cut <= 0) continue;
    widths[i] -= cut;
    over -= cut;
  }
  const table = new CliTable({
    head: columns.map(({ heading }, i) => output.colors.bold(fit(heading, widths[i]))),
    colAligns: columns.map(({ align }) => align ?? "left"),
    style: { head: [], border: [] },
    chars: compact,
  });
  for (const row of rows)
    table.push(row.map((cell, i) => (columns[i].paint ?? same)(fit(cell, widths[i]), row)));
  return table.toString();
}

const same = (cell: string): string => cell;
