/**
 * Linux's own side of device interrupts: pins that devices share, MSI and MSI-X interrupts of a PCI function, and who
 * handles them (kernel/irq/manage.c, kernel/irq/msi.c, drivers/pci/msi/, arch/x86/kernel/apic/vector.c, 6.1 and 6.12).
 *
 * An MSI or MSI-X interrupt goes through three steps, each with a shortage of its own:
 * - allocated: it has an entry of the remapping table, and (if it can be masked) counts as a reservation of a vector;
 * - activated: it has a vector of a processor. One that can be masked is activated when it is requested, one that cannot
 *   already when it is allocated;
 * - requested: it has a handler.
 *
 * A pin (INTx) has its entry while a device on it is enabled, a vector while anybody requests it.
 *
 * A handler runs inside the access that made the device raise its interrupt, unless that happens inside an eventfd's
 * wake-up: then it runs as the work item "interrupt".
 *
 * Missing: threaded handlers, affinity, spurious interrupts that switch a pin off.
 */
import { EBUSY, EINVAL, ENOSPC, ERANGE } from "../abi/errno.ts";
import {
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_MSIX_ENTRY_CTRL_MASKBIT,
  PCI_MSIX_ENTRY_SIZE,
  PCI_MSIX_ENTRY_VECTOR_CTRL,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
} from "../abi/pci.ts";
import type {
  InterruptRemapping,
  MsiMessage,
  PostedInterrupt,
  RemappingBlock,
} from "../hardware/interrupt-remapping.ts";
import type { PciDevice, PciWires } from "../hardware/pci-device.ts";
import type { VectorMatrix } from "../hardware/vector-matrix.ts";
import type { Kernel } from "./kernel.ts";
import type { Work } from "./work-queue.ts";

/** Who handles an interrupt: answers whether it was its own. */
export interface IrqHandler {
  handle(): boolean;
}

/** Where the entries of pins come from: the interrupt controllers of the board are one source. */
const IOAPIC = "ioapic";
/** The vector of interrupts that are reserved but not activated: nobody handles it (MANAGED_IRQ_SHUTDOWN_VECTOR). */
const SHUTDOWN_VECTOR = 0xef;

/** One MSI or MSI-X interrupt of a device. */
export class MsiIrq {
  readonly device: PciDevice;
  readonly index: number;
  readonly block: RemappingBlock;
  readonly message: MsiMessage = { addressLo: 0, addressHi: 0, data: 0 };
  /** cpu × 256 + vector, −1 while not activated */
  place = -1;
  handler: IrqHandler | undefined;
  readonly #remapping: InterruptRemapping;

  constructor(remapping: InterruptRemapping, device: PciDevice, index: number, block: RemappingBlock) {
    this.#remapping = remapping;
    this.device = device;
    this.index = index;
    this.block = block;
  }

  /** its place in its block */
  get entry(): number {
    return this.block.count === 1 ? 0 : this.index;
  }

  /** Hands the interrupt over to a virtual processor: false where the host's remapping cannot. */
  post(to: PostedInterrupt): boolean {
    return this.#remapping.post(this.block, this.entry, to);
  }

  /** Back under the host's control. */
  unpost(): void {
    this.#remapping.unpost(this.block, this.entry);
  }
}

/** The MSI or MSI-X interrupts that a device has. */
interface DeviceIrqs {
  readonly msix: boolean;
  readonly irqs: Map<number, MsiIrq>;
}

class IrqPin {
  readonly devices = new Set<PciDevice>();
  readonly handlers: IrqHandler[] = [];
  shared = true;
  place = -1;
  disabled = 0;
  /** enabled devices on the pin, which share its entry */
  users = 0;
  block: RemappingBlock | undefined;
  running = false;
}

