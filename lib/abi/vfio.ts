/**
 * VFIO (include/uapi/linux/vfio.h, 7.3): containers, groups, devices, the type 1 IOMMU. Every number encodes size 0 and
 * no direction; a struct says its own size in `argsz`, so a caller built against an older header still works.  A
 * request's number alone does not say what it is: VFIO_DEVICE_GET_PCI_HOT_RESET_INFO and VFIO_IOMMU_GET_INFO are both
 * 112, told apart by the file they are made on, and iommufd uses the same type. POWER's container is in vfio-spapr.ts.
 * Since 6.1 these grew: vfio_device_info from 20 to 24 bytes (`pad`, 6.6); the kernel accepts argsz from 16 on. Other
 * structs named their padding.  Missing: buffers behind the data of VFIO_DEVICE_FEATURE (DMA logging), s390's and
 * mediated devices' headers.
 */
import { io } from "./ioctl.ts";
import {
  anonymous,
  fd,
  flexible,
  loadNumber64,
  pointer,
  struct,
  u8,
  u16,
  u32,
  u64,
  union,
} from "./struct.ts";

/** A pointer to an `int` descriptor, the argument of VFIO_GROUP_SET_CONTAINER. */
const DescriptorArgument = struct({ fd });
/** A pointer to a `__u32` id, the argument of VFIO_DEVICE_GET_GFX_DMABUF. */
const IdArgument = struct({ id: u32 });

export const VFIO_API_VERSION = 0;

export const VFIO_TYPE1_IOMMU = 1;

export const VFIO_SPAPR_TCE_IOMMU = 2;

export const VFIO_TYPE1v2_IOMMU = 3;

export const VFIO_DMA_CC_IOMMU = 4;

export const VFIO_EEH = 5;

export const __VFIO_RESERVED_TYPE1_NESTING_IOMMU = 6;

export const VFIO_SPAPR_TCE_v2_IOMMU = 7;

export const VFIO_NOIOMMU_IOMMU = 8;

export const VFIO_UNMAP_ALL = 9;

export const VFIO_UPDATE_VADDR = 10;

export const VFIO_TYPE = 0x3b;

export const VFIO_BASE = 100;

export const VfioInfoCapHeader = struct({ id: u16, version: u16, next: u32 });

export const VFIO_GROUP_FLAGS_VIABLE = 1 << 0;
export const VFIO_GROUP_FLAGS_CONTAINER_SET = 1 << 1;

export const VfioGroupStatus = struct({ argsz: u32, flags: u32 });

export const VFIO_DEVICE_FLAGS_RESET = 1 << 0;
export const VFIO_DEVICE_FLAGS_PCI = 1 << 1;
export const VFIO_DEVICE_FLAGS_PLATFORM = 1 << 2;
export const VFIO_DEVICE_FLAGS_AMBA = 1 << 3;
export const VFIO_DEVICE_FLAGS_CCW = 1 << 4;
export const VFIO_DEVICE_FLAGS_AP = 1 << 5;
export const VFIO_DEVICE_FLAGS_FSL_MC = 1 << 6;
export const VFIO_DEVICE_FLAGS_CAPS = 1 << 7;
export const VFIO_DEVICE_FLAGS_CDX = 1 << 8;

export const VfioDeviceInfo = struct({
  argsz: u32,
  flags: u32,
  num_regions: u32,
  num_irqs: u32,
  cap_offset: u32,
  pad: u32,
});

export const VFIO_DEVICE_INFO_CAP_ZPCI_BASE = 1;
export const VFIO_DEVICE_INFO_CAP_ZPCI_GROUP = 2;
export const VFIO_DEVICE_INFO_CAP_ZPCI_UTIL = 3;
export const VFIO_DEVICE_INFO_CAP_ZPCI_PFIP = 4;
export const VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP = 5;

export const VFIO_PCI_ATOMIC_COMP32 = 1 << 0;
export const VFIO_PCI_ATOMIC_COMP64 = 1 << 1;
export const VFIO_PCI_ATOMIC_COMP128 = 1 << 2;

