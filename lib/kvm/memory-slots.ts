/**
 * Guest physical memory: slots of user memory (KVM_SET_USER_MEMORY_REGION, …2), their dirty logs, and the way from a
 * guest physical address to bytes (virt/kvm/kvm_main.c:__kvm_set_memory_region, kvm_get_dirty_log, 6.1 and 6.18).
 *
 * Frame numbers are plain numbers: an address has up to 64 bits, a frame number up to 52. A frame is a page of the host. Slots of one address space
 * are kept sorted by frame, so a lookup is a binary search.
 *
 * Missing: memory attributes (KVM_SET_MEMORY_ATTRIBUTES).
 */
import { EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ENXIO } from "../abi/errno.ts";
import {
  KVM_CAP_GUEST_MEMFD,
  KVM_CAP_USER_MEMORY2,
  KVM_CLEAR_DIRTY_LOG,
  KVM_MEM_GUEST_MEMFD,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  KvmClearDirtyLog,
  KvmDirtyLog,
  KvmUserspaceMemoryRegion,
  KvmUserspaceMemoryRegion2,
} from "../abi/kvm.ts";
import { load32 } from "../abi/struct.ts";
import type { Argument } from "../kernel/argument.ts";
import type { Process } from "../kernel/process.ts";
import { copyOut } from "./copy-out.ts";
import type { Entry } from "./dispatch.ts";
import { bindGuestMemfd, type SlotMemfd } from "./guest-memfd.ts";
import type { Vm, VmFile } from "./vm.ts";

/** KVM_MEM_SLOTS_NUM: SHRT_MAX (include/linux/kvm_host.h, 6.1) */
const MEM_SLOTS_NUM = 32767;
/** KVM_MEM_MAX_NR_PAGES (include/linux/kvm_host.h, 6.1) */
const MAX_PAGES = 2 ** 31 - 1;

export type MemoryChange = "create" | "delete" | "move" | "flags";

export interface MemorySlot {
  readonly id: number;
  readonly addressSpace: number;
  readonly baseFrame: number;
  readonly pages: number;
  readonly userspaceAddress: number;
  readonly flags: number;
  /** one bit a page, rounded up to whole 64-bit words; none while dirty pages are not logged */
  readonly dirty: Uint8Array | undefined;
  /** a guest memfd behind it */
  readonly memfd?: SlotMemfd | undefined;
}

/** Binds a guest memfd to so many pages: what the slot has of it, or −errno. */
export type BindMemfd = (pages: number) => SlotMemfd | number;

/** A slot of 32 bits and a page below 2^31 in one number; slots have few address spaces. */
const keyOf = (slot: number, page: number): number => slot * 2 ** 31 + page;

export class MemorySlots {
  readonly #vm: Vm;
  /** by id, per address space; no Map, see IrqFds */
  #slots: (MemorySlot | undefined)[][] = [];
  /** by frame, ascending, per address space */
  #sorted: MemorySlot[][] = [];
  /** how many ids user space may use (KVM_CAP_NR_MEMSLOTS) */
  readonly userSlots: number;
  readonly readonlySupported: boolean;
  /** bytes of a frame: the host's page */
  readonly pageSize: number;
  /** KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 as enabled: 1 manual protect, 2 initially set */
  manualDirtyLogProtect = 0;
  /** changes with every change of a slot: a cached lookup compares it */
  generation = 0;

  constructor(vm: Vm, userSlots: number, addressSpaces: number, readonlySupported: boolean) {
    this.#vm = vm;
    this.pageSize = vm.host.pageSize;
    this.userSlots = userSlots;
    this.readonlySupported = readonlySupported;
    for (let i = 0; i < addressSpaces; i++) {
      this.#slots.push([]);
      this.#sorted.push([]);
    }
  }

  get(addressSpace: number, id: number): MemorySlot | undefined {
    return this.#slots[addressSpace]?.[id];
  }

  /** The slots of an address space, by frame. */
  list(addressSpace = 0): readonly MemorySlot[] {
    return this.#sorted[addressSpace] ?? [];
  }

  /** The slot that holds a guest frame. */
  find(frame: number, addressSpace = 0): MemorySlot | undefined {
    const sorted = this.#sorted[addressSpace];
    const at = placeOf(sorted, frame + 1);
    const slot = at > 0 ? sorted[at - 1] : undefined;
    return slot !== undefined && frame < slot.baseFrame + slot.pages ? slot : undefined;
  }

