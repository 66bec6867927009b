/**
 * Assignment of PCI devices by KVM itself, before VFIO: KVM_ASSIGN_PCI_DEVICE and its kin, of releases up to 4.11; from
 * 4.12 on they answer ENOTTY like any unknown request. Worked out from source (arch/x86/kvm/assigned-dev.c, 4.11;
 * virt/kvm/assigned-dev.c, 3.7), not recorded.
 *
 * `struct kvm_assigned_pci_dev`, 64 bytes: id u32 @0 (the program's choice), bus u32 @4, devfn u32 @8, flags u32 @12,
 * segment u32 @16. `struct kvm_assigned_irq`, 64 bytes: id u32 @0, host_irq u32 @4 (ignored), guest_irq u32 @8, flags
 * u32 @12: at most one of HOST_INTX/MSI/MSIX (1, 2, 4) and one of GUEST_INTX/MSI/MSIX (0x100, 0x200, 0x400).
 *
 * The host's side and the guest's side of an interrupt are assigned and taken back each for itself. MSI-X on the host's
 * side needs its entries first: how many (SET_MSIX_NR, once), then each with its GSI (SET_MSIX_ENTRY). All of them are
 * requested at once, so that all are unmasked in the device. They cannot be changed in number without starting over.
 *
 * Missing: the DMA mapping of guest memory (kvm_iommu_map_pages), permissions of sysfs.
 */
import {
  EBUSY,
  EEXIST,
  EFAULT,
  EINVAL,
  EIO,
  ENODEV,
  ENOMEM,
  ENOSPC,
  ENXIO,
  EOPNOTSUPP,
  EPERM,
} from "../abi/errno.ts";
import {
  __KVM_DEPRECATED_VM_R_0x70,
  KVM_ASSIGN_DEV_IRQ,
  KVM_ASSIGN_PCI_DEVICE,
  KVM_ASSIGN_SET_INTX_MASK,
  KVM_ASSIGN_SET_MSIX_ENTRY,
  KVM_ASSIGN_SET_MSIX_NR,
  KVM_DEASSIGN_DEV_IRQ,
  KVM_DEASSIGN_PCI_DEVICE,
  KVM_DEV_ASSIGN_ENABLE_IOMMU,
  KVM_DEV_ASSIGN_MASK_INTX,
  KVM_DEV_ASSIGN_PCI_2_3,
  KVM_DEV_IRQ_GUEST_INTX,
  KVM_DEV_IRQ_GUEST_MASK,
  KVM_DEV_IRQ_GUEST_MSIX,
  KVM_DEV_IRQ_HOST_INTX,
  KVM_DEV_IRQ_HOST_MASK,
  KVM_DEV_IRQ_HOST_MSI,
  KVM_DEV_IRQ_HOST_MSIX,
  KVM_MAX_MSIX_PER_DEV,
  KvmAssignedIrq,
  KvmAssignedMsixEntry,
  KvmAssignedMsixNr,
  KvmAssignedPciDev,
} from "../abi/kvm-legacy.ts";
import { PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, PCI_STATUS_INTERRUPT } from "../abi/pci.ts";
import { load16, load32 } from "../abi/struct.ts";
import type { PciDevice } from "../hardware/pci-device.ts";
import type { Argument } from "../kernel/argument.ts";
import type { HostIrqs, IrqHandler, MsiIrq } from "../kernel/irq.ts";
import type { Entry, Handler } from "./dispatch.ts";
import { KVM_IRQFD_RESAMPLE_IRQ_SOURCE_ID, WOULD_BLOCK } from "./irq-routing.ts";
import type { Vm, VmFile } from "./vm.ts";

/** What a host gives KVM for this; the machine floor fills it in for old releases. */
export interface Assignment {
  readonly irqs: HostIrqs;
  readonly iommu: boolean;
  /** a function, and whether it is a bridge; undefined where there is none */
  find(segment: number, bus: number, devfn: number): PciDevice | undefined;
  /** resets a function as far as it can be, and puts its configuration back */
  reset(device: PciDevice): void;
  /** functions that a VM has */
  readonly taken: Set<PciDevice>;
  /**
   * Beyond every release: MSI-X can be turned on without entries, and entries added while it is on: the interface that
   * the developers wished for in 2013.
   */
  readonly growingMsix?: boolean | undefined;
}

const FLAGS = KvmAssignedPciDev.offsetOf.flags;

/** An MSI-X entry: in the device, and the GSI it leads to. */
interface MsixEntry {
  index: number;
  gsi: number;
}

