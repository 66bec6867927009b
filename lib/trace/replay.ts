/**
 * Replay: makes the calls of a trace on a kernel under test that is built from the header alone, and compares every
 * answer with the recorded one.
 *
 * What counts as a call: every line but `note`, `settle` and `event`, which have no answer to compare (one that fails or throws
 * counts, as different). Each call counts exactly once, as identical or as different, whatever happened before it.
 *
 * A call that differs does not end the replay. Afterwards the program's own state is put right, so that later calls
 * mean what they meant:
 *
 * - a descriptor that the recorded kernel gave and ours did not: its number is taken by a stand-in, and every call on
 *   it is different ("descriptor 5 is missing here") without being made;
 * - a descriptor that ours gave and the recorded kernel did not is closed; one with another number is moved;
 * - a mapping that is missing is replaced by plain memory, so that pointers into it have an address; reading and
 *   writing it is different.
 *
 * Calls of a forked child (`process: "child"`) are made from a fork of the process. The recorder had a pipe open
 * across the fork, so two descriptors are taken in the child; consecutive lines share one child.
 *
 * Missing: threads. Calls of other threads (`tid`, `thread`) are made in the order of the trace.
 */
import { argumentBytes, type Request } from "../abi/ioctl.ts";
import { MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_PRIVATE } from "../abi/mman.ts";
import { load32, loadNumber64, store32, store64 } from "../abi/struct.ts";
import type { Syscalls } from "../kernel/syscalls.ts";
import { compareBytes, compareResult } from "./compare.ts";
import { descriptorInAnswer, returnsDescriptor } from "./descriptors.ts";
import {
  type EventLine,
  fromHex,
  fromHexNumber,
  type IoctlLine,
  type MmapLine,
  type PeekLine,
  type PokeLine,
  type PollLine,
  type ReadLine,
  type SetrlimitLine,
  type Trace,
  type TraceHeader,
  type TraceLine,
} from "./format.ts";
import type { KnownCall } from "./known.ts";
import { descriptorsIn, layoutOf, loadWidth, pointersIn } from "./layout.ts";
import { machineOf } from "./machine-of.ts";
import { requestOf } from "./requests.ts";

/** The kernel under test. A machine is one; the hooks are for what a program cannot do itself. */
export interface KernelUnderTest {
  process(options?: { firstDescriptor?: number }): Syscalls;
  /** A write to a file of sysfs from outside the program: ≥ 0, or −errno. */
  sysfs?(path: string, value: string): number;
  /** The process gives a capability up ("CAP_IPC_LOCK"). */
  dropCapability?(process: Syscalls, name: string): void;
  /** KVM_RUN, where the trace tells more than the call: on a thread of its own, ended by a signal. */
  run?(process: Syscalls, fd: number, line: IoctlLine): number;
  /**
   * Bytes of device files read since the last call of this that stand for registers which no device model here knows:
   * they are not compared, and counted.
   */
  unmodelledReads?(): readonly { offset: number; length: number }[];
}

/** Builds the kernel under test from the header of a trace. */
export type KernelFactory = (header: TraceHeader) => KernelUnderTest;

/** How a trace is replayed. */
export interface ReplayOptions {
  /** builds the kernel under test from the header; the default is the machine that the header describes */
  kernel?: KernelFactory;
  /** calls that are meant to differ, see known.ts */
  known?: readonly KnownCall[];
}

/** One call that differs. */
export interface Difference {
  /** the number of the call */
  n: number;
  /** the line of the file */
  line: number;
  /** what was called: `KVM_IRQFD`, `open` */
  call: string;
  /** what differs, in words */
  what: string;
  /** whether the kernel under test threw */
  threw: boolean;
}

/** What a replay found; every call counts once, as identical, different or known. */
export interface ReplayResult {
  name: string;
  /** the release of the recorded kernel */
  kernel: string;
  arch: string;
  calls: number;
  identical: number;
  different: number;
  /** in the order of the trace; as many as `different` */
  differences: Difference[];
  /** calls that differ and are meant to, neither identical nor different */
  known: number;
  /** bytes that were not compared: registers of devices that no model here knows */
  excludedBytes: number;
}

