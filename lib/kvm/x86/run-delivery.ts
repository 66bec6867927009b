/**
 * How exceptions, NMIs and interrupts reach the guest: which comes first, and what becomes of a fault on the way to its
 * handler (arch/x86/kvm/x86.c:kvm_check_and_inject_events, 6.1 and 6.18; SDM volume 3, 6.15).
 */
import type { Cpu } from "../../hardware/x86/cpu.ts";
import {
  DF_FAULT,
  EXCEPTION,
  OFLOW,
  PAGE_FAULT,
  RUNNING,
  SHUTDOWN,
  VECTORING,
  WAITING,
} from "../../hardware/x86/memory.ts";
import { DR7, IF, RF, RFLAGS } from "../../hardware/x86/state.ts";
import type { GuestBus } from "./guest-bus.ts";
import { endInterrupt, hasInterrupt, takeInterrupt } from "./guest-interrupts.ts";
import { loadRegisters, storeRegisters } from "./guest-registers.ts";
import { DONE_BY_KVM, INTERCEPTED_EXCEPTIONS, isContributory, isFault } from "./intercepts.ts";
import type { Debugging } from "./run-debug.ts";
import type { EmulationFailure } from "./run-emulation-failure.ts";
import { GO_ON } from "./run-page.ts";
import type { Vectoring } from "./run-vectoring.ts";
import * as event from "./run-vectoring.ts";
import type { X86Vcpu } from "./vcpu.ts";

const DB_VECTOR = 1;
const NMI_VECTOR = 2;
const BP_VECTOR = 3;
const DR7_GD = 1 << 13;
/** vectors of INT3, INTO and INT1 by opcode */
const SOFTWARE_EXCEPTIONS: ReadonlyMap<number, number> = new Map([
  [0xcc, BP_VECTOR],
  [0xce, OFLOW],
  [0xf1, DB_VECTOR],
]);

/** An event met no memory on its way to its handler (run-vectoring.ts). */
export const STUCK = 3;
/** User space has no memory there any more. */
export const UNANSWERED = 4;

export class Delivery {
  readonly #vcpu: X86Vcpu;
  readonly #cpu: Cpu;
  readonly #debugging: Debugging;
  readonly #failure: EmulationFailure;
  readonly #vectoring: Vectoring;
  /** what became of the last event that did not reach its handler: an answer of KVM_RUN's parts, STUCK or UNANSWERED */
  outcome = GO_ON;
  /** another event waits behind the one that was just delivered: the guest is left before its first instruction */
  moreWaits = false;
  readonly #bus: GuestBus;
  /** privileged code is run by KVM's emulator */
  readonly #emulated: boolean;

  constructor(
    vcpu: X86Vcpu,
    cpu: Cpu,
    debugging: Debugging,
    failure: EmulationFailure,
    vectoring: Vectoring,
    bus: GuestBus,
  ) {
    this.#vcpu = vcpu;
    this.#bus = bus;
    this.#cpu = cpu;
    this.#debugging = debugging;
    this.#failure = failure;
    this.#vectoring = vectoring;
    this.#emulated = vcpu.vcpu.vm.host.behaviour.kernelCodeEmulated;
  }

  /** NMIs that came as messages wait from now on (process_nmi). */
  takeNmis(): void {
    const { lapic, events } = this.#vcpu;
    if (lapic !== undefined && (events.nmi.requested || lapic.nmiQueued !== 0)) lapic.eventRequested = true;
    events.nmi.requested = false;
    if (lapic === undefined || lapic.nmiQueued === 0) return;
    events.nmi.masked = this.#cpu.state.nmiMasked;
    events.queueNmi(lapic.nmiQueued);
    lapic.nmiQueued = 0;
  }

