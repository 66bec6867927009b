import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { runSmallVmm } from "../../lib/examples/small-vmm.ts";
import { output } from "../../lib/examples/vmm.ts";

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

test("the guide shows the system calls that it makes", () => {
  const shown = /```text\n([\s\S]*?)\n```/.exec(readFileSync("docs/vmm.md", "utf8"))![1].split("\n");
  const made = output(true).map((line) => (line.length <= 150 ? line : `${line.slice(0, 149)}…`));
  expect(shown).toEqual(made);
  expect(made.filter((line) => line.includes("KVM_IRQFD")).length).toBe(3);
});
