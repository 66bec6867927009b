/**
 * Single steps and breakpoints while the guest runs: what is the debugger's, an exit, and what is the guest's own #DB
 * (arch/x86/kvm/x86.c:kvm_vcpu_do_singlestep, kvm_vcpu_check_code_breakpoint, __kvm_set_rflags;
 * arch/x86/kvm/svm/svm.c:db_interception, 6.1). The registers of both: debug.ts, breakpoints.ts.
 */
import type { Cpu } from "../../hardware/x86/cpu.ts";
import { DR6, DR7, RF, RFLAGS, RIP, SHADOW_MOV_SS, TF } from "../../hardware/x86/state.ts";
import { Breakpoints } from "./breakpoints.ts";
import { GO_ON, type RunPage } from "./run-page.ts";
import type { X86Vcpu } from "./vcpu.ts";

const DB_VECTOR = 1;
const BP_VECTOR = 3;
export const DR6_BS = 1 << 14;
/** bits of DR6 that say which breakpoint it was */
const DR6_TRAPS = 15;
const DR6_FIXED = 0xffff_0ff0;

export class Debugging {
  readonly #vcpu: X86Vcpu;
  readonly #cpu: Cpu;
  readonly #page: RunPage;
  /** privileged code is run by KVM's emulator */
  readonly #emulated: boolean;
  readonly breakpoints: Breakpoints;

  constructor(vcpu: X86Vcpu, cpu: Cpu, page: RunPage) {
    this.#vcpu = vcpu;
    this.#cpu = cpu;
    this.#page = page;
    this.#emulated = vcpu.vcpu.vm.host.behaviour.kernelCodeEmulated;
    this.breakpoints = new Breakpoints(vcpu.debug, cpu.state);
  }

  /** The trap flag that makes steps is the debugger's: user space sees the flags without it. */
  takeTrapFlag(): void {
    if (!this.#emulated && this.#vcpu.debug.trapArmed) this.#cpu.state.r32[2 * RFLAGS] |= TF;
  }

  /** The flags as user space is to see them. */
  hideTrapFlag(): void {
    const { debug } = this.#vcpu;
    const { r32 } = this.#cpu.state;
    if (this.#emulated || !debug.singleSteps) return;
    debug.trapArmed = (r32[2 * RFLAGS] & TF) !== 0;
    r32[2 * RFLAGS] &= ~TF;
  }

  /** KVM wrote the flags, most often because its emulator did an instruction: the trap flag of a debugger is lost. */
  flagsWritten(): void {
    const { debug } = this.#vcpu;
    const { r32 } = this.#cpu.state;
    if (this.#emulated || !debug.singleSteps) return;
    debug.flagsSet(r32[2 * RIP]);
    if (debug.trapArmed) r32[2 * RFLAGS] |= TF;
    else r32[2 * RFLAGS] &= ~TF;
  }

  /** An instruction with a breakpoint is not run: an exit, an exception of the guest, or −1. */
  codeBreakpoint(): number {
    const cpu = this.#cpu;
    const { debug, cpuid } = this.#vcpu;
    const address = cpu.codeAddress();
    // pvm lets the processor run 64-bit user code, without its debug registers (live 6.18)
    if (this.#emulated && cpu.long && cpu.user !== 0) return -1;
    const { shadow } = this.#cpu.state;
    const flags = cpu.state.r32[2 * RFLAGS];
    const inhibited = (flags & RF) !== 0 || (shadow === SHADOW_MOV_SS && cpuid.isIntelCompatible);
    if (debug.usesRegisters && (this.#emulated || !inhibited)) {
      const hit = this.breakpoints.atCode(address, true);
      if (hit !== 0) {
        this.#page.debug(DB_VECTOR, address, hit + DR6_FIXED, this.#emulated ? undefined : debug.dr7);
        return 0;
      }
    }
    if (inhibited || (debug.usesRegisters && !this.#emulated)) return -1;
    const hit = this.breakpoints.atCode(address, false);
    if (hit === 0) return -1;
    return this.exception(hit, this.#emulated);
  }

  /** INT3 of a guest whose debugger wants it (bp_interception). */
  instruction(): number {
    this.#page.debug(BP_VECTOR, this.#cpu.codeAddress());
    return 0;
  }

  /** A debug exception is the debugger's, an exit, or the guest's. KVM's own step does not tell DR7. */
  exception(cause: number, byKvm: boolean): number {
    const cpu = this.#cpu;
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
    const { c32 } = this.#cpu.state;
    c32[2 * DR6] = (c32[2 * DR6] & ~DR6_TRAPS) | DR6_FIXED | cause;
    this.#vcpu.events.queueException(DB_VECTOR);
  }
}
