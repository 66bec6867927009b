/**
 * Requests of KVM that were retired and that newer headers no longer name (include/uapi/linux/kvm.h, 6.1): the assignment
 * of PCI devices by KVM itself (gone in 4.12), memory aliases, the first kinds of memory region, tracing and debugging.
 * Their numbers are never given out again; a kernel answers ENOTTY or, for a few, EINVAL.
 *
 * Missing: the KVM_TRC_… constants of the tracing that went in 2.6.31, and s390's structs that 6.1 still had here.
 */
import { io, ior, iow } from "./ioctl.ts";
import { KVMIO } from "./kvm.ts";
import {
  KVM_X86_DISABLE_EXITS_CSTATE,
  KVM_X86_DISABLE_EXITS_HLT,
  KVM_X86_DISABLE_EXITS_MWAIT,
  KVM_X86_DISABLE_EXITS_PAUSE,
} from "./kvm-x86.ts";
import { anonymous, array, struct, u16, u32, u64, union } from "./struct.ts";

export const KvmUserTraceSetup = struct({ buf_size: u32, buf_nr: u32 });

export const KvmBreakpoint = struct({ enabled: u32, padding: u32, address: u64 });

export const KvmDebugGuest = struct({
  enabled: u32,
  pad: u32,
  breakpoints: array(KvmBreakpoint, 4),
  singlestep: u32,
});

export const KvmMemoryRegion = struct({ slot: u32, flags: u32, guest_phys_addr: u64, memory_size: u64 });

export const KVM_X86_DISABLE_VALID_EXITS =
  KVM_X86_DISABLE_EXITS_MWAIT |
  KVM_X86_DISABLE_EXITS_HLT |
  KVM_X86_DISABLE_EXITS_PAUSE |
  KVM_X86_DISABLE_EXITS_CSTATE;

export const KVM_DEV_ASSIGN_ENABLE_IOMMU = 1 << 0;
export const KVM_DEV_ASSIGN_PCI_2_3 = 1 << 1;
export const KVM_DEV_ASSIGN_MASK_INTX = 1 << 2;

export const KvmAssignedPciDev = struct({
  assigned_dev_id: u32,
  busnr: u32,
  devfn: u32,
  flags: u32,
  segnr: u32,
  anonymous: anonymous(union({ reserved: array(u32, 11) })),
});

export const KVM_DEV_IRQ_HOST_INTX = 1 << 0;
export const KVM_DEV_IRQ_HOST_MSI = 1 << 1;
export const KVM_DEV_IRQ_HOST_MSIX = 1 << 2;
export const KVM_DEV_IRQ_GUEST_INTX = 1 << 8;
export const KVM_DEV_IRQ_GUEST_MSI = 1 << 9;
export const KVM_DEV_IRQ_GUEST_MSIX = 1 << 10;
export const KVM_DEV_IRQ_HOST_MASK = 0x00ff;
export const KVM_DEV_IRQ_GUEST_MASK = 0xff00;

export const KvmAssignedIrq = struct({
  assigned_dev_id: u32,
  host_irq: u32,
  guest_irq: u32,
  flags: u32,
  anonymous: anonymous(union({ reserved: array(u32, 12) })),
});

export const KvmAssignedMsixNr = struct({ assigned_dev_id: u32, entry_nr: u16, padding: u16 });

export const KVM_MAX_MSIX_PER_DEV = 256;

export const KvmAssignedMsixEntry = struct({
  assigned_dev_id: u32,
  gsi: u32,
  entry: u16,
  padding: array(u16, 3),
});

export const KvmMemoryAlias = struct({
  slot: u32,
  flags: u32,
  guest_phys_addr: u64,
  memory_size: u64,
  target_phys_addr: u64,
});

export const __KVM_DEPRECATED_MAIN_W_0x06 = iow(KVMIO, 0x06, KvmUserTraceSetup, { on: "system" });
export const __KVM_DEPRECATED_MAIN_0x07 = io(KVMIO, 0x07, { on: "system" });
export const __KVM_DEPRECATED_MAIN_0x08 = io(KVMIO, 0x08, { on: "system" });
export const __KVM_DEPRECATED_VM_R_0x70 = ior(KVMIO, 0x70, KvmAssignedIrq, { on: "vm", copy: "in" });
export const __KVM_DEPRECATED_VCPU_W_0x87 = iow(KVMIO, 0x87, KvmDebugGuest, { on: "vcpu" });
export const KVM_SET_MEMORY_REGION = iow(KVMIO, 0x40, KvmMemoryRegion, { on: "vm" });
export const KVM_SET_MEMORY_ALIAS = iow(KVMIO, 0x43, KvmMemoryAlias, { on: "vm" });
export const KVM_ASSIGN_PCI_DEVICE = ior(KVMIO, 0x69, KvmAssignedPciDev, { on: "vm", copy: "in" });
export const KVM_ASSIGN_DEV_IRQ = iow(KVMIO, 0x70, KvmAssignedIrq, { on: "vm" });
export const KVM_DEASSIGN_PCI_DEVICE = iow(KVMIO, 0x72, KvmAssignedPciDev, { on: "vm" });
export const KVM_ASSIGN_SET_MSIX_NR = iow(KVMIO, 0x73, KvmAssignedMsixNr, { on: "vm" });
export const KVM_ASSIGN_SET_MSIX_ENTRY = iow(KVMIO, 0x74, KvmAssignedMsixEntry, { on: "vm" });
export const KVM_DEASSIGN_DEV_IRQ = iow(KVMIO, 0x75, KvmAssignedIrq, { on: "vm" });
export const KVM_ASSIGN_SET_INTX_MASK = iow(KVMIO, 0xa4, KvmAssignedPciDev, { on: "vm" });

// Older names of the same requests.
export const KVM_ASSIGN_IRQ = __KVM_DEPRECATED_VM_R_0x70;
export const KVM_TRACE_ENABLE = __KVM_DEPRECATED_MAIN_W_0x06;
export const KVM_TRACE_PAUSE = __KVM_DEPRECATED_MAIN_0x07;
export const KVM_TRACE_DISABLE = __KVM_DEPRECATED_MAIN_0x08;
export const KVM_DEBUG_GUEST = __KVM_DEPRECATED_VCPU_W_0x87;
