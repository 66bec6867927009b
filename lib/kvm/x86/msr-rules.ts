/**
 * What user space may read and write of each MSR of a vCPU, and its value after creation. The rows are what Linux 6.18
 * of flavour pvm answered to every index of 0…0x1fff, 0x4b564d00…, 0xc0000000… and 0xc0010000…, with and without CPUID
 * and an in-kernel local APIC; then what mainline answers differently (arch/x86/kvm/x86.c:kvm_set_msr_common), and AMD's
 * module (arch/x86/kvm/svm/svm.c:svm_set_msr): 6.1, 6.12 and 7.2 were asked.
 *
 * Missing: Intel's module (VMX, its LBR and PMU MSRs).
 */
import { KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT } from "../../abi/kvm-x86.ts";
import { LAPIC_FAULT, LAPIC_SEND_IPI } from "../../hardware/lapic.ts";
import { hostTsc, hostTscKhz } from "./clock.ts";
import { ANY_INDEX, EAX } from "./cpuid.ts";
import { hostHas, hostVirtualBits } from "./host-cpuid.ts";
import { EFER_LMA, EFER_SVME, supportedEfer } from "./registers.ts";
import type { X86Vcpu } from "./vcpu.ts";
import { writeWallClock } from "./wall-clock.ts";

/** One MSR: undefined and false are refusals. */
export interface MsrRule {
  read(vcpu: X86Vcpu, index: number, byGuest: boolean): bigint | undefined;
  write(vcpu: X86Vcpu, index: number, value: bigint, byGuest: boolean): boolean;
}
type Accept = (value: bigint, vcpu: X86Vcpu) => boolean;

const ALL = 0xffff_ffff_ffff_ffffn;
const any: Accept = () => true;
const low = (bits: number): Accept => {
  const limit = 1n << BigInt(bits);
  return (value) => value < limit;
};
const without =
  (refused: bigint): Accept =>
  (value) =>
    (value & refused) === 0n;
const signExtended = (value: bigint, { vcpu }: X86Vcpu): bigint =>
  BigInt.asUintN(64, BigInt.asIntN(hostVirtualBits(vcpu.vm.host), value));
const canonical: Accept = (value, vcpu) => signExtended(value, vcpu) === value;

/** Keeps what is written. */
const stored = (reset = 0n, accept: Accept = any): MsrRule => ({
  read: (vcpu, index) => vcpu.msrs.values.get(index) ?? reset,
  write(vcpu, index, value) {
    if (!accept(value, vcpu)) return false;
    vcpu.msrs.values.set(index, value);
    return true;
  },
});
/** Reads as a constant; a write is refused. */
const constant = (value = 0n): MsrRule => ({ read: () => value, write: () => false });
/** Reads as a constant; a write changes nothing. */
const ignored = (value = 0n): MsrRule => ({ read: () => value, write: () => true });
/** Reads as 0, and takes nothing else. */
const zero: MsrRule = { read: () => 0n, write: (_vcpu, _index, value) => value === 0n };
const writeOnly: MsrRule = { read: () => undefined, write: () => true };
const absent: MsrRule = { read: () => undefined, write: () => false };

/** UC, WC, WT, WP, WB */
const isMemoryType = (type: number): boolean => type === 0 || type === 1 || (type >= 4 && type <= 6);
const byteOf = (value: bigint, byte: number): number => Number((value >> BigInt(8 * byte)) & 0xffn);
const withinPhysical = (value: bigint, vcpu: X86Vcpu): boolean =>
  value >> BigInt(vcpu.cpuid.physicalAddressBits) === 0n;
const mtrrBase: Accept = (value, vcpu) =>
  isMemoryType(byteOf(value, 0)) && (value & 0xf00n) === 0n && withinPhysical(value, vcpu);
const mtrrMask: Accept = (value, vcpu) => (value & 0x7ffn) === 0n && withinPhysical(value, vcpu);
const mtrrFixed: Accept = (value) =>
  [0, 1, 2, 3, 4, 5, 6, 7].every((byte) => isMemoryType(byteOf(value, byte)));
