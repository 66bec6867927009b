/**
 * An open file description. What a kind of file does not define behaves as Linux' default for a missing file
 * operation: no read or write → EINVAL, no ioctl → ENOTTY, no mmap → ENODEV, no poll → always readable and writable.
 */
import { EINVAL, ENODEV, ENOTTY } from "../abi/errno.ts";
import { O_ACCMODE, O_CLOEXEC, O_NONBLOCK, O_RDONLY, O_WRONLY } from "../abi/fcntl.ts";
import { EPOLLIN, EPOLLOUT, EPOLLRDNORM, EPOLLWRNORM } from "../abi/poll.ts";
import type { Backing } from "./address-space.ts";
import type { Argument } from "./argument.ts";
import type { Kernel } from "./kernel.ts";
import type { Process } from "./process.ts";
import type { WaitQueue } from "./wait-queue.ts";

export const O_ASYNC = 0x2000;
export const O_PATH = 0x200000;

/** What poll reports for a file without a poll operation (include/linux/poll.h, 6.1). */
export const DEFAULT_POLLMASK = EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM;

/** An open file description; what a kind of file does not define answers as Linux does by default. */
export abstract class File {
  readonly kernel: Kernel;
  /** access mode and status flags (O_NONBLOCK), as F_GETFL shows them */
  flags: number;
  /** descriptors and mappings that hold this description, and kernel objects that borrowed it */
  references = 0;

  constructor(kernel: Kernel, flags: number) {
    this.kernel = kernel;
    this.flags = flags & ~O_CLOEXEC;
  }

  /** as /proc/PID/fd shows it: "anon_inode:kvm-vm", "anon_inode:[eventfd]", "/dev/kvm" */
  abstract readonly name: string;
  /** whether pread and pwrite are refused with ESPIPE (a stream), or reach read and write with an offset */
  readonly stream: boolean = true;
  /** where read and write go on in a file that is no stream */
  position = 0;

  /** whether FIOASYNC and O_ASYNC are understood (the file operation fasync) */
  readonly async: boolean = false;
  /** whether O_DIRECT is understood (FMODE_CAN_ODIRECT) */
  readonly direct: boolean = false;

  get canRead(): boolean {
    return (this.flags & O_ACCMODE) !== O_WRONLY;
  }
  get canWrite(): boolean {
    return (this.flags & O_ACCMODE) !== O_RDONLY;
  }
  get nonBlocking(): boolean {
    return (this.flags & O_NONBLOCK) !== 0;
  }

  read(_user: Argument, _count: number, _offset: number): number {
    return -EINVAL;
  }
  write(_user: Argument, _count: number, _offset: number): number {
    return -EINVAL;
  }
  ioctl(_process: Process, _request: number, _user: Argument): number {
    return -ENOTTY;
  }
  /**
   * Begins a call that takes long (KVM_RUN): its answer, or ASLEEP or BUSY, and `resume` goes on with it (long-call.ts).
   * −ENODEV for a file that has none: it is no vCPU.
   */
  begin(_process: Process): number {
    return -ENODEV;
  }
  resume(): number {
    return -ENODEV;
  }
  /** what the call waits for that answered ASLEEP */
  get waitsFor(): string {
    return this.name;
  }
  /** Makes the long call answer −EINTR: the one under way, or the next one. */
  kick(): void {}
  /** What a mapping of these bytes of the file shows, or −errno. `shared` is false for MAP_PRIVATE. */
  mmap(_offset: number, _length: number, _prot: number, _shared: boolean): Backing | number {
    return -ENODEV;
  }
  /** The events that hold now. */
  poll(): number {
    return DEFAULT_POLLMASK;
  }
  /** Where pollers, epolls and irqfds wait; none for a file that never changes. */
  get waitQueue(): WaitQueue | undefined {
    return undefined;
  }
  /** The last reference is gone. */
  release(): void {}

  /** Takes a reference. */
  get(): this {
    this.references++;
    return this;
  }
  /** Gives a reference back; the last one releases the file. */
  put(): void {
    if (--this.references === 0) this.release();
  }
}
