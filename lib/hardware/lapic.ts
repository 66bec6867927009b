/**
 * The local APIC as KVM has it in the kernel (arch/x86/kvm/lapic.c, 6.1 and 6.18; Intel SDM volume 3, chapter "APIC").
 *
 * The state is the register page in the layout of struct kvm_lapic_state (lapic-registers.ts) plus what KVM keeps
 * beside it. A LAPIC calls nobody. What it wants done stands in its answer (`LAPIC_SEND_IPI`, `LAPIC_EOI`) or in
 * fields that the vCPU takes: `nmiQueued`, `smiPending`, `pendingEvents`, `eventRequested`, and the kicked list of
 * ApicSystem. Faults are the answer `LAPIC_FAULT`: #GP for an MSR, ignored for memory accesses.
 *
 * What a newcomer would not expect, and KVM does: ESR never holds an error and illegal vectors (below 16) are
 * delivered like any other; an interrupt that is pending already is still "accepted"; registers written by
 * KVM_SET_LAPIC are taken raw, reserved bits included, and PPR is then computed from the ISR of before.
 *
 * Missing: PV EOI, the virtual-APIC page (KVM_SET_VAPIC_ADDR), TPR access reports (the caller sees offset 0x80),
 * Hyper-V's synthetic controller except auto-EOI on acknowledge; see lapic-timer.ts for the timer.
 */
import { EINVAL } from "../abi/errno.ts";
import { newWords } from "../abi/slab.ts";
import { load32, store32 } from "../abi/struct.ts";
import {
  DM_EXTINT,
  DM_FIXED,
  DM_INIT,
  DM_LOWEST,
  DM_NMI,
  DM_REMRD,
  DM_SMI,
  DM_STARTUP,
  type InterruptMessage,
  newMessage,
  SHORTHAND_ALL_BUT_SELF,
  SHORTHAND_SELF,
} from "./apic-message.ts";
import type { ApicSystem } from "./apic-system.ts";
import { EoiReports } from "./eoi-reports.ts";
import * as R from "./lapic-registers.ts";
import { LapicTimer } from "./lapic-timer.ts";

/** Answers of a register access, to be or-ed. */
export const LAPIC_DONE = 0;
/** #GP where the access was an MSR; an access to the page ignores it. */
export const LAPIC_FAULT = 1;
/** `ipi` is filled and is to be delivered on the bus, with this LAPIC as its source. */
export const LAPIC_SEND_IPI = 2;
/** `eoiVector` was ended: IOAPIC or user space may have to hear of it. */
export const LAPIC_EOI = 4;
/** The access is not for this LAPIC: the page is not there, try other devices. */
export const LAPIC_NOT_HERE = -1;

/** Bits of `pendingEvents`. */
export const EVENT_INIT = 1;
export const EVENT_SIPI = 2;

/** Takes note of which LAPIC took an interrupt and with which vector; a `Map` will do (struct dest_map). */
export interface DestMap {
  set(vcpuId: number, vector: number): unknown;
}

/** What CPUID tells the LAPIC. */
export interface LapicCpuid {
  x2apic: boolean;
  tscDeadline: boolean;
  /** Intel and its compatibles mask the performance counter's LVT entry when it fires. */
  intelCompatible: boolean;
  /** CPUID 0x80000008 EAX[7:0]; 36 where the leaf is missing */
  physicalAddressBits: number;
}

/** Registers that can be read: 1 always, 2 not in x2APIC mode, 3 with CMCI (kvm_lapic_readable_reg_mask). */
const READABLE = new Uint8Array(64);
for (const offset of [R.APIC_ID, R.APIC_LVR, R.APIC_TASKPRI, R.APIC_PROCPRI, R.APIC_LDR, R.APIC_SPIV])
  READABLE[offset >> 4] = 1;
for (const offset of [R.APIC_ESR, R.APIC_ICR, R.APIC_TMICT, R.APIC_TMCCT, R.APIC_TDCR, ...R.LVT_OFFSETS])
  READABLE[offset >> 4] = 1;
READABLE.fill(1, R.APIC_ISR >> 4, R.APIC_ESR >> 4);
for (const offset of [R.APIC_ARBPRI, R.APIC_DFR, R.APIC_ICR2]) READABLE[offset >> 4] = 2;
READABLE[R.APIC_LVTCMCI >> 4] = 3;

/** `APIC_ICR` in x2APIC mode is 64 bits wide on Intel; this is its upper half. */
const ICR_HIGH = R.APIC_ICR + 4;

/** A 256-bit set: index of its first register, and the register and bit of a vector. */
const setWord = (offset: number, vector: number): number => (offset >> 2) + ((vector >> 5) << 2);
const setBit = (vector: number): number => 1 << (vector & 31);

/** LDR in x2APIC mode: cluster in the upper half, one bit of 16 in the lower (kvm_apic_calc_x2apic_ldr). */
export const x2apicLdr = (id: number): number => (((id >>> 4) << 16) | (1 << (id & 15))) >>> 0;

