/**
 * A PCI device that vfio-pci owns, as VFIO shows it: information, regions, interrupts, resets, features
 * (drivers/vfio/pci/vfio_pci_core.c, vfio_main.c, 6.1 and 6.12). Interrupts are in irqs.ts, configuration space in
 * config-space.ts, the rest of the file in regions.ts.
 *
 * Opening enables the device and resets it where it can be reset; closing turns its interrupts off, resets it, and puts
 * back what it was opened with.
 *
 * Low power: the device sleeps from the end of the request that asked for it until the next request; its mappings take
 * SIGBUS until low power is left.
 *
 * Missing: migration and dirty logging (a device without them: ENOTTY), DMA buffers, virtual functions and their token,
 * VGA, device specific regions.
 */
import { EEXIST, EFAULT, EINVAL, ENODEV, ENOMEM, ENOSPC, ENOTTY } from "../abi/errno.ts";
import {
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_DEVICE_ID,
  PCI_PM_CTRL,
  PCI_PM_CTRL_NO_SOFT_RESET,
  PCI_VENDOR_ID,
} from "../abi/pci.ts";
import { load16, load32, loadNumber64, store32, store64 } from "../abi/struct.ts";
import {
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_FEATURE_DMA_BUF,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_IOEVENTFD,
  VFIO_DEVICE_IOEVENTFD_SIZE_MASK,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_INFO_NORESIZE,
  VFIO_PCI_BAR5_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_PCI_REQ_IRQ_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
  VfioDeviceFeature,
  VfioDeviceInfo,
  VfioDeviceIoeventfd,
  VfioIrqInfo,
  VfioRegionInfo,
} from "../abi/vfio.ts";
import type { PciDevice } from "../hardware/pci-device.ts";
import type { Backing } from "../kernel/address-space.ts";
import type { Argument } from "../kernel/argument.ts";
import type { EventFd } from "../kernel/eventfd.ts";
import type { HostIrqs } from "../kernel/irq.ts";
import type { Process } from "../kernel/process.ts";
import { type ConfigEffects, VfioConfigSpace } from "./config-space.ts";
import { resetFunction, resetHardware, restoreState, saveState, setPowerState } from "./function-reset.ts";
import type { VfioGroup } from "./group.ts";
import type { PciFunction, VfioHost } from "./host.ts";
import { hotReset, hotResetInfo } from "./hot-reset.ts";
import { VfioIrqs } from "./irqs.ts";
import { accessBar, canMap, mapBar, REGION_STRIDE, type RegionOwner } from "./regions.ts";
import { type CreateVfioDevice, VfioDevice } from "./vfio-device.ts";
import { enableVirqfd, eventfdOf, type Virqfd } from "./virqfd.ts";

/** The PCI devices of a host as hardware, and the interrupts of the host they are wired to. */
export interface PciHardware {
  readonly irqs: HostIrqs;
  /** vfio-pci was loaded with this option: INTx is masked at the pin. Its parameter in sysfs changes nothing later */
  readonly nointxmask: boolean;
  /** a function that the profile does not describe has its ids, and nothing else */
  device(address: string): PciDevice;
  /** registers that were read though no model knows them, as ranges of the device's file; whoever compares takes them */
  readonly unmodelled: { offset: number; length: number }[];
  /** whether the bus below this device's bridge comes back after it is reset */
  busReturns(address: string): boolean;
}

/** ioeventfds of a device at most (VFIO_PCI_IOEVENTFD_MAX). */
const IOEVENTFD_MAX = 1000;
const CAPABILITY_SIZE = 8;

interface Ioeventfd {
  readonly index: number;
  readonly at: number;
  readonly width: number;
  readonly lo: number;
  readonly hi: number;
  virqfd: Virqfd | undefined;
}

export class PciVfioDevice extends VfioDevice implements RegionOwner, ConfigEffects {
  readonly pci: PciDevice;
  readonly hardware: PciHardware;
  readonly irqs: VfioIrqs;
  #config: VfioConfigSpace | undefined;
  /** whether a reset of the function works: found out when it is opened */
  resetWorks = false;
  #opened: Uint8Array | undefined;
  /** configuration as it was before D3hot, of a function that is reset on its way back */
  #beforeSleep: Uint8Array | undefined;
  #ioeventfds: Ioeventfd[] = [];
  /** low power was asked for */
  #lowPower = false;
  #wakeup: EventFd | undefined;
  #asleep = false;
  #intxMaskedForSleep = false;

