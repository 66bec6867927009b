/**
 * VFIO_DEVICE_SET_IRQS of a PCI device: the interrupts of five indices and the eventfds they signal
 * (drivers/vfio/pci/vfio_pci_intrs.c, 6.1 and 6.12).
 *
 * INTx, MSI and MSI-X exclude each other; ERR and REQ are triggers of their own, beside any of them. The first eventfds
 * turn INTx, MSI or MSI-X on, DATA_NONE with count 0 turns it off.
 *
 * INTx is a level: a signal masks it, until unmask by the program or by an eventfd. A device that can disable INTx
 * itself (`pci23`) is masked there and may share its pin; another has the pin for itself, and is masked at the pin.
 *
 * MSI and MSI-X: turning on may find entries for fewer vectors, then the answer is that number and nothing is on.
 * Binding an eventfd may find no vector (ENOSPC). A block that fails half way loses what it had from its start to the
 * place of the failure; the first block then turns everything off again.
 *
 * Missing: MASK and UNMASK of MSI and MSI-X, which Linux does not have either.
 */
import { EBUSY, EFAULT, EINVAL, ENODEV, ENOMEM, ENOTTY } from "../abi/errno.ts";
import { PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, PCI_STATUS_INTERRUPT } from "../abi/pci.ts";
import { load32 } from "../abi/struct.ts";
import {
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_TYPE_MASK,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_IRQ_SET_DATA_TYPE_MASK,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_NUM_IRQS,
  VfioIrqSet,
} from "../abi/vfio.ts";
import type { PciDevice } from "../hardware/pci-device.ts";
import type { Argument } from "../kernel/argument.ts";
import type { EventFd } from "../kernel/eventfd.ts";
import type { HostIrqs, IrqHandler, MsiIrq } from "../kernel/irq.ts";
import { type BypassProducer, irqBypass } from "../kernel/irq-bypass.ts";
import type { Process } from "../kernel/process.ts";
import { enableVirqfd, eventfdOf, type Virqfd } from "./virqfd.ts";

/** Which of INTx, MSI and MSI-X is on; VFIO_PCI_NUM_IRQS for none. */
const NONE = VFIO_PCI_NUM_IRQS;

/** What differs between releases here. */
export interface VfioIrqBehaviour {
  /** MSI-X can be extended vector by vector while it is on; before, the first enable fixed the number */
  readonly vfioDynamicMsix: boolean;
  /** on ERR and REQ a descriptor below −1 is EINVAL; before, it was ignored */
  readonly vfioTriggerFdChecked: boolean;
}

/** One vector of MSI or MSI-X with its eventfd. */
class Vector implements IrqHandler, BypassProducer {
  readonly irq: MsiIrq;
  readonly token: EventFd;

  constructor(irq: MsiIrq, trigger: EventFd) {
    this.irq = irq;
    this.token = trigger;
  }

  handle(): boolean {
    this.token.signal();
    return true;
  }
}

class Intx {
  trigger: EventFd | undefined;
  masked: boolean;
  unmask: Virqfd | undefined;

  constructor(trigger: EventFd | undefined, masked: boolean) {
    this.trigger = trigger;
    this.masked = masked;
  }
}

export class VfioIrqs implements IrqHandler {
  readonly #device: PciDevice;
  readonly #host: HostIrqs;
  readonly #behaviour: VfioIrqBehaviour;
  readonly #pcie: boolean;
  /** whether the device masks INTx itself */
  pci23 = false;
  /** whether INTx of the device is broken, and stays disabled when MSI and MSI-X are off */
  withoutIntx = false;
  /** whether the program disabled INTx in the command register that it sees */
  intxDisabled = false;
  /** which of INTx, MSI, MSI-X is on */
  type = NONE;
  /** vectors turned on first; MSI-X may have more later */
  #count = 0;
  #intx: Intx | undefined;
  readonly #vectors = new Map<number, Vector>();
  err: EventFd | undefined;
  req: EventFd | undefined;
  /** the largest number of MSI vectors that was on, as a power of two: what the program may ask for in the capability */
  msiMost = 0;

