/**
 * KVM on x86 (arch/x86/include/uapi/asm/kvm.h and the x86 part of linux/kvm.h, 7.3).
 *
 * Since 6.1 these grew: kvm_svm_nested_state_hdr from 8 to 16 bytes (`gpat`, inside the 120 bytes of the header's union).
 * The unions of kvm_xen_hvm_attr and kvm_xen_vcpu_attr gained members, the structs of SEV named their padding.
 */
import { type Facts, io, ior, iow, iowr } from "./ioctl.ts";
import {
  KVM_CAP_XSAVE2,
  KVMIO,
  KvmIrqRoutingXenEvtchn,
  kvmRunExits,
  kvmRunHead,
  SYNC_REGS_SIZE_BYTES,
} from "./kvm.ts";
import {
  anonymous,
  array,
  bits,
  bytes,
  fd,
  fdU32,
  flexible,
  load32,
  pointer,
  s64,
  struct,
  u8,
  u16,
  u32,
  u64,
  union,
} from "./struct.ts";

export const KVM_PIO_PAGE_OFFSET = 1;

export const KVM_COALESCED_MMIO_PAGE_OFFSET = 2;

export const KVM_DIRTY_LOG_PAGE_OFFSET = 64;

export const DE_VECTOR = 0;

export const DB_VECTOR = 1;

export const BP_VECTOR = 3;

export const OF_VECTOR = 4;

export const BR_VECTOR = 5;

export const UD_VECTOR = 6;

export const NM_VECTOR = 7;

export const DF_VECTOR = 8;

export const TS_VECTOR = 10;

export const NP_VECTOR = 11;

export const SS_VECTOR = 12;

export const GP_VECTOR = 13;

export const PF_VECTOR = 14;

export const MF_VECTOR = 16;

export const AC_VECTOR = 17;

export const MC_VECTOR = 18;

export const XM_VECTOR = 19;

export const VE_VECTOR = 20;

export const CP_VECTOR = 21;

export const HV_VECTOR = 28;

export const VC_VECTOR = 29;

export const SX_VECTOR = 30;

export const KVM_NR_INTERRUPTS = 256;

export const KvmPicState = struct({
  last_irr: u8,
  irr: u8,
  imr: u8,
  isr: u8,
  priority_add: u8,
  irq_base: u8,
  read_reg_select: u8,
  poll: u8,
  special_mask: u8,
  init_state: u8,
  auto_eoi: u8,
  rotate_on_auto_eoi: u8,
  special_fully_nested_mode: u8,
  init4: u8,
  elcr: u8,
  elcr_mask: u8,
});

export const KVM_IOAPIC_NUM_PINS = 24;

/** Each of the 24 redirection entries is 64 bits; `fields` names them as the 82093AA does. */
export const KvmIoapicState = struct({
  base_address: u64,
  ioregsel: u32,
  id: u32,
  irr: u32,
  pad: u32,
  redirtbl: array(
    union({
      bits: u64,
      fields: struct({
        vector: u8,
        delivery_mode: bits(u8, 0, 3),
        dest_mode: bits(u8, 3, 1),
        delivery_status: bits(u8, 4, 1),
        polarity: bits(u8, 5, 1),
        remote_irr: bits(u8, 6, 1),
        trig_mode: bits(u8, 7, 1),
        mask: bits(u8, 0, 1),
        reserve: bits(u8, 1, 7),
        reserved: bytes(4),
        dest_id: u8,
      }),
    }),
    24,
  ),
});

export const KVM_IRQCHIP_PIC_MASTER = 0;
export const KVM_IRQCHIP_PIC_SLAVE = 1;
export const KVM_IRQCHIP_IOAPIC = 2;

export const KVM_NR_IRQCHIPS = 3;

export const KVM_RUN_X86_SMM = 1 << 0;
export const KVM_RUN_X86_BUS_LOCK = 1 << 1;
export const KVM_RUN_X86_GUEST_MODE = 1 << 2;

export const KvmRegs = struct({
  rax: u64,
  rbx: u64,
  rcx: u64,
  rdx: u64,
  rsi: u64,
  rdi: u64,
  rsp: u64,
  rbp: u64,
  r8: u64,
  r9: u64,
  r10: u64,
  r11: u64,
  r12: u64,
  r13: u64,
  r14: u64,
  r15: u64,
  rip: u64,
  rflags: u64,
});

export const KVM_APIC_REG_SIZE = 0x400;

/**
 * The LAPIC's registers as its page has them: 1024 bytes, a register of 32 bits each 16 (0x20 id, 0xf0 spurious
 * vector, 0x200 IRR).
 */
export const KvmLapicState = struct({ regs: bytes(0x400) });

export const KvmSegment = struct({
  base: u64,
  limit: u32,
  selector: u16,
  type: u8,
  present: u8,
  dpl: u8,
  db: u8,
  s: u8,
  l: u8,
  g: u8,
  avl: u8,
  unusable: u8,
  padding: u8,
});

export const KvmDtable = struct({ base: u64, limit: u16, padding: array(u16, 3) });

export const KvmSregs = struct({
  cs: KvmSegment,
  ds: KvmSegment,
  es: KvmSegment,
  fs: KvmSegment,
  gs: KvmSegment,
  ss: KvmSegment,
  tr: KvmSegment,
  ldt: KvmSegment,
  gdt: KvmDtable,
  idt: KvmDtable,
  cr0: u64,
  cr2: u64,
  cr3: u64,
  cr4: u64,
  cr8: u64,
  efer: u64,
  apic_base: u64,
  interrupt_bitmap: array(u64, 4),
});

export const KvmSregs2 = struct({
  cs: KvmSegment,
  ds: KvmSegment,
  es: KvmSegment,
  fs: KvmSegment,
  gs: KvmSegment,
  ss: KvmSegment,
  tr: KvmSegment,
  ldt: KvmSegment,
  gdt: KvmDtable,
  idt: KvmDtable,
  cr0: u64,
  cr2: u64,
  cr3: u64,
  cr4: u64,
  cr8: u64,
  efer: u64,
  apic_base: u64,
  flags: u64,
  pdptrs: array(u64, 4),
});