export class Lapic {
  readonly system: ApicSystem;
  /** Number of the vCPU as given by user space: the x2APIC id, and the xAPIC id after reset. */
  readonly vcpuId: number;
  /** Boot processor: LINT0 starts open, IA32_APIC_BASE says so. */
  readonly bsp: boolean;
  /** The register page, one u32 per 4 bytes: register `offset` is `regs[offset >> 2]`. */
  readonly regs: Uint32Array;
  readonly timer: LapicTimer;
  /** Which of its EOIs an IOAPIC hears of. */
  readonly eoiReports: EoiReports;

  /** IA32_APIC_BASE; change it with `setBase`. */
  baseLo: number;
  baseHi: number;
  /** SPIV's enable bit (kvm_lapic.sw_enabled). */
  swEnabled: boolean;
  /** LVT entries: 6, or 7 with CMCI. */
  lvtCount: number;
  cpuid: LapicCpuid;
  /** Rises with each lowest-priority interrupt taken; the bus picks the smallest (apic_arb_prio). */
  arbPrio: number;

  /** `EVENT_INIT`, `EVENT_SIPI`; the vCPU clears what it has done. */
  pendingEvents: number;
  sipiVector: number;
  /** NMIs that arrived and that the vCPU has not taken. */
  nmiQueued: number;
  smiPending: boolean;
  /** Another vCPU kicked this one out of halt. */
  pvUnhalted: boolean;
  /** Something changed that may let an interrupt through (KVM_REQ_EVENT). */
  eventRequested: boolean;
  /** The vCPU has looked for interrupts since the PIC's output rose; where LINT0 opens later, nobody tells it to. */
  picHeard: boolean;
  /** On the list of vCPUs to wake; `ApicSystem.kick` and `takeKicked` keep it. */
  kicked: boolean;

  /** The message behind `LAPIC_SEND_IPI`, used again and again. */
  readonly ipi: InterruptMessage;
  /** The vector behind `LAPIC_EOI`, and whether TMR has it as level-triggered. */
  eoiVector: number;
  eoiLevel: boolean;
  /** What the last `read`, `readMsr` read. */
  valueLo: number;
  valueHi: number;

  /** Bits set in ISR, and the highest of them or −1 if it has to be searched; see `loadFrom` for why they matter. */
  private isrCount: number;
  private highestIsr: number;
  private lint0TakesNmi: boolean;

  /** A LAPIC in the state of power-on. It takes part in delivery once it is added to an ApicBus. */
  constructor(system: ApicSystem, vcpuId: number, bsp = false) {
    this.system = system;
    this.vcpuId = vcpuId;
    this.bsp = bsp;
    this.regs = newWords(R.LAPIC_STATE_SIZE / 4);
    this.timer = new LapicTimer(this.regs, system.settings.busCycleNs, system.settings.minTimerPeriodNs);
    this.eoiReports = new EoiReports(system);
    this.baseLo = R.BASE_ENABLE;
    this.baseHi = 0;
    this.swEnabled = false;
    this.lvtCount = 6;
    this.cpuid = { x2apic: false, tscDeadline: false, intelCompatible: true, physicalAddressBits: 36 };
    this.arbPrio = 0;
    this.pendingEvents = 0;
    this.sipiVector = 0;
    this.nmiQueued = 0;
    this.smiPending = false;
    this.pvUnhalted = false;
    this.eventRequested = false;
    this.picHeard = false;
    this.kicked = false;
    this.ipi = newMessage();
    this.eoiVector = -1;
    this.eoiLevel = false;
    this.valueLo = 0;
    this.valueHi = 0;
    this.isrCount = 0;
    this.highestIsr = -1;
    this.lint0TakesNmi = false;
    this.reset(false);
  }

  // ---- identity and mode -------------------------------------------------------------------------------------

  /** Enabled in IA32_APIC_BASE (kvm_apic_hw_enabled, kvm_apic_present). */
  get hwEnabled(): boolean {
    return (this.baseLo & R.BASE_ENABLE) !== 0;
  }
  /** Enabled in IA32_APIC_BASE and in SPIV (apic_enabled). */
  get enabled(): boolean {
    return this.swEnabled && (this.baseLo & R.BASE_ENABLE) !== 0;
  }
  get x2apicMode(): boolean {
    return (this.baseLo & R.BASE_X2APIC) !== 0;
  }
  get xapicId(): number {
    return this.regs[R.APIC_ID >> 2] >>> 24;
  }
  /** EOIs are not passed on by themselves: software ends them at the IOAPIC (SPIV bit 12). */
  get directedEoi(): boolean {
    return (this.regs[R.APIC_SPIV >> 2] & R.SPIV_DIRECTED_EOI) !== 0;
  }

  /** Whether a guest-physical address lies in the page. */
  contains(addressLo: number, addressHi: number): boolean {
    return addressHi === this.baseHi && (addressLo & ~0xfff) === (this.baseLo & ~0xfff);
  }

