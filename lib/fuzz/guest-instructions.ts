/**
 * Random instructions of the subset that the interpreter knows (hardware/x86), as bytes in hex. What belongs together (a
 * loop and its body, a pointer and its use) is one piece, so that a program can be made smaller piece by piece.
 *
 * BX, SI, DI and BP hold addresses of data, CX a small count; what an instruction does to them is not undone, so a program
 * wanders off now and then.
 *
 * Left out, because the real kernel's answer depends on its clock or on the host's processor: RDTSC, RDPMC, MSRs that
 * count time, the current count of the LAPIC's timer, counters of the PIT, bits of CPUID that follow the processor.
 */
import { toHex } from "../trace/format.ts";
import {
  bitsOf,
  CODE16,
  CODE32,
  CODE64,
  DATA,
  DATA_SIZE,
  DATA16,
  DATA32,
  DEVICE,
  IOAPIC,
  LAPIC,
  type Mode,
  ODD_PAGE_COUNT,
  ODD_PAGES,
  ROM,
} from "./guest-machine.ts";
import { GUEST_RAM, GUEST_ROM } from "./guest-run.ts";
import type { Random } from "./random.ts";

/** What instructions are about. */
export const topics = [
  "arithmetic",
  "memory",
  "edges",
  "stack",
  "strings",
  "ports",
  "flow",
  "interrupts",
  "system",
  "segments",
  "vectors",
] as const;
export type Topic = (typeof topics)[number];

const le = (value: number | bigint, width: number): number[] => {
  let rest = BigInt.asUintN(8 * width, BigInt(value));
  return Array.from({ length: width }, () => {
    const byte = Number(rest & 0xffn);
    rest >>= 8n;
    return byte;
  });
};

const AX = 0;
const CX = 1;
const DX = 2;
const BX = 3;
const SP = 4;
const BP = 5;
const SI = 6;
const DI = 7;
const notSp = [AX, CX, DX, BX, BP, SI, DI];
const pointers = [BX, SI, DI];

/** MSRs whose values depend on nothing but the guest. */
const msrs = [
  0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0101,
  0xc000_0102, 0x277, 0x2ff, 0x200, 0x201, 0x250, 0x1b, 0xc000_0080, 0x1d9, 0x8b, 0x179, 0x17a, 0x400, 0x802,
  0x808, 0x80f, 0x830, 0xfe, 0x1a0, 0x3a, 0x9999, 0x4000_0000,
];
const PVM_HYPERCALL = 0x1b;
const IA32_APIC_BASE = 0x1b;
const IA32_EFER = 0xc000_0080;
const EFER_LME = 0x100;

/** leaves of CPUID whose answer is the same on every processor of the host */
const leaves = [
  0, 2, 4, 5, 6, 7, 0xa, 0x14, 0x8000_0000, 0x8000_0001, 0x8000_0008, 0x4000_0000, 0x4000_0001, 0x99,
];
/** ports: nothing there, the serial line, the PIC and its trigger registers, the PIT's control word */
const freePorts = [0x80, 0x3f8, 0x3fd, 0x402, 0x1ce, 0xcf8, 0x500, 0x7e, 0xffff];
const chipPorts = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];

export class Instructions {
  readonly #random: Random;
  readonly #mode: Mode;
  readonly #bits: 16 | 32 | 64;
  /** whether interrupt controllers are in the kernel: then their addresses are used, too */
  readonly #chips: boolean;
  readonly #plain: boolean;
  // the instruction at hand
  #wide66 = false;
  #rex = 0;

  /** `plain`: its memory operands lie in data, whatever it is about */
  constructor(random: Random, mode: Mode, chips: boolean, plain = false) {
    this.#random = random;
    this.#mode = mode;
    this.#bits = bitsOf(mode);
    this.#chips = chips;
    this.#plain = plain;
  }

  /** A piece of code about something, in hex. */
  piece(topic: Topic): string {
    return toHex(Uint8Array.from(this.#piece(topic)));
  }

  #piece(topic: Topic): number[] {
    this.#begin();
    switch (topic) {
      case "arithmetic":
        return this.#arithmetic();
      case "memory":
        return this.#memory();
      case "edges":
        return this.#edge();
      case "stack":
        return this.#stack();
      case "strings":
        return this.#strings();
      case "ports":
        return this.#ports();
      case "flow":
        return this.#flow();
      case "interrupts":
        return this.#interrupts();
      case "system":
        return this.#system();
      case "segments":
        return this.#segments();
      case "vectors":
        return this.#vectors();
    }
  }

  // --- operands -----------------------------------------------------------------------------------------------------

  /** Prefixes of the next instruction. */
  #begin(): void {
    this.#wide66 = this.#random.chance(25);
    this.#rex =
      this.#bits === 64 && this.#random.chance(55)
        ? 0x40 | this.#random.pick([8, 8, 8, 0, 9, 13, 12, 4, 1])
        : 0;
  }

