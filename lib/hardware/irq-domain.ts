/**
 * The interrupts of a host as a hierarchy of domains: vector ← remapping ← {I/O APIC, MSI, MSI-X, IMS}
 * (kernel/irq/irqdomain.c, kernel/irq/msi.c, arch/x86/kernel/apic/vector.c, 6.1). An interrupt takes three steps, each
 * with failures of its own:
 *
 * - allocate: an entry of the remapping table (IRTE). Messages are composed here, and with remapping never change.
 * - activate: a vector of a processor, written into the IRTE, or without remapping into the device's message. With
 *   reservation (4.15 and later) that happens twice: at allocation every interrupt gets the one placeholder vector, at
 *   `request` a real one. Pins (INTx) have no reservation: they are activated when they are requested.
 * - setAffinity: a new vector, then the IRTE or the message is rewritten. Where there is no vector the old one stays.
 *
 * Several MSI vectors need neighbouring vectors, which only remapping can give; without it one is allocated. IMS is
 * offered with remapping only, since nobody else can change the device's own store atomically.
 *
 * Missing: managed interrupts, the delayed release of a vector after it moved (here it is given back at once).
 */
import { ENODEV, ENOSPC } from "../abi/errno.ts";
import type { InterruptRemapping, MsiMessage, RemappingBlock } from "./interrupt-remapping.ts";
import { cpuOf, FIRST_EXTERNAL_VECTOR, type VectorMatrix } from "./vector-matrix.ts";

export const irqKinds = ["INTx", "MSI", "MSI-X", "IMS"] as const;
export type IrqKind = (typeof irqKinds)[number];

/** Where a shortage can show. */
export type IrqStep = "IRTE" | "placeholder" | "vector";

/** The vector of interrupts that nobody has requested (MANAGED_IRQ_SHUTDOWN_VECTOR); nobody handles it. */
export const PLACEHOLDER_VECTOR = 0xef;

export class DomainIrq {
  readonly kind: IrqKind;
  readonly source: string;
  readonly block: RemappingBlock;
  /** its place in the block */
  readonly index: number;
  /** what the device, or the I/O APIC's pin, holds */
  readonly message: MsiMessage = { addressLo: 0, addressHi: 0, data: 0 };
  /** cpu × 256 + vector; −1 without a real vector */
  place = -1;
  requested = false;
  /** how often the device's message was written */
  writes = 0;

  constructor(kind: IrqKind, source: string, block: RemappingBlock, index: number) {
    this.kind = kind;
    this.source = source;
    this.block = block;
    this.index = index;
  }

  get cpu(): number {
    return cpuOf(this.place);
  }
}

export interface DomainsOptions {
  readonly matrix: VectorMatrix;
  readonly remapping: InterruptRemapping;
  /** real vectors at `request` only; the default */
  readonly reservation?: boolean;
  /** asked at every step that can fail: true for a shortage */
  readonly fault?: (step: IrqStep) => boolean;
}

export class Domains {
  readonly matrix: VectorMatrix;
  readonly remapping: InterruptRemapping;
  readonly reservation: boolean;
  readonly #fault: (step: IrqStep) => boolean;
  readonly #byPlace = new Map<number, DomainIrq>();
  readonly #offline = new Set<number>();

  constructor({ matrix, remapping, reservation = true, fault = () => false }: DomainsOptions) {
    this.matrix = matrix;
    this.remapping = remapping;
    this.reservation = reservation;
    this.#fault = fault;
  }

  /** Whether a driver can have interrupts of this kind at all. */
  offers(kind: IrqKind): boolean {
    return kind !== "IMS" || this.remapping.kind !== null;
  }

  /** The interrupts, fewer than wanted where several MSI vectors cannot be had; −ENODEV: not offered; −ENOSPC. */
  allocate(kind: IrqKind, source: string, count = 1): DomainIrq[] | number {
    if (!this.offers(kind)) return -ENODEV;
    const given = kind === "MSI" && this.remapping.kind === null ? 1 : count;
    const irqs: DomainIrq[] = [];
    for (let i = 0; i < given; ) {
      const size = kind === "MSI" ? given : 1;
      const short = this.remapping.kind !== null && this.#fault("IRTE");
      const block = short ? -ENOSPC : this.remapping.allocate(source, size);
      if (typeof block === "number") return this.#giveUp(irqs, block);
      for (let index = 0; index < size; index++, i++) irqs.push(new DomainIrq(kind, source, block, index));
    }
    if (kind === "INTx") return irqs;
    for (const irq of irqs) {
      const failed = this.reservation ? this.#reserve(irq) : this.#activate(irq);
      if (failed < 0) return this.#giveUp(irqs, failed);
    }
    return irqs;
  }

