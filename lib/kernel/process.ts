/**
 * One process: a descriptor table, an address space, and the system calls over both. Every call ends the same way:
 * what it deferred runs as the policy of the work queue says, then the number is returned.
 */
import {
  EACCES,
  EBADF,
  EEXIST,
  EFAULT,
  EINVAL,
  EMFILE,
  ENODEV,
  ENOENT,
  ENOMEM,
  ENOTDIR,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
  ESPIPE,
} from "../abi/errno.ts";
import { EFD_CLOEXEC, EFD_NONBLOCK, EFD_SEMAPHORE } from "../abi/eventfd.ts";
import {
  F_DUPFD,
  F_DUPFD_CLOEXEC,
  F_GETFD,
  F_GETFL,
  F_SETFD,
  F_SETFL,
  FD_CLOEXEC,
  O_ACCMODE,
  O_APPEND,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_NONBLOCK,
} from "../abi/fcntl.ts";
import type { Encoding, Request } from "../abi/ioctl.ts";
import {
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_HUGETLB,
  MAP_PRIVATE,
  MAP_SHARED,
  MAP_SHARED_VALIDATE,
  MAP_TYPE,
  PROT_WRITE,
} from "../abi/mman.ts";
import { EPOLL_CTL_DEL, EPOLLERR, EPOLLHUP, EPOLLIN, POLLNVAL } from "../abi/poll.ts";
import { AddressSpace, type Backing, type SIGBUS, type SIGSEGV } from "./address-space.ts";
import { Argument, type UserArgument } from "./argument.ts";
import { canPoll, Epoll } from "./epoll.ts";
import { EventFd } from "./eventfd.ts";
import { FdTable } from "./fd-table.ts";
import { File, O_ASYNC, O_PATH } from "./file.ts";
import { genericIoctl, maybeGeneric } from "./generic-ioctl.ts";
import type { Kernel } from "./kernel.ts";
import { longCall } from "./long-call.ts";
import { O_DIRECT, pipe } from "./pipe.ts";
import { whenReady } from "./readable.ts";
import { type SignalHandler, Signals } from "./signals.ts";
import type { EpollEvent, PollFd, Syscalls } from "./syscalls.ts";

const MAP_GROWSDOWN = 0x100;

/** the flags that MAP_SHARED_VALIDATE takes of a file without more of its own (include/linux/mman.h, 6.1) */
const LEGACY_MAP_MASK = 0x7f9f3;

/** the commands that a descriptor which is only a name takes (fs/fcntl.c:check_fcntl_cmd, 6.1) */
const FOR_NAMES = new Set([F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL]);

/** every open of a 64-bit program has it; arm64 and powerpc number it otherwise (include/uapi/asm-generic/fcntl.h, 6.1) */
const O_LARGEFILE = 0x8000;
const O_NOATIME = 0x40000;
const O_DSYNC = 0x1000;
const O_DIRECTORY = 0x10000;
const O_NOFOLLOW = 0x20000;
/** the bit that O_SYNC and O_TMPFILE have beside O_DSYNC and O_DIRECTORY */
const O_SYNC = 0x100000;
const O_TMPFILE = 0x400000;
/** what F_SETFL changes */
const SETTABLE = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;
/** what an open keeps as status flags; O_CREAT, O_EXCL, O_NOCTTY, O_TRUNC, O_CLOEXEC matter to itself alone */
const KEPT = O_ACCMODE | O_APPEND | O_NONBLOCK | O_DSYNC | O_SYNC | O_ASYNC | O_NOFOLLOW | O_NOATIME;

export const RLIMIT_NOFILE = 7;
export const RLIMIT_MEMLOCK = 8;
/** EP_MAX_EVENTS: INT_MAX over the size of an event (fs/eventpoll.c, 6.1) */
const EP_MAX_EVENTS = Math.floor(0x7fff_ffff / 12);
/** no read or write moves more (include/linux/fs.h, 6.1) */
const MAX_RW_COUNT = 0x7fff_f000;
const NO_EVENT: EpollEvent = { events: 0, data: 0n };
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

