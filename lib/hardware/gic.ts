/**
 * The interrupts of a GICv2 or GICv3 as KVM keeps them: SGIs (0–15) and PPIs (16–31) of each processor, SPIs (from 32
 * on) of the distributor, LPIs (from 8192 on, GICv3 with an ITS); their lines and latches, and the queue of each
 * processor from which its list registers are filled (arch/arm64/kvm/vgic/vgic.c, 6.1; Arm IHI 0048B, IHI 0069H).
 *
 * Registers are in gic-distributor.ts and gic-redistributor.ts, list registers and the processor's side in
 * gic-cpu-interface.ts, message translation in its.ts. Whoever drives the chip looks at `cpu.kicked` after an
 * operation (that processor has something new) and takes `gic.acked` (lines that the guest has finished with).
 *
 * Missing: interrupts of hardware passed through (`hw` bits), GICv4 direct injection.
 */
import { TranslationCache } from "./translation-cache.ts";

export const NR_SGIS = 16;
export const NR_PRIVATE_IRQS = 32;
export const MIN_LPI = 8192;
/** SPIs of a controller whose number nobody set: VGIC_NR_IRQS_LEGACY is 256 (include/kvm/arm_vgic.h, 6.1) */
export const DEFAULT_SPIS = 256 - NR_PRIVATE_IRQS;
/** GICD_IIDR, GICC_IIDR: product 'K', implementer Arm */
export const PRODUCT_ID_KVM = 0x4b;
export const IMPLEMENTER_ARM = 0x43b;
/** the newest revision of the register semantics (KVM_VGIC_IMP_REV_LATEST, 6.1 to 7.2) */
const REVISION = 3;

/** Reset value of GICR_PENDBASER and GICR_PROPBASER: inner shareable, inner write-back, outer as inner. */
export const INITIAL_TABLE_BASE = 0x580n;

/** One interrupt. */
export class GicIrq {
  readonly intid: number;
  edge: boolean;
  enabled = false;
  /** 0 or 1 */
  group = 0;
  priority = 0;
  /** the wire of a level-triggered one */
  lineLevel = false;
  /** set by an edge, or by a write to a pending register */
  pendingLatch = false;
  active = false;
  /** the processor that would take it now */
  target: GicCpu | undefined;
  /** the processor whose queue holds it */
  queuedOn: GicCpu | undefined;
  /** GICv2: processors it may go to, a mask; GICv3: the affinity written to GICD_IROUTER */
  targets = 0;
  mpidr = 0;
  /** GICv2 SGIs: who sent it and is not served yet (a mask), and whose it is while active */
  source = 0;
  activeSource = 0;
  /** a device inside the kernel drives it: nobody else may */
  owner: unknown = null;
  /** LPIs: translations and queues that hold it */
  references = 0;

  constructor(intid: number, edge: boolean, target: GicCpu | undefined) {
    this.intid = intid;
    this.edge = edge;
    this.target = target;
  }

  get pending(): boolean {
    return this.pendingLatch || (!this.edge && this.lineLevel);
  }
}

/** What the processor's interface holds (ICH_VMCR_EL2, GICH_VMCR): fields as numbers. */
export interface GicControl {
  grpen0: number;
  grpen1: number;
  ackctl: number;
  fiqen: number;
  cbpr: number;
  eoim: number;
  /** binary points of group 0 and group 1 */
  bpr: number;
  abpr: number;
  /** priority mask, 8 bits */
  pmr: number;
}

/** A list register: one interrupt as the processor sees it. */
export interface ListRegister {
  irq: GicIrq;
  pending: boolean;
  active: boolean;
  /** tell the hypervisor when it ends */
  eoi: boolean;
  priority: number;
  group: number;
  /** GICv2 SGIs: the sender */
  source: number;
}

/** A redistributor region: where the redistributors of some processors stand, one after the other. */
export interface RedistRegion {
  readonly index: number;
  readonly base: number;
  /** how many fit; 0: one of the old kind, as many as there are processors */
  readonly count: number;
  /** how many are taken */
  used: number;
}

