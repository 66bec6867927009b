/**
 * Instructions that concern the processor itself: control and debug registers, descriptor tables, MSRs, CPUID, the time
 * stamp counter, HLT, SYSCALL and SYSENTER (Intel SDM volume 2; arch/x86/kvm/x86.c:kvm_set_cr0, kvm_set_cr4, 6.1).
 */
import { MSR_EXIT, MSR_FAULT } from "./bus.ts";
import type { Cpu } from "./cpu.ts";
import { addToAddress, canonical } from "./execute.ts";
import { EXIT_HYPERCALL, EXIT_RDMSR, EXIT_WRMSR, GP, NO_CODE, WRITE } from "./memory.ts";
import {
  CR0,
  CR0_CD,
  CR0_ET,
  CR0_NW,
  CR0_PE,
  CR0_PG,
  CR0_TS,
  CR2,
  CR3,
  CR4,
  CR4_DE,
  CR4_PAE,
  CR4_PCE,
  CR4_PCIDE,
  CR4_TSD,
  CR4_UMIP,
  CS,
  DR0,
  DR6,
  DR7,
  EFER,
  EFER_LMA,
  EFER_LME,
  EFER_SCE,
  FLAG_FIXED,
  GS,
  IF,
  KERNEL_GS_BASE,
  LSTAR,
  RAX,
  RBX,
  RCX,
  RDX,
  RF,
  RSP,
  SS,
  STAR,
  SYSCALL_MASK,
  SYSENTER_CS,
  SYSENTER_EIP,
  SYSENTER_ESP,
  TSC_AUX,
  XCR0,
} from "./state.ts";
import { flagsByPvm } from "./transfer.ts";

/** CR0 bits that exist (CR0_RESERVED_BITS is the rest). */
const CR0_KNOWN = 0xe005_003f;
const LOW32 = 0xffff_ffffn;
const EPERM = 1n;

/** Raises #GP unless at CPL 0: for Linux's emulator that is a matter of SS, in real mode too (live 6.18). */
function privileged(cpu: Cpu): boolean {
  const level = cpu.options.emulated ? cpu.segments[SS].dpl : cpu.cpl;
  if (level !== 0) cpu.fault(GP, 0);
  return !cpu.stopped;
}

export function halt(cpu: Cpu): void {
  if (privileged(cpu)) cpu.halted = true;
}

// ---- control registers ---------------------------------------------------------------------------------------------

/** kvm_set_cr0: #GP for NW without CD, PG without PE, and what long mode forbids. */
export function writeCr0(cpu: Cpu, given: number): void {
  const { state, memory } = cpu;
  const { c32 } = state;
  const value = ((given & CR0_KNOWN) | CR0_ET) >>> 0;
  const old = c32[2 * CR0];
  if ((value & CR0_NW) !== 0 && (value & CR0_CD) === 0) return cpu.fault(GP, 0);
  if ((value & CR0_PG) !== 0 && (value & CR0_PE) === 0) return cpu.fault(GP, 0);
  const turningOn = (old & CR0_PG) === 0 && (value & CR0_PG) !== 0;
  const turningOff = (old & CR0_PG) !== 0 && (value & CR0_PG) === 0;
  const longEnabled = (c32[2 * EFER] & EFER_LME) !== 0;
  if (turningOn && longEnabled && ((c32[2 * CR4] & CR4_PAE) === 0 || cpu.segments[CS].l !== 0))
    return cpu.fault(GP, 0);
  if (turningOff && (cpu.long || (c32[2 * CR4] & CR4_PCIDE) !== 0)) return cpu.fault(GP, 0);
  if (turningOn && !longEnabled && cpu.options.pagingIsLong) return cpu.fault(GP, 0); // (recorded)
  if (cpu.stopped) return;
  c32[2 * CR0] = value;
  if (turningOn && longEnabled) c32[2 * EFER] |= EFER_LMA;
  if (turningOff) c32[2 * EFER] &= ~EFER_LMA;
  memory.flush();
}

