/**
 * KVM's requests, structs and constants that every architecture shares (include/uapi/linux/kvm.h, 7.3). What depends on
 * the architecture stands in kvm-x86.ts, kvm-arm64.ts, kvm-ppc.ts, kvm-riscv.ts: there a request such as KVM_GET_REGS,
 * whose number contains the size of a struct of the architecture, is declared with that struct. What later headers
 * dropped stands in kvm-legacy.ts.  Structs are declared as the newest header has them. Since 6.1 no size changed; the
 * exits in kvm_run gained `iocsr_io`, `memory_fault`, `tdx`, `arm_sea`, `snp_req_certs` and hypercall's `flags`, inside
 * the same 256 bytes.  Missing: the layout of the dirty ring and the coalesced ring beyond their entries; they live in
 * mmap'ed pages.
 */
import { type Facts, io, ior, iow, iowr } from "./ioctl.ts";
import {
  anonymous,
  array,
  bytes,
  fd,
  fdU32,
  flexible,
  load32,
  load64,
  pointer,
  s16,
  s32,
  struct,
  u8,
  u16,
  u32,
  u64,
  union,
} from "./struct.ts";

export const KVM_API_VERSION = 12;

/**
 * 32 bytes: slot @0 (address space in the upper half), flags @4, guest_phys_addr @8, memory_size @16 in bytes (0
 * deletes the slot), userspace_addr @24, which KVM remembers and copies nothing through. All but slot and flags are
 * multiples of a page.
 */
export const KvmUserspaceMemoryRegion = struct({
  slot: u32,
  flags: u32,
  guest_phys_addr: u64,
  memory_size: u64,
  userspace_addr: pointer(),
});

/** 160 bytes: KvmUserspaceMemoryRegion, then guest_memfd_offset @32 in bytes and guest_memfd @40. */
export const KvmUserspaceMemoryRegion2 = struct({
  slot: u32,
  flags: u32,
  guest_phys_addr: u64,
  memory_size: u64,
  userspace_addr: pointer(),
  guest_memfd_offset: u64,
  guest_memfd: fdU32,
  pad1: u32,
  pad2: array(u64, 14),
});

export const KVM_MEM_LOG_DIRTY_PAGES = 1 << 0;
export const KVM_MEM_READONLY = 1 << 1;
export const KVM_MEM_GUEST_MEMFD = 1 << 2;

/** `irq` is a GSI, packed with type and vCPU on arm64; KVM_IRQ_LINE_STATUS answers in `status`. */
export const KvmIrqLevel = struct({ anonymous: anonymous(union({ irq: u32, status: s32 })), level: u32 });

export const KVM_EXIT_HYPERV_SYNIC = 1;
export const KVM_EXIT_HYPERV_HCALL = 2;
export const KVM_EXIT_HYPERV_SYNDBG = 3;

export const KvmHypervExit = struct({
  type: u32,
  pad1: u32,
  u: union({
    synic: struct({ msr: u32, pad2: u32, control: u64, evt_page: u64, msg_page: u64 }),
    hcall: struct({ input: u64, result: u64, params: array(u64, 2) }),
    syndbg: struct({
      msr: u32,
      pad2: u32,
      control: u64,
      status: u64,
      send_page: u64,
      recv_page: u64,
      pending_page: u64,
    }),
  }),
});

export const KVM_EXIT_XEN_HCALL = 1;

export const KvmXenExit = struct({
  type: u32,
  u: union({ hcall: struct({ longmode: u32, cpl: u32, input: u64, result: u64, params: array(u64, 6) }) }),
});

export const KvmExitSnpReqCerts = struct({ gpa: u64, npages: u64, ret: u64 });

export const KVM_EXIT_UNKNOWN = 0;
export const KVM_EXIT_EXCEPTION = 1;
export const KVM_EXIT_IO = 2;
export const KVM_EXIT_HYPERCALL = 3;
export const KVM_EXIT_DEBUG = 4;
export const KVM_EXIT_HLT = 5;
export const KVM_EXIT_MMIO = 6;
export const KVM_EXIT_IRQ_WINDOW_OPEN = 7;
export const KVM_EXIT_SHUTDOWN = 8;
export const KVM_EXIT_FAIL_ENTRY = 9;
export const KVM_EXIT_INTR = 10;
export const KVM_EXIT_SET_TPR = 11;
export const KVM_EXIT_TPR_ACCESS = 12;
export const KVM_EXIT_S390_SIEIC = 13;
export const KVM_EXIT_S390_RESET = 14;
export const KVM_EXIT_DCR = 15;
export const KVM_EXIT_NMI = 16;
export const KVM_EXIT_INTERNAL_ERROR = 17;
export const KVM_EXIT_OSI = 18;
export const KVM_EXIT_PAPR_HCALL = 19;
export const KVM_EXIT_S390_UCONTROL = 20;
export const KVM_EXIT_WATCHDOG = 21;
export const KVM_EXIT_S390_TSCH = 22;
export const KVM_EXIT_EPR = 23;
export const KVM_EXIT_SYSTEM_EVENT = 24;
export const KVM_EXIT_S390_STSI = 25;
export const KVM_EXIT_IOAPIC_EOI = 26;
export const KVM_EXIT_HYPERV = 27;
export const KVM_EXIT_ARM_NISV = 28;
export const KVM_EXIT_X86_RDMSR = 29;
export const KVM_EXIT_X86_WRMSR = 30;
export const KVM_EXIT_DIRTY_RING_FULL = 31;
export const KVM_EXIT_AP_RESET_HOLD = 32;
export const KVM_EXIT_X86_BUS_LOCK = 33;
export const KVM_EXIT_XEN = 34;
export const KVM_EXIT_RISCV_SBI = 35;
export const KVM_EXIT_RISCV_CSR = 36;
export const KVM_EXIT_NOTIFY = 37;
export const KVM_EXIT_LOONGARCH_IOCSR = 38;
export const KVM_EXIT_MEMORY_FAULT = 39;
export const KVM_EXIT_TDX = 40;
export const KVM_EXIT_ARM_SEA = 41;
export const KVM_EXIT_ARM_LDST64B = 42;
export const KVM_EXIT_SNP_REQ_CERTS = 43;

export const KVM_INTERNAL_ERROR_EMULATION = 1;
export const KVM_INTERNAL_ERROR_SIMUL_EX = 2;
export const KVM_INTERNAL_ERROR_DELIVERY_EV = 3;
export const KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4;
export const KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1 << 0;

export const KVM_EXIT_IO_IN = 0;
export const KVM_EXIT_IO_OUT = 1;

