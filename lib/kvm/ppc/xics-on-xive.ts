/**
 * XICS played on XIVE hardware: what KVM_DEV_TYPE_XICS is on a POWER9 that is no guest itself
 * (arch/powerpc/kvm/book3s_xive.c, 6.1). Attributes are those of XICS, and NR_SERVERS in group 2.
 *
 * Reading a source is made for saving all of them, one after the other: the first read takes a snapshot of every
 * source, and the reads that follow answer from it, until there have been as many as there are sources. A source set
 * up in between reads as if it had priority 0 (trace ppc64le-kvm-6.12/powernv9-xics-sources).
 *
 * The end of an interrupt is not noticed here: a resampling irqfd is never told (trace guest-code/powernv9-guest).
 *
 * Missing: queues that are full.
 */
import { EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ENXIO, EPERM } from "../../abi/errno.ts";
import { KVM_CAP_IRQ_XICS } from "../../abi/kvm.ts";
import {
  KVM_DEV_XICS_GRP_CTRL,
  KVM_DEV_XICS_GRP_SOURCES,
  KVM_DEV_XICS_NR_SERVERS,
} from "../../abi/kvm-ppc.ts";
import { load32, store32 } from "../../abi/struct.ts";
import { XICS_IPI } from "../../hardware/xics.ts";
import { PQ_IDLE, PQ_QUEUED, XIVE_MASKED, XiveProcessor, XiveSource } from "../../hardware/xive.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { DeviceAttr } from "../device.ts";
import type { Vm } from "../vm.ts";
import type { PpcController, Presenter, RtasSources } from "./controller.ts";
import { H_CPPR, H_EOI, H_IPI, H_IPOLL, H_PARAMETER, H_SUCCESS, H_XIRR, H_XIRR_X } from "./hypercalls.ts";
import type { PpcVcpu } from "./vcpu.ts";
import type { PpcVm } from "./vm.ts";
import { isSource } from "./xics.ts";
import { priorityFromGuest, XiveBase, type XiveSourceState } from "./xive-base.ts";

const WORD = 8;

// bits of the upper half of a source's state, as in hardware/xics.ts
const LEVEL_SENSITIVE = 1 << 8;
const MASKED = 1 << 9;
const PENDING = 1 << 10;
const PRESENTED = 1 << 11;
const QUEUED = 1 << 12;

/** KVM_CREATE_DEVICE. EEXIST: the VM has a controller; ENOMEM. */
export function createXicsOnXive(vm: Vm): XicsOnXive | number {
  const arch = vm.arch as PpcVm;
  if (arch.controller !== undefined) return -EEXIST;
  if (vm.kernel.faults.allocation("kvmppc_xive")) return -ENOMEM;
  return (arch.controller = new XicsOnXive(arch));
}

export class XicsOnXive implements PpcController {
  readonly name = "kvm-xive";
  readonly capability = KVM_CAP_IRQ_XICS;
  readonly base: XiveBase;
  readonly rtas: RtasSources;
  /** sources that a restored presenter showed before they were set up */
  readonly delayed = new Set<number>();
  /** by server number */
  readonly connections = new Map<number, XiveConnection>();
  /** reads since the snapshot */
  #reads = 0;

  constructor(vm: PpcVm) {
    this.base = new XiveBase(vm);
    this.rtas = {
      setXive: (irq, server, priority) => this.#setXive(irq, server, priority),
      getXive: (irq) => {
        const state = this.base.source(irq);
        return state === undefined ? -EINVAL : { server: state.server, priority: state.guestPriority };
      },
      intOn: (irq) => this.#intOn(irq),
      intOff: (irq) => this.#intOff(irq),
    };
  }

  /** ENXIO; for sources as XICS, but a server that is not there leaves the source without a target; NR_SERVERS. */
  set({ group, attr, user }: DeviceAttr): number {
    if (group === KVM_DEV_XICS_GRP_CTRL && attr === BigInt(KVM_DEV_XICS_NR_SERVERS))
      return this.base.setServers(user);
    if (group !== KVM_DEV_XICS_GRP_SOURCES) return -ENXIO;
    if (!isSource(attr)) return -ENOENT;
    const state = this.base.makeSource(Number(attr));
    if (typeof state === "number") return state;
    if (!user.readable(WORD)) return -EFAULT;
    this.#restore(state, load32(user.bytes, user.at), load32(user.bytes, user.at + 4));
    return 0;
  }

