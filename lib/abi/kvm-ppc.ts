/**
 * KVM on POWER (arch/powerpc/include/uapi/asm/kvm.h and kvm_para.h, and the POWER part of linux/kvm.h, 7.3).
 * Request numbers here are packed the other way, see ioctl.ts.
 *
 * Sizes are the same as in 6.1; kvm_ppc_compat_caps is new in 7.3.
 */
import { io, ior, iow, iowr } from "./ioctl.ts";
import { KVMIO, kvmRunExits, kvmRunHead, SYNC_REGS_SIZE_BYTES } from "./kvm.ts";
import { anonymous, array, bytes, pointer, struct, u8, u16, u32, u64, union } from "./struct.ts";

export const KVM_COALESCED_MMIO_PAGE_OFFSET = 1;

export const KvmRegs = struct({
  pc: u64,
  cr: u64,
  ctr: u64,
  lr: u64,
  xer: u64,
  msr: u64,
  srr0: u64,
  srr1: u64,
  pid: u64,
  sprg0: u64,
  sprg1: u64,
  sprg2: u64,
  sprg3: u64,
  sprg4: u64,
  sprg5: u64,
  sprg6: u64,
  sprg7: u64,
  gpr: array(u64, 32),
});

export const KVM_SREGS_E_IMPL_NONE = 0;
export const KVM_SREGS_E_IMPL_FSL = 1;
export const KVM_SREGS_E_FSL_PIDn = 1 << 0;

export const KVM_RUN_PPC_NMI_DISP_MASK = 3 << 0;
export const KVM_RUN_PPC_NMI_DISP_FULLY_RECOV = 1 << 0;
export const KVM_RUN_PPC_NMI_DISP_LIMITED_RECOV = 2 << 0;
export const KVM_RUN_PPC_NMI_DISP_NOT_RECOV = 3 << 0;

export const KVM_SREGS_E_BASE = 1 << 0;
export const KVM_SREGS_E_ARCH206 = 1 << 1;
export const KVM_SREGS_E_64 = 1 << 2;
export const KVM_SREGS_E_SPRG8 = 1 << 3;
export const KVM_SREGS_E_MCIVPR = 1 << 4;
export const KVM_SREGS_E_IVOR = 1 << 5;
export const KVM_SREGS_E_ARCH206_MMU = 1 << 6;
export const KVM_SREGS_E_DEBUG = 1 << 7;
export const KVM_SREGS_E_ED = 1 << 8;
export const KVM_SREGS_E_SPE = 1 << 9;
export const KVM_SREGS_EXP = 1 << 10;
export const KVM_SREGS_E_PD = 1 << 11;
export const KVM_SREGS_E_PC = 1 << 12;
export const KVM_SREGS_E_PT = 1 << 13;
export const KVM_SREGS_E_PM = 1 << 14;
export const KVM_SREGS_E_UPDATE_MCSR = 1 << 0;
export const KVM_SREGS_E_UPDATE_TSR = 1 << 1;
export const KVM_SREGS_E_UPDATE_DEC = 1 << 2;
export const KVM_SREGS_E_UPDATE_DBSR = 1 << 3;

