/** An x86 VM with in-kernel controllers and one vCPU whose local APIC is on; on the fake, or on a real kernel. */
import { KVM_CREATE_IRQCHIP, KVM_CREATE_VCPU, KVM_CREATE_VM } from "../abi/kvm.ts";
import { KVM_GET_LAPIC, KVM_SET_LAPIC, KvmLapicState } from "../abi/kvm-x86.ts";
import { load32, store32 } from "../abi/struct.ts";
import type { Syscalls } from "../kernel/syscalls.ts";

const SPIV = 0xf0;
const IRR = 0x200;

export class X86Vm {
  readonly kernel: Syscalls;
  readonly vm: number;
  readonly vcpu: number;

  constructor(kernel: Syscalls) {
    this.kernel = kernel;
    this.vm = kernel.ioctl(kernel.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    kernel.ioctl(this.vm, KVM_CREATE_IRQCHIP, 0);
    this.vcpu = kernel.ioctl(this.vm, KVM_CREATE_VCPU, 0);
    enableLapic(kernel, this.vcpu);
  }

  /** Vectors that wait in the vCPU's local APIC, lowest first. */
  get requested(): number[] {
    return requestedVectors(this.kernel, this.vcpu);
  }
}

export function enableLapic(kernel: Syscalls, vcpu: number): void {
  const state = new Uint8Array(KvmLapicState.size);
  kernel.ioctl(vcpu, KVM_GET_LAPIC, state);
  store32(state, SPIV, 0x1ff);
  kernel.ioctl(vcpu, KVM_SET_LAPIC, state);
}

export function requestedVectors(kernel: Syscalls, vcpu: number): number[] {
  const state = new Uint8Array(KvmLapicState.size);
  if (kernel.ioctl(vcpu, KVM_GET_LAPIC, state) < 0) return [];
  const vectors: number[] = [];
  for (let vector = 0; vector < 256; vector++)
    if ((load32(state, IRR + 16 * (vector >>> 5)) & (1 << (vector & 31))) !== 0) vectors.push(vector);
  return vectors;
}
