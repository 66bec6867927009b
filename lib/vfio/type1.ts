/** The type 1 IOMMU: see the next commit. */
import { ENOTTY } from "../abi/errno.ts";
import { VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU } from "../abi/vfio.ts";
import type { IommuDriver } from "./iommu-driver.ts";

export const type1: IommuDriver = {
  name: "vfio-iommu-type1",
  noiommu: false,
  checkExtension: (_host, extension) =>
    extension === VFIO_TYPE1_IOMMU || extension === VFIO_TYPE1v2_IOMMU ? 1 : 0,
  open: () => ({ driver: type1, ioctl: () => -ENOTTY, attach: () => 0, detach() {}, release() {} }),
};
