/**
 * Unmasking binds the irqfd and commits its route afterwards: for a moment it leads nowhere, which brought down the same
 * hosts. Without posting an edge in that moment is taken by KVM and lost. Mended: the route first.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Broken extends PlainVmm {
  override *arm(vector: number): Thread {
    yield* this.bench.assign(vector);
    this.bound.add(vector);
    this.routes.set(this.gsi(vector), this.bench.data(vector));
    yield* this.bench.setRoutes(this.routes);
  }
}

export const bug = msixBug({
  number: 3,
  title: "unmasking binds the irqfd before its route exists",
  reference: "cloud-hypervisor #6353",
  options: {
    vectors: 1,
    posted: true,
    guest: [
      ["unmask", 0],
      ["mask", 0],
    ],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new PlainVmm(bench),
});
