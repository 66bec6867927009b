/**
 * A kernel bug. The guest's driver runs the self-test of its device, which writes over the MSI-X table in the device. The
 * host has written its messages there when MSI-X was turned on, and does not again: the next interrupt is a message to
 * address 0. Mended (what the fake does): before a vector is requested its message is written once more.
 */
import type { MsixBench } from "../../lib/fuzz/explore/msix-bench.ts";
import { MSIX_ENTRY_SIZE } from "../../lib/hardware/msix.ts";
import { msixBug } from "./bug.ts";
import { AssignedVmm } from "./plain-vmm.ts";

class Vmm extends AssignedVmm {
  constructor(bench: MsixBench) {
    super(bench);
    this.before(this.enable());
  }

  override pending(vector: number): boolean {
    return super.pending(vector) || this.bench.assigned!.pci.msix!.isPending(vector);
  }
}

/** A kernel that writes the message of a vector into the device once, and from then on touches its mask alone. */
function writeOnce(bench: MsixBench): void {
  const msix = bench.assigned!.pci.msix!;
  const write = msix.writeTable.bind(msix);
  const written = new Set<number>();
  msix.writeTable = (offset, width, value) => {
    const mask = offset % MSIX_ENTRY_SIZE === 12;
    if (!mask && written.has(offset)) return;
    if (!mask && value !== 0) written.add(offset);
    write(offset, width, value);
  };
}

export const bug = msixBug({
  number: 23,
  title: "a self-test clears the device's MSI-X table",
  reference: "Linux b8f02af096",
  options: {
    vectors: 1,
    assigned: true,
    guest: [["self-test"], ["unmask", 0]],
    device: [0],
  },
  broken(bench) {
    writeOnce(bench);
    return new Vmm(bench);
  },
  mended: (bench) => new Vmm(bench),
});