  /**
   * An instruction raised an exception: it waits for the next entry, unless a debugger wants it. `finishing`: the emulator did
   * the instruction in the processor's place.
   */
  raised(finishing: boolean): number {
    const cpu = this.#cpu;
    const { memory } = cpu;
    const vcpu = this.#vcpu;
    const { vector, errorCode } = memory;
    memory.forget();
    this.#debugging.breakpoints.touched = 0;
    // only a debugger makes INT3 stop so
    if (vector === BP_VECTOR && !this.#emulated) return this.#debugging.instruction();
    if (vector === PAGE_FAULT) memory.storeFaultAddress();
    if (cpu.refused && this.#emulated) this.#failure.note(cpu.startLinear);
    // real mode has no error codes
    const code = cpu.state.protectedMode ? errorCode : -1;
    const byKvm = this.#emulated || finishing || DONE_BY_KVM.has(cpu.opcode);
    if (byKvm || INTERCEPTED_EXCEPTIONS.has(vector)) {
      vcpu.events.queueException(vector, errorCode >= 0 ? errorCode : undefined);
      return GO_ON;
    }
    // the processor goes to the handler itself, and KVM does not hear of it
    const { r32 } = cpu.state;
    const flags = r32[2 * RFLAGS];
    if (isFault(vector)) r32[2 * RFLAGS] |= RF;
    if (this.#deliver(vector, event.EXCEPTION, code)) return GO_ON;
    // RF is the frame's: where that meets no memory, KVM sees the flags of the instruction
    if (this.outcome === STUCK) r32[2 * RFLAGS] = flags;
    return this.outcome;
  }

  /** INT n, INT3, INTO and INT1 met no memory on their way. */
  softwareStuck(): number {
    const { memory, source } = this.#cpu;
    const type = source === "software" ? event.SOFTWARE : event.EXCEPTION;
    this.#vectoring.keep(type, memory.vector, memory.errorCode);
    return STUCK;
  }

  /** Gives the guest what waits: false where it did not reach its handler (`outcome`). */
  inject(): boolean {
    const { events } = this.#vcpu;
    const { exception, nmi, interrupt } = events;
    const { state } = this.#cpu;
    this.moreWaits = false;
    if (exception.injected || exception.pending) {
      if (exception.pending && isFault(exception.vector)) {
        state.r32[2 * RFLAGS] |= RF;
        this.#debugging.flagsWritten();
      }
      if (exception.pending && exception.vector === DB_VECTOR) state.c32[2 * DR7] &= ~DR7_GD;
      exception.pending = false;
      exception.injected = false;
      this.#lookBehind(true);
      // an exit forgets what was to come again (svm_complete_interrupts)
      if (!this.#emulated) nmi.injected = interrupt.injected = false;
      // the code is there until the exception is delivered in real mode (kvm_inject_exception, 6.18)
      exception.hasErrorCode &&= state.protectedMode;
      return this.#deliver(
        exception.vector,
        event.EXCEPTION,
        exception.hasErrorCode ? exception.errorCode : -1,
      );
    }
    if (nmi.injected) {
      nmi.injected = false;
      state.nmiMasked = true;
      this.#lookBehind(true);
      if (!this.#emulated) interrupt.injected = false;
      return this.#deliver(NMI_VECTOR, event.NMI, -1);
    }
    if (interrupt.injected) {
      interrupt.injected = false;
      if (interrupt.soft && this.#vectoring.atInstruction) {
        this.#vectoring.atInstruction = false;
        return true;
      }
      if (this.#emulated) endInterrupt(this.#vcpu, interrupt.nr);
      this.#lookBehind(true);
      return this.#deliver(interrupt.nr, event.INTERRUPT, -1);
    }
    if (this.#vcpu.debug.blocksInterrupts) return true;
    if (nmi.pending !== 0 && !state.nmiMasked && state.shadow === 0) {
      nmi.pending--;
      state.nmiMasked = true;
      this.#lookBehind(false);
      return this.#deliver(NMI_VECTOR, event.NMI, -1);
    }
    if ((state.r32[2 * RFLAGS] & IF) === 0 || state.shadow !== 0) return true;
    const vector = takeInterrupt(this.#vcpu);
    if (vector < 0) return true;
    interrupt.nr = vector;
    interrupt.soft = false;
    if (!this.#deliver(vector, event.INTERRUPT, -1)) return false;
    // pvm ends it as soon as the guest has it (recorded)
    if (this.#emulated) endInterrupt(this.#vcpu, vector);
    return true;
  }

  /**
   * An event takes this entry: what waits behind it has the guest left at once, before an instruction
   * (kvm_check_and_inject_events: req_immediate_exit). An NMI that was there first is waited for otherwise.
   */
  #lookBehind(nmis: boolean): void {
    const { events, debug } = this.#vcpu;
    if (this.#emulated || debug.blocksInterrupts) return;
    this.moreWaits = (nmis && events.nmi.pending !== 0) || hasInterrupt(this.#vcpu);
  }

  /**
   * A signal came before the guest was entered: what it was about to be given stays injected, and comes with the next
   * entry (svm_cancel_injection; live 6.18).
   */
  hold(): void {
    const vcpu = this.#vcpu;
    const { exception, nmi, interrupt } = vcpu.events;
    const { state } = this.#cpu;
    if (exception.pending) {
      if (isFault(exception.vector)) state.r32[2 * RFLAGS] |= RF;
      exception.pending = false;
      exception.injected = true;
    }
    if (exception.injected || nmi.injected || interrupt.injected || vcpu.debug.blocksInterrupts) return;
    if (state.shadow !== 0) return;
    if (nmi.pending !== 0 && !state.nmiMasked) {
      nmi.pending--;
      nmi.injected = state.nmiMasked = true;
    } else if ((state.r32[2 * RFLAGS] & IF) !== 0) {
      const vector = takeInterrupt(vcpu);
      if (vector >= 0) vcpu.events.queueInterrupt(vector);
    }
  }

  /** Goes to a handler. A fault on the way there is delivered instead, or becomes a double or a triple fault. */
  #deliver(vector: number, type: number, errorCode: number): boolean {
    const cpu = this.#cpu;
    const { memory } = cpu;
    let now = vector;
    let code = errorCode;
    let kind: "external" | "exception" = type === event.EXCEPTION ? "exception" : "external";
    // a double fault follows the second fault, the end the third
    for (let depth = 0; depth < 4; depth++) {
      const stop = cpu.deliver(now, kind, code);
      if (this.#bus.faultedOnTheWay && kind === "exception") this.#comesAgain(now, code);
      this.#bus.faultedOnTheWay = false;
      if (stop === RUNNING) return true;
      if (stop === SHUTDOWN) break;
      if (stop === VECTORING || stop === WAITING) {
        this.#vectoring.keep(kind === "exception" ? event.EXCEPTION : type, now, code);
        this.outcome = stop === VECTORING ? STUCK : UNANSWERED;
        return false;
      }
      if (stop !== EXCEPTION) {
        this.outcome = this.#failure.exit();
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
    this.shutDown();
    cpu.state.shadow = 0;
    this.outcome = GO_ON;
    return false;
  }

  /**
   * An exception that the processor delivers met a page that KVM had to map: it came back to KVM, and was given to the guest
   * again (svm_complete_interrupts, kvm_requeue_exception_e).
   */
  #comesAgain(vector: number, code: number): void {
    const { exception } = this.#vcpu.events;
    exception.vector = vector;
    exception.hasErrorCode = code >= 0;
    exception.errorCode = Math.max(code, 0);
  }

  /** INT n did: the same of a software interrupt. INT3 and INTO count as exceptions (APM volume 2, 15.7.2). */
  softwareCameAgain(): void {
    const cpu = this.#cpu;
    const { interrupt } = this.#vcpu.events;
    this.#bus.faultedOnTheWay = false;
    const vector = SOFTWARE_EXCEPTIONS.get(cpu.opcode);
    if (vector !== undefined) this.#comesAgain(vector, -1);
    else {
      interrupt.nr = cpu.vector;
      interrupt.soft = true;
    }
  }

  /** The guest cannot go on. Under AMD's module the vCPU is then as after an INIT (shutdown_interception, 6.1). */
  shutDown(): void {
    const vcpu = this.#vcpu;
    if (vcpu.vcpu.vm.host.flavour === "svm") {
      storeRegisters(this.#cpu.state, vcpu);
      vcpu.init();
      loadRegisters(this.#cpu.state, vcpu);
      this.#cpu.memory.flush();
    }
    vcpu.events.tripleFault = true;
  }
}
