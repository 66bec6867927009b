/**
 * MSI can do without masks of its vectors. A VMM that starts all vectors masked waits for an unmask that such a device
 * cannot be asked for, and delivers nothing. Mended: without the masks there is nothing masked.
 */
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Mended extends PlainVmm {
  override maskBit(): boolean {
    return false;
  }
}

export const bug = msixBug({
  number: 19,
  title: "MSI without masks starts masked",
  reference: "kvmtool 3a36d34",
  options: {
    vectors: 1,
    maskable: false,
    enabled: false,
    guest: [["enable"], ["disable"], ["enable"]],
    device: [0],
  },
  broken: (bench) => new PlainVmm(bench),
  mended: (bench) => new Mended(bench),
});
