/**
 * The mend of bug 26, and its own bug: a reset holds the bus and now wants the allocator of GSIs too, while hot-plug holds
 * the allocator and wants the bus. Mended: both take the allocator first.
 */
import { step, type Thread } from "../../lib/fuzz/explore/thread.ts";
import { Mutex } from "../../lib/vmm/co.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Mended extends PlainVmm {
  readonly bus = new Mutex();
  readonly allocator = new Mutex();

  *both(first: Mutex, second: Mutex, what: string): Thread {
    yield* first.hold(function* () {
      yield* step(`${what} has its first lock`, () => undefined);
      yield* second.hold(() => step(`${what} has both locks`, () => undefined));
    });
  }

  override *plug(): Thread {
    yield* this.both(this.allocator, this.bus, "hot-plug");
  }
  override *reset(): Thread {
    yield* this.both(this.allocator, this.bus, "reset");
  }
}

class Broken extends Mended {
  override *reset(): Thread {
    yield* this.both(this.bus, this.allocator, "reset");
  }
}

export const bug = msixBug({
  number: 26,
  title: "reset and hot-plug lock in opposite order",
  reference: "Firecracker 753a817ad",
  options: { vectors: 1, guest: [[["reset"]], [["plug"]]], device: [] },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
