/**
 * An eventfd that makes VFIO do something when it is signalled: unmask INTx, write to a BAR (drivers/vfio/virqfd.c, 6.1
 * and 6.12). The signal's wake-up takes the counter and calls the handler at once; where the handler answers true, the
 * rest is left to the work item "virqfd-inject". An eventfd that was signalled before is handled when it is set, and its
 * counter stays.
 */
import { EBADF, EINVAL, ENOMEM } from "../abi/errno.ts";
import { EPOLLHUP, EPOLLIN } from "../abi/poll.ts";
import { EventFd } from "../kernel/eventfd.ts";
import type { Process } from "../kernel/process.ts";
import type { Waiter } from "../kernel/wait-queue.ts";
import type { Work } from "../kernel/work-queue.ts";

/** The eventfd behind a descriptor: EBADF, or EINVAL for another kind of file (eventfd_ctx_fdget). */
export function eventfdOf(process: Process, fd: number): EventFd | number {
  const file = process.fds.get(fd);
  if (file === undefined) return -EBADF;
  return file instanceof EventFd ? file : -EINVAL;
}

export class Virqfd implements Waiter {
  readonly exclusive = false;
  readonly eventfd: EventFd;
  readonly #handler: () => boolean;
  readonly #inject: Work;
  readonly #gone: () => void;
  #active = true;

  /** `thread` runs as a work item; `gone` is called when the eventfd's last owner closes it. */
  constructor(eventfd: EventFd, handler: () => boolean, thread: () => void, gone: () => void) {
    this.eventfd = eventfd;
    this.#handler = handler;
    this.#inject = { name: "virqfd-inject", run: thread };
    this.#gone = gone;
    eventfd.waitQueue.add(this);
    if ((eventfd.poll() & EPOLLIN) !== 0) this.#run();
  }

  #run(): void {
    if (this.#handler()) this.eventfd.kernel.work.schedule(this.#inject);
  }

  wake(events: number): boolean {
    if ((events & EPOLLIN) !== 0) {
      this.eventfd.take();
      this.#run();
    }
    if ((events & EPOLLHUP) !== 0 && this.#active) {
      this.#gone();
      this.disable();
    }
    return false;
  }

  /** Leaves the eventfd's wait queue, which takes the counter, and lets what was left to the work item happen. */
  disable(): void {
    if (!this.#active) return;
    this.#active = false;
    this.eventfd.take();
    this.eventfd.waitQueue.remove(this);
    this.flush();
  }

  /** What was left to the work item happens now. */
  flush(): void {
    if (this.eventfd.kernel.work.cancel(this.#inject)) this.#inject.run();
  }
}

/** Makes one for a descriptor, or says why not. */
export function enableVirqfd(
  process: Process,
  fd: number,
  handler: () => boolean,
  thread: () => void,
  gone: () => void,
): Virqfd | number {
  if (process.kernel.faults.allocation("virqfd")) return -ENOMEM;
  const eventfd = eventfdOf(process, fd);
  return typeof eventfd === "number" ? eventfd : new Virqfd(eventfd, handler, thread, gone);
}
