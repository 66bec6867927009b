/**
 * The guest enables MSI, for which INTx has to be turned off in VFIO, and disables it again: INTx is on for the guest
 * now, and in VFIO nothing is. Mended: disabling MSI turns INTx on again.
 */
import { VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX } from "../../lib/abi/vfio.ts";
import type { ModeBench, ModeVmm } from "../../lib/fuzz/explore/mode-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { now } from "../../lib/vmm/co.ts";
import { modeBug } from "./bug.ts";

class Broken implements ModeVmm {
  readonly bench: ModeBench;

  constructor(bench: ModeBench) {
    this.bench = bench;
    now(this.turnOn(VFIO_PCI_INTX_IRQ_INDEX));
  }

  turnOn(index: number): Thread<number> {
    return this.bench.device.trigger(this.bench.calls, index, 0, [this.bench.eventfd]);
  }
  turnOff(index: number): Thread<number> {
    return this.bench.device.triggerNone(this.bench.calls, index, 0, 0);
  }

  *on(): Thread {
    yield* this.turnOff(VFIO_PCI_INTX_IRQ_INDEX);
    yield* this.turnOn(VFIO_PCI_MSI_IRQ_INDEX);
  }
  *off(): Thread {
    yield* this.turnOff(VFIO_PCI_MSI_IRQ_INDEX);
  }
}

class Mended extends Broken {
  override *off(): Thread {
    yield* super.off();
    yield* this.turnOn(VFIO_PCI_INTX_IRQ_INDEX);
  }
}

export const bug = modeBug({
  number: 24,
  title: "INTx does not come back after MSI",
  reference: "kvmtool 7302327",
  options: {
    guest: [
      ["on", "msi"],
      ["off", "msi"],
    ],
    device: 1,
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
