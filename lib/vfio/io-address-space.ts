/**
 * The map of an IOAS: areas of I/O addresses and the pages behind them, ranges that nobody may map, page tables that show
 * it to hardware (drivers/iommu/iommufd/io_pagetable.c, 6.2 and 6.12). Without a page table nothing is pinned and any byte
 * may be the start of an area; a page table asks for its page size and pins everything.
 *
 * Addresses are 64 bits wide: bigints. Ranges are inclusive.
 *
 * Missing: accesses by mediated devices. A copy of an area is charged again where Linux charges shared pages once.
 */
import { EADDRINUSE, EEXIST, EFAULT, EINVAL, ENOENT, ENOSPC, EOVERFLOW, EPERM } from "../abi/errno.ts";
import type { Process } from "../kernel/process.ts";
import { type AddressRange, fromPage, type IommuHardware, without } from "./iommu-hardware.ts";
import { type Account, pin } from "./pinned-memory.ts";

const MAX64 = 0xffff_ffff_ffff_ffffn;
const EVERYTHING: AddressRange = { start: 0n, end: MAX64 };

/** Memory of a program, as it was given to a map. */
export interface Pages {
  readonly process: Process;
  readonly address: bigint;
  readonly length: bigint;
  readonly writable: boolean;
  readonly account: Account;
}

/** A piece of pages. */
export interface Slice {
  readonly pages: Pages;
  /** where it begins in them */
  readonly offset: bigint;
  readonly length: bigint;
}

interface Area extends Slice {
  readonly iova: bigint;
  readonly last: bigint;
  readonly writable: boolean;
  /** pages charged for it; undefined while it is not pinned */
  charged: number | undefined;
}

interface Reserved extends AddressRange {
  readonly owner: object;
}

export class IoAddressSpace {
  /** by address, ascending */
  #areas: Area[] = [];
  #reserved: Reserved[] = [];
  /** where addresses are chosen; empty for anywhere */
  #allowed: readonly AddressRange[] = [];
  /** the page tables that show it: several may have the same hardware */
  readonly #tables = new Map<object, IommuHardware>();
  /** bytes of a page of the processor's */
  readonly #page: bigint;
  /** an area may be shown by pages larger than the processor's: then it cannot be cut */
  #largePages = true;
  /** addresses and lengths are multiples of this */
  alignment = 1n;

  constructor(pageSize: number) {
    this.#page = BigInt(pageSize);
  }

  get largePages(): boolean {
    return this.#largePages;
  }

  // --- mapping ----------------------------------------------------------------------------------------------------

