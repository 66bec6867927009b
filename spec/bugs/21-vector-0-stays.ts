/**
 * To turn MSI-X on the VMM enables vector 0 and releases it again (bug 20). The release looked at its own notes, found
 * that nobody used the vector, and did nothing: the host kept an interrupt for it. Mended: enabled with −1 for an eventfd
 * there is nothing to release.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { AssignedVmm, PlainVmm } from "./plain-vmm.ts";

class Broken extends AssignedVmm {
  override *enable(): Thread {
    yield* this.trigger(0, [this.bench.eventfds[0]]);
    yield* this.release(0);
    yield* PlainVmm.prototype.enable.call(this);
  }

  *release(vector: number): Thread {
    if (this.triggers.has(vector)) yield* this.trigger(vector, [-1]);
  }
}

export const bug = msixBug({
  number: 21,
  title: "vector 0 stays allocated after MSI-X was turned on",
  reference: "QEMU 5ebffa4e87",
  options: {
    vectors: 2,
    assigned: true,
    enabled: false,
    guest: [["enable"], ["unmask", 1]],
    device: [1],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new AssignedVmm(bench),
});
