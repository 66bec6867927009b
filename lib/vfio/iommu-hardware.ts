/**
 * What an IOMMU can translate: page sizes, addresses, and the ranges it keeps for itself. Ranges are inclusive.
 *
 * Intel and AMD as recorded (traces: x86_64-vfio-…/B_type1, 48-bit tables); a message-signalled interrupt is a write to
 * 0xFEExxxxx, AMD keeps the HyperTransport range beside it (drivers/iommu/amd/iommu.c:amd_iommu_get_resv_regions, 6.1).
 *
 * Missing: groups with reserved ranges of their own (RMRR), apertures narrowed by a device or a 39-bit unit.
 */
import type { IommuDescription, VfioHost } from "./host.ts";

export interface AddressRange {
  readonly start: bigint;
  readonly end: bigint;
}

export interface IommuHardware {
  /** one bit for each size; those below a page of the processor are hidden */
  readonly pageSizes: bigint;
  readonly aperture: AddressRange;
  readonly reserved: readonly AddressRange[];
  /** IOMMU_GET_HW_INFO: the type, and what follows it */
  readonly infoType: number;
}

const MSI: AddressRange = { start: 0xfee0_0000n, end: 0xfeef_ffffn };
const HYPERTRANSPORT: AddressRange = { start: 0xfd_0000_0000n, end: 0xff_ffff_ffffn };
const ALL = 0xffff_ffff_ffff_ffffn;

const intel: IommuHardware = {
  pageSizes: 0x4020_1000n,
  aperture: { start: 0n, end: 0xffff_ffff_ffffn },
  reserved: [MSI],
  infoType: 1,
};
const amd: IommuHardware = {
  pageSizes: 0x000f_ff7f_ffff_f000n,
  aperture: { start: 0n, end: ALL },
  reserved: [MSI, HYPERTRANSPORT],
  infoType: 0,
};
/** before 6.8 its driver listed every size of 64 bits (traces: x86_64-vfio-6.1/B_type1-amd) */
const amdAllSizes: IommuHardware = { ...amd, pageSizes: 0xffff_ff7f_ffff_f000n };
/** 48-bit output; the kernel places a window for interrupts itself (drivers/iommu/arm/arm-smmu-v3, 6.12) */
const smmuv3: IommuHardware = {
  pageSizes: 0x4020_1000n,
  aperture: { start: 0n, end: 0xffff_ffff_ffffn },
  reserved: [{ start: 0x800_0000n, end: 0x80f_ffffn }],
  infoType: 2,
};

const kinds: Record<NonNullable<IommuDescription["kind"]>, IommuHardware> = {
  intel,
  amd,
  smmuv3,
  spapr: intel,
};

/** The IOMMU of a host; a host without one is asked for none. */
export const iommuHardware = ({ iommu, behaviour }: VfioHost): IommuHardware =>
  iommu.kind === "amd" && !behaviour.amdPageSizesCut ? amdAllSizes : kinds[iommu.kind ?? "intel"];

/** What is left of a range once others are taken out: ascending. */
export function without(whole: AddressRange, taken: readonly AddressRange[]): AddressRange[] {
  let left = [whole];
  for (const { start, end } of taken)
    left = left.flatMap((range) => {
      if (start > range.end || end < range.start) return [range];
      const pieces: AddressRange[] = [];
      if (start > range.start) pieces.push({ start: range.start, end: start - 1n });
      if (end < range.end) pieces.push({ start: end + 1n, end: range.end });
      return pieces;
    });
  return left;
}
