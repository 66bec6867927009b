/**
 * An x86 processor that runs machine code: fetch, decode, operands, the stack, and the end of an instruction. What the
 * instructions do stands in the execute files. It knows the machine around it by `Bus` only.
 *
 * The subset: 16-bit real mode, 16- and 32-bit protected mode, 64-bit and compatibility mode; integer instructions as
 * the execute files list them. Missing: virtual-8086 mode, task switches and call gates, x87, MMX, SSE and what came
 * after, moves of whole registers excepted. What is missing stops with UNHANDLED, never silently.
 *
 * `step` runs one instruction, or one round of a repeated one. An instruction that stops (see memory.ts) leaves
 * registers and flags as they were: nothing is written to a register once `stop` is set, and flags and RSP, which
 * instructions change before their last access, are put back; IRET, RETF and what goes to a handler check everything
 * before they change a segment register. Where Linux's emulator leaves something behind, so does this one.
 *
 * Under pvm the emulator runs all code but that of CPL 3 in 64-bit mode (`direct`): the processor runs that, and the
 * emulator only what faults there. Missing of it: LAR, LSL, VERR and VERW by the host's descriptors, XGETBV, loads of the
 * host's own selectors, the processor number of RDTSCP, TF at SYSCALL. Not judged by a real kernel: limits of code and
 * stacks, and targets that are not canonical, for processors other than pvm's; they are the manual's.
 */
import { Alu } from "./alu.ts";
import type { Bus } from "./bus.ts";
import { execute } from "./execute.ts";
import { lockable } from "./lock.ts";
import {
  AC_FAULT,
  BP,
  DB,
  EXCEPTION,
  GP,
  Memory,
  NO_CODE,
  OFLOW,
  PAGE_FAULT,
  READ,
  RETRY,
  RUNNING,
  SHUTDOWN,
  SS_FAULT,
  UD,
  UNHANDLED,
  WAITING,
  WRITE,
} from "./memory.ts";
import {
  AC,
  type CpuState,
  CR0,
  CR0_AM,
  CR0_PE,
  CS,
  DS,
  EFER,
  EFER_LMA,
  ES,
  FS,
  GS,
  IOPL,
  NT,
  RBP,
  RBX,
  RDI,
  RF,
  RFLAGS,
  RIP,
  RSI,
  RSP,
  type Segment,
  SS,
  TF,
  VM,
} from "./state.ts";
import { enterHandler, type Source } from "./transfer.ts";

/** Flags that the processor has when it runs a guest for pvm: not those of privileged code. */
const DIRECT_FLAGS = 0x3f_7fd7 & ~(IOPL | NT);

const TRAPS: ReadonlySet<number> = new Set([DB, BP, OFLOW]);

export const REP = 0xf3;
export const REPNE = 0xf2;

/** How the processor differs, to be set from outside. */
export interface CpuOptions {
  /**
   * Instructions are run by Linux's own emulator (arch/x86/kvm/emulate.c), which knows fewer of them: what it refuses
   * stops as UNHANDLED. In 64-bit mode pvm does some of it itself (IRETQ, SWAPGS, SYSRET; UD2 in every mode): `refused`.
   */
  emulated: boolean;
  /** what the emulator refuses pvm may do in its place (`help`); not where it is lent for one instruction */
  helps: boolean;
  /** OUT is done again after the exit, as where a processor runs the guest; else it is over before the exit */
  portRestarts: boolean;
  /** the last byte of the hypercall that it knows: 0xc1 of VMCALL, 0xd9 of VMMCALL */
  hypercall: 0xc1 | 0xd9;
  /** paging without long mode shuts the processor down (pvm) */
  pagingIsLong: boolean;
  /** one of Intel's, where that differs from AMD's: SYSENTER in 64-bit mode, SYSRET to where nothing can be */
  intel: boolean;
}

export class Cpu {
  readonly state: CpuState;
  readonly bus: Bus;
  readonly memory: Memory;
  readonly alu: Alu;
  readonly options: CpuOptions;
  readonly r64: BigUint64Array;
  readonly r32: Uint32Array;
  readonly r16: Uint16Array;
  readonly r8: Uint8Array;
  readonly segments: readonly Segment[];