export const KvmSregs = struct({
  pvr: u32,
  u: union({
    s: struct({
      sdr1: u64,
      ppc64: struct({ slb: array(struct({ slbe: u64, slbv: u64 }), 64) }),
      ppc32: struct({ sr: array(u32, 16), ibat: array(u64, 8), dbat: array(u64, 8) }),
    }),
    e: struct({
      impl: union({
        fsl: struct({ features: u32, svr: u32, mcar: u64, hid0: u32, pid1: u32, pid2: u32 }),
        pad: bytes(256),
      }),
      features: u32,
      impl_id: u32,
      update_special: u32,
      pir: u32,
      sprg8: u64,
      sprg9: u64,
      csrr0: u64,
      dsrr0: u64,
      mcsrr0: u64,
      csrr1: u32,
      dsrr1: u32,
      mcsrr1: u32,
      esr: u32,
      dear: u64,
      ivpr: u64,
      mcivpr: u64,
      mcsr: u64,
      tsr: u32,
      tcr: u32,
      decar: u32,
      dec: u32,
      tb: u64,
      dbsr: u32,
      dbcr: array(u32, 3),
      iac: array(u32, 4),
      dac: array(u32, 2),
      dvc: array(u32, 2),
      num_iac: u8,
      num_dac: u8,
      num_dvc: u8,
      pad: u8,
      epr: u32,
      vrsave: u32,
      epcr: u32,
      mas0: u32,
      mas1: u32,
      mas2: u64,
      mas7_3: u64,
      mas4: u32,
      mas6: u32,
      ivor_low: array(u32, 16),
      ivor_high: array(u32, 18),
      mmucfg: u32,
      eptcfg: u32,
      tlbcfg: array(u32, 4),
      tlbps: array(u32, 4),
      eplc: u32,
      epsc: u32,
    }),
    pad: bytes(1020),
  }),
});

export const KvmFpu = struct({ fpr: array(u64, 32) });

export const KVMPPC_DEBUG_NONE = 0x0;
export const KVMPPC_DEBUG_BREAKPOINT = 1 << 1;
export const KVMPPC_DEBUG_WATCH_WRITE = 1 << 2;
export const KVMPPC_DEBUG_WATCH_READ = 1 << 3;

export const KvmDebugExitArch = struct({ address: u64, status: u32, reserved: u32 });

export const KvmGuestDebugArch = struct({ bp: array(struct({ addr: u64, type: u32, reserved: u32 }), 16) });

export const KVM_GUESTDBG_USE_SW_BP = 0x00010000;
export const KVM_GUESTDBG_USE_HW_BP = 0x00020000;

export const KvmSyncRegs = struct({});

export const KVM_INTERRUPT_SET = 0xffffffff;
export const KVM_INTERRUPT_UNSET = 0xfffffffe;
export const KVM_INTERRUPT_SET_LEVEL = 0xfffffffd;

export const KVM_CPU_440 = 1;
export const KVM_CPU_E500V2 = 2;
export const KVM_CPU_3S_32 = 3;
export const KVM_CPU_3S_64 = 4;
export const KVM_CPU_E500MC = 5;

export const KvmCreateSpaprTce = struct({ liobn: u64, window_size: u32 });

export const KvmCreateSpaprTce64 = struct({
  liobn: u64,
  page_shift: u32,
  flags: u32,
  offset: u64,
  size: u64,
});

export const KvmAllocateRma = struct({ rma_size: u64 });

export const KvmRtasTokenArgs = struct({ name: bytes(120), token: u64 });

export const KvmBook3e206TlbEntry = struct({ mas8: u32, mas1: u32, mas2: u64, mas7_3: u64 });

export const KvmBook3e206TlbParams = struct({
  tlb_sizes: array(u32, 4),
  tlb_ways: array(u32, 4),
  reserved: array(u32, 8),
});

export const KvmGetHtabFd = struct({ flags: u64, start_index: u64, reserved: array(u64, 2) });

export const KVM_GET_HTAB_BOLTED_ONLY = 1;
export const KVM_GET_HTAB_WRITE = 2;

export const KvmGetHtabHeader = struct({ index: u32, n_valid: u16, n_invalid: u16 });

export const KvmPpcMmuv3Cfg = struct({ flags: u64, process_table: u64 });

export const KVM_PPC_MMUV3_RADIX = 1;
export const KVM_PPC_MMUV3_GTSE = 2;

export const KvmPpcRmmuInfo = struct({
  geometries: array(struct({ page_shift: u8, level_bits: bytes(4), pad: bytes(3) }), 8),
  ap_encodings: array(u32, 8),
});

