/** What an arm64 VM holds beside the common part: the size of its address space, its interrupt controller, its timers. */
import { EBUSY, EFAULT, EINVAL } from "../../abi/errno.ts";
import {
  KVM_CAP_ARM_MTE,
  KVM_CAP_ARM_NISV_TO_USER,
  KVM_CAP_ARM_SYSTEM_SUSPEND,
  KVM_CAP_ARM_WRITABLE_IMP_ID_REGS,
  KVM_CAP_MAX_VCPU_ID,
  KVM_CAP_MAX_VCPUS,
  KVM_CAP_MSI_DEVID,
} from "../../abi/kvm.ts";
import type { VmArch } from "../arch.ts";
import type { IrqArch } from "../irq-routing.ts";
import type { MemoryChange, MemorySlot } from "../memory-slots.ts";
import type { Vm } from "../vm.ts";
import { Timers } from "./timers.ts";
import type { Arm64Vcpu } from "./vcpu.ts";
import { VGIC_V3_MAX_CPUS, Vgic } from "./vgic.ts";

/** Bits of a guest physical address where KVM_CREATE_VM's argument does not say it. */
const DEFAULT_ADDRESS_BITS = 40;
const PAGE_SHIFT = 12;

export class Arm64Vm implements VmArch {
  readonly vm: Vm;
  readonly addressBits: number;
  readonly vgic: Vgic;
  readonly timers: Timers;
  /** what the counters of the guest are behind the host's, once that was said (KVM_ARM_SET_COUNTER_OFFSET) */
  counterOffset: bigint | undefined;
  /** ranges of SMCCC functions that user space said something about (KVM_ARM_VM_SMCCC_FILTER), first and last */
  readonly smcccFilter: [number, number][] = [];
  /** KVM_MAX_VCPU_IDS, whatever the controller takes */
  readonly maxVcpuIds = VGIC_V3_MAX_CPUS;

  constructor(vm: Vm) {
    this.vm = vm;
    this.addressBits = vm.type & 0xff || DEFAULT_ADDRESS_BITS;
    this.vgic = new Vgic(vm, this.addressBits);
    this.timers = new Timers(this);
  }

  get vcpus(): readonly Arm64Vcpu[] {
    return this.vm.vcpus.map((vcpu) => vcpu.arch as Arm64Vcpu);
  }

  get irq(): IrqArch {
    return this.vgic;
  }

  get maxVcpus(): number {
    return this.vgic.maxCpus;
  }

  /** EBUSY: the controller is initialised; EINVAL: an id beyond what it takes. */
  precreateVcpu(id: number): number {
    if (this.vgic.initialized) return -EBUSY;
    return id >= this.maxVcpus ? -EINVAL : 0;
  }

  checkExtension(capability: number): number {
    switch (capability) {
      case KVM_CAP_MAX_VCPUS:
      case KVM_CAP_MAX_VCPU_ID:
        return this.maxVcpus;
      case KVM_CAP_MSI_DEVID:
        return this.vgic.gic.hasIts ? 1 : 0;
      default:
        return this.vm.host.vmCapabilities.get(capability) ?? 0;
    }
  }

  /** EFAULT: beyond the guest's address space. */
  prepareMemory(change: MemoryChange, slot: MemorySlot | null): number {
    if (slot === null || change === "delete") return 0;
    return slot.baseFrame + slot.pages > 2 ** (this.addressBits - PAGE_SHIFT) ? -EFAULT : 0;
  }

  enableCap(capability: number, flags: number, _args: readonly bigint[]): number {
    if (flags !== 0) return -EINVAL;
    const offered = (this.vm.host.vmCapabilities.get(capability) ?? 0) > 0;
    switch (capability) {
      case KVM_CAP_ARM_NISV_TO_USER:
      case KVM_CAP_ARM_SYSTEM_SUSPEND:
        return offered ? 0 : -EINVAL;
      case KVM_CAP_ARM_MTE:
      case KVM_CAP_ARM_WRITABLE_IMP_ID_REGS:
        return offered && this.vm.vcpus.length === 0 ? 0 : -EINVAL;
      default:
        return -EINVAL;
    }
  }

  destroy(): void {}
}
