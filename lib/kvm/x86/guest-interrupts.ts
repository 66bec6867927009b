/**
 * Which interrupt a vCPU takes next, and what follows an end of interrupt (arch/x86/kvm/irq.c, lapic.c:kvm_ioapic_send_eoi,
 * 6.1 and 6.18).
 */
import { KVM_IRQ_ROUTING_MSI } from "../../abi/kvm.ts";
import { messageFromMsi, newMessage } from "../../hardware/apic-message.ts";
import type { X86Vcpu } from "./vcpu.ts";

const MSI_LEVEL = 1 << 15;
const message = newMessage();

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
  if (hasExternal(vcpu)) {
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

/** The local APIC has ended `eoiVector`: the IOAPIC hears of it, in the kernel or by an exit. */
export function sendIoapicEoi(vcpu: X86Vcpu): void {
  const { lapic, vm } = vcpu;
  const { eoiVector, eoiLevel } = lapic!;
  if (vm.irqchipMode === "kernel") vm.irqchip!.ioapicEoi(lapic!, eoiVector, eoiLevel);
  else if (splitHandles(vcpu, eoiVector)) vcpu.pendingIoapicEoi = eoiVector;
}

/** Whether a vector belongs to a level-triggered message of the IOAPIC of user space (kvm_scan_ioapic_routes). */
function splitHandles(vcpu: X86Vcpu, vector: number): boolean {
  const irqchip = vcpu.vm.irqchip!;
  const { routing } = vcpu.vm.vm;
  for (let gsi = 0; gsi < irqchip.reservedIoapicPins; gsi++)
    for (let route = routing.routes(gsi); route !== undefined; route = route.next) {
      if (route.type !== KVM_IRQ_ROUTING_MSI) continue;
      if ((route.data & 0xff) !== vector || (route.data & MSI_LEVEL) === 0) continue;
      messageFromMsi(
        message,
        route.addressLo,
        route.addressHi,
        route.data,
        irqchip.system.settings.x2apicFormat,
      );
      if (irqchip.bus.matches(vcpu.lapic!, null, message)) return true;
    }
  return false;
}
