/**
 * iommufd: the file /dev/iommu (drivers/iommu/iommufd/main.c, ioas.c, 6.12). It holds objects by number: address spaces
 * (IOAS), page tables (HWPT), devices that were bound to it. Numbers begin at 1, the lowest free one is taken. An object
 * in use is not destroyed: EBUSY.
 *
 * Every request's struct begins with its size: too short is EINVAL; what lies beyond the struct that this release knows
 * must be zero, else E2BIG. Numbers below 0x80 are VFIO's container requests (iommufd-vfio.ts).
 *
 * Missing: nested page tables, fault queues, virtual IOMMUs, maps of files (IOMMU_IOAS_MAP_FILE, 6.13 and later),
 * dirty tracking (no recorded IOMMU has it): a request that is missing answers ENOTTY as an unknown one does.
 */
import {
  E2BIG,
  EBUSY,
  EFAULT,
  EINVAL,
  EMSGSIZE,
  ENODEV,
  ENOENT,
  ENOMEM,
  ENOTTY,
  EOPNOTSUPP,
  EOVERFLOW,
} from "../abi/errno.ts";
import type { Request } from "../abi/ioctl.ts";
import {
  IOMMU_DESTROY,
  IOMMU_GET_HW_INFO,
  IOMMU_HWPT_ALLOC,
  IOMMU_HWPT_GET_DIRTY_BITMAP,
  IOMMU_HWPT_SET_DIRTY_TRACKING,
  IOMMU_IOAS_ALLOC,
  IOMMU_IOAS_ALLOW_IOVAS,
  IOMMU_IOAS_COPY,
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  IOMMU_IOAS_UNMAP,
  IOMMU_OPTION,
  IOMMU_OPTION_HUGE_PAGES,
  IOMMU_OPTION_OP_GET,
  IOMMU_OPTION_OP_SET,
  IOMMU_OPTION_RLIMIT_MODE,
  IOMMU_VFIO_IOAS,
  IOMMU_VFIO_IOAS_CLEAR,
  IOMMU_VFIO_IOAS_GET,
  IOMMU_VFIO_IOAS_SET,
  IOMMUFD_CMD_BASE,
  IommuDestroy,
  IommuHwInfo,
  IommuHwptAlloc,
  IommuHwptGetDirtyBitmap,
  IommuHwptSetDirtyTracking,
  IommuIoasAlloc,
  IommuIoasAllowIovas,
  IommuIoasCopy,
  IommuIoasIovaRanges,
  IommuIoasMap,
  IommuIoasUnmap,
  IommuIovaRange,
  IommuOption,
  IommuVfioIoas,
} from "../abi/iommufd.ts";
import { load32, load64, type StructType, store32, store64 } from "../abi/struct.ts";
import type { Argument } from "../kernel/argument.ts";
import { File } from "../kernel/file.ts";
import type { Process } from "../kernel/process.ts";
import { BoundDevice, type DeviceGroup } from "./bound-device.ts";
import { genericNumber } from "./generic-number.ts";
import type { IommuGroup, VfioHost } from "./host.ts";
import type { Pages } from "./io-address-space.ts";
import { Ioas } from "./ioas.ts";
import type { AddressRange } from "./iommu-hardware.ts";
import type { IommufdObject } from "./iommufd-object.ts";
import { vfioRequest } from "./iommufd-vfio.ts";
import { PageTable } from "./page-table.ts";
import { accountOf } from "./pinned-memory.ts";

const MAX64 = 0xffff_ffff_ffff_ffffn;
/** bytes of a program's range struct */
const RANGE = IommuIovaRange.size;

/** What a request does with its struct: 0, with the struct to be answered, or −errno and nothing written. */
type Execute = (iommufd: Iommufd, bytes: Uint8Array, process: Process, user: Argument) => number;

interface Operation {
  /** bytes of the struct that this release knows, and how few of them will do */
  readonly size: number;
  readonly least: number;
  /** whether the struct is written back */
  readonly answers: boolean;
  readonly execute: Execute;
}

