/**
 * The instructions of two bytes, 0F first (Intel SDM volume 2, appendix A, table A-3). Missing: LAR, LSL, VERR, VERW, RDRAND,
 * RDSEED, and of the vector registers everything but moves.
 */
import { maskOf, signed } from "./alu.ts";
import { type Cpu, REP } from "./cpu.ts";
import { condition, loadFarPointer, popSegment, pushSegment, storeSelector } from "./execute.ts";
import { GP } from "./memory.ts";
import { CF, CR4, CR4_FSGSBASE, FS, GS, LDTR, RAX, RBX, RCX, RDX, SS, TR, ZF } from "./state.ts";
import {
  clearTaskSwitched,
  cpuid,
  flushCaches,
  groupSeven,
  hint,
  moveControl,
  moveDebug,
  readCounter,
  readMsr,
  systemCall,
  systemEnter,
  systemExit,
  systemReturn,
  timeStamp,
  writeMsr,
} from "./system.ts";
import { loadSystemSegment } from "./transfer.ts";
import { moveVector, saveState } from "./vector.ts";

/** Runs an instruction whose second byte is `opcode`. */
export function executeTwoByte(cpu: Cpu, opcode: number): void {
  cpu.opcode = 0x100 | opcode;
  if (opcode >= 0x80 && opcode < 0x90) {
    cpu.nearBranch();
    const displacement = cpu.fetchImmediate(cpu.osize === 2 ? 2 : 4);
    cpu.endFetch();
    if (condition(cpu.flags, opcode & 15)) cpu.jumpNear(cpu.rip + displacement);
    return;
  }
  if (opcode >= 0x90 && opcode < 0xa0) {
    cpu.fetchModrm();
    cpu.endFetch();
    return cpu.setRm(1, condition(cpu.flags, opcode & 15) ? 1 : 0);
  }
  if (opcode >= 0x40 && opcode < 0x50) return conditionalMove(cpu, opcode & 15);
  if (opcode >= 0xc8 && opcode < 0xd0) return swapBytes(cpu, (opcode & 7) | ((cpu.rex & 1) << 3));
  const width = (opcode & 1) === 0 ? 1 : cpu.osize;
  switch (opcode) {
    case 0x00:
      return groupSix(cpu);
    case 0x01:
      return groupSeven(cpu);
    case 0x05:
      return systemCall(cpu);
    case 0x06:
      return clearTaskSwitched(cpu);
    case 0x07:
      return systemReturn(cpu);
    case 0x08:
    case 0x09:
      return flushCaches(cpu);
    case 0x0b:
      return cpu.invalid();
    case 0xb9:
    case 0xff:
      return cpu.notThere();
    case 0xaa:
      // RSM outside of system management mode
      cpu.endFetch();
      return cpu.undefinedOpcode();
    case 0x19:
    case 0x1c:
    case 0x1d:
      return cpu.emulated ? hintOfPvm(cpu) : hint(cpu);
    case 0x1e:
      hint(cpu);
      return cpu.emulated ? cpu.unknown() : undefined;
    case 0x0d:
    case 0x18:
    case 0x1f:
      return hint(cpu);
    case 0x10:
    case 0x11:
    case 0x28:
    case 0x29:
    case 0x2b:
    case 0x6f:
    case 0x7f:
    case 0xe7:
      return moveVector(cpu, opcode);
    case 0x20:
    case 0x22:
      return moveControl(cpu, opcode === 0x22);
    case 0x21:
    case 0x23:
      return moveDebug(cpu, opcode === 0x23);
    case 0x38:
      return moveSwapped(cpu);
    case 0x30:
      return writeMsr(cpu);
    case 0x31:
      return timeStamp(cpu);
    case 0x32:
      return readMsr(cpu);
    case 0x33:
      return readCounter(cpu);
    case 0x34:
      return systemEnter(cpu);
    case 0x35:
      return systemExit(cpu);
    case 0xa0:
    case 0xa8:
      return pushSegment(cpu, opcode === 0xa0 ? FS : GS);
    case 0xa1:
    case 0xa9:
      return popSegment(cpu, opcode === 0xa1 ? FS : GS);
    case 0xa2:
      return cpuid(cpu);
    case 0xa3:
    case 0xab:
    case 0xb3:
    case 0xbb:
      return bitOf(cpu, (opcode >> 3) & 3);
    case 0xa4:
    case 0xa5:
    case 0xac:
    case 0xad:
      return doubleShift(cpu, opcode);
    case 0xae:
      return groupFifteen(cpu);
    case 0xaf:
      return multiply(cpu);
    case 0xb0:
    case 0xb1:
      return compareExchange(cpu, width);
    case 0xb2:
      return loadFarPointer(cpu, SS);
    case 0xb4:
      return loadFarPointer(cpu, FS);
    case 0xb5:
      return loadFarPointer(cpu, GS);
    case 0xb6:
    case 0xb7:
    case 0xbe:
    case 0xbf:
      return extend(cpu, opcode);
    case 0xb8:
      return countBits(cpu);
    case 0xba:
      return bitImmediate(cpu);
    case 0xbc:
    case 0xbd:
      return scan(cpu, opcode === 0xbd);
    case 0xc0:
    case 0xc1:
      return exchangeAdd(cpu, width);
    case 0xc3:
      cpu.fetchModrm();
      cpu.endFetch();
      if (cpu.mod === 3) return cpu.memory.unhandled();
      if (cpu.osize === 8) return cpu.setRm64(cpu.r64[cpu.reg]);
      return cpu.setRm(4, cpu.getRegister(4, cpu.reg));
    case 0xc7:
      return groupNine(cpu);
    default:
      return cpu.memory.unhandled();
  }
}

