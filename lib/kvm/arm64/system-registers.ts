/**
 * The registers of a vCPU beside those of KvmRegs: firmware, timers, system registers, cache sizes. Which there are, in
 * which order and with which values, the host's facts say, recorded from a real one; a host without such facts has the
 * few below. What a write does is a rule, named by a letter:
 *
 * - none: it is kept; `w` its low 32 bits; `i` nothing; `x` EINVAL unless it is the value that is there
 * - `s` EINVAL unless it clears bits of the initial value; `k` EINVAL above the initial value, else nothing
 * - `m` MPIDR_EL1: the affinity by which the interrupt controller finds the vCPU
 * - `y` the version of PSCI; `t` a timer's control, `c` one that never says that its time has come; `n` a counter,
 *   which a VM with an offset of its own keeps
 * - `l` a cache's size, whose lines have 64 bytes at least
 * - `r` PMCR_EL0: eight bits, and as many event counters as there are at most; `u` sets, `v` clears bits of a register
 *   that it shares with another; `a` and `b`, in later releases, are that register, and a write is kept as it is
 *
 * The rules were read off what the kernels said to all ones, all zeros, and the value that was there (recordings
 * arm64-6.12/registers-gicv3 and others): between those they are a guess, above all `s` for identification registers.
 *
 * Missing: time; debug registers beyond what is recorded; SVE.
 */
import { EINVAL, ENOENT } from "../../abi/errno.ts";
import {
  ARM64_SYS_REG,
  KVM_ARM_VCPU_PSCI_0_2,
  KVM_REG_ARM_PSCI_VERSION,
  KVM_REG_ARM_PTIMER_CNT,
  KVM_REG_ARM_PTIMER_CTL,
  KVM_REG_ARM_PTIMER_CVAL,
  KVM_REG_ARM_TIMER_CNT,
  KVM_REG_ARM_TIMER_CTL,
  KVM_REG_ARM_TIMER_CVAL,
} from "../../abi/kvm-arm64.ts";
import type { ArmRegister } from "../host.ts";
import type { Arm64Vcpu } from "./vcpu.ts";

const MPIDR_EL1 = ARM64_SYS_REG(3, 0, 0, 0, 5);
const PMCR_EL0 = ARM64_SYS_REG(3, 3, 9, 12, 0);
/** Registers that clear bits, by the one that sets them. */
const setter = new Map([
  [ARM64_SYS_REG(3, 0, 9, 14, 2), ARM64_SYS_REG(3, 0, 9, 14, 1)],
  [ARM64_SYS_REG(3, 3, 9, 12, 2), ARM64_SYS_REG(3, 3, 9, 12, 1)],
  [ARM64_SYS_REG(3, 3, 9, 12, 3), ARM64_SYS_REG(3, 3, 9, 14, 3)],
]);
/** A timer's counter and the value that it is compared with, by its control. */
const timers = new Map([
  [KVM_REG_ARM_TIMER_CTL, [KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_TIMER_CVAL]],
  [KVM_REG_ARM_PTIMER_CTL, [KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_PTIMER_CVAL]],
]);
const ISTATUS = 4n;
const CYCLE_COUNTER = 1n << 31n;
const AFFINITY = 0xff_ffffn;
const LOW = 0xffff_ffffn;

/** PSCI 0.1 without the feature; with it 0.2, 1.0 and up to the newest that the release has. */
const PSCI_0_1 = 1n;
const PSCI_0_2 = 2n;
const PSCI_1_0 = 0x1_0000n;
const PSCI_1_1 = 0x1_0001n;
const PSCI_1_3 = 0x1_0003n;

const plain = (id: bigint, rule = "", initial = 0n): ArmRegister => ({ id, initial, rule, feature: -1 });

/** What a host has whose registers nobody recorded. */
const few: readonly ArmRegister[] = [
  plain(KVM_REG_ARM_PSCI_VERSION, "y", PSCI_0_1),
  plain(KVM_REG_ARM_TIMER_CTL, "t"),
  plain(KVM_REG_ARM_TIMER_CNT, "n"),
  plain(KVM_REG_ARM_TIMER_CVAL),
  plain(KVM_REG_ARM_PTIMER_CTL, "t"),
  plain(KVM_REG_ARM_PTIMER_CNT, "n"),
  plain(KVM_REG_ARM_PTIMER_CVAL),
  plain(MPIDR_EL1, "m", 1n << 31n),
];

/** The affinity of a vCPU: 16 of them to a cluster (arch/arm64/kvm/sys_regs.c:reset_mpidr, 6.1). */
const affinityOf = (id: number): number =>
  (id & 0xf) | (((id >>> 4) & 0xff) << 8) | (((id >>> 12) & 0xff) << 16);

