/**
 * iommufd (include/uapi/linux/iommufd.h, 7.3; new in 6.2). Every struct begins with its own `size`; bytes that the kernel does
 * not know must be zero, bytes that the caller left out are zero. The type is VFIO's, the numbers start at 0x80.
 */
import { io } from "./ioctl.ts";
import {
  anonymous,
  array,
  bytes,
  fd,
  fdU32,
  load32,
  loadNumber64,
  pointer,
  struct,
  u8,
  u16,
  u32,
  u64,
  union,
} from "./struct.ts";

export const IOMMUFD_TYPE = 0x3b;

export const IOMMUFD_CMD_BASE = 128;
export const IOMMUFD_CMD_DESTROY = 128;
export const IOMMUFD_CMD_IOAS_ALLOC = 129;
export const IOMMUFD_CMD_IOAS_ALLOW_IOVAS = 130;
export const IOMMUFD_CMD_IOAS_COPY = 131;
export const IOMMUFD_CMD_IOAS_IOVA_RANGES = 132;
export const IOMMUFD_CMD_IOAS_MAP = 133;
export const IOMMUFD_CMD_IOAS_UNMAP = 134;
export const IOMMUFD_CMD_OPTION = 135;
export const IOMMUFD_CMD_VFIO_IOAS = 136;
export const IOMMUFD_CMD_HWPT_ALLOC = 137;
export const IOMMUFD_CMD_GET_HW_INFO = 138;
export const IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING = 139;
export const IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP = 140;
export const IOMMUFD_CMD_HWPT_INVALIDATE = 141;
export const IOMMUFD_CMD_FAULT_QUEUE_ALLOC = 142;
export const IOMMUFD_CMD_IOAS_MAP_FILE = 143;
export const IOMMUFD_CMD_VIOMMU_ALLOC = 144;
export const IOMMUFD_CMD_VDEVICE_ALLOC = 145;
export const IOMMUFD_CMD_IOAS_CHANGE_PROCESS = 146;
export const IOMMUFD_CMD_VEVENTQ_ALLOC = 147;
export const IOMMUFD_CMD_HW_QUEUE_ALLOC = 148;
export const IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA = 149;

export const IommuDestroy = struct({ size: u32, id: u32 });

export const IommuIoasAlloc = struct({ size: u32, flags: u32, out_ioas_id: u32 });

export const IommuIovaRange = struct({ start: u64, last: u64 });

export const IommuIoasIovaRanges = struct({
  size: u32,
  ioas_id: u32,
  num_iovas: u32,
  __reserved: u32,
  allowed_iovas: pointer(),
  out_iova_alignment: u64,
});

export const IommuIoasAllowIovas = struct({
  size: u32,
  ioas_id: u32,
  num_iovas: u32,
  __reserved: u32,
  allowed_iovas: pointer(),
});

export const IOMMU_IOAS_MAP_FIXED_IOVA = 1;
export const IOMMU_IOAS_MAP_WRITEABLE = 2;
export const IOMMU_IOAS_MAP_READABLE = 4;

export const IommuIoasMap = struct({
  size: u32,
  flags: u32,
  ioas_id: u32,
  __reserved: u32,
  user_va: pointer(),
  length: u64,
  iova: u64,
});

export const IommuIoasNoiommuGetPa = struct({
  size: u32,
  flags: u32,
  ioas_id: u32,
  __reserved: u32,
  iova: u64,
  length: u64,
  out_phys: u64,
});

export const IommuIoasMapFile = struct({
  size: u32,
  flags: u32,
  ioas_id: u32,
  fd: fd,
  start: u64,
  length: u64,
  iova: u64,
});

export const IommuIoasCopy = struct({
  size: u32,
  flags: u32,
  dst_ioas_id: u32,
  src_ioas_id: u32,
  length: u64,
  dst_iova: u64,
  src_iova: u64,
});

export const IommuIoasUnmap = struct({ size: u32, ioas_id: u32, iova: u64, length: u64 });

export const IOMMU_OPTION_RLIMIT_MODE = 0;
export const IOMMU_OPTION_HUGE_PAGES = 1;
export const IOMMU_OPTION_OP_SET = 0;
export const IOMMU_OPTION_OP_GET = 1;

export const IommuOption = struct({
  size: u32,
  option_id: u32,
  op: u16,
  __reserved: u16,
  object_id: u32,
  val64: u64,
});

export const IOMMU_VFIO_IOAS_GET = 0;
export const IOMMU_VFIO_IOAS_SET = 1;
export const IOMMU_VFIO_IOAS_CLEAR = 2;

