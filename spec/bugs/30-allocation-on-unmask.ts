/**
 * Interrupts are allocated when the guest unmasks a vector. An unmask is a write to a register and cannot fail: where the
 * host has nothing left, the guest's interrupt is silently dead. Mended: everything is allocated when the guest enables
 * MSI-X, where it can be told no; to mask and to unmask is a matter of the VMM alone, whose thread passes on what may
 * pass.
 */
import { KVM_SIGNAL_MSI, KvmMsi } from "../../lib/abi/kvm.ts";
import { step, type Thread, until } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { AssignedVmm } from "./plain-vmm.ts";

class Mended extends AssignedVmm {
  #refused = false;

  override *enable(): Thread {
    this.#refused = (yield* this.trigger(0, this.bench.eventfds)) !== 0;
    this.enabled = !this.#refused;
    if (this.enabled) this.triggers.add(0);
  }

  override *mask(vector: number): Thread {
    this.maskBits.set(vector, true);
  }
  override *unmask(vector: number): Thread {
    this.maskBits.set(vector, false);
  }

  *loop(): Thread {
    const { bench } = this;
    const [fd] = bench.eventfds;
    for (;;) {
      yield* until("poll", () => bench.signalled(fd) && this.wanted(0));
      yield* step("takes the eventfd and sends the message, if it is not masked by now", () => {
        if (!this.wanted(0)) return;
        bench.process.read(fd, new Uint8Array(8));
        const message = KvmMsi.encode({ address_lo: 0xfee0_0000, data: bench.data(0) });
        bench.process.ioctl(bench.vm, KVM_SIGNAL_MSI, message);
      });
    }
  }

  refused(): boolean {
    return this.#refused;
  }
}

export const bug = msixBug({
  number: 30,
  title: "an allocation on unmask fails, and nobody is told",
  reference: "Gleixner on dynamic MSI-X, 2021",
  options: {
    vectors: 1,
    assigned: true,
    enabled: false,
    guest: [["enable"], ["unmask", 0]],
    device: [0],
    faults: 3,
  },
  broken: (bench) => new AssignedVmm(bench),
  mended: (bench) => new Mended(bench),
});