function writeCr4(cpu: Cpu, value: bigint): void {
  const { c32 } = cpu.state;
  const lo = Number(value & LOW32);
  if (value >> 32n !== 0n || (lo & ~cpu.bus.allowedCr4()) !== 0) return cpu.fault(GP, 0);
  if (cpu.state.longMode && (lo & CR4_PAE) === 0) return cpu.fault(GP, 0);
  const pcid = (lo & CR4_PCIDE) !== 0 && (c32[2 * CR4] & CR4_PCIDE) === 0;
  if (pcid && (!cpu.state.longMode || (c32[2 * CR3] & 0xfff) !== 0)) return cpu.fault(GP, 0);
  if (cpu.stopped) return;
  c32[2 * CR4] = lo;
  cpu.memory.flush();
}

function writeCr3(cpu: Cpu, value: bigint): void {
  const { c32, c64 } = cpu.state;
  let written = value;
  if ((c32[2 * CR4] & CR4_PCIDE) !== 0) written &= ~(1n << 63n);
  if (cpu.state.longMode && written >> BigInt(cpu.memory.physicalBits) !== 0n) return cpu.fault(GP, 0);
  if (cpu.stopped) return;
  c64[CR3] = written;
  cpu.memory.flush();
}

/** 0F 20, 0F 22: MOV with a control register; the ModRM byte always names a register. */
export function moveControl(cpu: Cpu, toControl: boolean): void {
  cpu.fetchRegisters();
  cpu.endFetch();
  const { state, long } = cpu;
  const number = cpu.reg;
  // Linux's emulator looks at the level first (arch/x86/kvm/emulate.c:x86_emulate_insn, Priv, 6.1)
  if (cpu.options.emulated && !privileged(cpu)) return;
  if (number !== 0 && number !== 2 && number !== 3 && number !== 4 && number !== 8)
    return cpu.undefinedOpcode();
  if (!privileged(cpu)) return;
  if (!toControl) {
    const value =
      number === 8
        ? BigInt(cpu.bus.readCr8())
        : state.c64[number === 0 ? CR0 : number === 2 ? CR2 : number === 3 ? CR3 : CR4];
    return long ? cpu.setRegister64(cpu.rm, value) : cpu.setRegister(4, cpu.rm, Number(value & LOW32));
  }
  // Linux's emulator cuts what goes to CR0 and CR4 to 32 bits (arch/x86/kvm/x86.c:mk_cr_64, 6.1; live 6.18)
  const wide = long && !(cpu.emulated && (number === 0 || number === 4));
  const value = wide ? cpu.r64[cpu.rm] : BigInt(cpu.r32[2 * cpu.rm]);
  switch (number) {
    case 0:
      if (value >> 32n !== 0n) return cpu.fault(GP, 0);
      return writeCr0(cpu, Number(value));
    case 2:
      if (!cpu.stopped) state.c64[CR2] = value;
      return;
    case 3:
      return writeCr3(cpu, value);
    case 4:
      return writeCr4(cpu, value);
    default:
      if (value > 15n) return cpu.fault(GP, 0);
      if (!cpu.stopped) cpu.bus.writeCr8(Number(value));
  }
}

const DR7_GD = 1 << 13;
const DR6_BD = 1 << 13;
const DR6_WRITABLE = 0x1_e80fn;
const DR6_FIXED = 0xfffe_07f0n;
const DR6_RTM = 1n << 16n;
const DR6_BUS_LOCK = 1n << 11n;
const RTM = 1 << 11;
const BUS_LOCK_DETECT = 1 << 24;

/** Bits of DR6 that are ones: those of RTM and bus locks where CPUID has none (arch/x86/kvm/x86.c:kvm_dr6_fixed, 6.1). */
function fixedDebugStatus(cpu: Cpu): bigint {
  cpu.bus.cpuid(7, 0, leaf);
  return (
    DR6_FIXED |
    ((leaf[1] & RTM) === 0 ? DR6_RTM : 0n) |
    ((leaf[2] & BUS_LOCK_DETECT) === 0 ? DR6_BUS_LOCK : 0n)
  );
}