/** `call 12 KVM_IRQFD: answered EINVAL, the kernel answered 0` */
export const describe = (difference: Difference): string =>
  `call ${difference.n} ${difference.call}: ${difference.what}`;

/** Makes the calls of a trace and compares. Never throws for what the kernel under test does. */
export function replay(trace: Trace, options: ReplayOptions = {}): ReplayResult {
  const { header, lines } = trace;
  const differences: Difference[] = [];
  let calls = 0;
  let known = 0;
  const isKnown = (line: TraceLine): boolean =>
    options.known?.some(({ trace: name, call }) => name === header.scenario && call === line.n) ?? false;
  const different = (line: TraceLine, index: number, what: string, threw: boolean): void => {
    differences.push({ n: line.n, line: index + 2, call: callName(header, line), what, threw });
  };
  let program: Program;
  try {
    program = new Program(header, (options.kernel ?? machineOf)(header));
  } catch (error) {
    lines.forEach((line, index) => {
      if (isCall(line)) different(line, index, `the machine could not be built: ${thrown(error)}`, true);
    });
    calls = differences.length;
    return summary(trace, calls, differences, known, 0);
  }
  lines.forEach((line, index) => {
    if (isCall(line)) calls++;
    try {
      const what = program.make(line);
      if (what !== undefined && isKnown(line)) known++;
      else if (what !== undefined) different(line, index, what, false);
    } catch (error) {
      if (!isCall(line)) calls++;
      different(line, index, thrown(error), true);
      program.recover(line);
    }
  });
  program.end();
  return summary(trace, calls, differences, known, program.excludedBytes);
}

function summary(
  trace: Trace,
  calls: number,
  differences: Difference[],
  known: number,
  excludedBytes: number,
): ReplayResult {
  return {
    name: trace.name,
    kernel: trace.header.kernel,
    arch: trace.header.arch,
    calls,
    identical: calls - differences.length - known,
    different: differences.length,
    differences,
    known,
    excludedBytes,
  };
}

/** Whether a line has an answer to compare. */
export const isCall = (line: TraceLine): boolean =>
  line.call !== "note" && line.call !== "settle" && line.call !== "event";

/** What a line calls, in one word. */
export const callName = (header: TraceHeader, line: TraceLine): string =>
  line.call === "ioctl" ? requestOf(header, line).name : line.call;

/** An exception inside a system call: always a bug of the kernel under test. */
function thrown(error: unknown): string {
  if (!(error instanceof Error)) return `threw ${String(error)}`;
  const place = error.stack?.split("\n").find((row) => row.trimStart().startsWith("at "));
  return `threw ${error.name}: ${error.message}${place === undefined ? "" : ` (${place.trim()})`}`;
}

interface NamedMapping {
  address: number;
  length: number;
  /** where in its file it starts */
  fileOffset: number;
  /** why it is not what the trace mapped */
  missing?: string;
}

interface Child {
  process: Syscalls;
  pipe: number[];
}

/** The recorded program: its descriptors and mappings by their recorded names, and how its calls are made. */
class Program {
  readonly #header: TraceHeader;
  readonly #kernel: KernelUnderTest;
  readonly #process: Syscalls;
  readonly #partial: boolean;
  /** recorded descriptor → ours, where recorded numbers are names */
  readonly #ours = new Map<number, number>();
  /** recorded descriptors that do not exist here, and why */
  readonly #missing = new Map<number, string>();
  readonly #maps = new Map<string, NamedMapping>();
  #child: Child | undefined;
  /** bytes that were read and not compared */
  excludedBytes = 0;

  constructor(header: TraceHeader, kernel: KernelUnderTest) {
    this.#header = header;
    this.#kernel = kernel;
    this.#partial = header.descriptors === "partial";
    this.#process = kernel.process({ firstDescriptor: header.firstDescriptor ?? 3 });
  }

