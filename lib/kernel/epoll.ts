/**
 * epoll(7): a file that watches other files (fs/eventpoll.c, 6.1). Interests that may be ready stand in a line: a wake-up,
 * or readiness at the time of epoll_ctl, puts one there; epoll_wait asks each file anew, reports what holds, and puts a
 * level-triggered interest back to the end. Edge-triggered and one-shot interests do not come back by themselves.
 *
 * Missing: EPOLLWAKEUP has no effect beyond its argument checks; of the limits on nesting the depth is there (ELOOP), the
 * number of paths (EINVAL beyond 500 at depth two and so on) is not.
 */
import { EEXIST, EFAULT, EINVAL, ELOOP, ENOENT, ENOTTY, EPERM } from "../abi/errno.ts";
import { O_RDWR } from "../abi/fcntl.ts";
import {
  EPIOCGPARAMS,
  EPIOCSPARAMS,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLL_CTL_MOD,
  EPOLLERR,
  EPOLLET,
  EPOLLEXCLUSIVE,
  EPOLLHUP,
  EPOLLIN,
  EPOLLONESHOT,
  EPOLLOUT,
  EPOLLRDNORM,
  EPOLLWAKEUP,
  EpollParams,
} from "../abi/poll.ts";
import type { Argument } from "./argument.ts";
import { File } from "./file.ts";
import type { Kernel } from "./kernel.ts";
import type { EpollEvent } from "./syscalls.ts";
import { type Waiter, WaitQueue } from "./wait-queue.ts";

/** the flags of an interest, which no file reports */
const FLAGS = 0xf000_0000;
/** what may stand beside EPOLLEXCLUSIVE */
const BESIDE_EXCLUSIVE = EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
/** EP_MAX_NESTS */
const MAX_NESTS = 4;

class Interest implements Waiter {
  readonly file: File;
  readonly fd: number;
  readonly #epoll: Epoll;
  events = 0;
  data = 0n;

  constructor(file: File, fd: number, epoll: Epoll) {
    this.file = file;
    this.fd = fd;
    this.#epoll = epoll;
  }

  get exclusive(): boolean {
    return (this.events & EPOLLEXCLUSIVE) !== 0;
  }

  set(event: EpollEvent): void {
    this.events = event.events | EPOLLERR | EPOLLHUP;
    this.data = BigInt.asUintN(64, event.data);
  }

  /** An exclusive interest counts as woken where somebody sleeps on the epoll. */
  wake(events: number): boolean {
    if ((this.events & ~FLAGS) === 0 || (events !== 0 && (events & this.events) === 0)) return false;
    this.#epoll.line(this);
    return !this.exclusive || this.#epoll.waitQueue.active;
  }

  /** The events that hold now, of those that are of interest. */
  get ready(): number {
    return (this.events & ~FLAGS) === 0 ? 0 : this.file.poll() & this.events & ~FLAGS;
  }
}

export class Epoll extends File {
  readonly name = "anon_inode:[eventpoll]";
  readonly #queue = new WaitQueue();
  #interests: Interest[] = [];
  /** those that may be ready, in the order they became so */
  #line: Interest[] = [];
  /** epolls that watch this one */
  readonly #watchers = new Set<Epoll>();
  readonly #params = new Uint8Array(EpollParams.size);

  constructor(kernel: Kernel) {
    super(kernel, O_RDWR);
  }

  override get waitQueue(): WaitQueue {
    return this.#queue;
  }

