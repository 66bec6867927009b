/**
 * Events whose IDT or stack is no memory, where a processor delivers them: a nested page fault on the way
 * (arch/x86/kvm/svm/svm.c:npf_interception, svm_complete_interrupts, svm_check_emulate_instruction, 6.1 and 7.2).
 *
 * The event is kept, and comes again with the next entry. KVM's emulator then does the instruction at RIP, as if that had met
 * a device: a guest goes on step by step, and its event never arrives. Since 6.14 it is KVM_INTERNAL_ERROR_DELIVERY_EV instead,
 * but for interrupts: their type is 0 in AMD's field, and not noticed.
 *
 * Missing: that a second access to the same page is told with another error code; that 7.2 goes round for ever, until a
 * signal, where it is entered again after that exit.
 */
import type { Cpu } from "../../hardware/x86/cpu.ts";
import type { EmulationFailure } from "./run-emulation-failure.ts";
import { SVM_EXIT_NPF } from "./run-emulation-failure.ts";
import type { RunPage } from "./run-page.ts";
import type { X86Vcpu } from "./vcpu.ts";

/** types of events in AMD's fields EVENTINJ and EXITINTINFO */
export const INTERRUPT = 0;
export const NMI = 2;
export const EXCEPTION = 3;
export const SOFTWARE = 4;
const VALID = 0x8000_0000;
const HAS_CODE = 1 << 11;
/** PFERR_GUEST_FINAL and USER; with WRITE */
const READ_FAULT = 0x1_0000_0004;
const WRITE_FAULT = 0x1_0000_0006;

export class Vectoring {
  readonly #vcpu: X86Vcpu;
  readonly #cpu: Cpu;
  readonly #page: RunPage;
  readonly #failure: EmulationFailure;
  /** the software interrupt that is kept is the instruction at RIP, which is still to be run */
  atInstruction = false;
  #type = INTERRUPT;
  #vector = 0;
  #errorCode = -1;
  /** the error and the address of the fault */
  #fault = 0;
  #address = 0;

  constructor(vcpu: X86Vcpu, cpu: Cpu, page: RunPage, failure: EmulationFailure) {
    this.#vcpu = vcpu;
    this.#cpu = cpu;
    this.#page = page;
    this.#failure = failure;
  }

  /** An event has met no memory: it is kept. */
  keep(type: number, vector: number, errorCode: number): void {
    const { memory } = this.#cpu;
    const { exception, nmi, interrupt } = this.#vcpu.events;
    this.#type = type;
    this.#vector = vector;
    this.#errorCode = errorCode;
    this.#fault = memory.refusedWrite ? WRITE_FAULT : READ_FAULT;
    this.#address = memory.exitAddress;
    if (type === NMI) nmi.injected = true;
    else if (type === EXCEPTION) {
      exception.injected = true;
      exception.pending = false;
      exception.vector = vector;
      exception.hasErrorCode = errorCode >= 0;
      exception.errorCode = Math.max(errorCode, 0);
    } else {
      interrupt.nr = vector;
      interrupt.soft = type === SOFTWARE;
      interrupt.injected = true;
      this.atInstruction = interrupt.soft;
    }
  }

  /** Whether user space is told. */
  get isReported(): boolean {
    return this.#type !== INTERRUPT && this.#vcpu.vcpu.vm.host.behaviour.vectoringReported;
  }

  /** KVM_EXIT_INTERNAL_ERROR: the event cannot be delivered. */
  exit(): number {
    return this.#page.vectoringFailure(SVM_EXIT_NPF, this.#fault, this.#address);
  }

  /** KVM_EXIT_INTERNAL_ERROR: nor can the instruction at RIP be emulated. */
  refused(): number {
    const code = this.#errorCode >= 0 ? HAS_CODE : 0;
    const event = VALID + ((this.#type << 8) | code | this.#vector);
    return this.#failure.whileVectoring(this.#fault, this.#address, event, Math.max(this.#errorCode, 0));
  }
}
