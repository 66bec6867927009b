/**
 * The bytes of an ioctl's argument as fields: the head struct, then as many elements of the tail as there is room.
 * Feeds the printer, the reports of differences, and the search for descriptors.
 */
import { toHex } from "../abi/hex.ts";
import type { Request } from "../abi/ioctl.ts";
import { placesOf } from "../abi/places.ts";
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
  if (layout.tailSize === 0) return undefined;
  const index = Math.floor((at - layout.headSize) / layout.tailSize);
  const start = layout.headSize + index * layout.tailSize;
  if (layout.tail === undefined) return numberLeaf(`[${index}]`, start, layout.tailSize, bytes.length);
  return leafIn(layout.tail, `[${index}].`, start, at, bytes.length);
}

/** An element of a tail of plain numbers. */
function numberLeaf(name: string, at: number, size: number, end: number): Leaf | undefined {
  if (at + size > end || !(size === 1 || size === 2 || size === 4 || size === 8)) return undefined;
  return { name, at, size, print: (bytes) => printNumber(loadWidth(bytes, at, size)) };
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
  return { name, at: own, size: field.size, print: (bytes) => printField(field, bytes, own) };
}

/** A byte of opaque bytes: the aligned word around it, so that a register of a page shows as one number. */
function wordIn(field: FieldType, name: string, own: number, at: number): Leaf {
  const offset = (at - own) & ~3;
  const size = Math.min(4, field.size - offset);
  const print = (bytes: Uint8Array): string =>
    `0x${(size === 4 ? load32(bytes, own + offset) : bytes[own + offset]).toString(16)}`;
  if (size === 4 || size === 1) return { name: `${name}[${offset}]`, at: own + offset, size, print };
  return {
    name: `${name}[${at - own}]`,
    at,
    size: 1,
    print: (bytes) => `0x${bytes[at].toString(16)}`,
  };
}

/** A number as strace prints it: small ones plain, large ones hex. */
export function printNumber(value: number | bigint): string {
  return value > 0xffff ? `0x${value.toString(16)}` : String(value);
}

/** One field without fields of its own. */
export function printField(field: FieldType, bytes: Uint8Array, at: number): string {
  if (field.kind === "bytes") {
    const part = bytes.subarray(at, at + field.size);
    if (part.every((byte) => byte === 0)) return "0";
    return `"${toHex(part)}"`;
  }
  if (field.kind === "pointer") {
    const address = load64(bytes, at);
    return address === 0n ? "NULL" : `0x${address.toString(16)}`;
  }
  const value = field.get(bytes, at);
  return typeof value === "number" || typeof value === "bigint" ? printNumber(value) : String(value);
}

/** Offsets of the descriptors in an argument: declared as such, or told apart by the other fields. */
export function descriptorsIn(request: Request | undefined, argument: Uint8Array): number[] {
  if (request === undefined) return [];
  const declared = request.descriptors?.(argument) ?? [];
  return [...declared, ...fieldsOfKind(request, argument, "fd")].filter((at) => at + 4 <= argument.length);
}

/** Offsets of the pointers in an argument. */
export const pointersIn = (request: Request | undefined, argument: Uint8Array): number[] =>
  request === undefined
    ? []
    : fieldsOfKind(request, argument, "pointer").filter((at) => at + 8 <= argument.length);

function fieldsOfKind(request: Request, argument: Uint8Array, kind: "fd" | "pointer"): number[] {
  const layout = layoutOf(request);
  if (layout === undefined) return [];
  const found = layout.head === undefined ? [] : placesOf(layout.head, kind).map(({ at }) => at);
  if (layout.tail !== undefined) {
    const places = placesOf(layout.tail, kind);
    if (places.length !== 0)
      for (let start = layout.headSize; start < argument.length; start += layout.tailSize)
        for (const { at } of places) found.push(start + at);
  }
  return found;
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
