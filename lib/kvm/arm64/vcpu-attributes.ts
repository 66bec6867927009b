/**
 * Attributes of a vCPU and of a VM on arm64: the PMU, the timers' interrupts, stolen time; the SMCCC filter
 * (arch/arm64/kvm/guest.c:kvm_arm_vcpu_arch_set_attr, pmu-emul.c, pvtime.c, 6.1; hypercalls.c:kvm_vm_smccc_set_attr,
 * 6.12).
 *
 * Missing: the effects of event filters and of the SMCCC filter; KVM_ARM_VCPU_PMU_V3_SET_PMU takes no id.
 */
import { EBUSY, EEXIST, EFAULT, EINVAL, ENODEV, ENXIO } from "../../abi/errno.ts";
import {
  KVM_CAP_STEAL_TIME,
  KVM_GET_DEVICE_ATTR,
  KVM_HAS_DEVICE_ATTR,
  KVM_SET_DEVICE_ATTR,
  KvmDeviceAttr,
} from "../../abi/kvm.ts";
import {
  KVM_ARM_VCPU_PMU_V3,
  KVM_ARM_VCPU_PMU_V3_CTRL,
  KVM_ARM_VCPU_PMU_V3_FILTER,
  KVM_ARM_VCPU_PMU_V3_INIT,
  KVM_ARM_VCPU_PMU_V3_IRQ,
  KVM_ARM_VCPU_PMU_V3_SET_PMU,
  KVM_ARM_VCPU_PVTIME_CTRL,
  KVM_ARM_VCPU_TIMER_CTRL,
  KVM_ARM_VM_SMCCC_CTRL,
  KVM_SMCCC_FILTER_FWD_TO_USER,
  KvmPmuEventFilter,
  KvmSmcccFilter,
} from "../../abi/kvm-arm64.ts";
import { load32, load64, store32, store64 } from "../../abi/struct.ts";
import { NR_PRIVATE_IRQS, NR_SGIS } from "../../hardware/gic.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry, Handler } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { VmFile } from "../vm.ts";
import type { Arm64Vcpu } from "./vcpu.ts";
import type { Arm64Vm } from "./vm.ts";

type Access = "set" | "get" | "has";

const PAGE = 4096;
/** event numbers have 16 bits */
const PMU_EVENTS = 0x1_0000;

// ---- vCPU ------------------------------------------------------------------------------------------------------------

function vcpuAttribute(access: Access): Handler<VcpuFile> {
  return (file, user) => {
    if (!user.readable(KvmDeviceAttr.size)) return -EFAULT;
    const { group, attr, addr } = KvmDeviceAttr.decode(user.bytes, user.at);
    const vcpu = file.vcpu.arch as Arm64Vcpu;
    const target = user.pointer(Number(addr));
    switch (group) {
      case KVM_ARM_VCPU_PMU_V3_CTRL:
        return pmuAttribute(vcpu, access, attr, target);
      case KVM_ARM_VCPU_TIMER_CTRL:
        return timerAttribute(vcpu, access, attr, target);
      case KVM_ARM_VCPU_PVTIME_CTRL:
        return stolenTimeAttribute(vcpu, access, attr, target);
      default:
        return -ENXIO;
    }
  };
}

function timerAttribute(vcpu: Arm64Vcpu, access: Access, attr: bigint, user: Argument): number {
  const { timers } = vcpu.vm;
  if (access === "set") return timers.set(vcpu, attr, user);
  if (access === "get") return timers.get(attr, user);
  return timers.has(attr) ? 0 : -ENXIO;
}

function pmuAttribute(vcpu: Arm64Vcpu, access: Access, attr: bigint, user: Argument): number {
  const has = vcpu.has(KVM_ARM_VCPU_PMU_V3);
  if (access === "has") return has && attr <= BigInt(KVM_ARM_VCPU_PMU_V3_SET_PMU) ? 0 : -ENXIO;
  if (access === "set") return has ? setPmu(vcpu, attr, user) : -ENODEV;
  if (attr !== BigInt(KVM_ARM_VCPU_PMU_V3_IRQ)) return -ENXIO;
  if (!vcpu.vm.vgic.created) return -EINVAL;
  if (!has) return -ENODEV;
  if (vcpu.pmuIrq === 0) return -ENXIO;
  if (!user.writable(4)) return -EFAULT;
  store32(user.bytes, user.at, vcpu.pmuIrq);
  return 0;
}

