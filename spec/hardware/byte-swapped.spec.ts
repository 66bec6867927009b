import { expect, test } from "vitest";
import { ByteSwapped, swapped } from "../../lib/hardware/byte-swapped.ts";

test("values of every width", () => {
  expect(swapped(0x12, 1)).toBe(0x12);
  expect(swapped(0x1234, 2)).toBe(0x3412);
  expect(swapped(0x8123_4567, 4)).toBe(0x6745_2381);
  expect(swapped(0x6745_2381, 4)).toBe(0x8123_4567);
  expect(swapped(0x0123_4567_89ab_cdefn, 8)).toBe(0xefcd_ab89_6745_2301n);
});

test("reads and writes of a model pass through, with a register that it does not have", () => {
  const seen: (number | bigint)[] = [];
  let resets = 0;
  const model = new ByteSwapped({
    read: (_bar, offset) => (offset === 0 ? 0x0100_00ed : undefined),
    write: (_bar, _offset, _width, value) => void seen.push(value),
    reset: () => void resets++,
  });
  expect(model.read(0, 0, 4)).toBe(0xed00_0001);
  expect(model.read(0, 4, 4)).toBeUndefined();
  model.write(0, 0x60, 4, 1);
  expect(seen).toEqual([0x0100_0000]);
  model.reset();
  expect(resets).toBe(1);
});
