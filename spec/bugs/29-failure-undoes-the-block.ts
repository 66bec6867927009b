/**
 * A block of vectors in one VFIO_DEVICE_SET_IRQS succeeds or fails as one: on a failure all that it touched lose their
 * eventfds, those included that had worked before. A VMM that sends the whole block again to add a vector, and takes a
 * failure for "nothing has changed", has lost the others. Mended: after a failure they are set up again. (Linux had to
 * learn the undoing itself: an unsigned loop variable in the first versions of dynamic MSI-X never ended.)
 */
import type { MsixBench } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { AssignedVmm } from "./plain-vmm.ts";

class Mended extends AssignedVmm {
  readonly #refused = new Set<number>();

  constructor(bench: MsixBench) {
    super(bench);
    for (const vector of bench.eventfds.keys()) {
      this.before(super.arm(vector));
      this.before(this.trigger(vector, [-1]));
    }
  }

  override *unmask(vector: number): Thread {
    this.maskBits.set(vector, false);
    const { eventfds } = this.bench;
    const block = eventfds.slice(0, vector + 1).map((fd, i) => (this.maskBit(i) ? -1 : fd));
    if ((yield* this.trigger(0, block)) === 0) return;
    this.#refused.add(vector);
    yield* this.afterFailure(vector);
  }

  *afterFailure(vector: number): Thread {
    for (let other = 0; other < vector; other++)
      if (!this.maskBit(other)) yield* this.trigger(other, [this.bench.eventfds[other]]);
  }

  override pending(vector: number): boolean {
    return this.maskBit(vector) && this.bench.assigned!.pci.msix!.isPending(vector);
  }

  override triggered(vector: number): boolean {
    return !this.maskBit(vector);
  }

  refused(vector: number): boolean {
    return this.#refused.has(vector);
  }
}

class Broken extends Mended {
  override *afterFailure(): Thread {}
}

export const bug = msixBug({
  number: 29,
  title: "a failed block takes working vectors down",
  reference: "Linux, dynamic MSI-X in vfio-pci, v2 to v3",
  options: {
    vectors: 2,
    assigned: true,
    guest: [
      ["unmask", 0],
      ["unmask", 1],
    ],
    device: [0],
    faults: 6,
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
