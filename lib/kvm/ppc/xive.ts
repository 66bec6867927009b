/**
 * XIVE native, KVM_DEV_TYPE_XIVE: a guest of a POWER9 that drives the hardware itself. User space sets up sources, their
 * targets, and the event queues in guest memory (arch/powerpc/kvm/book3s_xive_native.c, 6.1;
 * Documentation/virt/kvm/devices/xive.rst).
 *
 * Groups: 1 control (1 reset, 2 sync the queues, 3 NR_SERVERS: u32), 2 a source by number (u64: bit 0 level-sensitive,
 * bit 1 asserted), 3 a source's target (u64: priority @0, server @3, masked @32, event number @33), 4 an event queue by
 * priority @0 and server @3 (`struct kvm_ppc_xive_eq`, 64 bytes), 5 sync a source.
 *
 * Missing: the mappings of the device (the guest's view of sources and of its own processor), events in guest memory.
 */
import { E2BIG, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ENXIO } from "../../abi/errno.ts";
import { KVM_CAP_PPC_IRQ_XIVE } from "../../abi/kvm.ts";
import {
  KVM_DEV_XIVE_EQ_SYNC,
  KVM_DEV_XIVE_GRP_CTRL,
  KVM_DEV_XIVE_GRP_EQ_CONFIG,
  KVM_DEV_XIVE_GRP_SOURCE,
  KVM_DEV_XIVE_GRP_SOURCE_CONFIG,
  KVM_DEV_XIVE_GRP_SOURCE_SYNC,
  KVM_DEV_XIVE_NR_SERVERS,
  KVM_DEV_XIVE_RESET,
  KVM_XIVE_EQ_ALWAYS_NOTIFY,
  KVM_XIVE_LEVEL_ASSERTED,
  KVM_XIVE_LEVEL_SENSITIVE,
  KvmPpcXiveEq,
} from "../../abi/kvm-ppc.ts";
import { load32, store32 } from "../../abi/struct.ts";
import { PQ_OFF, XIVE_MASKED, XiveProcessor } from "../../hardware/xive.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { DeviceAttr } from "../device.ts";
import type { Vm } from "../vm.ts";
import type { PpcController, Presenter } from "./controller.ts";
import type { PpcVcpu } from "./vcpu.ts";
import type { PpcVm } from "./vm.ts";
import { priorityFromGuest, XiveBase, type XiveSourceState } from "./xive-base.ts";

const SOURCES = 1n << 20n;
/** the one size of a queue: 64 KiB, as a shift */
const QUEUE_SHIFT = 16;

/** KVM_CREATE_DEVICE. EEXIST: the VM has a controller; ENOMEM. */
export function createXive(vm: Vm): XiveNative | number {
  const arch = vm.arch as PpcVm;
  if (arch.controller !== undefined) return -EEXIST;
  if (vm.kernel.faults.allocation("kvmppc_xive")) return -ENOMEM;
  return (arch.controller = new XiveNative(arch));
}

export class XiveNative implements PpcController {
  readonly name = "kvm-xive-native";
  readonly capability = KVM_CAP_PPC_IRQ_XIVE;
  readonly base: XiveBase;
  /** the queues that were configured, 64 bytes each, by server and priority */
  readonly #queues = new Map<number, Uint8Array>();

  constructor(vm: PpcVm) {
    this.base = new XiveBase(vm);
  }

  set({ group, attr, user }: DeviceAttr): number {
    switch (group) {
      case KVM_DEV_XIVE_GRP_CTRL:
        return this.#control(attr, user);
      case KVM_DEV_XIVE_GRP_SOURCE:
        return this.#setSource(attr, user);
      case KVM_DEV_XIVE_GRP_SOURCE_CONFIG:
        return this.#configure(this.#find(attr), user);
      case KVM_DEV_XIVE_GRP_EQ_CONFIG:
        return this.#setQueue(Number(attr & 0xffff_ffffn), user);
      case KVM_DEV_XIVE_GRP_SOURCE_SYNC: {
        const state = this.#find(attr);
        return state === undefined ? -ENOENT : state.valid ? 0 : -EINVAL;
      }
    }
    return -ENXIO;
  }

