/**
 * The descriptor numbers of a fresh process over a process that has other files open: 0, 1 and 2 are /dev/null, and
 * the lowest free number from 3 on is always used. A program then sees the same numbers on the fake, on the real kernel
 * and in a trace.
 *
 * A layer of its own: every call translates the numbers on the way in, and gives a new number on the way out. Descriptors
 * inside structs, and in arrays behind pointers, are found by the declarations. A number that is not open here becomes
 * one that is open nowhere, so the answer to it is the kernel's.
 *
 * RLIMIT_NOFILE is this process's own too. Where the table is full the real limit is lowered for the length of one call,
 * so that EMFILE, and what is checked before it, are the kernel's answers. What the layer decides itself: which number a
 * new descriptor gets.
 *
 * Missing: descriptors passed over sockets, /proc/self/fd paths.
 */
import { attributeDescriptors } from "../abi/device-attributes.ts";
import { F_DUPFD, F_DUPFD_CLOEXEC, O_RDWR } from "../abi/fcntl.ts";
import type { Request } from "../abi/ioctl.ts";
import {
  KVM_CREATE_DEVICE,
  KVM_CREATE_DEVICE_TEST,
  KVM_SET_DEVICE_ATTR,
  KvmCreateDevice,
  KvmDeviceAttr,
} from "../abi/kvm.ts";
import { placesOf } from "../abi/places.ts";
import { findRequest } from "../abi/requests.ts";
import { load32, loadNumber64, store32 } from "../abi/struct.ts";
import type { SIGBUS, SIGSEGV } from "../kernel/address-space.ts";
import type { UserArgument } from "../kernel/argument.ts";
import type { EpollEvent, PollFd } from "../kernel/syscalls.ts";
import { ARCH, type NativeProcess, type NativeSyscalls } from "./process.ts";

const RLIMIT_NOFILE = 7;
const DEFAULT_LIMIT = 1024;
/** added to a number that is not open here */
const NOWHERE = 2 ** 30;
/** a limit below every free number of the host: 0 is always taken */
const NO_ROOM = 1;

/** Four bytes of an argument that hold a descriptor: what stood there, and what was put there for the call. */
interface Translated {
  readonly bytes: Uint8Array;
  readonly at: number;
  readonly before: number;
  readonly during: number;
}

export class FreshDescriptors implements NativeSyscalls {
  readonly #inner: NativeProcess;
  /** the host's number of each descriptor */
  #real: (number | undefined)[] = [];
  /** KVM_DEV_TYPE_… of the host's numbers of devices: what their attributes point to depends on it */
  readonly #deviceTypes = new Map<number, number>();
  #limit = DEFAULT_LIMIT;

  constructor(inner: NativeProcess) {
    this.#inner = inner;
    const first = inner.open("/dev/null", O_RDWR);
    this.#real = [first, inner.dup(first), inner.dup(first)];
  }

  open(path: string, flags: number): number {
    return this.#new(() => this.#inner.open(path, flags));
  }

