/**
 * A virtio reset puts the device's registers back and forgets what was set up in KVM: irqfds and routes of the last
 * driver stay, and those of the next collide with them. Mended: a reset takes everything down.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Broken extends PlainVmm {
  override *reset(): Thread {
    this.enabled = false;
    this.maskBits.clear();
    this.bound.clear();
  }
}

export const bug = msixBug({
  number: 26,
  title: "a reset keeps irqfds and routes",
  reference: "Firecracker 59b21612a",
  options: {
    vectors: 1,
    guest: [["unmask", 0], ["reset"], ["enable"], ["unmask", 0]],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new PlainVmm(bench),
});
