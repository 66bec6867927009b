import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  anonymous,
  array,
  bits,
  bytes,
  type FieldType,
  fd,
  fd64,
  flexible,
  load64,
  loadNumber64,
  pointer,
  s8,
  s16,
  s32,
  s64,
  store64,
  struct,
  u8,
  u16,
  u32,
  u64,
  union,
} from "../../lib/abi/struct.ts";

describe("layout", () => {
  test("a field may be called offset", () => {
    const view = struct({ flags: u32, slot: u32, offset: u64 }).at(new Uint8Array(32), 16);
    view.offset = 5n;
    expect([view.offset, view.bytes[24]]).toEqual([5n, 5]);
  });

  test("pads a field to its alignment and the end to the widest", () => {
    const S = struct({ a: u8, b: u64, c: u16, d: u8 });
    expect(S.offsetOf).toEqual({ a: 0, b: 8, c: 16, d: 18 });
    expect([S.size, S.align]).toEqual([24, 8]);
  });

  test("packed: no padding anywhere", () => {
    const S = struct({ a: u32, b: u64, c: u8 }, { packed: true });
    expect(S.offsetOf).toEqual({ a: 0, b: 4, c: 12 });
    expect([S.size, S.align]).toEqual([13, 1]);
  });

  test("aligned(n) rounds the size up too", () => {
    const S = struct({ a: u8 }, { align: 16 });
    expect([S.size, S.align]).toEqual([16, 16]);
  });

  test("no field at all: no byte", () => {
    expect([struct({}).size, struct({ a: u32, e: struct({}), b: u32 }).size]).toEqual([0, 8]);
  });

  test("a union starts all members at 0 and is as wide as the widest, rounded", () => {
    const U = union({ a: u8, b: bytes(9), c: u32 });
    expect(U.offsetOf).toEqual({ a: 0, b: 0, c: 0 });
    expect([U.size, U.align]).toEqual([12, 4]);
  });

  test("a nested struct keeps its own alignment", () => {
    const S = struct({ a: u8, in: struct({ x: u8, y: u32 }), b: u8 });
    expect(S.offsetOf).toEqual({ a: 0, in: 4, b: 12 });
    expect(S.size).toBe(16);
  });

  test("members of anonymous ones are the struct's own, at any depth", () => {
    const S = struct({
      a: u32,
      anonymous: anonymous(union({ x: u64, s: s32, anonymous: anonymous(struct({ lo: u8, hi: u32 })) })),
      b: u8,
    });
    expect(S.offsetOf).toEqual({ a: 0, x: 8, s: 8, lo: 8, hi: 12, b: 16 });
    expect(S.size).toBe(24);
    const view = S.at(S.encode({ s: -1, hi: 7 }));
    expect([view.x, view.lo]).toEqual([0x7_ffff_ffffn, 255]);
  });

  test("bit-fields share their storage unit, and the next field follows it", () => {
    const S = struct({
      a: bits(u8, 0, 3),
      b: bits(u8, 3, 1),
      c: bits(u8, 4, 4),
      d: u8,
      e: bits(u8, 0, 1),
      f: u8,
    });
    expect(S.offsetOf).toEqual({ a: 0, b: 0, c: 0, d: 1, e: 2, f: 3 });
    const view = S.at(new Uint8Array(4));
    view.a = 5;
    view.c = 0xff;
    view.b = 1;
    expect([view.bytes[0], view.a, view.b, view.c]).toEqual([0b1111_1101, 5, 1, 15]);
    view.b = 0;
    expect(view.bytes[0]).toBe(0b1111_0101);
  });

  test("a flexible array takes no room but aligns", () => {
    const S = struct({ n: u32, entries: flexible(struct({ x: u64 })) });
    expect([S.size, S.offsetOf.entries, S.align]).toEqual([8, 8, 8]);
  });
});

