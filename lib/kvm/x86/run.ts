/**
 * KVM_RUN: the guest runs until it needs user space (arch/x86/kvm/x86.c:kvm_arch_vcpu_ioctl_run, vcpu_run,
 * vcpu_enter_guest, post_kvm_run_save, 6.1 and 6.18).
 *
 * A vCPU is a loop around `Cpu.step`. Between instructions it takes events. Where the flavour runs privileged code by KVM's
 * emulator (pvm), it looks for them only every 1024 instructions, as recorded; elsewhere after each.
 *
 * The rooms beside this one: run-sleep.ts (HLT, INIT and SIPI), run-delivery.ts (exceptions, NMIs, interrupts),
 * run-vectoring.ts (events that meet no memory), run-fail-entry.ts (states that no processor enters),
 * run-exits.ts (instructions that wait for user space), run-debug.ts (steps and breakpoints), run-emulation-failure.ts
 * (instructions that nobody knows), run-page.ts (the bytes of struct kvm_run).
 *
 * The call never hangs JavaScript. A guest that runs on and on answers −EINTR after so many instructions as `guestPolicy`
 * allows, as if a signal had come; for one that sleeps see run-sleep.ts.
 *
 * Missing: SMM, asynchronous page faults; KVM_EXIT_HYPERV of the synthetic debugger.
 * No host here can give: KVM_EXIT_NOTIFY and KVM_EXIT_X86_BUS_LOCK (KVM_CHECK_EXTENSION answers 0, the processors do not tell),
 * KVM_INTERNAL_ERROR_SIMUL_EX (Intel's module alone), KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON (AMD's handles every exit that it
 * asks for), KVM_EXIT_AP_RESET_HOLD, KVM_EXIT_MEMORY_FAULT of private memory and the events of SEV and TDX (other kinds of VM).
 */
import { EINTR, EINVAL, ENOSPC } from "../../abi/errno.ts";
import {
  KVM_EXIT_DIRTY_RING_FULL,
  KVM_EXIT_HLT,
  KVM_EXIT_INTR,
  KVM_EXIT_IRQ_WINDOW_OPEN,
  KVM_EXIT_SET_TPR,
  KVM_EXIT_SHUTDOWN,
  KVM_EXIT_TPR_ACCESS,
  KVM_EXIT_UNKNOWN,
  KVM_MP_STATE_RUNNABLE,
  KVM_MP_STATE_UNINITIALIZED,
} from "../../abi/kvm.ts";
import { load32, store32, store64 } from "../../abi/struct.ts";
import type { Bus } from "../../hardware/x86/bus.ts";
import { Cpu, type CpuOptions } from "../../hardware/x86/cpu.ts";
import { EXCEPTION, RUNNING, SHUTDOWN, UNHANDLED, VECTORING, WAITING } from "../../hardware/x86/memory.ts";
import { ScriptCpu } from "../../hardware/x86/script-cpu.ts";
import { CpuState, DR7, IF, RFLAGS, SHADOW_MOV_SS, TF } from "../../hardware/x86/state.ts";
import { ASLEEP, BUSY } from "../../kernel/long-call.ts";
import { GuestBus } from "./guest-bus.ts";
import { hasInterrupt } from "./guest-interrupts.ts";
import { type GuestPolicy, guestPolicy } from "./guest-policy.ts";
import { loadRegisters, storeRegisters } from "./guest-registers.ts";
import { INTERCEPTED, PORT_STRINGS } from "./intercepts.ts";
import { Debugging, DR6_BS } from "./run-debug.ts";
import { Delivery, STUCK, UNANSWERED } from "./run-delivery.ts";
import { EmulationFailure } from "./run-emulation-failure.ts";
import { AGAIN, Exits } from "./run-exits.ts";
import { entryFails, SVM_EXIT_ERR } from "./run-fail-entry.ts";
import {
  APIC_BASE,
  CR8,
  DIRTY_REGS,
  FLAGS,
  GO_ON,
  IF_FLAG,
  READY_FOR_INTERRUPT_INJECTION,
  RunPage,
  VALID_REGS,
} from "./run-page.ts";
import { Sleep } from "./run-sleep.ts";
import { Vectoring } from "./run-vectoring.ts";
import { syncTpr, updateCr8Intercept } from "./svm-tpr.ts";
import { readSyncRegs, unknownRegisters, writeSyncRegs } from "./sync-regs.ts";
import type { X86Vcpu } from "./vcpu.ts";

