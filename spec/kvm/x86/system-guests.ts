/**
 * Short programs of the instructions that concern the processor itself (control registers, descriptor tables, far
 * transfers, interrupts, MSRs), made from a seed; and a player that runs one on the fake or on a real kernel and tells
 * everything it left behind.
 */
import { KVM_RUN } from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_DEBUGREGS,
  KVM_GET_SREGS,
  KVM_GET_VCPU_EVENTS,
  KVM_GET_XSAVE,
  KVM_SET_SREGS,
  KVM_SET_XSAVE,
  KvmRegs,
  KvmSregs,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, store16, store32, store64 } from "../../../lib/abi/struct.ts";
import type { Syscalls } from "../../../lib/kernel/syscalls.ts";
import { CODE, Guest, type Mode } from "./guest.ts";

export interface Program {
  mode: Mode;
  cpl: 0 | 3;
  code: string;
  /** rax rbx rcx rdx rsi rdi rsp rbp r8–r15 rip rflags, hexadecimal */
  regs: string[];
  /** bits of CR0 and CR4 that are set beside the usual ones, and a pattern in every register of the FPU */
  fpu?: { cr0: number; cr4: number };
  /** what stands in memory beside the tables that every guest has */
  patches: [at: number, bytes: string][];
}

/** What one KVM_RUN left behind. */
export interface Run {
  answer: number;
  reason: number;
  /** the first 40 bytes of the union, without the zeros at its end */
  exit: string;
  regs: string;
  events: string;
  /** bytes of struct kvm_sregs and struct kvm_debugregs that are not what they were before the first run */
  sregs: [at: number, bytes: string][];
  debugregs: string;
  /** where the program has a pattern in them: bytes of the legacy part of struct kvm_xsave that are not what they were */
  fpu?: [at: number, bytes: string][];
}

export interface Outcome {
  runs: Run[];
  memory: [at: number, bytes: string][];
}

const SREGS = 312;
const DEBUGREGS = 128;
const EVENTS = 64;
const MMIO = 6;
const IO = 2;
const MEMORY = 0x20000;
const RUNS = 3;

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const trimmed = (bytes: Uint8Array): string => hex(bytes).replace(/(00)*$/, "");
export const unhex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, "hex"));

/** Where bytes differ, in runs. */
function changes(before: Uint8Array, after: Uint8Array): [number, string][] {
  const found: [number, string][] = [];
  for (let at = 0; at < after.length; at++) {
    if (before[at] === after[at]) continue;
    const from = at;
    while (at < after.length && before[at] !== after[at]) at++;
    found.push([from, hex(after.subarray(from, at))]);
  }
  return found;
}

/** CPL 3: segments, and a TSS with the stacks of CPL 0. */
function enterUser(guest: Guest): void {
  const sregs = guest.get(KVM_GET_SREGS.number, SREGS);
  const long = guest.memory[0x3000 + 2] === 0x18;
  for (let i = 0; i < 6; i++) {
    const at = 24 * i;
    store16(sregs, at + 12, i === 0 ? 0x43 : 0x4b);
    sregs[at + 16] = 3;
    if (i === 0 && long) store16(sregs, at + 12, 0x53);
  }
  const tr = 24 * 6;
  store64(sregs, tr, 0x7000);
  store32(sregs, tr + 8, 0x67);
  store16(sregs, tr + 12, 0x30);
  sregs.set([11, 1, 0, 0, 0, 0, 0, 0, 0], tr + 14);
  store32(guest.memory, 0x7004, 0x7e00);
  if (!long) store32(guest.memory, 0x7008, 0x10);
  // code of 64 bits for CPL 3
  store64(guest.memory, 0x800 + 0x50, 0x00af_fb00_0000_ffffn);
  store16(sregs, 24 * 8 + 8, 0x57);
  guest.kernel.ioctl(guest.vcpu, KVM_SET_SREGS, sregs);
}

/** The legacy part of struct kvm_xsave: FXSAVE's 512 bytes, and which parts are in use. */
const XSAVE = 4096;
const FPU = 520;