  // ---- the present instruction ----------------------------------------------------------------------------------
  /** 64-bit mode */
  long = false;
  protectedMode = false;
  /** CPL 3, as 0 or 1 */
  user = 0;
  /** 64-bit code of CPL 3 where Linux's emulator runs privileged code (pvm): the processor runs it */
  direct = false;
  /** the instruction that is over was not `direct`, the next one is: KVM looks at events before it */
  entersDirect = false;
  /** Linux's emulator runs the present instruction: not `direct` */
  emulated = false;
  /** data has to lie at multiples of its width */
  #aligned = false;
  cpl = 0;
  /** size of operands and addresses in bytes: 2, 4 or 8 */
  osize = 2;
  asize = 2;
  rex = 0;
  operandPrefix = false;
  lock = false;
  /** the opcode; after 0F with 0x100 added */
  opcode = 0;
  /** REP, REPNE or 0 */
  repeat = 0;
  /** a segment prefix, or −1 */
  segmentOverride = -1;
  modrm = 0;
  mod = 0;
  reg = 0;
  rm = 0;
  /** the effective address of a memory operand, and its segment */
  eaLo = 0;
  eaHi = 0;
  eaSegment = DS;
  /** where the next instruction starts; jumps write it */
  rip = 0;
  /** where the present one starts */
  start = 0;
  /** the same as a linear address */
  startLinear = 0;
  /** HLT was executed */
  halted = false;
  /** the interrupt shadow that this instruction leaves */
  shadow = 0;
  /** Linux's emulator refused the instruction, and the flavour did it itself (see `CpuOptions.emulated`) */
  refused = false;
  /** the flavour did the instruction, whether or not the emulator was asked before */
  helped = false;
  /** INT3 is for a debugger outside of the guest: it stops as an exception before it is done */
  breakpointTrapped = false;
  /** a repeated instruction stops after each round: something traps it */
  roundsTrapped = false;
  /** a repeated instruction has more rounds */
  again = false;

  /** what ports gave and string instructions have not taken yet */
  readonly portBuffer = new Uint8Array(1024);
  portAt = 0;
  portEnd = 0;
  /** user space has just filled the buffer; what an instruction leaves in it is forgotten by the next one */
  portAnswered = false;

  /** Linux's emulator finishes a repeated instruction in the processor's place */
  keepsFlags = false;
  /** of the last INT n */
  vector = 0;
  /** where the event came from that stopped as VECTORING */
  source: Source = "external";
  /** what user space answered to an MSR access or a hypercall, for the instruction that waits */
  msrAnswered = false;
  msrFailed = false;
  msrValue = 0n;

  // the code page that is being read
  #code: Uint8Array;
  #codeAt = 0;
  #codeEnd = 0;
  /** bytes of the instruction that were in pages before */
  #codeBefore = 0;
  #codeStart = 0;
  #savedFlags = 0;
  #savedRspLo = 0;
  #savedRspHi = 0;
  /** the processor runs the guest for pvm since the last instruction */
  #entered = false;
  /** Linux's emulator was asked for an instruction of such a guest, and refused it */
  #emulatorRefused = false;

  constructor(state: CpuState, bus: Bus, options: Partial<CpuOptions> = {}) {
    this.state = state;
    this.bus = bus;
    this.memory = new Memory(state, bus);
    this.memory.rootIsMemory = options.emulated === true;
    this.alu = new Alu(state);
    this.options = {
      emulated: false,
      helps: options.emulated === true,
      portRestarts: false,
      hypercall: 0xc1,
      pagingIsLong: false,
      intel: false,
      ...options,
    };
    this.r64 = state.r64;
    this.r32 = state.r32;
    this.r16 = state.r16;
    this.r8 = state.r8;
    this.segments = state.segments;
    this.#code = new Uint8Array(0);
  }

  // ---- one instruction ---------------------------------------------------------------------------------------------

