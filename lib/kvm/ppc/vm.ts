/** What a POWER VM holds beside the common part: its interrupt controller, and what user space has chosen. */
import { EBUSY, EINVAL, ENODEV, EPERM } from "../../abi/errno.ts";
import {
  KVM_CAP_IRQ_MPIC,
  KVM_CAP_MAX_VCPU_ID,
  KVM_CAP_MAX_VCPUS,
  KVM_CAP_PPC_DAWR1,
  KVM_CAP_PPC_ENABLE_HCALL,
  KVM_CAP_PPC_IRQ_XIVE,
  KVM_CAP_PPC_NESTED_HV,
  KVM_CAP_PPC_SMT,
} from "../../abi/kvm.ts";
import type { VmArch } from "../arch.ts";
import type { KvmHost } from "../host.ts";
import type { Vm } from "../vm.ts";
import { type PpcController, PpcIrq } from "./controller.ts";
import { defaultHypercalls, MAX_HCALL_OPCODE, ownHypercalls } from "./hypercalls.ts";
import type { PpcVcpu } from "./vcpu.ts";

/** threads of a core: KVM_CAP_PPC_SMT takes the powers of two up to here */
const MAX_SMT_THREADS = 8;

/** Whether the host runs VMs in hypervisor mode (kvm-hv); else in user mode (kvm-pr). */
export const isHv = (host: KvmHost): boolean => host.flavour === "hv";

/** Whether the host has an MPIC for VMs (e500): then GSIs are routed by a table. */
export const hasMpic = (host: KvmHost): boolean => (host.vmCapabilities.get(KVM_CAP_IRQ_MPIC) ?? 0) !== 0;

/** Whether the host has XIVE hardware and gives it to VMs: then XICS is played on top of it. */
export const hasXive = (host: KvmHost): boolean => (host.vmCapabilities.get(KVM_CAP_PPC_IRQ_XIVE) ?? 0) !== 0;

export class PpcVm implements VmArch {
  readonly vm: Vm;
  readonly hv: boolean;
  readonly irq: PpcIrq;
  readonly maxVcpus: number;
  readonly maxVcpuIds: number;
  controller: PpcController | undefined;
  /** the vCPU whose guest makes an access just now */
  running: PpcVcpu | undefined;
  /** by token: which firmware call it stands for (KVM_PPC_RTAS_DEFINE_TOKEN), in the order of definition */
  readonly rtasTokens = new Map<bigint, string>();
  /** the buses that have a table (KVM_CREATE_SPAPR_TCE) */
  readonly tceTables = new Set<bigint>();
  /** the hypercalls that do not go to user space */
  readonly hypercalls: Set<number>;
  /** KVM_CAP_PPC_SMT: threads of a virtual core */
  smt = 1;

  constructor(vm: Vm) {
    this.vm = vm;
    this.hv = isHv(vm.host);
    this.irq = new PpcIrq(this);
    this.maxVcpus = vm.host.vmCapabilities.get(KVM_CAP_MAX_VCPUS) ?? 2048;
    this.maxVcpuIds = vm.host.vmCapabilities.get(KVM_CAP_MAX_VCPU_ID) ?? this.maxVcpus;
    this.hypercalls = new Set(defaultHypercalls(this.hv));
  }

  precreateVcpu(): number {
    return 0;
  }

  /**
   * A vCPU id, or a server number, packed into the numbers below `maxVcpus`: with fewer than eight threads a core, ids
   * above fall between those below. What does not fit becomes 0. arch/powerpc/include/asm/kvm_book3s.h:kvmppc_pack_vcpu_id (6.1)
   */
  packId(id: number): number {
    const block = Math.floor(id / this.maxVcpus) * (MAX_SMT_THREADS / this.smt);
    if (block >= MAX_SMT_THREADS) return 0;
    const packed = (id % this.maxVcpus) + [0, 4, 2, 6, 1, 5, 3, 7][block];
    return packed < this.maxVcpus ? packed : 0;
  }

  checkExtension(capability: number): number {
    const offered = this.vm.host.vmCapabilities.get(capability) ?? 0;
    return capability === KVM_CAP_PPC_SMT && offered !== 0 ? this.smt : offered;
  }

  prepareMemory(): number {
    return 0;
  }

  /** arch/powerpc/kvm/powerpc.c:kvm_vm_ioctl_enable_cap (6.1) */
  enableCap(capability: number, flags: number, args: readonly bigint[]): number {
    if (flags !== 0) return -EINVAL;
    switch (capability) {
      case KVM_CAP_PPC_ENABLE_HCALL:
        return this.#enableHypercall(args[0], args[1]);
      case KVM_CAP_PPC_SMT:
        return this.hv ? this.#setSmt(args[0], args[1]) : -EINVAL;
      case KVM_CAP_PPC_NESTED_HV:
        return this.hv ? this.#offered(capability, EPERM) : -EINVAL;
      case KVM_CAP_PPC_DAWR1:
        return this.hv ? this.#offered(capability, ENODEV) : -EINVAL;
    }
    return -EINVAL;
  }

  #enableHypercall(number: bigint, enable: bigint): number {
    if (number > MAX_HCALL_OPCODE || (number & 3n) !== 0n || enable > 1n) return -EINVAL;
    if (!ownHypercalls(this.hv).has(Number(number))) return -EINVAL;
    if (enable === 1n) this.hypercalls.add(Number(number));
    else this.hypercalls.delete(Number(number));
    return 0;
  }

  /** A POWER9 emulates any number of threads; it is chosen before the first vCPU. */
  #setSmt(threads: bigint, flags: bigint): number {
    if (flags !== 0n || threads === 0n || threads > MAX_SMT_THREADS || (threads & (threads - 1n)) !== 0n)
      return -EINVAL;
    if (this.vm.vcpus.length !== 0) return -EBUSY;
    this.smt = Number(threads);
    return 0;
  }

  /** 0 where the host offers a capability, else the error. */
  #offered(capability: number, error: number): number {
    return (this.vm.host.vmCapabilities.get(capability) ?? 0) !== 0 ? 0 : -error;
  }

  /** The controller is gone, and with it every vCPU's end of it. */
  removeController(): void {
    for (const { arch } of this.vm.vcpus) (arch as PpcVcpu).disconnect();
    this.controller = undefined;
  }

  destroy(): void {}
}
