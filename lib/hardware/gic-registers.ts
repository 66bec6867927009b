/**
 * How the register frames of a GIC are described and reached: a table of regions in ascending order, looked up by
 * offset; the registers with one, two or eight bits an interrupt; and the rules by which user space reads and writes
 * them, which are not always the guest's (arch/arm64/kvm/vgic/vgic-mmio.c, 6.1).
 *
 * An access that no region takes (wrong offset, width or alignment, an interrupt beyond the last) reads zero and
 * writes nothing. Values of 32 bits are unsigned numbers; the few registers of 64 bits are bigints.
 */
import { type Gic, type GicCpu, type GicIrq, NR_PRIVATE_IRQS, NR_SGIS } from "./gic.ts";

/** Access widths of a region, or-ed: bytes. */
export const BYTES = 1;
export const WORDS = 4;
export const DOUBLES = 8;

/** Registers of 32 bits; `user…` where user space is served differently. A write answers 0 or −errno. */
export interface WordRegion {
  readonly offset: number;
  readonly length: number;
  readonly widths: number;
  /** bits that each interrupt has here; 0 for registers of another kind */
  readonly bitsPerIrq: number;
  readonly read: (gic: Gic, cpu: GicCpu, offset: number, width: number) => number;
  readonly write: (gic: Gic, cpu: GicCpu, offset: number, width: number, value: number) => void;
  readonly userRead?: (gic: Gic, cpu: GicCpu, offset: number) => number;
  readonly userWrite?: (gic: Gic, cpu: GicCpu, offset: number, value: number) => number;
}

/** Registers of 64 bits, reached in halves too. */
export interface DoubleRegion {
  readonly offset: number;
  readonly length: number;
  readonly widths: number;
  readonly bitsPerIrq: number;
  readonly get: (gic: Gic, cpu: GicCpu, offset: number) => bigint;
  /** bits that a read does not show */
  readonly hidden: bigint;
  /** `value`: the register with the written bytes in it */
  readonly set: (gic: Gic, cpu: GicCpu, offset: number, value: bigint) => void;
}

export type Region = WordRegion | DoubleRegion;

/** The first interrupt behind an offset: the registers of one kind fill an aligned block of 1024 interrupts. */
export const intidAt = (offset: number, bitsPerIrq: number): number =>
  Math.floor(((offset & (bitsPerIrq * 128 - 1)) * 8) / bitsPerIrq);

/** The region of an offset, whatever the access. */
export const findRegion = (regions: readonly Region[], offset: number): Region | undefined =>
  regions.find((region) => offset >= region.offset && offset < region.offset + region.length);

/** The region that takes an access, or undefined. */
export function regionFor(
  regions: readonly Region[],
  nrIrqs: number,
  offset: number,
  width: number,
): Region | undefined {
  const region = findRegion(regions, offset);
  if (region === undefined || (region.widths & width) === 0 || width === 2 || offset % width !== 0)
    return undefined;
  if (region.bitsPerIrq !== 0 && intidAt(offset, region.bitsPerIrq) >= nrIrqs) return undefined;
  return region;
}

/** Some bytes of a 64-bit value. */
const extract = (value: bigint, offset: number, width: number): bigint =>
  (value >> BigInt((offset & 7) * 8)) & ((1n << BigInt(width * 8)) - 1n);

/** A 64-bit register after a write of some of its bytes: all eight, or one half. */
export function update64(register: bigint, offset: number, width: number, value: bigint): bigint {
  if (width === 8) return BigInt.asUintN(64, value);
  const shift = BigInt((offset & 4) * 8);
  return (register & ~(0xffff_ffffn << shift)) | ((value & 0xffff_ffffn) << shift);
}

/** A guest reads: the value, 64 bits wide at most. */
export function readFrame(
  regions: readonly Region[],
  gic: Gic,
  cpu: GicCpu,
  offset: number,
  width: number,
): bigint {
  const region = regionFor(regions, gic.nrIrqs, offset, width);
  if (region === undefined) return 0n;
  if ("get" in region) return extract(region.get(gic, cpu, offset & ~7) & ~region.hidden, offset, width);
  return BigInt.asUintN(width * 8, BigInt(region.read(gic, cpu, offset, width)));
}

/** A guest writes. */
export function writeFrame(
  regions: readonly Region[],
  gic: Gic,
  cpu: GicCpu,
  offset: number,
  width: number,
  value: bigint,
): void {
  const region = regionFor(regions, gic.nrIrqs, offset, width);
  if (region === undefined) return;
  if ("get" in region)
    region.set(gic, cpu, offset, update64(region.get(gic, cpu, offset & ~7), offset, width, value));
  else region.write(gic, cpu, offset, width, Number(BigInt.asUintN(32, value)));
}

