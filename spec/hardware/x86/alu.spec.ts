/** Arithmetic against a naive twin: 8-bit operands completely, wider ones at random. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Alu, maskOf, STATUS } from "../../../lib/hardware/x86/alu.ts";
import { AF, CF, CpuState, OF, PF, RFLAGS, SF, ZF } from "../../../lib/hardware/x86/state.ts";

const state = new CpuState();
const alu = new Alu(state);
const setFlags = (flags: number) => {
  state.r32[2 * RFLAGS] = flags | 2;
};
const flags = () => state.r32[2 * RFLAGS] & STATUS;

/** Eight operations by bits, one after the other: a full adder, and no arithmetic of the host's but on single bits. */
function naive(operation: number, bits: number, a: bigint, b: bigint, carryIn: boolean) {
  const bit = (value: bigint, i: number) => ((value >> BigInt(i)) & 1n) === 1n;
  const subtracts = operation === 3 || operation === 5 || operation === 7;
  const logic = operation === 1 || operation === 4 || operation === 6;
  let carry = (operation === 2 || operation === 3) && carryIn;
  let result = 0n;
  let half = false;
  let before = false;
  for (let i = 0; i < bits; i++) {
    const [x, y] = [bit(a, i), bit(b, i)];
    let out: boolean;
    if (operation === 1) out = x || y;
    else if (operation === 4) out = x && y;
    else if (operation === 6) out = x !== y;
    else {
      out = (x !== y) !== carry;
      before = carry;
      carry = subtracts ? (!x && (y || carry)) || (y && carry) : (x && y) || (carry && (x || y));
      if (i === 3) half = carry;
    }
    if (out) result |= 1n << BigInt(i);
  }
  let ones = 0;
  for (let i = 0; i < 8; i++) if (bit(result, i)) ones++;
  let status = (ones % 2 === 0 ? PF : 0) | (result === 0n ? ZF : 0) | (bit(result, bits - 1) ? SF : 0);
  if (!logic) status |= (carry ? CF : 0) | (half ? AF : 0) | (carry !== before ? OF : 0);
  return { result, status };
}

describe("the eight operations", () => {
  test.each([0, 1, 2, 3, 4, 5, 6, 7])("operation %i, all bytes, both carries", (operation) => {
    for (const carry of [0, CF])
      for (let a = 0; a < 256; a++)
        for (let b = 0; b < 256; b++) {
          setFlags(carry);
          const result = alu.operate(operation, 1, a, b);
          const expected = naive(operation, 8, BigInt(a), BigInt(b), carry !== 0);
          if (result !== Number(expected.result) || flags() !== expected.status)
            expect({ a, b, carry, result, flags: flags() }).toEqual({ a, b, carry, ...expected });
        }
  });

  const operand = fc.oneof(
    fc.constantFrom(0n, 1n, (1n << 63n) - 1n, 1n << 63n, (1n << 64n) - 1n),
    fc.bigInt(0n, (1n << 64n) - 1n),
  );
  test("words of 16, 32 and 64 bits", () => {
    fc.assert(
      fc.property(
        fc.nat(7),
        fc.constantFrom(2, 4, 8),
        operand,
        operand,
        fc.boolean(),
        (operation, width, a, b, carry) => {
          const bits = 8 * width;
          const [x, y] = [BigInt.asUintN(bits, a), BigInt.asUintN(bits, b)];
          const expected = naive(operation, bits, x, y, carry);
          setFlags(carry ? CF : 0);
          const result =
            width === 8
              ? alu.operate64(operation, x, y)
              : BigInt(alu.operate(operation, width, Number(x), Number(y)));
          expect({ result, status: flags() }).toEqual(expected);
        },
      ),
    );
  });
});

/** Shifts and rotations one step at a time; flags of the last step, OF of the first. */
function stepwise(operation: number, bits: number, start: bigint, count: number, carryIn: number) {
  const top = 1n << BigInt(bits - 1);
  let value = start;
  let carry = BigInt(carryIn);
  let overflow = false;
  for (let i = 0; i < count; i++) {
    const high = (value & top) !== 0n ? 1n : 0n;
    const low = value & 1n;
    const old = carry;
    const left = operation === 0 || operation === 2 || operation === 4 || operation === 6;
    carry = left ? high : low;
    const filler = [high, low, old, old, 0n, 0n, 0n, high][operation];
    value = left ? BigInt.asUintN(bits, value << 1n) | filler : (value >> 1n) | (filler !== 0n ? top : 0n);
    if (i === 0) overflow = ((value & top) !== 0n) !== ((left ? carry : high) !== 0n);
  }
  return { value, carry: Number(carry), overflow };
}

describe("shifts and rotations", () => {
  test.each([0, 1, 2, 3, 4, 5, 6, 7])("operation %i, all bytes and counts", (operation) => {
    for (const carryIn of [0, 1])
      for (let a = 0; a < 256; a++)
        for (let count = 1; count < 32; count++) {
          setFlags(carryIn);
          const result = alu.shift(operation, 1, a, count);
          const expected = stepwise(operation, 8, BigInt(a), count, carryIn);
          const turnsWhole = (operation === 2 || operation === 3) && count % 9 === 0;
          const seen = { value: BigInt(result), carry: flags() & CF, overflow: (flags() & OF) !== 0 };
          if (turnsWhole) expect(seen.value).toBe(BigInt(a));
          else if (
            seen.value !== expected.value ||
            seen.carry !== expected.carry ||
            seen.overflow !== expected.overflow
          )
            expect({ a, count, carryIn, ...seen }).toEqual({ a, count, carryIn, ...expected });
        }
  });

  test("64 bits", () => {
    fc.assert(
      fc.property(
        fc.nat(7),
        fc.bigInt(0n, (1n << 64n) - 1n),
        fc.integer({ min: 1, max: 63 }),
        fc.nat(1),
        (operation, a, count, carry) => {
          setFlags(carry);
          const value = alu.shift64(operation, a, count);
          expect({ value, carry: flags() & CF, overflow: (flags() & OF) !== 0 }).toEqual(
            stepwise(operation, 64, a, count, carry),
          );
        },
      ),
    );
  });
});

describe("multiplication and division", () => {
  test("all bytes: division takes multiplication back", () => {
    for (const isSigned of [false, true])
      for (let a = 0; a < 256; a++)
        for (let b = 1; b < 256; b++) {
          alu.multiply(1, a, b, isSigned);
          const { lo, hi } = alu;
          expect(alu.divide(1, hi, lo, b, isSigned)).toBe(true);
          if (alu.lo !== a || alu.hi !== 0)
            expect([isSigned, a, b, alu.lo, alu.hi]).toEqual([isSigned, a, b, a, 0]);
        }
  });

  test("division by zero, and quotients that do not fit", () => {
    expect(alu.divide(4, 0, 5, 0, false)).toBe(false);
    expect(alu.divide(1, 1, 0, 1, false)).toBe(false);
    expect(alu.divide(4, maskOf(4), 0x8000_0000, maskOf(4), true)).toBe(false);
    expect(alu.divide64(1n, 0n, 1n, false)).toBe(false);
  });
});