  constructor(device: PciDevice, host: HostIrqs, behaviour: VfioIrqBehaviour) {
    this.#device = device;
    this.#host = host;
    this.#behaviour = behaviour;
    this.#pcie = device.expCapability !== 0;
  }

  /** Whether an index with `vectors` interrupts cannot grow once it is on. */
  fixedSize(index: number): boolean {
    const growing = index === VFIO_PCI_MSIX_IRQ_INDEX && this.#device.msix !== undefined;
    return !(growing && this.#behaviour.vfioDynamicMsix);
  }

  // --- the request ------------------------------------------------------------------------------------------------

  /** VFIO_DEVICE_SET_IRQS; `counts` are the numbers of interrupts by index. */
  set(process: Process, user: Argument, countOf: (index: number) => number): number {
    if (!user.readable(VfioIrqSet.size)) return -EFAULT;
    const head = VfioIrqSet.at(user.bytes, user.at);
    const { argsz, flags, index, start, count } = head;
    const size = checked(argsz, flags, index, start, count, countOf(index));
    if (size < 0) return size;
    if (size !== 0 && !user.readable(size, VfioIrqSet.size)) return -EFAULT;
    if (size !== 0 && process.kernel.faults.allocation("irq set data")) return -ENOMEM;
    const data =
      size === 0 ? none : user.bytes.subarray(user.at + VfioIrqSet.size, user.at + VfioIrqSet.size + size);
    const action = flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
    const kind = flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
    switch (index) {
      case VFIO_PCI_INTX_IRQ_INDEX:
        if (action === VFIO_IRQ_SET_ACTION_MASK) return this.#intxMask(start, count, kind, data);
        if (action === VFIO_IRQ_SET_ACTION_UNMASK) return this.#intxUnmask(process, start, count, kind, data);
        return action === VFIO_IRQ_SET_ACTION_TRIGGER
          ? this.#intxTrigger(process, start, count, kind, data)
          : -ENOTTY;
      case VFIO_PCI_MSI_IRQ_INDEX:
      case VFIO_PCI_MSIX_IRQ_INDEX:
        return action === VFIO_IRQ_SET_ACTION_TRIGGER
          ? this.#msiTrigger(process, index, start, count, kind, data)
          : -ENOTTY;
      case VFIO_PCI_ERR_IRQ_INDEX:
        if (action !== VFIO_IRQ_SET_ACTION_TRIGGER || !this.#pcie) return -ENOTTY;
        return this.#single(process, "err", start, count, kind, data);
      default:
        if (action !== VFIO_IRQ_SET_ACTION_TRIGGER) return -ENOTTY;
        return this.#single(process, "req", start, count, kind, data);
    }
  }

  /** Everything off: the device is closed. */
  release(): void {
    if (this.type === VFIO_PCI_INTX_IRQ_INDEX) this.#intxDisable();
    else if (this.type !== NONE) this.#msiDisable();
    this.intxDisabled = false;
    this.err = undefined;
    this.req = undefined;
  }

  // --- INTx -------------------------------------------------------------------------------------------------------

  #setDisIntx(disabled: boolean): void {
    const { command } = this.#device;
    const wanted = disabled ? command | PCI_COMMAND_INTX_DISABLE : command & ~PCI_COMMAND_INTX_DISABLE;
    if (wanted !== command) this.#device.writeConfig(PCI_COMMAND, 2, wanted);
  }

  #sendIntx(): void {
    if (this.type === VFIO_PCI_INTX_IRQ_INDEX && !this.intxDisabled) this.#intx!.trigger?.signal();
  }