const mtrrDefault: Accept = (value) => isMemoryType(byteOf(value, 0)) && (value & ~0xcffn) === 0n;

/** Whether guest memory that can be written is behind an address. */
const hasMemory = (vcpu: X86Vcpu, address: bigint, length: number): boolean =>
  address < 1n << 52n && vcpu.vcpu.vm.slots.isWritable(Number(address), length);

const apicBase: MsrRule = {
  read: (vcpu) => vcpu.registers.apicBase,
  write: (vcpu, _index, value) =>
    vcpu.registers.setApicBase(Number(value & 0xffff_ffffn), Number(value >> 32n)),
};

/** The host's counter and an offset, which stays 0 where the guest reads the counter itself. */
const tsc: MsrRule = {
  read: (vcpu) => BigInt.asUintN(64, hostTsc(vcpu.vcpu.vm.host) + vcpu.tscOffset),
  write(vcpu, _index, value) {
    vcpu.vm.tscSync.synchronize(vcpu, value);
    return true;
  },
};

const whereCpuid = (has: (vcpu: X86Vcpu) => boolean, there: MsrRule, absent: MsrRule): MsrRule => ({
  read: (vcpu, index, byGuest) => (has(vcpu) ? there : absent).read(vcpu, index, byGuest),
  write: (vcpu, index, value, byGuest) => (has(vcpu) ? there : absent).write(vcpu, index, value, byGuest),
});
const hasHyperv = ({ vcpu }: X86Vcpu): boolean => vcpu.vm.host.facts.hypervCpuid !== undefined;
const hyperv: MsrRule = {
  read: (vcpu, index, byGuest) => vcpu.hyperv.read(index, byGuest),
  write: (vcpu, index, value, byGuest) => vcpu.hyperv.write(index, value, byGuest),
};
const whereHyperv = whereCpuid(hasHyperv, hyperv, absent);
const hasLapic = (vcpu: X86Vcpu): boolean => vcpu.lapic !== undefined;

/** The value that the host reports as a feature. */
const feature = (index: number, otherwise = 0n): MsrRule => {
  const { write } = stored();
  return {
    read: (vcpu) =>
      vcpu.msrs.values.get(index) ?? vcpu.vcpu.vm.host.facts.msrFeatureValues?.get(index) ?? otherwise,
    write,
  };
};

/** LMA is read only; user space may change LME even while paging is on. */
const efer: MsrRule = {
  read: (vcpu) => vcpu.registers.sregs.efer,
  write(vcpu, _index, value) {
    if ((value & ~BigInt(supportedEfer(vcpu.vcpu.vm.host))) !== 0n) return false;
    const { sregs } = vcpu.registers;
    const wanted = Number(value);
    sregs.eferLo = (wanted & ~EFER_LMA) | (sregs.eferLo & EFER_LMA);
    sregs.eferHi = 0;
    return true;
  },
};

const segmentBase = (name: "fs" | "gs"): MsrRule => ({
  read: (vcpu) => vcpu.registers.sregs[name].base,
  write(vcpu, _index, value) {
    if (!canonical(value, vcpu)) return false;
    vcpu.registers.sregs[name].base = value;
    return true;
  },
});

const mcgCap: MsrRule = { read: (vcpu) => vcpu.mce.mcgCap, write: () => false };
const mcgStatus: MsrRule = {
  read: (vcpu) => vcpu.mce.mcgStatus,
  write(vcpu, _index, value) {
    vcpu.mce.mcgStatus = value;
    return true;
  },
};
const mcgCtl: MsrRule = {
  read: (vcpu) => vcpu.mce.mcgCtl,
  write({ mce }, _index, value) {
    if (value !== 0n && (!mce.hasControl || value !== ALL)) return false;
    mce.mcgCtl = value;
    return true;
  },
};
const MC0_CTL = 0x400;
const MC0_CTL2 = 0x280;
/** a guest may leave bits 0 and 10 of a CTL out */
const CTL_OPTIONAL = 0x401n;
const bank: MsrRule = {
  read: ({ mce }, index) => (index - MC0_CTL < mce.bankCount * 4 ? mce.banks[index - MC0_CTL] : undefined),
  write({ mce }, index, value) {
    const at = index - MC0_CTL;
    if (at >= mce.bankCount * 4) return false;
    if (at % 4 === 0 && value !== 0n && (value | CTL_OPTIONAL) !== ALL) return false;
    mce.banks[at] = value;
    return true;
  },
};
const bankCtl2: MsrRule = {
  read: ({ mce }, index) => (index - MC0_CTL2 < mce.bankCount ? mce.ctl2[index - MC0_CTL2] : undefined),
  write({ mce }, index, value) {
    if (index - MC0_CTL2 >= mce.bankCount || (value !== 0n && !mce.hasCmci)) return false;
    mce.ctl2[index - MC0_CTL2] = value;
    return true;
  },
};