export const KvmPpcCpuChar = struct({
  character: u64,
  behaviour: u64,
  character_mask: u64,
  behaviour_mask: u64,
});

export const KvmPpcCompatCaps = struct({ size: u64, flags: u64, compat_capabilities: u64 });

export const KVM_PPC_COMPAT_CAPS_SIZE_VER0 = 24;
export const KVM_PPC_COMPAT_CAP_POWER9 = 1n << 62n;
export const KVM_PPC_COMPAT_CAP_POWER10 = 1n << 61n;
export const KVM_PPC_COMPAT_CAP_POWER11 = 1n << 60n;
export const KVM_PPC_COMPAT_BITMASK = 0x7000000000000000n;
export const KVM_PPC_CPU_CHAR_SPEC_BAR_ORI31 = 1n << 63n;
export const KVM_PPC_CPU_CHAR_BCCTRL_SERIALISED = 1n << 62n;
export const KVM_PPC_CPU_CHAR_L1D_FLUSH_ORI30 = 1n << 61n;
export const KVM_PPC_CPU_CHAR_L1D_FLUSH_TRIG2 = 1n << 60n;
export const KVM_PPC_CPU_CHAR_L1D_THREAD_PRIV = 1n << 59n;
export const KVM_PPC_CPU_CHAR_BR_HINT_HONOURED = 1n << 58n;
export const KVM_PPC_CPU_CHAR_MTTRIG_THR_RECONF = 1n << 57n;
export const KVM_PPC_CPU_CHAR_COUNT_CACHE_DIS = 1n << 56n;
export const KVM_PPC_CPU_CHAR_BCCTR_FLUSH_ASSIST = 1n << 54n;
export const KVM_PPC_CPU_BEHAV_FAVOUR_SECURITY = 1n << 63n;
export const KVM_PPC_CPU_BEHAV_L1D_FLUSH_PR = 1n << 62n;
export const KVM_PPC_CPU_BEHAV_BNDS_CHK_SPEC_BAR = 1n << 61n;
export const KVM_PPC_CPU_BEHAV_FLUSH_COUNT_CACHE = 1n << 58n;

export const KVM_REG_PPC_ICP_STATE = 0x103000000000008cn;
export const KVM_REG_PPC_ICP_CPPR_SHIFT = 56;
export const KVM_REG_PPC_ICP_CPPR_MASK = 0xffn;
export const KVM_REG_PPC_ICP_XISR_SHIFT = 32;
export const KVM_REG_PPC_ICP_XISR_MASK = 0xffffffn;
export const KVM_REG_PPC_ICP_MFRR_SHIFT = 24;
export const KVM_REG_PPC_ICP_MFRR_MASK = 0xffn;
export const KVM_REG_PPC_ICP_PPRI_SHIFT = 16;
export const KVM_REG_PPC_ICP_PPRI_MASK = 0xffn;
export const KVM_REG_PPC_VP_STATE = 0x104000000000008dn;

export const KVM_DEV_MPIC_GRP_MISC = 1;
export const KVM_DEV_MPIC_BASE_ADDR = 0;
export const KVM_DEV_MPIC_GRP_REGISTER = 2;
export const KVM_DEV_MPIC_GRP_IRQ_ACTIVE = 3;

