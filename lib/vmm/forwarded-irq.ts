/**
 * An interrupt of a platform device on ARM, from the physical GIC to a guest: VFIO's handler for index i of the device
 * signals an eventfd, an irqfd takes that to a GSI, the GSI is a virtual interrupt (E. Auger and M. Zyngier on
 * "Forwarding physical interrupts to a guest VM", June 2014). What each part does can be left out, to see whether it is
 * needed:
 *
 * - forwarded: the host leaves the deactivation to the guest. The map physical → virtual makes the list register carry
 *   the HW bit, so that the guest's deactivation deactivates both, and the virtual line goes down with it.
 * - masks: VFIO's handler disables the interrupt, since the device has not been served yet.
 * - unmasks: the irqfd resamples: when the guest has ended the interrupt, VFIO enables it again.
 * - direct: VFIO's handler injects by itself, without eventfd and irqfd.
 *
 * Missing: the HW bit in KVM's own list registers; that the guest ended the interrupt is told from outside (`ended`).
 */
import { VFIO_IRQ_SET_ACTION_UNMASK } from "../abi/vfio.ts";
import type { PhysicalGic } from "../hardware/gic-physical.ts";
import type { PlatformInterrupt } from "../vfio/platform-device.ts";
import type { Co, Linux } from "./co.ts";
import type { Irqchip } from "./irqchip.ts";
import { setIrqs } from "./vfio-pci.ts";

/** How an interrupt is forwarded. */
export interface ForwardedOptions {
  readonly forwarded: boolean;
  readonly masks: boolean;
  readonly unmasks: boolean;
  readonly direct: boolean;
}

/** How the VM takes the virtual interrupt. */
export interface VirtualIrq {
  /** raises or lowers the virtual line */
  setLine(level: boolean): void;
  /** active in the guest */
  readonly active: boolean;
}

/** A physical interrupt as VFIO requests it, and what connects it with a virtual one. */
export class ForwardedIrq implements PlatformInterrupt {
  readonly automasked: boolean;
  readonly bypass: (() => void) | undefined;
  handler: (() => void) | undefined;
  /** how often VFIO has enabled it again */
  unmasks = 0;
  readonly #gic: PhysicalGic;
  readonly #intid: number;
  readonly #forwarded: boolean;
  readonly #virtual: VirtualIrq;
  #wasActive = false;

  constructor(gic: PhysicalGic, intid: number, options: ForwardedOptions, virtual: VirtualIrq) {
    this.#gic = gic;
    this.#intid = intid;
    this.#forwarded = options.forwarded;
    this.#virtual = virtual;
    this.automasked = options.masks;
    this.bypass = options.direct ? () => virtual.setLine(true) : undefined;
    gic.irq(intid).forwarded = options.forwarded;
    gic.irq(intid).enabled = false;
  }

  request(handler: () => void): void {
    this.handler = handler;
  }

  free(): void {
    this.handler = undefined;
    this.#gic.irq(this.#intid).enabled = false;
  }

  setEnabled(on: boolean): void {
    if (on && this.#gic.irq(this.#intid).enabled === false) this.unmasks++;
    this.#gic.irq(this.#intid).enabled = on;
  }

  /** The guest has deactivated the virtual interrupt: with the HW bit that reaches the physical one. */
  ended(): void {
    if (!this.#forwarded) return;
    this.#virtual.setLine(false);
    if (this.#gic.irq(this.#intid).active) this.#gic.deactivateByGuest(this.#intid);
  }

  /** After each run of the guest: an edge has no other way to tell that it ended. */
  guestRan(): void {
    const { active } = this.#virtual;
    if (this.#wasActive && !active) this.ended();
    this.#wasActive = active;
  }
}

/**
 * What a VMM does for index 0 of a platform device: eventfd, irqfd, VFIO's trigger, and where it resamples, VFIO's unmask by
 * the resamplefd. The trigger's descriptor, or −errno.
 */
export function* assignPlatformIrq(
  linux: Linux,
  device: number,
  irqchip: Irqchip,
  gsi: number,
  { masks, unmasks }: ForwardedOptions,
): Co<number> {
  const trigger = yield* linux.eventfd2(0, 0);
  const resample = unmasks ? yield* linux.eventfd2(0, 0) : undefined;
  const bound = yield* irqchip.addIrqfd(trigger, gsi, resample);
  if (bound < 0) return bound;
  if (masks && resample !== undefined) {
    const unmask = yield* setIrqs(linux, device, 0, 0, [resample], VFIO_IRQ_SET_ACTION_UNMASK);
    if (unmask < 0) return unmask;
  }
  const on = yield* setIrqs(linux, device, 0, 0, [trigger]);
  return on < 0 ? on : trigger;
}
