/**
 * GSI routing: from a global system interrupt to what it does (virt/kvm/irqchip.c, 6.1). A GSI leads to one pin of
 * each in-kernel controller, or to one message; a table replaces the former as a whole.
 *
 * `struct kvm_irq_routing`: nr u32, flags u32, then `nr` entries of 48 bytes: gsi u32 @0, type u32 @4, flags u32 @8,
 * pad u32 @12, then by type: irqchip u32 @16, pin u32 @20 — or address_lo u32 @16, address_hi u32 @20, data u32 @24,
 * devid u32 @28.
 *
 * Architectures say what an entry may be and what it does (`IrqArch`).
 */
import { EFAULT, EINVAL, ENOMEM } from "../abi/errno.ts";
import {
  KVM_CAP_IRQ_ROUTING,
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KVM_MSI_VALID_DEVID,
} from "../abi/kvm.ts";
import { load32 } from "../abi/struct.ts";
import type { Argument } from "../kernel/argument.ts";
import type { Vm, VmFile } from "./vm.ts";

const HEADER = 8;
const ENTRY = 48;

/** Who raises a line: lines are the OR of their sources (include/linux/kvm_host.h, 6.1). */
export const KVM_USERSPACE_IRQ_SOURCE_ID = 0;
export const KVM_IRQFD_RESAMPLE_IRQ_SOURCE_ID = 1;

/** Answer of `setInAtomic`: it cannot be done inside a wake-up, a work item has to. */
export const WOULD_BLOCK = -11;

/** One entry of the table. For a pin: `irqchip` and `pin`. For a message: address, data and device id. */
export class Route {
  readonly gsi: number;
  readonly type: number;
  readonly flags: number;
  irqchip: number;
  pin: number;
  readonly data: number;
  readonly devid: number;
  /** the next entry of the same GSI */
  next: Route | undefined = undefined;

  constructor(
    gsi: number,
    type: number,
    flags: number,
    first: number,
    second: number,
    data: number,
    devid: number,
  ) {
    this.gsi = gsi;
    this.type = type;
    this.flags = flags;
    this.irqchip = first;
    this.pin = second;
    this.data = data;
    this.devid = devid;
  }

  get addressLo(): number {
    return this.irqchip;
  }
  get addressHi(): number {
    return this.pin;
  }
}

/** What routes do on an architecture, with the controllers of one VM. */
export interface IrqArch {
  /** whether interrupts can be bound at all yet (kvm_arch_intc_initialized): EAGAIN if not */
  readonly initialized: boolean;
  /** whether this kind of irqfd is possible (kvm_arch_irqfd_allowed): EINVAL if not */
  irqfdAllowed(resample: boolean): boolean;
  readonly canSetRouting: boolean;
  /** 0 or −EINVAL; may put the pin into the controller's own numbering */
  checkRoute(route: Route): number;
  /** −1 ignored, 0 coalesced, > 0 delivered */
  setRoute(route: Route, sourceId: number, level: boolean, lineStatus: boolean): number;
  /** as `setRoute` with the line up, where that can be done at once, or WOULD_BLOCK */
  setInAtomic(route: Route): number;
  /** whether a route leads to one vCPU in a way that a device's interrupt can be posted to it */
  postable?(route: Route): boolean;
  /** the table was replaced */
  routingChanged(): void;
}

/** Called when the guest has acknowledged the interrupt of a pin that the GSI leads to. */
export interface AckNotifier {
  readonly gsi: number;
  acked(): void;
}

/** A finished table; nobody changes it any more, so VMs may share one. */
export interface RoutingTable {
  /** first entry by GSI, in the order of the table */
  readonly heads: (Route | undefined)[];
  /** GSI by pin, by controller */
  readonly pins: Map<number, number>[];
}

export class IrqRouting {
  readonly #vm: Vm;
  #table: RoutingTable = { heads: [], pins: [] };
  #notifiers: AckNotifier[] = [];
  /** called after each replacement: irqfds look up their route again */
  readonly onChange: (() => void)[] = [];

  constructor(vm: Vm) {
    this.#vm = vm;
  }

  /** The entries of a GSI, linked. */
  routes(gsi: number): Route | undefined {
    return this.#table.heads[gsi];
  }

  /** The GSI that leads to a pin, −1 if none does. Where several do, the last of the table. */
  gsiOf(irqchip: number, pin: number): number {
    return this.#table.pins[irqchip]?.get(pin) ?? -1;
  }

  /** Replaces the table by `count` entries of 48 bytes. EINVAL, ENOMEM: nothing has changed. */
  replace(bytes: Uint8Array, at: number, count: number): number {
    const table = this.build(bytes, at, count);
    if (typeof table === "number") return table;
    this.install(table);
    return 0;
  }

