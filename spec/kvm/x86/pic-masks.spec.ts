/** Who listens to the mask of a GSI hears of the PIC's pin that the routing table gives it (i8259.c:pic_ioport_write, 6.1). */
import { expect, test } from "vitest";
import { KVM_CREATE_IRQCHIP, KVM_IRQ_ROUTING_IRQCHIP, KVM_SET_GSI_ROUTING } from "../../../lib/abi/kvm.ts";
import { store32 } from "../../../lib/abi/struct.ts";
import type { VmFile } from "../../../lib/kvm/vm.ts";
import type { X86Vm } from "../../../lib/kvm/x86/vm.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { Guest } from "./guest.ts";

const GSI = 40;

/** One guest masks inputs 2 and 3 of a PIC and unmasks 2: what the listener of GSI 40 hears. */
function heard(chip: number, pin: number, port: number): boolean[] {
  const process = new Machine().process();
  const guest = new Guest(process, "real", (vm) => process.ioctl(vm, KVM_CREATE_IRQCHIP, 0));
  const table = new Uint8Array(8 + 48);
  [1, 0, GSI, KVM_IRQ_ROUTING_IRQCHIP, 0, 0, chip, pin].forEach((word, i) => {
    store32(table, 4 * i, word);
  });
  expect(process.ioctl(guest.vm, KVM_SET_GSI_ROUTING, table)).toBe(0);
  const changes: boolean[] = [];
  const { irqchip } = (process.fds.get(guest.vm) as VmFile).vm.arch as X86Vm;
  irqchip!.maskNotifiers.push({ gsi: GSI, changed: (masked) => changes.push(masked) });
  guest.code(0xb0, 0x0c, 0xe6, port, 0xb0, 0x08, 0xe6, port, 0xe6, 0x80); // mov al, 0xc; out; mov al, 8; out; out 0x80
  expect(guest.enter()).toBe(0);
  return changes;
}

test.each([
  [0, 0x21],
  [1, 0xa1],
])("PIC %i, port %i", (chip, port) => {
  expect([1, 2, 3, 4].map((pin) => heard(chip, pin, port))).toEqual([[], [true, false], [true], []]);
  expect(heard(1 - chip, 2, port)).toEqual([]);
});