  get({ group, attr, user }: DeviceAttr): number {
    if (group !== KVM_DEV_XICS_GRP_SOURCES) return -ENXIO;
    const state = this.base.source(Number(attr & 0xffff_ffffn));
    if (state?.valid !== true) return -ENOENT;
    if (this.#reads === 0) this.#snapshot();
    this.#reads++;
    const result = save(state, user);
    if (this.#reads === this.base.sources) {
      this.#reads = 0;
      for (const other of this.base.valid()) other.inQueue = false;
    }
    return result;
  }

  has({ group, attr }: DeviceAttr): number {
    if (group === KVM_DEV_XICS_GRP_CTRL && attr === BigInt(KVM_DEV_XICS_NR_SERVERS)) return 0;
    return group === KVM_DEV_XICS_GRP_SOURCES && isSource(attr) ? 0 : -ENXIO;
  }

  /** book3s_xive.c:xive_set_source (6.1) */
  #restore(state: XiveSourceState, server: number, high: number): void {
    const priority = high & 0xff;
    state.guestPriority = 0;
    state.mask();
    state.priority = XIVE_MASKED;
    if (priority !== XIVE_MASKED) this.#target(state, server, priorityFromGuest(priority));
    const pending = (high & PENDING) !== 0 || this.delayed.delete(state.number);
    state.levelSensitive = (high & LEVEL_SENSITIVE) !== 0;
    state.asserted = state.levelSensitive && pending;
    state.oldP = (high & PRESENTED) !== 0 && !pending;
    state.oldQ = (high & QUEUED) !== 0 || pending;
    if ((high & MASKED) === 0) state.unmask(priority);
    state.savedPriority = priority;
    this.base.setValid(state);
  }

  /** −EINVAL: no such server; the source stays where it was. */
  #target(state: XiveSourceState, server: number, priority: number): number {
    const processor = this.base.processors.get(server);
    if (processor === undefined) return -EINVAL;
    state.route(processor, server, priority, state.number);
    return 0;
  }

  /** Every source's P and Q, and which of them stand in a queue. book3s_xive.c:xive_pre_save_scan (6.1) */
  #snapshot(): void {
    for (const state of this.base.valid()) {
      state.snapshotPriority = state.mask();
      state.snapshotP = state.oldP;
      state.snapshotQ = state.oldQ;
    }
    for (const processor of this.base.processors.values())
      for (const queue of processor.queues)
        for (const irq of queue) {
          const state = this.base.source(irq);
          if (state?.valid) state.inQueue = true;
        }
    for (const state of this.base.valid())
      if (state.snapshotPriority !== XIVE_MASKED) state.unmask(state.snapshotPriority);
  }

  // ---- RTAS ------------------------------------------------------------------------------------------------------

  #setXive(irq: number, server: number, priority: number): number {
    const state = this.base.source(irq);
    if (state === undefined) return -EINVAL;
    if (priority === XIVE_MASKED) state.mask();
    const wanted = priority === XIVE_MASKED ? state.priority : priorityFromGuest(priority);
    let result = 0;
    if (wanted !== XIVE_MASKED && (state.server !== server || state.priority !== wanted))
      result = this.#target(state, server, wanted);
    if (priority !== XIVE_MASKED) state.unmask(priority);
    state.savedPriority = priority;
    return result;
  }

  #intOn(irq: number): number {
    const state = this.base.source(irq);
    if (state === undefined || state.priority === XIVE_MASKED) return -EINVAL;
    if (state.savedPriority !== XIVE_MASKED) state.unmask(state.savedPriority);
    return 0;
  }

  #intOff(irq: number): number {
    const state = this.base.source(irq);
    if (state === undefined) return -EINVAL;
    state.savedPriority = state.mask();
    return 0;
  }

  // ---- vCPUs -----------------------------------------------------------------------------------------------------

  setIrq(irq: number, level: number): number {
    return this.base.setIrq(irq, level);
  }

  connect(vcpu: PpcVcpu, server: number): Presenter | number {
    const number = this.base.allocate(server);
    if (number < 0) return number;
    const processor = new XiveProcessor(vcpu);
    this.base.processors.set(server, processor);
    const connection = new XiveConnection(this, vcpu, processor, server, number);
    this.connections.set(server, connection);
    return connection;
  }

  release(): void {
    this.base.vm.removeController();
  }

  destroy(): void {
    this.base.vm.removeController();
  }
}

