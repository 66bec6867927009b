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
import { load64, store32 } from "../abi/struct.ts";
import type { Process } from "../kernel/process.ts";
import type { Policy } from "../kernel/work-queue.ts";
import type { IrqchipProposal } from "../kvm/irqchip-type.ts";
import type { PpcVcpu } from "../kvm/ppc/vcpu.ts";
import type { VcpuFile } from "../kvm/vcpu.ts";
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

export interface PowerVmOptions {
  policy?: Policy;
  irqchipProposal?: IrqchipProposal;
  /** false: neither a XICS nor a connection to one yet */
  controller?: boolean;
}

export class PowerVm {
  readonly machine: Machine;
  readonly process: Process;
  readonly vm: number;
  xics = -1;
  readonly vcpu: number;

  constructor({ policy, irqchipProposal, controller = true }: PowerVmOptions = {}) {
    this.machine = new Machine(
      { ...profile, ...(irqchipProposal && { irqchipProposal }) },
      policy === undefined ? {} : { policy },
    );
    this.process = this.machine.process();
    const { process } = this;
    this.vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    this.vcpu = this.addVcpu(0);
    if (!controller) return;
    this.createXics();
    this.connect(this.vcpu, 0);
  }

  /** KVM_CREATE_VCPU, made ready to run a guest that knows PAPR. */
  addVcpu(id: number): number {
    const vcpu = this.process.ioctl(this.vm, KVM_CREATE_VCPU, id);
    this.process.ioctl(vcpu, KVM_ENABLE_CAP, KvmEnableCap.encode({ cap: KVM_CAP_PPC_PAPR }));
    return vcpu;
  }

  /** KVM_CREATE_DEVICE: 0 or −errno. */
  createXics(type = KVM_DEV_TYPE_XICS): number {
    const create = KvmCreateDevice.encode({ type });
    const result = this.process.ioctl(this.vm, KVM_CREATE_DEVICE, create);
    if (result === 0) this.xics = KvmCreateDevice.decode(create).fd;
    return result;
  }

  /** KVM_ENABLE_CAP: the vCPU can receive interrupts from now on. */
  connect(vcpu: number, server: number): number {
    const args = [BigInt(this.xics), BigInt(server), 0n, 0n];
    return this.process.ioctl(vcpu, KVM_ENABLE_CAP, KvmEnableCap.encode({ cap: KVM_CAP_IRQ_XICS, args }));
  }

  /** The vCPU itself, to put a guest on it. */
  cpu(vcpu = this.vcpu): PpcVcpu {
    return (this.process.fds.get(vcpu) as VcpuFile).vcpu.arch as PpcVcpu;
  }

  #source(request: typeof KVM_GET_DEVICE_ATTR, number: number, state: Uint8Array): number {
    const addr = BigInt(this.process.addressOf(state));
    const attr = { group: KVM_DEV_XICS_GRP_SOURCES, attr: BigInt(number), addr };
    return this.process.ioctl(this.xics, request, KvmDeviceAttr.encode(attr));
  }

  /** Sets a source up: 0 or −errno. */
  setUp(number: number, level = false, server = 0): number {
    const state = new Uint8Array(8);
    store32(state, 0, server);
    store32(state, 4, PRIORITY | (level ? LEVEL_SENSITIVE : 0));
    return this.#source(KVM_SET_DEVICE_ATTR, number, state);
  }

  /** The word of a source: its state in the upper half, its server in the lower; −errno for one that is not set up. */
  word(number: number): bigint | number {
    const state = new Uint8Array(8);
    const result = this.#source(KVM_GET_DEVICE_ATTR, number, state);
    return result < 0 ? result : load64(state, 0);
  }

  /** How many interrupts of a source are under way, 0 to 2; −errno for one that is not set up. */
  pending(number: number): number {
    const word = this.word(number);
    if (typeof word === "number") return word;
    const high = Number(word >> 32n);
    return ((high & PRESENTED) !== 0 ? 1 : 0) + ((high & QUEUED) !== 0 ? 1 : 0);
  }
}
