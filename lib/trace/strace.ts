/**
 * Prints the calls of a trace as strace would: `ioctl(4<anon_inode:kvm-vm>, KVM_IRQFD, {fd=5, gsi=3, …}) = 0`. Structs
 * are decoded from the abi declarations, field by field; what a call changed stands behind `=>`; what differs from run
 * to run is marked with `~`.
 *
 * Long arrays and bytes are cut, as strace cuts them; `full` prints everything. Padding that is zero is left out.
 *
 * Missing: the structs behind pointers, which print as bytes.
 */
import { match, P } from "ts-pattern";
import type { Request } from "../abi/ioctl.ts";
import { type FieldType, load32, type StructType } from "../abi/struct.ts";
import { isVolatile } from "./compare.ts";
import { descriptorInAnswer, returnsDescriptor } from "./descriptors.ts";
import {
  fromHex,
  fromHexNumber,
  type IoctlLine,
  type TraceHeader,
  type TraceLine,
  type VolatileRange,
} from "./format.ts";
import { layoutOf, loadWidth, printField, printNumber } from "./layout.ts";
import {
  eventfdFlags,
  fcntlCommand,
  mapFlags,
  namesOf,
  openFlags,
  pollEvents,
  protections,
  spell,
} from "./names.ts";
import { requestOf } from "./requests.ts";

/** How much of each line is printed. */
export interface StraceOptions {
  /** print arrays and bytes in whole */
  full?: boolean;
}

/** How many elements and bytes are printed of long ones. */
const ELEMENTS = 4;
const BYTES = 16;

/** Prints line after line; remembers what each descriptor is, so that it can stand behind the number. */
export class Strace {
  readonly #header: TraceHeader;
  readonly #full: boolean;
  readonly #files = new Map<number, string>();

  constructor(header: TraceHeader, options: StraceOptions = {}) {
    this.#header = header;
    this.#full = options.full ?? false;
  }

  /** One line of a trace in words. */
  line(line: TraceLine): string {
    const text = this.#call(line);
    this.#remember(line);
    return text;
  }

  #call(line: TraceLine): string {
    return match(line)
      .with({ call: "note" }, ({ text }) => `/* ${text} */`)
      .with({ call: "settle" }, () => "/* everything that was deferred has run */")
      .with({ call: "event" }, ({ writes }) =>
        writes.map(({ path, value }) => `echo ${JSON.stringify(value)} > ${path}`).join("; "),
      )
      .with(
        { call: "open" },
        (open) => `open("${open.path}", ${openFlags(Number(open.flags))})${result(open)}`,
      )
      .with({ call: P.union("close", "dup") }, (one) => `${one.call}(${this.#fd(one.fd)})${result(one)}`)
      .with(
        { call: "eventfd2" },
        (made) => `eventfd2(${made.initval}, ${spell(Number(made.flags), eventfdFlags)})${result(made)}`,
      )
      .with(
        { call: P.union("read", "pread") },
        (read) =>
          `${read.call}(${this.#fd(read.fd)}, ${this.#hex(read.out ?? "", read.volatile)}, ${read.count}${at(read)})${result(read)}`,
      )
      .with(
        { call: P.union("write", "pwrite") },
        (write) =>
          `${write.call}(${this.#fd(write.fd)}, ${this.#hex(write.in)}, ${write.in.length / 2}${at(write)})${result(write)}`,
      )
      .with({ call: "mmap" }, (mmap) => {
        const fd = mmap.fd < 0 ? "-1" : this.#fd(mmap.fd);
        const answer = mmap.ret < 0 ? result(mmap) : ` = ${mmap.map}`;
        return `mmap(NULL, ${mmap.length}, ${spell(mmap.prot, protections)}, ${spell(Number(mmap.flags), mapFlags)}, ${fd}, ${mmap.offset})${answer}`;
      })
      .with({ call: "munmap" }, (munmap) => `munmap(${munmap.map})${result(munmap)}`)
      .with({ call: "peek" }, (peek) => {
        const what = peek.bytes === undefined ? peek.signal! : this.#hex(peek.bytes, peek.volatile);
        return `${peek.map}[${peek.offset}]${widthOf(peek.width)} -> ${what}`;
      })
      .with({ call: "poke" }, (poke) => {
        const signal = poke.signal === undefined ? "" : ` /* ${poke.signal} */`;
        return `${poke.map}[${poke.offset}]${widthOf(poke.width)} <- ${this.#hex(poke.bytes)}${signal}`;
      })
      .with({ call: "poll" }, (poll) => {
        const fds = poll.fds.map(({ fd, events }) => `{fd=${fd}, events=${spell(events, pollEvents)}}`);
        const ready = poll.fds
          .filter(({ revents }) => revents !== 0)
          .map(({ fd, revents }) => `{fd=${fd}, revents=${spell(revents, pollEvents)}}`);
        const answer = ready.length === 0 ? "" : ` ([${ready.join(", ")}])`;
        return `poll([${fds.join(", ")}], ${poll.fds.length}, ${poll.timeout})${result(poll)}${answer}`;
      })
      .with(
        { call: "fcntl" },
        (fcntl) => `fcntl(${this.#fd(fcntl.fd)}, ${fcntlCommand(fcntl.cmd)}, ${fcntl.arg})${result(fcntl)}`,
      )
      .with({ call: "setrlimit" }, (limit) => {
        const without = limit.without_cap_ipc_lock ? " /* without CAP_IPC_LOCK */" : "";
        return `setrlimit(${limit.resource}, ${limit.limit})${result(limit)}${without}`;
      })
      .with({ call: "ioctl" }, (ioctl) => this.#ioctl(ioctl))
      .exhaustive();
  }