/**
 * Hints that Linux's emulator does not know: with a memory operand pvm passes over them in its place, and outside of 64-bit
 * mode takes the operand for one of 32-bit addresses, whatever the code and its prefixes say (live 6.18).
 */
function hintOfPvm(cpu: Cpu): void {
  if (!cpu.long) cpu.asize = 4;
  hint(cpu);
  if (cpu.mod === 3) cpu.unknown();
  else cpu.help();
}

/** Reads the operand, of which nothing is wanted but its exits and faults. */
function readOperand(cpu: Cpu): void {
  if (cpu.osize === 8) cpu.getRm64();
  else cpu.getRm(cpu.osize);
}

/** SLDT, STR, LLDT, LTR */
function groupSix(cpu: Cpu): void {
  cpu.fetchModrm();
  cpu.endFetch();
  const operation = (cpu.modrm >> 3) & 7;
  // Linux's emulator does not know the last four, in any mode
  if (!cpu.protectedMode)
    return operation >= 4 && cpu.emulated ? cpu.memory.unhandled() : cpu.undefinedOpcode();
  switch (operation) {
    case 0:
    case 1:
      // Linux's emulator reads what it will write
      if (cpu.emulated && cpu.mod !== 3) readOperand(cpu);
      if (cpu.stopped) return;
      return storeSelector(cpu, cpu.segments[operation === 0 ? LDTR : TR].selector);
    case 2:
    case 3: {
      if (cpu.cpl !== 0) return cpu.fault(GP, 0);
      const selector = cpu.getRm(2);
      if (!cpu.stopped) loadSystemSegment(cpu, operation === 2 ? LDTR : TR, selector);
      return;
    }
    default:
      return cpu.memory.unhandled();
  }
}

function conditionalMove(cpu: Cpu, number: number): void {
  cpu.fetchModrm();
  cpu.endFetch();
  const taken = condition(cpu.flags, number);
  if (cpu.osize === 8) {
    const value = cpu.getRm64();
    if (taken) cpu.setRegister64(cpu.reg, value);
    return;
  }
  const value = cpu.getRm(cpu.osize);
  if (taken) cpu.setRegister(cpu.osize, cpu.reg, value);
  // 32-bit operands clear the upper half in any case
  else if (cpu.osize === 4) cpu.setRegister(4, cpu.reg, cpu.getRegister(4, cpu.reg));
}

function swapBytes(cpu: Cpu, register: number): void {
  cpu.endFetch();
  if (cpu.osize === 8) {
    return cpu.setRegister64(register, swapped(8, cpu.r64[register]));
  }
  const value = cpu.r32[2 * register];
  if (cpu.osize === 4) cpu.setRegister(4, register, Number(swapped(4, BigInt(value))));
  // undefined by the manual; processors give 0
  else cpu.setRegister(2, register, 0);
}

// ---- bits ----------------------------------------------------------------------------------------------------------

/** The four operations on a bit: BT, BTS, BTR, BTC. */
function changeBit(cpu: Cpu, operation: number, width: number, value: number, bit: number): void {
  const mask = 2 ** bit;
  const set = Math.floor(value / mask) % 2 === 1;
  if (operation !== 0) {
    const on = operation === 1 || (operation === 3 && !set);
    cpu.setRm(width, set === on ? value : on ? value + mask : value - mask);
  }
  cpu.alu.setCarry(set);
}

