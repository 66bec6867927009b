/**
 * Segment registers, and everything that changes CS: far jumps, calls and returns, interrupts, exceptions and IRET
 * (Intel SDM volume 3, chapters "Protection" and "Interrupt and Exception Handling").
 *
 * Missing: call gates, task gates and task switches, virtual-8086 mode; they stop with UNHANDLED.
 */
import type { Cpu } from "./cpu.ts";
import { canonical } from "./execute.ts";
import { POPF_FLAGS, writableFlags } from "./flags.ts";
import {
  BP,
  DF_FAULT,
  GP,
  NO_CODE,
  NP,
  OFLOW,
  RUNNING,
  SHUTDOWN,
  SS_FAULT,
  TS,
  UNHANDLED,
  VECTORING,
  WRITE,
} from "./memory.ts";
import {
  AC,
  CS,
  DS,
  EFER,
  EFER_LMA,
  ES,
  FLAG_FIXED,
  FS,
  GS,
  IF,
  IOPL,
  LDTR,
  NT,
  RAX,
  RF,
  RSP,
  Segment,
  SS,
  TF,
  TR,
  VM,
} from "./state.ts";
import { cpuid } from "./system.ts";

/** Where an event comes from: INT n, a device, or the processor. */
export type Source = "software" | "external" | "exception";

/** The descriptor that `readDescriptor` found, in halves; upper half of a 16-byte one. */
let descriptorLo = 0;
let descriptorHi = 0;
let descriptorBaseHi = 0;
let descriptorAt = 0;

/** A descriptor put aside while another one is read. */
class Found {
  lo = 0;
  hi = 0;
  at = 0;

  /** Keeps the descriptor read last. */
  keep(): void {
    this.lo = descriptorLo;
    this.hi = descriptorHi;
    this.at = descriptorAt;
  }

  /** Makes it the one read last. */
  take(): void {
    descriptorLo = this.lo;
    descriptorHi = this.hi;
    descriptorAt = this.at;
  }
}
const code = new Found();
const stack = new Found();

/** SS before an event went to an inner stack. */
const oldStack = new Segment();

const longActive = (cpu: Cpu): boolean => (cpu.state.c32[2 * EFER] & EFER_LMA) !== 0;

/** A linear address in a descriptor table or TSS. */
const tableAt = (cpu: Cpu, lo: number, hi: number, offset: number): number =>
  longActive(cpu) ? (hi | 0) * 2 ** 32 + lo + offset : (lo + offset) >>> 0;

// fields of a descriptor's upper half
const typeOf = (hi: number): number => (hi >>> 8) & 15;
const isSystem = (hi: number): boolean => (hi & 0x1000) === 0;
const dplOf = (hi: number): number => (hi >>> 13) & 3;
const isPresent = (hi: number): boolean => (hi & 0x8000) !== 0;
const isCode = (hi: number): boolean => (hi & 0x1800) === 0x1800;
const isConforming = (hi: number): boolean => (hi & 0x400) !== 0;

/** Reads a selector's descriptor; raises `vector` with the selector where the table is too short. */
function readDescriptor(cpu: Cpu, selector: number, vector: number, wide = false, external = 0): boolean {
  const { memory, state } = cpu;
  const index = selector & 0xfff8;
  let lo: number;
  let hi: number;
  let limit: number;
  if ((selector & 4) !== 0) {
    const table = cpu.segments[LDTR];
    lo = table.baseLo;
    hi = table.baseHi;
    limit = table.unusable !== 0 || table.present === 0 ? -1 : table.limit;
  } else {
    lo = state.gdt.baseLo;
    hi = state.gdt.baseHi;
    limit = state.gdt.limit;
  }
  if (index + (wide ? 15 : 7) > limit) {
    memory.raise(vector, (selector & 0xfffc) | external);
    return false;
  }
  const at = tableAt(cpu, lo, hi, index);
  const { refuses } = memory;
  cpu.needsMemory();
  descriptorLo = memory.read(at, 4, 0);
  descriptorHi = memory.read(at + 4, 4, 0);
  descriptorBaseHi = wide ? memory.read(at + 8, 4, 0) : 0;
  memory.refuses = refuses;
  descriptorAt = at;
  return memory.stop === RUNNING;
}

/** Sets a bit of the type of the descriptor read last: accessed, or busy. */
function markDescriptor(cpu: Cpu, bit: number): void {
  if ((descriptorHi & (bit << 8)) !== 0) return;
  descriptorHi |= bit << 8;
  cpu.memory.write(descriptorAt + 5, 1, (descriptorHi >>> 8) & 0xff, 0);
}

/** Fills a segment register from a descriptor. */
function fill(segment: Segment, selector: number, lo: number, hi: number, baseHi = 0): void {
  segment.selector = selector;
  segment.baseLo = ((lo >>> 16) | ((hi & 0xff) << 16) | (hi & 0xff00_0000)) >>> 0;
  segment.baseHi = baseHi;
  segment.g = (hi >>> 23) & 1;
  const limit = (lo & 0xffff) | (hi & 0xf_0000);
  segment.limit = segment.g !== 0 ? ((limit << 12) | 0xfff) >>> 0 : limit;
  segment.type = typeOf(hi);
  segment.s = (hi >>> 12) & 1;
  segment.dpl = dplOf(hi);
  segment.present = (hi >>> 15) & 1;
  segment.avl = (hi >>> 20) & 1;
  segment.l = (hi >>> 21) & 1;
  segment.db = (hi >>> 22) & 1;
  segment.unusable = 0;
}

