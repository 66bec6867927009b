/**
 * A device process is given the eventfds and signals them itself. While a vector is masked nobody in the VMM looks at
 * its eventfd, so the pending bit is 0 whatever happens. Mended: reading the pending bits polls the eventfds of masked
 * vectors. (A later remapping of the vectors was ignored too, which is bug 6 once more.)
 */
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Broken extends PlainVmm {
  override pending(): boolean {
    return false;
  }
}

export const bug = msixBug({
  number: 7,
  title: "exported eventfds are not polled for the pending bits",
  reference: "cloud-hypervisor #7813",
  options: {
    vectors: 1,
    guest: [
      ["unmask", 0],
      ["mask", 0],
    ],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new PlainVmm(bench),
});