  get({ group, attr, user }: DeviceAttr): number {
    return group === KVM_DEV_XIVE_GRP_EQ_CONFIG ? this.#getQueue(Number(attr & 0xffff_ffffn), user) : -ENXIO;
  }

  has({ group, attr }: DeviceAttr): number {
    switch (group) {
      case KVM_DEV_XIVE_GRP_CTRL:
        return attr >= KVM_DEV_XIVE_RESET && attr <= KVM_DEV_XIVE_NR_SERVERS ? 0 : -ENXIO;
      case KVM_DEV_XIVE_GRP_SOURCE:
      case KVM_DEV_XIVE_GRP_SOURCE_CONFIG:
      case KVM_DEV_XIVE_GRP_SOURCE_SYNC:
        return attr < SOURCES ? 0 : -ENXIO;
      case KVM_DEV_XIVE_GRP_EQ_CONFIG:
        return 0;
    }
    return -ENXIO;
  }

  #find(attr: bigint): XiveSourceState | undefined {
    return this.base.source(Number(attr & 0xffff_ffffn));
  }

  #control(attr: bigint, user: Argument): number {
    switch (Number(attr)) {
      case KVM_DEV_XIVE_RESET:
        for (const processor of this.base.processors.values())
          for (const queue of processor.queues) queue.length = 0;
        this.#queues.clear();
        for (const state of this.base.valid())
          if (state.priority !== XIVE_MASKED) {
            state.unroute();
            state.hardware.pq = PQ_OFF;
          }
        return 0;
      case KVM_DEV_XIVE_EQ_SYNC:
        return 0;
      case KVM_DEV_XIVE_NR_SERVERS:
        return this.base.setServers(user);
    }
    return -ENXIO;
  }

  /** E2BIG beyond the highest number; ENOMEM, EFAULT. A new source is masked and off. */
  #setSource(attr: bigint, user: Argument): number {
    if (attr >= SOURCES) return -E2BIG;
    const state = this.base.makeSource(Number(attr));
    if (typeof state === "number") return state;
    if (!user.readable(8)) return -EFAULT;
    const flags = load32(user.bytes, user.at);
    if ((flags & KVM_XIVE_LEVEL_SENSITIVE) !== 0) {
      state.levelSensitive = true;
      if ((flags & KVM_XIVE_LEVEL_ASSERTED) !== 0) state.asserted = true;
    }
    const { eisn } = state;
    state.unroute();
    state.eisn = eisn;
    state.hardware.pq = PQ_OFF;
    this.base.setValid(state);
    return 0;
  }

  /** ENOENT: no block; EINVAL: not set up, priority 7, no such server; EFAULT; EBUSY: nobody has a queue of the priority. */
  #configure(state: XiveSourceState | undefined, user: Argument): number {
    if (state === undefined) return -ENOENT;
    if (!state.valid) return -EINVAL;
    if (!user.readable(8)) return -EFAULT;
    const low = load32(user.bytes, user.at);
    const high = load32(user.bytes, user.at + 4);
    const priority = low & 7;
    const server = low >>> 3;
    const eisn = high >>> 1;
    if (priority !== priorityFromGuest(priority)) return -EINVAL;
    if (state.server === server && state.priority === priority && state.eisn === eisn) return 0;
    if ((high & 1) !== 0) {
      state.unroute();
      return 0;
    }
    if (!this.base.processors.has(server)) return -EINVAL;
    const target = this.#target(server, priority);
    if (target < 0) return target;
    state.eisn = eisn;
    state.route(this.base.processors.get(target)!, target, priority, eisn);
    return 0;
  }

  /** The server if it has a queue of the priority, else any that has: −EBUSY. book3s_xive.c:kvmppc_xive_select_target (6.1) */
  #target(server: number, priority: number): number {
    if (this.#queues.has((server << 3) | priority)) return server;
    for (const other of this.base.processors.keys())
      if (this.#queues.has((other << 3) | priority)) return other;
    return -EBUSY;
  }

  /**
   * EFAULT; ENOENT: no such server; EINVAL: priority 7, flags other than "always notify", a size other than 64 KiB, an
   * address that is not a multiple of it or behind which no page of that size lies. A size of 0 takes the queue away.
   */
  #setQueue(index: number, user: Argument): number {
    if (!user.readable(KvmPpcXiveEq.size)) return -EFAULT;
    const { vm } = this.base.vm;
    const { flags, qshift, qaddr } = KvmPpcXiveEq.at(user.bytes, user.at);
    if (!this.base.processors.has(index >>> 3)) return -ENOENT;
    if ((index & 7) !== priorityFromGuest(index & 7)) return -EINVAL;
    if (qshift === 0) {
      this.#queues.delete(index);
      return 0;
    }
    if (flags !== KVM_XIVE_EQ_ALWAYS_NOTIFY || qshift !== QUEUE_SHIFT) return -EINVAL;
    if ((qaddr & ((1n << BigInt(QUEUE_SHIFT)) - 1n)) !== 0n) return -EINVAL;
    if (1 << QUEUE_SHIFT > vm.host.pageSize || vm.slots.userAddress(Number(qaddr)) < 0) return -EINVAL;
    this.#queues.set(index, user.bytes.slice(user.at, user.at + KvmPpcXiveEq.size));
    return 0;
  }

  /** As above. A queue that was not configured leaves the buffer alone. */
  #getQueue(index: number, user: Argument): number {
    if (!this.base.processors.has(index >>> 3)) return -ENOENT;
    if ((index & 7) !== priorityFromGuest(index & 7)) return -EINVAL;
    const queue = this.#queues.get(index);
    if (queue === undefined) return 0;
    if (!user.writable(KvmPpcXiveEq.size)) return -EFAULT;
    user.bytes.set(queue, user.at);
    return 0;
  }

  setIrq(irq: number, level: number): number {
    return this.base.setIrq(irq, level);
  }

  connect(vcpu: PpcVcpu, server: number): Presenter | number {
    const number = this.base.allocate(server);
    if (number < 0) return number;
    const processor = new XiveProcessor(vcpu);
    this.base.processors.set(server, processor);
    return new NativeConnection(this.base, server, number);
  }

  release(): void {
    this.base.vm.removeController();
  }

  destroy(): void {
    this.base.vm.removeController();
  }
}

/**
 * A vCPU's end: the registers of its virtual processor, saved while it does not run: NSR, CPPR, IPB and five more, a
 * byte each. What XICS would keep is kept here too, for KVM_REG_PPC_ICP_STATE.
 */
class NativeConnection implements Presenter {
  readonly #base: XiveBase;
  readonly #server: number;
  readonly #number: number;
  readonly vpState = Uint8Array.of(0, 0, 0, 0, 0xff, 0, 0, 0);
  #cppr = 0;
  #mfrr = 0;

  constructor(base: XiveBase, server: number, number: number) {
    this.#base = base;
    this.#server = server;
    this.#number = number;
  }

  saveIcp(bytes: Uint8Array, at: number): number {
    store32(bytes, at, (this.#mfrr << 24) | (XIVE_MASKED << 16));
    store32(bytes, at + 4, this.#cppr << 24);
    return 0;
  }

  restoreIcp(bytes: Uint8Array, at: number): number {
    this.#mfrr = bytes[at + 3];
    this.#cppr = bytes[at + 7];
    this.vpState[1] = this.#cppr;
    return 0;
  }

  hypercall(): undefined {
    return undefined;
  }

  disconnect(): void {
    this.#base.free(this.#number, this.#server);
  }
}
