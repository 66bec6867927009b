/**
 * The interrupts of the vCPUs' timers: private ones, the same in every vCPU, chosen by attribute before the first run
 * (arch/arm64/kvm/arch_timer.c:kvm_arm_timer_set_attr, kvm_timer_enable, 6.1 and 6.12). From the first run on they
 * belong to the timers: KVM_IRQ_LINE on them does nothing.
 *
 * Missing: the timers themselves; their registers are remembered (one-reg.ts) and nothing fires.
 */
import { EBUSY, EFAULT, EINVAL, ENXIO } from "../../abi/errno.ts";
import { KVM_CAP_COUNTER_OFFSET } from "../../abi/kvm.ts";
import {
  KVM_ARM_SET_COUNTER_OFFSET,
  KVM_ARM_VCPU_TIMER_IRQ_HPTIMER,
  KVM_ARM_VCPU_TIMER_IRQ_HVTIMER,
  KVM_ARM_VCPU_TIMER_IRQ_PTIMER,
  KVM_ARM_VCPU_TIMER_IRQ_VTIMER,
  KvmArmCounterOffset,
} from "../../abi/kvm-arm64.ts";
import { load32, store32 } from "../../abi/struct.ts";
import { NR_PRIVATE_IRQS, NR_SGIS } from "../../hardware/gic.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VmFile } from "../vm.ts";
import type { Arm64Vcpu } from "./vcpu.ts";
import type { Arm64Vm } from "./vm.ts";

/** Virtual, physical, and those of a hypervisor inside the guest: the numbers they start with. */
const DEFAULT_IRQS = new Map([
  [KVM_ARM_VCPU_TIMER_IRQ_VTIMER, 27],
  [KVM_ARM_VCPU_TIMER_IRQ_PTIMER, 30],
  [KVM_ARM_VCPU_TIMER_IRQ_HVTIMER, 28],
  [KVM_ARM_VCPU_TIMER_IRQ_HPTIMER, 26],
]);
/** Those that a guest without nested virtualisation has. */
const OWN = [KVM_ARM_VCPU_TIMER_IRQ_VTIMER, KVM_ARM_VCPU_TIMER_IRQ_PTIMER];

export class Timers {
  readonly #vm: Arm64Vm;
  readonly #irqs = new Map(DEFAULT_IRQS);
  /** a vCPU has run with them */
  #fixed = false;

  constructor(vm: Arm64Vm) {
    this.#vm = vm;
  }

  has(attr: bigint): boolean {
    const hypervisors = this.#vm.vm.host.behaviour.armHypTimers;
    return attr < (hypervisors ? 4n : 2n);
  }

  /** EINVAL: no controller in the kernel, not a PPI; EFAULT; EBUSY: in use; ENXIO. */
  set(vcpu: Arm64Vcpu, attr: bigint, user: Argument): number {
    if (!this.#vm.vgic.created) return -EINVAL;
    if (!user.readable(4)) return -EFAULT;
    const irq = load32(user.bytes, user.at);
    if (irq < NR_SGIS || irq >= NR_PRIVATE_IRQS) return -EINVAL;
    if (this.#vm.vm.host.behaviour.armHypTimers ? this.#fixed : vcpu.ran) return -EBUSY;
    if (!this.has(attr)) return -ENXIO;
    this.#irqs.set(Number(attr), irq);
    return 0;
  }

  get(attr: bigint, user: Argument): number {
    if (!this.has(attr)) return -ENXIO;
    if (!user.writable(4)) return -EFAULT;
    store32(user.bytes, user.at, this.#irqs.get(Number(attr))!);
    return 0;
  }

  /** Before a vCPU's first run: each timer takes its interrupt. EINVAL where two share one, or another has it. */
  enable(vcpu: Arm64Vcpu): number {
    const { vgic } = this.#vm;
    if (!vgic.created) return 0;
    const taken = OWN.map((timer) => this.#irqs.get(timer)!);
    if (taken[0] === taken[1]) return -EINVAL;
    for (const [i, irq] of taken.entries()) if (vgic.own(vcpu.cpu, irq, OWNERS[i]) < 0) return -EINVAL;
    this.#fixed = true;
    return 0;
  }
}

/** Who owns a timer's interrupt: one name a timer. */
const OWNERS = OWN.map((timer) => ({ timer }));

/**
 * KVM_ARM_SET_COUNTER_OFFSET: what the guest's counters are behind the host's. From then on they are not written any more
 * (arch/arm64/kvm/arch_timer.c:kvm_vm_ioctl_set_counter_offset, kvm_arm_timer_set_reg, 6.12). EFAULT; EINVAL: reserved.
 */
function setCounterOffset({ vm }: VmFile, user: Argument): number {
  if ((vm.host.vmCapabilities.get(KVM_CAP_COUNTER_OFFSET) ?? 0) === 0) return vm.host.arch.unknownVmIoctl;
  if (!user.readable(KvmArmCounterOffset.size)) return -EFAULT;
  const { counter_offset, reserved } = KvmArmCounterOffset.decode(user.bytes, user.at);
  if (reserved !== 0n) return -EINVAL;
  (vm.arch as Arm64Vm).counterOffset = counter_offset;
  return 0;
}

export const counterOffsetIoctls: readonly Entry<VmFile>[] = [[KVM_ARM_SET_COUNTER_OFFSET, setCounterOffset]];
