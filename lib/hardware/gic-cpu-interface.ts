/**
 * The processor's side of a virtual GIC: list registers, filled from the processor's queue before the guest runs and
 * folded back after it, and what a guest does with them: acknowledge, end, deactivate (arch/arm64/kvm/vgic/vgic-v3.c
 * and vgic-v2.c, 6.1; Arm IHI 0069H 4.7 to 4.9, 6.3; IHI 0048B chapter 5).
 *
 * A guest's step is `load` → accesses → `save`. After an access that ends a level-triggered interrupt the hypervisor is
 * told (`maintenance`): it saves, looks at `gic.acked`, and loads again.
 *
 * Missing: the separate group 0 and group 1 binary points of two security states; EOIcount; preemption between the two
 * halves of a 16-bit priority space (five bits of priority fit one word of active priorities).
 */
import { EINVAL, ENOENT } from "../abi/errno.ts";
import { type Gic, type GicCpu, type GicIrq, type ListRegister, NR_PRIVATE_IRQS, NR_SGIS } from "./gic.ts";

/** Nothing to acknowledge. */
export const SPURIOUS = 1023;
/** The idle priority. */
const IDLE = 0xff;

const isV2Sgi = (gic: Gic, irq: GicIrq): boolean => gic.version === 2 && irq.intid < NR_SGIS;

/** GICv2: several processors have sent the same SGI. */
const fromSeveral = (gic: Gic, irq: GicIrq): boolean =>
  isV2Sgi(gic, irq) && (irq.source & (irq.source - 1)) !== 0;

/** Active first, then pending ones by priority (vgic_irq_cmp); equal ones stay in their order. */
function compare(a: GicIrq, b: GicIrq): number {
  if (a.active || b.active) return Number(b.active) - Number(a.active);
  const ready = Number(b.enabled && b.pending) - Number(a.enabled && a.pending);
  return ready !== 0 || !(a.enabled && a.pending) ? ready : a.priority - b.priority;
}

/**
 * What the hardware makes of the control fields when they are loaded into it: as many bits of priority as it has, and
 * binary points no lower than those allow (IHI 0069H 8.3, ICV_PMR_EL1, ICV_BPR0_EL1, ICV_BPR1_EL1).
 */
function settle(gic: Gic, { control }: GicCpu): void {
  const unused = 8 - gic.hardware.priorityBits;
  control.pmr &= (IDLE << unused) & IDLE;
  control.bpr = Math.max(control.bpr, unused - 1);
  control.abpr = Math.max(control.abpr, unused);
}

/** Fills the list registers (vgic_flush_lr_state). */
export function load(gic: Gic, cpu: GicCpu): void {
  const { lrs, queue } = cpu;
  settle(gic, cpu);
  lrs.length = 0;
  const several = queue.some((irq) => fromSeveral(gic, irq));
  if (several || queue.length > gic.hardware.listRegisters) queue.sort(compare);
  let limit = IDLE;
  for (const irq of queue) {
    if (lrs.length === gic.hardware.listRegisters) break;
    // an SGI with several senders must be served before anything of lower priority
    if (several && irq.priority > limit) break;
    if (gic.destination(irq) !== cpu) continue;
    lrs.push(listRegister(gic, irq));
    if (irq.source !== 0) limit = irq.priority;
  }
}

/** One list register (vgic_v3_populate_lr): an edge's latch moves into it. */
function listRegister(gic: Gic, irq: GicIrq): ListRegister {
  let allowPending = true;
  let eoi = false;
  let source = 0;
  if (irq.active) {
    if (isV2Sgi(gic, irq)) source = irq.activeSource;
    if (fromSeveral(gic, irq)) {
      allowPending = false;
      eoi = true;
    }
  }
  if (!irq.edge) {
    eoi = true;
    // pending and active at once would make a second interrupt of one level
    if (irq.active) allowPending = false;
  }
  const pending = allowPending && irq.pending;
  if (pending) {
    if (irq.edge) irq.pendingLatch = false;
    if (isV2Sgi(gic, irq) && irq.source !== 0) {
      source = 31 - Math.clz32(irq.source & -irq.source);
      irq.source &= irq.source - 1;
      if (irq.source !== 0) {
        irq.pendingLatch = true;
        eoi = true;
      }
    }
  }
  return { irq, pending, active: irq.active, eoi, priority: irq.priority, group: irq.group, source };
}

