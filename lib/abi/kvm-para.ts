/**
 * Paravirtualisation between KVM and its guest (linux/kvm_para.h and x86's asm/kvm_para.h, 7.3): CPUID leaves and feature
 * bits, MSRs, hypercalls, and the structs that guest and host share in guest memory. POWER's magic page is in kvm-ppc.ts.
 *
 * Since 6.1 kvm_vcpu_pv_apf_data lost its `enabled` word (68 to 64 bytes; the guest side alone used it).
 */
import { array, bytes, s64, struct, u8, u32, u64 } from "./struct.ts";

export const KVM_HC_VAPIC_POLL_IRQ = 1;
export const KVM_HC_MMU_OP = 2;
export const KVM_HC_FEATURES = 3;
export const KVM_HC_PPC_MAP_MAGIC_PAGE = 4;
export const KVM_HC_KICK_CPU = 5;
export const KVM_HC_MIPS_GET_CLOCK_FREQ = 6;
export const KVM_HC_MIPS_EXIT_VM = 7;
export const KVM_HC_MIPS_CONSOLE_OUTPUT = 8;
export const KVM_HC_CLOCK_PAIRING = 9;
export const KVM_HC_SEND_IPI = 10;
export const KVM_HC_SCHED_YIELD = 11;
export const KVM_HC_MAP_GPA_RANGE = 12;

export const KVM_CPUID_SIGNATURE = 0x40000000;
export const KVM_CPUID_FEATURES = 0x40000001;

export const KVM_FEATURE_CLOCKSOURCE = 0;
export const KVM_FEATURE_NOP_IO_DELAY = 1;
export const KVM_FEATURE_MMU_OP = 2;
export const KVM_FEATURE_CLOCKSOURCE2 = 3;
export const KVM_FEATURE_ASYNC_PF = 4;
export const KVM_FEATURE_STEAL_TIME = 5;
export const KVM_FEATURE_PV_EOI = 6;
export const KVM_FEATURE_PV_UNHALT = 7;
export const KVM_FEATURE_PV_TLB_FLUSH = 9;
export const KVM_FEATURE_ASYNC_PF_VMEXIT = 10;
export const KVM_FEATURE_PV_SEND_IPI = 11;
export const KVM_FEATURE_POLL_CONTROL = 12;
export const KVM_FEATURE_PV_SCHED_YIELD = 13;
export const KVM_FEATURE_ASYNC_PF_INT = 14;
export const KVM_FEATURE_MSI_EXT_DEST_ID = 15;
export const KVM_FEATURE_HC_MAP_GPA_RANGE = 16;
export const KVM_FEATURE_MIGRATION_CONTROL = 17;

export const KVM_HINTS_REALTIME = 0;

export const KVM_FEATURE_CLOCKSOURCE_STABLE_BIT = 24;

export const MSR_KVM_WALL_CLOCK = 0x11;
export const MSR_KVM_SYSTEM_TIME = 0x12;

export const KVM_MSR_ENABLED = 1;

export const MSR_KVM_WALL_CLOCK_NEW = 0x4b564d00;
export const MSR_KVM_SYSTEM_TIME_NEW = 0x4b564d01;
export const MSR_KVM_ASYNC_PF_EN = 0x4b564d02;
export const MSR_KVM_STEAL_TIME = 0x4b564d03;
export const MSR_KVM_PV_EOI_EN = 0x4b564d04;
export const MSR_KVM_POLL_CONTROL = 0x4b564d05;
export const MSR_KVM_ASYNC_PF_INT = 0x4b564d06;
export const MSR_KVM_ASYNC_PF_ACK = 0x4b564d07;
export const MSR_KVM_MIGRATION_CONTROL = 0x4b564d08;

export const KvmStealTime = struct({
  steal: u64,
  version: u32,
  flags: u32,
  preempted: u8,
  u8_pad: bytes(3),
  pad: array(u32, 11),
});

export const KVM_VCPU_PREEMPTED = 1 << 0;
export const KVM_VCPU_FLUSH_TLB = 1 << 1;

export const KVM_CLOCK_PAIRING_WALLCLOCK = 0;

export const KvmClockPairing = struct({ sec: s64, nsec: s64, tsc: u64, flags: u32, pad: array(u32, 9) });

export const KVM_STEAL_ALIGNMENT_BITS = 5;
export const KVM_STEAL_VALID_BITS = 0xffffffffffffffc0n;
export const KVM_STEAL_RESERVED_MASK = 0x3e;

export const KVM_MAX_MMU_OP_BATCH = 32;

export const KVM_ASYNC_PF_ENABLED = 1 << 0;
export const KVM_ASYNC_PF_SEND_ALWAYS = 1 << 1;
export const KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT = 1 << 2;
export const KVM_ASYNC_PF_DELIVERY_AS_INT = 1 << 3;
export const KVM_ASYNC_PF_VEC_MASK = 0xff;

export const KVM_MIGRATION_READY = 1 << 0;

export const KVM_MAP_GPA_RANGE_PAGE_SZ_4K = 0;
export const KVM_MAP_GPA_RANGE_PAGE_SZ_2M = 1 << 0;
export const KVM_MAP_GPA_RANGE_PAGE_SZ_1G = 1 << 1;
export const KVM_MAP_GPA_RANGE_ENCRYPTED = 0x10;
export const KVM_MAP_GPA_RANGE_DECRYPTED = 0;

export const KVM_MMU_OP_WRITE_PTE = 1;
export const KVM_MMU_OP_FLUSH_TLB = 2;
export const KVM_MMU_OP_RELEASE_PT = 3;

export const KvmMmuOpHeader = struct({ op: u32, pad: u32 });

export const KvmMmuOpWritePte = struct({ header: KvmMmuOpHeader, pte_phys: u64, pte_val: u64 });

export const KvmMmuOpFlushTlb = struct({ header: KvmMmuOpHeader });

export const KvmMmuOpReleasePt = struct({ header: KvmMmuOpHeader, pt_phys: u64 });

export const KVM_PV_REASON_PAGE_NOT_PRESENT = 1;
export const KVM_PV_REASON_PAGE_READY = 2;

export const KvmVcpuPvApfData = struct({ flags: u32, token: u32, pad: bytes(56) });

export const KVM_PV_EOI_BIT = 0;
export const KVM_PV_EOI_MASK = 1;
export const KVM_PV_EOI_ENABLED = KVM_PV_EOI_MASK;
export const KVM_PV_EOI_DISABLED = 0x0;

/** What hypercalls answer instead of an errno of their own; the others are Linux's numbers. */
export const KVM_ENOSYS = 1000;
export const KVM_EFAULT = 14;
export const KVM_EINVAL = 22;
export const KVM_E2BIG = 7;
export const KVM_EPERM = 1;
export const KVM_EOPNOTSUPP = 95;
