/**
 * A process on the real kernel. Every call is the C library's; a result is ≥ 0 or −errno. The process is the host
 * program's own, so descriptors and limits are shared with it: what this object opened and mapped is remembered and goes
 * away with `exit`, limits go back to what they were. Descriptor numbers are the host's; descriptors.ts shows the numbers
 * of a fresh process.
 *
 * A Uint8Array given to a call is copied in front of a guard page and back (guard.ts): EFAULT ends exactly where it
 * ends. A blocking call blocks the host program, as it would in C: `readable` and `run` are the ways to wait that do not.
 *
 * Missing: fork (a program with many threads cannot: use the fake for it). What a program passes as a plain address is
 * the host program's memory, without a guard page: so are bytes behind `addressOf`.
 */
import { readlinkSync } from "node:fs";
import { EBADF } from "../abi/errno.ts";
import { F_DUPFD, F_DUPFD_CLOEXEC } from "../abi/fcntl.ts";
import type { FileKind, Request } from "../abi/ioctl.ts";
import { MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE } from "../abi/mman.ts";
import { placesOf } from "../abi/places.ts";
import { EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN } from "../abi/poll.ts";
import { type Arch, findRequest } from "../abi/requests.ts";
import { load32 } from "../abi/struct.ts";
import { type SIGBUS, type SIGSEGV, TASK_SIZE } from "../kernel/address-space.ts";
import type { UserArgument } from "../kernel/argument.ts";
import type { EpollEvent, PollFd, Syscalls } from "../kernel/syscalls.ts";
import { Guard } from "./guard.ts";
import type { Libc } from "./libc.ts";
import { Memory } from "./memory.ts";
import { Runs } from "./run.ts";

const PAGE = 4096;
/** long enough for a kernel worker on a busy host: nothing can be asked whether one still runs. */
const SETTLE_MS = 10;
const RLIMIT_NOFILE = 7;
/** `struct epoll_event` is packed on x86-64 and nowhere else (include/uapi/linux/eventpoll.h) */
const EPOLL_DATA_AT = process.arch === "x64" ? 4 : 8;
const EPOLL_EVENT_SIZE = EPOLL_DATA_AT + 8;

/** The architecture of the host, whose request numbers its kernel takes. */
export const ARCH: Arch = process.arch === "arm64" ? "arm64" : "x86_64";

/** What a program on the real kernel can do beyond the one interface. */
export interface NativeSyscalls extends Syscalls {
  /** KVM_RUN on a thread of its own: what it answered. The event loop goes on. */
  run(fd: number): Promise<number>;
  /** The KVM_RUN of this vCPU, under way or the next one, returns −EINTR. */
  kick(fd: number): void;
}

export interface NativeOptions {
  /** the file that "/dev/kvm" stands for */
  kvm?: string | undefined;
}

export class NativeProcess implements NativeSyscalls {
  readonly #libc: Libc;
  readonly #kvm: string | undefined;
  readonly #guard: Guard;
  readonly #memory: Memory;
  readonly #runs: Runs;
  /** the descriptors that this object made; the kind of file where requests depend on it */
  readonly #files = new Map<number, FileKind | undefined>();
  /** who waits for a descriptor in `readable` */
  readonly #waiting = new Map<number, Set<(result: number) => void>>();
  /** limits before the first change: {soft, hard} in bytes */
  readonly #limits = new Map<number, Uint8Array>();

  constructor(libc: Libc, options: NativeOptions = {}) {
    this.#libc = libc;
    this.#kvm = options.kvm;
    this.#guard = new Guard(libc);
    this.#memory = new Memory(libc);
    this.#runs = new Runs(libc);
  }

  /** The kind of file behind a descriptor that this object made. */
  kind(fd: number): FileKind | undefined {
    return this.#files.get(fd);
  }

  open(path: string, flags: number): number {
    const fd = this.#libc.open(path === "/dev/kvm" ? (this.#kvm ?? path) : path, flags);
    return this.#adopt(fd, path === "/dev/kvm" ? "system" : undefined);
  }

