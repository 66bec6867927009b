/**
 * VFIO's container requests on an iommufd, so that an old program can use one as its container
 * (drivers/iommu/iommufd/vfio_compat.c, 6.12). They mean one address space of it: the one that IOMMU_VFIO_IOAS chose, or
 * the one that was made when a group took the iommufd as its container.
 */
import { EFAULT, EINVAL, ENODEV, ENOTTY, EOVERFLOW } from "../abi/errno.ts";
import { store32 } from "../abi/struct.ts";
import {
  VFIO_API_VERSION,
  VFIO_CHECK_EXTENSION,
  VFIO_DMA_CC_IOMMU,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_GET_API_VERSION,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_INFO_CAPS,
  VFIO_IOMMU_INFO_PGSIZES,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_NOIOMMU_IOMMU,
  VFIO_SET_IOMMU,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1v2_IOMMU,
  VFIO_UNMAP_ALL,
  VfioIommuType1DmaMap,
  VfioIommuType1DmaUnmap,
  VfioIommuType1Info,
  VfioIommuType1InfoDmaAvail,
} from "../abi/vfio.ts";
import type { Argument } from "../kernel/argument.ts";
import type { Process } from "../kernel/process.ts";
import { addressRanges, mappingsLeft } from "./info-capabilities.ts";
import type { IoAddressSpace } from "./io-address-space.ts";
import type { Ioas } from "./ioas.ts";
import type { Iommufd } from "./iommufd.ts";

const MAX64 = 0xffff_ffff_ffff_ffffn;
/** bytes of the info struct up to and including iova_pgsizes */
const INFO_LEAST = 16;

/** Answers a request below iommufd's own numbers. */
export function vfioRequest(iommufd: Iommufd, process: Process, request: number, user: Argument): number {
  switch (request) {
    case VFIO_GET_API_VERSION.number:
      return VFIO_API_VERSION;
    case VFIO_CHECK_EXTENSION.number:
      return checkExtension(iommufd, user.value);
    case VFIO_SET_IOMMU.number:
      return setIommu(iommufd, user.value);
    case VFIO_IOMMU_GET_INFO.number:
      return getInfo(iommufd, user);
    case VFIO_IOMMU_MAP_DMA.number:
      return mapDma(iommufd, process, user);
    case VFIO_IOMMU_UNMAP_DMA.number:
      return unmapDma(iommufd, user);
    default:
      return -ENOTTY;
  }
}

function checkExtension(iommufd: Iommufd, extension: number): number {
  switch (extension) {
    case VFIO_TYPE1_IOMMU:
    case VFIO_TYPE1v2_IOMMU:
    case VFIO_UNMAP_ALL:
      return 1;
    case VFIO_NOIOMMU_IOMMU:
      return iommufd.host.options.enable_unsafe_noiommu_mode ? 1 : 0;
    case VFIO_DMA_CC_IOMMU: {
      const ioas = iommufd.vfioIoas;
      if (ioas === undefined) return -ENODEV;
      return ioas.tables.length === 0 || iommufd.host.iommu.cacheCoherent === true ? 1 : 0;
    }
    default:
      return 0;
  }
}

/** EINVAL for another type, ENODEV before a group came. Version 1 may cut mappings: no large pages. */
function setIommu(iommufd: Iommufd, type: number): number {
  if (iommufd.noiommu) return type === VFIO_NOIOMMU_IOMMU ? 0 : -EINVAL;
  if (type !== VFIO_TYPE1_IOMMU && type !== VFIO_TYPE1v2_IOMMU) return -EINVAL;
  const ioas = iommufd.vfioIoas;
  if (ioas === undefined) return -ENODEV;
  return type === VFIO_TYPE1_IOMMU ? ioas.map.disableLargePages() : 0;
}