/** instructions that KVM's emulator runs in a row */
const BATCH = 1024;
const DR7_ENABLED = 0xff;
/** by RIP alone KVM tells whether it is over: one that returns to itself leaves NMIs masked (svm_complete_interrupts; 7.2) */
const IRET = 0xcf;
/** instructions after which a patient run lets others go on */
const SLICE = 100_000;

/** Makes the processor of a vCPU: one that runs machine code, or something in its place. */
export type MakeCpu = (state: CpuState, bus: Bus, options: Partial<CpuOptions>) => Cpu;

export class Runner {
  readonly #vcpu: X86Vcpu;
  readonly cpu: Cpu;
  readonly #bus: GuestBus;
  readonly #page: RunPage;
  readonly #policy: GuestPolicy;
  readonly #sleep: Sleep;
  readonly #failure: EmulationFailure;
  readonly #debugging: Debugging;
  readonly #vectoring: Vectoring;
  readonly #delivery: Delivery;
  readonly #exits: Exits;
  /** privileged code is run by KVM's emulator */
  readonly #emulated: boolean;
  /** AMD's module */
  readonly #svm: boolean;
  #budget = 0;
  /** the present run waits for INIT and SIPI */
  #starting = false;
  /** TF was set when the present instruction began */
  #trap = false;
  /** the emulator finishes an instruction in the processor's place */
  #finishing = false;
  /** HLT was executed, and nobody has halted yet */
  #haltRequested = false;

