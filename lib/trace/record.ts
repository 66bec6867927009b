/**
 * The recorder: system calls in, the same system calls out, and a line for each. Around the real kernel it makes traces;
 * around the fake it shows what a program did.
 *
 * What a line needs to be replayed elsewhere comes from the declarations of the requests: which bytes of an argument are
 * pointers, into a mapping (`pointers`) or to a buffer that got its address by `addressOf` (`deref`). An argument that
 * lies in a mapping is `argmap`.
 *
 * The program's own memory: `load` and `store` are peeks and pokes. For memory that the program took as bytes (`memory`)
 * the recorder keeps a copy: what the program changed between two calls becomes pokes before the second, what a call
 * changed becomes peeks after it.
 *
 * What the format has no line for (dup3, epoll, pipe2, a munmap of a part) is made and noted.
 *
 * Missing: other threads. The KVM_RUN of `run` has its line where it was called, its answer once it came.
 */
import { errnoName } from "../abi/errno.ts";
import { F_DUPFD, F_DUPFD_CLOEXEC } from "../abi/fcntl.ts";
import type { FileKind, Request } from "../abi/ioctl.ts";
import { KVM_RUN } from "../abi/kvm.ts";
import { type Place, placesOf } from "../abi/places.ts";
import { type Arch, findRequest, numberOn } from "../abi/requests.ts";
import { load32, loadNumber64 } from "../abi/struct.ts";
import { SIGBUS, SIGSEGV } from "../kernel/address-space.ts";
import type { UserArgument } from "../kernel/argument.ts";
import type { EpollEvent, PollFd, Syscalls } from "../kernel/syscalls.ts";
import { type IoctlLine, type TraceDeref, type TraceLine, toHex } from "./format.ts";

const EINTR = 4;
const POINTER = 8;
/** changed bytes closer than this are one peek or poke */
const GAP = 16;
const limits: Record<number, string> = { 7: "RLIMIT_NOFILE", 8: "RLIMIT_MEMLOCK" };

/** What `record` can wrap: the native kernel has more than the one interface. */
export interface Recordable extends Syscalls {
  run?(fd: number): Promise<number>;
  kick?(fd: number): void;
}

/** What the recorder has to know of the kernel behind it. */
export interface RecordOptions {
  /** whose request numbers the kernel takes */
  arch?: Arch;
}

interface NamedMapping {
  readonly name: string;
  readonly start: number;
  readonly length: number;
}

/** Memory that the program looks at as bytes, and how it was at the last call. */
interface Watched {
  readonly mapping: NamedMapping;
  readonly offset: number;
  readonly live: Uint8Array;
  readonly copy: Uint8Array;
}

/** `lines` as the calls are made so far, whole. */
type Draft<L extends TraceLine = TraceLine> = L extends TraceLine ? Omit<L, "n"> : never;

/** A process whose calls are written down. */
export class Recorder implements Recordable {
  readonly lines: TraceLine[];
  readonly #inner: Recordable;
  readonly #arch: Arch;
  readonly #child: boolean;
  readonly #kinds = new Map<number, FileKind>();
  readonly #mappings: NamedMapping[] = [];
  #mappingCount = 0;
  /** buffers whose address was asked, latest first */
  readonly #buffers: { start: number; bytes: Uint8Array }[] = [];
  #watched: Watched[] = [];

  constructor(inner: Recordable, options: RecordOptions = {}, lines: TraceLine[] = [], child = false) {
    this.#inner = inner;
    this.#arch = options.arch ?? "x86_64";
    this.lines = lines;
    this.#child = child;
  }

  /** A comment in the trace. */
  note(text: string): void {
    this.#push({ call: "note", text });
  }

  open(path: string, flags: number): number {
    this.#pokes();
    const ret = this.#inner.open(path, flags);
    if (path === "/dev/kvm" && ret >= 0) this.#kinds.set(ret, "system");
    return this.#answered({ call: "open", path, flags: hex(flags) }, ret);
  }

  close(fd: number): number {
    this.#pokes();
    const ret = this.#inner.close(fd);
    if (ret >= 0) this.#kinds.delete(fd);
    return this.#answered({ call: "close", fd }, ret);
  }

  dup(fd: number): number {
    this.#pokes();
    return this.#answered({ call: "dup", fd }, this.#same(fd, this.#inner.dup(fd)));
  }

