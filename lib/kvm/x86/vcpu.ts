/** What an x86 vCPU holds beside the common part. */
import { EINVAL } from "../../abi/errno.ts";
import { Lapic } from "../../hardware/lapic.ts";
import type { VcpuArch } from "../arch.ts";
import type { Vcpu } from "../vcpu.ts";
import { enableVcpuCap } from "./capabilities.ts";
import { Cpuid } from "./cpuid.ts";
import { DebugRegisters } from "./debug.ts";
import { Events } from "./events.ts";
import { Fpu } from "./fpu.ts";
import { HypervVcpu } from "./hyperv.ts";
import { LapicClock } from "./lapic.ts";
import { MachineCheck } from "./mce.ts";
import { Msrs } from "./msrs.ts";
import { APIC_BASE_BSP, Registers } from "./registers.ts";
import { Runner } from "./run.ts";
import type { X86Vm } from "./vm.ts";

/** KVM_MP_STATE_RUNNABLE, _UNINITIALIZED */
const RUNNABLE = 0;
const UNINITIALIZED = 1;

export class X86Vcpu implements VcpuArch {
  readonly vm: X86Vm;
  readonly vcpu: Vcpu;
  mpState: number;
  /** with an in-kernel irqchip only; its timer runs on the host's clock by `lapicClock.follow()` */
  readonly lapic: Lapic | undefined;
  readonly lapicClock: LapicClock | undefined;
  readonly cpuid = new Cpuid();
  readonly registers: Registers;
  readonly fpu = new Fpu();
  readonly debug = new DebugRegisters();
  readonly events = new Events();
  readonly msrs: Msrs;
  readonly mce = new MachineCheck();
  readonly hyperv: HypervVcpu;
  /** the frequency that the guest is told, as KVM_SET_TSC_KHZ left it */
  tscKhz: number;
  /** what the guest's TSC is ahead of the host's, modulo 2^64 */
  tscOffset = 0n;
  /** its next entry looks whether the VM's clock is tied to the host's TSC (KVM_REQ_MASTERCLOCK_UPDATE) */
  updatesClock = false;
  /** see TscSync */
  tscGeneration = 0;
  /** AMD's global interrupt flag, which nested virtualisation needs */
  gif = true;
  /** KVM_RUN has been entered: CPUID does not change any more */
  hasRun = false;
  /** paravirtual features only where CPUID shows them (KVM_CAP_ENFORCE_PV_FEATURE_CPUID) */
  enforcesPvCpuid = false;
  reportsTprAccess = false;
  /** writes of CR8 come to KVM (svm-tpr.ts) */
  cr8Intercepted = true;
  /** guest physical address of the page for TPR accesses, 0 for none */
  vapicAddress = 0;
  /** the guest's processor, from the first KVM_RUN on */
  runner: Runner | undefined;
  /** the vector whose end an IOAPIC of user space is still to hear of, or −1 */
  pendingIoapicEoi = -1;

  constructor(vm: X86Vm, vcpu: Vcpu) {
    this.vm = vm;
    this.vcpu = vcpu;
    this.mpState = vm.irqchipMode === "none" || vcpu.id === vm.bootCpuId ? RUNNABLE : UNINITIALIZED;
    this.tscKhz = vm.tscKhz;
    this.msrs = new Msrs(this);
    this.hyperv = new HypervVcpu(this, vm.vm.vcpus.length);
    this.registers = new Registers(this);
    if (vm.irqchip !== undefined) {
      this.lapic = new Lapic(vm.irqchip.system, vcpu.id, this.isBootCpu);
      this.lapicClock = new LapicClock(this.lapic, vcpu.vm.kernel.clock);
    }
  }

  /** It takes part in the delivery of interrupts from now on. */
  online(): void {
    this.vm.tscSync.synchronize(this);
    if (this.lapic !== undefined) this.vm.irqchip!.bus.add(this.lapic);
  }

  get isBootCpu(): boolean {
    return this.vcpu.id === this.vm.bootCpuId;
  }

  /** IA32_APIC_BASE says that it is the boot processor: user space may make any vCPU one. */
  get isBsp(): boolean {
    return (this.registers.apicBaseLo & APIC_BASE_BSP) !== 0;
  }

  run(patient: boolean): number {
    this.hasRun = true;
    this.runner ??= new Runner(this);
    return this.runner.run(patient);
  }

  resume(): number {
    return this.runner!.resume();
  }

  enableCap(capability: number, flags: number, args: readonly bigint[]): number {
    return enableVcpuCap(this, capability, flags, args);
  }

  /** KVM_SET_CPUID, KVM_SET_CPUID2: 0, or why not. After the first KVM_RUN only the same table is taken. */
  setCpuid(entries: Uint8Array): number {
    if (this.hasRun) return this.cpuid.agreesWith(entries, this.vm.vm.host.facts.nativeCpuid) ? 0 : -EINVAL;
    const { isParavirtual } = this.cpuid;
    const failed = this.cpuid.set(entries, this.vm.vm.host.facts.nativeCpuid);
    if (failed < 0) return failed;
    const { cpuid } = this;
    cpuid.isSet = true;
    cpuid.stale = true;
    cpuid.unhaltLater = !isParavirtual && !this.vm.vm.host.behaviour.unhaltFollowsTable;
    cpuid.shown(this);
    const told = {
      x2apic: cpuid.hasX2apic,
      tscDeadline: cpuid.hasTscDeadline,
      intelCompatible: cpuid.isIntelCompatible,
      physicalAddressBits: cpuid.physicalAddressBits,
    };
    this.lapic?.setCpuid(told, cpuid.hasBasicLeaf);
    return 0;
  }

  /** Ignored where the guest reads the host's counter. */
  setTscOffset(offset: bigint): void {
    if (!this.vm.vm.host.behaviour.hostTscShown) this.tscOffset = BigInt.asUintN(64, offset);
  }

  /** It looks for interrupts on its next way into the guest (KVM_REQ_EVENT). */
  requestEvent(): void {
    if (this.lapic !== undefined) this.lapic.eventRequested = true;
  }

  /**
   * INIT: the local APIC and the registers as after power on; the FPU, most MSRs and the APIC's base keep what they had
   * (arch/x86/kvm/x86.c:kvm_vcpu_reset, 6.1).
   */
  init(): void {
    const { lapic } = this;
    if (lapic !== undefined) {
      lapic.reset(true);
      // an NMI is lost, that one was sent is not
      if (lapic.nmiQueued !== 0) this.events.nmi.requested = true;
      lapic.nmiQueued = 0;
      this.lapicClock!.follow();
    }
    this.requestEvent();
    this.cr8Intercepted = true;
    this.events.reset(this.vm.vm.host.behaviour.nmiMaskOutlivesInit);
    this.debug.reset();
    this.msrs.init();
    this.registers.reset();
  }

  destroy(): void {
    this.lapicClock?.stop();
  }
}
