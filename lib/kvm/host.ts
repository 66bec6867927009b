/**
 * What KVM knows of the host it runs on: the kernel below it, the architecture, the capabilities it offers, and how
 * its release behaves. The machine floor builds it from a profile.
 */
import type { Kernel } from "../kernel/kernel.ts";
import type { KvmArch } from "./arch.ts";
import type { Assignment } from "./assigned-device.ts";
import type { IrqchipProposal } from "./irqchip-type.ts";

/** What differs between releases on arm64. */
export interface Arm64Behaviour {
  /** KVM_IRQ_LINE, ITS tables and commands name a vCPU by its id; before, by its place in the order of creation */
  readonly armVcpusById: boolean;
  /** translations of messages are remembered without a limit; before, 16 a vCPU */
  readonly itsCacheUnbounded: boolean;
  /** an attribute of the ITS's control group that is none answers ENXIO; before, 0 */
  readonly itsControlChecked: boolean;
  /** KVM_IRQ_LINE looks whether the controller is initialised before it looks at the number */
  readonly armIrqLineInitFirst: boolean;
  /** a GICv3 has the attribute group KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ */
  readonly vgicMaintenanceIrq: boolean;
  /** GICD_IIDR and GICD_TYPER2 are there before a GICv3 is initialised, and TYPER2 does not change after */
  readonly vgicIdentifiedEarly: boolean;
  /** a GICv2 names the target of a private interrupt by the vCPU's id; before, by its place in the order of creation */
  readonly gicPrivateTargetsById: boolean;
  /** PSCI 1.2 and 1.3 are offered */
  readonly armPsci13: boolean;
  /** KVM_GET_VCPU_EVENTS answers ENOEXEC before KVM_ARM_VCPU_INIT */
  readonly armEventsNeedInit: boolean;
  /** a VM has attributes: the filter of SMCCC calls */
  readonly armVmAttributes: boolean;
  /** a filter of no SMCCC functions from 0 on answers EINVAL; before, it is one of all of them */
  readonly armEmptyFilterRefused: boolean;
  /** KVM_ARM_GET_REG_WRITABLE_MASKS: more identification registers, and more of their bits, may be changed */
  readonly armMoreWritableIds: boolean;
  /** the timers of a hypervisor inside the guest have interrupts, and all of them are fixed by the first run */
  readonly armHypTimers: boolean;
  /** all vCPUs of a VM have the same features */
  readonly armSharedFeatures: boolean;
  /** KVM_ARM_VCPU_HAS_EL2 and …_E2H0 are known */
  readonly armNestedFeatures: boolean;
}