  #ioctl(line: IoctlLine): string {
    const { name, request } = requestOf(this.#header, line);
    const who = line.process === "child" ? "[child] " : "";
    const how = line.kicked || line.signal ? " /* ended by a signal */" : "";
    return `${who}ioctl(${this.#fd(line.fd)}, ${name}${this.#argument(line, name, request)})${result(line)}${how}`;
  }

  #argument(line: IoctlLine, name: string, request: Request | undefined): string {
    if (line.argmap !== undefined) return `, ${line.argmap.map}+${line.argmap.offset}`;
    if (line.in === undefined) {
      const value = fromHexNumber(line.arg!);
      const names = namesOf(name);
      if (names !== undefined && typeof value === "number") return `, ${spell(value, names)}`;
      return value === 0 ? "" : `, ${line.arg}`;
    }
    const before = fromHex(line.in);
    const after = line.out === undefined ? undefined : fromHex(line.out);
    if (name === "VFIO_GROUP_GET_DEVICE_FD") return `, ${cString(before)}`;
    const changed = after === undefined ? "" : ` => ${this.#decode(after, name, request, line, before)}`;
    // what only comes out is printed once: nobody cares what stood there before
    const copiesOut = request?.copy === "out" && after !== undefined;
    const first = copiesOut
      ? this.#decode(after, name, request, line)
      : this.#decode(before, name, request, line);
    return `, ${first}${copiesOut ? "" : changed}`;
  }

  /** The bytes of an argument; only what differs from `unless`, if that is given. */
  #decode(
    bytes: Uint8Array,
    name: string,
    request: Request | undefined,
    line: IoctlLine,
    unless?: Uint8Array,
  ): string {
    const layout = layoutOf(request);
    if (layout?.head === undefined || bytes.length < layout.headSize)
      return this.#bytes(bytes, 0, bytes.length, line.volatile);
    const printer: Printer = { name, bytes, unless, line, full: this.#full };
    const parts = [printStruct(layout.head, 0, printer)];
    const tail: string[] = [];
    const { headSize, tailSize } = layout;
    if (tailSize !== 0) {
      for (let at = headSize; at + tailSize <= bytes.length; at += tailSize) {
        if (unless !== undefined && same(bytes, unless, at, tailSize)) continue;
        if (!this.#full && tail.length === ELEMENTS) {
          tail.push("…");
          break;
        }
        tail.push(
          layout.tail === undefined
            ? printNumber(isWidth(tailSize) ? loadWidth(bytes, at, tailSize) : bytes[at])
            : printStruct(layout.tail, at, printer),
        );
      }
    } else if (
      bytes.length > headSize &&
      (unless === undefined || !same(bytes, unless, headSize, bytes.length - headSize))
    )
      parts.push(this.#bytes(bytes, headSize, bytes.length, line.volatile));
    if (tail.length !== 0) parts.push(`[${tail.join(", ")}]`);
    return parts.join(" ");
  }

  /** A descriptor with what it is. */
  #fd(fd: number): string {
    const file = this.#files.get(fd);
    return file === undefined ? String(fd) : `${fd}<${file}>`;
  }

  #hex(hex: string, ranges?: readonly VolatileRange[]): string {
    const bytes = fromHex(hex);
    return this.#bytes(bytes, 0, bytes.length, ranges);
  }

  #bytes(bytes: Uint8Array, from: number, to: number, ranges?: readonly VolatileRange[]): string {
    return printBytes(bytes, from, to, this.#full, ranges);
  }

  /** Keeps track of what the descriptors are, by the names that /proc/PID/fd shows. */
  #remember(line: TraceLine): void {
    if (!("ret" in line) || line.ret < 0) return;
    if (line.call === "close") this.#files.delete(line.fd);
    else if (line.call === "open") this.#files.set(line.ret, line.path);
    else if (line.call === "eventfd2") this.#files.set(line.ret, "anon_inode:[eventfd]");
    else if ((line.call === "dup" || line.call === "fcntl") && returnsDescriptor(this.#header, line))
      this.#files.set(line.ret, this.#files.get(line.fd) ?? "?");
    else if (line.call === "ioctl" && line.process !== "child") this.#rememberIoctl(line);
  }

  #rememberIoctl(line: IoctlLine): void {
    const at = descriptorInAnswer(line);
    if (at !== undefined) {
      const device = fromHex(line.out ?? line.in!);
      const type = spell(load32(device, 0), namesOf("KVM_CREATE_DEVICE", "type")!);
      this.#files.set(
        load32(device, at),
        `anon_inode:${type.replace("KVM_DEV_TYPE_", "kvm-").replaceAll("_", "-").toLowerCase()}`,
      );
      return;
    }
    const kind = requestOf(this.#header, line).request?.returns;
    if (kind === undefined) return;
    if (kind === "vm") this.#files.set(line.ret, "anon_inode:kvm-vm");
    else if (kind === "vcpu") this.#files.set(line.ret, `anon_inode:kvm-vcpu:${Number(line.arg ?? 0)}`);
    else if (kind === "vfio-device") this.#files.set(line.ret, "anon_inode:[vfio-device]");
    else this.#files.set(line.ret, `anon_inode:[${kind}]`);
  }
}

