/**
 * What changed between releases, in one table: each row with the release in which the new behaviour appeared and its
 * source. A host of an older release behaves the old way.
 */
import type { KernelBehaviour } from "../kernel/kernel.ts";
import type { KvmBehaviour } from "../kvm/host.ts";
import type { VfioBehaviour } from "../vfio/host.ts";
import type { InterruptBehaviour } from "./pci.ts";

type Behaviour = KernelBehaviour & KvmBehaviour & VfioBehaviour & InterruptBehaviour;

interface Row {
  readonly behaviour: keyof Behaviour;
  /** the first release that behaves so */
  readonly since: string;
  /** the only flavour that behaves so, where it is no matter of releases alone */
  readonly flavour?: string;
  readonly source: string;
}

export const behaviourTable: readonly Row[] = [
  {
    behaviour: "eventfdExactWrite",
    since: "6.11",
    source: "fs/eventfd.c:eventfd_write; traces: x86_64-kvm-6.18/eventfds refuses 16 bytes",
  },
  {
    behaviour: "epollIoctl",
    since: "6.9",
    source:
      "fs/eventpoll.c:ep_eventpoll_ioctl (6.9); the live 6.18 answers EINVAL to unknown requests, 6.1 has none",
  },
  {
    behaviour: "irqfdExclusive",
    since: "6.17",
    source: "virt/kvm/eventfd.c:kvm_irqfd_assign (6.17); traces: x86_64-vfio-6.12 accepts, -7.2 EBUSY",
  },
  {
    behaviour: "vcpuIdUncut",
    since: "6.11",
    source:
      "virt/kvm/kvm_main.c:kvm_vm_ioctl_create_vcpu; traces: arm64-kvm-6.1/vcpu-create cuts to 32 bits, -6.12 does not",
  },
  {
    behaviour: "anonymousNoexec",
    since: "6.16",
    source:
      "fs/anon_inodes.c:anon_inodefs_init_fs_context; live 6.18: EPERM, traces: arm64-kvm-6.12/request_features 0; the releases between are not recorded",
  },
  {
    behaviour: "kvmTraceForgotten",
    since: "6.9",
    source:
      "virt/kvm/kvm_main.c:kvm_dev_ioctl; traces: arm64-kvm-6.1/request_sweep-system EOPNOTSUPP, -6.12 EINVAL; the releases between are not recorded",
  },
  {
    behaviour: "ppcDexcr",
    since: "6.11",
    source:
      "arch/powerpc/kvm/book3s_hv.c:kvmppc_set_one_reg_hv; recorded/ppc64le-6.1/registers refuses them, -6.12 does not",
  },
  {
    behaviour: "pagingOnlyInLongMode",
    since: "6.18",
    flavour: "pvm",
    source: "traces: x86_64-kvm-6.18-more/sregs; mainline keeps CR0.PG",
  },
  {
    behaviour: "kernelCodeEmulated",
    since: "6.18",
    flavour: "pvm",
    source:
      "traces: x86_64-kvm-6.18/run_interrupt_window (IRET in protected mode fails), run_lapic (ISR stays empty); live 6.18: an interrupt window opens after 1024 instructions",
  },
  {
    behaviour: "cr4IgnoresCpuid",
    since: "6.18",
    flavour: "pvm",
    source: "traces: x86_64-kvm-6.18-more/sregs against sregs_cpuid_irqchip; mainline asks CPUID",
  },
  {
    behaviour: "hostTscShown",
    since: "6.18",
    flavour: "pvm",
    source: "traces: x86_64-kvm-6.18-more/attributes: an offset that was set reads 0; mainline keeps it",
  },
  {
    behaviour: "miscEnableUnchecked",
    since: "6.18",
    flavour: "pvm",
    source:
      "live 6.18 takes MWAIT without SSE3 and its quirk; live 6.1, 6.12 and 7.2 (svm): arch/x86/kvm/x86.c:kvm_set_msr_common, kvm_vcpu_reset (6.1)",
  },
  {
    behaviour: "virtual8086Dropped",
    since: "6.18",
    flavour: "pvm",
    source: "traces: x86_64-kvm-6.18-more/regs, -svm-7.2/regs keeps it",
  },
  {
    behaviour: "svmSegments",
    since: "6.1",
    flavour: "svm",
    source:
      "arch/x86/kvm/svm/svm.c:init_vmcb, svm_set_segment (6.1); traces: x86_64-vfio-7.2/H_resample-intel, x86_64-svm-6.1/sregs",
  },
  {
    behaviour: "svmInterruptShadow",
    since: "6.1",
    flavour: "svm",
    source: "arch/x86/kvm/svm/svm.c:svm_get_interrupt_shadow (6.1); traces: x86_64-svm-6.1/events",
  },
  {
    behaviour: "sregsCheckEfer",
    since: "7.2",
    source:
      "arch/x86/kvm/regs.c:kvm_is_valid_sregs; traces: x86_64-svm-6.12/sregs 0, -7.2 EINVAL; the releases between are not recorded",
  },
  {
    behaviour: "sameApicBaseTaken",
    since: "6.14",
    source:
      "arch/x86/kvm/x86.c:kvm_set_apic_base; traces: x86_64-svm-6.12/mixed_irqchip call 1303 EINVAL, x86_64-kvm-6.18-more 0; the releases between are not recorded",
  },
  {
    behaviour: "startStatesAnyTime",
    since: "7.2",
    source:
      "traces: x86_64-svm-6.12/events_irqchip call 342 EINVAL, -7.2 0; the releases between are not recorded",
  },
  {
    behaviour: "debugWaitsForInjected",
    since: "7.2",
    source: "traces: x86_64-svm-6.12/mixed_bare call 33 0, -7.2 EBUSY; the releases between are not recorded",
  },
  {
    behaviour: "sevAttributes",
    since: "6.10",
    flavour: "svm",
    source:
      "arch/x86/kvm/svm/sev.c:sev_dev_get_attr (6.12); traces: x86_64-svm-6.1/attributes ENXIO, -6.12 0",
  },
  {
    behaviour: "sevMoreAttributes",
    since: "7.2",
    flavour: "svm",
    source: "live 7.2 (svm) has attributes 0 to 2, 6.12 has 0; the releases between are not recorded",
  },
  {
    behaviour: "xenPageOfGuestsOnly",
    since: "6.15",
    source:
      "arch/x86/kvm/x86.c:kvm_set_msr_common; traces: x86_64-svm-6.12/run_xen a page, -7.2 none; the releases between are not recorded",
  },
  {
    behaviour: "xenMsrChecked",
    since: "6.15",
    source: "arch/x86/kvm/xen.c:kvm_xen_hvm_config; live 7.2 (svm) refuses MSR 1",
  },
  {
    behaviour: "nmiCountShown",
    since: "6.4",
    source: "arch/x86/kvm/x86.c:kvm_get_nr_pending_nmis; traces: x86_64-svm-6.1/events tells 1, -6.12 2",
  },
  {
    behaviour: "staleEoisRescanned",
    since: "6.15",
    source: "arch/x86/kvm/lapic.c:kvm_ioapic_send_eoi (6.15)",
  },
  {
    behaviour: "cpuidCountTold",
    since: "6.12",
    source:
      "arch/x86/kvm/cpuid.c:kvm_vcpu_ioctl_get_cpuid2 (6.1); traces: x86_64-svm-6.1/cpuid; the releases between 6.1 and 6.12 are not recorded",
  },
  {
    behaviour: "maskedPmuEvents",
    since: "6.3",
    source:
      "arch/x86/kvm/pmu.c:kvm_vm_ioctl_set_pmu_event_filter (6.3); traces: x86_64-svm-6.1/filters EINVAL",
  },
  {
    behaviour: "bootCpuIdChecked",
    since: "6.11",
    source: "arch/x86/kvm/x86.c:kvm_arch_vm_ioctl (6.11); traces: x86_64-svm-6.1/capabilities_more 0",
  },
  {
    behaviour: "nrMmuPagesGone",
    since: "6.12",
    source:
      "traces: x86_64-svm-6.1/every_request answers 0; the releases between 6.1 and 6.12 are not recorded",
  },
  {
    behaviour: "clockPageChecked",
    since: "6.12",
    source:
      "virt/kvm/pfncache.c:kvm_gpc_activate (6.1); traces: x86_64-svm-6.1/system-time-across-a-page; the releases between 6.1 and 6.12 are not recorded",
  },
  {
    behaviour: "pitNeedsPic",
    since: "6.12",
    source:
      "traces: x86_64-svm-6.1/irqchip_state and split_irqchip answer 0; the releases between 6.1 and 6.12 are not recorded",
  },
  {
    behaviour: "sharedApicIds",
    since: "6.3",
    source:
      "arch/x86/kvm/lapic.c:kvm_recalculate_apic_map (6.3); traces: x86_64-svm-6.1/apic-map-of-before-x2apic-format",
  },
  {
    behaviour: "msrRefusalsCleared",
    since: "6.12",
    source:
      "arch/x86/kvm/x86.c:kvm_get_msr_ignored_check (6.1); traces: x86_64-svm-6.1/msrs leaves what was there; the releases between 6.1 and 6.12 are not recorded",
  },
  {
    behaviour: "tscFreqSel",
    since: "6.7",
    source: "arch/x86/kvm/x86.c:kvm_set_msr_common (6.7); traces: x86_64-svm-6.1/msrs refuses 0x1000000",
  },
  {
    behaviour: "emptyCommandTaken",
    since: "6.4",
    source: "arch/x86/kvm/x86.c:kvm_set_msr_common (6.4); traces: x86_64-svm-6.1/msrs refuses 0",
  },
  {
    behaviour: "intelUnlessAmd",
    since: "6.10",
    source:
      "arch/x86/kvm/cpuid.h:guest_cpuid_is_intel_compatible (6.10); traces: x86_64-svm-6.1/msrs keeps 32 bits of SYSENTER_EIP",
  },
  {
    behaviour: "gifWithoutSvme",
    since: "7.2",
    source:
      "traces: x86_64-svm-6.12/svm_requests call 18 EINVAL, -7.2 0; the releases between are not recorded",
  },
  {
    behaviour: "unhaltFollowsTable",
    since: "6.12",
    source:
      "arch/x86/kvm/cpuid.c:kvm_set_cpuid (6.1); traces: x86_64-svm-6.1/unhalt call 6 shows the bit; the releases between 6.1 and 6.12 are not recorded",
  },
  {
    behaviour: "x2apicIdFixed",
    since: "6.12",
    source:
      "arch/x86/kvm/lapic.c:kvm_apic_state_fixup (6.1); traces: x86_64-svm-6.1/x2apic_state call 23; the releases between 6.1 and 6.12 are not recorded",
  },
  {
    behaviour: "nmiMaskOutlivesInit",
    since: "6.4",
    flavour: "svm",
    source: "arch/x86/kvm/svm/svm.c:svm_set_nmi_mask; traces: x86_64-svm-6.1/nmi_mask 0 after INIT, -6.12 1",
  },
  {
    behaviour: "sgxLeafKept",
    since: "6.12",
    source:
      "arch/x86/kvm/cpuid.c:__kvm_update_cpuid_runtime (6.1); found by programs on 6.1; the releases between 6.1 and 6.12 are not recorded",
  },
  {
    behaviour: "preFault",
    since: "6.11",
    source: "virt/kvm/kvm_main.c:kvm_vcpu_pre_fault_memory (6.11); traces: x86_64-svm-6.1/special EINVAL",
  },
  {
    behaviour: "shadowPagesCounted",
    since: "7.2",
    source:
      "traces: x86_64-svm-6.12/statistics has 15 counters of a VM, -7.2 16; the releases between are not recorded",
  },
  {
    behaviour: "vcpuEncryptOp",
    since: "6.16",
    source:
      "arch/x86/kvm/x86.c:kvm_arch_vcpu_ioctl; traces: x86_64-svm-6.12/special EINVAL, x86_64-kvm-6.18-more ENOTTY",
  },
  {
    behaviour: "memoryAttributes",
    since: "6.8",
    flavour: "svm",
    source:
      "virt/kvm/kvm_main.c:kvm_vm_ioctl_set_mem_attributes; traces: x86_64-svm-6.1/special ENOTTY, -6.12 EINVAL",
  },
  {
    behaviour: "syncRegsCut",
    since: "6.12",
    source:
      "traces: x86_64-svm-6.1/run_sync_regs refuses bit 32 of kvm_valid_regs, -6.12 does not; the releases between are not recorded",
  },
  {
    behaviour: "syncRegsWhole",
    since: "6.18",
    source:
      "traces: x86_64-kvm-6.18-more/run_sync_regs and x86_64-svm-7.2/run_sync_regs refuse bit 32 of kvm_valid_regs; the releases since 6.12 are not recorded",
  },
  {
    behaviour: "coalescedRingWhole",
    since: "6.12",
    source:
      "virt/kvm/coalesced_mmio.c:coalesced_mmio_has_room (6.1); traces: x86_64-svm-6.1/run_memory full at 85, -6.12 at 169; the releases between are not recorded",
  },
  {
    behaviour: "vectoringReported",
    since: "6.14",
    source:
      "arch/x86/kvm/svm/svm.c:svm_check_emulate_instruction; traces: x86_64-svm-6.12/run_delivery IO, -7.2 INTERNAL_ERROR; the releases between are not recorded",
  },
  {
    behaviour: "largeMappingsAligned",
    since: "6.7",
    source:
      "mm/huge_memory.c:thp_get_unmapped_area (6.7); a guest of 7.2 reads a page that nobody wrote, and it is dirty (guest-huge-pages-are-written-at-once); 6.12 and the releases before are not recorded",
  },
  {
    behaviour: "hypercallResultShown",
    since: "6.14",
    source:
      "arch/x86/kvm/x86.c:____kvm_emulate_hypercall; x86_64-svm-6.12/run_exits leaves the field alone, the same calls on 7.2 do not",
  },
  {
    behaviour: "tscOfUserFirst",
    since: "6.7",
    source:
      "arch/x86/kvm/x86.c:kvm_synchronize_tsc; traces: x86_64-svm-6.1/run_clock: a TSC of 12345 joins the one before, 6.12 and 6.18: not",
  },
  {
    behaviour: "unsupportedMsrUnknown",
    since: "6.18",
    source:
      "traces: x86_64-svm-6.1/run_msr_exits reason 1, x86_64-kvm-6.18-more/run_msr_exits reason 2; 6.12 as 6.1, the releases between are not known",
  },
  {
    behaviour: "settledByVcpus",
    since: "6.17",
    source:
      "arch/x86/kvm/x86.c:kvm_vm_ioctl_enable_cap; traces: x86_64-svm-6.12/clock and capabilities_with_vcpu 0, x86_64-kvm-6.18-more EINVAL",
  },
  {
    behaviour: "x86OneReg",
    since: "6.18",
    source: "arch/x86/kvm/x86.c:kvm_get_set_one_reg (6.18); traces: x86_64-svm-6.12/msr_lists EINVAL",
  },
  {
    behaviour: "featureMsrsFollowCpuid",
    since: "6.14",
    source:
      "arch/x86/kvm/x86.c:kvm_get_msr_common; traces: x86_64-svm-6.12/msrs reads ARCH_CAPABILITIES, -7.2 0; the releases between are not recorded",
  },
  {
    behaviour: "guestCapsFromCreation",
    since: "6.14",
    source:
      "arch/x86/kvm/cpuid.c:kvm_vcpu_after_set_cpuid; traces: x86_64-svm-6.12/sregs 0, -7.2 EINVAL; the releases between are not recorded",
  },
  {
    behaviour: "asyncPfCheckedFirst",
    since: "7.2",
    source:
      "arch/x86/kvm/x86.c:kvm_pv_enable_async_pf; traces: x86_64-svm-6.12/msr_memory keeps 9, -7.2 does not; the releases between are not recorded",
  },
  {
    behaviour: "vfioContainerBadFd",
    since: "6.2",
    source:
      "drivers/vfio/group.c:vfio_group_ioctl_set_container (6.12); traces: x86_64-vfio-6.1/A_lifecycle EINVAL, -6.12 EBADFD",
  },
  {
    behaviour: "kvmVfioDeviceFiles",
    since: "6.6",
    source: "virt/kvm/vfio.c:kvm_vfio_file_add (6.12); traces: x86_64-vfio-6.1/H_kvmdev EINVAL, -6.12 0",
  },
  {
    behaviour: "type1RangeOverflow",
    since: "6.18",
    source:
      "drivers/vfio/vfio_iommu_type1.c:vfio_dma_do_map (6.18); traces: x86_64-vfio-6.12/B_type1 EINVAL, -7.2 EOVERFLOW",
  },
  {
    behaviour: "type1NestingGone",
    since: "6.13",
    source:
      "drivers/vfio/vfio_iommu_type1.c:vfio_iommu_type1_check_extension; traces: x86_64-vfio-6.12/J_noremap 1, -7.2 0",
  },
  {
    behaviour: "vfioCapabilitiesAligned",
    since: "6.6",
    source:
      "drivers/vfio/vfio_main.c:vfio_info_cap_add (6.12); traces: x86_64-vfio-6.1/B_type1 needs 116 bytes, -6.12 120",
  },
  {
    behaviour: "amdPageSizesCut",
    since: "6.8",
    source: "traces: x86_64-vfio-6.1/B_type1-amd and -6.12/B_type1-amd",
  },
  {
    behaviour: "longtermUnshares",
    since: "6.2",
    source: "mm/gup.c:gup_must_unshare; traces: x86_64-vfio-6.1/B_memlock call 25 is 0, -6.12 ENOMEM",
  },
  {
    behaviour: "vfioLeavingHidden",
    since: "6.6",
    source:
      "drivers/vfio/vfio_main.c:vfio_unregister_group_dev; traces: x86_64-vfio-6.1/A_viable call 88 is a descriptor, -6.12 ENODEV",
  },
  {
    behaviour: "armVcpusById",
    since: "6.7",
    source:
      "arch/arm64/kvm/arm.c:kvm_vm_ioctl_irq_line (6.12), vgic-its.c:collection_to_vcpu; traces: arm64-kvm-6.12/vcpu-irq",
  },
  {
    behaviour: "itsCacheUnbounded",
    since: "6.10",
    source: "arch/arm64/kvm/vgic/vgic-its.c:vgic_its_cache_translation (6.1 and 6.12)",
  },
  {
    behaviour: "itsControlChecked",
    since: "7.2",
    source: "traces: arm64-kvm-6.12/its call 178 is 0, -7.2 ENXIO; the releases between are not known",
  },
  {
    behaviour: "armIrqLineInitFirst",
    since: "7.2",
    source:
      "traces: arm64-kvm-6.12/before-vgic call 85 EINVAL, -7.2 EBUSY; the releases between are not known",
  },
  {
    behaviour: "vgicMaintenanceIrq",
    since: "7.2",
    source: "traces: arm64-kvm-6.12/vgicv3-attr call 105 ENXIO, -7.2 0; the releases between are not known",
  },
  {
    behaviour: "vgicIdentifiedEarly",
    since: "6.17",
    source:
      "arch/arm64/kvm/vgic/vgic-kvm-device.c:reg_allowed_pre_init; recordings: arm64-6.12/gicv3-identification EBUSY, -7.2 0; the releases between are not recorded",
  },
  {
    behaviour: "gicPrivateTargetsById",
    since: "7.2",
    source:
      "recordings: arm64-6.12/gicv2-registers-2 GICD_ITARGETSR0 of vCPU 5 is 04040404, -7.2 20202020; the releases between are not known",
  },
  {
    behaviour: "armPsci13",
    since: "6.14",
    source:
      "arch/arm64/kvm/psci.c:kvm_psci_version; recordings: arm64-6.12/registers-gicv3 10001, -7.2 10003; the releases between are not recorded",
  },
  {
    behaviour: "armEventsNeedInit",
    since: "7.2",
    source: "traces: arm64-kvm-6.12/system call 663 is 0, -7.2 ENOEXEC; the releases between are not known",
  },
  {
    behaviour: "armVmAttributes",
    since: "6.4",
    source: "arch/arm64/kvm/arm.c:kvm_vm_has_attr; traces: arm64-kvm-6.1/gicv2-system EINVAL, -6.12 0",
  },
  {
    behaviour: "armEmptyFilterRefused",
    since: "7.2",
    source:
      "arch/arm64/kvm/hypercalls.c:kvm_smccc_set_filter; traces: arm64-kvm-6.12/request_features EEXIST, -7.2 EINVAL; the releases between are not recorded",
  },
  {
    behaviour: "armMoreWritableIds",
    since: "7.2",
    source:
      "arch/arm64/kvm/sys_regs.c:kvm_vm_ioctl_get_reg_writable_masks; traces: arm64-kvm-6.12/request_features, -7.2; the releases between are not recorded",
  },
  {
    behaviour: "armHypTimers",
    since: "6.4",
    source: "arch/arm64/kvm/arch_timer.c:kvm_arm_timer_has_attr, kvm_arm_timer_set_attr (6.1 and 6.12)",
  },
  {
    behaviour: "armSharedFeatures",
    since: "6.5",
    source: "arch/arm64/kvm/arm.c:__kvm_vcpu_set_target (6.12), which 6.1 has not",
  },
  {
    behaviour: "armNestedFeatures",
    since: "6.16",
    source: "Documentation/virt/kvm/api.rst, KVM_CAP_ARM_EL2; trace arm64-kvm-6.12/vcpu-irq call 126 ENOENT",
  },
  {
    behaviour: "vfioDynamicMsix",
    since: "6.5",
    source:
      "drivers/vfio/pci/vfio_pci_intrs.c:vfio_msi_alloc_irq (6.12); traces: x86_64-vfio-6.1/E3_sequences EINVAL beyond the first enable, -6.12 0",
  },
  {
    behaviour: "vfioTriggerFdChecked",
    since: "6.12",
    source:
      "drivers/vfio/pci/vfio_pci_intrs.c:vfio_pci_set_ctx_trigger_single; traces: x86_64-vfio-6.1/E1_matrix answers 0 to descriptor −2, -6.12 EINVAL",
  },
  {
    behaviour: "vfioWideAccess",
    since: "6.11",
    source:
      "drivers/vfio/pci/vfio_pci_rdwr.c:vfio_pci_core_do_io_rw (6.12); traces: x86_64-vfio-more/K_access-6.1 and -6.12 read 8 bytes of edu",
  },
  {
    behaviour: "vfioDeviceInfoWhole",
    since: "6.6",
    source: "drivers/vfio/pci/vfio_pci_core.c:vfio_pci_ioctl_get_info (6.12)",
  },
  {
    behaviour: "vfioHotResetCountFirst",
    since: "6.6",
    source:
      "drivers/vfio/pci/vfio_pci_core.c:vfio_pci_ioctl_pci_hot_reset; traces: x86_64-vfio-6.1/C_device call 1596 ENODEV, -6.12 EINVAL",
  },
  {
    behaviour: "irqMoveWithoutVector",
    since: "6.6",
    source:
      "arch/x86/kernel/apic/vector.c:apic_chip_data; traces: x86_64-vfio-6.1/J_vectors and -6.12/J_vectors fit 192 vectors, on 6.12 the host itself has 0x20",
  },
  {
    behaviour: "postedMsiVector",
    since: "6.10",
    source:
      "arch/x86/include/asm/irq_vectors.h:FIRST_SYSTEM_VECTOR (6.12); traces: x86_64-vfio-6.12/J_vectors fits 192 vectors",
  },
  {
    behaviour: "amdLargeTables",
    since: "6.15",
    source:
      "drivers/iommu/amd/init.c:early_amd_iommu_init (6.15); x86_64-vfio-7.2/J_vectors-amd has 512, without the feature",
  },
  {
    behaviour: "vfioIoeventfdNarrow",
    since: "7.2",
    source:
      "traces: x86_64-vfio-6.12/C_device call 1614 and x86_64-vfio-more/K_access-6.12 0, K_access-7.2 EINVAL",
  },
  {
    behaviour: "vfioDmaBuf",
    since: "6.19",
    source:
      "drivers/vfio/pci/vfio_pci_dmabuf.c (6.19); traces: x86_64-vfio-more/K_features-6.12 ENOTTY, -7.2 0",
  },
  {
    behaviour: "vfioPrecopyInfo",
    since: "7.2",
    source: "traces: x86_64-vfio-more/K_features-6.12 ENOTTY, -7.2 EINVAL",
  },
];

/** Whether release `a` is `b` or later: "6.12" is later than "6.2". */
export function releaseAtLeast(a: string, b: string): boolean {
  const [majorA, minorA = 0] = a.split(".").map((part) => Number.parseInt(part, 10));
  const [majorB, minorB = 0] = b.split(".").map((part) => Number.parseInt(part, 10));
  return majorA > majorB || (majorA === majorB && minorA >= minorB);
}

/** Worked out once for each release and flavour: machines are made by the thousand. */
const known = new Map<string, Behaviour>();

/** How a release behaves, of a KVM flavour where that matters. */
export function behaviourOf(release: string, flavour: string | null = null): Behaviour {
  const key = `${release} ${flavour}`;
  let behaviour = known.get(key);
  if (behaviour === undefined) known.set(key, (behaviour = workedOut(release, flavour)));
  return behaviour;
}

function workedOut(release: string, flavour: string | null): Behaviour {
  const entries = behaviourTable.map((row) => [
    row.behaviour,
    releaseAtLeast(release, row.since) && (row.flavour === undefined || row.flavour === flavour),
  ]);
  return Object.freeze(Object.fromEntries(entries)) as unknown as Behaviour;
}
