/**
 * The instructions of one byte (Intel SDM volume 2, appendix A, table A-2). Each case fetches what belongs to the
 * instruction, ends the fetch, and acts. The opcodes after 0F are in execute-0f.ts, what changes CS in transfer.ts,
 * strings and ports in strings.ts, what concerns the processor itself in system.ts.
 */
import { AND, CMP, maskOf, signed } from "./alu.ts";
import type { Cpu } from "./cpu.ts";
import { executeTwoByte } from "./execute-0f.ts";
import { iopl, popFlags, pushFlags } from "./flags.ts";
import { BP, BR, DB, DE, EXCEPTION, GP, NO_CODE, OFLOW, RUNNING } from "./memory.ts";
import {
  AF,
  CF,
  CS,
  DF,
  DS,
  ES,
  FLAG_FIXED,
  IF,
  OF,
  PF,
  RAX,
  RBP,
  RBX,
  RCX,
  RDX,
  RSI,
  RSP,
  SF,
  SHADOW_MOV_SS,
  SHADOW_STI,
  SS,
  ZF,
} from "./state.ts";
import { cmps, ins, lods, movs, outs, portIn, portOut, scas, stos } from "./strings.ts";
import { halt } from "./system.ts";
import {
  callFar,
  enterHandler,
  interruptReturn,
  jumpFar,
  loadSegment,
  returnFar,
  softwareInterrupt,
  trapDirect,
} from "./transfer.ts";
import { floatingPoint } from "./vector.ts";

/** Where the processor runs the guest for pvm it shows the selectors of a Linux program: ES, CS, SS, DS, FS, GS (live 6.18). */
const HOST_SELECTORS: readonly number[] = [0, 0x33, 0x2b, 0, 0, 0];

/** Whether a condition of Jcc, SETcc, CMOVcc holds, by its number. */
export function condition(flags: number, number: number): boolean {
  let holds: boolean;
  switch (number >> 1) {
    case 0:
      holds = (flags & OF) !== 0;
      break;
    case 1:
      holds = (flags & CF) !== 0;
      break;
    case 2:
      holds = (flags & ZF) !== 0;
      break;
    case 3:
      holds = (flags & (CF | ZF)) !== 0;
      break;
    case 4:
      holds = (flags & SF) !== 0;
      break;
    case 5:
      holds = (flags & PF) !== 0;
      break;
    case 6:
      holds = ((flags & SF) !== 0) !== ((flags & OF) !== 0);
      break;
    default:
      holds = (flags & ZF) !== 0 || ((flags & SF) !== 0) !== ((flags & OF) !== 0);
  }
  return holds !== ((number & 1) !== 0);
}

