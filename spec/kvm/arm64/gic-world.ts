/** An arm64 VM of the recorded 6.12 host with memory and a GICv3, and shorthands for what specs ask of it. */
import { errnoName } from "../../../lib/abi/errno.ts";
import {
  KVM_CREATE_DEVICE,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_DEV_TYPE_ARM_VGIC_V3,
  KVM_GET_DEVICE_ATTR,
  KVM_HAS_DEVICE_ATTR,
  KVM_SET_DEVICE_ATTR,
  KVM_SET_USER_MEMORY_REGION,
  KvmCreateDevice,
  KvmDeviceAttr,
  KvmUserspaceMemoryRegion,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_ARM_PREFERRED_TARGET,
  KVM_ARM_VCPU_INIT,
  KVM_DEV_ARM_VGIC_CTRL_INIT,
  KVM_DEV_ARM_VGIC_GRP_ADDR,
  KVM_DEV_ARM_VGIC_GRP_CTRL,
  KVM_VGIC_V3_ADDR_TYPE_DIST,
  KVM_VGIC_V3_ADDR_TYPE_REDIST,
  KvmVcpuInit,
} from "../../../lib/abi/kvm-arm64.ts";
import { load64, store64 } from "../../../lib/abi/struct.ts";
import type { Process } from "../../../lib/kernel/process.ts";
import type { Arm64Vcpu } from "../../../lib/kvm/arm64/vcpu.ts";
import { builtinHosts } from "../../../lib/machine/builtin.ts";
import { Machine, type MachineOptions } from "../../../lib/machine/machine.ts";
import { profileFromHeader } from "../../../lib/machine/profile.ts";
import { vcpuOf } from "./guests.ts";

export const RAM = 0x4000_0000;
export const RAM_SIZE = 0x40_0000;
export const GICD = 0x0800_0000;
export const GICR = 0x080a_0000;
const PSCI_0_2 = 1 << 2;

export class GicWorld {
  readonly process: Process;
  readonly vm: number;
  readonly vcpus: number[];
  readonly vgic: number;
  /** the guest's memory */
  readonly ram: Uint8Array;

  constructor(cpus = 1, features = PSCI_0_2, options: MachineOptions = {}) {
    this.process = new Machine(profileFromHeader(builtinHosts.arm64_6_12_gicv3), options).process();
    const { process } = this;
    this.vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    const at = process.mmap(0, RAM_SIZE, 3, 0x22, -1, 0);
    this.ram = process.memory(at, RAM_SIZE)!;
    const slot = { guest_phys_addr: BigInt(RAM), memory_size: BigInt(RAM_SIZE), userspace_addr: BigInt(at) };
    process.ioctl(this.vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(slot));
    this.vcpus = Array.from({ length: cpus }, (_, id) => process.ioctl(this.vm, KVM_CREATE_VCPU, id));
    const init = new Uint8Array(KvmVcpuInit.size);
    process.ioctl(this.vm, KVM_ARM_PREFERRED_TARGET, init);
    init[4] = features;
    for (const vcpu of this.vcpus) process.ioctl(vcpu, KVM_ARM_VCPU_INIT, init);
    this.vgic = this.device(KVM_DEV_TYPE_ARM_VGIC_V3);
  }

  /** A distributor and redistributors where QEMU has them, and the controller ready. */
  initialise(): this {
    this.set(this.vgic, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, GICD);
    this.set(this.vgic, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, GICR);
    this.set(this.vgic, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0);
    return this;
  }

  vcpu(index: number): Arm64Vcpu {
    return vcpuOf(this.process, this.vcpus[index]);
  }

  device(type: number): number {
    const create = KvmCreateDevice.encode({ type });
    this.process.ioctl(this.vm, KVM_CREATE_DEVICE, create);
    return KvmCreateDevice.decode(create).fd;
  }

  has(fd: number, group: number, attr: number | bigint): number | string {
    return this.#attribute(KVM_HAS_DEVICE_ATTR, fd, group, attr, 0);
  }

  /** 0, or the error's name. */
  set(fd: number, group: number, attr: number | bigint, value: number | bigint): number | string {
    const bytes = new Uint8Array(8);
    store64(bytes, 0, value);
    return this.#attribute(KVM_SET_DEVICE_ATTR, fd, group, attr, this.process.addressOf(bytes));
  }

  /** The value, or the error's name; `asked` stands there before. */
  get(fd: number, group: number, attr: number | bigint, asked = 0): bigint | string {
    const bytes = new Uint8Array(8);
    store64(bytes, 0, asked);
    const answer = this.#attribute(KVM_GET_DEVICE_ATTR, fd, group, attr, this.process.addressOf(bytes));
    return typeof answer === "string" ? answer : load64(bytes, 0);
  }

  #attribute(
    request: typeof KVM_SET_DEVICE_ATTR,
    fd: number,
    group: number,
    attr: number | bigint,
    addr: number,
  ): number | string {
    const argument = KvmDeviceAttr.encode({ group, attr: BigInt(attr), addr: BigInt(addr) });
    const answer = this.process.ioctl(fd, request, argument);
    return answer < 0 ? errnoName(-answer) : answer;
  }
}
