/**
 * A soak: program after program, for as long as wanted, and what must not happen meanwhile: an exception, an answer that
 * is no number, a file, mapping, timer or piece of work that outlives its process, memory that grows.
 *
 * Five kinds of programs take turns. Hostile calls and the fuzzer's programs run as one process after the other on the
 * same host, which lives as long as the soak does: what a process leaves behind stays in sight. Mended prototypes of the
 * bug zoo are explored; recorded traces are replayed as they are, where every answer has to be identical, and mutated,
 * where only the rules count.
 *
 * A file is left if its description is referenced after its process has ended: by a descriptor, a mapping, an irqfd, a VM
 * that a vCPU held. The count is taken at `File.get` and `File.put`, so that nothing has to be searched.
 */
import fc from "fast-check";
import { explore } from "../../lib/fuzz/explore/explore.ts";
import { groupNames } from "../../lib/fuzz/groups.ts";
import { runProgram } from "../../lib/fuzz/interpreter.ts";
import { programs } from "../../lib/fuzz/programs.ts";
import { Random } from "../../lib/fuzz/random.ts";
import { File } from "../../lib/kernel/file.ts";
import type { Process } from "../../lib/kernel/process.ts";
import { guestPolicy } from "../../lib/kvm/x86/guest-policy.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { profileFromHeader } from "../../lib/machine/profile.ts";
import type { Trace, TraceHeader } from "../../lib/trace/format.ts";
import type { KnownCall } from "../../lib/trace/known.ts";
import { describe, replay } from "../../lib/trace/replay.ts";
import { zoo } from "../bugs/zoo.ts";
import { type HostileCall, hostileCall, runHostile, World } from "./hostile.ts";
import { mutated } from "./mutated-trace.ts";

export const kinds = ["hostile", "fuzz", "explore", "replay", "mutated"] as const;
export type Kind = (typeof kinds)[number];

/** Memory at one moment, after a forced collection. */
export interface Sample {
  readonly seconds: number;
  readonly programs: number;
  /** bytes */
  readonly heap: number;
  /** bytes outside the heap, those of ArrayBuffers among them */
  readonly external: number;
}

export interface Left {
  files: number;
  mappings: number;
  timers: number;
  work: number;
}

export interface SoakResult {
  readonly seconds: number;
  readonly programs: Readonly<Record<Kind, number>>;
  readonly calls: Readonly<Record<Kind, number>>;
  /** what broke a rule, in words, with what makes it again */
  readonly broken: readonly string[];
  readonly left: Readonly<Left>;
  readonly samples: readonly Sample[];
}

export interface SoakOptions {
  seed: number;
  /** whether it goes on; asked before each program */
  more: (programs: number, seconds: number) => boolean;
  /** whether a sample is taken now */
  sample: (programs: number, seconds: number) => boolean;
  /** the kinds that take turns; all by default */
  kinds?: readonly Kind[];
  /** the recorded traces, read when they are used */
  traces: readonly (() => Trace)[];
  known?: readonly KnownCall[];
  /** called with each sample and each thing that broke a rule */
  tell?: (text: string) => void;
  /** a collection of garbage, at once */
  collect: () => void;
  now: () => number;
}

const HOSTILE_CALLS = 100;
const EXPLORED_RUNS = 25;
/** instructions that a guest may run before it is interrupted */
const BUDGET = 200_000;
/** calls of a trace that are replayed mutated; a longer one from a place of its own on */
const MUTATED_CALLS = 3000;
const MOST_TOLD = 50;

const hostilePrograms = fc.array(hostileCall, {
  minLength: HOSTILE_CALLS,
  maxLength: HOSTILE_CALLS,
  size: "max",
});
const fuzzPrograms = programs({ groups: groupNames });

/** Descriptions of files that are referenced. */
function watchFiles(): { live: Set<File>; stop: () => void } {
  const { get, put } = File.prototype;
  const live = new Set<File>();
  File.prototype.get = function (this: File) {
    live.add(this);
    return get.call(this) as never;
  };
  File.prototype.put = function (this: File) {
    put.call(this);
    if (this.references <= 0) live.delete(this);
  };
  return {
    live,
    stop: () => {
      File.prototype.get = get;
      File.prototype.put = put;
    },
  };
}