  dup3(fd: number, to: number, flags: number): number {
    return this.#noted(`dup3 of ${fd} to ${to}`, this.#same(fd, this.#inner.dup3(fd, to, flags)));
  }

  fcntl(fd: number, command: number, argument = 0): number {
    this.#pokes();
    const ret = this.#inner.fcntl(fd, command, argument);
    if (command === F_DUPFD || command === F_DUPFD_CLOEXEC) this.#same(fd, ret);
    return this.#answered({ call: "fcntl", fd, cmd: command, arg: hex(argument) }, ret);
  }

  ioctl(fd: number, request: number | Request, argument: UserArgument = 0): number {
    this.#pokes();
    const number = typeof request === "number" ? request >>> 0 : numberOn(this.#arch, request);
    const found = findRequest(this.#arch, number, this.#kinds.get(fd)) ?? findRequest(this.#arch, number);
    const line: Draft<IoctlLine> = { call: "ioctl", fd, request: hex(number), ret: 0 };
    if (found !== undefined) line.name = found.name;
    if (this.#child) line.process = "child";
    const bytes = this.#argumentBytes(argument);
    const { places, buffers } = bytes === undefined ? NOTHING : this.#pointers(line, found?.request, bytes);
    if (bytes === undefined) this.#plainArgument(line, argument as number | bigint, found?.request);
    else line.in = this.#hexOf(bytes, places);
    const ret = this.#inner.ioctl(fd, number, argument);
    if (bytes !== undefined) {
      const out = this.#hexOf(bytes, places);
      if (out !== line.in) line.out = out;
      buffers.forEach((buffer, i) => {
        const after = toHex(buffer);
        if (after !== line.deref![i].in) line.deref![i].out = after;
      });
      this.#learn(found?.request, bytes, ret);
    }
    if (found?.request.returns !== undefined && ret >= 0) this.#kinds.set(ret, found.request.returns);
    return this.#answered(line, ret);
  }

  /** An argument that is a value, a bad address, or an address in a mapping. */
  #plainArgument(line: Draft<IoctlLine>, argument: number | bigint, request: Request | undefined): void {
    const mapping = request?.copy === "value" ? undefined : this.#mappingAt(Number(argument));
    if (mapping === undefined) line.arg = hex(argument);
    else line.argmap = { map: mapping.name, offset: Number(argument) - mapping.start };
  }

  /** The bytes behind an argument, if it is bytes or points to some that got an address. */
  #argumentBytes(argument: UserArgument): Uint8Array | undefined {
    return typeof argument === "number" || typeof argument === "bigint"
      ? this.#bufferAt(Number(argument))
      : argument;
  }

  /** Which pointer fields point where, before the call. */
  #pointers(line: Draft<IoctlLine>, request: Request | undefined, bytes: Uint8Array) {
    const places: Place[] = [];
    const buffers: Uint8Array[] = [];
    for (const place of pointerPlaces(request, bytes)) {
      const address = loadNumber64(bytes, place.at);
      const mapping = this.#mappingAt(address);
      const buffer = this.#bufferAt(address);
      if (mapping !== undefined) {
        const pointer = { at: place.at, map: mapping.name, offset: address - mapping.start };
        line.pointers = [...(line.pointers ?? []), pointer];
      } else if (buffer !== undefined) {
        const deref: TraceDeref = { at: place.at, in: toHex(buffer) };
        line.deref = [...(line.deref ?? []), deref];
        buffers.push(buffer);
      } else continue;
      places.push(place);
    }
    return { places, buffers };
  }

