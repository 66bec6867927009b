/**
 * What the two devices on XIVE hardware share: sources in blocks of 1024, and virtual processors handed out to servers
 * from one block of them (arch/powerpc/kvm/book3s_xive.c, 6.1). "XICS on XIVE" shows guests the hypercalls of XICS;
 * "XIVE native" shows them the hardware.
 */
import { EBUSY, EEXIST, EFAULT, EINVAL, ENOMEM } from "../../abi/errno.ts";
import { KVM_INTERRUPT_SET_LEVEL, KVM_INTERRUPT_UNSET } from "../../abi/kvm-ppc.ts";
import { load32 } from "../../abi/struct.ts";
import { PQ_PENDING, PQ_QUEUED, XIVE_MASKED, type XiveProcessor, XiveSource } from "../../hardware/xive.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { PpcVm } from "./vm.ts";

/** sources of a block, as a shift; blocks */
const BLOCK = 10;
const BLOCKS = 1 << 10;
const IN_BLOCK = (1 << BLOCK) - 1;

/** The least favoured priority that a guest gets: 7 belongs to the hypervisor (xive_prio_from_guest). */
export const priorityFromGuest = (priority: number): number =>
  priority === XIVE_MASKED || priority < 6 ? priority : 6;

/** A source as KVM keeps it beside the hardware's. */
export class XiveSourceState {
  readonly number: number;
  readonly hardware = new XiveSource();
  valid = false;
  levelSensitive = false;
  asserted = false;
  /** what the guest asked for */
  guestPriority = XIVE_MASKED;
  savedPriority = XIVE_MASKED;
  /** what the hardware was told */
  server = 0;
  priority = XIVE_MASKED;
  /** the number that the guest's events carry (native) */
  eisn = 0;
  /** P and Q while masked */
  oldP = false;
  oldQ = false;
  /** the last snapshot: priority, P and Q, whether it stood in a queue */
  snapshotPriority = 0;
  snapshotP = false;
  snapshotQ = false;
  inQueue = false;

  constructor(number: number) {
    this.number = number;
  }

  /** Masks: what is pending is held back. The priority before. book3s_xive.c:xive_lock_and_mask (6.1) */
  mask(): number {
    const before = this.guestPriority;
    this.guestPriority = XIVE_MASKED;
    if (before === XIVE_MASKED) return before;
    const pq = this.hardware.exchange(PQ_PENDING);
    this.oldP = (pq & 2) !== 0;
    this.oldQ = (pq & 1) !== 0;
    return before;
  }

  /** Unmasks: what was held back comes. book3s_xive.c:xive_finish_unmask (6.1) */
  unmask(priority: number): void {
    if (this.guestPriority === XIVE_MASKED) {
      if (this.oldQ) this.hardware.exchange(PQ_QUEUED);
      if (!this.oldP) this.hardware.endOfInterrupt();
    }
    this.guestPriority = priority;
  }

  route(processor: XiveProcessor, server: number, priority: number, data: number): void {
    this.server = server;
    this.priority = priority;
    this.hardware.route = { processor, priority, data };
  }

  unroute(): void {
    this.server = 0;
    this.priority = XIVE_MASKED;
    this.eisn = 0;
    this.hardware.route = undefined;
  }
}

export class XiveBase {
  readonly vm: PpcVm;
  readonly #blocks: (XiveSourceState[] | undefined)[] = [];
  /** by server number */
  readonly processors = new Map<number, XiveProcessor>();
  /** virtual processors in use */
  readonly #used = new Set<number>();
  /** a block of so many virtual processors, allocated by the first connection */
  #servers: number;
  #allocated = false;
  /** how many sources were ever set up */
  sources = 0;

  constructor(vm: PpcVm) {
    this.vm = vm;
    this.#servers = vm.maxVcpus;
  }

  /** A source of a block that there is. */
  source(irq: number): XiveSourceState | undefined {
    const block = this.#blocks[irq >>> BLOCK];
    return block === undefined ? undefined : (block[irq & IN_BLOCK] ??= new XiveSourceState(irq));
  }

  /** The source, with its block made if there is none; −ENOMEM. */
  makeSource(irq: number): XiveSourceState | number {
    const found = this.source(irq);
    if (found !== undefined) return found;
    if (this.vm.vm.kernel.faults.allocation("kvmppc_xive_src_block")) return -ENOMEM;
    while (this.#blocks.length < irq >>> BLOCK) this.#blocks.push(undefined);
    this.#blocks[irq >>> BLOCK] = [];
    return this.source(irq)!;
  }

  /** Every source that was set up, by number. */
  *valid(): Generator<XiveSourceState> {
    for (let i = 0; i < Math.min(this.#blocks.length, BLOCKS); i++)
      for (const state of this.#blocks[i] ?? []) if (state?.valid) yield state;
  }

  setValid(state: XiveSourceState): void {
    if (!state.valid) this.sources++;
    state.valid = true;
  }

  /** KVM_IRQ_LINE and irqfds. 0, or −EINVAL for a source that is not set up. book3s_xive.c:kvmppc_xive_set_irq (6.1) */
  setIrq(irq: number, level: number): number {
    const state = this.source(irq);
    if (state?.valid !== true) return -EINVAL;
    const unsigned = level >>> 0;
    if ((unsigned === 1 && state.levelSensitive) || unsigned === KVM_INTERRUPT_SET_LEVEL)
      state.asserted = true;
    else if (unsigned === 0 || unsigned === KVM_INTERRUPT_UNSET) {
      state.asserted = false;
      return 0;
    }
    state.hardware.trigger();
    return 0;
  }

  /** KVM_DEV_XICS_NR_SERVERS, KVM_DEV_XIVE_NR_SERVERS: a u32. EFAULT, EINVAL; EBUSY once a vCPU is connected. */
  setServers(user: Argument): number {
    if (!user.readable(4)) return -EFAULT;
    const servers = load32(user.bytes, user.at);
    if (servers === 0 || servers > this.vm.maxVcpuIds) return -EINVAL;
    if (this.#allocated) return -EBUSY;
    this.#servers = Math.min(servers, this.vm.maxVcpus);
    return 0;
  }

  /** A virtual processor's number for a server: −EINVAL beyond the block, −EEXIST where it is in use, −ENOMEM. */
  allocate(server: number): number {
    const packed = this.vm.packId(server);
    if (packed >= this.#servers) return -EINVAL;
    this.#allocated = true;
    if (this.#used.has(packed)) return -EEXIST;
    if (this.vm.vm.kernel.faults.allocation("kvmppc_xive_vcpu")) return -ENOMEM;
    this.#used.add(packed);
    return packed;
  }

  free(processor: number, server: number): void {
    this.#used.delete(processor);
    this.processors.delete(server);
  }
}
