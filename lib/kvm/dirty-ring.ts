/**
 * Dirty rings: each vCPU's list of the pages that it wrote, shared with user space, which collects the entries and gives
 * them back by KVM_RESET_DIRTY_RINGS (virt/kvm/dirty_ring.c:kvm_dirty_ring_push, kvm_dirty_ring_reset, 6.1). An entry,
 * `struct kvm_dirty_gfn`, 16 bytes: flags u32 (1 dirty, 2 to be reset), slot u32 (address space in the upper half), offset
 * u64 in pages.
 *
 * Where a processor runs the guest, a page is noted when it is written first, and again once its entry was given back;
 * where KVM's emulator does, at every write.
 *
 * Missing: where a processor runs the guest, a page that is only read is noted as well if the host has it mapped for
 * writing already (arch/x86/kvm/mmu/spte.c:make_spte; seen on 6.12 and 7.2 with huge pages); what the host has mapped is
 * not known here.
 */
import { EINVAL } from "../abi/errno.ts";
import {
  KVM_DIRTY_GFN_F_DIRTY,
  KVM_DIRTY_GFN_F_RESET,
  KVM_RESET_DIRTY_RINGS,
  KvmDirtyGfn,
} from "../abi/kvm.ts";
import { load32, loadNumber64, store32, store64 } from "../abi/struct.ts";
import type { Entry } from "./dispatch.ts";
import type { VmFile } from "./vm.ts";

/** entries that stay free for what is written after a vCPU was told to stop (KVM_DIRTY_RING_RSVD_ENTRIES, 6.1) */
export const DIRTY_RING_RESERVED = 64;
export const DIRTY_RING_ENTRY = KvmDirtyGfn.size;
const { slot: SLOT, offset: OFFSET } = KvmDirtyGfn.offsetOf;

export class DirtyRing {
  readonly bytes: Uint8Array;
  readonly #size: number;
  /** how many entries were written, and how many were given back, since ever */
  #written = 0;
  #reset = 0;

  constructor(bytes: number) {
    this.bytes = new Uint8Array(bytes);
    this.#size = bytes / DIRTY_RING_ENTRY;
  }

  /** The vCPU has to stop: KVM_EXIT_DIRTY_RING_FULL. */
  get full(): boolean {
    return this.#written - this.#reset >= this.#size - DIRTY_RING_RESERVED;
  }

  push(slot: number, page: number): void {
    const at = (this.#written++ % this.#size) * DIRTY_RING_ENTRY;
    store32(this.bytes, at + SLOT, slot);
    store64(this.bytes, at + OFFSET, page);
    store32(this.bytes, at, KVM_DIRTY_GFN_F_DIRTY);
  }

  /** Takes back the entries that user space has collected, up to the first that it has not: how many. */
  reset(given: (slot: number, page: number) => void): number {
    for (let count = 0; ; count++) {
      const at = (this.#reset % this.#size) * DIRTY_RING_ENTRY;
      if ((load32(this.bytes, at) & KVM_DIRTY_GFN_F_RESET) === 0) return count;
      store32(this.bytes, at, 0);
      this.#reset++;
      given(load32(this.bytes, at + SLOT), loadNumber64(this.bytes, at + OFFSET));
    }
  }
}

/** How many entries were taken back. EINVAL without dirty rings. */
function resetDirtyRings({ vm }: VmFile): number {
  if (vm.dirtyRingSize === 0) return -EINVAL;
  let cleared = 0;
  for (const { dirtyRing } of vm.vcpus)
    cleared += dirtyRing.reset((slot, page) => vm.slots.protect(slot, page));
  return cleared;
}

export const dirtyRingIoctls: readonly Entry<VmFile>[] = [[KVM_RESET_DIRTY_RINGS, resetDirtyRings]];
