/**
 * An instruction that waits for user space, and what becomes of it where user space changed the registers meanwhile. That is
 * a mistake of a VMM (Documentation/virt/kvm/api.rst: operations are complete only after KVM_RUN was entered again), and
 * what happens then is Linux's all the same: recorded on 6.1, 6.12 and 6.18.
 *
 * Missing: code that was changed meanwhile (the emulator has decoded it before); strings whose counters were changed.
 */
import { type CpuState, RFLAGS, RIP, RSP } from "../../hardware/x86/state.ts";
import { STRINGS } from "./intercepts.ts";

/** registers of struct kvm_regs that instructions name */
const GENERAL = 16;

export class WaitingInstruction {
  readonly #state: CpuState;
  /** the general registers and RIP when it began to wait, by halves */
  readonly #before = new Uint32Array(2 * (RIP + 1));
  #flags = 0;
  /** the general registers as user space left them */
  readonly #given = new Uint32Array(2 * GENERAL);

  constructor(state: CpuState) {
    this.#state = state;
  }

  /** It begins to wait. `hidden`: flags that are not the guest's. */
  begin(hidden: number): void {
    const { r32 } = this.#state;
    for (let i = 0; i < this.#before.length; i++) this.#before[i] = r32[i];
    this.#flags = r32[2 * RFLAGS] & ~hidden;
  }

  /** RIP was moved: a port access that the processor left to KVM is dropped then (complete_fast_pio_in). */
  get moved(): boolean {
    const { r32 } = this.#state;
    return r32[2 * RIP] !== this.#before[2 * RIP] || r32[2 * RIP + 1] !== this.#before[2 * RIP + 1];
  }

  /**
   * The emulator finishes what it has decoded, wherever RIP is, with the flags and operands of then (complete_emulated_io).
   * Strings and the stack count on from what user space set.
   */
  takeUp(opcode: number): void {
    const { r32 } = this.#state;
    r32[2 * RIP] = this.#before[2 * RIP];
    r32[2 * RIP + 1] = this.#before[2 * RIP + 1];
    r32[2 * RFLAGS] = this.#flags;
    for (let i = 0; i < this.#given.length; i++) {
      this.#given[i] = r32[i];
      if (i >> 1 !== RSP && !STRINGS.has(opcode)) r32[i] = this.#before[i];
    }
  }

  /**
   * It is done. Registers that user space set stay: what the emulator put into the one that it had decoded is lost
   * (emulator_invalidate_register_cache). Strings and the stack count on from them.
   */
  end(opcode: number): void {
    if (STRINGS.has(opcode) || this.#given.every((half, i) => half === this.#before[i])) return;
    const { r32 } = this.#state;
    const rspLo = r32[2 * RSP];
    const rspHi = r32[2 * RSP + 1];
    r32.set(this.#given);
    r32[2 * RSP] = rspLo;
    r32[2 * RSP + 1] = rspHi;
  }
}
