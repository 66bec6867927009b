/**
 * The irqfd of a vector was handed over (to vhost), and then the guest programs another message, as it does when it moves
 * an interrupt to another processor. The table in memory changes, the route in KVM does not. Mended: a write of address
 * or data commits the route again.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Broken extends PlainVmm {
  override *write(): Thread {
    // the VMM's copy of the table is all that changes
  }
}

export const bug = msixBug({
  number: 6,
  title: "a rewritten message keeps its old route",
  reference: "kvmtool 6518065",
  options: {
    vectors: 1,
    guest: [
      ["unmask", 0],
      ["write", 0, 0x51],
    ],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new PlainVmm(bench),
});
