/**
 * Answers questions: a question is a line of a trace without what the kernel answered (`ret`, `errno`, `out`, `bytes`,
 * `revents`, `n`), the answer is the whole line. So a program in any language makes system calls of the fake by writing
 * lines, and header and answers together are a trace.
 *
 * Descriptors are the numbers that the fake gives; memory is named by mapping and offset, as in every trace. A mapping is
 * called what the question calls it (`map`), or m1, m2, …; a peek says how many bytes (`count`) it wants.
 *
 * Missing: threads, children, pointers that lead to pointers.
 */
import { errnoName } from "../abi/errno.ts";
import { store64 } from "../abi/struct.ts";
import type { UserArgument } from "../kernel/argument.ts";
import type { Process } from "../kernel/process.ts";
import { Machine } from "../machine/machine.ts";
import { profileFromHeader } from "../machine/profile.ts";
import {
  fromHex,
  fromHexNumber,
  type IoctlLine,
  type PeekLine,
  type PokeLine,
  parseLine,
  TraceError,
  type TraceHeader,
  type TraceLine,
  toHex,
} from "./format.ts";
import { loadWidth } from "./layout.ts";
import { resources } from "./replay.ts";

interface NamedMapping {
  readonly address: number;
  readonly length: number;
}

/** What is not a question, or asks for what there is not: told, and the next question is answered as ever. */
export interface Refusal {
  readonly error: string;
}

export class Answers {
  readonly machine: Machine;
  readonly process: Process;
  readonly #maps = new Map<string, NamedMapping>();
  /** calls made */
  #count = 0;
  /** questions put, those that were none included */
  #asked = 0;

  constructor(header: TraceHeader) {
    this.machine = new Machine(profileFromHeader(header));
    this.process = this.machine.process({ firstDescriptor: header.firstDescriptor ?? 3 });
  }

  /** Makes the call of a line of JSON: the line with its answer. */
  answer(source: string): TraceLine | Refusal {
    const where = `question ${++this.#asked}`;
    try {
      return this.#answer(this.#question(source, where));
    } catch (error) {
      if (!(error instanceof TraceError)) throw error;
      const { message } = error;
      return { error: message.startsWith(where) ? message : `${where}: ${message}` };
    }
  }

  /** The question as a whole line, its answers empty. */
  #question(source: string, where: string): TraceLine {
    let given: unknown;
    try {
      given = JSON.parse(source);
    } catch (error) {
      throw new TraceError(`${where}: not JSON: ${(error as Error).message}`);
    }
    if (typeof given !== "object" || given === null || Array.isArray(given))
      throw new TraceError(`${where}: not an object`);
    const line: Record<string, unknown> = { n: this.#count + 1, ...given };
    const { call } = line;
    const unanswered = ["peek", "poke", "settle", "note", "event"];
    if (!unanswered.includes(String(call))) line.ret = 0;
    if (call === "peek") line.bytes = "";
    if (call === "mmap") line.map ??= `m${this.#maps.size + 1}`;
    if (call === "poll" && Array.isArray(line.fds))
      line.fds = line.fds.map((entry: object) => ({ revents: 0, ...entry }));
    const checked = parseLine(JSON.stringify(line), where);
    for (const key of ["process", "thread", "tid", "signal", "kicked"])
      if (key in line) throw new TraceError(`${where}: "${key}": one process with one thread asks`);
    this.#count++;
    return checked;
  }