export const KVM_SREGS2_FLAGS_PDPTRS_VALID = 1;

export const KvmFpu = struct({
  fpr: array(bytes(16), 8),
  fcw: u16,
  fsw: u16,
  ftwx: u8,
  pad1: u8,
  last_opcode: u16,
  last_ip: u64,
  last_dp: u64,
  xmm: array(bytes(16), 16),
  mxcsr: u32,
  pad2: u32,
});

export const KvmMsrEntry = struct({ index: u32, reserved: u32, data: u64 });

export const KvmMsrs = struct({ nmsrs: u32, pad: u32, entries: flexible(KvmMsrEntry) });

export const KvmMsrList = struct({ nmsrs: u32, indices: flexible(u32) });

export const KVM_MSR_FILTER_MAX_BITMAP_SIZE = 0x600;
export const KVM_MSR_FILTER_READ = 1 << 0;
export const KVM_MSR_FILTER_WRITE = 1 << 1;
export const KVM_MSR_FILTER_RANGE_VALID_MASK = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;

export const KvmMsrFilterRange = struct({ flags: u32, nmsrs: u32, base: u32, bitmap: pointer() });

export const KVM_MSR_FILTER_MAX_RANGES = 16;
export const KVM_MSR_FILTER_DEFAULT_ALLOW = 0 << 0;
export const KVM_MSR_FILTER_DEFAULT_DENY = 1 << 0;
export const KVM_MSR_FILTER_VALID_MASK = KVM_MSR_FILTER_DEFAULT_DENY;

export const KvmMsrFilter = struct({ flags: u32, ranges: array(KvmMsrFilterRange, 16) });

export const KvmCpuidEntry = struct({ function: u32, eax: u32, ebx: u32, ecx: u32, edx: u32, padding: u32 });

export const KvmCpuid = struct({ nent: u32, padding: u32, entries: flexible(KvmCpuidEntry) });

export const KvmCpuidEntry2 = struct({
  function: u32,
  index: u32,
  flags: u32,
  eax: u32,
  ebx: u32,
  ecx: u32,
  edx: u32,
  padding: array(u32, 3),
});

export const KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1 << 0;
export const KVM_CPUID_FLAG_STATEFUL_FUNC = 1 << 1;
export const KVM_CPUID_FLAG_STATE_READ_NEXT = 1 << 2;

export const KvmCpuid2 = struct({ nent: u32, padding: u32, entries: flexible(KvmCpuidEntry2) });

export const KvmPitChannelState = struct({
  count: u32,
  latched_count: u16,
  count_latched: u8,
  status_latched: u8,
  status: u8,
  read_state: u8,
  write_state: u8,
  write_latch: u8,
  rw_mode: u8,
  mode: u8,
  bcd: u8,
  gate: u8,
  count_load_time: s64,
});

export const KvmDebugExitArch = struct({ exception: u32, pad: u32, pc: u64, dr6: u64, dr7: u64 });

export const KVM_GUESTDBG_USE_SW_BP = 0x00010000;
export const KVM_GUESTDBG_USE_HW_BP = 0x00020000;
export const KVM_GUESTDBG_INJECT_DB = 0x00040000;
export const KVM_GUESTDBG_INJECT_BP = 0x00080000;
export const KVM_GUESTDBG_BLOCKIRQ = 0x00100000;

export const KvmGuestDebugArch = struct({ debugreg: array(u64, 8) });

export const KvmPitState = struct({ channels: array(KvmPitChannelState, 3) });

export const KVM_PIT_FLAGS_HPET_LEGACY = 0x00000001;
export const KVM_PIT_FLAGS_SPEAKER_DATA_ON = 0x00000002;

export const KvmPitState2 = struct({
  channels: array(KvmPitChannelState, 3),
  flags: u32,
  reserved: array(u32, 9),
});

export const KvmReinjectControl = struct({ pit_reinject: u8, reserved: bytes(31) });

export const KVM_VCPUEVENT_VALID_NMI_PENDING = 0x00000001;
export const KVM_VCPUEVENT_VALID_SIPI_VECTOR = 0x00000002;
export const KVM_VCPUEVENT_VALID_SHADOW = 0x00000004;
export const KVM_VCPUEVENT_VALID_SMM = 0x00000008;
export const KVM_VCPUEVENT_VALID_PAYLOAD = 0x00000010;
export const KVM_VCPUEVENT_VALID_TRIPLE_FAULT = 0x00000020;

export const KVM_X86_SHADOW_INT_MOV_SS = 0x01;
export const KVM_X86_SHADOW_INT_STI = 0x02;

export const KvmVcpuEvents = struct({
  exception: struct({ injected: u8, nr: u8, has_error_code: u8, pending: u8, error_code: u32 }),
  interrupt: struct({ injected: u8, nr: u8, soft: u8, shadow: u8 }),
  nmi: struct({ injected: u8, pending: u8, masked: u8, pad: u8 }),
  sipi_vector: u32,
  flags: u32,
  smi: struct({ smm: u8, pending: u8, smm_inside_nmi: u8, latched_init: u8 }),
  triple_fault: struct({ pending: u8 }),
  reserved: bytes(26),
  exception_has_payload: u8,
  exception_payload: u64,
});

export const KvmDebugregs = struct({
  db: array(u64, 4),
  dr6: u64,
  dr7: u64,
  flags: u64,
  reserved: array(u64, 9),
});

export const KvmXsave = struct({ region: bytes(4096, 4), extra: flexible(u32) });

export const KVM_MAX_XCRS = 16;

export const KvmXcr = struct({ xcr: u32, reserved: u32, value: u64 });

