/**
 * KVM_ENABLE_CAP on a VM and on a vCPU: one row a capability, with what it takes and what it changes
 * (arch/x86/kvm/x86.c:kvm_vm_ioctl_enable_cap, kvm_vcpu_ioctl_enable_cap, 6.1 and 6.18). What every architecture shares
 * is answered before, in kvm/vm.ts. Flags are never allowed; a capability that has no row answers EINVAL, and so does
 * one that the profile does not offer.
 */
import { EINVAL, ENOTTY, ENXIO } from "../../abi/errno.ts";
import {
  KVM_CAP_DISABLE_QUIRKS,
  KVM_CAP_DISABLE_QUIRKS2,
  KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
  KVM_CAP_EXCEPTION_PAYLOAD,
  KVM_CAP_EXIT_HYPERCALL,
  KVM_CAP_EXIT_ON_EMULATION_FAILURE,
  KVM_CAP_HYPERV_DIRECT_TLBFLUSH,
  KVM_CAP_HYPERV_ENFORCE_CPUID,
  KVM_CAP_HYPERV_ENLIGHTENED_VMCS,
  KVM_CAP_HYPERV_SYNIC,
  KVM_CAP_HYPERV_SYNIC2,
  KVM_CAP_MAX_VCPU_ID,
  KVM_CAP_MSR_PLATFORM_INFO,
  KVM_CAP_SPLIT_IRQCHIP,
  KVM_CAP_VM_DISABLE_NX_HUGE_PAGES,
  KVM_CAP_X2APIC_API,
  KVM_CAP_X86_APIC_BUS_CYCLES_NS,
  KVM_CAP_X86_BUS_LOCK_EXIT,
  KVM_CAP_X86_DISABLE_EXITS,
  KVM_CAP_X86_TRIPLE_FAULT_EVENT,
  KVM_CAP_X86_USER_SPACE_MSR,
} from "../../abi/kvm.ts";
import {
  KVM_BUS_LOCK_DETECTION_EXIT,
  KVM_BUS_LOCK_DETECTION_OFF,
  KVM_X86_QUIRK_LAPIC_MMIO_HOLE,
  KVM_X86_QUIRK_LINT0_REENABLED,
} from "../../abi/kvm-x86.ts";
import { splitIrqchip } from "./irqchip.ts";
import type { X86Vcpu } from "./vcpu.ts";
import type { X86Vm } from "./vm.ts";

/** What KVM_ENABLE_CAP changed in a VM. */
export interface VmSettings {
  disabledQuirks: number;
  /** KVM_X2APIC_API_* */
  x2apicApi: number;
  /** the last that was said about suppressing EOI broadcasts was no */
  broadcastsEveryEoi: boolean;
  /** KVM_X86_DISABLE_EXITS_* */
  disabledExits: number;
  guestReadsPlatformInfo: boolean;
  exceptionPayload: boolean;
  /** KVM_MSR_EXIT_REASON_* that exit to user space */
  userSpaceMsr: number;
  /** hypercalls that exit to user space, a bit a number */
  exitHypercalls: number;
  /** undefined: nobody said, which pvm takes for yes and mainline for no (live 6.18) */
  exitOnEmulationFailure: boolean | undefined;
  tripleFaultEvent: boolean;
  apicBusCycleNs: number;
  /** KVM_CAP_MAX_VCPU_ID has been set, or a vCPU has fixed it */
  maxVcpuIdFixed: boolean;
}

export const newSettings = (): VmSettings => ({
  disabledQuirks: 0,
  x2apicApi: 0,
  broadcastsEveryEoi: false,
  disabledExits: 0,
  guestReadsPlatformInfo: true,
  exceptionPayload: false,
  userSpaceMsr: 0,
  exitHypercalls: 0,
  exitOnEmulationFailure: undefined,
  tripleFaultEvent: false,
  apicBusCycleNs: 1,
  maxVcpuIdFixed: false,
});

const X2APIC_USE_32BIT_IDS = 1;
const X2APIC_DISABLE_BROADCAST_QUIRK = 2;
const X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST = 4;
const X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST = 8;
/** KVM_MSR_EXIT_REASON_* */
const MSR_EXIT_REASONS = 7;

/** `argument` is args[0] of the request, `offered` the profile's answer to KVM_CHECK_EXTENSION. */
type Enable = (vm: X86Vm, argument: bigint, offered: bigint) => number;

const hasVcpus = (vm: X86Vm): boolean => vm.vm.vcpus.length !== 0;

/** Takes any argument whose bits are offered. */
const within =
  (take: (settings: VmSettings, argument: number) => void): Enable =>
  (vm, argument, offered) => {
    if ((argument & ~offered) !== 0n) return -EINVAL;
    take(vm.settings, Number(argument));
    return 0;
  };