/** MOV, POP, LDS … into ES, SS, DS, FS, GS. */
export function loadSegment(cpu: Cpu, index: number, selector: number): void {
  const segment = cpu.segments[index];
  if (!cpu.protectedMode) {
    segment.selector = selector;
    segment.baseLo = selector << 4;
    segment.baseHi = 0;
    return;
  }
  const { cpl } = cpu;
  const rpl = selector & 3;
  if ((selector & 0xfffc) === 0) {
    if (index === SS) {
      if (!cpu.long || cpl === 3 || rpl !== cpl) return cpu.fault(GP, 0);
      // Linux's emulator makes it data of one page (arch/x86/kvm/emulate.c:__load_segment_descriptor, 6.1)
      if (cpu.options.emulated) return fill(segment, selector, 0, 0xc0_9300 | (cpl << 13));
      segment.selector = selector;
      segment.dpl = cpl;
      segment.unusable = 1;
      return;
    }
    // what the processor takes, pvm does not hear of (live 6.18)
    if (!cpu.direct) nullSegment(segment, selector);
    return;
  }
  if (!readDescriptor(cpu, selector, GP)) return;
  const hi = descriptorHi;
  const code = selector & 0xfffc;
  if (isSystem(hi)) return cpu.fault(GP, code);
  if (index === SS) {
    if (rpl !== cpl || isCode(hi) || (typeOf(hi) & 2) === 0 || dplOf(hi) !== cpl) return cpu.fault(GP, code);
    if (!isPresent(hi)) return cpu.fault(SS_FAULT, code);
  } else {
    if (isCode(hi) && (typeOf(hi) & 2) === 0) return cpu.fault(GP, code);
    if (!(isCode(hi) && isConforming(hi)) && (rpl > dplOf(hi) || cpl > dplOf(hi))) return cpu.fault(GP, code);
    if (!isPresent(hi)) return cpu.fault(NP, code);
  }
  markDescriptor(cpu, 1);
  if (cpu.stopped) return;
  fill(segment, selector, descriptorLo, descriptorHi);
}

/** A null selector leaves a segment that cannot be used. */
function nullSegment(segment: Segment, selector: number): void {
  segment.selector = selector;
  segment.baseLo = 0;
  segment.baseHi = 0;
  segment.limit = 0;
  segment.type = 0;
  segment.s = 0;
  segment.dpl = 0;
  segment.present = 0;
  segment.avl = 0;
  segment.l = 0;
  segment.db = 0;
  segment.g = 0;
  segment.unusable = 1;
}

/** LLDT and LTR. */
export function loadSystemSegment(cpu: Cpu, index: number, selector: number): void {
  const segment = cpu.segments[index];
  const code = selector & 0xfffc;
  if (code === 0) {
    if (index === TR) return cpu.fault(GP, 0);
    nullSegment(segment, selector);
    return;
  }
  // TR is refused before the error code is known (arch/x86/kvm/emulate.c:__load_segment_descriptor, 6.1)
  if ((selector & 4) !== 0) return cpu.fault(GP, index === TR ? 0 : code);
  if (!readDescriptor(cpu, selector, GP, longActive(cpu))) return;
  const hi = descriptorHi;
  const type = typeOf(hi);
  if (!isSystem(hi) || (index === TR ? type !== 1 && type !== 9 : type !== 2)) return cpu.fault(GP, code);
  if (!isPresent(hi)) return cpu.fault(NP, code);
  if (index === TR) markDescriptor(cpu, 2);
  if (cpu.stopped) return;
  fill(segment, selector, descriptorLo, descriptorHi, descriptorBaseHi);
}

// ---- far jumps, calls and returns ----------------------------------------------------------------------------------

/** Real mode: CS:IP. */
function setRealCode(cpu: Cpu, selector: number, offset: number): void {
  const code = cpu.segments[CS];
  code.selector = selector;
  code.baseLo = selector << 4;
  code.baseHi = 0;
  cpu.rip = offset;
}

/** Checks the code segment of a far jump or call; its descriptor is then the one that was read last. */
function checkCode(cpu: Cpu, selector: number): boolean {
  const code = selector & 0xfffc;
  if (code === 0) {
    cpu.fault(GP, 0);
    return false;
  }
  if (!readDescriptor(cpu, selector, GP)) return false;
  const hi = descriptorHi;
  if (isSystem(hi)) {
    // gates
    cpu.memory.unhandled();
    return false;
  }
  const dpl = dplOf(hi);
  const allowed = isConforming(hi) ? dpl <= cpu.cpl : (selector & 3) <= cpu.cpl && dpl === cpu.cpl;
  if (!isCode(hi) || !allowed) cpu.fault(GP, code);
  else if (!isPresent(hi)) cpu.fault(NP, code);
  else if (longActive(cpu) && (hi & 0x60_0000) === 0x60_0000) cpu.fault(GP, code);
  return !cpu.stopped;
}

/** Whether `target` lies in the code whose descriptor was read last. Linux's emulator minds bits that the processor cuts off. */
function liesInCode(cpu: Cpu, target: number): boolean {
  if (longActive(cpu) && (descriptorHi & 0x20_0000) !== 0) {
    const hi = Math.floor(target / 2 ** 32);
    return (hi << 16) >> 16 === hi;
  }
  const limit = (descriptorLo & 0xffff) | (descriptorHi & 0xf_0000);
  const offset = cpu.options.emulated ? target : target >>> 0;
  return offset <= ((descriptorHi & 0x80_0000) !== 0 ? ((limit << 12) | 0xfff) >>> 0 : limit);
}

