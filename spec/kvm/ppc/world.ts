/** A POWER VM with vCPUs and sources, and shorthands for what specs ask of it. */
import { errnoName } from "../../../lib/abi/errno.ts";
import {
  KVM_CAP_IRQ_XICS,
  KVM_CAP_PPC_PAPR,
  KVM_CREATE_DEVICE,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_DEV_TYPE_XICS,
  KVM_ENABLE_CAP,
  KVM_GET_DEVICE_ATTR,
  KVM_GET_ONE_REG,
  KVM_IRQ_LINE,
  KVM_IRQFD,
  KVM_SET_DEVICE_ATTR,
  KvmCreateDevice,
  KvmDeviceAttr,
  KvmEnableCap,
  KvmIrqfd,
  KvmIrqLevel,
  KvmOneReg,
} from "../../../lib/abi/kvm.ts";
import { KVM_DEV_XICS_GRP_SOURCES, KVM_REG_PPC_ICP_STATE } from "../../../lib/abi/kvm-ppc.ts";
import { load64, store64 } from "../../../lib/abi/struct.ts";
import type { Process } from "../../../lib/kernel/process.ts";
import { builtinHosts } from "../../../lib/machine/builtin.ts";
import { Machine, type MachineOptions } from "../../../lib/machine/machine.ts";
import { profileFromHeader } from "../../../lib/machine/profile.ts";

export const pseries = "ppc64le_6_12_pseries";
export const powernv9 = "ppc64le_6_12_powernv9";
export const pr = "ppc64le_6_12_pr";

/** A result ≥ 0 as it is, an error by name. */
export const named = (result: number): number | string => (result < 0 ? errnoName(-result) : result);

export class World {
  readonly process: Process;
  readonly kvm: number;
  readonly vm: number;
  xics = -1;

  constructor(host: string, options: MachineOptions = {}) {
    this.process = new Machine(profileFromHeader(builtinHosts[host]), options).process();
    this.kvm = this.process.open("/dev/kvm", 2);
    this.vm = this.process.ioctl(this.kvm, KVM_CREATE_VM.powerpc, 0);
  }

  vcpu(id: number): number {
    return this.process.ioctl(this.vm, KVM_CREATE_VCPU.powerpc, id);
  }

  device(type: number): number {
    const argument = KvmCreateDevice.encode({ type });
    const result = this.process.ioctl(this.vm, KVM_CREATE_DEVICE.powerpc, argument);
    return result < 0 ? result : KvmCreateDevice.at(argument).fd;
  }

  enable(fd: number, cap: number, ...args: number[]): number {
    const filled = [0, 1, 2, 3].map((i) => BigInt(args[i] ?? 0));
    return this.process.ioctl(fd, KVM_ENABLE_CAP.powerpc, KvmEnableCap.encode({ cap, args: filled }));
  }

  /** XICS, and so many vCPUs that are connected to it: their descriptors. */
  connected(vcpus = 1): number[] {
    this.xics = this.device(KVM_DEV_TYPE_XICS);
    return Array.from({ length: vcpus }, (_, id) => {
      const fd = this.vcpu(id);
      this.enable(fd, KVM_CAP_PPC_PAPR);
      this.enable(fd, KVM_CAP_IRQ_XICS, this.xics, id);
      return fd;
    });
  }

  #pointed(fd: number, request: number, head: Uint8Array, at: number, behind: Uint8Array): number {
    store64(head, at, BigInt(this.process.mm.addressOf(behind)));
    return this.process.ioctl(fd, request, head);
  }

  setSource(irq: number, word: bigint): number {
    const behind = new Uint8Array(8);
    store64(behind, 0, word);
    const head = KvmDeviceAttr.encode({ group: KVM_DEV_XICS_GRP_SOURCES, attr: BigInt(irq) });
    return this.#pointed(this.xics, KVM_SET_DEVICE_ATTR.powerpc, head, 16, behind);
  }

  /** The word of a source, or −errno. */
  source(irq: number): bigint | number {
    const behind = new Uint8Array(8);
    const head = KvmDeviceAttr.encode({ group: KVM_DEV_XICS_GRP_SOURCES, attr: BigInt(irq) });
    const result = this.#pointed(this.xics, KVM_GET_DEVICE_ATTR.powerpc, head, 16, behind);
    return result < 0 ? result : load64(behind, 0);
  }

  icp(vcpu: number): bigint | number {
    const behind = new Uint8Array(8);
    const head = KvmOneReg.encode({ id: KVM_REG_PPC_ICP_STATE });
    const result = this.#pointed(vcpu, KVM_GET_ONE_REG.powerpc, head, 8, behind);
    return result < 0 ? result : load64(behind, 0);
  }

  line(irq: number, level: number): number {
    return this.process.ioctl(this.vm, KVM_IRQ_LINE.powerpc, KvmIrqLevel.encode({ irq, level }));
  }

  eventfd(): number {
    return this.process.eventfd2(0, 0x800);
  }

  irqfd(fd: number, gsi: number, flags = 0, resamplefd = 0): number {
    return this.process.ioctl(this.vm, KVM_IRQFD.powerpc, KvmIrqfd.encode({ fd, gsi, flags, resamplefd }));
  }

  signal(fd: number): void {
    this.process.write(fd, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
  }
}