export const VfioDeviceInfoCapPciAtomicComp = struct({
  header: VfioInfoCapHeader,
  flags: u32,
  reserved: u32,
});

export const VFIO_REGION_INFO_FLAG_READ = 1 << 0;
export const VFIO_REGION_INFO_FLAG_WRITE = 1 << 1;
export const VFIO_REGION_INFO_FLAG_MMAP = 1 << 2;
export const VFIO_REGION_INFO_FLAG_CAPS = 1 << 3;

export const VfioRegionInfo = struct({
  argsz: u32,
  flags: u32,
  index: u32,
  cap_offset: u32,
  size: u64,
  offset: u64,
});

export const VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1;

export const VfioRegionSparseMmapArea = struct({ offset: u64, size: u64 });

export const VfioRegionInfoCapSparseMmap = struct({
  header: VfioInfoCapHeader,
  nr_areas: u32,
  reserved: u32,
  areas: flexible(VfioRegionSparseMmapArea),
});

export const VFIO_REGION_INFO_CAP_TYPE = 2;

export const VfioRegionInfoCapType = struct({ header: VfioInfoCapHeader, type: u32, subtype: u32 });

export const VFIO_REGION_TYPE_PCI_VENDOR_TYPE = 1 << 31;
export const VFIO_REGION_TYPE_PCI_VENDOR_MASK = 0xffff;
export const VFIO_REGION_TYPE_GFX = 1;
export const VFIO_REGION_TYPE_CCW = 2;
export const VFIO_REGION_TYPE_MIGRATION_DEPRECATED = 3;
export const VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION = 1;
export const VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG = 2;
export const VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG = 3;
export const VFIO_REGION_SUBTYPE_NVIDIA_NVLINK2_RAM = 1;
export const VFIO_REGION_SUBTYPE_IBM_NVLINK2_ATSD = 1;
export const VFIO_REGION_SUBTYPE_GFX_EDID = 1;

export const VFIO_DEVICE_GFX_LINK_STATE_UP = 1;
export const VFIO_DEVICE_GFX_LINK_STATE_DOWN = 2;

export const VfioRegionGfxEdid = struct({
  edid_offset: u32,
  edid_max_size: u32,
  edid_size: u32,
  max_xres: u32,
  max_yres: u32,
  link_state: u32,
});

export const VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD = 1;
export const VFIO_REGION_SUBTYPE_CCW_SCHIB = 2;
export const VFIO_REGION_SUBTYPE_CCW_CRW = 3;
export const VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED = 1;

export const VFIO_DEVICE_STATE_V1_STOP = 0;
export const VFIO_DEVICE_STATE_V1_RUNNING = 1 << 0;
export const VFIO_DEVICE_STATE_V1_SAVING = 1 << 1;
export const VFIO_DEVICE_STATE_V1_RESUMING = 1 << 2;
export const VFIO_DEVICE_STATE_MASK =
  VFIO_DEVICE_STATE_V1_RUNNING | VFIO_DEVICE_STATE_V1_SAVING | VFIO_DEVICE_STATE_V1_RESUMING;

export const VfioDeviceMigrationInfo = struct({
  device_state: u32,
  reserved: u32,
  pending_bytes: u64,
  data_offset: u64,
  data_size: u64,
});

export const VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3;
export const VFIO_REGION_INFO_CAP_NVLINK2_SSATGT = 4;

export const VfioRegionInfoCapNvlink2Ssatgt = struct({ header: VfioInfoCapHeader, tgt: u64 });

export const VFIO_REGION_INFO_CAP_NVLINK2_LNKSPD = 5;

export const VfioRegionInfoCapNvlink2Lnkspd = struct({
  header: VfioInfoCapHeader,
  link_speed: u32,
  __pad: u32,
});