  /** The table that `count` entries of 48 bytes make, or −EINVAL, −ENOMEM. */
  build(bytes: Uint8Array, at: number, count: number): RoutingTable | number {
    const limit = this.#vm.host.vmCapabilities.get(KVM_CAP_IRQ_ROUTING) ?? 0;
    for (let i = 0; i < count; i++) if (load32(bytes, at + i * ENTRY) >= limit) return -EINVAL;
    if (this.#vm.kernel.faults.allocation("kvm_irq_routing_table")) return -ENOMEM;
    const heads: (Route | undefined)[] = [];
    const pins: Map<number, number>[] = [];
    for (let i = 0; i < count; i++) {
      const entry = at + i * ENTRY;
      const route = new Route(
        load32(bytes, entry),
        load32(bytes, entry + 4),
        load32(bytes, entry + 8),
        load32(bytes, entry + 16),
        load32(bytes, entry + 20),
        load32(bytes, entry + 24),
        load32(bytes, entry + 28),
      );
      const refused = this.#add(heads, pins, route);
      if (refused < 0) return refused;
    }
    return { heads, pins };
  }

  install(table: RoutingTable): void {
    this.#table = table;
    for (const changed of this.onChange) changed();
    this.#vm.arch.irq?.routingChanged();
  }

  /** virt/kvm/irqchip.c:setup_routing_entry (6.1) */
  #add(heads: (Route | undefined)[], pins: Map<number, number>[], route: Route): number {
    const { gsi, type, flags } = route;
    if ((type === KVM_IRQ_ROUTING_MSI ? flags & ~KVM_MSI_VALID_DEVID : flags) !== 0) return -EINVAL;
    const givenChip = route.irqchip;
    let last: Route | undefined;
    for (let other = heads[gsi]; other !== undefined; other = other.next) {
      if (
        other.type !== KVM_IRQ_ROUTING_IRQCHIP ||
        type !== KVM_IRQ_ROUTING_IRQCHIP ||
        other.irqchip === givenChip
      )
        return -EINVAL;
      last = other;
    }
    const refused = this.#vm.arch.irq!.checkRoute(route);
    if (refused < 0) return refused;
    if (type === KVM_IRQ_ROUTING_IRQCHIP) (pins[route.irqchip] ??= new Map()).set(route.pin, gsi);
    if (last === undefined) {
      while (heads.length < gsi) heads.push(undefined);
      heads[gsi] = route;
    } else last.next = route;
    return 0;
  }

  /**
   * Sets a GSI's line, in every controller that it leads to (kvm_set_irq). The answer adds up what was delivered:
   * −1 where everyone ignored it.
   */
  setIrq(sourceId: number, gsi: number, level: boolean, lineStatus: boolean): number {
    const irq = this.#vm.arch.irq!;
    let result = -1;
    for (let route = this.routes(gsi); route !== undefined; route = route.next) {
      const answer = irq.setRoute(route, sourceId, level, lineStatus);
      if (answer >= 0) result = answer + Math.max(result, 0);
    }
    return result;
  }

  addNotifier(notifier: AckNotifier): void {
    this.#notifiers.unshift(notifier);
  }

  removeNotifier(notifier: AckNotifier): void {
    const index = this.#notifiers.indexOf(notifier);
    if (index >= 0) this.#notifiers.splice(index, 1);
  }

  /** Whether someone waits for acknowledgements of a pin. */
  hasNotifier(irqchip: number, pin: number): boolean {
    if (this.#notifiers.length === 0) return false;
    const gsi = this.gsiOf(irqchip, pin);
    return gsi >= 0 && this.#notifiers.some((notifier) => notifier.gsi === gsi);
  }

  /** The guest acknowledged the interrupt of a pin: tells those who wait for its GSI, the last comer first. */
  notifyAcked(irqchip: number, pin: number): void {
    if (this.#notifiers.length === 0) return;
    const gsi = this.gsiOf(irqchip, pin);
    if (gsi < 0) return;
    for (const notifier of this.#notifiers.slice()) if (notifier.gsi === gsi) notifier.acked();
  }
}

/**
 * KVM_SET_GSI_ROUTING. EFAULT; EINVAL: no in-kernel controller, more entries than KVM_CAP_IRQ_ROUTING, flags, a GSI
 * beyond the limit, an entry that leads nowhere, a GSI twice in one controller or beside a message.
 */
export function setGsiRouting(file: VmFile, user: Argument): number {
  if (!user.readable(HEADER)) return -EFAULT;
  const { vm } = file;
  const count = load32(user.bytes, user.at);
  const flags = load32(user.bytes, user.at + 4);
  if (vm.arch.irq?.canSetRouting !== true) return -EINVAL;
  if (count > (vm.host.vmCapabilities.get(KVM_CAP_IRQ_ROUTING) ?? 0) || flags !== 0) return -EINVAL;
  if (!user.readable(count * ENTRY, HEADER)) return -EFAULT;
  return vm.routing.replace(user.bytes, user.at + HEADER, count);
}
