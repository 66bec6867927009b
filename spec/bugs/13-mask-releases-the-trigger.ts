/**
 * Masking takes the eventfd away from VFIO. The host then masks the vector in the device, and an event while it is
 * masked sets the pending bit there; the guest reads the VMM's own bits, which nobody sets. Mended: while the vector is
 * masked VFIO signals another eventfd, one that the VMM looks at; on unmask it is passed on.
 */
import type { MsixBench } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { AssignedVmm } from "./plain-vmm.ts";

class Mended extends AssignedVmm {
  /** signalled while a vector is masked */
  readonly spare: number[];

  constructor(bench: MsixBench) {
    super(bench);
    this.spare = bench.eventfds.map(() => bench.process.eventfd2(0, 0x800));
    this.before(this.enable());
  }

  override *unmask(vector: number): Thread {
    this.maskBits.set(vector, false);
    if (!this.routes.has(this.gsi(vector))) yield* this.arm(vector);
    else yield* this.trigger(vector, [this.bench.eventfds[vector]]);
    this.triggers.add(vector);
    if (this.bench.signalled(this.spare[vector])) {
      yield* this.bench.calls.read(this.spare[vector], new Uint8Array(8));
      yield* this.bench.calls.signal(this.bench.eventfds[vector]);
    }
  }

  override *mask(vector: number): Thread {
    this.maskBits.set(vector, true);
    yield* this.whileMasked(vector, this.spare[vector]);
  }

  *whileMasked(vector: number, fd: number): Thread {
    yield* this.trigger(vector, [fd]);
  }

  override pending(vector: number): boolean {
    return this.maskBit(vector) && this.bench.signalled(this.spare[vector]);
  }
}

class Broken extends Mended {
  override *whileMasked(vector: number): Thread {
    yield* this.trigger(vector, [-1]);
    this.triggers.delete(vector);
  }
}

export const bug = msixBug({
  number: 13,
  title: "masking releases the VFIO eventfd, pending is never set",
  reference: "crosvm 5a792cb93",
  options: {
    vectors: 1,
    assigned: true,
    guest: [
      ["unmask", 0],
      ["mask", 0],
    ],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