export const KvmXcrs = struct({ nr_xcrs: u32, flags: u32, xcrs: array(KvmXcr, 16), padding: array(u64, 16) });

export const KVM_X86_REG_TYPE_MSR = 2;
export const KVM_X86_REG_TYPE_KVM = 3;

export const KVM_REG_GUEST_SSP = 0n;

export const KVM_SYNC_X86_REGS = 1 << 0;
export const KVM_SYNC_X86_SREGS = 1 << 1;
export const KVM_SYNC_X86_EVENTS = 1 << 2;
export const KVM_SYNC_X86_VALID_FIELDS = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;

export const KvmSyncRegs = struct({ regs: KvmRegs, sregs: KvmSregs, events: KvmVcpuEvents });

export const KVM_X86_QUIRK_LINT0_REENABLED = 1 << 0;
export const KVM_X86_QUIRK_CD_NW_CLEARED = 1 << 1;
export const KVM_X86_QUIRK_LAPIC_MMIO_HOLE = 1 << 2;
export const KVM_X86_QUIRK_OUT_7E_INC_RIP = 1 << 3;
export const KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT = 1 << 4;
export const KVM_X86_QUIRK_FIX_HYPERCALL_INSN = 1 << 5;
export const KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS = 1 << 6;
export const KVM_X86_QUIRK_SLOT_ZAP_ALL = 1 << 7;
export const KVM_X86_QUIRK_STUFF_FEATURE_MSRS = 1 << 8;
export const KVM_X86_QUIRK_IGNORE_GUEST_PAT = 1 << 9;
export const KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM = 1 << 10;
export const KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT = 1 << 11;

export const KVM_STATE_NESTED_FORMAT_VMX = 0;
export const KVM_STATE_NESTED_FORMAT_SVM = 1;
export const KVM_STATE_NESTED_GUEST_MODE = 0x00000001;
export const KVM_STATE_NESTED_RUN_PENDING = 0x00000002;
export const KVM_STATE_NESTED_EVMCS = 0x00000004;
export const KVM_STATE_NESTED_MTF_PENDING = 0x00000008;
export const KVM_STATE_NESTED_GIF_SET = 0x00000100;
export const KVM_STATE_NESTED_SMM_GUEST_MODE = 0x00000001;
export const KVM_STATE_NESTED_SMM_VMXON = 0x00000002;
export const KVM_STATE_NESTED_VMX_VMCS_SIZE = 0x1000;
export const KVM_STATE_NESTED_SVM_VMCB_SIZE = 0x1000;
export const KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE = 0x00000001;

export const KVM_X86_GRP_SYSTEM = 0;
export const KVM_X86_XCOMP_GUEST_SUPP = 0;
export const KVM_X86_GRP_SEV = 1;
export const KVM_X86_SEV_VMSA_FEATURES = 0;
export const KVM_X86_SNP_POLICY_BITS = 1;
export const KVM_X86_SEV_SNP_REQ_CERTS = 2;

export const KvmVmxNestedStateData = struct({ vmcs12: bytes(0x1000), shadow_vmcs12: bytes(0x1000) });

export const KvmVmxNestedStateHdr = struct({
  vmxon_pa: u64,
  vmcs12_pa: u64,
  smm: struct({ flags: u16 }),
  pad: u16,
  flags: u32,
  preemption_timer_deadline: u64,
});

export const KvmSvmNestedStateData = struct({ vmcb12: bytes(0x1000) });

export const KvmSvmNestedStateHdr = struct({ vmcb_pa: u64, gpat: u64 });

export const KvmNestedState = struct({
  flags: u16,
  format: u16,
  size: u32,
  hdr: union({ vmx: KvmVmxNestedStateHdr, svm: KvmSvmNestedStateHdr, pad: bytes(120) }),
  data: union({ vmx: flexible(KvmVmxNestedStateData), svm: flexible(KvmSvmNestedStateData) }),
});

export const KvmPmuEventFilter = struct({
  action: u32,
  nevents: u32,
  fixed_counter_bitmap: u32,
  flags: u32,
  pad: array(u32, 4),
  events: flexible(u64),
});

export const KVM_PMU_EVENT_ALLOW = 0;
export const KVM_PMU_EVENT_DENY = 1;
export const KVM_PMU_EVENT_FLAG_MASKED_EVENTS = 1 << 0;
export const KVM_PMU_EVENT_FLAGS_VALID_MASK = KVM_PMU_EVENT_FLAG_MASKED_EVENTS;

export const KvmX86Mce = struct({
  status: u64,
  addr: u64,
  misc: u64,
  mcg_status: u64,
  bank: u8,
  pad1: bytes(7),
  pad2: array(u64, 3),
});

export const KVM_XEN_HVM_CONFIG_HYPERCALL_MSR = 1 << 0;
export const KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL = 1 << 1;
export const KVM_XEN_HVM_CONFIG_SHARED_INFO = 1 << 2;
export const KVM_XEN_HVM_CONFIG_RUNSTATE = 1 << 3;
export const KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL = 1 << 4;
export const KVM_XEN_HVM_CONFIG_EVTCHN_SEND = 1 << 5;
export const KVM_XEN_HVM_CONFIG_RUNSTATE_UPDATE_FLAG = 1 << 6;
export const KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE = 1 << 7;
export const KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA = 1 << 8;
export const KVM_XEN_MSR_MIN_INDEX = 0x40000000;
export const KVM_XEN_MSR_MAX_INDEX = 0x4fffffff;

export const KvmXenHvmConfig = struct({
  flags: u32,
  msr: u32,
  blob_addr_32: pointer(),
  blob_addr_64: pointer(),
  blob_size_32: u8,
  blob_size_64: u8,
  pad2: bytes(30),
});

