/**
 * One process: a descriptor table, an address space, and the system calls over both. Every call ends the same way:
 * what it deferred runs as the policy of the work queue says, then the number is returned.
 */
import { EACCES, EBADF, EINVAL, EMFILE, ENOENT, ENOMEM, EOVERFLOW, ESPIPE } from "../abi/errno.ts";
import type { Encoding, Request } from "../abi/ioctl.ts";
import {
  AddressSpace,
  type Backing,
  PAGE_SIZE,
  PROT_WRITE,
  type SIGBUS,
  type SIGSEGV,
} from "./address-space.ts";
import { Argument, type UserArgument } from "./argument.ts";
import { Epoll } from "./epoll.ts";
import { EFD_CLOEXEC, EFD_NONBLOCK, EFD_SEMAPHORE, EventFd } from "./eventfd.ts";
import { FdTable } from "./fd-table.ts";
import { EPOLLERR, EPOLLHUP, EPOLLIN, File, O_CLOEXEC, O_NONBLOCK, O_PATH, POLLNVAL } from "./file.ts";
import { genericIoctl, maybeGeneric } from "./generic-ioctl.ts";
import type { Kernel } from "./kernel.ts";
import { pipe } from "./pipe.ts";
import { whenReady } from "./readable.ts";
import type { EpollEvent, PollFd, Syscalls } from "./syscalls.ts";

export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_SHARED_VALIDATE = 0x03;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_FIXED_NOREPLACE = 0x100000;

const F_DUPFD = 0;
const F_GETFD = 1;
const F_SETFD = 2;
const F_GETFL = 3;
const F_SETFL = 4;
const F_DUPFD_CLOEXEC = 1030;
const FD_CLOEXEC = 1;

export const RLIMIT_NOFILE = 7;
export const RLIMIT_MEMLOCK = 8;
/** EP_MAX_EVENTS: INT_MAX over the size of an event (fs/eventpoll.c, 6.1) */
const EP_MAX_EVENTS = Math.floor(0x7fff_ffff / 12);
const NANOSECONDS_PER_MILLISECOND = 1_000_000;

/** What stands at 0, 1 and 2 of a new process. */
class NullFile extends File {
  readonly name = "/dev/null";
  override read(): number {
    return 0;
  }
  override write(_user: Argument, count: number): number {
    return count;
  }
}

export interface ProcessOptions {
  encoding?: Encoding;
  /** the first free descriptor; below it are files of no interest (standard input, output, error) */
  firstDescriptor?: number;
}

export class Process implements Syscalls {
  readonly kernel: Kernel;
  readonly encoding: Encoding;
  fds: FdTable;
  /** the address space: a VM remembers the one it was created in */
  mm: AddressSpace;
  /** soft limits by resource number */
  readonly limits = new Map<number, number>();
  /** capabilities that the process gave up ("CAP_IPC_LOCK"): it starts as root */
  readonly dropped = new Set<string>();
  readonly #argument = new Argument();

  constructor(kernel: Kernel, options: ProcessOptions = {}) {
    this.kernel = kernel;
    this.encoding = options.encoding ?? "generic";
    this.fds = new FdTable();
    this.mm = new AddressSpace();
    const standard = new NullFile(kernel, 2);
    for (let fd = 0; fd < (options.firstDescriptor ?? 3); fd++) this.fds.install(standard);
  }

  open(path: string, flags: number): number {
    const normal = normalise(path);
    const node = this.kernel.node(normal);
    if (node === undefined) return -ENOENT;
    if (this.fds.lowestFree() < 0) return -EMFILE;
    const file = node(this, flags & ~O_CLOEXEC, normal);
    if (typeof file === "number") return this.#end(file);
    return this.#end(this.#install(file, (flags & O_CLOEXEC) !== 0));
  }

  close(fd: number): number {
    if (!this.fds.remove(fd)) return -EBADF;
    return this.#end(0);
  }

  dup(fd: number): number {
    const file = this.fds.get(fd);
    return file === undefined ? -EBADF : this.fds.install(file);
  }

  dup3(fd: number, to: number, flags: number): number {
    if ((flags & ~O_CLOEXEC) !== 0 || fd === to) return -EINVAL;
    if (!(to >= 0 && to < this.fds.limit)) return -EBADF;
    const file = this.fds.get(fd);
    if (file === undefined) return -EBADF;
    this.fds.replace(to, file, (flags & O_CLOEXEC) !== 0);
    return this.#end(to);
  }

  /** F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL (O_NONBLOCK); others answer EINVAL. */
  fcntl(fd: number, command: number, argument = 0): number {
    const file = this.fds.get(fd);
    if (file === undefined) return -EBADF;
    switch (command) {
      case F_DUPFD:
      case F_DUPFD_CLOEXEC:
        if (argument < 0 || argument >= this.fds.limit) return -EINVAL;
        return this.fds.install(file, command === F_DUPFD_CLOEXEC, argument);
      case F_GETFD:
        return this.fds.closeOnExec(fd) ? FD_CLOEXEC : 0;
      case F_SETFD:
        this.fds.setCloseOnExec(fd, (argument & FD_CLOEXEC) !== 0);
        return 0;
      case F_GETFL:
        return file.flags;
      case F_SETFL:
        file.flags = (file.flags & ~O_NONBLOCK) | (argument & O_NONBLOCK);
        return 0;
      default:
        return -EINVAL;
    }
  }