export class Iommufd {
  readonly host: VfioHost;
  readonly objects = new Map<number, IommufdObject>();
  /** how the bound devices of each IOMMU group are attached */
  readonly groups = new Map<IommuGroup, DeviceGroup>();
  /** the address space that VFIO's container requests mean */
  vfioIoas: Ioas | undefined;
  /** a group without an IOMMU uses it as its container */
  noiommu = false;
  /** pinned pages are charged to the memory's own account, not to the user's */
  chargesMemory = false;

  constructor(host: VfioHost) {
    this.host = host;
  }

  lowestFreeId(): number {
    let id = 1;
    while (this.objects.has(id)) id++;
    return id;
  }

  add<T extends IommufdObject>(object: T): T {
    this.objects.set(object.id, object);
    return object;
  }

  ioas(id: number): Ioas | undefined {
    const object = this.objects.get(id);
    return object instanceof Ioas ? object : undefined;
  }

  /** A new address space, or ENOMEM. */
  allocateIoas(): Ioas | number {
    if (this.fails("iommufd_ioas")) return -ENOMEM;
    return this.add(new Ioas(this.lowestFreeId(), this.host.kernel.pageSize));
  }

  /** The container's address space, made where there is none; ENOMEM. */
  compatIoas(): Ioas | number {
    if (this.vfioIoas !== undefined) return this.vfioIoas;
    const made = this.allocateIoas();
    if (typeof made !== "number") this.vfioIoas = made;
    return made;
  }

  /** Whether an allocation fails. */
  fails(what: string): boolean {
    return this.host.kernel.faults.allocation(what);
  }

  /** ENOENT, EBUSY while it is in use. */
  destroy(id: number): number {
    const object = this.objects.get(id);
    if (object === undefined) return -ENOENT;
    if (object.users !== 0) return -EBUSY;
    this.remove(object);
    return 0;
  }

  remove(object: IommufdObject): void {
    this.objects.delete(object.id);
    if (this.vfioIoas === object) this.vfioIoas = undefined;
    object.destroy();
  }

  /** Memory of the program, charged as this iommufd charges. */
  pages(process: Process, address: bigint, length: bigint, writable: boolean): Pages | number {
    if (length === 0n || length > MAX64 - BigInt(process.mm.pageSize)) return -EINVAL;
    if (address + length > MAX64) return -EOVERFLOW;
    if (this.fails("iopt_pages")) return -ENOMEM;
    const account = accountOf(this.chargesMemory ? process.mm : this.host.kernel);
    return { process, address, length, writable, account };
  }
}

export class IommufdFile extends File {
  readonly name: string;
  readonly iommufd: Iommufd;
  override readonly stream = false;

  constructor(host: VfioHost, flags: number, name = "/dev/iommu") {
    super(host.kernel, flags);
    this.name = name;
    this.iommufd = new Iommufd(host);
  }

  /** A new iommufd, or ENOMEM. */
  static open(host: VfioHost, flags: number): IommufdFile | number {
    return host.kernel.faults.allocation("iommufd_ctx") ? -ENOMEM : new IommufdFile(host, flags);
  }

  override ioctl(process: Process, request: number, user: Argument): number {
    const { iommufd } = this;
    const number = genericNumber(process, request);
    if ((number & 0xff) < IOMMUFD_CMD_BASE) return vfioRequest(iommufd, process, number, user);
    const operation = operations.get(number);
    if (operation === undefined) return -ENOTTY;
    if (!user.readable(4)) return -EFAULT;
    const claimed = load32(user.bytes, user.at);
    if (claimed < operation.least) return -EINVAL;
    if (!user.readable(claimed)) return -EFAULT;
    const { size } = operation;
    const given = user.bytes.subarray(user.at, user.at + claimed);
    if (given.subarray(size).some((byte) => byte !== 0)) return -E2BIG;
    const bytes = new Uint8Array(size);
    bytes.set(given.subarray(0, size));
    const result = operation.execute(iommufd, bytes, process, user);
    if ((result < 0 && result !== -EMSGSIZE) || !operation.answers) return result;
    const answered = Math.min(claimed, size);
    if (!user.writable(answered)) return -EFAULT;
    user.bytes.set(bytes.subarray(0, answered), user.at);
    return result;
  }

  /** Devices hold the file: none is bound any more. */
  override release(): void {
    const { objects } = this.iommufd;
    while (objects.size !== 0)
      for (const object of [...objects.values()]) if (object.users === 0) this.iommufd.remove(object);
  }
}

