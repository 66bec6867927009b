/**
 * Which pages of guest memory the processor finds without KVM: the nested page tables of a host whose processor runs guests
 * (arch/x86/kvm/mmu/tdp_mmu.c:kvm_tdp_mmu_map, arch/x86/kvm/mmu/spte.c:make_spte, 6.1; recorded on 6.1, 6.12 and 7.2).
 *
 * What a guest sees is the same without them. User space is not: a page that is mapped for a read is mapped for writes too
 * where the host's own page can be written, and is dirty from then on; and an event that meets a page on its way which is
 * not mapped yet comes back to KVM, and is seen in KVM_GET_VCPU_EVENTS (run-delivery.ts).
 *
 * A page of the host can be written once somebody has written to it; before, reads find the page of zeros that all share.
 * User space writes without a system call, so it is told by the bytes: a page of zeros was never written. Of a large mapping
 * the host makes huge pages (transparent_hugepage=always), where it lies so that they fit: since 6.7 it does
 * (mm/huge_memory.c:thp_get_unmapped_area, 6.7).
 *
 * Missing: huge pages of the nested tables; pages that user space maps anew; that 6.1 forgets all with every change of paging.
 */
import { KVM_MEM_READONLY } from "../../abi/kvm.ts";
import type { MemorySlot } from "../memory-slots.ts";

const PAGE = 4096;
const HUGE_PAGE = 0x20_0000;
const ABSENT = 0;
const READABLE = 1;
const WRITABLE = 2;

function holdsSomething(bytes: Uint8Array, at: number, length: number): boolean {
  for (let i = at; i < at + length; i++) if (bytes[i] !== 0) return true;
  return false;
}

export class NestedPages {
  readonly #levels = new Map<number, number>();
  readonly #hugePages: boolean;
  // the huge page that was found written last
  #hugeBytes: Uint8Array | undefined;
  #hugeAt = 0;

  constructor(hugePages: boolean) {
    this.#hugePages = hugePages;
  }

  /** A slot went or moved: nothing is mapped any more (kvm_mmu_zap_all_fast). */
  clear(): void {
    this.#levels.clear();
  }

  /**
   * A page of a slot is accessed, whose bytes are known: whether that is a nested page fault. `writable` tells whether the
   * page can be written from now on.
   */
  access(slot: MemorySlot, frame: number, forWriting: boolean, bytes: Uint8Array, at: number): boolean {
    let level = this.#levels.get(frame) ?? ABSENT;
    if (level === WRITABLE && isProtected(slot, frame)) level = READABLE;
    const wanted = forWriting ? WRITABLE : READABLE;
    this.writable = level === WRITABLE;
    if (level >= wanted) return false;
    this.writable = forWriting || ((slot.flags & KVM_MEM_READONLY) === 0 && this.#written(bytes, at));
    this.#levels.set(frame, this.writable ? WRITABLE : READABLE);
    return true;
  }

  /** Whether a page of the host was ever written: a page of a mapping, whose bytes these are. */
  #written(bytes: Uint8Array, at: number): boolean {
    if (holdsSomething(bytes, at, PAGE)) return true;
    const huge = at - (at % HUGE_PAGE);
    if (!this.#hugePages || huge + HUGE_PAGE > bytes.length) return false;
    if (this.#hugeBytes === bytes && this.#hugeAt === huge) return true;
    if (!holdsSomething(bytes, huge, HUGE_PAGE)) return false;
    this.#hugeBytes = bytes;
    this.#hugeAt = huge;
    return true;
  }

  /** see `access` */
  writable = false;
}

/** A dirty log that was read has its pages protected against writes. */
function isProtected({ dirty, baseFrame }: MemorySlot, frame: number): boolean {
  if (dirty === undefined) return false;
  const page = frame - baseFrame;
  return (dirty[page >> 3] & (1 << (page & 7))) === 0;
}