export const IommuVfioIoas = struct({ size: u32, ioas_id: u32, op: u16, __reserved: u16 });

export const IOMMU_HWPT_ALLOC_NEST_PARENT = 1;
export const IOMMU_HWPT_ALLOC_DIRTY_TRACKING = 2;
export const IOMMU_HWPT_FAULT_ID_VALID = 4;
export const IOMMU_HWPT_ALLOC_PASID = 8;

export const IOMMU_VTD_S1_SRE = 1;
export const IOMMU_VTD_S1_EAFE = 2;
export const IOMMU_VTD_S1_WPE = 4;

export const IommuHwptVtdS1 = struct({ flags: u64, pgtbl_addr: u64, addr_width: u32, __reserved: u32 });

export const IommuHwptArmSmmuv3 = struct({ ste: array(u64, 2) });

export const IommuHwptAmdGuest = struct({ dte: array(u64, 4) });

export const IOMMU_HWPT_DATA_NONE = 0;
export const IOMMU_HWPT_DATA_VTD_S1 = 1;
export const IOMMU_HWPT_DATA_ARM_SMMUV3 = 2;
export const IOMMU_HWPT_DATA_AMD_GUEST = 3;

export const IommuHwptAlloc = struct({
  size: u32,
  flags: u32,
  dev_id: u32,
  pt_id: u32,
  out_hwpt_id: u32,
  __reserved: u32,
  data_type: u32,
  data_len: u32,
  data_uptr: pointer(),
  fault_id: u32,
  __reserved2: u32,
});

export const IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17 = 1;

export const IommuHwInfoVtd = struct({ flags: u32, __reserved: u32, cap_reg: u64, ecap_reg: u64 });

export const IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI = 1;

export const IommuHwInfoArmSmmuv3 = struct({
  flags: u32,
  __reserved: u32,
  idr: array(u32, 6),
  iidr: u32,
  aidr: u32,
});

export const IommuHwInfoTegra241Cmdqv = struct({
  flags: u32,
  version: u8,
  log2vcmdqs: u8,
  log2vsids: u8,
  __reserved: u8,
});

export const IommuHwInfoAmd = struct({ efr: u64, efr2: u64 });

export const IOMMU_HW_INFO_TYPE_NONE = 0;
export const IOMMU_HW_INFO_TYPE_DEFAULT = 0;
export const IOMMU_HW_INFO_TYPE_INTEL_VTD = 1;
export const IOMMU_HW_INFO_TYPE_ARM_SMMUV3 = 2;
export const IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV = 3;
export const IOMMU_HW_INFO_TYPE_AMD = 4;
export const IOMMU_HW_CAP_DIRTY_TRACKING = 1;
export const IOMMU_HW_CAP_PCI_PASID_EXEC = 2;
export const IOMMU_HW_CAP_PCI_PASID_PRIV = 4;
export const IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED = 8;
export const IOMMU_HW_INFO_FLAG_INPUT_TYPE = 1;

export const IommuHwInfo = struct({
  size: u32,
  flags: u32,
  dev_id: u32,
  data_len: u32,
  data_uptr: pointer(),
  anonymous: anonymous(union({ in_data_type: u32, out_data_type: u32 })),
  out_max_pasid_log2: u8,
  __reserved: bytes(3),
  out_capabilities: u64,
});

export const IOMMU_HWPT_DIRTY_TRACKING_ENABLE = 1;

export const IommuHwptSetDirtyTracking = struct({ size: u32, flags: u32, hwpt_id: u32, __reserved: u32 });

export const IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR = 1;

export const IommuHwptGetDirtyBitmap = struct({
  size: u32,
  hwpt_id: u32,
  flags: u32,
  __reserved: u32,
  iova: u64,
  length: u64,
  page_size: u64,
  data: pointer(),
});

export const IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 = 0;

export const IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 = 1;

export const IOMMU_VTD_INV_FLAGS_LEAF = 1;

export const IommuHwptVtdS1Invalidate = struct({ addr: u64, npages: u64, flags: u32, __reserved: u32 });

export const IommuViommuArmSmmuv3Invalidate = struct({ cmd: array(u64, 2) });

export const IommuHwptInvalidate = struct({
  size: u32,
  hwpt_id: u32,
  data_uptr: pointer(),
  data_type: u32,
  entry_len: u32,
  entry_num: u32,
  __reserved: u32,
});

