/**
 * Turns a list of accesses (hardware/guest-script.ts) into machine code for 32-bit protected mode with flat segments, so that
 * the same guest runs on a real kernel. What an access reads is stored at `results`, 4 bytes each, in the order of the
 * reads. EAX and EDX are used.
 */
import type { Access } from "../hardware/guest-script.ts";

const LAPIC_EOI = 0xfee0_00b0;
const OPERAND_SIZE = 0x66;

const le = (value: number, width: number): number[] =>
  Array.from({ length: width }, (_, i) => Math.floor((value >>> 0) / 2 ** (8 * i)) & 0xff);

/** The prefix of 16-bit operands. */
const sized = (width: number): number[] => (width === 2 ? [OPERAND_SIZE] : []);

/** The opcode for bytes is even, that for words follows it. */
const wide = (opcode: number, width: number): number => (width === 1 ? opcode : opcode + 1);

/** mov [address], immediate */
const storeImmediate = (address: number, width: number, value: number): number[] => [
  ...sized(width),
  wide(0xc6, width),
  0x05,
  ...le(address, 4),
  ...le(value, width),
];

/** Machine code of the accesses, and HLT behind the last one. A store of 8 bytes becomes two of 4. */
export function assemble(accesses: readonly Access[], results: number): Uint8Array {
  const code: number[] = [];
  let reads = 0;
  // EAX was cleared before the read, so the whole register is stored
  const keep = () => code.push(0xa3, ...le(results + 4 * reads++, 4));
  for (const access of accesses) {
    switch (access.does) {
      case "load":
        code.push(0x31, 0xc0); // xor eax, eax
        code.push(...sized(access.width), wide(0xa0, access.width), ...le(access.address, 4));
        keep();
        break;
      case "store":
        if (access.width === 8) {
          const value = BigInt.asUintN(64, BigInt(access.value));
          code.push(...storeImmediate(access.address, 4, Number(value & 0xffff_ffffn)));
          code.push(...storeImmediate(access.address + 4, 4, Number(value >> 32n)));
        } else code.push(...storeImmediate(access.address, access.width, Number(access.value)));
        break;
      case "in":
        code.push(0x31, 0xc0, 0xba, ...le(access.port, 4)); // xor eax, eax; mov edx, port
        code.push(...sized(access.width), wide(0xec, access.width));
        keep();
        break;
      case "out":
        code.push(0xba, ...le(access.port, 4), 0xb8, ...le(access.value, 4)); // mov edx, port; mov eax, value
        code.push(...sized(access.width), wide(0xee, access.width));
        break;
      case "halt":
        code.push(0xf4);
        break;
      case "interrupts":
        code.push(access.on ? 0xfb : 0xfa);
        break;
      case "eoi":
        code.push(...storeImmediate(LAPIC_EOI, 4, 0));
        break;
    }
  }
  code.push(0xf4);
  return Uint8Array.from(code);
}