/** Takes the list registers back (vgic_v3_fold_lr_state), notes the lines that ended, and tidies the queue. */
export function save(gic: Gic, cpu: GicCpu): void {
  for (const lr of cpu.lrs) {
    const { irq } = lr;
    const idle = !lr.pending && !lr.active;
    if (idle && lr.eoi && irq.intid >= NR_PRIVATE_IRQS && irq.intid < gic.nrIrqs) gic.acked.push(irq.intid);
    irq.active = lr.active;
    if (lr.active && isV2Sgi(gic, irq)) irq.activeSource = lr.source;
    if (irq.edge && lr.pending) {
      irq.pendingLatch = true;
      if (isV2Sgi(gic, irq)) irq.source |= 1 << lr.source;
    }
    if (!irq.edge && idle) irq.pendingLatch = false;
  }
  cpu.lrs.length = 0;
  gic.prune(cpu);
}

/** Whether something ended of which the hypervisor wants to know. */
export const maintenance = (cpu: GicCpu): boolean =>
  cpu.lrs.some((lr) => lr.eoi && !lr.pending && !lr.active);

/** How many low bits of a priority do not preempt. */
function groupMask(cpu: GicCpu, group: number): number {
  const { bpr, abpr, cbpr } = cpu.control;
  const point = group === 0 || cbpr === 1 ? bpr : Math.max(abpr - 1, 0);
  return (IDLE << (point + 1)) & IDLE;
}

/** The priority of what the processor is busy with (ICC_RPR_EL1). */
export function runningPriority(cpu: GicCpu): number {
  const active = cpu.ap0r | cpu.ap1r;
  return active === 0 ? IDLE : (31 - Math.clz32(active & -active)) << (8 - cpu.priorityBits);
}

/** The pending list register of the highest priority whose group is enabled. */
function bestPending({ lrs, control }: GicCpu): ListRegister | undefined {
  let best: ListRegister | undefined;
  for (const lr of lrs)
    if (
      lr.pending &&
      !lr.active &&
      (lr.group === 0 ? control.grpen0 : control.grpen1) === 1 &&
      (best === undefined || lr.priority < best.priority)
    )
      best = lr;
  return best;
}

/** The list register that would be acknowledged now: above the mask, and above what the processor is busy with. */
export function highestPending(cpu: GicCpu): ListRegister | undefined {
  const best = bestPending(cpu);
  if (best === undefined || best.priority >= cpu.control.pmr) return undefined;
  const running = runningPriority(cpu);
  if (running === IDLE) return best;
  const mask = groupMask(cpu, best.group);
  return (best.priority & mask) < (running & mask) ? best : undefined;
}

/** The interrupt becomes active, and its priority the one that the processor is busy with. */
function activate(cpu: GicCpu, lr: ListRegister): number {
  lr.pending = false;
  lr.active = true;
  const bit = 1 << ((lr.priority & groupMask(cpu, lr.group)) >>> (8 - cpu.priorityBits));
  // a GICv2 has one register for both groups
  if (lr.group === 0 || cpu.sre === 0) cpu.ap0r = (cpu.ap0r | bit) >>> 0;
  else cpu.ap1r = (cpu.ap1r | bit) >>> 0;
  return lr.irq.intid | (lr.source << 10);
}

/** A read of ICC_IAR<group>_EL1. */
function acknowledge(cpu: GicCpu, group: number): number {
  const lr = highestPending(cpu);
  return lr === undefined || lr.group !== group ? SPURIOUS : activate(cpu, lr);
}

/** A read of ICC_HPPIR<group>_EL1: neither the mask nor the running priority count. */
function pendingNumber(cpu: GicCpu, group: number): number {
  const lr = bestPending(cpu);
  return lr === undefined || lr.group !== group ? SPURIOUS : lr.irq.intid;
}

/**
 * A write of ICC_EOIR<group>_EL1: the priority drops, and unless EOImode is set the interrupt ends, if it is of that
 * group and of the priority that dropped.
 */
function endOfInterrupt(cpu: GicCpu, intid: number, group: number): void {
  const dropped = dropPriority(cpu);
  if (dropped === IDLE) return;
  const lr = findActive(cpu, intid);
  if (lr === undefined || lr.group !== group) return;
  if ((lr.priority & groupMask(cpu, group)) !== dropped) return;
  if (cpu.control.eoim === 0) lr.active = false;
}

/** Clears the highest active priority and answers it. */
function dropPriority(cpu: GicCpu): number {
  const dropped = runningPriority(cpu);
  if (dropped === IDLE) return IDLE;
  const bit = 1 << (dropped >>> (8 - cpu.priorityBits));
  if ((cpu.ap0r & bit) !== 0) cpu.ap0r = (cpu.ap0r & ~bit) >>> 0;
  else cpu.ap1r = (cpu.ap1r & ~bit) >>> 0;
  return dropped;
}