function changeBit64(cpu: Cpu, operation: number, value: bigint, bit: number): void {
  const mask = 1n << BigInt(bit);
  const set = (value & mask) !== 0n;
  if (operation !== 0) {
    const on = operation === 1 || (operation === 3 && !set);
    cpu.setRm64(on ? value | mask : value & ~mask);
  }
  cpu.alu.setCarry(set);
}

/** The bit number in a register reaches beyond a memory operand, in both directions. */
function bitOf(cpu: Cpu, operation: number): void {
  cpu.fetchModrm();
  cpu.endFetch();
  const { osize } = cpu;
  const bits = osize * 8;
  if (osize === 8) {
    const offset = BigInt.asIntN(64, cpu.r64[cpu.reg]);
    if (cpu.mod !== 3) moveAddress(cpu, Number(offset >> 6n) * 8);
    return changeBit64(cpu, operation, cpu.getRm64(), Number(offset & 63n));
  }
  const offset = signed(osize, cpu.getRegister(osize, cpu.reg));
  if (cpu.mod !== 3) moveAddress(cpu, (offset >> (osize === 4 ? 5 : 4)) * osize);
  changeBit(cpu, operation, osize, cpu.getRm(osize), offset & (bits - 1));
}

function moveAddress(cpu: Cpu, by: number): void {
  const lo = cpu.eaLo + by;
  if (cpu.asize === 8) cpu.eaHi = (cpu.eaHi + Math.floor(lo / 2 ** 32)) | 0;
  cpu.eaLo = cpu.asize === 2 ? lo & 0xffff : lo >>> 0;
}

function bitImmediate(cpu: Cpu): void {
  cpu.fetchModrm(1);
  const bit = cpu.fetch8() & (cpu.osize * 8 - 1);
  cpu.endFetch();
  const operation = (cpu.modrm >> 3) & 7;
  if (operation < 4) return cpu.memory.unhandled();
  if (cpu.osize === 8) changeBit64(cpu, operation & 3, cpu.getRm64(), bit);
  else changeBit(cpu, operation & 3, cpu.osize, cpu.getRm(cpu.osize), bit);
}

/** BSF, BSR; after F3 TZCNT and LZCNT, which older processors take for BSF and BSR. */
function scan(cpu: Cpu, reverse: boolean): void {
  cpu.fetchModrm();
  cpu.endFetch();
  const { osize } = cpu;
  const value = osize === 8 ? cpu.getRm64() : BigInt(cpu.getRm(osize));
  if (cpu.stopped) return;
  if (value === 0n) return cpu.alu.scannedNothing();
  const bits = value.toString(2);
  const index = reverse ? bits.length - 1 : bits.length - 1 - bits.lastIndexOf("1");
  cpu.alu.scanned(index);
  if (osize === 8) cpu.setRegister64(cpu.reg, BigInt(index));
  else cpu.setRegister(osize, cpu.reg, index);
}

/** POPCNT */
function countBits(cpu: Cpu): void {
  cpu.fetchModrm();
  cpu.endFetch();
  if (cpu.repeat !== 0xf3 || cpu.emulated) return cpu.memory.unhandled();
  let value = cpu.osize === 8 ? cpu.getRm64() : BigInt(cpu.getRm(cpu.osize));
  if (cpu.stopped) return;
  let count = 0;
  for (; value !== 0n; value &= value - 1n) count++;
  cpu.alu.logic(4, 1);
  cpu.flags &= ~(CF | ZF | 0x894);
  if (count === 0) cpu.flags |= ZF;
  if (cpu.osize === 8) cpu.setRegister64(cpu.reg, BigInt(count));
  else cpu.setRegister(cpu.osize, cpu.reg, count);
}

function doubleShift(cpu: Cpu, opcode: number): void {
  const byImmediate = (opcode & 1) === 0;
  cpu.fetchModrm(byImmediate ? 1 : 0);
  const count = byImmediate ? cpu.fetch8() : cpu.r8[8 * RCX];
  cpu.endFetch();
  const left = opcode < 0xa8;
  if (cpu.osize === 8)
    return cpu.setRm64(cpu.alu.doubleShift64(left, cpu.getRm64(), cpu.r64[cpu.reg], count));
  const { osize } = cpu;
  const value = cpu.getRm(osize);
  cpu.setRm(osize, cpu.alu.doubleShift(left, osize, value, cpu.getRegister(osize, cpu.reg), count));
}

