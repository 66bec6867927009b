/**
 * The guest clears the enable bit of MSI-X, and the VMM notes it without telling the host. When the guest then turns on
 * MSI, the host still has MSI-X on and refuses. Mended: off is off on both sides.
 */
import { VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX } from "../../lib/abi/vfio.ts";
import type { ModeBench, ModeVmm } from "../../lib/fuzz/explore/mode-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { modeBug } from "./bug.ts";

const indices = { msi: VFIO_PCI_MSI_IRQ_INDEX, msix: VFIO_PCI_MSIX_IRQ_INDEX };

class Mended implements ModeVmm {
  readonly #bench: ModeBench;

  constructor(bench: ModeBench) {
    this.#bench = bench;
  }

  *on(mode: "msi" | "msix"): Thread {
    const { device, calls, eventfd } = this.#bench;
    yield* device.trigger(calls, indices[mode], 0, [eventfd]);
  }

  *off(mode: "msi" | "msix"): Thread {
    yield* this.#bench.device.triggerNone(this.#bench.calls, indices[mode], 0, 0);
  }
}

class Broken extends Mended {
  override *off(mode: "msi" | "msix"): Thread {
    if (mode === "msi") yield* super.off(mode);
  }
}

export const bug = modeBug({
  number: 25,
  title: "the host stays in MSI-X mode",
  reference: "bhyve r368003",
  options: {
    guest: [
      ["on", "msix"],
      ["off", "msix"],
      ["on", "msi"],
    ],
    device: 1,
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
