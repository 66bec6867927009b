/**
 * Which requests each kind of VFIO's files answers, for those who want to know without asking: the dispatch itself
 * stands in each file's `ioctl`, and a spec holds both together.
 */

import type { FileKind, Request } from "../abi/ioctl.ts";
import * as iommufd from "../abi/iommufd.ts";
import * as vfio from "../abi/vfio.ts";
import * as spapr from "../abi/vfio-spapr.ts";

/** By kind of file, whatever IOMMU is behind a container. */
export const answeredRequests: Partial<Record<FileKind, readonly Request[]>> = {
  "vfio-container": [
    vfio.VFIO_GET_API_VERSION,
    vfio.VFIO_CHECK_EXTENSION,
    vfio.VFIO_SET_IOMMU,
    vfio.VFIO_IOMMU_GET_INFO,
    vfio.VFIO_IOMMU_MAP_DMA,
    vfio.VFIO_IOMMU_UNMAP_DMA,
    vfio.VFIO_IOMMU_DIRTY_PAGES,
  ],
  "vfio-group": [
    vfio.VFIO_GROUP_GET_STATUS,
    vfio.VFIO_GROUP_SET_CONTAINER,
    vfio.VFIO_GROUP_UNSET_CONTAINER,
    vfio.VFIO_GROUP_GET_DEVICE_FD,
  ],
  "vfio-device": [
    vfio.VFIO_DEVICE_GET_INFO,
    vfio.VFIO_DEVICE_GET_REGION_INFO,
    vfio.VFIO_DEVICE_GET_IRQ_INFO,
    vfio.VFIO_DEVICE_SET_IRQS,
    vfio.VFIO_DEVICE_RESET,
    vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
    vfio.VFIO_DEVICE_PCI_HOT_RESET,
    vfio.VFIO_DEVICE_IOEVENTFD,
    vfio.VFIO_DEVICE_FEATURE,
    vfio.VFIO_DEVICE_BIND_IOMMUFD,
    vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT,
  ],
  iommufd: [
    vfio.VFIO_GET_API_VERSION,
    vfio.VFIO_CHECK_EXTENSION,
    vfio.VFIO_SET_IOMMU,
    vfio.VFIO_IOMMU_GET_INFO,
    vfio.VFIO_IOMMU_MAP_DMA,
    vfio.VFIO_IOMMU_UNMAP_DMA,
    iommufd.IOMMU_DESTROY,
    iommufd.IOMMU_IOAS_ALLOC,
    iommufd.IOMMU_IOAS_IOVA_RANGES,
    iommufd.IOMMU_IOAS_ALLOW_IOVAS,
    iommufd.IOMMU_IOAS_MAP,
    iommufd.IOMMU_IOAS_COPY,
    iommufd.IOMMU_IOAS_UNMAP,
    iommufd.IOMMU_OPTION,
    iommufd.IOMMU_VFIO_IOAS,
    iommufd.IOMMU_GET_HW_INFO,
    iommufd.IOMMU_HWPT_ALLOC,
    iommufd.IOMMU_HWPT_SET_DIRTY_TRACKING,
    iommufd.IOMMU_HWPT_GET_DIRTY_BITMAP,
  ],
};

/** What a container of POWER answers beside, once it has the TCE driver (spapr-tce.ts). */
export const spaprRequests: readonly Request[] = [
  vfio.VFIO_IOMMU_ENABLE,
  vfio.VFIO_IOMMU_DISABLE,
  spapr.VFIO_IOMMU_SPAPR_TCE_GET_INFO,
  spapr.VFIO_IOMMU_SPAPR_REGISTER_MEMORY,
  spapr.VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY,
  spapr.VFIO_IOMMU_SPAPR_TCE_CREATE,
  spapr.VFIO_IOMMU_SPAPR_TCE_REMOVE,
  spapr.VFIO_EEH_PE_OP,
];
