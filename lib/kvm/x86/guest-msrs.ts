/**
 * MSRs as the guest reads and writes them: user space may do more (host_initiated in arch/x86/kvm/x86.c:kvm_get_msr_common,
 * kvm_set_msr_common, 6.1 and 6.18). Where an access is refused, whether KVM has heard of the MSR is told to user space
 * (kvm_msr_reason). The rows are what the live 6.18 answered to a guest, without CPUID and with everything it supports.
 *
 * Missing: MSRs of which the processor would have some bits, and a guest without the feature none.
 */
import { KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN } from "../../abi/kvm.ts";
import type { Cpuid } from "./cpuid.ts";
import { isHypervMsr } from "./hyperv.ts";
import type { X86Vcpu } from "./vcpu.ts";

const EAX = 12;
const EBX = 16;
const ECX = 20;
const EDX = 24;
const SPEC_CTRL = 0x48;
const MCG_CTL = 0x17b;

interface Row {
  readonly reason: number;
  readonly access: "read" | "write" | "both";
  /** the guest may where this holds */
  readonly may: (cpuid: Cpuid) => boolean;
}

const bit =
  (leaf: number, index: number, register: number, number: number) =>
  (cpuid: Cpuid): boolean =>
    (cpuid.register(leaf, index, register) & (1 << number)) !== 0;
const never = (): boolean => false;

const INVAL = KVM_MSR_EXIT_REASON_INVAL;
const UNKNOWN = KVM_MSR_EXIT_REASON_UNKNOWN;
/** the guest lacks the feature: UNKNOWN in newer releases, INVAL before */
const UNSUPPORTED = 0;
const hasRdtscp = bit(0x8000_0001, 0, EDX, 27);
const hasRdpid = bit(7, 0, ECX, 22);
/** SPEC_CTRL, or AMD's IBRS, STIBP, SSBD (guest_has_spec_ctrl_msr) */
const hasSpecCtrl = (cpuid: Cpuid): boolean =>
  bit(7, 0, EDX, 26)(cpuid) ||
  (cpuid.register(0x8000_0008, 0, EBX) & ((1 << 14) | (1 << 15) | (1 << 24))) !== 0;
const hasXfd = bit(0xd, 1, EAX, 4);

/** What a guest may not that user space may. */
const rows: ReadonlyMap<number, Row> = new Map<number, Row>([
  [0x34, { reason: INVAL, access: "write", may: never }], // SMI_COUNT
  [0x3a, { reason: UNKNOWN, access: "both", may: bit(1, 0, ECX, 5) }], // FEAT_CTL: VMX
  [0xce, { reason: INVAL, access: "write", may: never }], // PLATFORM_INFO
  [0x10a, { reason: UNSUPPORTED, access: "both", may: bit(7, 0, EDX, 29) }], // ARCH_CAPABILITIES
  [0x1c4, { reason: INVAL, access: "both", may: hasXfd }], // XFD
  [0x1c5, { reason: INVAL, access: "both", may: hasXfd }], // XFD_ERR
  [0x345, { reason: UNSUPPORTED, access: "both", may: bit(1, 0, ECX, 15) }], // PERF_CAPABILITIES: PDCM
  [0xda0, { reason: INVAL, access: "read", may: bit(0xd, 1, EAX, 3) }], // XSS: XSAVES
  [0xc000_0103, { reason: INVAL, access: "both", may: (cpuid) => hasRdtscp(cpuid) || hasRdpid(cpuid) }], // TSC_AUX
  [0xc000_0104, { reason: INVAL, access: "both", may: bit(0x8000_000a, 0, EDX, 4) }], // TSC_RATIO
]);

/** LASTBRANCH and LASTINT are read */
const branchRecords: readonly (readonly [number, number])[] = [[0x1db, 0x1de]];
/** MSRs that are there to be written by user space alone: ARCH_CAPABILITIES, XSS where pvm has none of it */
const writtenByUser: readonly (readonly [number, number])[] = [
  [0x10a, 0x10a],
  [0xda0, 0xda0],
];

/** Why a guest may not make an access that user space may make, KVM_MSR_EXIT_REASON_*, or 0. */
export function refusedToGuest({ cpuid, mce, vcpu }: X86Vcpu, index: number, writing: boolean): number {
  if (index === MCG_CTL) return mce.hasControl ? 0 : INVAL;
  const { flavour, behaviour } = vcpu.vm.host;
  if (index === SPEC_CTRL) return flavour === "pvm" || hasSpecCtrl(cpuid) ? 0 : INVAL;
  if (writing && isIn(branchRecords, index)) return UNKNOWN;
  if (writing && isIn(writtenByUser, index)) return behaviour.unsupportedMsrUnknown ? UNKNOWN : INVAL;
  const row = rows.get(index);
  if (row === undefined || row.access === (writing ? "read" : "write") || row.may(cpuid)) return 0;
  return row.reason === UNSUPPORTED ? (behaviour.unsupportedMsrUnknown ? UNKNOWN : INVAL) : row.reason;
}

/**
 * MSRs that KVM knows, and whose values it checks: what of them is refused is not valid. It has not heard of the others,
 * or not of what was done to them.
 */
const checked: readonly (readonly [number, number])[] = [
  [0x1b, 0x1b],
  [0x34, 0x34],
  [0x48, 0x48],
  [0xce, 0xce],
  [0x140, 0x140],
  [0x17b, 0x17b],
  [0x1c4, 0x1c5],
  [0x200, 0x26f],
  [0x277, 0x277],
  [0x280, 0x29f],
  [0x2ff, 0x2ff],
  [0x400, 0x47f],
  [0x800, 0x8ff],
  [0x4b56_4d02, 0x4b56_4d06],
  [0xc000_0080, 0xc000_0084],
  [0xc000_0100, 0xc000_0104],
  [0xc001_0015, 0xc001_0015],
  [0xc001_0058, 0xc001_0058],
  [0xc001_0140, 0xc001_0141],
];

const isIn = (ranges: readonly (readonly [number, number])[], index: number): boolean =>
  ranges.some(([first, last]) => index >= first && index <= last);

/** What user space is told of an access that was refused. */
export const refusalOf = (index: number, { vcpu, vm }: X86Vcpu): number =>
  isIn(checked, index) ||
  index === vm.xen.msr ||
  (vcpu.vm.host.facts.hypervCpuid !== undefined && isHypervMsr(index))
    ? INVAL
    : UNKNOWN;