const findActive = (cpu: GicCpu, intid: number): ListRegister | undefined =>
  cpu.lrs.find((lr) => lr.active && lr.irq.intid === intid);

/** A write of ICC_DIR_EL1 or GICC_DIR: without EOImode it does nothing. */
function writeDir(cpu: GicCpu, intid: number): void {
  const lr = cpu.control.eoim === 1 ? findActive(cpu, intid) : undefined;
  if (lr !== undefined) lr.active = false;
}

// ---- system registers, for user space ---------------------------------------------------------------------------------

/** Op0.Op1.CRn.CRm.Op2 as KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS has them in 16 bits. */
export const ICC_PMR_EL1 = 0xc230;
export const ICC_BPR0_EL1 = 0xc643;
export const ICC_AP0R0_EL1 = 0xc644;
export const ICC_AP1R0_EL1 = 0xc648;
export const ICC_BPR1_EL1 = 0xc663;
export const ICC_CTLR_EL1 = 0xc664;
export const ICC_SRE_EL1 = 0xc665;
export const ICC_IGRPEN0_EL1 = 0xc666;
export const ICC_IGRPEN1_EL1 = 0xc667;
const APR_INDICES = 4;

const isApr = (register: number, first: number): boolean =>
  register >= first && register < first + APR_INDICES;

/** Whether there is such a register. */
export const hasSysreg = (register: number): boolean =>
  register === ICC_PMR_EL1 ||
  register === ICC_BPR0_EL1 ||
  isApr(register, ICC_AP0R0_EL1) ||
  isApr(register, ICC_AP1R0_EL1) ||
  (register >= ICC_BPR1_EL1 && register <= ICC_IGRPEN1_EL1);

/** Only the first word of active priorities exists with five bits of priority, two with six, four with seven. */
const maxApr = (cpu: GicCpu): number => (cpu.priorityBits === 7 ? 3 : cpu.priorityBits === 6 ? 1 : 0);

/** Reads a register: the value (32 bits, ≥ 0), −ENOENT, −EINVAL. */
export function readSysreg(gic: Gic, cpu: GicCpu, register: number): number {
  if (!hasSysreg(register)) return -ENOENT;
  const { control } = cpu;
  if (isApr(register, ICC_AP0R0_EL1) || isApr(register, ICC_AP1R0_EL1)) {
    const index = register & 3;
    if (index > maxApr(cpu)) return -EINVAL;
    if (index !== 0) return 0;
    return register < ICC_AP1R0_EL1 ? cpu.ap0r : cpu.ap1r;
  }
  switch (register) {
    case ICC_PMR_EL1:
      return control.pmr;
    case ICC_BPR0_EL1:
      return control.bpr;
    case ICC_BPR1_EL1:
      return control.cbpr === 0 ? control.abpr : Math.min(control.bpr + 1, 7);
    case ICC_CTLR_EL1:
      return (
        ((cpu.priorityBits - 1) << 8) |
        (cpu.idBits << 11) |
        (Number(gic.hardware.seis) << 14) |
        (Number(gic.hardware.a3v) << 15) |
        control.cbpr |
        (control.eoim << 1)
      );
    case ICC_SRE_EL1:
      return cpu.sre;
    case ICC_IGRPEN0_EL1:
      return control.grpen0;
    default:
      return control.grpen1;
  }
}

/** Writes a register: 0, −ENOENT, −EINVAL (a host that has less, an active priority that does not exist). */
export function writeSysreg(gic: Gic, cpu: GicCpu, register: number, value: bigint): number {
  if (!hasSysreg(register)) return -ENOENT;
  const { control } = cpu;
  const low = Number(value & 0xffff_ffffn);
  if (isApr(register, ICC_AP0R0_EL1) || isApr(register, ICC_AP1R0_EL1)) {
    const index = register & 3;
    if (index > maxApr(cpu)) return -EINVAL;
    if (index !== 0) return 0;
    if (register < ICC_AP1R0_EL1) cpu.ap0r = low;
    else cpu.ap1r = low;
    return 0;
  }
  switch (register) {
    case ICC_PMR_EL1:
      control.pmr = low & 0xff;
      return 0;
    case ICC_BPR0_EL1:
      control.bpr = low & 7;
      return 0;
    case ICC_BPR1_EL1:
      if (control.cbpr === 0) control.abpr = low & 7;
      return 0;
    case ICC_CTLR_EL1:
      return writeCtlr(gic, cpu, low);
    case ICC_SRE_EL1:
      return (low & 1) === 1 ? 0 : -EINVAL;
    case ICC_IGRPEN0_EL1:
      control.grpen0 = low & 1;
      return 0;
    default:
      control.grpen1 = low & 1;
      return 0;
  }
}

