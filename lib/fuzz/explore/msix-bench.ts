/**
 * A bench for the MSI-X code of a VMM: a guest that masks, unmasks and rewrites its vectors, a device that raises
 * them, the VMM under test between them, and KVM below. What must hold is stated here once, for every VMM:
 *
 * - **no edge is lost**: when everything is quiet, a vector that is unmasked was delivered after its last edge.
 * - **nothing comes through a mask**: no delivery for an edge that was raised while the vector was masked, before it is
 *   unmasked again.
 * - **pending is shown**: when everything is quiet, a masked vector with an undelivered edge reads as pending, and an
 *   unmasked one does not.
 * - **no stale route**: a delivery carries the data that the guest had programmed when, or after, the edge was raised.
 * - **no interrupt out of nothing**: no more deliveries than edges.
 * - **an armed eventfd leads somewhere**: whenever the VMM is not in the middle of a change, every irqfd's GSI has a route. (On
 *   hosts with posted interrupts the opposite has brought the kernel down.)
 * - **nothing is left**: after teardown no irqfd is bound, and no descriptor is open that was not before.
 *
 * A mask or a write is in force from the moment the guest's access returns; while it runs, both readings are allowed.
 */
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_IRQ_ROUTING_MSI,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_SET_GSI_ROUTING,
  KvmIrqfd,
  KvmIrqRoutingEntry,
} from "../../abi/kvm.ts";
import { KVM_GET_LAPIC, KVM_SET_LAPIC, KvmLapicState } from "../../abi/kvm-x86.ts";
import { store32 } from "../../abi/struct.ts";
import type { EventFd } from "../../kernel/eventfd.ts";
import type { Process } from "../../kernel/process.ts";
import { byHand } from "../../kernel/work-queue.ts";
import type { VmFile } from "../../kvm/vm.ts";
import { Machine } from "../../machine/machine.ts";
import type { Profile } from "../../machine/profile.ts";
import { Receiver } from "./receiver.ts";
import type { World } from "./run.ts";
import { Calls, step, type Thread } from "./thread.ts";

/** What a VMM does when the guest touches its MSI-X table; the bench calls it as a trap handler would. */
export interface MsixVmm {
  /** the guest set up the vectors and enables MSI-X */
  enable?(): Thread;
  mask(vector: number): Thread;
  unmask(vector: number): Thread;
  /** the guest wrote address and data of a vector */
  write?(vector: number, data: number): Thread;
  /** the guest reads the pending bit */
  pending(vector: number): boolean;
  /** the device is unplugged */
  teardown?(): Thread;
}

/** One access of the guest, or one edge of the device. */
export type GuestStep =
  | readonly ["mask" | "unmask", number]
  | readonly ["write", number, number]
  | readonly ["teardown"];

/** First GSI of the device's vectors, and the interrupt vector that the guest programs for vector 0. */
export const FIRST_GSI = 24;
export const FIRST_VECTOR = 0x40;

interface VectorState {
  masked: boolean;
  /** a change of the mask is under way */
  changing: boolean;
  data: number;
  /** data that was programmed when the last edge was raised, or later */
  allowed: Set<number>;
  edges: number;
  lastEdge: number;
  /** edges raised under a mask that was in force, since the last unmask began */
  underMask: number;
}

export interface BenchOptions {
  vectors: number;
  guest: readonly GuestStep[];
  /** which vectors the device raises, in order */
  device: readonly number[];
  profile?: Profile;
}

export class MsixBench {
  readonly process: Process;
  readonly calls: Calls;
  readonly vm: number;
  /** the device's eventfds, one a vector */
  readonly eventfds: number[];
  readonly receiver: Receiver;
  readonly #states: VectorState[];
  readonly #options: BenchOptions;
  readonly #descriptors: number;
  #busy = 0;
  #over = false;
  #wrong: string | undefined;
  #seen = 0;

