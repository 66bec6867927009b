/** One body, three kernels: pvm and mainline of the fake, and the real kernel; and what guests of such bodies are asked. */
import { expect, onTestFinished, test } from "vitest";
import { KVM_EXIT_HLT } from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_SREGS,
  KVM_SET_MSRS,
  KVM_SET_SREGS,
  KvmMsrEntry,
  KvmMsrs,
  KvmSregs,
} from "../../../lib/abi/kvm-x86.ts";
import { store16 } from "../../../lib/abi/struct.ts";
import type { Syscalls } from "../../../lib/kernel/syscalls.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { nativeKernel } from "../../../lib/native/native.ts";
import { Guest, type Mode } from "./guest.ts";
import { mainline } from "./vm.ts";

const native = nativeKernel();
export type Kernel = "pvm" | "mainline" | "the real kernel";
const starts: Record<Kernel, (() => Syscalls) | undefined> = {
  pvm: () => new Machine().process(),
  mainline: () => new Machine(mainline).process(),
  "the real kernel": native.available ? () => native.process() : undefined,
};

/** `prepare` runs before the vCPU is created. */
export type GuestIn = (mode: Mode, prepare?: (vm: number, process: Syscalls) => void) => Guest;

/** The same body on these kernels; all without a list. */
export function rule(title: string, body: (guestIn: GuestIn, kernel: Kernel) => void, on?: Kernel[]): void {
  for (const kernel of on ?? (Object.keys(starts) as Kernel[])) {
    const start = starts[kernel];
    test.skipIf(start === undefined)(`${title} (${kernel})`, () => {
      body((mode, prepare = () => {}) => {
        const process = start!();
        onTestFinished(() => process.exit());
        const guest = new Guest(process, mode, (vm) => prepare(vm, process));
        if (mode === "real")
          for (let vector = 0; vector < 256; vector++)
            store16(guest.memory, 4 * vector, HANDLERS + 32 * vector);
        return guest;
      }, kernel);
    });
  }
}

export const HLT = 0xf4;
export const HANDLERS = 0x4000;
export const [UD, SS, GP, PF] = [6, 12, 13, 14];

/** Runs to HLT: "done", or the vector in whose handler it halts. */
export function outcome(guest: Guest): "done" | number | string {
  const result = guest.enter();
  if (result !== 0 || guest.exitReason !== KVM_EXIT_HLT) return `${result}, exit ${guest.exitReason}`;
  const at = Number(guest.register("rip")) - 1 - HANDLERS;
  return at >= 0 && at < 256 * 32 ? at >> 5 : "done";
}

export const le = (value: number, bytes: number): number[] =>
  Array.from({ length: bytes }, (_, i) => Math.floor(value / 2 ** (8 * i)) & 0xff);

export function sregs(guest: Guest, change: (bytes: Uint8Array) => void): number {
  const bytes = guest.get(KVM_GET_SREGS.number, KvmSregs.size);
  change(bytes);
  return guest.kernel.ioctl(guest.vcpu, KVM_SET_SREGS, bytes);
}

export function setMsr(guest: Guest, index: number, data: bigint): void {
  const bytes = new Uint8Array(KvmMsrs.size + KvmMsrEntry.size);
  bytes.set(KvmMsrs.encode({ nmsrs: 1 }));
  bytes.set(KvmMsrEntry.encode({ index, data }), KvmMsrs.size);
  expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_MSRS, bytes)).toBe(1);
}