/** Takes any argument as on or off. */
const onOff =
  (take: (settings: VmSettings, on: boolean) => void): Enable =>
  (vm, argument) => {
    take(vm.settings, argument !== 0n);
    return 0;
  };

const rows: readonly (readonly [number, Enable])[] = [
  [
    KVM_CAP_DISABLE_QUIRKS,
    (vm, argument) => {
      vm.settings.disabledQuirks |= Number(argument & vm.offeredQuirks);
      tellApics(vm);
      return 0;
    },
  ],
  [
    KVM_CAP_DISABLE_QUIRKS2,
    (vm, argument, offered) => {
      if ((argument & ~offered) !== 0n) return -EINVAL;
      vm.settings.disabledQuirks |= Number(argument);
      tellApics(vm);
      return 0;
    },
  ],
  [KVM_CAP_SPLIT_IRQCHIP, (vm, argument) => splitIrqchip(vm, argument)],
  [KVM_CAP_X2APIC_API, enableX2apicApi],
  [
    KVM_CAP_X86_DISABLE_EXITS,
    (vm, argument, offered) => {
      if ((argument & ~offered) !== 0n) return -EINVAL;
      if (hasVcpus(vm) && vm.vm.host.behaviour.settledByVcpus) return -EINVAL;
      vm.settings.disabledExits |= Number(argument);
      return 0;
    },
  ],
  [
    KVM_CAP_MSR_PLATFORM_INFO,
    onOff((settings, on) => {
      settings.guestReadsPlatformInfo = on;
    }),
  ],
  [
    KVM_CAP_EXCEPTION_PAYLOAD,
    onOff((settings, on) => {
      settings.exceptionPayload = on;
    }),
  ],
  [
    KVM_CAP_X86_USER_SPACE_MSR,
    (vm, argument) => {
      if ((argument & ~BigInt(MSR_EXIT_REASONS)) !== 0n) return -EINVAL;
      vm.settings.userSpaceMsr = Number(argument);
      return 0;
    },
  ],
  [KVM_CAP_X86_BUS_LOCK_EXIT, enableBusLockExit],
  [
    KVM_CAP_EXIT_HYPERCALL,
    within((settings, argument) => {
      settings.exitHypercalls = argument;
    }),
  ],
  [
    KVM_CAP_EXIT_ON_EMULATION_FAILURE,
    (vm, argument) => {
      if (argument > 1n) return -EINVAL;
      vm.settings.exitOnEmulationFailure = argument === 1n;
      return 0;
    },
  ],
  [
    KVM_CAP_X86_TRIPLE_FAULT_EVENT,
    onOff((settings, on) => {
      settings.tripleFaultEvent = on;
    }),
  ],
  [KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, (vm, argument) => (argument !== 0n || hasVcpus(vm) ? -EINVAL : 0)],
  [KVM_CAP_X86_APIC_BUS_CYCLES_NS, enableApicBusCycles],
  [KVM_CAP_MAX_VCPU_ID, enableMaxVcpuId],
];
const enablers = new Map(rows);

/** Capabilities that are taken although KVM_CHECK_EXTENSION answers 0: the recorded kernel does so. */
const notOffered: readonly number[] = [KVM_CAP_X86_BUS_LOCK_EXIT];

/** KVM_ENABLE_CAP on a VM, for what is x86's own. */
export function enableVmCap(vm: X86Vm, capability: number, flags: number, args: readonly bigint[]): number {
  const enable = enablers.get(capability);
  const offered = vm.vm.host.vmCapabilities.get(capability) ?? 0;
  if (flags !== 0 || enable === undefined) return -EINVAL;
  if (offered === 0 && !notOffered.includes(capability)) return -EINVAL;
  return enable(vm, args[0], BigInt(offered));
}

/** The two about suppressing EOI broadcasts exclude each other; enabling needs a split irqchip. */
function enableX2apicApi(vm: X86Vm, argument: bigint): number {
  const wanted = Number(argument & 0xffff_ffffn);
  if (argument > 0xffff_ffffn || (wanted & ~vm.x2apicApiFlags) !== 0) return -EINVAL;
  const suppress = X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST | X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST;
  if ((wanted & suppress) === suppress) return -EINVAL;
  vm.settings.x2apicApi |= wanted;
  if ((wanted & suppress) !== 0)
    vm.settings.broadcastsEveryEoi = (wanted & X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST) !== 0;
  tellApics(vm);
  return 0;
}

