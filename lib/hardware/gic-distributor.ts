/**
 * The distributor's registers of a GICv2 (4 KiB) and a GICv3 (64 KiB), and the processor interface of a GICv2 as user
 * space reaches it (arch/arm64/kvm/vgic/vgic-mmio-v2.c, vgic-mmio-v3.c, 6.1; Arm IHI 0048B chapter 4, IHI 0069H
 * chapter 12). Names are the manuals'.
 */
import { EINVAL } from "../abi/errno.ts";
import { type Gic, type GicCpu, IMPLEMENTER_ARM, NR_PRIVATE_IRQS, PRODUCT_ID_KVM } from "./gic.ts";
import {
  BYTES,
  DOUBLES,
  type DoubleRegion,
  intidAt,
  perIrq,
  perSpi,
  type Region,
  readActive,
  readByte,
  readConfig,
  readEnable,
  readGroup,
  readPending,
  readPriority,
  userClearActive,
  userClearEnable,
  userClearPending,
  userReadPending,
  userSetActive,
  userSetEnable,
  userSetPending,
  userWritePending,
  WORDS,
  words,
  writeClearActive,
  writeClearEnable,
  writeClearPending,
  writeConfig,
  writeGroup,
  writePriority,
  writeSetActive,
  writeSetEnable,
  writeSetPending,
} from "./gic-registers.ts";

const GICD_CTLR = 0x0;
const GICD_TYPER = 0x4;
export const GICD_IIDR = 0x8;
export const GICD_TYPER2 = 0xc;
export const GICD_FRAME = 0x10000;
export const GICD_V2_FRAME = 0x1000;
/** GICv3: EnableGrp1, ARE_NS and DS (one security state) */
const CTLR_ENABLE_G1 = 0x2;
const CTLR_ARE_DS = 0x50;
const CTLR_V2_ENABLE = 0x1;
const TYPER_LPIS = 1 << 17;
/** bits of an interrupt's number without and with LPIs */
const ID_BITS_SPIS = 10;
const ID_BITS_LPIS = 16;
const REVISION_SHIFT = 12;
const REVISION_MASK = 0xf000;
/** GICD_PIDR2: architecture version 3 */
export const PIDR2_GICV3 = 0x3b;

const readIidr = (gic: Gic): number =>
  ((PRODUCT_ID_KVM << 24) | (gic.revision << REVISION_SHIFT) | IMPLEMENTER_ARM) >>> 0;

/** User space chooses the revision, 2 or 3; nothing else of the register may differ. */
function userWriteIidr(gic: Gic, value: number): number {
  if (((readIidr(gic) ^ value) & ~REVISION_MASK) !== 0) return -EINVAL;
  const revision = (value & REVISION_MASK) >>> REVISION_SHIFT;
  if (revision !== 2 && revision !== 3) return -EINVAL;
  gic.groupsWritable = true;
  gic.revision = revision;
  return 0;
}

const lines = (gic: Gic): number => (gic.nrIrqs >>> 5) - 1;

function setEnabled(gic: Gic, enabled: boolean): void {
  const was = gic.enabled;
  gic.enabled = enabled;
  if (!was && enabled) gic.kickAll();
}

// ---- GICv2 -----------------------------------------------------------------------------------------------------------

function readV2Misc(gic: Gic, _cpu: GicCpu, offset: number): number {
  switch (offset & 0xc) {
    case GICD_CTLR:
      return gic.enabled ? CTLR_V2_ENABLE : 0;
    case GICD_TYPER:
      return lines(gic) | ((gic.cpus.length - 1) << 5);
    case GICD_IIDR:
      return readIidr(gic);
    default:
      return 0;
  }
}

function writeV2Misc(gic: Gic, _cpu: GicCpu, offset: number, _width: number, value: number): void {
  if ((offset & 0xc) === GICD_CTLR) setEnabled(gic, (value & CTLR_V2_ENABLE) !== 0);
}

/** GICD_SGIR: to the processors of a list, to all others, or to oneself. */
function writeSgir(gic: Gic, cpu: GicCpu, _offset: number, _width: number, value: number): void {
  const filter = (value >>> 24) & 3;
  let targets = (value >>> 16) & 0xff;
  if (filter === 1) targets = ((1 << gic.cpus.length) - 1) & ~(1 << cpu.id);
  else if (filter === 2) targets = 1 << cpu.id;
  else if (filter === 3) return;
  for (const target of gic.cpus)
    if (((targets >>> target.index) & 1) === 1) gic.sendSgi(target, value & 0xf, cpu.id);
}

/** An SPI goes to the first processor of its mask. */
function writeTargets(gic: Gic, _cpu: GicCpu, offset: number, width: number, value: number): void {
  const first = intidAt(offset, 8);
  if (first < NR_PRIVATE_IRQS) return;
  const mask = (1 << gic.cpus.length) - 1;
  for (let i = 0; i < width; i++) {
    const irq = gic.irq(undefined, first + i);
    if (irq === undefined) continue;
    irq.targets = (value >>> (i * 8)) & mask;
    irq.target = gic.cpus[irq.targets === 0 ? 0 : 31 - Math.clz32(irq.targets & -irq.targets)];
  }
}

