/**
 * Debug registers and debugging from outside: KVM_GET/SET_DEBUGREGS, KVM_SET_GUEST_DEBUG (arch/x86/kvm/x86.c, 6.1 and
 * 6.18). `struct kvm_debugregs`, 128 bytes: db[4] u64, dr6 @32, dr7 @40, flags @48, reserved. `struct kvm_guest_debug`,
 * 72 bytes: control u32, pad u32, debugreg[8] u64.
 * What comes of them while the guest runs: run-debug.ts, breakpoints.ts.
 */
import { EBUSY, EFAULT, EINVAL } from "../../abi/errno.ts";
import { KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP } from "../../abi/kvm.ts";
import {
  KVM_GET_DEBUGREGS,
  KVM_GUESTDBG_BLOCKIRQ,
  KVM_GUESTDBG_INJECT_BP,
  KVM_GUESTDBG_INJECT_DB,
  KVM_GUESTDBG_USE_HW_BP,
  KVM_GUESTDBG_USE_SW_BP,
  KVM_SET_DEBUGREGS,
  KVM_SET_GUEST_DEBUG,
  KvmDebugregs,
  KvmGuestDebug,
} from "../../abi/kvm-x86.ts";
import { load32, store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import { answering } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { X86Vcpu } from "./vcpu.ts";

const DR6_RESET = 0xffff_0ff0;
const DR7_RESET = 0x400;
const { dr6, dr7, flags } = KvmDebugregs.offsetOf;
/** db0 to db3, dr6, dr7: what is kept of the struct */
const STATE = flags;
const DB_VECTOR = 1;
const BP_VECTOR = 3;

export class DebugRegisters {
  readonly bytes = new Uint8Array(STATE);
  /** KVM_GUESTDBG_*; 0 while nobody debugs */
  control = 0;
  /**
   * Where a processor runs the guest, its trap flag makes the steps: whether it is set for the debugger. It gets lost where
   * KVM writes the flags, except at the place where the step was asked for (arch/x86/kvm/x86.c:__kvm_set_rflags, 6.1).
   */
  trapArmed = false;
  #stepRip = 0;
  /** DR0 to DR7 as the debugger wants them */
  readonly guestDebug = new Uint8Array(64);

  constructor() {
    this.reset();
  }

  /** Power on, INIT. */
  reset(): void {
    this.bytes.fill(0);
    store64(this.bytes, dr6, DR6_RESET);
    store64(this.bytes, dr7, DR7_RESET);
  }

  get singleSteps(): boolean {
    return (this.control & KVM_GUESTDBG_SINGLESTEP) !== 0;
  }

  /** KVM_SET_GUEST_DEBUG: a step is asked for at RIP, of which the low half is enough. */
  armStep(rip: number): void {
    this.trapArmed = this.singleSteps;
    this.#stepRip = rip;
  }

  /** KVM writes the flags of a guest at RIP. */
  flagsSet(rip: number): void {
    this.trapArmed = this.singleSteps && rip === this.#stepRip;
  }

  /** INT3 ends KVM_RUN. */
  get usesInstruction(): boolean {
    return (this.control & KVM_GUESTDBG_USE_SW_BP) !== 0;
  }

  /** The debugger's DR0 to DR3 and DR7 count. */
  get usesRegisters(): boolean {
    return (this.control & KVM_GUESTDBG_USE_HW_BP) !== 0;
  }

  /** The guest takes no interrupts. */
  get blocksInterrupts(): boolean {
    return (this.control & KVM_GUESTDBG_BLOCKIRQ) !== 0;
  }

  /** DR7 of the debugger, the low half */
  get dr7(): number {
    return load32(this.guestDebug, 56);
  }

  /** One of DR0 to DR3 of the debugger; an address in the upper half is negative. */
  address(index: number): number {
    return (load32(this.guestDebug, 8 * index + 4) | 0) * 2 ** 32 + load32(this.guestDebug, 8 * index);
  }
}

const of = (file: VcpuFile): X86Vcpu => file.vcpu.arch as X86Vcpu;

const getDebugregs = answering(KvmDebugregs.size, (file: VcpuFile, bytes, at) => {
  bytes.fill(0, at, at + KvmDebugregs.size);
  bytes.set(of(file).debug.bytes, at);
});

/** EFAULT; EINVAL for flags, and for high bits of DR6 and DR7. */
function setDebugregs(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmDebugregs.size)) return -EFAULT;
  const given = KvmDebugregs.at(user.bytes, user.at);
  if (given.flagsLo !== 0 || given.flagsHi !== 0) return -EINVAL;
  if (given.dr6Hi !== 0 || given.dr7Hi !== 0) return -EINVAL;
  of(file).debug.bytes.set(user.bytes.subarray(user.at, user.at + STATE));
  return 0;
}

/**
 * EFAULT; EBUSY for an exception to be injected while one waits. Unknown flags are taken. A guest that was stepped
 * through loses its own trap flag.
 */
function setGuestDebug(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmGuestDebug.size)) return -EFAULT;
  const { debug, events, registers } = of(file);
  const control = load32(user.bytes, user.at);
  if ((control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) !== 0) {
    if (events.exceptionWaits) return -EBUSY;
    if (events.exception.injected && of(file).vcpu.vm.host.behaviour.debugWaitsForInjected) return -EBUSY;
    events.queueException((control & KVM_GUESTDBG_INJECT_DB) !== 0 ? DB_VECTOR : BP_VECTOR);
  }
  if (debug.singleSteps) registers.clearTrapFlag();
  debug.control = (control & KVM_GUESTDBG_ENABLE) === 0 ? 0 : control;
  debug.armStep(registers.ripLo);
  debug.guestDebug.set(user.bytes.subarray(user.at + 8, user.at + KvmGuestDebug.size));
  return 0;
}

export const debugIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_DEBUGREGS, getDebugregs],
  [KVM_SET_DEBUGREGS, setDebugregs],
  [KVM_SET_GUEST_DEBUG, setGuestDebug],
];
