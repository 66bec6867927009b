/** The two kernels of a campaign: the fake with the profile of this host, and the real one. */
import { Machine } from "../machine/machine.ts";
import { profileFromHeader } from "../machine/profile.ts";
import type { NativeKernel } from "../native/native.ts";
import type { TraceHeader } from "../trace/format.ts";
import type { Kernel } from "./differential.ts";

/** Milliseconds that a real kernel's threads get, by patience. */
const SETTLE_MS = [1, 4, 15];

/** The real kernel. */
export const nativeSide = (native: NativeKernel): Kernel => ({
  process: () => native.process(),
  settle: (process, patience) => void process.poll([], SETTLE_MS[Math.min(patience, SETTLE_MS.length - 1)]),
});

/** The fake on a host: a new machine for each program. */
export function fakeSide(header: TraceHeader): Kernel {
  const profile = profileFromHeader(header);
  return {
    process: () => new Machine(profile).process(),
    settle: (process) => process.settle(),
  };
}
