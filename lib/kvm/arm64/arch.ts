/**
 * KVM on arm64: which requests it adds, and what a VM and a vCPU hold. One file a concern; this one only puts them
 * together. A host has a GICv2 or a GICv3, never both here.
 */
import { EINVAL } from "../../abi/errno.ts";
import {
  KVM_CAP_ARM_VM_IPA_SIZE,
  KVM_DEV_TYPE_ARM_VGIC_ITS,
  KVM_DEV_TYPE_ARM_VGIC_V2,
  KVM_DEV_TYPE_ARM_VGIC_V3,
  KVM_DEV_TYPE_VFIO,
} from "../../abi/kvm.ts";
import type { KvmArch } from "../arch.ts";
import { guestMemfdIoctls } from "../guest-memfd.ts";
import { clearDirtyLogIoctls } from "../memory-slots.ts";
import { statsVcpuIoctls, statsVmIoctls } from "../stats.ts";
import { createVfioDevice } from "../vfio-device.ts";
import { absentVcpuIoctls, absentVmIoctls } from "./absent.ts";
import { irqchipIoctls } from "./irqchip.ts";
import { createIts } from "./its-device.ts";
import { oneRegIoctls } from "./one-reg.ts";
import { vcpuStats, vmStats } from "./stats.ts";
import { counterOffsetIoctls } from "./timers.ts";
import { Arm64Vcpu } from "./vcpu.ts";
import { vcpuAttributeIoctls, vmAttributeIoctls } from "./vcpu-attributes.ts";
import { targetIoctls, vcpuInitIoctls } from "./vcpu-init.ts";
import { hostGicVersion } from "./vgic.ts";
import { createVgicV2, createVgicV3 } from "./vgic-device.ts";
import { Arm64Vm } from "./vm.ts";
import { writableMaskIoctls } from "./writable-masks.ts";

const MIN_ADDRESS_BITS = 32;
const TYPE_MASK = 0xff;

export const arm64: KvmArch = {
  name: "arm64",
  encoding: "generic",
  systemIoctls: [],
  vmIoctls: [
    ...irqchipIoctls,
    ...targetIoctls,
    ...vmAttributeIoctls,
    ...clearDirtyLogIoctls,
    ...guestMemfdIoctls,
    ...counterOffsetIoctls,
    ...writableMaskIoctls,
    ...statsVmIoctls(vmStats),
    ...absentVmIoctls,
  ],
  vcpuIoctls: [
    ...vcpuInitIoctls,
    ...vcpuAttributeIoctls,
    ...oneRegIoctls,
    ...statsVcpuIoctls(vcpuStats),
    ...absentVcpuIoctls,
  ],
  deviceTypes: new Map([
    [KVM_DEV_TYPE_ARM_VGIC_V2, createVgicV2],
    [KVM_DEV_TYPE_ARM_VGIC_V3, createVgicV3],
    [KVM_DEV_TYPE_ARM_VGIC_ITS, createIts],
    [KVM_DEV_TYPE_VFIO, createVfioDevice],
  ]),
  hasDevice(type, host) {
    if (type === KVM_DEV_TYPE_VFIO) return true;
    return (type === KVM_DEV_TYPE_ARM_VGIC_V2) === (hostGicVersion(host) === 2);
  },
  unknownVmIoctl: -EINVAL,
  coalescedMmioPage: 1,
  /** 0, or the bits of a guest physical address: 32 up to the host's limit */
  checkVmType(type, host) {
    if (type > TYPE_MASK) return -EINVAL;
    const limit = host.systemCapabilities.get(KVM_CAP_ARM_VM_IPA_SIZE) ?? 40;
    return type === 0 || (type >= MIN_ADDRESS_BITS && type <= limit) ? 0 : -EINVAL;
  },
  createVm: (vm) => new Arm64Vm(vm),
  createVcpu(vm, vcpu) {
    const arch = vm.arch as Arm64Vm;
    const created = new Arm64Vcpu(arch, vcpu);
    if (!arch.vgic.created || arch.vgic.gic.version !== 3) return created;
    const failed = arch.vgic.registerRedistributor(created.cpu);
    return failed < 0 ? failed : created;
  },
};
