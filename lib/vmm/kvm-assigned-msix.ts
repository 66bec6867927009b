/** MSI-X of a device that KVM itself assigns (KVM_ASSIGN_…, releases before 4.12): a GSI for each vector, all at once. */
import {
  KVM_ASSIGN_DEV_IRQ,
  KVM_ASSIGN_SET_MSIX_ENTRY,
  KVM_ASSIGN_SET_MSIX_NR,
  KVM_DEASSIGN_DEV_IRQ,
  KVM_DEV_IRQ_GUEST_MSIX,
  KVM_DEV_IRQ_HOST_MSIX,
  KvmAssignedIrq,
  KvmAssignedMsixEntry,
  KvmAssignedMsixNr,
} from "../abi/kvm-legacy.ts";
import type { Co, Linux } from "./co.ts";
import type { Irqchip } from "./irqchip.ts";
import type { HostMsix } from "./pci-assign.ts";
import type { Message } from "./route-table.ts";

const MSIX = KVM_DEV_IRQ_HOST_MSIX | KVM_DEV_IRQ_GUEST_MSIX;

export class KvmAssignedMsix implements HostMsix {
  readonly #linux: Linux;
  readonly #vm: number;
  readonly #id: number;
  readonly #irqchip: Irqchip;
  /** GSI by vector */
  readonly #gsis = new Map<number, number>();

  constructor(linux: Linux, vm: number, id: number, irqchip: Irqchip) {
    this.#linux = linux;
    this.#vm = vm;
    this.#id = id;
    this.#irqchip = irqchip;
  }

  *start(vectors: ReadonlyMap<number, Message>): Co<number> {
    const routed = yield* this.#irqchip.change((table) => {
      for (const [vector, message] of vectors) {
        const gsi = table.add(message);
        if (gsi < 0) return gsi;
        this.#gsis.set(vector, gsi);
      }
      return 0;
    });
    if (routed < 0) return routed;
    if (vectors.size !== 0) {
      const count = KvmAssignedMsixNr.encode({ assigned_dev_id: this.#id, entry_nr: vectors.size });
      const set = yield* this.#linux.ioctl(this.#vm, KVM_ASSIGN_SET_MSIX_NR, count);
      if (set < 0) return set;
    }
    for (const vector of vectors.keys()) {
      const set = yield* this.#setEntry(vector);
      if (set < 0) return set;
    }
    return yield* this.#linux.ioctl(this.#vm, KVM_ASSIGN_DEV_IRQ, this.#irq());
  }

  /** Where the kernel's MSI-X can grow. */
  *add(vector: number, message: Message): Co<number> {
    const gsi = yield* this.#irqchip.addMsiRoute(message);
    if (gsi < 0) return gsi;
    this.#gsis.set(vector, gsi);
    return yield* this.#setEntry(vector);
  }

  *update(vector: number, message: Message): Co<number> {
    return yield* this.#irqchip.updateMsiRoute(this.#gsis.get(vector)!, message);
  }

  *stop(): Co<number> {
    const result = yield* this.#linux.ioctl(this.#vm, KVM_DEASSIGN_DEV_IRQ, this.#irq());
    const gsis = [...this.#gsis.values()];
    this.#gsis.clear();
    yield* this.#irqchip.change((table) => {
      for (const gsi of gsis) table.remove(gsi);
      return 0;
    });
    return result;
  }

  *#setEntry(vector: number): Co<number> {
    const entry = { assigned_dev_id: this.#id, gsi: this.#gsis.get(vector)!, entry: vector };
    return yield* this.#linux.ioctl(this.#vm, KVM_ASSIGN_SET_MSIX_ENTRY, KvmAssignedMsixEntry.encode(entry));
  }

  #irq(): Uint8Array {
    return KvmAssignedIrq.encode({ assigned_dev_id: this.#id, flags: MSIX });
  }
}
