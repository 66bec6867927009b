/**
 * KVM on RISC-V (arch/riscv/include/uapi/asm/kvm.h, 7.3), with the struct of asm/ptrace.h that kvm_riscv_core is made of.
 *
 * Since 6.1 these grew: kvm_riscv_config from 16 to 64 bytes (6.2 to 6.18), kvm_riscv_csr from 80 to 88 (`senvcfg`).
 * They are containers for register ids, no request copies them.
 */
import { ior, iow, iowr } from "./ioctl.ts";
import { KVMIO, kvmRunExits, kvmRunHead, SYNC_REGS_SIZE_BYTES } from "./kvm.ts";
import { anonymous, bytes, struct, u32, u64, union } from "./struct.ts";

/** struct user_regs_struct: pc, then x1 to x31 by their ABI names. */
export const UserRegsStruct = struct({
  pc: u64,
  ra: u64,
  sp: u64,
  gp: u64,
  tp: u64,
  t0: u64,
  t1: u64,
  t2: u64,
  s0: u64,
  s1: u64,
  a0: u64,
  a1: u64,
  a2: u64,
  a3: u64,
  a4: u64,
  a5: u64,
  a6: u64,
  a7: u64,
  s2: u64,
  s3: u64,
  s4: u64,
  s5: u64,
  s6: u64,
  s7: u64,
  s8: u64,
  s9: u64,
  s10: u64,
  s11: u64,
  t3: u64,
  t4: u64,
  t5: u64,
  t6: u64,
});

export const KVM_COALESCED_MMIO_PAGE_OFFSET = 1;

export const KVM_DIRTY_LOG_PAGE_OFFSET = 64;

export const KVM_INTERRUPT_SET = 0xffffffff;
export const KVM_INTERRUPT_UNSET = 0xfffffffe;

export const KVM_EXIT_FAIL_ENTRY_NO_VSFILE = 1 << 0;

export const KvmRegs = struct({});

export const KvmFpu = struct({});

export const KvmDebugExitArch = struct({});

export const KvmGuestDebugArch = struct({});

export const KvmSyncRegs = struct({});

export const KvmSregs = struct({});

export const KvmRiscvConfig = struct({
  isa: u64,
  zicbom_block_size: u64,
  mvendorid: u64,
  marchid: u64,
  mimpid: u64,
  zicboz_block_size: u64,
  satp_mode: u64,
  zicbop_block_size: u64,
});

export const KvmRiscvCore = struct({ regs: UserRegsStruct, mode: u64 });

export const KVM_RISCV_MODE_S = 1;
export const KVM_RISCV_MODE_U = 0;

export const KvmRiscvCsr = struct({
  sstatus: u64,
  sie: u64,
  stvec: u64,
  sscratch: u64,
  sepc: u64,
  scause: u64,
  stval: u64,
  sip: u64,
  satp: u64,
  scounteren: u64,
  senvcfg: u64,
});

export const KvmRiscvAiaCsr = struct({
  siselect: u64,
  iprio1: u64,
  iprio2: u64,
  sieh: u64,
  siph: u64,
  iprio1h: u64,
  iprio2h: u64,
});

export const KvmRiscvSmstateenCsr = struct({ sstateen0: u64 });

export const KvmRiscvZicfissCsr = struct({ ssp: u64 });

export const KvmRiscvTimer = struct({ frequency: u64, time: u64, compare: u64, state: u64 });