/** Puts the descriptor read last into CS and goes to `target`, both checked. */
function enterCode(cpu: Cpu, selector: number, cpl: number, target: number): void {
  markDescriptor(cpu, 1);
  if (cpu.stopped) return;
  fill(cpu.segments[CS], (selector & ~3) | cpl, descriptorLo, descriptorHi);
  cpu.long = longActive(cpu) && (descriptorHi & 0x20_0000) !== 0;
  cpu.rip = cpu.long ? target : target >>> 0;
}

/**
 * A far jump or return to the code of the descriptor read last. Linux's emulator has loaded CS when it finds the target wrong:
 * "Error handling is not implemented" (arch/x86/kvm/emulate.c:em_jmp_far, 6.1).
 */
function goTo(cpu: Cpu, selector: number, cpl: number, target: number): void {
  const within = liesInCode(cpu, target);
  if (!within && !cpu.options.emulated) return cpu.fault(GP, 0);
  enterCode(cpu, selector, cpl, target);
  if (!within) cpu.refuse();
}

export function jumpFar(cpu: Cpu, selector: number, offset: number): void {
  if (cpu.stopped) return;
  if (!cpu.protectedMode) {
    if (offset > cpu.segments[CS].limit && !cpu.options.emulated) return cpu.fault(GP, 0);
    setRealCode(cpu, selector, offset);
    if (cpu.options.emulated && offset > cpu.segments[CS].limit) cpu.refuse();
  } else if (checkCode(cpu, selector)) goTo(cpu, selector, cpu.cpl, offset);
}

export function callFar(cpu: Cpu, selector: number, offset: number): void {
  const backSelector = cpu.segments[CS].selector;
  const back = cpu.rip;
  const size = cpu.osize;
  if (!cpu.protectedMode) {
    if (offset > cpu.segments[CS].limit) return cpu.fault(GP, 0);
    cpu.push(size, backSelector);
    cpu.push(size, back);
    if (!cpu.stopped) setRealCode(cpu, selector, offset);
    return;
  }
  if (!checkCode(cpu, selector)) return;
  const within = liesInCode(cpu, offset);
  if (!within && !cpu.options.emulated) return cpu.fault(GP, 0);
  code.keep();
  cpu.push(size, backSelector);
  cpu.push(size, back);
  if (cpu.stopped) return;
  if (!within) return cpu.fault(GP, 0);
  code.take();
  enterCode(cpu, selector, cpu.cpl, offset);
}

/** The code segment that RETF and IRET go back to. */
function checkReturn(cpu: Cpu, selector: number): boolean {
  const error = selector & 0xfffc;
  const rpl = selector & 3;
  if (error === 0) {
    cpu.fault(GP, 0);
    return false;
  }
  if (!readDescriptor(cpu, selector, GP)) return false;
  const hi = descriptorHi;
  const dpl = dplOf(hi);
  if (isSystem(hi) || !isCode(hi) || rpl < cpu.cpl) cpu.fault(GP, error);
  else if (rpl > cpu.cpl && cpu.options.emulated) cpu.memory.unhandled();
  else if (isConforming(hi) ? dpl > rpl : dpl !== rpl) cpu.fault(GP, error);
  else if (!isPresent(hi)) cpu.fault(NP, error);
  return !cpu.stopped;
}

/** The stack that a return to the code of the descriptor read last finds: that of a null selector, or a descriptor read. */
function checkReturnStack(cpu: Cpu, selector: number, rpl: number): boolean {
  const error = selector & 0xfffc;
  if (error === 0) {
    const to64 = longActive(cpu) && (descriptorHi & 0x20_0000) !== 0;
    if (rpl === 3 || !(to64 || cpu.options.emulated)) cpu.fault(GP, 0);
    return !cpu.stopped;
  }
  if (!readDescriptor(cpu, selector, GP)) return false;
  const hi = descriptorHi;
  const writable = !isSystem(hi) && !isCode(hi) && (typeOf(hi) & 2) !== 0;
  const fits = (selector & 3) === rpl && dplOf(hi) === rpl;
  // pvm asks whether it is there, and for the level alone (live 6.18)
  if (cpu.options.emulated ? isPresent(hi) && !fits : !writable || !fits) cpu.fault(GP, error);
  else if (!isPresent(hi)) cpu.fault(SS_FAULT, error);
  return !cpu.stopped;
}

/**
 * RETF and IRET that change the stack: to the code of the descriptor read last. Everything is checked before anything
 * changes (SDM volume 2, IRET, RETURN-TO-OUTER-PRIVILEGE-LEVEL).
 */