  ioctl(fd: number, request: number | Request, argument: UserArgument = 0): number {
    const file = this.fds.get(fd);
    if (file === undefined || (file.flags & O_PATH) !== 0) return -EBADF;
    const number =
      typeof request === "number"
        ? request >>> 0
        : this.encoding === "powerpc"
          ? request.powerpc
          : request.number;
    const user = this.#argument.point(this.mm, argument);
    let result: number | undefined;
    if (maybeGeneric(number))
      result = genericIoctl(file, number, user, (on) => this.fds.setCloseOnExec(fd, on));
    result ??= file.ioctl(this, number, user);
    user.finish();
    return this.#end(result);
  }

  read(fd: number, buffer: Uint8Array | number, count?: number): number {
    const file = this.fds.get(fd);
    if (file === undefined || !file.canRead) return -EBADF;
    const user = this.#argument.point(this.mm, buffer);
    const result = file.read(user, length(buffer, count), 0);
    user.finish();
    return this.#end(result);
  }

  write(fd: number, buffer: Uint8Array | number, count?: number): number {
    const file = this.fds.get(fd);
    if (file === undefined || !file.canWrite) return -EBADF;
    return this.#end(file.write(this.#argument.point(this.mm, buffer), length(buffer, count), 0));
  }

  pread(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number {
    return this.#positioned(fd, buffer, count, offset, false);
  }

  pwrite(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number {
    return this.#positioned(fd, buffer, count, offset, true);
  }

  #positioned(
    fd: number,
    buffer: Uint8Array | number,
    count: number,
    offset: number | bigint,
    writing: boolean,
  ): number {
    const position = Number(BigInt.asIntN(64, BigInt(offset)));
    if (position < 0) return -EINVAL;
    const file = this.fds.get(fd);
    if (file === undefined) return -EBADF;
    if (file.stream) return -ESPIPE;
    if (writing ? !file.canWrite : !file.canRead) return -EBADF;
    if (position + count > 2 ** 63) return -EOVERFLOW;
    const user = this.#argument.point(this.mm, buffer);
    const result = writing ? file.write(user, count, position) : file.read(user, count, position);
    user.finish();
    return this.#end(result);
  }

  /** mm/mmap.c:do_mmap and arch/x86/kernel/sys_x86_64.c (6.1): the order of the checks is theirs. */
  mmap(address: number, length: number, prot: number, flags: number, fd: number, offset: number): number {
    if (offset % PAGE_SIZE !== 0) return -EINVAL;
    let file: File | undefined;
    if ((flags & MAP_ANONYMOUS) === 0) {
      file = this.fds.get(fd);
      if (file === undefined) return -EBADF;
    }
    if (!(length > 0)) return -EINVAL;
    const fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) !== 0;
    const kind = flags & MAP_SHARED_VALIDATE;
    if (kind === 0 || (file === undefined && kind === MAP_SHARED_VALIDATE)) return -EINVAL;
    const shared = kind !== MAP_PRIVATE;
    let backing: Backing | undefined;
    if (file !== undefined) {
      if (shared && (prot & PROT_WRITE) !== 0 && !file.canWrite) return -EACCES;
      if (!file.canRead) return -EACCES;
      const answer = file.mmap(offset, length, prot, shared);
      if (typeof answer === "number") return answer;
      backing = answer;
    }
    if (this.kernel.faults.allocation("vm_area_struct")) return -ENOMEM;
    const held = file?.get();
    const start = this.mm.map(address, length, prot, fixed, shared, backing, held && (() => held.put()));
    if (start < 0) held?.put();
    return start;
  }

  munmap(address: number, length: number): number {
    return this.#end(this.mm.unmap(address, length));
  }

  mprotect(address: number, length: number, prot: number): number {
    return this.mm.protect(address, length, prot);
  }

  eventfd2(initval: number, flags: number): number {
    if ((flags & ~(EFD_SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK)) !== 0) return -EINVAL;
    if (this.kernel.faults.allocation("eventfd_ctx")) return -ENOMEM;
    return this.#install(new EventFd(this.kernel, initval, flags), (flags & EFD_CLOEXEC) !== 0);
  }

  poll(fds: PollFd[], timeout: number): number {
    if (fds.length > this.fds.limit) return -EINVAL;
    const check = (): number => {
      let count = 0;
      for (const entry of fds) {
        entry.revents = this.#revents(entry);
        if (entry.revents !== 0) count++;
      }
      return count;
    };
    let count = check();
    if (count === 0 && timeout !== 0) {
      const ready = this.kernel.wait(
        `poll of ${fds.map((entry) => entry.fd).join(", ")}`,
        () => (count = check()) !== 0,
        timeout < 0
          ? Number.POSITIVE_INFINITY
          : this.kernel.clock.now + timeout * NANOSECONDS_PER_MILLISECOND,
      );
      if (typeof ready === "number") return ready;
    }
    return this.#end(count);
  }

