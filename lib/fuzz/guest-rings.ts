/**
 * Programs whose guest has two rings: it begins in ring 3, or enters it by IRETQ, SYSRET or SYSEXIT, and comes back to ring 0
 * by exceptions, interrupts and NMIs, and by SYSCALL and SYSENTER where they go there.
 *
 * The code lies in slots of 64 bytes, each a piece and what fills it up. A handler in ring 0 tells its vector at a port, and
 * goes back: behind what trapped, or to the slot after the one that faulted. In 64-bit mode it does so by IRETQ; there is no
 * IRET of protected mode under pvm, so there it goes by SYSEXIT.
 *
 * Guest physical memory, beside what guest-machine.ts says of it: 0x7000 the top of the stack of ring 0 · 0x6800 that of
 * interrupt stack 1 · 0xe000 where SYSCALL goes, 0xe040 SYSENTER.
 *
 * Left out of 64-bit code in ring 3, which the processor runs under pvm: selectors, vector registers, TF at SYSCALL, devices,
 * rotations by an immediate, pages that a read may have and a write may not (an instruction that does both is refused before
 * it reads), AC, and NT, which the processor keeps until KVM is entered for a reason of its own.
 */
import { toHex } from "../trace/format.ts";
import { Instructions, type Topic } from "./guest-instructions.ts";
import {
  bitsOf,
  CODE,
  DATA,
  DATA_SIZE,
  enterMode,
  enterRings,
  HANDLER_SIZE,
  HANDLERS,
  IDT,
  type Mode,
  memorySlots,
  oddForWriters,
  poke,
  STACK,
  setRegisters,
  TSS,
  tables,
  USER_CODE32,
  USER_CODE64,
  USER_DATA,
} from "./guest-machine.ts";
import { opensKvm } from "./interpreter.ts";
import type { Operation, Part, Program } from "./program.ts";
import { onVm, splitIrqchip } from "./programs.ts";
import type { Random } from "./random.ts";
import { hexValue } from "./values.ts";

const SLOT = 64;
const KERNEL_STACK = 0x7000;
const INTERRUPT_STACK = 0x6800;
const SYSCALL_ENTRY = 0xe000;
const SYSENTER_ENTRY = 0xe040;
const TSS_ADDRESS = 0xfffb_d000;
const RUNS = 30;

const NOP = "90";
const HLT = "f4";
const IRETQ = "48cf";
const SYSEXIT = "0f35";
const SYSENTER = "0f34";
const SYSCALL = "0f05";

/** SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, STAR, LSTAR, SYSCALL_MASK */
const systemCallMsrs: readonly (readonly [number, bigint])[] = [
  [0x174, 0x30n],
  [0x175, BigInt(KERNEL_STACK)],
  [0x176, BigInt(SYSENTER_ENTRY)],
  [0xc000_0081, (0x43n << 48n) | (0x18n << 32n)],
  [0xc000_0082, BigInt(SYSCALL_ENTRY)],
  [0xc000_0084, 0x200n],
];

const bytesOf = (random: Random, count: number): string =>
  toHex(Uint8Array.from({ length: count }, () => random.below(256)));

const vcpu = { kind: "vcpu", index: 0 } as const;

const setMsrs: Operation = {
  op: "ioctl",
  on: vcpu,
  request: "KVM_SET_MSRS",
  bytes:
    hexValue(systemCallMsrs.length, 8) +
    systemCallMsrs.map(([index, value]) => hexValue(index, 8) + hexValue(value, 8)).join(""),
};

// --- handlers -----------------------------------------------------------------------------------------------------------

const withErrorCode = [8, 10, 11, 12, 13, 14, 17];
const traps = [1, 2, 3, 4];
const out = (port: number, value: number): string => `b0${hexValue(value, 1)}e6${hexValue(port, 1)}`;

/** A handler of 32 bytes at most. */
function handler(long: boolean, vector: number): string {
  const faulted = vector < 32 && !traps.includes(vector);
  const coded = withErrorCode.includes(vector);
  if (long)
    return (
      out(0xee, vector) +
      (coded ? "4883c408" : "") +
      // and qword [rsp], -64; add qword [rsp], 64
      (faulted ? "48832424c04883042440" : "") +
      IRETQ
    );
  return (
    out(0xee, vector) +
    (coded ? "83c404" : "") +
    // mov edx, [esp]; and edx, -64; add edx, 64; mov ecx, [esp + 12]
    `8b1424${faulted ? "83e2c083c240" : ""}8b4c240c${SYSEXIT}`
  );
}

function handlers(long: boolean): Operation {
  let bytes = "";
  for (let vector = 0; vector < 256; vector++) bytes += handler(long, vector).padEnd(2 * HANDLER_SIZE, "0");
  return poke(HANDLERS, bytes);
}

