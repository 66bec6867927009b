/**
 * Instructions that KVM's emulator does not know: KVM_EXIT_INTERNAL_ERROR, or #UD for the guest
 * (arch/x86/kvm/x86.c:handle_emulation_failure, prepare_emulation_failure_exit, 6.1 and 6.18).
 */
import type { Cpu } from "../../hardware/x86/cpu.ts";
import { EXECUTE, RUNNING, UD } from "../../hardware/x86/memory.ts";
import { SS } from "../../hardware/x86/state.ts";
import { GO_ON, INSTRUCTION_BYTES, type RunPage } from "./run-page.ts";
import type { X86Vcpu } from "./vcpu.ts";

/** what pvm tells of its exit in the data of an internal error: of code that the emulator runs, or the processor (live 6.18) */
const PVM_EXIT_INFO = 0x1000;
const PVM_DIRECT_EXIT_INFO = 0x2000;
/** AMD's exit, and its cause: a page of the guest's that is not there, fetched as user (PFERR_GUEST_FINAL, FETCH, USER) */
export const SVM_EXIT_NPF = 0x400;
const SVM_FETCH_FAULT = 0x1_0000_0014;

export class EmulationFailure {
  readonly #vcpu: X86Vcpu;
  readonly #cpu: Cpu;
  readonly #page: RunPage;
  /** privileged code is run by KVM's emulator */
  readonly #emulated: boolean;
  readonly #instruction = new Uint8Array(INSTRUCTION_BYTES);

  constructor(vcpu: X86Vcpu, cpu: Cpu, page: RunPage) {
    this.#vcpu = vcpu;
    this.#cpu = cpu;
    this.#page = page;
    this.#emulated = vcpu.vcpu.vm.host.behaviour.kernelCodeEmulated;
  }

  /**
   * An instruction outside of what is known: an exit. Where the emulator runs code of CPL 3, the guest gets #UD instead,
   * and the page shows the failure (arch/x86/kvm/x86.c:handle_emulation_failure, 6.1; live 6.18).
   */
  refused(): number {
    const cpu = this.#cpu;
    // in real mode, too, the level is that of SS
    if (this.#emulated && cpu.segments[SS].dpl !== 0 && !cpu.long) {
      this.note(cpu.startLinear);
      this.#vcpu.events.queueException(UD);
      return GO_ON;
    }
    if (!this.#emulated && this.#instructionBytes(cpu.codeAddress()) === 0) return this.#fetchedNothing();
    return this.exit(cpu.startLinear);
  }

  /**
   * The emulator had written down its failure before the flavour helped: the page shows it, and there is no exit. Of code of
   * CPL 3 it does so unless KVM_CAP_EXIT_ON_EMULATION_FAILURE was switched off (live 6.18).
   */
  note(address: number): void {
    if (this.#cpu.user !== 0 && this.#vcpu.vm.settings.exitOnEmulationFailure === false) return;
    const reason = this.#page.exitReason;
    const length = this.#instructionBytes(address);
    this.#page.emulationFailure(this.#instruction, length, this.#exitInfo);
    this.#page.exitReason = reason;
  }

  /** KVM_EXIT_INTERNAL_ERROR with the bytes of the instruction (prepare_emulation_failure_exit). */
  exit(address = this.#cpu.codeAddress()): number {
    const length = this.#instructionBytes(address);
    this.#page.emulationFailure(this.#instruction, length, this.#exitInfo);
    return 0;
  }

  get #exitInfo(): number {
    if (!this.#emulated) return 0;
    return this.#cpu.direct ? PVM_DIRECT_EXIT_INFO : PVM_EXIT_INFO;
  }

  /**
   * The emulator was given an instruction because an event met no memory on its way, and does not know it: #UD waits, and the
   * exit tells of the event. A guest of CPL 3 goes on.
   */
  whileVectoring(error: number, address: number, event: number, eventCode: number): number {
    const cpu = this.#cpu;
    const { exitOnEmulationFailure } = this.#vcpu.vm.settings;
    const length = this.#instructionBytes(cpu.codeAddress());
    if (!exitOnEmulationFailure) this.#vcpu.events.queueException(UD);
    if (!exitOnEmulationFailure && cpu.user !== 0) return GO_ON;
    this.#page.emulationFailure(this.#instruction, length, SVM_EXIT_NPF, error, address, event, eventCode);
    return 0;
  }

  /** There is no memory where the code should be: #UD waits, and a guest of CPL 0 is stopped. */
  #fetchedNothing(): number {
    const cpu = this.#cpu;
    const { exitOnEmulationFailure } = this.#vcpu.vm.settings;
    if (!exitOnEmulationFailure) this.#vcpu.events.queueException(UD);
    if (!exitOnEmulationFailure && cpu.user !== 0) return GO_ON;
    const address = cpu.memory.translate(cpu.codeAddress(), EXECUTE, cpu.user);
    if (this.#vcpu.vcpu.vm.host.flavour !== "svm") return this.exit();
    this.#page.emulationFailure(this.#instruction, 0, SVM_EXIT_NPF, SVM_FETCH_FAULT, address);
    return 0;
  }

  /** The bytes at an address, as many as one instruction may have and one page holds. */
  #instructionBytes(linear: number): number {
    const cpu = this.#cpu;
    const { memory } = cpu;
    const length = Math.min(INSTRUCTION_BYTES, 4096 - (linear & 4095));
    memory.stop = RUNNING;
    if (!memory.findCode(linear, cpu.user)) return 0;
    const at = memory.codeAt + (linear & 4095);
    this.#instruction.set(memory.codeBytes.subarray(at, at + length));
    return length;
  }
}
