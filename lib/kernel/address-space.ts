/**
 * The memory of one process: mappings at real-looking addresses, and what a pointer in a system call reaches.
 *
 * Addresses are plain numbers: user space ends at 2^47, so every valid one is exact. Mappings are handed out
 * top-down as Linux does, with an unmapped page between two of them, so that an overrun is an EFAULT at the exact
 * byte and never hides in the neighbour. Bytes come into being at the first access: a mapping of gigabytes costs
 * nothing until it is touched.
 *
 * Missing: MAP_GROWSDOWN, huge pages, mremap, swap. mprotect exists for the access rules only.
 */
import { EINVAL, ENOMEM } from "../abi/errno.ts";
import { PROT_READ, PROT_WRITE } from "../abi/mman.ts";

/** Bytes of a page where nobody says otherwise. */
export const PAGE_SIZE = 4096;
/** The end of user space on x86-64 with four levels of page tables (arch/x86/include/asm/page_64_types.h, 6.1). */
export const TASK_SIZE = 0x7fff_ffff_f000;
/** Where top-down mappings start: below the stack of a process without randomisation. */
const MMAP_BASE = 0x7fff_f7ff_f000;
/** The lowest address that mmap hands out (vm.mmap_min_addr). */
const MMAP_MIN = 0x10000;

/** Device memory behind a mapping: every access of the program arrives here with its width. */
export interface DeviceMemory {
  /** The value, or −1 where the access takes SIGBUS. `width` is 1, 2, 4 or 8 bytes; the value is little endian. */
  load(offset: number, width: number): number | bigint | typeof SIGBUS;
  store(offset: number, width: number, value: number | bigint): typeof SIGBUS | 0;
}

/** What an access to a mapping may end in instead of a value. */
export const SIGBUS = "SIGBUS";
/** The access takes SIGSEGV: nothing is mapped there, or not for this. */
export const SIGSEGV = "SIGSEGV";

/** What a file's mmap gives: plain bytes, fewer than the mapping where the file ends before it; or device memory. */
export type Backing = { readonly bytes: Uint8Array } | { readonly device: DeviceMemory };

/** What a mapping holds on to: let go once the last piece of it is unmapped, in every process that inherited one. */
class Hold {
  pieces = 0;
  readonly release: () => void;

  constructor(release: () => void) {
    this.release = release;
  }
}

export class Mapping {
  readonly start: number;
  /** exclusive */
  readonly end: number;
  /** where its bytes end: from there on an access takes SIGBUS, a system call's EFAULT; none in device memory */
  readonly limit: number;
  prot: number;
  readonly shared: boolean;
  readonly device: DeviceMemory | undefined;
  readonly hold: Hold | undefined;
  #bytes: Uint8Array | undefined;