export class AssignedDevice {
  readonly id: number;
  readonly device: PciDevice;
  readonly #vm: Vm;
  readonly #irqs: HostIrqs;
  flags: number;
  /** KVM_DEV_IRQ_* of both sides that are on */
  types = 0;
  /** how many entries MSI-X has, as SET_MSIX_NR said */
  entries: MsixEntry[] = [];
  #requested: MsiIrq[] = [];
  #guestIrq = 0;
  #sourceId = -1;
  #hostIrqDisabled = false;
  #notified = false;
  readonly #intx: IrqHandler = { handle: () => this.#onIntx() };
  readonly #notifier: { gsi: number; acked(): void };

  constructor(vm: Vm, id: number, device: PciDevice, flags: number, irqs: HostIrqs) {
    this.#vm = vm;
    this.#irqs = irqs;
    this.id = id;
    this.device = device;
    this.flags = flags;
    this.#notifier = { gsi: -1, acked: () => this.#acked() };
  }

  get #pci23(): boolean {
    return (this.flags & KVM_DEV_ASSIGN_PCI_2_3) !== 0;
  }

  // ---- the host's side -----------------------------------------------------------------------------------------------

  /** EEXIST: it is on; EINVAL; EIO: the line cannot be had; and what the host's interrupts answer. */
  assignHost(type: number): number {
    if ((this.types & KVM_DEV_IRQ_HOST_MASK) !== 0) return -EEXIST;
    const result =
      type === KVM_DEV_IRQ_HOST_INTX
        ? this.#hostIntx()
        : type === KVM_DEV_IRQ_HOST_MSI
          ? this.#hostMsi()
          : type === KVM_DEV_IRQ_HOST_MSIX
            ? this.#hostMsix()
            : -EINVAL;
    this.#hostIrqDisabled = false;
    if (result === 0) this.types |= type;
    return result;
  }

  #hostIntx(): number {
    const pin = this.#irqs.pinOf(this.device);
    if (pin === 0 || this.#irqs.requestPin(pin, this.#intx, this.#pci23) < 0) return -EIO;
    if (this.#pci23) this.#disableIntx(false);
    return 0;
  }

  #hostMsi(): number {
    const enabled = this.#irqs.enable(this.device, 1, false);
    if (enabled < 0) return enabled;
    const irq = this.#irqs.irqOf(this.device, 0)!;
    if (
      this.#irqs.request(
        irq,
        this.#onMessage(() => this.#guestIrq),
      ) < 0
    ) {
      this.#irqs.disable(this.device);
      return -EIO;
    }
    this.#requested = [irq];
    return 0;
  }

  #hostMsix(): number {
    const growing = this.#vm.host.assignment!.growingMsix === true;
    if (this.entries.length === 0 && !growing) return -EINVAL;
    const indices = this.entries.map(({ index }) => index);
    const enabled = this.#irqs.enableEntries(this.device, indices);
    if (enabled < indices.length) return enabled < 0 ? enabled : -ENOSPC;
    for (const entry of this.entries) {
      const failed = this.#requestEntry(entry);
      if (failed < 0) {
        this.#freeRequested();
        return failed;
      }
    }
    return 0;
  }

  #requestEntry(entry: MsixEntry): number {
    const irq = this.#irqs.irqOf(this.device, entry.index)!;
    const failed = this.#irqs.request(
      irq,
      this.#onMessage(() => entry.gsi),
    );
    if (failed === 0) this.#requested.push(irq);
    return failed;
  }

  #freeRequested(): void {
    for (const irq of this.#requested.splice(0)) this.#irqs.free(irq);
    this.#irqs.disable(this.device);
  }

  #deassignHost(): void {
    if ((this.types & KVM_DEV_IRQ_HOST_INTX) !== 0) {
      if (this.#pci23) this.#disableIntx(true);
      this.#irqs.freePin(this.#irqs.pinOf(this.device), this.#intx);
    } else if ((this.types & (KVM_DEV_IRQ_HOST_MSI | KVM_DEV_IRQ_HOST_MSIX)) !== 0) {
      if ((this.types & KVM_DEV_IRQ_HOST_MSIX) !== 0) this.entries = [];
      this.#freeRequested();
    }
    this.types &= ~KVM_DEV_IRQ_HOST_MASK;
  }

  // ---- the guest's side ----------------------------------------------------------------------------------------------

  /** EEXIST: it is on; EINVAL. */
  assignGuest(type: number, gsi: number): number {
    if ((this.types & KVM_DEV_IRQ_GUEST_MASK) !== 0) return -EEXIST;
    if (type > KVM_DEV_IRQ_GUEST_MSIX) return -EINVAL;
    this.#sourceId = newSourceId(this.#vm);
    this.#guestIrq = gsi;
    this.types |= type;
    if (type !== KVM_DEV_IRQ_GUEST_INTX) return 0;
    this.#notifier.gsi = gsi;
    this.#notified = true;
    this.#vm.routing.addNotifier(this.#notifier);
    return 0;
  }

  #deassignGuest(): void {
    if (this.#notified) this.#vm.routing.removeNotifier(this.#notifier);
    this.#notified = false;
    this.#setGuest(this.#guestIrq, false);
    this.#sourceId = -1;
    this.types &= ~KVM_DEV_IRQ_GUEST_MASK;
  }

  get sourceId(): number {
    return this.#sourceId;
  }

  /** Takes back the sides that are named. EINVAL: no controller; ENXIO: nothing is on. */
  deassign(types: number): number {
    if (this.#vm.arch.irq === undefined) return -EINVAL;
    if (this.types === 0) return -ENXIO;
    if ((types & KVM_DEV_IRQ_HOST_MASK) !== 0) this.#deassignHost();
    if ((types & KVM_DEV_IRQ_GUEST_MASK) !== 0) this.#deassignGuest();
    return 0;
  }

  // ---- interrupts on their way ---------------------------------------------------------------------------------------

  #setGuest(gsi: number, level: boolean): void {
    if (this.#sourceId >= 0) this.#vm.routing.setIrq(this.#sourceId, gsi, level, false);
  }

  /**
   * A message: at once where the GSI leads to one message, else by the interrupt's thread. A message has no source, so
   * it arrives even before the guest's side is on.
   */
  #onMessage(gsiOf: () => number): IrqHandler {
    return {
      handle: () => {
        const gsi = gsiOf();
        const route = this.#vm.routing.routes(gsi);
        if (route === undefined) return true;
        const atOnce = route.next === undefined ? this.#vm.arch.irq!.setInAtomic(route) : WOULD_BLOCK;
        if (atOnce === WOULD_BLOCK) this.#thread(() => this.#setGuest(gsi, true));
        return true;
      },
    };
  }

  #thread(run: () => void): void {
    this.#vm.kernel.work.schedule({ name: "assigned-device", run });
  }

  #disableIntx(disabled: boolean): void {
    const { command } = this.device;
    const wanted = disabled ? command | PCI_COMMAND_INTX_DISABLE : command & ~PCI_COMMAND_INTX_DISABLE;
    if (wanted !== command) this.device.writeConfig(PCI_COMMAND, 2, wanted);
  }

  #onIntx(): boolean {
    if (this.#pci23) {
      if (this.#hostIrqDisabled || (this.device.status & PCI_STATUS_INTERRUPT) === 0) return false;
      this.#disableIntx(true);
    } else this.#irqs.holdPin(this.#irqs.pinOf(this.device));
    this.#hostIrqDisabled = true;
    this.#thread(() => {
      if ((this.flags & KVM_DEV_ASSIGN_MASK_INTX) === 0) this.#setGuest(this.#guestIrq, true);
    });
    return true;
  }

  /** The guest acknowledged: the line goes down, and comes up again where the device still asserts it. */
  #acked(): void {
    this.#setGuest(this.#guestIrq, false);
    if ((this.flags & KVM_DEV_ASSIGN_MASK_INTX) !== 0 || !this.#hostIrqDisabled) return;
    if (this.#pci23 && (this.device.status & PCI_STATUS_INTERRUPT) !== 0) {
      this.#setGuest(this.#guestIrq, true);
      return;
    }
    this.#hostIrqDisabled = false;
    if (this.#pci23) this.#disableIntx(false);
    else this.#irqs.allowPin(this.#irqs.pinOf(this.device));
  }

  /** KVM_ASSIGN_SET_INTX_MASK: what the guest's command register says. */
  maskIntx(flags: number): void {
    this.flags = (this.flags & ~KVM_DEV_ASSIGN_MASK_INTX) | (flags & KVM_DEV_ASSIGN_MASK_INTX);
    if ((this.types & KVM_DEV_IRQ_GUEST_INTX) === 0) return;
    if ((flags & KVM_DEV_ASSIGN_MASK_INTX) !== 0) this.#setGuest(this.#guestIrq, false);
    else if ((flags & KVM_DEV_ASSIGN_PCI_2_3) === 0 && this.#hostIrqDisabled) {
      this.#hostIrqDisabled = false;
      this.#irqs.allowPin(this.#irqs.pinOf(this.device));
    }
  }

  // ---- MSI-X entries -------------------------------------------------------------------------------------------------

  /** KVM_ASSIGN_SET_MSIX_NR. EINVAL: none, too many, or a number is set already; ENOMEM. */
  setEntries(count: number): number {
    if (this.entries.length !== 0 || count === 0 || count > KVM_MAX_MSIX_PER_DEV) return -EINVAL;
    const { faults } = this.#vm.kernel;
    if (faults.allocation("host msix entries") || faults.allocation("guest msix entries")) return -ENOMEM;
    this.entries = Array.from({ length: count }, () => ({ index: 0, gsi: 0 }));
    return 0;
  }

  /** KVM_ASSIGN_SET_MSIX_ENTRY: the first that is free (its GSI is 0), or has this index. ENOSPC. */
  setEntry(index: number, gsi: number): number {
    const entry = this.entries.find((each) => each.gsi === 0 || each.index === index);
    if (entry !== undefined) {
      entry.index = index;
      entry.gsi = gsi;
      return 0;
    }
    const on = (this.types & KVM_DEV_IRQ_HOST_MSIX) !== 0;
    if (!on || this.#vm.host.assignment!.growingMsix !== true) return -ENOSPC;
    return this.#grow({ index, gsi });
  }

  #grow(entry: MsixEntry): number {
    const failed = this.#irqs.extend(this.device, entry.index);
    if (failed < 0) return failed;
    this.entries.push(entry);
    return this.#requestEntry(entry);
  }

  /** The VM gives the device back. */
  free(assignment: Assignment): void {
    this.deassign(this.types);
    assignment.reset(this.device);
    assignment.taken.delete(this.device);
  }
}

