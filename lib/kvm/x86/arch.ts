/**
 * KVM on x86-64: which requests it adds, and what a VM and a vCPU hold. One file a concern; this one only puts them
 * together.
 */
import { EINVAL, ENOTTY } from "../../abi/errno.ts";
import { KVM_CAP_VM_TYPES, KVM_DEV_TYPE_VFIO } from "../../abi/kvm.ts";
import type { KvmArch } from "../arch.ts";
import { guestMemfdIoctls } from "../guest-memfd.ts";
import type { KvmHost } from "../host.ts";
import { clearDirtyLogIoctls } from "../memory-slots.ts";
import { statsVcpuIoctls, statsVmIoctls } from "../stats.ts";
import { vcpuCapIoctls } from "../vcpu.ts";
import { createVfioDevice } from "../vfio-device.ts";
import { absentVcpuIoctls, absentVmIoctls } from "./absent.ts";
import { attributeSystemIoctls, attributeVcpuIoctls } from "./attributes.ts";
import { clockVcpuIoctls, clockVmIoctls } from "./clock.ts";
import { cpuidIoctls, cpuidSystemIoctls } from "./cpuid.ts";
import { debugIoctls } from "./debug.ts";
import { eventIoctls } from "./events.ts";
import { filterIoctls } from "./filters.ts";
import { fpuIoctls } from "./fpu.ts";
import { hypervEventfdIoctls } from "./hyperv-eventfd.ts";
import { irqchipIoctls } from "./irqchip.ts";
import { lapicIoctls } from "./lapic.ts";
import { mceIoctls, mceSystemIoctls } from "./mce.ts";
import { memoryAttributeIoctls } from "./memory-attributes.ts";
import { mpStateIoctls } from "./mp-state.ts";
import { msrIoctls, msrSystemIoctls } from "./msrs.ts";
import { nestedIoctls } from "./nested.ts";
import { pitIoctls } from "./pit.ts";
import { registerIoctls } from "./registers.ts";
import { memoryIoctls } from "./special-pages.ts";
import { vcpuStats, vmStats } from "./stats.ts";
import { translateIoctls } from "./translate.ts";
import { vapicIoctls } from "./vapic.ts";
import { X86Vcpu } from "./vcpu.ts";
import { X86Vm } from "./vm.ts";
import { xenIoctls } from "./xen.ts";

export const x86: KvmArch = {
  name: "x86_64",
  encoding: "generic",
  systemIoctls: [...cpuidSystemIoctls, ...msrSystemIoctls, ...mceSystemIoctls, ...attributeSystemIoctls],
  vmIoctls: [
    ...irqchipIoctls,
    ...pitIoctls,
    ...memoryIoctls,
    ...clockVmIoctls,
    ...filterIoctls,
    ...clearDirtyLogIoctls,
    ...guestMemfdIoctls,
    ...statsVmIoctls(vmStats),
    ...memoryAttributeIoctls,
    ...xenIoctls,
    ...hypervEventfdIoctls,
    ...absentVmIoctls,
  ],
  vcpuIoctls: [
    ...lapicIoctls,
    ...mpStateIoctls,
    ...registerIoctls,
    ...cpuidIoctls,
    ...msrIoctls,
    ...fpuIoctls,
    ...debugIoctls,
    ...eventIoctls,
    ...mceIoctls,
    ...clockVcpuIoctls,
    ...attributeVcpuIoctls,
    ...vapicIoctls,
    ...translateIoctls,
    ...vcpuCapIoctls,
    ...statsVcpuIoctls(vcpuStats),
    ...nestedIoctls,
    ...absentVcpuIoctls,
  ],
  deviceTypes: new Map([[KVM_DEV_TYPE_VFIO, createVfioDevice]]),
  unknownVmIoctl: -ENOTTY,
  /** type 0, and where KVM_CAP_VM_TYPES names more, the numbers of its bits */
  checkVmType(type, host: KvmHost) {
    const types = (host.systemCapabilities.get(KVM_CAP_VM_TYPES) ?? 0) | 1;
    return type < 32 && ((types >>> type) & 1) === 1 ? 0 : -EINVAL;
  },
  createVm: (vm) => new X86Vm(vm),
  createVcpu: (vm, vcpu) => new X86Vcpu(vm.arch as X86Vm, vcpu),
};
