/**
 * A kernel bug. When the routing table is replaced, KVM asks for each irqfd whether its route has changed, and compared
 * the bytes behind the type but not the type. A message and a pin can have the same bytes: address 2, data 0x40, and pin 5
 * of chip 2. The irqfd then goes on as a message. Mended (what the fake does): the type is compared too; or, simpler,
 * every replacement counts. (The other half, producers that come and go without the irqfds' lock, is not shown here.)
 */
import { KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_SET_GSI_ROUTING } from "../../lib/abi/kvm.ts";
import { KVM_IRQCHIP_IOAPIC } from "../../lib/abi/kvm-x86.ts";
import { store32 } from "../../lib/abi/struct.ts";
import { FIRST_GSI, type MsixBench } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import type { X86Vm } from "../../lib/kvm/x86/vm.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

const PIN = 5;
const IOAPIC = 0xfec0_0000;

/** A VMM whose device turns from a message into a pin when the guest says so. */
class Vmm extends PlainVmm {
  constructor(bench: MsixBench) {
    super(bench);
    const { ioapic } = (bench.kernelVm.arch as X86Vm).irqchip!;
    ioapic!.write(IOAPIC, 0x10 + 2 * PIN, 4);
    ioapic!.write(IOAPIC + 0x10, 0x51, 4);
  }

  override *arm(vector: number): Thread {
    yield* this.#route(KVM_IRQ_ROUTING_MSI);
    yield* this.bench.assign(vector);
    this.bound.add(vector);
  }

  override *write(): Thread {
    yield* this.#route(KVM_IRQ_ROUTING_IRQCHIP);
  }

  #route(type: number): Thread<number> {
    const bytes = new Uint8Array(8 + 48);
    store32(bytes, 0, 1);
    store32(bytes, 8, FIRST_GSI);
    store32(bytes, 12, type);
    store32(bytes, 24, KVM_IRQCHIP_IOAPIC);
    store32(bytes, 28, PIN);
    store32(bytes, 32, 0x40);
    return this.bench.calls.ioctl(this.bench.vm, KVM_SET_GSI_ROUTING, bytes);
  }
}

/** A kernel that does not compare the types of routes. */
function compareBytes(bench: MsixBench): void {
  const { irqfds, routing } = bench.kernelVm;
  routing.onChange[0] = () => {
    for (const irqfd of irqfds.values()) {
      const [old, made] = [irqfd.route, routing.routes(irqfd.gsi)];
      const same =
        old?.irqchip === made?.irqchip &&
        old?.pin === made?.pin &&
        old?.data === made?.data &&
        old?.devid === made?.devid;
      if (!same) irqfd.update();
    }
  };
}

export const bug = msixBug({
  number: 9,
  title: "a route's change of type is no change",
  reference: "Linux bcda70c56f3e (and f1fb088d9cec)",
  options: {
    vectors: 1,
    guest: [
      ["unmask", 0],
      ["write", 0, 0x51],
    ],
    device: [0],
  },
  broken(bench) {
    compareBytes(bench);
    return new Vmm(bench);
  },
  mended: (bench) => new Vmm(bench),
});