export const VFIO_IRQ_INFO_EVENTFD = 1 << 0;
export const VFIO_IRQ_INFO_MASKABLE = 1 << 1;
export const VFIO_IRQ_INFO_AUTOMASKED = 1 << 2;
export const VFIO_IRQ_INFO_NORESIZE = 1 << 3;

export const VfioIrqInfo = struct({ argsz: u32, flags: u32, index: u32, count: u32 });

export const VFIO_IRQ_SET_DATA_NONE = 1 << 0;
export const VFIO_IRQ_SET_DATA_BOOL = 1 << 1;
export const VFIO_IRQ_SET_DATA_EVENTFD = 1 << 2;
export const VFIO_IRQ_SET_ACTION_MASK = 1 << 3;
export const VFIO_IRQ_SET_ACTION_UNMASK = 1 << 4;
export const VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5;

export const VfioIrqSet = struct({
  argsz: u32,
  flags: u32,
  index: u32,
  start: u32,
  count: u32,
  data: flexible(u8),
});

export const VFIO_IRQ_SET_DATA_TYPE_MASK =
  VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD;
export const VFIO_IRQ_SET_ACTION_TYPE_MASK =
  VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER;

export const VFIO_PCI_BAR0_REGION_INDEX = 0;
export const VFIO_PCI_BAR1_REGION_INDEX = 1;
export const VFIO_PCI_BAR2_REGION_INDEX = 2;
export const VFIO_PCI_BAR3_REGION_INDEX = 3;
export const VFIO_PCI_BAR4_REGION_INDEX = 4;
export const VFIO_PCI_BAR5_REGION_INDEX = 5;
export const VFIO_PCI_ROM_REGION_INDEX = 6;
export const VFIO_PCI_CONFIG_REGION_INDEX = 7;
export const VFIO_PCI_VGA_REGION_INDEX = 8;
export const VFIO_PCI_NUM_REGIONS = 9;
export const VFIO_PCI_INTX_IRQ_INDEX = 0;
export const VFIO_PCI_MSI_IRQ_INDEX = 1;
export const VFIO_PCI_MSIX_IRQ_INDEX = 2;
export const VFIO_PCI_ERR_IRQ_INDEX = 3;
export const VFIO_PCI_REQ_IRQ_INDEX = 4;
export const VFIO_PCI_NUM_IRQS = 5;

export const VFIO_CCW_CONFIG_REGION_INDEX = 0;
export const VFIO_CCW_NUM_REGIONS = 1;
export const VFIO_CCW_IO_IRQ_INDEX = 0;
export const VFIO_CCW_CRW_IRQ_INDEX = 1;
export const VFIO_CCW_REQ_IRQ_INDEX = 2;
export const VFIO_CCW_NUM_IRQS = 3;

export const VFIO_AP_REQ_IRQ_INDEX = 0;
export const VFIO_AP_CFG_CHG_IRQ_INDEX = 1;
export const VFIO_AP_NUM_IRQS = 2;

export const VFIO_PCI_DEVID_OWNED = 0;
export const VFIO_PCI_DEVID_NOT_OWNED = -1;

export const VfioPciDependentDevice = struct({
  anonymous: anonymous(union({ group_id: u32, devid: u32 })),
  segment: u16,
  bus: u8,
  devfn: u8,
});

export const VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 1 << 0;
export const VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 1 << 1;

export const VfioPciHotResetInfo = struct({
  argsz: u32,
  flags: u32,
  count: u32,
  devices: flexible(VfioPciDependentDevice),
});

export const VfioPciHotReset = struct({ argsz: u32, flags: u32, count: u32, group_fds: flexible(fd) });

export const VFIO_GFX_PLANE_TYPE_PROBE = 1 << 0;
export const VFIO_GFX_PLANE_TYPE_DMABUF = 1 << 1;
export const VFIO_GFX_PLANE_TYPE_REGION = 1 << 2;

