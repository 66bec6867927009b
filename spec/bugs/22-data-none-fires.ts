/**
 * A VMM takes VFIO_DEVICE_SET_IRQS with DATA_NONE and a count for "unmap these vectors". It is a loopback: VFIO signals
 * the eventfd of each, and the guest gets interrupts that no device raised. Mended: −1 for their eventfds.
 */
import type { MsixBench } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { AssignedVmm } from "./plain-vmm.ts";

class Mended extends AssignedVmm {
  constructor(bench: MsixBench) {
    super(bench);
    this.before(this.enable());
  }

  *unmap(vector: number): Thread {
    yield* this.trigger(vector, [-1]);
  }

  override *disarm(vector: number): Thread {
    yield* this.unmap(vector);
    this.triggers.delete(vector);
    yield* super.disarm(vector);
  }

  /** the bits of the device itself */
  override pending(vector: number): boolean {
    return super.pending(vector) || this.bench.assigned!.pci.msix!.isPending(vector);
  }
}

class Broken extends Mended {
  override *unmap(vector: number): Thread {
    yield* this.triggerNone(vector, 1);
  }
}

export const bug = msixBug({
  number: 22,
  title: "DATA_NONE with a count fires the eventfds",
  reference: "openvmm #3778",
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
