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
  const user = vm.slots.userAddress(address);
  const old = user < 0 ? undefined : vm.mm.copyIn(user, 4);
  if (old === undefined) return;
  const version = load32(old, 0);
  const writing = version + (version & 1) + 1;
  const bytes = new Uint8Array(12);
  store32(bytes, 0, writing);
  if (!writeGuest(vm, address, bytes.subarray(0, 4))) return;
  const { clock } = vm.arch as X86Vm;
  const started = clock.realtime - clock.now;
  store32(bytes, 4, Number((started / NANOSECONDS) & 0xffff_ffffn));
  store32(bytes, 8, Number(started % NANOSECONDS));
  writeGuest(vm, address, bytes);
  store32(bytes, 0, writing + 1);
  writeGuest(vm, address, bytes.subarray(0, 4));
}

/** Page by page, as kvm_write_guest: false at the first that cannot be written. */
function writeGuest(vm: Vm, address: number, bytes: Uint8Array): boolean {
  const { slots } = vm;
  for (let done = 0; done < bytes.length; ) {
    const at = address + done;
    const part = Math.min(bytes.length - done, slots.pageSize - (at % slots.pageSize));
    const frame = Math.floor(at / slots.pageSize);
    const slot = slots.find(frame);
    if (slot === undefined || (slot.flags & KVM_MEM_READONLY) !== 0) return false;
    if (!vm.mm.copyOut(slots.userAddress(at), bytes.subarray(done, done + part))) return false;
    slots.markDirty(frame);
    done += part;
  }
  return true;
}