/** One processor's part. */
export class GicCpu {
  /** in the order of creation, and as the program numbered it */
  readonly index: number;
  readonly id: number;
  /** affinity: Aff2.Aff1.Aff0, 24 bits; 0 until the processor is initialised */
  mpidr = 0;
  readonly privateIrqs: GicIrq[] = [];
  /** what is active, or pending and enabled, for this processor, in the order of arrival */
  readonly queue: GicIrq[] = [];
  /** something arrived */
  kicked = false;
  readonly control: GicControl = newControl();
  /** ICC_SRE_EL1 */
  sre = 0;
  /** active priorities: one word each is what 5 bits of priority need */
  ap0r = 0;
  ap1r = 0;
  priorityBits = 5;
  /** ICC_CTLR_EL1.IDbits: 1 for 24 bits */
  idBits = 1;
  readonly lrs: ListRegister[] = [];
  /** GICR_CTLR.EnableLPIs */
  lpisEnabled = false;
  pendbaser = 0n;
  region: RedistRegion | undefined;
  /** its place in the region, and its address, −1 while it has none */
  regionSlot = 0;
  redistBase = -1;

  constructor(index: number, id: number) {
    this.index = index;
    this.id = id;
    for (let intid = 0; intid < NR_PRIVATE_IRQS; intid++) {
      const irq = new GicIrq(intid, intid < NR_SGIS, this);
      irq.enabled = intid < NR_SGIS;
      this.privateIrqs.push(irq);
    }
  }
}

const newControl = (): GicControl => ({
  grpen0: 0,
  grpen1: 0,
  ackctl: 0,
  fiqen: 0,
  cbpr: 0,
  eoim: 0,
  bpr: 0,
  abpr: 0,
  pmr: 0,
});

/** Facts about the processor's interface of the host (ICH_VTR_EL2), as the guest sees them. */
export interface GicHardware {
  readonly listRegisters: number;
  readonly priorityBits: number;
  /** 0: 16 bits of interrupt id, 1: 24 */
  readonly idBits: number;
  readonly seis: boolean;
  readonly a3v: boolean;
}

/** What QEMU's processor shows (traces: arm64-kvm-6.12/vgicv3-attr, ICC_CTLR_EL1 0x8c00). */
export const qemuGic: GicHardware = {
  listRegisters: 4,
  priorityBits: 5,
  idBits: 1,
  seis: false,
  a3v: true,
};

export class Gic {
  version: 2 | 3;
  readonly hardware: GicHardware;
  readonly cpus: GicCpu[];
  /** GICD_CTLR.EnableGrp… */
  enabled = false;
  revision = REVISION;
  /** 0 until someone sets it or the controller is initialised */
  nrSpis = 0;
  spis: GicIrq[] = [];
  readonly lpis = new Map<number, GicIrq>();
  /** GICv3: there is an ITS */
  hasIts = false;
  propbaser = 0n;
  /** GICv2: user space may write the group registers: it has written GICD_IIDR */
  groupsWritable = false;
  /** GICv2: the target of a private interrupt is told by its processor's id; before, by its place */
  privateTargetsById = false;
  readonly regions: RedistRegion[] = [];
  /** SPIs that the guest has ended and whose line may be asked for again: to be taken by who drives the chip */
  readonly acked: number[] = [];
  /** messages that were translated before */
  readonly translations = new TranslationCache();

  constructor(version: 2 | 3, cpus: GicCpu[], hardware: GicHardware = qemuGic) {
    this.version = version;
    this.cpus = cpus;
    this.hardware = hardware;
  }

  /** How many SGIs, PPIs and SPIs there are. */
  get nrIrqs(): number {
    return this.nrSpis + NR_PRIVATE_IRQS;
  }

  /** Brings everything into its reset state (vgic_init). */
  reset(): void {
    if (this.nrSpis === 0) this.nrSpis = DEFAULT_SPIS;
    this.spis = [];
    for (let i = 0; i < this.nrSpis; i++) {
      const irq = new GicIrq(NR_PRIVATE_IRQS + i, true, this.cpus[0]);
      irq.group = this.version === 3 ? 1 : 0;
      this.spis.push(irq);
    }
    for (const cpu of this.cpus) {
      for (const irq of cpu.privateIrqs)
        if (this.version === 3) {
          irq.group = 1;
          irq.mpidr = cpu.mpidr;
        } else irq.targets = 1 << (this.privateTargetsById ? cpu.id : cpu.index);
      Object.assign(cpu.control, newControl());
      cpu.priorityBits = this.hardware.priorityBits;
      cpu.idBits = this.hardware.idBits;
      if (this.version === 3) {
        cpu.sre = 7;
        cpu.pendbaser = INITIAL_TABLE_BASE;
      }
    }
  }