// --- address spaces -----------------------------------------------------------------------------------------------

const mapFlags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
const accessFlags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;

const ioasAlloc: Execute = (iommufd, bytes) => {
  const command = IommuIoasAlloc.at(bytes);
  if (command.flags !== 0) return -EOPNOTSUPP;
  const ioas = iommufd.allocateIoas();
  if (typeof ioas === "number") return ioas;
  command.out_ioas_id = ioas.id;
  return 0;
};

/** EMSGSIZE where there are more ranges than the program has room for: it is told how many. */
const iovaRanges: Execute = (iommufd, bytes, _process, user) => {
  const command = IommuIoasIovaRanges.at(bytes);
  if (command.__reserved !== 0) return -EOPNOTSUPP;
  const ioas = iommufd.ioas(command.ioas_id);
  if (ioas === undefined) return -ENOENT;
  const { ranges, alignment } = ioas.map;
  const room = command.num_iovas;
  const target = Number(command.allowed_iovas);
  for (const [i, { start, end }] of ranges.slice(0, room).entries())
    if (!user.pointer(target + i * RANGE).copyOut(IommuIovaRange.encode({ start, last: end })))
      return -EFAULT;
  command.num_iovas = ranges.length;
  command.out_iova_alignment = alignment;
  return ranges.length > room ? -EMSGSIZE : 0;
};

const allowIovas: Execute = (iommufd, bytes, _process, user) => {
  const { __reserved, ioas_id, num_iovas, allowed_iovas } = IommuIoasAllowIovas.decode(bytes);
  if (__reserved !== 0) return -EOPNOTSUPP;
  const ioas = iommufd.ioas(ioas_id);
  if (ioas === undefined) return -ENOENT;
  const ranges: AddressRange[] = [];
  for (let i = 0; i < num_iovas; i++) {
    const source = user.pointer(Number(allowed_iovas) + i * RANGE);
    if (!source.readable(RANGE)) return -EFAULT;
    const range = { start: load64(source.bytes, source.at), end: load64(source.bytes, source.at + 8) };
    if (range.start >= range.end) return -EINVAL;
    if (ranges.some(({ start, end }) => start <= range.end && end >= range.start)) return -EINVAL;
    ranges.push(range);
  }
  return ioas.map.allow(ranges);
};

const ioasMap: Execute = (iommufd, bytes, process) => {
  const command = IommuIoasMap.at(bytes);
  const { flags, length, iova } = command;
  if ((flags & ~mapFlags) !== 0 || command.__reserved !== 0) return -EOPNOTSUPP;
  if (iova === MAX64 || length === MAX64) return -EOVERFLOW;
  if ((flags & accessFlags) === 0) return -EINVAL;
  const ioas = iommufd.ioas(command.ioas_id);
  if (ioas === undefined) return -ENOENT;
  const writable = (flags & IOMMU_IOAS_MAP_WRITEABLE) !== 0;
  const pages = iommufd.pages(process, command.user_va, length, writable);
  if (typeof pages === "number") return pages;
  const fixed = (flags & IOMMU_IOAS_MAP_FIXED_IOVA) !== 0;
  const mapped = ioas.map.map([{ pages, offset: 0n, length }], fixed ? iova : undefined, writable);
  if (typeof mapped === "number") return mapped;
  command.iova = mapped;
  return 0;
};

const ioasCopy: Execute = (iommufd, bytes) => {
  const command = IommuIoasCopy.at(bytes);
  const { flags, length, dst_iova, src_iova } = command;
  if ((flags & ~mapFlags) !== 0) return -EOPNOTSUPP;
  if (length === MAX64 || dst_iova === MAX64 || src_iova === MAX64) return -EOVERFLOW;
  if ((flags & accessFlags) === 0) return -EINVAL;
  const slices = iommufd.ioas(command.src_ioas_id)?.map.slices(src_iova, length) ?? -ENOENT;
  if (typeof slices === "number") return slices;
  const target = iommufd.ioas(command.dst_ioas_id);
  if (target === undefined) return -ENOENT;
  const fixed = (flags & IOMMU_IOAS_MAP_FIXED_IOVA) !== 0;
  const writable = (flags & IOMMU_IOAS_MAP_WRITEABLE) !== 0;
  const mapped = target.map.map(slices, fixed ? dst_iova : undefined, writable);
  if (typeof mapped === "number") return mapped;
  command.dst_iova = mapped;
  return 0;
};