export class HostIrqs implements PciWires {
  readonly kernel: Kernel;
  readonly matrix: VectorMatrix;
  readonly remapping: InterruptRemapping;
  readonly #pins = new Map<number, IrqPin>();
  readonly #pinOf = new Map<PciDevice, number>();
  readonly #irqsOf = new Map<PciDevice, DeviceIrqs>();
  readonly #byPlace = new Map<number, MsiIrq>();
  /** interrupts that came inside an eventfd's wake-up */
  readonly #late: IrqHandler[] = [];
  readonly #lateWork: Work = { name: "interrupt", run: () => this.#runLate() };

  constructor(kernel: Kernel, matrix: VectorMatrix, remapping: InterruptRemapping) {
    this.kernel = kernel;
    this.matrix = matrix;
    this.remapping = remapping;
  }

  /** Wires a device up: its messages arrive here, its INTx at a pin (0 for none). */
  connect(device: PciDevice, pin: number): void {
    device.wires = this;
    this.#pinOf.set(device, pin);
  }

  /** The pin of a device's INTx, 0 for none. */
  pinOf(device: PciDevice): number {
    return this.#pinOf.get(device) ?? 0;
  }

  // --- the host's own interrupts ------------------------------------------------------------------------------------

  /** A pin of the host's own, with or without a handler of its own; at a fixed vector if one is given. */
  hostPin(active: boolean, vector?: number): void {
    if (this.remapping.kind === "intel") this.remapping.allocate(IOAPIC, 1);
    if (active) this.#hostVector(vector);
  }

  /** A message interrupt of a host driver: with an entry of its own if it is remapped. */
  hostMessage(source: string, remapped: boolean): void {
    if (remapped) this.remapping.allocate(source, 1);
    this.#hostVector(undefined);
  }

