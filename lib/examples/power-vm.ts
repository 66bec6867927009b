/** A POWER VM with an in-kernel XICS and one vCPU connected to it, and its sources as user space sees them. */
import {
  KVM_CAP_IRQ_XICS,
  KVM_CAP_PPC_PAPR,
  KVM_CREATE_DEVICE,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_DEV_TYPE_XICS,
  KVM_ENABLE_CAP,
  KVM_GET_DEVICE_ATTR,
  KVM_SET_DEVICE_ATTR,
  KvmCreateDevice,
  KvmDeviceAttr,
  KvmEnableCap,
} from "../abi/kvm.ts";
import { KVM_DEV_XICS_GRP_SOURCES } from "../abi/kvm-ppc.ts";
import { load32, store32 } from "../abi/struct.ts";
import type { Process } from "../kernel/process.ts";
import type { Policy } from "../kernel/work-queue.ts";
import { builtinHosts } from "../machine/builtin.ts";
import { Machine } from "../machine/machine.ts";
import { profileFromHeader } from "../machine/profile.ts";

const profile = profileFromHeader(builtinHosts.ppc64le_6_12_pseries);

/** the most favoured priority that is used */
const PRIORITY = 5;
// bits of the upper half of a source's state
const LEVEL_SENSITIVE = 1 << 8;
const PRESENTED = 1 << 11;
const QUEUED = 1 << 12;

export class PowerVm {
  readonly machine: Machine;
  readonly process: Process;
  readonly vm: number;
  readonly xics: number;
  readonly vcpu: number;

  constructor(policy?: Policy) {
    this.machine = new Machine(profile, policy === undefined ? {} : { policy });
    this.process = this.machine.process();
    const { process } = this;
    this.vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    const create = KvmCreateDevice.encode({ type: KVM_DEV_TYPE_XICS });
    process.ioctl(this.vm, KVM_CREATE_DEVICE, create);
    this.xics = KvmCreateDevice.decode(create).fd;
    this.vcpu = process.ioctl(this.vm, KVM_CREATE_VCPU, 0);
    process.ioctl(this.vcpu, KVM_ENABLE_CAP, KvmEnableCap.encode({ cap: KVM_CAP_PPC_PAPR }));
    const connect = KvmEnableCap.encode({ cap: KVM_CAP_IRQ_XICS, args: [BigInt(this.xics), 0n, 0n, 0n] });
    process.ioctl(this.vcpu, KVM_ENABLE_CAP, connect);
  }

  #source(request: typeof KVM_GET_DEVICE_ATTR, number: number, state: Uint8Array): number {
    const addr = BigInt(this.process.addressOf(state));
    const attr = { group: KVM_DEV_XICS_GRP_SOURCES, attr: BigInt(number), addr };
    return this.process.ioctl(this.xics, request, KvmDeviceAttr.encode(attr));
  }

  /** Sets a source up, at server 0: 0 or −errno. */
  setUp(number: number, level = false): number {
    const state = new Uint8Array(8);
    store32(state, 4, PRIORITY | (level ? LEVEL_SENSITIVE : 0));
    return this.#source(KVM_SET_DEVICE_ATTR, number, state);
  }

  /** How many interrupts of a source are under way, 0 to 2; −errno for one that is not set up. */
  pending(number: number): number {
    const state = new Uint8Array(8);
    const result = this.#source(KVM_GET_DEVICE_ATTR, number, state);
    if (result < 0) return result;
    const high = load32(state, 4);
    return ((high & PRESENTED) !== 0 ? 1 : 0) + ((high & QUEUED) !== 0 ? 1 : 0);
  }
}