const tscDeadline: MsrRule = {
  read: ({ lapic }) => lapic?.tscDeadline ?? 0n,
  write(vcpu, _index, value) {
    vcpu.lapic?.setTscDeadline(value, vcpu.vcpu.vm.kernel.clock.now);
    vcpu.lapicClock?.follow();
    return true;
  },
};

/** 0x800 to 0x8ff, once the local APIC is in x2APIC mode. */
const x2apic: MsrRule = {
  read({ lapic, vcpu }, index) {
    if (lapic === undefined || (lapic.readMsr(index, vcpu.vm.kernel.clock.now) & LAPIC_FAULT) !== 0)
      return undefined;
    return (BigInt(lapic.valueHi >>> 0) << 32n) | BigInt(lapic.valueLo >>> 0);
  },
  write(vcpu, index, value) {
    const { lapic, lapicClock } = vcpu;
    if (lapic === undefined) return false;
    const now = vcpu.vcpu.vm.kernel.clock.now;
    const result = lapic.writeMsr(index, Number(value & 0xffff_ffffn), Number(value >> 32n), now);
    if ((result & LAPIC_SEND_IPI) !== 0) vcpu.vm.irqchip!.bus.deliver(lapic.ipi, lapic);
    lapicClock!.follow();
    return (result & LAPIC_FAULT) === 0;
  },
};

/** MSR_KVM_WALL_CLOCK: one a VM, under both numbers. */
const wallClock: MsrRule = {
  read: ({ vm }) => vm.wallClock,
  write({ vm }, _index, value) {
    vm.wallClock = value;
    if (value < 1n << 52n) writeWallClock(vm.vm, Number(value));
    return true;
  },
};

const SYSTEM_TIME = 0x4b56_4d01;
/** bytes of struct pvclock_vcpu_time_info */
const TIME_INFO = 32;
/**
 * MSR_KVM_SYSTEM_TIME, under both numbers: bit 0 switches the guest's clock page on. One that would cross a page is not
 * (virt/kvm/pfncache.c:__kvm_gpc_activate, 6.18).
 */
const systemTime: MsrRule = {
  read: (vcpu) => vcpu.msrs.values.get(SYSTEM_TIME) ?? 0n,
  write(vcpu, _index, value) {
    vcpu.msrs.values.set(SYSTEM_TIME, value);
    const fits = Number(value & 0xffen) + TIME_INFO <= 4096;
    if ((value & 1n) === 0n) vcpu.msrs.kvmclockOn = false;
    else if (fits || !vcpu.vcpu.vm.host.behaviour.clockPageChecked) vcpu.msrs.kvmclockOn = true;
    return true;
  },
};
/**
 * MSR_KVM_ASYNC_PF_EN: enabled (bit 0) by interrupt (bit 3) needs 64 bytes of guest memory. Before 7.2, a value that
 * fails for want of it is kept.
 */
const asyncPfEnable: MsrRule = {
  read: (vcpu, index) => vcpu.msrs.values.get(index) ?? 0n,
  write(vcpu, index, value) {
    if (!hasLapic(vcpu)) return value === 0n;
    if ((value & 0x30n) !== 0n) return false;
    const usable = (value & 9n) !== 9n || hasMemory(vcpu, value & ~0x3fn, 64);
    if (usable || !vcpu.vcpu.vm.host.behaviour.asyncPfCheckedFirst) vcpu.msrs.values.set(index, value);
    return usable;
  },
};
/** MSR_KVM_PV_EOI_EN: enabled (bit 0) needs guest memory. */
const pvEoi = stored(0n, (value, vcpu) => {
  if ((value & 2n) !== 0n) return false;
  return (value & 1n) === 0n || hasMemory(vcpu, value & ~3n, 1);
});