/** Runs an instruction whose first byte, prefixes aside, is `opcode`. */
export function execute(cpu: Cpu, opcode: number): void {
  if (opcode < 0x40 && (opcode & 7) < 6) return arithmetic(cpu, opcode);
  if (opcode >= 0x70 && opcode < 0x80) {
    cpu.nearBranch();
    const displacement = cpu.fetchSigned8();
    cpu.endFetch();
    if (condition(cpu.flags, opcode & 15)) cpu.jumpNear(cpu.rip + displacement);
    return;
  }
  if (opcode >= 0xb0 && opcode < 0xc0) return moveImmediate(cpu, opcode);
  if (opcode >= 0x40 && opcode < 0x60) return oneRegister(cpu, opcode);
  const width = (opcode & 1) === 0 ? 1 : cpu.osize;
  switch (opcode) {
    case 0x06:
    case 0x0e:
    case 0x16:
    case 0x1e:
      return pushSegment(cpu, opcode >> 3);
    case 0x07:
    case 0x17:
    case 0x1f:
      return popSegment(cpu, opcode >> 3);
    case 0x0f:
      return executeTwoByte(cpu, cpu.fetch8());
    case 0x27:
    case 0x2f:
      if (cpu.emulated && opcode === 0x27) return cpu.memory.unhandled();
      if (!notInLong(cpu)) return;
      return cpu.setRegister(1, RAX, cpu.alu.decimalAdjust(opcode === 0x2f, cpu.r8[0]));
    case 0x37:
    case 0x3f:
      if (cpu.emulated) return cpu.memory.unhandled();
      if (!notInLong(cpu)) return;
      return cpu.setRegister(2, RAX, cpu.alu.asciiAdjust(opcode === 0x3f, cpu.r16[0]));
    case 0x60:
      return pushAll(cpu);
    case 0x61:
      return popAll(cpu);
    case 0x62:
      return bound(cpu);
    case 0x63:
      return cpu.long ? moveSignExtended(cpu) : adjustRpl(cpu);
    case 0x68: {
      const value = cpu.fetchImmediate(cpu.osize === 2 ? 2 : 4);
      cpu.endFetch();
      return cpu.push(cpu.stackSize, value);
    }
    case 0x6a: {
      const value = cpu.fetchSigned8();
      cpu.endFetch();
      return cpu.push(cpu.stackSize, value);
    }
    case 0x69:
    case 0x6b:
      return multiplyImmediate(cpu, opcode);
    case 0x6c:
    case 0x6d:
      cpu.endFetch();
      return ins(cpu, width === 8 ? 4 : width);
    case 0x6e:
    case 0x6f:
      cpu.endFetch();
      return outs(cpu, width === 8 ? 4 : width);
    case 0x80:
    case 0x81:
    case 0x82:
    case 0x83:
      return groupOne(cpu, opcode, width);
    case 0x84:
    case 0x85:
      return test(cpu, width);
    case 0x86:
    case 0x87:
      return exchange(cpu, width);
    case 0x88:
    case 0x89:
      cpu.fetchModrm();
      cpu.endFetch();
      if (width === 8) cpu.setRm64(cpu.r64[cpu.reg]);
      else cpu.setRm(width, cpu.getRegister(width, cpu.reg));
      return;
    case 0x8a:
    case 0x8b:
      cpu.fetchModrm();
      cpu.endFetch();
      if (width === 8) cpu.setRegister64(cpu.reg, cpu.getRm64());
      else cpu.setRegister(width, cpu.reg, cpu.getRm(width));
      return;
    case 0x8c: {
      cpu.fetchModrm();
      cpu.endFetch();
      const segment = cpu.segmentNumber;
      if (segment > 5) return cpu.undefinedOpcode();
      return storeSelector(cpu, cpu.direct ? HOST_SELECTORS[segment] : cpu.segments[segment].selector);
    }
    case 0x8d:
      return loadAddress(cpu);
    case 0x8e: {
      cpu.fetchModrm();
      cpu.endFetch();
      const segment = cpu.segmentNumber;
      const selector = cpu.getRm(2);
      if (segment === CS || segment > 5) return cpu.undefinedOpcode();
      if (cpu.stopped) return;
      loadSegment(cpu, segment, selector);
      if (segment === SS && !cpu.stopped) cpu.leaveShadow(SHADOW_MOV_SS);
      return;
    }
    case 0x8f:
      return popToRm(cpu);
    case 0x90:
    case 0x91:
    case 0x92:
    case 0x93:
    case 0x94:
    case 0x95:
    case 0x96:
    case 0x97: {
      cpu.endFetch();
      const other = (opcode & 7) | ((cpu.rex & 1) << 3);
      if (other === RAX) return;
      if (cpu.osize === 8) {
        const value = cpu.r64[RAX];
        cpu.setRegister64(RAX, cpu.r64[other]);
        return cpu.setRegister64(other, value);
      }
      const value = cpu.getRegister(cpu.osize, RAX);
      cpu.setRegister(cpu.osize, RAX, cpu.getRegister(cpu.osize, other));
      return cpu.setRegister(cpu.osize, other, value);
    }
    case 0x98:
      cpu.endFetch();
      if (cpu.osize === 2) cpu.setRegister(2, RAX, signed(1, cpu.r8[0]));
      else if (cpu.osize === 4) cpu.setRegister(4, RAX, signed(2, cpu.r16[0]));
      else cpu.setRegister64(RAX, BigInt.asUintN(64, BigInt(cpu.r32[0] | 0)));
      return;
    case 0x99:
      cpu.endFetch();
      if (cpu.osize === 8) cpu.setRegister64(RDX, cpu.r64[RAX] >> 63n ? 0xffff_ffff_ffff_ffffn : 0n);
      else cpu.setRegister(cpu.osize, RDX, signed(cpu.osize, cpu.getRegister(cpu.osize, RAX)) < 0 ? -1 : 0);
      return;
    case 0x9a:
    case 0xea: {
      const offset = cpu.osize === 2 ? cpu.fetch16() : cpu.fetch32();
      const selector = cpu.fetch16();
      cpu.endFetch();
      if (cpu.long) return cpu.undefinedOpcode();
      return opcode === 0xea ? jumpFar(cpu, selector, offset) : callFar(cpu, selector, offset);
    }
    case 0x9b:
      if (cpu.emulated) return cpu.memory.unhandled();
      return cpu.endFetch();
    case 0x9c:
      return pushFlags(cpu);
    case 0x9d:
      return popFlags(cpu);
    case 0x9e: {
      cpu.endFetch();
      const kept = CF | PF | AF | ZF | SF;
      cpu.flags = (cpu.flags & ~kept) | (cpu.r8[1] & kept) | FLAG_FIXED;
      return;
    }
    case 0x9f:
      cpu.endFetch();
      if (!cpu.stopped) cpu.r8[1] = (cpu.flags & (CF | PF | AF | ZF | SF)) | FLAG_FIXED;
      return;
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa3:
      return moveAbsolute(cpu, opcode, width);
    case 0xa4:
    case 0xa5:
      cpu.endFetch();
      return movs(cpu, width);
    case 0xa6:
    case 0xa7:
      cpu.endFetch();
      return cmps(cpu, width);
    case 0xa8:
    case 0xa9: {
      const value = cpu.fetchImmediate(Math.min(width, 4));
      cpu.endFetch();
      if (width === 8) cpu.alu.logic64(cpu.r64[RAX] & BigInt.asUintN(64, BigInt(value)));
      else cpu.alu.logic(width, (cpu.getRegister(width, RAX) & value & maskOf(width)) >>> 0);
      return;
    }
    case 0xaa:
    case 0xab:
      cpu.endFetch();
      return stos(cpu, width);
    case 0xac:
    case 0xad:
      cpu.endFetch();
      return lods(cpu, width);
    case 0xae:
    case 0xaf:
      cpu.endFetch();
      return scas(cpu, width);
    case 0xc0:
    case 0xc1:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
      return shiftGroup(cpu, opcode, width);
    case 0xc2:
    case 0xc3:
      return returnNear(cpu, opcode === 0xc2 ? cpu.fetch16() : 0);
    case 0xc4:
    case 0xc5:
      return loadFarPointer(cpu, opcode === 0xc4 ? ES : DS);
    case 0xc6:
    case 0xc7: {
      cpu.fetchModrm(width === 1 ? 1 : width === 2 ? 2 : 4);
      const value = cpu.fetchImmediate(Math.min(width, 4));
      cpu.endFetch();
      if ((cpu.modrm & 0x38) !== 0) return cpu.undefinedOpcode();
      if (width === 8) cpu.setRm64(BigInt.asUintN(64, BigInt(value)));
      else cpu.setRm(width, value);
      return;
    }
    case 0xc8:
      return enter(cpu);
    case 0xc9:
      return leave(cpu);
    case 0xca:
    case 0xcb: {
      const extra = opcode === 0xca ? cpu.fetch16() : 0;
      cpu.endFetch();
      return returnFar(cpu, extra);
    }
    case 0xcc:
      cpu.endFetch();
      return cpu.breakpointTrapped ? cpu.memory.raise(BP, NO_CODE) : softwareInterrupt(cpu, BP);
    case 0xcd: {
      cpu.vector = cpu.fetch8();
      cpu.endFetch();
      return softwareInterrupt(cpu, cpu.vector);
    }
    case 0xce:
      if (!notInLong(cpu)) return;
      if ((cpu.flags & OF) !== 0) softwareInterrupt(cpu, OFLOW);
      return;
    case 0xf1:
      return interruptOne(cpu);
    case 0xcf:
      cpu.endFetch();
      return interruptReturn(cpu);
    case 0xd4: {
      const base = cpu.fetch8();
      if (!notInLong(cpu)) return;
      if (base === 0) return cpu.fault(DE, NO_CODE);
      const al = cpu.r8[0];
      return decimalResult(cpu, (Math.floor(al / base) << 8) | (al % base));
    }
    case 0xd5: {
      const base = cpu.fetch8();
      if (!notInLong(cpu)) return;
      const al = (cpu.r8[0] + cpu.r8[1] * base) & 0xff;
      return decimalResult(cpu, al);
    }
    case 0xd6:
      if (!notInLong(cpu)) return;
      return cpu.setRegister(1, RAX, cpu.alu.carry !== 0 ? 0xff : 0);
    case 0xd7: {
      cpu.endFetch();
      cpu.addressRegister(RBX);
      const lo = cpu.eaLo + cpu.r8[0];
      const segment = cpu.segmentOverride >= 0 ? cpu.segmentOverride : DS;
      const cut = cpu.asize === 2 ? lo & 0xffff : lo >>> 0;
      const hi = cpu.asize === 8 ? (cpu.eaHi + (lo >= 2 ** 32 ? 1 : 0)) | 0 : 0;
      const value = cpu.readAt(segment, cut, hi, 1);
      return cpu.setRegister(1, RAX, value);
    }
    case 0xd9:
    case 0xdb:
    case 0xdd:
      return floatingPoint(cpu, opcode);
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
      return loop(cpu, opcode);
    case 0xe4:
    case 0xe5: {
      const port = cpu.fetch8();
      cpu.endFetch();
      return portIn(cpu, port, width === 8 ? 4 : width);
    }
    case 0xe6:
    case 0xe7: {
      const port = cpu.fetch8();
      cpu.endFetch();
      return portOut(cpu, port, width === 8 ? 4 : width);
    }
    case 0xe8: {
      cpu.nearBranch();
      const displacement = cpu.fetchImmediate(cpu.osize === 2 ? 2 : 4);
      cpu.endFetch();
      const back = cpu.rip;
      cpu.jumpNear(cpu.rip + displacement);
      return cpu.push(cpu.stackSize, back);
    }
    case 0xe9: {
      cpu.nearBranch();
      const displacement = cpu.fetchImmediate(cpu.osize === 2 ? 2 : 4);
      cpu.endFetch();
      return cpu.jumpNear(cpu.rip + displacement);
    }
    case 0xeb: {
      cpu.nearBranch();
      const displacement = cpu.fetchSigned8();
      cpu.endFetch();
      return cpu.jumpNear(cpu.rip + displacement);
    }
    case 0xec:
    case 0xed:
      cpu.endFetch();
      return portIn(cpu, cpu.r16[4 * RDX], width === 8 ? 4 : width);
    case 0xee:
    case 0xef:
      cpu.endFetch();
      return portOut(cpu, cpu.r16[4 * RDX], width === 8 ? 4 : width);
    case 0xf4:
      cpu.endFetch();
      return halt(cpu);
    case 0xf5:
      cpu.endFetch();
      cpu.flags ^= CF;
      return;
    case 0xf6:
    case 0xf7:
      return groupThree(cpu, width);
    case 0xf8:
      cpu.endFetch();
      cpu.flags &= ~CF;
      return;
    case 0xf9:
      cpu.endFetch();
      cpu.flags |= CF;
      return;
    case 0xfa:
      cpu.endFetch();
      if (!ioAllowed(cpu)) return cpu.fault(GP, 0);
      cpu.flags &= ~IF;
      return;
    case 0xfb:
      cpu.endFetch();
      if (!ioAllowed(cpu)) return cpu.fault(GP, 0);
      if ((cpu.flags & IF) === 0 || cpu.emulated) cpu.leaveShadow(SHADOW_STI);
      cpu.flags |= IF;
      return;
    case 0xfc:
      cpu.endFetch();
      cpu.flags &= ~DF;
      return;
    case 0xfd:
      cpu.endFetch();
      cpu.flags |= DF;
      return;
    case 0xfe:
    case 0xff:
      return groupFive(cpu, width);
    default:
      return cpu.memory.unhandled();
  }
}

