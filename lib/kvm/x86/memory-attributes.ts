/**
 * KVM_SET_MEMORY_ATTRIBUTES where KVM knows it and no VM has an attribute: private memory needs another kind of VM than
 * these hosts offer (virt/kvm/kvm_main.c:kvm_vm_ioctl_set_mem_attributes, 6.12).
 */
import { EFAULT, EINVAL, ENOTTY } from "../../abi/errno.ts";
import { KVM_SET_MEMORY_ATTRIBUTES, KvmMemoryAttributes } from "../../abi/kvm.ts";
import { PAGE_SIZE } from "../../kernel/address-space.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VmFile } from "../vm.ts";

const UNALIGNED = BigInt(PAGE_SIZE - 1);

/** ENOTTY, EFAULT; EINVAL for flags, attributes, and ranges that are empty, wrap or are not whole pages. */
function setMemoryAttributes(file: VmFile, user: Argument): number {
  if (!file.vm.host.behaviour.memoryAttributes) return -ENOTTY;
  if (!user.readable(KvmMemoryAttributes.size)) return -EFAULT;
  const { address, size, attributes, flags } = KvmMemoryAttributes.decode(user.bytes, user.at);
  if (flags !== 0n || attributes !== 0n) return -EINVAL;
  if (size === 0n || BigInt.asUintN(64, address + size) < address) return -EINVAL;
  return ((address | size) & UNALIGNED) === 0n ? 0 : -EINVAL;
}

export const memoryAttributeIoctls: readonly Entry<VmFile>[] = [
  [KVM_SET_MEMORY_ATTRIBUTES, setMemoryAttributes],
];
