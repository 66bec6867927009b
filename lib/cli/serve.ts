/**
 * `fake-kvm serve`: system calls for programs in other languages. Prints the header of the host, then for each line of
 * standard input, a question, one line, the answer (trace/answers.ts). It ends with its input; what it printed is a trace.
 */
import { createInterface } from "node:readline";
import { builtinHosts } from "../machine/builtin.ts";
import { Answers } from "../trace/answers.ts";
import { readTrace } from "../trace/files.ts";
import type { TraceHeader } from "../trace/format.ts";
import { type Output, UsageError } from "./output.ts";

export interface ServeOptions {
  /** the name of a host that comes along */
  host: string;
  /** a trace, or a file with its first line: its host instead */
  like?: string;
  /** only the answers, without the header */
  bare?: boolean;
}

/** The exit code: 0 if every question was one, else 1. */
export async function serveCommand(
  options: ServeOptions,
  output: Output,
  input: AsyncIterable<string> = createInterface({ input: process.stdin }),
): Promise<number> {
  const header = headerOf(options);
  const answers = hostOf(header, options);
  if (options.bare !== true) output.print(JSON.stringify(header));
  let refused = 0;
  for await (const question of input) {
    if (question.trim() === "") continue;
    const answer = answers.answer(question);
    if ("error" in answer) refused++;
    output.print(JSON.stringify(answer));
  }
  return refused === 0 ? 0 : 1;
}

/** A header can be well-formed and describe no host: a device with an address that is none, say. */
function hostOf(header: TraceHeader, { like }: ServeOptions): Answers {
  try {
    return new Answers(header);
  } catch (error) {
    throw new UsageError(`${like}: no host can be built from it: ${(error as Error).message}`);
  }
}

function headerOf({ host, like }: ServeOptions): TraceHeader {
  if (like !== undefined) return readTrace(like, like).header;
  const profile = builtinHosts[host];
  if (profile === undefined)
    throw new UsageError(`no host "${host}": ${Object.keys(builtinHosts).join(", ")}`);
  return { ...profile, format: "kvm-vfio-trace", version: 1, host: profile.host ?? {} } as TraceHeader;
}