  constructor(
    host: VfioHost,
    pciFunction: PciFunction,
    group: VfioGroup,
    index: number,
    pci: PciDevice,
    hardware: PciHardware,
  ) {
    super(host, pciFunction, group, index);
    this.pci = pci;
    this.hardware = hardware;
    this.irqs = new VfioIrqs(pci, hardware.irqs, host.behaviour);
  }

  // --- opening and closing ----------------------------------------------------------------------------------------

  open(): number {
    const { pci, hardware } = this;
    const { faults } = this.host.kernel;
    const pin = hardware.irqs.pinOf(pci);
    const failed = hardware.irqs.enablePin(pin);
    if (failed < 0) return failed;
    this.#wakeFromIdle();
    this.#command(pci.command & ~PCI_COMMAND_MASTER);
    this.#command(pci.command | this.#decoding());
    this.resetWorks = resetFunction(pci, hardware.irqs) === 0;
    this.#opened = saveState(pci);
    const broken = !hardware.nointxmask && hasBrokenIntx(pci);
    this.irqs.withoutIntx = broken;
    this.irqs.pci23 = this.#canDisableIntx() && !hardware.nointxmask && !broken;
    if (broken) this.#command(pci.command | PCI_COMMAND_INTX_DISABLE);
    if (this.irqs.pci23) this.#command(pci.command & ~PCI_COMMAND_INTX_DISABLE);
    if (faults.allocation("pci config map") || faults.allocation("virtual config")) {
      this.#command(pci.command & ~PCI_COMMAND_MASTER);
      hardware.irqs.disablePin(pin);
      return -ENOMEM;
    }
    this.#config = new VfioConfigSpace(pci, this.irqs, this, pci.pin !== 0 && pin !== 0 && !broken);
    return 0;
  }

  close(): void {
    const { pci, hardware } = this;
    this.#resume();
    this.#leaveLowPower();
    this.setPowerState(0);
    this.#command(pci.command & ~PCI_COMMAND_MASTER);
    this.irqs.release();
    for (const { virqfd } of this.#ioeventfds.splice(0)) virqfd!.disable();
    this.#config = undefined;
    const opened = this.#opened!;
    restoreState(pci, opened, hardware.irqs);
    this.#command(PCI_COMMAND_INTX_DISABLE);
    if (this.resetWorks) resetHardware(pci);
    restoreState(pci, opened, hardware.irqs);
    this.#command(pci.command & ~PCI_COMMAND_MASTER);
    hardware.irqs.disablePin(hardware.irqs.pinOf(pci));
  }

  request(): void {
    this.irqs.req?.signal();
  }

  /** While nobody has it open the host lets a function sleep in D3hot. */
  #wakeFromIdle(): void {
    if (this.pci.powerState !== 3) return;
    const saved = saveState(this.pci);
    setPowerState(this.pci, 0);
    restoreState(this.pci, saved, this.hardware.irqs);
  }

