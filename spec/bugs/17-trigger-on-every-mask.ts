/**
 * The guest masks its vector around every interrupt. Each mask and each unmask gives VFIO another eventfd, and for that
 * the host frees the interrupt and requests it again: an edge between the two finds no handler. (In miniature: VFIO's
 * call in its two halves, and a device whose message nothing holds back.) Mended: the eventfd stays, and a call that
 * would change nothing is left out.
 */
import type { MsixBench } from "../../lib/fuzz/explore/msix-bench.ts";
import { step, type Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Mended extends PlainVmm {
  /** what the host's handler signals; undefined: the interrupt has no handler */
  #handler: number | undefined;

  constructor(bench: MsixBench) {
    super(bench);
    this.#handler = bench.eventfds[0];
  }

  raise(): void {
    if (this.#handler !== undefined) this.bench.signal(this.#handler);
  }

  *setIrqs(fd: number): Thread {
    yield* step("SET_IRQS: free_irq", () => {
      this.#handler = undefined;
    });
    yield* step("SET_IRQS: request_irq", () => {
      this.#handler = fd;
    });
  }

  *hand(fd: number): Thread {
    if (this.#handler !== fd) yield* this.setIrqs(fd);
  }

  override *arm(vector: number): Thread {
    yield* super.arm(vector);
    yield* this.hand(this.bench.eventfds[vector]);
  }
  override *disarm(vector: number): Thread {
    yield* super.disarm(vector);
    yield* this.hand(this.bench.eventfds[vector]);
  }
}

class Broken extends Mended {
  override *hand(fd: number): Thread {
    yield* this.setIrqs(fd);
  }
}

export const bug = msixBug({
  number: 17,
  title: "every mask and unmask opens a window without a handler",
  reference: "QEMU, Kapl: avoid SET_ACTION_TRIGGER ioctls, February 2020",
  options: {
    vectors: 1,
    guest: [
      ["unmask", 0],
      ["mask", 0],
    ],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
