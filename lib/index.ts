/**
 * fake-kvm: the slice of the Linux kernel that a virtual machine monitor talks to.
 *
 *     const process = new Machine().process();
 *     const kvm = process.open("/dev/kvm", O_RDWR);
 *     const vm = process.ioctl(kvm, KVM_CREATE_VM, 0);
 */
export * from "./abi/index.ts";
export { Edu } from "./hardware/edu.ts";
/** A guest as a generator of accesses: `guest.store32(address, value)`, `guest.in8(port)`, `guest.eoi()`. */
export * as guest from "./hardware/guest-script.ts";
export { Ivshmem } from "./hardware/ivshmem.ts";
export type { Msi } from "./hardware/msi.ts";
export type { Msix } from "./hardware/msix.ts";
export {
  type PciBar,
  PciDevice,
  type PciDeviceOptions,
  type PciModel,
  type PciWires,
  type ResetMethod,
} from "./hardware/pci-device.ts";
export { type CapabilityImage, type ExtendedImage, type PciImage, pciImage } from "./hardware/pci-image.ts";
export { doorbell, intxLevel, type Register, RegisterDevice } from "./hardware/register-device.ts";
export { type AddressSpace, SIGBUS, SIGSEGV } from "./kernel/address-space.ts";
export type { UserArgument } from "./kernel/argument.ts";
export { type CheckedSyscalls, checked, LinuxError } from "./kernel/checked.ts";
export { Clock, type Timer } from "./kernel/clock.ts";
export { type FaultKind, Faults } from "./kernel/faults.ts";
export type { FdTable } from "./kernel/fd-table.ts";
export type { File } from "./kernel/file.ts";
export { Kernel, type KernelBehaviour, type KernelOptions, type Open } from "./kernel/kernel.ts";
export type { Naps } from "./kernel/long-call.ts";
export { Process, type ProcessOptions } from "./kernel/process.ts";
export {
  SIG_BLOCK,
  SIG_SETMASK,
  SIG_UNBLOCK,
  type SignalHandler,
  type Signals,
  signalSet,
} from "./kernel/signals.ts";
export type { EpollEvent, PollFd, Syscalls } from "./kernel/syscalls.ts";
export { byHand, inOrder, type Policy, type Work, WorkQueue } from "./kernel/work-queue.ts";
export type { HostFacts } from "./kvm/host.ts";
export type { IrqchipProposal } from "./kvm/irqchip-type.ts";
export { type GuestPolicy, guestPolicy } from "./kvm/x86/guest-policy.ts";
export { runScript } from "./kvm/x86/script.ts";
export { builtinHosts } from "./machine/builtin.ts";
export { defaultProfile } from "./machine/default-profile.ts";
export type { HeaderFacts } from "./machine/facts.ts";
export { Machine, type MachineOptions } from "./machine/machine.ts";
export { type MachinePci, type ModelFactory, pciModels } from "./machine/pci.ts";
export { type ArchName, type Profile, type ProfileHeader, profileFromHeader } from "./machine/profile.ts";