  #hostVector(vector: number | undefined): void {
    if (vector === undefined || this.matrix.allocateAt(0, vector) < 0) this.matrix.allocate();
  }

  // --- pins ---------------------------------------------------------------------------------------------------------

  #pin(number: number): IrqPin {
    let pin = this.#pins.get(number);
    if (pin === undefined) this.#pins.set(number, (pin = new IrqPin()));
    return pin;
  }

  /** A device on a pin is enabled: the first takes an entry of the remapping table. 0 or −ENOSPC. */
  enablePin(number: number): number {
    if (number === 0) return 0;
    const pin = this.#pin(number);
    if (pin.users === 0 && pin.block === undefined && this.remapping.kind === "intel") {
      const block = this.remapping.allocate(IOAPIC, 1);
      if (typeof block === "number") return block;
      pin.block = block;
    }
    pin.users++;
    return 0;
  }

  disablePin(number: number): void {
    if (number === 0) return;
    const pin = this.#pin(number);
    if (--pin.users !== 0 || pin.block === undefined) return;
    this.remapping.release(pin.block);
    pin.block = undefined;
  }

  /** request_irq of a pin: 0; EBUSY where either side does not share; ENOSPC without a free vector. */
  requestPin(number: number, handler: IrqHandler, shared: boolean, autoEnable = true): number {
    const pin = this.#pin(number);
    if (pin.handlers.length !== 0 && !(pin.shared && shared)) return -EBUSY;
    if (pin.handlers.length === 0) {
      const place = this.matrix.allocate();
      if (place < 0) return place;
      pin.place = place;
      pin.shared = shared;
      pin.disabled = autoEnable ? 0 : 1;
    }
    pin.handlers.push(handler);
    this.#runPin(pin);
    return 0;
  }

  freePin(number: number, handler: IrqHandler): void {
    const pin = this.#pin(number);
    pin.handlers.splice(pin.handlers.indexOf(handler), 1);
    if (pin.handlers.length !== 0) return;
    this.matrix.release(pin.place);
    pin.place = -1;
    pin.disabled = 0;
  }

  /** disable_irq_nosync: nothing is handled until as many calls of `allowPin`. */
  holdPin(number: number): void {
    this.#pin(number).disabled++;
  }

  allowPin(number: number): void {
    const pin = this.#pin(number);
    pin.disabled--;
    this.#runPin(pin);
  }

  intx(device: PciDevice, high: boolean): void {
    const pin = this.#pin(this.pinOf(device));
    if (high) {
      pin.devices.add(device);
      this.#runPin(pin);
    } else pin.devices.delete(device);
  }

  /** Handlers run while a device holds the pin up and one of them says that it was its own. */
  #runPin(pin: IrqPin): void {
    if (pin.devices.size === 0 || pin.handlers.length === 0 || pin.disabled !== 0 || pin.running) return;
    if (this.kernel.inEventfd) {
      this.#later({ handle: () => (this.#runPin(pin), true) });
      return;
    }
    pin.running = true;
    let handled = true;
    while (handled && pin.devices.size !== 0 && pin.disabled === 0) {
      handled = false;
      for (const handler of pin.handlers.slice()) if (handler.handle()) handled = true;
    }
    pin.running = false;
  }

  // --- messages -----------------------------------------------------------------------------------------------------

  message(device: PciDevice, message: MsiMessage): void {
    const place = this.remapping.translate(device.address, message);
    if (place < 0) return;
    const handler = this.#byPlace.get(place)?.handler;
    if (handler === undefined) return;
    if (this.kernel.inEventfd) this.#later(handler);
    else handler.handle();
  }

  #later(handler: IrqHandler): void {
    this.#late.push(handler);
    this.kernel.work.schedule(this.#lateWork);
  }

  #runLate(): void {
    for (const handler of this.#late.splice(0)) handler.handle();
  }

  /** An interrupt of a device that has MSI or MSI-X on. */
  irqOf(device: PciDevice, index: number): MsiIrq | undefined {
    return this.#irqsOf.get(device)?.irqs.get(index);
  }

  /** How many interrupts a device has been allocated. */
  countOf(device: PciDevice): number {
    return this.#irqsOf.get(device)?.irqs.size ?? 0;
  }

  /**
   * pci_alloc_irq_vectors(1, count): turns MSI or MSI-X on. Answers `count`; fewer with nothing turned on, the number that
   * would fit; ERANGE for none asked for, EINVAL outside D0 or without the capability, ENOSPC.
   */
  enable(device: PciDevice, count: number, msix: boolean): number {
    if (msix ? device.msix === undefined : device.msi === undefined) return -EINVAL;
    if (device.powerState !== 0) return -EINVAL;
    if (count < 1) return -ERANGE;
    return msix ? this.#enableMsix(device, range(count)) : this.#enableMsi(device, count);
  }

  /** pci_enable_msix of releases before 4.12: MSI-X with these entries of the table; as above. */
  enableEntries(device: PciDevice, indices: readonly number[]): number {
    if (device.msix === undefined || device.powerState !== 0) return -EINVAL;
    return this.#enableMsix(device, indices);
  }

  #enableMsix(device: PciDevice, indices: readonly number[]): number {
    const irqs = new Map<number, MsiIrq>();
    for (const index of indices) {
      const irq = this.#allocate(device, index, 1);
      if (typeof irq === "number") {
        const fit = irqs.size;
        for (const taken of irqs.values()) this.#release(taken);
        return fit === 0 ? irq : fit;
      }
      irqs.set(index, irq);
    }
    this.#irqsOf.set(device, { msix: true, irqs });
    this.#intxForMsi(device, false);
    const msix = device.msix!;
    this.#msixControl(device, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    for (let vector = 0; vector < msix.vectors; vector++) writeMask(device, vector, true);
    for (const irq of irqs.values()) this.#reserve(irq);
    this.#msixControl(device, PCI_MSIX_FLAGS_ENABLE);
    return indices.length;
  }

  /** One more interrupt of a device that has MSI-X on (pci_msix_alloc_irq_at): 0 or −ENOSPC. */
  extend(device: PciDevice, index: number): number {
    const irq = this.#allocate(device, index, 1);
    if (typeof irq === "number") return irq;
    this.#irqsOf.get(device)!.irqs.set(index, irq);
    this.#reserve(irq);
    return 0;
  }

  #enableMsi(device: PciDevice, wanted: number): number {
    const msi = device.msi!;
    const asked = Math.min(wanted, msi.vectors);
    if (asked > 1 && this.remapping.kind === null)
      return this.#enableMsi(device, 1) < 0 ? -ENOSPC : this.#one(device);
    const block = this.remapping.allocate(device.address, asked);
    if (typeof block === "number") {
      if (asked === 1) return block;
      return this.#enableMsi(device, 1) < 0 ? -ENOSPC : this.#one(device);
    }
    const irqs = new Map<number, MsiIrq>();
    this.#irqsOf.set(device, { msix: false, irqs });
    for (let index = 0; index < asked; index++) {
      const irq = new MsiIrq(this.remapping, device, index, block);
      irqs.set(index, irq);
      this.matrix.reserve();
    }
    this.#intxForMsi(device, false);
    for (const irq of irqs.values()) {
      const failed = msi.maskable ? 0 : this.#activate(irq);
      if (failed < 0) {
        this.disable(device);
        return failed;
      }
    }
    msi.setEnabled(true, 2 ** Math.ceil(Math.log2(asked)));
    return asked;
  }

  /** A single message could be had where several were asked for: it is given back. */
  #one(device: PciDevice): number {
    this.disable(device);
    return 1;
  }

  #allocate(device: PciDevice, index: number, count: number): MsiIrq | number {
    if (this.kernel.faults.allocation("msi_desc")) return -ENOSPC;
    const block = this.remapping.allocate(device.address, count);
    if (typeof block === "number") return block;
    this.matrix.reserve();
    return new MsiIrq(this.remapping, device, index, block);
  }

  /** Its entry leads nowhere yet, but the device has its message. */
  #reserve(irq: MsiIrq): void {
    this.remapping.activate(irq.block, irq.entry, SHUTDOWN_VECTOR, irq.message);
    this.#writeMessage(irq, irq.message);
  }

  #activate(irq: MsiIrq): number {
    const place = this.matrix.allocate();
    if (place < 0) return place;
    this.matrix.unreserve();
    irq.place = place;
    this.#byPlace.set(place, irq);
    this.remapping.activate(irq.block, irq.entry, place, irq.message);
    this.#writeMessage(irq, irq.message);
    return 0;
  }

  #deactivate(irq: MsiIrq): void {
    if (irq.place < 0) return;
    this.remapping.deactivate(irq.block, irq.entry);
    this.matrix.release(irq.place);
    this.matrix.reserve();
    this.#byPlace.delete(irq.place);
    irq.place = -1;
    irq.message.addressLo = irq.message.addressHi = irq.message.data = 0;
    this.#writeMessage(irq, irq.message);
  }

  #release(irq: MsiIrq): void {
    this.matrix.unreserve();
    this.remapping.release(irq.block);
  }

  /** Of several MSI messages the device knows the first only. */
  #writeMessage(irq: MsiIrq, { addressLo, addressHi, data }: MsiMessage): void {
    const { device, index } = irq;
    if (device.powerState === 3) return;
    if (!this.#irqsOf.get(device)?.msix) {
      if (index === 0) device.msi!.program(irq.message);
      return;
    }
    const at = index * PCI_MSIX_ENTRY_SIZE;
    const control = Number(device.msix!.readTable(at + PCI_MSIX_ENTRY_VECTOR_CTRL, 4));
    if ((control & PCI_MSIX_ENTRY_CTRL_MASKBIT) === 0) writeMask(device, index, true);
    device.msix!.writeTable(at, 4, addressLo);
    device.msix!.writeTable(at + 4, 4, addressHi);
    device.msix!.writeTable(at + 8, 4, data);
    if ((control & PCI_MSIX_ENTRY_CTRL_MASKBIT) === 0) writeMask(device, index, false);
  }

  /** request_irq: 0; −ENOSPC without a free vector. */
  request(irq: MsiIrq, handler: IrqHandler): number {
    if (irq.place < 0) {
      const failed = this.#activate(irq);
      if (failed < 0) return failed;
    }
    irq.handler = handler;
    this.#setMask(irq, false);
    return 0;
  }

  /** free_irq: the vector is given back, the entry stays. */
  free(irq: MsiIrq): void {
    this.#setMask(irq, true);
    irq.handler = undefined;
    this.#deactivate(irq);
  }

  /** Writes the message of an interrupt into the table once more: a reset behind our back may have cleared it. */
  rewrite(irq: MsiIrq): void {
    this.#writeMessage(irq, irq.message);
  }

  #setMask({ device, index }: MsiIrq, masked: boolean): void {
    if (device.powerState === 3) return;
    if (this.#irqsOf.get(device)?.msix) writeMask(device, index, masked);
    else device.msi!.setMask(index, masked);
  }

  /** pci_free_irq_vectors: turns MSI or MSI-X off. Nobody may have an interrupt requested any more. */
  disable(device: PciDevice): void {
    const owned = this.#irqsOf.get(device);
    if (owned === undefined) return;
    const { msix, irqs } = owned;
    if (msix) {
      for (const { index } of irqs.values()) writeMask(device, index, true);
      this.#msixControl(device, 0);
    } else device.msi!.setEnabled(false);
    this.#intxForMsi(device, true);
    for (const irq of irqs.values()) {
      this.#deactivate(irq);
      if (msix) this.#clearMessage(irq);
      this.matrix.unreserve();
      if (msix) this.remapping.release(irq.block);
    }
    const first = irqs.get(0);
    if (!msix && first !== undefined) this.remapping.release(first.block);
    this.#irqsOf.delete(device);
  }

  #clearMessage(irq: MsiIrq): void {
    irq.message.addressLo = irq.message.addressHi = irq.message.data = 0;
    this.#writeMessage(irq, irq.message);
  }

  /** pci_restore_msi_state: what is on is programmed again after a reset. */
  restore(device: PciDevice): void {
    const owned = this.#irqsOf.get(device);
    if (owned === undefined) return;
    this.#intxForMsi(device, false);
    if (!owned.msix) {
      device.msi!.program(owned.irqs.get(0)!.message);
      device.msi!.setEnabled(true, 2 ** Math.ceil(Math.log2(owned.irqs.size)));
      return;
    }
    this.#msixControl(device, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    for (const irq of owned.irqs.values()) {
      this.#writeMessage(irq, irq.message);
      writeMask(device, irq.index, irq.handler === undefined);
    }
    this.#msixControl(device, PCI_MSIX_FLAGS_ENABLE);
  }

  /** INTx is off while messages are used. */
  #intxForMsi(device: PciDevice, on: boolean): void {
    const { command } = device;
    const wanted = on ? command & ~PCI_COMMAND_INTX_DISABLE : command | PCI_COMMAND_INTX_DISABLE;
    if (wanted !== command) device.writeConfig(PCI_COMMAND, 2, wanted);
  }

  #msixControl(device: PciDevice, flags: number): void {
    const at = device.msixCapability + PCI_MSIX_FLAGS;
    const control = device.readConfig(at, 2) & ~(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    device.writeConfig(at, 2, control | flags);
  }
}

const range = (count: number): number[] => Array.from({ length: count }, (_, index) => index);

const writeMask = (device: PciDevice, vector: number, masked: boolean): void =>
  device.msix!.writeTable(
    vector * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL,
    4,
    masked ? PCI_MSIX_ENTRY_CTRL_MASKBIT : 0,
  );
