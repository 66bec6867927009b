/**
 * Requests that this kernel knows and refuses, all or on some hosts: encrypted memory (ENOTTY; a vCPU does not know
 * it before 6.16, EINVAL), and populating guest memory ahead, which needs paging by the processor (EOPNOTSUPP).
 */
import { EFAULT, EINVAL, ENOENT, ENOSPC, ENOTTY, EOPNOTSUPP } from "../../abi/errno.ts";
import { KVM_CAP_PRE_FAULT_MEMORY, KVM_PRE_FAULT_MEMORY, KvmPreFaultMemory } from "../../abi/kvm.ts";
import {
  KVM_MEMORY_ENCRYPT_OP,
  KVM_MEMORY_ENCRYPT_REG_REGION,
  KVM_MEMORY_ENCRYPT_UNREG_REGION,
  KvmEncRegion,
} from "../../abi/kvm-x86.ts";
import { store64 } from "../../abi/struct.ts";
import { PAGE_SIZE } from "../../kernel/address-space.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { Vm, VmFile } from "../vm.ts";
import type { X86Vm } from "./vm.ts";

/**
 * EFAULT; EINVAL for flags and ranges that cannot be. Where KVM pages by the processor, what was populated before the
 * first page that cannot be is taken off the range; elsewhere EOPNOTSUPP, or ENOSPC where the VM has no room for page
 * tables, as without a memory slot (virt/kvm/kvm_main.c:kvm_vcpu_pre_fault_memory, 6.12).
 */
function preFaultMemory(file: VcpuFile, user: Argument): number {
  if (!file.vcpu.vm.host.behaviour.preFault) return -EINVAL;
  if (!user.readable(KvmPreFaultMemory.size)) return -EFAULT;
  const { gpa, size, flags } = KvmPreFaultMemory.decode(user.bytes, user.at);
  const page = BigInt(PAGE_SIZE);
  if (flags !== 0n || gpa % page !== 0n || size % page !== 0n) return -EINVAL;
  if (BigInt.asUintN(64, gpa + size) <= gpa) return -EINVAL;
  const { vm } = file.vcpu;
  if (!vm.host.vmCapabilities.has(KVM_CAP_PRE_FAULT_MEMORY))
    return !(vm.arch as X86Vm).hasMmuPages ? -ENOSPC : -EOPNOTSUPP;
  let done = 0n;
  let failed = 0;
  while (done < size && failed === 0) {
    failed = populate(vm, Number(gpa + done));
    if (failed === 0) done += page;
  }
  if (!user.writable(KvmPreFaultMemory.size)) return -EFAULT;
  store64(user.bytes, user.at + KvmPreFaultMemory.offsetOf.gpa, gpa + done);
  store64(user.bytes, user.at + KvmPreFaultMemory.offsetOf.size, size - done);
  return done === 0n ? failed : 0;
}

/** ENOENT where the guest has no memory, EFAULT where the program has none behind it. */
function populate(vm: Vm, address: number): number {
  if (vm.slots.find(Math.floor(address / PAGE_SIZE)) === undefined) return -ENOENT;
  return vm.mm.copyIn(vm.slots.userAddress(address), 1) === null ? -EFAULT : 0;
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
  [KVM_MEMORY_ENCRYPT_OP, (file) => (file.vcpu.vm.host.behaviour.vcpuEncryptOp ? -ENOTTY : -EINVAL)],
  [KVM_PRE_FAULT_MEMORY, preFaultMemory],
];