export const VfioDeviceGfxPlaneInfo = struct({
  argsz: u32,
  flags: u32,
  drm_plane_type: u32,
  drm_format: u32,
  drm_format_mod: u64,
  width: u32,
  height: u32,
  stride: u32,
  size: u32,
  x_pos: u32,
  y_pos: u32,
  x_hot: u32,
  y_hot: u32,
  anonymous: anonymous(union({ region_index: u32, dmabuf_id: u32 })),
  reserved: u32,
});

export const VFIO_DEVICE_IOEVENTFD_8 = 1 << 0;
export const VFIO_DEVICE_IOEVENTFD_16 = 1 << 1;
export const VFIO_DEVICE_IOEVENTFD_32 = 1 << 2;
export const VFIO_DEVICE_IOEVENTFD_64 = 1 << 3;
export const VFIO_DEVICE_IOEVENTFD_SIZE_MASK = 0xf;

export const VfioDeviceIoeventfd = struct({
  argsz: u32,
  flags: u32,
  offset: u64,
  data: u64,
  fd: fd,
  reserved: u32,
});

export const VFIO_DEVICE_FEATURE_MASK = 0xffff;
export const VFIO_DEVICE_FEATURE_GET = 1 << 16;
export const VFIO_DEVICE_FEATURE_SET = 1 << 17;
export const VFIO_DEVICE_FEATURE_PROBE = 1 << 18;

export const VfioDeviceFeature = struct({ argsz: u32, flags: u32, data: flexible(u8) });

export const VFIO_DEVICE_BIND_FLAG_TOKEN = 1 << 0;

export const VfioDeviceBindIommufd = struct({
  argsz: u32,
  flags: u32,
  iommufd: fd,
  out_devid: u32,
  token_uuid_ptr: pointer(),
});

export const VFIO_DEVICE_ATTACH_PASID = 1 << 0;

export const VfioDeviceAttachIommufdPt = struct({ argsz: u32, flags: u32, pt_id: u32, pasid: u32 });

export const VFIO_DEVICE_DETACH_PASID = 1 << 0;

export const VfioDeviceDetachIommufdPt = struct({ argsz: u32, flags: u32, pasid: u32 });

export const VFIO_DEVICE_FEATURE_PCI_VF_TOKEN = 0;

export const VFIO_MIGRATION_STOP_COPY = 1 << 0;
export const VFIO_MIGRATION_P2P = 1 << 1;
export const VFIO_MIGRATION_PRE_COPY = 1 << 2;

export const VfioDeviceFeatureMigration = struct({ flags: u64 });

export const VFIO_DEVICE_FEATURE_MIGRATION = 1;

export const VfioDeviceFeatureMigState = struct({ device_state: u32, data_fd: fd });

export const VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE = 2;
export const VFIO_DEVICE_STATE_ERROR = 0;
export const VFIO_DEVICE_STATE_STOP = 1;
export const VFIO_DEVICE_STATE_RUNNING = 2;
export const VFIO_DEVICE_STATE_STOP_COPY = 3;
export const VFIO_DEVICE_STATE_RESUMING = 4;
export const VFIO_DEVICE_STATE_RUNNING_P2P = 5;
export const VFIO_DEVICE_STATE_PRE_COPY = 6;
export const VFIO_DEVICE_STATE_PRE_COPY_P2P = 7;
export const VFIO_DEVICE_STATE_NR = 8;

export const VFIO_PRECOPY_INFO_REINIT = 1 << 0;

export const VfioPrecopyInfo = struct({ argsz: u32, flags: u32, initial_bytes: u64, dirty_bytes: u64 });

export const VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY = 3;

export const VfioDeviceLowPowerEntryWithWakeup = struct({ wakeup_eventfd: fd, reserved: u32 });

export const VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP = 4;
export const VFIO_DEVICE_FEATURE_LOW_POWER_EXIT = 5;

export const VfioDeviceFeatureDmaLoggingControl = struct({
  page_size: u64,
  num_ranges: u32,
  __reserved: u32,
  ranges: pointer(),
});

export const VfioDeviceFeatureDmaLoggingRange = struct({ iova: u64, length: u64 });

