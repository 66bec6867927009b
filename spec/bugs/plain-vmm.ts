/**
 * The MSI-X code of a VMM as it should be, in its simplest form. A vector that the guest can receive has a route and an
 * irqfd; of one that it cannot the irqfd is taken away, and an edge waits in the eventfd until it is bound again. The
 * historic faults are this with one method wrong, and the mended ones where the right thing is something else.
 */
import { VFIO_PCI_MSIX_IRQ_INDEX } from "../../lib/abi/vfio.ts";
import { FIRST_GSI, type MsixBench, type MsixVmm } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { now } from "../../lib/vmm/co.ts";

/** A device of the VMM's own, which signals the vector's eventfd. */
export class PlainVmm implements MsixVmm {
  readonly bench: MsixBench;
  readonly routes = new Map<number, number>();
  /** the guest's registers */
  enabled: boolean;
  functionMasked = false;
  readonly maskBits = new Map<number, boolean>();
  /** vectors that are bound in the kernel */
  readonly bound = new Set<number>();

  constructor(bench: MsixBench) {
    this.bench = bench;
    this.enabled = bench.initiallyEnabled;
  }

  gsi(vector: number): number {
    return FIRST_GSI + vector;
  }

  maskBit(vector: number): boolean {
    return this.maskBits.get(vector) ?? true;
  }

  /** Whether the guest can receive the vector. */
  wanted(vector: number): boolean {
    return this.enabled && !this.functionMasked && !this.maskBit(vector);
  }

  *arm(vector: number): Thread {
    this.routes.set(this.gsi(vector), this.bench.data(vector));
    yield* this.bench.setRoutes(this.routes);
    yield* this.bench.assign(vector, this.gsi(vector));
    this.bound.add(vector);
  }

  *disarm(vector: number): Thread {
    yield* this.bench.deassign(vector, this.gsi(vector));
    this.bound.delete(vector);
  }

  /** Makes the kernel follow the guest's registers. */
  *update(vector: number): Thread {
    if (this.wanted(vector) && !this.bound.has(vector)) yield* this.arm(vector);
    else if (!this.wanted(vector) && this.bound.has(vector)) yield* this.disarm(vector);
  }

  *updateAll(): Thread {
    for (const vector of this.bench.eventfds.keys()) yield* this.update(vector);
  }

  *mask(vector: number): Thread {
    this.maskBits.set(vector, true);
    yield* this.update(vector);
  }

  *unmask(vector: number): Thread {
    this.maskBits.set(vector, false);
    yield* this.update(vector);
  }

  *write(vector: number, data: number): Thread {
    if (!this.routes.has(this.gsi(vector))) return;
    this.routes.set(this.gsi(vector), data);
    yield* this.bench.setRoutes(this.routes);
  }

  *enable(): Thread {
    this.enabled = true;
    yield* this.updateAll();
  }

  *disable(): Thread {
    this.enabled = false;
    yield* this.updateAll();
  }

  *functionMask(): Thread {
    this.functionMasked = true;
    yield* this.updateAll();
  }

  *functionUnmask(): Thread {
    this.functionMasked = false;
    yield* this.updateAll();
  }

  /** Nothing is bound, routed or waiting afterwards. */
  *reset(): Thread {
    this.enabled = false;
    this.maskBits.clear();
    yield* this.updateAll();
    for (const fd of this.bench.eventfds) yield* this.bench.calls.read(fd, new Uint8Array(8));
    this.routes.clear();
    yield* this.bench.setRoutes(this.routes);
  }

  *teardown(): Thread {
    yield* this.reset();
  }

  *plug(): Thread {
    this.enabled = true;
  }

  armed(vector: number): boolean {
    return this.bound.has(vector);
  }

  pending(vector: number): boolean {
    return !this.wanted(vector) && this.bench.signalled(this.bench.eventfds[vector]);
  }
}

/** A device of the host, given away by VFIO, which signals the eventfd. It has room for new vectors at any time. */
export class AssignedVmm extends PlainVmm {
  /** vectors that VFIO has an eventfd for */
  readonly triggers = new Set<number>();

  triggered(vector: number): boolean {
    return this.triggers.has(vector);
  }

  trigger(start: number, fds: readonly number[]): Thread<number> {
    return this.bench.assigned!.trigger(this.bench.calls, VFIO_PCI_MSIX_IRQ_INDEX, start, fds);
  }

  triggerNone(start: number, count: number): Thread<number> {
    return this.bench.assigned!.triggerNone(this.bench.calls, VFIO_PCI_MSIX_IRQ_INDEX, start, count);
  }

  /** What was done before the exploration begins. */
  before(thread: Thread<unknown>): void {
    now(thread);
  }

  /** MSI-X is turned on in the device at once, with an eventfd for no vector yet. */
  override *enable(): Thread {
    yield* this.trigger(0, [-1]);
    yield* super.enable();
  }

  override *disable(): Thread {
    yield* super.disable();
    yield* this.triggerNone(0, 0);
    this.triggers.clear();
  }

  /** Once the device signals the eventfd it goes on doing so: an edge of a masked vector waits there. */
  override *arm(vector: number): Thread {
    yield* super.arm(vector);
    if (!this.triggers.has(vector)) yield* this.trigger(vector, [this.bench.eventfds[vector]]);
    this.triggers.add(vector);
  }
}
