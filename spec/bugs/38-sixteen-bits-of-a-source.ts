/**
 * On POWER the number of an interrupt source has up to 24 bits, and a message carries it in its data. With linear GSIs
 * the GSI is that number; cut to 16 bits, as the data field of MSI is, it is another source: another device's interrupt,
 * or none. Mended: all bits.
 */

import { PowerVm } from "../../lib/examples/power-vm.ts";
import type { World } from "../../lib/fuzz/explore/run.ts";
import { Calls, type Thread } from "../../lib/fuzz/explore/thread.ts";
import { byHand } from "../../lib/kernel/work-queue.ts";
import { Irqchip } from "../../lib/vmm/irqchip.ts";
import type { Bug } from "./bug.ts";

const MINE = 0x1_1001;
const OTHER = 0x1001;

function world(linearMask: number): World {
  const vm = new PowerVm({ policy: byHand });
  for (const source of [MINE, OTHER]) vm.setUp(source);
  const calls = new Calls(vm.process);
  const irqchip = new Irqchip(calls, vm.vm, { routing: "linear", linearMask });
  const eventfd = vm.process.eventfd2(0, 0);

  function* vmm(): Thread {
    const gsi = yield* irqchip.addMsiRoute({ addressLo: 0, addressHi: 0x400, data: MINE });
    yield* irqchip.addIrqfd(eventfd, gsi);
  }
  function* device(): Thread {
    yield* calls.signal(eventfd);
  }

  return {
    kernel: vm.machine.kernel,
    threads: { vmm: vmm(), device: device() },
    /** one edge: exactly one interrupt, and nobody else's */
    final() {
      if (vm.pending(OTHER) !== 0) return `the interrupt of source 0x${MINE.toString(16)} came as another's`;
      return vm.pending(MINE) === 1 ? undefined : "the interrupt was lost";
    },
  };
}

export const bug: Bug = {
  number: 38,
  title: "16 bits of a source's number",
  reference: "QEMU, thread of 2013 on MSI routes for POWER",
  broken: { name: "GSI = data & 0xffff", setup: () => world(0xffff) },
  mended: { name: "GSI = data", setup: () => world(0xffff_ffff) },
};