const isListed = ({ vcpu }: X86Vcpu, index: number): boolean =>
  vcpu.vm.host.facts.msrIndices?.includes(index) ?? false;

/**
 * Where CPUID is enforced (KVM_CAP_ENFORCE_PV_FEATURE_CPUID), only with KVM_FEATURE_* number `bit`. Without it a zero may
 * still be read and written by user space, where the MSR is one that it is told to save.
 */
const whereOffered = (bit: number, rule: MsrRule): MsrRule => {
  const refused = (vcpu: X86Vcpu): boolean =>
    vcpu.enforcesPvCpuid && ((vcpu.cpuid.paravirtualFeatures >>> bit) & 1) === 0;
  return {
    read(vcpu, index, byGuest) {
      if (!refused(vcpu)) return rule.read(vcpu, index, byGuest);
      return isListed(vcpu, index) && vcpu.vcpu.vm.host.behaviour.msrRefusalsCleared ? 0n : undefined;
    },
    write: (vcpu, index, value, byGuest) =>
      refused(vcpu) ? value === 0n && isListed(vcpu, index) : rule.write(vcpu, index, value, byGuest),
  };
};

/** Reads as 0, and takes that where user space is told to save it. */
const zeroIfListed: MsrRule = {
  read: () => 0n,
  write: (vcpu, index, value) => value === 0n && isListed(vcpu, index),
};
/** No component of XSS is offered: 0, before 6.14 whether it is listed or not. */
const xss: MsrRule = {
  read: () => 0n,
  write: (vcpu, index, value) =>
    value === 0n && (isListed(vcpu, index) || !vcpu.vcpu.vm.host.behaviour.featureMsrsFollowCpuid),
};
/** Before 6.14, user space had ARCH_CAPABILITIES whatever CPUID said. */
const showsArchCapabilities = ({ cpuid, vcpu }: X86Vcpu): boolean =>
  cpuid.hasArchCapabilities || !vcpu.vm.host.behaviour.featureMsrsFollowCpuid;

/** MWAIT, bit 18, is shown in CPUID once the quirk is off; a processor without SSE3 has none. */
const MWAIT = 1n << 18n;
const miscEnable: MsrRule = {
  read: ({ msrs }) => msrs.miscEnable,
  write({ msrs, vm, cpuid, vcpu }, _index, value) {
    const quirky = (vm.settings.disabledQuirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT) === 0;
    if (!quirky && ((value ^ msrs.miscEnable) & MWAIT) !== 0n) {
      if (!cpuid.hasSse3 && !vcpu.vm.host.behaviour.miscEnableUnchecked) return false;
      cpuid.stale = true;
    }
    msrs.miscEnable = value;
    return true;
  },
};

/** HWCR: bits 3, 6 and 8 are dropped, 18 and, since 6.7, 24 kept. */
const hwcr: MsrRule = {
  read: (vcpu, index) => vcpu.msrs.values.get(index) ?? 0n,
  write(vcpu, index, value) {
    const kept = value & ~0x148n;
    const allowed = vcpu.vcpu.vm.host.behaviour.tscFreqSel ? 0x104_0000n : 0x4_0000n;
    if ((kept & ~allowed) !== 0n) return false;
    vcpu.msrs.values.set(index, kept);
    return true;
  },
};
/** SYSENTER_ESP, SYSENTER_EIP: made canonical. */
const sysenter: MsrRule = {
  read: (vcpu, index) => vcpu.msrs.values.get(index) ?? 0n,
  write(vcpu, index, value) {
    vcpu.msrs.values.set(index, signExtended(value, vcpu));
    return true;
  },
};
const isIntel = ({ cpuid, vcpu }: X86Vcpu): boolean =>
  vcpu.vm.host.behaviour.intelUnlessAmd ? cpuid.isIntelCompatible : cpuid.isIntel;
