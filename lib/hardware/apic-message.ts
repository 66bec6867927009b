/**
 * The message that travels from an interrupt source (IOAPIC pin, MSI, a LAPIC's ICR) to the local APICs: struct
 * kvm_lapic_irq, in KVM's encodings, which are those of the ICR (arch/x86/include/asm/apicdef.h, 6.1). Interrupt
 * sources keep one message and fill it again: delivery allocates nothing and changes nothing in it.
 */

/** Delivery modes: bits 10:8 of the ICR, of an LVT entry and of MSI data. */
export const DM_FIXED = 0x000;
export const DM_LOWEST = 0x100;
export const DM_SMI = 0x200;
/** "Remote read" on paper; KVM uses it to wake a halted vCPU (the kick hypercall). */
export const DM_REMRD = 0x300;
export const DM_NMI = 0x400;
export const DM_INIT = 0x500;
export const DM_STARTUP = 0x600;
export const DM_EXTINT = 0x700;

/** Destination modes: bit 11 of the ICR. */
export const DEST_PHYSICAL = 0x000;
export const DEST_LOGICAL = 0x800;

/** Destination shorthands: bits 19:18 of the ICR. */
export const SHORTHAND_NONE = 0x00000;
export const SHORTHAND_SELF = 0x40000;
export const SHORTHAND_ALL = 0x80000;
export const SHORTHAND_ALL_BUT_SELF = 0xc0000;

/** Broadcast destinations: eight bits wide for a LAPIC in xAPIC mode, 32 for one in x2APIC mode. */
export const XAPIC_BROADCAST = 0xff;
export const X2APIC_BROADCAST = 0xffff_ffff;

export interface InterruptMessage {
  /** 0…255 */
  vector: number;
  /** one of `DM_…` */
  deliveryMode: number;
  /** `DEST_PHYSICAL` or `DEST_LOGICAL` */
  destMode: number;
  /** 8 bits in xAPIC format, 32 in x2APIC format */
  destId: number;
  /** 0 for edge, anything else for level */
  trigMode: number;
  /** 0 for de-assert, 1 for assert */
  level: number;
  /** one of `SHORTHAND_…` */
  shorthand: number;
  /** redirection hint of an MSI address: as good as lowest priority */
  msiRedirHint: boolean;
}

/** A message to be kept and filled: fixed, edge, asserted, to physical id 0. */
export const newMessage = (values: Partial<InterruptMessage> = {}): InterruptMessage => ({
  vector: 0,
  deliveryMode: DM_FIXED,
  destMode: DEST_PHYSICAL,
  destId: 0,
  trigMode: 0,
  level: 1,
  shorthand: SHORTHAND_NONE,
  msiRedirHint: false,
  ...values,
});

/**
 * Fills `message` from an MSI's address and data, arch/x86/kvm/irq_comm.c:kvm_set_msi_irq (6.1). With 32-bit ids
 * (KVM_X2APIC_API_USE_32BIT_IDS) the destination continues in bits 31:8 of the address' upper half.
 */
export function messageFromMsi(
  message: InterruptMessage,
  addressLo: number,
  addressHi: number,
  data: number,
  x2apicFormat: boolean,
): void {
  message.vector = data & 0xff;
  message.deliveryMode = data & 0x700;
  message.trigMode = data & 0x8000;
  message.level = 1;
  message.destMode = (addressLo & 4) !== 0 ? DEST_LOGICAL : DEST_PHYSICAL;
  message.msiRedirHint = (addressLo & 8) !== 0;
  message.destId = (addressLo >>> 12) & 0xff;
  if (x2apicFormat) message.destId = (message.destId | (addressHi & 0xffff_ff00)) >>> 0;
  message.shorthand = SHORTHAND_NONE;
}
