/**
 * A kernel bug. The device's interrupt is posted to a vCPU; then the guest programs a message that cannot be posted (an
 * NMI), or the route goes. KVM looked only whether the new route can be posted, and otherwise left the entry of the
 * remapping table as it was: it went on posting the old vector to the old vCPU. Mended (what the fake does): back under
 * the host's control first, whatever comes next.
 */
import type { MsixBench } from "../../lib/fuzz/explore/msix-bench.ts";
import { msixBug } from "./bug.ts";
import { AssignedVmm } from "./plain-vmm.ts";

function vmm(bench: MsixBench): AssignedVmm {
  const made = new AssignedVmm(bench);
  made.before(made.enable());
  return made;
}

/** A kernel in which a new route never takes an interrupt back. */
function keepPosting(bench: MsixBench): void {
  const { remapping } = bench.assigned!.irqs;
  const { onChange } = bench.kernelVm.routing;
  const unpost = remapping.unpost.bind(remapping);
  let routing = false;
  remapping.unpost = (block, entry) => {
    if (!routing) unpost(block, entry);
  };
  onChange.forEach((changed, i) => {
    onChange[i] = () => {
      routing = true;
      changed();
      routing = false;
    };
  });
}

/** delivery mode NMI */
const NMI = 0x400;

export const bug = msixBug({
  number: 8,
  title: "the old vCPU gets what a new route cannot post",
  reference: "Linux CVE-2025-37885",
  options: {
    vectors: 1,
    assigned: true,
    posted: true,
    guest: [
      ["unmask", 0],
      ["write", 0, NMI | 0x51],
    ],
    device: [0],
  },
  broken(bench) {
    keepPosting(bench);
    return vmm(bench);
  },
  mended: vmm,
});
