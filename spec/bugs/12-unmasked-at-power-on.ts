/**
 * Every vector of a new device is taken for unmasked and MSI-X for enabled, so that irqfds are registered and dropped in
 * a storm while the guest boots, and an early edge comes through. Mended: the state after reset is the one that the
 * specification has: off, and all masked.
 */
import type { MsixBench } from "../../lib/fuzz/explore/msix-bench.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Broken extends PlainVmm {
  constructor(bench: MsixBench) {
    super(bench);
    for (const vector of bench.eventfds.keys()) this.maskBits.set(vector, false);
  }
}

export const bug = msixBug({
  number: 12,
  title: "vectors are unmasked before the guest unmasks them",
  reference: "cloud-hypervisor #1744",
  options: {
    vectors: 2,
    enabled: false,
    guest: [["enable"], ["unmask", 0], ["mask", 0]],
    device: [0, 1],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new PlainVmm(bench),
});
