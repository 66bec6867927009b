/**
 * KVM_GET_MP_STATE, KVM_SET_MP_STATE: `struct kvm_mp_state`, one u32 (arch/x86/kvm/x86.c, 6.1).
 */
import { EFAULT, EINVAL } from "../../abi/errno.ts";
import { KVM_GET_MP_STATE, KVM_SET_MP_STATE } from "../../abi/kvm.ts";
import { load32, store32 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { X86Vcpu } from "./vcpu.ts";

const RUNNABLE = 0;

function getMpState(file: VcpuFile, user: Argument): number {
  if (!user.writable(4)) return -EFAULT;
  store32(user.bytes, user.at, (file.vcpu.arch as X86Vcpu).mpState);
  return 0;
}

/** EINVAL for a state that is none, and for any but RUNNABLE without an in-kernel local APIC. */
function setMpState(file: VcpuFile, user: Argument): number {
  if (!user.readable(4)) return -EFAULT;
  const state = load32(user.bytes, user.at);
  const vcpu = file.vcpu.arch as X86Vcpu;
  if (vcpu.vm.irqchipMode === "none" && state !== RUNNABLE) return -EINVAL;
  vcpu.mpState = state;
  return 0;
}

export const mpStateIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_MP_STATE, getMpState],
  [KVM_SET_MP_STATE, setMpState],
];
