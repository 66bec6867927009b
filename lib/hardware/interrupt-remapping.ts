/**
 * Interrupt remapping: a device's message names an entry of a table, the entry says which vector of which processor.
 * (VT-d specification, chapter 5; AMD I/O virtualization specification, 2.2.5; drivers/iommu/intel/irq_remapping.c and
 * drivers/iommu/amd/iommu.c, 6.1 and 6.12)
 *
 * Intel: one table of 65,536 entries for all devices of an IOMMU. The message has the address 0xfeexxxxx with bit 4 set
 * (remappable format): entry bits 14:0 in 19:5, bit 15 in 2, and bit 3 set: the data (0) is added to the entry.
 * AMD: a table for each device, of 512 entries (2,048 with the feature, from release 6.15 on). The message has the
 * address 0xfee00000 and the entry in the data.
 * None: the message carries the vector itself.
 *
 * Allocation, activation and release are steps of their own: an allocated entry that is not activated drops its
 * messages. A block for several messages of one capability is aligned to its size, rounded up to a power of two.
 *
 * Posted mode: an activated entry can be handed to a virtual processor (`post`); its messages then go to `posted` of
 * that hand-over and never reach the host, until `unpost`.
 *
 * An entry takes messages of the device it was allocated for only.
 *
 * Missing: fault records and their interrupt, table addresses, aliases of devices behind a conventional bridge.
 */
import { ENOSPC } from "../abi/errno.ts";

/** What a message carries; 0 ≤ all < 2^32. */
export interface MsiMessage {
  addressLo: number;
  addressHi: number;
  data: number;
}

/** An entry in posted mode: who takes the interrupt. */
export interface PostedInterrupt {
  post(): void;
}

export type RemappingKind = "intel" | "amd" | null;

export const INTEL_TABLE_ENTRIES = 65_536;
export const AMD_TABLE_ENTRIES = 512;
export const AMD_TABLE_ENTRIES_2K = 2_048;

const MSI_BASE = 0xfee0_0000;
const REMAPPABLE = 1 << 4;
const SUBHANDLE_VALID = 1 << 3;

/** Answers of `translate` that are no place of a vector. */
export const DROPPED = -1;
export const POSTED = -2;

/** A remapping table. */
class Table {
  readonly #used: Uint8Array;
  /** the place (cpu × 256 + vector) an activated entry leads to, −1 while it is not activated */
  readonly places: Int32Array;
  readonly posted = new Map<number, PostedInterrupt>();
  /** whose messages an entry takes */
  readonly sources: string[] = [];
  inUse = 0;
  #lowest = 0;

  constructor(size: number) {
    this.#used = new Uint8Array(size);
    this.places = new Int32Array(size).fill(-1);
  }

  get size(): number {
    return this.#used.length;
  }

  /** The first of `count` neighbours, aligned to `align`; −ENOSPC. */
  allocate(source: string, count: number, align: number): number {
    for (let first = align === 1 ? this.#lowest : 0; first + count <= this.size; first += align) {
      let free = 0;
      while (free < count && this.#used[first + free] === 0) free++;
      if (free < count) continue;
      this.#used.fill(1, first, first + count);
      this.inUse += count;
      for (let index = first; index < first + count; index++) this.sources[index] = source;
      if (align === 1) this.#lowest = first + count;
      return first;
    }
    return -ENOSPC;
  }

  free(first: number, count: number): void {
    this.#used.fill(0, first, first + count);
    this.places.fill(-1, first, first + count);
    for (let index = first; index < first + count; index++) this.posted.delete(index);
    this.inUse -= count;
    this.#lowest = Math.min(this.#lowest, first);
  }
}

/** One or several neighbouring entries, allocated together; with remapping off it is empty. */
export class RemappingBlock {
  readonly table: Table | undefined;
  readonly first: number;
  readonly count: number;
  /** entries really taken: Intel gives several only in powers of two */
  readonly taken: number;

  constructor(table: Table | undefined, first: number, count: number, taken: number) {
    this.table = table;
    this.first = first;
    this.count = count;
    this.taken = taken;
  }
}

export class InterruptRemapping {
  readonly kind: RemappingKind;
  readonly #size: number;
  readonly #tables = new Map<string, Table>();