  #giveUp(irqs: readonly DomainIrq[], error: number): number {
    this.release(irqs);
    return error;
  }

  /** The placeholder: the device has a message, and it leads to nobody. */
  #reserve(irq: DomainIrq): number {
    if (this.#fault("placeholder")) return -ENOSPC;
    this.#lead(irq, PLACEHOLDER_VECTOR);
    return 0;
  }

  #activate(irq: DomainIrq): number {
    const place = this.#vector(-1);
    if (place < 0) return place;
    irq.place = place;
    this.#byPlace.set(place, irq);
    this.#lead(irq, place);
    return 0;
  }

  /** A real vector: on a certain processor, or on the emptiest that is online (−1). */
  #vector(cpu: number): number {
    if (this.#fault("vector")) return -ENOSPC;
    const online = Array.from({ length: this.matrix.cpus }, (_, each) => each).filter(
      (each) => !this.#offline.has(each) && (cpu < 0 || each === cpu),
    );
    online.sort((a, b) => this.matrix.available(b) - this.matrix.available(a));
    for (const each of online)
      for (let vector = FIRST_EXTERNAL_VECTOR; vector < PLACEHOLDER_VECTOR; vector++) {
        const place = this.matrix.allocateAt(each, vector);
        if (place >= 0) return place;
      }
    return -ENOSPC;
  }

  /** Writes the IRTE, and the device's message where it is another one now. */
  #lead(irq: DomainIrq, place: number): void {
    const { message } = irq;
    const { addressLo, data } = message;
    this.remapping.activate(irq.block, irq.index, place, message);
    if (message.addressLo !== addressLo || message.data !== data) irq.writes++;
  }

  /** request_irq: 0, or −ENOSPC without a vector. */
  request(irq: DomainIrq): number {
    const failed = irq.place < 0 ? this.#activate(irq) : 0;
    if (failed === 0) irq.requested = true;
    return failed;
  }

  /** Moves an interrupt: 0, or −ENOSPC and it stays where it is. One without a vector stays without. */
  setAffinity(irq: DomainIrq, cpu: number): number {
    if (irq.place < 0 || irq.cpu === cpu) return 0;
    const place = this.#vector(cpu);
    return place < 0 ? place : this.#move(irq, place);
  }

  #move(irq: DomainIrq, place: number): number {
    const old = irq.place;
    irq.place = place;
    this.#byPlace.set(place, irq);
    this.#lead(irq, place);
    this.#byPlace.delete(old);
    this.matrix.release(old);
    return 0;
  }

  /** A processor goes offline: 0, or −ENOSPC where the others have too few vectors, and it stays. */
  takeOffline(cpu: number): number {
    const leaving = [...this.#byPlace.values()].filter((irq) => irq.cpu === cpu);
    let room = 0;
    for (let other = 0; other < this.matrix.cpus; other++)
      if (other !== cpu && !this.#offline.has(other)) room += this.matrix.available(other);
    if (leaving.length > room) return -ENOSPC;
    this.#offline.add(cpu);
    for (const irq of leaving) {
      const place = this.#vector(-1);
      if (place < 0) {
        this.#offline.delete(cpu);
        return place;
      }
      this.#move(irq, place);
    }
    return 0;
  }

  /** free_irq and the rest: everything is given back. */
  release(irqs: readonly DomainIrq[]): void {
    const blocks = new Set<RemappingBlock>();
    for (const irq of irqs) {
      if (irq.place >= 0) {
        this.#byPlace.delete(irq.place);
        this.matrix.release(irq.place);
        irq.place = -1;
      }
      this.remapping.deactivate(irq.block, irq.index);
      irq.requested = false;
      blocks.add(irq.block);
    }
    for (const block of blocks) this.remapping.release(block);
  }

  /** The device sends the message that it holds: who gets it; undefined: nobody, it is lost. */
  send(irq: DomainIrq): DomainIrq | undefined {
    const place = this.remapping.translate(irq.source, irq.message);
    const found = place < 0 ? undefined : this.#byPlace.get(place);
    return found?.requested === true ? found : undefined;
  }

  /** The interrupt at a place, if there is one: what a processor finds when it takes a vector. */
  at(cpu: number, vector: number): DomainIrq | undefined {
    return this.#byPlace.get(cpu * 256 + vector);
  }
}