/** A host may offer more than was saved, never less (set_gic_ctlr). What was taken before a refusal stays. */
function writeCtlr(gic: Gic, cpu: GicCpu, value: number): number {
  const priorityBits = ((value >>> 8) & 7) + 1;
  if (priorityBits > cpu.priorityBits) return -EINVAL;
  cpu.priorityBits = priorityBits;
  const idBits = (value >>> 11) & 7;
  if (idBits > cpu.idBits) return -EINVAL;
  cpu.idBits = idBits;
  if (((value >>> 14) & 1) !== Number(gic.hardware.seis)) return -EINVAL;
  if (((value >>> 15) & 1) !== Number(gic.hardware.a3v)) return -EINVAL;
  cpu.control.cbpr = value & 1;
  cpu.control.eoim = (value >>> 1) & 1;
  return 0;
}

// ---- the guest's side ----------------------------------------------------------------------------------------------------

/** Registers that only a guest reaches, in the same 16 bits. */
export const ICC_IAR0_EL1 = 0xc640;
export const ICC_EOIR0_EL1 = 0xc641;
export const ICC_HPPIR0_EL1 = 0xc642;
export const ICC_DIR_EL1 = 0xc659;
export const ICC_RPR_EL1 = 0xc65b;
export const ICC_SGI1R_EL1 = 0xc65d;
export const ICC_IAR1_EL1 = 0xc660;
export const ICC_EOIR1_EL1 = 0xc661;
export const ICC_HPPIR1_EL1 = 0xc662;
/** Interrupt numbers that mean something else. */
const FIRST_SPECIAL = 1020;
const LAST_SPECIAL = 1023;

const isSpecial = (intid: number): boolean => intid >= FIRST_SPECIAL && intid <= LAST_SPECIAL;

/** A guest reads a system register of its GICv3 interface; what is none reads zero. */
export function guestReadSysreg(gic: Gic, cpu: GicCpu, register: number): number {
  switch (register) {
    case ICC_IAR0_EL1:
    case ICC_IAR1_EL1:
      return acknowledge(cpu, register === ICC_IAR0_EL1 ? 0 : 1);
    case ICC_HPPIR0_EL1:
    case ICC_HPPIR1_EL1:
      return pendingNumber(cpu, register === ICC_HPPIR0_EL1 ? 0 : 1);
    case ICC_RPR_EL1:
      return runningPriority(cpu);
    default:
      return Math.max(readSysreg(gic, cpu, register), 0);
  }
}

/** A guest writes one. */
export function guestWriteSysreg(gic: Gic, cpu: GicCpu, register: number, value: bigint): void {
  const intid = Number(value & 0xff_ffffn);
  switch (register) {
    case ICC_EOIR0_EL1:
    case ICC_EOIR1_EL1:
      if (!isSpecial(intid)) endOfInterrupt(cpu, intid, register === ICC_EOIR0_EL1 ? 0 : 1);
      break;
    case ICC_DIR_EL1:
      writeDir(cpu, intid);
      break;
    case ICC_SGI1R_EL1:
      sendSgi1r(gic, cpu, value);
      break;
    case ICC_CTLR_EL1:
      cpu.control.cbpr = intid & 1;
      cpu.control.eoim = (intid >>> 1) & 1;
      break;
    default:
      writeSysreg(gic, cpu, register, value);
      settle(gic, cpu);
  }
}

/**
 * ICC_SGI1R_EL1: number in bits 27:24; to all others (bit 40), or to those of a list (bits 15:0) whose upper affinity is
 * Aff3.Aff2.Aff1 (bits 55:48, 39:32, 23:16) (arch/arm64/kvm/vgic/vgic-mmio-v3.c:vgic_v3_dispatch_sgi, 6.1).
 */
function sendSgi1r(gic: Gic, sender: GicCpu, value: bigint): void {
  const intid = Number((value >> 24n) & 0xfn);
  const everyone = ((value >> 40n) & 1n) === 1n;
  const list = Number(value & 0xffffn);
  const cluster = Number(((value >> 32n) & 0xffn) << 16n) | Number(((value >> 16n) & 0xffn) << 8n);
  if (!everyone && (value >> 48n) % 256n !== 0n) return;
  for (const cpu of gic.cpus) {
    const named =
      (cpu.mpidr & 0xffff00) === cluster &&
      (cpu.mpidr & 0xff) < 16 &&
      ((list >>> (cpu.mpidr & 0xff)) & 1) === 1;
    if (everyone ? cpu !== sender : named) gic.sendSgi(cpu, intid, sender.id);
  }
}

