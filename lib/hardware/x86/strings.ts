/**
 * String instructions and ports. A repeated instruction does many rounds in one step, as long as nothing stops it and
 * nothing waits for user space; RCX, RSI and RDI are up to date after each round, so it can be left and taken up at
 * any of them.
 */
import { CMP } from "./alu.ts";
import { type Cpu, REPNE } from "./cpu.ts";
import { EXIT_PORT_IN, EXIT_PORT_OUT, GP, READ, RUNNING, WRITE } from "./memory.ts";
import { DF, DS, ES, RAX, RCX, RDI, RDX, RSI, TR, ZF } from "./state.ts";

/** After so many rounds, counted in RCX, a step ends, unless a port has given values that are not stored yet (arch/x86/kvm/emulate.c:x86_emulate_insn, 6.1). */
const ROUNDS = 1024;

/** Whether the counter of a repeated instruction is 0. */
function counted(cpu: Cpu): boolean {
  if (cpu.asize === 8) return cpu.r64[RCX] === 0n;
  return cpu.asize === 4 ? cpu.r32[2 * RCX] === 0 : cpu.r16[4 * RCX] === 0;
}

/** Whether everything that a port gave has been taken. */
const portDone = (cpu: Cpu): boolean => cpu.portEnd !== 0 && cpu.portAt >= cpu.portEnd;

/** Repeats a round; `comparing`: ZF ends it too (CMPS, SCAS). That the counter is 0 is seen before a round. */
function repeat(
  cpu: Cpu,
  comparing: boolean,
  round: (cpu: Cpu, width: number, step: number) => void,
  width: number,
): void {
  const step = (cpu.flags & DF) !== 0 ? -width : width;
  if (cpu.repeat === 0) return round(cpu, width, step);
  const { memory } = cpu;
  if (counted(cpu)) return;
  do {
    round(cpu, width, step);
    if (memory.stop !== RUNNING) return;
    cpu.advance(RCX, -1);
    cpu.endRound();
    if (comparing && ((cpu.flags & ZF) !== 0) === (cpu.repeat === REPNE)) return;
    if (cpu.roundsTrapped && round !== inRound && round !== outRound) {
      cpu.again = !counted(cpu);
      return;
    }
  } while (
    (cpu.portEnd !== 0 || cpu.r32[2 * RCX] % ROUNDS !== 0) &&
    memory.postedCount === 0 &&
    !portDone(cpu)
  );
  cpu.again = true;
}

const source = (cpu: Cpu): number => (cpu.segmentOverride >= 0 ? cpu.segmentOverride : DS);

function moveRound(cpu: Cpu, width: number, step: number): void {
  cpu.addressRegister(RSI);
  if (width === 8) {
    const value = cpu.readAt64(source(cpu), cpu.eaLo, cpu.eaHi);
    cpu.addressRegister(RDI);
    cpu.writeAt64(ES, cpu.eaLo, cpu.eaHi, value);
  } else {
    const value = cpu.readAt(source(cpu), cpu.eaLo, cpu.eaHi, width);
    cpu.addressRegister(RDI);
    cpu.writeAt(ES, cpu.eaLo, cpu.eaHi, width, value);
  }
  cpu.advance(RSI, step);
  cpu.advance(RDI, step);
}

function compareRound(cpu: Cpu, width: number, step: number): void {
  cpu.addressRegister(RSI);
  if (width === 8) {
    const first = cpu.readAt64(source(cpu), cpu.eaLo, cpu.eaHi);
    cpu.addressRegister(RDI);
    const second = cpu.readAt64(ES, cpu.eaLo, cpu.eaHi);
    if (!cpu.stopped) cpu.alu.operate64(CMP, first, second);
  } else {
    const first = cpu.readAt(source(cpu), cpu.eaLo, cpu.eaHi, width);
    cpu.addressRegister(RDI);
    const second = cpu.readAt(ES, cpu.eaLo, cpu.eaHi, width);
    if (!cpu.stopped) cpu.alu.operate(CMP, width, first, second);
  }
  cpu.advance(RSI, step);
  cpu.advance(RDI, step);
}

