/**
 * epoll(7): a file that watches other files (fs/eventpoll.c, 6.1). Level-triggered, edge-triggered and one-shot
 * interests. What is ready is found by asking every watched file, which is exact and linear in the interests.
 *
 * Missing: EPOLLEXCLUSIVE and EPOLLWAKEUP have no effect beyond their argument checks; nesting is limited by EINVAL
 * for an epoll in itself only, not by the depth of five (ELOOP).
 */
import { EBADF, EEXIST, EINVAL, ENOENT, EPERM } from "../abi/errno.ts";
import { EPOLLERR, EPOLLHUP, EPOLLIN, File, O_RDWR } from "./file.ts";
import type { Kernel } from "./kernel.ts";
import type { EpollEvent } from "./syscalls.ts";
import { type Waiter, WaitQueue } from "./wait-queue.ts";

export const EPOLL_CTL_ADD = 1;
export const EPOLL_CTL_DEL = 2;
export const EPOLL_CTL_MOD = 3;
export const EPOLLET = 0x8000_0000;
export const EPOLLONESHOT = 0x4000_0000;
export const EPOLLEXCLUSIVE = 0x1000_0000;

const FLAGS = 0xf000_0000;

class Interest implements Waiter {
  readonly exclusive = false;
  readonly file: File;
  readonly fd: number;
  readonly #parent: WaitQueue;
  events = 0;
  data = 0n;
  /** for edge-triggered interests: whether a wake-up came since the last report */
  edge = true;

  constructor(file: File, fd: number, parent: WaitQueue) {
    this.file = file;
    this.fd = fd;
    this.#parent = parent;
  }

  wake(events: number): boolean {
    if (events !== 0 && (events & this.events) === 0 && (events & (EPOLLHUP | EPOLLERR)) === 0) return false;
    this.edge = true;
    this.#parent.wake(EPOLLIN);
    return true;
  }

  get ready(): number {
    if ((this.events & ~FLAGS) === 0) return 0;
    if ((this.events & EPOLLET) !== 0 && !this.edge) return 0;
    return this.file.poll() & (this.events | EPOLLERR | EPOLLHUP) & ~FLAGS;
  }
}

export class Epoll extends File {
  readonly name = "anon_inode:[eventpoll]";
  readonly #queue = new WaitQueue();
  #interests: Interest[] = [];

  constructor(kernel: Kernel) {
    super(kernel, O_RDWR);
  }

  override get waitQueue(): WaitQueue {
    return this.#queue;
  }

  override poll(): number {
    return this.#live().some((interest) => interest.ready !== 0) ? EPOLLIN : 0;
  }

  override release(): void {
    for (const interest of this.#interests) interest.file.waitQueue?.remove(interest);
    this.#interests = [];
  }

  control(operation: number, file: File | undefined, fd: number, event: EpollEvent | undefined): number {
    if (file === undefined) return -EBADF;
    if (file.waitQueue === undefined && file.poll === File.prototype.poll) return -EPERM;
    if (file === this) return -EINVAL;
    const found = this.#live().find((interest) => interest.file === file && interest.fd === fd);
    switch (operation) {
      case EPOLL_CTL_ADD: {
        if (found !== undefined) return -EEXIST;
        const interest = new Interest(file, fd, this.#queue);
        interest.events = event?.events ?? 0;
        interest.data = event?.data ?? 0n;
        file.waitQueue?.add(interest);
        this.#interests.push(interest);
        if (interest.ready !== 0) this.#queue.wake(EPOLLIN);
        return 0;
      }
      case EPOLL_CTL_DEL:
        if (found === undefined) return -ENOENT;
        file.waitQueue?.remove(found);
        this.#interests.splice(this.#interests.indexOf(found), 1);
        return 0;
      case EPOLL_CTL_MOD:
        if (found === undefined) return -ENOENT;
        if (((found.events | (event?.events ?? 0)) & EPOLLEXCLUSIVE) !== 0) return -EINVAL;
        found.events = event?.events ?? 0;
        found.data = event?.data ?? 0n;
        found.edge = true;
        if (found.ready !== 0) this.#queue.wake(EPOLLIN);
        return 0;
      default:
        return -EINVAL;
    }
  }

  /** Reports up to `max` ready files; each one reported goes to the end of the line, as Linux rotates its list. */
  collect(events: EpollEvent[], max: number): number {
    let count = 0;
    for (const interest of this.#live()) {
      if (count === max) break;
      const ready = interest.ready;
      if (ready === 0) continue;
      events[count++] = { events: ready, data: interest.data };
      interest.edge = false;
      if ((interest.events & EPOLLONESHOT) !== 0) interest.events &= FLAGS;
      this.#interests.splice(this.#interests.indexOf(interest), 1);
      this.#interests.push(interest);
    }
    return count;
  }

  /** A file whose last descriptor was closed leaves the set. */
  #live(): Interest[] {
    const gone = this.#interests.filter((interest) => interest.file.references === 0);
    for (const interest of gone) interest.file.waitQueue?.remove(interest);
    if (gone.length !== 0) this.#interests = this.#interests.filter((interest) => !gone.includes(interest));
    return this.#interests.slice();
  }
}
