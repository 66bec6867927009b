/**
 * Requests that this kernel knows and refuses: encrypted memory (ENOTTY), populating guest memory ahead, which needs
 * paging by the processor (EOPNOTSUPP), and dirty rings (KVM_RESET_DIRTY_RINGS).
 */
import { EFAULT, EINVAL, ENOSPC, ENOTTY, EOPNOTSUPP } from "../../abi/errno.ts";
import { KVM_PRE_FAULT_MEMORY, KVM_RESET_DIRTY_RINGS, KvmPreFaultMemory } from "../../abi/kvm.ts";
import { KVM_MEMORY_ENCRYPT_OP } from "../../abi/kvm-x86.ts";
import { load32, store32 } from "../../abi/struct.ts";
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

const GFN_DIRTY = 1;
const GFN_RESET = 2;
const RING_ENTRY = 16;

/** How many entries user space has collected and given back. EINVAL without dirty rings. */
function resetDirtyRings(file: VmFile): number {
  const { vm } = file;
  if (vm.dirtyRingSize === 0) return -EINVAL;
  let cleared = 0;
  for (const vcpu of vm.vcpus) {
    const ring = vcpu.dirtyRing;
    for (let at = 0; at < ring.length; at += RING_ENTRY) {
      if ((load32(ring, at) & GFN_RESET) === 0) continue;
      store32(ring, at, load32(ring, at) & ~(GFN_DIRTY | GFN_RESET));
      cleared++;
    }
  }
  return cleared;
}

export const absentVmIoctls: readonly Entry<VmFile>[] = [
  [KVM_MEMORY_ENCRYPT_OP, () => -ENOTTY],
  [KVM_RESET_DIRTY_RINGS, resetDirtyRings],
];
export const absentVcpuIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_MEMORY_ENCRYPT_OP, () => -ENOTTY],
  [KVM_PRE_FAULT_MEMORY, preFaultMemory],
];