  constructor(options: BenchOptions) {
    this.#options = options;
    const process = new Machine(options.profile, { policy: byHand }).process();
    this.process = process;
    this.calls = new Calls(process);
    const kvm = process.open("/dev/kvm", 2);
    this.vm = process.ioctl(kvm, KVM_CREATE_VM, 0);
    process.ioctl(this.vm, KVM_CREATE_IRQCHIP, 0);
    const vcpu = process.ioctl(this.vm, KVM_CREATE_VCPU, 0);
    const lapic = new Uint8Array(KvmLapicState.size);
    process.ioctl(vcpu, KVM_GET_LAPIC, lapic);
    store32(lapic, SPIV, 0x1ff);
    process.ioctl(vcpu, KVM_SET_LAPIC, lapic);
    this.receiver = new Receiver(process, [vcpu]);
    this.eventfds = Array.from({ length: options.vectors }, () => process.eventfd2(0, EFD_NONBLOCK));
    this.#descriptors = process.fds.open.length;
    this.#states = Array.from({ length: options.vectors }, (_, vector) => ({
      masked: true,
      changing: false,
      data: FIRST_VECTOR + vector,
      allowed: new Set<number>(),
      edges: 0,
      lastEdge: -1,
      underMask: 0,
    }));
  }

  /** What the guest has programmed for a vector. */
  data(vector: number): number {
    return this.#states[vector].data;
  }

  /** A world for the explorer, with the VMM under test in the middle. */
  world(vmm: MsixVmm): World {
    return {
      kernel: this.process.kernel,
      threads: { guest: this.#guest(vmm), device: this.#device() },
      check: () => this.#check(),
      final: () => this.#wrong ?? this.#final(vmm),
    };
  }

  *#guest(vmm: MsixVmm): Thread {
    if (vmm.enable !== undefined) yield* this.#change(vmm.enable());
    for (const [kind, vector = 0, data = 0] of this.#options.guest) {
      const state = this.#states[vector];
      switch (kind) {
        case "mask":
          state.changing = true;
          yield* this.#change(vmm.mask(vector));
          state.changing = false;
          state.masked = true;
          state.underMask = 0;
          break;
        case "unmask":
          state.changing = true;
          state.masked = false;
          yield* this.#change(vmm.unmask(vector));
          state.changing = false;
          break;
        case "write":
          state.data = data;
          state.allowed.add(data);
          if (vmm.write !== undefined) yield* this.#change(vmm.write(vector, data));
          break;
        case "teardown":
          for (const other of this.#states) other.masked = true;
          if (vmm.teardown !== undefined) yield* this.#change(vmm.teardown());
          this.#over = true;
          break;
      }
    }
  }

  *#change(handler: Thread): Thread {
    this.#busy++;
    yield* handler;
    this.#busy--;
  }

  *#device(): Thread {
    for (const vector of this.#options.device)
      yield* step(`device raises vector ${vector}`, () => {
        const state = this.#states[vector];
        state.edges++;
        state.lastEdge = this.receiver.now;
        state.allowed = new Set([state.data]);
        if (state.masked && !state.changing) state.underMask++;
        return this.process.write(this.eventfds[vector], one);
      });
  }

  /** After every step. */
  #check(): string | undefined {
    const { deliveries } = this.receiver;
    for (; this.#seen < deliveries.length; this.#seen++) {
      const { vector: data } = deliveries[this.#seen];
      const vector = this.#states.findIndex((state) => state.data === data || state.allowed.has(data));
      if (vector < 0) return `an interrupt with data 0x${data.toString(16)}, which nobody had programmed`;
      const state = this.#states[vector];
      if (!state.allowed.has(data))
        return `vector ${vector} came through a stale route, with data 0x${data.toString(16)}`;
      if (state.masked && !state.changing && state.underMask > 0 && state.edges === state.underMask)
        return `vector ${vector} was delivered while it is masked`;
      if (this.#over) return `vector ${vector} was delivered after the device was gone`;
    }
    this.receiver.now++;
    if (this.#busy === 0) {
      const { irqfds, routing } = (this.process.fds.get(this.vm) as VmFile).vm;
      for (const { gsi } of irqfds.values())
        if (routing.routes(gsi) === undefined) return `an irqfd is bound to GSI ${gsi}, which has no route`;
    }
    return undefined;
  }

  /** When nothing can go on. */
  #final(vmm: MsixVmm): string | undefined {
    if (this.#over) return this.#left();
    for (const [vector, state] of this.#states.entries()) {
      if (state.edges === 0) continue;
      const since = this.receiver.deliveries.filter(
        (delivery) =>
          (delivery.vector === state.data || state.allowed.has(delivery.vector)) &&
          delivery.step >= state.lastEdge,
      ).length;
      const all = this.receiver.deliveries.filter(
        ({ vector: data }) => data === state.data || state.allowed.has(data),
      ).length;
      const pending = vmm.pending(vector);
      if (!state.masked && since === 0) return `the last edge of vector ${vector} was lost`;
      if (state.masked && since === 0 && !pending)
        return `vector ${vector} is masked, its last edge was not delivered, and it does not read as pending`;
      if (!state.masked && pending) return `vector ${vector} is unmasked and still reads as pending`;
      if (all > state.edges)
        return `vector ${vector} was raised ${state.edges} times and delivered ${all} times`;
    }
    return undefined;
  }

  #left(): string | undefined {
    const { irqfds } = (this.process.fds.get(this.vm) as VmFile).vm;
    if (irqfds.size !== 0) return `${irqfds.size} irqfds are bound to a device that is gone`;
    const open = this.process.fds.open.length - this.#descriptors;
    return open > 0 ? `${open} descriptors are left open` : undefined;
  }

  // ---- what VMMs do most ---------------------------------------------------------------------------------------

  /** Replaces the routing table by messages: GSI → data, all to APIC 0. */
  setRoutes(routes: ReadonlyMap<number, number>): Thread<number> {
    const bytes = new Uint8Array(8 + routes.size * KvmIrqRoutingEntry.size);
    store32(bytes, 0, routes.size);
    let at = 8;
    for (const [gsi, data] of routes) {
      bytes.set(
        KvmIrqRoutingEntry.encode({
          gsi,
          type: KVM_IRQ_ROUTING_MSI,
          u: { msi: { address_lo: 0xfee00000, data } },
        }),
        at,
      );
      at += KvmIrqRoutingEntry.size;
    }
    return this.calls.ioctl(this.vm, KVM_SET_GSI_ROUTING, bytes);
  }

  assign(vector: number, gsi = FIRST_GSI + vector): Thread<number> {
    return this.calls.ioctl(this.vm, KVM_IRQFD, KvmIrqfd.encode({ fd: this.eventfds[vector], gsi }));
  }

  deassign(vector: number, gsi = FIRST_GSI + vector): Thread<number> {
    const args = KvmIrqfd.encode({ fd: this.eventfds[vector], gsi, flags: KVM_IRQFD_FLAG_DEASSIGN });
    return this.calls.ioctl(this.vm, KVM_IRQFD, args);
  }

  /** Whether an eventfd holds a signal that nobody took. */
  signalled(vector: number): boolean {
    const { lo, hi } = this.process.fds.get(this.eventfds[vector]) as EventFd;
    return lo !== 0 || hi !== 0;
  }
}

const SPIV = 0xf0;
const EFD_NONBLOCK = 0x800;
const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);