export const KVM_RISCV_TIMER_STATE_OFF = 0;
export const KVM_RISCV_TIMER_STATE_ON = 1;
export const KVM_RISCV_ISA_EXT_A = 0;
export const KVM_RISCV_ISA_EXT_C = 1;
export const KVM_RISCV_ISA_EXT_D = 2;
export const KVM_RISCV_ISA_EXT_F = 3;
export const KVM_RISCV_ISA_EXT_H = 4;
export const KVM_RISCV_ISA_EXT_I = 5;
export const KVM_RISCV_ISA_EXT_M = 6;
export const KVM_RISCV_ISA_EXT_SVPBMT = 7;
export const KVM_RISCV_ISA_EXT_SSTC = 8;
export const KVM_RISCV_ISA_EXT_SVINVAL = 9;
export const KVM_RISCV_ISA_EXT_ZIHINTPAUSE = 10;
export const KVM_RISCV_ISA_EXT_ZICBOM = 11;
export const KVM_RISCV_ISA_EXT_ZICBOZ = 12;
export const KVM_RISCV_ISA_EXT_ZBB = 13;
export const KVM_RISCV_ISA_EXT_SSAIA = 14;
export const KVM_RISCV_ISA_EXT_V = 15;
export const KVM_RISCV_ISA_EXT_SVNAPOT = 16;
export const KVM_RISCV_ISA_EXT_ZBA = 17;
export const KVM_RISCV_ISA_EXT_ZBS = 18;
export const KVM_RISCV_ISA_EXT_ZICNTR = 19;
export const KVM_RISCV_ISA_EXT_ZICSR = 20;
export const KVM_RISCV_ISA_EXT_ZIFENCEI = 21;
export const KVM_RISCV_ISA_EXT_ZIHPM = 22;
export const KVM_RISCV_ISA_EXT_SMSTATEEN = 23;
export const KVM_RISCV_ISA_EXT_ZICOND = 24;
export const KVM_RISCV_ISA_EXT_ZBC = 25;
export const KVM_RISCV_ISA_EXT_ZBKB = 26;
export const KVM_RISCV_ISA_EXT_ZBKC = 27;
export const KVM_RISCV_ISA_EXT_ZBKX = 28;
export const KVM_RISCV_ISA_EXT_ZKND = 29;
export const KVM_RISCV_ISA_EXT_ZKNE = 30;
export const KVM_RISCV_ISA_EXT_ZKNH = 31;
export const KVM_RISCV_ISA_EXT_ZKR = 32;
export const KVM_RISCV_ISA_EXT_ZKSED = 33;
export const KVM_RISCV_ISA_EXT_ZKSH = 34;
export const KVM_RISCV_ISA_EXT_ZKT = 35;
export const KVM_RISCV_ISA_EXT_ZVBB = 36;
export const KVM_RISCV_ISA_EXT_ZVBC = 37;
export const KVM_RISCV_ISA_EXT_ZVKB = 38;
export const KVM_RISCV_ISA_EXT_ZVKG = 39;
export const KVM_RISCV_ISA_EXT_ZVKNED = 40;
export const KVM_RISCV_ISA_EXT_ZVKNHA = 41;
export const KVM_RISCV_ISA_EXT_ZVKNHB = 42;
export const KVM_RISCV_ISA_EXT_ZVKSED = 43;
export const KVM_RISCV_ISA_EXT_ZVKSH = 44;
export const KVM_RISCV_ISA_EXT_ZVKT = 45;
export const KVM_RISCV_ISA_EXT_ZFH = 46;
export const KVM_RISCV_ISA_EXT_ZFHMIN = 47;
export const KVM_RISCV_ISA_EXT_ZIHINTNTL = 48;
export const KVM_RISCV_ISA_EXT_ZVFH = 49;
export const KVM_RISCV_ISA_EXT_ZVFHMIN = 50;
export const KVM_RISCV_ISA_EXT_ZFA = 51;
export const KVM_RISCV_ISA_EXT_ZTSO = 52;
export const KVM_RISCV_ISA_EXT_ZACAS = 53;
export const KVM_RISCV_ISA_EXT_SSCOFPMF = 54;
export const KVM_RISCV_ISA_EXT_ZIMOP = 55;
export const KVM_RISCV_ISA_EXT_ZCA = 56;
export const KVM_RISCV_ISA_EXT_ZCB = 57;
export const KVM_RISCV_ISA_EXT_ZCD = 58;
export const KVM_RISCV_ISA_EXT_ZCF = 59;
export const KVM_RISCV_ISA_EXT_ZCMOP = 60;
export const KVM_RISCV_ISA_EXT_ZAWRS = 61;
export const KVM_RISCV_ISA_EXT_SMNPM = 62;
export const KVM_RISCV_ISA_EXT_SSNPM = 63;
export const KVM_RISCV_ISA_EXT_SVADE = 64;
export const KVM_RISCV_ISA_EXT_SVADU = 65;
export const KVM_RISCV_ISA_EXT_SVVPTC = 66;
export const KVM_RISCV_ISA_EXT_ZABHA = 67;
export const KVM_RISCV_ISA_EXT_ZICCRSE = 68;
export const KVM_RISCV_ISA_EXT_ZAAMO = 69;
export const KVM_RISCV_ISA_EXT_ZALRSC = 70;
export const KVM_RISCV_ISA_EXT_ZICBOP = 71;
export const KVM_RISCV_ISA_EXT_ZFBFMIN = 72;
export const KVM_RISCV_ISA_EXT_ZVFBFMIN = 73;
export const KVM_RISCV_ISA_EXT_ZVFBFWMA = 74;
export const KVM_RISCV_ISA_EXT_ZCLSD = 75;
export const KVM_RISCV_ISA_EXT_ZILSD = 76;
export const KVM_RISCV_ISA_EXT_ZALASR = 77;
export const KVM_RISCV_ISA_EXT_ZICFILP = 78;
export const KVM_RISCV_ISA_EXT_ZICFISS = 79;
export const KVM_RISCV_ISA_EXT_MAX = 80;
export const KVM_RISCV_SBI_EXT_V01 = 0;
export const KVM_RISCV_SBI_EXT_TIME = 1;
export const KVM_RISCV_SBI_EXT_IPI = 2;
export const KVM_RISCV_SBI_EXT_RFENCE = 3;
export const KVM_RISCV_SBI_EXT_SRST = 4;
export const KVM_RISCV_SBI_EXT_HSM = 5;
export const KVM_RISCV_SBI_EXT_PMU = 6;
export const KVM_RISCV_SBI_EXT_EXPERIMENTAL = 7;
export const KVM_RISCV_SBI_EXT_VENDOR = 8;
export const KVM_RISCV_SBI_EXT_DBCN = 9;
export const KVM_RISCV_SBI_EXT_STA = 10;
export const KVM_RISCV_SBI_EXT_SUSP = 11;
export const KVM_RISCV_SBI_EXT_FWFT = 12;
export const KVM_RISCV_SBI_EXT_MPXY = 13;
export const KVM_RISCV_SBI_EXT_MAX = 14;