  /**
   * Writes IA32_APIC_BASE (kvm_apic_set_base). `LAPIC_FAULT` for reserved bits, x2APIC without enable, and, unless the
   * host writes, for a step from x2APIC back to xAPIC or from disabled straight to x2APIC.
   */
  setBase(lo: number, hi: number, hostInitiated: boolean): number {
    lo >>>= 0;
    hi >>>= 0;
    if (lo === this.baseLo && hi === this.baseHi) return LAPIC_DONE;
    const mode = lo & (R.BASE_ENABLE | R.BASE_X2APIC);
    if (this.baseReserved(lo, hi) || mode === R.BASE_X2APIC) return LAPIC_FAULT;
    if (!hostInitiated) {
      if (this.x2apicMode && mode === R.BASE_ENABLE) return LAPIC_FAULT;
      if (!this.hwEnabled && (mode & R.BASE_X2APIC) !== 0) return LAPIC_FAULT;
    }
    this.changeBase(lo, hi);
    this.system.recalculateMap();
    return LAPIC_DONE;
  }

  private baseReserved(lo: number, hi: number): boolean {
    const bits = this.cpuid.physicalAddressBits;
    if (bits < 64 && hi >= 2 ** Math.max(bits - 32, 0)) return true;
    if (bits < 32 && lo >= 2 ** bits) return true;
    return (lo & 0x2ff) !== 0 || ((lo & R.BASE_X2APIC) !== 0 && !this.cpuid.x2apic);
  }

  private changeBase(lo: number, hi: number): void {
    const changed = this.baseLo ^ lo;
    const enable = (lo & R.BASE_ENABLE) !== 0;
    this.baseLo = lo;
    this.baseHi = hi;
    if ((changed & R.BASE_ENABLE) !== 0) {
      if (enable) this.setXapicId(this.vcpuId);
      else this.system.mapDirty = true;
    }
    if ((changed & R.BASE_X2APIC) === 0) return;
    if ((lo & R.BASE_X2APIC) !== 0) {
      this.regs[R.APIC_ID >> 2] = this.vcpuId;
      this.regs[R.APIC_LDR >> 2] = x2apicLdr(this.vcpuId);
      this.system.mapDirty = true;
    } else if (enable && this.system.settings.readonlyX2apicId) {
      this.setXapicId(this.vcpuId);
    }
  }

  private setXapicId(id: number): void {
    this.regs[R.APIC_ID >> 2] = (id & 0xff) << 24;
    this.system.mapDirty = true;
  }

  /** CPUID was set: with leaf 1 the timer's modes and the version register follow (kvm_vcpu_after_set_cpuid). */
  setCpuid(cpuid: LapicCpuid, hasBasicLeaf = true): void {
    this.cpuid = cpuid;
    if (!hasBasicLeaf) return;
    this.timer.modeMask = cpuid.tscDeadline ? R.TIMER_TSCDEADLINE | R.TIMER_PERIODIC : R.TIMER_PERIODIC;
    this.setVersion();
  }

  /** KVM_X86_SETUP_MCE gave or took MCG_CMCI_P: the CMCI entry comes (masked) or goes (kvm_apic_after_set_mcg_cap). */
  setCmci(present: boolean): void {
    const lvtCount = present ? 7 : 6;
    if (lvtCount === this.lvtCount) return;
    if (present) this.regs[R.APIC_LVTCMCI >> 2] = R.LVT_MASKED;
    this.lvtCount = lvtCount;
    this.setVersion();
  }

  private setVersion(): void {
    const { ioapicInKernel, broadcastsEveryEoi } = this.system.settings;
    const directed = this.cpuid.x2apic && !ioapicInKernel && !broadcastsEveryEoi ? R.LVR_DIRECTED_EOI : 0;
    this.regs[R.APIC_LVR >> 2] = R.APIC_VERSION | ((this.lvtCount - 1) << 16) | directed;
  }

  /** Reset, or (`initEvent`) an INIT, which keeps IA32_APIC_BASE and the id (kvm_lapic_reset). */
  reset(initEvent: boolean): void {
    const { regs } = this;
    if (!initEvent) {
      this.changeBase((R.DEFAULT_BASE_ADDRESS | R.BASE_ENABLE | (this.bsp ? R.BASE_BSP : 0)) >>> 0, 0);
      this.setXapicId(this.vcpuId);
    }
    this.timer.disarm();
    this.setVersion();
    for (let i = 0; i < this.lvtCount; i++) regs[R.LVT_OFFSETS[i] >> 2] = R.LVT_MASKED;
    this.timer.updateMode();
    if (this.bsp && this.system.settings.lint0Reenabled) regs[R.APIC_LVT0 >> 2] = DM_EXTINT;
    this.watchLint0(regs[R.APIC_LVT0 >> 2]);
    regs[R.APIC_DFR >> 2] = R.DFR_FLAT;
    this.setSpiv(0xff);
    regs[R.APIC_TASKPRI >> 2] = 0;
    if (this.x2apicMode) {
      regs[ICR_HIGH >> 2] = 0;
    } else {
      regs[R.APIC_LDR >> 2] = 0;
      regs[R.APIC_ICR2 >> 2] = 0;
    }
    regs[R.APIC_ICR >> 2] = 0;
    regs[R.APIC_ESR >> 2] = 0;
    regs[R.APIC_TDCR >> 2] = 0;
    regs[R.APIC_TMICT >> 2] = 0;
    for (let vector = 0; vector < 256; vector += 32) {
      regs[setWord(R.APIC_ISR, vector)] = 0;
      regs[setWord(R.APIC_TMR, vector)] = 0;
      regs[setWord(R.APIC_IRR, vector)] = 0;
    }
    this.recountIsr();
    this.timer.updateDivideCount();
    this.timer.pending = 0;
    this.updatePprAndAsk();
    this.arbPrio = 0;
    this.system.mapDirty = true;
    this.system.recalculateMap();
  }