/** 0F 21, 0F 23: MOV with a debug register. DR4 and DR5 are DR6 and DR7 unless CR4.DE is set. */
export function moveDebug(cpu: Cpu, toDebug: boolean): void {
  cpu.fetchRegisters();
  cpu.endFetch();
  const { state, long } = cpu;
  const { c64, c32 } = state;
  let number = cpu.reg;
  if (cpu.options.emulated && !privileged(cpu)) return;
  if (number > 7) return cpu.undefinedOpcode();
  if (number === 4 || number === 5) {
    if ((c32[2 * CR4] & CR4_DE) !== 0) return cpu.undefinedOpcode();
    number += 2;
  }
  if (!privileged(cpu)) return;
  if ((c32[2 * DR7] & DR7_GD) !== 0) {
    c32[2 * DR6] = (c32[2 * DR6] & ~15) | DR6_BD;
    c32[2 * DR7] &= ~DR7_GD;
    return cpu.fault(1, NO_CODE);
  }
  const place = number < 4 ? DR0 + number : number === 6 ? DR6 : DR7;
  if (!toDebug) {
    const value = c64[place];
    return long ? cpu.setRegister64(cpu.rm, value) : cpu.setRegister(4, cpu.rm, Number(value & LOW32));
  }
  const value = long ? cpu.r64[cpu.rm] : BigInt(cpu.r32[2 * cpu.rm]);
  if (number >= 6 && value >> 32n !== 0n) {
    // by their other names Linux's emulator lets DR6 and DR7 be, and does not tell
    if (cpu.reg >= 6 || !cpu.emulated) cpu.fault(GP, 0);
    return;
  }
  if (cpu.stopped) return;
  if (number < 4) c64[place] = value;
  else if (number === 6) c64[place] = (value & DR6_WRITABLE) | fixedDebugStatus(cpu);
  else c64[place] = (value & 0xffff_2bffn) | 0x400n;
  // breakpoints keep their pages out of the cache
  cpu.memory.flush();
}

export function clearTaskSwitched(cpu: Cpu): void {
  cpu.endFetch();
  if (privileged(cpu)) cpu.state.c32[2 * CR0] &= ~CR0_TS;
}

/** LMSW sets the low four bits of CR0 and cannot clear PE. */
function loadMachineStatus(cpu: Cpu): void {
  const value = cpu.getRm(2);
  if (!privileged(cpu)) return;
  const old = cpu.state.c32[2 * CR0];
  writeCr0(cpu, (old & ~0xe) | (value & 0xf));
}

// ---- descriptor tables ---------------------------------------------------------------------------------------------

/** UMIP hides table registers from user programs. */
function hidden(cpu: Cpu): boolean {
  if (cpu.cpl === 0 || (cpu.state.c32[2 * CR4] & CR4_UMIP) === 0) return false;
  cpu.fault(GP, 0);
  return true;
}

function storeTable(cpu: Cpu, which: "gdt" | "idt"): void {
  if (hidden(cpu)) return;
  const table = cpu.state[which];
  // all of it has to be in reach before any of it is written
  cpu.linear(cpu.eaSegment, cpu.eaLo, cpu.eaHi, cpu.long ? 10 : 6, WRITE);
  if (cpu.stopped) return;
  cpu.needsMemory();
  cpu.writeAt(cpu.eaSegment, cpu.eaLo, cpu.eaHi, 2, table.limit);
  const at = addToAddress(cpu, 2);
  if (cpu.long)
    cpu.writeAt64(cpu.eaSegment, at, cpu.eaHi, (BigInt(table.baseHi >>> 0) << 32n) | BigInt(table.baseLo));
  else {
    // 16-bit operands keep 24 bits of the base, on processors of today all
    cpu.writeAt(cpu.eaSegment, at, cpu.eaHi, 4, table.baseLo);
  }
}

