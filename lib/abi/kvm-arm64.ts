/**
 * KVM on arm64 (arch/arm64/include/uapi/asm/kvm.h and the arm64 part of linux/kvm.h, 7.3), with the two structs of
 * asm/ptrace.h that kvm_regs is made of.
 *
 * Sizes are the same as in 6.1; kvm_arm_counter_offset, kvm_smccc_filter and reg_mask_range are newer.
 */
import { ior, iow, iowr } from "./ioctl.ts";
import {
  KVM_REG_ARM64,
  KVM_REG_SIZE_U64,
  KVMIO,
  kvmRunExits,
  kvmRunHead,
  SYNC_REGS_SIZE_BYTES,
} from "./kvm.ts";
import {
  anonymous,
  array,
  bytes,
  loadNumber64,
  pointer,
  struct,
  u8,
  u16,
  u32,
  u64,
  union,
} from "./struct.ts";

/** struct user_pt_regs: X0 to X30, SP, PC, PSTATE. */
export const UserPtRegs = struct({ regs: array(u64, 31), sp: u64, pc: u64, pstate: u64 });
/** struct user_fpsimd_state: V0 to V31, 128 bits each. */
export const UserFpsimdState = struct({
  vregs: array(bytes(16, 16), 32),
  fpsr: u32,
  fpcr: u32,
  __reserved: array(u32, 2),
});

export const KVM_SPSR_EL1 = 0;
export const KVM_SPSR_SVC = KVM_SPSR_EL1;
export const KVM_SPSR_ABT = 1;
export const KVM_SPSR_UND = 2;
export const KVM_SPSR_IRQ = 3;
export const KVM_SPSR_FIQ = 4;

export const KVM_NR_SPSR = 5;

export const KVM_COALESCED_MMIO_PAGE_OFFSET = 1;

export const KVM_DIRTY_LOG_PAGE_OFFSET = 64;

export const KvmRegs = struct({
  regs: UserPtRegs,
  sp_el1: u64,
  elr_el1: u64,
  spsr: array(u64, 5),
  fp_regs: UserFpsimdState,
});

export const KVM_ARM_TARGET_AEM_V8 = 0;
export const KVM_ARM_TARGET_FOUNDATION_V8 = 1;
export const KVM_ARM_TARGET_CORTEX_A57 = 2;
export const KVM_ARM_TARGET_XGENE_POTENZA = 3;
export const KVM_ARM_TARGET_CORTEX_A53 = 4;
export const KVM_ARM_TARGET_GENERIC_V8 = 5;
export const KVM_ARM_NUM_TARGETS = 6;
export const KVM_ARM_DEVICE_TYPE_SHIFT = 0;
export const KVM_ARM_DEVICE_TYPE_MASK = 0xffff;
export const KVM_ARM_DEVICE_ID_SHIFT = 16;
export const KVM_ARM_DEVICE_ID_MASK = 0xffff0000;
export const KVM_ARM_DEVICE_VGIC_V2 = 0;

export const KVM_VGIC_V2_ADDR_TYPE_DIST = 0;
export const KVM_VGIC_V2_ADDR_TYPE_CPU = 1;
export const KVM_VGIC_V2_DIST_SIZE = 0x1000;
export const KVM_VGIC_V2_CPU_SIZE = 0x2000;
export const KVM_VGIC_V3_ADDR_TYPE_DIST = 2;
export const KVM_VGIC_V3_ADDR_TYPE_REDIST = 3;
export const KVM_VGIC_ITS_ADDR_TYPE = 4;
export const KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION = 5;
export const KVM_VGIC_V3_DIST_SIZE = 0x10000;
export const KVM_VGIC_V3_REDIST_SIZE = 0x20000;
export const KVM_VGIC_V3_ITS_SIZE = 0x20000;

export const KVM_ARM_VCPU_POWER_OFF = 0;
export const KVM_ARM_VCPU_EL1_32BIT = 1;
export const KVM_ARM_VCPU_PSCI_0_2 = 2;
export const KVM_ARM_VCPU_PMU_V3 = 3;
export const KVM_ARM_VCPU_SVE = 4;
export const KVM_ARM_VCPU_PTRAUTH_ADDRESS = 5;
export const KVM_ARM_VCPU_PTRAUTH_GENERIC = 6;
export const KVM_ARM_VCPU_HAS_EL2 = 7;
export const KVM_ARM_VCPU_HAS_EL2_E2H0 = 8;
export const KVM_ARM_VCPU_PMU_V3_STRICT = 9;

export const KvmVcpuInit = struct({ target: u32, features: array(u32, 7) });

