/**
 * Help for a guest's task priority register: KVM_TPR_ACCESS_REPORTING, KVM_SET_VAPIC_ADDR (arch/x86/kvm/x86.c, 6.1).
 * `struct kvm_tpr_access_ctl`, 40 bytes: enabled u32, flags u32, reserved. `struct kvm_vapic_addr`: one u64.
 */
import { EFAULT, EINVAL } from "../../abi/errno.ts";
import { KVM_SET_VAPIC_ADDR, KVM_TPR_ACCESS_REPORTING, KvmTprAccessCtl } from "../../abi/kvm-x86.ts";
import { load32, loadNumber64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { X86Vcpu } from "./vcpu.ts";

const TPR_BYTES = 4;

/** EFAULT; EINVAL for flags. */
function tprAccessReporting(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmTprAccessCtl.size)) return -EFAULT;
  if (load32(user.bytes, user.at + 4) !== 0) return -EINVAL;
  (file.vcpu.arch as X86Vcpu).reportsTprAccess = load32(user.bytes, user.at) !== 0;
  return user.writable(KvmTprAccessCtl.size) ? 0 : -EFAULT;
}

/** EINVAL without a local APIC in the kernel, before the pointer is looked at; EFAULT; EINVAL where no writable memory is. */
function setVapicAddr(file: VcpuFile, user: Argument): number {
  const vcpu = file.vcpu.arch as X86Vcpu;
  if (vcpu.lapic === undefined) return -EINVAL;
  if (!user.readable(8)) return -EFAULT;
  const address = loadNumber64(user.bytes, user.at);
  if (address !== 0 && !file.vcpu.vm.slots.isWritable(address, TPR_BYTES)) return -EINVAL;
  vcpu.vapicAddress = address;
  return 0;
}

export const vapicIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_TPR_ACCESS_REPORTING, tprAccessReporting],
  [KVM_SET_VAPIC_ADDR, setVapicAddr],
];