/** Writes the snapshot of a source out as XICS would. book3s_xive.c:xive_get_source (6.1) */
function save(state: XiveSourceState, user: Argument): number {
  let high = state.snapshotPriority;
  if (high === XIVE_MASKED) high = state.savedPriority | MASKED;
  const priority = high & 0xff;
  if (state.levelSensitive) high |= LEVEL_SENSITIVE | (state.snapshotP ? PENDING : 0);
  else {
    if (state.snapshotP) high |= PRESENTED;
    if (state.snapshotQ) high |= QUEUED;
    if (state.inQueue || (priority === XIVE_MASKED && state.snapshotQ)) high |= PENDING;
  }
  if (!user.writable(WORD)) return -EFAULT;
  store32(user.bytes, user.at, state.server);
  store32(user.bytes, user.at + 4, high);
  return 0;
}

/** A vCPU's presenter, made of a virtual processor: CPPR and MFRR are kept here. */
class XiveConnection implements Presenter {
  readonly #xive: XicsOnXive;
  readonly #vcpu: PpcVcpu;
  readonly #processor: XiveProcessor;
  readonly #server: number;
  readonly #number: number;
  readonly vpState = -EPERM;
  /** announces a change of MFRR, at priority 0 */
  readonly #ipi = new XiveSource();
  #cppr = 0;
  mfrr = XIVE_MASKED;
  /** priorities that were acknowledged and may still have events */
  #pending = 0;

  constructor(xive: XicsOnXive, vcpu: PpcVcpu, processor: XiveProcessor, server: number, number: number) {
    this.#xive = xive;
    this.#vcpu = vcpu;
    this.#processor = processor;
    this.#server = server;
    this.#number = number;
    this.#ipi.pq = PQ_IDLE;
    this.#ipi.route = { processor, priority: 0, data: XICS_IPI };
  }