/** How a process begins. */
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
  #signals: Signals | undefined;
  readonly #argument = new Argument();

  constructor(kernel: Kernel, options: ProcessOptions = {}) {
    this.kernel = kernel;
    this.encoding = options.encoding ?? "generic";
    this.fds = new FdTable();
    this.mm = new AddressSpace(kernel.pageSize, kernel.taskSize);
    const standard = new NullFile(kernel, 2 | O_LARGEFILE);
    for (let fd = 0; fd < (options.firstDescriptor ?? 3); fd++) this.fds.install(standard);
  }

  open(path: string, flags: number): number {
    if (path === "") return -ENOENT;
    if (this.fds.lowestFree() < 0) return -EMFILE;
    const status = openStatus(flags);
    if (status < 0) return status;
    const normal = normalise(path);
    const node = this.kernel.node(normal);
    if (node === undefined) return this.#below(normal) ? -ENOTDIR : -ENOENT;
    if ((flags & O_DIRECTORY) !== 0) return -ENOTDIR;
    if ((flags & (O_CREAT | O_EXCL)) === (O_CREAT | O_EXCL)) return -EEXIST;
    const file = node(this, status, normal);
    if (typeof file === "number") return this.#end(file);
    return this.#end(this.#install(file, (flags & O_CLOEXEC) !== 0));
  }

  /** Whether a path goes on below a device node. */
  #below(path: string): boolean {
    for (let at = path.lastIndexOf("/"); at > 0; at = path.lastIndexOf("/", at - 1))
      if (this.kernel.nodes.has(path.slice(0, at))) return true;
    return false;
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

  /** F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL; others (locks, owners) answer EINVAL. */
  fcntl(fd: number, command: number, argument = 0): number {
    const file = this.fds.get(fd);
    if (file === undefined) return -EBADF;
    if ((file.flags & O_PATH) !== 0 && !FOR_NAMES.has(command)) return -EBADF;
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
        return setFlags(file, argument);
      default:
        return -EINVAL;
    }
  }

  ioctl(fd: number, request: number | Request, argument: UserArgument = 0): number {
    const file = this.#descriptor(fd);
    if (file === undefined) return -EBADF;
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
    const file = this.#descriptor(fd);
    if (file === undefined) return -EBADF;
    return this.#atPosition(file, buffer, length(buffer, count), false);
  }

  write(fd: number, buffer: Uint8Array | number, count?: number): number {
    const file = this.#descriptor(fd);
    if (file === undefined) return -EBADF;
    return this.#atPosition(file, buffer, length(buffer, count), true);
  }

  #atPosition(file: File, buffer: Uint8Array | number, count: number, writing: boolean): number {
    if (file.stream) return this.#transfer(file, buffer, count, 0, writing);
    const result = this.#transfer(file, buffer, count, file.position, writing);
    if (result > 0) file.position += result;
    return result;
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
    const file = this.#descriptor(fd);
    if (file === undefined) return -EBADF;
    if (file.stream) return -ESPIPE;
    return this.#transfer(file, buffer, count, position, writing);
  }

  /** fs/read_write.c:vfs_read, vfs_write (6.1): the direction, the operation, the buffer, the size, in this order. */
  #transfer(
    file: File,
    buffer: Uint8Array | number,
    count: number,
    position: number,
    writing: boolean,
  ): number {
    if (writing ? !file.canWrite : !file.canRead) return -EBADF;
    if ((writing ? file.write : file.read) === (writing ? File.prototype.write : File.prototype.read))
      return -EINVAL;
    const user = this.#argument.point(this.mm, buffer);
    const size = unsigned(count);
    if (user.value + size > this.mm.taskSize) return -EFAULT;
    if (position + size > 2 ** 63) return -EOVERFLOW;
    const part = Math.min(size, MAX_RW_COUNT);
    const result = writing ? file.write(user, part, position) : file.read(user, part, position);
    user.finish();
    return this.#end(result);
  }

  /** The file of a descriptor that is more than a name (O_PATH). */
  #descriptor(fd: number): File | undefined {
    const file = this.fds.get(fd);
    return file === undefined || (file.flags & O_PATH) !== 0 ? undefined : file;
  }

  /** The checks stand in Linux's order: mm/util.c:ksys_mmap_pgoff, then mm/mmap.c:do_mmap (6.1). */
  mmap(address: number, length: number, prot: number, flags: number, fd: number, offset: number): number {
    if (offset % this.mm.pageSize !== 0) return -EINVAL;
    let file: File | undefined;
    if ((flags & MAP_ANONYMOUS) === 0) {
      file = this.#descriptor(fd);
      if (file === undefined) return -EBADF;
    }
    if ((flags & MAP_HUGETLB) !== 0) return file === undefined ? -ENOMEM : -EINVAL;
    const size = unsigned(length);
    const start = unsigned(address);
    const fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) !== 0;
    if (size === 0) return -EINVAL;
    const place = this.mm.mayMap(start, size, fixed);
    if (place < 0) return place;
    if ((flags & MAP_FIXED_NOREPLACE) !== 0 && this.mm.overlaps(start, size)) return -EEXIST;
    const refused =
      file === undefined ? refuseAnonymous(flags) : refuseFile(file, flags, (prot & PROT_WRITE) !== 0);
    if (refused < 0) return refused;
    const shared = (flags & MAP_TYPE) !== MAP_PRIVATE;
    let backing: Backing | undefined;
    if (file !== undefined) {
      const answer = file.mmap(offset, size, prot, shared);
      if (typeof answer === "number") return answer;
      backing = answer;
    }
    if (this.kernel.faults.allocation("vm_area_struct")) return -ENOMEM;
    const held = file?.get();
    const result = this.mm.map(start, size, prot, fixed, shared, backing, held && (() => held.put()));
    if (result < 0) held?.put();
    return result;
  }

  munmap(address: number, length: number): number {
    return this.#end(this.mm.unmap(unsigned(address), unsigned(length)));
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
    const file = this.#descriptor(entry.fd);
    return file === undefined ? POLLNVAL : file.poll() & (entry.events | EPOLLERR | EPOLLHUP);
  }

  epoll_create1(flags: number): number {
    if ((flags & ~O_CLOEXEC) !== 0) return -EINVAL;
    if (this.kernel.faults.allocation("eventpoll")) return -ENOMEM;
    return this.#install(new Epoll(this.kernel), flags !== 0);
  }

  /** Without an event the pointer to it is null. */
  epoll_ctl(epfd: number, operation: number, fd: number, event?: EpollEvent): number {
    if (event === undefined && operation !== EPOLL_CTL_DEL) return -EFAULT;
    const epoll = this.#descriptor(epfd);
    const file = this.#descriptor(fd);
    if (epoll === undefined || file === undefined) return -EBADF;
    if (!(epoll instanceof Epoll)) return canPoll(file) ? -EINVAL : -EPERM;
    return this.#end(epoll.control(operation, file, fd, event ?? NO_EVENT));
  }

  /** The live 6.18 looks at the descriptor first; 6.1 at `maxevents` (fs/eventpoll.c:do_epoll_wait). */
  epoll_wait(epfd: number, events: EpollEvent[], maxevents: number, timeout: number): number {
    const epoll = this.#descriptor(epfd);
    if (epoll === undefined) return -EBADF;
    if (!(maxevents > 0 && maxevents <= EP_MAX_EVENTS)) return -EINVAL;
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
    if ((flags & ~(O_CLOEXEC | O_NONBLOCK | O_DIRECT)) !== 0) return -EINVAL;
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
    if (mapping === undefined || mapping.device !== undefined || address + length > mapping.limit)
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
    const file = this.#descriptor(fd);
    return file === undefined ? Promise.resolve(-EBADF) : whenReady(file, events);
  }

  /**
   * KVM_RUN on a thread of its own: what it answers, −EBADF, or −ENODEV for what is no vCPU. Other calls go on meanwhile; a
   * vCPU that sleeps stays asleep until one of them, deferred work or a timer wakes it.
   */
  run(fd: number): Promise<number> {
    const file = this.#descriptor(fd);
    return file === undefined ? Promise.resolve(-EBADF) : longCall(file, this);
  }

  /** The KVM_RUN of this vCPU that `run` makes, under way or the next one, returns −EINTR. */
  kick(fd: number): void {
    this.#descriptor(fd)?.kick();
  }

  get signals(): Signals {
    this.#signals ??= new Signals(() => this.kernel.stir());
    return this.#signals;
  }

  /** A signal to this process: 0, or −EINVAL. */
  kill(signal: number): number {
    return this.signals.send(signal);
  }

  /** What is done with a signal; without it, it does nothing. */
  sigaction(signal: number, handler: SignalHandler): number {
    return this.signals.action(signal, handler);
  }

  /** SIG_BLOCK (0), SIG_UNBLOCK (1), SIG_SETMASK (2) with a set of 64 bits, signal n at bit n − 1. */
  sigprocmask(how: number, set: bigint): number {
    return this.signals.mask(how, set);
  }

  /** The signals that wait because they are blocked. */
  sigpending(): bigint {
    return this.signals.waiting;
  }

  /** Takes a waiting signal of a set, without waiting for one: its number, or −EAGAIN. */
  sigtimedwait(set: bigint): number {
    return this.signals.take(set);
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
    if (this.kernel.longCalls !== 0) this.kernel.naps.endOf(this);
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
    if (this.kernel.longCalls !== 0) this.kernel.stir();
    return result;
  }
}

