/**
 * The VM is restored by a VMM with eventfds of its own. An edge that waited in the old eventfd, because the vector was
 * masked or not bound at that moment, is not in the snapshot: it is lost. Mended: what an old eventfd holds is passed on.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Mended extends PlainVmm {
  *restore(): Thread {
    const { bench } = this;
    for (const [vector, old] of bench.eventfds.entries()) {
      if (this.bound.has(vector)) yield* this.disarm(vector);
      bench.eventfds[vector] = yield* bench.calls.eventfd2(0, 0x800);
      yield* this.passOn(old, bench.eventfds[vector]);
      yield* bench.calls.close(old);
      yield* this.update(vector);
    }
  }

  *passOn(old: number, fresh: number): Thread {
    if ((yield* this.bench.calls.read(old, new Uint8Array(8))) > 0) yield* this.bench.calls.signal(fresh);
  }
}

class Broken extends Mended {
  override *passOn(): Thread {}
}

export const bug = msixBug({
  number: 37,
  title: "an edge that waits is lost by a restore",
  reference: "crosvm 275a32070; Firecracker #5952",
  options: { vectors: 1, guest: [["unmask", 0], ["restore"]], device: [0] },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
