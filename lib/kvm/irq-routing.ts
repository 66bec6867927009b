/**
 * GSI routing: from a global system interrupt to what it does (virt/kvm/irqchip.c, 6.1). A GSI leads to one pin of
 * each in-kernel controller, or to one message; a table replaces the former as a whole.
 *
 * `struct kvm_irq_routing`: nr u32, flags u32, then `nr` entries of 48 bytes (routing-table.ts). A VM has two tables that
 * take turns: one in force, the other to be filled next. One that was refused is never in force.
 *
 * Architectures say what an entry may be and what it does (`IrqArch`).
 */
import { EFAULT, EINVAL, ENOMEM } from "../abi/errno.ts";
import { KVM_CAP_IRQ_ROUTING } from "../abi/kvm.ts";
import { load32 } from "../abi/struct.ts";
import type { Argument } from "../kernel/argument.ts";
import { ROUTE_BYTES, type Route, type RouteCheck, RoutingTable } from "./routing-table.ts";
import type { Vm, VmFile } from "./vm.ts";

const HEADER = 8;

/** Who raises a line: lines are the OR of their sources (include/linux/kvm_host.h, 6.1). */
export const KVM_USERSPACE_IRQ_SOURCE_ID = 0;
export const KVM_IRQFD_RESAMPLE_IRQ_SOURCE_ID = 1;

/** Answer of `setInAtomic`: it cannot be done inside a wake-up, a work item has to. */
export const WOULD_BLOCK = -11;

/** What routes do on an architecture, with the controllers of one VM. */
export interface IrqArch extends RouteCheck {
  /** whether interrupts can be bound at all yet (kvm_arch_intc_initialized): EAGAIN if not */
  readonly initialized: boolean;
  /** whether this kind of irqfd is possible (kvm_arch_irqfd_allowed): EINVAL if not */
  irqfdAllowed(resample: boolean): boolean;
  readonly canSetRouting: boolean;
  /** −1 ignored, 0 coalesced, > 0 delivered */
  setRoute(route: Route, sourceId: number, level: boolean, lineStatus: boolean): number;
  /** as `setRoute` with the line up, where that can be done at once, or WOULD_BLOCK */
  setInAtomic(route: Route): number;
  /** whether a route leads to one vCPU in a way that a device's interrupt can be posted to it */
  postable?(route: Route): boolean;
  /** the table was replaced */
  routingChanged(): void;
  /** someone began or ended to listen to acknowledgements */
  notifiersChanged?(): void;
}

/** Called when the guest has acknowledged the interrupt of a pin that the GSI leads to. */
export interface AckNotifier {
  readonly gsi: number;
  acked(): void;
}

/** The table of a VM that was not given one. */
const empty = new RoutingTable();

export class IrqRouting {
  readonly #vm: Vm;
  #table = empty;
  /** the table that was in force before, to be filled again; never one that is shared */
  #spare: RoutingTable | undefined;
  #shared = true;
  #notifiers: AckNotifier[] = [];
  /** called after each replacement: irqfds look up their route again */
  readonly onChange: (() => void)[] = [];

  constructor(vm: Vm) {
    this.#vm = vm;
  }

  /** The entries of a GSI, linked. */
  routes(gsi: number): Route | undefined {
    return this.#table.routes(gsi);
  }

  /** The GSI that leads to a pin, −1 if none does. Where several do, the last of the table. */
  gsiOf(irqchip: number, pin: number): number {
    return this.#table.gsiOf(irqchip, pin);
  }

  /** Replaces the table by `count` entries of 48 bytes. EINVAL, ENOMEM: nothing has changed. */
  replace(bytes: Uint8Array, at: number, count: number): number {
    const table = this.#spare ?? new RoutingTable();
    this.#spare = table;
    const refused = this.#fill(table, bytes, at, count);
    if (refused < 0) return refused;
    this.#spare = this.#shared ? undefined : this.#table;
    this.#install(table, false);
    return 0;
  }

  /** A table for many VMs, which nobody fills again: `count` entries of 48 bytes, or −EINVAL, −ENOMEM. */
  build(bytes: Uint8Array, at: number, count: number): RoutingTable | number {
    const table = new RoutingTable();
    const refused = this.#fill(table, bytes, at, count);
    return refused < 0 ? refused : table;
  }

  /** Puts a table that is shared in force. */
  share(table: RoutingTable): void {
    this.#install(table, true);
  }

  #fill(table: RoutingTable, bytes: Uint8Array, at: number, count: number): number {
    table.copy(bytes, at, count);
    const highest = table.highestGsi;
    if (highest >= (this.#vm.host.vmCapabilities.get(KVM_CAP_IRQ_ROUTING) ?? 0)) return -EINVAL;
    if (this.#vm.kernel.faults.allocation("kvm_irq_routing_table")) return -ENOMEM;
    return table.index(highest, this.#vm.arch.irq!);
  }

  #install(table: RoutingTable, shared: boolean): void {
    this.#table = table;
    this.#shared = shared;
    for (const changed of this.onChange) changed();
    this.#vm.arch.irq?.routingChanged();
  }

  /**
   * Sets a GSI's line, in every controller that it leads to (kvm_set_irq). The answer adds up what was delivered:
   * −1 where everyone ignored it.
   */
  setIrq(sourceId: number, gsi: number, level: boolean, lineStatus: boolean): number {
    return this.#set(this.routes(gsi), sourceId, level, lineStatus);
  }

  /** Raises a GSI's line and lowers it again. */
  pulse(sourceId: number, gsi: number): void {
    const routes = this.routes(gsi);
    this.#set(routes, sourceId, true, false);
    this.#set(routes, sourceId, false, false);
  }

  #set(routes: Route | undefined, sourceId: number, level: boolean, lineStatus: boolean): number {
    const irq = this.#vm.arch.irq!;
    let result = -1;
    for (let route = routes; route !== undefined; route = route.next) {
      const answer = irq.setRoute(route, sourceId, level, lineStatus);
      if (answer >= 0) result = answer + Math.max(result, 0);
    }
    return result;
  }

  addNotifier(notifier: AckNotifier): void {
    this.#notifiers.unshift(notifier);
    this.#vm.arch.irq?.notifiersChanged?.();
  }

  removeNotifier(notifier: AckNotifier): void {
    const index = this.#notifiers.indexOf(notifier);
    if (index >= 0) this.#notifiers.splice(index, 1);
    this.#vm.arch.irq?.notifiersChanged?.();
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
  if (!user.readable(count * ROUTE_BYTES, HEADER)) return -EFAULT;
  return vm.routing.replace(user.bytes, user.at + HEADER, count);
}