export const KVM_REG_PPC_HIOR = 0x1030000000000001n;
export const KVM_REG_PPC_IAC1 = 0x1030000000000002n;
export const KVM_REG_PPC_IAC2 = 0x1030000000000003n;
export const KVM_REG_PPC_IAC3 = 0x1030000000000004n;
export const KVM_REG_PPC_IAC4 = 0x1030000000000005n;
export const KVM_REG_PPC_DAC1 = 0x1030000000000006n;
export const KVM_REG_PPC_DAC2 = 0x1030000000000007n;
export const KVM_REG_PPC_DABR = 0x1030000000000008n;
export const KVM_REG_PPC_DSCR = 0x1030000000000009n;
export const KVM_REG_PPC_PURR = 0x103000000000000an;
export const KVM_REG_PPC_SPURR = 0x103000000000000bn;
export const KVM_REG_PPC_DAR = 0x103000000000000cn;
export const KVM_REG_PPC_DSISR = 0x102000000000000dn;
export const KVM_REG_PPC_AMR = 0x103000000000000en;
export const KVM_REG_PPC_UAMOR = 0x103000000000000fn;
export const KVM_REG_PPC_MMCR0 = 0x1030000000000010n;
export const KVM_REG_PPC_MMCR1 = 0x1030000000000011n;
export const KVM_REG_PPC_MMCRA = 0x1030000000000012n;
export const KVM_REG_PPC_MMCR2 = 0x1030000000000013n;
export const KVM_REG_PPC_MMCRS = 0x1030000000000014n;
export const KVM_REG_PPC_SIAR = 0x1030000000000015n;
export const KVM_REG_PPC_SDAR = 0x1030000000000016n;
export const KVM_REG_PPC_SIER = 0x1030000000000017n;
export const KVM_REG_PPC_PMC1 = 0x1020000000000018n;
export const KVM_REG_PPC_PMC2 = 0x1020000000000019n;
export const KVM_REG_PPC_PMC3 = 0x102000000000001an;
export const KVM_REG_PPC_PMC4 = 0x102000000000001bn;
export const KVM_REG_PPC_PMC5 = 0x102000000000001cn;
export const KVM_REG_PPC_PMC6 = 0x102000000000001dn;
export const KVM_REG_PPC_PMC7 = 0x102000000000001en;
export const KVM_REG_PPC_PMC8 = 0x102000000000001fn;
export const KVM_REG_PPC_FPR0 = 0x1030000000000020n;
export const KVM_REG_PPC_FPR31 = 0x103000000000003fn;
export const KVM_REG_PPC_VR0 = 0x1040000000000040n;
export const KVM_REG_PPC_VR31 = 0x104000000000005fn;
export const KVM_REG_PPC_VSR0 = 0x1040000000000060n;
export const KVM_REG_PPC_VSR31 = 0x104000000000007fn;
export const KVM_REG_PPC_FPSCR = 0x1030000000000080n;
export const KVM_REG_PPC_VSCR = 0x1020000000000081n;
export const KVM_REG_PPC_VPA_ADDR = 0x1030000000000082n;
export const KVM_REG_PPC_VPA_SLB = 0x1040000000000083n;
export const KVM_REG_PPC_VPA_DTL = 0x1040000000000084n;
export const KVM_REG_PPC_EPCR = 0x1020000000000085n;
export const KVM_REG_PPC_EPR = 0x1020000000000086n;
export const KVM_REG_PPC_OR_TSR = 0x1020000000000087n;
export const KVM_REG_PPC_CLEAR_TSR = 0x1020000000000088n;
export const KVM_REG_PPC_TCR = 0x1020000000000089n;
export const KVM_REG_PPC_TSR = 0x102000000000008an;
export const KVM_REG_PPC_DEBUG_INST = 0x102000000000008bn;
export const KVM_REG_PPC_MAS0 = 0x102000000000008cn;
export const KVM_REG_PPC_MAS1 = 0x102000000000008dn;
export const KVM_REG_PPC_MAS2 = 0x103000000000008en;
export const KVM_REG_PPC_MAS7_3 = 0x103000000000008fn;
export const KVM_REG_PPC_MAS4 = 0x1020000000000090n;
export const KVM_REG_PPC_MAS6 = 0x1020000000000091n;
export const KVM_REG_PPC_MMUCFG = 0x1020000000000092n;
export const KVM_REG_PPC_TLB0CFG = 0x1020000000000093n;
export const KVM_REG_PPC_TLB1CFG = 0x1020000000000094n;
export const KVM_REG_PPC_TLB2CFG = 0x1020000000000095n;
export const KVM_REG_PPC_TLB3CFG = 0x1020000000000096n;
export const KVM_REG_PPC_TLB0PS = 0x1020000000000097n;
export const KVM_REG_PPC_TLB1PS = 0x1020000000000098n;
export const KVM_REG_PPC_TLB2PS = 0x1020000000000099n;
export const KVM_REG_PPC_TLB3PS = 0x102000000000009an;
export const KVM_REG_PPC_EPTCFG = 0x102000000000009bn;
export const KVM_REG_PPC_TB_OFFSET = 0x103000000000009cn;
export const KVM_REG_PPC_SPMC1 = 0x102000000000009dn;
export const KVM_REG_PPC_SPMC2 = 0x102000000000009en;
export const KVM_REG_PPC_IAMR = 0x103000000000009fn;
export const KVM_REG_PPC_TFHAR = 0x10300000000000a0n;
export const KVM_REG_PPC_TFIAR = 0x10300000000000a1n;
export const KVM_REG_PPC_TEXASR = 0x10300000000000a2n;
export const KVM_REG_PPC_FSCR = 0x10300000000000a3n;
export const KVM_REG_PPC_PSPB = 0x10200000000000a4n;
export const KVM_REG_PPC_EBBHR = 0x10300000000000a5n;
export const KVM_REG_PPC_EBBRR = 0x10300000000000a6n;
export const KVM_REG_PPC_BESCR = 0x10300000000000a7n;
export const KVM_REG_PPC_TAR = 0x10300000000000a8n;
export const KVM_REG_PPC_DPDES = 0x10300000000000a9n;
export const KVM_REG_PPC_DAWR = 0x10300000000000aan;
export const KVM_REG_PPC_DAWRX = 0x10300000000000abn;
export const KVM_REG_PPC_CIABR = 0x10300000000000acn;
export const KVM_REG_PPC_IC = 0x10300000000000adn;
export const KVM_REG_PPC_VTB = 0x10300000000000aen;
export const KVM_REG_PPC_CSIGR = 0x10300000000000afn;
export const KVM_REG_PPC_TACR = 0x10300000000000b0n;
export const KVM_REG_PPC_TCSCR = 0x10300000000000b1n;
export const KVM_REG_PPC_PID = 0x10300000000000b2n;
export const KVM_REG_PPC_ACOP = 0x10300000000000b3n;
export const KVM_REG_PPC_VRSAVE = 0x10200000000000b4n;
export const KVM_REG_PPC_LPCR = 0x10200000000000b5n;
export const KVM_REG_PPC_LPCR_64 = 0x10300000000000b5n;
export const KVM_REG_PPC_PPR = 0x10300000000000b6n;
export const KVM_REG_PPC_ARCH_COMPAT = 0x10200000000000b7n;
export const KVM_REG_PPC_DABRX = 0x10200000000000b8n;
export const KVM_REG_PPC_WORT = 0x10300000000000b9n;
export const KVM_REG_PPC_SPRG9 = 0x10300000000000ban;
export const KVM_REG_PPC_DBSR = 0x10200000000000bbn;
export const KVM_REG_PPC_TIDR = 0x10300000000000bcn;
export const KVM_REG_PPC_PSSCR = 0x10300000000000bdn;
export const KVM_REG_PPC_DEC_EXPIRY = 0x10300000000000ben;
export const KVM_REG_PPC_ONLINE = 0x10200000000000bfn;
export const KVM_REG_PPC_PTCR = 0x10300000000000c0n;
export const KVM_REG_PPC_MMCR3 = 0x10300000000000c1n;
export const KVM_REG_PPC_SIER2 = 0x10300000000000c2n;
export const KVM_REG_PPC_SIER3 = 0x10300000000000c3n;
export const KVM_REG_PPC_DAWR1 = 0x10300000000000c4n;
export const KVM_REG_PPC_DAWRX1 = 0x10300000000000c5n;
export const KVM_REG_PPC_DEXCR = 0x10300000000000c6n;
export const KVM_REG_PPC_HASHKEYR = 0x10300000000000c7n;
export const KVM_REG_PPC_HASHPKEYR = 0x10300000000000c8n;
export const KVM_REG_PPC_TM = 0x1000000080000000n;
export const KVM_REG_PPC_TM_GPR0 = 0x1030000080000000n;
export const KVM_REG_PPC_TM_GPR31 = 0x103000008000001fn;
export const KVM_REG_PPC_TM_VSR0 = 0x1040000080000020n;
export const KVM_REG_PPC_TM_VSR63 = 0x104000008000005fn;
export const KVM_REG_PPC_TM_CR = 0x1030000080000060n;
export const KVM_REG_PPC_TM_LR = 0x1030000080000061n;
export const KVM_REG_PPC_TM_CTR = 0x1030000080000062n;
export const KVM_REG_PPC_TM_FPSCR = 0x1030000080000063n;
export const KVM_REG_PPC_TM_AMR = 0x1030000080000064n;
export const KVM_REG_PPC_TM_PPR = 0x1030000080000065n;
export const KVM_REG_PPC_TM_VRSAVE = 0x1030000080000066n;
export const KVM_REG_PPC_TM_VSCR = 0x1020000080000067n;
export const KVM_REG_PPC_TM_DSCR = 0x1030000080000068n;
export const KVM_REG_PPC_TM_TAR = 0x1030000080000069n;
export const KVM_REG_PPC_TM_XER = 0x103000008000006an;

