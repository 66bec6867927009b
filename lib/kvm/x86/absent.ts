/**
 * Requests that this kernel knows and refuses: encrypted memory (ENOTTY), and populating guest memory ahead, which
 * needs paging by the processor (EOPNOTSUPP).
 */
import { EFAULT, EINVAL, ENOSPC, ENOTTY, EOPNOTSUPP } from "../../abi/errno.ts";
import { KVM_PRE_FAULT_MEMORY, KvmPreFaultMemory } from "../../abi/kvm.ts";
import {
  KVM_MEMORY_ENCRYPT_OP,
  KVM_MEMORY_ENCRYPT_REG_REGION,
  KVM_MEMORY_ENCRYPT_UNREG_REGION,
  KvmEncRegion,
} from "../../abi/kvm-x86.ts";
import { PAGE_SIZE } from "../../kernel/address-space.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { VmFile } from "../vm.ts";
import type { X86Vm } from "./vm.ts";

/**
 * EFAULT; EINVAL for flags and ranges that cannot be; ENOSPC where the VM has no room for page tables, as without a
 * memory slot.
 */
function preFaultMemory(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmPreFaultMemory.size)) return -EFAULT;
  const { gpa, size, flags } = KvmPreFaultMemory.decode(user.bytes, user.at);
  const page = BigInt(PAGE_SIZE);
  if (flags !== 0n || gpa % page !== 0n || size % page !== 0n) return -EINVAL;
  if (BigInt.asUintN(64, gpa + size) <= gpa) return -EINVAL;
  const { vm } = file.vcpu;
  if (!(vm.arch as X86Vm).hasMmuPages && vm.slots.list().length === 0) return -ENOSPC;
  return -EOPNOTSUPP;
}

/** The region is read before it is found that nobody encrypts memory here: EFAULT, ENOTTY. */
const encryptedRegion = (_file: VmFile, user: Argument): number =>
  user.readable(KvmEncRegion.size) ? -ENOTTY : -EFAULT;

export const absentVmIoctls: readonly Entry<VmFile>[] = [
  [KVM_MEMORY_ENCRYPT_OP, () => -ENOTTY],
  [KVM_MEMORY_ENCRYPT_REG_REGION, encryptedRegion],
  [KVM_MEMORY_ENCRYPT_UNREG_REGION, encryptedRegion],
];
export const absentVcpuIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_MEMORY_ENCRYPT_OP, () => -ENOTTY],
  [KVM_PRE_FAULT_MEMORY, preFaultMemory],
];
