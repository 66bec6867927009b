import { expect, test } from "vitest";
import { runSmallVmm } from "../../lib/examples/small-vmm.ts";

test("an MSI-X device, a level INTx device and a virtio-like one: each interrupt exactly once, in order", () => {
  const intx = [
    "guest: writes 1 to the INTx device",
    "guest: writes 0 to the INTx device",
    "guest: handled interrupt 2",
  ];
  expect(runSmallVmm()).toEqual([
    "guest: MSI-X on",
    "guest: vector 1 unmasked",
    "guest: writes 1 to the MSI-X device",
    "guest: handled interrupt 0",
    "virtio: kicked without an exit, answers",
    "guest: handled interrupt 1",
    ...intx,
    ...intx,
    "guest: done",
  ]);
});
