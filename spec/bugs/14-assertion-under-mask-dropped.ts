/**
 * A device model raises its vector through the VMM, which checks the mask and drops what is masked. Mended: it is latched
 * as pending, and raised when the vector is unmasked.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Broken extends PlainVmm {
  readonly latched = new Set<number>();

  raise(vector: number): void {
    if (this.wanted(vector)) this.bench.signal(this.bench.eventfds[vector]);
    else this.whileMasked(vector);
  }

  whileMasked(_vector: number): void {}

  override *unmask(vector: number): Thread {
    yield* super.unmask(vector);
    if (this.latched.delete(vector)) yield* this.bench.calls.signal(this.bench.eventfds[vector]);
  }

  override pending(vector: number): boolean {
    return this.latched.has(vector) || super.pending(vector);
  }
}

class Mended extends Broken {
  override whileMasked(vector: number): void {
    this.latched.add(vector);
  }
}

export const bug = msixBug({
  number: 14,
  title: "an assertion on a masked vector is dropped",
  reference: "rocm-ernic #111",
  options: {
    vectors: 1,
    guest: [
      ["unmask", 0],
      ["mask", 0],
      ["unmask", 0],
    ],
    device: [0, 0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
