/** How long guests of a host run: a rule of whoever tests, there is no such thing in Linux. */
import type { Kernel } from "../../kernel/kernel.ts";

/** How long a guest may run in one call, and whether time passes meanwhile. */
export interface GuestPolicy {
  /** instructions after which KVM_RUN answers −EINTR */
  budget: number;
  /** what an instruction takes of the virtual clock */
  nanosecondsPerInstruction: number;
  /** how long a vCPU sleeps at most, in nanoseconds of the virtual clock, while timers tick that do not wake it */
  longestSleep: number;
}

const policies = new WeakMap<Kernel, GuestPolicy>();

/** The policy of a host; change its fields. */
export function guestPolicy(kernel: Kernel): GuestPolicy {
  let policy = policies.get(kernel);
  if (policy === undefined)
    policies.set(
      kernel,
      (policy = { budget: 10_000_000, nanosecondsPerInstruction: 0, longestSleep: 60_000_000_000 }),
    );
  return policy;
}
