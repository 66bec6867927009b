/**
 * A thread of a test program: a generator function whose system calls are the points where another thread, or the
 * kernel's deferred work, may go first.
 *
 *     function* vmm(linux: Calls) {
 *       const fd = yield* linux.eventfd2(0, 0);
 *       yield* linux.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: 5 }));
 *     }
 *
 * Between two calls a thread runs alone, as on one processor: what it does with JavaScript variables there is one step
 * with the call before it.
 */

import type { Request } from "../../abi/ioctl.ts";
import { EPOLLIN } from "../../abi/poll.ts";
import type { UserArgument } from "../../kernel/argument.ts";
import type { Process } from "../../kernel/process.ts";
import { type EncodedRequest, labelOfRequest } from "./label.ts";

/** One step of a thread: what it is about to do. */
export interface Op<T = unknown> {
  run(): T;
  /** whether it cannot go on now: it waits for something that another has to do */
  blocked?(): boolean;
  /** for people: "ioctl(4, KVM_IRQFD, …)"; made only for reports */
  label(): string;
  /** what it reads or changes; undefined: anything. Steps that touch nothing in common may swap places */
  touches?(): readonly unknown[];
}

/** A thread: a generator that yields each of its steps. */
export type Thread<R = void> = Generator<Op, R, unknown>;

/** A step of its own for something that is no system call: a device raising its line, a guest's instruction. */
export function* step<T>(label: string, run: () => T, touches?: readonly unknown[]): Thread<T> {
  const op: Op<T> = { run, label: () => label };
  if (touches !== undefined) op.touches = () => touches;
  return (yield op) as T;
}

/** Waits until a condition holds, which is looked at before every step of the others; `label` says what it waits for. */
export function* until(label: string, condition: () => boolean): Thread {
  yield { run: () => undefined, blocked: () => !condition(), label: () => label };
}

/** The system calls of a process as a thread makes them: each is one step. */
export class Calls {
  readonly process: Process;

  constructor(process: Process) {
    this.process = process;
  }

  open(path: string, flags: number): Thread<number> {
    return this.#call(
      () => this.process.open(path, flags),
      () => `open("${path}")`,
    );
  }
  close(fd: number): Thread<number> {
    return this.#call(
      () => this.process.close(fd),
      () => `close(${fd})`,
    );
  }
  eventfd2(initval: number, flags: number): Thread<number> {
    return this.#call(
      () => this.process.eventfd2(initval, flags),
      () => `eventfd2(${initval}, ${flags})`,
    );
  }
  ioctl(fd: number, request: number | Request, argument: UserArgument = 0): Thread<number> {
    const { process } = this;
    return this.#call(
      () => process.ioctl(fd, request, argument),
      () =>
        `ioctl(${fd}, ${labelOfRequest({ request, argument, encoding: process.encoding } satisfies EncodedRequest)})`,
    );
  }
  read(fd: number, buffer: Uint8Array): Thread<number> {
    return this.#call(
      () => this.process.read(fd, buffer),
      () => `read(${fd})`,
    );
  }
  write(fd: number, buffer: Uint8Array): Thread<number> {
    return this.#call(
      () => this.process.write(fd, buffer),
      () => `write(${fd})`,
    );
  }
  /** Adds one to an eventfd. */
  signal(fd: number): Thread<number> {
    return this.#call(
      () => this.process.write(fd, one),
      () => `write(${fd}, 1)`,
    );
  }
  /** Waits until an eventfd can be read, and reads it: the counter, or −errno. */
  *take(fd: number): Thread<number> {
    const file = this.process.fds.get(fd);
    const buffer = new Uint8Array(8);
    const result = (yield {
      run: () => this.process.read(fd, buffer),
      blocked: () => file !== undefined && (file.poll() & EPOLLIN) === 0,
      label: () => `read(${fd})`,
    }) as number;
    return result < 0 ? result : new DataView(buffer.buffer).getUint32(0, true);
  }

  *#call(run: () => number, label: () => string): Thread<number> {
    return (yield { run, label }) as number;
  }
}

const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);
