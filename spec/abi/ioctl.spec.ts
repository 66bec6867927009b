import { describe, expect, test } from "vitest";
import {
  type Direction,
  io,
  ior,
  iow,
  iowr,
  isRequest,
  isStruct,
  requestNumber,
} from "../../lib/abi/ioctl.ts";
import { struct, u32, u64 } from "../../lib/abi/struct.ts";

const Pair = struct({ a: u32, b: u64 });

describe("request numbers", () => {
  test("known ones, in both encodings", () => {
    // KVM_RUN, KVM_IRQFD, KVM_SET_IRQCHIP, KVM_CREATE_DEVICE as strace prints them on x86 and on POWER
    expect([io(0xae, 0x80).number, io(0xae, 0x80).powerpc]).toEqual([0xae80, 0x2000ae80]);
    expect([iow(0xae, 0x76, 32).number, iow(0xae, 0x76, 32).powerpc]).toEqual([0x4020ae76, 0x8020ae76]);
    expect([ior(0xae, 0x63, 520).number, ior(0xae, 0x63, 520).powerpc]).toEqual([0x8208ae63, 0x4208ae63]);
    expect([iowr(0xae, 0xe0, 12).number, iowr(0xae, 0xe0, 12).powerpc]).toEqual([0xc00caee0, 0xc00caee0]);
  });

  test("every direction and encoding unpacks to what was packed", () => {
    const fields = {
      generic: { shift: 30, sizeBits: 14, codes: { none: 0, write: 1, read: 2, "read-write": 3 } },
      powerpc: { shift: 29, sizeBits: 13, codes: { none: 1, read: 2, write: 4, "read-write": 6 } },
    };
    for (const encoding of ["generic", "powerpc"] as const)
      for (const direction of ["none", "read", "write", "read-write"] as Direction[])
        for (const size of [0, 1, 8, 520, 8191])
          for (const nr of [0, 1, 0x7f, 0xff]) {
            const number = requestNumber(encoding, direction, 0xae, nr, size);
            const { shift, sizeBits, codes } = fields[encoding];
            expect([
              number >>> shift,
              (number >>> 16) & (2 ** sizeBits - 1),
              (number >>> 8) & 0xff,
              number & 0xff,
            ]).toEqual([codes[direction], size, 0xae, nr]);
          }
  });

  test("a number is never negative", () => {
    expect(requestNumber("generic", "read-write", 0xff, 0xff, 0x3fff)).toBe(0xffffffff);
  });
});

describe("copy rules", () => {
  test("follow from the direction", () => {
    expect([io(1, 1), ior(1, 1, 4), iow(1, 1, 4), iowr(1, 1, 4)].map(({ copy }) => copy)).toEqual([
      "value",
      "out",
      "in",
      "inout",
    ]);
  });

  test("the struct gives the size, and is what the argument points to", () => {
    const request = iow(1, 2, Pair);
    expect([request.size, request.struct]).toEqual([16, Pair]);
    expect(iow(1, 2, 8).struct).toBe(undefined);
  });

  test("a head without a direction is copied both ways, unless the rule says otherwise", () => {
    expect(io(1, 1, { head: Pair })).toMatchObject({ size: 0, struct: Pair, copy: "inout" });
    expect(io(1, 1, { head: Pair, copy: "in" }).copy).toBe("in");
    expect(ior(1, 1, Pair, { copy: "in" })).toMatchObject({ direction: "read", copy: "in" });
  });

  test("requests and structs are told from other values", () => {
    const values = [io(1, 1), Pair, 5, 5n, null, "", {}, () => 0];
    expect(values.map(isRequest)).toEqual([true, false, false, false, false, false, false, false]);
    expect(values.map(isStruct)).toEqual([false, true, false, false, false, false, false, false]);
  });
});
