/**
 * The dirty pages of one DMA mapping, a bit a page, as they are copied to the program's bitmap
 * (drivers/vfio/vfio_iommu_type1.c:update_user_bitmap, 6.1). All devices here can write memory unseen, so every page of a
 * mapping is always dirty.
 *
 * A mapping that does not begin at a multiple of 64 pages of the reported range is shifted, in place, and only its own
 * bits are cleared afterwards: bits shifted out above them stay, and show in a later report (traces:
 * x86_64-vfio-6.12/B_type1 calls 341 and 342). The words of the program's bitmap below a shifted mapping are read first
 * and kept.
 */
import { EFAULT } from "../abi/errno.ts";
import { load64, store64 } from "../abi/struct.ts";
import type { AddressSpace } from "../kernel/address-space.ts";

const WORD = 64;
const ones = (count: number): bigint => (1n << BigInt(count)) - 1n;
/** bytes of a bitmap of so many bits, in whole words */
export const bitmapBytes = (bits: number): number => Math.ceil(bits / WORD) * 8;

export class DirtyBitmap {
  #bits = 0n;
  readonly #pages: number;

  constructor(pages: number) {
    this.#pages = pages;
  }

  /** Copies to the bitmap at `address`, in which this mapping begins at bit `first`: 0 or −EFAULT. */
  report(mm: AddressSpace, address: number, first: number): number {
    this.#bits |= ones(this.#pages);
    const shift = first % WORD;
    const at = address + Math.floor(first / WORD) * 8;
    const size = bitmapBytes(this.#pages + shift);
    if (shift !== 0) {
      this.#bits = (this.#bits << BigInt(shift)) & ones(size * 8);
      const below = mm.copyIn(at, 8);
      if (below === null) return -EFAULT;
      this.#bits |= load64(below, 0);
    }
    const bytes = new Uint8Array(size);
    for (let i = 0; i < size; i += 8) store64(bytes, i, (this.#bits >> BigInt(8 * i)) & ones(WORD));
    return mm.copyOut(at, bytes) ? 0 : -EFAULT;
  }

  /** After a report: only the mapping's own bits are cleared. */
  clear(): void {
    this.#bits &= ~ones(this.#pages);
  }
}