export const KvmSregs = struct({});

export const KvmFpu = struct({});

export const KVM_ARM_MAX_DBG_REGS = 16;

export const KvmGuestDebugArch = struct({
  dbg_bcr: array(u64, 16),
  dbg_bvr: array(u64, 16),
  dbg_wcr: array(u64, 16),
  dbg_wvr: array(u64, 16),
});

export const KVM_DEBUG_ARCH_HSR_HIGH_VALID = 1 << 0;

export const KvmDebugExitArch = struct({ hsr: u32, hsr_high: u32, far: u64 });

export const KVM_GUESTDBG_USE_SW_BP = 1 << 16;
export const KVM_GUESTDBG_USE_HW = 1 << 17;

export const KvmSyncRegs = struct({ device_irq_level: u64 });

export const KVM_ARM_DEV_EL1_VTIMER = 1 << 0;
export const KVM_ARM_DEV_EL1_PTIMER = 1 << 1;
export const KVM_ARM_DEV_PMU = 1 << 2;

export const KVM_PMU_EVENT_ALLOW = 0;
export const KVM_PMU_EVENT_DENY = 1;

export const KvmPmuEventFilter = struct({ base_event: u16, nevents: u16, action: u8, pad: bytes(3) });

export const KvmVcpuEvents = struct({
  exception: struct({
    serror_pending: u8,
    serror_has_esr: u8,
    ext_dabt_pending: u8,
    pad: bytes(5),
    serror_esr: u64,
  }),
  reserved: array(u32, 12),
});

export const KvmArmCopyMteTags = struct({
  guest_ipa: u64,
  length: u64,
  addr: pointer(),
  flags: u64,
  reserved: array(u64, 2),
});

export const KvmArmCounterOffset = struct({ counter_offset: u64, reserved: u64 });

export const KVM_ARM_TAGS_TO_GUEST = 0;
export const KVM_ARM_TAGS_FROM_GUEST = 1;

export const KVM_REG_ARM_COPROC_MASK = 0x000000000fff0000n;
export const KVM_REG_ARM_COPROC_SHIFT = 16;
export const KVM_REG_ARM_CORE = 0x100000n;
export const KVM_REG_ARM_DEMUX = 0x110000n;
export const KVM_REG_ARM_DEMUX_ID_MASK = 0x000000000000ff00n;
export const KVM_REG_ARM_DEMUX_ID_SHIFT = 8;
export const KVM_REG_ARM_DEMUX_ID_CCSIDR = 0n;
export const KVM_REG_ARM_DEMUX_VAL_MASK = 0x00000000000000ffn;
export const KVM_REG_ARM_DEMUX_VAL_SHIFT = 0;
export const KVM_REG_ARM64_SYSREG = 0x130000n;
export const KVM_REG_ARM64_SYSREG_OP0_MASK = 0x000000000000c000n;
export const KVM_REG_ARM64_SYSREG_OP0_SHIFT = 14;
export const KVM_REG_ARM64_SYSREG_OP1_MASK = 0x0000000000003800n;
export const KVM_REG_ARM64_SYSREG_OP1_SHIFT = 11;
export const KVM_REG_ARM64_SYSREG_CRN_MASK = 0x0000000000000780n;
export const KVM_REG_ARM64_SYSREG_CRN_SHIFT = 7;
export const KVM_REG_ARM64_SYSREG_CRM_MASK = 0x0000000000000078n;
export const KVM_REG_ARM64_SYSREG_CRM_SHIFT = 3;
export const KVM_REG_ARM64_SYSREG_OP2_MASK = 0x0000000000000007n;
export const KVM_REG_ARM64_SYSREG_OP2_SHIFT = 0;
export const KVM_REG_ARM_PTIMER_CTL = 0x603000000013df11n;
export const KVM_REG_ARM_PTIMER_CVAL = 0x603000000013df12n;
export const KVM_REG_ARM_PTIMER_CNT = 0x603000000013df01n;
export const KVM_REG_ARM_TIMER_CTL = 0x603000000013df19n;
export const KVM_REG_ARM_TIMER_CVAL = 0x603000000013df02n;
export const KVM_REG_ARM_TIMER_CNT = 0x603000000013df1an;
export const KVM_REG_ARM_FW = 0x140000n;
export const KVM_REG_ARM_PSCI_VERSION = 0x6030000000140000n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1 = 0x6030000000140001n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1_NOT_AVAIL = 0n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1_AVAIL = 1n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1_NOT_REQUIRED = 2n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2 = 0x6030000000140002n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2_NOT_AVAIL = 0n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2_UNKNOWN = 1n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2_AVAIL = 2n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2_NOT_REQUIRED = 3n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2_ENABLED = 1n << 4n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_3 = 0x6030000000140003n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_3_NOT_AVAIL = 0n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_3_AVAIL = 1n;
export const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_3_NOT_REQUIRED = 2n;
export const KVM_REG_ARM64_SVE = 0x150000n;
export const KVM_REG_ARM64_SVE_ZREG_BASE = 0n;
export const KVM_REG_ARM64_SVE_PREG_BASE = 0x400n;
export const KVM_REG_ARM64_SVE_FFR_BASE = 0x600n;

