/**
 * The four page directory pointers of paging with PAE outside long mode: the processor keeps them, and they are read from
 * guest memory where CR3 points (arch/x86/kvm/x86.c:load_pdptrs, 6.1). A table that cannot be read, or an entry with
 * reserved bits, leaves those from before. What a guest loads into CR3 by itself is not seen by KVM where the processor pages
 * (svm, 7.2). Missing: a second time that a guest turns paging on, which reads them anew.
 */
import { load64 } from "../../abi/struct.ts";
import type { X86Vcpu } from "./vcpu.ts";

const PAGE = 4096;
const SIZE = 32;
const PRESENT = 1n;
/** bits 1, 2 and 5 to 8 */
const RESERVED = 0x1e6n;

export function loadPdptrs(vcpu: X86Vcpu): void {
  const { registers, cpuid } = vcpu;
  const cr3 = Number(registers.sregs.cr3 & 0xffff_ffff_ffff_ffe0n);
  const { vm } = vcpu.vcpu;
  if (vm.slots.find(Math.floor(cr3 / PAGE)) === undefined) return;
  const pdptrs = vm.mm.copyIn(vm.slots.userAddress(cr3), SIZE);
  if (pdptrs === null) return;
  const tooHigh = BigInt.asUintN(64, -1n << BigInt(cpuid.physicalAddressBits));
  for (let at = 0; at < SIZE; at += 8) {
    const entry = load64(pdptrs, at);
    if ((entry & PRESENT) !== 0n && (entry & (RESERVED | tooHigh)) !== 0n) return;
  }
  registers.pdptrs = pdptrs.slice();
}
