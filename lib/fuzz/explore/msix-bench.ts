/**
 * A bench for the MSI-X code of a VMM: a guest, on one vCPU or several, that masks, unmasks and rewrites its vectors and
 * turns MSI-X on and off; a device that raises them; the VMM under test between them; and KVM, or VFIO and KVM, below.
 * What must hold is stated here once, for every VMM:
 *
 * - **no edge is lost**: when everything is quiet, a vector that is unmasked was delivered after its last edge.
 * - **nothing comes through a mask**: no delivery for edges that were all raised while the vector was masked, before it
 *   is unmasked. Before the guest unmasks a vector, it is masked.
 * - **pending is shown**: when everything is quiet, a masked vector with an undelivered edge reads as pending, and an
 *   unmasked one, or one without such an edge, does not.
 * - **no stale route**: a delivery carries the data that the guest had programmed when, or after, the edge was raised.
 * - **no interrupt out of nothing**: never more deliveries than edges.
 * - **an armed eventfd leads somewhere**: whenever the VMM is not in the middle of a change, every irqfd's GSI has a
 *   route. On a host with posted interrupts (`posted`) at any time: there the opposite has brought the kernel down.
 * - **what the VMM thinks is armed is armed**: whenever it is not in the middle of a change, for each vector.
 * - **the device is as the guest wants it**: whenever the VMM is not in the middle of a change, an assigned device has
 *   MSI-X on if and only if the guest has, and the host has an interrupt for exactly the vectors that the VMM thinks it
 *   has one for.
 * - **nothing is left**: when the device is unplugged, or was reset and not used again, no irqfd is bound, no GSI of it
 *   has a route, and no descriptor is open that was not before.
 *
 * A mask or a write is in force from the moment the guest's access returns; while it runs, both readings are allowed. A
 * masked vector: by its own bit, by the function mask, or because MSI-X is off. An assigned device raises nothing while
 * it is off.
 *
 * Faults are steps of threads: when one goes, the nth allocation of the kernel from there on fails, once a run. A VMM may
 * then refuse (`refused`), and owes nothing for that vector; it may not pretend.
 */
import { EFD_NONBLOCK } from "../../abi/eventfd.ts";
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_IRQ_ROUTING_MSI,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_SET_GSI_ROUTING,
  KvmIrqfd,
  KvmIrqRouting,
  KvmIrqRoutingEntry,
} from "../../abi/kvm.ts";
import { newBytes } from "../../abi/slab.ts";
import { store32 } from "../../abi/struct.ts";
import { MSIX_ENTRY_SIZE } from "../../hardware/msix.ts";
import type { EventFd } from "../../kernel/eventfd.ts";
import type { Process } from "../../kernel/process.ts";
import { byHand } from "../../kernel/work-queue.ts";
import type { VcpuFile } from "../../kvm/vcpu.ts";
import type { Vm, VmFile } from "../../kvm/vm.ts";
import type { X86Vcpu } from "../../kvm/x86/vcpu.ts";
import { Machine } from "../../machine/machine.ts";
import type { Profile } from "../../machine/profile.ts";
import { AssignedDevice, hostWithDevice } from "./assigned-device.ts";
import { Receiver } from "./receiver.ts";
import type { World } from "./run.ts";
import { Calls, type Thread } from "./thread.ts";