function returnWithStack(
  cpu: Cpu,
  selector: number,
  target: number,
  stackSelector: number,
  pointer: bigint,
): void {
  const rpl = selector & 3;
  code.keep();
  if (!checkReturnStack(cpu, stackSelector, rpl)) return;
  stack.keep();
  code.take();
  if (!liesInCode(cpu, target)) return cpu.fault(GP, 0);
  const isNull = (stackSelector & 0xfffc) === 0;
  if (!isNull) {
    stack.take();
    markDescriptor(cpu, 1);
    stack.keep();
    code.take();
  }
  markDescriptor(cpu, 1);
  if (cpu.stopped) return;
  if (isNull) nullStack(cpu, stackSelector, rpl);
  else fill(cpu.segments[SS], stackSelector, stack.lo, stack.hi);
  cpu.r64[RSP] = pointer;
  for (const index of [ES, DS, FS, GS]) {
    const segment = cpu.segments[index];
    const conforming = (segment.type & 12) === 12;
    if (segment.unusable === 0 && !conforming && segment.dpl < rpl) nullSegment(segment, 0);
  }
  enterCode(cpu, selector, rpl, target);
}

/** SS of 64-bit mode may be null; the level is kept in it. */
function nullStack(cpu: Cpu, selector: number, cpl: number): void {
  nullSegment(cpu.segments[SS], selector);
  cpu.segments[SS].dpl = cpl;
}

export function returnFar(cpu: Cpu, extra: number): void {
  if (cpu.options.emulated) return returnFarByEmulator(cpu, extra);
  const size = cpu.osize;
  const target = size === 8 ? canonical(cpu.peek64()) : cpu.peek(size);
  const selector = size === 8 ? Number(cpu.peek64(8) & 0xffffn) : cpu.peek(size, size) & 0xffff;
  if (cpu.stopped) return;
  if (!cpu.protectedMode) {
    cpu.moveStack(2 * size + extra);
    return setRealCode(cpu, selector, target);
  }
  const rpl = selector & 3;
  if (!checkReturn(cpu, selector)) return;
  if (rpl === cpu.cpl) {
    goTo(cpu, selector, rpl, target);
    if (!cpu.stopped) cpu.moveStack(2 * size + extra);
    return;
  }
  const at = 2 * size + extra;
  const pointer = size === 8 ? cpu.peek64(at) : BigInt(cpu.peek(size, at));
  const selectorOfStack =
    size === 8 ? Number(cpu.peek64(at + 8) & 0xffffn) : cpu.peek(size, at + size) & 0xffff;
  if (cpu.stopped) return;
  returnWithStack(cpu, selector, target, selectorOfStack, pointer);
  if (!cpu.stopped) cpu.moveStack(extra);
}

/** One value after the other is taken off the stack (arch/x86/kvm/emulate.c:em_ret_far, 6.1). */
function returnFarByEmulator(cpu: Cpu, extra: number): void {
  const size = cpu.osize;
  cpu.popsMany();
  const target = size === 8 ? canonical(cpu.pop64()) : cpu.pop(size);
  const selector = size === 8 ? Number(cpu.pop64() & 0xffffn) : cpu.pop(size) & 0xffff;
  if (cpu.stopped) return;
  if (!cpu.protectedMode) {
    setRealCode(cpu, selector, target);
    if (target > cpu.segments[CS].limit) cpu.refuse();
  } else if (checkReturn(cpu, selector)) goTo(cpu, selector, selector & 3, target);
  if (!cpu.stopped) cpu.moveStack(extra);
}

// ---- interrupts ----------------------------------------------------------------------------------------------------

/** INT n, INT3, INTO */
export function softwareInterrupt(cpu: Cpu, vector: number): void {
  if (cpu.stopped) return;
  if (cpu.direct && (vector === BP || vector === OFLOW)) return trapDirect(cpu, vector);
  if (cpu.options.emulated) {
    if (cpu.protectedMode) return interruptRefused(cpu, vector);
    if (vector >= 0x80 && cpu.state.idt.baseLo + 4 * (vector - 256) < 0) return interruptForEver(cpu);
  }
  enterHandler(cpu, vector, "software", -1, cpu.rip);
}

/**
 * Vectors that pvm's own guests call it by (live 6.18, all 256 in every mode): 0x17 is #GP for others, 0x19 is #GP behind
 * the instruction, 0x1a is CPUID, 0x1b a hypercall in RAX. Those of CPL 3 are all #GP but CPUID, behind the instruction where
 * the processor runs it. Missing: the hypercalls, which answer −ENOSYS here.
 */
function interruptRefused(cpu: Cpu, vector: number): void {
  const { direct } = cpu;
  const kernel = cpu.user === 0;
  if (!OF_PVM.has(vector) || cpu.opcode !== 0xcd || (direct && vector === 0x1b)) return cpu.refuse();
  if (!cpu.help()) return;
  if (vector === 0x1a) return cpuid(cpu);
  if (vector === 0x1b && kernel) return cpu.setRegister64(RAX, BigInt.asUintN(64, -ENOSYS));
  if (direct || (vector === 0x19 && kernel)) cpu.jump(cpu.rip);
  cpu.fault(GP, 0);
}

/** INT1, INT3, INT 3 and INT 4 that the processor runs for pvm: an exception behind the instruction, whatever its gate. */
export function trapDirect(cpu: Cpu, vector: number): void {
  if (cpu.stopped) return;
  cpu.jump(cpu.rip);
  cpu.memory.raise(vector, NO_CODE);
}

const OF_PVM: ReadonlySet<number> = new Set([0x17, 0x19, 0x1a, 0x1b]);
const ENOSYS = 38n;

/**
 * INT n of real mode with n from 0x80 on: Linux's emulator takes n for negative. Where no vector can be, below address 0,
 * it does the instruction again, for ever (arch/x86/kvm/emulate.c:__emulate_int_real, 6.1).
 */
