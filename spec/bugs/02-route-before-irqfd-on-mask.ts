/**
 * Masking first commits a routing table without the vector and then takes the irqfd away. Between the two calls the
 * irqfd has no route; where device interrupts are posted, an AMD host kernel crashed on that. Mended: the irqfd goes
 * first, its route after it.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Broken extends PlainVmm {
  override *disarm(vector: number): Thread {
    this.routes.delete(this.gsi(vector));
    yield* this.bench.setRoutes(this.routes);
    yield* super.disarm(vector);
  }
}

class Mended extends PlainVmm {
  override *disarm(vector: number): Thread {
    yield* super.disarm(vector);
    this.routes.delete(this.gsi(vector));
    yield* this.bench.setRoutes(this.routes);
  }
}

export const bug = msixBug({
  number: 2,
  title: "masking removes the route before the irqfd",
  reference: "cloud-hypervisor #3827",
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
  mended: (bench) => new Mended(bench),
});
