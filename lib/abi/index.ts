/**
 * The whole abi floor. Names are those of the C headers. Generic names and x86's stand at the top level, x86 being the
 * default; an architecture's own, whose C names repeat x86's (kvm_regs, KVM_GET_REGS, KVM_NR_IRQCHIPS …), stand in a
 * namespace: `arm64.KvmRegs`, `ppc.KVM_GET_REGS`, `riscv.KvmRun`, and `x86` for symmetry. POWER's numbers of any request
 * are in its `.powerpc`. Retired requests are in `legacy`, what is visible of s390 in `s390`.
 */
export * from "./device-attributes.ts";
export * from "./errno.ts";
export * from "./eventfd.ts";
export * from "./fcntl.ts";
export * from "./hex.ts";
export * from "./ioctl.ts";
export * from "./iommufd.ts";
export * from "./kvm.ts";
export * as arm64 from "./kvm-arm64.ts";
export * as legacy from "./kvm-legacy.ts";
export * from "./kvm-para.ts";
export * as ppc from "./kvm-ppc.ts";
export * as riscv from "./kvm-riscv.ts";
export * as s390 from "./kvm-s390.ts";
export * as x86 from "./kvm-x86.ts";
export * from "./kvm-x86.ts";
export * from "./mman.ts";
export * from "./msi.ts";
export * from "./pci.ts";
export * from "./places.ts";
export * from "./poll.ts";
export * from "./requests.ts";
export * from "./struct.ts";
export * from "./vfio.ts";
export * as spapr from "./vfio-spapr.ts";