function interruptForEver(cpu: Cpu): void {
  const pointer = cpu.r64[RSP];
  pushFrame(cpu, cpu.osize, cpu.flags, cpu.rip);
  if (cpu.stopped) return;
  cpu.r64[RSP] = pointer;
  cpu.flags &= ~(IF | TF | AC);
  cpu.rip = cpu.start;
}

/**
 * Goes to the handler of a vector; `back` is where it returns to. A processor cannot do that by way of a device: VECTORING,
 * with the event in `vector`, `errorCode` and `source`.
 */
export function enterHandler(
  cpu: Cpu,
  vector: number,
  source: Source,
  errorCode: number,
  back: number,
): void {
  const { memory } = cpu;
  const { refuses } = memory;
  if (!cpu.options.emulated) memory.refuses = VECTORING;
  if (!cpu.protectedMode) enterReal(cpu, vector, source, back);
  else enterGate(cpu, vector, source, errorCode, back);
  memory.refuses = refuses;
  if (memory.stop !== VECTORING) return;
  memory.vector = vector;
  memory.errorCode = errorCode;
  cpu.source = source;
}

/**
 * pvm pushes what a device or the processor pushes by itself: without limits, by the whole of ESP whatever the size of the
 * stack (in real mode by SP alone). Where a value finds no memory, or a page that cannot be written, the processor shuts
 * down (recorded).
 */
function pushEvent(cpu: Cpu, width: number, value: number): void {
  const { memory, r32 } = cpu;
  if (cpu.stopped) return;
  if (width === 8) cpu.push(8, value);
  else {
    const pointer = cpu.protectedMode ? (r32[2 * RSP] - width) >>> 0 : (r32[2 * RSP] - width) & 0xffff;
    // beyond 4 GiB there is nothing to be found
    if (cpu.protectedMode && r32[2 * RSP + 1] !== 0) memory.shutDown();
    memory.write((cpu.segments[SS].baseLo + pointer) >>> 0, width, value >>> 0, cpu.user);
    r32[2 * RSP] = pointer;
    r32[2 * RSP + 1] = 0;
  }
  if (cpu.stopped) memory.stop = SHUTDOWN;
}

/** A stack that is no memory cannot take what a device or the processor pushes. */
function refuseDevice(cpu: Cpu, source: Source): void {
  if (cpu.memory.postedCount === 0 || source === "software") return;
  cpu.memory.postedCount = 0;
  cpu.memory.shutDown();
}

function enterReal(cpu: Cpu, vector: number, source: Source, back: number): void {
  const { memory, state } = cpu;
  if (!cpu.options.emulated && 4 * vector + 3 > state.idt.limit) return cpu.fault(GP, 0);
  const { flags } = cpu;
  const negative = cpu.options.emulated && source === "software" && vector >= 0x80;
  const at = (state.idt.baseLo + 4 * (negative ? vector - 256 : vector)) >>> 0;
  const byPvm = cpu.options.emulated && source !== "software";
  // pvm looks where to go before it pushes, others after
  let offset = byPvm ? memory.read(at, 2, 0) : 0;
  let selector = byPvm ? memory.read(at + 2, 2, 0) : 0;
  if (byPvm) {
    pushEvent(cpu, 2, flags & 0xffff);
    pushEvent(cpu, 2, cpu.segments[CS].selector);
    pushEvent(cpu, 2, back & 0xffff);
  } else {
    // Linux's emulator pushes by the operand size (arch/x86/kvm/emulate.c:__emulate_int_real, 6.1; live 6.18)
    pushFrame(cpu, cpu.options.emulated ? cpu.osize : 2, flags, back);
    offset = memory.read(at, 2, 0);
    selector = memory.read(at + 2, 2, 0);
    refuseDevice(cpu, source);
  }
  if (cpu.stopped) return;
  // pvm leaves RF for the first instruction of the handler to clear
  cpu.flags = flags & ~(IF | TF | AC | (byPvm ? 0 : RF));
  setRealCode(cpu, selector, offset);
}

/** The frame of real mode. */
function pushFrame(cpu: Cpu, width: number, flags: number, back: number): void {
  const mask = width === 2 ? 0xffff : 0xffff_ffff;
  cpu.push(width, (flags & mask) >>> 0);
  cpu.push(width, cpu.segments[CS].selector);
  cpu.push(width, (back & mask) >>> 0);
}

