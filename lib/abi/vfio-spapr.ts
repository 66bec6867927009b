/**
 * VFIO's container on POWER (include/uapi/linux/vfio.h, 7.3): TCE windows, registered memory, and error handling (EEH).
 * Their numbers are also numbers of the type 1 IOMMU; which one is meant follows from what VFIO_SET_IOMMU chose.
 */
import { io } from "./ioctl.ts";
import { anonymous, pointer, struct, u32, u64, union } from "./struct.ts";
import { VFIO_BASE, VFIO_TYPE } from "./vfio.ts";

export const VfioIommuSpaprTceDdwInfo = struct({
  pgsizes: u64,
  max_dynamic_windows_supported: u32,
  levels: u32,
});

export const VFIO_IOMMU_SPAPR_INFO_DDW = 1 << 0;

export const VfioIommuSpaprTceInfo = struct({
  argsz: u32,
  flags: u32,
  dma32_window_start: u32,
  dma32_window_size: u32,
  ddw: VfioIommuSpaprTceDdwInfo,
});

export const VfioEehPeErr = struct({ type: u32, func: u32, addr: u64, mask: u64 });

export const VfioEehPeOp = struct({
  argsz: u32,
  flags: u32,
  op: u32,
  anonymous: anonymous(union({ err: VfioEehPeErr })),
});

export const VFIO_EEH_PE_DISABLE = 0;
export const VFIO_EEH_PE_ENABLE = 1;
export const VFIO_EEH_PE_UNFREEZE_IO = 2;
export const VFIO_EEH_PE_UNFREEZE_DMA = 3;
export const VFIO_EEH_PE_GET_STATE = 4;
export const VFIO_EEH_PE_STATE_NORMAL = 0;
export const VFIO_EEH_PE_STATE_RESET = 1;
export const VFIO_EEH_PE_STATE_STOPPED = 2;
export const VFIO_EEH_PE_STATE_STOPPED_DMA = 4;
export const VFIO_EEH_PE_STATE_UNAVAIL = 5;
export const VFIO_EEH_PE_RESET_DEACTIVATE = 5;
export const VFIO_EEH_PE_RESET_HOT = 6;
export const VFIO_EEH_PE_RESET_FUNDAMENTAL = 7;
export const VFIO_EEH_PE_CONFIGURE = 8;
export const VFIO_EEH_PE_INJECT_ERR = 9;

export const VfioIommuSpaprRegisterMemory = struct({ argsz: u32, flags: u32, vaddr: pointer(), size: u64 });

export const VfioIommuSpaprTceCreate = struct({
  argsz: u32,
  flags: u32,
  page_shift: u32,
  __resv1: u32,
  window_size: u64,
  levels: u32,
  __resv2: u32,
  start_addr: u64,
});

export const VfioIommuSpaprTceRemove = struct({ argsz: u32, flags: u32, start_addr: u64 });

export const VFIO_IOMMU_SPAPR_TCE_GET_INFO = io(VFIO_TYPE, VFIO_BASE + 12, {
  on: "vfio-container",
  head: VfioIommuSpaprTceInfo,
  least: 16,
  sized: "argsz",
});
export const VFIO_EEH_PE_OP = io(VFIO_TYPE, VFIO_BASE + 21, {
  on: "vfio-container",
  head: VfioEehPeOp,
  copy: "in",
  least: 12,
  sized: "argsz",
});
export const VFIO_IOMMU_SPAPR_REGISTER_MEMORY = io(VFIO_TYPE, VFIO_BASE + 17, {
  on: "vfio-container",
  head: VfioIommuSpaprRegisterMemory,
  copy: "in",
  sized: "argsz",
});
export const VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY = io(VFIO_TYPE, VFIO_BASE + 18, {
  on: "vfio-container",
  head: VfioIommuSpaprRegisterMemory,
  copy: "in",
  sized: "argsz",
});
export const VFIO_IOMMU_SPAPR_TCE_CREATE = io(VFIO_TYPE, VFIO_BASE + 19, {
  on: "vfio-container",
  head: VfioIommuSpaprTceCreate,
  sized: "argsz",
});
export const VFIO_IOMMU_SPAPR_TCE_REMOVE = io(VFIO_TYPE, VFIO_BASE + 20, {
  on: "vfio-container",
  head: VfioIommuSpaprTceRemove,
  copy: "in",
  sized: "argsz",
});
