/**
 * KVM_SET_SIGNAL_MASK: which signals are blocked while KVM_RUN runs (virt/kvm/kvm_main.c:kvm_vcpu_ioctl, 6.1).
 * `struct kvm_signal_mask`: len u32, then the set itself, 8 bytes. A null pointer gives the mask back.
 */
import { EFAULT, EINVAL } from "../abi/errno.ts";
import { KVM_SET_SIGNAL_MASK } from "../abi/kvm.ts";
import { load32, load64 } from "../abi/struct.ts";
import type { Argument } from "../kernel/argument.ts";
import { blockable } from "../kernel/signals.ts";
import type { Entry } from "./dispatch.ts";
import type { VcpuFile } from "./vcpu.ts";

/** sizeof(sigset_t) inside the kernel */
const SIGSET = 8;

/** EFAULT; EINVAL for a set of another size. */
function setSignalMask({ vcpu }: VcpuFile, user: Argument): number {
  if (user.value === 0) {
    vcpu.signalMask = undefined;
    return 0;
  }
  if (!user.readable(4)) return -EFAULT;
  if (load32(user.bytes, user.at) !== SIGSET) return -EINVAL;
  if (!user.readable(SIGSET, 4)) return -EFAULT;
  vcpu.signalMask = blockable(load64(user.bytes, user.at + 4));
  return 0;
}

export const signalMaskIoctls: readonly Entry<VcpuFile>[] = [[KVM_SET_SIGNAL_MASK, setSignalMask]];