export const KVM_XEN_INVALID_GFN = 0xffffffffffffffffn;
export const KVM_XEN_EVTCHN_DEASSIGN = 1 << 0;
export const KVM_XEN_EVTCHN_UPDATE = 1 << 1;
export const KVM_XEN_EVTCHN_RESET = 1 << 2;

export const KvmXenHvmAttr = struct({
  type: u16,
  pad: array(u16, 3),
  u: union({
    long_mode: u8,
    vector: u8,
    runstate_update_flag: u8,
    shared_info: union({ gfn: u64, hva: pointer() }),
    evtchn: struct({
      send_port: u32,
      type: u32,
      flags: u32,
      deliver: union({
        port: struct({ port: u32, vcpu: u32, priority: u32 }),
        eventfd: struct({ port: u32, fd: fd }),
        padding: array(u32, 4),
      }),
    }),
    xen_version: u32,
    pad: array(u64, 8),
  }),
});

export const KVM_XEN_ATTR_TYPE_LONG_MODE = 0x0;
export const KVM_XEN_ATTR_TYPE_SHARED_INFO = 0x1;
export const KVM_XEN_ATTR_TYPE_UPCALL_VECTOR = 0x2;
export const KVM_XEN_ATTR_TYPE_EVTCHN = 0x3;
export const KVM_XEN_ATTR_TYPE_XEN_VERSION = 0x4;
export const KVM_XEN_ATTR_TYPE_RUNSTATE_UPDATE_FLAG = 0x5;
export const KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA = 0x6;
export const KVM_XEN_INVALID_GPA = 0xffffffffffffffffn;

export const KvmXenVcpuAttr = struct({
  type: u16,
  pad: array(u16, 3),
  u: union({
    gpa: u64,
    hva: pointer(),
    pad: array(u64, 8),
    runstate: struct({
      state: u64,
      state_entry_time: u64,
      time_running: u64,
      time_runnable: u64,
      time_blocked: u64,
      time_offline: u64,
    }),
    vcpu_id: u32,
    timer: struct({ port: u32, priority: u32, expires_ns: u64 }),
    vector: u8,
  }),
});

export const KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO = 0x0;
export const KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO = 0x1;
export const KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR = 0x2;
export const KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT = 0x3;
export const KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_DATA = 0x4;
export const KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADJUST = 0x5;
export const KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID = 0x6;
export const KVM_XEN_VCPU_ATTR_TYPE_TIMER = 0x7;
export const KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR = 0x8;
export const KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA = 0x9;

export const KVM_SEV_INIT = 0;
export const KVM_SEV_ES_INIT = 1;
export const KVM_SEV_LAUNCH_START = 2;
export const KVM_SEV_LAUNCH_UPDATE_DATA = 3;
export const KVM_SEV_LAUNCH_UPDATE_VMSA = 4;
export const KVM_SEV_LAUNCH_SECRET = 5;
export const KVM_SEV_LAUNCH_MEASURE = 6;
export const KVM_SEV_LAUNCH_FINISH = 7;
export const KVM_SEV_SEND_START = 8;
export const KVM_SEV_SEND_UPDATE_DATA = 9;
export const KVM_SEV_SEND_UPDATE_VMSA = 10;
export const KVM_SEV_SEND_FINISH = 11;
export const KVM_SEV_RECEIVE_START = 12;
export const KVM_SEV_RECEIVE_UPDATE_DATA = 13;
export const KVM_SEV_RECEIVE_UPDATE_VMSA = 14;
export const KVM_SEV_RECEIVE_FINISH = 15;
export const KVM_SEV_GUEST_STATUS = 16;
export const KVM_SEV_DBG_DECRYPT = 17;
export const KVM_SEV_DBG_ENCRYPT = 18;
export const KVM_SEV_CERT_EXPORT = 19;
export const KVM_SEV_GET_ATTESTATION_REPORT = 20;
export const KVM_SEV_SEND_CANCEL = 21;
export const KVM_SEV_INIT2 = 22;
export const KVM_SEV_SNP_LAUNCH_START = 100;
export const KVM_SEV_SNP_LAUNCH_UPDATE = 101;
export const KVM_SEV_SNP_LAUNCH_FINISH = 102;
export const KVM_SEV_SNP_ENABLE_REQ_CERTS = 103;
export const KVM_SEV_NR_MAX = 104;

export const KvmSevCmd = struct({ id: u32, pad0: u32, data: pointer(), error: u32, sev_fd: fdU32 });

export const KvmSevInit = struct({
  vmsa_features: u64,
  flags: u32,
  ghcb_version: u16,
  pad1: u16,
  pad2: array(u32, 8),
});

export const KvmSevLaunchStart = struct({
  handle: u32,
  policy: u32,
  dh_uaddr: pointer(),
  dh_len: u32,
  pad0: u32,
  session_uaddr: pointer(),
  session_len: u32,
  pad1: u32,
});

export const KvmSevLaunchUpdateData = struct({ uaddr: pointer(), len: u32, pad0: u32 });

export const KvmSevLaunchSecret = struct({
  hdr_uaddr: pointer(),
  hdr_len: u32,
  pad0: u32,
  guest_uaddr: pointer(),
  guest_len: u32,
  pad1: u32,
  trans_uaddr: pointer(),
  trans_len: u32,
  pad2: u32,
});

export const KvmSevLaunchMeasure = struct({ uaddr: pointer(), len: u32, pad0: u32 });

export const KvmSevGuestStatus = struct({ handle: u32, policy: u32, state: u32 });

export const KvmSevDbg = struct({ src_uaddr: pointer(), dst_uaddr: pointer(), len: u32, pad0: u32 });

export const KvmSevAttestationReport = struct({ mnonce: bytes(16), uaddr: pointer(), len: u32, pad0: u32 });

