/**
 * The guest turns MSI-X off and the VMM turns it off in VFIO, which can only turn off all of it: it has no mask for
 * messages. The irqfds and routes in KVM stay, and collide with those of the next enable. Mended: both sides go down.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { AssignedVmm } from "./plain-vmm.ts";

class Broken extends AssignedVmm {
  override *disable(): Thread {
    this.enabled = false;
    yield* this.triggerNone(0, 0);
    this.triggers.clear();
    this.bound.clear();
  }
}

export const bug = msixBug({
  number: 5,
  title: "MSI-X goes off in VFIO, its irqfds stay in KVM",
  reference: "cloud-hypervisor #460, #473",
  options: {
    vectors: 1,
    assigned: true,
    enabled: false,
    guest: [["enable"], ["unmask", 0], ["disable"]],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new AssignedVmm(bench),
});
