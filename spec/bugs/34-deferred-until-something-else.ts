/**
 * The VMM's own IOAPIC, behind a split irqchip. A pin whose last interrupt is not ended yet does not send another; at the
 * EOI it must be looked at again. This one clears remote IRR and leaves it at that: the line is up, and the interrupt
 * waits for an event of some other pin. Mended: the EOI sends it. (The sibling, a resample event that is never read and
 * keeps the loop awake, is a busy loop and loses nothing.)
 */
import { KVM_SIGNAL_MSI, KvmMsi } from "../../lib/abi/kvm.ts";
import { type LevelBench, type LevelVmm, VECTOR } from "../../lib/fuzz/explore/level-bench.ts";
import { levelBug } from "./bug.ts";

const LEVEL_MESSAGE = 0xc000;

class Mended implements LevelVmm {
  readonly #bench: LevelBench;
  remoteIrr = false;

  constructor(bench: LevelBench) {
    this.#bench = bench;
  }

  service(): void {
    if (!this.#bench.asserted || this.remoteIrr) return;
    this.remoteIrr = true;
    const message = KvmMsi.encode({ address_lo: 0xfee0_0000, data: LEVEL_MESSAGE | VECTOR });
    this.#bench.process.ioctl(this.#bench.vm, KVM_SIGNAL_MSI, message);
  }

  raised(): void {
    this.service();
  }
  lowered(): void {}
  eoi(): void {
    this.remoteIrr = false;
    this.service();
  }
}

class Broken extends Mended {
  override eoi(): void {
    this.remoteIrr = false;
  }
}

export const bug = levelBug({
  number: 34,
  title: "a pin is not looked at again at its EOI",
  reference: "crosvm 9880100a3, 03f4c754d",
  options: { split: true, handlers: [["ack", "eoi"]], device: 2 },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
