/**
 * What KVM knows of the host it runs on: the kernel below it, the architecture, the capabilities it offers, and how
 * its release behaves. The machine floor builds it from a profile.
 */
import type { Kernel } from "../kernel/kernel.ts";
import type { KvmArch } from "./arch.ts";

/** What differs between releases and flavours in this floor; the machine floor fills it in from its table. */
export interface KvmBehaviour {
  /** one eventfd may be bound to one irqfd in all VMs of the host; before 6.17 in each VM */
  readonly irqfdExclusive: boolean;
  /** KVM_CREATE_VCPU looks at the whole id; before, at its low 32 bits */
  readonly vcpuIdUncut: boolean;
}

/** Facts about the host's processor, as its KVM shows them: arrays of raw entries, recorded from a real one. */
export interface HostFacts {
  /** kvm_cpuid_entry2 records of 40 bytes: KVM_GET_SUPPORTED_CPUID */
  readonly supportedCpuid?: Uint8Array;
  /** the same for KVM_GET_EMULATED_CPUID */
  readonly emulatedCpuid?: Uint8Array;
  readonly msrIndices?: readonly number[];
  readonly msrFeatureIndices?: readonly number[];
  readonly msrFeatureValues?: ReadonlyMap<number, bigint>;
}

export interface KvmHost {
  readonly kernel: Kernel;
  readonly arch: KvmArch;
  /** "6.18" */
  readonly release: string;
  /** "pvm", "svm", "vmx", "vhe", "nvhe", "hv", "pr", … or null */
  readonly flavour: string | null;
  /** KVM_CHECK_EXTENSION on /dev/kvm and on a VM: a number that is missing answers 0 */
  readonly systemCapabilities: ReadonlyMap<number, number>;
  readonly vmCapabilities: ReadonlyMap<number, number>;
  /** bytes of KVM_GET_VCPU_MMAP_SIZE */
  readonly vcpuMmapSize: number;
  readonly pageSize: number;
  readonly behaviour: KvmBehaviour;
  readonly facts: HostFacts;
}
