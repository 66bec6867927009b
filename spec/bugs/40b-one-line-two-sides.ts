/**
 * The external input of a vCPU is one line. A controller in the kernel drives it, and user space drives it too, with
 * KVM_INTERRUPT: whoever lowers it takes the other's interrupt away. Mended: one side at a time; here the kernel alone.
 */
import { oneLineTwoSides } from "../../lib/examples/irqchips.ts";
import type { Bug } from "./bug.ts";

export const bug: Bug = {
  number: 40,
  title: "one line, driven by KVM_INTERRUPT and by the kernel",
  reference: "Graf and Natapov, March 2013",
  broken: oneLineTwoSides(true),
  mended: oneLineTwoSides(false),
};