export const KVM_DEV_XICS_GRP_SOURCES = 1;
export const KVM_DEV_XICS_GRP_CTRL = 2;
export const KVM_DEV_XICS_NR_SERVERS = 1;

export const KVM_XICS_DESTINATION_SHIFT = 0;
export const KVM_XICS_DESTINATION_MASK = 0xffffffff;
export const KVM_XICS_PRIORITY_SHIFT = 32;
export const KVM_XICS_PRIORITY_MASK = 0xff;
export const KVM_XICS_LEVEL_SENSITIVE = 0x10000000000;
export const KVM_XICS_MASKED = 0x20000000000;
export const KVM_XICS_PENDING = 0x40000000000;
export const KVM_XICS_PRESENTED = 0x80000000000;
export const KVM_XICS_QUEUED = 0x100000000000;

export const KVM_DEV_XIVE_GRP_CTRL = 1;
export const KVM_DEV_XIVE_RESET = 1;
export const KVM_DEV_XIVE_EQ_SYNC = 2;
export const KVM_DEV_XIVE_NR_SERVERS = 3;
export const KVM_DEV_XIVE_GRP_SOURCE = 2;
export const KVM_DEV_XIVE_GRP_SOURCE_CONFIG = 3;
export const KVM_DEV_XIVE_GRP_EQ_CONFIG = 4;
export const KVM_DEV_XIVE_GRP_SOURCE_SYNC = 5;

