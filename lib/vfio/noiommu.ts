/**
 * The IOMMU driver of groups without an IOMMU: no requests, nothing mapped (drivers/vfio/container.c:vfio_noiommu_ops,
 * 6.1). It is offered where the module option enable_unsafe_noiommu_mode is on.
 */
import { EINVAL, ENOTTY } from "../abi/errno.ts";
import { VFIO_NOIOMMU_IOMMU } from "../abi/vfio.ts";
import type { IommuDriver } from "./iommu-driver.ts";

export const noiommu: IommuDriver = {
  name: "vfio-noiommu",
  noiommu: true,
  checkExtension: (host, extension) =>
    host.options.enable_unsafe_noiommu_mode && extension === VFIO_NOIOMMU_IOMMU ? 1 : 0,
  open: (_host, type) =>
    type === VFIO_NOIOMMU_IOMMU
      ? { driver: noiommu, ioctl: () => -ENOTTY, attach: () => 0, detach() {}, release() {} }
      : -EINVAL,
};