  /** Runs one instruction: RUNNING, or why it stopped. What comes of it is the caller's. */
  step(): number {
    const { memory, r32 } = this;
    memory.stop = RUNNING;
    memory.logAt = 0;
    memory.begin();
    memory.refuses = RUNNING;
    memory.keepsAll = false;
    if (!this.portAnswered) this.portAt = this.portEnd = 0;
    this.portAnswered = false;
    this.halted = false;
    this.again = false;
    this.refused = false;
    this.shadow = 0;
    this.#savedFlags = r32[2 * RFLAGS];
    this.#savedRspLo = r32[2 * RSP];
    this.#savedRspHi = r32[2 * RSP + 1];
    this.#mode();
    this.rip = this.start = this.#readRip();
    this.#startFetch();
    if (this.direct && !this.#entered) this.#savedFlags = r32[2 * RFLAGS] &= DIRECT_FLAGS;
    if ((this.#savedFlags & RF) !== 0) r32[2 * RFLAGS] &= ~RF;
    this.#emulatorRefused = false;
    if (memory.stop === RUNNING) this.#decode();
    // what the flavour does in the emulator's place it does at once for code that the processor runs
    this.helped = this.refused;
    if (this.direct) this.refused = this.#emulatorRefused;
    if (memory.stop !== RUNNING) {
      if (memory.stop !== WAITING) memory.postedCount = 0;
      r32[2 * RFLAGS] = this.#savedFlags;
      // the processor gave up on it, and KVM's emulator does it
      if ((memory.stop === WAITING || memory.stop === UNHANDLED) && this.direct) r32[2 * RFLAGS] |= RF;
      this.#entered = false;
      // INT3 and its like are over
      if (this.direct && memory.stop === EXCEPTION && TRAPS.has(memory.vector)) r32[2 * RFLAGS] &= ~RF;
      if (memory.stop !== WAITING || !this.options.emulated) {
        r32[2 * RSP] = this.#savedRspLo;
        r32[2 * RSP + 1] = this.#savedRspHi;
      }
      if (memory.stop === RETRY) {
        memory.stop = RUNNING;
        memory.forget();
      }
      return memory.stop;
    }
    memory.forget();
    this.entersDirect = this.options.emulated && !this.direct && this.long && this.segments[SS].dpl === 3;
    this.#entered = this.direct && !this.helped && memory.postedCount === 0;
    // RF: a repeated instruction that is left and taken up again is not trapped a second time
    if (this.again) r32[2 * RFLAGS] |= RF;
    this.#writeRip(this.again ? this.start : this.rip);
    // pvm does not touch it, but for IRETQ (live 6.18)
    if (!this.helped || !this.emulated || this.opcode === 0xcf) this.state.shadow = this.shadow;
    return RUNNING;
  }

  /** Until `refuses` is put back, accesses that are not to memory are none that Linux's emulator can do. */
  needsMemory(): void {
    if (this.options.emulated && this.memory.refuses === RUNNING) this.memory.refuses = RETRY;
  }

  /**
   * The instruction takes several values off the stack. Linux's emulator leaves RSP where it is when the instruction has to
   * wait, so that run again it takes the rest from further up; the values that it has, it keeps.
   */
  popsMany(): void {
    this.memory.keepsAll = this.options.emulated;
  }

  /**
   * The instruction leaves an interrupt shadow. Linux's emulator casts one for every STI, and none where the same one lies
   * already (arch/x86/kvm/x86.c:toggle_interruptibility, 6.1).
   */
  leaveShadow(shadow: number): void {
    const twice = this.options.emulated && (this.state.shadow & shadow) !== 0;
    this.shadow = twice ? 0 : shadow;
  }

  /** Goes to the handler of an event between two instructions: RUNNING, or why that cannot be. */
  deliver(vector: number, source: Source, errorCode: number): number {
    const { memory, r32 } = this;
    memory.stop = RUNNING;
    this.#savedFlags = r32[2 * RFLAGS];
    this.#savedRspLo = r32[2 * RSP];
    this.#savedRspHi = r32[2 * RSP + 1];
    this.#mode();
    this.rip = this.start = this.#readRip();
    this.osize = this.long ? 8 : 4;
    if (this.options.emulated) memory.refuses = SHUTDOWN;
    enterHandler(this, vector, source, errorCode, this.rip);
    memory.refuses = RUNNING;
    // where pvm meets a page fault on its way to a handler it gives up (recorded)
    if (this.options.emulated && memory.stop === EXCEPTION && memory.vector === PAGE_FAULT)
      memory.stop = SHUTDOWN;
    if (memory.stop !== RUNNING) {
      r32[2 * RFLAGS] = this.#savedFlags;
      r32[2 * RSP] = this.#savedRspLo;
      r32[2 * RSP + 1] = this.#savedRspHi;
      return memory.stop;
    }
    this.#writeRip(this.rip);
    this.state.shadow = 0;
    return RUNNING;
  }

  /** The linear address of the next instruction. */
  codeAddress(): number {
    this.#mode();
    const rip = this.#readRip();
    return this.long ? rip : (this.segments[CS].baseLo + rip) >>> 0;
  }

  /** A round of a repeated instruction is over: what comes after does not undo it. */
  endRound(): void {
    // Linux's emulator keeps the flags to itself until the instruction is over
    if (!this.emulated && !this.keepsFlags) this.#savedFlags = this.r32[2 * RFLAGS] | RF;
    this.memory.forget();
    this.memory.logAt = 0;
    this.memory.begin();
  }

  #mode(): void {
    const { c32 } = this.state;
    const code = this.segments[CS];
    this.protectedMode = (c32[2 * CR0] & CR0_PE) !== 0;
    this.long = code.l !== 0 && (c32[2 * EFER] & EFER_LMA) !== 0;
    this.cpl = this.protectedMode ? this.segments[SS].dpl : 0;
    this.user = this.cpl === 3 ? 1 : 0;
    const { emulated } = this.options;
    this.direct = emulated && this.long && this.user !== 0;
    this.emulated = emulated && !this.direct;
    if (emulated) this.roundsTrapped = this.direct && (this.r32[2 * RFLAGS] & TF) !== 0;
    const flags = this.r32[2 * RFLAGS];
    // for pvm CR0.AM is the host's, and set
    this.#aligned =
      (flags & AC) !== 0 && this.user !== 0 && (emulated ? this.direct : (c32[2 * CR0] & CR0_AM) !== 0);
    if ((this.r32[2 * RFLAGS] & VM) !== 0 && this.protectedMode) this.memory.unhandled();
  }

  #readRip(): number {
    const lo = this.r32[2 * RIP];
    const hi = this.r32[2 * RIP + 1];
    // Linux's emulator finds no code above 4 GiB outside of 64-bit mode
    return this.long || (this.options.emulated && hi !== 0) ? (hi | 0) * 2 ** 32 + lo : lo;
  }

  #writeRip(rip: number): void {
    this.r32[2 * RIP] = rip;
    this.r32[2 * RIP + 1] = this.long || this.options.emulated ? Math.floor(rip / 2 ** 32) : 0;
  }