function setPmu(vcpu: Arm64Vcpu, attr: bigint, user: Argument): number {
  const { vgic, vcpus } = vcpu.vm;
  if (vcpu.pmuReady) return -EBUSY;
  switch (Number(attr)) {
    case KVM_ARM_VCPU_PMU_V3_IRQ: {
      if (!vgic.created) return -EINVAL;
      if (!user.readable(4)) return -EFAULT;
      const irq = load32(user.bytes, user.at);
      if (irq < NR_SGIS || irq >= 1020) return -EINVAL;
      // a PPI is the same in every vCPU, an SPI another in each
      const ppi = irq < NR_PRIVATE_IRQS;
      if (vcpus.some(({ pmuIrq }) => pmuIrq !== 0 && (ppi ? pmuIrq !== irq : pmuIrq === irq))) return -EINVAL;
      if (vcpu.pmuIrq !== 0) return -EBUSY;
      vcpu.pmuIrq = irq;
      return 0;
    }
    case KVM_ARM_VCPU_PMU_V3_FILTER: {
      if (!user.readable(KvmPmuEventFilter.size)) return -EFAULT;
      const { base_event, nevents, action } = KvmPmuEventFilter.at(user.bytes, user.at);
      if (base_event + nevents > PMU_EVENTS || action > 1) return -EINVAL;
      return vcpus.some(({ ran }) => ran) ? -EBUSY : 0;
    }
    case KVM_ARM_VCPU_PMU_V3_SET_PMU:
      return user.readable(4) ? -ENXIO : -EFAULT;
    case KVM_ARM_VCPU_PMU_V3_INIT: {
      if (vgic.created) {
        if (!vgic.initialized) return -ENODEV;
        if (vcpu.pmuIrq === 0) return -ENXIO;
        const refused = vgic.own(vcpu.cpu, vcpu.pmuIrq, vcpu);
        if (refused < 0) return refused;
      }
      vcpu.pmuReady = true;
      return 0;
    }
    default:
      return -ENXIO;
  }
}

/** The guest address of a record of 64 bytes. EINVAL: not aligned, no memory there; EEXIST: set already. */
function stolenTimeAttribute(vcpu: Arm64Vcpu, access: Access, attr: bigint, user: Argument): number {
  const { vm } = vcpu.vm;
  if ((vm.host.vmCapabilities.get(KVM_CAP_STEAL_TIME) ?? 0) === 0 || attr !== 0n) return -ENXIO;
  if (access === "has") return 0;
  if (access === "get") {
    if (!user.writable(8)) return -EFAULT;
    store64(user.bytes, user.at, BigInt.asUintN(64, vcpu.stolenTime));
    return 0;
  }
  if (!user.readable(8)) return -EFAULT;
  const address = load64(user.bytes, user.at);
  if (address % 64n !== 0n) return -EINVAL;
  if (vcpu.stolenTime !== -1n) return -EEXIST;
  if (vm.slots.find(Math.floor(Number(address) / PAGE)) === undefined) return -EINVAL;
  vcpu.stolenTime = address;
  return 0;
}

export const vcpuAttributeIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_SET_DEVICE_ATTR, vcpuAttribute("set")],
  [KVM_GET_DEVICE_ATTR, vcpuAttribute("get")],
  [KVM_HAS_DEVICE_ATTR, vcpuAttribute("has")],
];

// ---- VM --------------------------------------------------------------------------------------------------------------

/** Until 6.3 a VM has no attributes. It cannot be read at any time. */
function vmAttribute(access: "set" | "has"): Handler<VmFile> {
  return (file, user) => {
    if (!file.vm.host.behaviour.armVmAttributes) return -EINVAL;
    if (!user.readable(KvmDeviceAttr.size)) return -EFAULT;
    const { group, attr, addr } = KvmDeviceAttr.decode(user.bytes, user.at);
    if (group !== KVM_ARM_VM_SMCCC_CTRL || attr !== 0n) return -ENXIO;
    return access === "has" ? 0 : setSmcccFilter(file.vm.arch as Arm64Vm, user.pointer(Number(addr)));
  };
}

/** What Arm itself defines, fast calls of 32 and of 64 bits, is no filter's matter. */
const ARM_OWN = [
  [0x8000_0000, 0x8000_ffff],
  [0xc000_0000, 0xc000_ffff],
] as const;

/**
 * EFAULT; EINVAL: padding, an empty or overflowing range, no such action; EBUSY: a vCPU ran; EEXIST: a part of the range is
 * filtered already, or Arm's own. Until 7.2 no function at all from 0 on are all of them.
 */
function setSmcccFilter(vm: Arm64Vm, user: Argument): number {
  if (!user.readable(KvmSmcccFilter.size)) return -EFAULT;
  const { base, nr_functions, action, pad } = KvmSmcccFilter.decode(user.bytes, user.at);
  if (pad.some((byte) => byte !== 0)) return -EINVAL;
  const end = (base + nr_functions - 1) >>> 0;
  if (end < base || action > KVM_SMCCC_FILTER_FWD_TO_USER) return -EINVAL;
  if (nr_functions === 0 && vm.vm.host.behaviour.armEmptyFilterRefused) return -EINVAL;
  if (vm.vcpus.some(({ ran }) => ran)) return -EBUSY;
  if ([...ARM_OWN, ...vm.smcccFilter].some(([first, last]) => base <= last && first <= end)) return -EEXIST;
  vm.smcccFilter.push([base, end]);
  return 0;
}

export const vmAttributeIoctls: readonly Entry<VmFile>[] = [
  [KVM_SET_DEVICE_ATTR, vmAttribute("set")],
  [KVM_HAS_DEVICE_ATTR, vmAttribute("has")],
];
