/**
 * Capabilities behind an info struct: a chain of headers (id u16, version u16, offset of the next u32) that follows it
 * (drivers/vfio/vfio_main.c:vfio_info_cap_add, vfio_info_cap_shift, 6.12). Since 6.6 each begins at a multiple of eight
 * bytes.
 */
import { store32 } from "../abi/struct.ts";
import {
  VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
  VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
  VfioInfoCapHeader,
  VfioIommuType1InfoCapIovaRange,
  VfioIommuType1InfoDmaAvail,
  VfioIovaRange,
} from "../abi/vfio.ts";

const NEXT = VfioInfoCapHeader.offsetOf.next;

/** The chain as it stands behind a struct of `start` bytes. The capabilities' own `next` is filled in. */
export function chain(start: number, capabilities: readonly Uint8Array[], align: number): Uint8Array {
  const sizes = capabilities.map((capability) => Math.ceil(capability.length / align) * align);
  const bytes = new Uint8Array(sizes.reduce((sum, size) => sum + size, 0));
  let at = 0;
  capabilities.forEach((capability, i) => {
    bytes.set(capability, at);
    const next = at + sizes[i];
    store32(bytes, at + NEXT, i + 1 < capabilities.length ? start + next : 0);
    at = next;
  });
  return bytes;
}

/** Of an IOMMU of type 1: how many mappings more there may be. */
export const mappingsLeft = (avail: number): Uint8Array =>
  VfioIommuType1InfoDmaAvail.encode({ header: { id: VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, version: 1 }, avail });

/** Of an IOMMU of type 1: which addresses devices can be given, the ends included. */
export function addressRanges(ranges: readonly { start: bigint; end: bigint }[]): Uint8Array {
  const head = VfioIommuType1InfoCapIovaRange.size;
  const bytes = new Uint8Array(head + ranges.length * VfioIovaRange.size);
  const header = { id: VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, version: 1 };
  bytes.set(VfioIommuType1InfoCapIovaRange.encode({ header, nr_iovas: ranges.length }));
  for (const [i, range] of ranges.entries())
    bytes.set(VfioIovaRange.encode(range), head + i * VfioIovaRange.size);
  return bytes;
}
