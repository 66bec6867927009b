/**
 * A snapshot has the devices and their GSIs, but not the allocator that gave them out. After a restore it starts from the
 * beginning, and a new vector gets a GSI that an old one has: its route takes the old one's place. Mended: the restored
 * devices take their GSIs from the allocator again.
 */
import { FIRST_GSI } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Mended extends PlainVmm {
  readonly gsis = new Map<number, number>();
  next = FIRST_GSI;

  override gsi(vector: number): number {
    let gsi = this.gsis.get(vector);
    if (gsi === undefined) this.gsis.set(vector, (gsi = this.next++));
    return gsi;
  }

  *restore(): Thread {
    this.next = Math.max(FIRST_GSI, ...[...this.gsis.values()].map((gsi) => gsi + 1));
  }
}

class Broken extends Mended {
  override *restore(): Thread {
    this.next = FIRST_GSI;
  }
}

export const bug = msixBug({
  number: 37,
  title: "a GSI is given out twice after a restore",
  reference: "cloud-hypervisor #7850, #8004",
  options: {
    vectors: 2,
    guest: [["unmask", 0], ["restore"], ["unmask", 1]],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
