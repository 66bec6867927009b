/** What an x86 VM holds beside the common part: the interrupt controllers and the settings of KVM_ENABLE_CAP. */
import { EINVAL } from "../../abi/errno.ts";
import { KVM_CAP_MAX_VCPU_ID, KVM_CAP_MAX_VCPUS, KVM_CAP_SPLIT_IRQCHIP } from "../../abi/kvm.ts";
import type { VmArch } from "../arch.ts";
import type { IrqArch } from "../irq-routing.ts";
import type { MemoryChange, MemorySlot } from "../memory-slots.ts";
import type { Vm } from "../vm.ts";
import { type Irqchip, splitIrqchip } from "./irqchip.ts";
import type { KvmPit } from "./pit.ts";

/** Guest physical addresses that a slot may reach, in frames: 52 bits at most. */
const MAX_FRAMES = 2 ** 40;

export class X86Vm implements VmArch {
  readonly vm: Vm;
  readonly maxVcpus: number;
  maxVcpuIds: number;
  /** KVM_SET_BOOT_CPU_ID: the vCPU that starts as the bootstrap processor */
  bootCpuId = 0;
  /** the in-kernel interrupt controllers, once there are any */
  irqchip: Irqchip | undefined;
  pit: KvmPit | undefined;

  constructor(vm: Vm) {
    this.vm = vm;
    this.maxVcpus = vm.host.vmCapabilities.get(KVM_CAP_MAX_VCPUS) ?? 4;
    this.maxVcpuIds = vm.host.vmCapabilities.get(KVM_CAP_MAX_VCPU_ID) ?? this.maxVcpus;
  }

  /** where the controllers are: in user space, all in the kernel, or the local APICs only */
  get irqchipMode(): "none" | "kernel" | "split" {
    return this.irqchip?.mode ?? "none";
  }

  get irq(): IrqArch | undefined {
    return this.irqchip;
  }

  precreateVcpu(id: number): number {
    return id >= this.maxVcpuIds ? -EINVAL : 0;
  }

  checkExtension(capability: number): number {
    return this.vm.host.vmCapabilities.get(capability) ?? 0;
  }

  prepareMemory(change: MemoryChange, slot: MemorySlot | null): number {
    if (slot === null || change === "flags") return 0;
    return slot.baseFrame + slot.pages > MAX_FRAMES ? -EINVAL : 0;
  }

  enableCap(capability: number, flags: number, args: readonly bigint[]): number {
    if (flags !== 0) return -EINVAL;
    if (capability === KVM_CAP_SPLIT_IRQCHIP) return splitIrqchip(this, args[0]);
    return -EINVAL;
  }

  destroy(): void {
    this.pit?.destroy();
    this.irqchip?.destroy();
  }
}
