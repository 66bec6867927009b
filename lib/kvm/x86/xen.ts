/**
 * KVM_XEN_HVM_CONFIG, where KVM offers it (arch/x86/kvm/xen.c:kvm_xen_hvm_config, kvm_xen_write_hypercall_page,
 * kvm_xen_hypercall, 6.12): which MSR a Xen guest writes to have its hypercall page filled in, with a page of the program's
 * or with KVM's own, whose hypercalls become KVM_EXIT_XEN.
 *
 * Missing: hypercalls that KVM answers itself once it is told of event channels, shared pages and the version
 * (KVM_XEN_HVM_SET_ATTR and its kin).
 */
import { EFAULT, EINVAL, ENOTTY } from "../../abi/errno.ts";
import { KVM_CAP_XEN_HVM } from "../../abi/kvm.ts";
import {
  KVM_XEN_HVM_CONFIG,
  KVM_XEN_HVM_CONFIG_EVTCHN_SEND,
  KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL,
  KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE,
  KvmXenHvmConfig,
} from "../../abi/kvm-x86.ts";
import type { Cpu } from "../../hardware/x86/cpu.ts";
import { R8, RAX, RBP, RBX, RCX, RDI, RDX, RSI } from "../../hardware/x86/state.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VmFile } from "../vm.ts";
import { copyGuest } from "./guest-memory.ts";
import type { X86Vcpu } from "./vcpu.ts";
import type { X86Vm } from "./vm.ts";

/** bytes of a hypercall in the page: MOV EAX, its number; VMMCALL; RET; INT3 to the end */
const STUB = 32;
const PAGE = 4096;
const EFER_LMA = 1 << 10;

/** What a VM keeps of Xen. */
export class Xen {
  msr = 0;
  /** KVM's own page; the guest's hypercalls are Xen's */
  takesHypercalls = false;
  /** pages of the program's, for guests outside of long mode and in it: address and count */
  #blobs: readonly [narrow: readonly [bigint, number], long: readonly [bigint, number]] = [
    [0n, 0],
    [0n, 0],
  ];

  configure(
    msr: number,
    takesHypercalls: boolean,
    narrow: readonly [bigint, number],
    long: readonly [bigint, number],
  ): void {
    this.msr = msr;
    this.takesHypercalls = takesHypercalls;
    this.#blobs = [narrow, long];
  }

  /** The MSR is written: a guest physical address, and which page of the program's. false for a refusal. */
  writePage(vcpu: X86Vcpu, value: bigint): boolean {
    const { vm } = vcpu.vcpu;
    const number = Number(value & 0xfffn);
    const address = Number(value & ~0xfffn);
    if (this.takesHypercalls) return number === 0 && copyGuest(vm, address, hypercalls(), true);
    const [start, pages] = this.#blobs[(vcpu.registers.sregs.eferLo & EFER_LMA) !== 0 ? 1 : 0];
    if (number >= pages) return false;
    const page = vm.mm.copyIn(Number(start) + number * PAGE, PAGE);
    return page !== null && copyGuest(vm, address, page, true);
  }
}

function hypercalls(): Uint8Array {
  const page = new Uint8Array(PAGE).fill(0xcc);
  for (let at = 0; at < PAGE; at += STUB) page.set([0xb8, at / STUB, 0, 0, 0, 0x0f, 0x01, 0xd9, 0xc3], at);
  return page;
}

/** A hypercall of Xen's as user space sees it. */
export interface XenCall {
  readonly input: bigint;
  readonly parameters: readonly bigint[];
}

const R9 = R8 + 1;
const R10 = R8 + 2;
const LONG = [RDI, RSI, RDX, R10, R8, R9];
const NARROW = [RBX, RCX, RDX, RSI, RDI, RBP];

/** What the guest asks for. */
export function xenCall({ long, r64 }: Cpu): XenCall {
  const value = (register: number): bigint => (long ? r64[register] : BigInt.asUintN(32, r64[register]));
  return { input: value(RAX), parameters: (long ? LONG : NARROW).map(value) };
}

const ALWAYS_PERMITTED = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL | KVM_XEN_HVM_CONFIG_EVTCHN_SEND;
/** the MSRs that are set aside for hypervisors */
const FIRST_MSR = 0x4000_0000;
const LAST_MSR = 0x4fff_ffff;

/**
 * ENOTTY where it is not offered; EFAULT; EINVAL for unknown flags, for a page of the program's with KVM's own hypercalls,
 * and, since 6.15, for another's MSR.
 */
function config(file: VmFile, user: Argument): number {
  const { vmCapabilities, behaviour } = file.vm.host;
  if (!vmCapabilities.has(KVM_CAP_XEN_HVM)) return -ENOTTY;
  if (!user.readable(KvmXenHvmConfig.size)) return -EFAULT;
  const { flags, msr, blob_addr_32, blob_addr_64, blob_size_32, blob_size_64 } = KvmXenHvmConfig.decode(
    user.bytes,
    user.at,
  );
  const offered = vmCapabilities.get(KVM_CAP_XEN_HVM) ?? 0;
  const permitted = ALWAYS_PERMITTED | (offered & KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE);
  if ((flags & ~permitted) !== 0) return -EINVAL;
  const ownPage = blob_addr_32 !== 0n || blob_addr_64 !== 0n || blob_size_32 !== 0 || blob_size_64 !== 0;
  if ((flags & KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL) !== 0 && ownPage) return -EINVAL;
  if (behaviour.xenMsrChecked && msr !== 0 && (msr < FIRST_MSR || msr > LAST_MSR)) return -EINVAL;
  const intercepts = (flags & KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL) !== 0;
  const { xen } = file.vm.arch as X86Vm;
  xen.configure(msr, intercepts, [blob_addr_32, blob_size_32], [blob_addr_64, blob_size_64]);
  return 0;
}

export const xenIoctls: readonly Entry<VmFile>[] = [[KVM_XEN_HVM_CONFIG, config]];
