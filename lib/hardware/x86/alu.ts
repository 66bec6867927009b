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

/** Why a division cannot be done. */
export const DIVIDE_ERROR = -1;

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
   * Group 2 by its number: ROL, ROR, RCL, RCR, SHL, SHR, SHL, SAR. A count of 0 changes nothing. OF is defined for a
   * count of 1; processors work it out from the result for the others too.
   */
  shift(operation: number, width: number, a: number, by: number): number {
    const count = by & 31;
    if (count === 0) return a;
    const bits = width * 8;
    switch (operation) {
      case 0:
      case 1:
        return this.#rotate(operation, width, bits, a, count);
      case 2:
      case 3:
        return this.#rotateThroughCarry(operation, width, a, count % (bits + 1));
      case 5: {
        const result = count >= 32 ? 0 : a >>> count;
        const carry = (a >>> (count - 1)) & 1;
        this.#shifted(width, result, carry, count === 1 && (a & signOf(width)) !== 0);
        return result;
      }
      case 7: {
        const value = signed(width, a);
        const result = ((value >> count) & maskOf(width)) >>> 0;
        this.#shifted(width, result, (value >> (count - 1)) & 1, false);
        return result;
      }
      default: {
        const result = width === 4 ? (a << count) >>> 0 : (a * 2 ** count) % 2 ** bits;
        const carry = count > bits ? 0 : (a >>> (bits - count)) & 1;
        const top = (result & signOf(width)) !== 0 ? 1 : 0;
        this.#shifted(width, result, carry, (top ^ carry) !== 0);
        return result;
      }
    }
  }

  #shifted(width: number, result: number, carry: number, overflow: boolean): void {
    this.#set(this.#szp(width, result) | (carry !== 0 ? CF : 0) | (overflow ? OF : 0));
  }

  #rotate(operation: number, width: number, bits: number, a: number, count: number): number {
    const by = count % bits;
    const mask = maskOf(width);
    const left = operation === 0 ? by : (bits - by) % bits;
    const result = left === 0 ? a : (((a << left) | (a >>> (bits - left))) & mask) >>> 0;
    const top = (result & signOf(width)) !== 0 ? 1 : 0;
    if (operation === 0) {
      const carry = result & 1;
      this.#set(carry | ((top ^ carry) !== 0 ? OF : 0), CF | OF);
    } else {
      const next = (result & (signOf(width) >>> 1)) !== 0 ? 1 : 0;
      this.#set(top | ((top ^ next) !== 0 ? OF : 0), CF | OF);
    }
    return result;
  }

  #rotateThroughCarry(operation: number, width: number, a: number, count: number): number {
    let value = a;
    let carry = this.carry;
    const sign = signOf(width);
    for (let i = 0; i < count; i++) {
      if (operation === 2) {
        const out = (value & sign) !== 0 ? 1 : 0;
        value = ((value << 1) | carry) >>> 0;
        value = (value & maskOf(width)) >>> 0;
        carry = out;
      } else {
        const out = value & 1;
        value = ((value >>> 1) | (carry !== 0 ? sign : 0)) >>> 0;
        carry = out;
      }
    }
    const top = (value & sign) !== 0 ? 1 : 0;
    const second = (value & (sign >>> 1)) !== 0 ? 1 : 0;
    const overflow = operation === 2 ? top ^ carry : top ^ second;
    this.#set(carry | (overflow !== 0 ? OF : 0), CF | OF);
    return value;
  }

  shift64(operation: number, a: bigint, by: number): bigint {
    const count = by & 63;
    if (count === 0) return a;
    const n = BigInt(count);
    let result: bigint;
    let carry: bigint;
    switch (operation) {
      case 0:
      case 1: {
        const left = operation === 0 ? n : 64n - n;
        result = ((a << left) | (a >> (64n - left))) & MASK64;
        carry = operation === 0 ? result & 1n : result >> 63n;
        const other = operation === 0 ? result >> 63n : (result >> 62n) & 1n;
        this.#set(Number(carry) | (carry !== other ? OF : 0), CF | OF);
        return result;
      }
      case 2:
      case 3: {
        const wide = a | (BigInt(this.carry) << 64n);
        const left = operation === 2 ? n : 65n - n;
        const turned = ((wide << left) | (wide >> (65n - left))) & ((1n << 65n) - 1n);
        result = turned & MASK64;
        carry = turned >> 64n;
        const other = operation === 2 ? carry : (result >> 62n) & 1n;
        this.#set(Number(carry) | (result >> 63n !== other ? OF : 0), CF | OF);
        return result;
      }
      case 5:
        result = a >> n;
        carry = (a >> (n - 1n)) & 1n;
        this.#set(this.#szp64(result) | Number(carry) | (count === 1 && (a & SIGN64) !== 0n ? OF : 0));
        return result;
      case 7: {
        const value = BigInt.asIntN(64, a);
        result = (value >> n) & MASK64;
        carry = (value >> (n - 1n)) & 1n;
        this.#set(this.#szp64(result) | Number(carry));
        return result;
      }
      default:
        result = (a << n) & MASK64;
        carry = (a >> (64n - n)) & 1n;
        this.#set(this.#szp64(result) | Number(carry) | (result >> 63n !== carry ? OF : 0));
        return result;
    }
  }

  /** SHLD and SHRD of 2 or 4 bytes: `filler` moves in. A count beyond 16 of 16-bit operands is undefined. */
  doubleShift(left: boolean, width: number, a: number, filler: number, by: number): number {
    const count = by & 31;
    if (count === 0) return a;
    const bits = BigInt(width * 8);
    const n = BigInt(count);
    const mask = (1n << bits) - 1n;
    // for 16 bits the filler goes around with the operand
    const wide =
      width === 2
        ? (BigInt(a) << 32n) | (BigInt(filler) << 16n) | BigInt(a)
        : (BigInt(a) << 32n) | BigInt(filler);
    let result: bigint;
    let carry: bigint;
    if (left) {
      const top = width === 2 ? 48n : 64n;
      result = (wide >> (top - bits - n)) & mask;
      carry = (wide >> (top - n)) & 1n;
    } else {
      const low =
        width === 2
          ? (BigInt(a) << 32n) | (BigInt(filler) << 16n) | BigInt(a)
          : (BigInt(filler) << 32n) | BigInt(a);
      result = (low >> n) & mask;
      carry = (low >> (n - 1n)) & 1n;
    }
    const value = Number(result);
    const overflow = ((value ^ a) & signOf(width)) !== 0;
    this.#set(this.#szp(width, value) | Number(carry) | (overflow ? OF : 0));
    return value;
  }

  doubleShift64(left: boolean, a: bigint, filler: bigint, by: number): bigint {
    const count = by & 63;
    if (count === 0) return a;
    const n = BigInt(count);
    const result = left
      ? ((a << n) | (filler >> (64n - n))) & MASK64
      : ((a >> n) | (filler << (64n - n))) & MASK64;
    const carry = left ? (a >> (64n - n)) & 1n : (a >> (n - 1n)) & 1n;
    const overflow = ((result ^ a) & SIGN64) !== 0n;
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

  /** BSF and BSR found a bit: flags as of a comparison of its number with 0, CF, AF and OF cleared. */
  scanned(_index: number): void {
    this.#set(0, ZF);
  }

  scannedNothing(): void {
    this.#set(ZF, ZF);
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
