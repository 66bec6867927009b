/**
 * The one interface between a program and a kernel: the fake, the real kernel behind an FFI, a recorder around
 * either. Raw Linux convention: a result ≥ 0, or −errno. Nothing throws.
 */
import type { Request } from "../abi/ioctl.ts";
import type { SIGBUS, SIGSEGV } from "./address-space.ts";
import type { UserArgument } from "./argument.ts";

/** One entry of poll(2): `revents` is written. */
export interface PollFd {
  /** below 0: left out, `revents` becomes 0 */
  fd: number;
  /** what is asked for: POLLIN 1, POLLPRI 2, POLLOUT 4 */
  events: number;
  /** what holds; POLLERR 8, POLLHUP 16 and POLLNVAL 32 unasked */
  revents: number;
}

/** One entry of epoll_wait(2) and epoll_ctl(2). */
export interface EpollEvent {
  /** EPOLLIN 1, EPOLLOUT 4, EPOLLET 1 << 31, … */
  events: number;
  /** comes back as it was given */
  data: bigint;
}

/**
 * Every call answers a number: ≥ 0, or −errno. On any descriptor that is not open it is −EBADF. Flags, commands and
 * events are Linux's numbers on x86, on every architecture.
 */
export interface Syscalls {
  /**
   * open(2) of a device: the lowest free descriptor. ENOENT, ENOTDIR, EMFILE, EINVAL for flags, EACCES, what the device
   * says.
   */
  open(path: string, flags: number): number;
  /** close(2): the last descriptor of a file releases it, unless a mapping or the kernel holds it. */
  close(fd: number): number;
  /** dup(2): the lowest free descriptor. EMFILE. */
  dup(fd: number): number;
  /** dup3(2): `to`, whatever was there is closed. EINVAL where both are the same, EBADF beyond the limit. */
  dup3(fd: number, to: number, flags: number): number;
  /**
   * fcntl(2): F_DUPFD 0, F_GETFD 1, F_SETFD 2, F_GETFL 3, F_SETFL 4, F_DUPFD_CLOEXEC 1030. EINVAL: on the fake any
   * other.
   */
  fcntl(fd: number, command: number, argument?: number): number;
  /**
   * `request` is a number, or a declaration, whose number is then the one of this kernel's architecture. `argument` is
   * a plain value, an address, or the bytes that a pointer would point to (EFAULT ends exactly where they end), which
   * are written in place. ENOTTY: the file does not know the request (/dev/kvm says EINVAL).
   */
  ioctl(fd: number, request: number | Request, argument?: UserArgument): number;
  /**
   * read(2): how many bytes. `buffer` is bytes, or an address, then `count` says how many. EFAULT, EINVAL, EAGAIN where
   * it would block and the file is O_NONBLOCK, EINTR where nothing can ever wake it (on the fake).
   */
  read(fd: number, buffer: Uint8Array | number, count?: number): number;
  /** write(2): how many bytes; errors as `read`. */
  write(fd: number, buffer: Uint8Array | number, count?: number): number;
  /** pread(2): at `offset`, in bytes; a VFIO device's regions are offsets of its file. EINVAL below 0, ESPIPE. */
  pread(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number;
  /** pwrite(2): as `pread`. */
  pwrite(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number;
  /**
   * mmap(2): the address of the mapping. Lengths and offsets are in bytes, `offset` a multiple of the page; `prot`
   * PROT_READ 1, PROT_WRITE 2; `flags` MAP_SHARED 1, MAP_PRIVATE 2, MAP_FIXED 0x10, MAP_ANONYMOUS 0x20. EINVAL, ENOMEM,
   * EACCES, ENODEV where the file cannot be mapped, what the device says.
   */
  mmap(address: number, length: number, prot: number, flags: number, fd: number, offset: number): number;
  /** munmap(2) of whole pages; what is partly inside is cut. EINVAL. */
  munmap(address: number, length: number): number;
  /** eventfd2(2): a descriptor. EFD_SEMAPHORE 1, EFD_NONBLOCK 0x800, EFD_CLOEXEC 0x80000. EINVAL, EMFILE, ENOMEM. */
  eventfd2(initval: number, flags: number): number;
  /**
   * poll(2): for how many entries something holds. `timeout` in milliseconds, 0: at once, −1: for ever; on the fake the
   * time is virtual. EINTR where nothing can ever wake it (on the fake).
   */
  poll(fds: PollFd[], timeout: number): number;
  /** epoll_create1(2): a descriptor. */
  epoll_create1(flags: number): number;
  /** epoll_ctl(2): EPOLL_CTL_ADD 1, DEL 2, MOD 3. EEXIST, ENOENT, EPERM for a file without poll, EINVAL, ELOOP. */
  epoll_ctl(epfd: number, operation: number, fd: number, event?: EpollEvent): number;
  /** epoll_wait(2): how many of `events` were filled, from the first one on; `timeout` as in `poll`. EINVAL. */
  epoll_wait(epfd: number, events: EpollEvent[], maxevents: number, timeout: number): number;
  /** pipe2(2): 0, and `fds[0]` reads, `fds[1]` writes. EINVAL, EMFILE. */
  pipe2(fds: number[], flags: number): number;
  /** setrlimit(2), the soft limit: RLIMIT_NOFILE (7) in descriptors, RLIMIT_MEMLOCK (8) in bytes, … EINVAL. */
  setrlimit(resource: number, limit: number): number;

  /**
   * The bytes of a mapping, as the program sees them: no copy. Undefined where nothing, or device memory, is mapped.
   */
  memory(address: number, length: number): Uint8Array | undefined;
  /**
   * An address for bytes of the program, to be put into a struct that holds a pointer. `munmap` takes it away again.
   */
  addressOf(buffer: Uint8Array): number;
  /**
   * The program loads 1, 2, 4 or 8 bytes (8: a bigint), or takes the signal. Device memory sees the access as it is.
   */
  load(address: number, width: number): number | bigint | typeof SIGBUS | typeof SIGSEGV;
  /** The program stores 1, 2, 4 or 8 bytes: 0, or the signal that it takes. */
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