/** The local APICs follow the settings, made before them or after. */
export function tellApics(vm: X86Vm): void {
  if (vm.irqchip === undefined) return;
  const { x2apicApi, disabledQuirks, apicBusCycleNs, broadcastsEveryEoi } = vm.settings;
  const { settings } = vm.irqchip.system;
  settings.x2apicFormat = (x2apicApi & X2APIC_USE_32BIT_IDS) !== 0;
  settings.broadcastQuirkDisabled = (x2apicApi & X2APIC_DISABLE_BROADCAST_QUIRK) !== 0;
  settings.lint0Reenabled = (disabledQuirks & KVM_X86_QUIRK_LINT0_REENABLED) === 0;
  settings.mmioHole = (disabledQuirks & KVM_X86_QUIRK_LAPIC_MMIO_HOLE) === 0;
  settings.busCycleNs = apicBusCycleNs;
  settings.broadcastsEveryEoi = broadcastsEveryEoi;
  settings.smm = vm.hasSmm;
  const { flavour, behaviour } = vm.vm.host;
  settings.oneToOneIdMap = behaviour.sharedApicIds;
  settings.readonlyX2apicId = behaviour.x2apicIdFixed;
  settings.splitX2apicIcr = flavour === "svm";
}

/** What KVM_CHECK_EXTENSION(KVM_CAP_X2APIC_API) answers: bit 2 needs a split irqchip. */
export const x2apicApiFlags = (offered: number, split: boolean): number =>
  split && (offered & X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST) !== 0
    ? offered | X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST
    : offered;

/** Off or exit, not both. The choice is taken and means nothing: no profile's processor tells of bus locks. */
function enableBusLockExit(_vm: X86Vm, argument: bigint): number {
  const both = BigInt(KVM_BUS_LOCK_DETECTION_OFF | KVM_BUS_LOCK_DETECTION_EXIT);
  return (argument & ~both) !== 0n || argument === both ? -EINVAL : 0;
}

/** EINVAL for 0 or too long a cycle, ENXIO without an in-kernel local APIC, EINVAL once a vCPU has one. */
function enableApicBusCycles(vm: X86Vm, argument: bigint): number {
  if (argument === 0n || argument > MAX_BUS_CYCLE_NS) return -EINVAL;
  if (vm.irqchip === undefined) return -ENXIO;
  if (hasVcpus(vm)) return -EINVAL;
  vm.settings.apicBusCycleNs = Number(argument);
  tellApics(vm);
  return 0;
}
/** so that the longest timer, 2^32 cycles with a divider of 128, fits 63 bits of nanoseconds */
const MAX_BUS_CYCLE_NS = (1n << 63n) / ((1n << 32n) * 128n);

/** Fixed once, and by the first vCPU; the boot CPU's id must be within. The same value again is no error. */
function enableMaxVcpuId(vm: X86Vm, argument: bigint, offered: bigint): number {
  if (argument > offered) return -EINVAL;
  if (BigInt(vm.bootCpuId) > argument && vm.vm.host.behaviour.bootCpuIdChecked) return -EINVAL;
  const current = vm.settings.maxVcpuIdFixed || hasVcpus(vm) ? BigInt(vm.maxVcpuIds) : 0n;
  if (argument === current) return 0;
  if (current !== 0n) return -EINVAL;
  vm.maxVcpuIds = Number(argument);
  vm.settings.maxVcpuIdFixed = true;
  return 0;
}

/**
 * KVM_ENABLE_CAP on a vCPU: the paravirtual features, and Hyper-V's, can be confined to CPUID. Hyper-V's interrupt
 * controller needs a local APIC in the kernel; its optimisations of nested virtualisation are
 * Intel's, ENOTTY.
 */
export function enableVcpuCap(
  vcpu: X86Vcpu,
  capability: number,
  flags: number,
  args: readonly bigint[],
): number {
  const { vmCapabilities, facts } = vcpu.vm.vm.host;
  if (flags !== 0) return -EINVAL;
  if (facts.hypervCpuid !== undefined) {
    if (capability === KVM_CAP_HYPERV_ENLIGHTENED_VMCS || capability === KVM_CAP_HYPERV_DIRECT_TLBFLUSH)
      return -ENOTTY;
    if (capability === KVM_CAP_HYPERV_ENFORCE_CPUID) return 0;
    if (capability === KVM_CAP_HYPERV_SYNIC2 && args[0] !== 0n) return -EINVAL;
    if (capability === KVM_CAP_HYPERV_SYNIC || capability === KVM_CAP_HYPERV_SYNIC2)
      return activateSynic(vcpu, capability);
  }
  if (capability !== KVM_CAP_ENFORCE_PV_FEATURE_CPUID || (vmCapabilities.get(capability) ?? 0) === 0)
    return -EINVAL;
  vcpu.enforcesPvCpuid = args[0] !== 0n;
  return 0;
}

function activateSynic(vcpu: X86Vcpu, capability: number): number {
  if (vcpu.lapic === undefined) return -EINVAL;
  vcpu.hyperv.activateSynic(capability);
  return 0;
}
