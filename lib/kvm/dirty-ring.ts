/**
 * KVM_RESET_DIRTY_RINGS: takes back the entries of the vCPUs' dirty rings that user space has collected
 * (virt/kvm/dirty_ring.c:kvm_dirty_ring_reset, 6.1). An entry, `struct kvm_dirty_gfn`, 16 bytes: flags u32 (1 dirty, 2 to
 * be reset), slot u32, offset u64.
 *
 * Missing: writing entries, which is for whoever executes guest code.
 */
import { EINVAL } from "../abi/errno.ts";
import {
  KVM_DIRTY_GFN_F_MASK,
  KVM_DIRTY_GFN_F_RESET,
  KVM_RESET_DIRTY_RINGS,
  KvmDirtyGfn,
} from "../abi/kvm.ts";
import { load32, store32 } from "../abi/struct.ts";
import type { Entry } from "./dispatch.ts";
import type { VmFile } from "./vm.ts";

/** How many entries were taken back. EINVAL without dirty rings. */
function resetDirtyRings({ vm }: VmFile): number {
  if (vm.dirtyRingSize === 0) return -EINVAL;
  let cleared = 0;
  for (const { dirtyRing } of vm.vcpus)
    for (let at = 0; at < dirtyRing.length; at += KvmDirtyGfn.size) {
      const flags = load32(dirtyRing, at);
      if ((flags & KVM_DIRTY_GFN_F_RESET) === 0) continue;
      store32(dirtyRing, at, flags & ~KVM_DIRTY_GFN_F_MASK);
      cleared++;
    }
  return cleared;
}

export const dirtyRingIoctls: readonly Entry<VmFile>[] = [[KVM_RESET_DIRTY_RINGS, resetDirtyRings]];
