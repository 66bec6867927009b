/**
 * Values for fields: small ones that collide, the edges of every width, and now and then anything. And bytes made of
 * them: a struct with its fields drawn one by one, or a few edits at the places that a struct declares.
 */
import fc from "fast-check";
import type { FieldType, StructType } from "../abi/struct.ts";
import { toHex } from "../trace/format.ts";
import type { Edit, Kind, Operation, Patch, Ref } from "./program.ts";

export const ref = (kind: Kind, most = 3): fc.Arbitrary<Ref> =>
  fc.integer({ min: 0, max: most }).map((index) => ({ kind, index }));

/** A descriptor of the kind, rarely of another or of none. */
export const mostly = (kind: Kind, most = 3): fc.Arbitrary<Ref> =>
  fc.oneof(
    { weight: 40, arbitrary: ref(kind, most) },
    { weight: 1, arbitrary: ref("any", 20) },
    { weight: 1, arbitrary: fc.constantFrom(-1, 0, 99, 0x7fffffff).map((fd) => ({ fd })) },
  );

export const edge32 = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(0, 1, 2, 3, 4, 8) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      0x10,
      0xff,
      0x100,
      0xfff,
      0x1000,
      0xffff,
      0x10000,
      0x7fffffff,
      0x80000000,
      0xfffffffe,
      0xffffffff,
    ),
  },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 31 }).map((bit) => (1 << bit) >>> 0) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffffffff }) },
);

export const edge64 = fc.oneof(
  { weight: 5, arbitrary: edge32.map(BigInt) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      1n << 32n,
      1n << 47n,
      1n << 52n,
      1n << 63n,
      (1n << 64n) - 1n,
      (1n << 64n) - 0x1000n,
    ),
  },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }) },
);

/** One of a few, weighted towards the first ones. */
export const usually = <T, R = T>(usual: readonly T[], rare: readonly R[]): fc.Arbitrary<T | R> =>
  fc.oneof<fc.MaybeWeightedArbitrary<T | R>[]>(
    { weight: 9, arbitrary: fc.constantFrom(...usual) },
    { weight: 1, arbitrary: fc.constantFrom(...rare) },
  );

/** n out of a hundred. */
export const percent = (n: number): fc.Arbitrary<boolean> =>
  fc.integer({ min: 0, max: 99 }).map((value) => value >= 100 - n);

type Drawn = { readonly [field: string]: fc.Arbitrary<unknown> };

/** Bytes of a struct whose fields are drawn; what is not named is zero. In hex. */
export const structHex = (struct: StructType, fields: Drawn): fc.Arbitrary<string> =>
  fc
    .record(fields as Record<string, fc.Arbitrary<unknown>>)
    .map((values) => toHex(struct.encode(values as never)));

/** A place in a struct that holds one value. */
interface Leaf {
  readonly at: number;
  readonly size: number;
}

/** Every plain field of a struct, arrays and nested structs unfolded; of bytes, each. */
export function leavesOf(struct: StructType, start = 0): readonly Leaf[] {
  return Object.keys(struct.fields).flatMap((name) =>
    leaves(struct.fields[name], start + struct.offsetOf[name]),
  );
}

function leaves(field: FieldType, at: number): readonly Leaf[] {
  if (field.struct !== undefined) return leavesOf(field.struct, at);
  if (field.kind === "bytes") return Array.from({ length: field.size }, (_, i) => ({ at: at + i, size: 1 }));
  const { element, length = 0 } = field;
  if (element === undefined) return field.size === 0 ? [] : [{ at, size: field.size }];
  return Array.from({ length }, (_, i) => leaves(element, at + i * element.size)).flat();
}

/** A value of a width, little endian, in hex. */
export const hexValue = (value: number | bigint, size: number): string => {
  let wide = BigInt.asUintN(8 * size, BigInt(value));
  let hex = "";
  for (let i = 0; i < size; i++) {
    hex += Number(wide & 0xffn)
      .toString(16)
      .padStart(2, "0");
    wide >>= 8n;
  }
  return hex;
};

const edgeOf = (size: number): fc.Arbitrary<string> =>
  (size === 8 ? edge64 : edge32).map((value) => hexValue(value, size));

/** One to a few edits at the fields of a struct. */
export const editsOf = (leavesHere: readonly Leaf[], most = 4): fc.Arbitrary<readonly Edit[]> =>
  fc.array(
    fc.constantFrom(...leavesHere).chain(({ at, size }) => edgeOf(size).map((bytes) => ({ at, bytes }))),
    { minLength: 1, maxLength: most },
  );

/** Bytes of a length with a few edits, the rest zero. */
export const editedHex = (size: number, edits: fc.Arbitrary<readonly Edit[]>): fc.Arbitrary<string> =>
  edits.map((list) => {
    const digits = "00".repeat(size).split("");
    for (const { at, bytes } of list)
      for (let i = 0; i < bytes.length; i++) if (2 * at + i < digits.length) digits[2 * at + i] = bytes[i];
    return digits.join("");
  });

/** An ioctl whose argument is a plain value. */
export const valueIoctl = (
  request: string,
  on: fc.Arbitrary<Ref>,
  value: fc.Arbitrary<number | bigint>,
): fc.Arbitrary<Operation> =>
  fc.record({ op: fc.constant("ioctl" as const), on, request: fc.constant(request), value: value.map(hex) });

/** An ioctl whose argument points to bytes: now and then cut short, so that the kernel reads past their end. */
export const bytesIoctl = (
  request: string,
  on: fc.Arbitrary<Ref>,
  bytes: fc.Arbitrary<string>,
  patches: fc.Arbitrary<readonly Patch[]> = fc.constant([]),
): fc.Arbitrary<Operation> =>
  fc
    .record({ on, bytes, patches, cut: fc.integer({ min: 0, max: 1023 }) })
    .map(({ on, bytes, patches, cut }) => ({
      op: "ioctl" as const,
      on,
      request,
      bytes: cut >= 1010 ? bytes.slice(0, 2 * Math.floor((bytes.length / 2) * ((cut - 1010) / 14))) : bytes,
      ...(patches.length !== 0 && { patches }),
    }));

/** A state that is read, changed here and there, and set. */
export const modify = (
  get: string,
  set: string,
  on: fc.Arbitrary<Ref>,
  size: number,
  edits: fc.Arbitrary<readonly Edit[]>,
  head: fc.Arbitrary<string> = fc.constant(""),
): fc.Arbitrary<Operation> =>
  fc.record({ on, edits, head }).map((drawn) => ({ op: "modify" as const, get, set, size, ...drawn }));

/** A value in hex, as programs write it. */
export const hex = (value: number | bigint): string => `0x${BigInt.asUintN(64, BigInt(value)).toString(16)}`;