  close(fd: number): number {
    this.#runs.closed(fd);
    this.#files.delete(fd);
    const result = this.#libc.close(fd);
    const waiting = this.#waiting.get(fd);
    if (result === 0 && waiting !== undefined) for (const wake of waiting) wake(0);
    return result;
  }

  dup(fd: number): number {
    return this.#adopt(this.#libc.dup(fd), this.#files.get(fd));
  }

  dup3(fd: number, to: number, flags: number): number {
    return this.#adopt(this.#libc.dup3(fd, to, flags), this.#files.get(fd));
  }

  fcntl(fd: number, command: number, argument = 0): number {
    const result = this.#libc.fcntl(fd, command, argument);
    return command === F_DUPFD || command === F_DUPFD_CLOEXEC
      ? this.#adopt(result, this.#files.get(fd))
      : result;
  }

  ioctl(fd: number, request: number | Request, argument: UserArgument = 0): number {
    const number = typeof request === "number" ? request : request.number;
    const direct = typeof argument !== "number" && typeof argument !== "bigint";
    const call = () =>
      direct
        ? this.#exchange(argument, (address) => this.#libc.ioctl(fd, number, address))
        : this.#libc.ioctl(fd, number, plain(argument));
    const declared = findRequest(ARCH, number, this.#files.get(fd))?.request;
    if (declared === undefined) return call();
    const written = this.#writtenDescriptors(declared, argument);
    const result = call();
    if (result < 0) return result;
    for (const { bytes, at, before } of written)
      if (load32(bytes, at) !== before) this.#adopt(load32(bytes, at), "device");
    return declared.returns === undefined ? result : this.#adopt(result, declared.returns);
  }

  /** Where a request may write a new descriptor into its struct, and what stands there before. */
  #writtenDescriptors({ struct, copy }: Request, argument: UserArgument) {
    if (struct === undefined || copy === "in" || copy === "value") return [];
    const bytes = this.#bytes(argument, struct.size);
    if (bytes === undefined) return [];
    return placesOf(struct, "fd").map(({ at }) => ({ bytes, at, before: load32(bytes, at) }));
  }