  /** `entries` is the capacity of a table; the default is the kind's own. */
  constructor(kind: RemappingKind, entries = kind === "intel" ? INTEL_TABLE_ENTRIES : AMD_TABLE_ENTRIES) {
    this.kind = kind;
    this.#size = entries;
  }

  /** Entries in use: of a device's table (AMD), of the only one (Intel). */
  inUse(source: string): number {
    return this.#tables.get(this.kind === "intel" ? "" : source)?.inUse ?? 0;
  }

  #table(source: string): Table {
    const key = this.kind === "intel" ? "" : source;
    let table = this.#tables.get(key);
    if (table === undefined) this.#tables.set(key, (table = new Table(this.#size)));
    return table;
  }

  /** Takes `count` neighbouring entries for messages of `source` (a device's address): a block, or −ENOSPC. */
  allocate(source: string, count: number): RemappingBlock | number {
    if (this.kind === null) return new RemappingBlock(undefined, 0, count, 0);
    const power = count > 1 ? 2 ** Math.ceil(Math.log2(count)) : 1;
    const taken = this.kind === "intel" ? power : count;
    const table = this.#table(source);
    const first = table.allocate(source, taken, power);
    return first < 0 ? first : new RemappingBlock(table, first, count, taken);
  }

  release(block: RemappingBlock): void {
    block.table?.free(block.first, block.taken);
  }

  /** The entry leads to a vector from now on; the message that a device must send for it is put into `message`. */
  activate(block: RemappingBlock, index: number, place: number, message: MsiMessage): void {
    message.addressHi = 0;
    if (block.table === undefined) {
      message.addressLo = (MSI_BASE | ((place >>> 8) << 12)) >>> 0;
      message.data = place & 0xff;
      return;
    }
    block.table.places[block.first + index] = place;
    if (this.kind === "amd") {
      message.addressLo = MSI_BASE;
      message.data = block.first + index;
      return;
    }
    const entry = block.first;
    message.addressLo =
      (MSI_BASE | REMAPPABLE | SUBHANDLE_VALID | ((entry & 0x7fff) << 5) | ((entry >>> 15) << 2)) >>> 0;
    message.data = index;
  }

  deactivate(block: RemappingBlock, index: number): void {
    if (block.table === undefined) return;
    block.table.places[block.first + index] = -1;
    block.table.posted.delete(block.first + index);
  }

  /** Hands an entry over to a virtual processor; false where there is no entry to hand over. */
  post(block: RemappingBlock, index: number, to: PostedInterrupt): boolean {
    if (block.table === undefined || block.table.places[block.first + index] < 0) return false;
    block.table.posted.set(block.first + index, to);
    return true;
  }

  /** The host takes an entry back. */
  unpost(block: RemappingBlock, index: number): void {
    block.table?.posted.delete(block.first + index);
  }

  /**
   * A device's message: the place of the vector that it raises, DROPPED (no such entry, not activated, not a format that
   * is let through), or POSTED (a virtual processor has it).
   */
  translate(source: string, message: MsiMessage): number {
    const { addressLo, data } = message;
    if (message.addressHi !== 0 || addressLo >>> 20 !== 0xfee) return DROPPED;
    if (this.kind === null) return (((addressLo >>> 12) & 0xff) << 8) | (data & 0xff);
    let entry = data;
    if (this.kind === "intel") {
      if ((addressLo & REMAPPABLE) === 0) return DROPPED;
      entry = ((addressLo >>> 5) & 0x7fff) | (((addressLo >>> 2) & 1) << 15);
      if ((addressLo & SUBHANDLE_VALID) !== 0) entry += data & 0xffff;
    }
    const table = this.#tables.get(this.kind === "intel" ? "" : source);
    if (table === undefined || entry >= table.size || table.sources[entry] !== source) return DROPPED;
    const posted = table.posted.get(entry);
    if (posted !== undefined) {
      posted.post();
      return POSTED;
    }
    return table.places[entry];
  }
}