export const IOMMU_PGFAULT_FLAGS_PASID_VALID = 1;
export const IOMMU_PGFAULT_FLAGS_LAST_PAGE = 2;
export const IOMMU_PGFAULT_PERM_READ = 1;
export const IOMMU_PGFAULT_PERM_WRITE = 2;
export const IOMMU_PGFAULT_PERM_EXEC = 4;
export const IOMMU_PGFAULT_PERM_PRIV = 8;

export const IommuHwptPgfault = struct({
  flags: u32,
  dev_id: u32,
  pasid: u32,
  grpid: u32,
  perm: u32,
  __reserved: u32,
  addr: u64,
  length: u32,
  cookie: u32,
});

export const IOMMUFD_PAGE_RESP_SUCCESS = 0;
export const IOMMUFD_PAGE_RESP_INVALID = 1;

export const IommuHwptPageResponse = struct({ cookie: u32, code: u32 });

export const IommuFaultAlloc = struct({ size: u32, flags: u32, out_fault_id: u32, out_fault_fd: fdU32 });

export const IOMMU_VIOMMU_TYPE_DEFAULT = 0;
export const IOMMU_VIOMMU_TYPE_ARM_SMMUV3 = 1;
export const IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV = 2;

export const IommuViommuTegra241Cmdqv = struct({ out_vintf_mmap_offset: u64, out_vintf_mmap_length: u64 });

export const IommuViommuAlloc = struct({
  size: u32,
  flags: u32,
  type: u32,
  dev_id: u32,
  hwpt_id: u32,
  out_viommu_id: u32,
  data_len: u32,
  __reserved: u32,
  data_uptr: pointer(),
});

export const IommuVdeviceAlloc = struct({
  size: u32,
  viommu_id: u32,
  dev_id: u32,
  out_vdevice_id: u32,
  virt_id: u64,
});

export const IommuIoasChangeProcess = struct({ size: u32, __reserved: u32 });

export const IOMMU_VEVENTQ_FLAG_LOST_EVENTS = 1;

export const IommufdVeventHeader = struct({ flags: u32, sequence: u32 });

export const IOMMU_VEVENTQ_TYPE_DEFAULT = 0;
export const IOMMU_VEVENTQ_TYPE_ARM_SMMUV3 = 1;
export const IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV = 2;

export const IommuVeventArmSmmuv3 = struct({ evt: array(u64, 4) });

export const IommuVeventTegra241Cmdqv = struct({ lvcmdq_err_map: array(u64, 2) });

export const IommuVeventqAlloc = struct({
  size: u32,
  flags: u32,
  viommu_id: u32,
  type: u32,
  veventq_depth: u32,
  out_veventq_id: u32,
  out_veventq_fd: fdU32,
  __reserved: u32,
});

export const IOMMU_HW_QUEUE_TYPE_DEFAULT = 0;
export const IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV = 1;

export const IommuHwQueueAlloc = struct({
  size: u32,
  flags: u32,
  viommu_id: u32,
  type: u32,
  index: u32,
  out_hw_queue_id: u32,
  nesting_parent_iova: u64,
  length: u64,
});

const iovaBytes = (head: Uint8Array): number =>
  IommuIovaRange.size * load32(head, IommuIoasIovaRanges.offsetOf.num_iovas);
/** One bit a page, in units of 64. */
function dirtyBitmapBytes(head: Uint8Array): number {
  const page = loadNumber64(head, IommuHwptGetDirtyBitmap.offsetOf.page_size);
  const length = loadNumber64(head, IommuHwptGetDirtyBitmap.offsetOf.length);
  return page === 0 ? 0 : Math.ceil(length / page / 64) * 8;
}
const invalidateBytes = (head: Uint8Array): number =>
  load32(head, IommuHwptInvalidate.offsetOf.entry_len) * load32(head, IommuHwptInvalidate.offsetOf.entry_num);