export const KVM_XIVE_LEVEL_SENSITIVE = 1 << 0;
export const KVM_XIVE_LEVEL_ASSERTED = 1 << 1;
export const KVM_XIVE_SOURCE_PRIORITY_SHIFT = 0;
export const KVM_XIVE_SOURCE_PRIORITY_MASK = 0x7;
export const KVM_XIVE_SOURCE_SERVER_SHIFT = 3;
export const KVM_XIVE_SOURCE_SERVER_MASK = 0xfffffff8;
export const KVM_XIVE_SOURCE_MASKED_SHIFT = 32;
export const KVM_XIVE_SOURCE_MASKED_MASK = 0x100000000;
export const KVM_XIVE_SOURCE_EISN_SHIFT = 33;
export const KVM_XIVE_SOURCE_EISN_MASK = 0xfffffffe00000000n;
export const KVM_XIVE_EQ_PRIORITY_SHIFT = 0;
export const KVM_XIVE_EQ_PRIORITY_MASK = 0x7;
export const KVM_XIVE_EQ_SERVER_SHIFT = 3;
export const KVM_XIVE_EQ_SERVER_MASK = 0xfffffff8;

export const KvmPpcXiveEq = struct({
  flags: u32,
  qshift: u32,
  qaddr: u64,
  qtoggle: u32,
  qindex: u32,
  pad: bytes(40),
});