export const KvmSevSendStart = struct({
  policy: u32,
  pad0: u32,
  pdh_cert_uaddr: pointer(),
  pdh_cert_len: u32,
  pad1: u32,
  plat_certs_uaddr: pointer(),
  plat_certs_len: u32,
  pad2: u32,
  amd_certs_uaddr: pointer(),
  amd_certs_len: u32,
  pad3: u32,
  session_uaddr: pointer(),
  session_len: u32,
  pad4: u32,
});

export const KvmSevSendUpdateData = struct({
  hdr_uaddr: pointer(),
  hdr_len: u32,
  pad0: u32,
  guest_uaddr: pointer(),
  guest_len: u32,
  pad1: u32,
  trans_uaddr: pointer(),
  trans_len: u32,
  pad2: u32,
});

export const KvmSevReceiveStart = struct({
  handle: u32,
  policy: u32,
  pdh_uaddr: pointer(),
  pdh_len: u32,
  pad0: u32,
  session_uaddr: pointer(),
  session_len: u32,
  pad1: u32,
});

export const KvmSevReceiveUpdateData = struct({
  hdr_uaddr: pointer(),
  hdr_len: u32,
  pad0: u32,
  guest_uaddr: pointer(),
  guest_len: u32,
  pad1: u32,
  trans_uaddr: pointer(),
  trans_len: u32,
  pad2: u32,
});

export const KvmSevSnpLaunchStart = struct({
  policy: u64,
  gosvw: bytes(16),
  flags: u16,
  pad0: bytes(6),
  pad1: array(u64, 4),
});

export const KVM_SEV_PAGE_TYPE_INVALID = 0x0;
export const KVM_SEV_SNP_PAGE_TYPE_NORMAL = 0x1;
export const KVM_SEV_SNP_PAGE_TYPE_ZERO = 0x3;
export const KVM_SEV_SNP_PAGE_TYPE_UNMEASURED = 0x4;
export const KVM_SEV_SNP_PAGE_TYPE_SECRETS = 0x5;
export const KVM_SEV_SNP_PAGE_TYPE_CPUID = 0x6;

export const KvmSevSnpLaunchUpdate = struct({
  gfn_start: u64,
  uaddr: pointer(),
  len: u64,
  type: u8,
  pad0: u8,
  flags: u16,
  pad1: u32,
  pad2: array(u64, 4),
});

export const KVM_SEV_SNP_ID_BLOCK_SIZE = 96;
export const KVM_SEV_SNP_ID_AUTH_SIZE = 4096;
export const KVM_SEV_SNP_FINISH_DATA_SIZE = 32;

export const KvmSevSnpLaunchFinish = struct({
  id_block_uaddr: pointer(),
  id_auth_uaddr: pointer(),
  id_block_en: u8,
  auth_key_en: u8,
  vcek_disabled: u8,
  host_data: bytes(32),
  pad0: bytes(3),
  flags: u16,
  pad1: array(u64, 4),
});

export const KVM_X2APIC_API_USE_32BIT_IDS = 1 << 0;
export const KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK = 1 << 1;
export const KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST = 1 << 2;
export const KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST = 1 << 3;

export const KvmHypervEventfd = struct({ conn_id: u32, fd: fd, flags: u32, padding: array(u32, 3) });

export const KVM_HYPERV_CONN_ID_MASK = 0x00ffffff;
export const KVM_HYPERV_EVENTFD_DEASSIGN = 1 << 0;

export const KVM_PMU_MASKED_ENTRY_EVENT_SELECT = 0xf000000ff;
export const KVM_PMU_MASKED_ENTRY_UMASK_MASK = 0xff00000000000000n;
export const KVM_PMU_MASKED_ENTRY_UMASK_MATCH = 0xff00;
export const KVM_PMU_MASKED_ENTRY_EXCLUDE = 0x80000000000000n;
export const KVM_PMU_MASKED_ENTRY_UMASK_MASK_SHIFT = 56;

export const KVM_VCPU_TSC_CTRL = 0;
export const KVM_VCPU_TSC_OFFSET = 0;

export const KVM_EXIT_HYPERCALL_LONG_MODE = 1 << 0;

export const KVM_X86_DEFAULT_VM = 0;
export const KVM_X86_SW_PROTECTED_VM = 1;
export const KVM_X86_SEV_VM = 2;
export const KVM_X86_SEV_ES_VM = 3;
export const KVM_X86_SNP_VM = 4;
export const KVM_X86_TDX_VM = 5;

export const KVM_TDX_CAPABILITIES = 0;
export const KVM_TDX_INIT_VM = 1;
export const KVM_TDX_INIT_VCPU = 2;
export const KVM_TDX_INIT_MEM_REGION = 3;
export const KVM_TDX_FINALIZE_VM = 4;
export const KVM_TDX_GET_CPUID = 5;
export const KVM_TDX_CMD_NR_MAX = 6;

export const KvmTdxCmd = struct({ id: u32, flags: u32, data: pointer(), hw_error: u64 });

export const KvmTdxCapabilities = struct({
  supported_attrs: u64,
  supported_xfam: u64,
  kernel_tdvmcallinfo_1_r11: u64,
  user_tdvmcallinfo_1_r11: u64,
  kernel_tdvmcallinfo_1_r12: u64,
  user_tdvmcallinfo_1_r12: u64,
  reserved: array(u64, 250),
  cpuid: KvmCpuid2,
});

export const KvmTdxInitVm = struct({
  attributes: u64,
  xfam: u64,
  mrconfigid: array(u64, 6),
  mrowner: array(u64, 6),
  mrownerconfig: array(u64, 6),
  reserved: array(u64, 12),
  cpuid: KvmCpuid2,
});

export const KVM_TDX_MEASURE_MEMORY_REGION = 1 << 0;

export const KvmTdxInitMemRegion = struct({ source_addr: pointer(), gpa: u64, nr_pages: u64 });

/** `chip_id` (KVM_IRQCHIP_…) says which member of `chip` counts. */
export const KvmIrqchip = struct({
  chip_id: u32,
  pad: u32,
  chip: union({ dummy: bytes(512), pic: KvmPicState, ioapic: KvmIoapicState }),
});