export const KVM_ARM64_SVE_NUM_ZREGS = 0x20;
export const KVM_ARM64_SVE_NUM_PREGS = 0x10;
export const KVM_ARM64_SVE_MAX_SLICES = 32;
export const KVM_ARM64_SVE_VQ_MIN = 1;
export const KVM_ARM64_SVE_VQ_MAX = 0x200;

export const KVM_REG_ARM64_SVE_VLS = 0x606000000015ffffn;

export const KVM_ARM64_SVE_VLS_WORDS = 8;

export const KVM_REG_ARM_FW_FEAT_BMAP = 0x160000n;
export const KVM_REG_ARM_STD_BMAP = 0x6030000000160000n;
export const KVM_REG_ARM_STD_BIT_TRNG_V1_0 = 0;
export const KVM_REG_ARM_STD_HYP_BMAP = 0x6030000000160001n;
export const KVM_REG_ARM_STD_HYP_BIT_PV_TIME = 0;
export const KVM_REG_ARM_VENDOR_HYP_BMAP = 0x6030000000160002n;
export const KVM_REG_ARM_VENDOR_HYP_BIT_FUNC_FEAT = 0;
export const KVM_REG_ARM_VENDOR_HYP_BIT_PTP = 1;
export const KVM_REG_ARM_VENDOR_HYP_BMAP_2 = 0x6030000000160003n;
export const KVM_REG_ARM_VENDOR_HYP_BIT_DISCOVER_IMPL_VER = 0;
export const KVM_REG_ARM_VENDOR_HYP_BIT_DISCOVER_IMPL_CPUS = 1;

export const KVM_ARM_VM_SMCCC_CTRL = 0;
export const KVM_ARM_VM_SMCCC_FILTER = 0;

export const KVM_DEV_ARM_VGIC_GRP_ADDR = 0;
export const KVM_DEV_ARM_VGIC_GRP_DIST_REGS = 1;
export const KVM_DEV_ARM_VGIC_GRP_CPU_REGS = 2;
export const KVM_DEV_ARM_VGIC_CPUID_SHIFT = 32;
export const KVM_DEV_ARM_VGIC_CPUID_MASK = 0xff00000000;
export const KVM_DEV_ARM_VGIC_V3_MPIDR_SHIFT = 32;
export const KVM_DEV_ARM_VGIC_V3_MPIDR_MASK = 0xffffffff00000000n;
export const KVM_DEV_ARM_VGIC_OFFSET_SHIFT = 0;
export const KVM_DEV_ARM_VGIC_OFFSET_MASK = 0xffffffff;
export const KVM_DEV_ARM_VGIC_SYSREG_INSTR_MASK = 0xffff;
export const KVM_DEV_ARM_VGIC_GRP_NR_IRQS = 3;
export const KVM_DEV_ARM_VGIC_GRP_CTRL = 4;
export const KVM_DEV_ARM_VGIC_GRP_REDIST_REGS = 5;
export const KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS = 6;
export const KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO = 7;
export const KVM_DEV_ARM_VGIC_GRP_ITS_REGS = 8;
export const KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ = 9;
export const KVM_DEV_ARM_VGIC_LINE_LEVEL_INFO_SHIFT = 10;
export const KVM_DEV_ARM_VGIC_LINE_LEVEL_INFO_MASK = 0xfffffc00;
export const KVM_DEV_ARM_VGIC_LINE_LEVEL_INTID_MASK = 0x3ff;

export const VGIC_LEVEL_INFO_LINE_LEVEL = 0;

export const KVM_DEV_ARM_VGIC_CTRL_INIT = 0;
export const KVM_DEV_ARM_ITS_SAVE_TABLES = 1;
export const KVM_DEV_ARM_ITS_RESTORE_TABLES = 2;
export const KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES = 3;
export const KVM_DEV_ARM_ITS_CTRL_RESET = 4;
export const KVM_DEV_ARM_VGIC_USERSPACE_PPIS = 5;

