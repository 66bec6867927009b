/** What KVM itself reads and writes of a guest's memory (virt/kvm/kvm_main.c:kvm_read_guest, kvm_write_guest, 6.1). */
import { KVM_MEM_READONLY } from "../../abi/kvm.ts";
import type { Vm } from "../vm.ts";

/** Copies page by page: false at the first page that is not there. */
export function copyGuest(vm: Vm, address: number, bytes: Uint8Array, writing: boolean): boolean {
  const { slots } = vm;
  for (let done = 0; done < bytes.length; ) {
    const at = address + done;
    const part = bytes.subarray(done, done + slots.pageSize - (at % slots.pageSize));
    const frame = Math.floor(at / slots.pageSize);
    const slot = slots.find(frame);
    if (slot === undefined) return false;
    if (writing) {
      if ((slot.flags & KVM_MEM_READONLY) !== 0) return false;
      if (!vm.mm.copyOut(slots.userAddress(at), part)) return false;
      slots.markDirty(frame);
    } else {
      const read = vm.mm.copyIn(slots.userAddress(at), part.length);
      if (read === null) return false;
      part.set(read);
    }
    done += part.length;
  }
  return true;
}
