/**
 * Which interrupt a vCPU takes next, and what follows an end of interrupt (arch/x86/kvm/irq.c, lapic.c:kvm_ioapic_send_eoi,
 * 6.1 and 6.18).
 */
import type { X86Vcpu } from "./vcpu.ts";

/** An interrupt from outside of the local APIC: the PIC's, or that of user space behind a split irqchip. */
function hasExternal(vcpu: X86Vcpu): boolean {
  const { lapic, vm } = vcpu;
  if (!lapic!.acceptsPic()) return false;
  return vm.irqchipMode === "split" ? vcpu.events.pendingExternalVector !== -1 : vm.irqchip!.pic!.output;
}

/** Whether an interrupt waits that the local APIC would let through (kvm_cpu_has_injectable_intr). */
export function hasInterrupt(vcpu: X86Vcpu): boolean {
  const { lapic } = vcpu;
  if (lapic === undefined) return false;
  return hasExternal(vcpu) || lapic.hasInterrupt() !== -1;
}

/** Takes the next interrupt: its vector, or −1 (kvm_cpu_get_interrupt). */
export function takeInterrupt(vcpu: X86Vcpu): number {
  const { lapic, vm } = vcpu;
  if (lapic === undefined) return -1;
  if (hasExternal(vcpu) && (vm.irqchipMode === "split" || lapic.picHeard)) {
    if (vm.irqchipMode === "split") {
      const vector = vcpu.events.pendingExternalVector;
      vcpu.events.pendingExternalVector = -1;
      return vector;
    }
    const vector = vm.irqchip!.pic!.readIrq();
    vm.irqchip!.picChanged();
    return vector;
  }
  return lapic.takeInterrupt();
}

/** An interrupt that was taken before reaches the guest now: the local APIC does not keep it in service any longer. */
export function endInterrupt(vcpu: X86Vcpu, vector: number): void {
  const { lapic } = vcpu;
  if (lapic?.highestInService() !== vector) return;
  lapic.eoi();
  sendIoapicEoi(vcpu);
}

/** The local APIC has ended `eoiVector`: the IOAPIC hears of it, in the kernel or by an exit (kvm_ioapic_send_eoi). */
export function sendIoapicEoi(vcpu: X86Vcpu): void {
  const { lapic, vm } = vcpu;
  const { eoiReports, eoiVector, eoiLevel } = lapic!;
  if (!eoiReports.has(eoiVector)) return;
  if (vm.vm.host.behaviour.staleEoisRescanned) eoiReports.reported(eoiVector);
  if (vm.irqchipMode === "kernel") vm.irqchip!.ioapicEoi(lapic!, eoiVector, eoiLevel);
  else vcpu.pendingIoapicEoi = eoiVector;
}
