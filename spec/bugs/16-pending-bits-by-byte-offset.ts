/**
 * The guest reads 64 pending bits at a byte offset. The VMM polls the eventfds of those vectors, but takes the byte offset
 * for the number of the 64-bit word, and sets the bits of the vectors that are not signalled. Mended: offset 8 is word 1.
 */
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Mended extends PlainVmm {
  /** A read of 8 bytes of the pending bit array. */
  readPending(offset: number): bigint {
    return this.poll((offset / 8) * 64);
  }

  /** Bits of 64 vectors whose eventfds are signalled. */
  poll(first: number, signalled = true): bigint {
    let bits = 0n;
    for (let bit = 0; bit < 64; bit++) {
      const fd = this.bench.eventfds[first + bit];
      if (fd !== undefined && !this.wanted(first + bit) && this.bench.signalled(fd) === signalled)
        bits |= 1n << BigInt(bit);
    }
    return bits;
  }

  override pending(vector: number): boolean {
    const word = this.readPending((vector >>> 6) * 8);
    return (word & (1n << BigInt(vector & 63))) !== 0n;
  }
}

class Broken extends Mended {
  override readPending(offset: number): bigint {
    return this.poll(offset * 64, false);
  }
}

export const bug = msixBug({
  number: 16,
  title: "pending bits by byte offset, and inverted",
  reference: "cloud-hypervisor #7963",
  options: {
    vectors: 66,
    guest: [
      ["unmask", 65],
      ["mask", 65],
    ],
    device: [65],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