/** What differs between flavours on x86. */
export interface X86Behaviour {
  /** CR0.PG outside long mode is dropped: the guest's page tables of 32 bits are not kept */
  readonly pagingOnlyInLongMode: boolean;
  /**
   * The code of a guest's kernel is run by KVM's emulator, 1024 instructions in a row, and an interrupt that it takes is
   * over for the local APIC at once
   */
  readonly kernelCodeEmulated: boolean;
  /** CR4 may hold the same bits whatever CPUID says */
  readonly cr4IgnoresCpuid: boolean;
  /** MISC_ENABLE starts as 1 (fast strings) and takes every value; mainline's starts without PEBS and BTS, 0x1800 */
  readonly miscEnableUnchecked: boolean;
  /** a guest reads the host's TSC: no offset, and writing it changes nothing */
  readonly hostTscShown: boolean;
  /** the VM flag of RFLAGS is dropped */
  readonly virtual8086Dropped: boolean;
  /** segments are what AMD's control block keeps of them, and starts with: CS and SS not accessed, a 16-bit TSS */
  readonly svmSegments: boolean;
  /** after STI or MOV SS the processor has one flag for both */
  readonly svmInterruptShadow: boolean;
  /** EFER of KVM_SET_SREGS is compared with what host and guest have */
  readonly sregsCheckEfer: boolean;
  /** an APIC base that is there already is taken, whatever CPUID says */
  readonly sameApicBaseTaken: boolean;
  /** KVM_SET_MP_STATE takes the states of an INIT even where an INIT would have to wait */
  readonly startStatesAnyTime: boolean;
  /** KVM_SET_GUEST_DEBUG injects nothing while an exception is being delivered either */
  readonly debugWaitsForInjected: boolean;
  /** /dev/kvm has the attribute of encrypted guests */
  readonly sevAttributes: boolean;
  /** and two more of them */
  readonly sevMoreAttributes: boolean;
  /** the MSR of KVM_XEN_HVM_CONFIG is none for user space */
  readonly xenPageOfGuestsOnly: boolean;
  /** the MSR of KVM_XEN_HVM_CONFIG is one that is set aside for hypervisors */
  readonly xenMsrChecked: boolean;
  /** KVM_GET_VCPU_EVENTS tells how many NMIs wait; before, whether any does */
  readonly nmiCountShown: boolean;
  /** an EOI that was reported for an interrupt of a routing that is gone is the last one to be */
  readonly staleEoisRescanned: boolean;
  /** KVM_GET_CPUID2 tells how many entries there are */
  readonly cpuidCountTold: boolean;
  /** KVM_SET_PMU_EVENT_FILTER knows masked events */
  readonly maskedPmuEvents: boolean;
  /** KVM_SET_BOOT_CPU_ID and KVM_CAP_MAX_VCPU_ID look at each other */
  readonly bootCpuIdChecked: boolean;
  /** KVM_GET_NR_MMU_PAGES is not known any more */
  readonly nrMmuPagesGone: boolean;
  /** a guest's clock page that would cross a page is off */
  readonly clockPageChecked: boolean;
  /** KVM_CREATE_PIT2 needs the PIC in the kernel */
  readonly pitNeedsPic: boolean;
  /** local APICs with the same id are all reached */
  readonly sharedApicIds: boolean;
  /** an MSR that may not be read leaves 0; one that is listed, and whose feature is missing, reads as 0 */
  readonly msrRefusalsCleared: boolean;
  /** HWCR has the bit that says how fast the TSC is */
  readonly tscFreqSel: boolean;
  /** PRED_CMD takes 0 on any processor */
  readonly emptyCommandTaken: boolean;
  /** a guest whose CPUID does not say AMD counts as Intel's; before, one whose CPUID says Intel */
  readonly intelUnlessAmd: boolean;
  /** KVM_SET_NESTED_STATE takes the GIF off whether EFER.SVME is on or not */
  readonly gifWithoutSvme: boolean;
  /** whether CPUID tells of being woken follows the table that is set; before, the one that was there */
  readonly unhaltFollowsTable: boolean;
  /** in x2APIC mode KVM_SET_LAPIC does not change the id */
  readonly x2apicIdFixed: boolean;
  /** an INIT leaves NMIs masked: AMD's module keeps that beside the processor's state */
  readonly nmiMaskOutlivesInit: boolean;
  /** SGX's leaf of CPUID stays as it was set; before, it followed XSAVE's */
  readonly sgxLeafKept: boolean;
  /** KVM_PRE_FAULT_MEMORY is known */
  readonly preFault: boolean;
  /** a VM counts its shadow pages */
  readonly shadowPagesCounted: boolean;
  /** KVM_MEMORY_ENCRYPT_OP is known on a vCPU */
  readonly vcpuEncryptOp: boolean;
  /** KVM_SET_MEMORY_ATTRIBUTES is known */
  readonly memoryAttributes: boolean;
  /** KVM_CAP_X86_DISABLE_EXITS and a VM's KVM_SET_TSC_KHZ come before the first vCPU */
  readonly settledByVcpus: boolean;
  /** of kvm_valid_regs and kvm_dirty_regs the low half counts… */
  readonly syncRegsCut: boolean;
  /** …and again the whole */
  readonly syncRegsWhole: boolean;
  /** a ring of coalesced writes is full when one entry is left; before, it was earlier */
  readonly coalescedRingWhole: boolean;
  /** an event that meets no memory on its way is told; before, the emulator does the instruction at RIP */
  readonly vectoringReported: boolean;
  /** a mapping of 2 MiB or more lies so that huge pages fit: who writes a page of it has 2 MiB written */
  readonly largeMappingsAligned: boolean;
  /** kvm_run shows the result of every hypercall, not of those alone that user space answers */
  readonly hypercallResultShown: boolean;
  /** a TSC that user space writes is compared with what user space wrote before, not with what a vCPU started with */
  readonly tscOfUserFirst: boolean;
  /** a guest without the feature of an MSR is told of as one who asks for an unknown MSR, not for a bad value */
  readonly unsupportedMsrUnknown: boolean;
  /** KVM_GET_ONE_REG, KVM_SET_ONE_REG and KVM_GET_REG_LIST are known */
  readonly x86OneReg: boolean;
  /** MSRs that stand for a feature are there only where CPUID shows it */
  readonly featureMsrsFollowCpuid: boolean;
  /** a vCPU whose CPUID was never set has no features; before, it has all that the host has */
  readonly guestCapsFromCreation: boolean;
  /** MSR_KVM_ASYNC_PF_EN that fails for want of memory is not kept */
  readonly asyncPfCheckedFirst: boolean;
}