/** The status flags of a description that is opened so, or −EINVAL (fs/open.c:build_open_flags, do_dentry_open, 6.1). */
function openStatus(flags: number): number {
  if ((flags & O_PATH) !== 0) return O_PATH;
  if ((flags & O_TMPFILE) !== 0 || (flags & (O_CREAT | O_DIRECTORY)) === (O_CREAT | O_DIRECTORY))
    return -EINVAL;
  if ((flags & O_DIRECT) !== 0) return -EINVAL;
  return (flags & KEPT) | O_LARGEFILE | ((flags & O_SYNC) !== 0 ? O_DSYNC : 0);
}

/** F_SETFL (fs/fcntl.c:setfl, 6.1): O_ASYNC where the file understands it, O_DIRECT there or nowhere. */
function setFlags(file: File, wanted: number): number {
  if ((wanted & O_DIRECT) !== 0 && !file.direct) return -EINVAL;
  const settable = SETTABLE | (file.async ? O_ASYNC : 0);
  file.flags = (file.flags & ~settable) | (wanted & settable);
  return 0;
}

/** A value as `unsigned long`. */
const unsigned = (value: number): number => (value < 0 ? value + 2 ** 64 : value);

/** Why the flags of an anonymous mapping are refused, or 0. */
function refuseAnonymous(flags: number): number {
  const type = flags & MAP_TYPE;
  if (type === MAP_PRIVATE) return 0;
  return type === MAP_SHARED && (flags & MAP_GROWSDOWN) === 0 ? 0 : -EINVAL;
}

/** Why a file is not mapped that way, or 0. */
function refuseFile(file: File, flags: number, write: boolean): number {
  switch (flags & MAP_TYPE) {
    case MAP_SHARED_VALIDATE:
      if ((flags & ~LEGACY_MAP_MASK) !== 0) return -EOPNOTSUPP;
      break;
    case MAP_SHARED:
    case MAP_PRIVATE:
      break;
    default:
      return -EINVAL;
  }
  if ((flags & MAP_TYPE) !== MAP_PRIVATE && write && !file.canWrite) return -EACCES;
  if (!file.canRead) return -EACCES;
  if (file.mmap === File.prototype.mmap) return -ENODEV;
  return (flags & MAP_GROWSDOWN) !== 0 ? -EINVAL : 0;
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
