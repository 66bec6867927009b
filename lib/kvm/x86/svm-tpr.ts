/**
 * The task priority under AMD's module: the processor keeps its upper half beside the guest, and where the guest may write CR8
 * without KVM every exit takes it back into the local APIC, which loses the lower half
 * (arch/x86/kvm/svm/svm.c:svm_vcpu_run, sync_cr8_to_lapic, svm_update_cr8_intercept, 6.1; recorded on 7.2).
 *
 * Missing: the same under AVIC, which no host here has on.
 */
import type { X86Vcpu } from "./vcpu.ts";

/** Whether writes of CR8 come to KVM: where an interrupt waits for the priority to fall (update_cr8_intercept). */
export function updateCr8Intercept(vcpu: X86Vcpu): void {
  const { lapic } = vcpu;
  if (lapic === undefined) return;
  const waiting = vcpu.vapicAddress === 0 ? lapic.highestIrr() : -1;
  vcpu.cr8Intercepted = waiting !== -1 && lapic.cr8 >= waiting >> 4;
}

/** The guest was left (sync_cr8_to_lapic). */
export function syncTpr(vcpu: X86Vcpu): void {
  const { lapic } = vcpu;
  if (lapic === undefined || vcpu.cr8Intercepted) return;
  const { cr8 } = lapic;
  lapic.cr8 = cr8;
}