  /** The bytes in hex, addresses left out: they differ from run to run. */
  #hexOf(bytes: Uint8Array, addresses: readonly Place[]): string {
    if (addresses.length === 0) return toHex(bytes);
    const copy = bytes.slice();
    for (const { at, size } of addresses) copy.fill(0, at, at + size);
    return toHex(copy);
  }

  /** A device's descriptor comes back inside the struct. */
  #learn(request: Request | undefined, bytes: Uint8Array, ret: number): void {
    if (ret < 0 || request?.struct === undefined || request.copy !== "inout") return;
    if (bytes.length < request.struct.size) return;
    for (const { at } of placesOf(request.struct, "fd")) this.#kinds.set(load32(bytes, at), "device");
  }

  read(fd: number, buffer: Uint8Array | number, count?: number): number {
    return this.#reading("read", fd, buffer, count, undefined);
  }
  pread(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number {
    return this.#reading("pread", fd, buffer, count, offset);
  }
  write(fd: number, buffer: Uint8Array | number, count?: number): number {
    return this.#writing("write", fd, buffer, count, undefined);
  }
  pwrite(fd: number, buffer: Uint8Array | number, count: number, offset: number | bigint): number {
    return this.#writing("pwrite", fd, buffer, count, offset);
  }

  #reading(
    call: "read" | "pread",
    fd: number,
    buffer: Uint8Array | number,
    given: number | undefined,
    offset: number | bigint | undefined,
  ): number {
    this.#pokes();
    const count = given ?? (typeof buffer === "number" ? 0 : buffer.length);
    const inner = this.#inner;
    const ret = offset === undefined ? inner.read(fd, buffer, count) : inner.pread(fd, buffer, count, offset);
    const at = offset === undefined ? {} : { offset: hex(offset) };
    const bytes = ret > 0 ? this.#bytesOf(buffer, ret) : undefined;
    const out = bytes === undefined ? {} : { out: toHex(bytes) };
    const mapping = typeof buffer === "number" ? this.#mappingAt(buffer) : undefined;
    if (bytes === undefined || mapping === undefined)
      return this.#answered({ call, fd, count, ...at, ...out }, ret);
    // the format has no address for a read: what it put into a mapping is put there by a poke
    this.#push({ call, fd, count, ...at, ...out, ret });
    const start = (buffer as number) - mapping.start;
    this.#push({ call: "poke", map: mapping.name, offset: start, bytes: toHex(bytes) });
    for (const { live, copy } of this.#watched) copy.set(live);
    return ret;
  }

  #writing(
    call: "write" | "pwrite",
    fd: number,
    buffer: Uint8Array | number,
    given: number | undefined,
    offset: number | bigint | undefined,
  ): number {
    this.#pokes();
    const count = given ?? (typeof buffer === "number" ? 0 : buffer.length);
    const inner = this.#inner;
    const ret =
      offset === undefined ? inner.write(fd, buffer, count) : inner.pwrite(fd, buffer, count, offset);
    const at = offset === undefined ? {} : { offset: hex(offset) };
    const bytes = this.#bytesOf(buffer, count);
    if (bytes === undefined)
      return this.#noted(`${call} of ${count} bytes at an address that is not mapped`, ret);
    return this.#answered({ call, fd, in: toHex(bytes), ...at }, ret);
  }

  /** The first bytes of a buffer of the program, wherever it is. */
  #bytesOf(buffer: Uint8Array | number, count: number): Uint8Array | undefined {
    if (typeof buffer !== "number") return buffer.length >= count ? buffer.subarray(0, count) : undefined;
    return this.#inner.memory(buffer, count);
  }

  mmap(address: number, length: number, prot: number, flags: number, fd: number, offset: number): number {
    this.#pokes();
    const ret = this.#inner.mmap(address, length, prot, flags, fd, offset);
    const line = { call: "mmap" as const, length, prot, flags: hex(flags), fd, offset: hex(offset) };
    if (ret < 0) return this.#answered(line, ret);
    const mapping = { name: `m${++this.#mappingCount}`, start: ret, length };
    this.#mappings.unshift(mapping);
    this.#answered({ ...line, map: mapping.name }, 0);
    return ret;
  }

  munmap(address: number, length: number): number {
    this.#pokes();
    const index = this.#mappings.findIndex((m) => m.start === address && m.length === length);
    const ret = this.#inner.munmap(address, length);
    const mapping = this.#mappings[index];
    if (mapping === undefined) return this.#noted(`munmap of ${length} bytes that are no whole mapping`, ret);
    if (ret >= 0) {
      this.#mappings.splice(index, 1);
      this.#watched = this.#watched.filter((watched) => watched.mapping !== mapping);
    }
    return this.#answered({ call: "munmap", map: mapping.name }, ret);
  }

  eventfd2(initval: number, flags: number): number {
    this.#pokes();
    return this.#answered(
      { call: "eventfd2", initval, flags: hex(flags) },
      this.#inner.eventfd2(initval, flags),
    );
  }

  poll(fds: PollFd[], timeout: number): number {
    this.#pokes();
    const ret = this.#inner.poll(fds, timeout);
    return this.#answered({ call: "poll", timeout, fds: fds.map((entry) => ({ ...entry })) }, ret);
  }

  epoll_create1(flags: number): number {
    return this.#noted("epoll_create1", this.#inner.epoll_create1(flags));
  }
  epoll_ctl(epfd: number, operation: number, fd: number, event?: EpollEvent): number {
    return this.#noted(`epoll_ctl of ${fd}`, this.#inner.epoll_ctl(epfd, operation, fd, event));
  }
  epoll_wait(epfd: number, events: EpollEvent[], maxevents: number, timeout: number): number {
    return this.#noted("epoll_wait", this.#inner.epoll_wait(epfd, events, maxevents, timeout));
  }
  pipe2(fds: number[], flags: number): number {
    return this.#noted("pipe2", this.#inner.pipe2(fds, flags));
  }

  setrlimit(resource: number, limit: number): number {
    this.#pokes();
    const ret = this.#inner.setrlimit(resource, limit);
    return this.#answered({ call: "setrlimit", resource: limits[resource] ?? String(resource), limit }, ret);
  }

  /** The bytes are watched from now on. */
  memory(address: number, length: number): Uint8Array | undefined {
    const live = this.#inner.memory(address, length);
    const mapping = this.#mappingAt(address);
    if (live === undefined || mapping === undefined) return live;
    const offset = address - mapping.start;
    const known = this.#watched.some(
      (w) => w.mapping === mapping && w.offset <= offset && offset + length <= w.offset + w.live.length,
    );
    if (!known) this.#watched.push({ mapping, offset, live, copy: live.slice() });
    return live;
  }

  addressOf(buffer: Uint8Array): number {
    const start = this.#inner.addressOf(buffer);
    this.#buffers.unshift({ start, bytes: buffer });
    return start;
  }

  load(address: number, width: number): number | bigint | typeof SIGBUS | typeof SIGSEGV {
    this.#pokes();
    const value = this.#inner.load(address, width);
    const mapping = this.#mappingAt(address);
    if (mapping === undefined) return value;
    const where = { call: "peek" as const, map: mapping.name, offset: address - mapping.start, width };
    if (value === SIGBUS || value === SIGSEGV) this.#push({ ...where, count: width, signal: value });
    else this.#push({ ...where, bytes: littleEndian(value, width) });
    return value;
  }

  store(address: number, width: number, value: number | bigint): 0 | typeof SIGBUS | typeof SIGSEGV {
    this.#pokes();
    const result = this.#inner.store(address, width, value);
    const mapping = this.#mappingAt(address);
    if (mapping === undefined) return result;
    const signal = result === 0 ? {} : { signal: result };
    const offset = address - mapping.start;
    this.#push({
      call: "poke",
      map: mapping.name,
      offset,
      width,
      bytes: littleEndian(value, width),
      ...signal,
    });
    this.#peeks();
    return result;
  }

  readable(fd: number, events?: number): Promise<number> {
    return this.#inner.readable(fd, events);
  }

  /** Only the ioctls of a child have lines. */
  fork(): Recorder {
    const child = new Recorder(this.#inner.fork(), { arch: this.#arch }, this.lines, true);
    for (const [fd, kind] of this.#kinds) child.#kinds.set(fd, kind);
    child.#mappings.push(...this.#mappings);
    return child;
  }

  exit(): void {
    this.#watched = [];
    this.#inner.exit();
  }

  settle(): void {
    this.#pokes();
    this.#inner.settle();
    this.#push({ call: "settle" });
    this.#peeks();
  }

  /** KVM_RUN on a thread of its own, where the kernel underneath can. */
  async run(fd: number): Promise<number> {
    if (this.#inner.run === undefined) return this.ioctl(fd, KVM_RUN);
    this.#pokes();
    const number = hex(numberOn(this.#arch, KVM_RUN));
    const line: Draft<IoctlLine> = {
      call: "ioctl",
      fd,
      request: number,
      name: "KVM_RUN",
      arg: "0x0",
      ret: 0,
    };
    const written = this.#push({ ...line, thread: true }) as IoctlLine;
    const ret = await this.#inner.run(fd);
    Object.assign(written, outcome(ret));
    if (ret === -EINTR) written.signal = true;
    this.#peeks();
    return ret;
  }

  kick(fd: number): void {
    this.#inner.kick?.(fd);
  }

  #push(line: Draft): TraceLine {
    const numbered = { n: this.lines.length + 1, ...line } as TraceLine;
    this.lines.push(numbered);
    return numbered;
  }

  /** The line of a call with its answer; then what the call changed in memory. */
  #answered(line: object, ret: number): number {
    const written = { ...line, ...outcome(ret) } as Draft;
    if (this.#child && written.call !== "ioctl")
      this.#push({ call: "note", text: `in the child: ${written.call}` });
    else this.#push(written);
    this.#peeks();
    return ret;
  }

  #noted(text: string, ret: number): number {
    this.#push({ call: "note", text: `${text}: ${ret < 0 ? errnoName(-ret) : ret}` });
    this.#peeks();
    return ret;
  }

  /** A duplicate is of the same kind. */
  #same(fd: number, copy: number): number {
    const kind = this.#kinds.get(fd);
    if (copy >= 0 && kind !== undefined) this.#kinds.set(copy, kind);
    return copy;
  }

  #mappingAt(address: number): NamedMapping | undefined {
    return this.#mappings.find((m) => address >= m.start && address < m.start + m.length);
  }

  #bufferAt(address: number): Uint8Array | undefined {
    const found = this.#buffers.find((b) => address >= b.start && address < b.start + b.bytes.length);
    return found?.bytes.subarray(address - found.start);
  }

  /** What the program wrote since the last call. */
  #pokes(): void {
    this.#changes("poke");
  }

  /** What the call wrote. */
  #peeks(): void {
    this.#changes("peek");
  }

  #changes(call: "peek" | "poke"): void {
    for (const { mapping, offset, live, copy } of this.#watched)
      for (const [from, to] of changedRuns(copy, live)) {
        copy.set(live.subarray(from, to), from);
        this.#push({ call, map: mapping.name, offset: offset + from, bytes: toHex(live.subarray(from, to)) });
      }
  }
}