/** What a VMM does when the guest touches the device; the bench calls it as a trap handler would. */
export interface MsixVmm {
  mask(vector: number): Thread;
  unmask(vector: number): Thread;
  /** the guest wrote address and data of a vector */
  write?(vector: number, data: number): Thread;
  /** the guest reads the pending bit */
  pending(vector: number): boolean;
  /** the guest turns MSI-X on or off, or sets or clears the function mask */
  enable?(): Thread;
  disable?(): Thread;
  functionMask?(): Thread;
  functionUnmask?(): Thread;
  /** the guest writes to the MSI-X capability: `width` bytes at `offset`; without it the four above are called */
  control?(offset: number, width: number, value: number): Thread;
  /** an edge of the device, where it does not simply signal the vector's eventfd */
  raise?(vector: number): void;
  /** the guest resets the device: MSI-X off, every vector masked, nothing pending */
  reset?(): Thread;
  /** the VM is saved and restored */
  restore?(): Thread;
  /** the device is unplugged, and plugged in again */
  teardown?(): Thread;
  plug?(): Thread;
  /** whether the VMM thinks that the vector's interrupts go straight into the guest */
  armed?(vector: number): boolean;
  /** whether the VMM thinks that the host has an interrupt for the vector of an assigned device */
  triggered?(vector: number): boolean;
  /** what the guest reads in the vector's mask bit: needed where two vCPUs write it at the same time */
  masked?(vector: number): boolean;
  /** whether the VMM told the guest that it could not do what it was asked for a vector */
  refused?(vector: number): boolean;
  /** the VMM's own thread: it waits for eventfds */
  loop?(): Thread;
}

/** One access of the guest to its device. */
export type GuestStep =
  | readonly ["mask" | "unmask", number]
  | readonly ["write", number, number]
  | readonly ["enable" | "disable" | "function mask" | "function unmask"]
  /** the device writes over the MSI-X table that it has itself, as it may in a self-test */
  | readonly ["self-test"]
  | readonly ["reset" | "restore" | "teardown" | "plug"]
  /** the MSI-X capability: offset, width, value */
  | readonly ["control", number, number, number];

/** First GSI of the device's vectors, and the interrupt vector that the guest programs for vector 0. */
export const FIRST_GSI = 24;
export const FIRST_VECTOR = 0x40;

/** Bits of the message control word, at offset 2 of the MSI-X capability. */
export const MSIX_ENABLE = 1 << 15;
export const MSIX_FUNCTION_MASK = 1 << 14;

interface VectorState {
  /** as the guest's register says */
  maskBit: boolean;
  /** what is in force */
  masked: boolean;
  /** so many changes of the mask are under way */
  changing: number;
  data: number;
  /** interrupt vectors that were programmed at any time */
  programmed: number[];
  /** the one that was programmed before the write that is under way */
  before: number | undefined;
  /** those that were programmed when the last edge was raised, or later */
  allowed: number[];
  edges: number;
  deliveries: number;
  lastEdge: number;
  /** edges raised under a mask that was in force, and not delivered since it is */
  underMask: number;
}

/** What guest and device do. */
export interface BenchOptions {
  vectors: number;
  /** what the guest does; several scripts: several vCPUs at the same time */
  guest: readonly GuestStep[] | readonly (readonly GuestStep[])[];
  /** which vectors the device raises, in order */
  device: readonly number[];
  /** vCPUs that can receive (1) */
  vcpus?: number;
  /** whether MSI-X is on from the beginning (it is) */
  enabled?: boolean;
  /** false: vectors have no masks of their own, as with MSI */
  maskable?: boolean;
  /** the device is VFIO's */
  assigned?: boolean;
  /** the host posts interrupts */
  posted?: boolean;
  /** an allocation fails, from any step on any of the first so many: the schedule chooses */
  faults?: number;
  profile?: Profile;
}

/** A device with MSI-X, a guest, and KVM, around a VMM that is to be tried. */
export class MsixBench {
  readonly process: Process;
  readonly calls: Calls;
  readonly vm: number;
  readonly machine: Machine;
  /** eventfds that the device's vectors signal; a VMM may put others in their place */
  readonly eventfds: number[];
  readonly receiver: Receiver;
  readonly assigned: AssignedDevice | undefined;
  readonly #states: VectorState[];
  readonly #options: BenchOptions;
  readonly #descriptors: number;
  #enabled: boolean;
  /** MSI-X is on in force: an assigned device has vectors to raise */
  #on: boolean;
  #functionMask = false;
  /** scripts that are not over */
  #guests = 0;
  #faulty = false;
  #busy = 0;
  /** while it is reset the device raises nothing */
  #stopped = false;
  #over = false;
  #idle = false;
  #seen = 0;

