/**
 * The trace format, version 1: what a real kernel answered, as JSON Lines. One header object, then one object per
 * call in the order the calls were made. Binary data is lower-case hex of the bytes in memory order; numbers that are
 * addresses, flags or offsets are hex with `0x`.
 *
 * The reader checks every line by hand (no schema library at run time) and names file and line of what is wrong. A
 * key it does not know is an error: a key that is read and ignored would be a promise not kept. The header is open:
 * what a host tells about itself beyond the known keys is kept and passed on.
 *
 * Text only: `files.ts` reads and writes files. Missing: other versions than 1.
 */

import type { ArchName } from "../machine/profile.ts";

export { fromHex, toHex } from "../abi/hex.ts";

/** A PCI device bound to vfio-pci; more keys than these are kept as they are. */
export interface TraceDevice {
  bdf: string;
  vendor: string;
  device: string;
  group?: number | string;
  config?: string;
  [key: string]: unknown;
}

/** The host profile: a kernel under test is configured from it, and from nothing else. */
export interface TraceHeader {
  format: "kvm-vfio-trace";
  version: 1;
  /** name and one-line purpose */
  scenario?: string;
  about?: string;
  /** release of the recorded kernel */
  kernel: string;
  kernel_build?: string;
  /** x86_64, arm64, ppc64le, riscv64 */
  arch: string;
  /** the KVM flavour (pvm, svm, vhe, pr, …) */
  kvm: string | null;
  /** KVM_CHECK_EXTENSION: capability number → value; a number that is missing answered 0 */
  capabilities?: { system?: Record<string, number>; vm?: Record<string, number> };
  vcpuMmapSize?: number;
  host: Record<string, unknown>;
  devices?: TraceDevice[];
  pci?: Record<string, unknown>[];
  /** descriptor numbers are names: the program had other files open */
  descriptors?: "partial";
  facts?: Record<string, unknown>;
  /** the encoding of request numbers */
  ioc?: "generic" | "powerpc";
  page_size?: number;
  /** the first descriptor that was free (3 if absent) */
  firstDescriptor?: number;
  seed?: number | string;
  [key: string]: unknown;
}

/** [offset, length] of bytes that differ from run to run. */
export type VolatileRange = [offset: number, length: number];

interface Numbered {
  /** the number of the call */
  n: number;
  /** the thread that made it, where the program had several */
  tid?: number;
}

interface Answered extends Numbered {
  /** the result, or −1 with `errno` */
  ret: number;
  errno?: string;
}

/** open(2): `flags` in hex; `ret` is the descriptor. */
export interface OpenLine extends Answered {
  call: "open";
  path: string;
  flags: string;
}
/** close(2). */
export interface CloseLine extends Answered {
  call: "close";
  fd: number;
}
/** dup(2): `ret` is the new descriptor. */
export interface DupLine extends Answered {
  call: "dup";
  fd: number;
}
/** A pointer field inside `in` that points into a mapping. */
export interface TracePointer {
  at: number;
  map: string;
  offset: number;
}
/** A pointer field inside `in` that points to a buffer of its own; `out` is left out where unchanged. */
export interface TraceDeref {
  at: number;
  in: string;
  out?: string;
  volatile?: VolatileRange[];
}
/**
 * ioctl(2): the argument is a value (`arg`), an address (`argmap`) or bytes (`in`), and `out` is what they were
 * afterwards.
 */