  /** Makes one call: what differs, or undefined. */
  make(line: TraceLine): string | undefined {
    if (line.call === "note") return undefined;
    const inChild = line.call === "ioctl" && line.process === "child";
    if (!inChild) this.#endChild();
    if ("fd" in line && line.call !== "mmap") {
      const missing = this.#missing.get(line.fd);
      if (missing !== undefined) {
        this.#standIn(line);
        return `descriptor ${line.fd} is missing here (${missing})`;
      }
    }
    const process = inChild ? this.#forked().process : this.#process;
    switch (line.call) {
      case "settle":
        process.settle();
        return undefined;
      case "ioctl":
        return this.#ioctl(line, process);
      case "open":
        return this.#descriptor(line, process.open(line.path, Number(line.flags)));
      case "dup":
        return this.#descriptor(line, process.dup(this.#fd(line.fd)));
      case "eventfd2":
        return this.#descriptor(line, process.eventfd2(line.initval, Number(line.flags)));
      case "fcntl": {
        const result = process.fcntl(this.#fd(line.fd), line.cmd, Number(line.arg));
        return returnsDescriptor(this.#header, line)
          ? this.#descriptor(line, result)
          : compareResult(result, line.ret, line.errno);
      }
      case "close": {
        const result = process.close(this.#fd(line.fd));
        if (line.ret >= 0) this.#ours.delete(line.fd);
        return compareResult(result, line.ret, line.errno);
      }
      case "read":
      case "pread":
        return this.#read(line);
      case "write":
        return compareResult(process.write(this.#fd(line.fd), fromHex(line.in)), line.ret, line.errno);
      case "pwrite": {
        const bytes = fromHex(line.in);
        const offset = fromHexNumber(line.offset!);
        return compareResult(
          process.pwrite(this.#fd(line.fd), bytes, bytes.length, offset),
          line.ret,
          line.errno,
        );
      }
      case "mmap":
        return this.#mmap(line);
      case "munmap": {
        const map = this.#map(line.map);
        if (map === undefined) return `mapping ${line.map} was never made`;
        const result = process.munmap(map.address, map.length);
        return map.missing ?? compareResult(result, line.ret, line.errno);
      }
      case "peek":
        return this.#peek(line);
      case "poke":
        return this.#poke(line);
      case "poll":
        return this.#poll(line);
      case "setrlimit":
        return this.#setrlimit(line);
      case "event":
        return this.#event(line);
    }
  }

  /** After a call that threw: what it should have made is made up for. */
  recover(line: TraceLine): void {
    if (line.call === "ioctl" && line.process === "child") return;
    if (line.call === "mmap" && line.map !== undefined) this.#substitute(line, "its mmap threw");
    else if ("ret" in line && line.ret >= 0 && returnsDescriptor(this.#header, line))
      this.#settleDescriptor(line.ret, undefined, `call ${line.n} threw`);
    else if (line.call === "ioctl" && line.ret >= 0) {
      const at = descriptorInAnswer(line);
      if (at !== undefined)
        this.#settleDescriptor(load32(fromHex(line.out ?? line.in!), at), undefined, `call ${line.n} threw`);
    }
  }

  end(): void {
    try {
      this.#endChild();
      this.#process.exit();
    } catch {
      // the trace is over: what an exit throws belongs to no call
    }
  }

  // --- descriptors ------------------------------------------------------------------------------------------------

  /** Our number for a recorded descriptor. One that the trace never opened stays as it is: it is no file here. */
  #fd(recorded: number): number {
    return this.#partial ? (this.#ours.get(recorded) ?? recorded + UNKNOWN_DESCRIPTOR) : recorded;
  }

  /** Compares a call that makes a descriptor, and brings the numbers in step again. */
  #descriptor(line: TraceLine & { ret: number; errno?: string }, result: number, process = this.#process) {
    const named = this.#partial && result >= 0 && line.ret >= 0;
    const what = named ? undefined : compareResult(result, line.ret, line.errno);
    if (process === this.#process)
      this.#settleDescriptor(
        line.ret >= 0 ? line.ret : undefined,
        result >= 0 ? result : undefined,
        `call ${line.n} ${callName(this.#header, line)} ${what ?? ""}`.trimEnd(),
      );
    return what;
  }

  /** `recorded` and `ours` are the descriptors that a call made there and here. */
  #settleDescriptor(recorded: number | undefined, ours: number | undefined, why: string): void {
    if (recorded === undefined) {
      if (ours !== undefined) this.#process.close(ours);
      return;
    }
    const stale = this.#missing.delete(recorded);
    if (this.#partial) {
      const old = this.#ours.get(recorded);
      if (old !== undefined) this.#process.close(old);
      if (ours !== undefined) this.#ours.set(recorded, ours);
      else {
        this.#ours.delete(recorded);
        this.#missing.set(recorded, why);
      }
      return;
    }
    if (ours === undefined) {
      this.#missing.set(recorded, why);
      if (!stale) this.#occupy(recorded);
    } else if (ours !== recorded) {
      this.#process.dup3(ours, recorded, 0);
      this.#process.close(ours);
    }
  }

  /** A stand-in takes a number, so that later descriptors get the recorded ones. */
  #occupy(number: number): void {
    const fd = this.#process.eventfd2(0, 0);
    if (fd < 0 || fd === number) return;
    this.#process.dup3(fd, number, 0);
    this.#process.close(fd);
  }

  /** What a call on a missing descriptor leaves behind: as if it had failed here. */
  #standIn(line: TraceLine & { fd: number }): void {
    if (line.call === "close") {
      if (line.ret < 0) return;
      this.#missing.delete(line.fd);
      if (!this.#partial) this.#process.close(line.fd);
      return;
    }
    const why = `it comes from descriptor ${line.fd}`;
    if (!("ret" in line) || line.ret < 0) return;
    if (line.call === "ioctl" && line.process === "child") return;
    if (returnsDescriptor(this.#header, line)) this.#settleDescriptor(line.ret, undefined, why);
    else if (line.call === "ioctl") {
      const at = descriptorInAnswer(line);
      if (at !== undefined) this.#settleDescriptor(load32(fromHex(line.out ?? line.in!), at), undefined, why);
    }
  }

  // --- the forked child -------------------------------------------------------------------------------------------

  #forked(): Child {
    if (this.#child === undefined) {
      const pipe = [-1, -1];
      this.#process.pipe2(pipe, 0);
      this.#child = { process: this.#process.fork(), pipe };
    }
    return this.#child;
  }

  #endChild(): void {
    const child = this.#child;
    if (child === undefined) return;
    this.#child = undefined;
    child.process.exit();
    for (const fd of child.pipe) if (fd >= 0) this.#process.close(fd);
  }

  // --- ioctl ------------------------------------------------------------------------------------------------------

  #ioctl(line: IoctlLine, process: Syscalls): string | undefined {
    const fd = this.#fd(line.fd);
    const request = Number(line.request);
    if (line.in === undefined) {
      const argument = line.argmap
        ? (this.#map(line.argmap.map)?.address ?? 0) + line.argmap.offset
        : fromHexNumber(line.arg!);
      const special = line.thread || line.kicked || line.signal;
      const result =
        special && this.#kernel.run !== undefined
          ? this.#kernel.run(process, fd, line)
          : process.ioctl(fd, request, argument);
      return returnsDescriptor(this.#header, line)
        ? this.#descriptor(line, result, process)
        : compareResult(result, line.ret, line.errno);
    }
    return this.#ioctlWithBytes(line, process, fd, request);
  }

  #ioctlWithBytes(line: IoctlLine, process: Syscalls, fd: number, request: number): string | undefined {
    const { request: declared } = requestOf(this.#header, line);
    const recordedIn = fromHex(line.in!);
    const whole = new Uint8Array(
      Math.max(recordedIn.length, line.errno === "EFAULT" ? 0 : believed(declared, recordedIn)),
    );
    whole.set(recordedIn);
    const argument = whole.subarray(0, recordedIn.length);
    const put: { at: number; address: number }[] = [];
    const point = (at: number, address: number): void => {
      store64(argument, at, address);
      put.push({ at, address });
    };
    for (const { at, map, offset } of line.pointers ?? []) point(at, (this.#map(map)?.address ?? 0) + offset);
    const buffers = (line.deref ?? []).map((deref) => {
      const bytes = fromHex(deref.in);
      const address = process.addressOf(bytes);
      point(deref.at, address);
      return { ...deref, bytes, address };
    });
    const translated: { at: number; recorded: number; ours: number }[] = [];
    let scratch = -1;
    if (this.#partial) {
      for (const at of descriptorsIn(declared, argument)) {
        const recorded = load32(argument, at);
        const ours = this.#ours.get(recorded);
        if (ours === undefined) continue;
        store32(argument, at, ours);
        translated.push({ at, recorded, ours });
      }
      // pointers that the recorder of such a program did not follow, blanked or not: any memory stands for them
      const followed = new Set(put.map(({ at }) => at));
      for (const at of pointersIn(declared, argument)) {
        if (followed.has(at)) continue;
        if (scratch < 0) scratch = process.mmap(0, SCRATCH, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        point(at, scratch);
      }
    }

    const result = process.ioctl(fd, request, whole);

    // an address of ours means nothing in the trace; one that the kernel changed stays, and differs
    for (const { at, address } of put)
      if (loadNumber64(argument, at) === address) argument.set(recordedIn.subarray(at, at + 8), at);
    for (const { at, recorded, ours } of translated)
      if (load32(argument, at) === ours) store32(argument, at, recorded);
    for (const { address, bytes } of buffers) process.munmap(address, bytes.length);
    if (scratch >= 0) process.munmap(scratch, SCRATCH);

    const recordedOut = line.out === undefined ? recordedIn : fromHex(line.out);
    const parts: (string | undefined)[] = [];
    parts.push(
      returnsDescriptor(this.#header, line)
        ? this.#descriptor(line, result, process)
        : compareResult(result, line.ret, line.errno),
    );
    const made = descriptorInAnswer(line);
    if (made !== undefined) this.#madeInAnswer(line, result, argument, recordedOut, made, parts);
    // where one succeeded and the other failed the bytes differ for that reason
    if (parts[0] !== undefined && result < 0 !== line.ret < 0) return parts[0];
    parts.push(
      compareBytes(
        "out",
        argument.subarray(0, recordedIn.length),
        recordedOut,
        line.volatile,
        layoutOf(declared),
      ),
    );
    for (const { at, bytes, in: before, out, volatile } of buffers)
      parts.push(compareBytes(`the buffer behind offset ${at}`, bytes, fromHex(out ?? before), volatile));
    return join(parts);
  }

  /** A descriptor that the call wrote into its argument: compared as a number, or taken as a name. */
  #madeInAnswer(
    line: IoctlLine,
    result: number,
    ours: Uint8Array,
    recorded: Uint8Array,
    at: number,
    parts: (string | undefined)[],
  ): void {
    const here = result >= 0 ? load32(ours, at) : undefined;
    const there = line.ret >= 0 ? load32(recorded, at) : undefined;
    this.#settleDescriptor(there, here, `call ${line.n} ${parts[0] ?? ""}`.trimEnd());
    if (this.#partial && here !== undefined && there !== undefined) store32(ours, at, there);
  }

  // --- reading, polling -------------------------------------------------------------------------------------------

  #read(line: ReadLine): string | undefined {
    const fd = this.#fd(line.fd);
    const buffer = new Uint8Array(line.count);
    this.#kernel.unmodelledReads?.();
    const result =
      line.call === "read"
        ? this.#process.read(fd, buffer, line.count)
        : this.#process.pread(fd, buffer, line.count, fromHexNumber(line.offset!));
    const differs = compareResult(result, line.ret, line.errno);
    if (differs !== undefined) return differs;
    const recorded = fromHex(line.out ?? "");
    this.#exclude(buffer, recorded, Number(line.offset ?? 0));
    return compareBytes("out", buffer.subarray(0, recorded.length), recorded, line.volatile);
  }

  /** What no device model here knows counts as it was recorded. `start` is where the bytes lie in the device's file. */
  #exclude(ours: Uint8Array, recorded: Uint8Array, start: number): void {
    for (const { offset, length } of this.#kernel.unmodelledReads?.() ?? [])
      for (let at = offset - start; at < offset - start + length; at++) {
        if (at < 0 || at >= recorded.length) continue;
        ours[at] = recorded[at];
        this.excludedBytes++;
      }
  }

  #poll(line: PollLine): string | undefined {
    const entries = line.fds.map(({ fd, events }) => ({
      fd: fd < 0 ? fd : this.#fd(fd),
      events,
      revents: 0,
    }));
    const result = this.#process.poll(entries, line.timeout);
    const parts = [compareResult(result, line.ret, line.errno)];
    line.fds.forEach(({ fd, revents }, i) => {
      const missing = this.#missing.get(fd);
      if (missing !== undefined) parts.push(`descriptor ${fd} is missing here (${missing})`);
      else if (entries[i].revents !== revents)
        parts.push(`revents of ${fd} are ${entries[i].revents}, the kernel's ${revents}`);
    });
    return join(parts);
  }

  // --- memory -----------------------------------------------------------------------------------------------------

  #map(name: string): NamedMapping | undefined {
    return this.#maps.get(name);
  }

  #mmap(line: MmapLine): string | undefined {
    const missing = this.#missing.get(line.fd);
    if (missing !== undefined) {
      const why = `descriptor ${line.fd} is missing here (${missing})`;
      if (line.map !== undefined) this.#substitute(line, why);
      return why;
    }
    // the recorded address is not known: a fixed mapping goes anywhere
    const flags = Number(line.flags) & ~(MAP_FIXED | MAP_FIXED_NOREPLACE);
    const fd = line.fd < 0 ? -1 : this.#fd(line.fd);
    const result = this.#process.mmap(0, line.length, line.prot, flags, fd, Number(line.offset));
    const differs = compareResult(Math.min(result, 0), line.ret, line.errno);
    if (line.map === undefined) {
      if (result > 0) this.#process.munmap(result, line.length);
    } else if (result > 0)
      this.#maps.set(line.map, { address: result, length: line.length, fileOffset: Number(line.offset) });
    else this.#substitute(line, `call ${line.n} mmap ${differs}`);
    return differs;
  }

  /** Plain memory in the place of a mapping that should be there. */
  #substitute(line: MmapLine, why: string): void {
    const length = Math.max(line.length, 1);
    const address = this.#process.mmap(0, length, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const missing = `mapping ${line.map} is missing here (${why})`;
    this.#maps.set(line.map!, { address: Math.max(address, 0), length, fileOffset: 0, missing });
  }

  #peek(line: PeekLine): string | undefined {
    const map = this.#map(line.map);
    if (map === undefined) return `mapping ${line.map} was never made`;
    if (map.missing !== undefined) return map.missing;
    const address = map.address + line.offset;
    const recorded = line.bytes === undefined ? undefined : fromHex(line.bytes);
    const length = recorded?.length ?? line.count ?? line.width ?? 1;
    this.#kernel.unmodelledReads?.();
    const bytes = this.#load(address, length, line.width);
    if (typeof bytes === "string")
      return bytes === line.signal ? undefined : `took ${bytes}, ${kernelDid(line.signal, "read")}`;
    if (recorded === undefined) return `read ${length} bytes, ${kernelDid(line.signal, "read")}`;
    this.#exclude(bytes, recorded, map.fileOffset + line.offset);
    return compareBytes("bytes", bytes, recorded, line.volatile);
  }

  #poke(line: PokeLine): string | undefined {
    const map = this.#map(line.map);
    if (map === undefined) return `mapping ${line.map} was never made`;
    if (map.missing !== undefined) return map.missing;
    const signal = this.#store(map.address + line.offset, fromHex(line.bytes), line.width);
    return signal === line.signal
      ? undefined
      : `${signal === undefined ? "wrote" : `took ${signal}`}, ${kernelDid(line.signal, "wrote")}`;
  }

  /** Reads memory as the program did: in accesses of `width`, or in any (plain memory at once, devices word by word). */
  #load(address: number, length: number, width: number | undefined): Uint8Array | string {
    if (width === undefined) {
      const memory = this.#process.memory(address, length);
      if (memory !== undefined) return memory;
    }
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const step = width ?? naturalWidth(address + at, length - at);
      const value = this.#process.load(address + at, step);
      if (typeof value === "string") return value;
      const wide = BigInt(value);
      for (let i = 0; i < step && at + i < length; i++)
        bytes[at + i] = Number((wide >> BigInt(8 * i)) & 0xffn);
      at += step;
    }
    return bytes;
  }

