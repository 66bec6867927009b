/**
 * Request numbers and what they copy. A number is direction, size, type and number packed into 32 bits, and powerpc
 * packs them differently (include/uapi/asm-generic/ioctl.h; arch/powerpc/include/uapi/asm/ioctl.h, 6.1): generic has
 * 2 direction bits at 30 and 14 size bits, powerpc 3 direction bits at 29 and 13 size bits.
 *
 * Direction and size lie often enough (KVM_SET_IRQCHIP is encoded "read" and copies in), so each request is declared
 * with its true copy rule: that one declaration feeds dispatch, the printer, the recorder and the arbitraries.
 */
import { load32, loadNumber64, type StructType } from "./struct.ts";

export type Encoding = "generic" | "powerpc";
export type Direction = "none" | "read" | "write" | "read-write";
/** What the kernel does with the bytes that the argument points to; `value`: the argument itself is the number. */
export type Copy = "value" | "in" | "out" | "inout";

// biome-ignore format: a table
const directionBits = {
  generic: { none: 0, write: 1, read: 2, "read-write": 3 },
  powerpc: { none: 1, read: 2, write: 4, "read-write": 6 },
} as const;

/** Packs a request number in the encoding of an architecture. */
export function requestNumber(
  encoding: Encoding,
  direction: Direction,
  type: number,
  nr: number,
  size: number,
): number {
  const bits = directionBits[encoding][direction];
  const shift = encoding === "generic" ? 30 : 29;
  return ((bits << shift) | (size << 16) | (type << 8) | nr) >>> 0;
}

/** What kind of file a request is made on. `any`: every file of the driver (epoll's and the like are not modelled). */
export type FileKind =
  | "system"
  | "vm"
  | "vcpu"
  | "device"
  | "stats"
  | "guest-memfd"
  | "spapr-tce"
  | "htab"
  | "vfio-container"
  | "vfio-group"
  | "vfio-device"
  | "vfio-migration"
  | "iommufd"
  | "dma-buf"
  | "epoll";

/** What the size of a copy can depend on beside the argument itself; whoever copies (kernel, recorder) knows it. */
export interface Facts {
  /** pages in a memory slot */
  slotPages?(slot: number): number;
  /** KVM_CHECK_EXTENSION's answer */
  capability?(capability: number): number;
  /** bytes behind an attribute of the file the request is made on, see device-attributes.ts */
  attributeBytes?(group: number, attr: bigint): number;
}

/** A number of bytes: fixed, the value of a field of the head, or computed from the head (its own bytes only). */
export type ByteCount = number | string | ((head: Uint8Array, facts: Facts) => number);

/** The buffer that a pointer field points to: how many bytes, and which way they travel. */
export interface Behind {
  copy: "in" | "out" | "inout";
  bytes: ByteCount;
  /** where the pointer stands in the argument, if not at the field itself */
  at?: number;
  /** the buffer is an array of descriptors (`int`) */
  descriptors?: boolean;
}

/** The true copy rule of a request, where it is not what direction and struct say. */
export interface CopyRule {
  /** the kinds of file that know the request */
  on?: FileKind | readonly FileKind[];
  /** what is copied; follows from the direction if absent (none: value, write: in, read: out, read-write: inout) */
  copy?: Copy;
  /** the struct that the argument points to, where the number encodes another one or none */
  head?: StructType;
  /** the argument points to a string that ends with a zero byte */
  string?: true;
  /** an array of these follows the head … */
  tail?: StructType | number;
  /** … as many as this field of the head says (a field name), */
  count?: string;
  /**
   * or as many bytes in all, head included, as this says (`"argsz"`: a field of the head). The claim is the caller's:
   * without a tail, nothing beyond the struct is touched, however much it claims.
   */
  sized?: ByteCount;
  /** how few bytes will do, where an older header's struct was shorter or its end does not matter */
  least?: number;
  /** how the tail travels, where it differs from the head */
  tailCopy?: Copy;
  /** buffers behind pointer fields; `"ranges.bitmap"` is the field of each element of an array */
  behind?: { readonly [field: string]: Behind };
  /** offsets of descriptor numbers (`int`) that only the other fields tell apart from plain numbers */
  descriptors?: (argument: Uint8Array) => readonly number[];
  /** an answer ≥ 0 is a descriptor of this kind */
  returns?: FileKind;
}

export interface Request extends CopyRule {
  readonly direction: Direction;
  readonly type: number;
  readonly nr: number;
  /** the size that the number encodes, in bytes */
  readonly size: number;
  /** the number on x86, arm64, riscv */
  readonly number: number;
  /** the number on POWER */
  readonly powerpc: number;
  /** what the argument points to; none for a request whose argument is a plain value */
  readonly struct?: StructType | undefined;
  readonly copy: Copy;
}

