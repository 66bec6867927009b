/**
 * Who goes next, by four rules. Each strategy makes a chooser for each run:
 *
 * - `replay`: a given schedule, name by name.
 * - `random`: anyone, with weights drawn anew for each run (swarm): some runs starve a thread, some favour one.
 * - `pct`: random priorities and d − 1 points where the running actor falls behind everyone. A bug that needs d ordering
 *   constraints, in a program of n actors and k steps, is met by a run with a probability of at least 1 / (n·k^(d−1))
 *   (Burckhardt, Kothari, Musuvathi, Nagarakatte: A Randomized Scheduler with Probabilistic Guarantees of Finding
 *   Bugs, ASPLOS 2010).
 * - `exhaustive`: every schedule with at most so many preemptions, depth first. Without a bound, orders that differ
 *   only in neighbours that touch nothing in common are tried once (sleep sets); with a bound they are all tried,
 *   since a pruned order may be the one that stays within it.
 */
import type { Random } from "../random.ts";
import { type Chooser, type Enabled, PRUNED } from "./run.ts";

/** Where nobody says otherwise: who went last goes on; else the first in order, threads before deferred work. */
export const inOrder: Chooser = (_enabled, current) => Math.max(current, 0);

/** Makes a schedule again. A name that cannot go on ends the run; after the last one the default goes on. */
export function replayChooser(schedule: readonly string[]): Chooser {
  return (enabled, current, step) =>
    step < schedule.length
      ? enabled.findIndex(({ name }) => name === schedule[step])
      : inOrder(enabled, current, step);
}

/** The default, but for the steps that are named. One that cannot be followed is passed over. */
export function deviationChooser(deviations: ReadonlyMap<number, string>): Chooser {
  return (enabled, current, step) => {
    const wanted = deviations.get(step);
    const index = wanted === undefined ? -1 : enabled.findIndex(({ name }) => name === wanted);
    return index >= 0 ? index : inOrder(enabled, current, step);
  };
}

/** Uniform but for swarm weights: each actor's weight is drawn once a run. */
export function randomChooser(random: Random): Chooser {
  const weights = new Map<string, number>();
  const weightOf = ({ name }: Enabled): number => {
    let weight = weights.get(name);
    if (weight === undefined) weights.set(name, (weight = SWARM[random.below(SWARM.length)]));
    return weight;
  };
  return (enabled) => random.weighted(enabled.map(weightOf));
}

const SWARM = [1, 1, 1, 0.1, 4];

/** PCT of depth `depth`; `length`: how many steps a run is thought to have. */
export function pctChooser(random: Random, depth: number, length: number): Chooser {
  const priorities = new Map<string, number>();
  const changes = new Map<number, number>();
  for (let i = 1; i < depth; i++) changes.set(1 + random.below(Math.max(1, length)), i);
  const highest = (enabled: readonly Enabled[]): number => {
    let best = 0;
    for (let i = 1; i < enabled.length; i++)
      if (priorities.get(enabled[i].name)! > priorities.get(enabled[best].name)!) best = i;
    return best;
  };
  return (enabled, _current, step) => {
    for (const { name } of enabled) if (!priorities.has(name)) priorities.set(name, depth + random.next());
    const fallen = changes.get(step);
    if (fallen !== undefined) priorities.set(enabled[highest(enabled)].name, fallen);
    return highest(enabled);
  };
}

/** One place of the search tree: who could go, who was tried. */
interface Node {
  readonly names: readonly string[];
  readonly touches: readonly (readonly unknown[] | undefined)[];
  /** the places in the order they are tried; `order[0]` is the default */
  readonly order: readonly number[];
  tried: number;
  /** preemptions before this place */
  readonly preemptions: number;
  /** the place of who went before, −1 if it could not go on: leaving it is a preemption */
  readonly current: number;
  /** actors that need not go first here, because that order was tried elsewhere */
  readonly asleep: ReadonlySet<string>;
}

/** Depth-first search over schedules. `next()` gives the chooser of a run; undefined once all are done. */
export class Exhaustive {
  readonly #bound: number;
  readonly #path: Node[] = [];
  #started = false;
  /** runs that ended early because all who could go were asleep */
  pruned = 0;

  /** `bound`: at most so many preemptions; infinite: all orders, pruned. */
  constructor(bound = Number.POSITIVE_INFINITY) {
    this.#bound = bound;
  }

  next(): Chooser | undefined {
    if (this.#started && !this.#backtrack()) return undefined;
    this.#started = true;
    return (enabled, current, step) => this.#choose(enabled, current, step);
  }

  /** Goes to the next untried branch of the deepest place that has one. */
  #backtrack(): boolean {
    const path = this.#path;
    while (path.length !== 0) {
      const node = path[path.length - 1];
      node.tried++;
      while (node.tried < node.order.length && !this.#allowed(node, node.order[node.tried])) node.tried++;
      if (node.tried < node.order.length) return true;
      path.pop();
    }
    return false;
  }

  #allowed(node: Node, place: number): boolean {
    if (node.asleep.has(node.names[place])) return false;
    return node.preemptions + cost(node, place) <= this.#bound;
  }

  #choose(enabled: readonly Enabled[], current: number, step: number): number {
    const path = this.#path;
    if (step < path.length) {
      const node = path[step];
      return node.order[node.tried];
    }
    const before = path[step - 1];
    const asleep = before === undefined ? new Set<string>() : this.#stillAsleep(before);
    const first = Math.max(current, 0);
    const order = [first, ...enabled.map((_, i) => i).filter((i) => i !== first)];
    const node: Node = {
      names: enabled.map(({ name }) => name),
      touches: this.#bound === Number.POSITIVE_INFINITY ? enabled.map((actor) => actor.touches()) : [],
      order,
      tried: 0,
      preemptions: before === undefined ? 0 : before.preemptions + cost(before, before.order[before.tried]),
      current,
      asleep,
    };
    while (node.tried < order.length && !this.#allowed(node, order[node.tried])) node.tried++;
    if (node.tried === order.length) {
      this.pruned++;
      return PRUNED;
    }
    path.push(node);
    return order[node.tried];
  }

  /** Who sleeps after a step: those who slept or were tried before, and do not touch what the step touched. */
  #stillAsleep(node: Node): Set<string> {
    const asleep = new Set<string>();
    if (this.#bound !== Number.POSITIVE_INFINITY) return asleep;
    const made = node.order[node.tried];
    const sleepers = [...node.asleep, ...node.order.slice(0, node.tried).map((place) => node.names[place])];
    for (const name of sleepers) {
      const place = node.names.indexOf(name);
      if (place >= 0 && independent(node.touches[place], node.touches[made])) asleep.add(name);
    }
    return asleep;
  }
}

const cost = (node: Node, place: number): number => (node.current >= 0 && place !== node.current ? 1 : 0);

const independent = (a: readonly unknown[] | undefined, b: readonly unknown[] | undefined): boolean =>
  a !== undefined && b !== undefined && !a.some((object) => b.includes(object));
