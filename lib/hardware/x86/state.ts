/**
 * The registers of one x86-64 processor as the interpreter works on them. While a guest runs they are the truth; what
 * user space reads and writes between two runs is kept as the structs of the interface, and copied in and out.
 *
 * General registers, RIP and RFLAGS lie in one buffer that is seen in four widths: `r64[RCX]`, `r32[2 * RCX]` (its
 * upper half is the next), `r16[4 * RCX]`, `r8[8 * RCX]` (CH is the next). Control and debug registers lie in another,
 * seen as `c64[CR3]` and `c32[2 * CR3]`. A plain write keeps the rest of the register, so a 32-bit result of an
 * instruction needs its upper half cleared by the writer.
 *
 * Missing: the FPU and vector registers, MSRs that no instruction but RDMSR and WRMSR looks at.
 */

// general registers, numbered as in instructions
export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RBX = 3;
export const RSP = 4;
export const RBP = 5;
export const RSI = 6;
export const RDI = 7;
export const R8 = 8;
export const RIP = 16;
export const RFLAGS = 17;

// places in c64 and (doubled) c32
export const CR0 = 0;
export const CR2 = 1;
export const CR3 = 2;
export const CR4 = 3;
/** task priority; with a LAPIC in the kernel that has it instead */
export const CR8 = 4;
export const EFER = 5;
export const XCR0 = 6;
/** IA32_APIC_BASE; with a LAPIC in the kernel that has it instead */
export const APIC_BASE = 7;
/** debug registers 0…3 */
export const DR0 = 8;
export const DR6 = 12;
export const DR7 = 13;
/** MSRs that instructions look at */
export const SYSENTER_CS = 14;
export const SYSENTER_ESP = 15;
export const SYSENTER_EIP = 16;
export const STAR = 17;
export const LSTAR = 18;
export const CSTAR = 19;
export const SYSCALL_MASK = 20;
export const KERNEL_GS_BASE = 21;
export const TSC_AUX = 22;
/** what a TSC read has more than the host's (IA32_TSC, IA32_TSC_ADJUST) */
export const TSC_OFFSET = 23;
export const TSC_ADJUST = 24;
export const PAT = 25;
export const MISC_ENABLE = 26;
/** PAE: page directory pointers 0…3, as loaded with CR3 */
export const PDPTR0 = 28;
const CONTROL_REGISTERS = 32;

// segment registers, numbered as in instructions; then TR and LDTR
export const ES = 0;
export const CS = 1;
export const SS = 2;
export const DS = 3;
export const FS = 4;
export const GS = 5;
export const TR = 6;
export const LDTR = 7;

// RFLAGS
export const CF = 1 << 0;
/** always set */
export const FLAG_FIXED = 1 << 1;
export const PF = 1 << 2;
export const AF = 1 << 4;
export const ZF = 1 << 6;
export const SF = 1 << 7;
export const TF = 1 << 8;
export const IF = 1 << 9;
export const DF = 1 << 10;
export const OF = 1 << 11;
export const IOPL = 3 << 12;
export const NT = 1 << 14;
export const RF = 1 << 16;
export const VM = 1 << 17;
export const AC = 1 << 18;
export const VIF = 1 << 19;
export const VIP = 1 << 20;
export const ID = 1 << 21;

// CR0, CR4, EFER
export const CR0_PE = 1 << 0;
export const CR0_MP = 1 << 1;
export const CR0_EM = 1 << 2;
export const CR0_TS = 1 << 3;
export const CR0_ET = 1 << 4;
export const CR0_NE = 1 << 5;
export const CR0_WP = 1 << 16;
export const CR0_AM = 1 << 18;
export const CR0_NW = 1 << 29;
export const CR0_CD = 1 << 30;
export const CR0_PG = 1 << 31;
export const CR4_VME = 1 << 0;
export const CR4_TSD = 1 << 2;
export const CR4_DE = 1 << 3;
export const CR4_PSE = 1 << 4;
export const CR4_PAE = 1 << 5;
export const CR4_PGE = 1 << 7;
export const CR4_PCE = 1 << 8;
export const CR4_OSFXSR = 1 << 9;
export const CR4_UMIP = 1 << 11;
export const CR4_LA57 = 1 << 12;
export const CR4_FSGSBASE = 1 << 16;
export const CR4_PCIDE = 1 << 17;
export const CR4_OSXSAVE = 1 << 18;
export const CR4_SMEP = 1 << 20;
export const CR4_SMAP = 1 << 21;
export const EFER_SCE = 1 << 0;
export const EFER_LME = 1 << 8;
export const EFER_LMA = 1 << 10;
export const EFER_NX = 1 << 11;