/** Ends the fetch; #UD in 64-bit mode. */
function notInLong(cpu: Cpu): boolean {
  cpu.endFetch();
  // Linux's emulator knows them all but DAA, AAA and AAS
  if (cpu.long && (cpu.opcode === 0x27 || cpu.opcode === 0x37 || cpu.opcode === 0x3f)) cpu.noSuchOpcode();
  else if (cpu.long) cpu.undefinedOpcode();
  return !cpu.stopped;
}

/** CLI and STI */
const ioAllowed = (cpu: Cpu): boolean => cpu.cpl <= iopl(cpu.flags);

// ---- arithmetic ----------------------------------------------------------------------------------------------------

/** 00–3D: ADD, OR, ADC, SBB, AND, SUB, XOR, CMP in six forms. */
function arithmetic(cpu: Cpu, opcode: number): void {
  const operation = opcode >> 3;
  const form = opcode & 7;
  const width = (opcode & 1) === 0 ? 1 : cpu.osize;
  if (form >= 4) {
    const value = cpu.fetchImmediate(Math.min(width, 4));
    cpu.endFetch();
    if (width === 8) {
      const result = cpu.alu.operate64(operation, cpu.r64[RAX], BigInt.asUintN(64, BigInt(value)));
      if (operation !== CMP) cpu.setRegister64(RAX, result);
    } else {
      const given = (value & maskOf(width)) >>> 0;
      const result = cpu.alu.operate(operation, width, cpu.getRegister(width, RAX), given);
      if (operation !== CMP) cpu.setRegister(width, RAX, result);
    }
    return;
  }
  cpu.fetchModrm();
  cpu.endFetch();
  const toRegister = form >= 2;
  if (width === 8) {
    const register = cpu.r64[cpu.reg];
    const other = cpu.getRm64();
    if (toRegister) {
      const result = cpu.alu.operate64(operation, register, other);
      if (operation !== CMP) cpu.setRegister64(cpu.reg, result);
    } else {
      const result = cpu.alu.operate64(operation, other, register);
      if (operation !== CMP) cpu.setRm64(result);
    }
    return;
  }
  const register = cpu.getRegister(width, cpu.reg);
  const other = cpu.getRm(width);
  if (toRegister) {
    const result = cpu.alu.operate(operation, width, register, other);
    if (operation !== CMP) cpu.setRegister(width, cpu.reg, result);
  } else {
    const result = cpu.alu.operate(operation, width, other, register);
    if (operation !== CMP) cpu.setRm(width, result);
  }
}

