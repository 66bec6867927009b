/**
 * Turns a list of accesses (hardware/guest-script.ts) into machine code with flat data segments, so that the same guest
 * runs on a real kernel: 32-bit protected mode, 64-bit mode, or real mode whose data segments reach 4 GiB. What an access
 * reads is stored at `results`, 4 bytes each, in the order of the reads. EAX, EDX and EDI are used.
 */
import type { Access } from "../hardware/guest-script.ts";

const LAPIC_EOI = 0xfee0_00b0;
const OPERAND_SIZE = 0x66;
const ADDRESS_SIZE = 0x67;
const HLT = 0xf4;

/** How wide operands are where no prefix says so. */
export type Bits = 16 | 32 | 64;

const le = (value: number, width: number): number[] =>
  Array.from({ length: width }, (_, i) => Math.floor((value >>> 0) / 2 ** (8 * i)) & 0xff);

/** The opcode for bytes is even, that for words follows it. */
const wide = (opcode: number, width: number): number => (width === 1 ? opcode : opcode + 1);

class Assembler {
  readonly #bits: Bits;
  readonly #results: number;
  #reads = 0;

  constructor(bits: Bits, results: number) {
    this.#bits = bits;
    this.#results = results;
  }

  /** The prefix of operands of this width, if it is not the usual one. */
  #sized(width: number): number[] {
    return width === (this.#bits === 16 ? 4 : 2) ? [OPERAND_SIZE] : [];
  }

  /** mov edi, address, and the prefix for an operand behind it */
  #at(address: number): number[] {
    return [...this.#sized(4), 0xbf, ...le(address, 4), ...(this.#bits === 16 ? [ADDRESS_SIZE] : [])];
  }

  /** mov [address], immediate */
  #store(address: number, width: number, value: number): number[] {
    return [...this.#at(address), ...this.#sized(width), wide(0xc6, width), 0x07, ...le(value, width)];
  }

  /** The whole of EAX, which was cleared before the read, goes to the next place of the results. */
  #keep(): number[] {
    return [...this.#at(this.#results + 4 * this.#reads++), ...this.#sized(4), 0x89, 0x07];
  }

  code(access: Access): number[] {
    const clear = [...this.#sized(4), 0x31, 0xc0];
    switch (access.does) {
      case "load":
        return [
          ...clear,
          ...this.#at(access.address),
          ...this.#sized(access.width),
          wide(0x8a, access.width),
          0x07,
          ...this.#keep(),
        ];
      case "store": {
        if (access.width !== 8) return this.#store(access.address, access.width, Number(access.value));
        const value = BigInt.asUintN(64, BigInt(access.value));
        return [
          ...this.#store(access.address, 4, Number(value & 0xffff_ffffn)),
          ...this.#store(access.address + 4, 4, Number(value >> 32n)),
        ];
      }
      case "in":
        return [
          ...clear,
          ...this.#port(access.port),
          ...this.#sized(access.width),
          wide(0xec, access.width),
          ...this.#keep(),
        ];
      case "out":
        return [
          ...this.#port(access.port),
          ...this.#sized(4),
          0xb8,
          ...le(access.value, 4),
          ...this.#sized(access.width),
          wide(0xee, access.width),
        ];
      case "halt":
        return [HLT];
      case "interrupts":
        return [access.on ? 0xfb : 0xfa];
      case "eoi":
        return this.#store(LAPIC_EOI, 4, 0);
    }
  }

  /** mov edx, port */
  #port(port: number): number[] {
    return [...this.#sized(4), 0xba, ...le(port, 4)];
  }
}

/** Machine code of the accesses, one by one. A store of 8 bytes becomes two of 4. */
export function assembleEach(accesses: readonly Access[], results: number, bits: Bits = 32): Uint8Array[] {
  const assembler = new Assembler(bits, results);
  return accesses.map((access) => Uint8Array.from(assembler.code(access)));
}

/** Machine code of the accesses, and HLT behind the last one. */
export function assemble(accesses: readonly Access[], results: number, bits: Bits = 32): Uint8Array {
  const code = assembleEach(accesses, results, bits).flatMap((bytes) => [...bytes]);
  return Uint8Array.from([...code, HLT]);
}
