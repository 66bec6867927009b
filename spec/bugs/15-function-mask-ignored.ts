/**
 * The function mask is stored in the capability and read back, and nothing else: vectors go on being delivered, and
 * nothing is pending for the unmask to send. Mended: it counts as a mask of every vector.
 */
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Broken extends PlainVmm {
  override *functionMask(): Thread {}
  override *functionUnmask(): Thread {}
}

export const bug = msixBug({
  number: 15,
  title: "the function mask is accepted and ignored",
  reference: "libvfio-user #806, #807",
  options: {
    vectors: 1,
    guest: [["unmask", 0], ["function mask"], ["function unmask"]],
    device: [0, 0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new PlainVmm(bench),
});
