/**
 * One run of a program under one schedule. At every point the actors that could go on are known by name: threads of
 * the program, each waiting item of the kernel's deferred work ("irqfd-inject"; a second one of that name is
 * "irqfd-inject#2"), and "clock", the next timer. Who goes is the chooser's decision; the list of decisions is the
 * schedule, plain data that makes the run again.
 */
import type { Kernel } from "../../kernel/kernel.ts";
import type { Work } from "../../kernel/work-queue.ts";
import type { Op, Thread } from "./thread.ts";

/** What a program's `setup` gives: a fresh host whose deferred work nobody runs by itself, and who acts on it. */
export interface World {
  /** with the policy `byHand`: with another one deferred work is no actor, and its orders are not tried */
  readonly kernel: Kernel;
  /** by name; the order is that of the default schedule */
  readonly threads: Readonly<Record<string, Thread>>;
  /** threads that may wait for ever without that being a deadlock: devices, guests that sleep */
  readonly daemons?: readonly string[];
  /** whether the clock goes on by itself, timer by timer (the default is that it stands still) */
  readonly timers?: boolean;
  /** asked after every step: what is wrong, in words */
  check?(): string | undefined;
  /** asked when nothing can go on: what is wrong, in words */
  final?(): string | undefined;
}

/** A program to explore: `setup` makes a fresh world for each run. */
export interface Program {
  readonly name: string;
  setup(): World;
}

/** What was given cannot be explored, and no order is to blame: no world, a step that is none, another program's schedule. */
export class NotExplorable extends Error {
  override readonly name = "NotExplorable";
}

/** One actor that could go on. */
export interface Enabled {
  readonly name: string;
  readonly kind: "thread" | "work" | "clock";
  /** what its next step touches; undefined: anything */
  touches(): readonly unknown[] | undefined;
}

/**
 * Decides who goes: a place in `enabled`, a list that is filled anew for the next step. `current` is the place of who
 * went last, −1 if it cannot go on.
 */
export type Chooser = (enabled: readonly Enabled[], current: number, step: number) => number;

/** A chooser's answer: what could follow was seen in another run, this one may end. */
export const PRUNED = -2;

/** What went wrong, and after how many steps. */
export interface Failure {
  readonly reason: string;
  /** how many steps had been made */
  readonly step: number;
  /** the chooser named nobody who could go on: the schedule is another program's */
  readonly astray?: true;
}

/** One step, for reports. */
export interface Step {
  readonly actor: string;
  readonly label: string;
  /** what the call answered, where it answered a number */
  readonly result: number | undefined;
}

/** How a run ended. */
export interface Outcome {
  readonly steps: number;
  readonly failure: Failure | undefined;
  /** who went at each step */
  readonly schedule: string[];
  /** with labels, where they were asked for */
  readonly log: Step[];
  /** it was not over after so many steps as a run may have */
  readonly cut?: true;
}

/** Limits of a run. */
export interface RunOptions {
  /** a run ends after so many steps, and that is no failure */
  maxSteps?: number;
  /** notes what each step was: for reports, it costs time */
  log?: boolean;
}

/** A thread, and the step that it is about to make. */
class Actor implements Enabled {
  readonly kind = "thread";
  readonly name: string;
  readonly #thread: Thread;
  /** undefined: the thread is over */
  next: Op | undefined;

  constructor(name: string, thread: Thread) {
    this.name = name;
    this.#thread = thread;
    this.#advance(undefined);
  }

  touches(): readonly unknown[] | undefined {
    return this.next?.touches?.();
  }

  go(): unknown {
    const result = this.next!.run();
    this.#advance(result);
    return result;
  }

  #advance(result: unknown): void {
    const { done, value } = this.#thread.next(result);
    this.next = done === true ? undefined : value;
    if (done !== true && typeof value?.run !== "function")
      throw new NotExplorable(
        `thread ${this.name} yields what is no step: a call is made by yield*, not by yield`,
      );
  }
}

class WorkActor implements Enabled {
  readonly kind = "work";
  readonly name: string;
  readonly work: Work;

  constructor(name: string, work: Work) {
    this.name = name;
    this.work = work;
  }

  touches(): readonly unknown[] | undefined {
    return undefined;
  }
}