  constructor(options: BenchOptions) {
    this.#options = options;
    const { vectors, assigned = false, posted = false } = options;
    const profile =
      options.profile ?? (assigned ? hostWithDevice(vectors, { posted_interrupts: posted }) : undefined);
    this.machine = new Machine(profile, { policy: byHand });
    const process = this.machine.process();
    this.process = process;
    this.calls = new Calls(process);
    const kvm = process.open("/dev/kvm", 2);
    this.vm = process.ioctl(kvm, KVM_CREATE_VM, 0);
    process.ioctl(this.vm, KVM_CREATE_IRQCHIP, 0);
    const vcpus = times(options.vcpus ?? 1, (id) => {
      const fd = process.ioctl(this.vm, KVM_CREATE_VCPU, id);
      const { lapic } = (process.fds.get(fd) as VcpuFile).vcpu.arch as X86Vcpu;
      lapic!.mmioWrite(SPIV, 4, 0x1ff, 0);
      return fd;
    });
    this.receiver = new Receiver(process, vcpus);
    if (assigned) this.assigned = new AssignedDevice(this.machine, process);
    this.eventfds = times(vectors, () => process.eventfd2(0, EFD_NONBLOCK));
    this.#descriptors = this.#openDescriptors();
    this.#on = this.#enabled = options.enabled ?? true;
    const masked = (options.maskable ?? true) || !this.#enabled;
    this.#states = times(vectors, (vector) => ({
      maskBit: options.maskable ?? true,
      masked,
      changing: 0,
      data: FIRST_VECTOR + vector,
      before: undefined,
      programmed: [FIRST_VECTOR + vector],
      allowed: [],
      edges: 0,
      deliveries: 0,
      lastEdge: -1,
      underMask: 0,
    }));
  }

  /** Whether the guest finds MSI-X on. */
  get initiallyEnabled(): boolean {
    return this.#options.enabled ?? true;
  }

  /** What the guest has programmed for a vector. */
  data(vector: number): number {
    return this.#states[vector].data;
  }

  /** A world for the explorer, with the VMM under test in the middle. */
  world(vmm: MsixVmm): World {
    const { guest, faults = 0 } = this.#options;
    const several = guest.length !== 0 && Array.isArray(guest[0][0]);
    const scripts = (several ? guest : [guest]) as readonly (readonly GuestStep[])[];
    this.#guests = scripts.length;
    const threads: Record<string, Thread> = {};
    scripts.forEach((script, i) => {
      threads[several ? `vcpu${i}` : "guest"] = this.#guest(vmm, script);
    });
    if (this.#options.device.length !== 0) threads.device = this.#device(vmm);
    if (vmm.loop !== undefined) threads.vmm = vmm.loop();
    const daemons = ["vmm"];
    for (let nth = 1; nth <= faults; nth++) {
      threads[`fault${nth}`] = this.#fault(nth);
      daemons.push(`fault${nth}`);
    }
    return {
      kernel: this.process.kernel,
      threads,
      daemons,
      check: () => this.#check(vmm),
      final: () => this.#final(vmm),
    };
  }

  // ---- the guest -------------------------------------------------------------------------------------------------

  *#guest(vmm: MsixVmm, script: readonly GuestStep[]): Thread {
    for (const action of script) {
      const [kind, first = 0, second = 0, third = 0] = action as unknown as [
        GuestStep[0],
        number?,
        number?,
        number?,
      ];
      const label = () => `guest: ${action.join(" ")}`;
      const state = this.#states[first];
      switch (kind) {
        case "mask":
          yield* this.#access(
            label,
            () => (state.maskBit = true),
            () => vmm.mask(first),
          );
          this.#readBack(vmm, first);
          break;
        case "unmask":
          yield* this.#access(
            label,
            () => (state.maskBit = false),
            () => vmm.unmask(first),
          );
          this.#readBack(vmm, first);
          break;
        case "write":
          yield* this.#access(
            label,
            () => {
              state.before = state.data & 0xff;
              state.data = second;
              state.allowed.push(second & 0xff);
              state.programmed.push(second & 0xff);
            },
            () => vmm.write?.(first, second),
          );
          state.before = undefined;
          break;
        case "enable":
          yield* this.#access(
            label,
            () => (this.#enabled = true),
            () => vmm.enable?.(),
          );
          break;
        case "disable":
          yield* this.#access(
            label,
            () => (this.#enabled = false),
            () => vmm.disable?.(),
          );
          break;
        case "function mask":
          yield* this.#access(
            label,
            () => (this.#functionMask = true),
            () => vmm.functionMask?.(),
          );
          break;
        case "function unmask":
          yield* this.#access(
            label,
            () => (this.#functionMask = false),
            () => vmm.functionUnmask?.(),
          );
          break;
        case "control": {
          const word = first === 0 && second === 4 ? third >>> 16 : third;
          const write = () => {
            this.#enabled = (word & MSIX_ENABLE) !== 0;
            this.#functionMask = (word & MSIX_FUNCTION_MASK) !== 0;
          };
          yield* this.#access(label, write, () => vmm.control?.(first, second, third));
          break;
        }
        case "self-test":
          yield* this.#access(
            label,
            () => this.#selfTest(),
            () => undefined,
          );
          break;
        case "reset":
          yield* this.#access(
            label,
            () => this.#stop(),
            () => vmm.reset?.(),
          );
          this.#forget();
          break;
        case "restore":
          yield* this.#access(
            label,
            () => {},
            () => vmm.restore?.(),
          );
          break;
        case "teardown":
          yield* this.#access(
            label,
            () => this.#stop(),
            () => vmm.teardown?.(),
          );
          this.#forget();
          this.#over = true;
          break;
        case "plug":
          this.#over = false;
          yield* this.#access(
            label,
            () => this.#off(this.#options.enabled ?? true),
            () => vmm.plug?.(),
          );
          break;
      }
    }
    this.#guests--;
  }

  /** Addresses and data of the device's own table are gone; its mask bits stay. */
  #selfTest(): void {
    const { table } = this.assigned!.pci.msix!;
    for (let at = 0; at < table.length; at += MSIX_ENTRY_SIZE) table.fill(0, at, at + 12);
  }

  #off(enabled: boolean): void {
    this.#enabled = enabled;
    this.#functionMask = false;
    for (const state of this.#states) state.maskBit = true;
  }

  #stop(): void {
    this.#off(false);
    this.#stopped = true;
  }

  /** What was raised before a reset is of no interest any more. */
  #forget(): void {
    this.#stopped = false;
    for (const state of this.#states) state.edges = state.deliveries;
    this.#idle = true;
  }

  #maskedByRegisters(state: VectorState): boolean {
    return !this.#enabled || this.#functionMask || state.maskBit;
  }

  /**
   * An access of the guest is a step, the VMM's answer to it the steps that follow. What it unmasks is unmasked at once,
   * what it masks when the VMM is done.
   */
  *#access(label: () => string, write: () => void, handler: () => Thread | undefined): Thread {
    let changed: VectorState[] = [];
    const enter = () => {
      write();
      if (!this.#enabled) this.#on = false;
      changed = this.#states.filter((state) => state.masked !== this.#maskedByRegisters(state));
      for (const state of changed) {
        state.changing++;
        if (this.#maskedByRegisters(state)) continue;
        state.masked = false;
        this.#idle = false;
      }
    };
    yield { run: enter, label };
    this.#busy++;
    const handling = handler();
    if (handling !== undefined) yield* handling;
    this.#busy--;
    for (const state of changed) state.changing--;
    this.#on = this.#enabled;
    this.#settle();
  }

  /** Where vCPUs wrote the same mask bit at the same time, the register says who was last. */
  #readBack(vmm: MsixVmm, vector: number): void {
    if (vmm.masked === undefined) return;
    this.#states[vector].maskBit = vmm.masked(vector);
    this.#settle();
  }

  #settle(): void {
    for (const state of this.#states) {
      if (state.changing !== 0) continue;
      const masked = this.#maskedByRegisters(state);
      if (masked && !state.masked) state.underMask = 0;
      state.masked = masked;
    }
  }

  // ---- the device, and faults --------------------------------------------------------------------------------------

  *#device(vmm: MsixVmm): Thread {
    for (const vector of this.#options.device)
      yield { run: () => this.#raise(vmm, vector), label: () => `device raises vector ${vector}` };
  }

  #raise(vmm: MsixVmm, vector: number): void {
    if (this.#over || this.#stopped || (this.assigned !== undefined && !this.#on)) return;
    const state = this.#states[vector];
    state.edges++;
    state.lastEdge = this.receiver.now;
    state.allowed = [state.data & 0xff];
    if (state.before !== undefined) state.allowed.push(state.before);
    if (state.masked && state.changing === 0) state.underMask++;
    else state.underMask = 0;
    if (vmm.raise !== undefined) vmm.raise(vector);
    else if (this.assigned !== undefined) this.#raiseHardware(vector);
    else this.signal(this.eventfds[vector]);
  }

  /** A device that has MSI-X off has nowhere to send a vector to. */
  #raiseHardware(vector: number): void {
    const msix = this.assigned!.pci.msix!;
    if (msix.enabled) msix.raise(vector);
  }

  /** One fault a run, and none when the guest is done: the nth allocation from some step on fails. */
  *#fault(nth: number): Thread {
    const { faults } = this.process.kernel;
    yield {
      run: () => {
        this.#faulty = true;
        faults.failNth("allocation", nth);
      },
      blocked: () => this.#faulty || this.#guests === 0,
      label: () => `allocation ${nth} from here on will fail`,
    };
  }

  // ---- what must hold ----------------------------------------------------------------------------------------------

  /** The VM behind its descriptor. */
  get kernelVm(): Vm {
    return (this.process.fds.get(this.vm) as VmFile).vm;
  }

  /** After every step. */
  #check(vmm: MsixVmm): string | undefined {
    const { deliveries } = this.receiver;
    for (; this.#seen < deliveries.length; this.#seen++) {
      const wrong = this.#delivered(deliveries[this.#seen].vector);
      if (wrong !== undefined) return wrong;
    }
    this.receiver.now++;
    if (this.#busy === 0 || this.#options.posted === true) {
      const { irqfds, routing } = this.kernelVm;
      for (let irqfd = irqfds.first; irqfd !== undefined; irqfd = irqfd.after)
        if (routing.routes(irqfd.gsi) === undefined)
          return `an irqfd is bound to GSI ${irqfd.gsi}, which has no route`;
    }
    return this.#busy === 0 ? (this.#armed(vmm) ?? this.#hardware(vmm) ?? this.#left()) : undefined;
  }

  #delivered(data: number): string | undefined {
    const vector = this.#states.findIndex(({ programmed }) => programmed.includes(data));
    if (vector < 0) return `an interrupt with data 0x${data.toString(16)}, which nobody had programmed`;
    if (this.#over) return `vector ${vector} was delivered after the device was gone`;
    const state = this.#states[vector];
    if (state.edges === 0) return `vector ${vector} was delivered, and the device never raised it`;
    if (!state.allowed.includes(data))
      return `vector ${vector} came through a stale route, with data 0x${data.toString(16)}`;
    const through = state.masked && state.changing === 0;
    if (through && state.underMask > 0 && state.edges - state.deliveries === state.underMask)
      return `vector ${vector} was delivered while it is masked`;
    if (++state.deliveries > state.edges)
      return `vector ${vector} was raised ${state.edges} times and delivered ${state.deliveries} times`;
    return undefined;
  }

  #armed(vmm: MsixVmm): string | undefined {
    if (vmm.armed === undefined) return undefined;
    const { irqfds } = this.kernelVm;
    for (let vector = 0; vector < this.eventfds.length; vector++) {
      const fd = this.eventfds[vector];
      const bound = irqfds.has(this.process.fds.get(fd) as EventFd);
      if (bound !== vmm.armed(vector))
        return `vector ${vector} is ${bound ? "" : "not "}armed, and the VMM thinks it is${bound ? " not" : ""}`;
    }
    return undefined;
  }

  #hardware(vmm: MsixVmm): string | undefined {
    if (this.assigned === undefined || this.#states.some((_, vector) => vmm.refused?.(vector)))
      return undefined;
    const { pci, irqs } = this.assigned;
    if (pci.msix!.enabled !== this.#enabled)
      return `the guest has MSI-X ${this.#enabled ? "on" : "off"}, the device has it ${this.#enabled ? "off" : "on"}`;
    if (vmm.triggered === undefined) return undefined;
    for (const vector of this.#states.keys()) {
      const taken = irqs.irqOf(pci, vector)?.handler !== undefined;
      if (taken !== vmm.triggered(vector))
        return `the host has ${taken ? "an" : "no"} interrupt for vector ${vector}, and the VMM thinks otherwise`;
    }
    return undefined;
  }

  /** When nothing can go on. */
  #final(vmm: MsixVmm): string | undefined {
    if (this.#over || this.#idle) return undefined;
    for (const [vector, state] of this.#states.entries()) {
      if (vmm.refused?.(vector) === true || (state.edges === state.deliveries && !vmm.pending(vector)))
        continue;
      const since = this.receiver.deliveries.some(
        ({ vector: data, step: at }) => state.programmed.includes(data) && at >= state.lastEdge,
      );
      const pending = vmm.pending(vector);
      if (!state.masked && !since && state.edges > 0) return `the last edge of vector ${vector} was lost`;
      if (state.masked && !since && !pending && state.edges > 0)
        return `vector ${vector} is masked, its last edge was not delivered, and it does not read as pending`;
      if (pending && state.edges === state.deliveries)
        return `vector ${vector} reads as pending, and each of its ${state.edges} edges was delivered`;
      if (!state.masked && pending) return `vector ${vector} is unmasked and still reads as pending`;
    }
    return undefined;
  }

  #left(): string | undefined {
    if (!this.#idle) return undefined;
    const { irqfds, routing } = this.kernelVm;
    if (irqfds.first !== undefined)
      return `an irqfd of a device that is not in use is bound to GSI ${irqfds.first.gsi}`;
    for (let gsi = FIRST_GSI; gsi < FIRST_GSI + GSIS; gsi++)
      if (routing.routes(gsi) !== undefined) return `GSI ${gsi} has a route of a device that is not in use`;
    const open = this.#openDescriptors() - this.#descriptors;
    return this.#over && open > 0 ? `${open} descriptors are left open` : undefined;
  }

  #openDescriptors(): number {
    let open = 0;
    for (let fd = 0; fd < DESCRIPTORS; fd++) if (this.process.fds.get(fd) !== undefined) open++;
    return open;
  }

  // ---- what VMMs do most -------------------------------------------------------------------------------------------

  /** Replaces the routing table by messages: GSI → data, all to APIC 0. */
  setRoutes(routes: ReadonlyMap<number, number>): Thread<number> {
    const bytes = newBytes(KvmIrqRouting.size + routes.size * KvmIrqRoutingEntry.size);
    store32(bytes, 0, routes.size);
    let at = KvmIrqRouting.size;
    for (const [gsi, data] of routes) {
      store32(bytes, at, gsi);
      store32(bytes, at + 4, KVM_IRQ_ROUTING_MSI);
      store32(bytes, at + 16, APIC_0);
      store32(bytes, at + 24, data);
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

  /** Adds one to an eventfd, as a part of the step that is running. */
  signal(fd: number): number {
    return this.process.write(fd, one);
  }

  /** Whether an eventfd holds a signal that nobody took. */
  signalled(fd: number): boolean {
    const { lo, hi } = this.process.fds.get(fd) as EventFd;
    return lo !== 0 || hi !== 0;
  }
}

/** `make(0)` to `make(n - 1)`: Array.from takes ten times as long, and a bench is made for every run (measured). */
function times<T>(n: number, make: (i: number) => T): T[] {
  const made: T[] = [];
  for (let i = 0; i < n; i++) made.push(make(i));
  return made;
}

const SPIV = 0xf0;
/** the address of messages to the first vCPU */
const APIC_0 = 0xfee0_0000;
/** descriptors are looked for below this */
const DESCRIPTORS = 128;
/** so many GSIs of a device are looked at */
const GSIS = 16;
const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);