function mapDma(iommufd: Iommufd, process: Process, user: Argument): number {
  if (!user.readable(VfioIommuType1DmaMap.size)) return -EFAULT;
  const { argsz, flags, vaddr, iova, size } = VfioIommuType1DmaMap.decode(user.bytes, user.at);
  if (argsz < VfioIommuType1DmaMap.size) return -EINVAL;
  if ((flags & ~(VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)) !== 0) return -EINVAL;
  const ioas = iommufd.vfioIoas;
  if (ioas === undefined) return -ENODEV;
  const writable = (flags & VFIO_DMA_MAP_FLAG_WRITE) !== 0;
  const pages = iommufd.pages(process, vaddr, size, writable);
  if (typeof pages === "number") return pages;
  const mapped = ioas.map.map([{ pages, offset: 0n, length: size }], iova, writable);
  return typeof mapped === "number" ? mapped : 0;
}

/** How many bytes were unmapped is written even with an error. */
function unmapDma(iommufd: Iommufd, user: Argument): number {
  if (!user.readable(VfioIommuType1DmaUnmap.size)) return -EFAULT;
  const { argsz, flags, iova, size } = VfioIommuType1DmaUnmap.decode(user.bytes, user.at);
  if (argsz < VfioIommuType1DmaUnmap.size || (flags & ~VFIO_DMA_UNMAP_FLAG_ALL) !== 0) return -EINVAL;
  const ioas = iommufd.vfioIoas;
  if (ioas === undefined) return -ENODEV;
  const { map } = ioas;
  let unmapped: bigint | number;
  if ((flags & VFIO_DMA_UNMAP_FLAG_ALL) !== 0) {
    if (iova !== 0n || size !== 0n) return -EINVAL;
    unmapped = map.unmapAll();
  } else {
    const cut = map.largePages ? 0 : cutAt(map, iova, size);
    if (cut < 0) return cut;
    const wraps = iova + size - 1n > MAX64;
    unmapped = size === 0n ? -EINVAL : wraps ? -EOVERFLOW : map.unmap(iova, iova + size - 1n);
  }
  if (!user.writable(VfioIommuType1DmaUnmap.size)) return -EFAULT;
  VfioIommuType1DmaUnmap.at(user.bytes, user.at).size = typeof unmapped === "number" ? 0n : unmapped;
  return typeof unmapped === "number" ? unmapped : 0;
}

/** Cuts the areas at both ends of a range, as version 1 allows. */
function cutAt(map: IoAddressSpace, iova: bigint, size: bigint): number {
  const cut = map.cut(BigInt.asUintN(64, iova + size - 1n));
  return cut < 0 || iova === 0n ? cut : map.cut(iova - 1n);
}

/** As many whole capabilities as there is room for; argsz then tells how much all of them need. */
function getInfo(iommufd: Iommufd, user: Argument): number {
  if (!user.readable(INFO_LEAST)) return -EFAULT;
  const { argsz } = VfioIommuType1Info.decode(user.bytes, user.at);
  if (argsz < INFO_LEAST) return -EINVAL;
  const ioas = iommufd.vfioIoas;
  if (ioas === undefined) return -ENODEV;
  const capabilities = capabilitiesOf(ioas);
  let total = VfioIommuType1Info.size;
  for (const [i, capability] of capabilities.entries()) {
    const at = total;
    total += Math.ceil(capability.length / 8) * 8;
    if (i + 1 < capabilities.length)
      store32(capability, VfioIommuType1InfoDmaAvail.offsetOf.header + NEXT, total);
    if (argsz < at + capability.length) continue;
    if (!user.writable(capability.length, at)) return -EFAULT;
    user.bytes.set(capability, user.at + at);
    user.finish();
  }
  const info = VfioIommuType1Info.encode({
    argsz: total,
    flags: VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS,
    iova_pgsizes: ioas.map.pageSizes,
    cap_offset: argsz >= total ? VfioIommuType1Info.size : 0,
  });
  const written = Math.min(argsz, VfioIommuType1Info.size);
  if (!user.writable(written)) return -EFAULT;
  user.bytes.set(info.subarray(0, written), user.at);
  return 0;
}

/** where `next` stands in a capability's header */
const NEXT = 4;

const capabilitiesOf = ({ map }: Ioas): Uint8Array[] => [
  mappingsLeft(0xffff_ffff),
  addressRanges(map.ranges),
];