/** What differs between releases and flavours in this floor; the machine floor fills it in from its table. */
export interface KvmBehaviour extends Arm64Behaviour, X86Behaviour {
  /** one eventfd may be bound to one irqfd in all VMs of the host; before 6.17 in each VM */
  readonly irqfdExclusive: boolean;
  /** KVM_CREATE_VCPU looks at the whole id; before, at its low 32 bits */
  readonly vcpuIdUncut: boolean;
  /** files without a name, as a vCPU's, may not be mapped as code */
  readonly anonymousNoexec: boolean;
  /** KVM_TRACE_ENABLE, _PAUSE and _DISABLE are unknown; before, they answer EOPNOTSUPP */
  readonly kvmTraceForgotten: boolean;
  /** POWER: DEXCR, HASHKEYR and HASHPKEYR are known to KVM_GET_ONE_REG, and MMCR3 keeps what is written to it */
  readonly ppcDexcr: boolean;
}

/** Facts about the host's processor, as its KVM shows them: arrays of raw entries, recorded from a real one. */
export interface HostFacts {
  /** kvm_cpuid_entry2 records of 40 bytes: KVM_GET_SUPPORTED_CPUID */
  readonly supportedCpuid?: Uint8Array;
  /** the same for KVM_GET_EMULATED_CPUID */
  readonly emulatedCpuid?: Uint8Array;
  /** the same for KVM_GET_SUPPORTED_HV_CPUID, where it is offered */
  readonly hypervCpuid?: Uint8Array;
  readonly msrIndices?: readonly number[];
  readonly msrFeatureIndices?: readonly number[];
  readonly msrFeatureValues?: ReadonlyMap<number, bigint>;
  /** frequency of the host's TSC */
  readonly tscKhz?: number;
  /** KVM_X86_GET_MCE_CAP_SUPPORTED */
  readonly mceCap?: bigint;
  /** XSAVE components that a guest may have (KVM_X86_XCOMP_GUEST_SUPP) */
  readonly guestXcr0?: number;
  /** XSAVE components of the host's processes, as the software bytes of an XSAVE area tell */
  readonly userXfeatures?: number;
  /** what a guest's CPUID shows whatever KVM_SET_CPUID2 says; undefined where KVM answers every CPUID itself */
  readonly nativeCpuid?: NativeCpuid;
  /** arm64: what KVM_GET_REG_LIST names after the registers of KvmRegs, in its order */
  readonly armRegisters?: readonly ArmRegister[];
}

/** A register of an arm64 vCPU beside those of KvmRegs. */
export interface ArmRegister {
  readonly id: bigint;
  /** its value after KVM_ARM_VCPU_INIT */
  readonly initial: bigint;
  /** what a write does: a letter of arm64/system-registers.ts */
  readonly rule: string;
  /** the feature of KVM_ARM_VCPU_INIT that brings it, or makes it so; −1 for none */
  readonly feature: number;
}

/** The CPUID of a guest that executes the instruction on the bare processor. */
export interface NativeCpuid {
  /** leaves that are taken out of a table */
  readonly removed: readonly number[];
  /** a register of a leaf: the bits of the table that are kept, those that are set, and those that need AVX's state */
  readonly registers: readonly {
    readonly leaf: number;
    readonly index: number;
    /** where the register stands in an entry: 12 eax, 16 ebx, 20 ecx, 24 edx */
    readonly register: number;
    readonly keep: number;
    readonly force: number;
    readonly avx: number;
  }[];
  /** leaf 0xd, entries of 40 bytes, index 0 first: added where leaf 1 is there and 0xd.0 is not */
  readonly xsave: readonly Uint8Array[];
}

export interface KvmHost {
  readonly kernel: Kernel;
  readonly arch: KvmArch;
  /** "6.18" */
  readonly release: string;
  /** "pvm", "svm", "vmx", "vhe", "nvhe", "hv", "pr", … or null */
  readonly flavour: string | null;
  /** KVM_CHECK_EXTENSION on /dev/kvm and on a VM: a number that is missing answers 0 */
  readonly systemCapabilities: ReadonlyMap<number, number>;
  readonly vmCapabilities: ReadonlyMap<number, number>;
  /** bytes of KVM_GET_VCPU_MMAP_SIZE */
  readonly vcpuMmapSize: number;
  readonly pageSize: number;
  readonly behaviour: KvmBehaviour;
  /** KVM_ASSIGN_PCI_DEVICE and its kin, in releases before 4.12 */
  readonly assignment?: Assignment | undefined;
  /** KVM_SET_IRQCHIP_TYPE, which no release has, and how it answers its open question */
  readonly irqchipProposal?: IrqchipProposal | undefined;
  readonly facts: HostFacts;
  /** whether interrupts of assigned devices are posted to vCPUs, past the host (irq bypass) */
  readonly postedInterrupts?: boolean;
}