/** TSC_AUX: AMD's processors drop what is beyond 32 bits, Intel's refuse it. */
const tscAux: MsrRule = {
  read: (vcpu, index) => vcpu.msrs.values.get(index) ?? 0n,
  write(vcpu, index, value) {
    if (isIntel(vcpu) && value >> 32n !== 0n) return false;
    vcpu.msrs.values.set(index, value & 0xffff_ffffn);
    return true;
  },
};
/** AMD has 32 bits of them; the others are kept for a guest whose processor is Intel's. */
const svmSysenter: MsrRule = {
  read: (vcpu, index) => {
    const value = vcpu.msrs.values.get(index) ?? 0n;
    return isIntel(vcpu) ? value : value & 0xffff_ffffn;
  },
  write(vcpu, index, value) {
    const kept = signExtended(value, vcpu);
    vcpu.msrs.values.set(index, isIntel(vcpu) ? kept : kept & 0xffff_ffffn);
    return true;
  },
};
/** The base of system management mode, where KVM has that. */
const smbase: MsrRule = whereCpuid(({ vm }) => vm.hasSmm, stored(0x3_0000n), absent);

/** PRED_CMD, FLUSH_CMD: a command that the host's processor knows, or none. */
const predCmd: MsrRule = {
  read: () => undefined,
  write: ({ vcpu: { vm } }, _index, value) =>
    hostHas(vm.host, "ibpb") ? value <= 1n : value === 0n && vm.host.behaviour.emptyCommandTaken,
};
const flushCmd: MsrRule = {
  read: () => undefined,
  write: ({ vcpu }, _index, value) => value <= 1n && hostHas(vcpu.vm.host, "flushL1d"),
};
const PLATFORM_INFO = 0xce;
/** the guest may make CPUID fault: bit 0, which bit 31 of PLATFORM_INFO allows */
const CPUID_FAULT = 1n << 31n;
const cpuidFault: Accept = (value, vcpu) =>
  value === 0n || (value === 1n && ((vcpu.msrs.get(PLATFORM_INFO) ?? 0n) & CPUID_FAULT) !== 0n);

/** PAT: eight memory types, and 7 stands for UC−. */
const pat: Accept = (value) =>
  [0, 1, 2, 3, 4, 5, 6, 7].every((byte) => isMemoryType(byteOf(value, byte)) || byteOf(value, byte) === 7);
const DE_CFG = 0xc001_1029;
const hostDeCfg = ({ vcpu }: X86Vcpu): bigint => vcpu.vm.host.facts.msrFeatureValues?.get(DE_CFG) ?? 0n;
/** DE_CFG: bits that the host reports as a feature. */
const deCfg = stored(0n, (value, vcpu) => (value & ~hostDeCfg(vcpu)) === 0n);
/** IC_CFG: what the processors of family 0x15 have, once CPUID says which the guest's is. */
const icCfg: MsrRule = {
  read({ cpuid }) {
    if (!cpuid.hasBasicLeaf) return undefined;
    const signature = cpuid.register(1, ANY_INDEX, EAX);
    const family =
      ((signature >>> 8) & 0xf) + (((signature >>> 8) & 0xf) === 0xf ? (signature >>> 20) & 0xff : 0);
    const model = ((signature >>> 4) & 0xf) | ((signature >>> 12) & 0xf0);
    return family === 0x15 && model >= 2 && model < 0x20 ? 0x1en : 0n;
  },
  write: () => false,
};
const VM_CR_LOCK = 1n << 3n;
const VM_CR_DISABLE = 1n << 4n;
const VM_CR_VALID = 0x1fn;
/** VM_CR: what switched SVM off stays, and it cannot go off while EFER has it on. */
const vmCr: MsrRule = {
  read: (vcpu, index) => vcpu.msrs.values.get(index) ?? 0n,
  write(vcpu, index, value) {
    if ((value & ~VM_CR_VALID) !== 0n) return false;
    const old = vcpu.msrs.values.get(index) ?? 0n;
    const locked = (old & VM_CR_DISABLE) !== 0n ? VM_CR_LOCK | VM_CR_DISABLE : 0n;
    const kept = (old & locked) | (value & ~locked);
    vcpu.msrs.values.set(index, kept);
    return (kept & VM_CR_DISABLE) === 0n || (vcpu.registers.sregs.eferLo & EFER_SVME) === 0;
  },
};
const PAT_RESET = 0x0007_0406_0007_0406n;
const SSBD = 1n << 2n;
/** Keeps the address of a page. */
const page: MsrRule = {
  read: (vcpu, index) => vcpu.msrs.values.get(index) ?? 0n,
  write(vcpu, index, value) {
    vcpu.msrs.values.set(index, value & ~0xfffn);
    return true;
  },
};
/** the scaling of the TSC is 1 */
const tscRatio: MsrRule = {
  read: () => 1n << 32n,
  write: (_vcpu, _index, value) => value === 0n || value === 1n << 32n,
};