/** 64 bytes: flags @0 (KVM_PIT_SPEAKER_DUMMY: port 0x61 is the PIT's too), padding. */
export const KvmPitConfig = struct({ flags: u32, pad: array(u32, 15) });

export const KVM_PIT_SPEAKER_DUMMY = 1;

/**
 * What a vCPU's mapping begins with: `immediate_exit` @1, `exit_reason` @8 (KVM_EXIT_…), which says what of the union
 * from 32 on counts. `io.data_offset` is where in the mapping the data of a port access stands; `mmio` holds its own.
 */
export const KvmRun = struct({
  ...kvmRunHead,
  anonymous: anonymous(union({ ...kvmRunExits, debug: struct({ arch: KvmDebugExitArch }) })),
  kvm_valid_regs: u64,
  kvm_dirty_regs: u64,
  s: union({ regs: KvmSyncRegs, padding: bytes(SYNC_REGS_SIZE_BYTES) }),
});

export const KvmTprAccessCtl = struct({ enabled: u32, flags: u32, reserved: array(u32, 8) });

export const KvmVapicAddr = struct({ vapic_addr: u64 });

export const KvmGuestDebug = struct({ control: u32, pad: u32, arch: KvmGuestDebugArch });

export const KVM_X86_DISABLE_EXITS_MWAIT = 1 << 0;
export const KVM_X86_DISABLE_EXITS_HLT = 1 << 1;
export const KVM_X86_DISABLE_EXITS_PAUSE = 1 << 2;
export const KVM_X86_DISABLE_EXITS_CSTATE = 1 << 3;
export const KVM_X86_DISABLE_EXITS_APERFMPERF = 1 << 4;

export const KVM_CLOCK_TSC_STABLE = 2;
export const KVM_CLOCK_REALTIME = 1 << 2;
export const KVM_CLOCK_HOST_TSC = 1 << 3;

export const KvmClockData = struct({
  clock: u64,
  flags: u32,
  pad0: u32,
  realtime: u64,
  host_tsc: u64,
  pad: array(u32, 4),
});

export const KvmEncRegion = struct({ addr: pointer(), size: u64 });

export const KVM_BUS_LOCK_DETECTION_OFF = 1 << 0;
export const KVM_BUS_LOCK_DETECTION_EXIT = 1 << 1;

export const KVM_PMU_CAP_DISABLE = 1 << 0;

export const KVM_X86_NOTIFY_VMEXIT_ENABLED = 1 << 0;
export const KVM_X86_NOTIFY_VMEXIT_USER = 1 << 1;

/** As many bytes as KVM_CHECK_EXTENSION(KVM_CAP_XSAVE2) says, at least one page. */
const xsaveBytes = (_head: Uint8Array, facts: Facts): number =>
  Math.max(KvmXsave.size, facts.capability?.(KVM_CAP_XSAVE2) ?? 0);
/** One bit a register, in units of 64; an empty range has no bitmap. */
const msrBitmapBytes = (range: Uint8Array): number =>
  Math.ceil(load32(range, KvmMsrFilterRange.offsetOf.nmsrs) / 64) * 8;

/** E2BIG: `nmsrs` has no room, and says now how much is needed; EFAULT. */
export const KVM_GET_MSR_INDEX_LIST = iowr(KVMIO, 0x02, KvmMsrList, {
  on: "system",
  tail: 4,
  count: "nmsrs",
  tailCopy: "out",
});
/**
 * What the host offers: KvmCpuid2 (8 bytes) with `nent`, the entries that there is room for, then as many of 40
 * bytes; `nent` is how many there are. E2BIG: too little room, and nothing is told; EFAULT.
 */
export const KVM_GET_SUPPORTED_CPUID = iowr(KVMIO, 0x05, KvmCpuid2, {
  on: "system",
  tail: KvmCpuidEntry2,
  count: "nent",
  tailCopy: "out",
});
export const KVM_GET_EMULATED_CPUID = iowr(KVMIO, 0x09, KvmCpuid2, {
  on: "system",
  tail: KvmCpuidEntry2,
  count: "nent",
  tailCopy: "out",
});
export const KVM_GET_MSR_FEATURE_INDEX_LIST = iowr(KVMIO, 0x0a, KvmMsrList, {
  on: "system",
  tail: 4,
  count: "nmsrs",
  tailCopy: "out",
});
export const KVM_SET_NR_MMU_PAGES = io(KVMIO, 0x44, { on: "vm" });
export const KVM_GET_NR_MMU_PAGES = io(KVMIO, 0x45, { on: "vm" });
/** The argument is an address: three pages of guest memory that VMX of old needs. EINVAL: they would pass 4 GiB. */
export const KVM_SET_TSS_ADDR = io(KVMIO, 0x47, { on: "vm" });
/** One page more, its address behind a pointer. EINVAL: there is a vCPU; EFAULT. */
export const KVM_SET_IDENTITY_MAP_ADDR = iow(KVMIO, 0x48, 8, { on: "vm" });
/**
 * `chip_id` says which: KVM_IRQCHIP_PIC_MASTER 0, PIC_SLAVE 1, IOAPIC 2. ENXIO: none in the kernel, or split; EINVAL:
 * no such chip; EFAULT.
 */
export const KVM_GET_IRQCHIP = iowr(KVMIO, 0x62, KvmIrqchip, { on: "vm" });
/**
 * As KVM_GET_IRQCHIP; encoded as a read, copies in. Interrupts that the state of an IOAPIC has pending are sent
 * again.
 */
