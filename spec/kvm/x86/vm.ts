/** A VM with vCPUs on a host of the flavour that is wanted, and shorthands for what x86 specs ask most. */
import type { Request } from "../../../lib/abi/ioctl.ts";
import { KVM_CREATE_IRQCHIP, KVM_CREATE_VCPU } from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_CPUID2,
  KVM_GET_MSRS,
  KVM_SET_CPUID2,
  KVM_SET_MSRS,
  KvmCpuid2,
  KvmCpuidEntry2,
  KvmMsrEntry,
  KvmMsrs,
} from "../../../lib/abi/kvm-x86.ts";
import type { Process } from "../../../lib/kernel/process.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import type { Profile } from "../../../lib/machine/profile.ts";
import { testVm } from "../vm.ts";

const { nativeCpuid: _, supportedCpuid: __, ...emulated } = defaultProfile.facts;
/** The same host under a KVM that answers every CPUID itself, and says nothing of its processor. */
export const mainline: Profile = { ...defaultProfile, flavour: "svm", facts: emulated };

export interface Leaf {
  function: number;
  index?: number;
  flags?: number;
  eax?: number;
  ebx?: number;
  ecx?: number;
  edx?: number;
}

export class X86 {
  readonly machine: Machine;
  readonly process: Process;
  readonly kvm: number;
  readonly vm: number;
  readonly vcpu: number;

  constructor({ profile = defaultProfile, irqchip = false } = {}) {
    this.machine = new Machine(profile);
    const { process, kvm, vm } = testVm(this.machine);
    this.process = process;
    this.kvm = kvm;
    this.vm = vm;
    if (irqchip) process.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
    this.vcpu = process.ioctl(vm, KVM_CREATE_VCPU, 0);
  }

  /** A struct as the vCPU answers it. */
  get(request: Request, vcpu = this.vcpu): Uint8Array {
    const bytes = new Uint8Array(request.size);
    const result = this.process.ioctl(vcpu, request, bytes);
    if (result < 0) throw new Error(`${result}`);
    return bytes;
  }

  set(request: Request, bytes: Uint8Array, vcpu = this.vcpu): number {
    return this.process.ioctl(vcpu, request, bytes);
  }

  setCpuid(leaves: readonly Leaf[]): number {
    const bytes = new Uint8Array(KvmCpuid2.size + leaves.length * KvmCpuidEntry2.size);
    bytes.set(KvmCpuid2.encode({ nent: leaves.length }));
    leaves.forEach((leaf, i) => {
      bytes.set(KvmCpuidEntry2.encode(leaf), KvmCpuid2.size + i * KvmCpuidEntry2.size);
    });
    return this.set(KVM_SET_CPUID2, bytes);
  }

  cpuid(): Leaf[] {
    const bytes = new Uint8Array(KvmCpuid2.size + 100 * KvmCpuidEntry2.size);
    bytes.set(KvmCpuid2.encode({ nent: 100 }));
    if (this.set(KVM_GET_CPUID2, bytes) !== 0) throw new Error("KVM_GET_CPUID2");
    return Array.from({ length: KvmCpuid2.at(bytes).nent }, (_, i) => {
      const { padding: _padding, ...leaf } = KvmCpuidEntry2.decode(
        bytes,
        KvmCpuid2.size + i * KvmCpuidEntry2.size,
      );
      return leaf;
    });
  }

  /** The value, or undefined where the read is refused. */
  msr(index: number): bigint | undefined {
    const bytes = new Uint8Array(KvmMsrs.size + KvmMsrEntry.size);
    bytes.set(KvmMsrs.encode({ nmsrs: 1 }));
    bytes.set(KvmMsrEntry.encode({ index }), KvmMsrs.size);
    return this.set(KVM_GET_MSRS, bytes) === 1 ? KvmMsrEntry.decode(bytes, KvmMsrs.size).data : undefined;
  }

  /** Whether the write is taken. */
  setMsr(index: number, data: bigint): boolean {
    const bytes = new Uint8Array(KvmMsrs.size + KvmMsrEntry.size);
    bytes.set(KvmMsrs.encode({ nmsrs: 1 }));
    bytes.set(KvmMsrEntry.encode({ index, data }), KvmMsrs.size);
    return this.set(KVM_SET_MSRS, bytes) === 1;
  }
}
