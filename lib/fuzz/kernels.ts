/** The two kernels of a campaign: the fake with the profile of this host, and the real one. */
import { EINTR } from "../abi/errno.ts";
import { KVM_RUN } from "../abi/kvm.ts";
import { EOI_INJECT_DELAY } from "../hardware/ioapic.ts";
import type { Kernel as FakeKernel } from "../kernel/kernel.ts";
import type { Syscalls } from "../kernel/syscalls.ts";
import { guestPolicy } from "../kvm/x86/guest-policy.ts";
import { Machine } from "../machine/machine.ts";
import { profileFromHeader } from "../machine/profile.ts";
import type { NativeKernel } from "../native/native.ts";
import type { TraceHeader } from "../trace/format.ts";
import type { Kernel } from "./differential.ts";
import { RUNNING_ON } from "./guest-run.ts";

/** Milliseconds that a real kernel's threads get, by patience. */
const SETTLE_MS = [1, 4, 15];

/** Milliseconds that a guest of the real kernel may run, by patience; instructions that one of the fake may. */
const RUN_MS = [20, 150, 600, 6000];
const RUN_INSTRUCTIONS = 1_000_000;

/** The real kernel. */
export const nativeSide = (native: NativeKernel): Kernel => ({
  process: () => native.process(),
  settle: (process, patience) => void process.poll([], SETTLE_MS[Math.min(patience, SETTLE_MS.length - 1)]),
  enter: (process, vcpu, patience) =>
    native.interrupted(RUN_MS[Math.min(patience, RUN_MS.length - 1)], () =>
      process.ioctl(vcpu, KVM_RUN.number, 0),
    ),
});

/** The fake on a host: a new machine for each program. */
export function fakeSide(header: TraceHeader): Kernel {
  const profile = profileFromHeader(header);
  const kernels = new WeakMap<Syscalls, FakeKernel>();
  return {
    process() {
      const machine = new Machine(profile);
      guestPolicy(machine.kernel).budget = RUN_INSTRUCTIONS;
      const process = machine.process();
      kernels.set(process, machine.kernel);
      return process;
    },
    settle: (process) => process.settle(),
    // nothing else in a program has a timer as short as that
    paused(process) {
      const clock = kernels.get(process)?.clock;
      return clock !== undefined && clock.next - clock.now <= EOI_INJECT_DELAY;
    },
    enter(process, vcpu) {
      const deadlocks = kernels.get(process)?.deadlocks;
      const before = deadlocks?.length;
      const result = process.ioctl(vcpu, KVM_RUN.number, 0);
      return result === -EINTR && deadlocks !== undefined && deadlocks.length === before
        ? RUNNING_ON
        : result;
    },
  };
}