  // ---- taking an interrupt in --------------------------------------------------------------------------------

  /**
   * An interrupt arrives (__apic_accept_irq). 1: taken, even if it was pending already. 0: discarded, because the
   * LAPIC is disabled, the level is a de-assert, or nothing is done with this mode.
   */
  acceptIrq(
    deliveryMode: number,
    vector: number,
    level: number,
    trigMode: number,
    destMap: DestMap | null = null,
  ): number {
    switch (deliveryMode) {
      case DM_LOWEST:
        this.arbPrio++;
        return this.acceptVector(vector, level, trigMode, destMap);
      case DM_FIXED:
        return this.acceptVector(vector, level, trigMode, destMap);
      case DM_REMRD:
        this.pvUnhalted = true;
        return this.wake(true);
      case DM_SMI:
        if (!this.system.settings.smm) return 0;
        this.smiPending = true;
        return this.wake(false);
      case DM_NMI:
        this.nmiQueued++;
        return this.wake(false);
      case DM_INIT:
        if (trigMode !== 0 && level === 0) return 0;
        // An INIT wipes out a SIPI that came before it.
        this.pendingEvents = EVENT_INIT;
        return this.wake(true);
      case DM_STARTUP:
        this.sipiVector = vector;
        this.pendingEvents |= EVENT_SIPI;
        return this.wake(true);
      default:
        // ExtINT: the PIC is asked directly, see acceptsPic.
        return 0;
    }
  }

  private acceptVector(vector: number, level: number, trigMode: number, destMap: DestMap | null): number {
    if ((trigMode !== 0 && level === 0) || !this.enabled) return 0;
    destMap?.set(this.vcpuId, vector);
    const tmr = setWord(R.APIC_TMR, vector);
    if (trigMode !== 0) this.regs[tmr] |= setBit(vector);
    else this.regs[tmr] &= ~setBit(vector);
    this.regs[setWord(R.APIC_IRR, vector)] |= setBit(vector);
    return this.wake(true);
  }

  private wake(event: boolean): 1 {
    if (event) this.eventRequested = true;
    this.system.kick(this);
    return 1;
  }

  /** An LVT entry fires: timer, LINT0, LINT1, performance counter, … (kvm_apic_local_deliver). Answers as acceptIrq. */
  localDeliver(lvtOffset: number): number {
    const entry = this.regs[lvtOffset >> 2];
    if (!this.hwEnabled || (entry & R.LVT_MASKED) !== 0) return 0;
    const taken = this.acceptIrq(entry & R.LVT_MODE, entry & R.VECTOR_MASK, 1, entry & R.LVT_LEVEL_TRIGGER);
    if (taken !== 0 && lvtOffset === R.APIC_LVTPC && this.cpuid.intelCompatible)
      this.regs[lvtOffset >> 2] = entry | R.LVT_MASKED;
    return taken;
  }

  // ---- priorities --------------------------------------------------------------------------------------------

  /** The highest bit of ISR, TMR or IRR, or −1. */
  private highest(offset: number): number {
    const first = offset >> 2;
    for (let word = 7; word >= 0; word--) {
      const bits = this.regs[first + (word << 2)];
      if (bits !== 0) return (word << 5) + 31 - Math.clz32(bits);
    }
    return -1;
  }

  /** The highest pending vector, or −1, whatever the priorities (kvm_lapic_find_highest_irr). */
  highestIrr(): number {
    return this.highest(R.APIC_IRR);
  }

  /** The highest vector in service, or −1, as KVM's cache has it (apic_find_highest_isr). */
  highestInService(): number {
    if (this.system.settings.apicv) return this.highest(R.APIC_ISR);
    if (this.isrCount === 0) return -1;
    return this.highestIsr !== -1 ? this.highestIsr : this.highest(R.APIC_ISR);
  }

  /** Whether a vector is pending or in service: its EOI is still to come (kvm_apic_pending_eoi). */
  pendingEoi(vector: number): boolean {
    const bit = setBit(vector);
    return ((this.regs[setWord(R.APIC_ISR, vector)] | this.regs[setWord(R.APIC_IRR, vector)]) & bit) !== 0;
  }