/** Writes down what a process does. */
export const record = (syscalls: Recordable, options: RecordOptions = {}): Recorder =>
  new Recorder(syscalls, options);

/** Ranges in which two arrays differ. */
export function* differingRuns(a: Uint8Array, b: Uint8Array): Generator<[number, number]> {
  for (let at = 0; at < a.length; at++) {
    if (a[at] === b[at]) continue;
    const from = at;
    while (at < a.length && a[at] !== b[at]) at++;
    yield [from, at];
  }
}

/** The same, with neighbours that are close made one. */
function changedRuns(before: Uint8Array, now: Uint8Array): [number, number][] {
  const runs: [number, number][] = [];
  if (Buffer.compare(before, now) === 0) return runs;
  for (const [from, to] of differingRuns(before, now)) {
    const last = runs.at(-1);
    if (last !== undefined && from - last[1] < GAP) last[1] = to;
    else runs.push([from, to]);
  }
  return runs;
}

/** Every pointer field of an argument: of the head, and of the elements behind it. */
function pointerPlaces(request: Request | undefined, bytes: Uint8Array): Place[] {
  if (request?.struct === undefined || request.copy === "value") return [];
  const places = placesOf(request.struct, "pointer").filter(({ at }) => at + POINTER <= bytes.length);
  const { tail } = request;
  if (typeof tail !== "object") return places;
  const found = [...places];
  for (let start = request.struct.size; start + tail.size <= bytes.length; start += tail.size)
    for (const place of placesOf(tail, "pointer")) found.push({ ...place, at: start + place.at });
  return found;
}

const NOTHING: { places: Place[]; buffers: Uint8Array[] } = { places: [], buffers: [] };

const outcome = (ret: number): { ret: number; errno?: string } =>
  ret < 0 ? { ret: -1, errno: errnoName(-ret) } : { ret };

const hex = (value: number | bigint): string => `0x${BigInt.asUintN(64, BigInt(value)).toString(16)}`;

const littleEndian = (value: number | bigint, width: number): string =>
  toHex(Uint8Array.from({ length: width }, (_, i) => Number((BigInt(value) >> BigInt(8 * i)) & 0xffn)));
