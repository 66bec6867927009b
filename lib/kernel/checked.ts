/**
 * System calls that throw: for people who prefer exceptions to negative numbers. The errors are shaped like Node's
 * own (`code`, `errno`, `syscall`). This is the edge: nothing inside the kernel throws.
 */
import { errnoName } from "../abi/errno.ts";
import type { Syscalls } from "./syscalls.ts";

/** A failed system call as an exception, shaped like Node's: `code` "EBADF", `errno` −9, `syscall` "close". */
export class LinuxError extends Error {
  /** "EBUSY" */
  readonly code: string;
  /** −16, negative as in Node */
  readonly errno: number;
  /** "ioctl" */
  readonly syscall: string;

  constructor(syscall: string, result: number) {
    const code = errnoName(-result);
    super(`${code}: ${syscall}`);
    this.name = "LinuxError";
    this.code = code;
    this.errno = result;
    this.syscall = syscall;
  }
}

/** The calls that answer −errno; the others of the interface are left as they are. */
const answering = [
  "open",
  "close",
  "dup",
  "dup3",
  "fcntl",
  "ioctl",
  "read",
  "write",
  "pread",
  "pwrite",
  "mmap",
  "munmap",
  "eventfd2",
  "poll",
  "epoll_create1",
  "epoll_ctl",
  "epoll_wait",
  "pipe2",
  "setrlimit",
] as const satisfies readonly (keyof Syscalls)[];

/** The same interface; a call never answers a negative number, it throws a LinuxError instead. */
export type CheckedSyscalls = Syscalls;

/** Wraps system calls so that −errno is thrown. `checked(process).ioctl(fd, request)` */
export function checked(syscalls: Syscalls): CheckedSyscalls {
  const wrapped = Object.create(syscalls) as Record<string, unknown>;
  for (const name of answering) {
    wrapped[name] = (...args: unknown[]): number => {
      const result = (syscalls[name] as (...args: unknown[]) => number).apply(syscalls, args);
      if (result < 0) throw new LinuxError(name, result);
      return result;
    };
  }
  for (const name of ["memory", "addressOf", "load", "store", "readable", "exit", "settle"] as const)
    wrapped[name] = (syscalls[name] as (...args: unknown[]) => unknown).bind(syscalls);
  wrapped.fork = () => checked(syscalls.fork());
  return wrapped as unknown as CheckedSyscalls;
}