interface Printer {
  /** the request: some fields are named after it */
  name: string;
  bytes: Uint8Array;
  unless: Uint8Array | undefined;
  line: IoctlLine;
  full: boolean;
}

/** `{a=1, b={c=2}}`; with `unless`, the fields that differ. */
function printStruct(struct: StructType, start: number, printer: Printer): string {
  const { bytes, unless } = printer;
  const parts: string[] = [];
  let end = 0;
  const chosen = chosenMember(struct, bytes, start);
  for (const name of Object.keys(struct.fields)) {
    const field = struct.fields[name];
    const offset = struct.offsetOf[name];
    // members of an unnamed union share their bytes: the first one speaks for all
    if (offset < end && !field.shift) continue;
    if (struct.kind === "union" && (chosen === undefined ? parts.length !== 0 : name !== chosen)) continue;
    end = struct.kind === "union" ? 0 : offset + field.size;
    const at = start + offset;
    if (field.size === 0 || at + field.size > bytes.length) continue;
    if (unless !== undefined && same(bytes, unless, at, field.size)) continue;
    if (/^_*(pad|padding|reserved)\d*$/.test(name) && zero(bytes, at, field.size)) continue;
    parts.push(`${name}=${printValue(field, name, at, printer)}`);
    if (struct.kind === "union") break;
  }
  return `{${parts.join(", ")}}`;
}