const clock: Enabled = { name: "clock", kind: "clock", touches: () => undefined };

/** The world of a run. Throws where it is none, what `setup` throws too: no order is to blame for that. */
function worldOf(program: Program): World {
  const { name } = program;
  const world = program.setup() as Partial<World> | undefined;
  if (world?.kernel?.work === undefined || typeof world.threads !== "object")
    throw new NotExplorable(`${name}: setup gives { kernel, threads }`);
  for (const [thread, it] of Object.entries(world.threads))
    if (typeof it?.next !== "function" || !(Symbol.iterator in it))
      throw new NotExplorable(
        `${name}: thread ${thread} is no generator: function* ${thread}() { … }, called`,
      );
  return world as World;
}

/** Runs a program; what a thread throws is a failure with its message. */
export function run(program: Program, choose: Chooser, options: RunOptions = {}): Outcome {
  const { maxSteps = 10_000, log: logging = false } = options;
  const schedule: string[] = [];
  const log: Step[] = [];
  let steps = 0;
  const end = (reason?: string): Outcome => ({
    steps,
    schedule,
    log,
    failure: reason === undefined ? undefined : { reason, step: steps },
  });
  const world = worldOf(program);
  const { kernel } = world;
  try {
    const threads = Object.entries(world.threads).map(([name, thread]) => new Actor(name, thread));
    const enabled: Enabled[] = [];
    let last = "";
    for (;;) {
      findEnabled(threads, world, enabled);
      if (enabled.length === 0) {
        const stuck = threads.filter(
          ({ name, next }) => next !== undefined && world.daemons?.includes(name) !== true,
        );
        if (stuck.length !== 0)
          return end(
            `deadlock: ${stuck.map(({ name, next }) => `${name} waits: ${next!.label()}`).join("; ")}`,
          );
        return end(world.final?.());
      }
      if (steps === maxSteps) return { ...end(), cut: true };
      const current = enabled.findIndex(({ name }) => name === last);
      const place = choose(enabled, current, steps);
      if (place === PRUNED) return end();
      const chosen = enabled[place];
      if (chosen === undefined) {
        const names = enabled.map(({ name }) => name).join(", ");
        const reason = `the schedule names an actor that cannot go on at step ${steps + 1} (${names} can)`;
        return { ...end(), failure: { reason, step: steps, astray: true } };
      }
      last = chosen.name;
      schedule.push(last);
      steps++;
      if (logging) log.push({ actor: last, label: labelOf(chosen), result: undefined });
      const result = go(chosen, kernel);
      if (logging && typeof result === "number") log[log.length - 1] = { ...log[log.length - 1], result };
      const wrong = world.check?.();
      if (wrong !== undefined) return end(wrong);
    }
  } catch (error) {
    if (error instanceof NotExplorable) throw error;
    return end(error instanceof Error && error.name === "Error" ? error.message : String(error));
  }
}

/** Fills the list with those who can go on. One list serves all steps of a run: less for the collector to do. */
function findEnabled(threads: readonly Actor[], world: World, enabled: Enabled[]): void {
  while (enabled.length !== 0) enabled.pop();
  for (const thread of threads)
    if (thread.next !== undefined && thread.next.blocked?.() !== true) enabled.push(thread);
  const { items } = world.kernel.work;
  for (let i = 0; i < items.length; i++) {
    let same = 1;
    for (let j = 0; j < i; j++) if (items[j].name === items[i].name) same++;
    enabled.push(new WorkActor(same === 1 ? items[i].name : `${items[i].name}#${same}`, items[i]));
  }
  if (world.timers === true && world.kernel.clock.next !== Number.POSITIVE_INFINITY) enabled.push(clock);
}

function go(chosen: Enabled, kernel: Kernel): unknown {
  if (chosen instanceof Actor) return chosen.go();
  if (chosen instanceof WorkActor) kernel.work.step(kernel.work.items.indexOf(chosen.work));
  else kernel.clock.advanceTo(kernel.clock.next);
  return undefined;
}

const labelOf = (chosen: Enabled): string =>
  chosen instanceof Actor
    ? chosen.next!.label()
    : chosen.kind === "work"
      ? "deferred work runs"
      : "the next timer fires";