export const IOMMU_DESTROY = io(IOMMUFD_TYPE, IOMMUFD_CMD_DESTROY, {
  on: "iommufd",
  head: IommuDestroy,
  copy: "in",
  tail: 1,
  sized: "size",
});
export const IOMMU_IOAS_ALLOC = io(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOC, {
  on: "iommufd",
  head: IommuIoasAlloc,
  tail: 1,
  sized: "size",
});
export const IOMMU_IOAS_IOVA_RANGES = io(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_IOVA_RANGES, {
  on: "iommufd",
  head: IommuIoasIovaRanges,
  tail: 1,
  sized: "size",
  behind: { allowed_iovas: { copy: "out", bytes: iovaBytes } },
});
export const IOMMU_IOAS_ALLOW_IOVAS = io(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOW_IOVAS, {
  on: "iommufd",
  head: IommuIoasAllowIovas,
  copy: "in",
  tail: 1,
  sized: "size",
  behind: { allowed_iovas: { copy: "in", bytes: iovaBytes } },
});
export const IOMMU_IOAS_MAP = io(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP, {
  on: "iommufd",
  head: IommuIoasMap,
  tail: 1,
  sized: "size",
});
export const IOMMU_IOAS_NOIOMMU_GET_PA = io(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA, {
  on: "iommufd",
  head: IommuIoasNoiommuGetPa,
  tail: 1,
  sized: "size",
});
export const IOMMU_IOAS_MAP_FILE = io(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP_FILE, {
  on: "iommufd",
  head: IommuIoasMapFile,
  tail: 1,
  sized: "size",
});
export const IOMMU_IOAS_COPY = io(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_COPY, {
  on: "iommufd",
  head: IommuIoasCopy,
  tail: 1,
  sized: "size",
});
export const IOMMU_IOAS_UNMAP = io(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_UNMAP, {
  on: "iommufd",
  head: IommuIoasUnmap,
  tail: 1,
  sized: "size",
});
export const IOMMU_OPTION = io(IOMMUFD_TYPE, IOMMUFD_CMD_OPTION, {
  on: "iommufd",
  head: IommuOption,
  tail: 1,
  sized: "size",
});
export const IOMMU_VFIO_IOAS = io(IOMMUFD_TYPE, IOMMUFD_CMD_VFIO_IOAS, {
  on: "iommufd",
  head: IommuVfioIoas,
  tail: 1,
  sized: "size",
});
export const IOMMU_HWPT_ALLOC = io(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_ALLOC, {
  on: "iommufd",
  head: IommuHwptAlloc,
  tail: 1,
  sized: "size",
  behind: { data_uptr: { copy: "in", bytes: "data_len" } },
});
export const IOMMU_GET_HW_INFO = io(IOMMUFD_TYPE, IOMMUFD_CMD_GET_HW_INFO, {
  on: "iommufd",
  head: IommuHwInfo,
  tail: 1,
  sized: "size",
  behind: { data_uptr: { copy: "out", bytes: "data_len" } },
});
export const IOMMU_HWPT_SET_DIRTY_TRACKING = io(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING, {
  on: "iommufd",
  head: IommuHwptSetDirtyTracking,
  copy: "in",
  tail: 1,
  sized: "size",
});
export const IOMMU_HWPT_GET_DIRTY_BITMAP = io(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP, {
  on: "iommufd",
  head: IommuHwptGetDirtyBitmap,
  copy: "in",
  tail: 1,
  sized: "size",
  behind: { data: { copy: "out", bytes: dirtyBitmapBytes } },
});
export const IOMMU_HWPT_INVALIDATE = io(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_INVALIDATE, {
  on: "iommufd",
  head: IommuHwptInvalidate,
  tail: 1,
  sized: "size",
  behind: { data_uptr: { copy: "in", bytes: invalidateBytes } },
});
export const IOMMU_FAULT_QUEUE_ALLOC = io(IOMMUFD_TYPE, IOMMUFD_CMD_FAULT_QUEUE_ALLOC, {
  on: "iommufd",
  head: IommuFaultAlloc,
  tail: 1,
  sized: "size",
});
export const IOMMU_VIOMMU_ALLOC = io(IOMMUFD_TYPE, IOMMUFD_CMD_VIOMMU_ALLOC, {
  on: "iommufd",
  head: IommuViommuAlloc,
  tail: 1,
  sized: "size",
  behind: { data_uptr: { copy: "inout", bytes: "data_len" } },
});
export const IOMMU_VDEVICE_ALLOC = io(IOMMUFD_TYPE, IOMMUFD_CMD_VDEVICE_ALLOC, {
  on: "iommufd",
  head: IommuVdeviceAlloc,
  tail: 1,
  sized: "size",
});
export const IOMMU_IOAS_CHANGE_PROCESS = io(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_CHANGE_PROCESS, {
  on: "iommufd",
  head: IommuIoasChangeProcess,
  copy: "in",
  tail: 1,
  sized: "size",
});
export const IOMMU_VEVENTQ_ALLOC = io(IOMMUFD_TYPE, IOMMUFD_CMD_VEVENTQ_ALLOC, {
  on: "iommufd",
  head: IommuVeventqAlloc,
  tail: 1,
  sized: "size",
});
export const IOMMU_HW_QUEUE_ALLOC = io(IOMMUFD_TYPE, IOMMUFD_CMD_HW_QUEUE_ALLOC, {
  on: "iommufd",
  head: IommuHwQueueAlloc,
  tail: 1,
  sized: "size",
});
