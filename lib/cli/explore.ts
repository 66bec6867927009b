/**
 * `fake-kvm explore FILE`: the module's `program` in many orders of its threads and of the kernel's deferred work. The
 * first order in which it goes wrong is shrunk and told; the schedule at its end makes the run again (`--replay`).
 *
 * Shards: n jobs, each with its own number, share the runs of a strategy with a seed. Each prints a report of its own.
 */
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import {
  type Counterexample,
  type ExploreOptions,
  explore,
  NotDeterministic,
  type Strategy,
} from "../fuzz/explore/explore.ts";
import { toHtml, toMermaid, toPerfetto, toText } from "../fuzz/explore/report.ts";
import type { Program } from "../fuzz/explore/run.ts";
import { type Output, UsageError } from "./output.ts";

export interface ExploreCommandOptions {
  strategy: string;
  runs?: number;
  seed: number;
  replay?: string;
  format: string;
  shard?: string;
  export: string;
}

const RUNS = 1000;

const formats: Readonly<Record<string, (counterexample: Counterexample) => string>> = {
  text: toText,
  mermaid: toMermaid,
  perfetto: toPerfetto,
  html: toHtml,
  json: (counterexample) => JSON.stringify(counterexample),
};

/** The exit code: 0 if nothing goes wrong, else 1. */
export async function exploreCommand(
  path: string,
  options: ExploreCommandOptions,
  output: Output,
): Promise<number> {
  const format = Object.hasOwn(formats, options.format) ? formats[options.format] : undefined;
  if (format === undefined)
    throw new UsageError(`no format "${options.format}": ${Object.keys(formats).join(", ")}`);
  const how = exploration(options);
  const program = await load(path, options.export);
  try {
    const { counterexample, runs, exhausted } = explore(program, how);
    if (counterexample !== undefined) {
      output.print(format(counterexample));
      if (options.format === "text") output.print(`found after ${runs} runs`);
      return 1;
    }
    output.warn(`${program.name}: nothing goes wrong in ${exhausted ? "any" : "one"} of ${runs} runs`);
    return 0;
  } catch (error) {
    if (!(error instanceof NotDeterministic)) throw error;
    output.warn(`fake-kvm: ${error.message}`);
    return 1;
  }
}

/** What the options say, as the explorer takes it. */
function exploration({ strategy, runs, seed, replay, shard }: ExploreCommandOptions): ExploreOptions {
  if (replay !== undefined) return { strategy: { replay: schedule(replay) } };
  const [name, argument] = strategy.split(":", 2);
  if (argument !== undefined && !/^\d+$/.test(argument)) throw new UsageError(`${argument} is not a number`);
  const depth = argument === undefined ? undefined : Number(argument);
  const known: Readonly<Record<string, Strategy>> = {
    random: "random",
    pct: { pct: { depth: depth ?? 3 } },
    exhaustive: { exhaustive: depth === undefined ? {} : { preemptions: depth } },
  };
  if (!Object.hasOwn(known, name))
    throw new UsageError(`no strategy "${name}": ${Object.keys(known).join(", ")}`);
  const made = known[name];
  if (shard === undefined) return { strategy: made, seed, ...(runs !== undefined && { runs }) };
  if (name === "exhaustive") throw new UsageError("an exhaustive search has no shards");
  const [index, count] = /^(\d+)\/(\d+)$/.exec(shard)?.slice(1).map(Number) ?? [0, 0];
  if (index < 1 || index > count) throw new UsageError(`${shard} is no shard: 1/4 is the first of four`);
  const all = runs ?? RUNS;
  const mine = Math.floor((all * index) / count) - Math.floor((all * (index - 1)) / count);
  return { strategy: made, seed: seed * count + index - 1, runs: mine };
}

function schedule(text: string): string[] {
  try {
    const names: unknown = JSON.parse(text.replace(/^schedule: /, ""));
    if (Array.isArray(names) && names.every((name) => typeof name === "string")) return names;
  } catch {
    // told below
  }
  throw new UsageError('a schedule is a list of names: ["guest","device"]');
}

async function load(path: string, name: string): Promise<Program> {
  let loaded: Record<string, unknown>;
  try {
    loaded = (await import(pathToFileURL(resolve(path)).href)) as Record<string, unknown>;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ERR_UNKNOWN_FILE_EXTENSION")
      throw new UsageError(
        `${path}: Node ${process.versions.node} runs no TypeScript; compile it to JavaScript`,
      );
    throw new UsageError(`${path}: ${message}`);
  }
  const program = loaded[name] as Program | undefined;
  if (typeof program?.setup !== "function")
    throw new UsageError(`${path} exports no \`${name}\` with a \`setup\``);
  return program;
}