  #revents(entry: PollFd): number {
    if (entry.fd < 0) return 0;
    const file = this.fds.get(entry.fd);
    return file === undefined ? POLLNVAL : file.poll() & (entry.events | EPOLLERR | EPOLLHUP);
  }

  epoll_create1(flags: number): number {
    if ((flags & ~O_CLOEXEC) !== 0) return -EINVAL;
    if (this.kernel.faults.allocation("eventpoll")) return -ENOMEM;
    return this.#install(new Epoll(this.kernel), flags !== 0);
  }

  epoll_ctl(epfd: number, operation: number, fd: number, event?: EpollEvent): number {
    const epoll = this.fds.get(epfd);
    const file = this.fds.get(fd);
    if (epoll === undefined || file === undefined) return -EBADF;
    if (!(epoll instanceof Epoll)) return -EINVAL;
    return epoll.control(operation, file, fd, event);
  }

  epoll_wait(epfd: number, events: EpollEvent[], maxevents: number, timeout: number): number {
    if (!(maxevents > 0 && maxevents <= EP_MAX_EVENTS)) return -EINVAL;
    const epoll = this.fds.get(epfd);
    if (epoll === undefined) return -EBADF;
    if (!(epoll instanceof Epoll)) return -EINVAL;
    if (timeout !== 0 && epoll.poll() === 0) {
      const deadline =
        timeout < 0
          ? Number.POSITIVE_INFINITY
          : this.kernel.clock.now + timeout * NANOSECONDS_PER_MILLISECOND;
      const ready = this.kernel.wait(`epoll_wait of ${epfd}`, () => epoll.poll() !== 0, deadline);
      if (typeof ready === "number") return ready;
    }
    return this.#end(epoll.collect(events, maxevents));
  }

  pipe2(fds: number[], flags: number): number {
    if ((flags & ~(O_CLOEXEC | O_NONBLOCK)) !== 0) return -EINVAL;
    const [reading, writing] = pipe(this.kernel, flags);
    const closeOnExec = (flags & O_CLOEXEC) !== 0;
    const first = this.#install(reading, closeOnExec);
    if (first < 0) return first;
    const second = this.#install(writing, closeOnExec);
    if (second < 0) {
      this.fds.remove(first);
      return second;
    }
    fds[0] = first;
    fds[1] = second;
    return 0;
  }

  setrlimit(resource: number, limit: number): number {
    if (!(resource >= 0 && resource < 16)) return -EINVAL;
    this.limits.set(resource, limit);
    if (resource === RLIMIT_NOFILE) this.fds.limit = limit;
    return 0;
  }

  memory(address: number, length: number): Uint8Array | undefined {
    const mapping = this.mm.find(address);
    if (mapping === undefined || mapping.device !== undefined || address + length > mapping.end)
      return undefined;
    return mapping.bytes.subarray(address - mapping.start, address - mapping.start + length);
  }

  addressOf(buffer: Uint8Array): number {
    return this.mm.addressOf(buffer);
  }

  load(address: number, width: number): number | bigint | typeof SIGBUS | typeof SIGSEGV {
    return this.mm.load(address, width);
  }

  store(address: number, width: number, value: number | bigint): 0 | typeof SIGBUS | typeof SIGSEGV {
    const result = this.mm.store(address, width, value);
    this.#end(0);
    return result;
  }

  readable(fd: number, events = EPOLLIN): Promise<number> {
    const file = this.fds.get(fd);
    return file === undefined ? Promise.resolve(-EBADF) : whenReady(file, events);
  }

  fork(): Process {
    const child = new Process(this.kernel, { encoding: this.encoding, firstDescriptor: 0 });
    child.fds = this.fds.fork();
    child.mm = this.mm.fork();
    for (const [resource, limit] of this.limits) child.limits.set(resource, limit);
    for (const capability of this.dropped) child.dropped.add(capability);
    return child;
  }

  exit(): void {
    this.fds.clear();
    this.mm.clear();
    this.#end(0);
  }

  settle(): void {
    this.kernel.work.drain();
  }

  /** Gives a new file the lowest free descriptor; where there is none, or no room, the file goes away again. */
  install(file: File, closeOnExec: boolean): number {
    return this.#install(file, closeOnExec);
  }

  #install(file: File, closeOnExec: boolean): number {
    const fd = this.fds.install(file, closeOnExec);
    if (fd < 0) {
      file.get();
      file.put();
    }
    return fd;
  }

  /** The way out of every call. */
  #end(result: number): number {
    const work = this.kernel.work;
    if (work.pending !== 0) work.policy(work);
    return result;
  }
}

/** How many bytes a read or write is about. */
const length = (buffer: Uint8Array | number, count: number | undefined): number =>
  count ?? (typeof buffer === "number" ? 0 : buffer.length);

/** A path without `//`, `/./` and `/../`; relative paths start at `/`. */
function normalise(path: string): string {
  if (path.startsWith("/") && !/\/\/|\/\.{1,2}(\/|$)/.test(path)) return path;
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return "/" + parts.join("/");
}
