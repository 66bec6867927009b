/**
 * A vCPU that halts, sleeps and waits to be started (arch/x86/kvm/x86.c:vcpu_block, kvm_arch_vcpu_runnable,
 * __kvm_emulate_halt, 6.1 and 6.18). How it sleeps is told in ../vcpu-sleep.ts.
 */
import { EAGAIN, EINTR } from "../../abi/errno.ts";
import {
  KVM_EXIT_HLT,
  KVM_EXIT_INTR,
  KVM_MP_STATE_HALTED,
  KVM_MP_STATE_INIT_RECEIVED,
  KVM_MP_STATE_RUNNABLE,
  KVM_MP_STATE_UNINITIALIZED,
} from "../../abi/kvm.ts";
import type { Cpu } from "../../hardware/x86/cpu.ts";
import { IF, RFLAGS } from "../../hardware/x86/state.ts";
import { ASLEEP } from "../../kernel/long-call.ts";
import { sleepUntil } from "../vcpu-sleep.ts";
import { hasInterrupt } from "./guest-interrupts.ts";
import type { GuestPolicy } from "./guest-policy.ts";
import { loadRegisters, storeRegisters } from "./guest-registers.ts";
import { acceptEvents, enterState } from "./mp-state.ts";
import { GO_ON, type RunPage } from "./run-page.ts";
import type { X86Vcpu } from "./vcpu.ts";

export class Sleep {
  readonly #vcpu: X86Vcpu;
  readonly #cpu: Cpu;
  readonly #page: RunPage;
  readonly #policy: GuestPolicy;
  /** whether the present run may answer ASLEEP */
  patient = false;

  constructor(vcpu: X86Vcpu, cpu: Cpu, page: RunPage, policy: GuestPolicy) {
    this.#vcpu = vcpu;
    this.#cpu = cpu;
    this.#page = page;
    this.#policy = policy;
  }

  /** A vCPU that waits for INIT and SIPI: EAGAIN once they came, or whatever else would wake it (live 6.18). */
  waitForStart(): number {
    const vcpu = this.#vcpu;
    const slept = this.#sleep(() => this.runnable);
    if (slept === ASLEEP) return ASLEEP;
    if (slept === GO_ON && !vcpu.vcpu.interrupted) {
      acceptEvents(vcpu);
      return -EAGAIN;
    }
    this.#page.exitReason = KVM_EXIT_INTR;
    return -EINTR;
  }

  /** vcpu_block: until there is something to do. */
  block(): number {
    const vcpu = this.#vcpu;
    const { lapic } = vcpu;
    const slept = this.#sleep(() => {
      lapic?.injectTimer();
      return this.runnable;
    });
    if (slept !== GO_ON) return slept;
    this.acceptStarts();
    if (vcpu.mpState !== KVM_MP_STATE_INIT_RECEIVED) enterState(vcpu, KVM_MP_STATE_RUNNABLE);
    return GO_ON;
  }

  /** INIT and startup IPIs take effect on the registers that the guest runs with. */
  acceptStarts(): void {
    const vcpu = this.#vcpu;
    const { state, memory } = this.#cpu;
    if (vcpu.lapic === undefined || vcpu.lapic.pendingEvents === 0) return;
    storeRegisters(state, vcpu);
    acceptEvents(vcpu);
    loadRegisters(state, vcpu);
    memory.flush();
  }

  /** HLT: an exit where user space halts, else the vCPU lies down. */
  halt(): number {
    const vcpu = this.#vcpu;
    if (vcpu.lapic === undefined) return this.#page.exit(KVM_EXIT_HLT);
    // __kvm_emulate_halt (6.18): with something to do it does not even lie down
    if (!this.runnable) vcpu.mpState = KVM_MP_STATE_HALTED;
    else vcpu.lapic.pvUnhalted = false;
    return GO_ON;
  }

  /** kvm_arch_vcpu_runnable */
  get runnable(): boolean {
    const { lapic, events, mpState, gif } = this.#vcpu;
    if (lapic !== undefined && lapic.pendingEvents !== 0 && !events.smi.smm && gif) return true;
    if (mpState === KVM_MP_STATE_INIT_RECEIVED) return false;
    if (events.exception.pending || events.tripleFault || lapic?.pvUnhalted === true) return true;
    // an NMI that has just been sent wakes, masked or not: it is looked at on the way into the guest (KVM_REQ_NMI)
    if (events.nmi.requested || (lapic !== undefined && lapic.nmiQueued !== 0)) return true;
    if (events.nmi.pending !== 0 && !this.#cpu.state.nmiMasked) return true;
    if ((this.#cpu.state.r32[2 * RFLAGS] & IF) === 0) return false;
    return events.interrupt.injected || hasInterrupt(this.#vcpu);
  }

  #sleep(ready: () => boolean): number {
    return sleepUntil(this.#vcpu.vcpu, this.patient, this.#waitsFor(), ready, this.#policy.longestSleep);
  }

  /** What the sleep is for, in words. */
  #waitsFor(): string {
    const { mpState } = this.#vcpu;
    if (mpState === KVM_MP_STATE_UNINITIALIZED) return "waits for INIT and SIPI";
    if (mpState === KVM_MP_STATE_INIT_RECEIVED) return "waits for a SIPI";
    const closed = (this.#cpu.state.r32[2 * RFLAGS] & IF) === 0;
    return `halted, interrupts ${closed ? "off" : "on"}`;
  }
}