/** User space reads 32 bits (vgic_uaccess_read). */
export function userReadFrame(regions: readonly Region[], gic: Gic, cpu: GicCpu, offset: number): number {
  const region = regionFor(regions, gic.nrIrqs, offset, 4);
  if (region === undefined) return 0;
  if ("get" in region) return Number(extract(region.get(gic, cpu, offset & ~7) & ~region.hidden, offset, 4));
  return (region.userRead?.(gic, cpu, offset) ?? region.read(gic, cpu, offset, 4)) >>> 0;
}

/** User space writes 32 bits: 0 or −errno. */
export function userWriteFrame(
  regions: readonly Region[],
  gic: Gic,
  cpu: GicCpu,
  offset: number,
  value: number,
): number {
  const region = regionFor(regions, gic.nrIrqs, offset, 4);
  if (region === undefined) return 0;
  if ("get" in region) {
    region.set(gic, cpu, offset, update64(region.get(gic, cpu, offset & ~7), offset, 4, BigInt(value)));
    return 0;
  }
  if (region.userWrite !== undefined) return region.userWrite(gic, cpu, offset, value);
  region.write(gic, cpu, offset, 4, value);
  return 0;
}

// ---- registers with some bits an interrupt ---------------------------------------------------------------------------

type Read = WordRegion["read"];
type Write = WordRegion["write"];

/** Reads one bit of each interrupt. */
export const readBits =
  (bit: (irq: GicIrq, gic: Gic) => boolean): Read =>
  (gic, cpu, offset, width) => {
    const first = intidAt(offset, 1);
    let value = 0;
    for (let i = 0; i < width * 8; i++) {
      const irq = gic.irq(cpu, first + i);
      if (irq !== undefined && bit(irq, gic)) value |= 1 << i;
    }
    return value >>> 0;
  };

/** Does something for each interrupt, with its bit of the value. */
const forBits =
  (act: (gic: Gic, irq: GicIrq, set: boolean, cpu: GicCpu) => void): Write =>
  (gic, cpu, offset, width, value) => {
    const first = intidAt(offset, 1);
    for (let i = 0; i < width * 8; i++) {
      const irq = gic.irq(cpu, first + i);
      if (irq !== undefined) act(gic, irq, ((value >>> i) & 1) === 1, cpu);
    }
  };

/** Does something for each interrupt whose bit is set. */
const forSetBits = (act: (gic: Gic, irq: GicIrq, cpu: GicCpu) => void): Write =>
  forBits((gic, irq, set, cpu) => {
    if (set) act(gic, irq, cpu);
  });

/** A write of the guest as one of user space. */
const asUser =
  (write: Write): NonNullable<WordRegion["userWrite"]> =>
  (gic, cpu, offset, value) => {
    write(gic, cpu, offset, 4, value);
    return 0;
  };

export const readGroup = readBits((irq) => irq.group === 1);
export const writeGroup = forBits((gic, irq, set) => {
  irq.group = set ? 1 : 0;
  gic.enqueue(irq);
});

export const readEnable = readBits((irq) => irq.enabled);
export const writeSetEnable = forSetBits((gic, irq) => {
  irq.enabled = true;
  gic.enqueue(irq);
});
export const writeClearEnable = forSetBits((_gic, irq) => {
  irq.enabled = false;
});

export const readPending = readBits((irq) => irq.pending);
/** On a GICv3 user space sees the latch only: the line is in LEVEL_INFO. */
export const userReadPending = readBits((irq, gic) => (gic.version === 3 ? irq.pendingLatch : irq.pending));

const isV2Sgi = (gic: Gic, irq: GicIrq): boolean => gic.version === 2 && irq.intid < NR_SGIS;

/** GICv2 SGIs are made pending by their own registers. */
export const writeSetPending = forSetBits((gic, irq) => {
  if (isV2Sgi(gic, irq)) return;
  irq.pendingLatch = true;
  gic.enqueue(irq);
});
export const writeClearPending = forSetBits((gic, irq) => {
  if (!isV2Sgi(gic, irq)) irq.pendingLatch = false;
});
export const userSetPending = asUser(
  forSetBits((gic, irq, cpu) => {
    irq.pendingLatch = true;
    if (isV2Sgi(gic, irq)) irq.source |= 1 << cpu.id;
    gic.enqueue(irq);
  }),
);
export const userClearPending = asUser(
  forSetBits((gic, irq) => {
    if (isV2Sgi(gic, irq)) irq.source = 0;
    irq.pendingLatch = false;
  }),
);
/** GICv3: user space writes the whole word of latches. */
export const userWritePending = asUser(
  forBits((gic, irq, set) => {
    irq.pendingLatch = set;
    if (set) gic.enqueue(irq);
  }),
);

