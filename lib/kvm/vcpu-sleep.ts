/**
 * A vCPU that sleeps in KVM_RUN, on every architecture (virt/kvm/kvm_main.c:kvm_vcpu_block, 6.1).
 *
 * No sleep hangs JavaScript. It lets deferred work and virtual time pass (`Kernel.wait`), and is −EINTR where nothing can
 * ever end it, with a report of what every vCPU of the VM waits for; a patient run (`Process.run`) is told ASLEEP, and comes
 * again.
 */
import { EINTR } from "../abi/errno.ts";
import { ASLEEP } from "../kernel/long-call.ts";
import type { Vcpu } from "./vcpu.ts";

/** What it waited for is there. */
export const AWAKE = 1;
/** nanoseconds of the virtual clock that a sleep lasts at most while timers tick that do not end it */
const LONGEST = 60_000_000_000;

/**
 * Waits: AWAKE once `ready`; −EINTR for a signal, where nothing can ever end it, or where nothing did within the longest
 * sleep: a timer that ticks for ever must not keep JavaScript busy for ever. ASLEEP for a patient run. `what`: what the vCPU
 * waits for, in words.
 */
export function sleepUntil(
  vcpu: Vcpu,
  patient: boolean,
  what: string,
  ready: () => boolean,
  longest = LONGEST,
): number {
  const { kernel } = vcpu.vm;
  const ended = (): boolean => ready() || vcpu.interrupted;
  const report = `vCPU ${vcpu.id} ${what}`;
  if (patient) {
    kernel.work.policy(kernel.work);
    const sleptOn = vcpu.waitsFor !== "";
    vcpu.waitsFor = ended() ? "" : report;
    if (vcpu.waitsFor !== "") {
      // what it did before it fell asleep may be what another one waits for
      if (!sleptOn) kernel.stir();
      return ASLEEP;
    }
  } else {
    const all = everyone(vcpu, report);
    const { next, now } = kernel.clock;
    const deadline = next === Number.POSITIVE_INFINITY ? undefined : now + longest;
    if (kernel.wait(all, ended, deadline) === false) kernel.deadlocks.push(all);
  }
  return ready() ? AWAKE : -EINTR;
}

/** What every vCPU of the VM waits for, this one first. */
function everyone(vcpu: Vcpu, report: string): string {
  const others = vcpu.vm.vcpus
    .filter((other) => other !== vcpu)
    .map((other) => (other.waitsFor === "" ? `vCPU ${other.id} is not in KVM_RUN` : other.waitsFor));
  return [report, ...others].join("; ");
}