function loadTable(cpu: Cpu, which: "gdt" | "idt"): void {
  if (!privileged(cpu)) return;
  // Linux's emulator reads an operand as any other first, and from memory alone then
  if (cpu.options.emulated) {
    if (cpu.osize === 8) cpu.readAt64(cpu.eaSegment, cpu.eaLo, cpu.eaHi);
    else cpu.readAt(cpu.eaSegment, cpu.eaLo, cpu.eaHi, cpu.osize);
  }
  cpu.needsMemory();
  const limit = cpu.readAt(cpu.eaSegment, cpu.eaLo, cpu.eaHi, 2);
  const at = addToAddress(cpu, 2);
  const base = cpu.long
    ? cpu.readAt64(cpu.eaSegment, at, cpu.eaHi)
    : BigInt(cpu.readAt(cpu.eaSegment, at, cpu.eaHi, 4));
  if (cpu.stopped) return;
  const hi = Number(base >> 32n) | 0;
  // 57 bits where the host has them, whatever the guest uses (arch/x86/kvm/x86.h:is_noncanonical_base_address, 6.18)
  if (cpu.long && (hi << 7) >> 7 !== hi) return cpu.fault(GP, 0);
  const table = cpu.state[which];
  table.limit = limit;
  table.baseLo = Number(base & (cpu.osize === 2 && !cpu.long ? 0xff_ffffn : LOW32));
  table.baseHi = hi >>> 0;
}

/** 0F 01 */
export function groupSeven(cpu: Cpu): void {
  cpu.fetchModrm();
  cpu.endFetch();
  const operation = (cpu.modrm >> 3) & 7;
  if (cpu.mod === 3 && operation !== 4 && operation !== 6) return groupSevenRegisters(cpu);
  switch (operation) {
    case 0:
      return storeTable(cpu, "gdt");
    case 1:
      return storeTable(cpu, "idt");
    case 2:
      return loadTable(cpu, "gdt");
    case 3:
      return loadTable(cpu, "idt");
    case 4: {
      if (hidden(cpu)) return;
      const value = cpu.state.c32[2 * CR0];
      if (cpu.mod !== 3) return cpu.setRm(2, value & 0xffff);
      return cpu.osize === 8
        ? cpu.setRegister64(cpu.rm, BigInt(value))
        : cpu.setRegister(cpu.osize, cpu.rm, value);
    }
    case 6:
      return loadMachineStatus(cpu);
    case 7:
      if (!privileged(cpu)) return;
      return cpu.memory.flush();
    default:
      return cpu.memory.unhandled();
  }
}

/** VMCALL, MONITOR, MWAIT, XSETBV: of CPL 0 alone in Linux's emulator (recorded). */
const PRIVILEGED = new Set([0xc1, 0xc8, 0xc9, 0xd1]);

function groupSevenRegisters(cpu: Cpu): void {
  const calls = cpu.direct && (cpu.modrm === 0xc1 || cpu.modrm === 0xd9);
  if (cpu.options.emulated && PRIVILEGED.has(cpu.modrm) && !calls && !privileged(cpu)) return;
  switch (cpu.modrm) {
    case 0xc1: // VMCALL
      return hypercall(cpu);
    case 0xd9: // VMMCALL
      return cpu.options.emulated && !cpu.protectedMode ? cpu.undefinedOpcode() : hypercall(cpu);
    case 0xd0: // XGETBV
      if (cpu.options.emulated) return cpu.memory.unhandled();
      if (cpu.r32[2 * RCX] !== 0) return cpu.fault(GP, 0);
      return setPair(cpu, cpu.state.c64[XCR0]);
    case 0xd1: // XSETBV
      return cpu.options.emulated ? cpu.undefinedOpcode() : cpu.memory.unhandled();
    case 0xf8: // SWAPGS
      return swapGs(cpu);
    case 0xf9: // RDTSCP
      if (cpu.emulated) return cpu.memory.unhandled();
      readTsc(cpu);
      return cpu.setRegister(4, RCX, cpu.state.c32[2 * TSC_AUX]);
    default:
      return cpu.memory.unhandled();
  }
}

/** 0F 18 … with memory operands, CLFLUSH and the like: nothing to do. */
export function hint(cpu: Cpu): void {
  cpu.fetchModrm();
  cpu.endFetch();
}

