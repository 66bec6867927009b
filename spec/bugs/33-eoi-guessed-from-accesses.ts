/**
 * Without a resamplefd a VMM has to find out when the guest is done with INTx. This one takes any access to the device's
 * registers for it and unmasks the interrupt in VFIO. The access is what will make the device let go, so the line is
 * still up and stays masked; after it nobody comes back. Mended: the EOI says it, by a resamplefd.
 */
import {
  AutomaskedLine,
  type LevelBench,
  type LevelVmm,
  ResamplingVmm,
} from "../../lib/fuzz/explore/level-bench.ts";
import { levelBug } from "./bug.ts";

class Broken implements LevelVmm {
  readonly #line: AutomaskedLine;

  constructor(bench: LevelBench) {
    const fd = bench.eventfd();
    this.#line = new AutomaskedLine(bench, fd);
    bench.bind(fd);
  }

  raised(): void {
    this.#line.raised();
  }
  lowered(): void {}
  accessed(): void {
    this.#line.unmask();
  }
}

export const bug = levelBug({
  number: 33,
  title: "the end of INTx is guessed from register accesses",
  reference: "cloud-hypervisor #4999, #5260",
  options: { handlers: [["ack", "eoi"]], device: 2 },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new ResamplingVmm(bench),
});