// ---- arithmetic and moves ------------------------------------------------------------------------------------------

function multiply(cpu: Cpu): void {
  cpu.fetchModrm();
  cpu.endFetch();
  const { osize } = cpu;
  if (osize === 8) {
    cpu.alu.multiply64(cpu.r64[cpu.reg], cpu.getRm64(), true);
    return cpu.setRegister64(cpu.reg, cpu.alu.lo64);
  }
  cpu.alu.multiply(osize, cpu.getRegister(osize, cpu.reg), cpu.getRm(osize), true);
  cpu.setRegister(osize, cpu.reg, cpu.alu.lo);
}

/** MOVZX, MOVSX */
function extend(cpu: Cpu, opcode: number): void {
  cpu.fetchModrm();
  cpu.endFetch();
  const from = (opcode & 1) === 0 ? 1 : 2;
  const value = cpu.getRm(from);
  const extended = opcode >= 0xbe ? signed(from, value) : value;
  if (cpu.osize === 8) cpu.setRegister64(cpu.reg, BigInt.asUintN(64, BigInt(extended)));
  else cpu.setRegister(cpu.osize, cpu.reg, extended);
}

function compareExchange(cpu: Cpu, width: number): void {
  cpu.fetchModrm();
  cpu.endFetch();
  if (width === 8) {
    const value = cpu.getRm64();
    if (cpu.stopped) return cpu.memory.meantWrite();
    cpu.alu.subtract64(cpu.r64[RAX], value, 0);
    const equal = cpu.r64[RAX] === value;
    cpu.setRm64(equal ? cpu.r64[cpu.reg] : value);
    if (!equal) cpu.setRegister64(RAX, value);
    return;
  }
  const value = cpu.getRm(width);
  if (cpu.stopped) return cpu.memory.meantWrite();
  const accumulator = cpu.getRegister(width, RAX);
  cpu.alu.subtract(width, accumulator, value, 0);
  const equal = accumulator === value;
  // a register that is not exchanged keeps its upper half; Linux's emulator writes it (live 6.18)
  if (equal || cpu.mod !== 3 || cpu.emulated)
    cpu.setRm(width, equal ? cpu.getRegister(width, cpu.reg) : value);
  if (!equal) cpu.setRegister(width, RAX, value);
}

function exchangeAdd(cpu: Cpu, width: number): void {
  cpu.fetchModrm();
  cpu.endFetch();
  if (width === 8) {
    const value = cpu.getRm64();
    const sum = cpu.alu.add64(value, cpu.r64[cpu.reg], 0);
    if (cpu.mod === 3) cpu.setRegister64(cpu.reg, value);
    cpu.setRm64(sum);
    if (cpu.mod !== 3) cpu.setRegister64(cpu.reg, value);
    return;
  }
  const value = cpu.getRm(width);
  const sum = cpu.alu.add(width, value, cpu.getRegister(width, cpu.reg), 0);
  if (cpu.mod === 3) cpu.setRegister(width, cpu.reg, value);
  cpu.setRm(width, (sum & maskOf(width)) >>> 0);
  if (cpu.mod !== 3) cpu.setRegister(width, cpu.reg, value);
}

/** CMPXCHG8B and CMPXCHG16B */
function groupNine(cpu: Cpu): void {
  cpu.fetchModrm();
  cpu.endFetch();
  if (((cpu.modrm >> 3) & 7) !== 1 || cpu.mod === 3) return cpu.memory.unhandled();
  if (cpu.osize === 8) return compareExchange16(cpu);
  const value = cpu.getRm64();
  if (cpu.stopped) return;
  const expected = (BigInt(cpu.r32[2 * RDX]) << 32n) | BigInt(cpu.r32[2 * RAX]);
  if (value === expected) {
    cpu.setRm64((BigInt(cpu.r32[2 * RCX]) << 32n) | BigInt(cpu.r32[2 * RBX]));
    cpu.flags |= ZF;
    return;
  }
  cpu.setRm64(value); // written in either case
  cpu.setRegister(4, RAX, Number(value & 0xffff_ffffn));
  cpu.setRegister(4, RDX, Number(value >> 32n));
  cpu.flags &= ~ZF;
}