  #command(value: number): void {
    if (value !== this.pci.command) this.pci.writeConfig(PCI_COMMAND, 2, value);
  }

  /** The bits of the command register that its BARs need. */
  #decoding(): number {
    let bits = 0;
    for (const bar of this.pci.bars)
      if (bar !== undefined) bits |= bar.type === "io" ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    return bits;
  }

  /** pci_intx_mask_supported: the bit can be changed. */
  #canDisableIntx(): boolean {
    const before = this.pci.command;
    this.pci.writeConfig(PCI_COMMAND, 2, before ^ PCI_COMMAND_INTX_DISABLE);
    const changed = this.pci.command !== before;
    this.#command(before);
    return changed;
  }

  // --- power ------------------------------------------------------------------------------------------------------

  get #needsRestore(): boolean {
    const at = this.pci.pmCapability;
    return at !== 0 && (load16(this.pci.config, at + PCI_PM_CTRL) & PCI_PM_CTRL_NO_SOFT_RESET) === 0;
  }

  setPowerState(state: number): void {
    const { pci } = this;
    const before = pci.powerState;
    const saved = this.#needsRestore && before < 3 && state === 3 ? saveState(pci) : undefined;
    if (!setPowerState(pci, state)) return;
    if (saved !== undefined) this.#beforeSleep = saved;
    else if (this.#beforeSleep !== undefined && before === 3 && state === 0) {
      restoreState(pci, this.#beforeSleep, this.hardware.irqs);
      this.#beforeSleep = undefined;
    }
  }

  get memoryOn(): boolean {
    return this.pci.powerState !== 3 && this.#config!.memoryEnabled;
  }

  get mapped(): boolean {
    return !this.#lowPower && this.#config !== undefined && this.memoryOn;
  }

  get wideAccess(): boolean {
    return this.host.behaviour.vfioWideAccess;
  }

  unmodelled(offset: number, length: number): void {
    this.hardware.unmodelled.push({ offset, length });
  }

  resetFunction(): void {
    resetFunction(this.pci, this.hardware.irqs);
  }

  #enterLowPower(wakeup: EventFd | undefined): number {
    if (this.#lowPower) return -EINVAL;
    this.#lowPower = true;
    this.#wakeup = wakeup;
    return 0;
  }

  #leaveLowPower(): void {
    this.#lowPower = false;
    this.#wakeup = undefined;
  }

  /** The end of a request: with low power asked for, the device sleeps. */
  #suspend(): void {
    if (!this.#lowPower || this.#asleep) return;
    this.setPowerState(0);
    this.#intxMaskedForSleep = this.irqs.type === VFIO_PCI_INTX_IRQ_INDEX && this.irqs.mask();
    this.#asleep = true;
  }

  /** A request wakes the device up; one that is to be told leaves low power with that. */
  #resume(): void {
    if (!this.#asleep) return;
    this.#asleep = false;
    const wakeup = this.#wakeup;
    if (wakeup !== undefined) {
      wakeup.signal();
      this.#leaveLowPower();
    }
    if (this.#intxMaskedForSleep) this.irqs.unmask();
    this.#intxMaskedForSleep = false;
  }

  // --- requests ---------------------------------------------------------------------------------------------------

  ioctl(process: Process, request: number, user: Argument): number {
    this.#resume();
    const result = this.#request(process, request, user);
    this.#suspend();
    return result;
  }

  #request(process: Process, request: number, user: Argument): number {
    switch (request) {
      case VFIO_DEVICE_SET_IRQS.number:
        return this.irqs.set(process, user, (index) => this.#irqCount(index));
      case VFIO_DEVICE_GET_INFO.number:
        return this.#info(user);
      case VFIO_DEVICE_GET_REGION_INFO.number:
        return this.#regionInfo(user);
      case VFIO_DEVICE_GET_IRQ_INFO.number:
        return this.#irqInfo(user);
      case VFIO_DEVICE_RESET.number:
        return this.#reset();
      case VFIO_DEVICE_GET_PCI_HOT_RESET_INFO.number:
        return hotResetInfo(this, user);
      case VFIO_DEVICE_PCI_HOT_RESET.number:
        return hotReset(this, process, user);
      case VFIO_DEVICE_IOEVENTFD.number:
        return this.#ioeventfd(process, user);
      case VFIO_DEVICE_FEATURE.number:
        return this.#feature(process, user);
      default:
        return -ENOTTY;
    }
  }

  /** `struct vfio_device_info`: the answer is as long as argsz says, 16 to 24 bytes (6.1: 16 or 20). */
  #info(user: Argument): number {
    const least = VfioDeviceInfo.offsetOf.cap_offset;
    if (!user.readable(least)) return -EFAULT;
    const argsz = load32(user.bytes, user.at);
    if (argsz < least) return -EINVAL;
    const whole = this.host.behaviour.vfioDeviceInfoWhole;
    const size = whole ? Math.min(argsz, VfioDeviceInfo.size) : argsz >= least + 4 ? least + 4 : least;
    if (!user.writable(size)) return -EFAULT;
    const { bytes, at } = user;
    bytes.fill(0, at + least, at + size);
    const info = VfioDeviceInfo.at(bytes, at);
    info.flags = VFIO_DEVICE_FLAGS_PCI | (this.resetWorks ? VFIO_DEVICE_FLAGS_RESET : 0);
    info.num_regions = VFIO_PCI_NUM_REGIONS;
    info.num_irqs = VFIO_PCI_NUM_IRQS;
    return 0;
  }

  /** `struct vfio_region_info`; where the table of MSI-X may be mapped, a capability of 8 bytes says so. */
  #regionInfo(user: Argument): number {
    if (!user.readable(VfioRegionInfo.size)) return -EFAULT;
    const argsz = load32(user.bytes, user.at);
    if (argsz < VfioRegionInfo.size) return -EINVAL;
    const { index } = VfioRegionInfo.at(user.bytes, user.at);
    if (index > VFIO_PCI_CONFIG_REGION_INDEX) return -EINVAL;
    const { pci } = this;
    const bar = pci.bars[index];
    let flags = 0;
    let size = 0;
    let capability = false;
    if (index === VFIO_PCI_CONFIG_REGION_INDEX) {
      size = this.#config!.size;
      flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    } else if (index === VFIO_PCI_ROM_REGION_INDEX) {
      size = pci.rom;
      flags = size === 0 ? 0 : VFIO_REGION_INFO_FLAG_READ;
    } else if (bar !== undefined) {
      size = bar.size;
      flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
      if (canMap(pci, bar)) {
        flags |= VFIO_REGION_INFO_FLAG_MMAP;
        capability = index === pci.msixTable?.bar;
      }
    }
    const room = argsz >= VfioRegionInfo.size + CAPABILITY_SIZE;
    if (!user.writable(VfioRegionInfo.size + (capability && room ? CAPABILITY_SIZE : 0))) return -EFAULT;
    const { bytes, at } = user;
    const info = VfioRegionInfo.at(bytes, at);
    if (capability) {
      flags |= VFIO_REGION_INFO_FLAG_CAPS;
      info.cap_offset = room ? VfioRegionInfo.size : 0;
      if (room) {
        store32(bytes, at + VfioRegionInfo.size, VFIO_REGION_INFO_CAP_MSIX_MAPPABLE | (1 << 16));
        store32(bytes, at + VfioRegionInfo.size + 4, 0);
      } else info.argsz = VfioRegionInfo.size + CAPABILITY_SIZE;
    }
    info.flags = flags;
    store64(bytes, at + VfioRegionInfo.offsetOf.size, size);
    store64(bytes, at + VfioRegionInfo.offsetOf.offset, index * REGION_STRIDE);
    return 0;
  }

  #irqCount(index: number): number {
    switch (index) {
      case VFIO_PCI_INTX_IRQ_INDEX:
        return this.#config!.interruptPin !== 0 ? 1 : 0;
      case VFIO_PCI_MSI_IRQ_INDEX:
        return this.pci.msi?.vectors ?? 0;
      case VFIO_PCI_MSIX_IRQ_INDEX:
        return this.pci.msix?.vectors ?? 0;
      case VFIO_PCI_ERR_IRQ_INDEX:
        return this.pci.expCapability !== 0 ? 1 : 0;
      case VFIO_PCI_REQ_IRQ_INDEX:
        return 1;
      default:
        return 0;
    }
  }

  #irqInfo(user: Argument): number {
    if (!user.writable(VfioIrqInfo.size)) return -EFAULT;
    const info = VfioIrqInfo.at(user.bytes, user.at);
    const { index } = info;
    if (info.argsz < VfioIrqInfo.size || index >= VFIO_PCI_NUM_IRQS) return -EINVAL;
    if (index === VFIO_PCI_ERR_IRQ_INDEX && this.pci.expCapability === 0) return -EINVAL;
    let flags = VFIO_IRQ_INFO_EVENTFD;
    if (index === VFIO_PCI_INTX_IRQ_INDEX) flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
    else if (this.irqs.fixedSize(index)) flags |= VFIO_IRQ_INFO_NORESIZE;
    info.flags = flags;
    info.count = this.#irqCount(index);
    return 0;
  }

  #reset(): number {
    if (!this.resetWorks) return -EINVAL;
    this.setPowerState(0);
    return resetFunction(this.pci, this.hardware.irqs);
  }

  /** After a reset of the whole bus: nothing of the function is on any more. */
  resetWithBus(): void {
    const saved = saveState(this.pci);
    this.pci.reset();
    restoreState(this.pci, saved, this.hardware.irqs);
  }

  // --- ioeventfd --------------------------------------------------------------------------------------------------

  /**
   * An eventfd whose signal writes a value to a BAR. EINVAL: flags, a descriptor below −1, no BAR, beyond its end, into
   * the MSI-X table; EEXIST; without a descriptor ENODEV for one that does not exist; ENOSPC for more than 1000.
   */
  #ioeventfd(process: Process, user: Argument): number {
    const least = VfioDeviceIoeventfd.offsetOf.reserved;
    if (!user.readable(least)) return -EFAULT;
    const request = VfioDeviceIoeventfd.at(user.bytes, user.at);
    const { argsz, flags, fd } = request;
    if (argsz < least || (flags & ~VFIO_DEVICE_IOEVENTFD_SIZE_MASK) !== 0) return -EINVAL;
    if (flags === 0 || (flags & (flags - 1)) !== 0 || fd < -1) return -EINVAL;
    if (flags === 8 && this.host.behaviour.vfioIoeventfdNarrow) return -EINVAL;
    const offset = loadNumber64(user.bytes, user.at + VfioDeviceIoeventfd.offsetOf.offset);
    const index = Math.floor(offset / REGION_STRIDE);
    const at = offset % REGION_STRIDE;
    const bar = index <= VFIO_PCI_BAR5_REGION_INDEX ? this.pci.bars[index] : undefined;
    if (bar === undefined || at + flags > bar.size) return -EINVAL;
    const table = this.pci.msixTable;
    if (table?.bar === index && at + flags > table.offset && at < table.offset + table.size) return -EINVAL;
    const lo = load32(user.bytes, user.at + VfioDeviceIoeventfd.offsetOf.data);
    const hi = load32(user.bytes, user.at + VfioDeviceIoeventfd.offsetOf.data + 4);
    const place = this.#ioeventfds.findIndex(
      (each) =>
        each.index === index && each.at === at && each.width === flags && each.lo === lo && each.hi === hi,
    );
    if (place >= 0) {
      if (fd !== -1) return -EEXIST;
      this.#ioeventfds.splice(place, 1)[0].virqfd!.disable();
      return 0;
    }
    if (fd < 0) return -ENODEV;
    if (this.#ioeventfds.length >= IOEVENTFD_MAX) return -ENOSPC;
    return this.#addIoeventfd(process, fd, { index, at, width: flags, lo, hi, virqfd: undefined });
  }

  #addIoeventfd(process: Process, fd: number, entry: Ioeventfd): number {
    const { pci } = this;
    if (this.host.kernel.faults.allocation("vfio_pci_ioeventfd")) return -ENOMEM;
    const memory = pci.bars[entry.index]!.type === "mem";
    const value =
      entry.width === 8
        ? (BigInt(entry.hi) << 32n) | BigInt(entry.lo)
        : (entry.lo & widthMask(entry.width)) >>> 0;
    const write = (): boolean => {
      if (!memory || this.memoryOn) pci.writeBar(entry.index, entry.at, entry.width, value);
      return false;
    };
    const virqfd = enableVirqfd(
      process,
      fd,
      write,
      () => {},
      () => {},
    );
    if (typeof virqfd === "number") return virqfd;
    entry.virqfd = virqfd;
    this.#ioeventfds.push(entry);
    return 0;
  }

  // --- features ---------------------------------------------------------------------------------------------------

  /** EFAULT; EINVAL: size, unknown flags, GET and SET together; ENOTTY: a feature that the device does not have. */
  #feature(process: Process, user: Argument): number {
    if (!user.readable(VfioDeviceFeature.size)) return -EFAULT;
    const { argsz, flags } = VfioDeviceFeature.at(user.bytes, user.at);
    const { size } = VfioDeviceFeature;
    if (argsz < size) return -EINVAL;
    const ways = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
    if ((flags & ~(VFIO_DEVICE_FEATURE_MASK | ways | VFIO_DEVICE_FEATURE_PROBE)) !== 0) return -EINVAL;
    if ((flags & VFIO_DEVICE_FEATURE_PROBE) === 0 && (flags & ways) === ways) return -EINVAL;
    switch (flags & VFIO_DEVICE_FEATURE_MASK) {
      case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: {
        const may = settable(flags, argsz - size, 0);
        return may <= 0 ? may : this.#enterLowPower(undefined);
      }
      case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: {
        const may = settable(flags, argsz - size, 8);
        return may <= 0 ? may : this.#enterWithWakeup(process, user);
      }
      case VFIO_DEVICE_FEATURE_LOW_POWER_EXIT: {
        const may = settable(flags, argsz - size, 0);
        if (may <= 0) return may;
        this.#leaveLowPower();
        return 0;
      }
      case VFIO_DEVICE_FEATURE_DMA_BUF:
        return this.host.behaviour.vfioDmaBuf ? dmaBuf(flags) : -ENOTTY;
      case VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2:
        return this.host.behaviour.vfioPrecopyInfo ? -EINVAL : -ENOTTY;
      default:
        return -ENOTTY;
    }
  }

  #enterWithWakeup(process: Process, user: Argument): number {
    if (!user.readable(8, VfioDeviceFeature.size)) return -EFAULT;
    const fd = load32(user.bytes, user.at + VfioDeviceFeature.size) | 0;
    if (fd < 0) return -EINVAL;
    const eventfd = eventfdOf(process, fd);
    return typeof eventfd === "number" ? eventfd : this.#enterLowPower(eventfd);
  }

  // --- the file ---------------------------------------------------------------------------------------------------

  read(user: Argument, count: number, offset: number): number {
    return this.#access(user, count, offset, false);
  }

  write(user: Argument, count: number, offset: number): number {
    return this.#access(user, count, offset, true);
  }

  #access(user: Argument, count: number, offset: number, writing: boolean): number {
    if (count === 0) return 0;
    const index = Math.floor(offset / REGION_STRIDE);
    if (index >= VFIO_PCI_NUM_REGIONS) return -EINVAL;
    this.#resume();
    const result = this.#accessRegion(user, count, index, offset - index * REGION_STRIDE, writing);
    this.#suspend();
    return result;
  }

  #accessRegion(user: Argument, count: number, index: number, at: number, writing: boolean): number {
    if (index === VFIO_PCI_CONFIG_REGION_INDEX)
      return writing ? this.#config!.write(user, count, at) : this.#config!.read(user, count, at);
    if (index > VFIO_PCI_ROM_REGION_INDEX || (index === VFIO_PCI_ROM_REGION_INDEX && writing)) return -EINVAL;
    return accessBar(this, user, count, index, at, writing);
  }

  mmap(offset: number, length: number, _prot: number, shared: boolean): Backing | number {
    const index = Math.floor(offset / REGION_STRIDE);
    if (index > VFIO_PCI_BAR5_REGION_INDEX) return -EINVAL;
    return mapBar(this, index, offset - index * REGION_STRIDE, length, shared);
  }
}

