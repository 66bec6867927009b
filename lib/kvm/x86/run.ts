/**
 * KVM_RUN: the guest runs until it needs user space (arch/x86/kvm/x86.c:kvm_arch_vcpu_ioctl_run, vcpu_run,
 * vcpu_enter_guest, kvm_check_and_inject_events, post_kvm_run_save, 6.1 and 6.18).
 *
 * A vCPU is a loop around `Cpu.step`. Between instructions it takes events: exceptions first, then NMIs, then
 * interrupts. Where the flavour runs privileged code by KVM's emulator (pvm), it looks for them only every 1024
 * instructions, as recorded; elsewhere after each.
 *
 * The call never hangs JavaScript. A vCPU that waits lets deferred work and virtual time pass (`Kernel.wait`), and
 * answers −EINTR where nothing can ever wake it; a patient one (`Process.run`) answers ASLEEP, and is resumed. A guest that
 * runs on and on answers −EINTR after so many instructions as `guestPolicy` allows, as if a signal had come.
 *
 * Missing: SMM, asynchronous page faults.
 */
import { EAGAIN, EFAULT, EINTR, EINVAL } from "../../abi/errno.ts";
import {
  KVM_EXIT_DIRTY_RING_FULL,
  KVM_EXIT_HLT,
  KVM_EXIT_INTR,
  KVM_EXIT_IRQ_WINDOW_OPEN,
  KVM_EXIT_SET_TPR,
  KVM_EXIT_SHUTDOWN,
  KVM_EXIT_TPR_ACCESS,
  KVM_EXIT_UNKNOWN,
  KVM_MP_STATE_HALTED,
  KVM_MP_STATE_INIT_RECEIVED,
  KVM_MP_STATE_RUNNABLE,
  KVM_MP_STATE_UNINITIALIZED,
} from "../../abi/kvm.ts";
import { load32, load64, store32, store64 } from "../../abi/struct.ts";
import type { Bus } from "../../hardware/x86/bus.ts";
import { Cpu, type CpuOptions } from "../../hardware/x86/cpu.ts";
import {
  DF_FAULT,
  EXCEPTION,
  EXECUTE,
  EXIT_BAD_ADDRESS,
  EXIT_HYPERCALL,
  EXIT_MMIO,
  EXIT_PORT_IN,
  EXIT_PORT_OUT,
  EXIT_RDMSR,
  EXIT_WRMSR,
  PAGE_FAULT,
  RUNNING,
  SHUTDOWN,
  UD,
  UNHANDLED,
  WAITING,
} from "../../hardware/x86/memory.ts";
import {
  CpuState,
  DR6,
  DR7,
  IF,
  RAX,
  RBX,
  RCX,
  RDX,
  RF,
  RFLAGS,
  RIP,
  SHADOW_MOV_SS,
  TF,
} from "../../hardware/x86/state.ts";
import { ASLEEP, BUSY } from "../../kernel/long-call.ts";
import { Breakpoints } from "./breakpoints.ts";
import { GuestBus } from "./guest-bus.ts";
import { endInterrupt, hasInterrupt, takeInterrupt } from "./guest-interrupts.ts";
import { type GuestPolicy, guestPolicy } from "./guest-policy.ts";
import { loadRegisters, storeRegisters } from "./guest-registers.ts";
import {
  DONE_BY_KVM,
  INTERCEPTED,
  INTERCEPTED_EXCEPTIONS,
  isContributory,
  isFault,
  PORT_STRINGS,
} from "./intercepts.ts";
import { acceptEvents } from "./mp-state.ts";
import {
  APIC_BASE,
  CR8,
  DIRTY_REGS,
  FLAGS,
  IF_FLAG,
  INSTRUCTION_BYTES,
  MMIO_DATA,
  MSR_DATA,
  MSR_ERROR,
  PIO_DATA,
  READY_FOR_INTERRUPT_INJECTION,
  RunPage,
  VALID_REGS,
} from "./run-page.ts";
import { readSyncRegs, unknownRegisters, writeSyncRegs } from "./sync-regs.ts";
import type { X86Vcpu } from "./vcpu.ts";
import { WaitingInstruction } from "./waiting-instruction.ts";

/** instructions that KVM's emulator runs in a row */
const BATCH = 1024;
const NMI_VECTOR = 2;
const DB_VECTOR = 1;
const BP_VECTOR = 3;
const DR6_BS = 1 << 14;
/** bits of DR6 that say which breakpoint it was */
const DR6_TRAPS = 15;
const DR6_FIXED = 0xffff_0ff0;
const DR7_GD = 1 << 13;
const DR7_ENABLED = 0xff;
/** what pvm tells of its exit in the data of an internal error (recorded) */
const PVM_EXIT_INFO = 0x1000;
/** AMD's exit, and its cause: a page of the guest's that is not there, fetched as user (PFERR_GUEST_FINAL, FETCH, USER) */
const SVM_EXIT_NPF = 0x400;
const SVM_FETCH_FAULT = 0x1_0000_0014;
const QUIRK_OUT_7E = 1 << 3;