type Row = readonly [first: number, last: number, rule: MsrRule];

// biome-ignore format: a table
const rows: readonly Row[] = [
  [0x0, 0x1, constant()],                                      // P5_MC_ADDR, P5_MC_TYPE
  [0x10, 0x10, tsc],
  [0x11, 0x11, whereOffered(0, wallClock)],                          // KVM_WALL_CLOCK, old number
  [0x12, 0x12, whereOffered(0, systemTime)],                          // KVM_SYSTEM_TIME, old number
  [0x17, 0x17, constant()],                                    // PLATFORM_ID
  [0x1b, 0x1b, apicBase],
  [0x2a, 0x2a, constant()],                                    // EBL_CR_POWERON
  [0x2c, 0x2c, constant(1n << 24n)],                           // EBC_FREQUENCY_ID
  [0x34, 0x34, stored()],                                      // SMI_COUNT
  [0x3a, 0x3a, zero],                          // FEAT_CTL
  [0x3b, 0x3b, { read: stored().read, write: whereCpuid(({ cpuid }) => cpuid.hasTscAdjust, stored(), ignored()).write }],
  [0x48, 0x48, stored()],                                      // SPEC_CTRL; the host's processor has a word, too
  [0x49, 0x49, predCmd],
  [0x79, 0x79, writeOnly],                                     // UCODE_WRITE
  [0x8b, 0x8b, stored()],                                      // UCODE_REV
  [0x9e, 0x9e, smbase],
  [0xc1, 0xc2, ignored()],                                     // PERFCTR
  [0xcd, 0xcd, constant(3n)],                                  // FSB_FREQ
  [0xce, 0xce, feature(0xce, CPUID_FAULT)],                                 // PLATFORM_INFO
  [0xfe, 0xfe, constant(0x508n)],                              // MTRRcap
  [0x10a, 0x10a, whereCpuid(showsArchCapabilities, feature(0x10a), zero)],
  [0x10b, 0x10b, flushCmd],
  [0x11e, 0x11e, ignored(0xbe70_2111n)],                       // BBL_CR_CTL3
  [0x122, 0x122, ignored()],                                   // TSX_CTRL
  [0x140, 0x140, stored(0n, cpuidFault)],                      // MISC_FEATURES_ENABLES
  [0x174, 0x174, stored()],                                    // SYSENTER_CS
  [0x175, 0x176, sysenter],
  [0x179, 0x179, mcgCap],
  [0x17a, 0x17a, mcgStatus],
  [0x17b, 0x17b, mcgCtl],
  [0x186, 0x187, ignored()],                                   // P6_EVNTSEL
  [0x198, 0x198, constant(0x400_0000_03e8n)],                  // PERF_STATUS
  [0x199, 0x199, constant()],                                  // PERF_CTL
  [0x1a0, 0x1a0, miscEnable],
  [0x1c4, 0x1c5, zero],                        // XFD, XFD_ERR
  [0x1d9, 0x1d9, ignored()],                                   // DEBUGCTL
  [0x1db, 0x1de, zeroIfListed],                // LASTBRANCH, LASTINT
  [0x1fc, 0x1fc, stored()],                                    // POWER_CTL
  [0x250, 0x250, stored(0n, mtrrFixed)],
  [0x258, 0x259, stored(0n, mtrrFixed)],
  [0x268, 0x26f, stored(0n, mtrrFixed)],
  [0x277, 0x277, stored(PAT_RESET, pat)],
  [0x280, 0x29f, bankCtl2],
  [0x2ff, 0x2ff, stored(0n, mtrrDefault)],
  [0x345, 0x345, zero],                        // PERF_CAPABILITIES
  [0x400, 0x47f, bank],
  [0x606, 0x606, constant()],                                  // RAPL_POWER_UNIT
  [0x611, 0x611, constant()],
  [0x619, 0x619, constant()],
  [0x639, 0x639, constant()],
  [0x641, 0x641, constant()],
  [0x6e0, 0x6e0, tscDeadline],
  [0x800, 0x8ff, x2apic],
  [0xda0, 0xda0, xss],
  [0x4000_0000, 0x4000_0003, whereHyperv],                      // GUEST_OS_ID, HYPERCALL, VP_INDEX, RESET
  [0x4000_0022, 0x4000_0023, whereHyperv],                      // TSC_FREQUENCY, APIC_FREQUENCY
  [0x4000_0080, 0x4000_0084, whereHyperv],                      // SCONTROL to EOM
  [0x4000_0090, 0x4000_009f, whereHyperv],                      // SINT0 to SINT15
  [0x4000_0100, 0x4000_0105, whereHyperv],                      // CRASH_P0 to CRASH_P4, CRASH_CTL
  [0x4b56_4d00, 0x4b56_4d00, whereOffered(3, wallClock)],      // KVM_WALL_CLOCK
  [0x4b56_4d01, 0x4b56_4d01, whereOffered(3, systemTime)],
  [0x4b56_4d02, 0x4b56_4d02, whereOffered(4, asyncPfEnable)],
  [0x4b56_4d03, 0x4b56_4d03, whereOffered(5, stored(0n, without(0x3en)))],      // KVM_STEAL_TIME
  [0x4b56_4d04, 0x4b56_4d04, whereOffered(6, pvEoi)],
  [0x4b56_4d05, 0x4b56_4d05, whereOffered(12, stored(1n, without(~1n & ALL)))],  // KVM_POLL_CONTROL
  [0x4b56_4d06, 0x4b56_4d06, whereOffered(14, whereCpuid(hasLapic, stored(0n, low(8)), constant()))], // KVM_ASYNC_PF_INT
  [0x4b56_4d07, 0x4b56_4d07, whereOffered(4, ignored())],                       // KVM_ASYNC_PF_ACK
  [0xc000_0080, 0xc000_0080, efer],
  [0xc000_0081, 0xc000_0081, stored()],                        // STAR
  [0xc000_0082, 0xc000_0083, stored(0n, canonical)],           // LSTAR, CSTAR
  [0xc000_0084, 0xc000_0084, stored()],                        // SYSCALL_MASK
  [0xc000_0100, 0xc000_0100, segmentBase("fs")],
  [0xc000_0101, 0xc000_0101, segmentBase("gs")],
  [0xc000_0102, 0xc000_0102, stored(0n, canonical)],           // KERNEL_GS_BASE
  [0xc000_0103, 0xc000_0103, tscAux],
  [0xc000_0104, 0xc000_0104, tscRatio],
  [0xc001_0000, 0xc001_0007, ignored()],                       // K7_EVNTSEL, K7_PERFCTR
  [0xc001_0010, 0xc001_0010, constant()],                      // SYSCFG
  [0xc001_0015, 0xc001_0015, hwcr],
  [0xc001_001b, 0xc001_001b, ignored(0x2000_0000n)],           // BU_CFG
  [0xc001_001f, 0xc001_001f, ignored()],                       // NB_CFG
  [0xc001_0020, 0xc001_0020, writeOnly],                       // PATCH_LOADER
  [0xc001_0055, 0xc001_0055, constant()],                      // K8_INT_PENDING_MSG
  [0xc001_0058, 0xc001_0058, zero],            // FAM10H_MMIO_CONF_BASE
  [0xc001_0112, 0xc001_0113, constant()],                      // K8_TSEG_ADDR, K8_TSEG_MASK
  [0xc001_0117, 0xc001_0117, ignored()],                       // VM_HSAVE_PA
  [0xc001_011f, 0xc001_011f, ignored()],                       // VIRT_SPEC_CTRL
  [0xc001_1022, 0xc001_1023, ignored()],                       // DC_CFG, BU_CFG2
  [0xc001_102a, 0xc001_102a, ignored()],
  [0xc001_102c, 0xc001_102c, ignored()],
];

