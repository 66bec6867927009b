/**
 * The counters of KVM_GET_STATS_FD on arm64, in the order of their descriptors: the same in 6.1, 6.12 and 7.2
 * (arch/arm64/kvm/guest.c:kvm_vm_stats_desc, kvm_vcpu_stats_desc, 6.1).
 */
import { counters, genericVcpuStats, genericVmStats, type StatDescriptor } from "../stats.ts";

export const vmStats: readonly StatDescriptor[] = genericVmStats;

const own = [
  "hvc_exit_stat",
  "wfe_exit_stat",
  "wfi_exit_stat",
  "mmio_exit_user",
  "mmio_exit_kernel",
  "signal_exits",
  "exits",
];
export const vcpuStats: readonly StatDescriptor[] = [...genericVcpuStats, ...counters(genericVcpuStats, own)];