  /** The bytes that an ioctl's argument points to, where they are known. */
  #bytes(argument: UserArgument, size: number): Uint8Array | undefined {
    if (typeof argument === "number" || typeof argument === "bigint")
      return this.#memory.bytes(Number(argument), size);
    return argument.length >= size ? argument : undefined;
  }

  read(fd: number, buffer: Uint8Array | number, count?: number): number {
    return typeof buffer === "number"
      ? this.#libc.read(fd, buffer, count ?? 0)
      : this.#exchange(buffer, (address) => this.#libc.read(fd, address, count ?? buffer.length));
  }

  write(fd: number, buffer: Uint8Array | number, count?: number): number {
    return typeof buffer === "number"
      ? this.#libc.write(fd, buffer, count ?? 0)
      : this.#libc.write(fd, this.#guard.place(buffer), count ?? buffer.length);
  }

  pread(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number {
    return typeof buffer === "number"
      ? this.#libc.pread(fd, buffer, count, plain(offset))
      : this.#exchange(buffer, (address) => this.#libc.pread(fd, address, count, plain(offset)));
  }

  pwrite(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number {
    const address = typeof buffer === "number" ? buffer : this.#guard.place(buffer);
    return this.#libc.pwrite(fd, address, count, plain(offset));
  }

  /** MAP_FIXED replaces mappings of this process alone: over memory of the host program it is −EEXIST. */
  mmap(address: number, length: number, prot: number, flags: number, fd: number, offset: number): number {
    if ((flags & MAP_FIXED) !== 0 && !this.#memory.owns(address, length))
      flags = (flags & ~MAP_FIXED) | MAP_FIXED_NOREPLACE;
    const start = this.#libc.mmap(plain(address), plain(length), prot, flags, fd, plain(offset));
    if (start >= 0) this.#memory.add(start, length, prot, kindOfMapping(flags, fd));
    return start;
  }

  /** What the host program has in the range stays; the kernel is asked about arguments that it refuses. */
  munmap(address: number, length: number): number {
    const refused = address % PAGE !== 0 || !(length > 0) || !(address >= 0) || address + length > TASK_SIZE;
    return refused ? this.#libc.munmap(plain(address), plain(length)) : this.#memory.unmap(address, length);
  }

  eventfd2(initval: number, flags: number): number {
    return this.#adopt(this.#libc.eventfd(initval, flags));
  }

  poll(fds: PollFd[], timeout: number): number {
    const bytes = new Uint8Array(8 * fds.length);
    const view = new DataView(bytes.buffer);
    fds.forEach((entry, i) => {
      view.setInt32(8 * i, entry.fd, true);
      view.setInt16(8 * i + 4, entry.events, true);
    });
    const result = this.#exchange(bytes, (address) => this.#libc.poll(address, fds.length, timeout));
    if (result >= 0)
      fds.forEach((entry, i) => {
        entry.revents = view.getUint16(8 * i + 6, true);
      });
    return result;
  }

  epoll_create1(flags: number): number {
    return this.#adopt(this.#libc.epollCreate1(flags), "epoll");
  }

  epoll_ctl(epfd: number, operation: number, fd: number, event?: EpollEvent): number {
    if (event === undefined) return this.#libc.epollCtl(epfd, operation, fd, 0);
    return this.#libc.epollCtl(epfd, operation, fd, this.#guard.place(encodeEvent(event)));
  }

  epoll_wait(epfd: number, events: EpollEvent[], maxevents: number, timeout: number): number {
    const room = maxevents > 0 ? Math.min(maxevents, 4096) : 0;
    const bytes = new Uint8Array(EPOLL_EVENT_SIZE * room);
    const count = this.#exchange(bytes, (address) => this.#libc.epollWait(epfd, address, maxevents, timeout));
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < count; i++) {
      const at = EPOLL_EVENT_SIZE * i;
      events[i] = {
        events: view.getUint32(at, true),
        data: view.getBigUint64(at + EPOLL_DATA_AT, true),
      };
    }
    return count;
  }

  pipe2(fds: number[], flags: number): number {
    const bytes = new Uint8Array(8);
    const result = this.#exchange(bytes, (address) => this.#libc.pipe2(address, flags));
    if (result < 0) return result;
    fds[0] = this.#adopt(load32(bytes, 0));
    fds[1] = this.#adopt(load32(bytes, 4));
    return result;
  }

  /** The soft limit of the whole host program, until `exit` puts it back. */
  setrlimit(resource: number, limit: number): number {
    const before = this.#getrlimit(resource);
    if (typeof before === "number") return before;
    const result = this.#setrlimit(resource, before, limit);
    if (result === 0 && !this.#limits.has(resource)) this.#limits.set(resource, before);
    return result;
  }

  /** Makes one call under another soft limit for descriptors. Other threads of the host program see it meanwhile. */
  withDescriptorLimit(limit: number, call: () => number): number {
    const before = this.#getrlimit(RLIMIT_NOFILE);
    if (typeof before === "number") return before;
    this.#setrlimit(RLIMIT_NOFILE, before, limit);
    try {
      return call();
    } finally {
      this.#libc.setrlimit(RLIMIT_NOFILE, this.#guard.place(before));
    }
  }

  /** A `struct rlimit`: soft and hard limit, 64 bits each. */
  #getrlimit(resource: number): Uint8Array | number {
    const bytes = new Uint8Array(16);
    const result = this.#exchange(bytes, (address) => this.#libc.getrlimit(resource, address));
    return result < 0 ? result : bytes;
  }

  #setrlimit(resource: number, before: Uint8Array, soft: number): number {
    const bytes = before.slice();
    new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, BigInt(soft)), true);
    return this.#libc.setrlimit(resource, this.#guard.place(bytes));
  }

  memory(address: number, length: number): Uint8Array | undefined {
    return this.#memory.bytes(address, length);
  }

  /** The real address of the bytes: they stay there, and in memory, until `exit`. */
  addressOf(buffer: Uint8Array): number {
    return this.#memory.addressOf(buffer);
  }

  load(address: number, width: number): number | bigint | typeof SIGBUS | typeof SIGSEGV {
    return this.#memory.load(address, width);
  }

  store(address: number, width: number, value: number | bigint): 0 | typeof SIGBUS | typeof SIGSEGV {
    return this.#memory.store(address, width, value);
  }

  /**
   * An epoll of its own watches the descriptor, and the event loop watches the epoll: the descriptor itself is left as
   * it is (the event loop would set O_NONBLOCK on it). Closing the descriptor wakes, too, as on the fake.
   */
  readable(fd: number, events = EPOLLIN): Promise<number> {
    const epoll = this.#libc.epollCreate1(EPOLL_CLOEXEC);
    if (epoll < 0) return Promise.resolve(epoll);
    const watched = encodeEvent({ events, data: 0n });
    const added = this.#libc.epollCtl(epoll, EPOLL_CTL_ADD, fd, this.#guard.place(watched));
    if (added < 0) {
      this.#libc.close(epoll);
      return Promise.resolve(added === -EBADF ? -EBADF : 0);
    }
    return new Promise((resolve) => {
      const handle = this.#libc.koffi.node.poll(epoll, { readable: true }, () => wake(0));
      const waiting = this.#waiting.get(fd) ?? new Set();
      this.#waiting.set(fd, waiting);
      const wake = (result: number): void => {
        if (!waiting.delete(wake)) return;
        if (waiting.size === 0) this.#waiting.delete(fd);
        handle.close();
        this.#libc.close(epoll);
        resolve(result);
      };
      waiting.add(wake);
    });
  }

  /** Not possible in a program with many threads, which the host program is. */
  fork(): never {
    throw new Error("fork is not supported on the real kernel: the host program has many threads");
  }

  run(fd: number): Promise<number> {
    return this.#runs.run(fd);
  }

  kick(fd: number): void {
    this.#runs.kick(fd);
  }

  /** Vcpus leave the guest, descriptors are closed, mappings unmapped, limits restored. Later calls find nothing open. */
  exit(): void {
    this.#runs.stop();
    for (const waiting of [...this.#waiting.values()]) for (const wake of [...waiting]) wake(-EBADF);
    for (const fd of this.#files.keys()) this.#libc.close(fd);
    this.#files.clear();
    this.#memory.clear();
    for (const [resource, limit] of this.#limits) this.#libc.setrlimit(resource, this.#guard.place(limit));
    this.#limits.clear();
    this.#guard.release();
  }

  /** Sleeps: deferred work of the kernel has no end that a program could see, so it is given time. */
  settle(): void {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, SETTLE_MS);
  }

  #adopt(fd: number, kind?: FileKind): number {
    if (fd >= 0) this.#files.set(fd, kind);
    return fd;
  }

  /** A call with a buffer that the kernel may write. */
  #exchange(bytes: Uint8Array, call: (address: number) => number): number {
    const result = call(this.#guard.place(bytes));
    this.#guard.fetch(bytes);
    return result;
  }
}

const encodeEvent = (event: EpollEvent): Uint8Array => {
  const bytes = new Uint8Array(EPOLL_EVENT_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, event.events, true);
  view.setBigUint64(EPOLL_DATA_AT, BigInt.asUintN(64, event.data), true);
  return bytes;
};

/** A value as the FFI takes it: a whole number, 64 bits. */
function plain(value: number | bigint): number | bigint {
  if (typeof value === "bigint") return BigInt.asIntN(64, value);
  if (!Number.isInteger(value)) return 0;
  return Number.isSafeInteger(value) ? value : BigInt.asIntN(64, BigInt(value));
}

/** Device memory cannot be probed: VFIO's files have it. */
function kindOfMapping(flags: number, fd: number): "anonymous" | "file" | "device" {
  if ((flags & MAP_ANONYMOUS) !== 0) return "anonymous";
  return readlinkSync(`/proc/self/fd/${fd}`).includes("vfio") ? "device" : "file";
}
