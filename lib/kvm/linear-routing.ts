/**
 * GSI routing where there is none: a GSI is the number of an interrupt source, for every GSI of 32 bits
 * (arch/powerpc/kvm/book3s.c:kvm_irq_map_gsi, kvm_irq_map_chip_pin, 6.1). Whether the source exists shows only when it
 * is raised.
 */
import { EINVAL } from "../abi/errno.ts";
import { KVM_IRQ_ROUTING_IRQCHIP } from "../abi/kvm.ts";
import { IrqRouting } from "./irq-routing.ts";
import { Route } from "./routing-table.ts";

export class LinearRouting extends IrqRouting {
  /** the route that was asked for last */
  #last = new Route(0, KVM_IRQ_ROUTING_IRQCHIP, 0, 0, 0, 0, 0);

  override routes(gsi: number): Route {
    if (this.#last.gsi !== gsi) this.#last = new Route(gsi, KVM_IRQ_ROUTING_IRQCHIP, 0, 0, gsi, 0, 0);
    return this.#last;
  }

  override gsiOf(_irqchip: number, pin: number): number {
    return pin;
  }

  override replace(_bytes: Uint8Array, _at: number, _count: number): number {
    return -EINVAL;
  }
}