  /** The pin is up: ours if the device asserts it and is not masked. */
  handle(): boolean {
    const intx = this.#intx!;
    if (!this.pci23) this.#host.holdPin(this.#host.pinOf(this.#device));
    else {
      if (intx.masked || (this.#device.status & PCI_STATUS_INTERRUPT) === 0) return false;
      this.#setDisIntx(true);
    }
    intx.masked = true;
    this.#sendIntx();
    return true;
  }

  /** Masks INTx, by the program or by its command register; true if it was not masked before. */
  mask(): boolean {
    const intx = this.#intx;
    if (intx === undefined) {
      if (this.pci23) this.#setDisIntx(true);
      return false;
    }
    if (intx.masked) return false;
    if (this.pci23) this.#setDisIntx(true);
    else this.#host.holdPin(this.#host.pinOf(this.#device));
    intx.masked = true;
    return true;
  }

  /** Unmasks; where the device still asserts INTx it stays masked and the program is told once more. */
  unmask(): void {
    if (this.#unmaskHandler()) this.#sendIntx();
  }

  /** True where a signal is due. */
  #unmaskHandler(): boolean {
    const intx = this.#intx;
    if (intx === undefined) {
      if (this.pci23) this.#setDisIntx(false);
      return false;
    }
    if (!intx.masked || this.intxDisabled) return false;
    if (this.pci23 && (this.#device.status & PCI_STATUS_INTERRUPT) !== 0) return true;
    intx.masked = false;
    if (this.pci23) this.#setDisIntx(false);
    else this.#host.allowPin(this.#host.pinOf(this.#device));
    return false;
  }

  #intxEnable(trigger: EventFd | undefined): number {
    if (this.type !== NONE) return -EINVAL;
    const pin = this.#host.pinOf(this.#device);
    if (pin === 0) return -ENODEV;
    const { faults } = this.#host.kernel;
    if (faults.allocation("intx name") || faults.allocation("intx context")) return -ENOMEM;
    const intx = new Intx(trigger, this.intxDisabled);
    this.#intx = intx;
    if (this.pci23) this.#setDisIntx(intx.masked);
    this.type = VFIO_PCI_INTX_IRQ_INDEX;
    const failed = this.#host.requestPin(pin, this, this.pci23, this.pci23 || !intx.masked);
    if (failed < 0) {
      this.type = NONE;
      this.#intx = undefined;
    }
    return failed;
  }

  #intxDisable(): void {
    this.#intx!.unmask?.disable();
    this.#host.freePin(this.#host.pinOf(this.#device), this);
    this.#intx = undefined;
    this.type = NONE;
  }

  #intxMask(start: number, count: number, kind: number, data: Uint8Array): number {
    if (this.#intx === undefined || start !== 0 || count !== 1) return -EINVAL;
    if (kind === VFIO_IRQ_SET_DATA_EVENTFD) return -ENOTTY;
    if (kind === VFIO_IRQ_SET_DATA_NONE || data[0] !== 0) this.mask();
    return 0;
  }

  #intxUnmask(process: Process, start: number, count: number, kind: number, data: Uint8Array): number {
    const intx = this.#intx;
    if (intx === undefined || start !== 0 || count !== 1) return -EINVAL;
    if (kind !== VFIO_IRQ_SET_DATA_EVENTFD) {
      if (kind === VFIO_IRQ_SET_DATA_NONE || data[0] !== 0) this.unmask();
      return 0;
    }
    const fd = load32(data, 0) | 0;
    if (fd < 0) {
      intx.unmask?.disable();
      intx.unmask = undefined;
      return 0;
    }
    return this.#intxUnmaskBy(process, intx, fd);
  }

  #intxUnmaskBy(process: Process, intx: Intx, fd: number): number {
    if (process.kernel.faults.allocation("virqfd")) return -ENOMEM;
    const eventfd = eventfdOf(process, fd);
    if (typeof eventfd === "number") return eventfd;
    if (intx.unmask !== undefined) return -EBUSY;
    const made = enableVirqfd(
      process,
      fd,
      () => this.#unmaskHandler(),
      () => this.#sendIntx(),
      () => {
        intx.unmask = undefined;
      },
    );
    if (typeof made === "number") return made;
    intx.unmask = made;
    return 0;
  }