describe("views", () => {
  const S = struct({
    pad: u8,
    wide: u64,
    signed: s64,
    half: s16,
    byte: s8,
    file: fd,
    file64: fd64,
    p: pointer(),
  });

  test("read and write the bytes, where they stand", () => {
    const bytes = new Uint8Array(S.size + 8);
    const view = S.at(bytes, 8);
    view.wide = 0x1122_3344_5566_7788n;
    expect([...bytes.subarray(16, 24)]).toEqual([0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    bytes[16] = 0;
    expect(view.wide).toBe(0x1122_3344_5566_7700n);
  });

  test("a 64-bit field has halves, of any kind", () => {
    const view = S.at(new Uint8Array(S.size));
    view.wideLo = 0xffff_ffff;
    view.wideHi = 1;
    view.signedHi = 0x8000_0000;
    view.file64Lo = 3;
    view.pHi = 0x7fff;
    expect([view.wide, view.signed, view.file64, view.p]).toEqual([
      0x1_ffff_ffffn,
      -(1n << 63n),
      3n,
      0x7fff_0000_0000n,
    ]);
    expect(view.signedHi).toBe(0x8000_0000);
  });

  test("negative numbers", () => {
    const view = S.at(S.encode({ signed: -2, half: -3, byte: -4, file: -1, file64: -1 }));
    expect([view.signed, view.half, view.byte, view.file, view.file64]).toEqual([-2n, -3, -4, -1, -1n]);
  });

  test("a nested struct is a live view, a decoded one a copy", () => {
    const Outer = struct({ a: u32, in: struct({ x: u32, y: union({ z: u16, w: u32 }) }) });
    const bytes = Outer.encode({ in: { x: 1, y: { w: 0x1_0002 } } });
    const view = Outer.at(bytes);
    const copy = Outer.decode(bytes);
    view.in.x = 5;
    view.in.y.z = 9;
    expect([...bytes]).toEqual([0, 0, 0, 0, 5, 0, 0, 0, 9, 0, 1, 0]);
    expect(copy).toEqual({ a: 0, in: { x: 1, y: { z: 2, w: 0x1_0002 } } });
    view.in = { x: 2, y: { z: 0, w: 3 } } as typeof view.in;
    expect(Outer.decode(bytes).in).toEqual({ x: 2, y: { z: 3, w: 3 } });
  });

  test("bytes are windows in a view and copies when decoded; writing them clears the rest", () => {
    const B = struct({ head: u8, blob: bytes(4) });
    const raw = B.encode({ blob: [1, 2, 3, 4, 5] });
    expect([...raw]).toEqual([0, 1, 2, 3, 4]);
    const window = B.at(raw).blob;
    const copy = B.decode(raw).blob;
    raw[1] = 9;
    expect([window[0], copy[0]]).toEqual([9, 1]);
    B.at(raw).blob = Uint8Array.of(7);
    expect([...raw]).toEqual([0, 7, 0, 0, 0]);
  });

  test("encode refuses a name that is not there", () => {
    expect(() => S.encode({ nothing: 1 } as never)).toThrow(TypeError);
  });
});

describe("64 bits", () => {
  test("a plain number is stored exactly up to 2^53, and below zero", () => {
    fc.assert(
      fc.property(fc.maxSafeInteger(), (value) => {
        const b = new Uint8Array(8);
        store64(b, 0, value);
        const stored = load64(b, 0);
        store64(b, 0, BigInt(value));
        return stored === BigInt.asUintN(64, BigInt(value)) && load64(b, 0) === stored;
      }),
    );
  });
  test("read as a plain number", () => {
    fc.assert(
      fc.property(fc.maxSafeInteger().map(Math.abs), (value) => {
        const b = new Uint8Array(8);
        store64(b, 0, value);
        return loadNumber64(b, 0) === value;
      }),
    );
  });
});

/** A field and the values that it takes. */
type Sample = { type: FieldType; value: fc.Arbitrary<unknown> };
const integers: Sample[] = [
  { type: u8, value: fc.nat(255) },
  { type: s8, value: fc.integer({ min: -128, max: 127 }) },
  { type: u16, value: fc.nat(0xffff) },
  { type: s16, value: fc.integer({ min: -0x8000, max: 0x7fff }) },
  { type: u32, value: fc.nat(0xffff_ffff) },
  { type: s32, value: fc.integer() },
  { type: u64, value: fc.bigInt(0n, 2n ** 64n - 1n) },
  { type: s64, value: fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n) },
  { type: fd, value: fc.integer({ min: -1, max: 1024 }) },
  { type: pointer(), value: fc.bigInt(0n, 2n ** 64n - 1n) },
];

/** Structs of structs and arrays, at most three deep. */
const samples: fc.Arbitrary<Sample> = fc.letrec<{ any: Sample; fields: Sample }>((tie) => ({
  any: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom(...integers),
    fc.integer({ min: 1, max: 5 }).map(
      (n): Sample => ({
        type: bytes(n),
        value: fc.uint8Array({ minLength: n, maxLength: n }),
      }),
    ),
    fc.tuple(tie("any"), fc.integer({ min: 1, max: 3 })).map(([{ type, value }, n]) => ({
      type: array(type, n),
      value: fc.array(value, { minLength: n, maxLength: n }),
    })),
    tie("fields"),
  ),
  fields: fc
    .tuple(fc.array(tie("any"), { minLength: 1, maxLength: 5 }), fc.boolean())
    .map(([members, packed]) => ({
      type: struct(Object.fromEntries(members.map(({ type }, i) => [`f${i}`, type])), {
        packed,
      }) as FieldType,
      value: fc.record(Object.fromEntries(members.map(({ value }, i) => [`f${i}`, value]))),
    })),
})).fields;

describe("any struct", () => {
  const cases = samples.chain(({ type, value }) => fc.tuple(fc.constant(type.struct!), value));

  test("decodes to what was encoded", () => {
    fc.assert(
      fc.property(cases, ([type, value]) => {
        expect(type.decode(type.encode(value as never))).toEqual(value);
      }),
    );
  });

  test("holds its fields in order, aligned, without overlap, inside its size", () => {
    fc.assert(
      fc.property(cases, ([type]) => {
        let end = 0;
        for (const [name, field] of Object.entries(type.fields)) {
          const at = type.offsetOf[name];
          expect(at).toBeGreaterThanOrEqual(end);
          if (type.align > 1) expect(at % field.align).toBe(0);
          end = at + field.size;
        }
        expect(type.size).toBeGreaterThanOrEqual(end);
        expect(type.size - end).toBeLessThan(type.align);
        expect(type.size % type.align).toBe(0);
      }),
    );
  });

  test("copies byte for byte through decode and encode, padding cleared", () => {
    fc.assert(
      fc.property(cases, ([type, value]) => {
        const clean = type.encode(value as never);
        const dirty = clean.slice();
        const covered = type.encode(type.decode(new Uint8Array(type.size).fill(0xff)) as never);
        for (let i = 0; i < dirty.length; i++) if (covered[i] === 0) dirty[i] = 0xaa;
        expect(type.encode(type.decode(dirty) as never)).toEqual(clean);
      }),
    );
  });
});