/** Runs programs as long as `more` says. */
export function soak(options: SoakOptions): SoakResult {
  const { seed, tell = () => {}, now, kinds: turning = kinds } = options;
  const random = new Random(seed);
  const broken: string[] = [];
  const made = zeros();
  const calls = zeros();
  const left: Left = { files: 0, mappings: 0, timers: 0, work: 0 };
  const samples: Sample[] = [];
  const files = watchFiles();
  const started = now();
  const seconds = (): number => (now() - started) / 1000;
  let host = new Machine();
  let total = 0;

  const wrong = (what: string): void => {
    if (broken.length < MOST_TOLD) tell(what);
    broken.push(what);
  };
  const sample = (): void => {
    options.collect();
    const { heapUsed, external } = process.memoryUsage();
    samples.push({ seconds: seconds(), programs: total, heap: heapUsed, external });
    tell(row(samples.at(-1)!, sum(calls)));
  };
  /** What a process left behind on the host; a leak is told once, then the host is another one. */
  const ended = (what: string, ...processes: Process[]): void => {
    for (const each of processes) each.exit();
    host.kernel.deadlocks.length = 0;
    const found: Left = {
      files: files.live.size,
      mappings: processes.filter(({ mm }) => mm.overlaps(0, mm.taskSize)).length,
      timers: host.kernel.clock.next === Number.POSITIVE_INFINITY ? 0 : 1,
      work: host.kernel.work.pending,
    };
    if (sum(found) === 0) return;
    for (const name in found) left[name as keyof Left] += found[name as keyof Left];
    wrong(`${what} left ${JSON.stringify(found)}: ${[...files.live].map(({ name }) => name).join(", ")}`);
    fresh();
  };
  const fresh = (): void => {
    files.live.clear();
    host = new Machine();
  };

  const turns: Readonly<Record<Kind, (what: string, n: number) => number>> = {
    hostile(what, n) {
      const program = drawn(hostilePrograms, n) as HostileCall[];
      guestPolicy(host.kernel).budget = BUDGET;
      const world = new World(host);
      const problem = runHostile(world, program);
      if (problem !== undefined) wrong(`${what}: ${problem}`);
      ended(what, world.process);
      return program.length;
    },
    fuzz(what, n) {
      guestPolicy(host.kernel).budget = BUDGET;
      const process = host.process();
      let steps = 0;
      for (const { result, call } of runProgram(drawn(fuzzPrograms, n), process)) {
        steps++;
        if (!Number.isInteger(result)) wrong(`${what}: ${call} answered ${result}`);
      }
      ended(what, process);
      return steps;
    },
    explore(what, n) {
      const { mended } = zoo[n % zoo.length];
      const found = explore(mended, {
        strategy: n % 2 === 0 ? "random" : { pct: { depth: 3 } },
        runs: EXPLORED_RUNS,
        seed: n,
      });
      // The benches end with their hosts, not with their processes.
      files.live.clear();
      if (found.counterexample !== undefined)
        wrong(`${what}: ${mended.name}: ${found.counterexample.failure.reason}`);
      return found.runs;
    },
    replay(what) {
      if (options.traces.length === 0) return 0;
      const trace = options.traces[random.below(options.traces.length)]();
      const result = replay(trace, { known: options.known ?? [] });
      for (const difference of result.differences) wrong(`${what}: ${trace.name}: ${describe(difference)}`);
      ended(`${what}: ${trace.name}`);
      return result.calls;
    },
    mutated(what, n) {
      if (options.traces.length === 0) return 0;
      const trace = options.traces[random.below(options.traces.length)]();
      const chosen = new Random(n);
      const result = replay(
        mutated({ ...trace, lines: trace.lines.slice(0, MUTATED_CALLS) }, chosen, 5 + chosen.below(60)),
        { kernel: patient },
      );
      for (const difference of result.differences)
        if (difference.threw) wrong(`${what}: ${trace.name}: ${describe(difference)}`);
      ended(`${what}: ${trace.name}`);
      return result.calls;
    },
  };

  try {
    while (options.more(total, seconds())) {
      const kind = turning[total % turning.length];
      const n = (Math.imul(seed, 1_000_003) + total) >>> 0;
      const what = `${kind} ${total} of seed ${seed}`;
      try {
        calls[kind] += turns[kind](what, n);
      } catch (error) {
        wrong(`${what} threw ${error instanceof Error ? error.stack : String(error)}`);
        fresh();
      }
      made[kind]++;
      total++;
      if (options.sample(total, seconds())) sample();
    }
    sample();
  } finally {
    files.stop();
  }
  return { seconds: seconds(), programs: made, calls, broken, left, samples };
}

const patient = (header: TraceHeader): Machine => {
  const machine = new Machine(profileFromHeader(header));
  guestPolicy(machine.kernel).budget = BUDGET;
  return machine;
};

/** The program of a number. */
const drawn = <T>(arbitrary: fc.Arbitrary<T>, n: number): T =>
  fc.sample(arbitrary, { seed: n | 0, numRuns: 1 })[0];

const zeros = (): Record<Kind, number> => ({ hostile: 0, fuzz: 0, explore: 0, replay: 0, mutated: 0 });

/** The sum of what a record counts. */
export const sum = (counts: object): number =>
  Object.values(counts).reduce((total: number, count) => total + (count as number), 0);

const MEBIBYTE = 2 ** 20;
const mebibytes = (bytes: number): string => (bytes / MEBIBYTE).toFixed(2);

const row = ({ seconds, programs, heap, external }: Sample, calls: number): string =>
  `${seconds.toFixed(0).padStart(5)} s ${String(programs).padStart(8)} programs ${String(calls).padStart(9)} calls  heap ${mebibytes(heap)} MiB  external ${mebibytes(external)} MiB`;

export interface Growth {
  /** bytes by program, of the line through the samples of the second half */
  readonly slope: number;
  /** bytes that this line rises from its first sample to its last */
  readonly rise: number;
  readonly flat: boolean;
}

/** More than this over half a soak, and it is a leak: compiled code and caches still move by less. */
const NOISE = MEBIBYTE;

/** Whether memory grows: the straight line through the second half of the samples, the first half being warm-up. */
export function growth(samples: readonly Sample[], of: "heap" | "external"): Growth {
  const half = samples.slice(Math.floor(samples.length / 2));
  const mean = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0) / numbers.length;
  const [x, y] = [mean(half.map(({ programs }) => programs)), mean(half.map((each) => each[of]))];
  let over = 0;
  let under = 0;
  for (const each of half) {
    over += (each.programs - x) * (each[of] - y);
    under += (each.programs - x) ** 2;
  }
  const slope = under === 0 ? 0 : over / under;
  const rise = slope * (half[half.length - 1].programs - half[0].programs);
  return { slope, rise, flat: rise <= NOISE };
}