/** 80–83 */
function groupOne(cpu: Cpu, opcode: number, width: number): void {
  const immediate = opcode === 0x81 ? Math.min(width, 4) : 1;
  cpu.fetchModrm(immediate);
  const value = cpu.fetchImmediate(immediate);
  cpu.endFetch();
  if (opcode === 0x82 && cpu.long) return cpu.undefinedOpcode();
  const operation = (cpu.modrm >> 3) & 7;
  if (width === 8) {
    const result = cpu.alu.operate64(operation, cpu.getRm64(), BigInt.asUintN(64, BigInt(value)));
    if (operation !== CMP) cpu.setRm64(result);
    return;
  }
  const result = cpu.alu.operate(operation, width, cpu.getRm(width), (value & maskOf(width)) >>> 0);
  if (operation !== CMP) cpu.setRm(width, result);
}

function test(cpu: Cpu, width: number): void {
  cpu.fetchModrm();
  cpu.endFetch();
  if (width === 8) cpu.alu.operate64(AND, cpu.getRm64(), cpu.r64[cpu.reg]);
  else cpu.alu.operate(AND, width, cpu.getRm(width), cpu.getRegister(width, cpu.reg));
}

function multiplyImmediate(cpu: Cpu, opcode: number): void {
  const width = cpu.osize;
  const size = opcode === 0x6b ? 1 : Math.min(width, 4);
  cpu.fetchModrm(size);
  const value = cpu.fetchImmediate(size);
  cpu.endFetch();
  if (width === 8) {
    cpu.alu.multiply64(cpu.getRm64(), BigInt.asUintN(64, BigInt(value)), true);
    return cpu.setRegister64(cpu.reg, cpu.alu.lo64);
  }
  cpu.alu.multiply(width, cpu.getRm(width), (value & maskOf(width)) >>> 0, true);
  cpu.setRegister(width, cpu.reg, cpu.alu.lo);
}

