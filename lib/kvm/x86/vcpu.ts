/** What an x86 vCPU holds beside the common part. */
import { EINTR, EINVAL } from "../../abi/errno.ts";
import { Lapic } from "../../hardware/lapic.ts";
import type { VcpuArch } from "../arch.ts";
import type { Vcpu } from "../vcpu.ts";
import { LapicClock } from "./lapic.ts";
import type { X86Vm } from "./vm.ts";

/** KVM_MP_STATE_RUNNABLE, _UNINITIALIZED */
const RUNNABLE = 0;
const UNINITIALIZED = 1;

export class X86Vcpu implements VcpuArch {
  readonly vm: X86Vm;
  readonly vcpu: Vcpu;
  mpState: number;
  /** with an in-kernel irqchip only; its timer runs on the host's clock by `lapicClock.follow()` */
  readonly lapic: Lapic | undefined;
  readonly lapicClock: LapicClock | undefined;

  constructor(vm: X86Vm, vcpu: Vcpu) {
    this.vm = vm;
    this.vcpu = vcpu;
    this.mpState = vm.irqchipMode === "none" || vcpu.id === vm.bootCpuId ? RUNNABLE : UNINITIALIZED;
    if (vm.irqchip !== undefined) {
      this.lapic = new Lapic(vm.irqchip.system, vcpu.id, this.isBootCpu);
      this.lapicClock = new LapicClock(this.lapic, vcpu.vm.kernel.clock);
    }
  }

  /** It takes part in the delivery of interrupts from now on. */
  online(): void {
    if (this.lapic !== undefined) this.vm.irqchip!.bus.add(this.lapic);
  }

  get isBootCpu(): boolean {
    return this.vcpu.id === this.vm.bootCpuId;
  }

  run(): number {
    return -EINTR;
  }

  enableCap(_capability: number, _flags: number, _args: readonly bigint[]): number {
    return -EINVAL;
  }

  destroy(): void {
    this.lapicClock?.stop();
  }
}
