/**
 * Segment registers as AMD's control block keeps them: the bits that a processor has, no more
 * (arch/x86/kvm/svm/svm.c:svm_set_segment, svm_get_segment, init_vmcb, 6.1). "Unusable" is not kept, it is "not present";
 * the granularity follows the limit; a segment of data that is present has been accessed, a task is busy.
 *
 * `struct kvm_segment`, 24 bytes: base u64, limit u32 @8, selector u16 @12, then bytes: type @14, present, dpl, db, s, l,
 * g, avl, unusable, padding.
 */
import { KvmSregs } from "../../abi/kvm-x86.ts";
import { load32 } from "../../abi/struct.ts";

const LIMIT = 8;
const TYPE = 14;
const PRESENT = 15;
const DPL = 16;
const DB = 17;
const S = 18;
const L = 19;
const G = 20;
const AVL = 21;
const UNUSABLE = 22;
const PADDING = 23;

const { cs, ds, es, fs, gs, ss, tr, ldt } = KvmSregs.offsetOf;
const all = [cs, ds, es, fs, gs, ss, tr, ldt];
const data = [ds, es, fs, gs];

/** The segments after reset that differ from those of other processors: nothing is accessed yet, the TSS is of 16 bits. */
export const svmResetSegments = {
  cs: { base: 0xffff_0000, limit: 0xffff, selector: 0xf000, type: 10, present: 1, s: 1 },
  ss: { base: 0, limit: 0xffff, selector: 0, type: 2, present: 1, s: 1 },
  tr: { base: 0, limit: 0xffff, selector: 0, type: 3, present: 1, s: 0 },
};

/** Makes the segments of a `struct kvm_sregs` what the control block gives back. */
export function keepSvmSegments(sregs: Uint8Array): void {
  for (const at of all) {
    const present = (sregs[at + PRESENT] & 1) !== 0 && sregs[at + UNUSABLE] === 0;
    sregs[at + TYPE] &= 0xf;
    sregs[at + PRESENT] = present ? 1 : 0;
    sregs[at + UNUSABLE] = present ? 0 : 1;
    sregs[at + DPL] &= 3;
    sregs[at + PADDING] = 0;
    for (const flag of [DB, S, L, AVL]) sregs[at + flag] &= 1;
    sregs[at + G] = load32(sregs, at + LIMIT) > 0xf_ffff ? 1 : 0;
    if (present && data.includes(at)) sregs[at + TYPE] |= 1;
  }
  sregs[tr + TYPE] |= 2;
  if (sregs[ss + UNUSABLE] !== 0) sregs[ss + DB] = 0;
}