export interface IoctlLine extends Answered {
  call: "ioctl";
  fd: number;
  request: string;
  name?: string;
  /** exactly one of these three: a value, an address in a mapping, or the bytes that the argument points to */
  arg?: string;
  argmap?: { map: string; offset: number };
  in?: string;
  /** the bytes after the call, where they changed */
  out?: string;
  pointers?: TracePointer[];
  deref?: TraceDeref[];
  volatile?: VolatileRange[];
  /** the call was blocked and a signal ended it; `kicked` says the same */
  signal?: boolean;
  kicked?: boolean;
  /** made on a thread of its own */
  thread?: boolean;
  /** made from a forked child that shares the descriptors, not the address space */
  process?: "child";
}
/** read(2) or pread(2) of at most `count` bytes. */
export interface ReadLine extends Answered {
  call: "read" | "pread";
  fd: number;
  count: number;
  /** of a pread */
  offset?: string;
  out?: string;
  volatile?: VolatileRange[];
}
/** write(2) or pwrite(2). */
export interface WriteLine extends Answered {
  call: "write" | "pwrite";
  fd: number;
  in: string;
  /** of a pwrite */
  offset?: string;
}
/** mmap(2): `length` in bytes, `offset` in hex. */
export interface MmapLine extends Answered {
  call: "mmap";
  length: number;
  prot: number;
  flags: string;
  fd: number;
  offset: string;
  /** the name of the mapping from then on; absent where it failed */
  map?: string;
}
/** munmap(2) of a whole mapping. */
export interface MunmapLine extends Answered {
  call: "munmap";
  map: string;
}
/** The program read its own memory. */
export interface PeekLine extends Numbered {
  call: "peek";
  map: string;
  offset: number;
  /** what was read; absent where the access took a signal, then `count` says how many bytes were wanted */
  bytes?: string;
  count?: number;
  /** 1, 2, 4 or 8: done in accesses of this size */
  width?: number;
  signal?: string;
  volatile?: VolatileRange[];
}
/** The program wrote its own memory. */
export interface PokeLine extends Numbered {
  call: "poke";
  map: string;
  offset: number;
  bytes: string;
  width?: number;
  signal?: string;
}
/** eventfd2(2): `ret` is the descriptor. */
export interface Eventfd2Line extends Answered {
  call: "eventfd2";
  initval: number;
  flags: string;
}
/** poll(2): `revents` is the answer, `timeout` in milliseconds. */
export interface PollLine extends Answered {
  call: "poll";
  fds: { fd: number; events: number; revents: number }[];
  timeout: number;
}
/** fcntl(2). */
export interface FcntlLine extends Answered {
  call: "fcntl";
  fd: number;
  cmd: number;
  arg: string;
}
/** setrlimit(2), the soft limit. */
export interface SetrlimitLine extends Answered {
  call: "setrlimit";
  /** by name: RLIMIT_NOFILE, RLIMIT_MEMLOCK */
  resource: string;
  limit: number;
  /** the program gave CAP_IPC_LOCK up before: the limit counts for it */
  without_cap_ipc_lock?: boolean;
}
/** The program waited until the kernel had no deferred work left. */
export interface SettleLine extends Numbered {
  call: "settle";
}
/** A comment; a replay skips it. */
export interface NoteLine extends Numbered {
  call: "note";
  text: string;
}
/** The machine was changed from outside the program. */
export interface EventLine extends Numbered {
  call: "event";
  what: "sysfs";
  writes: { path: string; value: string }[];
}

/** A line whose call returned a number. */
export type AnsweredLine =
  | OpenLine
  | CloseLine
  | DupLine
  | IoctlLine
  | ReadLine
  | WriteLine
  | MmapLine
  | MunmapLine
  | Eventfd2Line
  | PollLine
  | FcntlLine
  | SetrlimitLine;
/** One line of a trace, whatever it called. */
export type TraceLine = AnsweredLine | PeekLine | PokeLine | SettleLine | NoteLine | EventLine;

/** A parsed trace. */
export interface Trace {
  /** where it came from, for reports */
  name: string;
  header: TraceHeader;
  /** `lines[i]` stood on line i + 2 of the file */
  lines: TraceLine[];
}

/** Why a trace could not be read, with file and line. */
export class TraceError extends Error {
  override readonly name = "TraceError";
}

/** Answers what a value should have been, or undefined if it is that. */
type Check = (value: unknown) => string | undefined;

const integer: Check = (v) => (Number.isSafeInteger(v) ? undefined : "a whole number");
const natural: Check = (v) => (Number.isSafeInteger(v) && (v as number) >= 0 ? undefined : "a number ≥ 0");
const text: Check = (v) => (typeof v === "string" ? undefined : "a string");
const flag: Check = (v) => (typeof v === "boolean" ? undefined : "true or false");
const hexNumber: Check = (v) =>
  typeof v === "string" && /^0x[0-9a-f]{1,16}$/.test(v) ? undefined : "a hex number such as 0x1f";
const hexBytes: Check = (v) =>
  typeof v === "string" && v.length % 2 === 0 && /^[0-9a-f]*$/.test(v)
    ? undefined
    : "lower-case hex, two digits a byte";
const width: Check = (v) => (v === 1 || v === 2 || v === 4 || v === 8 ? undefined : "1, 2, 4 or 8");
const signalName: Check = (v) => (v === "SIGBUS" || v === "SIGSEGV" ? undefined : "SIGBUS or SIGSEGV");
const exactly =
  (expected: string): Check =>
  (v) =>
    v === expected ? undefined : JSON.stringify(expected);
const isObject = (v: unknown): v is Record<string, unknown> =>
  typeof v === "object" && v !== null && !Array.isArray(v);
const object: Check = (v) => (isObject(v) ? undefined : "an object");