  #store(address: number, bytes: Uint8Array, width: number | undefined): string | undefined {
    if (width === undefined) {
      const memory = this.#process.memory(address, bytes.length);
      if (memory !== undefined) {
        memory.set(bytes);
        return undefined;
      }
    }
    for (let at = 0; at < bytes.length; ) {
      const step = width ?? naturalWidth(address + at, bytes.length - at);
      const signal = this.#process.store(address + at, step, loadWidth(bytes, at, step));
      if (signal !== 0) return signal;
      at += step;
    }
    return undefined;
  }

  // --- the rest ---------------------------------------------------------------------------------------------------

  #setrlimit(line: SetrlimitLine): string | undefined {
    const resource = resources[line.resource];
    if (resource === undefined) return `${line.resource} is not a limit that is known here`;
    if (line.without_cap_ipc_lock) this.#kernel.dropCapability?.(this.#process, "CAP_IPC_LOCK");
    return compareResult(this.#process.setrlimit(resource, line.limit), line.ret, line.errno);
  }

  /** What a write to sysfs answered was not recorded: some were meant to fail. */
  #event(line: EventLine): string | undefined {
    if (this.#kernel.sysfs === undefined) return "there is no sysfs here";
    for (const { path, value } of line.writes) this.#kernel.sysfs(path, value);
    return undefined;
  }
}

