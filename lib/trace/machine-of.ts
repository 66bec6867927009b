/** The machine that the header of a trace describes. */
import { Machine } from "../machine/machine.ts";
import { profileFromHeader } from "../machine/profile.ts";
import type { TraceHeader } from "./format.ts";
import type { KernelUnderTest } from "./replay.ts";

/** A machine built from a header, and from nothing else. */
export const machineOf = (header: TraceHeader): KernelUnderTest => new Machine(profileFromHeader(header));