export const VFIO_DEVICE_FEATURE_DMA_LOGGING_START = 6;
export const VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP = 7;

export const VfioDeviceFeatureDmaLoggingReport = struct({
  iova: u64,
  length: u64,
  page_size: u64,
  bitmap: pointer(),
});

export const VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT = 8;

export const VfioDeviceFeatureMigDataSize = struct({ stop_copy_length: u64 });

export const VFIO_DEVICE_FEATURE_MIG_DATA_SIZE = 9;
export const VFIO_DEVICE_FEATURE_CLEAR_MASTER = 0;
export const VFIO_DEVICE_FEATURE_SET_MASTER = 1;

export const VfioDeviceFeatureBusMaster = struct({ op: u32 });

export const VFIO_DEVICE_FEATURE_BUS_MASTER = 10;
export const VFIO_DEVICE_FEATURE_DMA_BUF = 11;

export const VfioRegionDmaRange = struct({ offset: u64, length: u64 });

export const VfioDeviceFeatureDmaBuf = struct({
  region_index: u32,
  open_flags: u32,
  flags: u32,
  nr_ranges: u32,
  dma_ranges: flexible(VfioRegionDmaRange),
});

export const VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 = 12;

export const VfioDeviceFeatureZpciErr = struct({ data: u64 });

export const VFIO_DEVICE_FEATURE_ZPCI_ERROR = 13;

export const VFIO_IOMMU_INFO_PGSIZES = 1 << 0;
export const VFIO_IOMMU_INFO_CAPS = 1 << 1;

export const VfioIommuType1Info = struct({
  argsz: u32,
  flags: u32,
  iova_pgsizes: u64,
  cap_offset: u32,
  pad: u32,
});

export const VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1;

export const VfioIovaRange = struct({ start: u64, end: u64 });

export const VfioIommuType1InfoCapIovaRange = struct({
  header: VfioInfoCapHeader,
  nr_iovas: u32,
  reserved: u32,
  iova_ranges: flexible(VfioIovaRange),
});

export const VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2;

export const VfioIommuType1InfoCapMigration = struct({
  header: VfioInfoCapHeader,
  flags: u32,
  pgsize_bitmap: u64,
  max_dirty_bitmap_size: u64,
});

export const VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3;

export const VfioIommuType1InfoDmaAvail = struct({ header: VfioInfoCapHeader, avail: u32 });

export const VFIO_DMA_MAP_FLAG_READ = 1 << 0;
export const VFIO_DMA_MAP_FLAG_WRITE = 1 << 1;
export const VFIO_DMA_MAP_FLAG_VADDR = 1 << 2;

export const VfioIommuType1DmaMap = struct({
  argsz: u32,
  flags: u32,
  vaddr: pointer(),
  iova: u64,
  size: u64,
});

export const VfioBitmap = struct({ pgsize: u64, size: u64, data: pointer() });

export const VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1 << 0;
export const VFIO_DMA_UNMAP_FLAG_ALL = 1 << 1;
export const VFIO_DMA_UNMAP_FLAG_VADDR = 1 << 2;

export const VfioIommuType1DmaUnmap = struct({
  argsz: u32,
  flags: u32,
  iova: u64,
  size: u64,
  data: flexible(u8),
});

export const VFIO_IOMMU_DIRTY_PAGES_FLAG_START = 1 << 0;
export const VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP = 1 << 1;
export const VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP = 1 << 2;

export const VfioIommuType1DirtyBitmap = struct({ argsz: u32, flags: u32, data: flexible(u8) });

export const VfioIommuType1DirtyBitmapGet = struct({ iova: u64, size: u64, bitmap: VfioBitmap });

/** The eventfds of VFIO_DEVICE_SET_IRQS: `count` of them follow the struct if the data are of that type. */
function irqSetDescriptors(argument: Uint8Array): number[] {
  const { flags, count } = VfioIrqSet.at(argument);
  return flags & VFIO_IRQ_SET_DATA_EVENTFD ? descriptorsFrom(VfioIrqSet.size, count, argument.length) : [];
}
/** The groups of VFIO_DEVICE_PCI_HOT_RESET. */
const hotResetDescriptors = (argument: Uint8Array): number[] =>
  descriptorsFrom(VfioPciHotReset.size, VfioPciHotReset.at(argument).count, argument.length);
