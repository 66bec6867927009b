/** Guests that leave for user space, and what they tell: shorthands for the specs of exits. */
import { KVM_CREATE_IRQCHIP, KVM_ENABLE_CAP, KVM_INTERRUPT, KvmEnableCap } from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_MSRS,
  KVM_GET_SREGS,
  KVM_SET_MSRS,
  KVM_SET_SREGS,
  KvmMsrEntry,
  KvmMsrs,
  KvmSregs,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, load64, store32 } from "../../../lib/abi/struct.ts";
import { builtinHosts } from "../../../lib/machine/builtin.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { type Profile, profileFromHeader } from "../../../lib/machine/profile.ts";
import { Guest, type Mode } from "./guest.ts";
import { mainline } from "./vm.ts";

export const HLT = 0xf4;
export const NOP = 0x90;

export function started(mode: Mode, { profile = mainline as Profile, irqchip = false } = {}): Guest {
  const process = new Machine(profile).process();
  return new Guest(process, mode, (vm) => irqchip && process.ioctl(vm, KVM_CREATE_IRQCHIP, 0));
}

export const enable = (guest: Guest, cap: number, value: number) =>
  guest.kernel.ioctl(
    guest.vm,
    KVM_ENABLE_CAP,
    KvmEnableCap.encode({ cap, args: [BigInt(value), 0n, 0n, 0n] }),
  );
export const union = ({ run }: Guest, at: number) => load64(run, 32 + at);

/** AMD's module in some release. */
export const svm = (kernel: string): Profile => profileFromHeader({ ...builtinHosts.x86_64_7_2_svm, kernel });
export const changeSregs = (guest: Guest, change: (bytes: Uint8Array) => void): number => {
  const bytes = guest.get(KVM_GET_SREGS.number, KvmSregs.size);
  change(bytes);
  return guest.kernel.ioctl(guest.vcpu, KVM_SET_SREGS, bytes);
};
/** reason, ready_for_interrupt_injection, if_flag */
export const head = ({ run }: Guest) => [load32(run, 8), run[12], run[13]];
export const interrupt = (guest: Guest, vector: number) => {
  const bytes = new Uint8Array(4);
  store32(bytes, 0, vector);
  return guest.kernel.ioctl(guest.vcpu, KVM_INTERRUPT, bytes);
};
const msr = (index: number, data = 0n) => {
  const bytes = new Uint8Array(KvmMsrs.size + KvmMsrEntry.size);
  bytes.set(KvmMsrs.encode({ nmsrs: 1 }));
  bytes.set(KvmMsrEntry.encode({ index, data }), KvmMsrs.size);
  return bytes;
};
export const setMsr = (guest: Guest, index: number, value: bigint) =>
  guest.kernel.ioctl(guest.vcpu, KVM_SET_MSRS, msr(index, value));
export const getMsr = (guest: Guest, index: number) => {
  const bytes = msr(index);
  return guest.kernel.ioctl(guest.vcpu, KVM_GET_MSRS, bytes) === 1
    ? KvmMsrEntry.decode(bytes, KvmMsrs.size).data
    : undefined;
};
/** an address without memory */
export const HOLE = 0x40_0000;
export const OUT = [0xe6, 0x80];