  /** How many bytes an operand has that is no byte. */
  get #size(): 2 | 4 | 8 {
    if ((this.#rex & 8) !== 0) return 8;
    return (this.#bits === 16) === this.#wide66 ? 4 : 2;
  }

  get #prefixes(): number[] {
    return [...(this.#wide66 ? [0x66] : []), ...(this.#rex !== 0 ? [this.#rex] : [])];
  }

  #byte(): number {
    return this.#random.below(256);
  }

  #immediate(width: number): number[] {
    const { pick } = { pick: this.#random.pick.bind(this.#random) };
    return Array.from({ length: width }, () => pick([0, 1, 0x7f, 0x80, 0xff, this.#byte()]));
  }

  #register(reg: number): number[] {
    return [0xc0 | (reg << 3) | this.#random.pick(notSp)];
  }

  /** ModRM and what follows for a memory operand: through BX, SI, DI, BP, or an address of data. */
  #address(reg: number): number[] {
    const random = this.#random;
    const { below, pick } = {
      below: (n: number) => random.below(n),
      pick: <T>(list: readonly T[]) => random.pick(list),
    };
    const absolute = DATA + below(DATA_SIZE - 16);
    // REX.B and REX.X would name registers that hold no address
    if (this.#rex !== 0) this.#rex &= ~3;
    if (this.#bits === 16) {
      switch (below(4)) {
        case 0:
          return [(reg << 3) | 6, ...le(absolute, 2)];
        case 1:
          return [0x40 | (reg << 3) | pick([4, 5, 7, 6]), this.#byte()];
        case 2:
          return [(reg << 3) | pick([4, 5, 7])];
        default:
          return [0x80 | (reg << 3) | pick([4, 5, 7]), ...le(below(64), 2)];
      }
    }
    switch (below(5)) {
      case 0:
        return this.#bits === 64
          ? [(reg << 3) | 4, 0x25, ...le(absolute, 4)]
          : [(reg << 3) | 5, ...le(absolute, 4)];
      case 1:
        return [0x40 | (reg << 3) | pick([BX, SI, DI, BP]), this.#byte()];
      case 2:
        return [0x44 | (reg << 3), pick([0x23, 0x26, 0x27, 0x33, 0x24]), below(128)];
      case 3:
        return [0x80 | (reg << 3) | pick(pointers), ...le(below(256), 4)];
      default:
        return [(reg << 3) | pick(pointers)];
    }
  }

  #modrm(reg: number, memoryPercent = 40): number[] {
    return this.#random.chance(memoryPercent) ? this.#address(reg) : this.#register(reg);
  }

  #anyReg(): number {
    return this.#random.pick(notSp);
  }

  /** mov register, value (of 32 bits, or of 16 in 16-bit code) */
  #load(register: number, value: number): number[] {
    if (this.#bits === 16 && value <= 0xffff) return [0xb8 | register, ...le(value, 2)];
    return [...(this.#bits === 16 ? [0x66] : []), 0xb8 | register, ...le(value, 4)];
  }

  /** A prefix for the address size that is not the usual one, in real mode one that reaches everything. */
  #far(address: number): number[] {
    return this.#bits === 16 && address > 0xffff ? [0x67] : [];
  }

  // --- topics -------------------------------------------------------------------------------------------------------

  #arithmetic(memoryPercent = 35): number[] {
    const random = this.#random;
    const p = () => this.#prefixes;
    const size = this.#size;
    const immediate = Math.min(size, 4);
    // operands come first: an address may change the prefixes
    const with_ = (opcode: readonly number[], reg: number, ...rest: number[]): number[] => {
      const operand = this.#modrm(reg, memoryPercent);
      return [...p(), ...opcode, ...operand, ...rest];
    };
    switch (random.below(26)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4: {
        const form = random.below(6);
        const opcode = (random.below(8) << 3) | form;
        if (form >= 4) return [...p(), opcode, ...this.#immediate(form === 4 ? 1 : immediate)];
        return with_([opcode], this.#anyReg());
      }
      case 5:
      case 6: {
        const opcode = random.pick([0x80, 0x81, 0x83]);
        return with_([opcode], random.below(8), ...this.#immediate(opcode === 0x81 ? immediate : 1));
      }
      case 7:
        return with_([random.pick([0x84, 0x85, 0x86, 0x87])], this.#anyReg());
      case 8:
      case 9: {
        // what a rotation by an immediate leaves in OF is the processor's own
        const opcode = random.pick(this.#plain ? [0xd0, 0xd1] : [0xc0, 0xc1, 0xd0, 0xd1, 0xd2, 0xd3]);
        return with_([opcode], random.below(8), ...(opcode < 0xd0 ? [this.#byte()] : []));
      }
      case 10:
      case 11: {
        const opcode = random.pick([0xf6, 0xf7]);
        const reg = random.below(random.chance(15) ? 8 : 6);
        return with_([opcode], reg, ...(reg < 2 ? this.#immediate(opcode === 0xf6 ? 1 : immediate) : []));
      }
      case 12:
        return with_([random.pick([0xfe, 0xff])], random.below(2));
      case 13:
        return [...p(), 0x0f, random.pick([0xa3, 0xab, 0xb3, 0xbb]), ...this.#register(this.#anyReg())];
      case 14:
        return with_([0x0f, 0xba], random.between(4, 7), ...this.#immediate(1));
      case 15:
        return with_([0x0f, random.pick([0xbc, 0xbd])], this.#anyReg());
      case 16: {
        if (this.#plain) return with_([0x0f, 0xaf], this.#anyReg());
        const opcode = random.pick([0xa4, 0xa5, 0xac, 0xad]);
        return with_([0x0f, opcode], this.#anyReg(), ...((opcode & 1) === 0 ? [this.#byte()] : []));
      }
      case 17:
        return with_([0x0f, 0xaf], this.#anyReg());
      case 18: {
        const opcode = random.pick([0x69, 0x6b]);
        return with_([opcode], this.#anyReg(), ...this.#immediate(opcode === 0x6b ? 1 : immediate));
      }
      case 19:
        return with_([0x0f, random.pick([0xb6, 0xb7, 0xbe, 0xbf])], this.#anyReg());
      case 20:
        return with_([0x0f, random.pick([0xb0, 0xb1, 0xc0, 0xc1])], this.#anyReg());
      case 21:
        return with_([0x0f, 0x90 | random.below(16)], this.#anyReg());
      case 22:
        return with_([0x0f, 0x40 | random.below(16)], this.#anyReg());
      case 23:
        return [...p(), 0x0f, 0xc8 | random.pick(notSp)];
      case 24:
        return [...p(), random.pick([0x98, 0x99, 0x9e, 0x9f, 0xf5, 0xf8, 0xf9, 0xfc, 0xd7])];
      default:
        if (this.#bits === 64) return with_([0x63], this.#anyReg());
        return random.pick([
          [0x2f],
          [0xd4, random.pick([10, 16, 3])],
          [0xd5, random.pick([10, 16, 3])],
          [0xd6],
          [...p(), 0x40 | random.pick(notSp)],
          [...p(), 0x48 | random.pick(notSp)],
        ]);
    }
  }

  #memory(): number[] {
    const random = this.#random;
    switch (random.below(8)) {
      case 0:
      case 1:
      case 2: {
        const operand = this.#address(this.#anyReg());
        return [...this.#prefixes, random.pick([0x88, 0x89, 0x8a, 0x8b]), ...operand];
      }
      case 3: {
        const opcode = random.pick([0xc6, 0xc7]);
        const operand = this.#address(0);
        return [
          ...this.#prefixes,
          opcode,
          ...operand,
          ...this.#immediate(opcode === 0xc6 ? 1 : Math.min(this.#size, 4)),
        ];
      }
      case 4: {
        const at = DATA + random.below(DATA_SIZE - 16);
        return [
          ...this.#prefixes,
          random.pick([0xa0, 0xa1, 0xa2, 0xa3]),
          ...le(at, this.#bits === 16 ? 2 : this.#bits === 32 ? 4 : 8),
        ];
      }
      case 5: {
        const operand = this.#address(this.#anyReg());
        return [...this.#prefixes, 0x8d, ...operand];
      }
      case 6:
        return this.#load(random.pick(pointers), this.#dataAddress());
      default:
        return this.#arithmetic(100);
    }
  }

  #dataAddress(): number {
    return DATA + 0x40 + this.#random.below(DATA_SIZE - 0x200);
  }

  /** An address where something ends or a device may be. */
  #edgeAddress(): number {
    const random = this.#random;
    if (this.#plain) return this.#dataAddress();
    if (this.#mode === "real" || this.#mode === "prot16")
      return random.pick([
        0x8000 - random.below(9),
        0x8000 + random.below(64),
        0xa000 - random.below(9),
        0xffff - random.below(10),
        this.#dataAddress(),
      ]);
    const places = [
      GUEST_RAM - random.below(10),
      GUEST_RAM + random.below(100),
      ROM - random.below(9),
      ROM + random.below(64),
      ROM + GUEST_ROM - random.below(9),
      DEVICE + 0x1000 - random.below(10),
      DEVICE + random.below(64),
      ODD_PAGES + 0x1000 * random.below(ODD_PAGE_COUNT + 1) - random.below(9),
      ODD_PAGES + random.below(0x1000 * ODD_PAGE_COUNT),
    ];
    if (this.#chips && random.chance(40))
      return random.pick([
        LAPIC +
          random.pick([0x20, 0x30, 0x80, 0xa0, 0xb0, 0xd0, 0xe0, 0xf0, 0x100, 0x200, 0x280, 0x310, 0x350]),
        LAPIC + 0x370,
        IOAPIC,
        IOAPIC + 0x10,
      ]);
    return random.pick(places);
  }

  /** A pointer to an edge, and an instruction or two that use it. */
  #edge(): number[] {
    const random = this.#random;
    const address = this.#edgeAddress();
    const register = random.pick(pointers);
    const code = this.#load(register, address);
    const rm = this.#bits === 16 && address <= 0xffff ? { [BX]: 7, [SI]: 4, [DI]: 5 }[register]! : register;
    const count = random.between(1, 2);
    for (let i = 0; i < count; i++) {
      this.#begin();
      this.#rex &= ~3;
      const reg = random.pick([AX, CX, DX]);
      const operand = (r: number) => [(r << 3) | rm];
      const p = [...this.#far(address), ...this.#prefixes];
      const small = Math.min(this.#size, 4);
      switch (random.below(12)) {
        case 0:
        case 1:
        case 2:
        case 3:
          code.push(...p, random.pick([0x88, 0x89, 0x8a, 0x8b]), ...operand(reg));
          break;
        case 4:
          code.push(...p, (random.below(8) << 3) | random.below(4), ...operand(reg));
          break;
        case 5:
          code.push(...p, random.pick([0x84, 0x85, 0x86, 0x87]), ...operand(reg));
          break;
        case 6:
          code.push(...p, random.pick([0xfe, 0xff]), ...operand(random.below(2)));
          break;
        case 7:
          code.push(
            ...p,
            0x0f,
            random.pick([0xb0, 0xb1, 0xc0, 0xc1, 0xb6, 0xb7, 0xbe, 0xbf]),
            ...operand(reg),
          );
          break;
        case 8:
          code.push(...p, 0xc7, ...operand(0), ...this.#immediate(small));
          break;
        case 9:
          code.push(...p, 0xf7, ...operand(random.pick([2, 3, 4, 5])));
          break;
        case 10:
          code.push(...p, 0xff, ...operand(6));
          break;
        default:
          code.push(...p, 0x8f, ...operand(0));
      }
    }
    return code;
  }

  #stack(): number[] {
    const random = this.#random;
    const p = this.#wide66 ? [0x66] : [];
    const long = this.#bits === 64;
    switch (random.below(11)) {
      case 0:
      case 1:
      case 2:
        return [...p, 0x50 | random.pick([...notSp, SP])];
      case 3:
      case 4:
        return [...p, 0x58 | random.pick(notSp)];
      case 5:
        return [...p, 0x6a, this.#byte()];
      case 6:
        return [...p, 0x68, ...this.#immediate((this.#bits === 16) === this.#wide66 ? 4 : 2)];
      case 7:
        return random.chance(60) ? [...p, 0x9c] : [...p, 0x9c, ...p, 0x9d];
      case 8:
        return long ? [...p, 0x50] : [...p, random.pick([0x60, 0x61])];
      case 9: {
        const operand = this.#address(random.pick([0, 6]));
        const push = (operand[0] & 0x38) !== 0;
        return [...p, push ? 0xff : 0x8f, ...operand];
      }
      default:
        return random.chance(50) ? [...p, 0xc8, ...le(random.below(64), 2), 0, ...p, 0xc9] : [...p, 0xc9];
    }
  }

  #strings(): number[] {
    const random = this.#random;
    const code: number[] = [];
    const all = this.#plain;
    if (all || random.chance(70))
      code.push(...this.#load(CX, random.pick([0, 1, 2, 3, 5, random.between(1, 40)])));
    if (all || random.chance(50))
      code.push(...this.#load(SI, random.chance(70) ? this.#dataAddress() : this.#shortEdge()));
    if (all || random.chance(60))
      code.push(...this.#load(DI, random.chance(70) ? this.#dataAddress() : this.#shortEdge()));
    if (random.chance(15)) code.push(random.pick([0xfc, 0xfd]));
    const far = this.#mode === "unreal" && random.chance(50) ? [0x67] : [];
    const repeat = random.pick([[], [0xf3], [0xf3], [0xf2]]);
    const wide = (this.#rex & 8) !== 0 ? [0x48] : [];
    return [
      ...code,
      ...far,
      ...repeat,
      ...(this.#wide66 ? [0x66] : []),
      ...wide,
      random.pick([0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]),
    ];
  }

  /** An edge that strings may run over: no chip's registers. */
  #shortEdge(): number {
    for (;;) {
      const address = this.#edgeAddress();
      if (address < IOAPIC) return address;
    }
  }

  #ports(): number[] {
    const random = this.#random;
    const p = this.#wide66 ? [0x66] : [];
    const port = this.#chips && random.chance(40) ? random.pick(chipPorts) : random.pick(freePorts);
    const byDx = [...this.#load(DX, port)];
    switch (random.below(6)) {
      case 0:
        return [...byDx, ...p, random.pick([0xec, 0xed])];
      case 1:
        return [...byDx, ...p, random.pick([0xee, 0xef])];
      case 2:
        return [...p, random.pick([0xe4, 0xe5]), random.pick([0x80, 0x92, 0xee, 0x20, 0x21])];
      case 3:
        return [...p, random.pick([0xe6, 0xe7]), random.pick([0x80, 0x92, 0xee, 0x21])];
      default: {
        const repeat = random.pick([[], [0xf3], [0xf3], [0xf2]]);
        const count = this.#load(CX, random.pick([0, 1, 2, 5, random.between(1, 40)]));
        const input = random.chance(50);
        const at = random.chance(75) ? this.#dataAddress() : this.#shortEdge();
        const far = this.#mode === "unreal" && at > 0xffff ? [0x67] : [];
        return [
          ...byDx,
          ...(random.chance(80) ? count : []),
          ...this.#load(input ? DI : SI, at),
          ...(random.chance(10) ? [0xfd] : []),
          ...far,
          ...repeat,
          ...p,
          input ? random.pick([0x6c, 0x6d]) : random.pick([0x6e, 0x6f]),
        ];
      }
    }
  }

  #flow(): number[] {
    const random = this.#random;
    const body = this.#piece(
      random.pick(this.#plain ? ["arithmetic", "memory"] : ["arithmetic", "memory", "stack"]),
    );
    const condition = random.below(16);
    const word = this.#bits === 16 ? 2 : 4;
    switch (random.below(9)) {
      case 0:
      case 1:
      case 2:
        return [0x70 | condition, body.length, ...body];
      case 3:
        return [0x0f, 0x80 | condition, ...le(body.length, word), ...body];
      case 4:
        return [
          ...this.#load(CX, random.between(1, 4)),
          ...body,
          random.pick([0xe0, 0xe1, 0xe2]),
          0xfe - body.length,
        ];
      case 5:
        return [0xe3, body.length, ...body];
      case 6:
        return random.chance(50) ? [0xeb, body.length, ...body] : [0xe9, ...le(body.length, word), ...body];
      case 7:
        // call over a body that returns, back to a jump over it
        return [0xe8, ...le(2, word), 0xeb, body.length + 1, ...body, 0xc3];
      default: {
        // jump or call through a register to what follows
        const next = [0xe8, ...le(0, word), 0x58, 0x83, 0xc0, 0];
        if (this.#bits === 64) next.splice(next.length - 3, 0, 0x48);
        const jump = [0xff, 0xe0];
        next[next.length - 1] = next.length - (1 + word) + jump.length + body.length;
        return [...next, ...jump, ...body];
      }
    }
  }

  #interrupts(): number[] {
    const random = this.#random;
    switch (random.below(7)) {
      case 0:
      case 1:
        return [0xcd, this.#vector()];
      case 2:
        return [0xcc];
      case 3:
        return [0x0f, 0x0b];
      case 4:
        return this.#bits === 64 ? [0xcc] : [0xce];
      case 5:
        return [0x31, 0xd2, 0x31, 0xc9, 0xf7, 0xf1];
      default:
        return [random.pick([0xfa, 0xfb, 0xfb])];
    }
  }

  #vector(): number {
    const vector = this.#byte();
    return vector === PVM_HYPERCALL ? 3 : vector;
  }

  #system(): number[] {
    const random = this.#random;
    const control = (number: number, register: number, write: boolean) => [
      0x0f,
      write ? 0x22 : 0x20,
      0xc0 | (number << 3) | register,
    ];
    const eax = (value: number) => [...(this.#bits === 16 ? [0x66] : []), 0xb8, ...le(value, 4)];
    const ecx = (value: number) => [...(this.#bits === 16 ? [0x66] : []), 0xb9, ...le(value, 4)];
    switch (random.below(14)) {
      case 0:
        return [...eax(random.pick(leaves)), ...ecx(random.below(3)), 0x0f, 0xa2];
      case 1:
      case 2:
        return [...ecx(random.pick(msrs)), 0x0f, 0x32];
      case 3:
      case 4: {
        const value = random.pick([
          0,
          1,
          0x7f,
          0x8000,
          0xfee0_0900,
          0x0007_0406,
          0x501,
          0xffff_ffff,
          random.next(),
        ]);
        const high = random.chance(70) ? [0x31, 0xd2] : this.#load(DX, random.below(0x10000));
        const index = random.pick(msrs.filter((each) => each !== IA32_APIC_BASE));
        const enablesLongMode = index === IA32_EFER && this.#bits !== 64;
        return [...ecx(index), ...eax(enablesLongMode ? value & ~EFER_LME : value), ...high, 0x0f, 0x30];
      }
      case 5:
        return control(random.pick([0, 2, 3, 4, 8]), random.pick(notSp), false);
      case 6:
        // a bit of CR0 that may come and go: MP, EM, TS, NE, WP, AM
        return [
          ...control(0, AX, false),
          ...(this.#bits === 16 ? [0x66] : []),
          0x35,
          ...le(random.pick([2, 4, 8, 0x20, 0x1_0000, 0x4_0000]), 4),
          ...control(0, AX, true),
        ];
      case 7:
        // a bit of CR4: VME, TSD, DE, PGE, PCE, OSFXSR, OSXMMEXCPT, SMEP
        return [
          ...control(4, AX, false),
          ...(this.#bits === 16 ? [0x66] : []),
          0x35,
          ...le(random.pick([1, 4, 8, 0x80, 0x100, 0x200, 0x400]), 4),
          ...control(4, AX, true),
        ];
      case 8:
        return random.pick([
          [...eax(random.below(17)), ...control(8, AX, true)],
          control(2, AX, true),
          [...control(3, AX, false), ...control(3, AX, true)],
          [0x0f, 0x06],
        ]);
      case 9:
        return [0x0f, random.pick([0x21, 0x23]), 0xc0 | (random.below(8) << 3) | random.pick(notSp)];
      case 10:
        return [0x0f, 0x01, ...this.#address(random.pick([0, 1, 4, 4, 7]))];
      case 11:
        return [0x0f, 0x01, 0xe0 | random.pick(notSp)];
      case 12:
        return random.pick([
          [0x90],
          [0xf3, 0x90],
          [0x0f, 0x08],
          [0x0f, 0x09],
          [0x0f, 0x1f, 0xc0],
          [0x0f, 0x00, 0xc8],
          [0x0f, 0x00, 0xc0],
        ]);
      default:
        return [0xf4];
    }
  }

  #segments(): number[] {
    const random = this.#random;
    const real = this.#mode === "real" || this.#mode === "unreal";
    const usual = this.#mode === "prot16" ? DATA16 : DATA32;
    const selector = real
      ? random.pick([0, 0x1800, 0x2800, 0x1000, random.below(0x10000)])
      : random.pick([
          usual,
          usual,
          usual,
          0,
          8,
          0x30,
          0x40,
          0x48,
          0x58,
          0x60,
          0x68,
          0x70,
          0x78,
          4,
          random.below(0x100),
        ]);
    const index = random.pick([0, 2, 3, 3, 4, 5]);
    const long = this.#bits === 64;
    const p = this.#wide66 ? [0x66] : [];
    const move = [...this.#load(AX, selector), 0x8e, 0xc0 | (index << 3)];
    switch (random.below(7)) {
      case 0:
      case 1:
        return index === 2 && real ? [...move, 0x31, 0xc0, 0x8e, 0xd0] : move;
      case 2:
        return [...p, 0x8c, ...this.#modrm(random.pick([0, 1, 2, 3, 4, 5]))];
      case 3:
        return long
          ? random.pick([
              [0x0f, 0xa0],
              [0x0f, 0xa8],
            ])
          : [...p, random.pick([0x06, 0x0e, 0x16, 0x1e])];
      case 4:
        return long
          ? [0x6a, random.pick([0, 0x10]), 0x0f, random.pick([0xa1, 0xa9])]
          : [...p, 0x1e, ...p, random.pick([0x07, 0x1f, 0x17])];
      case 5: {
        // a far pointer among the data
        const at = this.#dataAddress();
        const opcode = random.pick(
          long
            ? [
                [0x0f, 0xb2],
                [0x0f, 0xb4],
                [0x0f, 0xb5],
              ]
            : [[0xc4], [0xc5], [0x0f, 0xb2], [0x0f, 0xb4], [0x0f, 0xb5]],
        );
        const word = this.#bits === 16 ? [...le(selector, 2)] : le(usual, 2);
        const place =
          this.#bits === 16
            ? [0x06, ...le(at + 2, 2)]
            : long
              ? [0x04, 0x25, ...le(at + 4, 4)]
              : [0x05, ...le(at + 4, 4)];
        const target =
          this.#bits === 16 ? [0x06, ...le(at, 2)] : long ? [0x04, 0x25, ...le(at, 4)] : [0x05, ...le(at, 4)];
        return [
          ...(this.#bits === 16 ? [] : [0x66]),
          0xc7,
          ...place,
          ...word,
          ...opcode,
          target[0] | (AX << 3),
          ...target.slice(1),
        ];
      }
      default: {
        // a far call over nothing, to the next instruction, and the same with a jump
        if (long) return [0x6a, CODE64, 0x68, ...le(0x1f00, 4), 0x90];
        const code = real ? 0 : this.#mode === "prot16" ? CODE16 : CODE32;
        const push = [0x0e, 0xe8, ...le(2, this.#bits === 16 ? 2 : 4), 0xeb, 1];
        return random.chance(70)
          ? [...push, 0xcb]
          : [0x9a, ...le(0x1f00, this.#bits === 16 ? 2 : 4), ...le(code, 2)];
      }
    }
  }

  #vectors(): number[] {
    const random = this.#random;
    switch (random.below(6)) {
      case 0:
        return [0xdb, 0xe3];
      case 1:
        return [random.pick([0xd9, 0xdd]), ...this.#address(7)];
      case 2: {
        this.#rex = 0;
        const at = (DATA + random.below(DATA_SIZE - 0x200)) & ~15;
        const absolute = (reg: number) =>
          this.#bits === 16
            ? [(reg << 3) | 6, ...le(at, 2)]
            : this.#bits === 64
              ? [(reg << 3) | 4, 0x25, ...le(at, 4)]
              : [(reg << 3) | 5, ...le(at, 4)];
        return [
          ...random.pick([[], [0x66], [0xf3]]),
          0x0f,
          random.pick([0x10, 0x11, 0x28, 0x29, 0x6f, 0x7f]),
          ...absolute(random.below(8)),
        ];
      }
      case 3:
        this.#rex = 0;
        return [
          ...random.pick([[0x66], [0xf3], []]),
          0x0f,
          random.pick([0x6f, 0x7f, 0x10, 0x11]),
          ...this.#address(random.below(8)),
        ];
      case 4:
        return [0x0f, 0xae, random.pick([0xe8, 0xf0, 0xf8])];
      default:
        return [
          ...random.pick([[], [0x66], [0xf3]]),
          0x0f,
          random.pick([0x28, 0x6f, 0x10]),
          0xc0 | random.below(64),
        ];
    }
  }
}