/** C0, C1, D0–D3 */
function shiftGroup(cpu: Cpu, opcode: number, width: number): void {
  const byImmediate = opcode < 0xd0;
  cpu.fetchModrm(byImmediate ? 1 : 0);
  const count = byImmediate ? cpu.fetch8() : opcode < 0xd2 ? 1 : cpu.r8[8 * RCX];
  cpu.endFetch();
  const operation = (cpu.modrm >> 3) & 7;
  if (width === 8) return cpu.setRm64(cpu.alu.shift64(operation, cpu.getRm64(), count));
  const before = cpu.getRm(width);
  cpu.setRm(width, cpu.alu.shift(operation, width, before, count));
}

/** F6, F7: TEST, TEST, NOT, NEG, MUL, IMUL, DIV, IDIV */
function groupThree(cpu: Cpu, width: number): void {
  const byte = cpu.peekModrm();
  const operation = (byte >> 3) & 7;
  if (operation < 2) {
    const size = Math.min(width, 4);
    cpu.fetchModrm(size);
    const value = cpu.fetchImmediate(size);
    cpu.endFetch();
    if (width === 8) cpu.alu.operate64(AND, cpu.getRm64(), BigInt.asUintN(64, BigInt(value)));
    else cpu.alu.operate(AND, width, cpu.getRm(width), (value & maskOf(width)) >>> 0);
    return;
  }
  cpu.fetchModrm();
  cpu.endFetch();
  if (width === 8) return groupThree64(cpu, operation);
  const value = cpu.getRm(width);
  switch (operation) {
    case 2:
      return cpu.setRm(width, (~value & maskOf(width)) >>> 0);
    case 3:
      return cpu.setRm(width, cpu.alu.subtract(width, 0, value, 0));
    case 4:
    case 5:
      cpu.alu.multiply(width, cpu.getRegister(width, RAX), value, operation === 5);
      break;
    default: {
      const hi = width === 1 ? cpu.r8[1] : cpu.getRegister(width, RDX);
      if (cpu.stopped) return;
      if (!cpu.alu.divide(width, hi, cpu.getRegister(width, RAX), value, operation === 7))
        return cpu.fault(DE, NO_CODE);
    }
  }
  if (width === 1) return cpu.setRegister(2, RAX, cpu.alu.lo | (cpu.alu.hi << 8));
  cpu.setRegister(width, RAX, cpu.alu.lo);
  cpu.setRegister(width, RDX, cpu.alu.hi);
}

function groupThree64(cpu: Cpu, operation: number): void {
  const value = cpu.getRm64();
  switch (operation) {
    case 2:
      return cpu.setRm64(BigInt.asUintN(64, ~value));
    case 3:
      return cpu.setRm64(cpu.alu.subtract64(0n, value, 0));
    case 4:
    case 5:
      cpu.alu.multiply64(cpu.r64[RAX], value, operation === 5);
      break;
    default:
      if (cpu.stopped) return;
      if (!cpu.alu.divide64(cpu.r64[RDX], cpu.r64[RAX], value, operation === 7))
        return cpu.fault(DE, NO_CODE);
  }
  cpu.setRegister64(RAX, cpu.alu.lo64);
  cpu.setRegister64(RDX, cpu.alu.hi64);
}

/** FE, FF: INC, DEC, and for FF calls, jumps and PUSH */
function groupFive(cpu: Cpu, width: number): void {
  cpu.fetchModrm();
  cpu.endFetch();
  const operation = (cpu.modrm >> 3) & 7;
  if (operation < 2) {
    const by = operation === 0 ? 1 : -1;
    if (width === 8) cpu.setRm64(cpu.alu.increment64(cpu.getRm64(), by));
    else cpu.setRm(width, cpu.alu.increment(width, cpu.getRm(width), by));
    return;
  }
  if (width === 1) return cpu.memory.unhandled();
  switch (operation) {
    case 2:
    case 4: {
      cpu.nearBranch();
      const target = cpu.stackSize === 8 ? canonical(cpu.getRm64()) : cpu.getRm(cpu.osize);
      if (cpu.stopped) return;
      const back = cpu.rip;
      cpu.jumpNear(target);
      if (operation === 2) cpu.push(cpu.stackSize, back);
      return;
    }
    case 3:
    case 5: {
      if (cpu.mod === 3) return cpu.undefinedOpcode();
      const offset = canonical(cpu.readFarPointer(cpu.osize));
      if (cpu.stopped) return;
      const target = cpu.osize === 8 ? offset : offset % 2 ** 32;
      return operation === 5 ? jumpFar(cpu, cpu.farSelector, target) : callFar(cpu, cpu.farSelector, target);
    }
    case 6:
      if (cpu.stackSize === 8) cpu.push64(cpu.getRm64());
      else {
        const value = cpu.getRm(cpu.stackSize);
        cpu.push(cpu.stackSize, value);
      }
      return;
    default:
      return cpu.undefinedOpcode();
  }
}