  #answer(line: TraceLine): TraceLine {
    const { process } = this;
    switch (line.call) {
      case "open":
        return answered(line, process.open(line.path, Number(line.flags)));
      case "close":
        return answered(line, process.close(line.fd));
      case "dup":
        return answered(line, process.dup(line.fd));
      case "eventfd2":
        return answered(line, process.eventfd2(line.initval, Number(line.flags)));
      case "fcntl":
        return answered(line, process.fcntl(line.fd, line.cmd, Number(line.arg)));
      case "ioctl":
        return this.#ioctl(line);
      case "read":
      case "pread": {
        const bytes = room(line.count);
        const result =
          line.call === "read"
            ? process.read(line.fd, bytes)
            : process.pread(line.fd, bytes, line.count, fromHexNumber(line.offset!));
        const whole = answered(line, result);
        return result > 0 ? { ...whole, out: toHex(bytes.subarray(0, result)) } : whole;
      }
      case "write":
        return answered(line, process.write(line.fd, fromHex(line.in)));
      case "pwrite": {
        const bytes = fromHex(line.in);
        return answered(line, process.pwrite(line.fd, bytes, bytes.length, fromHexNumber(line.offset!)));
      }
      case "mmap": {
        const { map, length, prot, flags, fd, offset, ...rest } = line;
        const result = process.mmap(0, length, prot, Number(flags), fd, Number(offset));
        const whole = { ...rest, length, prot, flags, fd, offset };
        if (result < 0) return answered(whole, result);
        this.#maps.set(map!, { address: result, length });
        return { ...whole, map: map! };
      }
      case "munmap": {
        const { address, length } = this.#map(line.map);
        return answered(line, process.munmap(address, length));
      }
      case "peek":
        return this.#peek(line);
      case "poke":
        return this.#poke(line);
      case "poll": {
        const fds = line.fds.map((entry) => ({ ...entry, revents: 0 }));
        const result = process.poll(fds, line.timeout);
        return answered({ ...line, fds }, result);
      }
      case "setrlimit": {
        const resource = resources[line.resource];
        if (resource === undefined) throw new TraceError(`no limit is called ${line.resource}`);
        if (line.without_cap_ipc_lock) this.machine.dropCapability(process, "CAP_IPC_LOCK");
        return answered(line, process.setrlimit(resource, line.limit));
      }
      case "settle":
        process.settle();
        return line;
      case "event":
        for (const { path, value } of line.writes) this.machine.sysfs(path, value);
        return line;
      case "note":
        return line;
    }
  }

  #ioctl(line: IoctlLine): TraceLine {
    const { process } = this;
    const request = Number(line.request);
    if (line.in === undefined) {
      const { argmap, arg } = line;
      const argument: UserArgument = argmap ? this.#address(argmap.map, argmap.offset) : fromHexNumber(arg!);
      return answered(line, process.ioctl(line.fd, request, argument));
    }
    const bytes = fromHex(line.in);
    const places: number[] = [];
    const point = (at: number, address: number): void => {
      store64(bytes, at, address);
      places.push(at);
    };
    for (const { at, map, offset } of line.pointers ?? []) point(at, this.#address(map, offset));
    const buffers = (line.deref ?? []).map(({ at, in: given }) => {
      const buffer = fromHex(given);
      const address = process.addressOf(buffer);
      point(at, address);
      return { at, given, buffer, address };
    });
    const result = process.ioctl(line.fd, request, bytes);
    for (const { address, buffer } of buffers) process.munmap(address, Math.max(buffer.length, 1));
    // An address means nothing outside: it reads as zero, as in every trace.
    for (const at of places) bytes.fill(0, at, at + 8);
    const out = toHex(bytes);
    const whole: TraceLine = answered(line, result);
    if (out !== line.in) whole.out = out;
    if (buffers.length !== 0)
      whole.deref = buffers.map(({ at, given, buffer }) => {
        const after = toHex(buffer);
        return after === given ? { at, in: given } : { at, in: given, out: after };
      });
    return whole;
  }

  #peek({ bytes: _, count = 1, ...line }: PeekLine): TraceLine {
    const address = this.#address(line.map, line.offset);
    const memory = line.width === undefined ? this.process.memory(address, count) : undefined;
    if (memory !== undefined) return { ...line, bytes: toHex(memory) };
    const bytes = room(count);
    const width = line.width ?? 1;
    for (let at = 0; at + width <= count; at += width) {
      const value = this.process.load(address + at, width);
      if (typeof value === "string") return { ...line, count, signal: value };
      for (let i = 0; i < width; i++) bytes[at + i] = Number((BigInt(value) >> BigInt(8 * i)) & 0xffn);
    }
    return { ...line, bytes: toHex(bytes) };
  }

  #poke(line: PokeLine): TraceLine {
    const address = this.#address(line.map, line.offset);
    const bytes = fromHex(line.bytes);
    const memory = line.width === undefined ? this.process.memory(address, bytes.length) : undefined;
    if (memory !== undefined) {
      memory.set(bytes);
      return line;
    }
    const width = line.width ?? 1;
    for (let at = 0; at + width <= bytes.length; at += width) {
      const signal = this.process.store(address + at, width, loadWidth(bytes, at, width));
      if (signal !== 0) return { ...line, signal };
    }
    return line;
  }

  #address(map: string, offset: number): number {
    return this.#map(map).address + offset;
  }

  #map(name: string): NamedMapping {
    const map = this.#maps.get(name);
    if (map === undefined) throw new TraceError(`no mapping is called ${name}`);
    return map;
  }
}

/** more bytes than any answer has */
const MOST = 2 ** 26;

function room(count: number): Uint8Array {
  if (count > MOST) throw new TraceError(`${count} bytes are too many`);
  return new Uint8Array(count);
}

/** The line with a result, or with −1 and the name of the error. */
function answered<L extends { ret: number; errno?: string }>(line: L, result: number): L {
  return result >= 0 ? { ...line, ret: result } : { ...line, ret: -1, errno: errnoName(-result) };
}