type Shape = Record<string, Check | { optional: Check }>;
const optional = (check: Check): { optional: Check } => ({ optional: check });

const shaped =
  (shape: Shape): Check =>
  (v) => {
    if (!isObject(v)) return "an object";
    const problem = wrongWith(v, shape);
    return problem === undefined ? undefined : `an object in which ${problem}`;
  };
const list =
  (check: Check): Check =>
  (v) => {
    if (!Array.isArray(v)) return "an array";
    for (let i = 0; i < v.length; i++) {
      const expected = check(v[i]);
      if (expected !== undefined) return `an array whose entry ${i} is ${expected}`;
    }
    return undefined;
  };
const range: Check = (v) =>
  Array.isArray(v) && v.length === 2 && natural(v[0]) === undefined && natural(v[1]) === undefined
    ? undefined
    : "a pair [offset, length]";
const volatile = optional(list(range));

const numbered: Shape = { n: natural, call: text, tid: optional(natural) };
const answered: Shape = { ...numbered, ret: integer, errno: optional(text) };
const reading: Shape = { ...answered, fd: integer, count: natural, out: optional(hexBytes), volatile };
const writing: Shape = { ...answered, fd: integer, in: hexBytes };

/** What each kind of line holds. */
const shapes: Record<TraceLine["call"], Shape> = {
  open: { ...answered, path: text, flags: hexNumber },
  close: { ...answered, fd: integer },
  dup: { ...answered, fd: integer },
  ioctl: {
    ...answered,
    fd: integer,
    request: hexNumber,
    name: optional(text),
    arg: optional(hexNumber),
    argmap: optional(shaped({ map: text, offset: integer })),
    in: optional(hexBytes),
    out: optional(hexBytes),
    pointers: optional(list(shaped({ at: natural, map: text, offset: integer }))),
    deref: optional(list(shaped({ at: natural, in: hexBytes, out: optional(hexBytes), volatile }))),
    volatile,
    signal: optional(flag),
    kicked: optional(flag),
    thread: optional(flag),
    process: optional(exactly("child")),
  },
  read: reading,
  pread: { ...reading, offset: hexNumber },
  write: writing,
  pwrite: { ...writing, offset: hexNumber },
  mmap: {
    ...answered,
    length: natural,
    prot: natural,
    flags: hexNumber,
    fd: integer,
    offset: hexNumber,
    map: optional(text),
  },
  munmap: { ...answered, map: text },
  peek: {
    ...numbered,
    map: text,
    offset: integer,
    bytes: optional(hexBytes),
    count: optional(natural),
    width: optional(width),
    signal: optional(signalName),
    volatile,
  },
  poke: {
    ...numbered,
    map: text,
    offset: integer,
    bytes: hexBytes,
    width: optional(width),
    signal: optional(signalName),
  },
  eventfd2: { ...answered, initval: natural, flags: hexNumber },
  poll: {
    ...answered,
    timeout: integer,
    fds: list(shaped({ fd: integer, events: natural, revents: natural })),
  },
  fcntl: { ...answered, fd: integer, cmd: natural, arg: hexNumber },
  setrlimit: { ...answered, resource: text, limit: natural, without_cap_ipc_lock: optional(flag) },
  settle: numbered,
  note: { ...numbered, text },
  event: { ...numbered, what: exactly("sysfs"), writes: list(shaped({ path: text, value: text })) },
};

/** as headers call them (`ArchName` of a profile) */
const architectures: readonly string[] = ["x86_64", "arm64", "ppc64le", "riscv64"] satisfies ArchName[];

const headerShape: Shape = {
  format: exactly("kvm-vfio-trace"),
  version: (v) => (v === 1 ? undefined : "1, the only version this reader knows"),
  kernel: (v) => (typeof v === "string" && /^\d+\.\d+/.test(v) ? undefined : 'a release such as "6.18"'),
  arch: (v) => (architectures.includes(v as string) ? undefined : architectures.join(", ")),
  kvm: (v) => (v === null ? undefined : text(v)),
  host: object,
  scenario: optional(text),
  about: optional(text),
  capabilities: optional(object),
  vcpuMmapSize: optional(natural),
  devices: optional(list(object)),
  pci: optional(list(object)),
  descriptors: optional(exactly("partial")),
  facts: optional(object),
  ioc: optional((v) => (v === "generic" || v === "powerpc" ? undefined : '"generic" or "powerpc"')),
  page_size: optional(natural),
  firstDescriptor: optional(natural),
};