  /** Computes PPR, stores it and returns it (__apic_update_ppr): TPR, or the class of what is in service. */
  updatePpr(): number {
    const tpr = this.regs[R.APIC_TASKPRI >> 2];
    const inService = this.highestInService();
    const isrClass = inService < 0 ? 0 : inService & 0xf0;
    const ppr = (tpr & 0xf0) >= isrClass ? tpr & 0xff : isrClass;
    this.regs[R.APIC_PROCPRI >> 2] = ppr;
    return ppr;
  }

  /** apic_update_ppr: a fallen PPR may let something through, then the vCPU looks again. */
  private updatePprAndAsk(): void {
    const before = this.regs[R.APIC_PROCPRI >> 2];
    const ppr = this.updatePpr();
    if (ppr < before && this.pendingAbove(ppr) !== -1) this.eventRequested = true;
  }

  private pendingAbove(ppr: number): number {
    const vector = this.highest(R.APIC_IRR);
    return vector !== -1 && (vector & 0xf0) > ppr ? vector : -1;
  }

  /** The vector to be injected now, or −1 (kvm_apic_has_interrupt). */
  hasInterrupt(): number {
    return this.hwEnabled ? this.pendingAbove(this.updatePpr()) : -1;
  }

  /** The vCPU takes `vector`: from IRR into ISR, or with `autoEoi` out of both (kvm_apic_ack_interrupt). */
  ackInterrupt(vector: number, autoEoi = false): void {
    this.regs[setWord(R.APIC_IRR, vector)] &= ~setBit(vector);
    if (autoEoi) {
      this.updatePprAndAsk();
      return;
    }
    const word = setWord(R.APIC_ISR, vector);
    if ((this.regs[word] & setBit(vector)) === 0) {
      this.regs[word] |= setBit(vector);
      this.isrCount++;
      this.highestIsr = vector;
    }
    this.updatePpr();
  }

  /** `hasInterrupt` and `ackInterrupt` in one: the vector taken, or −1 (kvm_get_apic_interrupt). */
  takeInterrupt(): number {
    const vector = this.hasInterrupt();
    if (vector !== -1) this.ackInterrupt(vector);
    return vector;
  }

  /** Whether the PIC's output reaches this vCPU: LAPIC off, or LINT0 open as ExtINT (kvm_apic_accept_pic_intr). */
  acceptsPic(): boolean {
    if (!this.hwEnabled) return true;
    return (this.regs[R.APIC_LVT0 >> 2] & (R.LVT_MASKED | R.LVT_MODE)) === DM_EXTINT;
  }

  /** CR8: the upper half of TPR. */
  get cr8(): number {
    return (this.regs[R.APIC_TASKPRI >> 2] >> 4) & 15;
  }
  set cr8(value: number) {
    this.setTpr((value & 15) << 4);
  }

  private setTpr(tpr: number): void {
    this.regs[R.APIC_TASKPRI >> 2] = tpr;
    this.updatePprAndAsk();
  }

  private recountIsr(): void {
    this.isrCount = 0;
    this.highestIsr = -1;
    for (let vector = 0; vector < 256; vector += 32)
      for (let rest = this.regs[setWord(R.APIC_ISR, vector)]; rest !== 0; rest &= rest - 1) this.isrCount++;
  }

  /**
   * End of interrupt (apic_set_eoi): `LAPIC_EOI` with `eoiVector`, or `LAPIC_DONE` if nothing was in service. Whether
   * an IOAPIC hears of it is the owner's to say: only vectors its pins use; a level interrupt (`eoiLevel`) is
   * ended there unless `directedEoi`; with a split irqchip user space is told instead.
   */
  eoi(): number {
    const vector = this.highestInService();
    if (vector === -1) return LAPIC_DONE;
    const word = setWord(R.APIC_ISR, vector);
    if ((this.regs[word] & setBit(vector)) !== 0) {
      this.regs[word] &= ~setBit(vector);
      this.isrCount--;
      this.highestIsr = -1;
    }
    this.updatePprAndAsk();
    this.eoiVector = vector;
    this.eoiLevel = (this.regs[setWord(R.APIC_TMR, vector)] & setBit(vector)) !== 0;
    this.eventRequested = true;
    return LAPIC_EOI;
  }

  // ---- register access ---------------------------------------------------------------------------------------

  /**
   * Reads 1, 2 or 4 bytes within one 32-bit register into `valueLo` (kvm_lapic_reg_read). `LAPIC_FAULT` for what is
   * not readable in the present mode, and for an access that leaves the register.
   */
  read(offset: number, length: number, now: number): number {
    this.valueLo = 0;
    this.valueHi = 0;
    const byte = offset & 15;
    if (byte + length > 4 || offset > R.APIC_SELF_IPI) return LAPIC_FAULT;
    const readable = READABLE[offset >> 4];
    if (readable === 0 || (readable === 2 && this.x2apicMode)) return LAPIC_FAULT;
    if (readable === 3 && this.lvtCount < 7) return LAPIC_FAULT;
    const value = this.register(offset & ~15, now) >>> (byte * 8);
    this.valueLo = length === 4 ? value : value & (2 ** (8 * length) - 1);
    return LAPIC_DONE;
  }