/** INVD, WBINVD */
export function flushCaches(cpu: Cpu): void {
  cpu.endFetch();
  privileged(cpu);
}

// ---- MSRs, CPUID, time ---------------------------------------------------------------------------------------------

function setPair(cpu: Cpu, value: bigint): void {
  cpu.setRegister(4, RAX, Number(value & LOW32));
  cpu.setRegister(4, RDX, Number(value >> 32n));
}

export function readMsr(cpu: Cpu): void {
  cpu.endFetch();
  if (!privileged(cpu)) return;
  const index = cpu.r32[2 * RCX];
  if (cpu.takeMsrAnswer()) {
    if (cpu.msrFailed) return cpu.fault(GP, 0);
    return setPair(cpu, cpu.msrValue);
  }
  const value = cpu.bus.readMsr(index);
  if (value === MSR_EXIT) return cpu.memory.wait(EXIT_RDMSR, index, 8);
  if (value === undefined) return cpu.fault(GP, 0);
  setPair(cpu, value);
}

export function writeMsr(cpu: Cpu): void {
  cpu.endFetch();
  if (!privileged(cpu)) return;
  const index = cpu.r32[2 * RCX];
  if (cpu.takeMsrAnswer()) {
    if (cpu.msrFailed) cpu.fault(GP, 0);
    return;
  }
  cpu.msrValue = (BigInt(cpu.r32[2 * RDX]) << 32n) | BigInt(cpu.r32[2 * RAX]);
  const result = cpu.bus.writeMsr(index, cpu.msrValue);
  if (result === MSR_EXIT) return cpu.memory.wait(EXIT_WRMSR, index, 8);
  if (result === MSR_FAULT) cpu.fault(GP, 0);
}

const leaf = new Uint32Array(4);

export function cpuid(cpu: Cpu): void {
  cpu.endFetch();
  if (cpu.stopped) return;
  cpu.bus.cpuid(cpu.r32[2 * RAX], cpu.r32[2 * RCX], leaf);
  cpu.setRegister(4, RAX, leaf[0]);
  cpu.setRegister(4, RBX, leaf[1]);
  cpu.setRegister(4, RCX, leaf[2]);
  cpu.setRegister(4, RDX, leaf[3]);
}

function readTsc(cpu: Cpu): void {
  if (cpu.cpl !== 0 && (cpu.state.c32[2 * CR4] & CR4_TSD) !== 0) return cpu.fault(GP, 0);
  setPair(cpu, cpu.bus.readTsc());
}

export function timeStamp(cpu: Cpu): void {
  cpu.endFetch();
  readTsc(cpu);
}

export function readCounter(cpu: Cpu): void {
  cpu.endFetch();
  if (cpu.cpl !== 0 && (cpu.state.c32[2 * CR4] & CR4_PCE) === 0) return cpu.fault(GP, 0);
  const value = cpu.bus.readPmc(cpu.r32[2 * RCX]);
  if (value === undefined) return cpu.fault(GP, 0);
  setPair(cpu, value);
}

/**
 * VMCALL is Intel's, VMMCALL AMD's. Where the processor knows only the other one, KVM writes that over the instruction and
 * runs it again, or raises #UD if user space asked for that (arch/x86/kvm/x86.c:emulator_fix_hypercall, 6.1). So does pvm,
 * whose emulator gives neither to the processor: for ever (live 6.18).
 */
function hypercall(cpu: Cpu): void {
  const { emulated, hypercall: known } = cpu.options;
  if (cpu.direct && cpu.modrm === known) return cpu.setRegister64(RAX, BigInt.asUintN(64, -EPERM));
  if (emulated || cpu.modrm !== known) {
    if (!cpu.bus.fixesHypercalls()) return cpu.undefinedOpcode();
    [0x0f, 0x01, known].forEach((byte, i) => {
      cpu.memory.write(cpu.startLinear + i, 1, byte, cpu.user);
    });
    cpu.rip = cpu.start;
    return;
  }
  if (cpu.takeMsrAnswer()) return cpu.setRegister64(RAX, cpu.msrValue);
  const result = cpu.bus.hypercall();
  if (result === undefined) return cpu.memory.wait(EXIT_HYPERCALL, 0, 8);
  cpu.setRegister64(RAX, BigInt.asUintN(64, result));
}