export const KVM_SYSTEM_EVENT_SHUTDOWN = 1;
export const KVM_SYSTEM_EVENT_RESET = 2;
export const KVM_SYSTEM_EVENT_CRASH = 3;
export const KVM_SYSTEM_EVENT_WAKEUP = 4;
export const KVM_SYSTEM_EVENT_SUSPEND = 5;
export const KVM_SYSTEM_EVENT_SEV_TERM = 6;
export const KVM_SYSTEM_EVENT_TDX_FATAL = 7;

export const KVM_MSR_EXIT_REASON_INVAL = 1 << 0;
export const KVM_MSR_EXIT_REASON_UNKNOWN = 1 << 1;
export const KVM_MSR_EXIT_REASON_FILTER = 1 << 2;
export const KVM_MSR_EXIT_REASON_VALID_MASK =
  KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;

export const KVM_NOTIFY_CONTEXT_INVALID = 1 << 0;

export const KVM_MEMORY_EXIT_FLAG_PRIVATE = 1 << 3;

export const KVM_EXIT_ARM_SEA_FLAG_GPA_VALID = 1 << 0;

export const SYNC_REGS_SIZE_BYTES = 2048;

export const KvmCoalescedMmioZone = struct({
  addr: u64,
  size: u32,
  anonymous: anonymous(union({ pad: u32, pio: u32 })),
});

export const KvmCoalescedMmio = struct({
  phys_addr: u64,
  len: u32,
  anonymous: anonymous(union({ pad: u32, pio: u32 })),
  data: bytes(8),
});

export const KvmCoalescedMmioRing = struct({
  first: u32,
  last: u32,
  coalesced_mmio: flexible(KvmCoalescedMmio),
});

export const KvmTranslation = struct({
  linear_address: u64,
  physical_address: u64,
  valid: u8,
  writeable: u8,
  usermode: u8,
  pad: bytes(5),
});

export const KvmInterrupt = struct({ irq: u32 });

export const KvmDirtyLog = struct({
  slot: u32,
  padding1: u32,
  anonymous: anonymous(union({ dirty_bitmap: pointer(), padding2: u64 })),
});

export const KvmClearDirtyLog = struct({
  slot: u32,
  num_pages: u32,
  first_page: u64,
  anonymous: anonymous(union({ dirty_bitmap: pointer(), padding2: u64 })),
});

export const KvmSignalMask = struct({ len: u32, sigset: flexible(u8) });

export const KVM_MP_STATE_RUNNABLE = 0;
export const KVM_MP_STATE_UNINITIALIZED = 1;
export const KVM_MP_STATE_INIT_RECEIVED = 2;
export const KVM_MP_STATE_HALTED = 3;
export const KVM_MP_STATE_SIPI_RECEIVED = 4;
export const KVM_MP_STATE_STOPPED = 5;
export const KVM_MP_STATE_CHECK_STOP = 6;
export const KVM_MP_STATE_OPERATING = 7;
export const KVM_MP_STATE_LOAD = 8;
export const KVM_MP_STATE_AP_RESET_HOLD = 9;
export const KVM_MP_STATE_SUSPENDED = 10;

export const KvmMpState = struct({ mp_state: u32 });

export const KVM_GUESTDBG_ENABLE = 0x00000001;
export const KVM_GUESTDBG_SINGLESTEP = 0x00000002;

export const kvm_ioeventfd_flag_nr_datamatch = 0;
export const kvm_ioeventfd_flag_nr_pio = 1;
export const kvm_ioeventfd_flag_nr_deassign = 2;
export const kvm_ioeventfd_flag_nr_virtio_ccw_notify = 3;
export const kvm_ioeventfd_flag_nr_fast_mmio = 4;
export const kvm_ioeventfd_flag_nr_max = 5;

export const KVM_IOEVENTFD_FLAG_DATAMATCH = 1;
export const KVM_IOEVENTFD_FLAG_PIO = 2;
export const KVM_IOEVENTFD_FLAG_DEASSIGN = 4;
export const KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY = 8;
export const KVM_IOEVENTFD_VALID_FLAG_MASK = 0x1f;

/** `len` 0, 1, 2, 4 or 8; 0 matches any access to `addr`. */
export const KvmIoeventfd = struct({
  datamatch: u64,
  addr: u64,
  len: u32,
  fd: fd,
  flags: u32,
  pad: bytes(36),
});

export const KvmEnableCap = struct({ cap: u32, flags: u32, args: array(u64, 4), pad: bytes(64) });

export const KVMIO = 0xae;

export const KVM_VM_MIPS_AUTO = 0;
export const KVM_VM_MIPS_VZ = 1;
export const KVM_VM_MIPS_TE = 2;