const hotResetBytes = (head: Uint8Array): number => VfioPciHotReset.size + 4 * VfioPciHotReset.at(head).count;
/** Two features carry a descriptor: the migration state an answer's data_fd, low power entry a wake-up eventfd. */
function featureDescriptors(argument: Uint8Array): number[] {
  const feature = VfioDeviceFeature.at(argument).flags & VFIO_DEVICE_FEATURE_MASK;
  if (feature === VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE)
    return [VfioDeviceFeature.size + VfioDeviceFeatureMigState.offsetOf.data_fd];
  if (feature === VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP)
    return [VfioDeviceFeature.size + VfioDeviceLowPowerEntryWithWakeup.offsetOf.wakeup_eventfd];
  return [];
}
/** Offsets of at most `count` ints from `start` that fit the argument. */
const descriptorsFrom = (start: number, count: number, end: number): number[] =>
  Array.from({ length: Math.max(0, Math.min(count, (end - start) >> 2)) }, (_, i) => start + 4 * i);
/** A UUID. */
const tokenBytes = (head: Uint8Array): number =>
  VfioDeviceBindIommufd.at(head).flags & VFIO_DEVICE_BIND_FLAG_TOKEN ? 16 : 0;
/** A vfio_bitmap follows the struct, if a flag says so; its `size` is at 32, its pointer at 40, in both requests. */
const unmapBitmapBytes = (argument: Uint8Array): number =>
  VfioIommuType1DmaUnmap.at(argument).flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP && argument.length >= 48
    ? loadNumber64(argument, 32)
    : 0;
const dirtyBitmapBytes = (argument: Uint8Array): number =>
  VfioIommuType1DirtyBitmap.at(argument).flags & VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP &&
  argument.length >= 48
    ? loadNumber64(argument, 32)
    : 0;

/** Answers 0, VFIO_API_VERSION. */
export const VFIO_GET_API_VERSION = io(VFIO_TYPE, VFIO_BASE + 0, { on: ["vfio-container", "iommufd"] });
/** The argument is the number of an IOMMU or feature; 1 where the container, or its driver once it is set, knows it. */
export const VFIO_CHECK_EXTENSION = io(VFIO_TYPE, VFIO_BASE + 1, { on: ["vfio-container", "iommufd"] });
/**
 * The argument is the type of IOMMU (1, 3: type 1; 7: SPAPR). EINVAL: no group yet, or set before; ENODEV: no driver;
 * EPERM, ENOMEM.
 */
export const VFIO_SET_IOMMU = io(VFIO_TYPE, VFIO_BASE + 2, { on: ["vfio-container", "iommufd"] });
/** Flags: 1 viable (no device of it has another driver), 2 in a container. EINVAL: `argsz` below 8. */
export const VFIO_GROUP_GET_STATUS = io(VFIO_TYPE, VFIO_BASE + 3, {
  on: "vfio-group",
  head: VfioGroupStatus,
  sized: "argsz",
});
/**
 * Points to the descriptor of a container, or of an iommufd. EINVAL: it has one; EBADF, EBADFD; EPERM: not viable; what
 * the IOMMU says.
 */
export const VFIO_GROUP_SET_CONTAINER = io(VFIO_TYPE, VFIO_BASE + 4, {
  on: "vfio-group",
  head: DescriptorArgument,
  copy: "in",
});
/** EINVAL without one; EBUSY while a device is open. */
export const VFIO_GROUP_UNSET_CONTAINER = io(VFIO_TYPE, VFIO_BASE + 5, { on: "vfio-group" });
/**
 * Points to the name of a device, "0000:00:04.0". Answers a descriptor. EINVAL: no container with an IOMMU; ENODEV: no
 * device of the group; EPERM: not viable; EMFILE.
 */
