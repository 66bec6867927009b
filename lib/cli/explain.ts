/** `fake-kvm explain`: prints a trace as strace would. */
import { readTrace } from "../trace/files.ts";
import { Strace } from "../trace/strace.ts";
import { fit, type Output } from "./output.ts";

export interface ExplainOptions {
  /** structs, arrays and bytes in whole, lines as long as they are */
  full?: boolean;
}

/** Prints a header in a few lines, then a line a call; the exit code is 0. */
export function explainCommand(path: string, options: ExplainOptions, output: Output): number {
  const { header, lines } = readTrace(path, path);
  const { colors } = output;
  const width = options.full ? Number.POSITIVE_INFINITY : output.width;
  if (header.about !== undefined) output.print(`# ${header.about}`);
  output.print(`# ${header.arch}, Linux ${header.kernel}${header.kvm === null ? "" : `, KVM ${header.kvm}`}`);
  const strace = new Strace(header, options);
  const digits = String(lines.at(-1)?.n ?? 0).length;
  for (const line of lines) {
    const text = fit(`${String(line.n).padStart(digits)}  ${strace.line(line)}`, width);
    const quiet = line.call === "note" || line.call === "settle";
    output.print(quiet ? colors.dim(text) : "errno" in line ? colors.yellow(text) : text);
  }
  return 0;
}