  private register(offset: number, now: number): number {
    if (offset === R.APIC_TMCCT) return this.timer.currentCount(now);
    if (offset === R.APIC_ARBPRI) return 0;
    if (offset === R.APIC_PROCPRI) this.updatePprAndAsk();
    return this.regs[offset >> 2];
  }

  /**
   * A read of the page by the guest (apic_mmio_read), into `valueLo`; `offset` is within the page. After `LAPIC_FAULT`
   * the guest goes on with the bytes its vCPU's emulator had from the read before (recorded on 6.18).
   */
  mmioRead(offset: number, length: number, now: number): number {
    if (this.hwEnabled && !this.x2apicMode) return this.read(offset, length, now);
    if (!this.system.settings.mmioHole) return LAPIC_NOT_HERE;
    this.valueLo = 0xffff_ffff;
    this.valueHi = 0xffff_ffff;
    return LAPIC_DONE;
  }

  /** A write to the page by the guest (apic_mmio_write): 32 bits at a multiple of 16, anything else is dropped. */
  mmioWrite(offset: number, length: number, value: number, now: number): number {
    if (!this.hwEnabled || this.x2apicMode)
      return this.system.settings.mmioHole ? LAPIC_DONE : LAPIC_NOT_HERE;
    if (length !== 4 || (offset & 15) !== 0) return LAPIC_DONE;
    return this.write(offset, value, now) & ~LAPIC_FAULT;
  }

  /** RDMSR of 0x800…0x8ff, into `valueLo` and `valueHi` (kvm_x2apic_msr_read). */
  readMsr(msr: number, now: number): number {
    if (!this.x2apicMode) return LAPIC_FAULT;
    const offset = (msr - R.X2APIC_MSR_BASE) << 4;
    if (offset !== R.APIC_ICR) return this.read(offset, 4, now);
    this.valueLo = this.regs[R.APIC_ICR >> 2];
    this.valueHi = this.regs[this.icrHigh >> 2];
    return LAPIC_DONE;
  }

  /** WRMSR of 0x800…0x8ff (kvm_x2apic_msr_write). */
  writeMsr(msr: number, lo: number, hi: number, now: number): number {
    if (!this.x2apicMode) return LAPIC_FAULT;
    const offset = (msr - R.X2APIC_MSR_BASE) << 4;
    if (offset === R.APIC_ICR) return this.writeX2apicIcr(lo, hi);
    return hi !== 0 ? LAPIC_FAULT : this.write(offset, lo, now);
  }

  /** Where the upper half of a 64-bit ICR is kept. */
  private get icrHigh(): number {
    return this.system.settings.splitX2apicIcr ? R.APIC_ICR2 : ICR_HIGH;
  }

  private writeX2apicIcr(lo: number, hi: number): number {
    if ((lo & R.X2APIC_ICR_RESERVED) !== 0) return LAPIC_FAULT;
    const icr = (lo & ~R.ICR_BUSY) >>> 0;
    this.fillIpi(icr, hi >>> 0);
    this.regs[R.APIC_ICR >> 2] = icr;
    this.regs[this.icrHigh >> 2] = hi;
    return LAPIC_SEND_IPI;
  }

  /** The message an ICR stands for (kvm_icr_to_lapic_irq). */
  private fillIpi(lo: number, hi: number): void {
    const { ipi } = this;
    ipi.vector = lo & R.VECTOR_MASK;
    ipi.deliveryMode = lo & R.LVT_MODE;
    ipi.destMode = lo & 0x800;
    ipi.level = (lo & R.ICR_ASSERT) !== 0 ? 1 : 0;
    ipi.trigMode = lo & R.ICR_LEVEL_TRIGGER;
    ipi.shorthand = lo & SHORTHAND_ALL_BUT_SELF;
    ipi.msiRedirHint = false;
    ipi.destId = this.x2apicMode ? hi : hi >>> 24;
  }

  /**
   * Writes 32 bits with all that follows from it (kvm_lapic_reg_write); `offset` is a multiple of 16. In x2APIC mode
   * ICR is written by `writeMsr`.
   */
  write(offset: number, value: number, now: number): number {
    const answer = this.writeRegister(offset, value >>> 0, now);
    this.system.recalculateMap();
    return answer;
  }

