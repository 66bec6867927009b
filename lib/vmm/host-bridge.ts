/**
 * The design that was dropped for `Irqchip`'s: the PCI host bridge says which GSI a message is (`mapMsi`), and a bridge
 * that has nothing to say leaves it to the routing table. The interface is the same, so that both can be run side by
 * side.
 *
 * A bridge knows besides which writes of its devices are interrupts at all.
 */
import type { Co } from "./co.ts";
import type { Irqchip, MsiMapper } from "./irqchip.ts";
import type { Message } from "./route-table.ts";

export class HostBridge implements MsiMapper {
  readonly irqchip: Irqchip;

  constructor(irqchip: Irqchip) {
    this.irqchip = irqchip;
  }

  /** The GSI that a message is, where the bridge itself translates messages. */
  mapMsi?(message: Message): number;

  /** Whether a write of a device to this address is an interrupt; on x86 the megabyte at 0xfee00000. */
  isMsi({ addressLo, addressHi }: Message): boolean {
    return addressHi === 0 && addressLo >>> 20 === 0xfee;
  }

  *addMsiRoute(message: Message): Co<number> {
    return this.mapMsi?.(message) ?? (yield* this.irqchip.addMsiRoute(message));
  }

  *updateMsiRoute(gsi: number, message: Message): Co<number> {
    if (this.mapMsi !== undefined) return 0;
    return yield* this.irqchip.updateMsiRoute(gsi, message);
  }

  *releaseMsiRoute(gsi: number): Co<number> {
    if (this.mapMsi !== undefined) return 0;
    return yield* this.irqchip.releaseMsiRoute(gsi);
  }
}