/**
 * Controllers that can disable INTx but do not show that they assert it: their pin is hidden, and INTx stays disabled
 * (drivers/vfio/pci/vfio_pci_core.c:vfio_pci_nointx, 6.1: XL710, X710, XXV710, X722, X550).
 */
function hasBrokenIntx(pci: PciDevice): boolean {
  if (load16(pci.config, PCI_VENDOR_ID) !== 0x8086) return false;
  const id = load16(pci.config, PCI_DEVICE_ID);
  const alone = [0x1572, 0x1574, 0x1580, 0x1581, 0x1563];
  return alone.includes(id) || (id >= 0x1583 && id <= 0x158b) || (id >= 0x37d0 && id <= 0x37d2);
}

const widthMask = (width: number): number => (width === 4 ? -1 : 2 ** (8 * width) - 1);

/** vfio_check_feature of a feature that can be set: 1 to do it, 0 for a probe, EINVAL. */
function settable(flags: number, given: number, needed: number): number {
  if ((flags & VFIO_DEVICE_FEATURE_GET) !== 0) return -EINVAL;
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) return 0;
  if ((flags & VFIO_DEVICE_FEATURE_SET) === 0 || given < needed) return -EINVAL;
  return 1;
}

/** A feature that can be asked about, and answers EINVAL to whoever wants it: no buffer is ever exported here. */
const dmaBuf = (flags: number): number =>
  (flags & VFIO_DEVICE_FEATURE_SET) === 0 && (flags & VFIO_DEVICE_FEATURE_PROBE) !== 0 ? 0 : -EINVAL;

/** Makes the devices of a host whose hardware this is. */
export const pciVfioDevices =
  (hardware: PciHardware): CreateVfioDevice =>
  (host, pciFunction, group, index) =>
    new PciVfioDevice(host, pciFunction, group, index, hardware.device(pciFunction.address), hardware);

/** What differs between releases here; the machine floor fills it in. */
export interface VfioDeviceBehaviour {
  /** reads and writes of 8 bytes reach the device as one access */
  readonly vfioWideAccess: boolean;
  /** VFIO_DEVICE_GET_INFO answers as many bytes as argsz says; before, 16 or 20 */
  readonly vfioDeviceInfoWhole: boolean;
  /** an ioeventfd writes at most 4 bytes; before, 8 */
  readonly vfioIoeventfdNarrow: boolean;
  /** the feature VFIO_DEVICE_FEATURE_DMA_BUF is known */
  readonly vfioDmaBuf: boolean;
  /** the feature VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 is known: EINVAL for a device without migration */
  readonly vfioPrecopyInfo: boolean;
  /** VFIO_DEVICE_PCI_HOT_RESET without a group is EINVAL before anything else is looked at */
  readonly vfioHotResetCountFirst: boolean;
}
