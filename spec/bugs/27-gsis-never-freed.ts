/**
 * GSIs are given out by a counter and never come back: after enough hot-plugs KVM_SET_GSI_ROUTING answers EINVAL, and the
 * new device has no interrupts. (A library in between capped the table below what the kernel takes, and got there
 * sooner.) Mended: unplugging gives them back. The host here has room for one.
 */
import { KVM_CAP_IRQ_ROUTING } from "../../lib/abi/kvm.ts";
import { FIRST_GSI } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { defaultProfile } from "../../lib/machine/default-profile.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Broken extends PlainVmm {
  readonly gsis = new Map<number, number>();
  next = FIRST_GSI;

  override gsi(vector: number): number {
    let gsi = this.gsis.get(vector);
    if (gsi === undefined) this.gsis.set(vector, (gsi = this.next++));
    return gsi;
  }

  override *teardown(): Thread {
    yield* super.teardown();
    this.gsis.clear();
  }
}

class Mended extends Broken {
  override *teardown(): Thread {
    yield* super.teardown();
    this.next = FIRST_GSI;
  }
}

const vmCapabilities = new Map([...defaultProfile.vmCapabilities, [KVM_CAP_IRQ_ROUTING, FIRST_GSI + 1]]);

export const bug = msixBug({
  number: 27,
  title: "GSIs are never given back",
  reference: "cloud-hypervisor #7081, #7940, #8148; kvm-ioctls #381",
  options: {
    vectors: 1,
    profile: { ...defaultProfile, vmCapabilities },
    guest: [["unmask", 0], ["teardown"], ["plug"], ["unmask", 0]],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
