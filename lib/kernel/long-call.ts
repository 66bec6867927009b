/**
 * A system call that other calls go on beside: KVM_RUN on a thread of its own. It is made in steps; between two of them
 * the program runs. A call that sleeps goes on after any other call, after deferred work, after time has passed. Time
 * passes by itself, from timer to timer, only while every such call sleeps.
 *
 * Beside `readable.ts` the only promise of this floor: nothing in the kernel waits for it. How a program is let run between
 * two steps is told from outside (`Kernel.pause`).
 */
import type { File } from "./file.ts";
import type { Kernel } from "./kernel.ts";
import type { Process } from "./process.ts";

/** What a step answers while the call is not over: it sleeps, or it has only paused. */
export const ASLEEP = 2;
export const BUSY = 3;

/** the call that a file is busy with: the next one waits for it */
const underWay = new WeakMap<File, Promise<number>>();

/** Makes the long call of a file: its answer. */
export function longCall(file: File, process: Process): Promise<number> {
  const before = underWay.get(file);
  const call = before === undefined ? make(file, process) : before.then(() => make(file, process));
  underWay.set(file, call);
  return call;
}

async function make(file: File, process: Process): Promise<number> {
  const { kernel } = file;
  file.get();
  kernel.longCalls++;
  kernel.naps.running.set(file, process);
  let answer = file.begin(process);
  if (answer !== ASLEEP) kernel.stir();
  while (answer > 0) {
    if (answer === BUSY) await kernel.pause();
    else await asleep(kernel, file.waitsFor);
    answer = file.resume();
    if (answer !== ASLEEP) kernel.stir();
  }
  kernel.longCalls--;
  kernel.naps.running.delete(file);
  underWay.delete(file);
  file.put();
  process.signals.handle();
  return answer;
}

function asleep(kernel: Kernel, what: string): Promise<void> {
  const { naps } = kernel;
  const slept = new Promise<void>((wake) => naps.sleepers.set(wake, what));
  if (naps.everyone) void passTime(kernel);
  return slept;
}

/** Everyone sleeps: the program may call first, then the next timer fires. */
async function passTime(kernel: Kernel): Promise<void> {
  const { naps, clock } = kernel;
  await kernel.pause();
  if (!naps.everyone) return;
  if (clock.next > naps.since + naps.longest) {
    if (!naps.told) kernel.onAsleep?.(naps.reports);
    naps.told = true;
    return;
  }
  const { since } = naps;
  clock.advanceTo(clock.next);
  naps.stir();
  naps.since = since;
}

/** Who sleeps in a long call. */
export class Naps {
  readonly #kernel: Kernel;
  /** whose call is under way */
  readonly running = new Map<File, Process>();
  /** how to wake each sleeper, and what it waits for */
  readonly sleepers = new Map<() => void, string>();
  /** that everyone sleeps was told, and nothing has happened since */
  told = false;
  /** since when nothing but timers has happened, in nanoseconds of the clock */
  since = 0;
  /** how long time passes for sleepers while nothing wakes one: a timer that ticks for ever must not */
  longest = 60_000_000_000;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
    this.since = kernel.clock.now;
  }

  /** What each sleeper waits for. */
  get reports(): readonly string[] {
    return [...this.sleepers.values()];
  }

  get everyone(): boolean {
    return this.sleepers.size !== 0 && this.sleepers.size === this.#kernel.longCalls;
  }

  /** The process ends: its calls are interrupted. */
  endOf(process: Process): void {
    for (const [file, caller] of this.running) if (caller === process) file.kick();
  }

  /** Something has happened at this time: whoever sleeps looks whether it can go on. */
  stir(now = this.since): void {
    this.since = now;
    const all = [...this.sleepers.keys()];
    this.sleepers.clear();
    for (const wake of all) wake();
  }
}