/** The lowest id above the fixed ones that no assigned device of the VM has. */
function newSourceId(vm: Vm): number {
  let id = KVM_IRQFD_RESAMPLE_IRQ_SOURCE_ID + 1;
  while (vm.assignedDevices.some(({ sourceId }) => sourceId === id)) id++;
  return id;
}

const find = (vm: Vm, id: number): AssignedDevice | undefined =>
  vm.assignedDevices.find((device) => device.id === id);

/** The VM is gone. */
export function freeAssignedDevices(vm: Vm): void {
  for (const device of vm.assignedDevices.splice(0)) device.free(vm.host.assignment!);
}

// ---- requests ------------------------------------------------------------------------------------------------------

/**
 * arch/x86/kvm/assigned-dev.c:kvm_vm_ioctl_assign_device, iommu.c:kvm_iommu_map_guest (4.11). EFAULT; EINVAL: not with the IOMMU, or no such function; EEXIST: the id is in use; ENOMEM; EPERM:
 * a bridge, a function without BARs, or a host without interrupt remapping; EBUSY: another VM has it; ENODEV: no IOMMU.
 */
function assignPciDevice({ vm }: VmFile, user: Argument, assignment: Assignment): number {
  if (!user.readable(KvmAssignedPciDev.size)) return -EFAULT;
  const { assigned_dev_id: id, busnr, devfn, segnr } = KvmAssignedPciDev.at(user.bytes, user.at);
  const flags = load32(user.bytes, user.at + FLAGS);
  if ((flags & KVM_DEV_ASSIGN_ENABLE_IOMMU) === 0) return -EINVAL;
  if (find(vm, id) !== undefined) return -EEXIST;
  if (vm.kernel.faults.allocation("kvm_assigned_dev_kernel")) return -ENOMEM;
  const device = assignment.find(segnr, busnr, devfn);
  if (device === undefined) return -EINVAL;
  if ((device.readConfig(0x0e, 1) & 0x7f) !== 0) return -EPERM;
  if (device.bars.every((bar) => bar === undefined)) return -EPERM;
  if (assignment.taken.has(device)) return -EBUSY;
  assignment.reset(device);
  if (!assignment.iommu) return -ENODEV;
  if (vm.assignedDevices.length === 0 && vm.kernel.faults.allocation("iommu_domain")) return -ENOMEM;
  if (assignment.irqs.remapping.kind === null) return -EPERM;
  const kept = canDisableIntx(device) ? flags : flags & ~KVM_DEV_ASSIGN_PCI_2_3;
  assignment.taken.add(device);
  vm.assignedDevices.push(new AssignedDevice(vm, id, device, kept, assignment.irqs));
  return 0;
}