const defaultCopy: Record<Direction, Copy> = {
  none: "value",
  write: "in",
  read: "out",
  "read-write": "inout",
};

function request(
  direction: Direction,
  type: number,
  nr: number,
  of: StructType | number,
  rule: CopyRule,
): Request {
  const size = typeof of === "number" ? of : of.size;
  return {
    ...rule,
    direction,
    type,
    nr,
    size,
    number: requestNumber("generic", direction, type, nr, size),
    powerpc: requestNumber("powerpc", direction, type, nr, size),
    struct: rule.head ?? (typeof of === "number" ? undefined : of),
    copy: rule.copy ?? (rule.head !== undefined && direction === "none" ? "inout" : defaultCopy[direction]),
  };
}

/** `_IO(type, nr)` */
export const io = (type: number, nr: number, rule: CopyRule = {}): Request =>
  request("none", type, nr, 0, rule);
/** `_IOR(type, nr, struct)`; a plain number of bytes for `__u32`, `__u64`, … */
export const ior = (type: number, nr: number, of: StructType | number, rule: CopyRule = {}): Request =>
  request("read", type, nr, of, rule);
/** `_IOW(type, nr, struct)` */
export const iow = (type: number, nr: number, of: StructType | number, rule: CopyRule = {}): Request =>
  request("write", type, nr, of, rule);
/** `_IOWR(type, nr, struct)` */
export const iowr = (type: number, nr: number, of: StructType | number, rule: CopyRule = {}): Request =>
  request("read-write", type, nr, of, rule);

/** Whether a value exported by an abi file is a request. */
export const isRequest = (value: unknown): value is Request =>
  typeof value === "object" && value !== null && "powerpc" in value && "nr" in value;
/** Whether a value exported by an abi file is a struct or union declaration. */
export const isStruct = (value: unknown): value is StructType =>
  typeof value === "object" && value !== null && "offsetOf" in value;

const countOf = (request: Request, field: string, head: Uint8Array): number => {
  const at = request.struct?.offsetOf[field] ?? 0;
  return request.struct?.fields[field].size === 8 ? loadNumber64(head, at) : load32(head, at);
};

/**
 * How many bytes of the argument a call concerns, given those of its head: 0 for a plain value. A wild count makes a
 * wild number, whoever copies has a limit of his own. Of a string (`string`) it says nothing: 0.
 */
export function argumentBytes(request: Request, head: Uint8Array, facts: Facts = {}): number {
  if (request.copy === "value" || request.string) return 0;
  const fixed = request.struct?.size ?? request.size;
  if (head.length < (request.least ?? fixed)) return fixed;
  if (request.count !== undefined) {
    const element = typeof request.tail === "number" ? request.tail : (request.tail?.size ?? 0);
    return fixed + element * countOf(request, request.count, head);
  }
  if (request.sized === undefined) return fixed;
  const claimed = byteCount(request, request.sized, head, facts);
  const most = request.tail === undefined ? Math.min(claimed, fixed) : claimed;
  return Math.max(most, request.least ?? fixed);
}

function byteCount(request: Request, bytes: ByteCount, head: Uint8Array, facts: Facts): number {
  if (typeof bytes === "number") return bytes;
  return typeof bytes === "string" ? countOf(request, bytes, head) : bytes(head, facts);
}

/** A buffer that the argument points to. */
export interface Buffer {
  /** where the pointer stands in the argument */
  readonly at: number;
  readonly bytes: number;
  readonly copy: Behind["copy"];
}

/** The buffers behind the pointers of an argument: those with a pointer and a length. */
export function buffersBehind(request: Request, argument: Uint8Array, facts: Facts = {}): Buffer[] {
  const found: Buffer[] = [];
  const add = (behind: Behind, at: number, head: Uint8Array): void => {
    if (at + 8 > argument.length || loadNumber64(argument, at) === 0) return;
    const bytes = byteCount(request, behind.bytes, head, facts);
    if (bytes > 0) found.push({ at, bytes, copy: behind.copy });
  };
  for (const [path, behind] of Object.entries(request.behind ?? {})) {
    const [name, member] = path.split(".");
    const start = request.struct?.offsetOf[name] ?? 0;
    const { element, length = 0 } = request.struct?.fields[name] ?? {};
    if (member === undefined || element?.struct === undefined) add(behind, behind.at ?? start, argument);
    else
      for (let i = 0; i < length; i++) {
        const at = start + i * element.size;
        add(behind, at + element.struct.offsetOf[member], argument.subarray(at, at + element.size));
      }
  }
  return found;
}
