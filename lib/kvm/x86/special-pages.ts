/**
 * Where VMX keeps its helper pages in guest memory: KVM_SET_TSS_ADDR (a value), KVM_SET_IDENTITY_MAP_ADDR (a pointer
 * to a u64), and which vCPU boots (arch/x86/kvm/x86.c:kvm_arch_vm_ioctl, 6.1). AMD and pvm accept and ignore the pages.
 */
import { EBUSY, EFAULT, EINVAL } from "../../abi/errno.ts";
import { KVM_SET_BOOT_CPU_ID, KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR } from "../../abi/kvm-x86.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VmFile } from "../vm.ts";
import type { X86Vm } from "./vm.ts";

/** three pages below 4 GiB */
const LAST_TSS = 0xffff_d000;

/** EINVAL where three pages from the address on would pass 4 GiB. */
const setTssAddr = (_file: VmFile, user: Argument): number => (user.value > LAST_TSS ? -EINVAL : 0);

/** EINVAL once a vCPU exists; EFAULT. */
function setIdentityMapAddr(file: VmFile, user: Argument): number {
  if (file.vm.vcpus.length !== 0) return -EINVAL;
  return user.readable(8) ? 0 : -EFAULT;
}

/** EBUSY once a vCPU exists; EINVAL beyond the highest id, since 6.11. */
function setBootCpuId(file: VmFile, user: Argument): number {
  if (file.vm.vcpus.length !== 0) return -EBUSY;
  const vm = file.vm.arch as X86Vm;
  if (user.value > vm.maxVcpuIds && file.vm.host.behaviour.bootCpuIdChecked) return -EINVAL;
  vm.bootCpuId = user.low;
  return 0;
}

export const memoryIoctls: readonly Entry<VmFile>[] = [
  [KVM_SET_TSS_ADDR, setTssAddr],
  [KVM_SET_IDENTITY_MAP_ADDR, setIdentityMapAddr],
  [KVM_SET_BOOT_CPU_ID, setBootCpuId],
];