function canDisableIntx(device: PciDevice): boolean {
  const before = device.command;
  device.writeConfig(PCI_COMMAND, 2, before ^ PCI_COMMAND_INTX_DISABLE);
  const changed = device.command !== before;
  device.writeConfig(PCI_COMMAND, 2, before);
  return changed;
}

/** KVM_DEASSIGN_PCI_DEVICE. EFAULT; EINVAL: not assigned. */
function deassignPciDevice({ vm }: VmFile, user: Argument, assignment: Assignment): number {
  if (!user.readable(KvmAssignedPciDev.size)) return -EFAULT;
  const device = find(vm, load32(user.bytes, user.at));
  if (device === undefined) return -EINVAL;
  vm.assignedDevices.splice(vm.assignedDevices.indexOf(device), 1);
  device.free(assignment);
  return 0;
}

const several = (bits: number): boolean => (bits & (bits - 1)) !== 0;

/** KVM_ASSIGN_DEV_IRQ. EFAULT; EINVAL: no controller, several types of a side, or none; ENODEV; and what a side answers. */
function assignDevIrq({ vm }: VmFile, user: Argument): number {
  if (!user.readable(KvmAssignedIrq.size)) return -EFAULT;
  if (vm.arch.irq === undefined) return -EINVAL;
  const { assigned_dev_id: id, guest_irq: gsi, flags } = KvmAssignedIrq.at(user.bytes, user.at);
  const device = find(vm, id);
  if (device === undefined) return -ENODEV;
  const host = flags & KVM_DEV_IRQ_HOST_MASK;
  const guest = flags & KVM_DEV_IRQ_GUEST_MASK;
  if (several(host) || several(guest) || (host === 0 && guest === 0)) return -EINVAL;
  const failed = host === 0 ? 0 : device.assignHost(host);
  if (failed < 0 || guest === 0) return failed;
  return device.assignGuest(guest, gsi);
}

