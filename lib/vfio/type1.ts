/**
 * The type 1 IOMMU driver: the container's map of I/O addresses to memory of the program
 * (drivers/vfio/vfio_iommu_type1.c, 6.1 and 6.12). Version 1 and version 2 (VFIO_TYPE1v2_IOMMU) differ in unmap: version 2
 * refuses to cut a mapping, version 1 takes a mapping whole if its first address is in the range, and dirty tracking is
 * version 2's alone.
 *
 * I/O addresses are 64 bits wide: bigints here. Before 6.18 the end of a range was compared wrapped around, so a mapping
 * that ends at 2^64 was not found as an overlap.
 *
 * Missing: mediated devices (pages pinned by a driver), nested translation (refused as on every recorded IOMMU), waiting
 * for a virtual address to become valid again. Memory of a device is pinned whether or not its decoding is on.
 */
import {
  EACCES,
  EBUSY,
  EEXIST,
  EFAULT,
  EINVAL,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ENOTTY,
  EOVERFLOW,
  EPERM,
} from "../abi/errno.ts";
import {
  __VFIO_RESERVED_TYPE1_NESTING_IOMMU,
  VFIO_DMA_CC_IOMMU,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_VADDR,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
  VFIO_DMA_UNMAP_FLAG_VADDR,
  VFIO_IOMMU_DIRTY_PAGES,
  VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
  VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
  VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_INFO_CAPS,
  VFIO_IOMMU_INFO_PGSIZES,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1v2_IOMMU,
  VFIO_UNMAP_ALL,
  VFIO_UPDATE_VADDR,
  VfioBitmap,
  VfioIommuType1DirtyBitmap,
  VfioIommuType1DirtyBitmapGet,
  VfioIommuType1DmaMap,
  VfioIommuType1DmaUnmap,
  VfioIommuType1Info,
  VfioIommuType1InfoCapMigration,
} from "../abi/vfio.ts";
import type { AddressSpace } from "../kernel/address-space.ts";
import type { Argument } from "../kernel/argument.ts";
import type { Process } from "../kernel/process.ts";
import { bitmapBytes, DirtyBitmap } from "./dirty-bitmap.ts";
import type { VfioGroup } from "./group.ts";
import type { VfioHost } from "./host.ts";
import { addressRanges, chain, mappingsLeft } from "./info-capabilities.ts";
import type { Iommu, IommuDriver } from "./iommu-driver.ts";
import { type AddressRange, fromPage, iommuHardware, without } from "./iommu-hardware.ts";
import { accountOf, pin } from "./pinned-memory.ts";

const U64 = 64;
const MAX64 = 0xffff_ffff_ffff_ffffn;
/** bytes of a bitmap of 2^31 − 1 pages (DIRTY_BITMAP_SIZE_MAX) */
const MAX_DIRTY_BITMAP = 1n << 28n;
/** bytes of an info struct up to and including iova_pgsizes, and cap_offset */
const INFO_LEAST = 16;
const INFO_WITH_CAP_OFFSET = 20;

/** One mapping of the program's. */
interface Dma {
  readonly iova: bigint;
  readonly size: bigint;
  vaddr: number;
  /** the memory that was pinned and is charged for it */
  mm: AddressSpace;
  readonly locked: number;
  /** taken away by VFIO_DMA_UNMAP_FLAG_VADDR: the mapping stays, its address in the program is to be told again */
  vaddrInvalid: boolean;
  dirty: DirtyBitmap | undefined;
}

export const type1: IommuDriver = {
  name: "vfio-iommu-type1",
  noiommu: false,

  checkExtension(host, extension, iommu) {
    switch (extension) {
      case VFIO_TYPE1_IOMMU:
      case VFIO_TYPE1v2_IOMMU:
      case VFIO_UNMAP_ALL:
        return 1;
      case __VFIO_RESERVED_TYPE1_NESTING_IOMMU:
        return host.behaviour.type1NestingGone ? 0 : 1;
      case VFIO_UPDATE_VADDR:
        return iommu === undefined ? 0 : 1;
      case VFIO_DMA_CC_IOMMU:
        return iommu !== undefined && host.iommu.cacheCoherent === true ? 1 : 0;
      default:
        return 0;
    }
  },

  /** EINVAL for an extension that is no type; nesting is accepted and then refused by the IOMMU. */
  open(host, type) {
    if (host.kernel.faults.allocation("vfio_iommu")) return -ENOMEM;
    if (type === VFIO_TYPE1_IOMMU) return new Type1(host, false, false);
    if (type === VFIO_TYPE1v2_IOMMU) return new Type1(host, true, false);
    if (type === __VFIO_RESERVED_TYPE1_NESTING_IOMMU && !host.behaviour.type1NestingGone)
      return new Type1(host, true, true);
    return -EINVAL;
  },
};

