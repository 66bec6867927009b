/**
 * Registers in the run page (KVM_CAP_SYNC_REGS): what user space marks as dirty is taken before the guest runs, what it
 * asks for is shown when it stops (arch/x86/kvm/x86.c:sync_regs, store_regs, 6.1). `struct kvm_sync_regs`: kvm_regs @0,
 * kvm_sregs @144, kvm_vcpu_events @456, from byte 304 of the page on.
 */
import { EINVAL } from "../../abi/errno.ts";
import { KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, KvmRegs, KvmSregs, KvmSyncRegs } from "../../abi/kvm-x86.ts";
import { load32, store32 } from "../../abi/struct.ts";
import { DIRTY_REGS, SYNC_REGS, VALID_REGS } from "./run-page.ts";
import type { X86Vcpu } from "./vcpu.ts";

const { sregs } = KvmSyncRegs.offsetOf;

/** 0, or −EINVAL for registers that cannot be. What was taken is not dirty any more. */
export function readSyncRegs(vcpu: X86Vcpu, page: Uint8Array): number {
  const dirty = load32(page, DIRTY_REGS);
  if ((dirty & KVM_SYNC_X86_REGS) !== 0) {
    vcpu.registers.setRegs(page, SYNC_REGS);
    vcpu.events.dropException();
    store32(page, DIRTY_REGS, load32(page, DIRTY_REGS) & ~KVM_SYNC_X86_REGS);
  }
  if ((dirty & KVM_SYNC_X86_SREGS) !== 0) {
    if (vcpu.registers.setCommon(page, SYNC_REGS + sregs) < 0) return -EINVAL;
    store32(page, DIRTY_REGS, load32(page, DIRTY_REGS) & ~KVM_SYNC_X86_SREGS);
  }
  return 0;
}

export function writeSyncRegs(vcpu: X86Vcpu, page: Uint8Array): void {
  const wanted = load32(page, VALID_REGS);
  if ((wanted & KVM_SYNC_X86_REGS) !== 0)
    page.set(vcpu.registers.regsBytes.subarray(0, KvmRegs.size), SYNC_REGS);
  if ((wanted & KVM_SYNC_X86_SREGS) !== 0) {
    vcpu.registers.copyCommon(page, SYNC_REGS + sregs);
    page.fill(0, SYNC_REGS + sregs + KvmSregs.offsetOf.interrupt_bitmap, SYNC_REGS + sregs + KvmSregs.size);
  }
}