function compareExchange16(cpu: Cpu): void {
  if ((cpu.eaLo & 15) !== 0) return cpu.fault(GP, 0);
  const lo = cpu.getRm64();
  const hi = cpu.readAt64(cpu.eaSegment, cpu.eaLo + 8, cpu.eaHi);
  if (cpu.stopped) return;
  if (cpu.emulated) return cpu.memory.unhandled();
  if (lo === cpu.r64[RAX] && hi === cpu.r64[RDX]) {
    cpu.setRm64(cpu.r64[RBX]);
    cpu.writeAt64(cpu.eaSegment, cpu.eaLo + 8, cpu.eaHi, cpu.r64[RCX]);
    cpu.flags |= ZF;
    return;
  }
  cpu.setRegister64(RAX, lo);
  cpu.setRegister64(RDX, hi);
  cpu.flags &= ~ZF;
}

/** FXSAVE, FXRSTOR, fences, CLFLUSH, and the bases of FS and GS. */
function groupFifteen(cpu: Cpu): void {
  const { emulated } = cpu;
  cpu.fetchModrm();
  const operation = (cpu.modrm >> 3) & 7;
  if (cpu.mod === 3) {
    const based = operation < 4 && cpu.repeat === REP && cpu.long;
    const fence = operation > 4 && cpu.repeat !== REP;
    if (!based && !fence) return cpu.memory.unhandled();
    // Linux's emulator knows neither: pvm does them in its place, LOCK or not (live 6.18)
    if (emulated) cpu.lock = false;
    cpu.endFetch();
    if (emulated && !cpu.help()) return;
    return based && !cpu.stopped ? segmentBase(cpu, operation) : undefined;
  }
  if (operation > 1 && (operation !== 7 || cpu.repeat !== 0)) return cpu.memory.unhandled();
  cpu.endFetch();
  if (cpu.stopped) return;
  if (operation === 7) {
    // CLFLUSH and CLFLUSHOPT have an operand, which Linux's emulator reads
    cpu.getRm(1);
    return;
  }
  if (cpu.repeat !== 0) return cpu.undefinedOpcode();
  saveState(cpu, operation === 1);
}

/** RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE; pvm does not ask CR4 (live 6.18). */
function segmentBase(cpu: Cpu, operation: number): void {
  if (!cpu.options.emulated && (cpu.state.c32[2 * CR4] & CR4_FSGSBASE) === 0) return cpu.undefinedOpcode();
  const segment = cpu.segments[(operation & 1) === 0 ? FS : GS];
  const wide = (cpu.rex & 8) !== 0;
  if (operation < 2) {
    const value = (BigInt(segment.baseHi >>> 0) << 32n) | BigInt(segment.baseLo);
    return wide ? cpu.setRegister64(cpu.rm, value) : cpu.setRegister(4, cpu.rm, segment.baseLo);
  }
  const value = cpu.r64[cpu.rm];
  if (wide && BigInt.asIntN(48, value) !== BigInt.asIntN(64, value)) return cpu.fault(GP, 0);
  segment.baseLo = cpu.r32[2 * cpu.rm];
  segment.baseHi = wide ? cpu.r32[2 * cpu.rm + 1] : 0;
}

/** 0F 38 F0, F1: MOVBE, for processors whose CPUID has it. */
function moveSwapped(cpu: Cpu): void {
  const opcode = cpu.fetch8();
  if ((opcode !== 0xf0 && opcode !== 0xf1) || cpu.repeat !== 0) return cpu.memory.unhandled();
  cpu.fetchModrm();
  if (cpu.mod === 3) return cpu.memory.unhandled();
  cpu.endFetch();
  if (opcode === 0xf0 && cpu.emulated) readOperand(cpu);
  if (cpu.stopped) return;
  cpu.bus.cpuid(1, 0, leaf);
  if ((leaf[2] & MOVBE) === 0) return cpu.undefinedOpcode();
  const { osize } = cpu;
  if (opcode === 0xf0) {
    const value = swapped(osize, osize === 8 ? cpu.getRm64() : BigInt(cpu.getRm(osize)));
    if (osize === 8) cpu.setRegister64(cpu.reg, value);
    else cpu.setRegister(osize, cpu.reg, Number(value));
  } else if (osize === 8) cpu.setRm64(swapped(8, cpu.r64[cpu.reg]));
  else cpu.setRm(osize, Number(swapped(osize, BigInt(cpu.getRegister(osize, cpu.reg)))));
}

const MOVBE = 1 << 22;
const leaf = new Uint32Array(4);

/** The bytes of a value the other way round. */
function swapped(width: number, value: bigint): bigint {
  let result = 0n;
  for (let i = 0n; i < width; i++) result = (result << 8n) | ((value >> (8n * i)) & 0xffn);
  return result;
}
