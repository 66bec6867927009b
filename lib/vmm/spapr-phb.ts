/**
 * The PCI host bridge of a pseries machine (PAPR; QEMU's hw/ppc/spapr_pci.c). A guest asks its firmware for messages
 * (ibm,change-msi); the firmware, which is the VMM, takes interrupt sources and writes the messages into the device
 * itself. What such a message looks like was changed while it was discussed:
 *
 * - "per-bridge" (QEMU 1.5, spapr_msi_write): address = window + device number << 16 + vector << 2, data 0. Only the
 *   bridge knows where the device's sources start.
 * - "global" (from 1.6 on): address = window, data = the number of the source.
 */
import { EINVAL, ENOSPC } from "../abi/errno.ts";
import { HostBridge } from "./host-bridge.ts";
import type { Irqchip } from "./irqchip.ts";
import type { Message } from "./route-table.ts";

/** Upper half of the address of the message window: 0x400_0000_0000 */
const WINDOW_HI = 0x400;

/** Interrupt sources of a machine, of which neighbours are given out. */
export class SourceNumbers {
  readonly #first: number;
  readonly #end: number;
  readonly #taken = new Set<number>();

  /** from `first` to below `end` */
  constructor(first: number, end: number) {
    this.#first = first;
    this.#end = end;
  }

  /** The first of `count` neighbours, the lowest that are free; −ENOSPC. */
  allocate(count: number): number {
    for (let first = this.#first; first + count <= this.#end; first++) {
      let free = 0;
      while (free < count && !this.#taken.has(first + free)) free++;
      if (free < count) continue;
      for (let i = 0; i < count; i++) this.#taken.add(first + i);
      return first;
    }
    return -ENOSPC;
  }

  free(first: number, count: number): void {
    for (let i = 0; i < count; i++) this.#taken.delete(first + i);
  }
}

export class SpaprPhb extends HostBridge {
  readonly numbering: "per-bridge" | "global";
  readonly sources: SourceNumbers;
  /** by device number: first source, how many */
  readonly #devices = new Map<number, { first: number; count: number }>();

  constructor(irqchip: Irqchip, sources: SourceNumbers, numbering: "per-bridge" | "global" = "global") {
    super(irqchip);
    this.sources = sources;
    this.numbering = numbering;
  }

  /** ibm,change-msi: the messages of a device, one a vector; −ENOSPC. No vectors: what it had is given back. */
  changeMsi(device: number, count: number): Message[] | number {
    const had = this.#devices.get(device);
    if (had !== undefined) this.sources.free(had.first, had.count);
    this.#devices.delete(device);
    if (count === 0) return [];
    const first = this.sources.allocate(count);
    if (first < 0) return first;
    this.#devices.set(device, { first, count });
    return Array.from({ length: count }, (_, vector) =>
      this.numbering === "global"
        ? { addressHi: WINDOW_HI, addressLo: 0, data: first + vector }
        : { addressHi: WINDOW_HI, addressLo: (device << 16) | (vector << 2), data: 0 },
    );
  }

  /** The source that a write of a device raises, whatever its number; −EINVAL. */
  override mapMsi({ addressLo, data }: Message): number {
    if (this.numbering === "global") return data;
    const device = this.#devices.get(addressLo >>> 16);
    return device === undefined ? -EINVAL : device.first + (((addressLo & 0xffff) >>> 2) | data);
  }

  override isMsi({ addressHi }: Message): boolean {
    return addressHi === WINDOW_HI;
  }
}