export const KvmRiscvSbiSta = struct({ shmem_lo: u64, shmem_hi: u64 });

export const KvmRiscvSbiFwftFeature = struct({ enable: u64, flags: u64, value: u64 });

export const KvmRiscvSbiFwft = struct({
  misaligned_deleg: KvmRiscvSbiFwftFeature,
  pointer_masking: KvmRiscvSbiFwftFeature,
  pte_ad_hw_updating: KvmRiscvSbiFwftFeature,
  landing_pad: KvmRiscvSbiFwftFeature,
  shadow_stack: KvmRiscvSbiFwftFeature,
});

export const KVM_REG_RISCV_TYPE_MASK = 0x00000000ff000000n;
export const KVM_REG_RISCV_TYPE_SHIFT = 24;
export const KVM_REG_RISCV_SUBTYPE_MASK = 0x0000000000ff0000n;
export const KVM_REG_RISCV_SUBTYPE_SHIFT = 16;
export const KVM_REG_RISCV_CONFIG = 0x1000000n;
export const KVM_REG_RISCV_CORE = 0x2000000n;
export const KVM_REG_RISCV_CSR = 0x3000000n;
export const KVM_REG_RISCV_CSR_GENERAL = 0n;
export const KVM_REG_RISCV_CSR_AIA = 0x10000n;
export const KVM_REG_RISCV_CSR_SMSTATEEN = 0x20000n;
export const KVM_REG_RISCV_CSR_ZICFISS = 0x30000n;
export const KVM_REG_RISCV_TIMER = 0x4000000n;
export const KVM_REG_RISCV_FP_F = 0x5000000n;
export const KVM_REG_RISCV_FP_D = 0x6000000n;
export const KVM_REG_RISCV_ISA_EXT = 0x7000000n;
export const KVM_REG_RISCV_ISA_SINGLE = 0n;
export const KVM_REG_RISCV_ISA_MULTI_EN = 0x10000n;
export const KVM_REG_RISCV_ISA_MULTI_DIS = 0x20000n;
export const KVM_REG_RISCV_ISA_MULTI_REG_LAST = 1n;
export const KVM_REG_RISCV_SBI_EXT = 0x8000000n;
export const KVM_REG_RISCV_SBI_SINGLE = 0n;
export const KVM_REG_RISCV_SBI_MULTI_EN = 0x10000n;
export const KVM_REG_RISCV_SBI_MULTI_DIS = 0x20000n;
export const KVM_REG_RISCV_SBI_MULTI_REG_LAST = 0n;
export const KVM_REG_RISCV_VECTOR = 0x9000000n;
export const KVM_REG_RISCV_SBI_STATE = 0xa000000n;
export const KVM_REG_RISCV_SBI_STA = 0n;
export const KVM_REG_RISCV_SBI_FWFT = 0x10000n;

