/**
 * What an arm64 vCPU holds beside the common part, and the way to its first run: initialised by KVM_ARM_VCPU_INIT
 * (ENOEXEC before), then the interrupt controller goes to the bus, then timer and PMU are checked
 * (arch/arm64/kvm/arm.c:kvm_arch_vcpu_run_pid_change, 6.1).
 *
 * Guests are scripts (guest.ts). Without one, KVM_RUN behaves as a guest that loops until a signal comes: EINTR.
 */
import { EINTR, EINVAL, ENOEXEC, EPERM } from "../../abi/errno.ts";
import { KVM_EXIT_INTR } from "../../abi/kvm.ts";
import { KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_SVE, KvmRegs, KvmRun } from "../../abi/kvm-arm64.ts";
import { store32 } from "../../abi/struct.ts";
import { GicCpu } from "../../hardware/gic.ts";
import { ASLEEP } from "../../kernel/long-call.ts";
import type { VcpuArch } from "../arch.ts";
import type { Vcpu } from "../vcpu.ts";
import { sleepUntil } from "../vcpu-sleep.ts";
import { type Guest, GuestRunner } from "./guest.ts";
import { SystemRegisters } from "./system-registers.ts";
import type { Arm64Vm } from "./vm.ts";

/** KVM_MP_STATE_RUNNABLE */
const RUNNABLE = 0;
const IMMEDIATE_EXIT = KvmRun.offsetOf.immediate_exit;

export class Arm64Vcpu implements VcpuArch {
  readonly vm: Arm64Vm;
  readonly vcpu: Vcpu;
  /** its part of the interrupt controller, there from the start */
  readonly cpu: GicCpu;
  mpState = RUNNABLE;
  /** KVM_ARM_VCPU_INIT has succeeded, with these features (a mask) */
  initialized = false;
  features = 0;
  /** KVM_ARM_VCPU_FINALIZE(SVE) was called */
  sveFinalized = false;
  /** KVM_RUN has reached the guest once */
  ran = false;
  /** the wires IRQ (bit 0) and FIQ (bit 1), where the controller is in user space */
  wires = 0;
  /** guest address of the stolen time, −1n for none */
  stolenTime = -1n;
  /** the PMU's interrupt, 0 for none */
  pmuIrq = 0;
  pmuReady = false;
  serrorPending = false;
  serrorEsr = 0n;
  /** KvmRegs: X0–X30, SP, PC, PSTATE, SP_EL1, ELR_EL1, SPSRs, V0–V31, FPSR, FPCR */
  readonly core = new Uint8Array(KvmRegs.size);
  readonly registers = new SystemRegisters(this);
  #guest: GuestRunner | undefined;

  constructor(vm: Arm64Vm, vcpu: Vcpu) {
    this.vm = vm;
    this.vcpu = vcpu;
    this.cpu = new GicCpu(vm.vm.vcpus.length, vcpu.id);
  }

  has(feature: number): boolean {
    return ((this.features >>> feature) & 1) === 1;
  }

  get finalized(): boolean {
    return !this.has(KVM_ARM_VCPU_SVE) || this.sveFinalized;
  }

  online(): void {
    this.vm.vgic.gic.cpus.push(this.cpu);
  }

  setWire(wire: number, level: boolean): void {
    if (level) this.wires |= 1 << wire;
    else this.wires &= ~(1 << wire);
  }

  /** ENOEXEC: not initialised; EPERM: not finalised; the controller's ENXIO, EINVAL, EBUSY, which end the VM; EINVAL. */
  run(patient: boolean): number {
    const refused = this.prepare();
    if (refused < 0) return refused;
    this.#guest?.complete();
    if (this.vcpu.pages[IMMEDIATE_EXIT] !== 0 || (patient && this.vcpu.kicked)) return -EINTR;
    if (this.#guest !== undefined && this.mpState === RUNNABLE) return this.#guest.run(patient);
    return this.#idle(patient);
  }

  resume(): number {
    return this.#guest !== undefined && this.mpState === RUNNABLE ? this.#guest.resume() : this.#idle(true);
  }

  /** Without a guest, or switched off: until a signal comes. */
  #idle(patient: boolean): number {
    const what = this.mpState === RUNNABLE ? "runs no guest" : "is switched off";
    if (patient && sleepUntil(this.vcpu, true, what, () => false) === ASLEEP) return ASLEEP;
    store32(this.vcpu.pages, KvmRun.offsetOf.exit_reason, KVM_EXIT_INTR);
    return -EINTR;
  }

  /** Whether an interrupt waits for it (kvm_arch_vcpu_runnable). */
  get runnable(): boolean {
    return this.wires !== 0 || this.vm.vgic.gic.hasPending(this.cpu);
  }

  /** Puts a guest on the vCPU: from now on KVM_RUN runs it. */
  load(guest: Guest): void {
    this.#guest = new GuestRunner(this, guest);
  }

  /** What KVM_RUN does before the guest is entered for the first time. */
  prepare(): number {
    if (!this.initialized) return -ENOEXEC;
    if (!this.finalized) return -EPERM;
    if (this.ran) return 0;
    const { vm } = this;
    const failed = vm.vgic.mapResources() || vm.timers.enable(this);
    if (failed < 0) return failed;
    if (this.has(KVM_ARM_VCPU_PMU_V3) && !this.pmuReady) return -EINVAL;
    this.ran = true;
    return 0;
  }

  destroy(): void {
    this.vm.vgic.unregisterRedistributor(this.cpu);
  }
}