/** Which member of a union counts, where a field before it tells; `start` is where the union starts. */
function chosenMember(struct: StructType, bytes: Uint8Array, start: number): string | undefined {
  if (struct.kind !== "union") return undefined;
  // kvm_irq_routing_entry: { gsi, type, flags, pad, u }
  if ("irqchip" in struct.fields && "msi" in struct.fields && start >= 12)
    return [undefined, "irqchip", "msi", "adapter", "hv_sint", "xen_evtchn"][load32(bytes, start - 12)];
  // kvm_irqchip: { chip_id, pad, chip }
  if ("pic" in struct.fields && "ioapic" in struct.fields && start >= 8)
    return load32(bytes, start - 8) < 2 ? "pic" : "ioapic";
  return undefined;
}

function printValue(field: FieldType, name: string, at: number, printer: Printer): string {
  const { bytes, line, full } = printer;
  if (field.kind === "struct" || field.kind === "union") return printStruct(field.struct!, at, printer);
  if (field.kind === "array") return printArray(field, name, at, printer);
  if (field.kind === "bytes") return printBytes(bytes, at, at + field.size, full, line.volatile);
  const mark = isVolatile(line.volatile, at) ? "~" : "";
  if (field.kind === "pointer") {
    const pointer = line.pointers?.find((candidate) => candidate.at === at);
    if (pointer !== undefined) return `${pointer.map}+${pointer.offset}`;
    const deref = line.deref?.find((candidate) => candidate.at === at);
    if (deref !== undefined) {
      const after = deref.out === undefined ? "" : ` => ${hexBytes(deref.out, full)}`;
      return `[${hexBytes(deref.in, full)}${after}]`;
    }
  }
  const names = namesOf(printer.name, name);
  if (names !== undefined && field.size <= 4) return spell(Number(field.get(bytes, at)), names) + mark;
  return printField(field, bytes, at) + mark;
}

function printArray(field: FieldType, name: string, at: number, printer: Printer): string {
  const { element, length = 0 } = field;
  if (element === undefined || zero(printer.bytes, at, field.size)) return "[0…]";
  const shown = printer.full ? length : Math.min(length, ELEMENTS);
  const parts = Array.from({ length: shown }, (_, i) =>
    printValue(element, name, at + i * element.size, printer),
  );
  if (shown < length) parts.push("…");
  return `[${parts.join(", ")}]`;
}

/** Bytes as `"0a0b"`, cut where they are many; `~` marks those that differ from run to run. */
function printBytes(
  bytes: Uint8Array,
  from: number,
  to: number,
  full: boolean,
  ranges?: readonly VolatileRange[],
): string {
  const end = full ? to : Math.min(to, from + BYTES);
  let text = "";
  let marked = false;
  for (let i = from; i < end; i++) {
    const volatile = isVolatile(ranges, i);
    if (volatile !== marked) text += "~";
    marked = volatile;
    text += bytes[i].toString(16).padStart(2, "0");
  }
  if (marked) text += "~";
  return `"${text}"${end < to ? "…" : ""}`;
}

const hexBytes = (hex: string, full: boolean): string => {
  const bytes = fromHex(hex);
  return printBytes(bytes, 0, bytes.length, full);
};

/** ` = 0`, ` = -1 EINVAL` */
const result = (line: { ret: number; errno?: string }): string =>
  line.errno === undefined ? ` = ${line.ret}` : ` = ${line.ret} ${line.errno}`;

const at = (line: { offset?: string }): string => (line.offset === undefined ? "" : `, ${line.offset}`);

const widthOf = (width: number | undefined): string => (width === undefined ? "" : `/${width}`);

const isWidth = (size: number): boolean => size === 1 || size === 2 || size === 4 || size === 8;

const zero = (bytes: Uint8Array, at: number, size: number): boolean => {
  for (let i = at; i < at + size; i++) if (bytes[i] !== 0) return false;
  return true;
};

const same = (a: Uint8Array, b: Uint8Array, at: number, size: number): boolean => {
  for (let i = at; i < at + size; i++) if (a[i] !== b[i]) return false;
  return true;
};

/** The bytes up to the first zero, quoted. */
const cString = (bytes: Uint8Array): string => {
  const end = bytes.indexOf(0);
  return JSON.stringify(String.fromCharCode(...bytes.subarray(0, end < 0 ? bytes.length : end)));
};