/** The first thing that is wrong with an object, in words. */
function wrongWith(value: Record<string, unknown>, shape: Shape, open = false): string | undefined {
  for (const key in shape) {
    const entry = shape[key];
    const check = typeof entry === "function" ? entry : entry.optional;
    if (value[key] === undefined) {
      if (typeof entry === "function") return `"${key}" is missing`;
      continue;
    }
    const expected = check(value[key]);
    if (expected !== undefined) return `"${key}" is ${expected} (it is ${brief(value[key])})`;
  }
  if (!open)
    for (const key in value)
      if (!Object.hasOwn(shape, key)) return `"${key}" is not a key that is known here`;
  return undefined;
}

function brief(value: unknown): string {
  const json = JSON.stringify(value) ?? String(value);
  return json.length > 40 ? `${json.slice(0, 39)}…` : json;
}

/** What is wrong with a line beyond the kinds of its keys. */
function inconsistent(line: TraceLine): string | undefined {
  if ("ret" in line && line.ret < 0 !== (line.errno !== undefined))
    return line.ret < 0 ? '"ret" is negative but "errno" is missing' : '"errno" stands beside a "ret" ≥ 0';
  switch (line.call) {
    case "ioctl": {
      const given = [line.arg, line.argmap, line.in].filter((value) => value !== undefined).length;
      if (given !== 1) return 'exactly one of "arg", "argmap" and "in" is needed';
      if (line.in === undefined) {
        if (line.out ?? line.pointers ?? line.deref) return '"out", "pointers" and "deref" need "in"';
        return undefined;
      }
      const size = line.in.length / 2;
      if (line.out !== undefined && line.out.length !== line.in.length)
        return '"out" is as long as "in", or left out';
      for (const { at } of [...(line.pointers ?? []), ...(line.deref ?? [])])
        if (at + 8 > size) return `the pointer at ${at} does not fit into ${size} bytes`;
      for (const buffer of line.deref ?? [])
        if (buffer.out !== undefined && buffer.out.length !== buffer.in.length)
          return `"out" of the buffer at ${buffer.at} is as long as its "in", or left out`;
      return undefined;
    }
    case "read":
    case "pread":
      return line.ret > 0 && line.out === undefined
        ? `"out" is missing, ${line.ret} bytes were read`
        : undefined;
    case "mmap":
      return line.ret >= 0 && line.map === undefined ? '"map" is missing, the call succeeded' : undefined;
    case "peek":
      return (line.bytes === undefined) === (line.signal === undefined)
        ? 'exactly one of "bytes" and "signal" is needed'
        : undefined;
    default:
      return undefined;
  }
}

function parseJson(source: string, where: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(source);
  } catch (error) {
    throw new TraceError(`${where}: not JSON: ${(error as Error).message}`);
  }
  if (!isObject(value)) throw new TraceError(`${where}: ${brief(value)} is not an object`);
  return value;
}

/** Checks one header. */
function parseHeader(source: string, where: string): TraceHeader {
  const value = parseJson(source, where);
  const problem = wrongWith(value, headerShape, true);
  if (problem !== undefined) throw new TraceError(`${where}: not the header of a trace: ${problem}`);
  return value as unknown as TraceHeader;
}

/** Checks one line. */
export function parseLine(source: string, where: string): TraceLine {
  const value = parseJson(source, where);
  const { call } = value;
  if (typeof call !== "string" || !Object.hasOwn(shapes, call))
    throw new TraceError(`${where}: "call" is ${brief(call)}, not one of ${Object.keys(shapes).join(", ")}`);
  const line = value as unknown as TraceLine;
  const problem = wrongWith(value, shapes[line.call]) ?? inconsistent(line);
  if (problem !== undefined) throw new TraceError(`${where}: ${call}: ${problem}`);
  return line;
}

/** A trace from its text; `name` stands in reports and errors. */
export function parseTrace(source: string, name: string): Trace {
  const rows = source.split("\n");
  if (rows.at(-1) === "") rows.pop();
  if (rows.length === 0) throw new TraceError(`${name}: empty: a trace starts with a header`);
  const header = parseHeader(rows[0], `${name}:1`);
  const lines: TraceLine[] = [];
  for (let i = 1; i < rows.length; i++) lines.push(parseLine(rows[i], `${name}:${i + 1}`));
  return { name, header, lines };
}

/** The text of a trace: one JSON object a line. */
export const formatTrace = ({ header, lines }: Pick<Trace, "header" | "lines">): string =>
  [header, ...lines].map((value) => `${JSON.stringify(value)}\n`).join("");

/** A plain number where it is exact, a bigint above 2^53. */
export function fromHexNumber(hex: string): number | bigint {
  const value = Number(hex);
  return Number.isSafeInteger(value) ? value : BigInt(hex);
}
