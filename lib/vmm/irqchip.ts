/**
 * The VMM's side of the in-kernel interrupt controllers: from a message to a GSI, and irqfds on GSIs.
 *
 * What a GSI is depends on the kernel (`routing`):
 * - "table": a row of the routing table. A message needs a row of its own, which is allocated, committed by
 *   KVM_SET_GSI_ROUTING, and given back.
 * - "linear": the number of the interrupt itself, and the message carries it. Nothing is allocated or given back.
 * - "none": there is no way, −ENOSYS.
 *
 * Every change is one transaction: where the table is full, or the kernel refuses the commit, nothing has changed, here
 * or there. Changes are made one at a time (`Mutex`): a commit replaces the whole table, and one that was encoded
 * before another was committed would take that one's rows away.
 */
import { ENOSYS } from "../abi/errno.ts";
import {
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_IRQFD_FLAG_RESAMPLE,
  KVM_SET_GSI_ROUTING,
  KvmIrqfd,
} from "../abi/kvm.ts";
import { type Co, type Linux, Mutex } from "./co.ts";
import { type Message, type PinRoute, RouteTable } from "./route-table.ts";

/** From a message to the GSI that an irqfd can be put on; −errno where there is none. */
export interface MsiMapper {
  addMsiRoute(message: Message): Co<number>;
  /** the message behind a GSI is another one now */
  updateMsiRoute(gsi: number, message: Message): Co<number>;
  releaseMsiRoute(gsi: number): Co<number>;
}

/** How routes for messages are given out. */
export interface IrqchipOptions {
  readonly routing: "table" | "linear" | "none";
  /** KVM_CAP_IRQ_ROUTING */
  readonly gsis?: number;
  /** routes that stay */
  readonly pins?: readonly PinRoute[];
  /** with linear GSIs: the bits of a message's data that are the number */
  readonly linearMask?: number;
  /** false: changes are not made one at a time, to see what happens */
  readonly locked?: boolean;
}

export class Irqchip implements MsiMapper {
  readonly routing: IrqchipOptions["routing"];
  readonly #linux: Linux;
  readonly #vm: number;
  readonly #linearMask: number;
  readonly #lock: Mutex | undefined;
  #table: RouteTable;

  constructor(linux: Linux, vm: number, options: IrqchipOptions) {
    this.#linux = linux;
    this.#vm = vm;
    this.routing = options.routing;
    this.#linearMask = options.linearMask ?? 0xffff;
    this.#lock = options.locked === false ? undefined : new Mutex();
    this.#table = new RouteTable(options.gsis ?? 0, options.pins);
  }

  /** what was committed last */
  get table(): RouteTable {
    return this.#table;
  }

  /** The GSI for a message: allocated and committed, or read from it. −ENOSYS, −ENOSPC, or why the kernel refuses. */
  *addMsiRoute(message: Message): Co<number> {
    if (this.routing === "linear") return (message.data & this.#linearMask) >>> 0;
    if (this.routing === "none") return -ENOSYS;
    return yield* this.change((table) => table.add(message));
  }

  *updateMsiRoute(gsi: number, message: Message): Co<number> {
    if (this.routing !== "table") return this.routing === "linear" ? 0 : -ENOSYS;
    return yield* this.change((table) => table.update(gsi, message));
  }

  *releaseMsiRoute(gsi: number): Co<number> {
    if (this.routing !== "table") return 0;
    return yield* this.change((table) => table.remove(gsi));
  }

  /**
   * Changes the table as one: any number of `add`, `update` and `remove`, then one commit. An edit that answers −errno
   * changes nothing and calls nobody. Answers what the edit did, or the commit's −errno.
   */
  *change(edit: (table: RouteTable) => number): Co<number> {
    const made = () => this.#change(edit);
    return this.#lock === undefined ? yield* made() : yield* this.#lock.hold(made);
  }

  *#change(edit: (table: RouteTable) => number): Co<number> {
    const table = this.#table.copy();
    const result = edit(table);
    if (result < 0) return result;
    const committed = yield* this.#linux.ioctl(this.#vm, KVM_SET_GSI_ROUTING, table.encode());
    if (committed < 0) return committed;
    this.#table = table;
    return result;
  }

  /** A signal of `fd` raises the GSI; with a resamplefd the line stays up until the guest acknowledges. */
  *addIrqfd(fd: number, gsi: number, resamplefd?: number): Co<number> {
    const flags = resamplefd === undefined ? 0 : KVM_IRQFD_FLAG_RESAMPLE;
    const argument = KvmIrqfd.encode({ fd, gsi, flags, resamplefd: resamplefd ?? 0 });
    return yield* this.#linux.ioctl(this.#vm, KVM_IRQFD, argument);
  }

  *removeIrqfd(fd: number, gsi: number): Co<number> {
    const argument = KvmIrqfd.encode({ fd, gsi, flags: KVM_IRQFD_FLAG_DEASSIGN });
    return yield* this.#linux.ioctl(this.#vm, KVM_IRQFD, argument);
  }
}
