/**
 * An interrupt of a platform device on ARM, from the physical GIC to a guest: VFIO's handler for index i of the device
 * signals an eventfd, an irqfd takes that to a GSI, the GSI is a virtual interrupt (E. Auger and M. Zyngier on
 * "Forwarding physical interrupts to a guest VM", June 2014). Host and VMM are one object here: what each part does
 * can be left out, to see whether it is needed.
 *
 * - forwarded: the host leaves the deactivation to the guest. The map physical → virtual makes the list register carry
 *   the HW bit, so that the guest's deactivation deactivates both, and the virtual line goes down with it.
 * - masks: VFIO's handler disables the interrupt of a level, since the device has not been served yet.
 * - unmasks: the irqfd resamples: when the guest has ended the interrupt, VFIO enables it again.
 * - direct: VFIO's handler injects by itself, without eventfd and irqfd.
 *
 * Missing: the HW bit in KVM's own list registers; that the guest ended the interrupt is told from outside (`ended`).
 */
import type { PhysicalGic } from "../hardware/gic-physical.ts";
import type { EventFd } from "../kernel/eventfd.ts";

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

export class PlatformIrq {
  readonly #gic: PhysicalGic;
  readonly #intid: number;
  readonly #options: ForwardedOptions;
  readonly #trigger: EventFd;
  readonly #virtual: VirtualIrq;
  #wasActive = false;

  constructor(
    gic: PhysicalGic,
    intid: number,
    options: ForwardedOptions,
    trigger: EventFd,
    virtual: VirtualIrq,
  ) {
    this.#gic = gic;
    this.#intid = intid;
    this.#options = options;
    this.#trigger = trigger;
    this.#virtual = virtual;
    gic.irq(intid).forwarded = options.forwarded;
  }

  /** VFIO's interrupt handler. */
  handle(): void {
    if (this.#options.masks) this.#gic.irq(this.#intid).enabled = false;
    if (this.#options.direct) this.#virtual.setLine(true);
    else this.#trigger.signal();
  }

  /** The irqfd's resamplefd was signalled: VFIO's unmask. */
  unmask(): void {
    this.#gic.irq(this.#intid).enabled = true;
  }

  /** The guest has deactivated the virtual interrupt: with the HW bit that reaches the physical one. */
  ended(): void {
    if (!this.#options.forwarded) return;
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