/** A 64-bit value as a linear address: exact where it is canonical, and outside of what is where not. */
export const canonical = (value: bigint): number => Number(BigInt.asIntN(64, value));

/** The low half of the effective address, some bytes further. */
export function addToAddress(cpu: Cpu, by: number): number {
  const lo = cpu.eaLo + by;
  // in 64-bit mode they lie in a row, whatever the size of the address
  if (cpu.long && lo >= 2 ** 32) cpu.eaHi = (cpu.eaHi + 1) | 0;
  return cpu.asize === 2 ? lo & 0xffff : lo >>> 0;
}

/** AAM and AAD: flags follow AL; KVM's emulator looks at the whole operand (arch/x86/kvm/emulate.c:em_aam, 6.1). */
function decimalResult(cpu: Cpu, ax: number): void {
  // Linux's emulator writes a register of the operand size (live 6.18)
  if (cpu.emulated && cpu.osize === 4)
    cpu.setRegister(4, RAX, ((cpu.r32[2 * RAX] & 0xffff_0000) | (ax & 0xffff)) >>> 0);
  else cpu.setRegister(2, RAX, ax);
  if (cpu.emulated) cpu.alu.logic(cpu.osize, cpu.getRegister(cpu.osize, RAX));
  else cpu.alu.logic(1, ax & 0xff);
}

// ---- moves ---------------------------------------------------------------------------------------------------------

/** B0–BF */
function moveImmediate(cpu: Cpu, opcode: number): void {
  const register = (opcode & 7) | ((cpu.rex & 1) << 3);
  if (opcode < 0xb8) {
    const value = cpu.fetch8();
    cpu.endFetch();
    return cpu.setRegister(1, register, value);
  }
  if (cpu.osize === 8) {
    const lo = cpu.fetch32();
    const hi = cpu.fetch32();
    cpu.endFetch();
    return cpu.setRegister64(register, (BigInt(hi) << 32n) | BigInt(lo));
  }
  const value = cpu.osize === 2 ? cpu.fetch16() : cpu.fetch32();
  cpu.endFetch();
  cpu.setRegister(cpu.osize, register, value);
}

/** 40–5F: INC, DEC, PUSH, POP */
function oneRegister(cpu: Cpu, opcode: number): void {
  cpu.endFetch();
  const register = (opcode & 7) | ((cpu.rex & 1) << 3);
  if (opcode < 0x50) {
    const value = cpu.getRegister(cpu.osize, register);
    return cpu.setRegister(cpu.osize, register, cpu.alu.increment(cpu.osize, value, opcode < 0x48 ? 1 : -1));
  }
  const size = cpu.stackSize;
  if (opcode < 0x58) {
    if (size === 8) cpu.push64(cpu.r64[register]);
    else cpu.push(size, cpu.getRegister(size, register));
  } else if (size === 8) cpu.setRegister64(register, cpu.pop64());
  else cpu.setRegister(size, register, cpu.pop(size));
}

/** A0–A3: the address stands in the instruction. */
function moveAbsolute(cpu: Cpu, opcode: number, width: number): void {
  cpu.eaLo = cpu.asize === 2 ? cpu.fetch16() : cpu.fetch32();
  cpu.eaHi = cpu.asize === 8 ? cpu.fetch32() | 0 : 0;
  cpu.endFetch();
  const segment = cpu.segmentOverride >= 0 ? cpu.segmentOverride : DS;
  if (opcode < 0xa2) {
    if (width === 8) cpu.setRegister64(RAX, cpu.readAt64(segment, cpu.eaLo, cpu.eaHi));
    else cpu.setRegister(width, RAX, cpu.readAt(segment, cpu.eaLo, cpu.eaHi, width));
  } else if (width === 8) cpu.writeAt64(segment, cpu.eaLo, cpu.eaHi, cpu.r64[RAX]);
  else cpu.writeAt(segment, cpu.eaLo, cpu.eaHi, width, cpu.getRegister(width, RAX));
}

function exchange(cpu: Cpu, width: number): void {
  cpu.fetchModrm();
  cpu.endFetch();
  if (width === 8) {
    const value = cpu.getRm64();
    cpu.setRm64(cpu.r64[cpu.reg]);
    return cpu.setRegister64(cpu.reg, value);
  }
  const value = cpu.getRm(width);
  cpu.setRm(width, cpu.getRegister(width, cpu.reg));
  cpu.setRegister(width, cpu.reg, value);
}

function moveSignExtended(cpu: Cpu): void {
  cpu.fetchModrm();
  cpu.endFetch();
  if (cpu.osize === 8) {
    const value = cpu.getRm(4) | 0;
    cpu.setRegister64(cpu.reg, BigInt.asUintN(64, BigInt(value)));
  } else {
    // Linux's emulator reads four bytes in any case
    const value = cpu.getRm(cpu.emulated ? 4 : cpu.osize);
    cpu.setRegister(cpu.osize, cpu.reg, (value & maskOf(cpu.osize)) >>> 0);
  }
}

