/**
 * Where the host cannot give as many vectors as asked for, VFIO_DEVICE_SET_IRQS answers how many it could give, and gives
 * none. A VMM that tests for a negative answer believes that MSI-X is on. Mended: anything but 0 is no success.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { AssignedVmm, PlainVmm } from "./plain-vmm.ts";

class Mended extends AssignedVmm {
  #failed = false;

  override *enable(): Thread {
    const answer = yield* this.trigger(0, this.bench.eventfds);
    this.#failed = this.isFailure(answer);
    if (this.#failed) return;
    for (const vector of this.bench.eventfds.keys()) {
      this.triggers.add(vector);
    }
    yield* PlainVmm.prototype.enable.call(this);
  }

  isFailure(answer: number): boolean {
    return answer !== 0;
  }

  refused(): boolean {
    return this.#failed;
  }
}

class Broken extends Mended {
  override isFailure(answer: number): boolean {
    return answer < 0;
  }
}

export const bug = msixBug({
  number: 28,
  title: "a positive answer is taken for success",
  reference: "VFIO_DEVICE_SET_IRQS, vfio_msi_enable",
  options: {
    vectors: 2,
    assigned: true,
    enabled: false,
    guest: [["enable"]],
    device: [0],
    faults: 4,
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
