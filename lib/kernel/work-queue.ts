/**
 * Deferred work of the kernel: what Linux hands to a workqueue and does some time after the system call. Each item
 * has a name. Who runs it, and when, is a policy given from outside:
 *
 * - `inOrder` (the default): everything runs before the call returns to the program;
 * - `byHand`: nothing runs until the test calls `step` or `drain`;
 * - any function: it is asked before a call returns, and may run some of the items, in the order it likes.
 *
 * A call that itself waits for deferred work (KVM_IRQFD deassign flushes its shutdown queue) uses `flush`.
 */
export interface Work {
  /** for reports: "irqfd-inject", "irqfd-shutdown", … */
  readonly name: string;
  /** whether it waits in a queue, which keeps it (WORK_STRUCT_PENDING) */
  queued?: boolean;
  run(): void;
}

/** Who runs deferred work when a call is about to return. */
export type Policy = (queue: WorkQueue) => void;

/** Everything runs before the call returns. */
export const inOrder: Policy = (queue) => queue.drain();
/** Nothing runs by itself. */
export const byHand: Policy = () => {};

/** Deferred work of a kernel: named items, the oldest first. */
export class WorkQueue {
  #items: Work[] = [];
  policy: Policy;
  /** called after an item ran by itself, outside of a system call */
  ran: (() => void) | undefined;

  constructor(policy: Policy = inOrder) {
    this.policy = policy;
  }

  /** The items that wait, oldest first. */
  get items(): readonly Work[] {
    return this.#items;
  }

  get pending(): number {
    return this.#items.length;
  }

  /** Queues an item; one that waits already is not queued twice (schedule_work). */
  schedule(work: Work): boolean {
    if (work.queued === true) return false;
    work.queued = true;
    this.#items.push(work);
    return true;
  }

  /** Takes a waiting item back: true if it had not run. */
  cancel(work: Work): boolean {
    if (work.queued !== true) return false;
    this.#take(this.#items.indexOf(work));
    return true;
  }

  /** Runs one item by its place in the line. */
  step(index = 0): Work | undefined {
    if (index < 0 || index >= this.#items.length) return undefined;
    const work = this.#take(index);
    work.run();
    this.ran?.();
    return work;
  }

  /** Most often one item waits, or the oldest is next: `pop` takes 2 ns, `shift` 10, `splice` 40 (measured). */
  #take(index: number): Work {
    const items = this.#items;
    const work = items[index];
    if (index === items.length - 1) items.pop();
    else if (index === 0) items.shift();
    else items.splice(index, 1);
    work.queued = false;
    return work;
  }

  /** Runs everything, and what that queues, in order. */
  drain(): void {
    while (this.#items.length !== 0) this.#take(0).run();
  }

  /** Runs every waiting item of this name, in order: what a call that waits for them does. */
  flush(name: string): void {
    for (;;) {
      const index = this.#items.findIndex((work) => work.name === name);
      if (index < 0) return;
      this.step(index);
    }
  }
}