/** From 0, of the greatest length: everything, and that succeeds where nothing is mapped. */
const ioasUnmap: Execute = (iommufd, bytes) => {
  const command = IommuIoasUnmap.at(bytes);
  const ioas = iommufd.ioas(command.ioas_id);
  if (ioas === undefined) return -ENOENT;
  const { iova, length } = command;
  if (iova === 0n && length === MAX64) {
    command.length = ioas.map.unmapAll();
    return 0;
  }
  if (iova === MAX64 || length === MAX64) return -EOVERFLOW;
  if (length === 0n) return -EINVAL;
  if (iova + length - 1n > MAX64) return -EOVERFLOW;
  const unmapped = ioas.map.unmap(iova, iova + length - 1n);
  if (typeof unmapped === "number") return unmapped;
  command.length = unmapped;
  return 0;
};

// --- options ------------------------------------------------------------------------------------------------------

/** Only the value is written back. */
const option: Execute = (iommufd, bytes, _process, user) => {
  const command = IommuOption.at(bytes);
  if (command.__reserved !== 0) return -EOPNOTSUPP;
  const value =
    command.option_id === IOMMU_OPTION_RLIMIT_MODE
      ? rlimitMode(iommufd, command.op, command.object_id, command.val64)
      : command.option_id === IOMMU_OPTION_HUGE_PAGES
        ? hugePages(iommufd.ioas(command.object_id), command.op, command.val64)
        : -EOPNOTSUPP;
  if (typeof value === "number") return value;
  if (!user.writable(8, IommuOption.offsetOf.val64)) return -EFAULT;
  store64(user.bytes, user.at + IommuOption.offsetOf.val64, value);
  return 0;
};

/** Who is charged for pinned memory: 0 the user, 1 the memory; EBUSY once there is an object. */
function rlimitMode(iommufd: Iommufd, op: number, id: number, value: bigint): bigint | number {
  if (id !== 0) return -EOPNOTSUPP;
  if (op === IOMMU_OPTION_OP_GET) return iommufd.chargesMemory ? 1n : 0n;
  if (op !== IOMMU_OPTION_OP_SET) return -EOPNOTSUPP;
  if (iommufd.objects.size !== 0) return -EBUSY;
  if (value > 1n) return -EINVAL;
  iommufd.chargesMemory = value === 1n;
  return value;
}

function hugePages(ioas: Ioas | undefined, op: number, value: bigint): bigint | number {
  if (ioas === undefined) return -ENOENT;
  if (op === IOMMU_OPTION_OP_GET) return ioas.map.largePages ? 1n : 0n;
  if (op !== IOMMU_OPTION_OP_SET) return -EOPNOTSUPP;
  if (value > 1n) return -EINVAL;
  if (value === 1n) ioas.map.enableLargePages();
  else {
    const disabled = ioas.map.disableLargePages();
    if (disabled < 0) return disabled;
  }
  return value;
}

const vfioIoas: Execute = (iommufd, bytes, _process, user) => {
  const command = IommuVfioIoas.at(bytes);
  if (command.__reserved !== 0) return -EOPNOTSUPP;
  switch (command.op) {
    case IOMMU_VFIO_IOAS_GET: {
      const ioas = iommufd.vfioIoas;
      if (ioas === undefined) return -ENODEV;
      if (!user.writable(IommuVfioIoas.size)) return -EFAULT;
      store32(user.bytes, user.at + IommuVfioIoas.offsetOf.ioas_id, ioas.id);
      return 0;
    }
    case IOMMU_VFIO_IOAS_SET: {
      const ioas = iommufd.ioas(command.ioas_id);
      if (ioas === undefined) return -ENOENT;
      iommufd.vfioIoas = ioas;
      return 0;
    }
    case IOMMU_VFIO_IOAS_CLEAR:
      iommufd.vfioIoas = undefined;
      return 0;
    default:
      return -EOPNOTSUPP;
  }
};

// --- devices and page tables --------------------------------------------------------------------------------------