function readSgiPending(_gic: Gic, cpu: GicCpu, offset: number, width: number): number {
  let value = 0;
  for (let i = 0; i < width; i++) value |= cpu.privateIrqs[(offset & 0xf) + i].source << (i * 8);
  return value >>> 0;
}

function writeClearSgi(_gic: Gic, cpu: GicCpu, offset: number, width: number, value: number): void {
  for (let i = 0; i < width; i++) {
    const irq = cpu.privateIrqs[(offset & 0xf) + i];
    irq.source &= ~((value >>> (i * 8)) & 0xff);
    if (irq.source === 0) irq.pendingLatch = false;
  }
}

function writeSetSgi(gic: Gic, cpu: GicCpu, offset: number, width: number, value: number): void {
  for (let i = 0; i < width; i++) {
    const irq = cpu.privateIrqs[(offset & 0xf) + i];
    irq.source |= (value >>> (i * 8)) & 0xff;
    if (irq.source === 0) continue;
    irq.pendingLatch = true;
    gic.enqueue(irq);
  }
}

export const gicV2Distributor: readonly Region[] = [
  words(0x000, 12, {
    read: readV2Misc,
    write: writeV2Misc,
    userWrite(gic, cpu, offset, value) {
      if ((offset & 0xc) === GICD_IIDR) return userWriteIidr(gic, value);
      writeV2Misc(gic, cpu, offset, 4, value);
      return 0;
    },
  }),
  perIrq(0x080, 1, {
    read: readGroup,
    write: writeGroup,
    userWrite(gic, cpu, offset, value) {
      if (gic.groupsWritable) writeGroup(gic, cpu, offset, 4, value);
      return 0;
    },
  }),
  perIrq(0x100, 1, { read: readEnable, write: writeSetEnable, userWrite: userSetEnable }),
  perIrq(0x180, 1, { read: readEnable, write: writeClearEnable, userWrite: userClearEnable }),
  perIrq(0x200, 1, {
    read: readPending,
    write: writeSetPending,
    userRead: (gic, cpu, offset) => userReadPending(gic, cpu, offset, 4),
    userWrite: userSetPending,
  }),
  perIrq(0x280, 1, {
    read: readPending,
    write: writeClearPending,
    userRead: (gic, cpu, offset) => userReadPending(gic, cpu, offset, 4),
    userWrite: userClearPending,
  }),
  perIrq(0x300, 1, { read: readActive, write: writeSetActive, userWrite: userSetActive }),
  perIrq(0x380, 1, { read: readActive, write: writeClearActive, userWrite: userClearActive }),
  perIrq(0x400, 8, { widths: WORDS | BYTES, read: readPriority, write: writePriority }),
  perIrq(0x800, 8, { widths: WORDS | BYTES, read: readByte((irq) => irq.targets), write: writeTargets }),
  perIrq(0xc00, 2, { read: readConfig, write: writeConfig }),
  words(0xf00, 4, { write: writeSgir }),
  words(0xf10, 16, { widths: WORDS | BYTES, read: readSgiPending, write: writeClearSgi }),
  words(0xf20, 16, { widths: WORDS | BYTES, read: readSgiPending, write: writeSetSgi }),
];

// ---- the processor interface of a GICv2, for user space ------------------------------------------------------------------

const GICC_CTLR = 0x00;
const GICC_PMR = 0x04;
const GICC_BPR = 0x08;
const GICC_ABPR = 0x1c;
const GICC_IIDR = 0xfc;
/** GICC_IIDR: architecture version 2 */
const ARCH_VERSION_V2 = 2 << 16;

function readInterface(_gic: Gic, { control }: GicCpu, offset: number): number {
  switch (offset & 0xff) {
    case GICC_CTLR:
      return (
        control.grpen0 |
        (control.grpen1 << 1) |
        (control.ackctl << 2) |
        (control.fiqen << 3) |
        (control.cbpr << 4) |
        (control.eoim << 9)
      );
    // five bits of priority, at the bottom of the register
    case GICC_PMR:
      return (control.pmr & 0xf8) >>> 3;
    case GICC_BPR:
      return control.bpr;
    case GICC_ABPR:
      return control.abpr;
    case GICC_IIDR:
      return (PRODUCT_ID_KVM << 20) | ARCH_VERSION_V2 | IMPLEMENTER_ARM;
    default:
      return 0;
  }
}

function writeInterface(_gic: Gic, { control }: GicCpu, offset: number, _width: number, value: number): void {
  const bit = (shift: number) => (value >>> shift) & 1;
  switch (offset & 0xff) {
    case GICC_CTLR:
      control.grpen0 = bit(0);
      control.grpen1 = bit(1);
      control.ackctl = bit(2);
      control.fiqen = bit(3);
      control.cbpr = bit(4);
      control.eoim = bit(9);
      break;
    case GICC_PMR:
      control.pmr = (value << 3) & 0xf8;
      break;
    case GICC_BPR:
      control.bpr = value & 7;
      break;
    case GICC_ABPR:
      control.abpr = value & 7;
      break;
  }
}

