/**
 * A flag says whether the irqfd of a route is registered; two vCPUs that enable and disable the vector at the same time
 * each look at it before they act and write it afterwards, without a lock. One finds it set while the other is about to
 * clear it, does nothing, and the unmasked vector stays unbound. Mended: look, call and flag under one lock.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { Mutex } from "../../lib/vmm/co.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Broken extends PlainVmm {
  masked(vector: number): boolean {
    return this.maskBit(vector);
  }
  override armed(vector: number): boolean {
    return this.wanted(vector);
  }
}

class Mended extends Broken {
  readonly #lock = new Mutex();

  override *update(vector: number): Thread {
    yield* this.#lock.hold(() => super.update(vector));
  }
}

export const bug = msixBug({
  number: 4,
  title: "a lock-free flag contradicts the kernel",
  reference: "cloud-hypervisor 0f7dc514b",
  options: {
    vectors: 1,
    guest: [
      [
        ["unmask", 0],
        ["mask", 0],
      ],
      [["unmask", 0]],
    ],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
