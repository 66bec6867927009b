/**
 * The counters of KVM_GET_STATS_FD on x86, in the order of their descriptors: what Linux 6.18 (pvm) told
 * (arch/x86/kvm/x86.c:kvm_vm_stats_desc, kvm_vcpu_stats_desc, 6.18). `mmu_kicks_spared`, `pf_parked` and
 * `pf_park_timeouts` are pvm's own; `mmu_shadow_pages` came with 7.2.
 */
import type { KvmHost } from "../host.ts";
import { genericVcpuStats, type StatDescriptor } from "../stats.ts";

type Row = readonly [name: string, flags: number, exponent: number, size: number, offset: number];
const descriptor = ([name, flags, exponent, size, offset]: Row): StatDescriptor => ({
  name,
  flags,
  exponent,
  size,
  offset,
});

// biome-ignore format: a table
const vmStatsRows: readonly Row[] = [
  ["remote_tlb_flush", 0x0, 0, 1, 0],
  ["remote_tlb_flush_requests", 0x0, 0, 1, 8],
  ["mmu_shadow_zapped", 0x0, 0, 1, 16],
  ["mmu_pte_write", 0x0, 0, 1, 24],
  ["mmu_pde_zapped", 0x0, 0, 1, 32],
  ["mmu_flooded", 0x0, 0, 1, 40],
  ["mmu_recycled", 0x0, 0, 1, 48],
  ["mmu_cache_miss", 0x0, 0, 1, 56],
  ["mmu_unsync", 0x1, 0, 1, 64],
  ["pages_4k", 0x1, 0, 1, 72],
  ["pages_2m", 0x1, 0, 1, 80],
  ["pages_1g", 0x1, 0, 1, 88],
  ["nx_lpage_splits", 0x1, 0, 1, 96],
  ["max_mmu_rmap_size", 0x2, 0, 1, 112],
  ["max_mmu_page_hash_collisions", 0x2, 0, 1, 104],
  ["mmu_kicks_spared", 0x0, 0, 1, 120],
];
const pvmVmStats = vmStatsRows.map(descriptor);
const mainlineVmStats = pvmVmStats.filter(({ name }) => name !== "mmu_kicks_spared");
const shadowPages = descriptor(["mmu_shadow_pages", 0x1, 0, 1, 72]);
const newVmStats = [
  ...mainlineVmStats.filter(({ offset }) => offset < shadowPages.offset),
  shadowPages,
  ...mainlineVmStats
    .filter(({ offset }) => offset >= shadowPages.offset)
    .map((stat) => ({ ...stat, offset: stat.offset + 8 })),
];
export function vmStats({ flavour, behaviour }: KvmHost): readonly StatDescriptor[] {
  if (flavour === "pvm") return pvmVmStats;
  return behaviour.shadowPagesCounted ? newVmStats : mainlineVmStats;
}

// biome-ignore format: a table
const vcpuStatsRows: readonly Row[] = [
  ["pf_taken", 0x0, 0, 1, 832],
  ["pf_fixed", 0x0, 0, 1, 840],
  ["pf_emulate", 0x0, 0, 1, 848],
  ["pf_spurious", 0x0, 0, 1, 856],
  ["pf_fast", 0x0, 0, 1, 864],
  ["pf_mmio_spte_created", 0x0, 0, 1, 872],
  ["pf_guest", 0x0, 0, 1, 880],
  ["tlb_flush", 0x0, 0, 1, 888],
  ["invlpg", 0x0, 0, 1, 896],
  ["exits", 0x0, 0, 1, 904],
  ["io_exits", 0x0, 0, 1, 912],
  ["mmio_exits", 0x0, 0, 1, 920],
  ["signal_exits", 0x0, 0, 1, 928],
  ["irq_window_exits", 0x0, 0, 1, 936],
  ["nmi_window_exits", 0x0, 0, 1, 944],
  ["l1d_flush", 0x0, 0, 1, 952],
  ["halt_exits", 0x0, 0, 1, 960],
  ["request_irq_exits", 0x0, 0, 1, 968],
  ["irq_exits", 0x0, 0, 1, 976],
  ["host_state_reload", 0x0, 0, 1, 984],
  ["fpu_reload", 0x0, 0, 1, 992],
  ["insn_emulation", 0x0, 0, 1, 1000],
  ["insn_emulation_fail", 0x0, 0, 1, 1008],
  ["hypercalls", 0x0, 0, 1, 1016],
  ["irq_injections", 0x0, 0, 1, 1024],
  ["nmi_injections", 0x0, 0, 1, 1032],
  ["req_event", 0x0, 0, 1, 1040],
  ["nested_run", 0x0, 0, 1, 1048],
  ["directed_yield_attempted", 0x0, 0, 1, 1056],
  ["directed_yield_successful", 0x0, 0, 1, 1064],
  ["preemption_reported", 0x0, 0, 1, 1072],
  ["preemption_other", 0x0, 0, 1, 1080],
  ["guest_mode", 0x41, 0, 1, 1088],
  ["notify_window_exits", 0x0, 0, 1, 1096],
  ["pf_parked", 0x0, 0, 1, 1104],
  ["pf_park_timeouts", 0x0, 0, 1, 1112],
];
const pvmVcpuStats = [...genericVcpuStats, ...vcpuStatsRows.map(descriptor)];
const mainlineVcpuStats = pvmVcpuStats.filter(({ name }) => !name.startsWith("pf_park"));
export const vcpuStats = ({ flavour }: KvmHost): readonly StatDescriptor[] =>
  flavour === "pvm" ? pvmVcpuStats : mainlineVcpuStats;
