/**
 * KVM on POWER: which requests it adds, and what a VM and a vCPU hold. One file a concern; this
 * one only puts them together. Two flavours of 64-bit servers: "hv" runs guests in hypervisor mode, "pr" in user mode; of
 * the embedded e500 there is only the interrupt controller (mpic.ts).
 */
import { EINVAL, ENOTTY } from "../../abi/errno.ts";
import {
  KVM_DEV_TYPE_FSL_MPIC_20,
  KVM_DEV_TYPE_FSL_MPIC_42,
  KVM_DEV_TYPE_VFIO,
  KVM_DEV_TYPE_XICS,
  KVM_DEV_TYPE_XIVE,
  KVM_IRQFD,
  KVM_REGISTER_COALESCED_MMIO,
  KVM_UNREGISTER_COALESCED_MMIO,
} from "../../abi/kvm.ts";
import { KVM_VM_PPC_HV, KVM_VM_PPC_PR } from "../../abi/kvm-ppc.ts";
import { MPIC_20, MPIC_42 } from "../../hardware/mpic.ts";
import type { KvmArch } from "../arch.ts";
import { registerCoalescedMmio, unregisterCoalescedMmio } from "../coalesced-mmio.ts";
import type { Handler } from "../dispatch.ts";
import { IrqRouting } from "../irq-routing.ts";
import { irqfd } from "../irqfd.ts";
import { LinearRouting } from "../linear-routing.ts";
import { statsVcpuIoctls, statsVmIoctls } from "../stats.ts";
import { vcpuCapIoctls } from "../vcpu.ts";
import { createVfioDevice } from "../vfio-device.ts";
import type { VmFile } from "../vm.ts";
import { htabIoctls } from "./htab.ts";
import { irqLineIoctls } from "./irq-line.ts";
import { mmuIoctls } from "./mmu.ts";
import { createMpic, mpicIoctls } from "./mpic.ts";
import { oneRegIoctls } from "./one-reg.ts";
import { registerIoctls } from "./registers.ts";
import { rtasIoctls } from "./rtas.ts";
import { spaprTceIoctls } from "./spapr-tce.ts";
import { vcpuStats, vmStats } from "./stats.ts";
import { interruptIoctls, PpcVcpu } from "./vcpu.ts";
import { hasMpic, hasXive, isHv, PpcVm } from "./vm.ts";
import { createXics } from "./xics.ts";
import { createXicsOnXive } from "./xics-on-xive.ts";
import { createXive } from "./xive.ts";

/** Coalesced writes are there in user mode only (CONFIG_KVM_MMIO). */
const prOnly =
  (handler: Handler<VmFile>): Handler<VmFile> =>
  (file, user, process) =>
    isHv(file.vm.host) ? -ENOTTY : handler(file, user, process);

export const ppc: KvmArch = {
  name: "ppc64le",
  encoding: "powerpc",
  systemIoctls: [],
  vmIoctls: [
    ...irqLineIoctls,
    ...statsVmIoctls(vmStats),
    ...mmuIoctls,
    ...mpicIoctls,
    ...htabIoctls,
    ...rtasIoctls,
    ...spaprTceIoctls,
    [KVM_IRQFD, irqfd],
    [KVM_REGISTER_COALESCED_MMIO, prOnly(registerCoalescedMmio)],
    [KVM_UNREGISTER_COALESCED_MMIO, prOnly(unregisterCoalescedMmio)],
  ],
  vcpuIoctls: [
    ...vcpuCapIoctls,
    ...interruptIoctls,
    ...registerIoctls,
    ...oneRegIoctls,
    ...statsVcpuIoctls(vcpuStats),
  ],
  deviceTypes: new Map([
    [KVM_DEV_TYPE_XICS, (vm) => (hasXive(vm.host) ? createXicsOnXive(vm) : createXics(vm))],
    [KVM_DEV_TYPE_XIVE, createXive],
    [KVM_DEV_TYPE_FSL_MPIC_20, createMpic(MPIC_20)],
    [KVM_DEV_TYPE_FSL_MPIC_42, createMpic(MPIC_42)],
    [KVM_DEV_TYPE_VFIO, createVfioDevice],
  ]),
  hasDevice(type, host) {
    if (type === KVM_DEV_TYPE_XIVE) return hasXive(host);
    const mpic = type === KVM_DEV_TYPE_FSL_MPIC_20 || type === KVM_DEV_TYPE_FSL_MPIC_42;
    return type === KVM_DEV_TYPE_VFIO || mpic === hasMpic(host);
  },
  unknownVmIoctl: -ENOTTY,
  coalescedMmioPage: 1,
  /** type 0 is whatever the host has */
  checkVmType(type, host) {
    const own = isHv(host) ? KVM_VM_PPC_HV : KVM_VM_PPC_PR;
    return type === 0 || type === own ? 0 : -EINVAL;
  },
  createRouting: (vm) => (hasMpic(vm.host) ? new IrqRouting(vm) : new LinearRouting(vm)),
  createVm: (vm) => new PpcVm(vm),
  /** In hypervisor mode two vCPUs may not share a virtual core, whose number an id is packed into: EINVAL. */
  createVcpu(vm, vcpu) {
    const arch = vm.arch as PpcVm;
    if (arch.hv) {
      if (vcpu.id >= arch.maxVcpus * arch.smt) return -EINVAL;
      const core = arch.packId(vcpu.id);
      if (vm.vcpus.some(({ id }) => arch.packId(id) === core)) return -EINVAL;
    }
    return new PpcVcpu(arch, vcpu);
  },
};
