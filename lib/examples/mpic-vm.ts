/** A VM on an e500 host, whose controller is an MPIC: created as a device, each vCPU connected by KVM_ENABLE_CAP. */
import {
  KVM_CAP_IRQ_MPIC,
  KVM_CAP_IRQ_ROUTING,
  KVM_CAP_MAX_VCPU_ID,
  KVM_CAP_MAX_VCPUS,
  KVM_CREATE_DEVICE,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_DEV_TYPE_FSL_MPIC_20,
  KVM_ENABLE_CAP,
  KVM_SET_DEVICE_ATTR,
  KvmCreateDevice,
  KvmDeviceAttr,
  KvmEnableCap,
} from "../abi/kvm.ts";
import { KVM_DEV_MPIC_GRP_IRQ_ACTIVE, KVM_DEV_MPIC_GRP_REGISTER } from "../abi/kvm-ppc.ts";
import { store32 } from "../abi/struct.ts";
import type { PpcVcpu } from "../kvm/ppc/vcpu.ts";
import type { VcpuFile } from "../kvm/vcpu.ts";
import { Machine } from "../machine/machine.ts";
import { type ProfileHeader, profileFromHeader } from "../machine/profile.ts";

const capabilities = {
  [KVM_CAP_IRQ_ROUTING]: 4096,
  [KVM_CAP_MAX_VCPUS]: 4,
  [KVM_CAP_IRQ_MPIC]: 1,
  [KVM_CAP_MAX_VCPU_ID]: 4,
};

/** From source, not recorded. */
const e500: ProfileHeader = {
  arch: "ppc64le",
  kernel: "6.1",
  kvm: "e500mc",
  capabilities: { system: capabilities, vm: capabilities },
};

/** registers: vector and priority, destination of a source; the task priority of CPU 0 */
const IVPR = 0x10000;
const IDR = 0x10010;
const SOURCE_SIZE = 0x20;
const CTPR0 = 0x20080;

export class MpicVm {
  readonly process = new Machine(profileFromHeader(e500)).process();
  readonly vm: number;
  readonly vcpu: number;
  mpic = -1;

  constructor() {
    this.vm = this.process.ioctl(this.process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    this.vcpu = this.process.ioctl(this.vm, KVM_CREATE_VCPU, 0);
  }

  /** KVM_CREATE_DEVICE: 0 or −errno. */
  create(type = KVM_DEV_TYPE_FSL_MPIC_20): number {
    const create = KvmCreateDevice.encode({ type });
    const result = this.process.ioctl(this.vm, KVM_CREATE_DEVICE, create);
    if (result === 0) this.mpic = KvmCreateDevice.decode(create).fd;
    return result;
  }

  connect(): number {
    const enable = { cap: KVM_CAP_IRQ_MPIC, args: [BigInt(this.mpic), 0n, 0n, 0n] };
    return this.process.ioctl(this.vcpu, KVM_ENABLE_CAP, KvmEnableCap.encode(enable));
  }

  #set(group: number, attr: number, value: number): number {
    const bytes = new Uint8Array(4);
    store32(bytes, 0, value);
    const addr = BigInt(this.process.addressOf(bytes));
    return this.process.ioctl(
      this.mpic,
      KVM_SET_DEVICE_ATTR,
      KvmDeviceAttr.encode({ group, attr: BigInt(attr), addr }),
    );
  }

  /** A source of priority 5 that goes to CPU 0, which lets everything through: 0 or −errno. */
  setUp(source: number): number {
    const results = [
      this.#set(KVM_DEV_MPIC_GRP_REGISTER, CTPR0, 0),
      this.#set(KVM_DEV_MPIC_GRP_REGISTER, IVPR + SOURCE_SIZE * source, (5 << 16) | 0x33),
      this.#set(KVM_DEV_MPIC_GRP_REGISTER, IDR + SOURCE_SIZE * source, 1),
    ];
    return Math.min(...results);
  }

  raise(source: number): number {
    return this.#set(KVM_DEV_MPIC_GRP_IRQ_ACTIVE, source, 1);
  }

  /** Whether the vCPU's input is up. */
  get external(): boolean {
    return ((this.process.fds.get(this.vcpu) as VcpuFile).vcpu.arch as PpcVcpu).external;
  }
}
