/**
 * IRQ bypass: who makes an interrupt (VFIO) and who wants it (KVM) find each other by the eventfd between them, and the
 * interrupt then goes straight from the device to the virtual processor (virt/lib/irqbypass.c, 6.1). The order in which
 * they come does not matter. One producer and one consumer an eventfd: the second of a kind is EBUSY, which neither VFIO
 * nor KVM minds.
 */
import { EBUSY } from "../abi/errno.ts";
import type { EventFd } from "./eventfd.ts";
import type { MsiIrq } from "./irq.ts";
import type { Kernel } from "./kernel.ts";

/** Signals `token`, from the interrupt `irq`. */
export interface BypassProducer {
  readonly token: EventFd;
  readonly irq: MsiIrq;
}

/** Wants what `token` signals. */
export interface BypassConsumer {
  readonly token: EventFd;
  addProducer(producer: BypassProducer): void;
  removeProducer(producer: BypassProducer): void;
}

export class IrqBypass {
  readonly #producers = new Map<EventFd, BypassProducer>();
  readonly #consumers = new Map<EventFd, BypassConsumer>();

  addProducer(producer: BypassProducer): number {
    if (this.#producers.has(producer.token)) return -EBUSY;
    this.#producers.set(producer.token, producer);
    this.#consumers.get(producer.token)?.addProducer(producer);
    return 0;
  }

  removeProducer(producer: BypassProducer): void {
    if (this.#producers.get(producer.token) !== producer) return;
    this.#producers.delete(producer.token);
    this.#consumers.get(producer.token)?.removeProducer(producer);
  }

  addConsumer(consumer: BypassConsumer): number {
    if (this.#consumers.has(consumer.token)) return -EBUSY;
    this.#consumers.set(consumer.token, consumer);
    const producer = this.#producers.get(consumer.token);
    if (producer !== undefined) consumer.addProducer(producer);
    return 0;
  }

  removeConsumer(consumer: BypassConsumer): void {
    if (this.#consumers.get(consumer.token) !== consumer) return;
    this.#consumers.delete(consumer.token);
    const producer = this.#producers.get(consumer.token);
    if (producer !== undefined) consumer.removeProducer(producer);
  }
}

const managers = new WeakMap<Kernel, IrqBypass>();

/** The bypass manager of a host. */
export function irqBypass(kernel: Kernel): IrqBypass {
  let manager = managers.get(kernel);
  if (manager === undefined) managers.set(kernel, (manager = new IrqBypass()));
  return manager;
}