  /** Busy polling of network queues: the parameters are kept, nothing polls (fs/eventpoll.c:ep_eventpoll_ioctl, 6.9). */
  override ioctl(_process: unknown, request: number, user: Argument): number {
    if (!this.kernel.behaviour.epollIoctl) return -ENOTTY;
    if (request === EPIOCSPARAMS.number) {
      if (!user.readable(EpollParams.size)) return -EFAULT;
      const wanted = EpollParams.at(user.bytes, user.at);
      if (wanted.__pad !== 0 || wanted.busy_poll_usecs > 0x7fff_ffff || wanted.prefer_busy_poll > 1)
        return -EINVAL;
      this.#params.set(wanted.bytes.subarray(wanted.structAt, wanted.structAt + EpollParams.size));
      return 0;
    }
    if (request !== EPIOCGPARAMS.number) return -EINVAL;
    if (!user.writable(EpollParams.size)) return -EFAULT;
    user.bytes.set(this.#params, user.at);
    return 0;
  }

  /** What turns out not to be ready leaves the line. */
  override poll(): number {
    for (const interest of this.#live()) {
      if (interest.ready !== 0) return EPOLLIN | EPOLLRDNORM;
      this.#line.splice(this.#line.indexOf(interest), 1);
    }
    return 0;
  }

  override release(): void {
    for (const interest of this.#interests.slice()) this.#remove(interest);
  }

  /** epoll_ctl. The checks stand in Linux's order (fs/eventpoll.c:do_epoll_ctl, 6.1). */
  control(operation: number, file: File, fd: number, event: EpollEvent): number {
    if (!canPoll(file)) return -EPERM;
    if (file === this) return -EINVAL;
    if (operation !== EPOLL_CTL_DEL && (event.events & EPOLLEXCLUSIVE) !== 0) {
      if (operation === EPOLL_CTL_MOD) return -EINVAL;
      const allowed = !(file instanceof Epoll) && (event.events & ~BESIDE_EXCLUSIVE) === 0;
      if (operation === EPOLL_CTL_ADD && !allowed) return -EINVAL;
    }
    if (operation === EPOLL_CTL_ADD && file instanceof Epoll && !this.#mayHold(file)) return -ELOOP;
    const found = this.#interests.find((interest) => interest.file === file && interest.fd === fd);
    switch (operation) {
      case EPOLL_CTL_ADD:
        return found === undefined ? this.#add(file, fd, event) : -EEXIST;
      case EPOLL_CTL_DEL:
        if (found === undefined) return -ENOENT;
        this.#remove(found);
        return 0;
      case EPOLL_CTL_MOD:
        if (found === undefined) return -ENOENT;
        if (found.exclusive) return -EINVAL;
        found.set(event);
        if (found.ready !== 0) this.line(found);
        return 0;
      default:
        return -EINVAL;
    }
  }

  /** epoll_wait: reports up to `max` interests that are ready. */
  collect(events: EpollEvent[], max: number): number {
    const asked = this.#live();
    const again: Interest[] = [];
    let count = 0;
    let next = 0;
    while (next < asked.length && count < max) {
      const interest = asked[next++];
      const ready = interest.ready;
      if (ready === 0) continue;
      events[count++] = { events: ready, data: interest.data };
      if ((interest.events & EPOLLONESHOT) !== 0) interest.events &= FLAGS;
      else if ((interest.events & EPOLLET) === 0) again.push(interest);
    }
    this.#line = [...asked.slice(next), ...again];
    return count;
  }

  /** Puts an interest into the line of those that may be ready, and tells who waits for this epoll. */
  line(interest: Interest): void {
    if (!this.#line.includes(interest)) this.#line.push(interest);
    this.#queue.wake(EPOLLIN);
  }

  #add(file: File, fd: number, event: EpollEvent): number {
    const interest = new Interest(file, fd, this);
    interest.set(event);
    file.waitQueue?.add(interest);
    if (file instanceof Epoll) file.#watchers.add(this);
    this.#interests.push(interest);
    if (interest.ready !== 0) this.line(interest);
    return 0;
  }

  #remove(interest: Interest): void {
    const { file } = interest;
    file.waitQueue?.remove(interest);
    this.#interests = this.#interests.filter((other) => other !== interest);
    this.#line = this.#line.filter((other) => other !== interest);
    if (file instanceof Epoll && !this.#interests.some((other) => other.file === file))
      file.#watchers.delete(this);
  }

  /** The line without files whose last descriptor was closed: those leave the set. */
  #live(): Interest[] {
    for (const interest of this.#interests) if (interest.file.references === 0) this.#remove(interest);
    return this.#line.slice();
  }

  /** Whether an epoll may be watched by this one: no circle, and not too deep (fs/eventpoll.c:ep_loop_check, 6.18). */
  #mayHold(inner: Epoll): boolean {
    return !inner.#reaches(this) && inner.#depthBelow() + 1 + this.#depthAbove() <= MAX_NESTS;
  }

  #reaches(other: Epoll): boolean {
    return this === other || this.#inner().some((epoll) => epoll.#reaches(other));
  }

  #depthBelow(): number {
    return Math.max(0, ...this.#inner().map((epoll) => epoll.#depthBelow() + 1));
  }

  #depthAbove(): number {
    return Math.max(0, ...[...this.#watchers].map((epoll) => epoll.#depthAbove() + 1));
  }

  /** The epolls that this one watches. */
  #inner(): Epoll[] {
    return this.#interests.flatMap(({ file }) =>
      file instanceof Epoll && file.references !== 0 ? [file] : [],
    );
  }
}

/** Whether a kind of file has a poll operation: without one it is always ready, and epoll refuses it. */
export const canPoll = (file: File): boolean =>
  file.waitQueue !== undefined || file.poll !== File.prototype.poll;