export const KVM_XIVE_EQ_ALWAYS_NOTIFY = 0x00000001;
export const KVM_XIVE_TIMA_PAGE_OFFSET = 0;
export const KVM_XIVE_ESB_PAGE_OFFSET = 4;

export const KVM_PPC_PVINFO_FLAGS_EV_IDLE = 1 << 0;

export const KvmPpcPvinfo = struct({ flags: u32, hcall: array(u32, 4), pad: bytes(108) });

export const KVM_PPC_PAGE_SIZES_MAX_SZ = 8;

export const KvmPpcOnePageSize = struct({ page_shift: u32, pte_enc: u32 });

export const KvmPpcOneSegPageSize = struct({
  page_shift: u32,
  slb_enc: u32,
  enc: array(KvmPpcOnePageSize, 8),
});

export const KVM_PPC_PAGE_SIZES_REAL = 0x00000001;
export const KVM_PPC_1T_SEGMENTS = 0x00000002;
export const KVM_PPC_NO_HASH = 0x00000004;

export const KvmPpcSmmuInfo = struct({
  flags: u64,
  slb_size: u32,
  data_keys: u16,
  instr_keys: u16,
  sps: array(KvmPpcOneSegPageSize, 8),
});

export const KvmPpcResizeHpt = struct({ flags: u64, shift: u32, pad: u32 });

export const KVM_VM_PPC_HV = 1;
export const KVM_VM_PPC_PR = 2;

export const KVM_MMU_FSL_BOOKE_NOHV = 0;
export const KVM_MMU_FSL_BOOKE_HV = 1;

export const KvmConfigTlb = struct({ params: pointer(), array: pointer(), mmu_type: u32, array_len: u32 });

export const KvmDirtyTlb = struct({ bitmap: pointer(), num_dirty: u32 });

export const KvmIrqchip = struct({ chip_id: u32, pad: u32, chip: union({ dummy: bytes(512) }) });

export const KvmRun = struct({
  ...kvmRunHead,
  anonymous: anonymous(union({ ...kvmRunExits, debug: struct({ arch: KvmDebugExitArch }) })),
  kvm_valid_regs: u64,
  kvm_dirty_regs: u64,
  s: union({ regs: KvmSyncRegs, padding: bytes(SYNC_REGS_SIZE_BYTES) }),
});

export const KvmGuestDebug = struct({ control: u32, pad: u32, arch: KvmGuestDebugArch });

export const KVM_DIRTY_LOG_PAGE_OFFSET = 0;

export const KvmVcpuArchShared = struct({
  scratch1: u64,
  scratch2: u64,
  scratch3: u64,
  critical: u64,
  sprg0: u64,
  sprg1: u64,
  sprg2: u64,
  sprg3: u64,
  srr0: u64,
  srr1: u64,
  dar: u64,
  msr: u64,
  dsisr: u32,
  int_pending: u32,
  sr: array(u32, 16),
  mas0: u32,
  mas1: u32,
  mas7_3: u64,
  mas2: u64,
  mas4: u32,
  mas6: u32,
  esr: u32,
  pir: u32,
  sprg4: u64,
  sprg5: u64,
  sprg6: u64,
  sprg7: u64,
});

export const KVM_SC_MAGIC_R0 = 0x4b564d21;

export const KVM_FEATURE_MAGIC_PAGE = 1;