  #intxTrigger(process: Process, start: number, count: number, kind: number, data: Uint8Array): number {
    const intx = this.#intx;
    if (intx !== undefined && count === 0 && kind === VFIO_IRQ_SET_DATA_NONE) {
      this.#intxDisable();
      return 0;
    }
    if ((intx === undefined && this.type !== NONE) || start !== 0 || count !== 1) return -EINVAL;
    if (kind === VFIO_IRQ_SET_DATA_EVENTFD) {
      const fd = load32(data, 0) | 0;
      const trigger = fd < 0 ? undefined : eventfdOf(process, fd);
      if (typeof trigger === "number") return trigger;
      if (intx === undefined) return this.#intxEnable(trigger);
      const old = intx.trigger;
      intx.trigger = trigger;
      if (old !== undefined) intx.unmask?.flush();
      return 0;
    }
    if (intx === undefined) return -EINVAL;
    if (kind === VFIO_IRQ_SET_DATA_NONE || data[0] !== 0) this.#sendIntx();
    return 0;
  }

  // --- MSI and MSI-X ----------------------------------------------------------------------------------------------

  #msiTrigger(
    process: Process,
    index: number,
    start: number,
    count: number,
    kind: number,
    data: Uint8Array,
  ): number {
    const on = this.type === index;
    if (on && count === 0 && kind === VFIO_IRQ_SET_DATA_NONE) {
      this.#msiDisable();
      return 0;
    }
    if (!on && this.type !== NONE) return -EINVAL;
    if (kind === VFIO_IRQ_SET_DATA_EVENTFD) {
      if (on) return this.#setBlock(process, start, count, data);
      const enabled = this.#msiEnable(index, start + count);
      if (enabled !== 0) return enabled;
      const failed = this.#setBlock(process, start, count, data);
      if (failed < 0) this.#msiDisable();
      return failed;
    }
    if (!on || (!this.#behaviour.vfioDynamicMsix && start + count > this.#count)) return -EINVAL;
    for (let i = 0; i < count; i++)
      if (kind === VFIO_IRQ_SET_DATA_NONE || data[i] !== 0) this.#vectors.get(start + i)?.token.signal();
    return 0;
  }

  /** 0, or a positive number where only so many would fit, or −errno. */
  #msiEnable(index: number, count: number): number {
    if (!this.#behaviour.vfioDynamicMsix && this.#host.kernel.faults.allocation("irq contexts"))
      return -ENOMEM;
    const msix = index === VFIO_PCI_MSIX_IRQ_INDEX;
    const got = this.#host.enable(this.#device, count, msix);
    if (got < count || got <= 0) return got;
    this.#count = count;
    this.type = index;
    if (!msix) this.msiMost = Math.ceil(Math.log2(count));
    return 0;
  }

  #setBlock(process: Process, start: number, count: number, data: Uint8Array): number {
    if (!this.#behaviour.vfioDynamicMsix && (start >= this.#count || start + count > this.#count))
      return -EINVAL;
    for (let i = 0; i < count; i++) {
      const failed = this.#setVector(process, start + i, load32(data, 4 * i) | 0);
      if (failed >= 0) continue;
      for (let undone = start; undone <= start + i; undone++) this.#clearVector(undone);
      return failed;
    }
    return 0;
  }

  #clearVector(index: number): MsiIrq | undefined {
    const vector = this.#vectors.get(index);
    if (vector === undefined) return undefined;
    irqBypass(this.#host.kernel).removeProducer(vector);
    this.#host.free(vector.irq);
    this.#vectors.delete(index);
    return vector.irq;
  }

  #setVector(process: Process, index: number, fd: number): number {
    const had = this.#clearVector(index);
    if (fd < 0) return 0;
    const { faults } = this.#host.kernel;
    if (!this.#behaviour.vfioDynamicMsix) return this.#bind(process, had ?? index, fd);
    const irq = had ?? this.#allocated(index);
    if (typeof irq === "number") return irq;
    if (faults.allocation("irq context")) return -ENOMEM;
    return this.#bind(process, irq, fd);
  }

  /** The interrupt of a vector; one that MSI-X does not have yet is allocated, and stays until MSI-X is off. */
  #allocated(index: number): MsiIrq | number {
    const there = this.#host.irqOf(this.#device, index);
    if (there !== undefined) return there;
    if (this.type !== VFIO_PCI_MSIX_IRQ_INDEX) return -EINVAL;
    const failed = this.#host.extend(this.#device, index);
    return failed < 0 ? failed : this.#host.irqOf(this.#device, index)!;
  }

  #bind(process: Process, of: MsiIrq | number, fd: number): number {
    if (this.#host.kernel.faults.allocation("irq name")) return -ENOMEM;
    const trigger = eventfdOf(process, fd);
    if (typeof trigger === "number") return trigger;
    const irq = typeof of === "number" ? this.#host.irqOf(this.#device, of)! : of;
    const vector = new Vector(irq, trigger);
    if (this.type === VFIO_PCI_MSIX_IRQ_INDEX) this.#host.rewrite(irq);
    const failed = this.#host.request(irq, vector);
    if (failed < 0) return failed;
    irqBypass(this.#host.kernel).addProducer(vector);
    this.#vectors.set(irq.index, vector);
    return 0;
  }

  #msiDisable(): void {
    for (const index of [...this.#vectors.keys()]) this.#clearVector(index);
    this.#host.disable(this.#device);
    if (this.withoutIntx) this.#setDisIntx(true);
    this.type = NONE;
    this.#count = 0;
  }

  // --- ERR and REQ ------------------------------------------------------------------------------------------------

  #single(
    process: Process,
    which: "err" | "req",
    start: number,
    count: number,
    kind: number,
    data: Uint8Array,
  ): number {
    if (start !== 0 || count > 1) return -EINVAL;
    if (kind === VFIO_IRQ_SET_DATA_NONE) {
      if (this[which] === undefined) return -EINVAL;
      if (count !== 0) this[which].signal();
      else this[which] = undefined;
      return 0;
    }
    if (count === 0) return -EINVAL;
    if (kind === VFIO_IRQ_SET_DATA_BOOL) {
      if (data[0] !== 0) this[which]?.signal();
      return 0;
    }
    const fd = load32(data, 0) | 0;
    if (fd === -1) this[which] = undefined;
    else if (fd >= 0) {
      const eventfd = eventfdOf(process, fd);
      if (typeof eventfd === "number") return eventfd;
      this[which] = eventfd;
    } else if (this.#behaviour.vfioTriggerFdChecked) return -EINVAL;
    return 0;
  }
}

const none = new Uint8Array(0);

/** vfio_set_irqs_validate_and_prepare: bytes of data behind the struct, or −EINVAL. */
function checked(
  argsz: number,
  flags: number,
  index: number,
  start: number,
  count: number,
  interrupts: number,
): number {
  if (argsz < VfioIrqSet.size || index >= VFIO_PCI_NUM_IRQS || count >= 0xffff_ffff - start) return -EINVAL;
  if ((flags & ~(VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK)) !== 0) return -EINVAL;
  if (start >= interrupts || start + count > interrupts) return -EINVAL;
  const size = DATA_SIZE.get(flags & VFIO_IRQ_SET_DATA_TYPE_MASK);
  if (size === undefined) return -EINVAL;
  return argsz - VfioIrqSet.size < size * count ? -EINVAL : size * count;
}

const DATA_SIZE = new Map([
  [VFIO_IRQ_SET_DATA_NONE, 0],
  [VFIO_IRQ_SET_DATA_BOOL, 1],
  [VFIO_IRQ_SET_DATA_EVENTFD, 4],
]);