// ---- system calls --------------------------------------------------------------------------------------------------

function swapGs(cpu: Cpu): void {
  // pvm does it in the emulator's place, in every mode (recorded)
  if (!cpu.long && !cpu.options.emulated) return cpu.notThere();
  if (cpu.emulated && !cpu.help()) return;
  if (!privileged(cpu)) return;
  const gs = cpu.segments[GS];
  const { c32 } = cpu.state;
  const lo = gs.baseLo;
  const hi = gs.baseHi;
  gs.baseLo = c32[2 * KERNEL_GS_BASE];
  gs.baseHi = c32[2 * KERNEL_GS_BASE + 1];
  c32[2 * KERNEL_GS_BASE] = lo;
  c32[2 * KERNEL_GS_BASE + 1] = hi;
}

/** A flat segment, as SYSCALL and SYSENTER make them. */
function setFlat(cpu: Cpu, index: number, selector: number, dpl: number, long: boolean): void {
  const segment = cpu.segments[index];
  segment.selector = selector & 0xffff;
  segment.dpl = dpl;
  // of real mode pvm leaves the rest (live 6.18)
  if (!cpu.protectedMode) return;
  segment.baseLo = 0;
  segment.baseHi = 0;
  segment.limit = 0xffff_ffff;
  segment.g = 1;
  segment.s = 1;
  segment.present = 1;
  segment.avl = 0;
  segment.unusable = 0;
  segment.type = index === CS ? 11 : 3;
  segment.l = index === CS && long ? 1 : 0;
  segment.db = index === CS && long ? 0 : 1;
}

/**
 * SYSCALL of 64-bit mode; elsewhere it is AMD's alone. Where the processor runs the guest for pvm, the code of the target is
 * that of the caller: it stays on CPL 3 (live 6.18).
 */
export function systemCall(cpu: Cpu): void {
  cpu.endFetch();
  const { c32, c64 } = cpu.state;
  if (cpu.direct) return systemCallDirect(cpu);
  if (!cpu.long || (c32[2 * EFER] & EFER_SCE) === 0) return cpu.undefinedOpcode();
  if (cpu.stopped) return;
  cpu.r64[RCX] = BigInt.asUintN(64, BigInt(cpu.rip));
  cpu.r64[11] = BigInt(cpu.flags & ~RF);
  const selector = c32[2 * STAR + 1] & 0xffff;
  setFlat(cpu, CS, selector & 0xfffc, 0, true);
  setFlat(cpu, SS, selector + 8, 0, true);
  cpu.flags = (cpu.flags & ~(c32[2 * SYSCALL_MASK] | RF)) | FLAG_FIXED;
  cpu.rip = canonical(c64[LSTAR]);
}

function systemCallDirect(cpu: Cpu): void {
  if (cpu.stopped) return;
  const { c32, c64 } = cpu.state;
  cpu.r64[RCX] = BigInt.asUintN(64, BigInt(cpu.rip));
  // the processor's own IF, which is always set while a guest runs
  const flags = (cpu.flags & ~RF) | IF;
  cpu.r64[11] = BigInt(flags);
  cpu.flags = (flags & ~(c32[2 * SYSCALL_MASK] | RF)) | FLAG_FIXED;
  cpu.rip = canonical(c64[LSTAR]);
}

