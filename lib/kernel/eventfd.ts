/**
 * eventfd: a 64-bit counter behind a descriptor (fs/eventfd.c, 6.1 and 6.18; eventfd(2)). Write adds, read takes all
 * (or one, EFD_SEMAPHORE), a read of zero and a write that would pass 2^64−2 wait or answer EAGAIN. The kernel itself
 * signals it (`signal`), and then the counter may come to 2^64−1, which poll shows as EPOLLERR.
 *
 * The counter is kept in two 32-bit halves: no bigint on the way of an interrupt.
 */
import { EAGAIN, EFAULT, EINVAL } from "../abi/errno.ts";
import { EFD_SEMAPHORE } from "../abi/eventfd.ts";
import { O_NONBLOCK, O_RDWR } from "../abi/fcntl.ts";
import { EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT } from "../abi/poll.ts";
import { load32, store32 } from "../abi/struct.ts";
import type { Argument } from "./argument.ts";
import { File } from "./file.ts";
import type { Kernel } from "./kernel.ts";
import { WaitQueue } from "./wait-queue.ts";

const MAX = 0xffff_ffff;
/** what a read copies out */
const answer = new Uint8Array(8);

export class EventFd extends File {
  readonly name = "anon_inode:[eventfd]";
  readonly #queue = new WaitQueue();
  readonly semaphore: boolean;
  /** the counter */
  lo: number;
  hi = 0;
  /** whether the last descriptor was closed: who still holds the context is told by EPOLLHUP */
  closed = false;

  constructor(kernel: Kernel, initval: number, flags: number) {
    super(kernel, O_RDWR | (flags & O_NONBLOCK));
    this.lo = initval >>> 0;
    this.semaphore = (flags & EFD_SEMAPHORE) !== 0;
  }

  override get waitQueue(): WaitQueue {
    return this.#queue;
  }

  override poll(): number {
    let events = 0;
    if (this.lo !== 0 || this.hi !== 0) events |= EPOLLIN;
    if (this.hi === MAX && this.lo === MAX) events |= EPOLLERR;
    if (this.hi !== MAX || this.lo < MAX - 1) events |= EPOLLOUT;
    return events;
  }

  /** EINVAL for fewer than 8 bytes, EAGAIN at zero, EFAULT after the counter was taken. */
  override read(user: Argument, count: number): number {
    if (count < 8) return -EINVAL;
    if (this.lo === 0 && this.hi === 0) {
      if (this.nonBlocking) return -EAGAIN;
      const ready = this.kernel.wait("read of an eventfd at zero", () => this.lo !== 0 || this.hi !== 0);
      if (ready !== true) return ready === false ? -EAGAIN : ready;
    }
    const lo = this.semaphore ? 1 : this.lo;
    const hi = this.semaphore ? 0 : this.hi;
    this.take();
    this.#wake(EPOLLOUT);
    store32(answer, 0, lo);
    store32(answer, 4, hi);
    return user.copyOut(answer) ? 8 : -EFAULT;
  }

  /** EINVAL for a wrong size or 2^64−1, EFAULT, EAGAIN where the sum would pass 2^64−2. */
  override write(user: Argument, count: number): number {
    if (this.kernel.behaviour.eventfdExactWrite ? count !== 8 : count < 8) return -EINVAL;
    if (!user.readable(8)) return -EFAULT;
    const lo = load32(user.bytes, user.at);
    const hi = load32(user.bytes, user.at + 4);
    if (lo === MAX && hi === MAX) return -EINVAL;
    if (!this.#fits(lo, hi)) {
      if (this.nonBlocking) return -EAGAIN;
      const ready = this.kernel.wait("write to a full eventfd", () => this.#fits(lo, hi));
      if (ready !== true) return ready === false ? -EAGAIN : ready;
    }
    this.#add(lo, hi);
    this.#wake(EPOLLIN);
    return 8;
  }

  /** The kernel adds one and wakes who waits (eventfd_signal). At 2^64−1 the counter stays. */
  signal(): void {
    if (this.kernel.inEventfd) return;
    if (this.lo !== MAX || this.hi !== MAX) this.#add(1, 0);
    this.#wake(EPOLLIN);
  }

  /** Takes the counter as a read does (eventfd_ctx_do_read): everything, or one of a semaphore. */
  take(): void {
    if (!this.semaphore) this.lo = this.hi = 0;
    else if (this.lo !== 0) this.lo--;
    else if (this.hi !== 0) {
      this.hi--;
      this.lo = MAX;
    }
  }

  override release(): void {
    this.closed = true;
    this.#wake(EPOLLHUP);
  }

  #wake(events: number): void {
    if (!this.#queue.active) return;
    const outer = this.kernel.inEventfd;
    this.kernel.inEventfd = true;
    this.#queue.wake(events);
    this.kernel.inEventfd = outer;
  }

  /** Whether the sum stays at or below 2^64−2. */
  #fits(lo: number, hi: number): boolean {
    const roomLo = MAX - this.lo;
    const roomHi = MAX - this.hi;
    return roomHi > hi || (roomHi === hi && roomLo > lo);
  }

  #add(lo: number, hi: number): void {
    const sum = this.lo + lo;
    this.lo = sum >>> 0;
    this.hi = (this.hi + hi + (sum > MAX ? 1 : 0)) >>> 0;
  }
}