export const KVM_DEV_RISCV_APLIC_ALIGN = 0x1000;
export const KVM_DEV_RISCV_APLIC_SIZE = 0x4000;
export const KVM_DEV_RISCV_APLIC_MAX_HARTS = 0x4000;
export const KVM_DEV_RISCV_IMSIC_ALIGN = 0x1000;
export const KVM_DEV_RISCV_IMSIC_SIZE = 0x1000;
export const KVM_DEV_RISCV_AIA_GRP_CONFIG = 0;
export const KVM_DEV_RISCV_AIA_CONFIG_MODE = 0;
export const KVM_DEV_RISCV_AIA_CONFIG_IDS = 1;
export const KVM_DEV_RISCV_AIA_CONFIG_SRCS = 2;
export const KVM_DEV_RISCV_AIA_CONFIG_GROUP_BITS = 3;
export const KVM_DEV_RISCV_AIA_CONFIG_GROUP_SHIFT = 4;
export const KVM_DEV_RISCV_AIA_CONFIG_HART_BITS = 5;
export const KVM_DEV_RISCV_AIA_CONFIG_GUEST_BITS = 6;
export const KVM_DEV_RISCV_AIA_MODE_EMUL = 0;
export const KVM_DEV_RISCV_AIA_MODE_HWACCEL = 1;
export const KVM_DEV_RISCV_AIA_MODE_AUTO = 2;
export const KVM_DEV_RISCV_AIA_IDS_MIN = 63;
export const KVM_DEV_RISCV_AIA_IDS_MAX = 2048;
export const KVM_DEV_RISCV_AIA_SRCS_MAX = 1024;
export const KVM_DEV_RISCV_AIA_GROUP_BITS_MAX = 8;
export const KVM_DEV_RISCV_AIA_GROUP_SHIFT_MIN = 24;
export const KVM_DEV_RISCV_AIA_GROUP_SHIFT_MAX = 56;
export const KVM_DEV_RISCV_AIA_HART_BITS_MAX = 16;
export const KVM_DEV_RISCV_AIA_GUEST_BITS_MAX = 8;
export const KVM_DEV_RISCV_AIA_GRP_ADDR = 1;
export const KVM_DEV_RISCV_AIA_ADDR_APLIC = 0;
export const KVM_DEV_RISCV_AIA_ADDR_MAX = 0x4001;
export const KVM_DEV_RISCV_AIA_GRP_CTRL = 2;
export const KVM_DEV_RISCV_AIA_CTRL_INIT = 0;
export const KVM_DEV_RISCV_AIA_GRP_APLIC = 3;
export const KVM_DEV_RISCV_AIA_GRP_IMSIC = 4;
export const KVM_DEV_RISCV_AIA_IMSIC_ISEL_BITS = 12;
export const KVM_DEV_RISCV_AIA_IMSIC_ISEL_MASK = 0xfff;

export const KVM_NR_IRQCHIPS = 1;

export const KvmIrqchip = struct({ chip_id: u32, pad: u32, chip: union({ dummy: bytes(512) }) });

export const KvmRun = struct({
  ...kvmRunHead,
  anonymous: anonymous(union({ ...kvmRunExits, debug: struct({ arch: KvmDebugExitArch }) })),
  kvm_valid_regs: u64,
  kvm_dirty_regs: u64,
  s: union({ regs: KvmSyncRegs, padding: bytes(SYNC_REGS_SIZE_BYTES) }),
});

export const KvmGuestDebug = struct({ control: u32, pad: u32, arch: KvmGuestDebugArch });

export const KVM_GET_IRQCHIP = iowr(KVMIO, 0x62, KvmIrqchip, { on: [] });
export const KVM_SET_IRQCHIP = ior(KVMIO, 0x63, KvmIrqchip, { on: [], copy: "in" });
export const KVM_GET_REGS = ior(KVMIO, 0x81, KvmRegs, { on: "vcpu" });
export const KVM_SET_REGS = iow(KVMIO, 0x82, KvmRegs, { on: "vcpu" });
export const KVM_GET_SREGS = ior(KVMIO, 0x83, KvmSregs, { on: "vcpu" });
export const KVM_SET_SREGS = iow(KVMIO, 0x84, KvmSregs, { on: "vcpu" });
export const KVM_GET_FPU = ior(KVMIO, 0x8c, KvmFpu, { on: "vcpu" });
export const KVM_SET_FPU = iow(KVMIO, 0x8d, KvmFpu, { on: "vcpu" });
export const KVM_SET_GUEST_DEBUG = iow(KVMIO, 0x9b, KvmGuestDebug, { on: "vcpu" });

/** The attribute of the IMSIC address of a vCPU, in group KVM_DEV_RISCV_AIA_GRP_ADDR. */
export const KVM_DEV_RISCV_AIA_ADDR_IMSIC = (vcpu: number): number => 1 + vcpu;
/** The attribute of an IMSIC register, in group KVM_DEV_RISCV_AIA_GRP_IMSIC. */
export const KVM_DEV_RISCV_AIA_IMSIC_MKATTR = (vcpu: number, isel: number): number =>
  (vcpu << KVM_DEV_RISCV_AIA_IMSIC_ISEL_BITS) | (isel & KVM_DEV_RISCV_AIA_IMSIC_ISEL_MASK);
