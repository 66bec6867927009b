/**
 * Breakpoints of the debug registers: those of a debugger (KVM_GUESTDBG_USE_HW_BP), else the guest's own
 * (arch/x86/kvm/x86.c:kvm_vcpu_check_code_breakpoint, kvm_update_dr7, 6.1; SDM volume 3, 17.2).
 *
 * DR7: two enable bits for each of DR0 to DR3 from bit 0 on, and from bit 16 on four bits for each: kind (0 code, 1 write,
 * 3 read or write), length (0 one byte, 1 two, 3 four, 2 eight).
 *
 * Missing: breakpoints on ports (kind 2). Where Linux's emulator runs the guest there are none on data.
 */
import type { Watch } from "../../hardware/x86/memory.ts";
import { type CpuState, DR0, DR7 } from "../../hardware/x86/state.ts";
import type { DebugRegisters } from "./debug.ts";

const ENABLED = 0xff;
const CODE = 0;
const WRITE = 1;
const READ_WRITE = 3;
const LENGTH = [1, 2, 8, 4];

export class Breakpoints implements Watch {
  readonly #debug: DebugRegisters;
  readonly #state: CpuState;
  /** bits of DR6 for the data that the present instruction touched */
  touched = 0;

  constructor(debug: DebugRegisters, state: CpuState) {
    this.#debug = debug;
    this.#state = state;
  }

  /** Whether the debugger has any. */
  get ofDebugger(): boolean {
    return this.#debug.usesRegisters && (this.#debug.dr7 & ENABLED) !== 0;
  }

  /** Whether some of them are on data. */
  get onData(): boolean {
    for (let i = 0; i < 4; i++) if (this.#enabled(i) && (this.#kind(i) & WRITE) !== 0) return true;
    return false;
  }

  /** Bits of DR6 for the breakpoints that an instruction at a linear address hits. */
  atCode(address: number, fromDebugger: boolean): number {
    const dr7 = fromDebugger ? this.#debug.dr7 : this.#state.c32[2 * DR7];
    let hit = 0;
    for (let i = 0; i < 4; i++) {
      if ((dr7 & (3 << (2 * i))) === 0 || ((dr7 >>> (16 + 4 * i)) & 15) !== CODE) continue;
      const at = fromDebugger ? this.#debug.address(i) : this.#ownAddress(i);
      if (at === address) hit |= 1 << i;
    }
    return hit;
  }

  // ---- data --------------------------------------------------------------------------------------------------------

  covers(page: number): boolean {
    for (let i = 0; i < 4; i++)
      if (this.#enabled(i) && this.#kind(i) !== CODE && Math.floor(this.#start(i) / 4096) === page)
        return true;
    return false;
  }

  touch(address: number, length: number, writing: boolean): void {
    for (let i = 0; i < 4; i++) {
      if (!this.#enabled(i)) continue;
      const kind = this.#kind(i);
      if (kind !== READ_WRITE && !(kind === WRITE && writing)) continue;
      const start = this.#start(i);
      if (address < start + this.#length(i) && start < address + length) this.touched |= 1 << i;
    }
  }

  // ---- the registers that count --------------------------------------------------------------------------------------

  get #dr7(): number {
    return this.#debug.usesRegisters ? this.#debug.dr7 : this.#state.c32[2 * DR7];
  }

  #enabled(index: number): boolean {
    return (this.#dr7 & (3 << (2 * index))) !== 0;
  }

  #kind(index: number): number {
    return (this.#dr7 >>> (16 + 4 * index)) & 3;
  }

  #length(index: number): number {
    return LENGTH[(this.#dr7 >>> (18 + 4 * index)) & 3];
  }

  /** One of the guest's DR0 to DR3; an address in the upper half is negative. */
  #ownAddress(index: number): number {
    return Number(BigInt.asIntN(64, this.#state.c64[DR0 + index]));
  }

  /** An address is cut to a multiple of the length. */
  #start(index: number): number {
    const at = this.#debug.usesRegisters ? this.#debug.address(index) : this.#ownAddress(index);
    // addresses of the upper half are negative here
    return Math.floor(at / this.#length(index)) * this.#length(index);
  }
}
