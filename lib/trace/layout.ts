/**
 * The bytes of an ioctl's argument as fields: the head struct, then as many elements of the tail as there is room.
 * Feeds the printer, the reports of differences, and the search for descriptors.
 */
import type { Request } from "../abi/ioctl.ts";
import { type FieldType, load16, load32, load64, type StructType } from "../abi/struct.ts";

/** What the bytes of an argument are. */
export interface Layout {
  head: StructType | undefined;
  /** the size of the head where there is no struct */
  headSize: number;
  tail: StructType | undefined;
  /** bytes of a tail element where it is no struct */
  tailSize: number;
}

/** A place in the bytes: a field without fields of its own. */
export interface Leaf {
  /** `routing[2].gsi` */
  name: string;
  at: number;
  size: number;
  field: FieldType;
  print(bytes: Uint8Array): string;
}

/** The layout that a request declares; none where its argument is a plain value. */
export function layoutOf(request: Request | undefined): Layout | undefined {
  if (request === undefined || request.copy === "value") return undefined;
  const { struct: head, tail } = request;
  return {
    head,
    headSize: head?.size ?? request.size,
    tail: typeof tail === "object" ? tail : undefined,
    tailSize: typeof tail === "object" ? tail.size : (tail ?? 0),
  };
}

/** The smallest field that covers a byte, or undefined where the bytes have no name (padding, no struct). */
export function fieldAt(layout: Layout, bytes: Uint8Array, at: number): Leaf | undefined {
  if (at < layout.headSize) return layout.head && leafIn(layout.head, "", 0, at, bytes.length);
  if (layout.tail === undefined || layout.tailSize === 0) return undefined;
  const index = Math.floor((at - layout.headSize) / layout.tailSize);
  const start = layout.headSize + index * layout.tailSize;
  return leafIn(layout.tail, `[${index}].`, start, at, bytes.length);
}

/** The leaf of a struct (which starts at `start`) that covers the byte `at`. */
function leafIn(
  struct: StructType,
  prefix: string,
  start: number,
  at: number,
  end: number,
): Leaf | undefined {
  let found: Leaf | undefined;
  for (const name of Object.keys(struct.fields)) {
    const field = struct.fields[name];
    const own = start + struct.offsetOf[name];
    if (at < own || at >= own + field.size || own + field.size > end) continue;
    const leaf = leafOf(field, prefix + name, own, at, end);
    // in a union several fields cover the byte: the smallest is the clearest, the first of equals the most usual
    if (leaf !== undefined && (found === undefined || leaf.size < found.size)) found = leaf;
  }
  return found;
}

function leafOf(field: FieldType, name: string, own: number, at: number, end: number): Leaf | undefined {
  if (field.kind === "struct" || field.kind === "union")
    return leafIn(field.struct!, `${name}.`, own, at, end);
  if (field.kind === "array" && field.element !== undefined && field.element.size !== 0) {
    const index = Math.floor((at - own) / field.element.size);
    return leafOf(field.element, `${name}[${index}]`, own + index * field.element.size, at, end);
  }
  if (field.kind === "bytes") return wordIn(field, name, own, at);
  return { name, at: own, size: field.size, field, print: (bytes) => printField(field, bytes, own) };
}

/** A byte of opaque bytes: the aligned word around it, so that a register of a page shows as one number. */
function wordIn(field: FieldType, name: string, own: number, at: number): Leaf {
  const offset = (at - own) & ~3;
  const size = Math.min(4, field.size - offset);
  const print = (bytes: Uint8Array): string =>
    `0x${(size === 4 ? load32(bytes, own + offset) : bytes[own + offset]).toString(16)}`;
  if (size === 4 || size === 1) return { name: `${name}[${offset}]`, at: own + offset, size, field, print };
  return {
    name: `${name}[${at - own}]`,
    at,
    size: 1,
    field,
    print: (bytes) => `0x${bytes[at].toString(16)}`,
  };
}

/** A number as strace prints it: small ones plain, large ones hex. */
export function printNumber(value: number | bigint): string {
  return value > 9 || value < -9
    ? value > 0xffff
      ? `0x${value.toString(16)}`
      : String(value)
    : String(value);
}

/** One field without fields of its own. */
export function printField(field: FieldType, bytes: Uint8Array, at: number): string {
  if (field.kind === "bytes") {
    const part = bytes.subarray(at, at + field.size);
    if (part.every((byte) => byte === 0)) return "0";
    return `"${Array.from(part, (byte) => byte.toString(16).padStart(2, "0")).join("")}"`;
  }
  if (field.kind === "pointer") {
    const address = load64(bytes, at);
    return address === 0n ? "NULL" : `0x${address.toString(16)}`;
  }
  const value = field.get(bytes, at);
  return typeof value === "number" || typeof value === "bigint" ? printNumber(value) : String(value);
}

/** Every descriptor field of an argument: its offset and size. */
export function descriptorsIn(layout: Layout | undefined, length: number): { at: number; size: number }[] {
  return leavesOfKind(layout, length, "fd");
}

/** Every pointer field of an argument. */
export function pointersIn(layout: Layout | undefined, length: number): { at: number; size: number }[] {
  return leavesOfKind(layout, length, "pointer");
}

function leavesOfKind(
  layout: Layout | undefined,
  length: number,
  kind: FieldType["kind"],
): { at: number; size: number }[] {
  if (layout === undefined) return [];
  const found: { at: number; size: number }[] = [];
  if (layout.head !== undefined) collect(layout.head, 0, kind, found);
  if (layout.tail !== undefined)
    for (let at = layout.headSize; at + layout.tailSize <= length; at += layout.tailSize)
      collect(layout.tail, at, kind, found);
  return found.filter(({ at, size }) => at + size <= length);
}

function collect(
  field: FieldType,
  at: number,
  kind: FieldType["kind"],
  found: { at: number; size: number }[],
): void {
  if (field.kind === kind) found.push({ at, size: field.size });
  else if (field.kind === "struct" || field.kind === "union")
    for (const name of Object.keys(field.struct!.fields))
      collect(field.struct!.fields[name], at + field.struct!.offsetOf[name], kind, found);
  else if (field.kind === "array" && field.element !== undefined)
    for (let i = 0; i < (field.length ?? 0); i++)
      collect(field.element, at + i * field.element.size, kind, found);
}

/** A number of 1, 2, 4 or 8 bytes, little endian. */
export const loadWidth = (bytes: Uint8Array, at: number, width: number): number | bigint =>
  width === 1
    ? bytes[at]
    : width === 2
      ? load16(bytes, at)
      : width === 4
        ? load32(bytes, at)
        : load64(bytes, at);