/** Registers full of numbers, control words as after reset. */
function enterFpu(guest: Guest, { cr0, cr4 }: { cr0: number; cr4: number }): void {
  const area = guest.get(KVM_GET_XSAVE.number, XSAVE);
  for (let i = 0; i < 128; i++) area[32 + i] = i % 16 < 10 ? 3 * i + 1 : 0;
  for (let i = 0; i < 256; i++) area[160 + i] = 5 * i + 7;
  area[512] |= 3;
  guest.kernel.ioctl(guest.vcpu, KVM_SET_XSAVE, area);
  const sregs = guest.get(KVM_GET_SREGS.number, SREGS);
  store32(sregs, KvmSregs.offsetOf.cr0, load32(sregs, KvmSregs.offsetOf.cr0) | cr0);
  store32(sregs, KvmSregs.offsetOf.cr4, load32(sregs, KvmSregs.offsetOf.cr4) | cr4);
  guest.kernel.ioctl(guest.vcpu, KVM_SET_SREGS, sregs);
}

/** Runs a program; `enter` makes the KVM_RUN. */
export function play(
  kernel: Syscalls,
  program: Program,
  enter: (run: () => number) => number = (run) => run(),
): Outcome {
  const guest = new Guest(kernel, program.mode);
  if (program.cpl === 3) enterUser(guest);
  if (program.fpu !== undefined) enterFpu(guest, program.fpu);
  if (program.mode === "real")
    for (let vector = 0; vector < 256; vector++) store16(guest.memory, 4 * vector, 0x4000 + 32 * vector);
  guest.code(...unhex(program.code));
  for (const [at, bytes] of program.patches) guest.memory.set(unhex(bytes), at);
  const regs = new Uint8Array(KvmRegs.size);
  program.regs.forEach((value, i) => {
    store64(regs, 8 * i, BigInt(`0x${value}`));
  });
  guest.setRegisters(regs);
  const memory = guest.memory.slice(0, MEMORY);
  const sregs = guest.get(KVM_GET_SREGS.number, SREGS);
  const fpu = guest.get(KVM_GET_XSAVE.number, XSAVE).slice(0, FPU);
  const runs: Run[] = [];
  for (let i = 0; i < RUNS; i++) {
    const answer = enter(() => kernel.ioctl(guest.vcpu, KVM_RUN, 0));
    const view = new DataView(guest.regs.buffer);
    runs.push({
      answer,
      reason: guest.exitReason,
      exit: guest.exitReason === 17 ? hex(guest.run.subarray(32, 36)) : trimmed(guest.run.subarray(32, 72)),
      regs: Array.from({ length: 18 }, (_, n) => view.getBigUint64(8 * n, true).toString(16)).join(" "),
      events: trimmed(guest.get(KVM_GET_VCPU_EVENTS.number, EVENTS)),
      sregs: changes(sregs, guest.get(KVM_GET_SREGS.number, SREGS)),
      debugregs: trimmed(guest.get(KVM_GET_DEBUGREGS.number, DEBUGREGS)),
      ...(program.fpu && { fpu: changes(fpu, guest.get(KVM_GET_XSAVE.number, XSAVE).slice(0, FPU)) }),
    });
    if (guest.exitReason !== MMIO && guest.exitReason !== IO) break;
    if (guest.exitReason === MMIO) guest.run.fill(0x5a, 40, 48);
    else guest.run.fill(0xa5, 4096, 4096 + load32(guest.run, 36) * guest.run[33]);
  }
  return { runs, memory: changes(memory, guest.memory.slice(0, MEMORY)) };
}