/** What the next entry has to finish. */
type Unfinished = "nothing" | "port" | "mmio" | "writes" | "out" | "msr" | "hypercall";

/** An entry goes on. */
const GO_ON = 1;
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
  /** privileged code is run by KVM's emulator */
  readonly #emulated: boolean;
  #unfinished: Unfinished = "nothing";
  /** the posted write that user space sees at present */
  #posted = 0;
  #budget = 0;
  /** whether the present run may answer ASLEEP, and whether it waits for INIT and SIPI */
  #patient = false;
  #starting = false;
  readonly #waiting: WaitingInstruction;
  readonly #breakpoints: Breakpoints;
  /** TF was set when the present instruction began */
  #trap = false;
  /** the emulator finishes an instruction in the processor's place */
  #finishing = false;
  /** HLT was executed, and nobody has halted yet */
  #haltRequested = false;
  readonly #instruction = new Uint8Array(INSTRUCTION_BYTES);

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
      pagingIsLong: pagingOnlyInLongMode,
    });
    this.#bus.cpu = this.cpu;
    this.#breakpoints = new Breakpoints(vcpu.debug, this.cpu.state);
    this.#waiting = new WaitingInstruction(this.cpu.state);
  }

  // ---- KVM_RUN ---------------------------------------------------------------------------------------------------

  /** Its answer; a patient one may answer ASLEEP or BUSY, and is not over. */
  run(patient: boolean): number {
    const vcpu = this.#vcpu;
    const page = this.#page;
    const { bytes } = page;
    this.#patient = patient;
    this.#budget = this.#policy.budget;
    bytes[FLAGS] = bytes[FLAGS + 1] = 0;
    this.#starting = vcpu.mpState === KVM_MP_STATE_UNINITIALIZED;
    if (this.#starting) return this.#leave(this.#leavesAtOnce ? -EINTR : this.#waitForStart());
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
    this.#takeTrapFlag();
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
    if (this.#starting) return this.#leave(this.#waitForStart());
    this.cpu.memory.refresh();
    return this.#leave(this.#loop());
  }

  /** What was done before it is done; the guest is not entered. */
  get #leavesAtOnce(): boolean {
    return this.#page.immediateExit || (this.#patient && this.#vcpu.vcpu.kicked);
  }

  /** The trap flag that makes steps is the debugger's: user space sees the flags without it. */
  #takeTrapFlag(): void {
    if (!this.#emulated && this.#vcpu.debug.trapArmed) this.cpu.state.r32[2 * RFLAGS] |= TF;
  }

  #hideTrapFlag(): void {
    const { debug } = this.#vcpu;
    const { r32 } = this.cpu.state;
    if (this.#emulated || !debug.singleSteps) return;
    debug.trapArmed = (r32[2 * RFLAGS] & TF) !== 0;
    r32[2 * RFLAGS] &= ~TF;
  }

  #leave(result: number): number {
    if (result > 0) return result;
    if (this.#starting) return this.#save(result);
    const vcpu = this.#vcpu;
    this.#hideTrapFlag();
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

  /** A vCPU that waits for INIT and SIPI: EAGAIN once they came. */
  #waitForStart(): number {
    const vcpu = this.#vcpu;
    const { lapic } = vcpu;
    const slept = this.#sleep(() => lapic !== undefined && lapic.pendingEvents !== 0);
    if (slept === ASLEEP) return ASLEEP;
    if (slept === GO_ON && !vcpu.vcpu.interrupted) {
      acceptEvents(vcpu);
      return -EAGAIN;
    }
    this.#page.exitReason = KVM_EXIT_INTR;
    return -EINTR;
  }

  #loop(): number {
    const vcpu = this.#vcpu;
    const { kernel } = vcpu.vcpu.vm;
    const page = this.#page;
    const pause = this.#patient ? Math.max(0, this.#budget - SLICE) : 0;
    for (;;) {
      const result = vcpu.mpState === KVM_MP_STATE_RUNNABLE ? this.#enter() : this.#block();
      if (result === ASLEEP || (result <= 0 && result !== -EINTR)) return result;
      if (kernel.work.pending !== 0) kernel.work.policy(kernel.work);
      vcpu.lapic?.injectTimer();
      if (
        page.wantsInterruptWindow &&
        vcpu.vm.irqchipMode !== "kernel" &&
        this.#readyForInterrupt(this.cpu.state.r32[2 * RFLAGS])
      ) {
        page.exitReason = KVM_EXIT_IRQ_WINDOW_OPEN;
        return 0;
      }
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

  /** Whether user space may inject an interrupt now (kvm_vcpu_ready_for_interrupt_injection). */
  #readyForInterrupt(flags: number): boolean {
    const { events, lapic } = this.#vcpu;
    const { exception, interrupt, nmi } = events;
    if ((flags & IF) === 0 || this.#shadow !== 0) return false;
    if (lapic !== undefined && !lapic.acceptsPic()) return false;
    if (lapic !== undefined && events.pendingExternalVector !== -1) return false;
    return !exception.injected && !exception.pending && !interrupt.injected && !nmi.injected;
  }

  get #shadow(): number {
    return this.cpu.state.shadow;
  }

  // ---- sleeping --------------------------------------------------------------------------------------------------

  /**
   * Waits: GO_ON once `ready`; −EINTR for a signal, where nothing can ever end it, or where nothing did within the longest
   * sleep: a timer that ticks for ever must not keep JavaScript busy for ever. ASLEEP for a patient run.
   */
  #sleep(ready: () => boolean): number {
    const { vcpu } = this.#vcpu;
    const { kernel } = vcpu.vm;
    const ended = (): boolean => ready() || vcpu.interrupted;
    if (this.#patient) {
      kernel.work.policy(kernel.work);
      vcpu.waitsFor = ended() ? "" : this.#sleepReport();
      if (vcpu.waitsFor !== "") return ASLEEP;
    } else {
      const report = this.#everyone();
      const { next, now } = kernel.clock;
      const deadline = next === Number.POSITIVE_INFINITY ? undefined : now + this.#policy.longestSleep;
      const result = kernel.wait(report, ended, deadline);
      if (result === false) kernel.deadlocks.push(report);
    }
    return ready() ? GO_ON : -EINTR;
  }

  /** What every vCPU of the VM waits for, this one first. */
  #everyone(): string {
    const { vcpu } = this.#vcpu;
    const others = vcpu.vm.vcpus
      .filter((other) => other !== vcpu)
      .map((other) => (other.waitsFor === "" ? `vCPU ${other.id} is not in KVM_RUN` : other.waitsFor));
    return [this.#sleepReport(), ...others].join("; ");
  }

  /** vcpu_block: until there is something to do. */
  #block(): number {
    const vcpu = this.#vcpu;
    const { lapic } = vcpu;
    const slept = this.#sleep(() => {
      lapic?.injectTimer();
      return this.#runnable();
    });
    if (slept !== GO_ON) return slept;
    acceptEvents(vcpu);
    if (lapic !== undefined) lapic.pvUnhalted = false;
    if (vcpu.mpState !== KVM_MP_STATE_INIT_RECEIVED) vcpu.mpState = KVM_MP_STATE_RUNNABLE;
    return GO_ON;
  }

  #sleepReport(): string {
    const { id } = this.#vcpu.vcpu;
    const { mpState } = this.#vcpu;
    if (mpState === KVM_MP_STATE_UNINITIALIZED) return `vCPU ${id} waits for INIT and SIPI`;
    if (mpState === KVM_MP_STATE_INIT_RECEIVED) return `vCPU ${id} waits for a SIPI`;
    const closed = (this.cpu.state.r32[2 * RFLAGS] & IF) === 0;
    return `vCPU ${id} halted, interrupts ${closed ? "off" : "on"}`;
  }

  /** kvm_arch_vcpu_runnable */
  #runnable(): boolean {
    const { lapic, events, mpState } = this.#vcpu;
    if (lapic !== undefined && lapic.pendingEvents !== 0)
      return mpState !== KVM_MP_STATE_INIT_RECEIVED || (lapic.pendingEvents & 2) !== 0;
    if (mpState === KVM_MP_STATE_INIT_RECEIVED) return false;
    if (events.exception.pending || events.tripleFault || lapic?.pvUnhalted === true) return true;
    // an NMI that has just been sent wakes, masked or not: it is looked at on the way into the guest (KVM_REQ_NMI)
    if (events.nmi.requested || (lapic !== undefined && lapic.nmiQueued !== 0)) return true;
    if (events.nmi.pending !== 0 && !this.cpu.state.nmiMasked) return true;
    if ((this.cpu.state.r32[2 * RFLAGS] & IF) === 0) return false;
    return events.interrupt.injected || hasInterrupt(this.#vcpu);
  }

  #takeNmis(): void {
    const { lapic, events } = this.#vcpu;
    events.nmi.requested = false;
    if (lapic === undefined || lapic.nmiQueued === 0) return;
    events.nmi.masked = this.cpu.state.nmiMasked;
    events.queueNmi(lapic.nmiQueued);
    lapic.nmiQueued = 0;
  }

  // ---- one entry into the guest ----------------------------------------------------------------------------------

  /** vcpu_enter_guest: 1 to go on, 0 for an exit. */
  #enter(): number {
    const vcpu = this.#vcpu;
    const { events, lapic } = vcpu;
    if (this.#ringFull) {
      this.#page.exitReason = KVM_EXIT_DIRTY_RING_FULL;
      return 0;
    }
    if (vcpu.updatesClock) {
      vcpu.updatesClock = false;
      vcpu.vm.clock.master = vcpu.vm.tscSync.agrees(vcpu.vcpu.vm.vcpus.length);
    }
    if (this.#bus.tprAccessed) {
      this.#bus.tprAccessed = false;
      this.#page.exitReason = KVM_EXIT_TPR_ACCESS;
      return 0;
    }
    if (events.tripleFault) {
      events.tripleFault = false;
      this.#page.exitReason = KVM_EXIT_SHUTDOWN;
      return 0;
    }
    this.#takeNmis();
    if (vcpu.pendingIoapicEoi >= 0) {
      this.#page.ioapicEoi(vcpu.pendingIoapicEoi);
      vcpu.pendingIoapicEoi = -1;
      return 0;
    }
    if (lapic !== undefined) {
      if (lapic.pendingEvents !== 0) {
        storeRegisters(this.cpu.state, vcpu);
        acceptEvents(vcpu);
        loadRegisters(this.cpu.state, vcpu);
        this.cpu.memory.flush();
        if (vcpu.mpState !== KVM_MP_STATE_RUNNABLE) return 1;
      }
      lapic.eventRequested = false;
    }
    if (vcpu.vcpu.interrupted) this.#hold();
    else if (!this.#inject()) return events.tripleFault ? GO_ON : 0;
    return vcpu.vcpu.interrupted ? GO_ON : this.#execute();
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
    if (this.#page.wantsInterruptWindow || events.nmi.pending !== 0 || this.#shadow !== 0) return 1;
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
    const breakpoints = this.#breakpoints;
    const debugged = breakpoints.ofDebugger;
    const bus = this.#bus;
    const { r32, c32 } = cpu.state;
    memory.watch = undefined;
    cpu.roundsTrapped = false;
    for (let count = 0; count < batch; count++) {
      this.#budget--;
      if (nanosecondsPerInstruction !== 0) kernel.clock.advance(nanosecondsPerInstruction);
      if (debugged || (c32[2 * DR7] & DR7_ENABLED) !== 0) {
        if (processor && breakpoints.onData) memory.watch = breakpoints;
        const hit = this.#codeBreakpoint();
        if (hit >= 0) return hit;
      }
      const trap = (r32[2 * RFLAGS] & TF) !== 0;
      this.#trap = trap;
      if (processor) cpu.roundsTrapped = trap || memory.watch !== undefined;
      const stop = cpu.step();
      if (stop !== RUNNING) return this.#stopped(stop);
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
      if (processor) {
        if (lapic?.eventRequested === true || kernel.work.pending !== 0 || vcpu.pendingIoapicEoi >= 0)
          return GO_ON;
        if (bus.tprAccessed) return GO_ON;
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
    if (cpu.refused && this.#emulated) this.#noteRefusal(cpu.startLinear);
    if (cpu.halted) this.#haltRequested = true;
    if (PORT_STRINGS.has(cpu.opcode)) this.#flagsWritten();
    if (memory.postedCount !== 0) {
      this.#posted = 0;
      this.#unfinished = "writes";
      this.#flagsWritten();
      return this.#showPosted();
    }
    const steps = this.#trap || (this.#emulated && vcpu.debug.singleSteps);
    // MOV SS and POP SS hold back a trap; that of a step is lost (SDM volume 3, 6.8.3)
    if (!this.#emulated && cpu.state.shadow === SHADOW_MOV_SS) return -1;
    const cause = this.#breakpoints.touched | (steps ? DR6_BS : 0);
    this.#breakpoints.touched = 0;
    if (cause !== 0) {
      const trapped = this.#debugException(cause, byKvm || this.#emulated);
      if (trapped === 0 && !this.#emulated && this.#haltRequested) {
        // the halt is squashed into the exit (kvm_emulate_halt), or ends it where user space halts
        this.#haltRequested = false;
        if (vcpu.lapic === undefined) this.#page.exitReason = KVM_EXIT_HLT;
        else this.#halt();
      }
      if (trapped === 0 || !this.#haltRequested) return trapped;
    }
    if (this.#haltRequested) {
      this.#haltRequested = false;
      return this.#halt();
    }
    if (!this.#bus.tprLowered) return -1;
    this.#bus.tprLowered = false;
    // the emulator tells nobody
    if (this.#emulated) return -1;
    this.#page.exitReason = KVM_EXIT_SET_TPR;
    return 0;
  }

  /** KVM wrote the flags, most often because its emulator did an instruction: the trap flag of a debugger is lost. */
  #flagsWritten(): void {
    const { debug } = this.#vcpu;
    const { r32 } = this.cpu.state;
    if (this.#emulated || !debug.singleSteps) return;
    debug.flagsSet(r32[2 * RIP]);
    if (debug.trapArmed) r32[2 * RFLAGS] |= TF;
    else r32[2 * RFLAGS] &= ~TF;
  }

  /**
   * A debug exception is the debugger's, an exit, or the guest's. KVM's own step does not tell DR7
   * (kvm_vcpu_do_singlestep; arch/x86/kvm/svm/svm.c:db_interception, 6.1).
   */
  #debugException(cause: number, byKvm: boolean): number {
    const { cpu } = this;
    const { debug } = this.#vcpu;
    const wanted = byKvm ? debug.singleSteps : debug.singleSteps || debug.usesRegisters;
    if (!wanted) {
      this.#queueDebug(cause);
      return GO_ON;
    }
    const dr7 = debug.usesRegisters ? debug.dr7 : cpu.state.c32[2 * DR7];
    this.#page.debug(DB_VECTOR, cpu.codeAddress(), cause + DR6_FIXED, byKvm ? undefined : dr7);
    return 0;
  }

  /** #DB of the guest: DR6 tells the cause (kvm_deliver_exception_payload). */
  #queueDebug(cause: number): void {
    const { c32 } = this.cpu.state;
    c32[2 * DR6] = (c32[2 * DR6] & ~DR6_TRAPS) | DR6_FIXED | cause;
    this.#vcpu.events.queueException(DB_VECTOR);
  }

  /** An instruction with a breakpoint is not run: an exit, an exception of the guest, or −1 (kvm_vcpu_check_code_breakpoint). */
  #codeBreakpoint(): number {
    const { cpu } = this;
    const { debug, cpuid } = this.#vcpu;
    const address = cpu.codeAddress();
    // pvm lets the processor run 64-bit user code, without its debug registers (live 6.18)
    if (this.#emulated && cpu.long && cpu.user !== 0) return -1;
    const { shadow } = this.cpu.state;
    const flags = cpu.state.r32[2 * RFLAGS];
    const inhibited = (flags & RF) !== 0 || (shadow === SHADOW_MOV_SS && cpuid.isIntelCompatible);
    if (debug.usesRegisters && (this.#emulated || !inhibited)) {
      const hit = this.#breakpoints.atCode(address, true);
      if (hit !== 0) {
        this.#page.debug(DB_VECTOR, address, hit + DR6_FIXED, this.#emulated ? undefined : debug.dr7);
        return 0;
      }
    }
    if (inhibited || (debug.usesRegisters && !this.#emulated)) return -1;
    const hit = this.#breakpoints.atCode(address, false);
    if (hit === 0) return -1;
    return this.#debugException(hit, this.#emulated);
  }

  #stopped(stop: number): number {
    const { cpu } = this;
    const { memory } = cpu;
    switch (stop) {
      case EXCEPTION:
        return this.#raised();
      case WAITING:
        return this.#wait();
      case SHUTDOWN:
        this.#shutDown();
        return 1;
      case UNHANDLED:
        memory.forget();
        return this.#refused();
      default:
        return GO_ON;
    }
  }

  #halt(): number {
    const vcpu = this.#vcpu;
    if (vcpu.lapic === undefined) {
      this.#page.exitReason = KVM_EXIT_HLT;
      return 0;
    }
    // __kvm_emulate_halt (6.18): with something to do it does not even lie down
    if (!this.#runnable()) vcpu.mpState = KVM_MP_STATE_HALTED;
    else vcpu.lapic.pvUnhalted = false;
    return 1;
  }

  // ---- exits -----------------------------------------------------------------------------------------------------

  /** An instruction waits for user space. */
  #wait(): number {
    const { memory } = this.cpu;
    const page = this.#page;
    const { exitAddress, exitLength, exitCount } = memory;
    switch (memory.exit) {
      case EXIT_PORT_IN:
        page.io(false, exitLength, exitAddress, exitCount);
        this.#remember("port");
        return 0;
      case EXIT_PORT_OUT:
        page.io(true, exitLength, exitAddress, 1);
        page.bytes.set(memory.data.subarray(0, exitLength), PIO_DATA);
        this.#remember("out");
        if (exitAddress === 0x7e && (this.#vcpu.vm.settings.disabledQuirks & QUIRK_OUT_7E) === 0)
          this.#skipOut();
        return 0;
      case EXIT_MMIO:
        page.mmio(false, exitAddress, exitLength);
        this.#remember("mmio");
        return 0;
      case EXIT_RDMSR:
      case EXIT_WRMSR:
        page.msr(memory.exit === EXIT_WRMSR, this.#bus.msrReason, exitAddress, this.cpu.msrValue);
        this.#remember("msr");
        return 0;
      case EXIT_HYPERCALL:
        this.#hypercall();
        return 0;
      case EXIT_BAD_ADDRESS:
        memory.forget();
        memory.postedCount = 0;
        return -EFAULT;
      default:
        this.#failEmulation();
        return 0;
    }
  }

  #hypercall(): void {
    const { cpu } = this;
    const { r64 } = cpu.state;
    const [number, ...args] = [RAX, RBX, RCX, RDX].map((register) =>
      cpu.long ? r64[register] : BigInt.asUintN(32, r64[register]),
    );
    this.#page.hypercall(number, args, cpu.long);
    this.#remember("hypercall");
  }

  /** The quirk of port 0x7e: RIP moves on before the exit. */
  #skipOut(): void {
    this.cpu.memory.answer(this.cpu.memory.data, 0, 0);
    this.cpu.step();
    this.#unfinished = "nothing";
  }

  #showPosted(): number {
    const { memory } = this.cpu;
    const page = this.#page;
    const index = this.#posted;
    const address = memory.postedAddress[index];
    const length = memory.postedLength[index];
    const data = memory.posted.subarray(8 * index, 8 * index + length);
    if (memory.postedPort[index] !== 0) {
      page.io(true, length, address, 1);
      page.bytes.set(data, PIO_DATA);
    } else {
      page.mmio(true, address, length);
      page.bytes.set(data, MMIO_DATA);
    }
    return 0;
  }

  /** An instruction waits for user space. */
  #remember(unfinished: Unfinished): void {
    this.#unfinished = unfinished;
    this.#waiting.begin(!this.#emulated && this.#vcpu.debug.singleSteps ? TF : 0);
  }

  /** Whether what waits is finished by the emulator. */
  #byEmulator(unfinished: Unfinished): boolean {
    return this.#emulated || unfinished === "mmio";
  }

  /** Hands over what user space answered, and runs the instruction that waits: 1 to go on, 0 for another exit. */
  #finishLast(): number {
    const { cpu } = this;
    const { memory } = cpu;
    const { bytes } = this.#page;
    const unfinished = this.#unfinished;
    this.#unfinished = "nothing";
    if (unfinished === "nothing") return GO_ON;
    if (unfinished !== "writes") {
      if (this.#byEmulator(unfinished)) this.#waiting.takeUp();
      else if (this.#waiting.moved) {
        memory.forget();
        return GO_ON;
      }
    }
    switch (unfinished) {
      case "writes":
        if (++this.#posted < memory.postedCount) {
          this.#unfinished = "writes";
          return this.#showPosted();
        }
        memory.postedCount = 0;
        return 1;
      case "port": {
        const length = memory.exitLength * memory.exitCount;
        cpu.portBuffer.set(bytes.subarray(PIO_DATA, PIO_DATA + length));
        cpu.portAt = 0;
        cpu.portEnd = length;
        cpu.portAnswered = true;
        break;
      }
      case "mmio":
        memory.answer(bytes, MMIO_DATA, memory.exitLength);
        break;
      case "out":
        memory.answer(bytes, PIO_DATA, 0);
        break;
      case "msr":
        cpu.msrAnswered = true;
        cpu.msrFailed = bytes[MSR_ERROR] !== 0;
        cpu.msrValue = load64(bytes, MSR_DATA);
        break;
      case "hypercall":
        cpu.msrAnswered = true;
        cpu.msrFailed = false;
        cpu.msrValue = BigInt.asUintN(cpu.long ? 64 : 32, this.#page.hypercallResult);
        break;
    }
    if (!this.#emulated) {
      // the emulator remembers the guest's flag, whoever skips an instruction looks at the one that is there
      this.#trap = (cpu.state.r32[2 * RFLAGS] & TF) !== 0;
      if (unfinished === "mmio") this.#trap ||= this.#vcpu.debug.singleSteps;
    }
    this.#finishing = unfinished === "mmio";
    const stop = cpu.step();
    const ended = stop === RUNNING ? GO_ON : this.#stopped(stop);
    this.#finishing = false;
    if (stop !== RUNNING) return ended;
    if (this.#byEmulator(unfinished)) this.#waiting.end(cpu.opcode);
    const result = this.#stepped(true);
    if (unfinished === "mmio") this.#flagsWritten();
    return result < 0 ? GO_ON : result;
  }

  /**
   * An instruction outside of what is known: an exit. Where the emulator runs code of CPL 3, the guest gets #UD instead,
   * and the page shows the failure (arch/x86/kvm/x86.c:handle_emulation_failure, 6.1; live 6.18).
   */
  #refused(): number {
    const { cpu } = this;
    if (this.#emulated && cpu.user !== 0 && !cpu.long && !this.#vcpu.vm.settings.exitOnEmulationFailure) {
      this.#noteRefusal(cpu.codeAddress());
      this.#vcpu.events.queueException(UD);
      return GO_ON;
    }
    if (!this.#emulated && this.#instructionBytes(cpu.codeAddress()) === 0) return this.#fetchedNothing();
    this.#failEmulation();
    return 0;
  }

  /** There is no memory where the code should be: #UD waits, and a guest of CPL 0 is stopped. */
  #fetchedNothing(): number {
    const { cpu } = this;
    const { exitOnEmulationFailure } = this.#vcpu.vm.settings;
    if (!exitOnEmulationFailure) this.#vcpu.events.queueException(UD);
    if (!exitOnEmulationFailure && cpu.user !== 0) return GO_ON;
    const address = cpu.memory.translate(cpu.codeAddress(), EXECUTE, cpu.user);
    if (this.#vcpu.vcpu.vm.host.flavour === "svm")
      this.#page.emulationFailure(this.#instruction, 0, SVM_EXIT_NPF, SVM_FETCH_FAULT, address);
    else this.#failEmulation();
    return 0;
  }

  /** The emulator had written down its failure before the flavour helped: the page shows it, and there is no exit. */
  #noteRefusal(address: number): void {
    const reason = this.#page.exitReason;
    const length = this.#instructionBytes(address);
    this.#page.emulationFailure(this.#instruction, length, PVM_EXIT_INFO);
    this.#page.exitReason = reason;
  }

  /** KVM_EXIT_INTERNAL_ERROR with the bytes of the instruction (prepare_emulation_failure_exit). */
  #failEmulation(): void {
    const length = this.#instructionBytes(this.cpu.codeAddress());
    this.#page.emulationFailure(this.#instruction, length, this.#emulated ? PVM_EXIT_INFO : 0);
  }

  /** The bytes at an address, as many as one instruction may have and one page holds. */
  #instructionBytes(linear: number): number {
    const { cpu } = this;
    const { memory } = cpu;
    const length = Math.min(INSTRUCTION_BYTES, 4096 - (linear & 4095));
    memory.stop = RUNNING;
    if (!memory.findCode(linear, cpu.user)) return 0;
    const at = memory.codeAt + (linear & 4095);
    this.#instruction.set(memory.codeBytes.subarray(at, at + length));
    return length;
  }

  // ---- events ----------------------------------------------------------------------------------------------------

  /** An instruction raised an exception: it waits for the next entry, unless a debugger wants it. */
  #raised(): number {
    const { cpu } = this;
    const { memory } = cpu;
    const vcpu = this.#vcpu;
    const { vector, errorCode } = memory;
    memory.forget();
    this.#breakpoints.touched = 0;
    if (vector === BP_VECTOR) {
      // bp_interception: only a debugger makes INT3 stop so
      this.#page.debug(BP_VECTOR, cpu.codeAddress());
      return 0;
    }
    if (vector === PAGE_FAULT) memory.storeFaultAddress();
    if (cpu.refused && this.#emulated) this.#noteRefusal(cpu.startLinear);
    // real mode has no error codes
    const code = cpu.state.protectedMode ? errorCode : -1;
    const byKvm = this.#emulated || this.#finishing || DONE_BY_KVM.has(cpu.opcode);
    if (byKvm || INTERCEPTED_EXCEPTIONS.has(vector)) {
      vcpu.events.queueException(vector, code >= 0 ? code : undefined);
      return GO_ON;
    }
    // the processor goes to the handler itself, and KVM does not hear of it
    if (isFault(vector)) cpu.state.r32[2 * RFLAGS] |= RF;
    return this.#deliver(vector, "exception", code) || vcpu.events.tripleFault ? GO_ON : 0;
  }

  /** kvm_check_and_inject_events: false where it ended in an exit or a triple fault. */
  #inject(): boolean {
    const { events } = this.#vcpu;
    const { exception, nmi, interrupt } = events;
    const { state } = this.cpu;
    if (exception.injected || exception.pending) {
      if (exception.pending && isFault(exception.vector)) {
        state.r32[2 * RFLAGS] |= RF;
        this.#flagsWritten();
      }
      if (exception.pending && exception.vector === DB_VECTOR) state.c32[2 * DR7] &= ~DR7_GD;
      exception.pending = false;
      exception.injected = false;
      return this.#deliver(exception.vector, "exception", exception.hasErrorCode ? exception.errorCode : -1);
    }
    if (nmi.injected) {
      nmi.injected = false;
      state.nmiMasked = true;
      return this.#deliver(NMI_VECTOR, "external", -1);
    }
    if (interrupt.injected) {
      interrupt.injected = false;
      if (this.#emulated) endInterrupt(this.#vcpu, interrupt.nr);
      return this.#deliver(interrupt.nr, "external", -1);
    }
    if (this.#vcpu.debug.blocksInterrupts) return true;
    if (nmi.pending !== 0 && !state.nmiMasked && this.#shadow === 0) {
      nmi.pending--;
      state.nmiMasked = true;
      return this.#deliver(NMI_VECTOR, "external", -1);
    }
    if ((state.r32[2 * RFLAGS] & IF) === 0 || this.#shadow !== 0) return true;
    const vector = takeInterrupt(this.#vcpu);
    if (vector < 0) return true;
    interrupt.nr = vector;
    interrupt.soft = false;
    if (!this.#deliver(vector, "external", -1)) return false;
    // pvm ends it as soon as the guest has it (recorded)
    if (this.#emulated) endInterrupt(this.#vcpu, vector);
    return true;
  }

  /**
   * A signal came before the guest was entered: what it was about to be given stays injected, and comes with the next
   * entry (svm_cancel_injection; live 6.18).
   */
  #hold(): void {
    const vcpu = this.#vcpu;
    const { exception, nmi, interrupt } = vcpu.events;
    const { state } = this.cpu;
    if (exception.pending) {
      if (isFault(exception.vector)) state.r32[2 * RFLAGS] |= RF;
      exception.pending = false;
      exception.injected = true;
    }
    if (exception.injected || nmi.injected || interrupt.injected || vcpu.debug.blocksInterrupts) return;
    if (this.#shadow !== 0) return;
    if (nmi.pending !== 0 && !state.nmiMasked) {
      nmi.pending--;
      nmi.injected = state.nmiMasked = true;
    } else if ((state.r32[2 * RFLAGS] & IF) !== 0) {
      const vector = takeInterrupt(vcpu);
      if (vector >= 0) vcpu.events.queueInterrupt(vector);
    }
  }

  /** Goes to a handler. A fault on the way there is delivered instead, or becomes a double or a triple fault. */
  #deliver(vector: number, source: "external" | "exception", errorCode: number): boolean {
    const { cpu } = this;
    const { memory } = cpu;
    let now = vector;
    let code = errorCode;
    let kind: "external" | "exception" = source;
    // a double fault follows the second fault, the end the third
    for (let depth = 0; depth < 4; depth++) {
      const stop = cpu.deliver(now, kind, code);
      if (stop === RUNNING) return true;
      if (stop === SHUTDOWN) break;
      if (stop !== EXCEPTION) {
        this.#failEmulation();
        return false;
      }
      const last = kind === "exception" && now === DF_FAULT;
      const doubled = kind === "exception" && isContributory(now, memory.vector);
      // KVM writes CR2 with the page fault that it delivers, a processor with every one (recorded)
      if (memory.vector === PAGE_FAULT && !(this.#emulated && (last || doubled))) memory.storeFaultAddress();
      if (last) break;
      now = doubled ? DF_FAULT : memory.vector;
      code = doubled ? 0 : memory.errorCode;
      kind = "exception";
    }
    this.#shutDown();
    cpu.state.shadow = 0;
    return false;
  }

  /** The guest cannot go on. Under AMD's module the vCPU is then as after an INIT (shutdown_interception, 6.1). */
  #shutDown(): void {
    const vcpu = this.#vcpu;
    if (vcpu.vcpu.vm.host.flavour === "svm") {
      storeRegisters(this.cpu.state, vcpu);
      vcpu.init();
      loadRegisters(this.cpu.state, vcpu);
      this.cpu.memory.flush();
    }
    vcpu.events.tripleFault = true;
  }
}