export const readActive = readBits((irq) => irq.active);
const changeActive = (active: boolean, byGuest: boolean): Write =>
  forSetBits((gic, irq, cpu) => {
    irq.active = active;
    if (!active) return;
    if (isV2Sgi(gic, irq)) irq.activeSource = byGuest ? cpu.id : 0;
    gic.enqueue(irq);
  });
export const writeSetActive = changeActive(true, true);
export const writeClearActive = changeActive(false, true);
export const userSetActive = asUser(changeActive(true, false));
export const userClearActive = asUser(changeActive(false, false));

export const userSetEnable = asUser(writeSetEnable);
export const userClearEnable = asUser(writeClearEnable);

/** One byte an interrupt. */
export const readByte =
  (byte: (irq: GicIrq) => number): Read =>
  (gic, cpu, offset, width) => {
    const first = intidAt(offset, 8);
    let value = 0;
    for (let i = 0; i < width; i++) {
      const irq = gic.irq(cpu, first + i);
      if (irq !== undefined) value |= byte(irq) << (i * 8);
    }
    return value >>> 0;
  };

export const readPriority = readByte((irq) => irq.priority);
/** The five upper bits count. */
export const writePriority: Write = (gic, cpu, offset, width, value) => {
  const first = intidAt(offset, 8);
  for (let i = 0; i < width; i++) {
    const irq = gic.irq(cpu, first + i);
    if (irq !== undefined) irq.priority = (value >>> (i * 8)) & 0xf8;
  }
};

/** Two bits an interrupt, of which the upper one counts: edge or level. */
export const readConfig: Read = (gic, cpu, offset, width) => {
  const first = intidAt(offset, 2);
  let value = 0;
  for (let i = 0; i < width * 4; i++) if (gic.irq(cpu, first + i)?.edge) value |= 2 << (i * 2);
  return value >>> 0;
};
/** Private interrupts cannot be changed. */
export const writeConfig: Write = (gic, cpu, offset, width, value) => {
  const first = intidAt(offset, 2);
  for (let i = 0; i < width * 4; i++) {
    const irq = gic.irq(cpu, first + i);
    if (irq !== undefined && irq.intid >= NR_PRIVATE_IRQS) irq.edge = ((value >>> (i * 2 + 1)) & 1) === 1;
  }
};

// ---- lines, for user space only ---------------------------------------------------------------------------------------

/** The lines of 32 interrupts from `intid` on; SGIs have none, and an edge-triggered one shows 0. */
export function readLineLevels(gic: Gic, cpu: GicCpu, intid: number): number {
  let value = 0;
  for (let i = 0; i < 32; i++) {
    const irq = intid + i < NR_SGIS ? undefined : gic.irq(cpu, intid + i);
    if (irq !== undefined && irq.intid < gic.nrIrqs && !irq.edge && irq.lineLevel) value |= 1 << i;
  }
  return value >>> 0;
}

export function writeLineLevels(gic: Gic, cpu: GicCpu, intid: number, value: number): void {
  for (let i = 0; i < 32; i++) {
    const irq = intid + i < NR_SGIS ? undefined : gic.irq(cpu, intid + i);
    if (irq === undefined) continue;
    irq.lineLevel = ((value >>> i) & 1) === 1;
    if (irq.lineLevel) gic.enqueue(irq);
  }
}

// ---- making tables ----------------------------------------------------------------------------------------------------

const PLAIN: Pick<WordRegion, "read" | "write"> = { read: () => 0, write: () => {} };

/** Registers that read as zero and ignore writes, unless `handlers` say otherwise. */
export const words = (
  offset: number,
  length: number,
  handlers: Partial<Omit<WordRegion, "offset" | "length">> = {},
): WordRegion => ({ widths: WORDS, bitsPerIrq: 0, ...PLAIN, ...handlers, offset, length });

/** The registers of one kind for all 1020 interrupts. */
export const perIrq = (
  offset: number,
  bitsPerIrq: number,
  handlers: Partial<Omit<WordRegion, "offset" | "length" | "bitsPerIrq">> = {},
): WordRegion => words(offset, bitsPerIrq * 128, { ...handlers, bitsPerIrq });

/** The same, of which the private interrupts' part lives in the redistributors. */
export const perSpi = (
  offset: number,
  bitsPerIrq: number,
  handlers: Partial<Omit<WordRegion, "offset" | "length" | "bitsPerIrq">> = {},
): WordRegion[] => {
  const own = bitsPerIrq * 4;
  const widths = handlers.widths ?? WORDS;
  return [
    words(offset, own, { widths, bitsPerIrq }),
    words(offset + own, bitsPerIrq * 128 - own, { ...handlers, bitsPerIrq }),
  ];
};

export const doubles = (
  offset: number,
  length: number,
  get: DoubleRegion["get"],
  set: DoubleRegion["set"] = () => {},
  hidden = 0n,
): DoubleRegion => ({ offset, length, widths: WORDS | DOUBLES, bitsPerIrq: 0, get, set, hidden });
