/**
 * MSR_KVM_WALL_CLOCK: a guest names an address, and there KVM writes when the guest was started
 * (arch/x86/kvm/x86.c:kvm_write_wall_clock, 6.1; Documentation/virt/kvm/x86/msr.rst). `struct pvclock_wall_clock`, 12
 * bytes: version u32, odd while it is being written; sec u32; nsec u32.
 */
import { load32, store32 } from "../../abi/struct.ts";
import type { Vm } from "../vm.ts";
import { copyGuest } from "./guest-memory.ts";
import type { X86Vm } from "./vm.ts";

const NANOSECONDS = 1_000_000_000n;

/** Writes the time of the guest's start to a guest physical address; nothing at 0, and where no memory is. */
export function writeWallClock(vm: Vm, address: number): void {
  if (address === 0) return;
  const bytes = new Uint8Array(12);
  if (!copyGuest(vm, address, bytes.subarray(0, 4), false)) return;
  const version = load32(bytes, 0);
  const writing = version + (version & 1) + 1;
  store32(bytes, 0, writing);
  if (!copyGuest(vm, address, bytes.subarray(0, 4), true)) return;
  const { clock } = vm.arch as X86Vm;
  const started = clock.realtime - clock.now;
  store32(bytes, 4, Number((started / NANOSECONDS) & 0xffff_ffffn));
  store32(bytes, 8, Number(started % NANOSECONDS));
  copyGuest(vm, address, bytes, true);
  store32(bytes, 0, writing + 1);
  copyGuest(vm, address, bytes.subarray(0, 4), true);
}
