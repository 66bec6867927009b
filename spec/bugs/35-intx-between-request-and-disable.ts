/**
 * A kernel bug. The program has INTx disabled in the command register and gives VFIO an eventfd for it. A device that
 * cannot mask INTx itself is masked at its pin: the kernel requested the interrupt, enabled, and then disabled it. If the
 * line is up in between, the handler disables it too, and the one enable that follows later is one too few. Mended (what
 * the fake does): it is requested disabled.
 */
import { VFIO_PCI_INTX_IRQ_INDEX } from "../../lib/abi/vfio.ts";
import type { ModeBench, ModeVmm } from "../../lib/fuzz/explore/mode-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { modeBug } from "./bug.ts";

class Vmm implements ModeVmm {
  readonly #bench: ModeBench;

  constructor(bench: ModeBench) {
    this.#bench = bench;
  }

  *start(): Thread {
    const { device, calls, eventfd } = this.#bench;
    yield* device.trigger(calls, VFIO_PCI_INTX_IRQ_INDEX, 0, [eventfd]);
  }
  *on(): Thread {}
  *off(): Thread {}
}

/** A kernel that requests the interrupt enabled, and disables it afterwards. */
function requestEnabled(bench: ModeBench): void {
  const { irqs } = bench.device;
  const request = irqs.requestPin.bind(irqs);
  irqs.requestPin = (pin, handler, shared, autoEnable) => {
    const result = request(pin, handler, shared, true);
    if (autoEnable === false) irqs.holdPin(pin);
    return result;
  };
}

export const bug = modeBug({
  number: 35,
  title: "INTx fires between request and disable",
  reference: "Linux CVE-2024-27437 (beside CVE-2024-26810, 899649b7d4)",
  options: {
    exclusive: true,
    guest: [["intx", "disable"], "start", ["intx", "enable"]],
    device: 1,
  },
  broken(bench) {
    requestEnabled(bench);
    return new Vmm(bench);
  },
  mended: (bench) => new Vmm(bench),
});
