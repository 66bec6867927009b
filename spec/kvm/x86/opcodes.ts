/**
 * Every opcode of one byte and of two, in every mode, after every prefix, with operands in registers and in memory: what a
 * kernel makes of it. One vCPU plays them all; between two of them everything is put back.
 */
import { createHash } from "node:crypto";
import { KVM_RUN } from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_DEBUGREGS,
  KVM_GET_SREGS,
  KVM_GET_XSAVE,
  KVM_SET_DEBUGREGS,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SET_VCPU_EVENTS,
  KVM_SET_XSAVE,
  KvmDebugregs,
  KvmSregs,
  KvmVcpuEvents,
} from "../../../lib/abi/kvm-x86.ts";
import { store16, store32 } from "../../../lib/abi/struct.ts";
import type { Syscalls } from "../../../lib/kernel/syscalls.ts";
import { CODE, Guest, type Mode } from "./guest.ts";

export const modes: readonly Mode[] = ["real", "prot16", "prot32", "long"];

const DATA = 0x8100;
/** what is looked at, and put back: the tables, the handlers, the stack, the data */
const USED = 0x9000;
const CODE_END = CODE + 0x20;
const XSAVE = 4096;
const LEGACY = 576;
/** which components are in use: for SSE that is up to when the kernel last saved them */
const IN_USE = 512;
const EINTR = -4;
/** Instructions that a guest of the fake may run: those that end have far fewer. */
export const BUDGET = 6000;
const IO = 2;
const MMIO = 6;
const RUNS = 3;

/** Opcodes whose ModRM byte names the instruction. */
const groups = new Set([
  0x80, 0x81, 0x82, 0x83, 0x8c, 0x8e, 0x8f, 0xc0, 0xc1, 0xc6, 0xc7, 0xd0, 0xd1, 0xd2, 0xd3, 0xd8, 0xd9, 0xda,
  0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xf6, 0xf7, 0xfe, 0xff, 0x100, 0x101, 0x10d, 0x118, 0x119, 0x11c, 0x11d,
  0x11e, 0x11f, 0x120, 0x121, 0x122, 0x123, 0x171, 0x172, 0x173, 0x1ae, 0x1b9, 0x1ba, 0x1c7,
]);
/** HLT, the prefix of two bytes; RDTSC and what else tells the time or chance; opcodes of three bytes */
const left = new Set([0x0f, 0xf4, 0x131, 0x138, 0x13a]);

export const prefixesOf = (mode: Mode): readonly number[][] => [
  [],
  [0x66],
  [0x67],
  [0xf2],
  [0xf3],
  [0xf0],
  ...(mode === "long" ? [[0x48], [0x66, 0x48], [0xf3, 0x48], [0xf2, 0x48], [0x41]] : [[0x66, 0x67]]),
];

/** The opcodes of one byte, and with 0x100 added those of two. */
export const opcodes: readonly number[] = Array.from({ length: 0x200 }, (_, i) => i).filter(
  (i) => !left.has(i),
);

/** The forms of an opcode: the bytes of an instruction, without what stands behind the operand. */
export function formsOf(mode: Mode, prefix: readonly number[], opcode: number): number[][] {
  const found: number[][] = [];
  const start = [...prefix, ...(opcode > 0xff ? [0x0f] : []), opcode & 0xff];
  for (let reg = 0; reg < (groups.has(opcode) ? 8 : 2); reg++) {
    const inMemory = memoryOperand(mode, reg);
    // RDTSCP; RDRAND and RDSEED
    if (opcode !== 0x1c7 || reg < 6) found.push([...start, 0xc1 | (reg << 3)]);
    if (opcode !== 0x1c7 || reg < 6) found.push([...start, ...inMemory]);
  }
  return found.filter((bytes) => !(opcode === 0x101 && bytes[bytes.length - 1] === 0xf9));
}

const memoryOperand = (mode: Mode, reg: number): number[] => {
  const [lo, hi] = [DATA & 0xff, DATA >> 8];
  if (mode === "long") return [0x04 | (reg << 3), 0x25, lo, hi, 0, 0];
  return mode === "prot32" ? [0x05 | (reg << 3), lo, hi, 0, 0] : [0x06 | (reg << 3), lo, hi];
};

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

export class Player {
  readonly #guest: Guest;
  readonly #enter: (run: () => number) => number;
  readonly #memory: Uint8Array;
  readonly #regs: Uint8Array;
  readonly #sregs: Uint8Array;
  readonly #xsave: Uint8Array;
  readonly #debugregs: Uint8Array;

