/**
 * Faults on demand: the nth allocation fails, the nth sleep is interrupted. Every place where Linux allocates on the
 * way of a system call asks `allocation(what)`; a hit becomes −ENOMEM there, and nothing may stay half done.
 */
export type FaultKind = "allocation" | "interrupt";

/** Faults on demand: allocations that fail, calls that a signal interrupts. */
export class Faults {
  /** how many chances there were, per kind: a clean run counts them, then each can be made to fail in turn */
  readonly seen: Record<FaultKind, number> = { allocation: 0, interrupt: 0 };
  /** what was hit, in order: for reports */
  readonly hits: { kind: FaultKind; nth: number; what: string }[] = [];
  /** chances that will fail; none while nobody wants one to */
  #armed: Record<FaultKind, Set<number>> | undefined;

  /** The nth chance of a kind from now on (1 is the next one) fails. */
  failNth(kind: FaultKind, nth: number): void {
    this.#armed ??= { allocation: new Set(), interrupt: new Set() };
    this.#armed[kind].add(this.seen[kind] + nth);
  }

  clear(): void {
    this.#armed = undefined;
  }

  /** Whether this allocation fails. */
  allocation(what: string): boolean {
    return this.#ask("allocation", what);
  }

  /** Whether this sleep is interrupted by a signal. */
  interrupt(what: string): boolean {
    return this.#ask("interrupt", what);
  }

  #ask(kind: FaultKind, what: string): boolean {
    const nth = ++this.seen[kind];
    if (this.#armed?.[kind].delete(nth) !== true) return false;
    this.hits.push({ kind, nth, what });
    return true;
  }
}
