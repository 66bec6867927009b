/**
 * Requests that the common part of KVM takes, and arm64 refuses once the argument is copied: registers have KVM_GET_ONE_REG
 * (arch/arm64/kvm/guest.c:kvm_arch_vcpu_ioctl_get_regs and its neighbours, 6.1). And two with a condition: tags of memory
 * need MTE, which no host here has; of KVM_SET_GUEST_DEBUG only the check is there, since guests are scripts.
 */
import { EFAULT, EINVAL } from "../../abi/errno.ts";
import {
  KVM_GUESTDBG_ENABLE,
  KVM_GUESTDBG_SINGLESTEP,
  KVM_TRANSLATE,
  KvmTranslation,
} from "../../abi/kvm.ts";
import {
  KVM_ARM_MTE_COPY_TAGS,
  KVM_GET_FPU,
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_GUESTDBG_USE_HW,
  KVM_GUESTDBG_USE_SW_BP,
  KVM_SET_FPU,
  KVM_SET_GUEST_DEBUG,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KvmArmCopyMteTags,
  KvmFpu,
  KvmGuestDebug,
  KvmRegs,
  KvmSregs,
} from "../../abi/kvm-arm64.ts";
import { load32 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { VmFile } from "../vm.ts";

const refused = (): number => -EINVAL;
const copiedAndRefused =
  (size: number) =>
  (_file: unknown, user: Argument): number =>
    user.readable(size) ? -EINVAL : -EFAULT;

const GUEST_DEBUG =
  KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_USE_HW;

/** EFAULT; EINVAL for an unknown bit of `control`. */
function setGuestDebug(_file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmGuestDebug.size)) return -EFAULT;
  return (load32(user.bytes, user.at) & ~GUEST_DEBUG) === 0 ? 0 : -EINVAL;
}

export const absentVcpuIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_REGS, refused],
  [KVM_SET_REGS, copiedAndRefused(KvmRegs.size)],
  [KVM_GET_SREGS, refused],
  [KVM_SET_SREGS, copiedAndRefused(KvmSregs.size)],
  [KVM_GET_FPU, refused],
  [KVM_SET_FPU, copiedAndRefused(KvmFpu.size)],
  [KVM_TRANSLATE, copiedAndRefused(KvmTranslation.size)],
  [KVM_SET_GUEST_DEBUG, setGuestDebug],
];

export const absentVmIoctls: readonly Entry<VmFile>[] = [
  [KVM_ARM_MTE_COPY_TAGS, copiedAndRefused(KvmArmCopyMteTags.size)],
];
