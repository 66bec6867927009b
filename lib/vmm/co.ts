/**
 * How VMM-side code is written: once, as generator functions whose system calls are steps. A program drives them to
 * their end (`now`), an exploration puts the steps of others, and the kernel's deferred work, between them.
 *
 *     const irqchip = new Irqchip(new Direct(process), vm, …);   // or new Calls(process), inside an exploration
 *     const gsi = now(irqchip.addMsiRoute(message));             // or yield* irqchip.addMsiRoute(message)
 */
import type { Request } from "../abi/ioctl.ts";
import { load32 } from "../abi/struct.ts";
import { type Op, type Thread, until } from "../fuzz/explore/thread.ts";
import type { UserArgument } from "../kernel/argument.ts";
import type { Syscalls } from "../kernel/syscalls.ts";

/** Code that makes system calls, and what it answers. */
export type Co<T> = Thread<T>;

/** The system calls a VMM makes; `Calls` of the exploration kit is one, `Direct` another. */
export interface Linux {
  open(path: string, flags: number): Co<number>;
  close(fd: number): Co<number>;
  eventfd2(initval: number, flags: number): Co<number>;
  ioctl(fd: number, request: number | Request, argument?: UserArgument): Co<number>;
  read(fd: number, buffer: Uint8Array): Co<number>;
  write(fd: number, buffer: Uint8Array): Co<number>;
  /** adds one to an eventfd */
  signal(fd: number): Co<number>;
}

/** Runs code to its end; what it would wait for must have happened. */
export function now<T>(co: Co<T>): T {
  let { done, value } = co.next();
  while (done !== true) {
    const op = value as Op;
    if (op.blocked?.() === true) throw new Error(`nobody is left to end the wait in ${op.label()}`);
    ({ done, value } = co.next(op.run()));
  }
  return value as T;
}

/** As `now`, and how many steps it took. */
export function counted<T>(co: Co<T>): { value: T; steps: number } {
  let steps = 0;
  function* counting(): Co<T> {
    let { done, value } = co.next();
    for (; done !== true; steps++) ({ done, value } = co.next(yield value as Op));
    return value as T;
  }
  const value = now(counting());
  return { value, steps };
}

const ONE = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);

/** System calls of any kernel, the real one included. */
export class Direct implements Linux {
  readonly #kernel: Syscalls;

  constructor(kernel: Syscalls) {
    this.#kernel = kernel;
  }

  open(path: string, flags: number): Co<number> {
    return call(`open("${path}")`, () => this.#kernel.open(path, flags));
  }
  close(fd: number): Co<number> {
    return call(`close(${fd})`, () => this.#kernel.close(fd));
  }
  eventfd2(initval: number, flags: number): Co<number> {
    return call("eventfd2()", () => this.#kernel.eventfd2(initval, flags));
  }
  ioctl(fd: number, request: number | Request, argument: UserArgument = 0): Co<number> {
    return call(`ioctl(${fd})`, () => this.#kernel.ioctl(fd, request, argument));
  }
  read(fd: number, buffer: Uint8Array): Co<number> {
    return call(`read(${fd})`, () => this.#kernel.read(fd, buffer));
  }
  write(fd: number, buffer: Uint8Array): Co<number> {
    return call(`write(${fd})`, () => this.#kernel.write(fd, buffer));
  }
  signal(fd: number): Co<number> {
    return this.write(fd, ONE);
  }
}

function* call(label: string, run: () => number): Co<number> {
  return (yield { run, label: () => label }) as number;
}

/** One at a time: what QEMU's big lock is for. */
export class Mutex {
  #held = false;

  /** Runs code with the lock held. */
  *hold<T>(code: () => Co<T>): Co<T> {
    if (this.#held) yield* until("the lock", () => !this.#held);
    this.#held = true;
    const result = yield* code();
    this.#held = false;
    return result;
  }
}

/** The counter of an eventfd that is known to be readable, 0 where it is not. */
export function* drain(linux: Linux, fd: number): Co<number> {
  const buffer = new Uint8Array(8);
  return (yield* linux.read(fd, buffer)) < 0 ? 0 : load32(buffer, 0);
}