/** What the hardware tells about itself; as much as the program has room for, the rest of its room is zeroed. */
const hardwareInfo: Execute = (iommufd, bytes, _process, user) => {
  const command = IommuHwInfo.at(bytes);
  if (command.flags !== 0 || command.__reserved.some((byte) => byte !== 0)) return -EOPNOTSUPP;
  const device = iommufd.objects.get(command.dev_id);
  if (!(device instanceof BoundDevice)) return -ENOENT;
  const { infoType, info } = device.hardware;
  const room = new Uint8Array(command.data_len);
  room.set(info.subarray(0, room.length));
  if (room.length !== 0 && !user.pointer(Number(command.data_uptr)).copyOut(room)) return -EFAULT;
  command.data_len = info.length;
  command.out_data_type = infoType;
  command.out_capabilities = 0n;
  return 0;
};

/** ENOENT for the device, EINVAL for what it is made over, EOPNOTSUPP for flags: no hardware here has nesting. */
const allocateTable: Execute = (iommufd, bytes) => {
  const command = IommuHwptAlloc.at(bytes);
  if (command.__reserved !== 0) return -EOPNOTSUPP;
  if ((command.data_type === 0) !== (command.data_len === 0)) return -EINVAL;
  const device = iommufd.objects.get(command.dev_id);
  if (!(device instanceof BoundDevice)) return -ENOENT;
  const ioas = iommufd.ioas(command.pt_id);
  if (ioas === undefined) return -EINVAL;
  if (command.flags !== 0 || command.data_type !== 0) return -EOPNOTSUPP;
  const table = PageTable.allocate(iommufd, ioas, device.hardware, false);
  if (typeof table === "number") return table;
  command.out_hwpt_id = table.id;
  return 0;
};

const tableOf = (iommufd: Iommufd, id: number): PageTable | undefined => {
  const object = iommufd.objects.get(id);
  return object instanceof PageTable ? object : undefined;
};

const setDirtyTracking: Execute = (iommufd, bytes) =>
  tableOf(iommufd, IommuHwptSetDirtyTracking.at(bytes).hwpt_id) === undefined ? -ENOENT : -EOPNOTSUPP;

const getDirtyBitmap: Execute = (iommufd, bytes) =>
  tableOf(iommufd, IommuHwptGetDirtyBitmap.at(bytes).hwpt_id) === undefined ? -ENOENT : -EOPNOTSUPP;

const destroy: Execute = (iommufd, bytes) => iommufd.destroy(IommuDestroy.at(bytes).id);

const operation = (
  request: Request,
  struct: StructType,
  least: number,
  execute: Execute,
  answers = true,
): [number, Operation] => [request.number, { size: struct.size, least, answers, execute }];

const operations = new Map<number, Operation>([
  operation(IOMMU_DESTROY, IommuDestroy, 8, destroy, false),
  operation(IOMMU_IOAS_ALLOC, IommuIoasAlloc, 12, ioasAlloc),
  operation(IOMMU_IOAS_IOVA_RANGES, IommuIoasIovaRanges, 32, iovaRanges),
  operation(IOMMU_IOAS_ALLOW_IOVAS, IommuIoasAllowIovas, 24, allowIovas, false),
  operation(IOMMU_IOAS_MAP, IommuIoasMap, 40, ioasMap),
  operation(IOMMU_IOAS_COPY, IommuIoasCopy, 40, ioasCopy),
  operation(IOMMU_IOAS_UNMAP, IommuIoasUnmap, 24, ioasUnmap),
  operation(IOMMU_OPTION, IommuOption, 24, option, false),
  operation(IOMMU_VFIO_IOAS, IommuVfioIoas, 12, vfioIoas, false),
  operation(IOMMU_GET_HW_INFO, IommuHwInfo, 32, hardwareInfo),
  operation(IOMMU_HWPT_ALLOC, IommuHwptAlloc, 24, allocateTable),
  operation(IOMMU_HWPT_SET_DIRTY_TRACKING, IommuHwptSetDirtyTracking, 16, setDirtyTracking, false),
  operation(IOMMU_HWPT_GET_DIRTY_BITMAP, IommuHwptGetDirtyBitmap, 48, getDirtyBitmap, false),
]);