  /**
   * Maps slices one behind the other, at `iova` or, where that is undefined, at a place that fits: the address, or
   * EINVAL, EOVERFLOW, EEXIST, ENOSPC, EPERM to make read-only pages writable, and with a page table EFAULT, ENOMEM.
   */
  map(slices: readonly Slice[], iova: bigint | undefined, writable: boolean): bigint | number {
    const length = slices.reduce((sum, slice) => sum + slice.length, 0n);
    const mask = this.alignment - 1n;
    if (length === 0n || (length & mask) !== 0n) return -EINVAL;
    const start = iova ?? this.#choose(slices[0].pages.address + slices[0].offset, length);
    if (typeof start === "number") return start;
    if (iova !== undefined) {
      const refused = this.#check(iova, length);
      if (refused < 0) return refused;
    }
    const areas: Area[] = [];
    let at = start;
    for (const { pages, offset, length } of slices) {
      if (writable && !pages.writable) return -EPERM;
      if ((((pages.address + offset) % this.#page) & mask) !== 0n) return -EINVAL;
      areas.push({ pages, offset, length, iova: at, last: at + length - 1n, writable, charged: undefined });
      at += length;
    }
    const filled = this.#tables.size === 0 ? 0 : pinAll(areas);
    if (filled < 0) return filled;
    this.#areas = [...this.#areas, ...areas].sort((a, b) => (a.iova < b.iova ? -1 : 1));
    return start;
  }

  #check(iova: bigint, length: bigint): number {
    if ((iova & (this.alignment - 1n)) !== 0n) return -EINVAL;
    const last = iova + length - 1n;
    if (last > MAX64) return -EOVERFLOW;
    if (this.#reserved.some((range) => range.start <= last && range.end >= iova)) return -EINVAL;
    return this.#inside(iova, last).length === 0 ? 0 : -EEXIST;
  }

  /** The lowest place that fits, aligned as the memory is: that gives large pages a chance. */
  #choose(address: bigint, length: bigint): bigint | number {
    if (length >= MAX64 / 2n) return -EOVERFLOW;
    let alignment = 1n << BigInt((length - 1n).toString(2).length);
    if (length === 1n) alignment = 1n;
    const ofAddress = address & -address;
    if (address !== 0n && ofAddress < alignment) alignment = ofAddress;
    if (alignment < this.alignment) return -EINVAL;
    const page = this.#page;
    // never the first page
    const anywhere = { start: page, end: MAX64 - page };
    const taken = [...this.#reserved, ...this.#areas.map(({ iova, last }) => ({ start: iova, end: last }))];
    const align = (start: bigint) =>
      (((start + alignment - 1n) / alignment) * alignment) | (address % this.#page);
    const fits = (start: bigint, end: bigint) => start <= end && end - start >= length - 1n;
    for (const allowed of this.#allowed.length === 0 ? [anywhere] : this.#allowed) {
      const first = align(allowed.start);
      if (!fits(first, allowed.end)) continue;
      for (const hole of without({ start: first, end: allowed.end }, taken))
        if (fits(align(hole.start), hole.end)) return align(hole.start);
    }
    return -ENOSPC;
  }

  /** The slices that make up a range without a gap: for a copy. ENOENT, EINVAL, EOVERFLOW. */
  slices(iova: bigint, length: bigint): Slice[] | number {
    if (length === 0n) return -EINVAL;
    const last = iova + length - 1n;
    if (last > MAX64) return -EOVERFLOW;
    const slices: Slice[] = [];
    let at = iova;
    for (const area of this.#inside(iova, last)) {
      if (area.iova > at) return -ENOENT;
      const end = area.last < last ? area.last : last;
      slices.push({ pages: area.pages, offset: area.offset + (at - area.iova), length: end - at + 1n });
      at = end + 1n;
    }
    return at === last + 1n ? slices : -ENOENT;
  }

  /**
   * Takes areas out of a range, which must hold each whole: how many bytes, or ENOENT for none. Where one is cut, those
   * before it are gone already.
   */
  unmap(start: bigint, last: bigint): bigint | number {
    let unmapped = 0n;
    for (const area of this.#inside(start, last)) {
      if (area.iova < start || area.last > last) return -ENOENT;
      this.#areas.splice(this.#areas.indexOf(area), 1);
      unpin(area);
      unmapped += area.last - area.iova + 1n;
    }
    return unmapped === 0n ? -ENOENT : unmapped;
  }

  unmapAll(): bigint {
    const unmapped = this.unmap(0n, MAX64);
    return typeof unmapped === "number" ? 0n : unmapped;
  }

  /** Splits the area that holds `last`, which becomes the end of its first part: EINVAL where it cannot be cut. */
  cut(last: bigint): number {
    const area = this.#areas.find((found) => found.iova <= last && found.last >= last);
    if (area === undefined || area.iova === last || area.last === last) return 0;
    const head = last + 1n - area.iova;
    if ((head & (this.alignment - 1n)) !== 0n) return -EINVAL;
    if (area.charged !== undefined && this.#largePages) return -EINVAL;
    const share = area.charged === undefined ? undefined : Math.min(area.charged, Number(head / this.#page));
    const rest = area.charged === undefined ? undefined : area.charged - share!;
    this.#areas.splice(
      this.#areas.indexOf(area),
      1,
      { ...area, length: head, last, charged: share },
      { ...area, offset: area.offset + head, length: area.length - head, iova: last + 1n, charged: rest },
    );
    return 0;
  }

  #inside(start: bigint, last: bigint): Area[] {
    return this.#areas.filter((area) => area.iova <= last && area.last >= start);
  }

  // --- what may be mapped -----------------------------------------------------------------------------------------

  /** What is not reserved. */
  get ranges(): AddressRange[] {
    return without(EVERYTHING, this.#reserved);
  }

  /** Where addresses are chosen from now on: EADDRINUSE where that meets a reserved range. */
  allow(ranges: readonly AddressRange[]): number {
    const meets = (a: AddressRange, b: AddressRange) => a.start <= b.end && a.end >= b.start;
    if (ranges.some((range) => this.#reserved.some((reserved) => meets(range, reserved)))) return -EADDRINUSE;
    this.#allowed = [...ranges].sort((a, b) => (a.start < b.start ? -1 : 1));
    return 0;
  }

  /** Keeps ranges free for an owner: EADDRINUSE, and nothing kept, where one is mapped or allowed. */
  reserve(ranges: readonly AddressRange[], owner: object): number {
    for (const { start, end } of ranges) {
      const allowed = this.#allowed.some((range) => range.start <= end && range.end >= start);
      if (allowed || this.#inside(start, end).length !== 0) {
        this.unreserve(owner);
        return -EADDRINUSE;
      }
      this.#reserved.push({ start, end, owner });
    }
    return 0;
  }

  unreserve(owner: object): void {
    this.#reserved = this.#reserved.filter((range) => range.owner !== owner);
  }

  // --- page tables ------------------------------------------------------------------------------------------------

  /** A page table shows the map from now on: EADDRINUSE for an area that it cannot show, EFAULT, ENOMEM. */
  addTable(table: object, hardware: IommuHardware): number {
    let alignment = hardware.pageSizes & -hardware.pageSizes;
    if (alignment < this.alignment) alignment = this.alignment;
    if (alignment > this.#page) return -EINVAL;
    if (!this.#areAligned(alignment)) return -EADDRINUSE;
    const reserved = this.reserve(without(EVERYTHING, [hardware.aperture]), table);
    if (reserved < 0) return reserved;
    if (this.#tables.size === 0) {
      const filled = pinAll(this.#areas);
      if (filled < 0) {
        this.unreserve(table);
        return filled;
      }
    }
    this.alignment = alignment;
    this.#tables.set(table, hardware);
    return 0;
  }

  removeTable(table: object): void {
    this.#tables.delete(table);
    this.unreserve(table);
    if (this.#tables.size === 0) this.#areas.forEach(unpin);
    this.alignment = this.#neededAlignment();
  }

  /** Without large pages every area can be cut at a page: EINVAL once a page table shows areas. */
  disableLargePages(): number {
    if (!this.#largePages) return 0;
    if (this.#tables.size !== 0 && this.#areas.length !== 0) return -EINVAL;
    this.#largePages = false;
    const alignment = this.#neededAlignment();
    if (alignment > this.alignment && !this.#areAligned(alignment)) {
      this.#largePages = true;
      return -EADDRINUSE;
    }
    this.alignment = alignment;
    return 0;
  }

  enableLargePages(): void {
    this.#largePages = true;
    this.alignment = this.#neededAlignment();
  }

  /** the page sizes that every page table has */
  get pageSizes(): bigint {
    let sizes = MAX64;
    for (const { pageSizes } of this.#tables.values()) sizes &= pageSizes;
    return fromPage(sizes, Number(this.#page));
  }

  #neededAlignment(): bigint {
    let alignment = this.#largePages ? 1n : this.#page;
    for (const { pageSizes } of this.#tables.values()) {
      const smallest = pageSizes & -pageSizes;
      if (smallest > alignment) alignment = smallest;
    }
    return alignment;
  }

  #areAligned(alignment: bigint): boolean {
    const mask = alignment - 1n;
    return this.#areas.every(
      ({ iova, length, pages, offset }) =>
        ((iova | length | ((pages.address + offset) % this.#page)) & mask) === 0n,
    );
  }
}

/** All areas, or none: EFAULT, ENOMEM. */
function pinAll(areas: readonly Area[]): number {
  for (const [index, area] of areas.entries()) {
    const { pages, offset, length } = area;
    const mask = BigInt(pages.process.mm.pageSize - 1);
    const start = (pages.address + offset) & ~mask;
    const end = (pages.address + offset + length + mask) & ~mask;
    const address = Number(start);
    const charged = Number.isSafeInteger(address)
      ? pin(pages.process, address, Number(end - start), pages.writable, true, pages.account)
      : -EFAULT;
    if (charged < 0) {
      for (const pinned of areas.slice(0, index)) unpin(pinned);
      return charged;
    }
    pages.account.charge(charged);
    area.charged = charged;
  }
  return 0;
}

function unpin(area: Area): void {
  if (area.charged !== undefined) area.pages.account.charge(-area.charged);
  area.charged = undefined;
}
