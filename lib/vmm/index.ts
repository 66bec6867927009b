/**
 * VMM-side code: routes for messages, irqfds, MSI-X of emulated and of assigned devices, host bridges. Written over the
 * few system calls of `Linux`, so it runs on the fake, on the real kernel, and inside an exploration.
 */
export type { PhysicalGic } from "../hardware/gic-physical.ts";
export type { PlatformInterrupt } from "../vfio/platform-device.ts";
export { type Co, counted, Direct, drain, type Linux, Mutex, now } from "./co.ts";
export { assignPlatformIrq, ForwardedIrq, type ForwardedOptions, type VirtualIrq } from "./forwarded-irq.ts";
export { RemappedMsix } from "./guest-remapping.ts";
export { HostBridge } from "./host-bridge.ts";
export { Irqchip, type IrqchipOptions, type MsiMapper } from "./irqchip.ts";
export { KvmAssignedMsix } from "./kvm-assigned-msix.ts";
export { type GuestWrite, MsiVector, type MsiVectorOptions } from "./msi-vector.ts";
export {
  AssignedMsix,
  type AssignedMsixOptions,
  type HostMsix,
  type MsixPolicy,
  type RawMsix,
} from "./pci-assign.ts";
export { type Message, type PinRoute, RouteTable } from "./route-table.ts";
export { SourceNumbers, SpaprPhb } from "./spapr-phb.ts";
export { enableVfioIntx, openVfioDevice, setIrqs, VfioMsix } from "./vfio-pci.ts";