  saveIcp(bytes: Uint8Array, at: number): number {
    store32(bytes, at, (this.mfrr << 24) | (XIVE_MASKED << 16));
    store32(bytes, at + 4, this.#cppr << 24);
    return 0;
  }

  /** The pending priority is not looked at. What was shown is triggered again, or once it is set up. */
  restoreIcp(bytes: Uint8Array, at: number): number {
    const high = load32(bytes, at + 4);
    this.#cppr = high >>> 24;
    this.#processor.cppr = this.#cppr;
    this.mfrr = bytes[at + 3];
    if (this.mfrr < this.#cppr) this.#ipi.trigger();
    const shown = high & 0xff_ffff;
    if (shown > XICS_IPI) {
      const state = this.#xive.base.source(shown);
      if (state?.valid) state.hardware.trigger();
      else this.#xive.delayed.add(shown);
    }
    return 0;
  }

  hypercall(number: number): number | undefined {
    const { registers } = this.#vcpu;
    const first = registers.gpr(4);
    switch (number) {
      case H_XIRR:
      case H_XIRR_X:
        registers.setGpr(4, this.#xirr());
        if (number === H_XIRR_X) registers.setGpr(5, this.#vcpu.timeBase);
        return H_SUCCESS;
      case H_CPPR:
        this.#setCppr(priorityFromGuest(first & 0xff));
        return H_SUCCESS;
      case H_EOI:
        return this.#endOfInterrupt(first >>> 0);
      case H_IPI:
        return this.#sendIpi(first, registers.gpr(5));
      case H_IPOLL:
        return this.#poll(first);
    }
    return undefined;
  }

  #xirr(): number {
    const acknowledged = this.#processor.acknowledge();
    if (acknowledged >= 0) this.#pending |= 1 << acknowledged;
    const before = this.#cppr;
    const irq = this.#scan(true);
    if (this.#processor.cppr !== this.#cppr) this.#processor.cppr = this.#cppr;
    return ((before << 24) | irq) >>> 0;
  }

  /** What H_XIRR would answer on a server, without taking it; every queue of another server is looked at. */
  #poll(server: number): number {
    const target = this.#xive.connections.get(server);
    if (target === undefined) return H_PARAMETER;
    const priority = target.#processor.pendingPriority;
    const announced = priority < 8 ? 1 << priority : 0;
    const irq = target.#scan(false, target === this ? this.#pending | announced : 0xff);
    this.#vcpu.registers.setGpr(4, ((target.#cppr << 24) | irq) >>> 0);
    return H_SUCCESS;
  }

  /** The most favoured event that CPPR lets through, or an interrupt of another processor. */
  #scan(fetch: boolean, pending = this.#pending): number {
    let irq = 0;
    let priority = XIVE_MASKED;
    while (irq === 0 && (this.mfrr !== XIVE_MASKED || pending !== 0)) {
      priority = pending === 0 ? XIVE_MASKED : 31 - Math.clz32(pending & -pending);
      if (priority >= this.#cppr || priority > 7) {
        if (this.mfrr < this.#cppr) {
          priority = this.mfrr;
          irq = XICS_IPI;
        }
        break;
      }
      const queue = this.#processor.queues[priority];
      while (fetch && queue[0] === XICS_IPI) {
        queue.shift();
        this.#ipi.endOfInterrupt();
      }
      irq = queue.find((data) => data !== XICS_IPI) ?? 0;
      if (irq === 0) pending &= ~(1 << priority);
      if (priority >= this.mfrr && this.mfrr < this.#cppr) {
        priority = this.mfrr;
        irq = XICS_IPI;
        break;
      }
      if (fetch && irq !== 0) queue.shift();
    }
    if (!fetch) return irq;
    this.#pending = pending;
    if (irq !== 0) this.#cppr = priority;
    return irq;
  }

  #setCppr(cppr: number): void {
    const raised = cppr > this.#cppr;
    this.#cppr = cppr;
    if (raised) this.#pushPending();
    else this.#giveAway(cppr);
    this.#processor.cppr = cppr;
  }

  /**
   * Masked events of sources that have moved to another server since are triggered again there.
   * book3s_xive.c:xive_vm_scan_for_rerouted_irqs (6.1)
   */
  #giveAway(cppr: number): void {
    const { queues } = this.#processor;
    for (let priority = cppr; priority < queues.length; priority++)
      for (const irq of queues[priority].slice()) {
        const state = irq === XICS_IPI ? undefined : this.#xive.base.source(irq);
        if (state === undefined || state.server === this.#server) continue;
        queues[priority].splice(queues[priority].indexOf(irq), 1);
        state.hardware.exchange(PQ_QUEUED);
        state.hardware.endOfInterrupt();
      }
  }

  /** What is left is made pending in the hardware again, so that a new CPPR brings it. */
  #pushPending(): void {
    let pending = this.#pending;
    if (this.mfrr !== XIVE_MASKED) pending |= this.mfrr < 8 ? 1 << this.mfrr : 0x80;
    if (pending !== 0) this.#processor.setPending(31 - Math.clz32(pending & -pending));
  }

  /** A level source that is still asserted comes again. book3s_xive.c:xive_vm_h_eoi (6.1) */
  #endOfInterrupt(xirr: number): number {
    this.#cppr = priorityFromGuest(xirr >>> 24);
    const irq = xirr & 0xff_ffff;
    const state = irq === XICS_IPI || irq === 0 ? undefined : this.#xive.base.source(irq);
    if (state !== undefined) {
      if (state.guestPriority === XIVE_MASKED) state.oldP = false;
      else {
        state.hardware.endOfInterrupt();
        if (state.levelSensitive && state.asserted) state.hardware.trigger();
      }
    }
    for (let priority = 0; priority < 8; priority++)
      if (this.#processor.queues[priority].length === 0) this.#pending &= ~(1 << priority);
    this.#pushPending();
    this.#processor.cppr = this.#cppr;
    return state === undefined && irq !== XICS_IPI && irq !== 0 ? H_PARAMETER : H_SUCCESS;
  }

  #sendIpi(server: number, mfrr: number): number {
    const target = this.#xive.connections.get(server);
    if (target === undefined) return H_PARAMETER;
    target.mfrr = mfrr & 0xff;
    if (mfrr < target.#cppr) target.#ipi.trigger();
    return H_SUCCESS;
  }

  disconnect(): void {
    this.#xive.connections.delete(this.#server);
    this.#xive.base.free(this.#number, this.#server);
  }
}