function storeRound(cpu: Cpu, width: number, step: number): void {
  cpu.addressRegister(RDI);
  if (width === 8) cpu.writeAt64(ES, cpu.eaLo, cpu.eaHi, cpu.r64[RAX]);
  else cpu.writeAt(ES, cpu.eaLo, cpu.eaHi, width, cpu.getRegister(width, RAX));
  cpu.advance(RDI, step);
}

function loadRound(cpu: Cpu, width: number, step: number): void {
  cpu.addressRegister(RSI);
  if (width === 8) cpu.setRegister64(RAX, cpu.readAt64(source(cpu), cpu.eaLo, cpu.eaHi));
  else cpu.setRegister(width, RAX, cpu.readAt(source(cpu), cpu.eaLo, cpu.eaHi, width));
  cpu.advance(RSI, step);
}

function scanRound(cpu: Cpu, width: number, step: number): void {
  cpu.addressRegister(RDI);
  if (width === 8) {
    const value = cpu.readAt64(ES, cpu.eaLo, cpu.eaHi);
    if (!cpu.stopped) cpu.alu.operate64(CMP, cpu.r64[RAX], value);
  } else {
    const value = cpu.readAt(ES, cpu.eaLo, cpu.eaHi, width);
    if (!cpu.stopped) cpu.alu.operate(CMP, width, cpu.getRegister(width, RAX), value);
  }
  cpu.advance(RDI, step);
}

export const movs = (cpu: Cpu, width: number): void => repeat(cpu, false, moveRound, width);
export const cmps = (cpu: Cpu, width: number): void => repeat(cpu, true, compareRound, width);
export const stos = (cpu: Cpu, width: number): void => repeat(cpu, false, storeRound, width);
export const lods = (cpu: Cpu, width: number): void => repeat(cpu, false, loadRound, width);
export const scas = (cpu: Cpu, width: number): void => repeat(cpu, true, scanRound, width);

// ---- ports ---------------------------------------------------------------------------------------------------------

/** Whether this privilege may use a port: by IOPL, else by the bitmap of the TSS. Raises #GP. */
function portAllowed(cpu: Cpu, port: number, width: number): boolean {
  if (!cpu.protectedMode || cpu.cpl <= ((cpu.flags >> 12) & 3)) return true;
  const { memory } = cpu;
  const tss = cpu.segments[TR];
  const base = (tss.baseHi | 0) * 2 ** 32 + tss.baseLo;
  if (tss.unusable === 0 && tss.limit >= 103) {
    const bitmap = memory.read(base + 102, 2, 0);
    const at = bitmap + (port >> 3);
    if (at + 1 <= tss.limit) {
      const bits = memory.read(base + at, 2, 0) >>> (port & 7);
      if (cpu.stopped) return false;
      if ((bits & ((1 << width) - 1)) === 0) return true;
    }
  }
  cpu.fault(GP, 0);
  return false;
}

/**
 * One value from a port: what user space has answered, a device in the kernel, or an exit for `count` values. The
 * value is taken once `portAt` moves.
 */
function readPort(cpu: Cpu, port: number, width: number, count: number): number {
  const { memory, portBuffer } = cpu;
  if (cpu.portAt >= cpu.portEnd) {
    cpu.portAt = cpu.portEnd = 0;
    if (!cpu.bus.readPort(port, width, portBuffer, 0)) {
      memory.wait(EXIT_PORT_IN, port, width, count);
      return 0;
    }
    cpu.portEnd = width;
    for (let i = 1; i < count; i++) {
      if (!cpu.bus.readPort(port, width, portBuffer, i * width))
        portBuffer.fill(0, i * width, (i + 1) * width);
      cpu.portEnd += width;
    }
  }
  let value = 0;
  for (let i = width - 1; i >= 0; i--) value = value * 256 + portBuffer[cpu.portAt + i];
  return value;
}