/** pvm: the host's processor is asked, or nobody. */
// biome-ignore format: a table
const pvmRows: readonly Row[] = [
  [0x48, 0x48, ignored()],
  [0x49, 0x49, writeOnly],
  [0x10b, 0x10b, writeOnly],
  [0x140, 0x140, stored()],
  [0x277, 0x277, stored(PAT_RESET)],
  [0x4b56_4d10, 0x4b56_4d10, constant(0x400n)],                // pvm's own, read only
  [0x4b56_4d11, 0x4b56_4d11, constant(0x4d_5650n)],            // "PVM"
  [0x4b56_4d12, 0x4b56_4d12, constant(0x1ffn)],
  [0x4b56_4d13, 0x4b56_4d13, { read: ({ vcpu }) => BigInt(hostTscKhz(vcpu.vm.host)), write: () => false }],
];

/** AMD's module. */
// biome-ignore format: a table
const svmRows: readonly Row[] = [
  [0x8b, 0x8b, stored(0x100_0065n)],
  [0x122, 0x122, absent],
  [0x175, 0x176, svmSysenter],
  [0xc001_0114, 0xc001_0114, vmCr],
  [0xc001_0115, 0xc001_0115, writeOnly],                       // VM_IGNNE
  [0xc001_0117, 0xc001_0117, page],
  [0xc001_1021, 0xc001_1021, icCfg],
  [DE_CFG, DE_CFG, deCfg],
  [0xc001_011f, 0xc001_011f, stored(0n, without(ALL & ~SSBD))],
];