/** Programs from a seed: of the processor's own instructions, of any opcodes, or of those that concern the FPU. */
export function* programs(
  seed: number,
  kind: "system" | "any" | "vector" = "system",
): Generator<Program, never> {
  const any = kind === "any";
  let state = (seed * 0x9e3779b1) >>> 0 || 1;
  const below = (n: number): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>>= 0) % n;
  };
  const pick = <T>(...from: readonly T[]): T => from[below(from.length)];
  const places: readonly [Mode, 0 | 3][] = [
    ["real", 0],
    ["prot16", 0],
    ["prot32", 0],
    ["prot32", 0],
    ["long", 0],
    ["long", 0],
    ["prot32", 3],
  ];
  for (;;) {
    const [mode, cpl] = pick(...places);
    const wide = mode === "long";
    /** memory that a program uses, each in reach of 16 bits */
    const DATA = 0x8000 + 16 * below(200);
    const STACK = 0x7f00 - 8 * below(8);
    const selector = (): number =>
      pick(
        0,
        3,
        8,
        0x10,
        0x18,
        0x20,
        0x28,
        0x30,
        0x38,
        0x43,
        0x4b,
        0x53,
        0x0b,
        0x13,
        0x40,
        0x48,
        0x50,
        0x58,
        0x60,
        0x68,
        0x70,
        0x78,
        0x80,
        0x88,
        0x90,
        0x98,
        0x0c,
        0x104,
        0xfff8,
      );
    const value = (): bigint =>
      pick<bigint>(
        0n,
        1n,
        0x10n,
        0x11n,
        0x31n,
        0x6000_0011n,
        0x2000_0011n,
        0x4000_0011n,
        0x8000_0011n,
        0x8000_0010n,
        0xe000_0031n,
        0x8005_0033n,
        0x1_0000_0011n,
        0x20n,
        0x620n,
        0x2_0020n,
        0x10_0020n,
        0x2020n,
        0x1000n,
        0xffff_ffffn,
        0x400n,
        0x455n,
        0xffff_0ff0n,
        0x2000n,
        0x23ffn,
        0x10000n,
        0x1_1000n,
        0x8000_0000_0000_0000n,
        0xffff_8000_0000_0000n,
        0x500n,
        0xd01n,
        0x7fff_ffff_f000n,
        0xfn,
        8n,
        0x1001n,
        BigInt(DATA),
        BigInt(selector()),
        0x0018_0008_0000_0000n,
        0x43n,
      );
    const patches: [number, string][] = [];
    const put = (at: number, size: number, ...values: (bigint | number)[]): void => {
      const bytes = new Uint8Array(size * values.length);
      values.forEach((each, i) => {
        for (let b = 0; b < size; b++) bytes[size * i + b] = Number((BigInt(each) >> BigInt(8 * b)) & 0xffn);
      });
      patches.push([at, hex(bytes)]);
    };
    // More descriptors, from 0x58 on: not present, conforming, expanding down, read only, gates, a busy TSS, an LDT.
    if (mode !== "real")
      put(
        0x858,
        8,
        pick(0x00cf_1b00_0000_ffffn, 0x00cf_9f00_0000_ffffn, 0x00cf_ff00_0000_ffffn),
        pick(0x00cf_9700_0000_0fffn, 0x00cf_9100_0000_ffffn, 0x00cf_1300_0000_ffffn),
        pick(0x0000_8c00_0008_4000n, 0x0000_8400_0008_4000n, 0x0000_ec00_0018_4000n),
        pick(0x0000_8b00_7000_0067n, 0x0000_8200_0900_0057n, 0x0000_8300_7000_002bn),
        pick(0x0040_9a00_1000_8fffn, 0x00cf_9200_0000_0000n, 0x0020_9a00_0000_0000n),
        pick(0x0000_8200_0900_0057n, 0x0000_8900_7000_0067n, 0x00ef_9b00_0000_ffffn),
        0x00cf_9300_0000_ffffn,
        pick(0n, 0x00cf_b300_0000_ffffn, 0x00cf_d300_0000_ffffn),
      );
    const size = wide ? 8 : pick(2, 4);
    const code: number[] = [];
    const word = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff];
    const long = (n: number): number[] => [...word(n), ...word(n >>> 16)];
    /** a memory operand at DATA, or sometimes at the end of memory or of a segment */
    const at = (reg: number): number[] => {
      const where = below(12) === 0 ? pick(0xfffe, 0xffff, 0xfffc) : DATA;
      return mode === "real" || mode === "prot16"
        ? [0x06 | (reg << 3), ...word(where)]
        : wide
          ? [0x04 | (reg << 3), 0x25, ...long(where)]
          : [0x05 | (reg << 3), ...long(where)];
    };
    const register = (reg: number): number[] => [0xc0 | (reg << 3) | below(8)];
    const rm = (reg: number): number[] => (below(2) === 0 ? at(reg) : register(reg));
    const offset = (): number => pick(0x4000, 0x4020, 0x1000, 0x1ff0, 0x10000, 0xffff, 0xfff8);
    const frame = (): void => {
      const flags = pick(2, 0x202, 0x246, 0x3202, 0x4002, 0x1_0002, 0x2_0002, 0x20_0002, 0xcd7);
      const stack = pick(STACK, 0x7d00, 0x1_0000, 0x7d05);
      put(STACK, size, offset(), selector(), flags, stack, selector());
    };
    const templates: (() => number[])[] = [
      () => [0x0f, pick(0x20, 0x22), 0xc0 | (pick(0, 0, 2, 3, 4, 4, 8 & 7, 1, 5) << 3) | below(8)],
      () => [0x0f, 0x22, 0xc0 | (pick(0, 3, 4) << 3) | below(4)],
      () => [...(wide ? [0x44] : []), 0x0f, pick(0x20, 0x22), 0xc0 | below(4)],
      () => [0x0f, pick(0x21, 0x23), 0xc0 | below(64)],
      () => [0x0f, 0x06],
      () => [0x0f, 0x01, ...rm(pick(4, 6, 6))],
      () => {
        put(DATA, 1, ...Array.from({ length: 16 }, () => below(256)));
        if (below(2) === 0) put(DATA, 2, pick(0x7f, 0xfff, 0x7ff, 0x17), pick(0x800, 0x3000), 0, 0, 0);
        return [0x0f, 0x01, ...at(pick(0, 1, 2, 2, 3, 3))];
      },
      () => [0x0f, 0x01, ...at(7)],
      () => [0x0f, 0x01, pick(0xf8, 0xf9, 0xc8, 0xc9, 0xd0, 0xd1, 0xca, 0xcb, 0xc1, 0xd9, 0xee, 0xef)],
      () => {
        put(DATA, 2, selector());
        return [0x0f, 0x00, ...rm(below(6))];
      },
      () => [0x0f, 0x00, ...register(pick(2, 2, 3, 3, 4, 5, 0, 1))],
      () => [0x0f, pick(0x02, 0x03), ...rm(below(8))],
      () => [pick(0x8c, 0x8e), ...rm(below(8))],
      () => [0x8e, ...register(pick(0, 2, 3, 4, 5))],
      () => {
        put(STACK, size, selector());
        return pick(
          [0x07],
          [0x17],
          [0x1f],
          [0x0f, 0xa1],
          [0x0f, 0xa9],
          [0x06],
          [0x16],
          [0x0e],
          [0x0f, 0xa0],
          [0x0f, 0xa8],
        );
      },
      () => {
        put(DATA, 1, ...Array.from({ length: 4 }, () => below(256)));
        put(DATA + size, 2, selector());
        return [...pick([0xc4], [0xc5], [0x0f, 0xb2], [0x0f, 0xb4], [0x0f, 0xb5]), ...at(below(8))];
      },
      () => [pick(0xea, 0x9a), ...(mode === "prot32" ? long(offset()) : word(offset())), ...word(selector())],
      () => {
        put(DATA, size, offset(), selector());
        return [0xff, ...at(pick(3, 5, 3, 5, 2, 4, 6, 7))];
      },
      () => {
        frame();
        return pick([0xcf], [0xcf], [0xcb], [0xca, 4, 0], [0xc3], [0xc2, 8, 0]);
      },
      () => pick([0xcd, below(256)], [0xcc], [0xce], [0xf1], [0x0f, 0x0b]),
      () => pick([0x9c], [0x9d], [0xfa], [0xfb], [0xf4], [0xfb, 0xf4], [0x17, 0x9c], [0x98], [0x99], [0x9b]),
      () => {
        put(STACK, size, pick(2, 0x202, 0x3002, 0x4002, 0x2_4ed7, 0x24_0202, 0x102));
        return [0x9d];
      },
      () => [
        0xb9,
        ...(mode === "prot32" || wide ? long : word)(
          pick(
            0xc000_0080,
            0xc000_0081,
            0xc000_0082,
            0xc000_0083,
            0xc000_0084,
            0xc000_0100,
            0xc000_0101,
            0xc000_0102,
            0x174,
            0x175,
            0x176,
            0xc000_0103,
            0x1b,
            0x277,
            0x8b,
            0x12345,
            0x3a,
            0x1a0,
            0xfe,
            0x200,
            0x2ff,
            0x17a,
          ),
        ),
        0x0f,
        pick(0x30, 0x32, 0x32),
      ],
      () => [
        0xb8,
        ...(mode === "prot32" || wide ? long : word)(
          pick(0, 1, 7, 0xd, 0x8000_0000, 0x8000_0001, 0x4000_0000),
        ),
        0x0f,
        0xa2,
      ],
      () => [0x0f, pick(0x08, 0x09, 0x05, 0x05, 0x34, 0x34, 0x35, 0x33, 0x0d, 0x1f), 0xc0],
      () => {
        put(DATA, 1, ...Array.from({ length: 16 }, () => below(256)));
        return [0x0f, 0xc7, ...at(pick(1, 1, 1, 6, 7))];
      },
      () =>
        pick(
          [0xc8, 8, 0, below(4)],
          [0xc9],
          [0x60],
          [0x61],
          [0xd7],
          [0xd6],
          [0x27],
          [0x2f],
          [0x37],
          [0x3f],
          [0xd4, 10],
          [0xd5, 10],
        ),
      () => [0x62, ...at(below(8))],
      () => [0x63, ...rm(below(8))],
      () =>
        pick(
          [0xe4, 0x80],
          [0xe6, 0x80],
          [0xec],
          [0xee],
          [0xed],
          [0xef],
          [0x6c],
          [0x6e],
          [0xf3, 0x6c],
          [0xf3, 0x6e],
          [0xe5, 0x61],
        ),
      () => [pick(0xe0, 0xe1, 0xe2, 0xe3), 0],
      () => [...pick([0xf3], [0xf2], []), pick(0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf)],
    ];
    const bytes = (n: number): number[] => Array.from({ length: n }, () => below(256));
    /** a byte that names an operand: in memory by a register that points to data, or a register */
    const operand = (): number[] => {
      const reg = below(8) << 3;
      const form = below(6);
      if (mode === "real" || mode === "prot16")
        return form < 2
          ? [0x40 | reg | pick(0, 1, 4, 5, 6, 7), below(128)]
          : form === 2
            ? [reg | pick(4, 5, 7)]
            : form === 3
              ? at(reg >> 3)
              : register(reg >> 3);
      if (form < 2) return [0x40 | reg | pick(3, 5, 6, 7), below(128)];
      if (form === 2) return [reg | pick(3, 6, 7)];
      if (form === 3) return at(reg >> 3);
      return form === 4 ? [0x44 | reg, pick(0x0e, 0x4f, 0x1e, 0x20, 0x0b), below(128)] : register(reg >> 3);
    };
    const common: (() => number[])[] = [
      () => [pick(0, 8, 16, 24, 32, 40, 48, 56) + below(4), ...operand()],
      () => [pick(0, 8, 16, 24, 32, 40, 48, 56) + 4 + below(2), ...bytes(4)],
      () => [0x80 + below(4), ...operand(), ...bytes(4)],
      () => [0x84 + below(8), ...operand()],
      () => [pick(0x69, 0x6b, 0xc6, 0xc7), ...operand(), ...bytes(4)],
      () => [pick(0xc0, 0xc1), ...operand(), pick(0, 1, 7, 8, 9, 15, 16, 31, 32, 63, 200)],
      () => [0xd0 + below(4), ...operand()],
      () => [pick(0xf6, 0xf7), ...operand(), ...bytes(4)],
      () => [pick(0xfe, 0xff), ...operand()],
      () => [0x40 + below(0x20)],
      () => [0x90 + below(8)],
      () => [0xb0 + below(16), ...bytes(wide ? 8 : 4)],
      () => [
        0xa0 + below(4),
        ...(wide ? [...word(DATA), 0, 0, 0, 0, 0, 0] : mode === "prot32" ? long(DATA) : word(DATA)),
      ],
      () => [pick(0xf2, 0xf3, 0x26), 0xa4 + below(12)],
      () => [0x68, ...bytes(4)],
      () => [0x6a, below(256)],
      () => [0x8f, ...operand()],
      () => [0x8d, ...operand()],
      () => [pick(0xf5, 0xf8, 0xf9, 0xfc, 0xfd, 0x9e, 0x9f, 0x98, 0x99)],
      () => [0x70 + below(16), 0],
      () => [0xe8, ...(wide || mode === "prot32" ? [0, 0, 0, 0] : [0, 0])],
      () => [0x0f, 0x40 + below(16), ...operand()],
      () => [0x0f, 0x90 + below(16), ...operand()],
      () => [0x0f, 0x80 + below(16), 0, 0, 0, 0],
      () => [
        0x0f,
        pick(0xa3, 0xab, 0xb3, 0xbb, 0xbc, 0xbd, 0xb6, 0xb7, 0xbe, 0xbf, 0xb0, 0xb1, 0xc0, 0xc1, 0xaf),
        ...operand(),
      ],
      () => [0x0f, pick(0xa4, 0xac, 0xba), ...operand(), pick(0, 1, 7, 15, 16, 31, 32, 63)],
      () => [0x0f, pick(0xa5, 0xad), ...operand()],
      () => [0x0f, 0xc8 + below(8)],
      () => [0x0f, 0xae, ...operand()],
      () => [0x0f, below(256), ...operand(), below(256)],
      () => [below(256), ...operand(), below(256)],
    ];
    const vector: (() => number[])[] = [
      () => [
        ...pick([], [0x66], [0xf3], [0xf2], [0x66, 0xf3]),
        0x0f,
        pick(0x10, 0x11, 0x28, 0x29, 0x2b, 0x6f, 0x7f, 0xe7),
        ...operand(),
      ],
      () => [
        ...pick([], [], [0x66], [0xf3]),
        0x0f,
        pick(0x10, 0x11, 0x28, 0x29, 0x2b, 0x6f, 0x7f, 0xe7),
        ...at(below(8)),
      ],
      () => [pick(0xd9, 0xdb, 0xdd), ...operand()],
      () => [pick(0xd9, 0xdd), ...at(7)],
      () => [0xdb, 0xe3],
      () => [0x0f, 0xae, ...at(pick(0, 0, 1, 2, 3, 7))],
      () => [0x0f, 0xae, ...operand()],
      () => [0x0f, 0x77],
      () => [0x9b],
    ];
    const count = 1 + below(3);
    for (let i = 0; i < count; i++) {
      const prefix = below(8);
      if (prefix === 0) code.push(0x66);
      if (prefix === 1 && below(2) === 0)
        code.push(pick(0x67, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0xf0, 0xf2, 0xf3));
      const instruction = pick(...(any ? common : kind === "vector" ? vector : templates))();
      if (wide && below(3) === 0 && instruction[0] !== 0x44) code.push(pick(0x48, 0x41, 0x44, 0x49));
      code.push(...instruction);
    }
    code.push(0xf4);
    const regs = Array.from({ length: 18 }, () => value().toString(16));
    regs[2] = (below(2) === 0 ? below(4) : Number(value() & 0xffffn)).toString(16);
    regs[4] = (DATA + below(32)).toString(16);
    regs[5] = (DATA + 0x100 + below(32)).toString(16);
    regs[6] = STACK.toString(16);
    regs[7] = (below(2) === 0 ? STACK : DATA).toString(16);
    regs[16] = CODE.toString(16);
    if (any) {
      const value = (): string =>
        pick(below(256), below(65536), state, 0x80, 0x7fff, 0xffffffff).toString(16);
      for (const i of [0, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15])
        regs[i] = value() + (below(3) === 0 ? value() : "");
      for (const i of [0, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15]) regs[i] = regs[i].slice(-16);
      regs[1] = (DATA + below(64)).toString(16);
      if (below(2) === 0) regs[2] = below(5).toString(16);
      regs[7] = (DATA + 0x200 + below(64)).toString(16);
      put(DATA, 1, ...bytes(0x48));
    }
    regs[17] = pick(2, 2, 0x202, 0xcd7, 0x3202, 0x402, 0x102, 0x4002).toString(16);
    const program: Program = { mode, cpl, code: hex(Uint8Array.from(code)), regs, patches };
    if (kind === "vector") {
      // TS, EM; OSFXSR
      program.fpu = { cr0: pick(0, 0, 0, 0, 8, 4, 12), cr4: pick(0x200, 0x200, 0x600, 0) };
      put(DATA, 1, ...bytes(0x48));
      for (const i of [1, 4, 5, 7]) regs[i] = (DATA + 8 * below(12)).toString(16);
    }
    yield program;
  }
}
