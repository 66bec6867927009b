/**
 * The redistributor of one processor of a GICv3: two frames of 64 KiB, the first for LPIs and identity, the second for
 * the SGIs and PPIs (arch/arm64/kvm/vgic/vgic-mmio-v3.c:vgic_v3_rd_registers, 6.1; Arm IHI 0069H 12.10, 12.11).
 */
import { type Gic, type GicCpu, IMPLEMENTER_ARM, MIN_LPI, PRODUCT_ID_KVM } from "./gic.ts";
import { idRegisters } from "./gic-distributor.ts";
import {
  BYTES,
  doubles,
  type Region,
  readActive,
  readConfig,
  readEnable,
  readGroup,
  readPending,
  readPriority,
  userClearActive,
  userClearEnable,
  userReadPending,
  userSetActive,
  userSetEnable,
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

/** Both frames of a redistributor. */
export const GICR_FRAMES = 0x20000;
const SGI_FRAME = 0x10000;
const CTLR_ENABLE_LPIS = 1;
/** GICR_CTLR: LPIs can be invalidated directly, EnableLPIs can be cleared (from revision 3 on) */
const CTLR_IR_CES = 0x6;
const TYPER_PLPIS = 1n;
const TYPER_LAST = 1n << 4n;
const PENDBASER_PTZ = 1n << 62n;

const FIELD = 7n;
const INNER_SHIFT = 7n;
const SHAREABILITY_SHIFT = 10n;
const OUTER_SHIFT = 56n;

function sanitiseField(
  register: bigint,
  mask: bigint,
  shift: bigint,
  sanitise: (field: bigint) => bigint,
): bigint {
  return (register & ~(mask << shift)) | (sanitise((register >> shift) & mask) << shift);
}

/**
 * Shareability and cacheability of a table's base as KVM allows them: outer shareable becomes inner shareable, inner
 * non-cacheable becomes write-back, outer is non-cacheable or as inner.
 */
export function sanitiseTableBase(register: bigint, inner: bigint, outer: bigint): bigint {
  let value = sanitiseField(register, 3n, SHAREABILITY_SHIFT, (field) => (field === 2n ? 1n : field));
  value = sanitiseField(value, FIELD, inner, (field) => (field <= 1n ? 3n : field));
  return sanitiseField(value, FIELD, outer, (field) => (field <= 1n ? field : 0n));
}

const PROPBASER_RES0 = (0x1fn << 59n) | (0xfn << 52n) | (3n << 5n);
const PENDBASER_RES0 = (1n << 63n) | (7n << 59n) | (0xfn << 52n) | (0xfn << 12n) | 0x7fn;

/** Whether no redistributor follows in memory that belongs to the same run of them. */
function isLast(gic: Gic, cpu: GicCpu): boolean {
  const { region } = cpu;
  if (region === undefined || cpu.regionSlot < region.used - 1) return false;
  if (region.count === 0 || cpu.regionSlot !== region.count - 1) return true;
  const end = region.base + region.count * GICR_FRAMES;
  return !gic.regions.some((other) => other.base === end && other.used > 0);
}

function readTyper(gic: Gic, cpu: GicCpu): bigint {
  return (
    (BigInt(cpu.mpidr) << 32n) |
    BigInt((cpu.id & 0xffff) << 8) |
    (gic.hasIts ? TYPER_PLPIS : 0n) |
    (isLast(gic, cpu) ? TYPER_LAST : 0n)
  );
}

/** What the redistributor needs of the ITS: the pending table in guest memory, and the configuration of LPIs. */
export interface LpiTables {
  /** EnableLPIs was set: what the pending table in memory says becomes pending */
  loadPending(cpu: GicCpu): void;
  invalidate(intid: number): void;
  invalidateAll(cpu: GicCpu): void;
}

/** The registers of a redistributor, with the tables that LPIs have in memory. */
export function redistributor(tables: LpiTables): readonly Region[] {
  const writeCtlr = (gic: Gic, cpu: GicCpu, _offset: number, _width: number, value: number): void => {
    const enable = (value & CTLR_ENABLE_LPIS) !== 0;
    if (!gic.hasIts || cpu.lpisEnabled === enable) return;
    cpu.lpisEnabled = enable;
    if (enable) {
      if ((cpu.pendbaser & PENDBASER_PTZ) === 0n) tables.loadPending(cpu);
    } else {
      gic.flushLpis(cpu);
      gic.translations.clear();
    }
  };
  return [
    words(0x0000, 4, {
      read: (gic, cpu) => (cpu.lpisEnabled ? CTLR_ENABLE_LPIS : 0) | (gic.revision >= 3 ? CTLR_IR_CES : 0),
      write: writeCtlr,
    }),
    words(0x0004, 4, { read: () => ((PRODUCT_ID_KVM << 24) | IMPLEMENTER_ARM) >>> 0 }),
    doubles(0x0008, 8, readTyper),
    // GICR_STATUSR @0x10 is not found: KVM's table is not in order there, so KVM_HAS_DEVICE_ATTR answers ENXIO (seen on
    // a 6.12 kernel); it would read zero anyway
    words(0x0014, 4),
    doubles(
      0x0070,
      8,
      (gic) => gic.propbaser,
      (gic, cpu, _offset, value) => {
        if (!cpu.lpisEnabled)
          gic.propbaser = sanitiseTableBase(value, INNER_SHIFT, OUTER_SHIFT) & ~PROPBASER_RES0;
      },
    ),
    doubles(
      0x0078,
      8,
      (_gic, cpu) => cpu.pendbaser,
      (_gic, cpu, _offset, value) => {
        if (!cpu.lpisEnabled)
          cpu.pendbaser = sanitiseTableBase(value, INNER_SHIFT, OUTER_SHIFT) & ~PENDBASER_RES0;
      },
      PENDBASER_PTZ,
    ),
    // GICR_INVLPIR, GICR_INVALLR
    doubles(
      0x00a0,
      8,
      () => 0n,
      (_gic, cpu, offset, value) => {
        if ((offset & 4) === 0 && cpu.lpisEnabled && Number(value & 0xffff_ffffn) >= MIN_LPI)
          tables.invalidate(Number(value & 0xffff_ffffn));
      },
    ),
    doubles(
      0x00b0,
      8,
      () => 0n,
      (_gic, cpu, offset) => {
        if ((offset & 4) === 0 && cpu.lpisEnabled) tables.invalidateAll(cpu);
      },
    ),
    words(0x00c0, 4),
    idRegisters,
    words(SGI_FRAME + 0x080, 4, { read: readGroup, write: writeGroup }),
    words(SGI_FRAME + 0x100, 4, { read: readEnable, write: writeSetEnable, userWrite: userSetEnable }),
    words(SGI_FRAME + 0x180, 4, { read: readEnable, write: writeClearEnable, userWrite: userClearEnable }),
    words(SGI_FRAME + 0x200, 4, {
      read: readPending,
      write: writeSetPending,
      userRead: (gic, cpu, offset) => userReadPending(gic, cpu, offset, 4),
      userWrite: userWritePending,
    }),
    words(SGI_FRAME + 0x280, 4, {
      read: readPending,
      write: writeClearPending,
      userRead: () => 0,
      userWrite: () => 0,
    }),
    words(SGI_FRAME + 0x300, 4, { read: readActive, write: writeSetActive, userWrite: userSetActive }),
    words(SGI_FRAME + 0x380, 4, { read: readActive, write: writeClearActive, userWrite: userClearActive }),
    words(SGI_FRAME + 0x400, 32, { widths: WORDS | BYTES, read: readPriority, write: writePriority }),
    words(SGI_FRAME + 0xc00, 8, { read: readConfig, write: writeConfig }),
    words(SGI_FRAME + 0xd00, 4),
    words(SGI_FRAME + 0xe00, 4),
  ];
}
