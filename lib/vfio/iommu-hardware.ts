/**
 * What an IOMMU can translate: page sizes, addresses, and the ranges it keeps for itself. Ranges are inclusive.
 *
 * Intel and AMD as recorded (traces: x86_64-vfio-…/B_type1, 48-bit tables); a message-signalled interrupt is a write to
 * 0xFEExxxxx, AMD keeps the HyperTransport range beside it (drivers/iommu/amd/iommu.c:amd_iommu_get_resv_regions, 6.1).
 *
 * Missing: the registers of other units than the recorded ones (traces: x86_64-vfio-lab/I_iommufd); groups with reserved ranges of their own (RMRR), apertures narrowed by a device or a 39-bit unit.
 */
import {
  IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
  IOMMU_HW_INFO_TYPE_INTEL_VTD,
  IOMMU_HW_INFO_TYPE_NONE,
  IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17,
  IommuHwInfoArmSmmuv3,
  IommuHwInfoVtd,
} from "../abi/iommufd.ts";
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
  /** what IOMMU_GET_HW_INFO tells: a type, and the struct of that type */
  readonly infoType: number;
  readonly info: Uint8Array;
}

const MSI: AddressRange = { start: 0xfee0_0000n, end: 0xfeef_ffffn };
const HYPERTRANSPORT: AddressRange = { start: 0xfd_0000_0000n, end: 0xff_ffff_ffffn };
const ALL = 0xffff_ffff_ffff_ffffn;

const intel: IommuHardware = {
  pageSizes: 0x4020_1000n,
  aperture: { start: 0n, end: 0xffff_ffff_ffffn },
  reserved: [MSI],
  infoType: IOMMU_HW_INFO_TYPE_INTEL_VTD,
  info: IommuHwInfoVtd.encode({
    flags: IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17,
    cap_reg: 0x00d2_008c_222f_0686n,
    ecap_reg: 0xf0_0f4an,
  }),
};
const amd: IommuHardware = {
  pageSizes: 0x000f_ff7f_ffff_f000n,
  aperture: { start: 0n, end: ALL },
  reserved: [MSI, HYPERTRANSPORT],
  infoType: IOMMU_HW_INFO_TYPE_NONE,
  info: new Uint8Array(0),
};
/** before 6.8 its driver listed every size of 64 bits (traces: x86_64-vfio-6.1/B_type1-amd) */
const amdAllSizes: IommuHardware = { ...amd, pageSizes: 0xffff_ff7f_ffff_f000n };
/** 48-bit output; the kernel places a window for interrupts itself (drivers/iommu/arm/arm-smmu-v3, 6.12) */
const smmuv3: IommuHardware = {
  pageSizes: 0x4020_1000n,
  aperture: { start: 0n, end: 0xffff_ffff_ffffn },
  reserved: [{ start: 0x800_0000n, end: 0x80f_ffffn }],
  infoType: IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
  info: IommuHwInfoArmSmmuv3.encode(),
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

/** Page sizes as a program sees them: those below a page of the processor's stand for that page. */
export function fromPage(pageSizes: bigint, pageSize: number): bigint {
  const page = BigInt(pageSize);
  return (pageSizes & (page - 1n)) === 0n ? pageSizes : (pageSizes & -page) | page;
}
