/**
 * A kernel bug. KVM_IRQFD puts the irqfd on its list and then, outside of the lock, registers it as a consumer of the
 * device's interrupt. If the eventfd is closed in between, the hang-up removes the irqfd, and what is registered
 * afterwards is already gone: the device goes on posting to it. Mended: both under one lock, so that the hang-up comes
 * before or after the whole. (In miniature: the two halves of the call as two steps.)
 */
import { KVM_IRQFD, KvmIrqfd } from "../../lib/abi/kvm.ts";
import { VFIO_PCI_MSIX_IRQ_INDEX } from "../../lib/abi/vfio.ts";
import { FIRST_GSI, MsixBench } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Program, World } from "../../lib/fuzz/explore/run.ts";
import { step, type Thread } from "../../lib/fuzz/explore/thread.ts";
import { irqBypass } from "../../lib/kernel/irq-bypass.ts";
import { now } from "../../lib/vmm/co.ts";
import type { Bug } from "./bug.ts";

function world(locked: boolean): World {
  const bench = new MsixBench({ vectors: 1, guest: [], device: [], assigned: true, posted: true });
  const { process, calls, vm, kernelVm, receiver } = bench;
  const { kernel } = process;
  const { pci } = bench.assigned!;
  const [fd] = bench.eventfds;
  now(bench.setRoutes(new Map([[FIRST_GSI, 0x40]])));
  now(bench.assigned!.trigger(calls, VFIO_PCI_MSIX_IRQ_INDEX, 0, [fd]));
  const host = kernelVm.host as { postedInterrupts?: boolean };
  const assign = () => process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: FIRST_GSI }));

  function* vmm(): Thread {
    if (locked) {
      yield* step("KVM_IRQFD", assign);
      return;
    }
    const irqfd = yield* step("KVM_IRQFD: onto the list", () => {
      host.postedInterrupts = false;
      assign();
      host.postedInterrupts = true;
      return [...kernelVm.irqfds.values()][0];
    });
    yield* step("KVM_IRQFD: registered as a consumer", () => irqBypass(kernel).addConsumer(irqfd));
  }
  function* other(): Thread {
    yield* calls.close(fd);
  }

  return {
    kernel,
    threads: { vmm: vmm(), other: other() },
    /** nothing is delivered after the eventfd is closed and everything is quiet */
    final() {
      pci.msix!.raise(0);
      return receiver.deliveries.length === 0
        ? undefined
        : "the device's interrupt is posted to a vCPU, and its irqfd is gone";
    },
  };
}

const program = (name: string, locked: boolean): Program => ({
  name,
  // a call that finds the eventfd closed binds nothing
  setup: () => world(locked),
});

export const bug: Bug = {
  number: 10,
  title: "a hang-up between the halves of assign",
  reference: "Linux, KVM irqfd: EPOLLHUP against bypass registration",
  broken: program("consumer registered without the lock", false),
  mended: program("consumer registered under the lock", true),
};