export const KVM_CAP_IRQCHIP = 0;
export const KVM_CAP_HLT = 1;
export const KVM_CAP_MMU_SHADOW_CACHE_CONTROL = 2;
export const KVM_CAP_USER_MEMORY = 3;
export const KVM_CAP_SET_TSS_ADDR = 4;
export const KVM_CAP_VAPIC = 6;
export const KVM_CAP_EXT_CPUID = 7;
export const KVM_CAP_CLOCKSOURCE = 8;
export const KVM_CAP_NR_VCPUS = 9;
export const KVM_CAP_NR_MEMSLOTS = 10;
export const KVM_CAP_PIT = 11;
export const KVM_CAP_NOP_IO_DELAY = 12;
export const KVM_CAP_PV_MMU = 13;
export const KVM_CAP_MP_STATE = 14;
export const KVM_CAP_COALESCED_MMIO = 15;
export const KVM_CAP_SYNC_MMU = 16;
export const KVM_CAP_IOMMU = 18;
export const KVM_CAP_DESTROY_MEMORY_REGION_WORKS = 21;
export const KVM_CAP_USER_NMI = 22;
export const KVM_CAP_SET_GUEST_DEBUG = 23;
export const KVM_CAP_REINJECT_CONTROL = 24;
export const KVM_CAP_IRQ_ROUTING = 25;
export const KVM_CAP_IRQ_INJECT_STATUS = 26;
export const KVM_CAP_ASSIGN_DEV_IRQ = 29;
export const KVM_CAP_JOIN_MEMORY_REGIONS_WORKS = 30;
export const KVM_CAP_MCE = 31;
export const KVM_CAP_IRQFD = 32;
export const KVM_CAP_PIT2 = 33;
export const KVM_CAP_SET_BOOT_CPU_ID = 34;
export const KVM_CAP_PIT_STATE2 = 35;
export const KVM_CAP_IOEVENTFD = 36;
export const KVM_CAP_SET_IDENTITY_MAP_ADDR = 37;
export const KVM_CAP_XEN_HVM = 38;
export const KVM_CAP_ADJUST_CLOCK = 39;
export const KVM_CAP_INTERNAL_ERROR_DATA = 40;
export const KVM_CAP_VCPU_EVENTS = 41;
export const KVM_CAP_S390_PSW = 42;
export const KVM_CAP_PPC_SEGSTATE = 43;
export const KVM_CAP_HYPERV = 44;
export const KVM_CAP_HYPERV_VAPIC = 45;
export const KVM_CAP_HYPERV_SPIN = 46;
export const KVM_CAP_PCI_SEGMENT = 47;
export const KVM_CAP_PPC_PAIRED_SINGLES = 48;
export const KVM_CAP_INTR_SHADOW = 49;
export const KVM_CAP_DEBUGREGS = 50;
export const KVM_CAP_X86_ROBUST_SINGLESTEP = 51;
export const KVM_CAP_PPC_OSI = 52;
export const KVM_CAP_PPC_UNSET_IRQ = 53;
export const KVM_CAP_ENABLE_CAP = 54;
export const KVM_CAP_XSAVE = 55;
export const KVM_CAP_XCRS = 56;
export const KVM_CAP_PPC_GET_PVINFO = 57;
export const KVM_CAP_PPC_IRQ_LEVEL = 58;
export const KVM_CAP_ASYNC_PF = 59;
export const KVM_CAP_TSC_CONTROL = 60;
export const KVM_CAP_GET_TSC_KHZ = 61;
export const KVM_CAP_PPC_BOOKE_SREGS = 62;
export const KVM_CAP_SPAPR_TCE = 63;
export const KVM_CAP_PPC_SMT = 64;
export const KVM_CAP_PPC_RMA = 65;
export const KVM_CAP_MAX_VCPUS = 66;
export const KVM_CAP_PPC_HIOR = 67;
export const KVM_CAP_PPC_PAPR = 68;
export const KVM_CAP_SW_TLB = 69;
export const KVM_CAP_ONE_REG = 70;
export const KVM_CAP_S390_GMAP = 71;
export const KVM_CAP_TSC_DEADLINE_TIMER = 72;
export const KVM_CAP_S390_UCONTROL = 73;
export const KVM_CAP_SYNC_REGS = 74;
export const KVM_CAP_PCI_2_3 = 75;
export const KVM_CAP_KVMCLOCK_CTRL = 76;
export const KVM_CAP_SIGNAL_MSI = 77;
export const KVM_CAP_PPC_GET_SMMU_INFO = 78;
export const KVM_CAP_S390_COW = 79;
export const KVM_CAP_PPC_ALLOC_HTAB = 80;
export const KVM_CAP_READONLY_MEM = 81;
export const KVM_CAP_IRQFD_RESAMPLE = 82;
export const KVM_CAP_PPC_BOOKE_WATCHDOG = 83;
export const KVM_CAP_PPC_HTAB_FD = 84;
export const KVM_CAP_S390_CSS_SUPPORT = 85;
export const KVM_CAP_PPC_EPR = 86;
export const KVM_CAP_ARM_PSCI = 87;
export const KVM_CAP_ARM_SET_DEVICE_ADDR = 88;
export const KVM_CAP_DEVICE_CTRL = 89;
export const KVM_CAP_IRQ_MPIC = 90;
export const KVM_CAP_PPC_RTAS = 91;
export const KVM_CAP_IRQ_XICS = 92;
export const KVM_CAP_ARM_EL1_32BIT = 93;
export const KVM_CAP_SPAPR_MULTITCE = 94;
export const KVM_CAP_EXT_EMUL_CPUID = 95;
export const KVM_CAP_HYPERV_TIME = 96;
export const KVM_CAP_IOAPIC_POLARITY_IGNORED = 97;
export const KVM_CAP_ENABLE_CAP_VM = 98;
export const KVM_CAP_S390_IRQCHIP = 99;
export const KVM_CAP_IOEVENTFD_NO_LENGTH = 100;
export const KVM_CAP_VM_ATTRIBUTES = 101;
export const KVM_CAP_ARM_PSCI_0_2 = 102;
export const KVM_CAP_PPC_FIXUP_HCALL = 103;
export const KVM_CAP_PPC_ENABLE_HCALL = 104;
export const KVM_CAP_CHECK_EXTENSION_VM = 105;
export const KVM_CAP_S390_USER_SIGP = 106;
export const KVM_CAP_S390_VECTOR_REGISTERS = 107;
export const KVM_CAP_S390_MEM_OP = 108;
export const KVM_CAP_S390_USER_STSI = 109;
export const KVM_CAP_S390_SKEYS = 110;
export const KVM_CAP_MIPS_FPU = 111;
export const KVM_CAP_MIPS_MSA = 112;
export const KVM_CAP_S390_INJECT_IRQ = 113;
export const KVM_CAP_S390_IRQ_STATE = 114;
export const KVM_CAP_PPC_HWRNG = 115;
export const KVM_CAP_DISABLE_QUIRKS = 116;
export const KVM_CAP_X86_SMM = 117;
export const KVM_CAP_MULTI_ADDRESS_SPACE = 118;
export const KVM_CAP_GUEST_DEBUG_HW_BPS = 119;
export const KVM_CAP_GUEST_DEBUG_HW_WPS = 120;
export const KVM_CAP_SPLIT_IRQCHIP = 121;
export const KVM_CAP_IOEVENTFD_ANY_LENGTH = 122;
export const KVM_CAP_HYPERV_SYNIC = 123;
export const KVM_CAP_S390_RI = 124;
export const KVM_CAP_SPAPR_TCE_64 = 125;
export const KVM_CAP_ARM_PMU_V3 = 126;
export const KVM_CAP_VCPU_ATTRIBUTES = 127;
export const KVM_CAP_MAX_VCPU_ID = 128;
export const KVM_CAP_X2APIC_API = 129;
export const KVM_CAP_S390_USER_INSTR0 = 130;
export const KVM_CAP_MSI_DEVID = 131;
export const KVM_CAP_PPC_HTM = 132;
export const KVM_CAP_SPAPR_RESIZE_HPT = 133;
export const KVM_CAP_PPC_MMU_RADIX = 134;
export const KVM_CAP_PPC_MMU_HASH_V3 = 135;
export const KVM_CAP_IMMEDIATE_EXIT = 136;
export const KVM_CAP_MIPS_VZ = 137;
export const KVM_CAP_MIPS_TE = 138;
export const KVM_CAP_MIPS_64BIT = 139;
export const KVM_CAP_S390_GS = 140;
export const KVM_CAP_S390_AIS = 141;
export const KVM_CAP_SPAPR_TCE_VFIO = 142;
export const KVM_CAP_X86_DISABLE_EXITS = 143;
export const KVM_CAP_ARM_USER_IRQ = 144;
export const KVM_CAP_S390_CMMA_MIGRATION = 145;
export const KVM_CAP_PPC_FWNMI = 146;
export const KVM_CAP_PPC_SMT_POSSIBLE = 147;
export const KVM_CAP_HYPERV_SYNIC2 = 148;
export const KVM_CAP_HYPERV_VP_INDEX = 149;
export const KVM_CAP_S390_AIS_MIGRATION = 150;
export const KVM_CAP_PPC_GET_CPU_CHAR = 151;
export const KVM_CAP_S390_BPB = 152;
export const KVM_CAP_GET_MSR_FEATURES = 153;
export const KVM_CAP_HYPERV_EVENTFD = 154;
export const KVM_CAP_HYPERV_TLBFLUSH = 155;
export const KVM_CAP_S390_HPAGE_1M = 156;
export const KVM_CAP_NESTED_STATE = 157;
export const KVM_CAP_ARM_INJECT_SERROR_ESR = 158;
export const KVM_CAP_MSR_PLATFORM_INFO = 159;
export const KVM_CAP_PPC_NESTED_HV = 160;
export const KVM_CAP_HYPERV_SEND_IPI = 161;
export const KVM_CAP_COALESCED_PIO = 162;
export const KVM_CAP_HYPERV_ENLIGHTENED_VMCS = 163;
export const KVM_CAP_EXCEPTION_PAYLOAD = 164;
export const KVM_CAP_ARM_VM_IPA_SIZE = 165;
export const KVM_CAP_MANUAL_DIRTY_LOG_PROTECT = 166;
export const KVM_CAP_HYPERV_CPUID = 167;
export const KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 = 168;
export const KVM_CAP_PPC_IRQ_XIVE = 169;
export const KVM_CAP_ARM_SVE = 170;
export const KVM_CAP_ARM_PTRAUTH_ADDRESS = 171;
export const KVM_CAP_ARM_PTRAUTH_GENERIC = 172;
export const KVM_CAP_PMU_EVENT_FILTER = 173;
export const KVM_CAP_ARM_IRQ_LINE_LAYOUT_2 = 174;
export const KVM_CAP_HYPERV_DIRECT_TLBFLUSH = 175;
export const KVM_CAP_PPC_GUEST_DEBUG_SSTEP = 176;
export const KVM_CAP_ARM_NISV_TO_USER = 177;
export const KVM_CAP_ARM_INJECT_EXT_DABT = 178;
export const KVM_CAP_S390_VCPU_RESETS = 179;
export const KVM_CAP_S390_PROTECTED = 180;
export const KVM_CAP_PPC_SECURE_GUEST = 181;
export const KVM_CAP_HALT_POLL = 182;
export const KVM_CAP_ASYNC_PF_INT = 183;
export const KVM_CAP_LAST_CPU = 184;
export const KVM_CAP_SMALLER_MAXPHYADDR = 185;
export const KVM_CAP_S390_DIAG318 = 186;
export const KVM_CAP_STEAL_TIME = 187;
export const KVM_CAP_X86_USER_SPACE_MSR = 188;
export const KVM_CAP_X86_MSR_FILTER = 189;
export const KVM_CAP_ENFORCE_PV_FEATURE_CPUID = 190;
export const KVM_CAP_SYS_HYPERV_CPUID = 191;
export const KVM_CAP_DIRTY_LOG_RING = 192;
export const KVM_CAP_X86_BUS_LOCK_EXIT = 193;
export const KVM_CAP_PPC_DAWR1 = 194;
export const KVM_CAP_SET_GUEST_DEBUG2 = 195;
export const KVM_CAP_SGX_ATTRIBUTE = 196;
export const KVM_CAP_VM_COPY_ENC_CONTEXT_FROM = 197;
export const KVM_CAP_PTP_KVM = 198;
export const KVM_CAP_HYPERV_ENFORCE_CPUID = 199;
export const KVM_CAP_SREGS2 = 200;
export const KVM_CAP_EXIT_HYPERCALL = 201;
export const KVM_CAP_PPC_RPT_INVALIDATE = 202;
export const KVM_CAP_BINARY_STATS_FD = 203;
export const KVM_CAP_EXIT_ON_EMULATION_FAILURE = 204;
export const KVM_CAP_ARM_MTE = 205;
export const KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM = 206;
export const KVM_CAP_VM_GPA_BITS = 207;
export const KVM_CAP_XSAVE2 = 208;
export const KVM_CAP_SYS_ATTRIBUTES = 209;
export const KVM_CAP_PPC_AIL_MODE_3 = 210;
export const KVM_CAP_S390_MEM_OP_EXTENSION = 211;
export const KVM_CAP_PMU_CAPABILITY = 212;
export const KVM_CAP_DISABLE_QUIRKS2 = 213;
export const KVM_CAP_VM_TSC_CONTROL = 214;
export const KVM_CAP_SYSTEM_EVENT_DATA = 215;
export const KVM_CAP_ARM_SYSTEM_SUSPEND = 216;
export const KVM_CAP_S390_PROTECTED_DUMP = 217;
export const KVM_CAP_X86_TRIPLE_FAULT_EVENT = 218;
export const KVM_CAP_X86_NOTIFY_VMEXIT = 219;
export const KVM_CAP_VM_DISABLE_NX_HUGE_PAGES = 220;
export const KVM_CAP_S390_ZPCI_OP = 221;
export const KVM_CAP_S390_CPU_TOPOLOGY = 222;
export const KVM_CAP_DIRTY_LOG_RING_ACQ_REL = 223;
export const KVM_CAP_S390_PROTECTED_ASYNC_DISABLE = 224;
export const KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP = 225;
export const KVM_CAP_PMU_EVENT_MASKED_EVENTS = 226;
export const KVM_CAP_COUNTER_OFFSET = 227;
export const KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE = 228;
export const KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES = 229;
export const KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES = 230;
export const KVM_CAP_USER_MEMORY2 = 231;
export const KVM_CAP_MEMORY_FAULT_INFO = 232;
export const KVM_CAP_MEMORY_ATTRIBUTES = 233;
export const KVM_CAP_GUEST_MEMFD = 234;
export const KVM_CAP_VM_TYPES = 235;
export const KVM_CAP_PRE_FAULT_MEMORY = 236;
export const KVM_CAP_X86_APIC_BUS_CYCLES_NS = 237;
export const KVM_CAP_X86_GUEST_MODE = 238;
export const KVM_CAP_ARM_WRITABLE_IMP_ID_REGS = 239;
export const KVM_CAP_ARM_EL2 = 240;
export const KVM_CAP_ARM_EL2_E2H0 = 241;
export const KVM_CAP_RISCV_MP_STATE_RESET = 242;
export const KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED = 243;
export const KVM_CAP_GUEST_MEMFD_FLAGS = 244;
export const KVM_CAP_ARM_SEA_TO_USER = 245;
export const KVM_CAP_S390_USER_OPEREXEC = 246;
export const KVM_CAP_S390_KEYOP = 247;
export const KVM_CAP_S390_VSIE_ESAMODE = 248;
export const KVM_CAP_S390_HPAGE_2G = 249;
export const KVM_CAP_PPC_COMPAT_CAPS = 250;
export const KVM_CAP_ARM_PMU_V3_STRICT = 251;