export class SystemRegisters {
  readonly #vcpu: Arm64Vcpu;
  /** by id, in the order of KVM_GET_REG_LIST */
  readonly #rules = new Map<bigint, ArmRegister>();
  readonly #values = new Map<bigint, bigint>();

  constructor(vcpu: Arm64Vcpu) {
    this.#vcpu = vcpu;
  }

  get ids(): IterableIterator<bigint> {
    return this.#rules.keys();
  }

  /** After KVM_ARM_VCPU_INIT: those that the features bring, with their first values. */
  reset(): void {
    const vcpu = this.#vcpu;
    this.#rules.clear();
    this.#values.clear();
    for (const register of vcpu.vm.vm.host.facts.armRegisters ?? few) {
      if (register.feature >= 0 && !vcpu.has(register.feature)) continue;
      this.#rules.set(register.id, register);
      this.#values.set(register.id, register.initial);
    }
    const affinity = affinityOf(vcpu.vcpu.id);
    this.#values.set(MPIDR_EL1, (this.#values.get(MPIDR_EL1) ?? 0n) | BigInt(affinity));
    vcpu.cpu.mpidr = affinity;
    if (vcpu.has(KVM_ARM_VCPU_PSCI_0_2)) this.#values.set(KVM_REG_ARM_PSCI_VERSION, this.#newestPsci);
  }

  /** The value, or undefined for a register that is none. */
  read(id: bigint): bigint | undefined {
    const value = this.#values.get(id);
    switch (this.#rules.get(id)?.rule) {
      case undefined:
        return undefined;
      case "v":
      case "b":
        return this.#values.get(setter.get(id)!);
      case "t": {
        const [counter, compare] = timers.get(id)!.map((each) => this.#values.get(each) ?? 0n);
        return (value! & LOW & ~ISTATUS) | (counter >= compare ? ISTATUS : 0n);
      }
      default:
        return value;
    }
  }

  /** 0, −ENOENT, −EINVAL. */
  write(id: bigint, value: bigint): number {
    const register = this.#rules.get(id);
    if (register === undefined) return -ENOENT;
    const { rule, initial } = register;
    const before = this.#values.get(id)!;
    switch (rule) {
      case "w":
        this.#values.set(id, value & LOW);
        return 0;
      case "i":
        return 0;
      case "x":
        return value === before ? 0 : -EINVAL;
      case "s":
        if ((value & ~initial) !== 0n) return -EINVAL;
        break;
      case "k":
        return value > initial ? -EINVAL : 0;
      case "m":
        this.#vcpu.cpu.mpidr = Number(value & AFFINITY);
        break;
      case "n":
        if (this.#vcpu.vm.counterOffset !== undefined) return 0;
        break;
      case "c":
        this.#values.set(id, value & ~ISTATUS);
        return 0;
      case "y": {
        if (!this.#isPsci(value)) return -EINVAL;
        break;
      }
      case "l":
        if ((value & 7n) < 2n) return -EINVAL;
        break;
      case "r": {
        const asked = (value >> 11n) & 0x1fn;
        const counters = asked <= ((initial >> 11n) & 0x1fn) ? asked : (before >> 11n) & 0x1fn;
        this.#values.set(id, (counters << 11n) | (value & 0xffn));
        return 0;
      }
      case "u":
        this.#values.set(id, before | (value & this.#counters));
        return 0;
      case "a":
      case "b":
        this.#values.set(rule === "a" ? id : setter.get(id)!, value & this.#counters);
        return 0;
      case "v": {
        const shared = setter.get(id)!;
        this.#values.set(shared, (this.#values.get(shared) ?? 0n) & ~value);
        return 0;
      }
    }
    this.#values.set(id, value);
    return 0;
  }

  get #newestPsci(): bigint {
    return this.#vcpu.vm.vm.host.behaviour.armPsci13 ? PSCI_1_3 : PSCI_1_1;
  }

  #isPsci(version: bigint): boolean {
    if (!this.#vcpu.has(KVM_ARM_VCPU_PSCI_0_2)) return version === PSCI_0_1;
    return version === PSCI_0_2 || (version >= PSCI_1_0 && version <= this.#newestPsci);
  }

  /** One bit for each event counter that the host has, and one for the cycles. */
  get #counters(): bigint {
    const pmcr = this.#rules.get(PMCR_EL0)?.initial ?? 0n;
    return ((1n << ((pmcr >> 11n) & 0x1fn)) - 1n) | CYCLE_COUNTER;
  }
}