/** The stacks of ring 0, the map of ports, gates with an interrupt stack or of another type, and where calls go. */
function taskState(random: Random, long: boolean, tssLimit: number): Operation[] {
  const operations = [
    poke(TSS + 4, long ? hexValue(KERNEL_STACK, 8) : hexValue(KERNEL_STACK, 4) + hexValue(0x10, 4)),
    poke(TSS + 0x66, hexValue(0x68, 2)),
    poke(SYSCALL_ENTRY, "cc".repeat(0x1000)),
    // jmp rcx: back to whoever called, on either level
    poke(SYSCALL_ENTRY, "ffe1"),
    poke(SYSENTER_ENTRY, `e682${SYSEXIT}`),
  ];
  if (tssLimit > 0x67) operations.push(poke(TSS + 0x68, bytesOf(random, tssLimit - 0x67)));
  if (long) operations.push(poke(TSS + 0x24, hexValue(INTERRUPT_STACK, 8)));
  const gate = long ? 16 : 8;
  for (let i = random.below(4); i > 0; i--) {
    const vector = random.pick([6, 13, 14, 0x31, 2, 3, 17]);
    if (long) operations.push(poke(IDT + gate * vector + 4, "01"));
    else operations.push(poke(IDT + gate * vector + 5, random.pick(["8f", "ee", "86"])));
  }
  return operations;
}

// --- pieces of code -----------------------------------------------------------------------------------------------------

const push = (value: number): string => `68${hexValue(value, 4)}`;

/** What leaves ring 0 for ring 3 of a code segment, at the next slot: pieces of 64-bit code, or of 32-bit code. */
function leave(random: Random, mode: Mode, code: number, next: number): string {
  const flags = 2 | random.pick([0, 0x200, 0x246, 0xcd5, 0x3000, 0x4000, 0x20_0000]);
  if (mode === "prot32")
    return random.chance(80)
      ? `ba${hexValue(next, 4)}b9${hexValue(STACK, 4)}${SYSEXIT}`
      : `b9${hexValue(next, 4)}0f07`;
  const wrong = code === USER_CODE64 && random.chance(20);
  const target = wrong ? random.pick([next, 0x7f00_0000]) : next;
  const codeSelector = wrong ? random.pick([code, 0x18, 0x50, 0x5b, 0x68, 0x73, 0x108]) : code;
  const stackSelector = wrong ? random.pick([USER_DATA, 0, 3, 0x10, 0x5b, 0x6b]) : USER_DATA;
  const choice = random.below(code === USER_CODE64 ? 5 : 3);
  if (choice < 3)
    return push(stackSelector) + push(STACK) + push(flags) + push(codeSelector) + push(target) + IRETQ;
  // mov ecx, next; mov r11d, flags; sysretq · mov edx, next; mov ecx, stack; sysexitq
  return choice === 3
    ? `b9${hexValue(target, 4)}41bb${hexValue(flags, 4)}480f07`
    : `ba${hexValue(target, 4)}b9${hexValue(STACK, 4)}48${SYSEXIT}`;
}

const userTopics: readonly Topic[] = [
  "arithmetic",
  "arithmetic",
  "memory",
  "memory",
  "stack",
  "stack",
  "strings",
  "ports",
  "flow",
  "interrupts",
  "interrupts",
  "system",
];
/** What is left to 32-bit code, which the emulator runs under pvm as it runs ring 0. */
const userTopics32: readonly Topic[] = [...userTopics, "segments"];

/** A piece of ring 3 that is about the ring. */
function ringPiece(random: Random, bits: 32 | 64, next: number): string {
  const wide = bits === 64;
  const pieces = [
    // popf with what ring 3 may not change
    `${push(2 | random.pick([0x3000, 0x200, 0xcd5, 0x20_0000, 0x1_0000]))}9d9c58`,
    // out, in: allowed by IOPL or by the map
    `e4${random.pick(["80", "08", "ee"])}`,
    `e6${random.pick(["80", "10", "ee"])}`,
    random.pick([
      HLT,
      "fa",
      "fb",
      "0f06",
      "0f20c0",
      "0f22d8",
      "0f32",
      "0f30",
      "0f08",
      "cc",
      "f1",
      "ce",
      "0f01f8",
    ]),
    `cd${hexValue(random.pick([3, 4, 0x17, 0x19, 0x1a, 0x20, 0x31, 0x80]), 1)}`,
    random.pick(["0f01c1", "0f01d9", "cf"]),
    // those of ring 0, with somewhere to go should it be ring 0
    `b9${hexValue(next, 4)}${random.pick(wide ? ["0f07", "480f07"] : ["0f07"])}`,
    `ba${hexValue(next, 4)}b9${hexValue(STACK, 4)}${SYSEXIT}`,
    `ba${hexValue(next, 4)}${wide ? "4889e1" : "89e1"}${SYSENTER}`,
    // a frame of its own for IRETQ, to the next slot
    wide
      ? push(USER_DATA) +
        push(STACK - 0x100) +
        push(0x202) +
        push(random.pick([USER_CODE64, USER_CODE64, 0x18])) +
        push(next) +
        IRETQ
      : `${push(USER_CODE32)}${push(next)}cb`,
  ];
  if (wide) pieces.push(SYSCALL, SYSCALL, `${push(USER_CODE64)}${push(next)}48cb`);
  return random.pick(pieces);
}

