/** What an x86 vCPU holds beside the common part. */
import { EINTR, EINVAL } from "../../abi/errno.ts";
import type { VcpuArch } from "../arch.ts";
import type { Vcpu } from "../vcpu.ts";
import type { X86Vm } from "./vm.ts";

/** KVM_MP_STATE_RUNNABLE, _UNINITIALIZED */
const RUNNABLE = 0;
const UNINITIALIZED = 1;

export class X86Vcpu implements VcpuArch {
  readonly vm: X86Vm;
  readonly vcpu: Vcpu;
  mpState: number;

  constructor(vm: X86Vm, vcpu: Vcpu) {
    this.vm = vm;
    this.vcpu = vcpu;
    this.mpState = vm.irqchipMode === "none" || vcpu.id === vm.bootCpuId ? RUNNABLE : UNINITIALIZED;
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

  destroy(): void {}
}