  /** `enter` makes the KVM_RUN, which may be given up with −EINTR. */
  constructor(kernel: Syscalls, mode: Mode, enter: (run: () => number) => number = (run) => run()) {
    const guest = new Guest(kernel, mode);
    this.#guest = guest;
    this.#enter = enter;
    for (let vector = 0; vector < 256; vector++) {
      const handler = 0x4000 + 32 * vector;
      guest.memory.set([0xb0, vector, 0xe6, 0xee, 0xf4], handler);
      if (mode === "real") store16(guest.memory, 4 * vector, handler);
    }
    for (let i = 0; i < 0x400; i++) guest.memory[0x8000 + i] = (37 * i + 11) & 0xff;
    guest.registers({
      rax: 0x1122_3344,
      rcx: 5,
      rdx: 0x80,
      rbx: 0x8200,
      rsp: 0x7f00,
      rbp: 0x8140,
      rsi: 0x8180,
      rdi: 0x81c0,
      rflags: 0x202,
    });
    this.#memory = guest.memory.slice(0, USED);
    this.#regs = guest.regs;
    this.#sregs = guest.get(KVM_GET_SREGS.number, KvmSregs.size);
    this.#xsave = guest.get(KVM_GET_XSAVE.number, XSAVE);
    this.#debugregs = guest.get(KVM_GET_DEBUGREGS.number, KvmDebugregs.size);
  }

  /** Everything that an instruction leaves behind, in words; undefined where the guest does not come to an end. */
  play(instruction: readonly number[]): string | undefined {
    const guest = this.#guest;
    const { run, memory } = guest;
    this.#putBack();
    memory.set([...instruction, ...new Array<number>(20).fill(0x90), 0xe6, 0x80, 0xf4], CODE);
    const told: string[] = [];
    for (let i = 0; i < RUNS; i++) {
      const answer = this.#enter(() => guest.enter());
      if (answer === EINTR) return undefined;
      const { exitReason } = guest;
      told.push(`${answer} ${hex(run.subarray(8, 0x90))} ${hex(guest.regs)} ${hex(guest.events)}`);
      told.push(hex(guest.get(KVM_GET_SREGS.number, KvmSregs.size)));
      told.push(hex(guest.get(KVM_GET_DEBUGREGS.number, KvmDebugregs.size)));
      if (exitReason === IO && run[32] === 0) run.fill(0xa5, 4096, 4096 + 64);
      else if (exitReason === MMIO) run.fill(0x5a, 40, 48);
      else break;
    }
    const xsave = guest.get(KVM_GET_XSAVE.number, XSAVE).subarray(0, LEGACY);
    xsave[IN_USE] = 0;
    told.push(hex(xsave));
    for (let at = 0; at < 0xf000; at++) {
      const before = at < USED ? this.#memory[at] : 0;
      if (memory[at] !== before && (at < CODE || at >= CODE_END)) told.push(`${at} ${memory[at]}`);
    }
    return told.join("\n");
  }

  #putBack(): void {
    const { kernel, vcpu, run, memory } = this.#guest;
    // what waits for user space is finished
    run[1] = 1;
    for (let i = 0; i < 64 && kernel.ioctl(vcpu, KVM_RUN, 0) !== EINTR; i++) run.fill(0, 40, 48);
    run[1] = 0;
    const events = new Uint8Array(KvmVcpuEvents.size);
    store32(events, KvmVcpuEvents.offsetOf.flags, 5);
    kernel.ioctl(vcpu, KVM_SET_VCPU_EVENTS, events);
    kernel.ioctl(vcpu, KVM_SET_SREGS, this.#sregs.slice());
    kernel.ioctl(vcpu, KVM_SET_DEBUGREGS, this.#debugregs.slice());
    kernel.ioctl(vcpu, KVM_SET_XSAVE, this.#xsave.slice());
    kernel.ioctl(vcpu, KVM_SET_REGS, this.#regs.slice());
    memory.fill(0, USED, 0x10000).set(this.#memory);
    run.fill(0, 8, 0x120);
  }
}

/** The name of a row: a mode, and the bytes up to the opcode. */
export const rowName = (mode: Mode, prefix: readonly number[], opcode: number): string =>
  `${mode} ${hex(Uint8Array.from([...prefix, ...(opcode > 0xff ? [0x0f] : []), opcode & 0xff]))}`;

/** What the forms of an opcode leave behind, in 32 bits; those that are left out are not played. */
export function playRow(player: Player, forms: readonly number[][], leftOut: readonly number[]): string {
  const hash = createHash("sha256");
  forms.forEach((form, i) => {
    if (!leftOut.includes(i)) hash.update(player.play(form) ?? "for ever");
  });
  return hash.digest("hex").slice(0, 8);
}
