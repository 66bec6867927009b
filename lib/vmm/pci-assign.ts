/**
 * MSI-X of an assigned device: what the guest writes into the table that it sees, and what the VMM makes of it in the
 * host. A guest turns MSI-X on first and unmasks vectors one by one afterwards; when the host is to turn it on in the
 * device, and with which vectors, is a matter of policy:
 *
 * - "masked": skip masked vectors. As all are masked at first, the device's MSI-X stays off until the first is unmasked.
 * - "data": skip vectors whose data is zero: a guess which ones the guest is going to use.
 * - "data, fixed": the same, but what is not there at first is never added.
 * - "one": as "masked", with vector 0 where all are masked.
 * - "sysfs": as "masked"; where all are masked the VMM masks every vector and sets the enable bit itself, through sysfs.
 * - "sysfs, unmasked": the same, trusting that a reset has left every vector masked.
 * - "empty": turn MSI-X on without vectors, and add them (a kernel that can).
 * - "vector 0": as VFIO in QEMU: turn on with vector 0, which leads nowhere, and start over with more when needed.
 * - "dynamic": the same, with vectors that are added while MSI-X is on.
 *
 * (QEMU's hw/i386/kvm/pci-assign.c:assigned_dev_update_msix and hw/vfio/pci.c:vfio_msix_enable; the thread "pci-assign:
 * Enable MSIX on device to match guest", December 2012.)
 */
import type { Co } from "./co.ts";
import type { Message } from "./route-table.ts";

export const kvmPolicies = [
  "masked",
  "data",
  "data, fixed",
  "one",
  "sysfs",
  "sysfs, unmasked",
  "empty",
] as const;
export const vfioPolicies = ["vector 0", "dynamic"] as const;
/** When MSI-X is turned on in the host, and with which vectors. */
export type MsixPolicy = (typeof kvmPolicies)[number] | (typeof vfioPolicies)[number];

/** The device's MSI-X as the host gives it to a VMM. */
export interface HostMsix {
  /** turns MSI-X on with these vectors, each bound to its message; no vectors only where the host can: 0 or −errno */
  start(vectors: ReadonlyMap<number, Message>): Co<number>;
  /** one more vector while MSI-X is on */
  add(vector: number, message: Message): Co<number>;
  /** another message for a vector that is bound */
  update(vector: number, message: Message): Co<number>;
  stop(): Co<number>;
}

/** The device's own registers, past the host kernel: configuration space and BARs through sysfs. */
export interface RawMsix {
  maskAll(): Co<void>;
  enable(on: boolean): Co<void>;
}

interface Entry {
  addressLo: number;
  addressHi: number;
  data: number;
  masked: boolean;
}

/** What it is made of. */
export interface AssignedMsixOptions {
  readonly vectors: number;
  readonly policy: MsixPolicy;
  readonly host: HostMsix;
  /** for the policies that use sysfs */
  readonly raw?: RawMsix;
}

/** MSI-X of an assigned device, between the guest's table and the host. */
export class AssignedMsix {
  readonly entries: readonly Entry[];
  enabled = false;
  readonly #options: AssignedMsixOptions;
  /** vectors that are bound in the host */
  readonly #bound = new Set<number>();
  #started = false;
  #raw = false;
  /** what the host answered to the last change that failed */
  error = 0;

  constructor(options: AssignedMsixOptions) {
    this.#options = options;
    this.entries = Array.from({ length: options.vectors }, () => ({
      addressLo: 0,
      addressHi: 0,
      data: 0,
      masked: true,
    }));
  }

  // ---- what the guest does ---------------------------------------------------------------------------------------

  /** The guest writes address and data of a vector. */
  program(vector: number, message: Message): void {
    const { addressLo, addressHi, data } = message;
    Object.assign(this.entries[vector], { addressLo, addressHi, data });
  }

  /** The guest writes the mask bit of a vector. */
  *setMask(vector: number, masked: boolean): Co<void> {
    const entry = this.entries[vector];
    const unmasked = entry.masked && !masked;
    entry.masked = masked;
    if (!this.enabled || !unmasked) return;
    if (this.#bound.has(vector)) yield* this.#check(this.#options.host.update(vector, entry));
    else yield* this.#addVector(vector);
  }

  /** The guest writes the enable bit. */
  *setEnabled(on: boolean): Co<void> {
    if (this.enabled === on) return;
    this.enabled = on;
    if (on) yield* this.updateMsix();
    else yield* this.#stop();
  }

  // ---- what the host is made to do -------------------------------------------------------------------------------

  /** Starts over: whatever is on goes off, and what the policy wants goes on. */
  *updateMsix(): Co<void> {
    const { policy, raw } = this.#options;
    yield* this.#stop();
    const wanted = this.#wanted();
    if (wanted.length !== 0 || policy === "empty") yield* this.#start(wanted);
    else if (policy === "vector 0" || policy === "dynamic") yield* this.#startUnbound();
    else if (raw !== undefined && (policy === "sysfs" || policy === "sysfs, unmasked")) {
      if (policy === "sysfs") yield* raw.maskAll();
      yield* raw.enable(true);
      this.#raw = true;
    }
  }

  /** Which vectors are to be on now. */
  #wanted(): number[] {
    const { policy } = this.#options;
    const byData = policy === "data" || policy === "data, fixed";
    const chosen = this.entries.flatMap(({ masked, data }, vector) =>
      (byData ? data !== 0 : !masked) ? [vector] : [],
    );
    return chosen.length === 0 && policy === "one" ? [0] : chosen;
  }

  *#addVector(vector: number): Co<void> {
    const { policy, host } = this.#options;
    if (policy === "data, fixed" && this.#started) return;
    if ((policy === "dynamic" || policy === "empty") && this.#started) {
      yield* this.#check(host.add(vector, this.entries[vector]));
      this.#bound.add(vector);
    } else yield* this.updateMsix();
  }

  *#start(vectors: readonly number[]): Co<void> {
    const messages = new Map(vectors.map((vector) => [vector, { ...this.entries[vector] }]));
    if ((yield* this.#check(this.#options.host.start(messages))) < 0) return;
    this.#started = true;
    for (const vector of vectors) this.#bound.add(vector);
  }

  /** MSI-X on, with vector 0 that leads nowhere. */
  *#startUnbound(): Co<void> {
    this.#started = (yield* this.#check(this.#options.host.start(new Map()))) >= 0;
  }

  *#stop(): Co<void> {
    if (this.#raw) yield* this.#options.raw!.enable(false);
    if (this.#started) yield* this.#options.host.stop();
    this.#raw = false;
    this.#started = false;
    this.#bound.clear();
  }

  *#check(co: Co<number>): Co<number> {
    const result = yield* co;
    if (result < 0) this.error = result;
    return result;
  }
}
