/**
 * A kernel bug. Each vCPU is told which vectors' EOIs it has to report to the IOAPIC; that is worked out from the table
 * of the IOAPIC whenever the guest writes to it. A guest that sends a pin to another processor while its interrupt is in
 * service takes the vector off the list of the one that is about to end it: the EOI is not forwarded, remote IRR stays
 * set, the pin is dead. Mended (what the fake does): a vector that is still in service is reported too.
 */
import { type LevelBench, PIN, ResamplingVmm } from "../../lib/fuzz/explore/level-bench.ts";
import type { X86Vm } from "../../lib/kvm/x86/vm.ts";
import { levelBug } from "./bug.ts";

/** A kernel whose list is the table alone. */
function reportByTable(bench: LevelBench): void {
  const { irqchip } = bench.kernelVm.arch as X86Vm;
  const eoi = irqchip!.ioapicEoi.bind(irqchip);
  irqchip!.ioapicEoi = (lapic, vector, level) => {
    if (irqchip!.ioapic!.destId(PIN) === lapic.xapicId) eoi(lapic, vector, level);
  };
}

export const bug = levelBug({
  number: 31,
  title: "a pin moves while its interrupt is in service",
  reference: "Linux 0fc5a36dd6b3",
  options: {
    handlers: [
      ["ack", ["route", 1], "eoi"],
      ["ack", "eoi"],
    ],
    device: 2,
  },
  broken(bench) {
    reportByTable(bench);
    return new ResamplingVmm(bench);
  },
  mended: (bench) => new ResamplingVmm(bench),
});