const interfaceWord = (offset: number) => words(offset, 4, { read: readInterface, write: writeInterface });

export const gicV2Interface: readonly Region[] = [
  interfaceWord(GICC_CTLR),
  interfaceWord(GICC_PMR),
  interfaceWord(GICC_BPR),
  interfaceWord(GICC_ABPR),
  // the active priorities; only the first word exists
  words(0xd0, 16, {
    read: (_gic, cpu, offset) => (((offset >>> 2) & 3) === 0 ? cpu.ap0r : 0),
    write(_gic, cpu, offset, _width, value) {
      if (((offset >>> 2) & 3) === 0) cpu.ap0r = value;
    },
  }),
  interfaceWord(GICC_IIDR),
];

// ---- GICv3 -----------------------------------------------------------------------------------------------------------

function readV3Misc(gic: Gic, _cpu: GicCpu, offset: number): number {
  switch (offset & 0xc) {
    case GICD_CTLR:
      return CTLR_ARE_DS | (gic.enabled ? CTLR_ENABLE_G1 : 0);
    case GICD_TYPER:
      return lines(gic) | (gic.hasIts ? ((ID_BITS_LPIS - 1) << 19) | TYPER_LPIS : (ID_BITS_SPIS - 1) << 19);
    case GICD_IIDR:
      return readIidr(gic);
    default:
      return 0;
  }
}

function userWriteV3Misc(gic: Gic, _cpu: GicCpu, offset: number, value: number): number {
  switch (offset & 0xc) {
    case GICD_CTLR:
      gic.enabled = (value & CTLR_ENABLE_G1) !== 0;
      return 0;
    case GICD_IIDR:
      return userWriteIidr(gic, value);
    case GICD_TYPER2:
      return value === 0 ? 0 : -EINVAL;
    default:
      return 0;
  }
}

/** GICD_IROUTER: the affinity of the processor that takes the SPI; the upper half is zero. */
const irouter: DoubleRegion = {
  offset: 0x6000 + NR_PRIVATE_IRQS * 8,
  length: (1024 - NR_PRIVATE_IRQS) * 8,
  widths: WORDS | DOUBLES,
  bitsPerIrq: 64,
  hidden: 0n,
  get: (gic, _cpu, offset) => BigInt(gic.irq(undefined, intidAt(offset, 64))?.mpidr ?? 0),
  set(gic, _cpu, offset, value) {
    const irq = gic.irq(undefined, intidAt(offset, 64));
    if (irq === undefined || (offset & 4) !== 0) return;
    irq.mpidr = Number(value & 0xff_ffffn);
    irq.target = gic.cpuByMpidr(irq.mpidr);
  },
};

/** The identification registers of a distributor or redistributor. */
export const idRegisters = words(0xffd0, 48, {
  read: (_gic, _cpu, offset) => ((offset & 0xffff) === 0xffe8 ? PIDR2_GICV3 : 0),
});

export const gicV3Distributor: readonly Region[] = [
  words(0x0000, 16, {
    read: readV3Misc,
    write(gic, _cpu, offset, _width, value) {
      if ((offset & 0xc) === GICD_CTLR) setEnabled(gic, (value & CTLR_ENABLE_G1) !== 0);
    },
    userWrite: userWriteV3Misc,
  }),
  // GICD_STATUSR is said to read as ones
  words(0x0010, 4, { read: () => 0xffff_ffff }),
  ...perSpi(0x0080, 1, { read: readGroup, write: writeGroup }),
  ...perSpi(0x0100, 1, { read: readEnable, write: writeSetEnable, userWrite: userSetEnable }),
  ...perSpi(0x0180, 1, { read: readEnable, write: writeClearEnable, userWrite: userClearEnable }),
  ...perSpi(0x0200, 1, {
    read: readPending,
    write: writeSetPending,
    userRead: (gic, cpu, offset) => userReadPending(gic, cpu, offset, 4),
    userWrite: userWritePending,
  }),
  ...perSpi(0x0280, 1, {
    read: readPending,
    write: writeClearPending,
    userRead: () => 0,
    userWrite: () => 0,
  }),
  ...perSpi(0x0300, 1, { read: readActive, write: writeSetActive, userWrite: userSetActive }),
  ...perSpi(0x0380, 1, { read: readActive, write: writeClearActive, userWrite: userClearActive }),
  ...perSpi(0x0400, 8, { widths: WORDS | BYTES, read: readPriority, write: writePriority }),
  ...perSpi(0x0800, 8, { widths: WORDS | BYTES }),
  ...perSpi(0x0c00, 2, { read: readConfig, write: writeConfig }),
  ...perSpi(0x0d00, 1),
  words(0x6000, NR_PRIVATE_IRQS * 8, { widths: WORDS | DOUBLES, bitsPerIrq: 64 }),
  irouter,
  idRegisters,
];
