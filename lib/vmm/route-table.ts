/**
 * A VMM's own copy of its VM's GSI routing table: which GSIs are taken, by pins and by messages, and the bytes for
 * KVM_SET_GSI_ROUTING. Plain data: nothing reaches the kernel before `Irqchip` commits it.
 */
import { EINVAL, ENOSPC } from "../abi/errno.ts";
import {
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KVM_MSI_VALID_DEVID,
  KvmIrqRouting,
  KvmIrqRoutingEntry,
} from "../abi/kvm.ts";
import { store32 } from "../abi/struct.ts";

/** A message signalled interrupt: a write of `data` to the address. `devid`: who writes, where that matters (ITS). */
export interface Message {
  readonly addressLo: number;
  readonly addressHi: number;
  readonly data: number;
  readonly devid?: number;
}

/** A GSI that leads to a pin of an in-kernel controller. */
export interface PinRoute {
  readonly gsi: number;
  readonly irqchip: number;
  readonly pin: number;
}

/** The GSI routing table of a VM, as user space keeps it. */
export class RouteTable {
  /** GSIs are below this */
  readonly gsis: number;
  readonly pins: readonly PinRoute[];
  readonly #messages: Map<number, Message>;

  constructor(gsis: number, pins: readonly PinRoute[] = [], messages?: ReadonlyMap<number, Message>) {
    this.gsis = gsis;
    this.pins = pins;
    this.#messages = new Map(messages);
  }

  /** The same table, to be changed without harm to this one. */
  copy(): RouteTable {
    return new RouteTable(this.gsis, this.pins, this.#messages);
  }

  /** by GSI */
  get messages(): ReadonlyMap<number, Message> {
    return this.#messages;
  }

  /** Routes the lowest free GSI to a message: the GSI, or −ENOSPC. */
  add(message: Message): number {
    const taken = new Set(this.pins.map(({ gsi }) => gsi));
    for (let gsi = 0; gsi < this.gsis; gsi++) {
      if (taken.has(gsi) || this.#messages.has(gsi)) continue;
      this.#messages.set(gsi, message);
      return gsi;
    }
    return -ENOSPC;
  }

  /** Another message for a GSI that has one; −EINVAL. */
  update(gsi: number, message: Message): number {
    if (!this.#messages.has(gsi)) return -EINVAL;
    this.#messages.set(gsi, message);
    return 0;
  }

  /** −EINVAL for a GSI that leads to no message. */
  remove(gsi: number): number {
    return this.#messages.delete(gsi) ? 0 : -EINVAL;
  }

  /** The argument of KVM_SET_GSI_ROUTING: pins first, then messages by GSI. */
  encode(): Uint8Array {
    const entries = [
      ...this.pins.map(({ gsi, irqchip, pin }) =>
        KvmIrqRoutingEntry.encode({ gsi, type: KVM_IRQ_ROUTING_IRQCHIP, u: { irqchip: { irqchip, pin } } }),
      ),
      ...[...this.#messages].sort(([a], [b]) => a - b).map(([gsi, message]) => encodeMessage(gsi, message)),
    ];
    const bytes = new Uint8Array(KvmIrqRouting.size + entries.length * KvmIrqRoutingEntry.size);
    store32(bytes, 0, entries.length);
    entries.forEach((entry, i) => {
      bytes.set(entry, KvmIrqRouting.size + i * KvmIrqRoutingEntry.size);
    });
    return bytes;
  }
}

const encodeMessage = (gsi: number, { addressLo, addressHi, data, devid }: Message): Uint8Array =>
  KvmIrqRoutingEntry.encode({
    gsi,
    type: KVM_IRQ_ROUTING_MSI,
    flags: devid === undefined ? 0 : KVM_MSI_VALID_DEVID,
    u: {
      msi: {
        address_lo: addressLo,
        address_hi: addressHi,
        data,
        devid: devid ?? 0,
      },
    },
  });