export const KVM_SET_IRQCHIP = ior(KVMIO, 0x63, KvmIrqchip, { on: "vm", copy: "in" });
/** KVM_CREATE_PIT2 with KVM_PIT_SPEAKER_DUMMY. */
export const KVM_CREATE_PIT = io(KVMIO, 0x64, { on: "vm" });
/** Encoded both ways, only answers. */
export const KVM_GET_PIT = iowr(KVMIO, 0x65, KvmPitState, { on: "vm" });
/** Encoded as a read, copies in. */
export const KVM_SET_PIT = ior(KVMIO, 0x66, KvmPitState, { on: "vm", copy: "in" });
/** Encoded without a struct, points to one. */
export const KVM_REINJECT_CONTROL = io(KVMIO, 0x71, { on: "vm", head: KvmReinjectControl, copy: "in" });
/**
 * The 8254 at ports 0x40 to 0x43, its channel 0 on GSI 0. EEXIST: there is one; ENOENT, since 6.12: no PIC in the
 * kernel; EFAULT, ENOMEM.
 */
export const KVM_CREATE_PIT2 = iow(KVMIO, 0x77, KvmPitConfig, { on: "vm" });
/**
 * Which vCPU starts at once, the others wait for a SIPI. EBUSY: there is a vCPU; EINVAL, since 6.11: beyond the
 * highest id.
 */
export const KVM_SET_BOOT_CPU_ID = io(KVMIO, 0x78, { on: "vm" });
export const KVM_XEN_HVM_CONFIG = iow(KVMIO, 0x7a, KvmXenHvmConfig, { on: "vm" });
/** The clock that guests read through kvmclock, in nanoseconds. EINVAL: flags; EFAULT. */
export const KVM_SET_CLOCK = iow(KVMIO, 0x7b, KvmClockData, { on: "vm" });
export const KVM_GET_CLOCK = ior(KVMIO, 0x7c, KvmClockData, { on: "vm" });
/** ENXIO: there is no PIT; EFAULT. */
export const KVM_GET_PIT2 = ior(KVMIO, 0x9f, KvmPitState2, { on: "vm" });
/** Loads and starts its channels. ENXIO: there is no PIT; EFAULT. */
export const KVM_SET_PIT2 = iow(KVMIO, 0xa0, KvmPitState2, { on: "vm" });
/**
 * The frequency of the guest's TSC in kHz, 0 for the host's; of a VM, that of vCPUs to come. EINVAL: it would have to
 * be scaled and cannot; of a VM, since 6.17: there is a vCPU.
 */
export const KVM_SET_TSC_KHZ = io(KVMIO, 0xa2, { on: ["vm", "vcpu"] });
export const KVM_GET_TSC_KHZ = io(KVMIO, 0xa3, { on: ["vm", "vcpu"] });
export const KVM_SET_PMU_EVENT_FILTER = iow(KVMIO, 0xb2, KvmPmuEventFilter, {
  on: "vm",
  tail: 8,
  count: "nevents",
});
export const KVM_GET_REGS = ior(KVMIO, 0x81, KvmRegs, { on: "vcpu" });
/** General registers, RIP, RFLAGS; an exception that waits is dropped. EFAULT. */
export const KVM_SET_REGS = iow(KVMIO, 0x82, KvmRegs, { on: "vcpu" });
export const KVM_GET_SREGS = ior(KVMIO, 0x83, KvmSregs, { on: "vcpu" });
/**
 * Segments, tables, control registers, EFER, APIC base, and an interrupt to inject (a bit of `interrupt_bitmap`).
 * EINVAL: what no processor can be in (paging without protection, long mode without PAE, reserved bits); EFAULT.
 */
export const KVM_SET_SREGS = iow(KVMIO, 0x84, KvmSregs, { on: "vcpu" });
/** Reads the indices, fills in the data up to the first that fails; answers how many. */
export const KVM_GET_MSRS = iowr(KVMIO, 0x88, KvmMsrs, {
  on: ["system", "vcpu"],
  copy: "in",
  tail: KvmMsrEntry,
  count: "nmsrs",
  tailCopy: "inout",
});
/** Answers how many were set before one failed. */
export const KVM_SET_MSRS = iow(KVMIO, 0x89, KvmMsrs, { on: "vcpu", tail: KvmMsrEntry, count: "nmsrs" });
export const KVM_SET_CPUID = iow(KVMIO, 0x8a, KvmCpuid, { on: "vcpu", tail: KvmCpuidEntry, count: "nent" });
export const KVM_GET_FPU = ior(KVMIO, 0x8c, KvmFpu, { on: "vcpu" });
export const KVM_SET_FPU = iow(KVMIO, 0x8d, KvmFpu, { on: "vcpu" });
/** EINVAL: no local APIC in the kernel; EFAULT. */
export const KVM_GET_LAPIC = ior(KVMIO, 0x8e, KvmLapicState, { on: "vcpu" });
/** All registers at once; its timer starts anew. EINVAL: no local APIC in the kernel; EFAULT. */
export const KVM_SET_LAPIC = iow(KVMIO, 0x8f, KvmLapicState, { on: "vcpu" });
/**
 * What CPUID shows the guest: KvmCpuid2 (8 bytes), then `nent` entries of 40. E2BIG: more than 256; EINVAL: an
 * address width that no processor has, a change after the first KVM_RUN; EPERM: a component of XSAVE that the process
 * was not permitted; EFAULT.
 */
export const KVM_SET_CPUID2 = iow(KVMIO, 0x90, KvmCpuid2, {
  on: "vcpu",
  tail: KvmCpuidEntry2,
  count: "nent",
});
/** As KVM_SET_CPUID2 left it. E2BIG: `nent` has no room, and nothing is told; EFAULT. */
export const KVM_GET_CPUID2 = iowr(KVMIO, 0x91, KvmCpuid2, {
  on: "vcpu",
  tail: KvmCpuidEntry2,
  count: "nent",
  tailCopy: "out",
});
export const KVM_TPR_ACCESS_REPORTING = iowr(KVMIO, 0x92, KvmTprAccessCtl, { on: "vcpu" });
export const KVM_SET_VAPIC_ADDR = iow(KVMIO, 0x93, KvmVapicAddr, { on: "vcpu" });
/** An NMI waits, two at most. Never fails. */
export const KVM_NMI = io(KVMIO, 0x9a, { on: "vcpu" });
/**
 * KVM_GUESTDBG_ENABLE with SINGLESTEP, USE_SW_BP, USE_HW_BP (`arch.debugreg`): KVM_RUN ends with KVM_EXIT_DEBUG.
 * EBUSY: an exception is to be injected, and one waits; EFAULT.
 */
