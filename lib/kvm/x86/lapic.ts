/**
 * KVM_GET_LAPIC, KVM_SET_LAPIC: the register page of a vCPU's local APIC, 1024 bytes (`struct kvm_lapic_state`), and
 * the LAPIC's timer on the host's clock.
 */
import { EFAULT, EINVAL } from "../../abi/errno.ts";
import { KVM_GET_LAPIC, KVM_SET_LAPIC, KvmLapicState } from "../../abi/kvm-x86.ts";
import type { Lapic } from "../../hardware/lapic.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Clock, Timer } from "../../kernel/clock.ts";
import { copyOut } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import { updateCr8Intercept } from "./svm-tpr.ts";
import type { X86Vcpu } from "./vcpu.ts";

/** Keeps one timer of the host's clock where the LAPIC's own timer says. */
export class LapicClock implements Timer {
  expiry = Number.POSITIVE_INFINITY;
  readonly #lapic: Lapic;
  readonly #clock: Clock;

  constructor(lapic: Lapic, clock: Clock) {
    this.#lapic = lapic;
    this.#clock = clock;
  }

  fire(now: number): void {
    this.#lapic.expireTimer(now);
    this.follow();
  }

  /** After everything that may have started or stopped the timer. */
  follow(): void {
    const { deadline } = this.#lapic.timer;
    if (deadline === this.expiry) return;
    if (deadline === Number.POSITIVE_INFINITY) this.#clock.cancel(this);
    else this.#clock.arm(this, deadline);
  }

  stop(): void {
    this.#clock.cancel(this);
  }
}

/** EINVAL without a local APIC in the kernel, before the pointer is looked at; EFAULT. */
function getLapic(file: VcpuFile, user: Argument): number {
  const { lapic } = file.vcpu.arch as X86Vcpu;
  if (lapic === undefined) return -EINVAL;
  const { now } = file.kernel.clock;
  if (user.writable(KvmLapicState.size)) return lapic.saveTo(user.bytes, user.at, now);
  const state = new Uint8Array(KvmLapicState.size);
  const result = lapic.saveTo(state, 0, now);
  return result < 0 || copyOut(user, state) ? result : -EFAULT;
}

/** As above, and EINVAL for a 32-bit x2APIC id that is not the vCPU's. */
function setLapic(file: VcpuFile, user: Argument): number {
  const vcpu = file.vcpu.arch as X86Vcpu;
  const { lapic } = vcpu;
  if (lapic === undefined) return -EINVAL;
  if (!user.readable(KvmLapicState.size)) return -EFAULT;
  const result = lapic.loadFrom(user.bytes, user.at, file.kernel.clock.now);
  if (result === 0) vcpu.vm.irqchip?.restoreRtcOf(lapic);
  vcpu.lapicClock!.follow();
  updateCr8Intercept(vcpu);
  return result;
}

export const lapicIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_LAPIC, getLapic],
  [KVM_SET_LAPIC, setLapic],
];
