/**
 * A table of GSI routes: the entries of `struct kvm_irq_routing` as they came, checked and indexed by GSI.
 *
 * An entry, 48 bytes: gsi u32 @0, type u32 @4, flags u32 @8, pad u32 @12, then by type: irqchip u32 @16, pin u32 @20 — or
 * address_lo u32 @16, address_hi u32 @20, data u32 @24, devid u32 @28.
 *
 * VMMs replace tables of thousands of entries to change one. So a table is filled without an object for each entry (9 ns
 * an entry, measured; with objects 40), and an entry becomes a `Route` when its GSI is first asked for.
 */
import { EINVAL } from "../abi/errno.ts";
import { KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID } from "../abi/kvm.ts";
import { newBytes } from "../abi/slab.ts";

/** Bytes of an entry. */
export const ROUTE_BYTES = 48;

/** One entry of the table. For a pin: `irqchip` and `pin`. For a message: address, data and device id. */
export class Route {
  readonly gsi: number;
  readonly type: number;
  readonly flags: number;
  readonly irqchip: number;
  readonly pin: number;
  readonly data: number;
  readonly devid: number;
  /** the next entry of the same GSI */
  readonly next: Route | undefined;

  constructor(
    gsi: number,
    type: number,
    flags: number,
    first: number,
    second: number,
    data: number,
    devid: number,
    next?: Route,
  ) {
    this.gsi = gsi;
    this.type = type;
    this.flags = flags;
    this.irqchip = first;
    this.pin = second;
    this.data = data;
    this.devid = devid;
    this.next = next;
  }

  get addressLo(): number {
    return this.irqchip;
  }
  get addressHi(): number {
    return this.pin;
  }
}

/** Says whether an architecture has what an entry leads to. */
export interface RouteCheck {
  /** 0 or −EINVAL. `first` and `second`: irqchip and pin, or the halves of a message's address */
  checkRoute(type: number, first: number, second: number): number;
}

export class RoutingTable {
  #count = 0;
  /** the entries; there may be room for more */
  #bytes: Uint8Array = none;
  #view: DataView = noView;
  /** by GSI: 1 + the first entry that has it, 0 for none */
  #first: Uint16Array = noEntries;
  /** by entry: 1 + the next one of its GSI, 0 for none */
  #next: Uint16Array = noEntries;
  /** GSIs that were asked for */
  #routes = new Map<number, Route>();
  /** GSI by pin, by controller, once one was asked for */
  #pins: Map<number, number>[] | undefined;

  /** Takes `count` entries over; they are not in force before they are checked. */
  copy(bytes: Uint8Array, at: number, count: number): void {
    const size = count * ROUTE_BYTES;
    if (size > this.#bytes.length) {
      this.#bytes = newBytes(roomFor(count) * ROUTE_BYTES);
      this.#view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.length);
      this.#next = new Uint16Array(roomFor(count));
    }
    this.#bytes.set(bytes.subarray(at, at + size));
    this.#count = count;
    if (this.#routes.size !== 0) this.#routes = new Map();
    this.#pins = undefined;
  }

  /** The highest GSI of the entries, −1 where there are none. */
  get highestGsi(): number {
    let highest = -1;
    for (let n = 0; n < this.#count; n++) highest = Math.max(highest, this.#load(n, GSI));
    return highest;
  }

  /** Indexes the entries: 0, or −EINVAL where one cannot be (virt/kvm/irqchip.c:setup_routing_entry, 6.1). */
  index(highestGsi: number, arch: RouteCheck): number {
    if (highestGsi >= this.#first.length) this.#first = new Uint16Array(roomFor(highestGsi + 1));
    else this.#first.fill(0);
    // the loop of thousands: fields in variables, no call but the architecture's
    const first = this.#first;
    const next = this.#next;
    const view = this.#view;
    const count = this.#count;
    for (let n = 0; n < count; n++) {
      const at = n * ROUTE_BYTES;
      const type = view.getUint32(at + TYPE, true);
      const allowed = type === KVM_IRQ_ROUTING_MSI ? KVM_MSI_VALID_DEVID : 0;
      if ((view.getUint32(at + FLAGS, true) & ~allowed) !== 0) return -EINVAL;
      if (arch.checkRoute(type, view.getUint32(at + FIRST, true), view.getUint32(at + SECOND, true)) !== 0)
        return -EINVAL;
      const gsi = view.getUint32(at + GSI, true);
      next[n] = 0;
      if (first[gsi] === 0) first[gsi] = n + 1;
      else if (!this.#append(first[gsi] - 1, n)) return -EINVAL;
    }
    return 0;
  }

  /** Puts an entry behind the others of its GSI. All of them have to be pins, each of another controller. */
  #append(first: number, added: number): boolean {
    let last = first;
    for (let n = first; n >= 0; n = this.#next[n] - 1) {
      if (
        this.#load(n, TYPE) !== KVM_IRQ_ROUTING_IRQCHIP ||
        this.#load(added, TYPE) !== KVM_IRQ_ROUTING_IRQCHIP
      )
        return false;
      if (this.#load(n, FIRST) === this.#load(added, FIRST)) return false;
      last = n;
    }
    this.#next[last] = added + 1;
    return true;
  }

  /** The entries of a GSI, linked, in the order of the table. */
  routes(gsi: number): Route | undefined {
    const known = this.#routes.get(gsi);
    if (known !== undefined) return known;
    const first = gsi < this.#first.length ? this.#first[gsi] : 0;
    if (first === 0) return undefined;
    const route = this.#decode(first - 1);
    this.#routes.set(gsi, route);
    return route;
  }

  #decode(n: number): Route {
    const next = this.#next[n];
    return new Route(
      this.#load(n, GSI),
      this.#load(n, TYPE),
      this.#load(n, FLAGS),
      this.#load(n, FIRST),
      this.#load(n, SECOND),
      this.#load(n, DATA),
      this.#load(n, DEVID),
      next === 0 ? undefined : this.#decode(next - 1),
    );
  }

  /** The GSI that leads to a pin, −1 if none does. Where several do, the last of the table. */
  gsiOf(irqchip: number, pin: number): number {
    this.#pins ??= this.#indexPins();
    return this.#pins[irqchip]?.get(pin) ?? -1;
  }

  #indexPins(): Map<number, number>[] {
    const pins: Map<number, number>[] = [];
    for (let n = 0; n < this.#count; n++)
      if (this.#load(n, TYPE) === KVM_IRQ_ROUTING_IRQCHIP)
        (pins[this.#load(n, FIRST)] ??= new Map()).set(this.#load(n, SECOND), this.#load(n, GSI));
    return pins;
  }

  #load(n: number, offset: number): number {
    return this.#view.getUint32(n * ROUTE_BYTES + offset, true);
  }
}

/** where the fields of an entry are */
const GSI = 0;
const TYPE = 4;
const FLAGS = 8;
const FIRST = 16;
const SECOND = 20;
const DATA = 24;
const DEVID = 28;

const none = new Uint8Array(0);
const noView = new DataView(none.buffer);
const noEntries = new Uint16Array(0);

/** Room for some more than are needed now: tables grow an entry at a time. */
const roomFor = (count: number): number => Math.max(16, 2 ** Math.ceil(Math.log2(count)));
