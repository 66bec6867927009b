/**
 * CPUID: what the host's KVM offers (KVM_GET_SUPPORTED_CPUID, KVM_GET_EMULATED_CPUID) and what a vCPU shows
 * (KVM_SET_CPUID, KVM_SET_CPUID2, KVM_GET_CPUID2; arch/x86/kvm/cpuid.c, 6.1 and 6.18).
 *
 * `struct kvm_cpuid2`, 8 bytes: nent u32, padding u32, then entries of 40 bytes: function, index, flags, eax, ebx, ecx,
 * edx, padding[3], u32 each. The entries of KVM_SET_CPUID have 24: function, eax, ebx, ecx, edx, padding.
 *
 * Some bits follow the state of the vCPU and are worked out when they are read: OSXSAVE, OSPKE, APIC, the sizes in leaf
 * 0xd. A host whose guests execute CPUID on the bare processor (flavour pvm) cannot hide what the processor has: there
 * KVM_SET_CPUID forces bits, see NativeCpuid.
 *
 * Missing: the leaves of Xen and Hyper-V, which this kernel does not have.
 */
import { E2BIG, EFAULT, EINVAL, EPERM } from "../../abi/errno.ts";
import {
  KVM_GET_CPUID2,
  KVM_GET_EMULATED_CPUID,
  KVM_GET_SUPPORTED_CPUID,
  KVM_GET_SUPPORTED_HV_CPUID,
  KVM_SET_CPUID,
  KVM_SET_CPUID2,
  KVM_X86_DISABLE_EXITS_HLT,
  KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT,
  KvmCpuid2,
  KvmCpuidEntry,
  KvmCpuidEntry2,
} from "../../abi/kvm-x86.ts";
import { load32, store32 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import { copyOut } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import type { KvmHost, NativeCpuid } from "../host.ts";
import type { KvmSystem } from "../system.ts";
import type { VcpuFile } from "../vcpu.ts";
import { hostHas } from "./host-cpuid.ts";
import type { X86Vcpu } from "./vcpu.ts";

const ENTRY = KvmCpuidEntry2.size;
const HEADER = KvmCpuid2.size;
/** KVM_MAX_CPUID_ENTRIES */
const MAX_ENTRIES = 256;
/** where the registers stand in an entry */
export const EAX = 12;
export const EBX = 16;
export const ECX = 20;
export const EDX = 24;

const FLAGS = 8;
const PADDING = 28;
const SIGNIFICANT_INDEX = 1;
const LEAF_XSAVE = 0xd;

const MONITOR = 1 << 3;
const MISC_ENABLE_MWAIT = 1n << 18n;
const OSXSAVE = 1 << 27;
const APIC = 1 << 9;
const OSPKE = 1 << 4;
const CR4_OSXSAVE = 1 << 18;
const CR4_PKE = 1 << 22;
const APIC_BASE_ENABLE = 1 << 11;
/** XSAVEC, XSAVES: leaf 0xd.1 tells the size of the compacted format */
const COMPACTED = 0b1010;
/** XSAVE components that a process must ask for before a guest may have them: AMX tile data */
const PERMISSION_NEEDED = 1 << 18;
/** XSAVEOPT, XSAVEC, XGETBV with ECX=1: what a guest may have of leaf 0xd.1 */
const XSAVE_VARIANTS = 0b0111;
/** bytes of the legacy region and the XSAVE header */
const XSAVE_MIN = 0x240;

/** Hyper-V's leaves: features, with timers that raise interrupts; recommendations, with IPIs to many */
const HV_FEATURES = 0x4000_0003;
const HV_RECOMMENDATIONS = 0x4000_0004;
const HV_STIMER_DIRECT = 1 << 19;
const HV_CLUSTER_IPI = 1 << 10;

/** KVM_FEATURE_PV_UNHALT */
const PV_UNHALT = 1 << 7;
const LEAF_SGX = 0x12;
/** the components that every XSAVE area has */
const X87_SSE = 3;

/** any index will do */
export const ANY_INDEX = -1;

/** What a vCPU shows: the entries as they were set, 40 bytes each. */
export class Cpuid {
  #entries: Uint8Array = new Uint8Array(0);
  /** the bits that follow the vCPU's state are to be worked out anew */
  stale = false;
  /** but not yet whether the guest may be told of being woken */
  unhaltLater = false;

  /** KVM_SET_CPUID, KVM_SET_CPUID2 was called, perhaps with no entry */
  isSet = false;

  get count(): number {
    return this.#entries.length / ENTRY;
  }

  /**
   * The bytes of an entry; the first one where several match. An entry without the index flag matches every index. Where
   * Linux does not ask for an index, any will do.
   */
  find(leaf: number, index = ANY_INDEX): Uint8Array | undefined {
    const entries = this.#entries;
    for (let at = 0; at < entries.length; at += ENTRY) {
      if (load32(entries, at) !== leaf) continue;
      const indexed = (load32(entries, at + FLAGS) & SIGNIFICANT_INDEX) !== 0;
      if (!indexed || index === ANY_INDEX || load32(entries, at + 4) === index)
        return entries.subarray(at, at + ENTRY);
    }
    return undefined;
  }

  /** One register of a leaf, 0 where the leaf is missing. */
  register(leaf: number, index: number, register: number): number {
    const entry = this.find(leaf, index);
    return entry === undefined ? 0 : load32(entry, register);
  }

  /** MAXPHYADDR: leaf 0x80000008, 36 without it */
  get physicalAddressBits(): number {
    if (this.register(0x8000_0000, ANY_INDEX, EAX) < 0x8000_0008) return 36;
    const entry = this.find(0x8000_0008);
    return entry === undefined ? 36 : load32(entry, EAX) & 0xff;
  }

  /** KVM_FEATURE_* that KVM's own leaf offers */
  get paravirtualFeatures(): number {
    return this.register(this.#paravirtualLeaf, ANY_INDEX, EAX);
  }

  get isParavirtual(): boolean {
    return this.#paravirtualLeaf !== 0;
  }

  /** The leaf of KVM's features, behind the signature "KVMKVMKVM"; 0 for none. */
  get #paravirtualLeaf(): number {
    for (let base = 0x4000_0000; base < 0x4001_0000; base += 0x100) {
      const signature = this.find(base);
      if (signature === undefined) continue;
      if (
        load32(signature, EBX) === 0x4b4d_564b &&
        load32(signature, ECX) === 0x564b_4d56 &&
        load32(signature, EDX) === 0x4d
      )
        return base + 1;
    }
    return 0;
  }

  /** XSAVE components that leaf 0xd.0 offers */
  get xcr0(): number {
    return this.register(LEAF_XSAVE, 0, EAX);
  }

  /** whether there is leaf 1, on which the local APIC depends */
  get hasBasicLeaf(): boolean {
    return this.find(1) !== undefined;
  }

  get hasSse3(): boolean {
    return (this.register(1, 0, ECX) & 1) !== 0;
  }
  get hasX2apic(): boolean {
    return (this.register(1, 0, ECX) & (1 << 21)) !== 0;
  }
  /** "GenuineIntel": what the local APIC does differently for AMD */
  get isIntelCompatible(): boolean {
    return this.register(0, ANY_INDEX, EBX) !== 0x6874_7541;
  }
  get isIntel(): boolean {
    return this.register(0, ANY_INDEX, EBX) === 0x756e_6547;
  }
  get hasTscDeadline(): boolean {
    return (this.register(1, 0, ECX) & (1 << 24)) !== 0;
  }
  get hasTscAdjust(): boolean {
    return (this.register(7, 0, EBX) & (1 << 1)) !== 0;
  }
  get hasArchCapabilities(): boolean {
    return (this.register(7, 0, EDX) & (1 << 29)) !== 0;
  }

  /** Takes a table: 0, or why not. The old one stays after an error. */
  set(entries: Uint8Array, native: NativeCpuid | undefined): number {
    const candidate = new Cpuid();
    candidate.#entries = entries;
    const addressSizes = candidate.find(0x8000_0008);
    if (addressSizes !== undefined) {
      const virtual = addressSizes[EAX + 1];
      if (virtual !== 0 && virtual !== 48 && virtual !== 57) return -EINVAL;
    }
    if ((candidate.xcr0 & PERMISSION_NEEDED) !== 0) return -EPERM;
    if (native !== undefined) candidate.#force(native);
    this.#entries = candidate.#entries;
    return 0;
  }

  /** Whether a table would change nothing. */
  agreesWith(entries: Uint8Array, native: NativeCpuid | undefined): boolean {
    const other = new Cpuid();
    if (other.set(entries, native) < 0 || other.count !== this.count) return false;
    return other.#entries.every((byte, i) => byte === this.#entries[i]);
  }

  /** The bits that a bare processor shows whatever the table says. */
  #force(native: NativeCpuid): void {
    const kept: Uint8Array[] = [];
    for (let at = 0; at < this.#entries.length; at += ENTRY)
      if (!native.removed.includes(load32(this.#entries, at)))
        kept.push(this.#entries.subarray(at, at + ENTRY));
    const needsXsave = this.find(1, 0) !== undefined && this.find(LEAF_XSAVE, 0) === undefined;
    this.#entries = concat(needsXsave ? [...kept, ...native.xsave] : kept);

    // an entry without the index flag is every index, and ends as the last
    for (let index = 0; index < 64; index++) {
      const entry = this.find(LEAF_XSAVE, index);
      if (entry === undefined) continue;
      const host = native.xsave.find((other) => load32(other, 4) === index);
      for (let at = EAX; at < EDX + 4; at++) entry[at] = host === undefined ? 0 : host[at];
      if (index === 1) store32(entry, EAX, load32(entry, EAX) & XSAVE_VARIANTS);
    }
    const components = this.xcr0;
    for (let index = 2; index < 64; index++)
      if (index >= 32 || ((components >>> index) & 1) === 0)
        this.find(LEAF_XSAVE, index)?.fill(0, EAX, EDX + 4);
    const withAvx = (this.xcr0 & 4) !== 0;
    for (const { leaf, index, register, keep, force, avx } of native.registers) {
      const entry = this.find(leaf, index);
      if (entry === undefined) continue;
      const value = (load32(entry, register) & keep) | force;
      store32(entry, register, withAvx ? value : value & ~avx);
    }
  }

  /** The entries, with the bits that follow the vCPU's state. */
  shown(vcpu: X86Vcpu): Uint8Array {
    this.#followState(vcpu);
    return this.#entries;
  }

  /** Before 6.14, OSPKE followed CR4 only on a processor that has protection keys. */
  #showsOspke({ vcpu: { vm } }: X86Vcpu): boolean {
    return vm.host.behaviour.guestCapsFromCreation || hostHas(vm.host, "pku");
  }

  /** A guest whose HLT does not exit is never asleep for KVM: nobody may offer to wake it. */
  #followHalts({ vm }: X86Vcpu): void {
    const leaf = this.#paravirtualLeaf;
    const features = leaf === 0 || this.unhaltLater ? undefined : this.find(leaf);
    this.unhaltLater = false;
    if (features === undefined || (vm.settings.disabledExits & KVM_X86_DISABLE_EXITS_HLT) === 0) return;
    store32(features, EAX, load32(features, EAX) & ~PV_UNHALT);
  }

  /** Before 6.12, SGX's leaf offered what XSAVE has. */
  #followXcr0({ vcpu: { vm } }: X86Vcpu): void {
    const enclave = this.find(LEAF_SGX, 1);
    if (enclave === undefined || vm.host.behaviour.sgxLeafKept) return;
    const offered = this.register(LEAF_XSAVE, 0, EAX) & (vm.host.facts.guestXcr0 ?? X87_SSE);
    store32(enclave, ECX, (load32(enclave, ECX) & offered) | X87_SSE);
    store32(enclave, EDX, 0);
  }

  /**
   * arch/x86/kvm/cpuid.c:kvm_update_cpuid_runtime (6.18). What does not follow by itself, MONITOR, changes when something
   * else does.
   */
  #followState(vcpu: X86Vcpu): void {
    const cr4 = vcpu.registers.cr4Lo;
    const basic = this.find(1);
    const extended = this.find(7, 0);
    let changed = this.stale;
    this.stale = false;
    if (basic !== undefined) {
      if (setBit(basic, ECX, OSXSAVE, (cr4 & CR4_OSXSAVE) !== 0)) changed = true;
      if (setBit(basic, EDX, APIC, (vcpu.registers.apicBaseLo & APIC_BASE_ENABLE) !== 0)) changed = true;
    }
    if (extended !== undefined && this.#showsOspke(vcpu))
      if (setBit(extended, ECX, OSPKE, (cr4 & CR4_PKE) !== 0)) changed = true;
    const showsMwait = (vcpu.vm.settings.disabledQuirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT) !== 0;
    if (changed && showsMwait && basic !== undefined)
      setBit(basic, ECX, MONITOR, (vcpu.msrs.miscEnable & MISC_ENABLE_MWAIT) !== 0n);
    this.#followXcr0(vcpu);
    if (changed) this.#followHalts(vcpu);
    const { xcr0 } = vcpu.fpu;
    const { facts } = vcpu.vm.vm.host;
    const host = facts.nativeCpuid === undefined ? facts.supportedCpuid : concat(facts.nativeCpuid.xsave);
    const xsave = this.find(LEAF_XSAVE, 0);
    if (xsave !== undefined) store32(xsave, EBX, xsaveSize(host ?? none, xcr0, false));
    const compact = this.find(LEAF_XSAVE, 1);
    if (compact !== undefined && (load32(compact, EAX) & COMPACTED) !== 0)
      store32(compact, EBX, xsaveSize(host ?? none, xcr0, true));
  }
}

/** Bytes of an XSAVE area with these components on the host: each has its place, or they follow one another. */
function xsaveSize(host: Uint8Array, xcr0: number, compacted: boolean): number {
  let end = XSAVE_MIN;
  for (let at = 0; at < host.length; at += ENTRY) {
    const component = load32(host, at + 4);
    if (load32(host, at) !== LEAF_XSAVE || component < 2 || ((xcr0 >>> component) & 1) === 0) continue;
    const start = compacted ? end : load32(host, at + EBX);
    end = Math.max(end, start + load32(host, at + EAX));
  }
  return end;
}

/** Whether the bit was another before. */
function setBit(entry: Uint8Array, register: number, bit: number, on: boolean): boolean {
  const value = load32(entry, register);
  const wanted = on ? value | bit : value & ~bit;
  store32(entry, register, wanted);
  return wanted >>> 0 !== value;
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.length * ENTRY);
  parts.forEach((part, i) => {
    whole.set(part, i * ENTRY);
  });
  return whole;
}

/** E2BIG where `nent` has no room, and nothing is written then; EFAULT. */
function offer(offered: Uint8Array, user: Argument, room: number): number {
  const count = offered.length / ENTRY;
  if (count > room) return -E2BIG;
  if (!copyOut(user, offered, HEADER) || !user.writable(HEADER)) return -EFAULT;
  store32(user.bytes, user.at, count);
  return 0;
}

/** How many entries there is room for: −EFAULT, −E2BIG for none. */
function roomOf(user: Argument): number {
  if (!user.readable(HEADER)) return -EFAULT;
  const nent = load32(user.bytes, user.at);
  return nent < 1 ? -E2BIG : Math.min(nent, MAX_ENTRIES);
}

function getSupported(file: KvmSystem, user: Argument): number {
  const room = roomOf(user);
  return room < 0 ? room : offer(file.host.facts.supportedCpuid ?? none, user, room);
}

/**
 * EINVAL where the padding of the entries is not zero or cannot be read. One entry more than there are must fit
 * (arch/x86/kvm/cpuid.c:__do_cpuid_func_emulated, 6.18).
 */
function getEmulated(file: KvmSystem, user: Argument): number {
  const room = roomOf(user);
  if (room < 0) return room;
  if (!user.readable(room * ENTRY, HEADER)) return -EINVAL;
  for (let i = 0; i < room; i++)
    for (let byte = PADDING; byte < ENTRY; byte++)
      if (user.bytes[user.at + HEADER + i * ENTRY + byte] !== 0) return -EINVAL;
  return offer(file.host.facts.emulatedCpuid ?? none, user, room - 1);
}

const none = new Uint8Array(0);

/** E2BIG for more than 256 entries, EFAULT, EINVAL for an address width that no processor has or a change after the
 * first KVM_RUN, EPERM for a component of XSAVE that the process may not use. */
function setCpuid2(file: VcpuFile, user: Argument): number {
  if (!user.readable(HEADER)) return -EFAULT;
  const nent = load32(user.bytes, user.at);
  if (nent > MAX_ENTRIES) return -E2BIG;
  if (!user.readable(nent * ENTRY, HEADER)) return -EFAULT;
  const start = user.at + HEADER;
  return (file.vcpu.arch as X86Vcpu).setCpuid(user.bytes.slice(start, start + nent * ENTRY));
}

/** As above, with entries that have no index and no flags. */
function setCpuid(file: VcpuFile, user: Argument): number {
  if (!user.readable(HEADER)) return -EFAULT;
  const nent = load32(user.bytes, user.at);
  if (nent > MAX_ENTRIES) return -E2BIG;
  const old = KvmCpuidEntry.size;
  if (!user.readable(nent * old, HEADER)) return -EFAULT;
  const entries = new Uint8Array(nent * ENTRY);
  for (let i = 0; i < nent; i++) {
    const from = user.at + HEADER + i * old;
    entries.set(user.bytes.subarray(from, from + 4), i * ENTRY);
    entries.set(user.bytes.subarray(from + 4, from + 20), i * ENTRY + EAX);
  }
  return (file.vcpu.arch as X86Vcpu).setCpuid(entries);
}

/** E2BIG where `nent` has no room, and nothing is written then; EFAULT. */
function getCpuid2(file: VcpuFile, user: Argument): number {
  if (!user.readable(HEADER)) return -EFAULT;
  const vcpu = file.vcpu.arch as X86Vcpu;
  const { cpuid } = vcpu;
  if (load32(user.bytes, user.at) < cpuid.count) return -E2BIG;
  if (!copyOut(user, cpuid.shown(vcpu), HEADER) || !user.writable(HEADER)) return -EFAULT;
  if (vcpu.vm.vm.host.behaviour.cpuidCountTold) store32(user.bytes, user.at, cpuid.count);
  return 0;
}

/** Hyper-V's leaves, where KVM offers them: EINVAL, EFAULT, E2BIG. */
function getHyperv({ facts }: KvmHost, user: Argument, vcpu?: X86Vcpu): number {
  if (facts.hypervCpuid === undefined) return -EINVAL;
  if (!user.readable(HEADER)) return -EFAULT;
  const withLapic = vcpu === undefined || vcpu.lapic !== undefined;
  const leaves = withLapic ? facts.hypervCpuid : withoutLapic(facts.hypervCpuid);
  return offer(leaves, user, load32(user.bytes, user.at));
}

/** What needs a local APIC in the kernel: timers that raise interrupts, and IPIs to many vCPUs. */
function withoutLapic(leaves: Uint8Array): Uint8Array {
  const copy = leaves.slice();
  for (let at = 0; at < copy.length; at += ENTRY) {
    const entry = copy.subarray(at, at + ENTRY);
    if (load32(entry, 0) === HV_FEATURES) setBit(entry, EDX, HV_STIMER_DIRECT, false);
    if (load32(entry, 0) === HV_RECOMMENDATIONS) setBit(entry, EAX, HV_CLUSTER_IPI, false);
  }
  return copy;
}

export const cpuidSystemIoctls: readonly Entry<KvmSystem>[] = [
  [KVM_GET_SUPPORTED_HV_CPUID, (file, user) => getHyperv(file.host, user)],
  [KVM_GET_SUPPORTED_CPUID, getSupported],
  [KVM_GET_EMULATED_CPUID, getEmulated],
];

export const cpuidIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_SUPPORTED_HV_CPUID, (file, user) => getHyperv(file.vcpu.vm.host, user, file.vcpu.arch as X86Vcpu)],
  [KVM_SET_CPUID, setCpuid],
  [KVM_SET_CPUID2, setCpuid2],
  [KVM_GET_CPUID2, getCpuid2],
];
