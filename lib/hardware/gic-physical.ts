/**
 * The physical GIC of a host as one of its processors sees it: interrupts with their lines, and acknowledge, end and
 * deactivation apart (EOImode 1: the end drops the priority, the interrupt stays active until it is deactivated, by the
 * host's write to DIR or by a guest's deactivation through a list register with the HW bit). IHI 0048B 3.2, 3.2.1, 4.4.
 *
 * A "forwarded" interrupt is one whose deactivation the host leaves to a guest. Its state, pending and active, can be
 * saved and put back, for a device that guests share (a timer).
 *
 * A list register (GICH_LR, IHI 0048B 5.3.10): virtual number in 9:0, priority in 27:23, state in 29:28 (1 pending, 2
 * active), HW in 31. With HW the physical number stands in 19:10; without, bit 19 asks for a maintenance interrupt when
 * the guest ends the interrupt: the two exclude each other.
 *
 * Missing: priorities, several processors, groups.
 */

/** Nothing to acknowledge. */
export const NONE = 1023;

/** One physical interrupt. */
export class PhysicalIrq {
  readonly intid: number;
  edge = false;
  enabled = true;
  line = false;
  /** an edge that was not acknowledged yet */
  latch = false;
  active = false;
  /** the host does not deactivate it */
  forwarded = false;

  constructor(intid: number) {
    this.intid = intid;
  }

  get pending(): boolean {
    return this.edge ? this.latch : this.line;
  }
}

/** What irq_get_fwd_state and irq_set_fwd_state carry. */
export interface ForwardedState {
  readonly pending: boolean;
  readonly active: boolean;
}

export class PhysicalGic {
  readonly #irqs = new Map<number, PhysicalIrq>();
  /** deactivations by the host, and through list registers */
  readonly deactivations = { host: 0, guest: 0 };

  irq(intid: number): PhysicalIrq {
    let irq = this.#irqs.get(intid);
    if (irq === undefined) this.#irqs.set(intid, (irq = new PhysicalIrq(intid)));
    return irq;
  }

  setLine(intid: number, level: boolean): void {
    const irq = this.irq(intid);
    if (irq.edge && level && !irq.line) irq.latch = true;
    irq.line = level;
  }

  /** The interrupt that the processor would take now, NONE without: pending, enabled, and not active. */
  get highest(): number {
    for (const irq of this.#irqs.values()) if (irq.pending && irq.enabled && !irq.active) return irq.intid;
    return NONE;
  }

  /** IAR: the interrupt becomes active. */
  acknowledge(): number {
    const intid = this.highest;
    if (intid === NONE) return NONE;
    const irq = this.irq(intid);
    irq.active = true;
    irq.latch = false;
    return intid;
  }

  /** DIR of the host. */
  deactivate(intid: number): void {
    this.deactivations.host++;
    this.irq(intid).active = false;
  }

  /** A guest deactivated a virtual interrupt whose list register names this one. */
  deactivateByGuest(intid: number): void {
    this.deactivations.guest++;
    this.irq(intid).active = false;
  }

  saveForwarded(intid: number): ForwardedState {
    const { active, latch } = this.irq(intid);
    return { active, pending: latch };
  }

  restoreForwarded(intid: number, { active, pending }: ForwardedState): void {
    const irq = this.irq(intid);
    irq.active = active;
    irq.latch = pending;
  }
}

/** The host's flow: acknowledge, handle, drop the priority, and deactivate unless the interrupt is forwarded. */
export function handleOne(gic: PhysicalGic, handler: (intid: number) => void): number {
  const intid = gic.acknowledge();
  if (intid === NONE) return NONE;
  handler(intid);
  if (!gic.irq(intid).forwarded) gic.deactivate(intid);
  return intid;
}

export interface ListRegisterFields {
  readonly virtual: number;
  /** set: HW */
  readonly physical?: number;
  readonly priority?: number;
  readonly pending?: boolean;
  readonly active?: boolean;
  /** a maintenance interrupt at the end; undefined behaviour of the fields where HW is set */
  readonly eoi?: boolean;
}

const HW = 1 << 31;
const PHYSICAL = 10;
export const LR_EOI = 1 << 19;

/** The bits of a list register. */
export function encodeListRegister(fields: ListRegisterFields): number {
  const { virtual, physical, priority = 0, pending = false, active = false, eoi = false } = fields;
  let bits = virtual | ((priority >>> 3) << 23) | (pending ? 1 << 28 : 0) | (active ? 1 << 29 : 0);
  if (physical !== undefined) bits |= HW | (physical << PHYSICAL);
  if (eoi) bits |= LR_EOI;
  return bits >>> 0;
}

/** The physical number and the maintenance bit as the hardware understands them. */
export function decodeListRegister(bits: number): { physical: number | undefined; eoi: boolean } {
  const hw = (bits & HW) !== 0;
  return { physical: hw ? (bits >>> PHYSICAL) & 0x3ff : undefined, eoi: !hw && (bits & LR_EOI) !== 0 };
}