export const VFIO_GROUP_GET_DEVICE_FD = io(VFIO_TYPE, VFIO_BASE + 6, {
  on: "vfio-group",
  copy: "in",
  string: true,
  returns: "vfio-device",
});
/** A chain of capabilities may follow the struct, from `cap_offset`; too little room: `argsz` says how much. */
export const VFIO_DEVICE_GET_INFO = io(VFIO_TYPE, VFIO_BASE + 7, {
  on: "vfio-device",
  head: VfioDeviceInfo,
  tail: 1,
  least: 16,
  sized: "argsz",
});
/**
 * Size in bytes, offset in the device's file and flags of region `index` (0 to 5 BARs, 6 ROM, 7 configuration space).
 * EINVAL.
 */
export const VFIO_DEVICE_GET_REGION_INFO = io(VFIO_TYPE, VFIO_BASE + 8, {
  on: "vfio-device",
  head: VfioRegionInfo,
  tail: 1,
  sized: "argsz",
});
/** How many interrupts index 0 INTx, 1 MSI, 2 MSI-X, 3 error, 4 request has, and what they can do. EINVAL. */
export const VFIO_DEVICE_GET_IRQ_INFO = io(VFIO_TYPE, VFIO_BASE + 9, {
  on: "vfio-device",
  head: VfioIrqInfo,
  sized: "argsz",
});
/**
 * Actions (trigger, mask, unmask) on `count` interrupts from `start` of an index. By flag `data` is nothing, a byte or
 * an eventfd (s32, −1: none) for each; count 0 with no data turns the index off. EINVAL: `argsz`, ranges, flags,
 * another kind is on; ENOTTY: the index has no such action; EBADF, EBUSY, EFAULT, ENOMEM; above 0: only so many vectors
 * are to be had. drivers/vfio/pci/vfio_pci_intrs.c:vfio_pci_set_irqs_ioctl (6.1)
 */
export const VFIO_DEVICE_SET_IRQS = io(VFIO_TYPE, VFIO_BASE + 10, {
  on: "vfio-device",
  head: VfioIrqSet,
  copy: "in",
  tail: 1,
  sized: "argsz",
  descriptors: irqSetDescriptors,
});
/** Resets the function. EINVAL: it cannot be reset. */
export const VFIO_DEVICE_RESET = io(VFIO_TYPE, VFIO_BASE + 11, { on: "vfio-device" });
export const VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = io(VFIO_TYPE, VFIO_BASE + 12, {
  on: "vfio-device",
  head: VfioPciHotResetInfo,
  tail: 1,
  sized: "argsz",
});
/** `argsz` need only cover the struct; the descriptors follow by `count`. */
export const VFIO_DEVICE_PCI_HOT_RESET = io(VFIO_TYPE, VFIO_BASE + 13, {
  on: "vfio-device",
  head: VfioPciHotReset,
  copy: "in",
  tail: 4,
  sized: hotResetBytes,
  descriptors: hotResetDescriptors,
});
export const VFIO_DEVICE_QUERY_GFX_PLANE = io(VFIO_TYPE, VFIO_BASE + 14, {
  on: "vfio-device",
  head: VfioDeviceGfxPlaneInfo,
  sized: "argsz",
});
export const VFIO_DEVICE_GET_GFX_DMABUF = io(VFIO_TYPE, VFIO_BASE + 15, {
  on: "vfio-device",
  head: IdArgument,
  copy: "in",
  returns: "dma-buf",
});
export const VFIO_DEVICE_IOEVENTFD = io(VFIO_TYPE, VFIO_BASE + 16, {
  on: "vfio-device",
  head: VfioDeviceIoeventfd,
  copy: "in",
  least: 28,
  sized: "argsz",
});
export const VFIO_DEVICE_FEATURE = io(VFIO_TYPE, VFIO_BASE + 17, {
  on: "vfio-device",
  head: VfioDeviceFeature,
  tail: 1,
  sized: "argsz",
  descriptors: featureDescriptors,
});
export const VFIO_DEVICE_BIND_IOMMUFD = io(VFIO_TYPE, VFIO_BASE + 18, {
  on: "vfio-device",
  head: VfioDeviceBindIommufd,
  least: 16,
  sized: "argsz",
  behind: { token_uuid_ptr: { copy: "in", bytes: tokenBytes } },
});
export const VFIO_DEVICE_ATTACH_IOMMUFD_PT = io(VFIO_TYPE, VFIO_BASE + 19, {
  on: "vfio-device",
  head: VfioDeviceAttachIommufdPt,
  least: 12,
  sized: "argsz",
});
export const VFIO_DEVICE_DETACH_IOMMUFD_PT = io(VFIO_TYPE, VFIO_BASE + 20, {
  on: "vfio-device",
  head: VfioDeviceDetachIommufdPt,
  copy: "in",
  least: 8,
  sized: "argsz",
});
export const VFIO_MIG_GET_PRECOPY_INFO = io(VFIO_TYPE, VFIO_BASE + 21, {
  on: "vfio-migration",
  head: VfioPrecopyInfo,
  sized: "argsz",
});
/**
 * Page sizes, and capabilities behind the struct if `argsz` has room: it says how much is needed. EINVAL,
 * EFAULT.
 */