export const KvmIrqRoutingIrqchip = struct({ irqchip: u32, pin: u32 });

export const KvmIrqRoutingMsi = struct({
  address_lo: u32,
  address_hi: u32,
  data: u32,
  anonymous: anonymous(union({ pad: u32, devid: u32 })),
});

export const KvmIrqRoutingS390Adapter = struct({
  ind_addr: u64,
  summary_addr: u64,
  ind_offset: u64,
  summary_offset: u32,
  adapter_id: u32,
});

export const KvmIrqRoutingHvSint = struct({ vcpu: u32, sint: u32 });

export const KvmIrqRoutingXenEvtchn = struct({ port: u32, vcpu: u32, priority: u32 });

export const KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL = 0xffffffff;
export const KVM_IRQ_ROUTING_IRQCHIP = 1;
export const KVM_IRQ_ROUTING_MSI = 2;
export const KVM_IRQ_ROUTING_S390_ADAPTER = 3;
export const KVM_IRQ_ROUTING_HV_SINT = 4;
export const KVM_IRQ_ROUTING_XEN_EVTCHN = 5;

/** One way of a GSI to a chip; `type` (KVM_IRQ_ROUTING_…) says which member of `u` counts. */
export const KvmIrqRoutingEntry = struct({
  gsi: u32,
  type: u32,
  flags: u32,
  pad: u32,
  u: union({
    irqchip: KvmIrqRoutingIrqchip,
    msi: KvmIrqRoutingMsi,
    adapter: KvmIrqRoutingS390Adapter,
    hv_sint: KvmIrqRoutingHvSint,
    xen_evtchn: KvmIrqRoutingXenEvtchn,
    pad: array(u32, 8),
  }),
});

