/**
 * A proposed call announces which interrupt controller a VM will have, before it exists; open was what KVM_RUN does until
 * then. If it runs, the guest's first hypercall to the controller finds none, and the controller that comes later stays
 * closed: the interrupt never comes. Mended: KVM_RUN refuses until the vCPU is connected.
 */
import { announcedWhileRunning } from "../../lib/examples/irqchips.ts";
import type { Bug } from "./bug.ts";

export const bug: Bug = {
  number: 40,
  title: "KVM_RUN before the announced controller exists",
  reference: "Graf and Natapov on KVM_SET_IRQCHIP_TYPE, March 2013",
  broken: announcedWhileRunning("run"),
  mended: announcedWhileRunning("refuse unconnected"),
};
