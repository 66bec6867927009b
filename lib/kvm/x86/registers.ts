/**
 * The registers of a vCPU: KVM_GET/SET_REGS, KVM_GET/SET_SREGS, KVM_GET/SET_SREGS2 (arch/x86/kvm/x86.c:
 * __set_regs, kvm_is_valid_sregs, __set_sregs_common, 6.1 and 6.18). The state is kept as the structs themselves, so
 * reading is a copy; `regs` and `sregs` are views for whoever executes guest code.
 *
 * `struct kvm_regs`, 144 bytes; `struct kvm_sregs`, 312; `struct kvm_sregs2`, 320: the same up to apic_base at 272, then
 * flags u64 and four PDPTRs where kvm_sregs has the bitmap of pending interrupts.
 *
 * Before 7.2, any bit of EFER is taken here. Under pvm paging without long mode is dropped, and CR4 does not depend on
 * CPUID (recorded). Of a segment, AMD's control block keeps the bits that a processor has (svm-segments.ts).
 */
import { EFAULT, EINVAL } from "../../abi/errno.ts";
import {
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_GET_SREGS2,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SET_SREGS2,
  KVM_SREGS2_FLAGS_PDPTRS_VALID,
  KvmRegs,
  KvmSregs,
  KvmSregs2,
} from "../../abi/kvm-x86.ts";
import { copyOf } from "../../abi/slab.ts";
import { load32, store32, store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import { answering } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import type { KvmHost } from "../host.ts";
import type { VcpuFile } from "../vcpu.ts";
import { ANY_INDEX, EAX, EBX, ECX, EDX } from "./cpuid.ts";
import { hostFeature, hostHas } from "./host-cpuid.ts";
import { loadPdptrs } from "./pdptrs.ts";
import { keepSvmSegments, svmResetSegments } from "./svm-segments.ts";
import { updateCr8Intercept } from "./svm-tpr.ts";
import type { X86Vcpu } from "./vcpu.ts";

export const CR0_PE = 1;
export const CR0_PG = 0x8000_0000;
const CR0_ET = 1 << 4;
const CR0_CD = 1 << 30;
const CR0_NW = 1 << 29;
export const CR4_PAE = 1 << 5;
export const EFER_SCE = 1;
export const EFER_LME = 1 << 8;
export const EFER_LMA = 1 << 10;
export const EFER_NX = 1 << 11;
export const EFER_SVME = 1 << 12;
const EFER_LMSLE = 1 << 13;
const EFER_FFXSR = 1 << 14;
const EFER_AUTOIBRS = 1 << 21;
const RFLAGS_FIXED = 2;
/** hidden while a debugger steps through the guest */
const RFLAGS_TF = 1 << 8;
const RFLAGS_VM = 1 << 17;

export const APIC_BASE_BSP = 1 << 8;
const APIC_BASE_X2APIC = 1 << 10;
export const APIC_BASE_ENABLE = 1 << 11;
/** bits of IA32_APIC_BASE that are never set: 0 to 7 and 9 */
const APIC_BASE_RESERVED = 0x2ff;

/** VME … OSXMMEXCPT, UMIP, FSGSBASE, OSXSAVE, SMEP, SMAP, PKE: what CR4 may hold under pvm (recorded) */
const CR4_PVM = 0x0075_0fff;
/** VME … OSXMMEXCPT */
const CR4_ALWAYS = 0x7ff;

// biome-ignore format: a table
const cr4Features = [
  { bit: 1 << 11, leaf: 7, register: ECX, feature: 1 << 2 },   // UMIP
  { bit: 1 << 12, leaf: 7, register: ECX, feature: 1 << 16 },  // LA57
  { bit: 1 << 13, leaf: 1, register: ECX, feature: 1 << 5 },   // VMX
  { bit: 1 << 16, leaf: 7, register: EBX, feature: 1 << 0 },   // FSGSBASE
  { bit: 1 << 17, leaf: 1, register: ECX, feature: 1 << 17 },  // PCID
  { bit: 1 << 18, leaf: 1, register: ECX, feature: 1 << 26 },  // OSXSAVE
  { bit: 1 << 20, leaf: 7, register: EBX, feature: 1 << 7 },   // SMEP
  { bit: 1 << 21, leaf: 7, register: EBX, feature: 1 << 20 },  // SMAP
  { bit: 1 << 22, leaf: 7, register: ECX, feature: 1 << 3 },   // PKE
];

// biome-ignore format: a table
const eferFeatures = [
  { bit: EFER_LME | EFER_LMA, leaf: 0x8000_0001, register: EDX, feature: 1 << 29 },
  { bit: EFER_NX, leaf: 0x8000_0001, register: EDX, feature: 1 << 20 },
  { bit: EFER_SVME, leaf: 0x8000_0001, register: ECX, feature: 1 << 2 },
  { bit: EFER_FFXSR, leaf: 0x8000_0001, register: EDX, feature: 1 << 25 },
  { bit: EFER_AUTOIBRS, leaf: 0x8000_0021, register: EAX, feature: 1 << 8 },
];

/** Looked up once for each host: by its CPUID. */
const knownCr4 = new WeakMap<object, number>();

/** Bits of CR4 that the host has. */
function hostCr4(host: KvmHost): number {
  const key = host.facts.supportedCpuid ?? host.facts;
  let bits = knownCr4.get(key);
  if (bits !== undefined) return bits;
  bits = CR4_ALWAYS;
  for (const { bit, leaf, register, feature } of cr4Features)
    if (hostFeature(host, leaf, register, feature)) bits |= bit;
  knownCr4.set(key, bits);
  return bits;
}

/** Bits of EFER that KVM of this host knows: AMD's module adds its own. */
export function supportedEfer(host: KvmHost): number {
  const common = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX;
  if (host.flavour !== "svm") return common;
  return (
    common |
    (hostHas(host, "svm") ? EFER_SVME | (hostHas(host, "noLmsle") ? 0 : EFER_LMSLE) : 0) |
    (hostHas(host, "fxsrOpt") ? EFER_FFXSR : 0) |
    (hostHas(host, "automaticIbrs") ? EFER_AUTOIBRS : 0)
  );
}

/** kvm_sregs and kvm_sregs2 agree up to here */
const COMMON = KvmSregs.offsetOf.interrupt_bitmap;
const { cr0, cr2, cr3, cr4, cr8, efer, apic_base: apicBase } = KvmSregs.offsetOf;
const { gdt, idt } = KvmSregs.offsetOf;
const PDPTRS = KvmSregs2.offsetOf.pdptrs;
const RIP = KvmRegs.offsetOf.rip;
const RFLAGS = KvmRegs.offsetOf.rflags;
const CS_L = KvmSregs.offsetOf.cs + 19;

/** A code or data segment after reset. */
const segment = (selector: number, base: number, type: number, s: number) => ({
  base,
  limit: 0xffff,
  selector,
  type,
  present: 1,
  s,
});

/** The processor after reset (SDM volume 3, 9.1.1). */
const resetSregs = KvmSregs.encode({
  cs: segment(0xf000, 0xffff_0000, 11, 1),
  ds: segment(0, 0, 3, 1),
  es: segment(0, 0, 3, 1),
  fs: segment(0, 0, 3, 1),
  gs: segment(0, 0, 3, 1),
  ss: segment(0, 0, 3, 1),
  tr: segment(0, 0, 11, 0),
  ldt: segment(0, 0, 2, 0),
  gdt: { limit: 0xffff },
  idt: { limit: 0xffff },
  cr0: 0x6000_0010,
  apic_base: 0xfee0_0800,
});
const svmResetSregs = KvmSregs.encode({ ...KvmSregs.decode(resetSregs), ...svmResetSegments });
const resetRegs = KvmRegs.encode({ rdx: 0x600, rip: 0xfff0, rflags: RFLAGS_FIXED });

export class Registers {
  /** `struct kvm_regs` */
  readonly regsBytes = copyOf(resetRegs);
  /** `struct kvm_sregs`; cr8 and the bitmap are filled in when they are read */
  readonly sregsBytes: Uint8Array;
  readonly regs = KvmRegs.at(this.regsBytes);
  readonly sregs: ReturnType<typeof KvmSregs.at>;
  readonly #resetSregs: Uint8Array;
  /** the page directory pointers of paging with PAE outside long mode */
  pdptrs: Uint8Array | undefined;
  /** CR8 where no local APIC holds it */
  #cr8 = 0;
  readonly #vcpu: X86Vcpu;

  constructor(vcpu: X86Vcpu) {
    this.#vcpu = vcpu;
    this.#resetSregs = vcpu.vcpu.vm.host.behaviour.svmSegments ? svmResetSregs : resetSregs;
    this.sregsBytes = copyOf(this.#resetSregs);
    this.sregs = KvmSregs.at(this.sregsBytes);
    if (vcpu.isBootCpu) this.sregs.apic_baseLo |= APIC_BASE_BSP;
  }

  /** INIT: everything but the APIC's base, CR8 and the caching bits of CR0 as after power on. */
  reset(): void {
    const base = this.sregs.apic_base;
    this.regsBytes.set(resetRegs);
    // the signature of the processor
    const { cpuid } = this.#vcpu;
    if (cpuid.hasBasicLeaf) this.regs.rdx = BigInt(cpuid.register(1, ANY_INDEX, EAX));
    const kept = this.sregs.cr0Lo & (CR0_CD | CR0_NW);
    this.sregsBytes.set(this.#resetSregs);
    this.sregs.cr0Lo = (CR0_ET | kept) >>> 0;
    this.sregs.apic_base = base;
  }

  /** Startup IPI: real mode at vector * 4 KiB; of a wider vector the low byte counts. */
  startAt(vector: number): void {
    this.sregs.cs.selector = (vector & 0xff) << 8;
    this.sregs.cs.base = BigInt((vector & 0xff) << 12);
    this.regs.rip = 0n;
  }

  /** Writes general registers: bit 1 of RFLAGS is always set, VM never under pvm. Exceptions that wait are gone. */
  setRegs(bytes: Uint8Array, at: number): void {
    this.regsBytes.set(bytes.subarray(at, at + KvmRegs.size));
    const rflags = load32(this.regsBytes, RFLAGS);
    const dropped = this.#vcpu.vcpu.vm.host.behaviour.virtual8086Dropped ? RFLAGS_VM : 0;
    store32(this.regsBytes, RFLAGS, (rflags | RFLAGS_FIXED) & ~dropped);
    this.#vcpu.debug.flagsSet(this.ripLo);
  }

  /** the low half of RIP */
  get ripLo(): number {
    return load32(this.regsBytes, RIP);
  }

  clearTrapFlag(): void {
    store32(this.regsBytes, RFLAGS, load32(this.regsBytes, RFLAGS) & ~RFLAGS_TF);
  }

  get cr4Lo(): number {
    return load32(this.sregsBytes, cr4);
  }
  get apicBaseLo(): number {
    return load32(this.sregsBytes, apicBase);
  }
  get apicBase(): bigint {
    return this.sregs.apic_base;
  }
  get isPaging(): boolean {
    return (load32(this.sregsBytes, cr0) & CR0_PG) !== 0;
  }
  get isLongMode(): boolean {
    return (load32(this.sregsBytes, efer) & EFER_LMA) !== 0;
  }
  /** Paging with PAE outside long mode. */
  get isPae(): boolean {
    return this.isPaging && !this.isLongMode && (this.cr4Lo & CR4_PAE) !== 0;
  }
  get isProtected(): boolean {
    return (load32(this.sregsBytes, cr0) & CR0_PE) !== 0;
  }

  get cr8(): number {
    return this.#vcpu.lapic?.cr8 ?? this.#cr8;
  }
  set cr8(value: number) {
    if (this.#vcpu.lapic !== undefined) this.#vcpu.lapic.cr8 = value;
    else this.#cr8 = value;
  }

  /** IA32_APIC_BASE from user space: whether the value is one that can be, or the one that is there. */
  setApicBase(lo: number, hi: number): boolean {
    const { cpuid, lapic } = this.#vcpu;
    const same = lo === this.apicBaseLo && hi === load32(this.sregsBytes, apicBase + 4);
    if (same && this.#vcpu.vcpu.vm.host.behaviour.sameApicBaseTaken) return true;
    if ((lo & APIC_BASE_RESERVED) !== 0 || !this.#isGuestAddress(lo, hi)) return false;
    if ((lo & APIC_BASE_X2APIC) !== 0 && (!cpuid.hasX2apic || (lo & APIC_BASE_ENABLE) === 0)) return false;
    store32(this.sregsBytes, apicBase, lo);
    store32(this.sregsBytes, apicBase + 4, hi);
    lapic?.setBase(lo, hi, true);
    return true;
  }

  /** Whether an address has no more bits than CPUID leaf 0x80000008 says: that may be fewer than 32, or none. */
  #isGuestAddress(lo: number, hi: number): boolean {
    const bits = this.#vcpu.cpuid.physicalAddressBits;
    return hi >>> 0 < 2 ** Math.max(bits - 32, 0) && (bits >= 32 || lo >>> 0 < 2 ** bits);
  }

  /**
   * Bits that CR4 may hold: those of features that the host and the guest have (arch/x86/kvm/x86.h:__cr4_reserved_bits,
   * 6.18). Before 6.14, a vCPU whose CPUID was never set has all that the host has.
   */
  allowedCr4(): number {
    const { host } = this.#vcpu.vcpu.vm;
    if (host.behaviour.cr4IgnoresCpuid) return CR4_PVM;
    const { cpuid } = this.#vcpu;
    const guestAsked = host.behaviour.guestCapsFromCreation || cpuid.isSet;
    const offered = hostCr4(host);
    if (!guestAsked) return offered;
    let allowed = CR4_ALWAYS;
    for (const { bit, leaf, register, feature } of cr4Features)
      if ((offered & bit) !== 0 && (cpuid.register(leaf, 0, register) & feature) !== 0) allowed |= bit;
    return allowed;
  }

  /** Bits that EFER may hold: a vCPU whose CPUID lacks long mode has no long mode. */
  #allowedEfer(): number {
    let allowed = supportedEfer(this.#vcpu.vcpu.vm.host);
    for (const { bit, leaf, register, feature } of eferFeatures)
      if ((this.#vcpu.cpuid.register(leaf, ANY_INDEX, register) & feature) === 0) allowed &= ~bit;
    return allowed;
  }

  /** arch/x86/kvm/x86.c:kvm_is_valid_sregs (6.18) */
  #isValid(bytes: Uint8Array, at: number): boolean {
    const word = (offset: number) => load32(bytes, at + offset);
    const newCr0 = word(cr0);
    const longMode = (word(efer) & EFER_LME) !== 0 && (newCr0 & CR0_PG) !== 0;
    if (longMode) {
      if ((word(cr4) & CR4_PAE) === 0 || (word(efer) & EFER_LMA) === 0) return false;
      if (!this.#isGuestAddress(word(cr3), word(cr3 + 4))) return false;
    } else if ((word(efer) & EFER_LMA) !== 0 || bytes[at + CS_L] !== 0) return false;
    if ((word(cr4) & ~this.allowedCr4()) !== 0 || word(cr4 + 4) !== 0) return false;
    if (word(cr0 + 4) !== 0) return false;
    if (this.#vcpu.vcpu.vm.host.behaviour.sregsCheckEfer)
      if ((word(efer) & ~this.#allowedEfer()) !== 0 || word(efer + 4) !== 0) return false;
    if ((newCr0 & CR0_NW) !== 0 && (newCr0 & CR0_CD) === 0) return false;
    return (newCr0 & CR0_PG) === 0 || (newCr0 & CR0_PE) !== 0;
  }

  /** The part that kvm_sregs and kvm_sregs2 share: 0, or −EINVAL with nothing changed. */
  setCommon(bytes: Uint8Array, at: number): number {
    const { behaviour } = this.#vcpu.vcpu.vm.host;
    if (!this.#isValid(bytes, at)) return -EINVAL;
    if (!this.setApicBase(load32(bytes, at + apicBase), load32(bytes, at + apicBase + 4))) return -EINVAL;
    const into = this.sregsBytes;
    into.set(bytes.subarray(at, at + apicBase));
    into.fill(0, gdt + 10, gdt + 16);
    into.fill(0, idt + 10, idt + 16);
    if (load32(bytes, at + cr8) <= 15 && load32(bytes, at + cr8 + 4) === 0) this.cr8 = bytes[at + cr8];
    if (behaviour.svmSegments) keepSvmSegments(into);
    if (!this.isLongMode && this.isPaging && behaviour.pagingOnlyInLongMode) {
      store32(into, cr0, load32(into, cr0) & ~CR0_PG);
      this.#vcpu.events.tripleFault = true;
    }
    updateCr8Intercept(this.#vcpu);
    this.#wakeBootCpu();
    return 0;
  }

  /** Older user space did not set MP_STATE: a boot CPU that is put where reset puts it runs. */
  #wakeBootCpu(): void {
    const { sregs } = this;
    const atReset =
      load32(this.regsBytes, RIP) === 0xfff0 &&
      sregs.cs.selector === 0xf000 &&
      sregs.cs.baseLo === 0xffff_0000 &&
      !this.isProtected;
    if (this.#vcpu.isBsp && atReset) this.#vcpu.mpState = 0;
  }

  copyCommon(bytes: Uint8Array, at: number): void {
    store64(this.sregsBytes, cr8, this.cr8);
    bytes.set(this.sregsBytes.subarray(0, COMMON), at);
  }

  /** CR2 as the last page fault left it */
  get cr2(): bigint {
    return this.sregs.cr2;
  }
  set cr2(value: bigint) {
    store64(this.sregsBytes, cr2, value);
  }
}

const of = (file: VcpuFile): X86Vcpu => file.vcpu.arch as X86Vcpu;

const getRegs = answering(KvmRegs.size, (file: VcpuFile, bytes, at) => {
  const { registers, debug } = of(file);
  bytes.set(registers.regsBytes, at);
  if (debug.singleSteps) store32(bytes, at + RFLAGS, load32(bytes, at + RFLAGS) & ~RFLAGS_TF);
});

function setRegs(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmRegs.size)) return -EFAULT;
  of(file).registers.setRegs(user.bytes, user.at);
  of(file).events.dropException();
  of(file).requestEvent();
  return 0;
}

/** Writes `struct kvm_sregs`. */
export function storeSregs({ registers, events }: X86Vcpu, bytes: Uint8Array, at: number): void {
  registers.copyCommon(bytes, at);
  const bitmap = at + COMMON;
  bytes.fill(0, bitmap, bitmap + 32);
  if (events.interrupt.injected && !events.interrupt.soft)
    bytes[bitmap + (events.interrupt.nr >>> 3)] |= 1 << (events.interrupt.nr & 7);
}

const getSregs = answering(KvmSregs.size, (file: VcpuFile, bytes, at) => storeSregs(of(file), bytes, at));

/** Takes `struct kvm_sregs`, or EINVAL. The lowest vector of the bitmap becomes the injected interrupt; an empty bitmap changes nothing. */
export function loadSregs(vcpu: X86Vcpu, bytes: Uint8Array, at: number): number {
  const { registers, events } = vcpu;
  const failed = registers.setCommon(bytes, at);
  if (failed < 0) return failed;
  if (registers.isPae) loadPdptrs(vcpu);
  for (let vector = 0; vector < 256; vector++) {
    if (((bytes[at + COMMON + (vector >>> 3)] >>> (vector & 7)) & 1) === 0) continue;
    events.queueInterrupt(vector);
    break;
  }
  vcpu.requestEvent();
  return 0;
}

function setSregs(file: VcpuFile, user: Argument): number {
  return user.readable(KvmSregs.size) ? loadSregs(of(file), user.bytes, user.at) : -EFAULT;
}

const getSregs2 = answering(KvmSregs2.size, (file: VcpuFile, bytes, at) => {
  const { registers } = of(file);
  registers.copyCommon(bytes, at);
  bytes.fill(0, at + COMMON, at + KvmSregs2.size);
  if (!registers.isPae) return;
  store32(bytes, at + COMMON, KVM_SREGS2_FLAGS_PDPTRS_VALID);
  // a guest that turned its paging on had them read; one that writes CR3 later has not (7.2)
  if (registers.pdptrs === undefined) loadPdptrs(of(file));
  if (registers.pdptrs !== undefined) bytes.set(registers.pdptrs, at + PDPTRS);
});

/** EFAULT; EINVAL for unknown flags, and for PDPTRs where paging with PAE outside long mode is not on. */
function setSregs2(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmSregs2.size)) return -EFAULT;
  const given = KvmSregs2.at(user.bytes, user.at);
  const withPdptrs = (given.flagsLo & KVM_SREGS2_FLAGS_PDPTRS_VALID) !== 0;
  if ((given.flagsLo & ~KVM_SREGS2_FLAGS_PDPTRS_VALID) !== 0 || given.flagsHi !== 0) return -EINVAL;
  const paging = (given.cr0Lo & CR0_PG) !== 0;
  const pae = paging && (given.cr4Lo & CR4_PAE) !== 0 && (given.eferLo & EFER_LMA) === 0;
  if (withPdptrs && !pae) return -EINVAL;
  const { registers } = of(file);
  const failed = registers.setCommon(user.bytes, user.at);
  if (failed < 0) return failed;
  if (withPdptrs) registers.pdptrs = user.bytes.slice(user.at + PDPTRS, user.at + KvmSregs2.size);
  else if (registers.isPae) loadPdptrs(of(file));
  of(file).requestEvent();
  return 0;
}

export const registerIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_REGS, getRegs],
  [KVM_SET_REGS, setRegs],
  [KVM_GET_SREGS, getSregs],
  [KVM_SET_SREGS, setSregs],
  [KVM_GET_SREGS2, getSregs2],
  [KVM_SET_SREGS2, setSregs2],
];
