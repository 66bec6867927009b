/**
 * KVM_XEN_HVM_CONFIG, where KVM offers it (arch/x86/kvm/xen.c:kvm_xen_hvm_config, 6.1): which MSR a Xen guest writes to have
 * its hypercall page filled in. The configuration is checked and kept.
 *
 * Missing: Xen itself: the hypercall page, event channels, shared pages (KVM_XEN_HVM_SET_ATTR and its kin).
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
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VmFile } from "../vm.ts";

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
  return 0;
}

export const xenIoctls: readonly Entry<VmFile>[] = [[KVM_XEN_HVM_CONFIG, config]];