/** The variable MTRRs: base and mask in turn. */
const variableMtrrs: readonly Row[] = Array.from({ length: 16 }, (_, i) => {
  const index = 0x200 + i;
  return [index, index, stored(0n, i % 2 === 0 ? mtrrBase : mtrrMask)];
});

const flavourRows: Readonly<Record<string, readonly Row[]>> = { pvm: pvmRows, svm: svmRows };

/**
 * A listed MSR of a feature that nobody offers here: user space reads 0, and may write that (arch/x86/kvm/x86.c:
 * kvm_get_msr_common, 6.1).
 */
const savedAsZero: MsrRule = zero;
const nothing: MsrRule = absent;
/** The rule of an MSR that has none of its own. */
export const otherwise = (vcpu: X86Vcpu, index: number): MsrRule =>
  isListed(vcpu, index) ? savedAsZero : nothing;

/** Ranges in which a refused read left what was there, before 6.12: MTRRs, banks of machine checks, the x2APIC. */
const leavesAsItWas: readonly (readonly [number, number])[] = [
  [0x200, 0x2ff],
  [0x400, 0x47f],
  [0x800, 0x8ff],
];
/** Whether a read that is refused leaves 0 (kvm_get_msr_ignored_check). */
export const clearsRefused = ({ vcpu }: X86Vcpu, index: number): boolean =>
  vcpu.vm.host.behaviour.msrRefusalsCleared ||
  !leavesAsItWas.some(([first, last]) => index >= first && index <= last);

/** By the number of the MSR. */
export type MsrRules = ReadonlyMap<number, MsrRule>;

const known = new Map<string, MsrRules>();

/** The MSRs that KVM of a flavour knows. */
export function msrRules(flavour: string): MsrRules {
  let rules = known.get(flavour);
  if (rules === undefined) known.set(flavour, (rules = collected(flavour)));
  return rules;
}

function collected(flavour: string): MsrRules {
  const rules = new Map<number, MsrRule>();
  for (const [first, last, rule] of [...rows, ...variableMtrrs, ...(flavourRows[flavour] ?? [])])
    for (let index = first; index <= last; index++) rules.set(index, rule);
  return rules;
}
