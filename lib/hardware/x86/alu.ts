/**
 * Arithmetic of the integer instructions with its flags (Intel SDM volume 1, appendix A). Operands of 1, 2 and 4 bytes
 * are unsigned numbers, those of 8 bytes bigints; each operation exists twice for that reason. Results go out as
 * unsigned values, flags into RFLAGS of the state.
 *
 * Flags that the manual leaves undefined are those that Intel's processors give (recorded on the live kernel, see
 * spec/hardware/x86/recorded.spec.ts): AF is 0 after logic, shifts and multiplications, division leaves all flags alone.
 */
import { AF, CF, type CpuState, OF, PF, RFLAGS, SF, ZF } from "./state.ts";

export const STATUS = CF | PF | AF | ZF | SF | OF;

/** Operations of the opcodes 00–3F and group 1, by their number. */
export const ADD = 0;
export const OR = 1;
export const ADC = 2;
export const SBB = 3;
export const AND = 4;
export const SUB = 5;
export const XOR = 6;
export const CMP = 7;

/** PF by the low byte of a result. */
const PARITY = new Uint8Array(256);
for (let value = 0; value < 256; value++) {
  let ones = 0;
  for (let rest = value; rest !== 0; rest &= rest - 1) ones++;
  PARITY[value] = ones % 2 === 0 ? PF : 0;
}

const MASK64 = (1n << 64n) - 1n;
const SIGN64 = 1n << 63n;

/** All ones in so many bytes: 1, 2 or 4. */
export const maskOf = (width: number): number => (width === 4 ? 0xffff_ffff : width === 2 ? 0xffff : 0xff);
const signOf = (width: number): number => (width === 4 ? 0x8000_0000 : width === 2 ? 0x8000 : 0x80);

/** A number of 1, 2 or 4 bytes as signed. */
export const signed = (width: number, value: number): number =>
  width === 4 ? value | 0 : width === 2 ? (value << 16) >> 16 : (value << 24) >> 24;

/** Turned left by less than its width. */
function rotateLeft(width: number, a: number, by: number): number {
  const bits = width * 8;
  const left = by % bits;
  return left === 0 ? a : (((a << left) | (a >>> (bits - left))) & maskOf(width)) >>> 0;
}

export class Alu {
  readonly #r32: Uint32Array;
  /** results of two words: low and high of a product, quotient and remainder */
  lo = 0;
  hi = 0;
  lo64 = 0n;
  hi64 = 0n;

  constructor(state: CpuState) {
    this.#r32 = state.r32;
  }

  get carry(): number {
    return this.#r32[2 * RFLAGS] & CF;
  }

