/**
 * One interrupt vector of a device, emulated or assigned: the device signals an eventfd. Where the message that the
 * guest programmed is an interrupt, the eventfd is bound to it in the kernel (the short cut). A message is a write to
 * memory, though, and a guest may point it at its own memory: then the VMM waits for the eventfd and makes the write
 * (the slow path).
 */
import { type Co, drain, type Linux } from "./co.ts";
import type { HostBridge } from "./host-bridge.ts";
import type { MsiMapper } from "./irqchip.ts";
import type { Message } from "./route-table.ts";

/** Writes 32 bits of guest memory. */
export type GuestWrite = (address: number, value: number) => void;

/** What a vector is made of. */
export interface MsiVectorOptions {
  readonly linux: Linux;
  readonly bridge: HostBridge;
  /** who turns messages into GSIs: the bridge itself, or its irqchip */
  readonly mapper: MsiMapper;
  /** what the device signals */
  readonly eventfd: number;
  readonly write: GuestWrite;
}

/** One vector of a device, emulated or assigned, and where its message goes. */
export class MsiVector {
  readonly #options: MsiVectorOptions;
  /** where the device's interrupts go */
  path: "off" | "irqfd" | "memory" = "off";
  #gsi = -1;
  #message: Message = { addressLo: 0, addressHi: 0, data: 0 };

  constructor(options: MsiVectorOptions) {
    this.#options = options;
  }

  get gsi(): number {
    return this.#gsi;
  }

  /** The guest has unmasked the vector with this message: 0, or −errno and the vector is off. */
  *enable(message: Message): Co<number> {
    const { bridge, mapper, eventfd } = this.#options;
    this.#message = message;
    if (!bridge.isMsi(message)) {
      this.path = "memory";
      return 0;
    }
    const gsi = yield* mapper.addMsiRoute(message);
    if (gsi < 0) return gsi;
    const bound = yield* bridge.irqchip.addIrqfd(eventfd, gsi);
    if (bound < 0) {
      yield* mapper.releaseMsiRoute(gsi);
      return bound;
    }
    this.#gsi = gsi;
    this.path = "irqfd";
    return 0;
  }

  *disable(): Co<void> {
    const { bridge, mapper, eventfd } = this.#options;
    if (this.path === "irqfd") {
      yield* bridge.irqchip.removeIrqfd(eventfd, this.#gsi);
      yield* mapper.releaseMsiRoute(this.#gsi);
    }
    this.path = "off";
    this.#gsi = -1;
  }

  /** The VMM's loop, when the eventfd can be read: makes the write that the kernel does not make. */
  *serve(): Co<number> {
    const count = yield* drain(this.#options.linux, this.#options.eventfd);
    const { addressHi, addressLo, data } = this.#message;
    if (count !== 0 && this.path === "memory") this.#options.write(addressHi * 2 ** 32 + addressLo, data);
    return count;
  }
}