  constructor(
    start: number,
    end: number,
    prot: number,
    shared: boolean,
    backing: Backing | undefined,
    hold?: Hold,
  ) {
    this.start = start;
    this.end = end;
    this.prot = prot;
    this.shared = shared;
    this.device = backing !== undefined && "device" in backing ? backing.device : undefined;
    this.#bytes = backing !== undefined && "bytes" in backing ? backing.bytes : undefined;
    if (this.device !== undefined) this.limit = start;
    else this.limit = Math.min(end, start + (this.#bytes?.length ?? end - start));
    this.hold = hold;
    if (hold !== undefined) hold.pieces++;
  }

  /** The bytes of the mapping, made at the first access. */
  get bytes(): Uint8Array {
    this.#bytes ??= new Uint8Array(this.end - this.start);
    return this.#bytes;
  }

  /** This piece is no longer mapped. */
  drop(): void {
    if (this.hold !== undefined && --this.hold.pieces === 0) this.hold.release();
  }

  /** Whether the bytes were ever accessed. */
  get touched(): boolean {
    return this.#bytes !== undefined;
  }
}

/** The memory of one process, and what a pointer in a system call reaches. */
export class AddressSpace {
  /** by address, ascending, never overlapping */
  /** bytes of a page: 4096, on some POWER and ARM hosts 65536 */
  readonly pageSize: number;
  /** where user space ends; mmap without a hint stays below 2^47 all the same */
  readonly taskSize: number;
  #mappings: Mapping[] = [];
  #last: Mapping | undefined;
  /** the result of the last successful `locate` */
  bytes: Uint8Array = new Uint8Array(0);
  at = 0;

  constructor(pageSize: number = PAGE_SIZE, taskSize: number = TASK_SIZE) {
    this.pageSize = pageSize;
    this.taskSize = taskSize;
  }

  /** The mapping that holds `address`. */
  find(address: number): Mapping | undefined {
    const last = this.#last;
    if (last !== undefined && address >= last.start && address < last.end) return last;
    const index = this.#indexAfter(address) - 1;
    const mapping = index >= 0 ? this.#mappings[index] : undefined;
    if (mapping === undefined || address >= mapping.end) return undefined;
    this.#last = mapping;
    return mapping;
  }

  /**
   * Finds `length` bytes at `address` for reading (`PROT_READ`) or writing (`PROT_WRITE`): true with `bytes` and
   * `at` set, or false for EFAULT. Bytes that span several mappings are not contiguous here: see `gather`.
   */
  locate(address: number, length: number, access: number): boolean {
    const mapping = this.find(address);
    if (mapping === undefined || address + length > mapping.limit || (mapping.prot & access) === 0)
      return false;
    if (mapping.device !== undefined) return false;
    this.bytes = mapping.bytes;
    this.at = address - mapping.start;
    return true;
  }

  /** Copies `length` bytes from `address` on, across mappings; null for EFAULT. */
  copyIn(address: number, length: number): Uint8Array | null {
    const result = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const mapping = this.find(address + done);
      if (mapping === undefined || (mapping.prot & PROT_READ) === 0 || address + done >= mapping.limit)
        return null;
      const at = address + done - mapping.start;
      const part = Math.min(length - done, mapping.limit - mapping.start - at);
      result.set(mapping.bytes.subarray(at, at + part), done);
      done += part;
    }
    return result;
  }

  /** Copies bytes to `address`, across mappings; false for EFAULT, with everything before the fault written. */
  copyOut(address: number, source: Uint8Array): boolean {
    for (let done = 0; done < source.length; ) {
      const mapping = this.find(address + done);
      if (mapping === undefined || (mapping.prot & PROT_WRITE) === 0 || address + done >= mapping.limit)
        return false;
      const at = address + done - mapping.start;
      const part = Math.min(source.length - done, mapping.limit - mapping.start - at);
      mapping.bytes.set(source.subarray(done, done + part), at);
      done += part;
    }
    return true;
  }

  /** Whether every byte of the range can be read or written: what copy_from_user would find. */
  accessible(address: number, length: number, access: number): boolean {
    for (let done = 0; done < length; ) {
      const mapping = this.find(address + done);
      if (mapping === undefined || (mapping.prot & access) === 0 || address + done >= mapping.limit)
        return false;
      done = mapping.limit - address;
    }
    return true;
  }

  /** Whether a range can be mapped at all: 0, or −ENOMEM for one that is too large or too high, −EINVAL. */
  mayMap(address: number, length: number, fixed: boolean): number {
    const size = Math.ceil(length / this.pageSize) * this.pageSize;
    if (size > this.taskSize || (fixed && address + size > this.taskSize)) return -ENOMEM;
    if (fixed) return address % this.pageSize !== 0 ? -EINVAL : 0;
    return Math.min(this.#gap(size), 0);
  }

  /** Whether a part of the range is mapped. */
  overlaps(address: number, length: number): boolean {
    return !this.#isFree(address, Math.ceil(length / this.pageSize) * this.pageSize);
  }

  /**
   * Adds a mapping: at `address` exactly if `fixed` (whatever was there goes away), else at a free place, near the
   * hint if there is room. Answers the address, or −ENOMEM, −EINVAL.
   */
  map(
    address: number,
    length: number,
    prot: number,
    fixed: boolean,
    shared: boolean,
    backing?: Backing,
    released?: () => void,
  ): number {
    const place = this.mayMap(address, length, fixed);
    if (place < 0 || length <= 0) return place < 0 ? place : -ENOMEM;
    const size = Math.ceil(length / this.pageSize) * this.pageSize;
    let start: number;
    if (fixed) {
      this.unmap(address, size);
      start = address;
    } else {
      const hint = Math.floor(address / this.pageSize) * this.pageSize;
      start =
        hint >= MMAP_MIN && hint + size <= this.taskSize && this.#isFree(hint, size) ? hint : this.#gap(size);
      if (start < 0) return -ENOMEM;
    }
    const hold = released === undefined ? undefined : new Hold(released);
    return this.#insert(new Mapping(start, start + size, prot, shared, backing, hold));
  }

  /**
   * Gives bytes of the program an address: a pointer in a struct can then name them. The mapping ends at the last
   * byte of the buffer, page or not, so that an overrun is an EFAULT. munmap takes the address away again.
   */
  addressOf(buffer: Uint8Array): number {
    const whole = buffer.buffer;
    for (const mapping of this.#mappings)
      if (mapping.touched && mapping.bytes.buffer === whole) {
        const offset = buffer.byteOffset - mapping.bytes.byteOffset;
        if (offset >= 0 && offset + buffer.length <= mapping.bytes.length) return mapping.start + offset;
      }
    const bytes = new Uint8Array(whole);
    const start = this.#gap(Math.max(this.pageSize, Math.ceil(bytes.length / this.pageSize) * this.pageSize));
    const end = start + Math.max(bytes.length, 1);
    this.#insert(new Mapping(start, end, PROT_READ | PROT_WRITE, true, { bytes }));
    return start + buffer.byteOffset;
  }

  /** Takes away every page of the range; what is partly inside is split. */
  unmap(address: number, length: number): number {
    if (address % this.pageSize !== 0 || length <= 0 || address < 0 || address + length > this.taskSize)
      return -EINVAL;
    const end = address + Math.ceil(length / this.pageSize) * this.pageSize;
    this.#last = undefined;
    const kept: Mapping[] = [];
    const gone: Mapping[] = [];
    for (const mapping of this.#mappings) {
      if (mapping.end <= address || mapping.start >= end) kept.push(mapping);
      else {
        if (mapping.start < address) kept.push(part(mapping, mapping.start, address));
        if (mapping.end > end) kept.push(part(mapping, end, mapping.end));
        gone.push(mapping);
      }
    }
    this.#mappings = kept;
    for (const mapping of gone) mapping.drop();
    return 0;
  }

  /** Changes what may be done with the pages of a range: −ENOMEM where a page of it is not mapped. */
  protect(address: number, length: number, prot: number): number {
    if (address % this.pageSize !== 0) return -EINVAL;
    const end = address + Math.ceil(length / this.pageSize) * this.pageSize;
    for (let at = address; at < end; ) {
      const mapping = this.find(at);
      if (mapping === undefined) return -ENOMEM;
      at = mapping.end;
    }
    const cut: Mapping[] = [];
    this.#mappings = this.#mappings.flatMap((mapping) => {
      if (mapping.end <= address || mapping.start >= end) return [mapping];
      const inside = part(mapping, Math.max(mapping.start, address), Math.min(mapping.end, end));
      inside.prot = prot;
      const pieces = [inside];
      cut.push(mapping);
      if (mapping.start < address) pieces.unshift(part(mapping, mapping.start, address));
      if (mapping.end > end) pieces.push(part(mapping, end, mapping.end));
      return pieces;
    });
    for (const mapping of cut) mapping.drop();
    this.#last = undefined;
    return 0;
  }

  /** The copy that a forked child sees: shared mappings are shared, private ones copied. */
  fork(): AddressSpace {
    const child = new AddressSpace(this.pageSize, this.taskSize);
    child.#mappings = this.#mappings.map((m) => {
      const shared = m.shared || m.device !== undefined;
      const backing =
        m.device !== undefined
          ? { device: m.device }
          : shared
            ? { bytes: m.bytes }
            : m.touched
              ? { bytes: m.bytes.slice() }
              : undefined;
      return new Mapping(m.start, m.end, m.prot, m.shared, backing, m.hold);
    });
    return child;
  }

  /** Everything is unmapped: the process is gone. */
  clear(): void {
    const gone = this.#mappings;
    this.#mappings = [];
    this.#last = undefined;
    for (const mapping of gone) mapping.drop();
  }

  /** A load of the program itself: a value, or the signal it takes. */
  load(address: number, width: number): number | bigint | typeof SIGBUS | typeof SIGSEGV {
    const mapping = this.find(address);
    if (mapping === undefined || address + width > mapping.end || (mapping.prot & PROT_READ) === 0)
      return SIGSEGV;
    const offset = address - mapping.start;
    if (mapping.device !== undefined) return mapping.device.load(offset, width);
    if (address + width > mapping.limit) return SIGBUS;
    const bytes = mapping.bytes;
    let value = 0n;
    for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[offset + i]);
    return width === 8 ? value : Number(value);
  }

  /** A store of the program itself: 0, or the signal it takes. */
  store(address: number, width: number, value: number | bigint): 0 | typeof SIGBUS | typeof SIGSEGV {
    const mapping = this.find(address);
    if (mapping === undefined || address + width > mapping.end || (mapping.prot & PROT_WRITE) === 0)
      return SIGSEGV;
    const offset = address - mapping.start;
    if (mapping.device !== undefined) return mapping.device.store(offset, width, value);
    if (address + width > mapping.limit) return SIGBUS;
    const wide = BigInt.asUintN(64, BigInt(value));
    for (let i = 0; i < width; i++) mapping.bytes[offset + i] = Number((wide >> BigInt(8 * i)) & 0xffn);
    return 0;
  }

  #insert(mapping: Mapping): number {
    this.#mappings.splice(this.#indexAfter(mapping.start), 0, mapping);
    this.#last = mapping;
    return mapping.start;
  }

  /** How many mappings start at or below `address`. */
  #indexAfter(address: number): number {
    let low = 0;
    let high = this.#mappings.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#mappings[middle].start <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #isFree(start: number, size: number): boolean {
    const next = this.#indexAfter(start);
    if (next > 0 && this.#mappings[next - 1].end > start) return false;
    return next === this.#mappings.length || this.#mappings[next].start >= start + size;
  }

  /** The highest free place below the base with a free page above it, or −ENOMEM. */
  #gap(size: number): number {
    let top = Math.floor(MMAP_BASE / this.pageSize) * this.pageSize;
    for (let i = this.#mappings.length - 1; i >= 0; i--) {
      const mapping = this.#mappings[i];
      if (mapping.start >= MMAP_BASE) continue;
      const free = Math.ceil(mapping.end / this.pageSize) * this.pageSize + this.pageSize;
      if (top - size >= free) return top - size;
      top = Math.min(top, mapping.start - this.pageSize);
    }
    return top - size >= MMAP_MIN ? top - size : -ENOMEM;
  }
}

/** The piece of a mapping from `start` to `end`. */
function part(mapping: Mapping, start: number, end: number): Mapping {
  const at = start - mapping.start;
  const device = mapping.device;
  const backing: Backing =
    device === undefined
      ? { bytes: mapping.bytes.subarray(at, at + end - start) }
      : {
          device: {
            load: (offset, width) => device.load(offset + at, width),
            store: (offset, width, value) => device.store(offset + at, width, value),
          },
        };
  return new Mapping(start, end, mapping.prot, mapping.shared, backing, mapping.hold);
}