export const KVM_ARM_VCPU_PMU_V3_CTRL = 0;
export const KVM_ARM_VCPU_PMU_V3_IRQ = 0;
export const KVM_ARM_VCPU_PMU_V3_INIT = 1;
export const KVM_ARM_VCPU_PMU_V3_FILTER = 2;
export const KVM_ARM_VCPU_PMU_V3_SET_PMU = 3;
export const KVM_ARM_VCPU_PMU_V3_SET_NR_COUNTERS = 4;
export const KVM_ARM_VCPU_TIMER_CTRL = 1;
export const KVM_ARM_VCPU_TIMER_IRQ_VTIMER = 0;
export const KVM_ARM_VCPU_TIMER_IRQ_PTIMER = 1;
export const KVM_ARM_VCPU_TIMER_IRQ_HVTIMER = 2;
export const KVM_ARM_VCPU_TIMER_IRQ_HPTIMER = 3;
export const KVM_ARM_VCPU_PVTIME_CTRL = 2;
export const KVM_ARM_VCPU_PVTIME_IPA = 0;
export const KVM_ARM_IRQ_VCPU2_SHIFT = 28;
export const KVM_ARM_IRQ_VCPU2_MASK = 0xf;
export const KVM_ARM_IRQ_TYPE_SHIFT = 24;
export const KVM_ARM_IRQ_TYPE_MASK = 0xf;
export const KVM_ARM_IRQ_VCPU_SHIFT = 16;
export const KVM_ARM_IRQ_VCPU_MASK = 0xff;
export const KVM_ARM_IRQ_NUM_SHIFT = 0;
export const KVM_ARM_IRQ_NUM_MASK = 0xffff;
export const KVM_ARM_IRQ_TYPE_CPU = 0;
export const KVM_ARM_IRQ_TYPE_SPI = 1;
export const KVM_ARM_IRQ_TYPE_PPI = 2;
export const KVM_ARM_IRQ_CPU_IRQ = 0;
export const KVM_ARM_IRQ_CPU_FIQ = 1;
export const KVM_ARM_IRQ_GIC_MAX = 127;

export const KVM_NR_IRQCHIPS = 1;

export const KVM_PSCI_FN_BASE = 0x95c1ba5e;
export const KVM_PSCI_FN_CPU_SUSPEND = 0x95c1ba5e;
export const KVM_PSCI_FN_CPU_OFF = 0x95c1ba5f;
export const KVM_PSCI_FN_CPU_ON = 0x95c1ba60;
export const KVM_PSCI_FN_MIGRATE = 0x95c1ba61;
export const KVM_PSCI_RET_SUCCESS = 0;
export const KVM_PSCI_RET_NI = -1;
export const KVM_PSCI_RET_INVAL = -2;
export const KVM_PSCI_RET_DENIED = -3;

export const KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2 = 1 << 0;
export const KVM_SYSTEM_EVENT_SHUTDOWN_FLAG_PSCI_OFF2 = 1 << 0;

export const KVM_EXIT_FAIL_ENTRY_CPU_UNSUPPORTED = 1 << 0;

export const KVM_SMCCC_FILTER_HANDLE = 0;
export const KVM_SMCCC_FILTER_DENY = 1;
export const KVM_SMCCC_FILTER_FWD_TO_USER = 2;

export const KvmSmcccFilter = struct({ base: u32, nr_functions: u32, action: u8, pad: bytes(15) });

export const KVM_HYPERCALL_EXIT_SMC = 1 << 0;
export const KVM_HYPERCALL_EXIT_16BIT = 1 << 1;

export const KVM_ARM_FEATURE_ID_RANGE = 0;
export const KVM_ARM_FEATURE_ID_RANGE_SIZE = 0xc0;

export const RegMaskRange = struct({ addr: pointer(), range: u32, reserved: array(u32, 13) });

export const KVM_VM_TYPE_ARM_IPA_SIZE_MASK = 0xff;
export const KVM_VM_TYPE_ARM_PROTECTED = 0x80000000;
export const KVM_VM_TYPE_ARM_MASK = 0x800000ff;

export const KvmArmDeviceAddr = struct({ id: u64, addr: u64 });

export const KvmIrqchip = struct({ chip_id: u32, pad: u32, chip: union({ dummy: bytes(512) }) });

export const KvmRun = struct({
  ...kvmRunHead,
  anonymous: anonymous(union({ ...kvmRunExits, debug: struct({ arch: KvmDebugExitArch }) })),
  kvm_valid_regs: u64,
  kvm_dirty_regs: u64,
  s: union({ regs: KvmSyncRegs, padding: bytes(SYNC_REGS_SIZE_BYTES) }),
});

