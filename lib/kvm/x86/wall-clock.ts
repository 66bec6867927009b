/**
 * MSR_KVM_WALL_CLOCK: a guest names an address, and there KVM writes when the guest was started
 * (arch/x86/kvm/x86.c:kvm_write_wall_clock, 6.1; Documentation/virt/kvm/x86/msr.rst). `struct pvclock_wall_clock`, 12
 * bytes: version u32, odd while it is being written; sec u32; nsec u32.
 */
import { KVM_MEM_READONLY } from "../../abi/kvm.ts";
import { load32, store32 } from "../../abi/struct.ts";
import type { Vm } from "../vm.ts";
import type { X86Vm } from "./vm.ts";

const NANOSECONDS = 1_000_000_000n;

/** Writes the time of the guest's start to a guest physical address; nothing at 0, and where no memory is. */
export function writeWallClock(vm: Vm, address: number): void {
  if (address === 0) return;
  const bytes = new Uint8Array(12);
  if (!access(vm, address, bytes.subarray(0, 4), false)) return;
  const version = load32(bytes, 0);
  const writing = version + (version & 1) + 1;
  store32(bytes, 0, writing);
  if (!access(vm, address, bytes.subarray(0, 4), true)) return;
  const { clock } = vm.arch as X86Vm;
  const started = clock.realtime - clock.now;
  store32(bytes, 4, Number((started / NANOSECONDS) & 0xffff_ffffn));
  store32(bytes, 8, Number(started % NANOSECONDS));
  access(vm, address, bytes, true);
  store32(bytes, 0, writing + 1);
  access(vm, address, bytes.subarray(0, 4), true);
}

/** Copies page by page, as kvm_read_guest and kvm_write_guest: false at the first page that is not there. */
function access(vm: Vm, address: number, bytes: Uint8Array, writing: boolean): boolean {
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
