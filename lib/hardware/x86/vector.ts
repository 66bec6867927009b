/**
 * The little of the FPU and the vector registers that firmware and memory copies need: FNSTCW, FNSTSW, FNINIT, FLDCW, and
 * FXSAVE, FXRSTOR, moves of MMX and XMM registers to and from memory (those that arch/x86/kvm/emulate.c knows, 6.1); MOVSS and
 * MOVSD where a processor runs the guest. The registers are the bytes of an FXSAVE area: FCW u16 @0, FSW u16 @2, FTW u8 @4, MXCSR u32 @24, ST0… @32, XMM0… @160; which components
 * are in use stands at 512. A component that is not in use is in its initial state, whatever its bytes say.
 */
import { load16, store16, store32 } from "../../abi/struct.ts";
import type { Cpu } from "./cpu.ts";
import { GP, NM, NO_CODE, READ, UD, UNHANDLED, WRITE } from "./memory.ts";
import { CR0, CR0_EM, CR0_TS, CR4, CR4_OSFXSR } from "./state.ts";

const FCW = 0;
const FSW = 2;
const FTW = 4;
const ST = 32;
const XMM = 160;
const IN_USE = 512;
const RESET_FCW = 0x37f;
const X87 = 1;
const SSE = 2;
const YMM = 4;
const MXCSR = 24;
const RESET_MXCSR = 0x1f80;

/** Makes a component used: the first use finds it in its initial state. */
function use(area: Uint8Array, component: number): void {
  const used = area[IN_USE];
  area[IN_USE] |= component;
  if ((used & component) !== 0) return;
  if (component === X87) {
    area.fill(0, 0, MXCSR).fill(0, ST, XMM);
    store16(area, FCW, RESET_FCW);
  } else {
    area.fill(0, XMM, XMM + 256);
    if ((used & YMM) === 0) store32(area, MXCSR, RESET_MXCSR);
  }
}

/** D9, DB, DD */
export function floatingPoint(cpu: Cpu, opcode: number): void {
  cpu.fetchModrm();
  const { modrm } = cpu;
  const operation = (modrm >> 3) & 7;
  const stores = cpu.mod !== 3 && operation === 7 && opcode !== 0xdb;
  const initialises = opcode === 0xdb && modrm === 0xe3;
  if (!stores && !initialises) return cpu.memory.unhandled();
  cpu.endFetch();
  if ((cpu.state.c32[2 * CR0] & (CR0_TS | CR0_EM)) !== 0) return cpu.fault(NM, NO_CODE);
  if (cpu.stopped) return;
  const area = cpu.bus.fpuArea();
  if (initialises) {
    use(area, X87);
    store16(area, FCW, RESET_FCW);
    store16(area, FSW, 0);
    area[FTW] = 0;
    return;
  }
  const initial = (area[IN_USE] & X87) === 0;
  if (opcode === 0xd9) cpu.setRm(2, initial ? RESET_FCW : load16(area, FCW));
  else cpu.setRm(2, initial ? 0 : load16(area, FSW));
}

/** Whether SSE instructions may be used; raises #UD or #NM. */
function usable(cpu: Cpu): boolean {
  const { c32 } = cpu.state;
  if ((c32[2 * CR0] & CR0_EM) !== 0 || (c32[2 * CR4] & CR4_OSFXSR) === 0) cpu.fault(UD, NO_CODE);
  else if ((c32[2 * CR0] & CR0_TS) !== 0) cpu.fault(NM, NO_CODE);
  return !cpu.stopped;
}

/** 0F 10, 11, 28, 29, 2B, 6F, 7F, E7: whole registers to and from memory. */
export function moveVector(cpu: Cpu, opcode: number): void {
  cpu.fetchModrm();
  const doubled = cpu.operandPrefix;
  const repeated = cpu.repeat === 0xf3;
  let aligned = opcode === 0x28 || opcode === 0x29 || opcode === 0x2b || opcode === 0xe7;
  if ((opcode === 0x6f || opcode === 0x7f) && !doubled && cpu.repeat === 0)
    return moveMmx(cpu, opcode === 0x6f);
  const known =
    opcode === 0x6f || opcode === 0x7f
      ? doubled !== repeated && cpu.repeat !== 0xf2
      : cpu.repeat === 0 && (opcode !== 0xe7 || doubled);
  if (opcode <= 0x11 && cpu.repeat !== 0 && !cpu.options.emulated) return moveScalar(cpu, opcode === 0x10);
  // MOVAPS and MOVAPD have no others
  const none = (opcode === 0x28 || opcode === 0x29) && cpu.repeat !== 0;
  if (none && !cpu.options.emulated) return cpu.undefinedOpcode();
  if (!known) return cpu.memory.unhandled();
  if ((opcode === 0x2b || opcode === 0xe7) && cpu.mod === 3)
    return opcode === 0x2b ? cpu.memory.unhandled() : cpu.undefinedOpcode();
  if (opcode === 0x6f || opcode === 0x7f) aligned = doubled;
  cpu.endFetch();
  if (!usable(cpu)) return;
  const toRegister = opcode === 0x10 || opcode === 0x28 || opcode === 0x6f;
  const area = cpu.bus.fpuArea();
  const register = XMM + 16 * cpu.reg;
  if (cpu.mod === 3 || !toRegister) use(area, SSE);
  if (cpu.mod === 3) {
    const other = XMM + 16 * cpu.rm;
    if (toRegister) area.copyWithin(register, other, other + 16);
    else area.copyWithin(other, register, register + 16);
    return;
  }
  const address = cpu.linear(cpu.eaSegment, cpu.eaLo, cpu.eaHi, 16, toRegister ? READ : WRITE);
  if (aligned && (address & 15) !== 0) return cpu.fault(GP, 0);
  if (cpu.stopped) return;
  const { memory } = cpu;
  if (!toRegister) return memory.writeBytes(address, area, register, 16, cpu.user);
  if (!memory.readBytes(address, 16, cpu.user)) return;
  use(area, SSE);
  area.set(memory.data, register);
  if (cpu.options.emulated) memory.keepBytes(16);
}

