/**
 * Masking a vector removes its GSI route while the irqfd stays: KVM takes the eventfd, finds no route, and the
 * interrupt is lost. Mended: the irqfd is taken away instead, and an edge waits in the eventfd until it is bound again.
 */
import { FIRST_GSI, MsixBench, type MsixVmm } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import type { Bug } from "./bug.ts";

class Broken implements MsixVmm {
  readonly #bench: MsixBench;
  readonly #routes = new Map<number, number>();
  readonly #bound = new Set<number>();
  readonly #unmasked = new Set<number>();

  constructor(bench: MsixBench) {
    this.#bench = bench;
  }

  *unmask(vector: number): Thread {
    this.#routes.set(FIRST_GSI + vector, this.#bench.data(vector));
    yield* this.#bench.setRoutes(this.#routes);
    if (!this.#bound.has(vector)) yield* this.#bench.assign(vector);
    this.#bound.add(vector);
    this.#unmasked.add(vector);
  }

  *mask(vector: number): Thread {
    this.#unmasked.delete(vector);
    this.#routes.delete(FIRST_GSI + vector);
    yield* this.#bench.setRoutes(this.#routes);
  }

  pending(vector: number): boolean {
    return !this.#unmasked.has(vector) && this.#bench.signalled(this.#bench.eventfds[vector]);
  }
}

class Mended implements MsixVmm {
  readonly #bench: MsixBench;
  readonly #routes = new Map<number, number>();
  readonly #unmasked = new Set<number>();

  constructor(bench: MsixBench) {
    this.#bench = bench;
  }

  *unmask(vector: number): Thread {
    this.#routes.set(FIRST_GSI + vector, this.#bench.data(vector));
    yield* this.#bench.setRoutes(this.#routes);
    yield* this.#bench.assign(vector);
    this.#unmasked.add(vector);
  }

  *mask(vector: number): Thread {
    yield* this.#bench.deassign(vector);
    this.#unmasked.delete(vector);
  }

  pending(vector: number): boolean {
    return !this.#unmasked.has(vector) && this.#bench.signalled(this.#bench.eventfds[vector]);
  }
}

const options = {
  vectors: 1,
  guest: [
    ["unmask", 0],
    ["mask", 0],
    ["unmask", 0],
  ],
  device: [0, 0],
} as const;

export const bug: Bug = {
  number: 1,
  title: "masking removes the route, the irqfd stays",
  reference: "cloud-hypervisor #795",
  broken: {
    name: "mask removes the route",
    setup() {
      const bench = new MsixBench(options);
      return bench.world(new Broken(bench));
    },
  },
  mended: {
    name: "mask takes the irqfd away",
    setup() {
      const bench = new MsixBench(options);
      return bench.world(new Mended(bench));
    },
  },
};