  private writeRegister(offset: number, value: number, now: number): number {
    const { regs } = this;
    switch (offset) {
      case R.APIC_ID:
        if (this.x2apicMode) return LAPIC_FAULT;
        this.setXapicId(value >>> 24);
        return LAPIC_DONE;
      case R.APIC_TASKPRI:
        this.setTpr(value & 0xff);
        return LAPIC_DONE;
      case R.APIC_EOI:
        return this.eoi();
      case R.APIC_LDR:
        return this.writeXapicOnly(offset, value & 0xff00_0000);
      case R.APIC_DFR:
        return this.writeXapicOnly(offset, value | 0x0fff_ffff);
      case R.APIC_ICR2:
        return this.writeXapicOnly(offset, value & 0xff00_0000);
      case R.APIC_SPIV:
        this.writeSpiv(value);
        return LAPIC_DONE;
      case R.APIC_ICR:
        regs[offset >> 2] = value & ~R.ICR_BUSY;
        this.fillIpi(regs[offset >> 2], regs[R.APIC_ICR2 >> 2]);
        return LAPIC_SEND_IPI;
      case R.APIC_LVTCMCI:
        return this.lvtCount < 7 ? LAPIC_FAULT : this.writeLvt(6, value, 0);
      case R.APIC_LVT0:
        this.watchLint0(value);
        return this.writeLvt(3, value, 0);
      case R.APIC_LVTTHMR:
      case R.APIC_LVTPC:
      case R.APIC_LVT1:
      case R.APIC_LVTERR:
        return this.writeLvt((offset - R.APIC_LVTT) >> 4, value, 0);
      case R.APIC_LVTT:
        this.writeLvt(0, value, this.timer.modeMask);
        this.timer.updateMode();
        return LAPIC_DONE;
      case R.APIC_TMICT:
        if (this.timer.mode === R.TIMER_TSCDEADLINE) return LAPIC_DONE;
        this.timer.cancel();
        regs[offset >> 2] = value;
        this.wokenByTimer(this.timer.start(now));
        return LAPIC_DONE;
      case R.APIC_TDCR:
        this.writeDivisor(value, now);
        return LAPIC_DONE;
      case R.APIC_ESR:
        return this.x2apicMode && value !== 0 ? LAPIC_FAULT : LAPIC_DONE;
      case R.APIC_SELF_IPI:
        if (!this.x2apicMode || value > R.VECTOR_MASK) return LAPIC_FAULT;
        this.fillIpi(SHORTHAND_SELF | value, 0);
        return LAPIC_SEND_IPI;
      default:
        return LAPIC_FAULT;
    }
  }

  /** LDR, DFR, ICR2: read-only or absent in x2APIC mode. */
  private writeXapicOnly(offset: number, value: number): number {
    if (this.x2apicMode) return LAPIC_FAULT;
    this.regs[offset >> 2] = value;
    if (offset !== R.APIC_ICR2) this.system.mapDirty = true;
    return LAPIC_DONE;
  }

  private writeLvt(index: number, value: number, modeBits: number): number {
    const masked = this.swEnabled ? 0 : R.LVT_MASKED;
    this.regs[R.LVT_OFFSETS[index] >> 2] = (value | masked) & (R.LVT_WRITABLE[index] | modeBits);
    return LAPIC_DONE;
  }

  private writeSpiv(value: number): void {
    const offered = (this.regs[R.APIC_LVR >> 2] & R.LVR_DIRECTED_EOI) !== 0;
    this.setSpiv(value & (offered ? 0x3ff | R.SPIV_DIRECTED_EOI : 0x3ff));
    if (this.swEnabled) return;
    for (let i = 0; i < this.lvtCount; i++) this.regs[R.LVT_OFFSETS[i] >> 2] |= R.LVT_MASKED;
    this.timer.updateMode();
    this.timer.pending = 0;
  }

  private setSpiv(value: number): void {
    this.regs[R.APIC_SPIV >> 2] = value;
    const enabled = (value & R.SPIV_APIC_ENABLED) !== 0;
    if (enabled === this.swEnabled) return;
    this.swEnabled = enabled;
    this.system.mapDirty = true;
  }

  /** Counts the LAPICs whose LINT0 is open for NMIs (apic_manage_nmi_watchdog). */
  private watchLint0(entry: number): void {
    const takesNmi = (entry & (R.LVT_MODE | R.LVT_MASKED)) === DM_NMI;
    if (takesNmi === this.lint0TakesNmi) return;
    this.lint0TakesNmi = takesNmi;
    this.system.lapicsInNmiMode += takesNmi ? 1 : -1;
  }

  private writeDivisor(value: number, now: number): void {
    const old = this.timer.divideCount;
    this.regs[R.APIC_TDCR >> 2] = value & 0xb;
    this.timer.updateDivideCount();
    if (this.timer.divideCount !== old && this.timer.period !== 0)
      this.wokenByTimer(this.timer.rescale(old, now));
  }

  // ---- timer -------------------------------------------------------------------------------------------------

  private wokenByTimer(expired: boolean): void {
    if (expired) this.system.kick(this);
  }

  /** The virtual clock reached `timer.deadline`. True if an interrupt became pending: the vCPU is to be woken. */
  expireTimer(now: number): boolean {
    const fired = this.timer.expire(now);
    this.wokenByTimer(fired);
    return fired;
  }

