/** The machine that the header of a trace describes. */
import { Kernel } from "../kernel/kernel.ts";
import { Process } from "../kernel/process.ts";
import type { TraceHeader } from "./format.ts";
import type { KernelUnderTest } from "./replay.ts";

/** A machine built from a header, and from nothing else. */
export function machineOf(header: TraceHeader): KernelUnderTest {
  const kernel = new Kernel();
  return { process: (options) => new Process(kernel, { encoding: header.ioc ?? "generic", ...options }) };
}