/** `restarts`: the instruction is done again after an exit. */
function writePort(cpu: Cpu, port: number, width: number, value: number, restarts: boolean): void {
  const { memory } = cpu;
  if (cpu.stopped || memory.takeAnswer() >= 0) return;
  const { data } = memory;
  for (let i = 0; i < 4; i++) data[i] = value >>> (8 * i);
  if (cpu.bus.writePort(port, width, data, 0)) return;
  if (restarts) memory.wait(EXIT_PORT_OUT, port, width);
  else memory.post(port, width, 0, true);
}

export function portIn(cpu: Cpu, port: number, width: number): void {
  if (cpu.stopped || !portAllowed(cpu, port, width)) return;
  // KVM's emulator reads ahead for a prefix that means nothing here, and forgets all but the first
  const value = readPort(cpu, port, width, cpu.options.emulated ? ahead(cpu, width, 1) : 1);
  if (cpu.stopped) return;
  cpu.portAt = cpu.portEnd = 0;
  cpu.setRegister(width, RAX, value);
}

export function portOut(cpu: Cpu, port: number, width: number): void {
  if (cpu.stopped || !portAllowed(cpu, port, width)) return;
  writePort(cpu, port, width, cpu.getRegister(width, RAX), cpu.options.portRestarts);
}

/**
 * How many values one exit asks for: as many as the rest of the page has bytes, as the buffer holds, as the count says
 * (arch/x86/kvm/emulate.c:pio_in_emulated, 6.1).
 */
function ahead(cpu: Cpu, width: number, step: number): number {
  if (cpu.repeat === 0) return 1;
  const offset = cpu.r32[2 * RDI] & 4095;
  const inPage = step < 0 || (cpu.flags & DF) !== 0 ? offset : 4096 - offset;
  // the emulator keeps it in 32 bits, of a 64-bit counter too
  const left = cpu.asize === 2 ? cpu.r16[4 * RCX] : cpu.r32[2 * RCX];
  return Math.max(1, Math.min(inPage, Math.floor(cpu.portBuffer.length / width), left));
}

/** Everything that the port gave at once is stored at once, upwards; downwards one value after the other. */
function inRound(cpu: Cpu, width: number, step: number): void {
  readPort(cpu, cpu.r16[4 * RDX], width, ahead(cpu, width, step));
  if (cpu.stopped) return;
  const size = cpu.repeat !== 0 && step > 0 ? cpu.portEnd - cpu.portAt : width;
  cpu.addressRegister(RDI);
  const address = cpu.linear(ES, cpu.eaLo, cpu.eaHi, size, WRITE);
  cpu.memory.writeBlock(address, cpu.portBuffer, cpu.portAt, size, cpu.user);
  if (cpu.stopped) return;
  cpu.portAt += size;
  cpu.advance(RDI, step > 0 ? size : step);
  // the last value is counted by whoever repeats
  if (size > width) cpu.advance(RCX, 1 - size / width);
}

function outRound(cpu: Cpu, width: number, step: number): void {
  cpu.addressRegister(RSI);
  const address = cpu.linear(source(cpu), cpu.eaLo, cpu.eaHi, width, READ);
  const value = cpu.stopped ? 0 : cpu.memory.read(address, width, cpu.user);
  // a string is always the emulator's: it is over before the exit (arch/x86/kvm/svm/svm.c:io_interception, 6.1)
  writePort(cpu, cpu.r16[4 * RDX], width, value, false);
  cpu.advance(RSI, step);
}

export function ins(cpu: Cpu, width: number): void {
  if (!cpu.stopped && portAllowed(cpu, cpu.r16[4 * RDX], width)) repeat(cpu, false, inRound, width);
}

export function outs(cpu: Cpu, width: number): void {
  if (!cpu.stopped && portAllowed(cpu, cpu.r16[4 * RDX], width)) repeat(cpu, false, outRound, width);
}
