/**
 * The counters of KVM_GET_STATS_FD on 64-bit servers, in the order of their descriptors: the same in hypervisor and in
 * user mode, in 6.1 and in 6.12 (arch/powerpc/kvm/book3s.c:kvm_vm_stats_desc, kvm_vcpu_stats_desc, 6.1). Those of an
 * e500 are missing.
 */
import { KVM_STATS_TYPE_INSTANT } from "../../abi/kvm.ts";
import { counters, genericVcpuStats, genericVmStats, type StatDescriptor } from "../stats.ts";

const pages = counters(genericVmStats, ["num_2M_pages", "num_1G_pages"]);
export const vmStats: readonly StatDescriptor[] = [
  ...genericVmStats,
  ...pages.map((stat) => ({ ...stat, flags: KVM_STATS_TYPE_INSTANT })),
];

const own = [
  "sum_exits",
  "mmio_exits",
  "signal_exits",
  "light_exits",
  "itlb_real_miss_exits",
  "itlb_virt_miss_exits",
  "dtlb_real_miss_exits",
  "dtlb_virt_miss_exits",
  "syscall_exits",
  "isi_exits",
  "dsi_exits",
  "emulated_inst_exits",
  "dec_exits",
  "ext_intr_exits",
  "halt_successful_wait",
  "dbell_exits",
  "gdbell_exits",
  "ld",
  "st",
  "pf_storage",
  "pf_instruc",
  "sp_storage",
  "sp_instruc",
  "queue_intr",
  "ld_slow",
  "st_slow",
  "pthru_all",
  "pthru_host",
  "pthru_bad_aff",
];
export const vcpuStats: readonly StatDescriptor[] = [...genericVcpuStats, ...counters(genericVcpuStats, own)];