/**
 * How many bytes the kernel took for the argument's because the argument said so: a call that succeeded read them, and
 * those that the recorder left out were zero.
 */
function believed(declared: Request | undefined, argument: Uint8Array): number {
  const bytes = declared === undefined ? 0 : argumentBytes(declared, argument);
  return bytes <= SCRATCH ? bytes : 0;
}

/** setrlimit's resources by name (include/uapi/asm-generic/resource.h, 6.1). */
export const resources: Record<string, number | undefined> = {
  RLIMIT_CPU: 0,
  RLIMIT_FSIZE: 1,
  RLIMIT_DATA: 2,
  RLIMIT_STACK: 3,
  RLIMIT_CORE: 4,
  RLIMIT_RSS: 5,
  RLIMIT_NPROC: 6,
  RLIMIT_NOFILE: 7,
  RLIMIT_MEMLOCK: 8,
  RLIMIT_AS: 9,
};

/** Added to the number of a file that the trace never opened, so that it meets no file of ours. */
const UNKNOWN_DESCRIPTOR = 1 << 20;
/** The memory that stands for a pointer which the recorder did not follow. */
const SCRATCH = 4096;

const join = (parts: readonly (string | undefined)[]): string | undefined => {
  const told = parts.filter((part) => part !== undefined);
  return told.length === 0 ? undefined : told.join("; ");
};

const kernelDid = (signal: string | undefined, did: string): string =>
  signal === undefined ? `the kernel ${did}` : `the kernel took ${signal}`;

/** The widest aligned access that fits. */
const naturalWidth = (address: number, length: number): number => {
  for (const width of [8, 4, 2]) if (address % width === 0 && length >= width) return width;
  return 1;
};