export const KVM_SET_GUEST_DEBUG = iow(KVMIO, 0x9b, KvmGuestDebug, { on: "vcpu" });
export const KVM_X86_SETUP_MCE = iow(KVMIO, 0x9c, 8, { on: "vcpu" });
export const KVM_X86_GET_MCE_CAP_SUPPORTED = ior(KVMIO, 0x9d, 8, { on: "system" });
export const KVM_X86_SET_MCE = iow(KVMIO, 0x9e, KvmX86Mce, { on: "vcpu" });
export const KVM_GET_VCPU_EVENTS = ior(KVMIO, 0x9f, KvmVcpuEvents, { on: "vcpu" });
/**
 * Exceptions, interrupts, NMIs, SMIs that wait or are injected; `flags` says which count. EINVAL: a flag that is not
 * known, an exception that is none; EFAULT.
 */
export const KVM_SET_VCPU_EVENTS = iow(KVMIO, 0xa0, KvmVcpuEvents, { on: "vcpu" });
export const KVM_GET_DEBUGREGS = ior(KVMIO, 0xa1, KvmDebugregs, { on: "vcpu" });
/** EINVAL: flags, or bits above 31 of DR6 and DR7; EFAULT. */
export const KVM_SET_DEBUGREGS = iow(KVMIO, 0xa2, KvmDebugregs, { on: "vcpu" });
export const KVM_GET_XSAVE = ior(KVMIO, 0xa4, KvmXsave, { on: "vcpu" });
export const KVM_SET_XSAVE = iow(KVMIO, 0xa5, KvmXsave, { on: "vcpu", tail: 4, sized: xsaveBytes });
export const KVM_GET_XCRS = ior(KVMIO, 0xa6, KvmXcrs, { on: "vcpu" });
/** EINVAL: more than 16, flags, a value of XCR0 that the guest cannot have; EFAULT. */
export const KVM_SET_XCRS = iow(KVMIO, 0xa7, KvmXcrs, { on: "vcpu" });
/** Tells the guest that it was paused. EINVAL: it has no kvmclock. */
export const KVM_KVMCLOCK_CTRL = io(KVMIO, 0xad, { on: "vcpu" });
/** An SMI waits. ENOTTY: without KVM_CAP_X86_SMM. */
export const KVM_SMI = io(KVMIO, 0xb7, { on: "vcpu" });
/** For TDX the struct is kvm_tdx_cmd, on a vCPU too. */
export const KVM_MEMORY_ENCRYPT_OP = iowr(KVMIO, 0xba, 8, { on: ["vm", "vcpu"], head: KvmSevCmd });
export const KVM_MEMORY_ENCRYPT_REG_REGION = ior(KVMIO, 0xbb, KvmEncRegion, { on: "vm", copy: "in" });
export const KVM_MEMORY_ENCRYPT_UNREG_REGION = ior(KVMIO, 0xbc, KvmEncRegion, { on: "vm", copy: "in" });
export const KVM_HYPERV_EVENTFD = iow(KVMIO, 0xbd, KvmHypervEventfd, { on: "vm" });
export const KVM_GET_NESTED_STATE = iowr(KVMIO, 0xbe, KvmNestedState, { on: "vcpu", tail: 1, sized: "size" });
export const KVM_SET_NESTED_STATE = iow(KVMIO, 0xbf, KvmNestedState, { on: "vcpu", tail: 1, sized: "size" });
export const KVM_GET_SUPPORTED_HV_CPUID = iowr(KVMIO, 0xc1, KvmCpuid2, {
  on: ["system", "vcpu"],
  tail: KvmCpuidEntry2,
  count: "nent",
  tailCopy: "out",
});
/**
 * Which MSRs a guest reaches: up to 16 ranges with a bitmap each, what is in none by `flags`
 * (KVM_MSR_FILTER_DEFAULT_DENY). EINVAL: flags, a range without read and write, a default that denies without ranges;
 * EFAULT.
 */
export const KVM_X86_SET_MSR_FILTER = iow(KVMIO, 0xc6, KvmMsrFilter, {
  on: "vm",
  behind: { "ranges.bitmap": { copy: "in", bytes: msrBitmapBytes } },
});
export const KVM_XEN_HVM_GET_ATTR = iowr(KVMIO, 0xc8, KvmXenHvmAttr, { on: "vm" });
export const KVM_XEN_HVM_SET_ATTR = iow(KVMIO, 0xc9, KvmXenHvmAttr, { on: "vm" });
export const KVM_XEN_VCPU_GET_ATTR = iowr(KVMIO, 0xca, KvmXenVcpuAttr, { on: "vcpu" });
export const KVM_XEN_VCPU_SET_ATTR = iow(KVMIO, 0xcb, KvmXenVcpuAttr, { on: "vcpu" });
export const KVM_XEN_HVM_EVTCHN_SEND = iow(KVMIO, 0xd0, KvmIrqRoutingXenEvtchn, { on: "vm" });
export const KVM_GET_SREGS2 = ior(KVMIO, 0xcc, KvmSregs2, { on: "vcpu" });
export const KVM_SET_SREGS2 = iow(KVMIO, 0xcd, KvmSregs2, { on: "vcpu" });
export const KVM_GET_XSAVE2 = ior(KVMIO, 0xcf, KvmXsave, { on: "vcpu", tail: 4, sized: xsaveBytes });