/** GICv2: what a read of IAR or HPPIR says of a pending interrupt of group 1 without AckCtl. */
const OTHER_GROUP = 1022;

const hiddenGroup = (cpu: GicCpu, lr: ListRegister): boolean => lr.group === 1 && cpu.control.ackctl === 0;

/** The pending list register that is above the mask; with one group enabled, of either group (as QEMU's GICv2 does). */
function bestPendingV2({ lrs, control }: GicCpu): ListRegister | undefined {
  if ((control.grpen0 | control.grpen1) === 0) return undefined;
  let best: ListRegister | undefined;
  for (const lr of lrs)
    if (lr.pending && !lr.active && (best === undefined || lr.priority < best.priority)) best = lr;
  return best !== undefined && best.priority < control.pmr ? best : undefined;
}

/** A read of GICC_IAR: from bit 10 on an SGI's sender. */
function acknowledgeV2(cpu: GicCpu): number {
  const best = bestPendingV2(cpu);
  if (best === undefined) return SPURIOUS;
  if (hiddenGroup(cpu, best)) return OTHER_GROUP;
  return best.priority < runningPriority(cpu) ? activate(cpu, best) : SPURIOUS;
}

/** A read of GICC_HPPIR; an SGI's sender is not told. */
function pendingNumberV2(cpu: GicCpu): number {
  const best = bestPendingV2(cpu);
  if (best === undefined) return SPURIOUS;
  return hiddenGroup(cpu, best) ? OTHER_GROUP : best.irq.intid;
}

/** A write of GICC_EOIR: the priority drops, and unless EOImode is set the interrupt ends, whatever its priority. */
function endOfInterruptV2(cpu: GicCpu, intid: number): void {
  dropPriority(cpu);
  const lr = cpu.control.eoim === 0 ? findActive(cpu, intid) : undefined;
  if (lr !== undefined) lr.active = false;
}

/** Registers of a GICv2's processor interface as the guest has them. */
const GICC_CTLR = 0x00;
const GICC_PMR = 0x04;
const GICC_BPR = 0x08;
const GICC_IAR = 0x0c;
const GICC_EOIR = 0x10;
const GICC_RPR = 0x14;
const GICC_HPPIR = 0x18;
const GICC_ABPR = 0x1c;
const GICC_APR = 0xd0;
const GICC_IIDR = 0xfc;
const GICC_DIR = 0x1000;

/** A guest reads a word of its GICv2 interface, which stands in its memory (IHI 0048B 4.4). */
export function guestReadInterface(cpu: GicCpu, offset: number): number {
  const { control } = cpu;
  switch (offset) {
    case GICC_CTLR:
      return (
        control.grpen0 |
        (control.grpen1 << 1) |
        (control.ackctl << 2) |
        (control.fiqen << 3) |
        (control.cbpr << 4) |
        (control.eoim << 9)
      );
    case GICC_PMR:
      return control.pmr;
    case GICC_BPR:
      return control.bpr;
    case GICC_ABPR:
      return control.abpr;
    case GICC_IAR:
      return acknowledgeV2(cpu);
    case GICC_HPPIR:
      return pendingNumberV2(cpu);
    case GICC_RPR:
      return runningPriority(cpu);
    case GICC_APR:
      return cpu.ap0r;
    case GICC_IIDR:
      return 0x0002_043b;
    default:
      return 0;
  }
}

/** A guest writes one. */
export function guestWriteInterface(cpu: GicCpu, offset: number, value: number): void {
  const { control } = cpu;
  const bit = (shift: number) => (value >>> shift) & 1;
  switch (offset) {
    case GICC_CTLR:
      control.grpen0 = bit(0);
      control.grpen1 = bit(1);
      control.ackctl = bit(2);
      control.fiqen = bit(3);
      control.cbpr = bit(4);
      control.eoim = bit(9);
      break;
    case GICC_PMR:
      control.pmr = value & 0xf8;
      break;
    case GICC_BPR:
      control.bpr = value & 7;
      break;
    case GICC_ABPR:
      control.abpr = value & 7;
      break;
    case GICC_EOIR:
      if (!isSpecial(value & 0x3ff)) endOfInterruptV2(cpu, value & 0x3ff);
      break;
    case GICC_DIR:
      writeDir(cpu, value & 0x3ff);
      break;
  }
}
