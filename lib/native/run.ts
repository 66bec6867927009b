/**
 * KVM_RUN on threads of their own, so that a guest never blocks the event loop. A thread is a worker that loads the C
 * library itself and makes the one call; it publishes its pthread_t, so that it can be sent a signal.
 *
 * A kick is what every VMM does: immediate_exit is set in the kvm_run page, then the thread gets a signal whose handler
 * does nothing. A thread inside the guest leaves with EINTR by the signal; one that had not entered yet leaves with EINTR
 * by immediate_exit. No moment in between is lost (Documentation/virt/kvm/api.rst, kvm_run.immediate_exit).
 *
 * The handler that does nothing is the C library's abs(): it takes an int and touches no memory. The signal is the first
 * real-time signal from 40 on that nobody uses.
 */
import { Worker } from "node:worker_threads";
import { EAGAIN } from "../abi/errno.ts";
import { F_DUPFD_CLOEXEC } from "../abi/fcntl.ts";
import { MAP_SHARED } from "../abi/mman.ts";
import type { Libc } from "./libc.ts";

const FIRST_SIGNAL = 40;
const LAST_SIGNAL = 60;
/** offset of `immediate_exit` in struct kvm_run (include/uapi/linux/kvm.h) */
const IMMEDIATE_EXIT = 1;
const PAGE = 4096;
const PROT_READ_WRITE = 3;
/** how long the end of a process waits for a kicked thread to leave the guest */
const PATIENCE_MS = 2000;

/** The thread's program, plain JavaScript: it runs in the sources and in a bundle alike. */
const program = `
const { parentPort, workerData } = require("node:worker_threads");
const koffi = require(workerData.koffiPath);
const libc = koffi.load(null);
const ioctl = libc.func("ioctl", "int", ["int", "int64_t", "int64_t"]);
const running = new Int32Array(workerData.running);
new BigUint64Array(workerData.thread)[0] = BigInt(libc.func("pthread_self", "uint64_t", [])());
parentPort.on("message", (fd) => {
  const answer = ioctl(fd, 0xae80, 0);
  const result = answer < 0 ? -koffi.errno() : answer;
  Atomics.store(running, 0, 0);
  Atomics.notify(running, 0);
  parentPort.postMessage(result);
});
`;

/** One thread. */
class Runner {
  readonly #libc: Libc;
  readonly #worker: Worker;
  /** 1 from the request to the return of KVM_RUN */
  readonly #running = new Int32Array(new SharedArrayBuffer(4));
  /** the pthread_t, 0 until the thread has started */
  readonly #thread = new BigUint64Array(new SharedArrayBuffer(8));
  #done: ((result: number) => void) | undefined;

  constructor(libc: Libc) {
    this.#libc = libc;
    this.#worker = new Worker(program, {
      eval: true,
      workerData: {
        koffiPath: libc.koffiPath,
        running: this.#running.buffer,
        thread: this.#thread.buffer,
      },
    });
    this.#worker.on("message", (result: number) => this.#finish(result));
    this.#worker.on("error", () => this.#finish(-EAGAIN));
    this.#worker.unref();
  }

  run(fd: number): Promise<number> {
    Atomics.store(this.#running, 0, 1);
    this.#worker.ref();
    this.#worker.postMessage(fd);
    return new Promise((resolve) => {
      this.#done = resolve;
    });
  }

  signal(number: number): void {
    const thread = Atomics.load(this.#thread, 0);
    if (thread !== 0n && Atomics.load(this.#running, 0) === 1) this.#libc.pthreadKill(thread, number);
  }

  /** Blocks until KVM_RUN has returned; false if it does not. */
  wait(): boolean {
    return Atomics.wait(this.#running, 0, 1, PATIENCE_MS) !== "timed-out";
  }

  #finish(result: number): void {
    this.#worker.unref();
    this.#done?.(result);
    this.#done = undefined;
  }
}

/** A KVM_RUN under way. */
interface Run {
  readonly runner: Runner;
  /** the program's descriptor */
  readonly fd: number;
  /** a duplicate that stays open until KVM_RUN returns, whatever the program closes */
  readonly own: number;
  /** the kvm_run page */
  readonly page: number;
  readonly immediateExit: Uint8Array;
  /** whether `kick` set immediate_exit, and has to clear it: the program may use the field itself */
  kicked: boolean;
}

/** Threads that wait for work, for every process of this host program. */
const idle: Runner[] = [];
let foundSignal = 0;

export class Runs {
  readonly #libc: Libc;
  readonly #runs = new Set<Run>();
  /** vCPUs that were kicked while they were not running: their next run returns at once */
  readonly #kicked = new Set<number>();

  constructor(libc: Libc) {
    this.#libc = libc;
  }

  /** KVM_RUN on another thread: what the call answered. A vCPU that cannot be mapped is no vCPU: its error. */
  async run(fd: number): Promise<number> {
    const libc = this.#libc;
    const own = libc.fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) return own;
    const page = libc.mmap(0, PAGE, PROT_READ_WRITE, MAP_SHARED, own, 0);
    if (page < 0) {
      libc.close(own);
      return page;
    }
    kickSignal(libc);
    const immediateExit = new Uint8Array(libc.koffi.view(BigInt(page), PAGE));
    const runner = idle.pop() ?? new Runner(libc);
    const run: Run = { runner, fd, own, page, immediateExit, kicked: false };
    this.#runs.add(run);
    if (this.#kicked.delete(fd)) this.kick(fd);
    const result = await runner.run(own);
    this.#end(run);
    return result;
  }

  /** Makes the KVM_RUN of this vCPU return EINTR: the one under way, or the next one. */
  kick(fd: number): void {
    let found = false;
    for (const run of this.#runs)
      if (run.fd === fd) {
        found = run.kicked = true;
        run.immediateExit[IMMEDIATE_EXIT] = 1;
        run.runner.signal(kickSignal(this.#libc));
      }
    if (!found) this.#kicked.add(fd);
  }

  /** The program closed a descriptor: a kick that waits for its next run is void. */
  closed(fd: number): void {
    this.#kicked.delete(fd);
  }

  /** Everything returns; blocks until it has. What does not return in time is named in an exception. */
  stop(): void {
    for (const run of this.#runs) this.kick(run.fd);
    for (const run of [...this.#runs]) {
      if (!run.runner.wait()) throw new Error(`KVM_RUN of descriptor ${run.fd} does not return`);
      this.#release(run);
    }
    this.#kicked.clear();
  }

  #end(run: Run): void {
    this.#release(run);
    idle.push(run.runner);
  }

  #release(run: Run): void {
    if (!this.#runs.delete(run)) return;
    if (run.kicked) run.immediateExit[IMMEDIATE_EXIT] = 0;
    this.#libc.munmap(run.page, PAGE);
    this.#libc.close(run.own);
  }
}

/** A signal that nobody uses; it has a handler that does nothing. */
export function kickSignal(libc: Libc): number {
  if (foundSignal !== 0) return foundSignal;
  for (let number = FIRST_SIGNAL; number <= LAST_SIGNAL; number++) {
    const before = libc.signal(number, libc.symbol("abs"));
    if (Number(before) === 0) {
      foundSignal = number;
      return number;
    }
    libc.signal(number, before);
  }
  throw new Error("no real-time signal is free for kicking a vCPU");
}