function enterGate(cpu: Cpu, vector: number, source: Source, errorCode: number, back: number): void {
  const { memory, state } = cpu;
  const long = longActive(cpu);
  const external = source === "software" ? 0 : 1;
  const size = long ? 16 : 8;
  if (cpu.options.emulated) return enterGateByPvm(cpu, vector, source, errorCode, back);
  const gateCode = 8 * vector + 2 + external;
  if (vector * size + size - 1 > state.idt.limit) return cpu.fault(GP, gateCode);
  const at = tableAt(cpu, state.idt.baseLo, state.idt.baseHi, vector * size);
  const lo = memory.read(at, 4, 0);
  const hi = memory.read(at + 4, 4, 0);
  const top = long ? memory.read(at + 8, 4, 0) : 0;
  if (cpu.stopped) return;
  const type = (hi >>> 8) & 0x1f;
  if (type === 5 && !long) return memory.unhandled();
  const wide = type === 14 || type === 15;
  if (!wide && (long || (type !== 6 && type !== 7))) return cpu.fault(GP, gateCode);
  if (source === "software" && dplOf(hi) < cpu.cpl) return cpu.fault(GP, gateCode);
  if (!isPresent(hi)) return cpu.fault(NP, gateCode);

  const selector = lo >>> 16;
  if ((selector & 0xfffc) === 0) return cpu.fault(GP, external);
  if (!readDescriptor(cpu, selector, GP, false, external)) return;
  const codeHi = descriptorHi;
  const error = (selector & 0xfffc) | external;
  if (isSystem(codeHi) || !isCode(codeHi) || dplOf(codeHi) > cpu.cpl) return cpu.fault(GP, error);
  if (long && (codeHi & 0x60_0000) !== 0x20_0000) return cpu.fault(GP, error);
  if (!isPresent(codeHi)) return cpu.fault(NP, error);
  const inner = !isConforming(codeHi) && dplOf(codeHi) < cpu.cpl;
  const newCpl = inner ? dplOf(codeHi) : cpu.cpl;
  const offset = wide ? ((hi & 0xffff_0000) | (lo & 0xffff)) >>> 0 : lo & 0xffff;
  const target = long ? (top | 0) * 2 ** 32 + offset : offset;
  const within = liesInCode(cpu, target);
  code.keep();

  const { flags } = cpu;
  const oldSelector = cpu.segments[SS].selector;
  const oldPointer = cpu.r64[RSP];
  const width = long ? 8 : wide ? 4 : 2;
  if (inner) Object.assign(oldStack, cpu.segments[SS]);
  if (long) enterLongStack(cpu, hi & 7, inner, newCpl, external);
  else if (inner) enterInnerStack(cpu, newCpl, external);
  const count = (long || inner ? 5 : 3) + (errorCode >= 0 ? 1 : 0);
  if (!long && !cpu.stopped) checkRoom(cpu, width * count, inner, external);
  if (!within) cpu.fault(GP, external);
  const { user } = cpu;
  cpu.user = newCpl === 3 ? 1 : 0;
  if (long || inner) {
    cpu.push(width, oldSelector);
    if (width === 8) cpu.push64(oldPointer);
    else cpu.push(width, Number(oldPointer & 0xffff_ffffn));
  }
  cpu.push(width, flags);
  cpu.push(width, cpu.segments[CS].selector);
  cpu.push(width, back);
  if (errorCode >= 0) cpu.push(width, errorCode);
  cpu.user = user;
  refuseDevice(cpu, source);
  code.take();
  if (!cpu.stopped) enterCode(cpu, selector, newCpl, target);
  if (cpu.stopped) {
    // RSP is put back by whoever asked
    if (inner) Object.assign(cpu.segments[SS], oldStack);
    return;
  }
  cpu.flags = flags & ~(TF | NT | RF | VM | ((type & 1) === 0 ? IF : 0));
}

/** Whether the frame of a handler fits: else #SS, with the selector of the stack where that is a new one. */
function checkRoom(cpu: Cpu, size: number, inner: boolean, external: number): void {
  const { memory } = cpu;
  const top = cpu.segments[SS].db !== 0 ? cpu.r32[2 * RSP] : cpu.r16[4 * RSP];
  // what wraps around is found when it is pushed
  if (top >= size) cpu.linear(SS, top - size, 0, size, WRITE);
  if (cpu.stopped) memory.errorCode = (inner ? cpu.segments[SS].selector & 0xfffc : 0) | external;
}

/**
 * The way of pvm to a handler (recorded; live 6.18). Every gate counts as a wide one, whatever its type, and the code
 * segment is taken as it is, whatever its type and level. A gate or a selector that is none is a double fault. The frame
 * comes first, the descriptor after it. From any other level than 0 it goes to the stack of the TSS for level 0, a TSS of
 * 32 or 64 bits whatever its type and limit, and takes that stack as it is, too.
 */
function enterGateByPvm(cpu: Cpu, vector: number, source: Source, errorCode: number, back: number): void {
  const { memory, state } = cpu;
  const long = longActive(cpu);
  const size = long ? 16 : 8;
  if (vector * size + size - 1 > state.idt.limit) return cpu.fault(DF_FAULT, 0);
  const at = tableAt(cpu, state.idt.baseLo, state.idt.baseHi, vector * size);
  const lo = memory.read(at, 4, 0);
  const hi = memory.read(at + 4, 4, 0);
  const top = long ? memory.read(at + 8, 4, 0) : 0;
  if (cpu.stopped) return;
  const selector = lo >>> 16;
  if (!isPresent(hi)) {
    // only what a device raises finds that out; vector 8 is the double fault's, whoever raises it (recorded)
    if (vector === DF_FAULT) return memory.shutDown();
    return source === "external" ? cpu.fault(NP, 8 * vector + 2) : cpu.fault(DF_FAULT, 0);
  }
  const target = ((hi & 0xffff_0000) | (lo & 0xffff)) >>> 0;
  const width = long ? 8 : 4;
  const { flags, user } = cpu;
  const inner = cpu.cpl !== 0;
  const oldSelector = cpu.segments[SS].selector;
  const oldPointer = cpu.r64[RSP];
  if (inner) Object.assign(oldStack, cpu.segments[SS]);
  if (long) enterLongStack(cpu, hi & 7, inner, 0, 0);
  else if (inner) enterStackByPvm(cpu);
  cpu.user = 0;
  if (long || inner) {
    pushEvent(cpu, width, oldSelector);
    if (!long) pushEvent(cpu, 4, Number(oldPointer & 0xffff_ffffn));
    else if (!cpu.stopped) {
      cpu.push64(oldPointer);
      if (cpu.stopped) memory.stop = SHUTDOWN;
    }
  }
  pushEvent(cpu, width, flags);
  pushEvent(cpu, width, cpu.segments[CS].selector);
  pushEvent(cpu, width, long ? back : back >>> 0);
  if (errorCode >= 0) pushEvent(cpu, width, errorCode);
  cpu.user = user;
  if (!cpu.stopped) enterCodeByPvm(cpu, selector, (top | 0) * 2 ** 32, target);
  if (cpu.stopped) {
    if (inner) Object.assign(cpu.segments[SS], oldStack);
    return;
  }
  // it clears AC, too
  cpu.flags = flags & ~(TF | NT | RF | VM | AC | ((hi & 0x100) === 0 ? IF : 0));
}