  /** The user address behind a guest physical address, or −1 where no slot is. */
  userAddress(guestAddress: number, addressSpace = 0): number {
    const frame = Math.floor(guestAddress / this.pageSize);
    const slot = this.find(frame, addressSpace);
    return slot === undefined ? -1 : slot.userspaceAddress + (guestAddress - slot.baseFrame * this.pageSize);
  }

  /** Whether slots that are not read-only are behind every byte of a range (__kvm_gfn_to_hva_cache_init). */
  isWritable(guestAddress: number, length: number): boolean {
    const last = Math.floor((guestAddress + length - 1) / this.pageSize);
    for (let frame = Math.floor(guestAddress / this.pageSize); frame <= last; frame++) {
      const slot = this.find(frame);
      if (slot === undefined || (slot.flags & KVM_MEM_READONLY) !== 0) return false;
    }
    return true;
  }

  /** pages that a guest has written since their entries in a dirty ring were given back, by slot and page */
  #written = new Set<number>();

  /** Whether a page is written for the first time, as dirty rings see it. */
  writtenFirst(slot: MemorySlot, page: number): boolean {
    const key = keyOf((slot.addressSpace << 16) | slot.id, page);
    if (this.#written.has(key)) return false;
    this.#written.add(key);
    return true;
  }

  /** The next write to a page is its first again. `slot`: the address space in the upper half. */
  protect(slot: number, page: number): void {
    this.#written.delete(keyOf(slot, page));
  }

  /** Marks a guest frame dirty, where its slot keeps a log. */
  markDirty(frame: number, addressSpace = 0): void {
    const slot = this.find(frame, addressSpace);
    if (slot?.dirty === undefined) return;
    const page = frame - slot.baseFrame;
    slot.dirty[page >> 3] |= 1 << (page & 7);
  }

  /**
   * Creates, moves, removes a slot or changes its flags. The checks and their order are __kvm_set_memory_region's.
   * EINVAL for bad flags, sizes, addresses, ids and changes; EEXIST where slots would overlap; ENOMEM; and what a guest
   * memfd has against it. A slot with one is never changed.
   */
  set(
    slotNumber: number,
    flags: number,
    baseFrame: number,
    pages: number,
    userspaceAddress: number,
    bindMemfd?: BindMemfd,
  ): number {
    const withMemfd = bindMemfd !== undefined && (flags & KVM_MEM_GUEST_MEMFD) !== 0;
    const plainFlags = KVM_MEM_LOG_DIRTY_PAGES | (this.readonlySupported ? KVM_MEM_READONLY : 0);
    if ((flags & ~(withMemfd ? KVM_MEM_GUEST_MEMFD : plainFlags)) !== 0) return -EINVAL;
    const addressSpace = slotNumber >>> 16;
    const id = slotNumber & 0xffff;
    if (userspaceAddress + pages * this.pageSize > this.#vm.mm.taskSize) return -EINVAL;
    if (addressSpace >= this.#slots.length || id >= MEM_SLOTS_NUM) return -EINVAL;
    if (pages !== 0 && baseFrame + pages >= 2 ** 64 / this.pageSize) return -EINVAL;
    if (pages > MAX_PAGES) return -EINVAL;

    const old = this.#slots[addressSpace][id];
    if (pages === 0) {
      if (old === undefined) return -EINVAL;
      const refused = this.#vm.arch.prepareMemory("delete", null);
      if (refused < 0) return refused;
      this.#replace(addressSpace, id, old, undefined);
      old.memfd?.unbind();
      return 0;
    }
    let change: MemoryChange = "create";
    if (old !== undefined) {
      if (
        withMemfd ||
        userspaceAddress !== old.userspaceAddress ||
        pages !== old.pages ||
        ((flags ^ old.flags) & (KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD)) !== 0
      )
        return -EINVAL;
      if (baseFrame !== old.baseFrame) change = "move";
      else if (flags !== old.flags) change = "flags";
      else return 0;
    }
    if (change !== "flags" && this.#overlaps(addressSpace, id, baseFrame, pages)) return -EEXIST;
    if (this.#vm.kernel.faults.allocation("kvm_memory_slot")) return -ENOMEM;
    let dirty: Uint8Array | undefined;
    if ((flags & KVM_MEM_LOG_DIRTY_PAGES) !== 0 && this.#vm.usesDirtyBitmap) {
      dirty = old?.dirty;
      if (dirty === undefined) {
        if (this.#vm.kernel.faults.allocation("dirty_bitmap")) return -ENOMEM;
        dirty = new Uint8Array(bitmapBytes(pages)).fill(this.manualDirtyLogProtect & 2 ? 0xff : 0);
        if (this.manualDirtyLogProtect & 2) clearPast(dirty, pages);
      }
    }
    const memfd = withMemfd ? bindMemfd(pages) : undefined;
    if (typeof memfd === "number") return memfd;
    const slot: MemorySlot = { id, addressSpace, baseFrame, pages, userspaceAddress, flags, dirty, memfd };
    const refused = this.#vm.arch.prepareMemory(change, slot);
    if (refused < 0) {
      memfd?.unbind();
      return refused;
    }
    this.#replace(addressSpace, id, old, slot);
    return 0;
  }

  /** Slots do not overlap each other, so only the neighbours are asked; the slot that moves is no neighbour of itself. */
  #overlaps(addressSpace: number, id: number, baseFrame: number, pages: number): boolean {
    const sorted = this.#sorted[addressSpace];
    const at = placeOf(sorted, baseFrame);
    const after = sorted[at]?.id === id ? sorted[at + 1] : sorted[at];
    const before = sorted[at - 1]?.id === id ? sorted[at - 2] : sorted[at - 1];
    if (after !== undefined && after.baseFrame < baseFrame + pages) return true;
    return before !== undefined && baseFrame < before.baseFrame + before.pages;
  }

  #replace(
    addressSpace: number,
    id: number,
    old: MemorySlot | undefined,
    slot: MemorySlot | undefined,
  ): void {
    const sorted = this.#sorted[addressSpace];
    if (old !== undefined) sorted.splice(placeOf(sorted, old.baseFrame), 1);
    if (slot !== undefined) sorted.splice(placeOf(sorted, slot.baseFrame), 0, slot);
    this.#slots[addressSpace][id] = slot;
    if (this.#written.size !== 0) this.#written.clear(); // of an empty one: 100 ns (measured)
    this.generation++;
  }

  /** KVM_GET_DIRTY_LOG: copies the bitmap out and, unless protection is manual, starts it anew, EFAULT or not. */
  getDirtyLog(slotNumber: number, user: Argument): number {
    if (!this.#vm.usesDirtyBitmap) return -ENXIO;
    const slot = this.#logged(slotNumber);
    if (typeof slot === "number") return slot;
    const dirty = slot.dirty!;
    const copied = copyOut(user, dirty);
    user.finish();
    if ((this.manualDirtyLogProtect & 1) === 0) dirty.fill(0);
    return copied ? 0 : -EFAULT;
  }

  /** KVM_CLEAR_DIRTY_LOG: clears the pages whose bits are set in the user's bitmap. */
  clearDirtyLog(slotNumber: number, first: bigint, pages: number, user: Argument): number {
    if (!this.#vm.usesDirtyBitmap) return -ENXIO;
    if (first % 64n !== 0n) return -EINVAL;
    const firstPage = Number(first);
    const slot = this.#logged(slotNumber);
    if (typeof slot === "number") return slot;
    if (firstPage > slot.pages || pages > slot.pages - firstPage) return -EINVAL;
    if (pages % 64 !== 0 && pages < slot.pages - firstPage) return -EINVAL;
    const length = bitmapBytes(pages);
    if (!user.readable(length)) return -EFAULT;
    const dirty = slot.dirty!;
    for (let i = 0; i < length; i++) dirty[firstPage / 8 + i] &= ~user.bytes[user.at + i];
    return 0;
  }

  /** EINVAL for an id or address space that cannot be, ENOENT where no log is kept. */
  #logged(slotNumber: number): MemorySlot | number {
    const addressSpace = slotNumber >>> 16;
    const id = slotNumber & 0xffff;
    if (addressSpace >= this.#slots.length || id >= this.userSlots) return -EINVAL;
    const slot = this.#slots[addressSpace][id];
    return slot?.dirty === undefined ? -ENOENT : slot;
  }
}

/** Where the slots begin that start at a frame or behind it: a binary search. */
function placeOf(sorted: readonly MemorySlot[], frame: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle].baseFrame < frame) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Bytes of a dirty bitmap: whole 64-bit words. */
const bitmapBytes = (pages: number): number => Math.ceil(pages / 64) * 8;

/** Clears the bits behind the last page. */
function clearPast(bitmap: Uint8Array, pages: number): void {
  for (let page = pages; page < bitmap.length * 8; page++) bitmap[page >> 3] &= ~(1 << (page & 7));
}

/** KVM_SET_USER_MEMORY_REGION: `struct kvm_userspace_memory_region`, 32 bytes. */
export function setUserMemoryRegion(file: VmFile, user: Argument): number {
  if (!user.readable(KvmUserspaceMemoryRegion.size)) return -EFAULT;
  return setRegion(file.vm, user);
}

/**
 * KVM_SET_USER_MEMORY_REGION2: 160 bytes, the first 32 as above. KVM_MEM_GUEST_MEMFD ties the slot to pages of a guest
 * memfd, where the host has those (6.18). Before 6.8 the request is not known.
 */
export function setUserMemoryRegion2(file: VmFile, user: Argument, process: Process): number {
  if (!file.vm.host.systemCapabilities.has(KVM_CAP_USER_MEMORY2)) return file.vm.host.arch.unknownVmIoctl;
  if (!user.readable(KvmUserspaceMemoryRegion2.size)) return -EFAULT;
  const { vm } = file;
  if ((vm.host.vmCapabilities.get(KVM_CAP_GUEST_MEMFD) ?? 0) === 0) return setRegion(vm, user);
  const { guest_memfd, guest_memfd_offset, memory_size, flags } = KvmUserspaceMemoryRegion2.at(
    user.bytes,
    user.at,
  );
  const memfd = (flags & KVM_MEM_GUEST_MEMFD) !== 0;
  if (memfd && guest_memfd_offset % BigInt(vm.slots.pageSize) !== 0n) return -EINVAL;
  if (memfd && guest_memfd_offset + memory_size >= 1n << 64n) return -EINVAL;
  return setRegion(vm, user, (pages) =>
    bindGuestMemfd(vm, process, guest_memfd | 0, guest_memfd_offset, pages),
  );
}

function setRegion(vm: Vm, user: Argument, bindMemfd?: BindMemfd): number {
  const region = KvmUserspaceMemoryRegion.at(user.bytes, user.at);
  const slots = vm.slots;
  const page = slots.pageSize;
  if ((region.slot & 0xffff) >= slots.userSlots) return -EINVAL;
  const { guest_phys_addrLo, memory_sizeLo, userspace_addrLo } = region;
  if (((guest_phys_addrLo | memory_sizeLo | userspace_addrLo) & (page - 1)) !== 0) return -EINVAL;
  return slots.set(
    region.slot,
    region.flags,
    (region.guest_phys_addrHi * 2 ** 32 + guest_phys_addrLo) / page,
    (region.memory_sizeHi * 2 ** 32 + memory_sizeLo) / page,
    region.userspace_addrHi * 2 ** 32 + userspace_addrLo,
    bindMemfd,
  );
}

/** KVM_GET_DIRTY_LOG: `struct kvm_dirty_log`, 16 bytes, answers through the pointer inside. */
export function getDirtyLog(file: VmFile, user: Argument): number {
  if (!user.readable(KvmDirtyLog.size)) return -EFAULT;
  const slot = load32(user.bytes, user.at);
  const bitmap = KvmDirtyLog.at(user.bytes, user.at).dirty_bitmap;
  return file.vm.slots.getDirtyLog(slot, user.pointer(Number(bitmap)));
}

/** KVM_CLEAR_DIRTY_LOG: `struct kvm_clear_dirty_log`, 24 bytes. */
function clearDirtyLog(file: VmFile, user: Argument): number {
  if (!user.readable(KvmClearDirtyLog.size)) return -EFAULT;
  const log = KvmClearDirtyLog.at(user.bytes, user.at);
  return file.vm.slots.clearDirtyLog(
    log.slot,
    log.first_page,
    log.num_pages,
    user.pointer(Number(log.dirty_bitmap)),
  );
}

/** On architectures that clear dirty bits page by page: x86 and arm64 (CONFIG_KVM_GENERIC_DIRTYLOG_READ_PROTECT). */
export const clearDirtyLogIoctls: readonly Entry<VmFile>[] = [[KVM_CLEAR_DIRTY_LOG, clearDirtyLog]];