/** F3 and F2 0F 10, 11: MOVSS and MOVSD, which Linux's emulator does not know. A value from memory clears what is above it. */
function moveScalar(cpu: Cpu, toRegister: boolean): void {
  const width = cpu.repeat === 0xf3 ? 4 : 8;
  cpu.endFetch();
  if (!usable(cpu)) return;
  const area = cpu.bus.fpuArea();
  const register = XMM + 16 * cpu.reg;
  if (cpu.mod === 3) {
    use(area, SSE);
    const other = XMM + 16 * cpu.rm;
    const from = toRegister ? other : register;
    area.copyWithin(toRegister ? register : other, from, from + width);
    return;
  }
  const address = cpu.linear(cpu.eaSegment, cpu.eaLo, cpu.eaHi, width, toRegister ? READ : WRITE);
  if (cpu.stopped) return;
  const { memory } = cpu;
  // what no memory answers KVM would have to emulate
  memory.refuses = UNHANDLED;
  if (!toRegister) {
    use(area, SSE);
    return memory.writeBytes(address, area, register, width, cpu.user);
  }
  if (!memory.readBytes(address, width, cpu.user)) return;
  use(area, SSE);
  area.fill(0, register, register + 16).set(memory.data.subarray(0, width), register);
}

/** 0F 6F, 7F without a prefix: an MMX register, which is the low half of an x87 register. */
function moveMmx(cpu: Cpu, toRegister: boolean): void {
  cpu.endFetch();
  const { c32 } = cpu.state;
  if ((c32[2 * CR0] & CR0_EM) !== 0) return cpu.undefinedOpcode();
  if ((c32[2 * CR0] & CR0_TS) !== 0) return cpu.fault(NM, NO_CODE);
  if (cpu.stopped) return;
  const area = cpu.bus.fpuArea();
  const register = ST + 16 * (cpu.reg & 7);
  const { memory } = cpu;
  let changed = register;
  // Linux's emulator takes the register before it knows whether it can be stored
  if (cpu.mod === 3 || (cpu.emulated && !toRegister)) useMmx(area);
  if (cpu.mod === 3) {
    const other = ST + 16 * (cpu.rm & 7);
    changed = toRegister ? register : other;
    area.copyWithin(changed, toRegister ? other : register, (toRegister ? other : register) + 8);
  } else {
    const access = toRegister ? READ : WRITE;
    const address = cpu.linear(cpu.eaSegment, cpu.eaLo, cpu.eaHi, 8, access);
    if (cpu.stopped) return;
    if (!toRegister) {
      const initial = (area[IN_USE] & X87) === 0;
      memory.writeBytes(address, initial ? zeros : area, initial ? 0 : register, 8, cpu.user);
      if (!cpu.stopped) useMmx(area);
      return;
    }
    if (!memory.readBytes(address, 8, cpu.user)) return;
    if (cpu.emulated) memory.keepBytes(8);
    useMmx(area);
    area.set(memory.data.subarray(0, 8), register);
  }
  // exponent and sign of what MMX writes are ones
  area[changed + 8] = area[changed + 9] = 0xff;
}

const zeros = new Uint8Array(8);

/** An MMX instruction makes every register of the FPU used. */
function useMmx(area: Uint8Array): void {
  use(area, X87);
  area[FTW] = 0xff;
}

const SAVED = 416;
const SAVED_WITHOUT_LONG = 288;
const FXSR = 1 << 24;
const leaf = new Uint32Array(4);
const saved = new Uint8Array(IN_USE + 1);

/** FXSAVE and FXRSTOR, for processors whose CPUID has them: 512 bytes, of which the last 96 are not touched. */
export function saveState(cpu: Cpu, restores: boolean): void {
  cpu.bus.cpuid(1, 0, leaf);
  if ((leaf[3] & FXSR) === 0) return cpu.undefinedOpcode();
  if ((cpu.state.c32[2 * CR0] & (CR0_TS | CR0_EM)) !== 0) return cpu.fault(NM, NO_CODE);
  const size = cpu.long ? SAVED : SAVED_WITHOUT_LONG;
  const access = restores ? READ : WRITE;
  const address = cpu.linear(cpu.eaSegment, cpu.eaLo, cpu.eaHi, 512, access);
  if ((address & 15) !== 0) return cpu.fault(GP, 0);
  const { memory } = cpu;
  const area = cpu.bus.fpuArea();
  cpu.needsMemory();
  if (restores) {
    for (let at = 0; at < size; at += 16) {
      if (!memory.readBytes(address + at, 16, cpu.user)) return;
      saved.set(memory.data.subarray(0, 16), at);
    }
    if (load16(saved, MXCSR + 2) !== 0) return cpu.fault(GP, 0);
    use(area, X87);
    use(area, SSE);
    area.set(saved.subarray(0, MXCSR + 4));
    area.set(saved.subarray(ST, size), ST);
    return;
  }
  saved.set(area.subarray(0, SAVED));
  saved[IN_USE] = area[IN_USE];
  use(saved, X87);
  use(saved, SSE);
  for (let at = 0; at < size && !cpu.stopped; at += 16)
    memory.writeBytes(address + at, saved, at, 16, cpu.user);
}