export const KvmIrqRouting = struct({ nr: u32, flags: u32, entries: flexible(KvmIrqRoutingEntry) });

export const KVM_IRQFD_FLAG_DEASSIGN = 1 << 0;
export const KVM_IRQFD_FLAG_RESAMPLE = 1 << 1;

/** 32 bytes: fd @0, gsi @4, flags @8 (1 deassign, 2 resample), resamplefd @12, 16 bytes that nobody looks at. */
export const KvmIrqfd = struct({ fd: fdU32, gsi: u32, flags: u32, resamplefd: fdU32, pad: bytes(16) });

export const KVM_REG_ARCH_MASK = 0xff00000000000000n;
export const KVM_REG_GENERIC = 0x0000000000000000n;
export const KVM_REG_PPC = 0x1000000000000000n;
export const KVM_REG_X86 = 0x2000000000000000n;
export const KVM_REG_IA64 = 0x3000000000000000n;
export const KVM_REG_ARM = 0x4000000000000000n;
export const KVM_REG_S390 = 0x5000000000000000n;
export const KVM_REG_ARM64 = 0x6000000000000000n;
export const KVM_REG_MIPS = 0x7000000000000000n;
export const KVM_REG_RISCV = 0x8000000000000000n;
export const KVM_REG_LOONGARCH = 0x9000000000000000n;
export const KVM_REG_SIZE_SHIFT = 52;
export const KVM_REG_SIZE_MASK = 0x00f0000000000000n;
export const KVM_REG_SIZE_U8 = 0x0000000000000000n;
export const KVM_REG_SIZE_U16 = 0x0010000000000000n;
export const KVM_REG_SIZE_U32 = 0x0020000000000000n;
export const KVM_REG_SIZE_U64 = 0x0030000000000000n;
export const KVM_REG_SIZE_U128 = 0x0040000000000000n;
export const KVM_REG_SIZE_U256 = 0x0050000000000000n;
export const KVM_REG_SIZE_U512 = 0x0060000000000000n;
export const KVM_REG_SIZE_U1024 = 0x0070000000000000n;
export const KVM_REG_SIZE_U2048 = 0x0080000000000000n;

export const KvmRegList = struct({ n: u64, reg: flexible(u64) });

export const KvmOneReg = struct({ id: u64, addr: pointer() });

export const KVM_MSI_VALID_DEVID = 1 << 0;

/** 32 bytes: address @0 in two halves, data @8, flags @12, devid @16 (with KVM_MSI_VALID_DEVID), padding. */
export const KvmMsi = struct({
  address_lo: u32,
  address_hi: u32,
  data: u32,
  flags: u32,
  devid: u32,
  pad: bytes(12),
});

export const KVM_CREATE_DEVICE_TEST = 1;

/** 12 bytes: type @0 (KVM_DEV_TYPE_…), fd @4 (the answer), flags @8 (1: only ask whether there is such a type). */
export const KvmCreateDevice = struct({ type: u32, fd: fdU32, flags: u32 });

/** `addr` points to the value; how many bytes depends on the device, see device-attributes.ts. */
export const KvmDeviceAttr = struct({ flags: u32, group: u32, attr: u64, addr: pointer() });

export const KVM_DEV_VFIO_FILE = 1;
export const KVM_DEV_VFIO_FILE_ADD = 1;
export const KVM_DEV_VFIO_FILE_DEL = 2;
export const KVM_DEV_VFIO_GROUP = KVM_DEV_VFIO_FILE;
export const KVM_DEV_VFIO_GROUP_ADD = KVM_DEV_VFIO_FILE_ADD;
export const KVM_DEV_VFIO_GROUP_DEL = KVM_DEV_VFIO_FILE_DEL;
export const KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE = 3;
export const KVM_DEV_TYPE_FSL_MPIC_20 = 1;
export const KVM_DEV_TYPE_FSL_MPIC_42 = 2;
export const KVM_DEV_TYPE_XICS = 3;
export const KVM_DEV_TYPE_VFIO = 4;
export const KVM_DEV_TYPE_ARM_VGIC_V2 = 5;
export const KVM_DEV_TYPE_FLIC = 6;
export const KVM_DEV_TYPE_ARM_VGIC_V3 = 7;
export const KVM_DEV_TYPE_ARM_VGIC_ITS = 8;
export const KVM_DEV_TYPE_XIVE = 9;
export const KVM_DEV_TYPE_ARM_PV_TIME = 10;
export const KVM_DEV_TYPE_RISCV_AIA = 11;
export const KVM_DEV_TYPE_LOONGARCH_IPI = 12;
export const KVM_DEV_TYPE_LOONGARCH_EIOINTC = 13;
export const KVM_DEV_TYPE_LOONGARCH_PCHPIC = 14;
export const KVM_DEV_TYPE_LOONGARCH_DMSINTC = 15;
export const KVM_DEV_TYPE_ARM_VGIC_V5 = 16;
export const KVM_DEV_TYPE_MAX = 17;

