/**
 * The one interface between a program and a kernel: the fake, the real kernel behind an FFI, a recorder around
 * either. Raw Linux convention: a result ≥ 0, or −errno. Nothing throws.
 */
import type { Request } from "../abi/ioctl.ts";
import type { SIGBUS, SIGSEGV } from "./address-space.ts";
import type { UserArgument } from "./argument.ts";

/** One entry of poll(2): `revents` is written. */
export interface PollFd {
  fd: number;
  events: number;
  revents: number;
}

/** One entry of epoll_wait(2) and epoll_ctl(2). */
export interface EpollEvent {
  events: number;
  data: bigint;
}

export interface Syscalls {
  open(path: string, flags: number): number;
  close(fd: number): number;
  dup(fd: number): number;
  dup3(fd: number, to: number, flags: number): number;
  fcntl(fd: number, command: number, argument?: number): number;
  /**
   * `request` is a number, or a declaration, whose number is then the one of this kernel's architecture. `argument` is
   * a plain value, an address, or the bytes that a pointer would point to (EFAULT ends exactly where they end).
   */
  ioctl(fd: number, request: number | Request, argument?: UserArgument): number;
  read(fd: number, buffer: Uint8Array | number, count?: number): number;
  write(fd: number, buffer: Uint8Array | number, count?: number): number;
  pread(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number;
  pwrite(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number;
  /** The address of the mapping, or −errno. */
  mmap(address: number, length: number, prot: number, flags: number, fd: number, offset: number): number;
  munmap(address: number, length: number): number;
  eventfd2(initval: number, flags: number): number;
  /** `timeout` in milliseconds, −1 for ever: on the fake the time is virtual. */
  poll(fds: PollFd[], timeout: number): number;
  epoll_create1(flags: number): number;
  epoll_ctl(epfd: number, operation: number, fd: number, event?: EpollEvent): number;
  epoll_wait(epfd: number, events: EpollEvent[], maxevents: number, timeout: number): number;
  pipe2(fds: number[], flags: number): number;
  /** RLIMIT_NOFILE (7), RLIMIT_MEMLOCK (8), … ; the soft limit */
  setrlimit(resource: number, limit: number): number;

  /** Not system calls, but what a program does with its own memory: */

  /** The bytes of a mapping. Undefined where nothing, or device memory, is mapped. */
  memory(address: number, length: number): Uint8Array | undefined;
  /** An address for bytes of the program, to be put into a struct that holds a pointer. */
  addressOf(buffer: Uint8Array): number;
  /** One load of 1, 2, 4 or 8 bytes. */
  load(address: number, width: number): number | bigint | typeof SIGBUS | typeof SIGSEGV;
  /** One store of 1, 2, 4 or 8 bytes. */
  store(address: number, width: number, value: number | bigint): 0 | typeof SIGBUS | typeof SIGSEGV;

  /** Resolves when `events` hold on the descriptor: 0, or −EBADF. A program awaits an eventfd with it. */
  readable(fd: number, events?: number): Promise<number>;
  /** A child with the same descriptors and a copy of the memory. */
  fork(): Syscalls;
  /** Everything is closed and unmapped. */
  exit(): void;
  /** Waits until the kernel has nothing deferred left. */
  settle(): void;
}
