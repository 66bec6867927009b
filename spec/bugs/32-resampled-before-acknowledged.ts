/**
 * A kernel bug. A guest with threaded handlers masks the pin, ends the interrupt, and acknowledges the device later, in a
 * thread. At the EOI the line is resampled while the device still asserts it, so KVM notes it as pending; the device lets
 * go, nobody takes the note back, and the unmask delivers it: spurious. Mended (6.4, and the fake): at the unmask KVM
 * drops the note and has the line resampled.
 */
import { type LevelBench, ResamplingVmm } from "../../lib/fuzz/explore/level-bench.ts";
import { levelBug } from "./bug.ts";

/** A kernel that does not look for resamplers when a pin is unmasked. */
function beforeLinux64(bench: LevelBench): ResamplingVmm {
  const vmm = new ResamplingVmm(bench);
  bench.kernelVm.resamplers.get = () => undefined;
  return vmm;
}

export const bug = levelBug({
  number: 32,
  title: "resampled before the device is acknowledged",
  reference: "Linux, KVM irqfd and one-shot interrupts (6.4)",
  options: { handlers: [["mask", "eoi", "later", "ack", "unmask"]], device: 1 },
  broken: beforeLinux64,
  mended: (bench) => new ResamplingVmm(bench),
});