export const KvmVfioSpaprTce = struct({ groupfd: fd, tablefd: fd });

export const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1 << 0;
export const KVM_DIRTY_LOG_INITIALLY_SET = 1 << 1;
export const KVM_DIRTY_GFN_F_DIRTY = 1 << 0;
export const KVM_DIRTY_GFN_F_RESET = 1 << 1;
export const KVM_DIRTY_GFN_F_MASK = 0x3;

export const KvmDirtyGfn = struct({ flags: u32, slot: u32, offset: u64 });

export const KvmStatsHeader = struct({
  flags: u32,
  name_size: u32,
  num_desc: u32,
  id_offset: u32,
  desc_offset: u32,
  data_offset: u32,
});

export const KVM_STATS_TYPE_SHIFT = 0;
export const KVM_STATS_TYPE_MASK = 0xf;
export const KVM_STATS_TYPE_CUMULATIVE = 0;
export const KVM_STATS_TYPE_INSTANT = 1;
export const KVM_STATS_TYPE_PEAK = 2;
export const KVM_STATS_TYPE_LINEAR_HIST = 3;
export const KVM_STATS_TYPE_LOG_HIST = 4;
export const KVM_STATS_TYPE_MAX = KVM_STATS_TYPE_LOG_HIST;
export const KVM_STATS_UNIT_SHIFT = 4;
export const KVM_STATS_UNIT_MASK = 0xf0;
export const KVM_STATS_UNIT_NONE = 0;
export const KVM_STATS_UNIT_BYTES = 0x10;
export const KVM_STATS_UNIT_SECONDS = 0x20;
export const KVM_STATS_UNIT_CYCLES = 0x30;
export const KVM_STATS_UNIT_BOOLEAN = 0x40;
export const KVM_STATS_UNIT_MAX = KVM_STATS_UNIT_BOOLEAN;
export const KVM_STATS_BASE_SHIFT = 8;
export const KVM_STATS_BASE_MASK = 0xf00;
export const KVM_STATS_BASE_POW10 = 0;
export const KVM_STATS_BASE_POW2 = 0x100;
export const KVM_STATS_BASE_MAX = KVM_STATS_BASE_POW2;

export const KvmStatsDesc = struct({
  flags: u32,
  exponent: s16,
  size: u16,
  offset: u32,
  bucket_size: u32,
  name: flexible(u8),
});

export const KvmMemoryAttributes = struct({ address: u64, size: u64, attributes: u64, flags: u64 });

export const KVM_MEMORY_ATTRIBUTE_PRIVATE = 1 << 3;

export const GUEST_MEMFD_FLAG_MMAP = 1 << 0;
export const GUEST_MEMFD_FLAG_INIT_SHARED = 1 << 1;

export const KvmCreateGuestMemfd = struct({ size: u64, flags: u64, reserved: array(u64, 6) });

export const KvmPreFaultMemory = struct({ gpa: u64, size: u64, flags: u64, padding: array(u64, 5) });

/** One bit a page of the slot, in units of 64. */
const bitmapBytes = (pages: number): number => Math.ceil(pages / 64) * 8;
const dirtyLogBytes = (head: Uint8Array, facts: Facts): number =>
  bitmapBytes(facts.slotPages?.(load32(head, KvmDirtyLog.offsetOf.slot)) ?? 0);
const clearDirtyLogBytes = (head: Uint8Array): number =>
  bitmapBytes(load32(head, KvmClearDirtyLog.offsetOf.num_pages));
/** Bytes in the register that an id names: 2 to the power of bits 52 to 55. */
export const KVM_REG_SIZE = (id: bigint): number =>
  1 << Number((id & KVM_REG_SIZE_MASK) >> BigInt(KVM_REG_SIZE_SHIFT));
const oneRegBytes = (head: Uint8Array): number => KVM_REG_SIZE(load64(head, KvmOneReg.offsetOf.id));
/** Capabilities whose first argument is a descriptor: MPIC, XICS, XIVE, and moving an encrypted VM's context. */
const enableCapDescriptors = (argument: Uint8Array): number[] => {
  const cap = load32(argument, KvmEnableCap.offsetOf.cap);
  const takesDescriptor =
    cap === KVM_CAP_IRQ_MPIC ||
    cap === KVM_CAP_IRQ_XICS ||
    cap === KVM_CAP_PPC_IRQ_XIVE ||
    cap === KVM_CAP_VM_COPY_ENC_CONTEXT_FROM ||
    cap === KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM;
  return takesDescriptor ? [KvmEnableCap.offsetOf.args] : [];
};
/** See device-attributes.ts for who knows. */
const attributeBytes = (head: Uint8Array, facts: Facts): number =>
  facts.attributeBytes?.(
    load32(head, KvmDeviceAttr.offsetOf.group),
    load64(head, KvmDeviceAttr.offsetOf.attr),
  ) ?? 0;

/** Answers 12. EINVAL for an argument other than 0. */
export const KVM_GET_API_VERSION = io(KVMIO, 0x00, { on: "system" });
/**
 * The argument is the type of VM: 0, on arm64 the bits of a guest physical address. Answers a descriptor. EMFILE,
 * EINVAL for a type that the host does not have, ENOMEM.
 */
export const KVM_CREATE_VM = io(KVMIO, 0x01, { on: "system", returns: "vm" });
/**
 * The argument is a KVM_CAP_… number; answers 0 (unknown ones too), 1, or a quantity. A VM may know better than the
 * system.
 */
export const KVM_CHECK_EXTENSION = io(KVMIO, 0x03, { on: ["system", "vm"] });
/**
 * How many bytes of a vCPU's descriptor are mapped: kvm_run and the rings behind it. EINVAL for an argument other than
 * 0.
 */
export const KVM_GET_VCPU_MMAP_SIZE = io(KVMIO, 0x04, { on: "system" });
/**
 * The argument is the vCPU's id, on x86 its APIC id. Answers a descriptor. EEXIST; EINVAL: the id or the number of
 * vCPUs is beyond the limit, KVM_CAP_MAX_VCPU_ID; EBUSY on arm64 once the GIC is initialised; EMFILE, ENOMEM.
 */
export const KVM_CREATE_VCPU = io(KVMIO, 0x41, { on: "vm", returns: "vcpu" });
/**
 * Encoded as a write, answers through the pointer: a bit a page, 1 where it was written since. ENOENT: no log is kept;
 * EINVAL; EFAULT.
 */