export const KVM_MAGIC_FEAT_SR = 1 << 0;
export const KVM_MAGIC_FEAT_MAS0_TO_SPRG7 = 1 << 1;

export const MAGIC_PAGE_FLAG_NOT_MAPPED_NX = 1 << 0;

export const KVM_PPC_ALLOCATE_HTAB = iowr(KVMIO, 0xa7, 4, { on: "vm" });
export const KVM_PPC_SVM_OFF = io(KVMIO, 0xb3, { on: "vm" });
export const KVM_PPC_GET_COMPAT_CAPS = io(KVMIO, 0xb8, {
  on: "vm",
  head: KvmPpcCompatCaps,
  tail: 1,
  sized: "size",
});
export const KVM_DIRTY_TLB = iow(KVMIO, 0xaa, KvmDirtyTlb, { on: "vcpu" });
export const KVM_GET_IRQCHIP = iowr(KVMIO, 0x62, KvmIrqchip, { on: [] });
export const KVM_SET_IRQCHIP = ior(KVMIO, 0x63, KvmIrqchip, { on: [], copy: "in" });
export const KVM_PPC_GET_PVINFO = iow(KVMIO, 0xa1, KvmPpcPvinfo, { on: "vm", copy: "out" });
export const KVM_PPC_GET_SMMU_INFO = ior(KVMIO, 0xa6, KvmPpcSmmuInfo, { on: "vm" });
export const KVM_CREATE_SPAPR_TCE = iow(KVMIO, 0xa8, KvmCreateSpaprTce, { on: "vm", returns: "spapr-tce" });
export const KVM_CREATE_SPAPR_TCE_64 = iow(KVMIO, 0xa8, KvmCreateSpaprTce64, {
  on: "vm",
  returns: "spapr-tce",
});
export const KVM_ALLOCATE_RMA = ior(KVMIO, 0xa9, KvmAllocateRma, { on: "vm" });
export const KVM_PPC_GET_HTAB_FD = iow(KVMIO, 0xaa, KvmGetHtabFd, { on: "vm", returns: "htab" });
export const KVM_PPC_RTAS_DEFINE_TOKEN = iow(KVMIO, 0xac, KvmRtasTokenArgs, { on: "vm" });
export const KVM_PPC_RESIZE_HPT_PREPARE = ior(KVMIO, 0xad, KvmPpcResizeHpt, { on: "vm", copy: "in" });
export const KVM_PPC_RESIZE_HPT_COMMIT = ior(KVMIO, 0xae, KvmPpcResizeHpt, { on: "vm", copy: "in" });
export const KVM_PPC_CONFIGURE_V3_MMU = iow(KVMIO, 0xaf, KvmPpcMmuv3Cfg, { on: "vm" });
export const KVM_PPC_GET_RMMU_INFO = iow(KVMIO, 0xb0, KvmPpcRmmuInfo, { on: "vm", copy: "out" });
export const KVM_PPC_GET_CPU_CHAR = ior(KVMIO, 0xb1, KvmPpcCpuChar, { on: "vm" });
export const KVM_GET_REGS = ior(KVMIO, 0x81, KvmRegs, { on: "vcpu" });
export const KVM_SET_REGS = iow(KVMIO, 0x82, KvmRegs, { on: "vcpu" });
export const KVM_GET_SREGS = ior(KVMIO, 0x83, KvmSregs, { on: "vcpu" });
export const KVM_SET_SREGS = iow(KVMIO, 0x84, KvmSregs, { on: "vcpu" });
export const KVM_GET_FPU = ior(KVMIO, 0x8c, KvmFpu, { on: "vcpu" });
export const KVM_SET_FPU = iow(KVMIO, 0x8d, KvmFpu, { on: "vcpu" });
export const KVM_SET_GUEST_DEBUG = iow(KVMIO, 0x9b, KvmGuestDebug, { on: "vcpu" });