  /** An interrupt by its number, private ones of `cpu`. */
  irq(cpu: GicCpu | undefined, intid: number): GicIrq | undefined {
    if (intid < NR_PRIVATE_IRQS) return cpu?.privateIrqs[intid];
    if (intid < MIN_LPI) return this.spis[intid - NR_PRIVATE_IRQS];
    return this.lpis.get(intid);
  }

  cpuByMpidr(mpidr: number): GicCpu | undefined {
    return this.cpus.find((cpu) => cpu.mpidr === mpidr);
  }

  /**
   * A wire changes, or an edge comes (kvm_vgic_inject_irq). Only the owner of an interrupt drives it; for everyone else
   * nothing happens. −EINVAL is the caller's matter: `irq` exists.
   */
  inject(irq: GicIrq, level: boolean, owner: unknown = null): void {
    if (irq.owner !== owner) return;
    if (irq.edge) {
      if (!level) return;
      irq.pendingLatch = true;
    } else {
      if (irq.lineLevel === level) return;
      irq.lineLevel = level;
    }
    this.enqueue(irq);
  }

  /** Puts an interrupt that can be taken into its processor's queue, unless a queue holds it (vgic_queue_irq_unlock). */
  enqueue(irq: GicIrq): void {
    const cpu = this.destination(irq);
    if (cpu === undefined) return;
    cpu.kicked = true;
    if (irq.queuedOn !== undefined) return;
    irq.queuedOn = cpu;
    irq.references++;
    cpu.queue.push(irq);
  }

  /** Which processor should hold the interrupt now; undefined for none (vgic_target_oracle). */
  destination(irq: GicIrq): GicCpu | undefined {
    if (irq.active) return irq.queuedOn ?? irq.target;
    return irq.enabled && irq.pending && this.enabled ? irq.target : undefined;
  }

  /** Takes what nobody needs any more out of a queue, and moves what now belongs to another processor. */
  prune(cpu: GicCpu): void {
    for (let i = 0; i < cpu.queue.length; ) {
      const irq = cpu.queue[i];
      const destination = this.destination(irq);
      if (destination === cpu) {
        i++;
        continue;
      }
      cpu.queue.splice(i, 1);
      irq.queuedOn = destination;
      if (destination === undefined) this.release(irq);
      else {
        destination.queue.push(irq);
        destination.kicked = true;
      }
    }
  }

  /** Whether a processor that waits has a reason to wake up (kvm_vgic_vcpu_pending_irq). */
  hasPending(cpu: GicCpu): boolean {
    if (!this.enabled) return false;
    for (const irq of cpu.queue)
      if (irq.pending && irq.enabled && !irq.active && irq.priority < cpu.control.pmr) return true;
    return false;
  }

  /** The distributor was switched on: whoever has something pending should look. */
  kickAll(): void {
    for (const cpu of this.cpus) if (this.hasPending(cpu)) cpu.kicked = true;
  }

  /** An LPI, made at its first mapping, with one more reference. */
  addLpi(intid: number, target: GicCpu | undefined): GicIrq {
    let irq = this.lpis.get(intid);
    if (irq === undefined) {
      irq = new GicIrq(intid, true, target);
      irq.group = 1;
      this.lpis.set(intid, irq);
    }
    irq.references++;
    return irq;
  }

  /** Gives up a reference; an LPI that nobody holds is gone. */
  release(irq: GicIrq): void {
    irq.references--;
    if (irq.intid >= MIN_LPI && irq.references === 0) this.lpis.delete(irq.intid);
  }

  /** LPIs are switched off for a processor: what is pending is lost. */
  flushLpis(cpu: GicCpu): void {
    for (let i = cpu.queue.length - 1; i >= 0; i--) {
      const irq = cpu.queue[i];
      if (irq.intid < MIN_LPI) continue;
      irq.pendingLatch = false;
      irq.queuedOn = undefined;
      cpu.queue.splice(i, 1);
      this.release(irq);
    }
  }

  /** A message or a write of GICD_SGIR, ICC_SGI1R_EL1 makes an SGI pending. `source`: GICv2's sender. */
  sendSgi(cpu: GicCpu, intid: number, source: number): void {
    const irq = cpu.privateIrqs[intid];
    irq.pendingLatch = true;
    if (this.version === 2) irq.source |= 1 << source;
    this.enqueue(irq);
  }
}
