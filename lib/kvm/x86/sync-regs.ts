/**
 * Registers in the run page (KVM_CAP_SYNC_REGS): what user space marks as dirty is taken before the guest runs, what it
 * asks for is shown when it stops (arch/x86/kvm/x86.c:sync_regs, store_regs, 6.1). `struct kvm_sync_regs`: kvm_regs @0,
 * kvm_sregs @144, kvm_vcpu_events @456, from byte 304 of the page on.
 */
import { EINVAL } from "../../abi/errno.ts";
import {
  KVM_SYNC_X86_EVENTS,
  KVM_SYNC_X86_REGS,
  KVM_SYNC_X86_SREGS,
  KvmRegs,
  KvmSyncRegs,
} from "../../abi/kvm-x86.ts";
import { load32, store32 } from "../../abi/struct.ts";
import { loadEvents, storeEvents } from "./events.ts";
import { loadSregs, storeSregs } from "./registers.ts";
import { DIRTY_REGS, SYNC_REGS, VALID_REGS } from "./run-page.ts";
import type { X86Vcpu } from "./vcpu.ts";

const { sregs, events } = KvmSyncRegs.offsetOf;
const KNOWN = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;

/** Whether a field of 64 bits names registers that there are not; some releases look at its low half alone. */
export function unknownRegisters({ vcpu }: X86Vcpu, page: Uint8Array, at: number): boolean {
  if ((load32(page, at) & ~KNOWN) !== 0) return true;
  const { syncRegsCut, syncRegsWhole } = vcpu.vm.host.behaviour;
  return load32(page, at + 4) !== 0 && (!syncRegsCut || syncRegsWhole);
}

/** 0, or −EINVAL for registers that cannot be. What was taken is not dirty any more. */
export function readSyncRegs(vcpu: X86Vcpu, page: Uint8Array): number {
  const dirty = load32(page, DIRTY_REGS);
  if ((dirty & KVM_SYNC_X86_REGS) !== 0) {
    vcpu.registers.setRegs(page, SYNC_REGS);
    vcpu.events.dropException();
    store32(page, DIRTY_REGS, load32(page, DIRTY_REGS) & ~KVM_SYNC_X86_REGS);
  }
  if ((dirty & KVM_SYNC_X86_SREGS) !== 0) {
    if (loadSregs(vcpu, page, SYNC_REGS + sregs) < 0) return -EINVAL;
    store32(page, DIRTY_REGS, load32(page, DIRTY_REGS) & ~KVM_SYNC_X86_SREGS);
  }
  if ((dirty & KVM_SYNC_X86_EVENTS) !== 0) {
    if (loadEvents(vcpu, page, SYNC_REGS + events) < 0) return -EINVAL;
    store32(page, DIRTY_REGS, load32(page, DIRTY_REGS) & ~KVM_SYNC_X86_EVENTS);
  }
  return 0;
}

export function writeSyncRegs(vcpu: X86Vcpu, page: Uint8Array): void {
  const wanted = load32(page, VALID_REGS);
  if ((wanted & KVM_SYNC_X86_REGS) !== 0)
    page.set(vcpu.registers.regsBytes.subarray(0, KvmRegs.size), SYNC_REGS);
  if ((wanted & KVM_SYNC_X86_SREGS) !== 0) storeSregs(vcpu, page, SYNC_REGS + sregs);
  if ((wanted & KVM_SYNC_X86_EVENTS) !== 0) storeEvents(vcpu, page, SYNC_REGS + events);
}
