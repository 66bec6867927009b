/**
 * VFIO could not add vectors to MSI-X while it was on: to use one more, all are turned off and on again. The code that
 * does so binds every vector to KVM, also those that the guest has masked. Mended: only those that were bound before.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Mended extends PlainVmm {
  /** vectors that are on */
  #count = 0;

  override *unmask(vector: number): Thread {
    this.maskBits.set(vector, false);
    if (vector >= this.#count) yield* this.grow(vector + 1);
    else yield* this.update(vector);
  }

  *grow(count: number): Thread {
    for (let vector = 0; vector < this.#count; vector++)
      if (this.bound.has(vector)) yield* this.bench.deassign(vector);
    this.#count = count;
    for (let vector = 0; vector < count; vector++) if (this.binds(vector)) yield* this.arm(vector);
  }

  binds(vector: number): boolean {
    return this.wanted(vector);
  }
}

class Broken extends Mended {
  override binds(): boolean {
    return true;
  }
}

export const bug = msixBug({
  number: 18,
  title: "growing the vector count binds masked vectors",
  reference: "QEMU c048be5cc9",
  options: { vectors: 2, guest: [["unmask", 1]], device: [0] },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