/** ARPL */
function adjustRpl(cpu: Cpu): void {
  cpu.fetchModrm();
  cpu.endFetch();
  if (cpu.emulated) return cpu.memory.unhandled();
  if (!cpu.protectedMode) return cpu.undefinedOpcode();
  const destination = cpu.getRm(2);
  const source = cpu.getRegister(2, cpu.reg);
  if ((destination & 3) < (source & 3)) {
    cpu.setRm(2, (destination & ~3) | (source & 3));
    cpu.flags |= ZF;
  } else cpu.flags &= ~ZF;
}

function loadAddress(cpu: Cpu): void {
  cpu.fetchModrm();
  cpu.endFetch();
  if (cpu.mod === 3) return cpu.notThere();
  if (cpu.osize === 8) cpu.setRegister64(cpu.reg, (BigInt(cpu.eaHi >>> 0) << 32n) | BigInt(cpu.eaLo));
  else cpu.setRegister(cpu.osize, cpu.reg, cpu.eaLo);
}

/** LES, LDS and, after 0F, LSS, LFS, LGS */
export function loadFarPointer(cpu: Cpu, segment: number): void {
  cpu.fetchModrm();
  cpu.endFetch();
  const size = cpu.osize;
  if (segment === ES || segment === DS) {
    // C4 and C5 are VEX prefixes there
    if (cpu.mod === 3 || cpu.long) return cpu.memory.unhandled();
  } else if (cpu.mod === 3) return cpu.undefinedOpcode();
  const offset = cpu.readFarPointer(size);
  if (cpu.stopped) return;
  loadSegment(cpu, segment, cpu.farSelector);
  if (size === 8) cpu.setRegister64(cpu.reg, offset);
  else cpu.setRegister(size, cpu.reg, Number(offset));
}

function bound(cpu: Cpu): void {
  cpu.fetchModrm();
  cpu.endFetch();
  if (cpu.long || cpu.emulated) return cpu.memory.unhandled();
  if (cpu.mod === 3) return cpu.undefinedOpcode();
  const index = signed(cpu.osize, cpu.getRegister(cpu.osize, cpu.reg));
  const low = signed(cpu.osize, cpu.getRm(cpu.osize));
  const high = signed(
    cpu.osize,
    cpu.readAt(cpu.eaSegment, addToAddress(cpu, cpu.osize), cpu.eaHi, cpu.osize),
  );
  if (!cpu.stopped && (index < low || index > high)) cpu.fault(BR, NO_CODE);
}

// ---- the stack -----------------------------------------------------------------------------------------------------

export function pushSegment(cpu: Cpu, segment: number): void {
  cpu.endFetch();
  if (cpu.long && segment < 4) return cpu.undefinedOpcode();
  const { selector } = cpu.segments[segment];
  if (cpu.stackSize !== 4) return cpu.push(cpu.stackSize, selector);
  // a selector takes the room of 4 bytes; 2 of them are written
  cpu.moveStack(-2);
  cpu.push(2, selector);
}

export function popSegment(cpu: Cpu, segment: number): void {
  cpu.endFetch();
  if (cpu.long && segment < 4) return cpu.undefinedOpcode();
  const size = cpu.stackSize;
  // Linux's emulator reads the two bytes that count (arch/x86/kvm/emulate.c:em_pop_sreg, 6.1)
  const selector = cpu.emulated
    ? cpu.peek(2)
    : size === 8
      ? Number(cpu.peek64() & 0xffffn)
      : cpu.peek(size) & 0xffff;
  if (cpu.stopped) return;
  loadSegment(cpu, segment, selector);
  if (cpu.stopped) return;
  cpu.moveStack(size);
  if (segment === SS) cpu.leaveShadow(SHADOW_MOV_SS);
}

function pushAll(cpu: Cpu): void {
  if (!notInLong(cpu)) return;
  const { osize } = cpu;
  const top = cpu.getRegister(osize, RSP);
  for (let register = 0; register < 8; register++)
    cpu.push(osize, register === RSP ? top : cpu.getRegister(osize, register));
}

function popAll(cpu: Cpu): void {
  if (!notInLong(cpu)) return;
  const { osize, memory } = cpu;
  cpu.popsMany();
  const before = cpu.emulated ? cpu.r64.slice(0, RSI + 2) : undefined;
  const values = [0, 0, 0, 0, 0, 0, 0, 0];
  for (let register = 7; register >= 0 && !cpu.stopped; register--) {
    if (register === RSP) cpu.moveStack(osize);
    else values[register] = cpu.pop(osize);
    // Linux's emulator fills the registers one by one, and a waiting instruction shows those it has
    if (before !== undefined && register !== RSP) cpu.setRegister(osize, register, values[register]);
  }
  if (before !== undefined) {
    if (memory.stop === EXCEPTION) cpu.r64.set(before);
    return;
  }
  for (let register = 7; register >= 0; register--)
    if (register !== RSP) cpu.setRegister(osize, register, values[register]);
}