/** A piece that fills a slot; one that is too long is cut to nothing. */
const slot = (piece: string): string => (piece.length > 2 * SLOT ? "" : piece).padEnd(2 * SLOT, NOP);

// --- the program --------------------------------------------------------------------------------------------------------

const parts: readonly Part[] = ["registers", "mp-state"];

/** What user space does between two KVM_RUNs. */
function injection(random: Random): Operation {
  return random.chance(70)
    ? {
        op: "ioctl",
        on: vcpu,
        request: "KVM_INTERRUPT",
        bytes: hexValue(random.pick([0x31, 0x41, 0x80, 0xf1]), 4),
      }
    : { op: "ioctl", on: vcpu, request: "KVM_NMI", value: "0x0" };
}

/** A program from chance. */
export function ringProgram(random: Random): Program {
  const mode = random.pick<Mode>(["long", "long", "prot32"]);
  const long = mode === "long";
  const code = long ? random.pick([USER_CODE64, USER_CODE64, USER_CODE32]) : USER_CODE32;
  const bits = code === USER_CODE64 ? 64 : 32;
  const tssLimit = random.pick([0x67, 0x67, 0x87, 0xff]);
  const begins = random.chance(60);
  const kernel = new Instructions(random, mode, false, true);
  const user = new Instructions(random, bits === 64 ? "long" : "prot32", false, true);
  const pieces: string[] = [];
  const next = (): number => CODE + SLOT * (pieces.length + 1);
  if (!begins) {
    for (let i = random.below(3); i > 0; i--)
      pieces.push(slot(kernel.piece(random.pick(["arithmetic", "memory", "stack", "system"]))));
    pieces.push(slot(leave(random, mode, code, next())));
  }
  for (let i = random.between(3, 14); i > 0; i--)
    pieces.push(
      slot(
        random.chance(35)
          ? ringPiece(random, bits, next())
          : user.piece(random.pick(bits === 64 ? userTopics : userTopics32)) +
              (random.chance(30) ? user.piece("arithmetic") : ""),
      ),
    );
  const value = (): bigint => {
    const any = (BigInt(random.next()) << 32n) | BigInt(random.next());
    return BigInt.asUintN(bitsOf(mode), random.pick([0n, 1n, 0x80n, -1n, any]));
  };
  const pointer = (): number => DATA + 0x100 + random.below(DATA_SIZE - 0x300);
  const flags = 2 | random.pick([0, 0, 0x200, 0x200, 0x3000, 0x4000, 0xcd5]);
  const registers = [
    value(),
    pointer(),
    BigInt(random.below(20)),
    value(),
    pointer(),
    pointer(),
    STACK - 0x100,
    pointer(),
    ...Array.from({ length: 8 }, () => (long ? value() : 0)),
    CODE,
    flags,
  ];
  const rest: Operation[] = [];
  for (let i = random.between(1, 4); i > 0; i--) {
    if (random.chance(40)) rest.push(injection(random));
    rest.push({
      op: "run",
      on: vcpu,
      times: i === 1 ? RUNS : random.between(1, 6),
      page: [],
      answers: bytesOf(random, 16),
      parts: [...parts],
    });
  }
  return [
    opensKvm,
    { op: "ioctl", on: { kind: "system", index: 0 }, request: "KVM_CREATE_VM", value: "0x0" },
    onVm("KVM_SET_TSS_ADDR", TSS_ADDRESS),
    ...(random.chance(20) ? [splitIrqchip] : []),
    ...memorySlots(random.chance(25)),
    onVm("KVM_CREATE_VCPU", 0),
    ...(random.chance(30) ? [{ op: "cpuid", on: vcpu, edits: [] } as const] : []),
    ...tables(mode, random, oddForWriters),
    ...taskState(random, long, tssLimit),
    handlers(long),
    poke(DATA, bytesOf(random, DATA_SIZE)),
    // behind the program: INT3 after INT3
    poke(CODE, "cc".repeat(IDT - CODE)),
    { op: "code", at: CODE, instructions: pieces },
    enterMode(mode, 0, { ds: 0, es: 0 }),
    enterRings(0, { code: begins ? code : 0, tssLimit }),
    setMsrs,
    setRegisters(0, registers),
    ...rest,
    { op: "readback", parts: ["mp-state", "dirty-log", "registers", "fpu"] },
  ];
}
