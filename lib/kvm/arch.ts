/**
 * What an architecture adds to KVM. The files of this floor ask it where Linux calls a kvm_arch_… function; each
 * architecture is a folder beside this file.
 */
import type { Encoding } from "../abi/ioctl.ts";
import type { Process } from "../kernel/process.ts";
import type { CreateDevice } from "./device.ts";
import type { Entry } from "./dispatch.ts";
import type { KvmHost } from "./host.ts";
import type { IrqArch, IrqRouting } from "./irq-routing.ts";
import type { MemoryChange, MemorySlot } from "./memory-slots.ts";
import type { KvmSystem } from "./system.ts";
import type { Vcpu, VcpuFile } from "./vcpu.ts";
import type { Vm, VmFile } from "./vm.ts";

export interface KvmArch {
  readonly name: "x86_64" | "arm64" | "ppc64le" | "riscv64";
  readonly encoding: Encoding;
  readonly systemIoctls: readonly Entry<KvmSystem>[];
  readonly vmIoctls: readonly Entry<VmFile>[];
  readonly vcpuIoctls: readonly Entry<VcpuFile>[];
  /** KVM_CREATE_DEVICE types */
  readonly deviceTypes: ReadonlyMap<number, CreateDevice>;
  /** whether a host has a type of the above; where it is not defined, every host has all of them */
  hasDevice?(type: number, host: KvmHost): boolean;
  /** what a request unknown to everyone answers on a VM (−ENOTTY on x86 and POWER, −EINVAL on arm64 and riscv) */
  readonly unknownVmIoctl: number;
  /** 0, or why a VM of this type (KVM_CREATE_VM's argument) cannot be */
  checkVmType(type: number, host: KvmHost): number;
  createVm(vm: Vm): VmArch;
  /** how GSIs lead to interrupts, where no table says it */
  createRouting?(vm: Vm): IrqRouting;
  /** which page of a vCPU's mapping is the ring of coalesced writes; 2 where it is not defined */
  readonly coalescedMmioPage?: number;
  /** the architecture's part of a vCPU, or −errno */
  createVcpu(vm: Vm, vcpu: Vcpu): VcpuArch | number;
}

/** What an architecture keeps for a VM. */
export interface VmArch {
  /** the interrupt controllers as routes see them; undefined while there are none */
  readonly irq: IrqArch | undefined;
  /** vCPU ids are below this */
  readonly maxVcpuIds: number;
  readonly maxVcpus: number;
  /** before anything is allocated: −EINVAL, −EBUSY, … */
  precreateVcpu(id: number): number;
  /** KVM_CHECK_EXTENSION on the VM: the profile's answer, unless the state of the VM decides */
  checkExtension(capability: number): number;
  /** a memory slot is about to change: 0 or −errno; null as `slot` for a removal */
  prepareMemory(change: MemoryChange, slot: MemorySlot | null): number;
  /** KVM_ENABLE_CAP on the VM */
  enableCap(capability: number, flags: number, args: readonly bigint[], process: Process): number;
  /** the VM is gone */
  destroy(): void;
}

/** What an architecture keeps for a vCPU. */
export interface VcpuArch {
  /** whether it is connected to the interrupt controller, where that is a step of its own */
  readonly connected?: boolean;
  /** the vCPU has its descriptor: from now on it is seen */
  online(): void;
  /** KVM_RUN. `patient`: it may answer ASLEEP or BUSY (kernel/long-call.ts), and `resume` goes on with it. */
  run(patient: boolean): number;
  resume?(): number;
  /** KVM_ENABLE_CAP on the vCPU, where that is known (vcpu.ts:vcpuCapIoctls) */
  enableCap?(capability: number, flags: number, args: readonly bigint[], process: Process): number;
  destroy(): void;
}