export const VFIO_IOMMU_GET_INFO = io(VFIO_TYPE, VFIO_BASE + 12, {
  on: ["vfio-container", "iommufd"],
  head: VfioIommuType1Info,
  tail: 1,
  least: 16,
  sized: "argsz",
});
/**
 * Gives the devices of the container `size` bytes of memory at `vaddr`, at the I/O address `iova`; pages are pinned
 * and count as locked. EINVAL: flags, no whole pages, outside of what the IOMMU reaches; EEXIST: it overlaps;
 * EOVERFLOW (EINVAL before 6.18): it wraps; ENOSPC: 65,535 mappings; ENOMEM: RLIMIT_MEMLOCK; EFAULT.
 */
export const VFIO_IOMMU_MAP_DMA = io(VFIO_TYPE, VFIO_BASE + 13, {
  on: ["vfio-container", "iommufd"],
  head: VfioIommuType1DmaMap,
  copy: "in",
  sized: "argsz",
});
/**
 * Takes mappings away, whole ones; `size` is then how much went. EINVAL: flags, no whole pages, a part of a mapping
 * (type 1 version 2); EFAULT.
 */
export const VFIO_IOMMU_UNMAP_DMA = io(VFIO_TYPE, VFIO_BASE + 14, {
  on: ["vfio-container", "iommufd"],
  head: VfioIommuType1DmaUnmap,
  tail: 1,
  sized: "argsz",
  behind: { data: { at: 40, copy: "out", bytes: unmapBitmapBytes } },
});
export const VFIO_IOMMU_ENABLE = io(VFIO_TYPE, VFIO_BASE + 15, { on: "vfio-container" });
export const VFIO_IOMMU_DISABLE = io(VFIO_TYPE, VFIO_BASE + 16, { on: "vfio-container" });
export const VFIO_IOMMU_DIRTY_PAGES = io(VFIO_TYPE, VFIO_BASE + 17, {
  on: "vfio-container",
  head: VfioIommuType1DirtyBitmap,
  copy: "in",
  tail: 1,
  sized: "argsz",
  behind: { data: { at: 40, copy: "out", bytes: dirtyBitmapBytes } },
});

/** The names that mediated devices' user-space interface publishes in device_api. */
export const VFIO_DEVICE_API_PCI_STRING = "vfio-pci";
export const VFIO_DEVICE_API_PLATFORM_STRING = "vfio-platform";
export const VFIO_DEVICE_API_AMBA_STRING = "vfio-amba";
export const VFIO_DEVICE_API_CCW_STRING = "vfio-ccw";
export const VFIO_DEVICE_API_AP_STRING = "vfio-ap";
