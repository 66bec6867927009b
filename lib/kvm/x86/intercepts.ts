/**
 * What of a guest comes to KVM where a processor runs it, and kinds of exceptions (arch/x86/kvm/svm/svm.c:init_vmcb,
 * arch/x86/kvm/x86.c:exception_type, 6.1; SDM volume 3, 6.15). Opcodes are those of hardware/x86/cpu.ts: after 0F with
 * 0x100 added.
 */
import { BP, DB, DF_FAULT, OFLOW, PAGE_FAULT } from "../../hardware/x86/memory.ts";

const MACHINE_CHECK = 18;

/** IN, OUT, CPUID, RDMSR, WRMSR, RDPMC and moves to control registers: KVM does them, not the processor */
export const INTERCEPTED: ReadonlySet<number> = new Set([
  ...[0xe4, 0xe5, 0xe6, 0xe7, 0xec, 0xed, 0xee, 0xef],
  ...[0x122, 0x130, 0x132, 0x133, 0x1a2],
]);
/** INS, OUTS: KVM's emulator does them everywhere */
export const PORT_STRINGS: ReadonlySet<number> = new Set([0x6c, 0x6d, 0x6e, 0x6f]);
/** those, RDMSR, WRMSR and moves to control registers: what is wrong with them is told by KVM */
export const DONE_BY_KVM: ReadonlySet<number> = new Set([...PORT_STRINGS, 0x122, 0x130, 0x132]);
/** INS, OUTS, MOVS, CMPS, STOS, LODS, SCAS */
export const STRINGS: ReadonlySet<number> = new Set([
  ...PORT_STRINGS,
  ...[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf],
]);

/** #DB, #UD, #AC and #MC come to KVM first */
export const INTERCEPTED_EXCEPTIONS: ReadonlySet<number> = new Set([1, 6, 17, 18]);

/** Whether the instruction that raised an exception is run again after the handler. */
export const isFault = (vector: number): boolean =>
  vector !== DB && vector !== BP && vector !== OFLOW && vector !== DF_FAULT && vector !== MACHINE_CHECK;

/** #DE, #TS, #NP, #SS, #GP */
const contributory = (vector: number): boolean => vector === 0 || (vector >= 10 && vector <= 13);

/** Whether two exceptions in a row make a double fault (table "Conditions for Generating a Double Fault"). */
export function isContributory(first: number, second: number): boolean {
  if (contributory(first)) return contributory(second);
  return first === PAGE_FAULT && (contributory(second) || second === PAGE_FAULT);
}