/** An AMD processor lets a target that is not canonical fault at CPL 3, one of Intel's refuses the instruction. */
export function systemReturn(cpu: Cpu): void {
  const { c32 } = cpu.state;
  if (cpu.options.emulated) return systemReturnByPvm(cpu);
  cpu.endFetch();
  if (!cpu.long || (c32[2 * EFER] & EFER_SCE) === 0) return cpu.undefinedOpcode();
  if (!privileged(cpu)) return;
  const long = cpu.osize === 8;
  const selector = c32[2 * STAR + 1] >>> 16;
  const target = long ? canonical(cpu.r64[RCX]) : cpu.r32[2 * RCX];
  if (cpu.options.intel && long && !isCanonical(cpu.r64[RCX])) return cpu.fault(GP, 0);
  setFlat(cpu, CS, (long ? selector + 16 : selector) | 3, 3, long);
  setFlat(cpu, SS, (selector + 8) | 3, 3, true);
  cpu.flags = (Number(cpu.r64[11] & 0x3c_7fd7n) & ~RF) | FLAG_FIXED;
  cpu.long = long;
  cpu.rip = target;
}

/**
 * pvm does it in every mode, LOCK or not, and always as to 64-bit code: to the whole of RCX. Of the segments it changes only
 * selectors and levels (live 6.18).
 */
function systemReturnByPvm(cpu: Cpu): void {
  cpu.lock = false;
  cpu.endFetch();
  if (!cpu.help() || !privileged(cpu)) return;
  const selector = cpu.state.c32[2 * STAR + 1] >>> 16;
  const code = cpu.segments[CS];
  const stack = cpu.segments[SS];
  code.selector = ((selector + 16) | 3) & 0xffff;
  stack.selector = ((selector + 8) | 3) & 0xffff;
  code.dpl = stack.dpl = 3;
  const flags = cpu.r32[2 * 11];
  cpu.flags = flagsByPvm(flags, flags);
  cpu.rip = canonical(cpu.r64[RCX]);
}

const isCanonical = (address: bigint): boolean => BigInt.asUintN(64, BigInt.asIntN(48, address)) === address;

export function systemEnter(cpu: Cpu): void {
  cpu.endFetch();
  const { c32, c64 } = cpu.state;
  // KVM does it for a processor of AMD's, which has none in long mode (live 6.18; 7.2)
  if (cpu.long && !cpu.options.intel)
    return cpu.direct ? cpu.refuse() : cpu.user !== 0 ? cpu.undefinedOpcode() : cpu.unknown();
  if (!cpu.protectedMode || (c32[2 * SYSENTER_CS] & 0xfffc) === 0) return cpu.fault(GP, 0);
  if (cpu.stopped) return;
  const long = cpu.state.longMode;
  const selector = c32[2 * SYSENTER_CS] & 0xfffc;
  cpu.flags &= ~(0x2_0200 | RF);
  setFlat(cpu, CS, selector, 0, long);
  setFlat(cpu, SS, selector + 8, 0, true);
  cpu.segments[SS].db = 1;
  cpu.long = long;
  cpu.rip = long ? canonical(c64[SYSENTER_EIP]) : c32[2 * SYSENTER_EIP];
  cpu.r64[RSP] = long ? c64[SYSENTER_ESP] : BigInt(c32[2 * SYSENTER_ESP]);
}

export function systemExit(cpu: Cpu): void {
  cpu.endFetch();
  const { c32 } = cpu.state;
  if (!cpu.protectedMode || cpu.cpl !== 0 || (c32[2 * SYSENTER_CS] & 0xfffc) === 0) return cpu.fault(GP, 0);
  if (cpu.stopped) return;
  const long = cpu.osize === 8;
  if (long && !(isCanonical(cpu.r64[RDX]) && isCanonical(cpu.r64[RCX]))) return cpu.fault(GP, 0);
  const selector = c32[2 * SYSENTER_CS] & 0xfffc;
  const target = long ? canonical(cpu.r64[RDX]) : cpu.r32[2 * RDX];
  const pointer = long ? cpu.r64[RCX] : BigInt(cpu.r32[2 * RCX]);
  setFlat(cpu, CS, (selector + (long ? 32 : 16)) | 3, 3, long);
  setFlat(cpu, SS, (selector + (long ? 40 : 24)) | 3, 3, true);
  cpu.long = long;
  cpu.rip = target;
  cpu.r64[RSP] = pointer;
}