export const KvmGuestDebug = struct({ control: u32, pad: u32, arch: KvmGuestDebugArch });

/** One byte a granule of 16 bytes. */
const mteTagBytes = (head: Uint8Array): number =>
  Math.floor(loadNumber64(head, KvmArmCopyMteTags.offsetOf.length) / 16);

export const KVM_ARM_SET_DEVICE_ADDR = iow(KVMIO, 0xab, KvmArmDeviceAddr, { on: "vm" });
export const KVM_ARM_VCPU_FINALIZE = iow(KVMIO, 0xc2, 4, { on: "vcpu" });
export const KVM_GET_IRQCHIP = iowr(KVMIO, 0x62, KvmIrqchip, { on: [] });
export const KVM_SET_IRQCHIP = ior(KVMIO, 0x63, KvmIrqchip, { on: [], copy: "in" });
export const KVM_ARM_MTE_COPY_TAGS = ior(KVMIO, 0xb4, KvmArmCopyMteTags, {
  on: "vm",
  copy: "in",
  behind: { addr: { copy: "inout", bytes: mteTagBytes } },
});
/** A number only: arm64's filter is the vCPU attribute KVM_ARM_VCPU_PMU_V3_FILTER. */
export const KVM_SET_PMU_EVENT_FILTER = iow(KVMIO, 0xb2, KvmPmuEventFilter, { on: [] });
export const KVM_ARM_SET_COUNTER_OFFSET = iow(KVMIO, 0xb5, KvmArmCounterOffset, { on: "vm" });
export const KVM_ARM_GET_REG_WRITABLE_MASKS = ior(KVMIO, 0xb6, RegMaskRange, {
  on: "vm",
  copy: "in",
  behind: { addr: { copy: "out", bytes: 8 * KVM_ARM_FEATURE_ID_RANGE_SIZE } },
});
export const KVM_GET_REGS = ior(KVMIO, 0x81, KvmRegs, { on: "vcpu" });
export const KVM_SET_REGS = iow(KVMIO, 0x82, KvmRegs, { on: "vcpu" });
export const KVM_GET_SREGS = ior(KVMIO, 0x83, KvmSregs, { on: "vcpu" });
export const KVM_SET_SREGS = iow(KVMIO, 0x84, KvmSregs, { on: "vcpu" });
export const KVM_GET_FPU = ior(KVMIO, 0x8c, KvmFpu, { on: "vcpu" });
export const KVM_SET_FPU = iow(KVMIO, 0x8d, KvmFpu, { on: "vcpu" });
export const KVM_SET_GUEST_DEBUG = iow(KVMIO, 0x9b, KvmGuestDebug, { on: "vcpu" });
export const KVM_GET_VCPU_EVENTS = ior(KVMIO, 0x9f, KvmVcpuEvents, { on: "vcpu" });
export const KVM_SET_VCPU_EVENTS = iow(KVMIO, 0xa0, KvmVcpuEvents, { on: "vcpu" });
export const KVM_ARM_VCPU_INIT = iow(KVMIO, 0xae, KvmVcpuInit, { on: "vcpu" });
export const KVM_ARM_PREFERRED_TARGET = ior(KVMIO, 0xaf, KvmVcpuInit, { on: "vm" });

/** The id of a 64-bit system register for KVM_GET_ONE_REG. */
export const ARM64_SYS_REG = (op0: number, op1: number, crn: number, crm: number, op2: number): bigint =>
  KVM_REG_ARM64 |
  KVM_REG_SIZE_U64 |
  KVM_REG_ARM64_SYSREG |
  BigInt(
    (op0 << KVM_REG_ARM64_SYSREG_OP0_SHIFT) |
      (op1 << KVM_REG_ARM64_SYSREG_OP1_SHIFT) |
      (crn << KVM_REG_ARM64_SYSREG_CRN_SHIFT) |
      (crm << KVM_REG_ARM64_SYSREG_CRM_SHIFT) |
      (op2 << KVM_REG_ARM64_SYSREG_OP2_SHIFT),
  );
/** The id of a core register: `offset` is where the register stands in KvmRegs, in bytes. */
export const KVM_REG_ARM_CORE_REG = (offset: number): bigint => BigInt(offset / 4);
/** The id of firmware pseudo-register `r`. */
export const KVM_REG_ARM_FW_REG = (r: number): bigint =>
  KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_FW | BigInt(r);