export const KVM_GET_DIRTY_LOG = iow(KVMIO, 0x42, KvmDirtyLog, {
  on: "vm",
  behind: { dirty_bitmap: { copy: "out", bytes: dirtyLogBytes } },
});
/**
 * Adds, moves, changes or deletes (size 0) a memory slot. EINVAL: flags, no whole pages, an address or slot that cannot
 * be, another size or user address for a slot that there is; EEXIST: it would overlap another one; ENOMEM.
 * virt/kvm/kvm_main.c (6.1)
 */
export const KVM_SET_USER_MEMORY_REGION = iow(KVMIO, 0x46, KvmUserspaceMemoryRegion, { on: "vm" });
/** KVM_SET_USER_MEMORY_REGION with a guest_memfd behind the slot (KVM_MEM_GUEST_MEMFD). ENOTTY before 6.8. */
export const KVM_SET_USER_MEMORY_REGION2 = iow(KVMIO, 0x49, KvmUserspaceMemoryRegion2, { on: "vm" });
/**
 * x86: PIC, IOAPIC, and a local APIC with every vCPU made from now on. EEXIST: there is one, or a split one; EINVAL:
 * there are vCPUs. arm64: a GICv2. A POWER VM does not know it.
 */
export const KVM_CREATE_IRQCHIP = io(KVMIO, 0x60, { on: "vm" });
/**
 * Sets the line `irq`, a GSI (packed with type and vCPU on arm64, a source on POWER), to `level`. ENXIO on x86 without
 * a controller; EINVAL: no such interrupt; EFAULT.
 */
export const KVM_IRQ_LINE = iow(KVMIO, 0x61, KvmIrqLevel, { on: "vm" });
/** As KVM_IRQ_LINE; `status` then says to how many processors it went: 0 coalesced, −1 ignored. */
export const KVM_IRQ_LINE_STATUS = iowr(KVMIO, 0x67, KvmIrqLevel, { on: "vm" });
/**
 * Writes in a zone are kept in the VM's ring, a page of each vCPU's mapping, and cause no exit until it is full.
 * EINVAL, ENOSPC, EFAULT.
 */
export const KVM_REGISTER_COALESCED_MMIO = iow(KVMIO, 0x67, KvmCoalescedMmioZone, { on: "vm" });
/** All zones inside the one that is named. EINVAL, EFAULT. */
export const KVM_UNREGISTER_COALESCED_MMIO = iow(KVMIO, 0x68, KvmCoalescedMmioZone, { on: "vm" });
/**
 * Replaces the whole table: KvmIrqRouting (8 bytes: nr, flags), then `nr` entries of 48 bytes, whatever size the number
 * encodes. Nothing has changed after an error. EINVAL: no controller, more entries than KVM_CAP_IRQ_ROUTING, flags, a
 * GSI or a pin that cannot be, two pins of one chip on one GSI; EFAULT, ENOMEM. virt/kvm/irqchip.c:kvm_set_irq_routing
 * (6.1)
 */
export const KVM_SET_GSI_ROUTING = iow(KVMIO, 0x6a, KvmIrqRouting, {
  on: "vm",
  tail: KvmIrqRoutingEntry,
  count: "nr",
});
/**
 * Binds an eventfd to a GSI: each write raises it. With KVM_IRQFD_FLAG_RESAMPLE the line stays up until the guest ends
 * the interrupt, then `resamplefd` is signalled. EINVAL: flags, no controller that could take it, no eventfd; EBADF;
 * EBUSY: the eventfd has one of this VM already; EAGAIN: the controller is not initialised; EFAULT, ENOMEM. Deassigning
 * what is not there is no error. virt/kvm/eventfd.c:kvm_irqfd_assign (6.1)
 */
export const KVM_IRQFD = iow(KVMIO, 0x76, KvmIrqfd, { on: "vm" });
/**
 * A guest's write to an address signals an eventfd and causes no exit. EINVAL: a length other than 0, 1, 2, 4, 8, an
 * address that wraps, flags, no eventfd; EEXIST: another one would answer to the same write; ENOENT: nothing to
 * deassign; EBADF, EFAULT, ENOSPC, ENOMEM.
 */
export const KVM_IOEVENTFD = iow(KVMIO, 0x79, KvmIoeventfd, { on: "vm" });
/**
 * Sends a message at once: to how many processors it went, 0 where the guest blocked it. EINVAL without a controller in
 * the kernel that takes messages, or with flags; EPERM (−1) on x86 where no processor took it; EFAULT.
 */
export const KVM_SIGNAL_MSI = iow(KVMIO, 0xa5, KvmMsi, { on: "vm" });
/**
 * The descriptor comes back in the struct. ENODEV: no such type here; EEXIST or EBUSY: the VM has one; EMFILE, ENOMEM,
 * EFAULT.
 */
export const KVM_CREATE_DEVICE = iowr(KVMIO, 0xe0, KvmCreateDevice, { on: "vm" });
/**
 * Sets an attribute from what `addr` points to. ENXIO: no such attribute; EPERM on files that have none; what the
 * attribute says; EFAULT.
 */
export const KVM_SET_DEVICE_ATTR = iow(KVMIO, 0xe1, KvmDeviceAttr, {
  on: ["device", "vm", "vcpu"],
  behind: { addr: { copy: "in", bytes: attributeBytes } },
});
/** Writes an attribute to where `addr` points. Errors as KVM_SET_DEVICE_ATTR. */
export const KVM_GET_DEVICE_ATTR = iow(KVMIO, 0xe2, KvmDeviceAttr, {
  on: ["device", "vm", "vcpu", "system"],
  behind: { addr: { copy: "out", bytes: attributeBytes } },
});
/** 0 where there is such an attribute, else ENXIO. The value is not looked at. */
export const KVM_HAS_DEVICE_ATTR = iow(KVMIO, 0xe3, KvmDeviceAttr, {
  on: ["device", "vm", "vcpu", "system"],
});
/**
 * Runs the guest until something is left to user space: `exit_reason` in the mapped kvm_run. EINTR: a signal, or
 * `immediate_exit` (on the fake also: it sleeps and nothing can wake it); EAGAIN: the vCPU waits for its start-up;
 * EFAULT: memory that is not there; EINVAL for an argument other than 0.
 */
export const KVM_RUN = io(KVMIO, 0x80, { on: "vcpu" });
export const KVM_TRANSLATE = iowr(KVMIO, 0x85, KvmTranslation, { on: "vcpu" });
/**
 * x86 without a PIC in the kernel: queues a vector. EINVAL beyond 255; ENXIO: the PIC is in the kernel; EEXIST: with a
 * split controller one is pending. POWER: raises or lowers the input.
 */