  constructor(vcpu: X86Vcpu, make: MakeCpu = (state, bus, options) => new Cpu(state, bus, options)) {
    const { vm } = vcpu.vcpu;
    this.#vcpu = vcpu;
    this.#page = new RunPage(vcpu.vcpu.pages);
    this.#policy = guestPolicy(vm.kernel);
    const { kernelCodeEmulated, pagingOnlyInLongMode } = vm.host.behaviour;
    this.#emulated = kernelCodeEmulated;
    this.#bus = new GuestBus(vcpu);
    this.cpu = make(new CpuState(), this.#bus, {
      emulated: this.#emulated,
      portRestarts: !this.#emulated,
      hypercall: vm.host.flavour === "svm" ? 0xd9 : 0xc1,
      pagingIsLong: pagingOnlyInLongMode,
      intel: vm.host.flavour === "vmx",
    });
    this.#bus.cpu = this.cpu;
    this.#svm = vm.host.flavour === "svm";
    this.cpu.memory.walksWrite = this.#svm;
    this.cpu.memory.keepsDevices = !this.#emulated;
    this.#sleep = new Sleep(vcpu, this.cpu, this.#page, this.#policy);
    this.#failure = new EmulationFailure(vcpu, this.cpu, this.#page);
    this.#debugging = new Debugging(vcpu, this.cpu, this.#page);
    this.#vectoring = new Vectoring(vcpu, this.cpu, this.#page, this.#failure);
    this.#delivery = new Delivery(vcpu, this.cpu, this.#debugging, this.#failure, this.#vectoring, this.#bus);
    this.#exits = new Exits(vcpu, this.cpu, this.#bus, this.#page, this.#failure);
  }

  // ---- KVM_RUN ---------------------------------------------------------------------------------------------------

  /** Its answer; a patient one may answer ASLEEP or BUSY, and is not over. */
  run(patient: boolean): number {
    const vcpu = this.#vcpu;
    const page = this.#page;
    const { bytes } = page;
    this.#sleep.patient = patient;
    this.#budget = this.#policy.budget;
    bytes[FLAGS] = bytes[FLAGS + 1] = 0;
    this.#starting = vcpu.mpState === KVM_MP_STATE_UNINITIALIZED;
    if (this.#starting) {
      loadRegisters(this.cpu.state, vcpu);
      return this.#leave(this.#leavesAtOnce ? -EINTR : this.#sleep.waitForStart());
    }
    if (unknownRegisters(vcpu, bytes, VALID_REGS) || unknownRegisters(vcpu, bytes, DIRTY_REGS))
      return this.#save(-EINVAL);
    if (load32(bytes, DIRTY_REGS) !== 0) {
      const failed = readSyncRegs(vcpu, bytes);
      if (failed < 0) return this.#save(failed);
    }
    if (vcpu.lapic === undefined) {
      const cr8 = load32(bytes, CR8);
      if (cr8 > 15 || load32(bytes, CR8 + 4) !== 0) return this.#save(-EINVAL);
      vcpu.registers.cr8 = cr8;
    }
    loadRegisters(this.cpu.state, vcpu);
    this.#debugging.takeTrapFlag();
    this.cpu.memory.physicalBits = vcpu.cpuid.physicalAddressBits;
    this.cpu.memory.refresh();
    this.cpu.breakpointTrapped = !this.#emulated && vcpu.debug.usesInstruction;
    let result = this.#finishLast();
    if (result > 0 && this.#leavesAtOnce) result = -EINTR;
    if (result > 0) {
      page.exitReason = KVM_EXIT_UNKNOWN;
      result = this.#loop();
    }
    return this.#leave(result);
  }

  /** A patient run that is not over goes on. */
  resume(): number {
    if (this.#starting) return this.#leave(this.#sleep.waitForStart());
    this.cpu.memory.refresh();
    return this.#leave(this.#loop());
  }

  /** What was done before it is done; the guest is not entered. */
  get #leavesAtOnce(): boolean {
    return this.#page.immediateExit || (this.#sleep.patient && this.#vcpu.vcpu.kicked);
  }

  #leave(result: number): number {
    if (result > 0) return result;
    if (this.#starting) return this.#save(result);
    const vcpu = this.#vcpu;
    this.#debugging.hideTrapFlag();
    storeRegisters(this.cpu.state, vcpu);
    vcpu.registers.sregs.cr8Lo = this.cpu.bus.readCr8();
    if (vcpu.lapic === undefined) vcpu.registers.cr8 = this.cpu.bus.readCr8();
    return this.#save(result);
  }

  /** post_kvm_run_save: what user space reads after every call. */
  #save(result: number): number {
    const vcpu = this.#vcpu;
    const { bytes } = this.#page;
    const { registers, lapic } = vcpu;
    if (load32(bytes, VALID_REGS) !== 0) writeSyncRegs(vcpu, bytes);
    bytes[IF_FLAG] = (load32(registers.regsBytes, 17 * 8) & IF) !== 0 ? 1 : 0;
    store64(bytes, CR8, registers.cr8);
    store32(bytes, APIC_BASE, lapic?.baseLo ?? registers.apicBaseLo);
    store32(bytes, APIC_BASE + 4, lapic?.baseHi ?? Number(registers.apicBase >> 32n));
    const ready =
      vcpu.vm.irqchipMode === "kernel" || this.#readyForInterrupt(load32(registers.regsBytes, 17 * 8));
    bytes[READY_FOR_INTERRUPT_INJECTION] = ready ? 1 : 0;
    return result;
  }

  #loop(): number {
    const vcpu = this.#vcpu;
    const { kernel } = vcpu.vcpu.vm;
    const page = this.#page;
    const pause = this.#sleep.patient ? Math.max(0, this.#budget - SLICE) : 0;
    for (;;) {
      const result = vcpu.mpState === KVM_MP_STATE_RUNNABLE ? this.#enter() : this.#sleep.block();
      if (result === ASLEEP || (result <= 0 && result !== -EINTR)) return result;
      if (kernel.work.pending !== 0) kernel.work.policy(kernel.work);
      vcpu.lapic?.injectTimer();
      if (page.wantsInterruptWindow && this.#windowOpen) return page.exit(KVM_EXIT_IRQ_WINDOW_OPEN);
      // a signal ended the sleep, or kept the guest from being entered: it counts only if there is no window
      if (
        result === -EINTR ||
        this.#budget <= 0 ||
        vcpu.vcpu.interrupted ||
        kernel.faults.interrupt("KVM_RUN")
      ) {
        page.exitReason = KVM_EXIT_INTR;
        return -EINTR;
      }
      if (this.#budget <= pause) return BUSY;
    }
  }

  get #windowOpen(): boolean {
    return this.#vcpu.vm.irqchipMode !== "kernel" && this.#readyForInterrupt(this.cpu.state.r32[2 * RFLAGS]);
  }

  /** Whether user space may inject an interrupt now (kvm_vcpu_ready_for_interrupt_injection). */
  #readyForInterrupt(flags: number): boolean {
    const { events, lapic } = this.#vcpu;
    const { exception, interrupt, nmi } = events;
    if ((flags & IF) === 0 || this.cpu.state.shadow !== 0) return false;
    if (lapic !== undefined && !lapic.acceptsPic()) return false;
    if (lapic !== undefined && events.pendingExternalVector !== -1) return false;
    return !exception.injected && !exception.pending && !interrupt.injected && !nmi.injected;
  }

  // ---- one entry into the guest ----------------------------------------------------------------------------------

  /** vcpu_enter_guest: 1 to go on, 0 for an exit. */
  #enter(): number {
    const vcpu = this.#vcpu;
    const { events, lapic } = vcpu;
    if (this.#ringFull) return this.#page.exit(KVM_EXIT_DIRTY_RING_FULL);
    if (vcpu.updatesClock) {
      vcpu.updatesClock = false;
      vcpu.vm.clock.master = vcpu.vm.tscSync.agrees(vcpu.vcpu.vm.vcpus.length);
    }
    if (this.#bus.tprAccessed) {
      this.#bus.tprAccessed = false;
      return this.#page.exit(KVM_EXIT_TPR_ACCESS);
    }
    if (events.tripleFault) {
      events.tripleFault = false;
      return this.#page.exit(KVM_EXIT_SHUTDOWN);
    }
    this.#delivery.takeNmis();
    if (vcpu.pendingIoapicEoi >= 0) {
      this.#page.ioapicEoi(vcpu.pendingIoapicEoi);
      vcpu.pendingIoapicEoi = -1;
      return 0;
    }
    if (vcpu.hyperv.requests !== 0) return vcpu.hyperv.exit(this.#page);
    if (lapic !== undefined) {
      vcpu.vm.irqchip!.scan(lapic);
      if (lapic.pendingEvents !== 0) {
        this.#sleep.acceptStarts();
        if (vcpu.mpState !== KVM_MP_STATE_RUNNABLE) return 1;
      }
      if (lapic.eventRequested || events.exceptionWaits) lapic.picHeard = lapic.acceptsPic();
      lapic.eventRequested = false;
      if (this.#svm && lapic.swEnabled) updateCr8Intercept(vcpu);
    }
    if (this.#withoutPageTables) {
      this.#delivery.hold();
      return -ENOSPC;
    }
    if (vcpu.vcpu.interrupted) {
      this.#delivery.hold();
      return GO_ON;
    }
    if (!this.#emulated && entryFails(this.cpu.state, events)) {
      this.#delivery.hold();
      return this.#page.failEntry(SVM_EXIT_ERR);
    }
    if (!this.#delivery.inject()) return this.#arrived(this.#delivery.outcome);
    if (vcpu.vcpu.interrupted || this.#delivery.moreWaits) return GO_ON;
    // a processor leaves as soon as it could take an interrupt: at once (svm_enable_irq_window)
    if (!this.#emulated && this.#page.wantsInterruptWindow && this.#windowOpen) return GO_ON;
    const result = this.#execute();
    if (this.#svm) syncTpr(vcpu);
    return result;
  }

  /** An event met no memory on its way to its handler: user space is told, or KVM's emulator does the instruction at RIP. */
  #stuck(): number {
    const { cpu } = this;
    const { options } = cpu;
    if (this.#vectoring.isReported) return this.#vectoring.exit();
    this.#budget--;
    this.#trap = (cpu.state.r32[2 * RFLAGS] & TF) !== 0;
    options.emulated = cpu.cpl === 0;
    options.portRestarts = false;
    const stop = cpu.step();
    options.emulated = false;
    options.portRestarts = true;
    if (stop === UNHANDLED) {
      cpu.memory.forget();
      return this.#vectoring.refused();
    }
    this.#finishing = true;
    const stopped = stop === RUNNING ? GO_ON : this.#stopped(stop);
    this.#finishing = false;
    if (stop !== RUNNING) return stopped;
    // nobody looks whether the emulator met HLT
    cpu.halted = false;
    const result = this.#stepped(true);
    return result < 0 ? GO_ON : result;
  }

  /**
   * Where KVM pages in the processor's place, a VM that never had memory has no room for it (kvm_mmu_load; live 6.18).
   * Scripts, whose addresses are physical, need none.
   */
  get #withoutPageTables(): boolean {
    return this.#emulated && !this.#vcpu.vm.hasMmuPages && !(this.cpu instanceof ScriptCpu);
  }

  /** The vCPU's ring of dirty pages has to be collected first. */
  get #ringFull(): boolean {
    const { vcpu } = this.#vcpu;
    return vcpu.vm.dirtyRingSize !== 0 && vcpu.dirtyRing.full;
  }

  /** How many instructions run before the next look at events. */
  get #batch(): number {
    if (this.#emulated) return BATCH;
    const { events } = this.#vcpu;
    if (this.#page.wantsInterruptWindow || events.nmi.pending !== 0 || this.cpu.state.shadow !== 0) return 1;
    return hasInterrupt(this.#vcpu) ? 1 : BATCH;
  }

  #execute(): number {
    const { cpu } = this;
    const vcpu = this.#vcpu;
    const { kernel } = vcpu.vcpu.vm;
    const { lapic } = vcpu;
    const batch = this.#batch;
    const { memory } = cpu;
    const { nanosecondsPerInstruction } = this.#policy;
    const processor = !this.#emulated;
    const steps = this.#emulated && vcpu.debug.singleSteps;
    const breakpoints = this.#debugging.breakpoints;
    const debugged = breakpoints.ofDebugger;
    const bus = this.#bus;
    const { r32, c32 } = cpu.state;
    memory.watch = undefined;
    cpu.roundsTrapped = false;
    // an emulated instruction that lets interrupts in has them looked for
    const opens = this.#emulated && lapic !== undefined;
    for (let count = 0; count < batch; count++) {
      this.#budget--;
      if (nanosecondsPerInstruction !== 0) kernel.clock.advance(nanosecondsPerInstruction);
      if (debugged || (c32[2 * DR7] & DR7_ENABLED) !== 0) {
        if (processor && breakpoints.onData) memory.watch = breakpoints;
        const hit = this.#debugging.codeBreakpoint();
        if (hit >= 0) return hit;
      }
      const trap = (r32[2 * RFLAGS] & TF) !== 0;
      this.#trap = trap;
      if (processor) cpu.roundsTrapped = trap || memory.watch !== undefined;
      const closed = opens && ((r32[2 * RFLAGS] & IF) === 0 || cpu.state.shadow !== 0);
      const masked = cpu.state.nmiMasked;
      const stop = cpu.step();
      if (masked && processor && cpu.opcode === IRET && cpu.rip === cpu.start) cpu.state.nmiMasked = true;
      if (closed && (r32[2 * RFLAGS] & IF) !== 0 && cpu.state.shadow === 0) lapic!.eventRequested = true;
      if (stop !== RUNNING) return this.#stopped(stop);
      if (bus.faultedOnTheWay) this.#delivery.softwareCameAgain();
      if (
        steps ||
        trap ||
        cpu.refused ||
        cpu.halted ||
        this.#haltRequested ||
        memory.postedCount !== 0 ||
        memory.watch !== undefined ||
        bus.tprLowered
      ) {
        const result = this.#stepped(INTERCEPTED.has(cpu.opcode));
        if (result >= 0) return result;
      }
      if (cpu.entersDirect) return GO_ON;
      if (processor) {
        if (kernel.work.pending !== 0 || vcpu.pendingIoapicEoi >= 0) return GO_ON;
        if (
          lapic !== undefined &&
          (lapic.eventRequested || lapic.nmiQueued !== 0 || lapic.pendingEvents !== 0)
        )
          return GO_ON;
        if (bus.wantsEntry) {
          bus.wantsEntry = false;
          return GO_ON;
        }
        if (bus.ringPushed) {
          bus.ringPushed = false;
          if (this.#ringFull) return GO_ON;
        }
      }
    }
    return GO_ON;
  }

  /**
   * After an instruction: an exit, an exception, a halt, or −1 where there was nothing special about it. `byKvm`: KVM did
   * what the processor left to it. What is written to user space ends an instruction without its trap
   * (arch/x86/kvm/x86.c:x86_emulate_instruction, 6.1: "FIXME").
   */
  #stepped(byKvm: boolean): number {
    const { cpu } = this;
    const { memory } = cpu;
    const vcpu = this.#vcpu;
    if (cpu.refused && this.#emulated) this.#failure.note(cpu.startLinear);
    if (cpu.halted) this.#haltRequested = true;
    if (PORT_STRINGS.has(cpu.opcode)) this.#debugging.flagsWritten();
    if (memory.postedCount !== 0) {
      this.#debugging.flagsWritten();
      return this.#exits.post();
    }
    // what pvm does in the emulator's place ends without a trap, the guest's or a debugger's (live 6.18)
    const steps =
      cpu.helped && this.#emulated ? false : this.#trap || (this.#emulated && vcpu.debug.singleSteps);
    // MOV SS and POP SS hold back a trap; that of a step is lost (SDM volume 3, 6.8.3)
    if (!this.#emulated && cpu.state.shadow === SHADOW_MOV_SS) return -1;
    const cause = this.#debugging.breakpoints.touched | (steps ? DR6_BS : 0);
    this.#debugging.breakpoints.touched = 0;
    if (cause !== 0) {
      const trapped = this.#debugging.exception(cause, byKvm || this.#emulated);
      if (trapped === 0 && !this.#emulated && this.#haltRequested) {
        // the halt is squashed into the exit (kvm_emulate_halt), or ends it where user space halts
        this.#haltRequested = false;
        if (vcpu.lapic === undefined) this.#page.exitReason = KVM_EXIT_HLT;
        else this.#sleep.halt();
      }
      if (trapped === 0 || !this.#haltRequested) return trapped;
    }
    if (this.#haltRequested) {
      this.#haltRequested = false;
      return this.#sleep.halt();
    }
    if (!this.#bus.tprLowered) return -1;
    this.#bus.tprLowered = false;
    // the emulator tells nobody
    if (this.#emulated) return -1;
    return this.#page.exit(KVM_EXIT_SET_TPR);
  }

  #stopped(stop: number): number {
    switch (stop) {
      case EXCEPTION:
        return this.#arrived(this.#delivery.raised(this.#finishing));
      case VECTORING:
        return this.#arrived(this.#delivery.softwareStuck());
      case WAITING:
        return this.#exits.wait();
      case SHUTDOWN:
        this.#delivery.shutDown();
        return GO_ON;
      case UNHANDLED:
        this.cpu.memory.forget();
        return this.#failure.refused();
      default:
        return GO_ON;
    }
  }

  /** What becomes of an event that may not have reached its handler. */
  #arrived(outcome: number): number {
    if (outcome === UNANSWERED) return this.#exits.wait();
    return outcome === STUCK ? this.#stuck() : outcome;
  }

  /** The instruction that waits for user space is run: GO_ON, or 0 for another exit. */
  #finishLast(): number {
    const { cpu } = this;
    const exits = this.#exits;
    const { unfinished } = exits;
    const result = exits.handOver();
    if (result !== AGAIN) return result;
    const byEmulator = exits.byEmulator(unfinished);
    const mmio = unfinished === "mmio";
    // the emulator remembers the guest's flag, whoever skips an instruction looks at the one that is there
    if (!this.#emulated)
      this.#trap = (cpu.state.r32[2 * RFLAGS] & TF) !== 0 || (mmio && this.#vcpu.debug.singleSteps);
    this.#finishing = this.#bus.emulates = cpu.keepsFlags = mmio;
    const stop = cpu.step();
    const ended = stop === RUNNING ? GO_ON : this.#stopped(stop);
    this.#finishing = this.#bus.emulates = cpu.keepsFlags = false;
    if (stop !== RUNNING) return ended;
    if (byEmulator) exits.finished();
    const stepped = this.#stepped(true);
    if (mmio) this.#debugging.flagsWritten();
    return stepped < 0 ? GO_ON : stepped;
  }
}
