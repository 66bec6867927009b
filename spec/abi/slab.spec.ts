import { describe, expect, test } from "vitest";
import { copyOf, newBytes, newWords } from "../../lib/abi/slab.ts";

describe("arrays out of a slab", () => {
  test("are zero, as long as asked for, and share nothing", () => {
    const lengths = Array.from({ length: 200 }, (_, i) => i % 70);
    const arrays = lengths.map(newBytes);
    expect(arrays.map((bytes) => bytes.length)).toEqual(lengths);
    expect(arrays.every((bytes) => bytes.every((byte) => byte === 0))).toBe(true);
    arrays.forEach((bytes, i) => {
      bytes.fill(i + 1);
    });
    expect(arrays.every((bytes, i) => bytes.every((byte) => byte === ((i + 1) & 0xff)))).toBe(true);
  });

  test("words after any number of bytes", () => {
    for (let length = 0; length < 9; length++) {
      newBytes(length);
      expect([...newWords(3)]).toEqual([0, 0, 0]);
    }
  });

  test("one that is larger than a slab", () => {
    const large = newBytes(100_000);
    large.fill(0xff);
    expect(large.length).toBe(100_000);
    expect([...newBytes(16)]).toEqual(new Array(16).fill(0));
  });

  test("a copy is the same bytes, and another array", () => {
    const bytes = Uint8Array.of(1, 2, 3);
    const copy = copyOf(bytes);
    copy[0] = 9;
    expect([...copy]).toEqual([9, 2, 3]);
    expect([...bytes]).toEqual([1, 2, 3]);
  });
});