/** KVM_DEASSIGN_DEV_IRQ. EFAULT; ENODEV; EINVAL: no controller; ENXIO: nothing is on. */
function deassignDevIrq({ vm }: VmFile, user: Argument): number {
  if (!user.readable(KvmAssignedIrq.size)) return -EFAULT;
  const { assigned_dev_id: id, flags } = KvmAssignedIrq.at(user.bytes, user.at);
  return find(vm, id)?.deassign(flags & (KVM_DEV_IRQ_HOST_MASK | KVM_DEV_IRQ_GUEST_MASK)) ?? -ENODEV;
}

function setMsixNr({ vm }: VmFile, user: Argument): number {
  if (!user.readable(KvmAssignedMsixNr.size)) return -EFAULT;
  const count = load16(user.bytes, user.at + KvmAssignedMsixNr.offsetOf.entry_nr);
  return find(vm, load32(user.bytes, user.at))?.setEntries(count) ?? -EINVAL;
}

function setMsixEntry({ vm }: VmFile, user: Argument): number {
  if (!user.readable(KvmAssignedMsixEntry.size)) return -EFAULT;
  const { assigned_dev_id: id, gsi, entry } = KvmAssignedMsixEntry.at(user.bytes, user.at);
  return find(vm, id)?.setEntry(entry, gsi) ?? -EINVAL;
}

function setIntxMask({ vm }: VmFile, user: Argument): number {
  if (!user.readable(KvmAssignedPciDev.size)) return -EFAULT;
  const device = find(vm, load32(user.bytes, user.at));
  if (device === undefined) return -ENODEV;
  device.maskIntx(load32(user.bytes, user.at + FLAGS));
  return 0;
}

/** A request that only hosts with this kind of assignment know. */
const legacy =
  (handler: (file: VmFile, user: Argument, assignment: Assignment) => number): Handler<VmFile> =>
  (file, user) => {
    const { assignment, arch } = file.vm.host;
    return assignment === undefined ? arch.unknownVmIoctl : handler(file, user, assignment);
  };

export const assignmentIoctls: readonly Entry<VmFile>[] = [
  [KVM_ASSIGN_PCI_DEVICE, legacy(assignPciDevice)],
  [KVM_DEASSIGN_PCI_DEVICE, legacy(deassignPciDevice)],
  [KVM_ASSIGN_DEV_IRQ, legacy(assignDevIrq)],
  [KVM_DEASSIGN_DEV_IRQ, legacy(deassignDevIrq)],
  [KVM_ASSIGN_SET_MSIX_NR, legacy(setMsixNr)],
  [KVM_ASSIGN_SET_MSIX_ENTRY, legacy(setMsixEntry)],
  [KVM_ASSIGN_SET_INTX_MASK, legacy(setIntxMask)],
  [__KVM_DEPRECATED_VM_R_0x70, legacy(() => -EOPNOTSUPP)],
];
