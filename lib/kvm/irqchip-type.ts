/**
 * KVM_SET_IRQCHIP_TYPE: never part of Linux. A VMM announces which controller it is going to create, before it creates
 * vCPUs (proposed for POWER in 2013 by Graf and others; first called KVM_CREATE_IRQCHIP_ARGS). A host has it only where
 * its profile names the proposal; the number is one that no release uses.
 *
 * The question that was left open, what KVM_RUN does before the announced controller exists, is answered by the
 * profile:
 * - "refuse": ENXIO until then;
 * - "refuse unconnected": ENXIO until the vCPU is connected to it, which is a step after its creation;
 * - "run": the vCPU runs without a controller, until it is connected to it.
 */
import { EBUSY, EEXIST, EFAULT, ENODEV, ENXIO } from "../abi/errno.ts";
import { io } from "../abi/ioctl.ts";
import { KVMIO } from "../abi/kvm.ts";
import { load32 } from "../abi/struct.ts";
import type { Argument } from "../kernel/argument.ts";
import type { Vcpu } from "./vcpu.ts";
import type { VmFile } from "./vm.ts";

/** Points to a u32: a type of KVM_CREATE_DEVICE. */
export const KVM_SET_IRQCHIP_TYPE = io(KVMIO, 0xef);

/** What KVM_RUN does before the announced controller exists. */
export type IrqchipProposal = "refuse" | "refuse unconnected" | "run";

/** EFAULT; EEXIST: announced already; EBUSY: a controller exists; ENODEV: this host has no such controller. */
export function setIrqchipType(file: VmFile, user: Argument): number {
  const { vm } = file;
  const { host } = vm;
  if (host.irqchipProposal === undefined) return host.arch.unknownVmIoctl;
  if (!user.readable(4)) return -EFAULT;
  const type = load32(user.bytes, user.at);
  if (vm.announcedIrqchip !== undefined) return -EEXIST;
  if (vm.arch.irq?.initialized === true) return -EBUSY;
  if (!host.arch.deviceTypes.has(type) || host.arch.hasDevice?.(type, host) === false) return -ENODEV;
  vm.announcedIrqchip = type;
  return 0;
}

/** Before KVM_RUN: 0, or −ENXIO where a controller is announced, not there, and the profile refuses. */
export function checkAnnouncedIrqchip({ vm, arch }: Vcpu): number {
  const answer = vm.host.irqchipProposal;
  if (vm.announcedIrqchip === undefined || answer === "run") return 0;
  if (vm.arch.irq?.initialized !== true) return -ENXIO;
  return answer === "refuse unconnected" && arch!.connected === false ? -ENXIO : 0;
}
