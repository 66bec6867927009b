/**
 * What every process of a host shares: the virtual clock, deferred work, faults on demand, and the names under /dev.
 */
import { EINTR } from "../abi/errno.ts";
import { PAGE_SIZE, TASK_SIZE } from "./address-space.ts";
import { Clock } from "./clock.ts";
import { Faults } from "./faults.ts";
import type { File } from "./file.ts";
import { Naps } from "./long-call.ts";
import type { Process } from "./process.ts";
import { type Policy, WorkQueue } from "./work-queue.ts";

/** Opens a device node: a new description, or −errno. */
export type Open = (process: Process, flags: number, path: string) => File | number;

/** What differs between releases in this floor; the machine floor fills it in from its table of releases. */
export interface KernelBehaviour {
  /** eventfd write takes exactly 8 bytes; before, longer writes were accepted and cut */
  readonly eventfdExactWrite: boolean;
  /** epoll knows ioctls (EPIOCSPARAMS, EPIOCGPARAMS), and refuses others with EINVAL; before, it had none: ENOTTY */
  readonly epollIoctl: boolean;
}

/** How a kernel is made. */
export interface KernelOptions {
  /** the newest release's, where none is given */
  behaviour?: KernelBehaviour;
  policy?: Policy;
  clock?: Clock;
  /** bytes of a page of memory; 4096 by default */
  pageSize?: number;
  /** where user space ends; by default where it does on x86-64 */
  taskSize?: number;
  /** called when a call would sleep for ever: what it waits for. The call then answers −EINTR. */
  onDeadlock?: (report: string) => void;
  /**
   * called when every long call (Process.run) sleeps and no timer will wake one: what each of them waits for. They stay asleep
   * until the program does something.
   */
  onAsleep?: (reports: readonly string[]) => void;
  /**
   * how the program is let run between two steps of a long call (Process.run): at once where it awaits something. With
   * `() => new Promise((resolve) => setImmediate(resolve))` timers and input and output of the host go on, too.
   */
  pause?: () => Promise<void>;
}

const newest: KernelBehaviour = { eventfdExactWrite: true, epollIoctl: true };

/** What every process of a host shares: the clock, deferred work, faults, device nodes. */
export class Kernel {
  readonly clock: Clock;
  readonly work: WorkQueue;
  readonly faults = new Faults();
  readonly behaviour: KernelBehaviour;
  readonly pageSize: number;
  readonly taskSize: number;
  /** device nodes by path; a path that ends in "/" opens everything below it */
  readonly nodes = new Map<string, Open>();
  /** calls that would have slept for ever, oldest first */
  readonly deadlocks: string[] = [];
  /** long calls under way */
  longCalls = 0;
  #naps: Naps | undefined;
  readonly onAsleep: ((reports: readonly string[]) => void) | undefined;
  readonly pause: () => Promise<void>;
  /** whether an eventfd wake-up is running: a signal from inside one is refused (fs/eventfd.c:eventfd_signal_mask, 6.1) */
  inEventfd = false;
  #onDeadlock: ((report: string) => void) | undefined;

  constructor(options: KernelOptions = {}) {
    this.clock = options.clock ?? new Clock();
    this.work = new WorkQueue(options.policy);
    this.pageSize = options.pageSize ?? PAGE_SIZE;
    this.taskSize = options.taskSize ?? TASK_SIZE;
    this.behaviour = options.behaviour ?? newest;
    this.#onDeadlock = options.onDeadlock;
    this.onAsleep = options.onAsleep;
    this.pause = options.pause ?? (() => Promise.resolve());
  }

  /** The node that opens `path`, if there is one. */
  node(path: string): Open | undefined {
    return this.nodes.get(path) ?? this.nodes.get(path.slice(0, path.lastIndexOf("/") + 1));
  }

  /** Who sleeps in a long call. From now on whatever happens outside of system calls is seen, too. */
  get naps(): Naps {
    if (this.#naps === undefined) {
      this.#naps = new Naps(this);
      this.clock.passed = this.work.ran = () => this.stir();
    }
    return this.#naps;
  }

  /** Something has happened: who sleeps in a long call looks whether it can go on. */
  stir(): void {
    if (this.longCalls === 0) return;
    this.naps.told = false;
    this.naps.stir(this.clock.now);
  }

  /**
   * A call has to wait until `ready`. Deferred work runs first, then time passes from timer to timer up to `deadline`.
   * True once ready, false at the deadline; −EINTR where nothing can ever wake it, or a fault interrupts it.
   */
  wait(what: string, ready: () => boolean, deadline = Number.POSITIVE_INFINITY): true | false | number {
    if (this.faults.interrupt(what)) return -EINTR;
    for (;;) {
      if (ready()) return true;
      if (this.work.pending !== 0) {
        this.work.step();
        continue;
      }
      const next = Math.min(this.clock.next, deadline);
      if (next === Number.POSITIVE_INFINITY) {
        this.deadlocks.push(what);
        this.#onDeadlock?.(what);
        return -EINTR;
      }
      this.clock.advanceTo(next);
      if (next === deadline) return ready();
    }
  }
}