function enterCodeByPvm(cpu: Cpu, selector: number, above: number, target: number): void {
  if (!isInTable(cpu, selector)) return cpu.fault(DF_FAULT, 0);
  if (!readDescriptor(cpu, selector, GP)) return;
  fill(cpu.segments[CS], selector, descriptorLo, descriptorHi);
  // code that is not there is entered all the same, and cannot be fetched but in 64-bit mode (live 6.18)
  cpu.segments[CS].unusable = isPresent(descriptorHi) ? 0 : 1;
  cpu.long = longActive(cpu) && (descriptorHi & 0x20_0000) !== 0;
  cpu.rip = cpu.long ? above + target : target;
}

/** Whether a selector names a descriptor of the GDT. */
const isInTable = (cpu: Cpu, selector: number): boolean =>
  (selector & 0xfffc) !== 0 && (selector & 4) === 0 && (selector | 7) <= cpu.state.gdt.limit;

/** SS and ESP for level 0 from a TSS of 32 bits. */
function enterStackByPvm(cpu: Cpu): void {
  const { memory } = cpu;
  const at = (cpu.segments[TR].baseLo + 4) >>> 0;
  const pointer = memory.read(at, 4, 0);
  const selector = memory.read(at + 4, 2, 0);
  if (cpu.stopped) return;
  if (!isInTable(cpu, selector)) return cpu.fault(DF_FAULT, 0);
  if (!readDescriptor(cpu, selector, GP)) return;
  fill(cpu.segments[SS], selector, descriptorLo, descriptorHi);
  cpu.r64[RSP] = BigInt(pointer);
}

/** 64-bit mode: the stack of IST, of an inner level, or the present one, aligned to 16. */
function enterLongStack(cpu: Cpu, ist: number, inner: boolean, newCpl: number, external: number): void {
  const { memory } = cpu;
  const { emulated } = cpu.options;
  let pointer = cpu.r64[RSP];
  if (ist !== 0 || inner) {
    const tss = cpu.segments[TR];
    const offset = ist !== 0 ? 28 + 8 * ist : 4 + 8 * newCpl;
    if (offset + 7 > tss.limit && !emulated) return cpu.fault(TS, (tss.selector & 0xfffc) | external);
    pointer = memory.read64(tableAt(cpu, tss.baseLo, tss.baseHi, offset), 0);
    if (cpu.stopped) return;
  }
  const top = Number(BigInt.asIntN(64, pointer) >> 32n);
  if ((top << 16) >> 16 !== top) return emulated ? cpu.fault(DF_FAULT, 0) : cpu.fault(SS_FAULT, external);
  if (inner) {
    nullStack(cpu, newCpl, newCpl);
    // pvm shows it usable (live 6.18)
    if (emulated) cpu.segments[SS].unusable = 0;
  }
  cpu.long = true;
  cpu.r64[RSP] = pointer & ~15n;
}

/** Protected mode: SS and ESP of an inner level, from the TSS. */
function enterInnerStack(cpu: Cpu, newCpl: number, external: number): void {
  const { memory } = cpu;
  const tss = cpu.segments[TR];
  const wide = (tss.type & 8) !== 0;
  const offset = wide ? 4 + 8 * newCpl : 2 + 4 * newCpl;
  if (offset + (wide ? 5 : 3) > tss.limit) return cpu.fault(TS, (tss.selector & 0xfffc) | external);
  const at = (tss.baseLo + offset) >>> 0;
  const pointer = memory.read(at, wide ? 4 : 2, 0);
  const selector = memory.read(at + (wide ? 4 : 2), 2, 0);
  if (cpu.stopped) return;
  const error = (selector & 0xfffc) | external;
  if ((selector & 0xfffc) === 0) return cpu.fault(TS, external);
  if (!readDescriptor(cpu, selector, TS, false, external)) return;
  const hi = descriptorHi;
  if (
    isSystem(hi) ||
    isCode(hi) ||
    (typeOf(hi) & 2) === 0 ||
    (selector & 3) !== newCpl ||
    dplOf(hi) !== newCpl
  )
    return cpu.fault(TS, error);
  if (!isPresent(hi)) return cpu.fault(SS_FAULT, error);
  markDescriptor(cpu, 1);
  if (cpu.stopped) return;
  fill(cpu.segments[SS], selector, descriptorLo, descriptorHi);
  cpu.r64[RSP] = BigInt(pointer);
}

