/**
 * The guest enables MSI-X with every vector masked, and the VMM waits with the device until the first is unmasked. Firmware
 * of the device, or the physical function behind a virtual one, sees MSI-X off and acts on it. Mended: the device is put
 * into MSI-X mode at once, for which VFIO wants one vector, with no eventfd behind it.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { AssignedVmm, PlainVmm } from "./plain-vmm.ts";

class Broken extends AssignedVmm {
  override *enable(): Thread {
    yield* PlainVmm.prototype.enable.call(this);
  }
}

export const bug = msixBug({
  number: 20,
  title: "MSI-X is enabled in the device when it is too late",
  reference: "QEMU b0223e29af; pci-assign, December 2012",
  options: {
    vectors: 1,
    assigned: true,
    enabled: false,
    guest: [["enable"], ["unmask", 0]],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new AssignedVmm(bench),
});