  close(fd: number): number {
    const result = this.#inner.close(this.#host(fd));
    if (this.#real[fd] !== undefined) this.#real[fd] = undefined;
    return result;
  }

  dup(fd: number): number {
    return this.#new(() => this.#inner.dup(this.#host(fd)));
  }

  /** Where `to` is free, a duplicate holds its place, so that the call itself is the kernel's. */
  dup3(fd: number, to: number, flags: number): number {
    const inner = this.#inner;
    if (!(to >= 0 && to < this.#limit)) return inner.dup3(this.#host(fd), -1, flags);
    let target = this.#real[to];
    const held = target === undefined ? inner.open("/dev/null", O_RDWR) : undefined;
    if (held !== undefined && held < 0) return held;
    target ??= held!;
    const result = inner.dup3(fd === to ? target : this.#host(fd), target, flags);
    if (result >= 0) this.#real[to] = result;
    else if (held !== undefined) inner.close(held);
    return result < 0 ? result : to;
  }

  fcntl(fd: number, command: number, argument = 0): number {
    const inner = this.#inner;
    if (command !== F_DUPFD && command !== F_DUPFD_CLOEXEC)
      return inner.fcntl(this.#host(fd), command, argument);
    if (argument < 0 || argument >= this.#limit) return inner.fcntl(this.#host(fd), command, -1);
    return this.#new(() => inner.fcntl(this.#host(fd), command, 0), argument);
  }

  ioctl(fd: number, request: number | Request, argument: UserArgument = 0): number {
    const inner = this.#inner;
    const host = this.#host(fd);
    const number = typeof request === "number" ? request : request.number;
    const declared = findRequest(ARCH, number, inner.kind(host))?.request;
    if (declared === undefined) return inner.ioctl(host, number, argument);
    const translated = this.#translate(host, declared, argument);
    const room = this.#lowestFree() < this.#limit;
    const call = () => inner.ioctl(host, number, argument);
    const result = room ? call() : inner.withDescriptorLimit(NO_ROOM, call);
    if (declared === KVM_CREATE_DEVICE && result >= 0) this.#learnDevice(argument);
    for (const { bytes, at, before, during } of translated) {
      const after = load32(bytes, at);
      store32(bytes, at, after === during >>> 0 ? before : this.#give(after));
    }
    return declared.returns !== undefined && result >= 0 ? this.#give(result) : result;
  }

  /** Puts the host's numbers into an argument. */
  #translate(host: number, request: Request, argument: UserArgument): Translated[] {
    const translated: Translated[] = [];
    const { struct, behind = {} } = request;
    if (struct === undefined) return translated;
    const head = this.#bytes(argument, struct.size);
    if (head === undefined) return translated;
    const replace = (bytes: Uint8Array, at: number): void => {
      const before = load32(bytes, at) | 0;
      const during = this.#host(before);
      store32(bytes, at, during);
      translated.push({ bytes, at, before, during });
    };
    for (const { at } of placesOf(struct, "fd")) replace(head, at);
    for (const at of request.descriptors?.(head) ?? []) {
      const whole = this.#bytes(argument, at + 4);
      if (whole !== undefined) replace(whole, at);
    }
    for (const { at, field } of placesOf(struct, "pointer")) {
      const rule = behind[field];
      if (!rule?.descriptors) continue;
      const count = typeof rule.bytes === "function" ? rule.bytes(head, {}) : rule.bytes;
      const length = typeof count === "number" ? count : load32(head, struct.offsetOf[count]);
      const array = this.#inner.memory(loadNumber64(head, at), length);
      for (let i = 0; array !== undefined && i + 4 <= length; i += 4) replace(array, i);
    }
    if (request === KVM_SET_DEVICE_ATTR) {
      const { group, attr, addr } = KvmDeviceAttr.at(head);
      for (const at of attributeDescriptors(this.#deviceTypes.get(host) ?? 0, group, attr)) {
        const number = this.#inner.memory(Number(addr) + at, 4);
        if (number !== undefined) replace(number, 0);
      }
    }
    return translated;
  }

  #learnDevice(argument: UserArgument): void {
    const made = this.#bytes(argument, KvmCreateDevice.size);
    if (made === undefined) return;
    const { fd, type, flags } = KvmCreateDevice.at(made);
    if ((flags & KVM_CREATE_DEVICE_TEST) === 0) this.#deviceTypes.set(fd, type);
  }

  /** The live bytes that an argument points to, at least `size` of them. */
  #bytes(argument: UserArgument, size: number): Uint8Array | undefined {
    if (typeof argument === "number" || typeof argument === "bigint")
      return this.#inner.memory(Number(argument), size);
    return argument.length >= size ? argument : undefined;
  }

  read(fd: number, buffer: Uint8Array | number, count?: number): number {
    return this.#inner.read(this.#host(fd), buffer, count);
  }
  write(fd: number, buffer: Uint8Array | number, count?: number): number {
    return this.#inner.write(this.#host(fd), buffer, count);
  }
  pread(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number {
    return this.#inner.pread(this.#host(fd), buffer, count, offset);
  }
  pwrite(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number {
    return this.#inner.pwrite(this.#host(fd), buffer, count, offset);
  }
  mmap(address: number, length: number, prot: number, flags: number, fd: number, offset: number): number {
    return this.#inner.mmap(address, length, prot, flags, this.#host(fd), offset);
  }
  munmap(address: number, length: number): number {
    return this.#inner.munmap(address, length);
  }
  eventfd2(initval: number, flags: number): number {
    return this.#new(() => this.#inner.eventfd2(initval, flags));
  }

  poll(fds: PollFd[], timeout: number): number {
    const hosts = fds.map((entry) => ({ ...entry, fd: this.#host(entry.fd) }));
    const call = () => this.#inner.poll(hosts, timeout);
    const result = fds.length > this.#limit ? this.#inner.withDescriptorLimit(this.#limit, call) : call();
    fds.forEach((entry, i) => {
      entry.revents = hosts[i].revents;
    });
    return result;
  }

  epoll_create1(flags: number): number {
    return this.#new(() => this.#inner.epoll_create1(flags));
  }
  epoll_ctl(epfd: number, operation: number, fd: number, event?: EpollEvent): number {
    return this.#inner.epoll_ctl(this.#host(epfd), operation, this.#host(fd), event);
  }
  epoll_wait(epfd: number, events: EpollEvent[], maxevents: number, timeout: number): number {
    return this.#inner.epoll_wait(this.#host(epfd), events, maxevents, timeout);
  }

  /** Two numbers or none: with one free number the real limit leaves one, too. */
  pipe2(fds: number[], flags: number): number {
    const inner = this.#inner;
    const pair: number[] = [];
    const call = () => inner.pipe2(pair, flags);
    const first = this.#lowestFree();
    let result: number;
    if (first >= this.#limit) result = inner.withDescriptorLimit(NO_ROOM, call);
    else if (this.#lowestFree(first + 1) >= this.#limit) {
      const next = inner.dup(this.#real[0] ?? first);
      inner.close(next);
      result = inner.withDescriptorLimit(next + 1, call);
    } else result = call();
    if (result < 0) return result;
    fds[0] = this.#give(pair[0]);
    fds[1] = this.#give(pair[1]);
    return result;
  }

  setrlimit(resource: number, limit: number): number {
    if (resource !== RLIMIT_NOFILE) return this.#inner.setrlimit(resource, limit);
    this.#limit = limit;
    return 0;
  }

  memory(address: number, length: number): Uint8Array | undefined {
    return this.#inner.memory(address, length);
  }
  addressOf(buffer: Uint8Array): number {
    return this.#inner.addressOf(buffer);
  }
  load(address: number, width: number): number | bigint | typeof SIGBUS | typeof SIGSEGV {
    return this.#inner.load(address, width);
  }
  store(address: number, width: number, value: number | bigint): 0 | typeof SIGBUS | typeof SIGSEGV {
    return this.#inner.store(address, width, value);
  }
  readable(fd: number, events?: number): Promise<number> {
    return this.#inner.readable(this.#host(fd), events);
  }
  run(fd: number): Promise<number> {
    return this.#inner.run(this.#host(fd));
  }
  kick(fd: number): void {
    this.#inner.kick(this.#host(fd));
  }
  fork(): never {
    return this.#inner.fork();
  }
  exit(): void {
    this.#real = [];
    this.#inner.exit();
  }
  settle(): void {
    this.#inner.settle();
  }

  /** The host's number; negative ones are nobody's, and stay. */
  #host(fd: number): number {
    return this.#real[fd] ?? (fd >= 0 && fd < NOWHERE ? fd + NOWHERE : fd);
  }

  /** A call that answers a new descriptor, to be shown at the lowest free number from `from` on. */
  #new(call: () => number, from = 0): number {
    const room = this.#lowestFree(from) < this.#limit;
    const real = room ? call() : this.#inner.withDescriptorLimit(NO_ROOM, call);
    return real < 0 ? real : this.#give(real, from);
  }

  #give(real: number, from = 0): number {
    const fd = this.#lowestFree(from);
    this.#real[fd] = real;
    return fd;
  }

  #lowestFree(from = 0): number {
    let fd = from;
    while (this.#real[fd] !== undefined) fd++;
    return fd;
  }
}
