/**
 * States that a processor of AMD's does not enter, and KVM does not look at: KVM_EXIT_FAIL_ENTRY
 * (arch/x86/kvm/svm/svm.c:svm_handle_exit, 6.1; AMD APM volume 2, "Canonicalization and Consistency Checks").
 *
 * KVM refuses the others itself, with EINVAL: CR0.NW without CD, CR3 beyond the physical addresses, upper halves of DR6 and
 * DR7, exception 2 (live 6.1, 6.12, 7.2). After such an exit the event that was to be injected waits on.
 *
 * Missing: RIP after the exit, which is not the guest's on the recorded (emulated) processors.
 */
import { type CpuState, CR0, CR0_PG, CR4, CR4_PAE, CS, EFER } from "../../hardware/x86/state.ts";
import type { Events } from "./events.ts";
import { EFER_LME } from "./registers.ts";

/** VMEXIT_INVALID, −1, as the recorded kernels read it: 32 bits */
export const SVM_EXIT_ERR = 0xffff_ffff;
/** no processor has it, and the recorded one does not inject it; KVM takes it from user space */
const LAST_EXCEPTION = 31;

/** Whether the next entry fails: code of 64 and of 32 bits at once, or exception 31. */
export function entryFails({ segments, c32 }: CpuState, { exception }: Events): boolean {
  if (exception.injected && exception.vector === LAST_EXCEPTION) return true;
  const { l, db } = segments[CS];
  if (l === 0 || db === 0) return false;
  return (c32[2 * EFER] & EFER_LME) !== 0 && (c32[2 * CR0] & CR0_PG) !== 0 && (c32[2 * CR4] & CR4_PAE) !== 0;
}