/** A segment register with its hidden part, field for field as in struct kvm_segment. */
export class Segment {
  selector = 0;
  /** the base, in halves: only FS, GS, TR and LDTR reach above 32 bits */
  baseLo = 0;
  baseHi = 0;
  /** in bytes, the granularity applied */
  limit = 0xffff;
  type = 3;
  present = 1;
  dpl = 0;
  db = 0;
  s = 1;
  l = 0;
  g = 0;
  avl = 0;
  unusable = 0;
}

/** GDTR or IDTR. */
export class DescriptorTable {
  baseLo = 0;
  baseHi = 0;
  limit = 0xffff;
}

/** Interrupt shadow: after MOV SS or POP SS, and after STI (KVM_X86_SHADOW_INT_…). */
export const SHADOW_MOV_SS = 1;
export const SHADOW_STI = 2;

export class CpuState {
  /** RAX … R15, RIP, RFLAGS in one buffer, in four widths */
  readonly r64: BigUint64Array;
  readonly r32: Uint32Array;
  readonly r16: Uint16Array;
  readonly r8: Uint8Array;
  /** control and debug registers and some MSRs, in two widths */
  readonly c64: BigUint64Array;
  readonly c32: Uint32Array;
  /** ES, CS, SS, DS, FS, GS, TR, LDTR */
  readonly segments: readonly Segment[];
  readonly gdt: DescriptorTable;
  readonly idt: DescriptorTable;
  /** an NMI handler runs: until IRET */
  nmiMasked: boolean;
  /** SHADOW_MOV_SS, SHADOW_STI or 0: the next instruction runs before an interrupt is taken */
  shadow: number;
  /** changes whenever translations from linear to physical addresses may have changed from outside */
  tlbGeneration: number;

  /** A processor after reset. */
  constructor() {
    const registers = new ArrayBuffer(18 * 8);
    this.r64 = new BigUint64Array(registers);
    this.r32 = new Uint32Array(registers);
    this.r16 = new Uint16Array(registers);
    this.r8 = new Uint8Array(registers);
    this.c64 = new BigUint64Array(CONTROL_REGISTERS);
    this.c32 = new Uint32Array(this.c64.buffer);
    this.segments = Array.from({ length: 8 }, () => new Segment());
    this.gdt = new DescriptorTable();
    this.idt = new DescriptorTable();
    this.nmiMasked = false;
    this.shadow = 0;
    this.tlbGeneration = 0;
    this.reset();
  }

  /** Power-on or INIT: what the manual's table "Processor States Following Power-up" says, as KVM sets it. */
  reset(initEvent = false): void {
    const { r32, c32, c64, segments } = this;
    this.r64.fill(0n);
    // KVM's default for a processor without CPUID leaf 1: family 6
    r32[2 * RDX] = 0x600;
    r32[2 * RIP] = 0xfff0;
    r32[2 * RFLAGS] = FLAG_FIXED;
    const keptCr0 = initEvent ? c32[2 * CR0] & (CR0_NW | CR0_CD) : CR0_NW | CR0_CD;
    c32[2 * CR0] = keptCr0 | CR0_ET;
    c64[CR2] = 0n;
    c64[CR3] = 0n;
    c64[CR4] = 0n;
    c64[CR8] = 0n;
    c64[EFER] = 0n;
    c64.fill(0n, DR0, DR0 + 4);
    c64[DR6] = 0xffff_0ff0n;
    c64[DR7] = 0x400n;
    if (!initEvent) {
      c64[XCR0] = 1n;
      c64[PAT] = 0x0007_0406_0007_0406n;
      c64[MISC_ENABLE] = 1n;
    }
    for (const segment of segments) Object.assign(segment, new Segment());
    const code = segments[CS];
    code.selector = 0xf000;
    code.baseLo = 0xffff_0000;
    code.type = 11;
    segments[TR].type = 11;
    segments[TR].s = 0;
    segments[LDTR].type = 2;
    segments[LDTR].s = 0;
    Object.assign(this.gdt, new DescriptorTable());
    Object.assign(this.idt, new DescriptorTable());
    this.nmiMasked = false;
    this.shadow = 0;
    this.tlbGeneration++;
  }

  get protectedMode(): boolean {
    return (this.c32[2 * CR0] & CR0_PE) !== 0;
  }

  /** IA-32e mode, compatibility mode included */
  get longMode(): boolean {
    return (this.c32[2 * EFER] & EFER_LMA) !== 0;
  }

  /** the current privilege level: SS has it, as KVM keeps it */
  get cpl(): number {
    return (this.c32[2 * CR0] & CR0_PE) === 0 ? 0 : this.segments[SS].dpl;
  }
}
