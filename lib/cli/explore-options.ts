/** What `fake-kvm explore` was asked for: the options as the explorer takes them, the shards, the program of a file. */
import type { ExploreOptions, Strategy } from "../fuzz/explore/explore.ts";
import type { Program } from "../fuzz/explore/run.ts";
import { loadModule } from "./module.ts";
import { UsageError } from "./output.ts";

export interface ExploreCommandOptions {
  strategy: string;
  runs?: number;
  seed: number;
  replay?: string;
  format: string;
  shard?: string;
  jobs?: number;
  merge?: string[];
  export: string;
}

/** The `index`-th of `count` parts of the runs; the first is 1. */
export interface Shard {
  readonly index: number;
  readonly count: number;
}

const RUNS = 1000;

/** What `--shard` says: `1/4` is the first of four. */
export function shardOf({ shard }: ExploreCommandOptions): Shard | undefined {
  if (shard === undefined) return undefined;
  const [index, count] = /^(\d+)\/(\d+)$/.exec(shard)?.slice(1).map(Number) ?? [0, 0];
  if (index < 1 || index > count) throw new UsageError(`${shard} is no shard: 1/4 is the first of four`);
  return { index, count };
}

/** What the options say, as the explorer takes it. */
export function exploration(
  { strategy, runs, seed, replay }: ExploreCommandOptions,
  shard: Shard | undefined,
): ExploreOptions {
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
  const { index, count } = shard;
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

/** The program that a module exports by a name. */
export async function load(path: string, name: string): Promise<Program> {
  const program = (await loadModule(path))[name] as Program | undefined;
  if (typeof program?.setup !== "function")
    throw new UsageError(`${path} exports no \`${name}\` with a \`setup\``);
  if (typeof program.name !== "string") throw new UsageError(`${path}: \`${name}\` has no \`name\``);
  return program;
}