export const KVM_INTERRUPT = iow(KVMIO, 0x86, KvmInterrupt, { on: "vcpu" });
/** A null argument takes the mask away. */
export const KVM_SET_SIGNAL_MASK = iow(KVMIO, 0x8b, KvmSignalMask, { on: "vcpu", tail: 1, count: "len" });
/** Whether the vCPU runs, is halted, waits for INIT or SIPI. x86 without a local APIC in the kernel, too. */
export const KVM_GET_MP_STATE = ior(KVMIO, 0x98, KvmMpState, { on: "vcpu" });
/** EINVAL: a state that this vCPU cannot have. */
export const KVM_SET_MP_STATE = iow(KVMIO, 0x99, KvmMpState, { on: "vcpu" });
/**
 * Turns a capability on, on a VM or on a vCPU: 104 bytes, cap @0, flags @4, args @8. EINVAL: unknown, flags, arguments,
 * or too late.
 */
export const KVM_ENABLE_CAP = iow(KVMIO, 0xa3, KvmEnableCap, {
  on: ["vm", "vcpu"],
  descriptors: enableCapDescriptors,
});
export const KVM_GET_ONE_REG = iow(KVMIO, 0xab, KvmOneReg, {
  on: "vcpu",
  behind: { addr: { copy: "out", bytes: oneRegBytes } },
});
export const KVM_SET_ONE_REG = iow(KVMIO, 0xac, KvmOneReg, {
  on: "vcpu",
  behind: { addr: { copy: "in", bytes: oneRegBytes } },
});
/** `n` too small: E2BIG, and `n` is what it should be. */
export const KVM_GET_REG_LIST = iowr(KVMIO, 0xb0, KvmRegList, {
  on: "vcpu",
  tail: 8,
  count: "n",
  tailCopy: "out",
});
/** Encoded both ways, reads only. */
export const KVM_CLEAR_DIRTY_LOG = iowr(KVMIO, 0xc0, KvmClearDirtyLog, {
  on: "vm",
  copy: "in",
  behind: { dirty_bitmap: { copy: "in", bytes: clearDirtyLogBytes } },
});
/**
 * Takes back what the program has marked as collected in the rings of all vCPUs: how many entries. EINVAL: there are
 * no rings.
 */
export const KVM_RESET_DIRTY_RINGS = io(KVMIO, 0xc7, { on: "vm" });
/** A descriptor with statistics of a VM or vCPU, to be read: header, descriptors, values. EMFILE, ENOMEM. */
export const KVM_GET_STATS_FD = io(KVMIO, 0xce, { on: ["vm", "vcpu"], returns: "stats" });
export const KVM_SET_MEMORY_ATTRIBUTES = iow(KVMIO, 0xd2, KvmMemoryAttributes, { on: "vm" });
export const KVM_CREATE_GUEST_MEMFD = iowr(KVMIO, 0xd4, KvmCreateGuestMemfd, {
  on: "vm",
  copy: "in",
  returns: "guest-memfd",
});
export const KVM_PRE_FAULT_MEMORY = iowr(KVMIO, 0xd5, KvmPreFaultMemory, { on: "vcpu" });

/** The first fields of struct kvm_run, up to the union of exits; the architecture's file puts the whole together. */
export const kvmRunHead = {
  request_interrupt_window: u8,
  immediate_exit: u8,
  padding1: bytes(6),
  exit_reason: u32,
  ready_for_interrupt_injection: u8,
  if_flag: u8,
  flags: u16,
  cr8: u64,
  apic_base: u64,
};

/** The union of exits in struct kvm_run, except `debug`, which depends on the architecture. */
export const kvmRunExits = {
  hw: struct({ hardware_exit_reason: u64 }),
  fail_entry: struct({ hardware_entry_failure_reason: u64, cpu: u32 }),
  ex: struct({ exception: u32, error_code: u32 }),
  io: struct({ direction: u8, size: u8, port: u16, count: u32, data_offset: u64 }),
  mmio: struct({ phys_addr: u64, data: bytes(8), len: u32, is_write: u8 }),
  iocsr_io: struct({ phys_addr: u64, data: bytes(8), len: u32, is_write: u8 }),
  hypercall: struct({
    nr: u64,
    args: array(u64, 6),
    ret: u64,
    anonymous: anonymous(union({ longmode: u32, flags: u64 })),
  }),
  tpr_access: struct({ rip: u64, is_write: u32, pad: u32 }),
  s390_sieic: struct({ icptcode: u8, ipa: u16, ipb: u32 }),
  s390_reset_flags: u64,
  s390_ucontrol: struct({ trans_exc_code: u64, pgm_code: u32 }),
  dcr: struct({ dcrn: u32, data: u32, is_write: u8 }),
  internal: struct({ suberror: u32, ndata: u32, data: array(u64, 16) }),
  emulation_failure: struct({
    suberror: u32,
    ndata: u32,
    flags: u64,
    anonymous: anonymous(union({ anonymous: anonymous(struct({ insn_size: u8, insn_bytes: bytes(15) })) })),
  }),
  osi: struct({ gprs: array(u64, 32) }),
  papr_hcall: struct({ nr: u64, ret: u64, args: array(u64, 9) }),
  s390_tsch: struct({
    subchannel_id: u16,
    subchannel_nr: u16,
    io_int_parm: u32,
    io_int_word: u32,
    ipb: u32,
    dequeued: u8,
  }),
  epr: struct({ epr: u32 }),
  system_event: struct({
    type: u32,
    ndata: u32,
    anonymous: anonymous(union({ flags: u64, data: array(u64, 16) })),
  }),
  s390_stsi: struct({ addr: u64, ar: u8, reserved: u8, fc: u8, sel1: u8, sel2: u16 }),
  eoi: struct({ vector: u8 }),
  hyperv: KvmHypervExit,
  arm_nisv: struct({ esr_iss: u64, fault_ipa: u64 }),
  msr: struct({ error: u8, pad: bytes(7), reason: u32, index: u32, data: u64 }),
  xen: KvmXenExit,
  riscv_sbi: struct({ extension_id: u64, function_id: u64, args: array(u64, 6), ret: array(u64, 2) }),
  riscv_csr: struct({ csr_num: u64, new_value: u64, write_mask: u64, ret_value: u64 }),
  notify: struct({ flags: u32 }),
  memory_fault: struct({ flags: u64, gpa: u64, size: u64 }),
  tdx: struct({
    flags: u64,
    nr: u64,
    anonymous: anonymous(
      union({
        unknown: struct({ ret: u64, data: array(u64, 5) }),
        get_quote: struct({ ret: u64, gpa: u64, size: u64 }),
        get_tdvmcall_info: struct({ ret: u64, leaf: u64, r11: u64, r12: u64, r13: u64, r14: u64 }),
        setup_event_notify: struct({ ret: u64, vector: u64 }),
      }),
    ),
  }),
  arm_sea: struct({ flags: u64, esr: u64, gva: u64, gpa: u64 }),
  snp_req_certs: KvmExitSnpReqCerts,
  padding: bytes(256),
};