/** An address that uses RSP sees it after the POP. */
function popToRm(cpu: Cpu): void {
  const size = cpu.stackSize;
  const before = cpu.r64[RSP];
  cpu.moveStack(size);
  cpu.fetchModrm();
  cpu.endFetch();
  const after = cpu.r64[RSP];
  if ((cpu.modrm & 0x38) !== 0) return cpu.memory.unhandled();
  cpu.r64[RSP] = before;
  const value = size === 8 ? cpu.peek64() : BigInt(cpu.peek(size));
  if (cpu.stopped) return;
  cpu.r64[RSP] = after;
  if (size === 8) cpu.setRm64(value);
  else cpu.setRm(size, Number(value));
}

/**
 * MOV from a segment register, SLDT, STR: two bytes of memory, or a whole register. Linux's emulator writes eight bytes of
 * memory where REX.W asks for them (arch/x86/kvm/emulate.c:em_mov_rm_sreg, em_store_sreg, 6.1; live 6.18).
 */
export function storeSelector(cpu: Cpu, selector: number): void {
  if (cpu.osize === 8 && (cpu.mod === 3 || cpu.emulated)) cpu.setRm64(BigInt(selector));
  else cpu.setRm(cpu.mod === 3 ? cpu.osize : 2, selector);
}

/** ICEBP, INT1: a debug exception whose gate may have any DPL. */
function interruptOne(cpu: Cpu): void {
  cpu.endFetch();
  if (cpu.direct) return trapDirect(cpu, DB);
  if (cpu.emulated) return cpu.unknown();
  if (!cpu.stopped) enterHandler(cpu, DB, "exception", -1, cpu.rip);
}

function enter(cpu: Cpu): void {
  const size = cpu.fetch16();
  const level = cpu.fetch8() & 31;
  cpu.endFetch();
  if (level !== 0 && cpu.emulated) return cpu.unknown();
  // Linux's emulator pushes by the size of the stack, not of the operand (arch/x86/kvm/emulate.c:em_enter, 6.1)
  const width = cpu.emulated ? (cpu.long ? 8 : cpu.segments[SS].db !== 0 ? 4 : 2) : cpu.stackSize;
  if (width === 8) cpu.push64(cpu.r64[RBP]);
  else cpu.push(width, cpu.getRegister(width, RBP));
  const frame = cpu.r64[RSP];
  for (let i = 1; i < level; i++) {
    const offset = -width * i;
    const base = cpu.long
      ? canonical(cpu.r64[RBP])
      : cpu.segments[SS].db !== 0
        ? cpu.r32[2 * RBP]
        : cpu.r16[4 * RBP];
    const at = base + offset;
    if (width === 8) cpu.push64(cpu.readAt64(SS, at >>> 0, Math.floor(at / 2 ** 32) | 0));
    else cpu.push(width, cpu.readAt(SS, cpu.segments[SS].db !== 0 ? at >>> 0 : at & 0xffff, 0, width));
  }
  if (level > 0) {
    if (width === 8) cpu.push64(frame);
    else cpu.push(width, Number(frame & BigInt(maskOf(width))));
  }
  if (cpu.stopped) return;
  cpu.moveStack(-size);
  // a processor asks whether the last word of the frame could be written
  if (!cpu.emulated && !cpu.probeStack(width)) return;
  if (width === 8) cpu.r64[RBP] = frame;
  else cpu.setRegister(width, RBP, Number(frame & 0xffff_ffffn));
}

function leave(cpu: Cpu): void {
  cpu.endFetch();
  const width = cpu.stackSize;
  if (cpu.long) cpu.r64[RSP] = cpu.r64[RBP];
  else if (cpu.segments[SS].db !== 0) cpu.r32[2 * RSP] = cpu.r32[2 * RBP];
  else cpu.r16[4 * RSP] = cpu.r16[4 * RBP];
  if (width === 8) cpu.setRegister64(RBP, cpu.pop64());
  else cpu.setRegister(width, RBP, cpu.pop(width));
}

function returnNear(cpu: Cpu, extra: number): void {
  cpu.nearBranch();
  cpu.endFetch();
  const size = cpu.stackSize;
  const target = size === 8 ? canonical(cpu.pop64()) : cpu.pop(size);
  if (cpu.stopped) return;
  cpu.jumpNear(target);
  if (extra !== 0) cpu.moveStack(extra);
}

/** LOOPNE, LOOPE, LOOP, JCXZ: the counter has the address size. */
function loop(cpu: Cpu, opcode: number): void {
  cpu.nearBranch();
  const displacement = cpu.fetchSigned8();
  cpu.endFetch();
  const { asize } = cpu;
  const counter = cpu.r64[RCX];
  if (opcode !== 0xe3) cpu.advance(RCX, -1);
  const empty =
    asize === 8 ? cpu.r64[RCX] === 0n : asize === 4 ? cpu.r32[2 * RCX] === 0 : cpu.r16[4 * RCX] === 0;
  const zero = (cpu.flags & ZF) !== 0;
  const taken = opcode === 0xe3 ? empty : !empty && (opcode === 0xe2 || zero === (opcode === 0xe1));
  if (!taken) return;
  cpu.jumpNear(cpu.rip + displacement);
  if (cpu.memory.stop !== RUNNING) cpu.r64[RCX] = counter;
}