/** IRET. NMIs are let in again. */
export function interruptReturn(cpu: Cpu): void {
  if (!cpu.protectedMode) return returnReal(cpu);
  if (cpu.options.emulated) return returnByPvm(cpu);
  const size = cpu.osize;
  if ((cpu.flags & NT) !== 0) {
    if (longActive(cpu)) cpu.fault(GP, 0);
    else cpu.memory.unhandled();
    return;
  }
  const target = size === 8 ? canonical(cpu.peek64()) : cpu.peek(size);
  const selector = size === 8 ? Number(cpu.peek64(8) & 0xffffn) : cpu.peek(size, size) & 0xffff;
  const flags = size === 8 ? Number(cpu.peek64(16) & 0xffff_ffffn) : cpu.peek(size, 2 * size);
  if (cpu.stopped) return;
  if (size >= 4 && (flags & VM) !== 0 && cpu.cpl === 0 && !longActive(cpu)) return cpu.memory.unhandled();
  if (!checkReturn(cpu, selector)) return;
  const rpl = selector & 3;
  const mask = writableFlags(cpu) & (size === 2 ? 0xffff : 0xffff_ffff);
  if (rpl !== cpu.cpl || cpu.long) {
    const pointer = size === 8 ? cpu.peek64(24) : BigInt(cpu.peek(size, 3 * size));
    const selectorOfStack = size === 8 ? Number(cpu.peek64(32) & 0xffffn) : cpu.peek(size, 4 * size) & 0xffff;
    if (cpu.stopped) return;
    returnWithStack(cpu, selector, target, selectorOfStack, pointer);
  } else {
    goTo(cpu, selector, rpl, target);
    if (!cpu.stopped) cpu.moveStack(3 * size);
  }
  cpu.flags = (cpu.flags & ~mask) | (flags & mask) | FLAG_FIXED;
  if (!cpu.stopped) cpu.state.nmiMasked = false;
}

/**
 * IRET of long mode, which pvm does in the emulator's place: IRETQ alone, for others it is #GP (live 6.18). It asks for the
 * level of both segments and for their presence, not for their types, takes the instruction pointer as it is, and leaves the
 * data segments. Outside of long mode there is none.
 */
function returnByPvm(cpu: Cpu): void {
  if (!longActive(cpu)) return cpu.stopped ? undefined : cpu.memory.unhandled();
  if (!cpu.help()) return;
  if ((cpu.flags & NT) !== 0) return cpu.fault(GP, 0);
  if (cpu.osize !== 8) {
    // the processor finds that out, once it has looked at the frame
    for (let i = 0; cpu.direct && i < 5; i++) cpu.peek(cpu.osize, i * cpu.osize);
    return cpu.fault(GP, 0);
  }
  // the whole frame at once, from memory, or the instruction stays refused
  cpu.memory.refuses = UNHANDLED;
  const target = canonical(cpu.peek64());
  const selector = Number(cpu.peek64(8) & 0xffffn);
  const given = Number(cpu.peek64(16) & 0xffff_ffffn);
  const pointer = cpu.peek64(24);
  const selectorOfStack = Number(cpu.peek64(32) & 0xffffn);
  cpu.memory.refuses = RUNNING;
  if (cpu.stopped) return;
  const rpl = selector & 3;
  const error = selector & 0xfffc;
  const isNull = (selectorOfStack & 0xfffc) === 0;
  if (!isInTable(cpu, selector) || rpl < cpu.cpl) return cpu.fault(GP, error);
  if (selectorOfStack === 3) return cpu.fault(GP, 0);
  if (!readDescriptor(cpu, selector, GP)) return;
  if (!isPresent(descriptorHi)) return cpu.fault(NP, error);
  if (dplOf(descriptorHi) !== rpl) return cpu.fault(GP, error);
  code.keep();
  if (!isNull && !isInTable(cpu, selectorOfStack)) return cpu.fault(GP, selectorOfStack & 0xfffc);
  if (!checkReturnStack(cpu, selectorOfStack, rpl)) return;
  if (isNull) nullStack(cpu, selectorOfStack, rpl);
  else fill(cpu.segments[SS], selectorOfStack, descriptorLo, descriptorHi);
  const { cpl, flags } = cpu;
  fill(cpu.segments[CS], selector, code.lo, code.hi);
  cpu.long = (code.hi & 0x20_0000) !== 0;
  cpu.rip = target;
  cpu.r64[RSP] = pointer;
  cpu.flags = flagsByPvm(given, cpl === 0 ? given : flags);
  cpu.state.nmiMasked = false;
}

/** The flags that pvm takes from a frame or from R11: all but these, and IF where it may be. */
export const flagsByPvm = (given: number, interrupts: number): number =>
  ((given & ~(IOPL | VM | IF)) | (interrupts & IF) | FLAG_FIXED) >>> 0;

function returnReal(cpu: Cpu): void {
  const size = cpu.osize;
  cpu.popsMany();
  const target = cpu.pop(size);
  // Linux's emulator looks at it before it takes the next value (arch/x86/kvm/emulate.c:emulate_iret_real, 6.1)
  if (cpu.options.emulated && target > 0xffff) return cpu.fault(GP, 0);
  const selector = cpu.pop(size) & 0xffff;
  const flags = cpu.pop(size);
  if (cpu.stopped) return;
  setRealCode(cpu, selector, target);
  const mask = size === 2 ? POPF_FLAGS & 0xffff : POPF_FLAGS;
  cpu.flags = (cpu.flags & ~mask) | (flags & mask) | FLAG_FIXED;
  cpu.state.nmiMasked = false;
}