  #set(flags: number, which = STATUS): void {
    this.#r32[2 * RFLAGS] = (this.#r32[2 * RFLAGS] & ~which) | flags;
  }

  /** SF, ZF and PF of a result. */
  #szp(width: number, result: number): number {
    return PARITY[result & 0xff] | (result === 0 ? ZF : 0) | ((result & signOf(width)) !== 0 ? SF : 0);
  }

  #szp64(result: bigint): number {
    return PARITY[Number(result & 0xffn)] | (result === 0n ? ZF : 0) | ((result & SIGN64) !== 0n ? SF : 0);
  }

  // ---- the eight operations --------------------------------------------------------------------------------------

  /** CMP answers what SUB would; the caller does not write it. */
  operate(operation: number, width: number, a: number, b: number): number {
    switch (operation) {
      case ADD:
        return this.add(width, a, b, 0);
      case OR:
        return this.logic(width, (a | b) >>> 0);
      case ADC:
        return this.add(width, a, b, this.carry);
      case SBB:
        return this.subtract(width, a, b, this.carry);
      case AND:
        return this.logic(width, (a & b) >>> 0);
      case XOR:
        return this.logic(width, (a ^ b) >>> 0);
      default:
        return this.subtract(width, a, b, 0);
    }
  }

  operate64(operation: number, a: bigint, b: bigint): bigint {
    switch (operation) {
      case ADD:
        return this.add64(a, b, 0);
      case OR:
        return this.logic64(a | b);
      case ADC:
        return this.add64(a, b, this.carry);
      case SBB:
        return this.subtract64(a, b, this.carry);
      case AND:
        return this.logic64(a & b);
      case XOR:
        return this.logic64(a ^ b);
      default:
        return this.subtract64(a, b, 0);
    }
  }

  add(width: number, a: number, b: number, carry: number): number {
    const sum = a + b + carry;
    const result = (sum & maskOf(width)) >>> 0;
    this.#set(
      this.#szp(width, result) |
        (sum > maskOf(width) ? CF : 0) |
        ((a ^ b ^ result) & AF) |
        (((a ^ result) & (b ^ result) & signOf(width)) !== 0 ? OF : 0),
    );
    return result;
  }

  subtract(width: number, a: number, b: number, borrow: number): number {
    const difference = a - b - borrow;
    const result = (difference & maskOf(width)) >>> 0;
    this.#set(
      this.#szp(width, result) |
        (difference < 0 ? CF : 0) |
        ((a ^ b ^ result) & AF) |
        (((a ^ b) & (a ^ result) & signOf(width)) !== 0 ? OF : 0),
    );
    return result;
  }

  logic(width: number, result: number): number {
    this.#set(this.#szp(width, result));
    return result;
  }

  add64(a: bigint, b: bigint, carry: number): bigint {
    const sum = a + b + BigInt(carry);
    const result = sum & MASK64;
    this.#set(
      this.#szp64(result) |
        (sum > MASK64 ? CF : 0) |
        Number((a ^ b ^ result) & 16n) |
        (((a ^ result) & (b ^ result) & SIGN64) !== 0n ? OF : 0),
    );
    return result;
  }

  subtract64(a: bigint, b: bigint, borrow: number): bigint {
    const difference = a - b - BigInt(borrow);
    const result = difference & MASK64;
    this.#set(
      this.#szp64(result) |
        (difference < 0n ? CF : 0) |
        Number((a ^ b ^ result) & 16n) |
        (((a ^ b) & (a ^ result) & SIGN64) !== 0n ? OF : 0),
    );
    return result;
  }

  logic64(result: bigint): bigint {
    this.#set(this.#szp64(result));
    return result;
  }

  /** INC and DEC keep CF. */
  increment(width: number, a: number, by: 1 | -1): number {
    const carry = this.carry;
    const result = by === 1 ? this.add(width, a, 1, 0) : this.subtract(width, a, 1, 0);
    this.#set(carry, CF);
    return result;
  }

  increment64(a: bigint, by: 1 | -1): bigint {
    const carry = this.carry;
    const result = by === 1 ? this.add64(a, 1n, 0) : this.subtract64(a, 1n, 0);
    this.#set(carry, CF);
    return result;
  }

  // ---- shifts and rotations --------------------------------------------------------------------------------------

  /**
   * Group 2 by its number: ROL, ROR, RCL, RCR, SHL, SHR, SHL, SAR. A count of 0 changes nothing. The manual defines OF for
   * a count of 1; for the others Intel's processors give what one step of the operation would (recorded).
   */
  shift(operation: number, width: number, a: number, by: number): number {
    const count = by & 31;
    if (count === 0) return a;
    const bits = width * 8;
    const top = (a & signOf(width)) !== 0 ? 1 : 0;
    const second = (a & (signOf(width) >>> 1)) !== 0 ? 1 : 0;
    switch (operation) {
      case 0: {
        const result = rotateLeft(width, a, count % bits);
        this.#set((result & 1) | (top !== second ? OF : 0), CF | OF);
        return result;
      }
      case 1: {
        const result = rotateLeft(width, a, bits - (count % bits));
        this.#set(((result & signOf(width)) !== 0 ? CF : 0) | (top !== (a & 1) ? OF : 0), CF | OF);
        return result;
      }
      case 2:
      case 3:
        return this.#rotateThroughCarry(operation === 2, width, a, count % (bits + 1), top, second);
      case 5:
        this.#shifted(width, a >>> count, (a >>> (count - 1)) & 1, top !== 0);
        return a >>> count;
      case 7: {
        const value = signed(width, a);
        const result = ((value >> count) & maskOf(width)) >>> 0;
        this.#shifted(width, result, (value >> (count - 1)) & 1, false);
        return result;
      }
      default: {
        const result = width === 4 ? (a << count) >>> 0 : (a * 2 ** count) % 2 ** bits;
        const carry = count > bits ? 0 : (a >>> (bits - count)) & 1;
        this.#shifted(width, result, carry, top !== second);
        return result;
      }
    }
  }

  #shifted(width: number, result: number, carry: number, overflow: boolean): void {
    this.#set(this.#szp(width, result) | (carry !== 0 ? CF : 0) | (overflow ? OF : 0));
  }

  #rotateThroughCarry(
    left: boolean,
    width: number,
    a: number,
    count: number,
    top: number,
    second: number,
  ): number {
    if (count === 0) return a;
    const sign = signOf(width);
    let value = a;
    let carry = this.carry;
    const overflow = left ? top !== second : top !== carry;
    for (let i = 0; i < count; i++) {
      if (left) {
        const out = (value & sign) !== 0 ? 1 : 0;
        value = (((value << 1) | carry) & maskOf(width)) >>> 0;
        carry = out;
      } else {
        const out = value & 1;
        value = ((value >>> 1) | (carry !== 0 ? sign : 0)) >>> 0;
        carry = out;
      }
    }
    this.#set(carry | (overflow ? OF : 0), CF | OF);
    return value;
  }

  shift64(operation: number, a: bigint, by: number): bigint {
    const count = by & 63;
    if (count === 0) return a;
    const n = BigInt(count);
    const top = a >> 63n;
    const turned = top !== ((a >> 62n) & 1n) ? OF : 0;
    let result: bigint;
    switch (operation) {
      case 0:
        result = ((a << n) | (a >> (64n - n))) & MASK64;
        this.#set(Number(result & 1n) | turned, CF | OF);
        return result;
      case 1:
        result = ((a >> n) | (a << (64n - n))) & MASK64;
        this.#set(Number(result >> 63n) | (top !== (a & 1n) ? OF : 0), CF | OF);
        return result;
      case 2:
      case 3: {
        const carry = BigInt(this.carry);
        const wide = a | (carry << 64n);
        const left = operation === 2 ? n : 65n - n;
        const around = ((wide << left) | (wide >> (65n - left))) & ((1n << 65n) - 1n);
        const overflow = operation === 2 ? turned : top !== carry ? OF : 0;
        this.#set(Number(around >> 64n) | overflow, CF | OF);
        return around & MASK64;
      }
      case 5:
        result = a >> n;
        this.#set(this.#szp64(result) | Number((a >> (n - 1n)) & 1n) | (top !== 0n ? OF : 0));
        return result;
      case 7: {
        const value = BigInt.asIntN(64, a);
        result = (value >> n) & MASK64;
        this.#set(this.#szp64(result) | Number((value >> (n - 1n)) & 1n));
        return result;
      }
      default:
        result = (a << n) & MASK64;
        this.#set(this.#szp64(result) | Number((a >> (64n - n)) & 1n) | turned);
        return result;
    }
  }

  /** SHLD and SHRD of 2 or 4 bytes: `filler` moves in, and for 16 bits the operand itself after it. */
  doubleShift(left: boolean, width: number, a: number, filler: number, by: number): number {
    const count = by & 31;
    if (count === 0) return a;
    const bits = BigInt(width * 8);
    const n = BigInt(count);
    const mask = (1n << bits) - 1n;
    const [x, y] = [BigInt(a), BigInt(filler)];
    const overflow = left
      ? ((a & signOf(width)) !== 0) !== ((a & (signOf(width) >>> 1)) !== 0)
      : ((a & signOf(width)) !== 0) !== ((filler & 1) !== 0);
    let result: bigint;
    let carry: bigint;
    if (left) {
      const wide = (x << (2n * bits)) | (y << bits) | x;
      result = (wide >> (2n * bits - n)) & mask;
      carry = (wide >> (3n * bits - n)) & 1n;
    } else {
      const wide = (x << (2n * bits)) | (y << bits) | x;
      result = (wide >> n) & mask;
      carry = (wide >> (n - 1n)) & 1n;
    }
    this.#set(this.#szp(width, Number(result)) | Number(carry) | (overflow ? OF : 0));
    return Number(result);
  }

  doubleShift64(left: boolean, a: bigint, filler: bigint, by: number): bigint {
    const count = by & 63;
    if (count === 0) return a;
    const n = BigInt(count);
    const result = left
      ? ((a << n) | (filler >> (64n - n))) & MASK64
      : ((a >> n) | (filler << (64n - n))) & MASK64;
    const carry = left ? (a >> (64n - n)) & 1n : (a >> (n - 1n)) & 1n;
    const overflow = a >> 63n !== (left ? (a >> 62n) & 1n : filler & 1n);
    this.#set(this.#szp64(result) | Number(carry) | (overflow ? OF : 0));
    return result;
  }

  // ---- multiplication and division -------------------------------------------------------------------------------

  /** a · b into `lo` and `hi`. CF and OF: the upper half is needed. */
  multiply(width: number, a: number, b: number, isSigned: boolean): void {
    const product = isSigned ? BigInt(signed(width, a)) * BigInt(signed(width, b)) : BigInt(a) * BigInt(b);
    const bits = width * 8;
    this.lo = Number(BigInt.asUintN(bits, product));
    this.hi = Number(BigInt.asUintN(bits, product >> BigInt(bits)));
    const needed = isSigned ? BigInt.asIntN(bits, product) !== product : this.hi !== 0;
    this.#set((this.#szp(width, this.lo) & ~ZF) | (needed ? CF | OF : 0));
  }

  multiply64(a: bigint, b: bigint, isSigned: boolean): void {
    const product = isSigned ? BigInt.asIntN(64, a) * BigInt.asIntN(64, b) : a * b;
    this.lo64 = product & MASK64;
    this.hi64 = (product >> 64n) & MASK64;
    const needed = isSigned ? BigInt.asIntN(64, product) !== product : this.hi64 !== 0n;
    this.#set((this.#szp64(this.lo64) & ~ZF) | (needed ? CF | OF : 0));
  }

  /** hi:lo ÷ b: quotient into `lo`, remainder into `hi`; false for #DE. */
  divide(width: number, hi: number, lo: number, b: number, isSigned: boolean): boolean {
    const bits = width * 8;
    const wide = (BigInt(hi) << BigInt(bits)) | BigInt(lo);
    const dividend = isSigned ? BigInt.asIntN(2 * bits, wide) : wide;
    const divisor = isSigned ? BigInt(signed(width, b)) : BigInt(b);
    if (divisor === 0n) return false;
    const quotient = dividend / divisor;
    if ((isSigned ? BigInt.asIntN(bits, quotient) : BigInt.asUintN(bits, quotient)) !== quotient)
      return false;
    this.lo = Number(BigInt.asUintN(bits, quotient));
    this.hi = Number(BigInt.asUintN(bits, dividend % divisor));
    return true;
  }

  divide64(hi: bigint, lo: bigint, b: bigint, isSigned: boolean): boolean {
    const wide = (hi << 64n) | lo;
    const dividend = isSigned ? BigInt.asIntN(128, wide) : wide;
    const divisor = isSigned ? BigInt.asIntN(64, b) : b;
    if (divisor === 0n) return false;
    const quotient = dividend / divisor;
    if ((isSigned ? BigInt.asIntN(64, quotient) : BigInt.asUintN(64, quotient)) !== quotient) return false;
    this.lo64 = BigInt.asUintN(64, quotient);
    this.hi64 = BigInt.asUintN(64, dividend % divisor);
    return true;
  }

  // ---- bits and decimal digits -----------------------------------------------------------------------------------

  /** CF alone changes: BT, BTS, BTR, BTC. */
  setCarry(carry: boolean): void {
    this.#set(carry ? CF : 0, CF);
  }

  /** BSF and BSR: ZF says that there was no bit; PF follows the number, the others are cleared. */
  scanned(index: number): void {
    this.#set(PARITY[index]);
  }

  scannedNothing(): void {
    this.#set(ZF | PF);
  }

  /** DAA and DAS. */
  decimalAdjust(subtracting: boolean, al: number): number {
    const before = this.#r32[2 * RFLAGS];
    let result = al;
    let flags = 0;
    if ((al & 15) > 9 || (before & AF) !== 0) {
      result += subtracting ? -6 : 6;
      flags |= AF;
      if (result < 0 || result > 0xff) flags |= CF;
    }
    if ((before & CF) !== 0) flags |= CF;
    if (al > 0x99 || (before & CF) !== 0) {
      result += subtracting ? -0x60 : 0x60;
      flags |= CF;
    } else if (!subtracting) flags &= ~CF;
    result &= 0xff;
    this.#set(this.#szp(1, result) | flags);
    return result;
  }

  /** AAA and AAS: AX after. */
  asciiAdjust(subtracting: boolean, ax: number): number {
    const adjust = (ax & 15) > 9 || (this.#r32[2 * RFLAGS] & AF) !== 0;
    const moved = adjust ? (subtracting ? ax - 0x106 : ax + 0x106) & 0xffff : ax;
    const result = moved & 0xff0f;
    this.#set(this.#szp(1, result & 0xff) | (adjust ? AF | CF : 0));
    return result;
  }
}