class Type1 implements Iommu {
  readonly driver = type1;
  readonly #host: VfioHost;
  readonly #v2: boolean;
  readonly #nesting: boolean;
  readonly #groups = new Set<VfioGroup>();
  /** by address, ascending */
  readonly #mappings: Dma[] = [];
  /** addresses that may be mapped, ascending */
  #ranges: readonly AddressRange[] = [];
  #pageSizes: bigint;
  /** how many more mappings there may be */
  #available: number;
  #invalidVaddrs = 0;
  #tracking = false;

  constructor(host: VfioHost, v2: boolean, nesting: boolean) {
    this.#host = host;
    this.#v2 = v2;
    this.#nesting = nesting;
    this.#available = host.options.dma_entry_limit;
    this.#pageSizes = MAX64 - BigInt(host.kernel.pageSize - 1);
  }

  /** EBUSY while an address is invalid, EINVAL for nesting, EPERM without interrupt remapping, ENOMEM. */
  attach(group: VfioGroup): number {
    if (this.#invalidVaddrs !== 0) return -EBUSY;
    if (this.#nesting) return -EINVAL;
    const host = this.#host;
    const hardware = iommuHardware(host);
    if (host.kernel.faults.allocation("vfio_domain")) return -ENOMEM;
    if (!host.iommu.interruptRemapping && !host.options.allow_unsafe_interrupts) return -EPERM;
    this.#groups.add(group);
    this.#ranges = without(hardware.aperture, hardware.reserved);
    this.#pageSizes = fromPage(hardware.pageSizes, host.kernel.pageSize);
    return 0;
  }

  detach(group: VfioGroup): void {
    this.#groups.delete(group);
    if (this.#groups.size === 0) this.release();
  }

  release(): void {
    for (const dma of this.#mappings.splice(0)) this.#unpin(dma);
  }

  ioctl(process: Process, request: number, user: Argument): number {
    switch (request) {
      case VFIO_IOMMU_GET_INFO.number:
        return this.#getInfo(user);
      case VFIO_IOMMU_MAP_DMA.number:
        return this.#map(process, user);
      case VFIO_IOMMU_UNMAP_DMA.number:
        return this.#unmap(process, user);
      case VFIO_IOMMU_DIRTY_PAGES.number:
        return this.#dirtyPages(process, user);
      default:
        return -ENOTTY;
    }
  }

  // --- VFIO_IOMMU_GET_INFO ----------------------------------------------------------------------------------------

  /** The capabilities follow where argsz leaves room for all of them; else argsz tells how much room they need. */
  #getInfo(user: Argument): number {
    if (!user.readable(INFO_LEAST)) return -EFAULT;
    const { argsz } = VfioIommuType1Info.decode(user.bytes, user.at);
    if (argsz < INFO_LEAST) return -EINVAL;
    const size = argsz >= INFO_WITH_CAP_OFFSET ? INFO_WITH_CAP_OFFSET : INFO_LEAST;
    const capabilities = chain(
      VfioIommuType1Info.size,
      this.#capabilities(),
      this.#host.behaviour.vfioCapabilitiesAligned ? 8 : 1,
    );
    const whole = VfioIommuType1Info.size + capabilities.length;
    const fits = argsz >= whole;
    if (fits) {
      if (!user.writable(capabilities.length, VfioIommuType1Info.size)) return -EFAULT;
      user.bytes.set(capabilities, user.at + VfioIommuType1Info.size);
      user.finish();
    }
    const info = VfioIommuType1Info.encode({
      argsz: fits ? argsz : whole,
      flags: VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS,
      iova_pgsizes: this.#pageSizes,
      cap_offset: fits ? VfioIommuType1Info.size : 0,
    });
    if (!user.writable(size)) return -EFAULT;
    user.bytes.set(info.subarray(0, size), user.at);
    return 0;
  }

  #capabilities(): Uint8Array[] {
    const migration = VfioIommuType1InfoCapMigration.encode({
      header: { id: VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, version: 1 },
      pgsize_bitmap: this.#pageSize,
      max_dirty_bitmap_size: MAX_DIRTY_BITMAP,
    });
    return [migration, mappingsLeft(this.#available), addressRanges(this.#ranges)];
  }

  /** the smallest page that can be mapped */
  get #pageSize(): bigint {
    return this.#pageSizes & -this.#pageSizes;
  }

  // --- VFIO_IOMMU_MAP_DMA -----------------------------------------------------------------------------------------

  /**
   * EINVAL for wrong flags, alignment, a range outside the IOMMU's; EOVERFLOW (EINVAL before 6.18) for one that wraps;
   * EEXIST, ENOSPC at the limit of mappings, EFAULT, ENOMEM at the limit of locked memory.
   */
  #map(process: Process, user: Argument): number {
    if (!user.readable(VfioIommuType1DmaMap.size)) return -EFAULT;
    const { argsz, flags, vaddr, iova, size } = VfioIommuType1DmaMap.decode(user.bytes, user.at);
    const access = flags & (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
    const setVaddr = (flags & VFIO_DMA_MAP_FLAG_VADDR) !== 0;
    if (argsz < VfioIommuType1DmaMap.size || (flags & ~(access | VFIO_DMA_MAP_FLAG_VADDR)) !== 0)
      return -EINVAL;
    const unaligned = size === 0n || ((size | iova | vaddr) & (this.#pageSize - 1n)) !== 0n;
    const wraps = iova + size - 1n > MAX64 || vaddr + size - 1n > MAX64;
    if (this.#wholeEnds) {
      if (size === 0n) return -EINVAL;
      if (wraps) return -EOVERFLOW;
    }
    if ((access !== 0) === setVaddr || unaligned || wraps) return -EINVAL;
    const found = this.#mappings.find((dma) => this.#overlaps(dma, iova, size));
    if (setVaddr) return this.#setVaddr(process, found, iova, size, Number(vaddr));
    if (found !== undefined) return -EEXIST;
    if (this.#available === 0) return -ENOSPC;
    if (!this.#ranges.some(({ start, end }) => iova >= start && iova + size - 1n <= end)) return -EINVAL;
    if (this.#host.kernel.faults.allocation("vfio_dma")) return -ENOMEM;
    const writable = (access & VFIO_DMA_MAP_FLAG_WRITE) !== 0;
    const { longtermUnshares } = this.#host.behaviour;
    const locked = pin(process, Number(vaddr), Number(size), writable, longtermUnshares);
    if (locked < 0) return locked;
    const { mm } = process;
    accountOf(mm).charge(locked);
    this.#insert({
      iova,
      size,
      vaddr: Number(vaddr),
      mm,
      locked,
      vaddrInvalid: false,
      dirty: this.#tracking ? new DirtyBitmap(Number(size / this.#pageSize)) : undefined,
    });
    return 0;
  }

  #insert(dma: Dma): void {
    const mappings = this.#mappings;
    let index = mappings.length;
    while (index > 0 && mappings[index - 1].iova > dma.iova) index--;
    mappings.splice(index, 0, dma);
    this.#available--;
  }

  /** ENOENT, EINVAL where it is not exactly a mapping with an invalid address; ENOMEM at the new owner's limit. */
  #setVaddr(process: Process, dma: Dma | undefined, iova: bigint, size: bigint, vaddr: number): number {
    if (dma === undefined) return -ENOENT;
    if (!dma.vaddrInvalid || dma.iova !== iova || dma.size !== size) return -EINVAL;
    const { mm } = process;
    if (mm !== dma.mm) {
      if (dma.locked > accountOf(mm).room(process)) return -ENOMEM;
      accountOf(mm).charge(dma.locked);
      accountOf(dma.mm).charge(-dma.locked);
      dma.mm = mm;
    }
    dma.vaddr = vaddr;
    dma.vaddrInvalid = false;
    this.#invalidVaddrs--;
    return 0;
  }

  // --- VFIO_IOMMU_UNMAP_DMA ---------------------------------------------------------------------------------------

  /** Writes how many bytes were unmapped; nothing is written with an error. */
  #unmap(process: Process, user: Argument): number {
    if (!user.readable(VfioIommuType1DmaUnmap.size)) return -EFAULT;
    const { argsz, flags, iova, size } = VfioIommuType1DmaUnmap.decode(user.bytes, user.at);
    const reporting = (flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) !== 0;
    const others = flags & (VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR);
    if (argsz < VfioIommuType1DmaUnmap.size) return -EINVAL;
    if ((flags & ~(VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | others)) !== 0) return -EINVAL;
    if (reporting && others !== 0) return -EINVAL;
    let bitmap: Bitmap | undefined;
    if (reporting) {
      if (argsz < VfioIommuType1DmaUnmap.size + VfioBitmap.size) return -EINVAL;
      if (!user.readable(VfioBitmap.size, VfioIommuType1DmaUnmap.size)) return -EFAULT;
      bitmap = readBitmap(user, VfioIommuType1DmaUnmap.size);
      const refused = checkBitmap(bitmap, size, process.mm);
      if (refused < 0) return refused;
    }
    const unmapped = this.#takeOut(process, iova, size, flags, bitmap);
    if (typeof unmapped === "number") return unmapped;
    if (!user.writable(VfioIommuType1DmaUnmap.size)) return -EFAULT;
    VfioIommuType1DmaUnmap.at(user.bytes, user.at).size = unmapped;
    return 0;
  }

  /** How many bytes were unmapped, or −errno. */
  #takeOut(
    process: Process,
    iova: bigint,
    size: bigint,
    flags: number,
    bitmap: Bitmap | undefined,
  ): bigint | number {
    const page = this.#pageSize;
    const all = (flags & VFIO_DMA_UNMAP_FLAG_ALL) !== 0;
    if ((iova & (page - 1n)) !== 0n) return -EINVAL;
    if (all) {
      if (iova !== 0n || size !== 0n) return -EINVAL;
    } else {
      if (size === 0n || (size & (page - 1n)) !== 0n) return -EINVAL;
      if (iova + size - 1n > MAX64) return this.#wholeEnds ? -EOVERFLOW : -EINVAL;
    }
    if (bitmap !== undefined && (!this.#tracking || bitmap.pgsize !== page)) return -EINVAL;
    if (this.#v2 && !all && this.#cuts(iova, size)) return -EINVAL;
    const inside = this.#inside(iova, all ? MAX64 : size);
    if ((flags & VFIO_DMA_UNMAP_FLAG_VADDR) !== 0) return this.#invalidate(inside);
    let unmapped = 0n;
    for (const dma of inside) {
      if (bitmap !== undefined) {
        const reported = this.#report(process, dma, bitmap, iova);
        if (reported < 0) return reported;
      }
      this.#mappings.splice(this.#mappings.indexOf(dma), 1);
      this.#unpin(dma);
      unmapped += dma.size;
    }
    return unmapped;
  }

  /** Whether an edge of the range falls inside a mapping. */
  #cuts(iova: bigint, size: bigint): boolean {
    const first = this.#mappings.find((dma) => this.#overlaps(dma, iova, 1n));
    if (first !== undefined && first.iova !== iova) return true;
    const last = this.#mappings.find((dma) => this.#overlaps(dma, iova + size - 1n, 0n));
    return last !== undefined && last.iova + last.size !== iova + size;
  }

  /** The mappings that an unmap takes: in version 1 none from the first on that begins before the range. */
  #inside(iova: bigint, size: bigint): Dma[] {
    const end = this.#end(iova + size);
    const mappings = this.#mappings;
    let first = mappings.findIndex((dma) => iova < this.#end(dma.iova + dma.size));
    if (first < 0 || (!this.#v2 && mappings[first].iova < iova)) return [];
    const inside: Dma[] = [];
    while (first < mappings.length && mappings[first].iova < end) inside.push(mappings[first++]);
    return inside;
  }

  /** EINVAL, with nothing changed, where one is invalid already. */
  #invalidate(inside: readonly Dma[]): bigint | number {
    if (inside.some((dma) => dma.vaddrInvalid)) return -EINVAL;
    for (const dma of inside) dma.vaddrInvalid = true;
    this.#invalidVaddrs += inside.length;
    return inside.reduce((sum, dma) => sum + dma.size, 0n);
  }

  #unpin(dma: Dma): void {
    accountOf(dma.mm).charge(-dma.locked);
    if (dma.vaddrInvalid) this.#invalidVaddrs--;
    this.#available++;
  }

  // --- VFIO_IOMMU_DIRTY_PAGES -------------------------------------------------------------------------------------

  /** Start, stop, or report; EACCES in version 1, EINVAL for no flag or several. */
  #dirtyPages(process: Process, user: Argument): number {
    if (!this.#v2) return -EACCES;
    if (!user.readable(VfioIommuType1DirtyBitmap.size)) return -EFAULT;
    const { argsz, flags } = VfioIommuType1DirtyBitmap.decode(user.bytes, user.at);
    if (argsz < VfioIommuType1DirtyBitmap.size) return -EINVAL;
    switch (flags) {
      case VFIO_IOMMU_DIRTY_PAGES_FLAG_START:
        if (!this.#tracking)
          for (const dma of this.#mappings) dma.dirty = new DirtyBitmap(Number(dma.size / this.#pageSize));
        this.#tracking = true;
        return 0;
      case VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP:
        this.#tracking = false;
        for (const dma of this.#mappings) dma.dirty = undefined;
        return 0;
      case VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP:
        return this.#getBitmap(process, user, argsz);
      default:
        return -EINVAL;
    }
  }

  #getBitmap(process: Process, user: Argument, argsz: number): number {
    const head = VfioIommuType1DirtyBitmap.size;
    if (argsz - head < VfioIommuType1DirtyBitmapGet.size) return -EINVAL;
    if (!user.readable(VfioIommuType1DirtyBitmapGet.size, head)) return -EFAULT;
    const { iova, size } = VfioIommuType1DirtyBitmapGet.decode(user.bytes, user.at + head);
    if (iova + size > MAX64) return -EINVAL;
    const bitmap = readBitmap(user, head + VfioIommuType1DirtyBitmapGet.offsetOf.bitmap);
    const refused = checkBitmap(bitmap, size, process.mm);
    if (refused < 0) return refused;
    const page = this.#pageSize;
    if (bitmap.pgsize !== page || ((iova | size) & (page - 1n)) !== 0n || size === 0n) return -EINVAL;
    if (!this.#tracking || this.#cuts(iova, size)) return -EINVAL;
    const last = iova + size - 1n;
    for (const dma of this.#mappings) {
      if (dma.iova < iova || dma.iova > last) continue;
      const reported = this.#report(process, dma, bitmap, iova);
      if (reported < 0) return reported;
      dma.dirty!.clear();
    }
    return 0;
  }

  #report(process: Process, dma: Dma, bitmap: Bitmap, base: bigint): number {
    return dma.dirty!.report(process.mm, bitmap.address, Number((dma.iova - base) / this.#pageSize));
  }

  // --- ranges -----------------------------------------------------------------------------------------------------

  /** whether ends of ranges are compared whole; before 6.18 they wrapped around */
  get #wholeEnds(): boolean {
    return this.#host.behaviour.type1RangeOverflow;
  }

  /** The end of a range (exclusive), as this release computes it. */
  #end(end: bigint): bigint {
    return this.#wholeEnds ? end : BigInt.asUintN(U64, end);
  }

  #overlaps(dma: Dma, start: bigint, size: bigint): boolean {
    return this.#end(start + size) > dma.iova && start < this.#end(dma.iova + dma.size);
  }
}

/** A struct vfio_bitmap of the program's. */
interface Bitmap {
  readonly pgsize: bigint;
  readonly size: bigint;
  readonly address: number;
}

function readBitmap(user: Argument, skip: number): Bitmap {
  const { pgsize, size, data } = VfioBitmap.decode(user.bytes, user.at + skip);
  return { pgsize, size, address: Number(data) };
}

/** EINVAL for a bitmap that is outside user space, empty, too large, or too small for the range. */
function checkBitmap({ pgsize, size, address }: Bitmap, range: bigint, mm: AddressSpace): number {
  if (address + Number(size) > mm.taskSize) return -EINVAL;
  const pages = pgsize === 0n ? range : range / (pgsize & -pgsize);
  if (pages === 0n || size === 0n || size > MAX_DIRTY_BITMAP) return -EINVAL;
  return size < BigInt(bitmapBytes(Number(pages))) ? -EINVAL : 0;
}
