/**
 * MSI-X of an assigned device for a guest that remaps interrupts itself (a virtual IOMMU): the table is mapped into the
 * guest and never trapped. The guest's update of its remapping entry, at the activation of an interrupt, is the one
 * hypercall; there the host allocates what backs the interrupt, and its failure is the answer (Gleixner, December
 * 2021).
 */
import type { PciDevice } from "../hardware/pci-device.ts";
import type { Co } from "./co.ts";
import type { HostMsix } from "./pci-assign.ts";
import type { Message } from "./route-table.ts";

const ENTRY = 16;
const CONTROL = 12;

/** MSI-X of an assigned device for a guest that remaps interrupts itself. */
export class RemappedMsix {
  readonly #host: HostMsix;
  readonly #device: PciDevice;
  readonly #backed = new Set<number>();
  #started = false;
  /** times that the guest left for the VMM */
  exits = 0;

  constructor(host: HostMsix, device: PciDevice) {
    this.#host = host;
    this.#device = device;
  }

  /** The hypercall: the entry of a vector leads to this message from now on. 0, or why the host cannot back it. */
  *updateEntry(vector: number, message: Message): Co<number> {
    this.exits++;
    if (this.#backed.has(vector)) return yield* this.#host.update(vector, message);
    const result = this.#started
      ? yield* this.#host.add(vector, message)
      : yield* this.#host.start(new Map([[vector, message]]));
    if (result < 0) return result;
    this.#started = true;
    this.#backed.add(vector);
    return 0;
  }

  /** The guest writes a mask bit: its own mapping of the device's table, nobody is asked. */
  setMask(vector: number, masked: boolean): void {
    this.#device.msix!.writeTable(ENTRY * vector + CONTROL, 4, masked ? 1 : 0);
  }
}
