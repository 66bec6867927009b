/**
 * Where a command writes, and how wide that is. A terminal gets colours and lines that fit; a pipe gets plain text,
 * nothing shortened. Specs pass a sink of their own.
 */
import picocolors from "picocolors";

export interface Output {
  /** one line or several, a newline is added */
  print(text: string): void;
  /** the same for messages that are not the result */
  warn(text: string): void;
  /** columns of the terminal, or infinite where nothing has to fit */
  readonly width: number;
  /** whether the results go to a person who can be shown progress */
  readonly interactive: boolean;
  readonly colors: ReturnType<typeof picocolors.createColors>;
}

/** Standard output and standard error of this process. */
export function standardOutput(): Output {
  const columns = Number(process.env.COLUMNS) || process.stdout.columns;
  return {
    print: (text) => void process.stdout.write(`${text}\n`),
    warn: (text) => void process.stderr.write(`${text}\n`),
    width: process.stdout.isTTY && columns > 0 ? columns : Number.POSITIVE_INFINITY,
    interactive: process.stderr.isTTY === true,
    colors: picocolors.createColors(process.stdout.isTTY === true && picocolors.isColorSupported),
  };
}

/** What was asked for cannot be done: the message, and exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** Text cut to a width, with an ellipsis. */
export const fit = (text: string, width: number): string =>
  text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`;