  /** Whether an expired timer would interrupt: a reason to leave halt (apic_has_pending_timer). */
  hasPendingTimer(): boolean {
    if (!this.enabled || (this.regs[R.APIC_LVTT >> 2] & R.LVT_MASKED) !== 0) return false;
    return this.timer.pending !== 0;
  }

  /**
   * On each way into the guest, before interrupts are looked for, an expired timer becomes an interrupt
   * (x86.c:vcpu_run, kvm_inject_apic_timer_irqs). While LVTT is masked it stays pending.
   */
  injectTimer(): void {
    if (!this.hasPendingTimer()) return;
    const { timer } = this;
    this.localDeliver(R.APIC_LVTT);
    if (timer.mode === R.TIMER_TSCDEADLINE || timer.mode === R.TIMER_ONESHOT) timer.tscDeadline = 0n;
    if (timer.mode === R.TIMER_ONESHOT) timer.targetExpiration = 0;
    timer.pending = 0;
  }

  /** IA32_TSC_DEADLINE reads 0 outside its mode, and a write there is lost. */
  get tscDeadline(): bigint {
    return this.hwEnabled && this.timer.mode === R.TIMER_TSCDEADLINE ? this.timer.tscDeadline : 0n;
  }
  setTscDeadline(value: bigint, now: number): void {
    if (!this.hwEnabled || this.timer.mode !== R.TIMER_TSCDEADLINE) return;
    this.timer.disarm();
    this.timer.tscDeadline = value;
    this.wokenByTimer(this.timer.start(now));
  }

  // ---- KVM_GET_LAPIC, KVM_SET_LAPIC --------------------------------------------------------------------------

  /**
   * KVM_GET_LAPIC: the page as it is, with TMCCT counted. In x2APIC mode the id is shifted to bits 31:24 unless user
   * space asked for 32-bit ids, and the upper half of ICR is shown in ICR2 too. 0, or −EINVAL with nothing written.
   */
  saveTo(bytes: Uint8Array, at: number, now: number): number {
    const { regs } = this;
    const { x2apicFormat, readonlyX2apicId, splitX2apicIcr } = this.system.settings;
    const id = regs[R.APIC_ID >> 2];
    if (this.x2apicMode && x2apicFormat && id !== this.vcpuId) return -EINVAL;
    for (let i = 0; i < regs.length; i++) store32(bytes, at + 4 * i, regs[i]);
    store32(bytes, at + R.APIC_TMCCT, this.timer.currentCount(now));
    if (!this.x2apicMode) return 0;
    if (!x2apicFormat) store32(bytes, at + R.APIC_ID, (readonlyX2apicId ? this.vcpuId : id) << 24);
    if (!splitX2apicIcr) store32(bytes, at + R.APIC_ICR2, regs[ICR_HIGH >> 2]);
    return 0;
  }

  /**
   * KVM_SET_LAPIC: takes the page as it comes. Corrected are the version, in x2APIC mode id and LDR, and what is
   * computed (PPR, TMCCT); the timer starts again from TMCCT. PPR is computed before the cached top of ISR is
   * dropped, so it still follows the ISR of before (recorded on 6.18). 0, or −EINVAL for a foreign 32-bit x2APIC
   * id, and then SPIV is written all the same.
   */
  loadFrom(bytes: Uint8Array, at: number, now: number): number {
    const { regs, timer } = this;
    this.setSpiv(load32(bytes, at + R.APIC_SPIV));
    const id = this.x2apicMode ? this.restoredX2apicId(load32(bytes, at + R.APIC_ID)) : 0;
    if (id < 0) {
      this.system.recalculateMap();
      return id;
    }
    for (let i = 0; i < regs.length; i++) regs[i] = load32(bytes, at + 4 * i);
    if (this.x2apicMode) {
      regs[R.APIC_ID >> 2] = id;
      regs[R.APIC_LDR >> 2] = x2apicLdr(id);
      if (!this.system.settings.splitX2apicIcr) regs[ICR_HIGH >> 2] = regs[R.APIC_ICR2 >> 2];
    }
    this.system.mapDirty = true;
    this.system.recalculateMap();
    this.setVersion();
    this.updatePprAndAsk();
    timer.cancel();
    timer.updateMode();
    this.watchLint0(regs[R.APIC_LVT0 >> 2]);
    timer.updateDivideCount();
    this.wokenByTimer(timer.start(now, R.APIC_TMCCT));
    regs[R.APIC_TMCCT >> 2] = 0;
    this.recountIsr();
    this.eventRequested = true;
    this.arbPrio = 0;
    return 0;
  }

  private restoredX2apicId(given: number): number {
    const { x2apicFormat, readonlyX2apicId } = this.system.settings;
    if (x2apicFormat) return given === this.vcpuId ? given : -EINVAL;
    return readonlyX2apicId ? this.vcpuId : given >>> 24;
  }
}