  /** Points RIP somewhere, from outside of an instruction. */
  jump(rip: number): void {
    this.r32[2 * RIP] = rip;
    this.r32[2 * RIP + 1] = Math.floor(rip / 2 ** 32);
  }

  // ---- fetch -------------------------------------------------------------------------------------------------------

  #startFetch(): void {
    this.#codeBefore = 0;
    this.#findCode(this.rip);
    this.#codeStart = this.#codeAt;
  }

  /** The page that holds the code at `rip`, up to its end or that of the segment. */
  #findCode(rip: number): void {
    const { memory } = this;
    let linear = rip;
    let left = 4096;
    if (this.long) {
      const hi = Math.floor(rip / 2 ** 32);
      if ((hi << 16) >> 16 !== hi) return memory.raise(GP, 0);
    } else {
      const code = this.segments[CS];
      left = code.limit - rip + 1;
      if (left <= 0 || rip < 0 || (code.unusable !== 0 && this.options.emulated)) return memory.raise(GP, 0);
      linear = (code.baseLo + rip) >>> 0;
    }
    if (this.#codeBefore === 0) this.startLinear = linear;
    if (!memory.findCode(linear, this.user)) return;
    const offset = linear & 4095;
    this.#code = memory.codeBytes;
    this.#codeAt = memory.codeAt + offset;
    this.#codeEnd = this.#codeAt + Math.min(4096 - offset, left);
  }

  fetch8(): number {
    if (this.#codeAt < this.#codeEnd) return this.#code[this.#codeAt++];
    if (this.memory.stop !== RUNNING) return 0;
    const length = this.#codeBefore + this.#codeAt - this.#codeStart;
    this.#codeBefore = length;
    this.#findCode(this.long ? this.start + length : (this.start + length) % 2 ** 32);
    this.#codeStart = this.#codeAt;
    if (this.memory.stop !== RUNNING) {
      this.#codeEnd = this.#codeAt;
      return 0;
    }
    return this.#code[this.#codeAt++];
  }

  /** The byte that comes next, without taking it. */
  peekModrm(): number {
    const at = this.#codeAt;
    if (at < this.#codeEnd) return this.#code[at];
    const byte = this.fetch8();
    // it is the first of its page now: it can be given back
    if (this.memory.stop === RUNNING) this.#codeAt--;
    return byte;
  }

  fetch16(): number {
    return this.fetch8() | (this.fetch8() << 8);
  }

  fetch32(): number {
    return (this.fetch16() | (this.fetch16() << 16)) >>> 0;
  }

  /** A byte, extended by its sign. */
  fetchSigned8(): number {
    return (this.fetch8() << 24) >> 24;
  }

  /** An immediate of the operand size, 4 bytes at most, as a signed number. */
  fetchImmediate(width: number): number {
    return width === 1
      ? this.fetchSigned8()
      : width === 2
        ? (this.fetch16() << 16) >> 16
        : this.fetch32() | 0;
  }

  /** Every byte is fetched: RIP stands behind the instruction, and what jumps may write it. */
  endFetch(): void {
    const length = this.#codeBefore + this.#codeAt - this.#codeStart;
    if (length > 15) this.memory.raise(GP, 0);
    if (this.lock && !lockable(this.opcode, this.mod, this.modrm)) this.undefinedOpcode();
    this.rip = this.long ? this.start + length : (this.start + length) % 2 ** 32;
  }

  /** An instruction that is fetched, and not known: LOCK before it is #UD all the same. */
  unknown(): void {
    if (this.memory.stop === RUNNING) this.memory.unhandled();
  }

  // ---- decode ------------------------------------------------------------------------------------------------------

  #decode(): void {
    const wide = this.long || this.segments[CS].db !== 0;
    this.asize = this.long ? 8 : wide ? 4 : 2;
    this.osize = wide ? 4 : 2;
    this.rex = 0;
    this.operandPrefix = false;
    this.lock = false;
    this.repeat = 0;
    this.segmentOverride = -1;
    for (let count = 0; count < 16; count++) {
      const byte = this.fetch8();
      switch (byte) {
        case 0x66:
          this.operandPrefix = true;
          this.osize = wide ? 2 : 4;
          break;
        case 0x67:
          this.asize = this.long ? 4 : wide ? 2 : 4;
          break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
          // 64-bit mode ignores them; Linux's emulator minds them when it names a fault
          if (!this.long || this.options.emulated) this.segmentOverride = (byte >> 3) & 3;
          break;
        case 0x64:
          this.segmentOverride = FS;
          break;
        case 0x65:
          this.segmentOverride = GS;
          break;
        case 0xf0:
          this.lock = true;
          break;
        case REP:
        case REPNE:
          this.repeat = byte;
          break;
        default:
          if (this.long && (byte & 0xf0) === 0x40) {
            this.rex = byte;
            continue;
          }
          if ((this.rex & 8) !== 0) this.osize = 8;
          this.opcode = byte;
          this.mod = 3;
          execute(this, byte);
          return;
      }
      this.rex = 0;
    }
    this.memory.raise(GP, 0);
  }

  /** ModRM, SIB and displacement. `immediate`: how many bytes follow, for addresses relative to RIP. */
  fetchModrm(immediate = 0): void {
    const byte = this.fetch8();
    this.modrm = byte;
    this.mod = byte >> 6;
    this.reg = ((byte >> 3) & 7) | ((this.rex & 4) << 1);
    this.rm = (byte & 7) | ((this.rex & 1) << 3);
    if (this.mod === 3) return;
    if (this.asize === 2) this.#address16();
    else this.#address(immediate);
    if (this.segmentOverride >= 0) this.eaSegment = this.segmentOverride;
  }

  /** A ModRM byte that names two registers whatever its mode says. */
  fetchRegisters(): void {
    const byte = this.fetch8();
    this.modrm = byte;
    this.mod = 3;
    this.reg = ((byte >> 3) & 7) | ((this.rex & 4) << 1);
    this.rm = (byte & 7) | ((this.rex & 1) << 3);
  }

  #address16(): void {
    const { r16 } = this;
    const low = this.modrm & 7;
    let address = 0;
    this.eaSegment = DS;
    switch (low) {
      case 0:
        address = r16[4 * RBX] + r16[4 * RSI];
        break;
      case 1:
        address = r16[4 * RBX] + r16[4 * RDI];
        break;
      case 2:
        address = r16[4 * RBP] + r16[4 * RSI];
        this.eaSegment = SS;
        break;
      case 3:
        address = r16[4 * RBP] + r16[4 * RDI];
        this.eaSegment = SS;
        break;
      case 4:
        address = r16[4 * RSI];
        break;
      case 5:
        address = r16[4 * RDI];
        break;
      case 6:
        if (this.mod === 0) address = this.fetch16();
        else {
          address = r16[4 * RBP];
          this.eaSegment = SS;
        }
        break;
      default:
        address = r16[4 * RBX];
    }
    if (this.mod === 1) address += this.fetchSigned8();
    else if (this.mod === 2) address += this.fetch16();
    this.eaLo = address & 0xffff;
    this.eaHi = 0;
  }

  /** 32- and 64-bit addresses: base + index · scale + displacement, in halves. */
  #address(immediate: number): void {
    const { r32 } = this;
    let lo = 0;
    let hi = 0;
    let relative = false;
    this.eaSegment = DS;
    const low = this.modrm & 7;
    if (low === 4) {
      const sib = this.fetch8();
      const base = (sib & 7) | ((this.rex & 1) << 3);
      const index = ((sib >> 3) & 7) | ((this.rex & 2) << 2);
      if ((sib & 7) === 5 && this.mod === 0) lo = this.fetch32() | 0;
      else {
        lo = r32[2 * base];
        hi = r32[2 * base + 1];
        if (base === RSP || base === RBP) this.eaSegment = SS;
      }
      if (lo < 0) hi -= 1;
      lo >>>= 0;
      if (index !== RSP) {
        const scale = 1 << (sib >> 6);
        lo += r32[2 * index] * scale;
        hi += r32[2 * index + 1] * scale;
      }
    } else if (low === 5 && this.mod === 0) {
      lo = this.fetch32() | 0;
      if (lo < 0) hi = -1;
      lo >>>= 0;
      relative = this.long;
    } else {
      lo = r32[2 * this.rm];
      hi = r32[2 * this.rm + 1];
      if (this.rm === RBP) this.eaSegment = SS;
    }
    if (this.mod !== 0) {
      const displacement = this.mod === 1 ? this.fetchSigned8() : this.fetch32() | 0;
      lo += displacement >>> 0;
      if (displacement < 0) hi -= 1;
    }
    if (relative) {
      const length = this.#codeBefore + this.#codeAt - this.#codeStart + immediate;
      const next = this.start + length;
      lo += next >>> 0;
      hi += Math.floor(next / 2 ** 32);
    }
    this.eaHi = this.asize === 8 ? (hi + Math.floor(lo / 2 ** 32)) | 0 : 0;
    this.eaLo = lo >>> 0;
  }

  // ---- registers ---------------------------------------------------------------------------------------------------

  /** A register of 1, 2 or 4 bytes. */
  getRegister(width: number, index: number): number {
    if (width === 4) return this.r32[2 * index];
    if (width === 2) return this.r16[4 * index];
    return this.rex !== 0 || index < 4 ? this.r8[8 * index] : this.r8[8 * (index - 4) + 1];
  }

  setRegister(width: number, index: number, value: number): void {
    if (this.memory.stop !== RUNNING) return;
    if (width === 4) {
      this.r32[2 * index] = value;
      this.r32[2 * index + 1] = 0;
    } else if (width === 2) this.r16[4 * index] = value;
    else if (this.rex !== 0 || index < 4) this.r8[8 * index] = value;
    else this.r8[8 * (index - 4) + 1] = value;
  }

  setRegister64(index: number, value: bigint): void {
    if (this.memory.stop === RUNNING) this.r64[index] = value;
  }

  /** An address register (RSI, RDI, RCX as a counter, RBX) by the address size, in halves. */
  addressRegister(index: number): void {
    const lo = this.r32[2 * index];
    this.eaLo = this.asize === 2 ? lo & 0xffff : lo;
    this.eaHi = this.asize === 8 ? this.r32[2 * index + 1] | 0 : 0;
  }

  /** Adds to an address register, by the address size. */
  advance(index: number, by: number): void {
    if (this.memory.stop !== RUNNING) return;
    if (this.asize === 2) this.r16[4 * index] += by;
    else if (this.asize === 4) {
      this.r32[2 * index] += by;
      this.r32[2 * index + 1] = 0;
    } else this.r64[index] += BigInt(by);
  }

  // ---- segments ----------------------------------------------------------------------------------------------------

  /** The linear address of `offset` in a segment, for an access of `width` bytes; raises #GP or #SS. */
  linear(segment: number, lo: number, hi: number, width: number, access: number): number {
    const { memory } = this;
    const s = this.segments[segment];
    if (this.long) {
      let low = lo;
      let high = hi;
      if (segment >= FS) {
        low = lo + s.baseLo;
        high = (hi + s.baseHi + (low >= 2 ** 32 ? 1 : 0)) | 0;
        low >>>= 0;
      }
      if ((high << 16) >> 16 !== high) {
        memory.raise(segment === SS ? SS_FAULT : GP, 0);
        return 0;
      }
      const address = high * 2 ** 32 + low;
      if (this.#aligned && this.user !== 0) this.#checkAlignment(low, width);
      return address;
    }
    const last = lo + width - 1;
    let good: boolean;
    if (s.unusable !== 0 && this.protectedMode) good = false;
    else if (access === WRITE && (s.type & (this.protectedMode ? 10 : 2)) !== 2) good = false;
    else if (access === READ && (s.type & 10) === 8) good = false;
    else if ((s.type & 12) === 4) good = lo > s.limit && last <= (s.db !== 0 ? 0xffff_ffff : 0xffff);
    else good = last <= s.limit || s.limit === 0xffff_ffff;
    if (!good) {
      memory.raise(segment === SS ? SS_FAULT : GP, 0);
      return 0;
    }
    const address = (s.baseLo + lo) >>> 0;
    if (this.#aligned && this.user !== 0) this.#checkAlignment(address, width);
    return address;
  }

  /** #AC, before a page fault (live 6.18); accesses of other widths have rules of their own, and are let through. */
  #checkAlignment(low: number, width: number): void {
    if ((width !== 2 && width !== 4 && width !== 8) || low % width === 0) return;
    this.memory.raise(AC_FAULT, 0);
  }

  // ---- memory operands ---------------------------------------------------------------------------------------------

  readAt(segment: number, lo: number, hi: number, width: number): number {
    const { memory } = this;
    const address = this.linear(segment, lo, hi, width, READ);
    if (memory.stop !== RUNNING) return 0;
    const value = memory.read(address, width, this.user);
    if (this.options.emulated && memory.stop === RUNNING) memory.keep(width, value);
    return value;
  }

  writeAt(segment: number, lo: number, hi: number, width: number, value: number): void {
    const address = this.linear(segment, lo, hi, width, WRITE);
    this.#checkPages(address, width);
    if (this.memory.stop === RUNNING) this.memory.write(address, width, value, this.user);
  }

  /** A write to two pages: a processor writes both or none, Linux's emulator one after the other (live 6.18). */
  #checkPages(address: number, width: number): void {
    const { memory } = this;
    if ((address & 4095) + width <= 4096 || this.emulated || memory.stop !== RUNNING) return;
    memory.translate(address, WRITE, this.user);
    if (memory.stop === RUNNING) memory.translate((address | 4095) + 1, WRITE, this.user);
  }

  readAt64(segment: number, lo: number, hi: number): bigint {
    const { memory } = this;
    const address = this.linear(segment, lo, hi, 8, READ);
    if (memory.stop !== RUNNING) return 0n;
    const value = memory.read64(address, this.user);
    if (this.options.emulated && memory.stop === RUNNING)
      memory.keep(8, Number(value & 0xffff_ffffn), Number(value >> 32n));
    return value;
  }

  writeAt64(segment: number, lo: number, hi: number, value: bigint): void {
    const address = this.linear(segment, lo, hi, 8, WRITE);
    this.#checkPages(address, 8);
    if (this.memory.stop === RUNNING) this.memory.write64(address, value, this.user);
  }

  /** The selector and offset of a far pointer in memory, read as one: the offset is the answer, `farSelector` the other. */
  readFarPointer(size: number): bigint {
    const { memory } = this;
    const address = this.linear(this.eaSegment, this.eaLo, this.eaHi, size + 2, READ);
    if (!memory.readBytes(address, size + 2, this.user)) return 0n;
    if (this.options.emulated) memory.keepBytes(size + 2);
    const { data } = memory;
    let offset = 0n;
    for (let i = size - 1; i >= 0; i--) offset = (offset << 8n) | BigInt(data[i]);
    this.farSelector = data[size] | (data[size + 1] << 8);
    return offset;
  }
  farSelector = 0;

  /** The operand that ModRM's r/m names: a register or memory. */
  getRm(width: number): number {
    return this.mod === 3
      ? this.getRegister(width, this.rm)
      : this.readAt(this.eaSegment, this.eaLo, this.eaHi, width);
  }

  setRm(width: number, value: number): void {
    if (this.mod === 3) this.setRegister(width, this.rm, value);
    else if (this.memory.stop === RUNNING) this.writeAt(this.eaSegment, this.eaLo, this.eaHi, width, value);
    else this.#meantWrite();
  }

  getRm64(): bigint {
    return this.mod === 3 ? this.r64[this.rm] : this.readAt64(this.eaSegment, this.eaLo, this.eaHi);
  }

  setRm64(value: bigint): void {
    if (this.mod === 3) this.setRegister64(this.rm, value);
    else if (this.memory.stop === RUNNING) this.writeAt64(this.eaSegment, this.eaLo, this.eaHi, value);
    else this.#meantWrite();
  }

  /** An operand was to be written, and waits to be read: the processor has looked for it as for a write. */
  #meantWrite(): void {
    const { memory } = this;
    memory.meantWrite();
    if (!this.direct || memory.stop !== WAITING) return;
    memory.translate(this.linear(this.eaSegment, this.eaLo, this.eaHi, 1, WRITE), WRITE, this.user);
  }

  // ---- the stack ---------------------------------------------------------------------------------------------------

  /** Adds to the stack pointer, by the size of the stack. */
  moveStack(by: number): void {
    if (this.long) this.r64[RSP] += BigInt(by);
    else if (this.segments[SS].db !== 0) {
      this.r32[2 * RSP] += by;
      // Linux's emulator leaves the upper half alone (arch/x86/kvm/emulate.c:assign_masked, 6.1)
      if (!this.options.emulated) this.r32[2 * RSP + 1] = 0;
    } else this.r16[4 * RSP] += by;
  }

  #stackTop(skip = 0): void {
    const { r32 } = this;
    if (this.long) {
      const lo = r32[2 * RSP] + skip;
      this.#topLo = lo >>> 0;
      this.#topHi = (r32[2 * RSP + 1] + (lo >= 2 ** 32 ? 1 : 0)) | 0;
    } else {
      const lo = r32[2 * RSP] + skip;
      this.#topLo = this.segments[SS].db !== 0 ? lo >>> 0 : lo & 0xffff;
      this.#topHi = 0;
    }
  }
  #topLo = 0;
  #topHi = 0;

  push(width: number, value: number): void {
    if (this.memory.stop !== RUNNING) return;
    this.moveStack(-width);
    this.#stackTop();
    if (width === 8)
      // a number pushed as 8 bytes is extended by its sign
      this.writeAt64(SS, this.#topLo, this.#topHi, BigInt.asUintN(64, BigInt(value)));
    else this.writeAt(SS, this.#topLo, this.#topHi, width, value >>> 0);
  }

  push64(value: bigint): void {
    if (this.memory.stop !== RUNNING) return;
    this.moveStack(-8);
    this.#stackTop();
    this.writeAt64(SS, this.#topLo, this.#topHi, value);
  }

  /** Reads 2 or 4 bytes of the stack, `skip` bytes from its top. */
  peek(width: number, skip = 0): number {
    this.#stackTop(skip);
    return this.readAt(SS, this.#topLo, this.#topHi, width);
  }

  peek64(skip = 0): bigint {
    this.#stackTop(skip);
    return this.readAt64(SS, this.#topLo, this.#topHi);
  }

  /** Whether the top of the stack could be written. */
  probeStack(width: number): boolean {
    this.#stackTop();
    const { memory } = this;
    const address = this.linear(SS, this.#topLo, this.#topHi, width, WRITE);
    if (memory.stop === RUNNING) memory.translate(address, WRITE, this.user);
    return memory.stop === RUNNING;
  }

  pop(width: number): number {
    const value = this.peek(width);
    if (this.memory.stop === RUNNING) this.moveStack(width);
    return value;
  }

  pop64(): bigint {
    const value = this.peek64();
    if (this.memory.stop === RUNNING) this.moveStack(8);
    return value;
  }

  // ---- what instructions need often --------------------------------------------------------------------------------

  get flags(): number {
    return this.r32[2 * RFLAGS];
  }
  set flags(value: number) {
    if (this.memory.stop === RUNNING) this.r32[2 * RFLAGS] = value;
  }

  /** Whether an answer is there; it is taken. */
  takeMsrAnswer(): boolean {
    const answered = this.msrAnswered;
    this.msrAnswered = false;
    return answered;
  }

  /** UD2 and its like. */
  invalid(): void {
    if (this.help()) this.memory.raise(UD, NO_CODE);
  }

  /**
   * pvm does the instruction in the emulator's place. It looks at RIP itself, whatever the base of the code: where it finds
   * other bytes, the instruction stays refused (live 6.18). Missing: what it makes of those.
   */
  help(): boolean {
    if (this.memory.stop !== RUNNING) return false;
    const { emulated, helps } = this.options;
    this.refused =
      emulated && !helps
        ? false
        : this.long || !this.emulated || this.segments[CS].baseLo === 0 || this.#sameAtRip();
    if (!this.refused) this.memory.unhandled();
    return this.refused;
  }

  #sameAtRip(): boolean {
    const { memory, start } = this;
    const length = this.#codeAt - this.#codeStart;
    if (this.#codeBefore !== 0 || (start & 4095) + length > 4096 || !memory.findCode(start, this.user))
      return false;
    const there = memory.codeAt + (start & 4095);
    const given = this.#code.subarray(this.#codeStart, this.#codeAt);
    return given.every((byte, i) => byte === memory.codeBytes[there + i]);
  }

  /** A form of an instruction that is none: #UD, and nothing that Linux's emulator knows of. */
  notThere(): void {
    if (this.emulated) this.memory.unhandled();
    else this.noSuchOpcode();
  }

  /** Linux's emulator does not do it: an exit. The guest gets #UD where the processor runs it. */
  refuse(): void {
    if (!this.direct) return this.memory.unhandled();
    if (this.memory.stop === RUNNING) this.#emulatorRefused = true;
    this.undefinedOpcode();
  }

  /** The processor's own #UD; where it runs the guest for pvm, the emulator has been asked, too. */
  noSuchOpcode(): void {
    if (this.direct) this.refuse();
    else this.undefinedOpcode();
  }

  undefinedOpcode(): void {
    this.memory.raise(UD, NO_CODE);
  }

  fault(vector: number, code: number): void {
    this.memory.raise(vector, code);
  }

  get stopped(): boolean {
    return this.memory.stop !== RUNNING;
  }

  /** Near branches of 64-bit mode have 64-bit operands, whatever the prefixes say. */
  nearBranch(): void {
    if (this.long) this.osize = 8;
  }

  /** The segment register that ModRM names: REX.R does not count, except for Linux's emulator. */
  get segmentNumber(): number {
    return this.emulated ? this.reg : this.reg & 7;
  }

  /** A near jump: the target is cut to the operand size; in 64-bit mode it has to be canonical. */
  jumpNear(target: number): void {
    if (this.long) {
      const hi = Math.floor(target / 2 ** 32);
      if ((hi << 16) >> 16 !== hi) this.memory.raise(GP, 0);
      else this.rip = target;
      return;
    }
    const within = this.osize === 2 ? target & 0xffff : target >>> 0;
    if (within > this.segments[CS].limit) this.memory.raise(GP, 0);
    else this.rip = within;
  }

  /** The size of stack operands: 8 in 64-bit mode, or 2. */
  get stackSize(): number {
    return this.long ? (this.osize === 2 ? 2 : 8) : this.osize;
  }
}

export { CS, DS, ES, FS, GS, SS };
