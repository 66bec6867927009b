/**
 * What the 32-bit (or 64-bit) address and the data of a message signalled interrupt mean.
 *
 * x86 (Intel SDM volume 3, 11.11; include/asm/msi.h): address 0xfee in bits 31:20, destination in 19:12, redirection
 * hint in bit 3, destination mode in bit 2; data: vector in 7:0, delivery mode in 10:8, level in 14, trigger in 15.
 * With KVM_X2APIC_API_USE_32BIT_IDS the upper 24 bits of the destination stand in address_hi 31:8; with the feature
 * MSI_EXT_DEST_ID bits 14:8 of the destination stand in address bits 11:5.
 *
 * arm64: the address is the doorbell of an ITS (GITS_TRANSLATER, 0x10040 above the ITS base) and the data the event id,
 * the device id travels beside it; or of a GICv2m frame or the distributor (GICD_SETSPI_NSR), and the data the SPI.
 * POWER: what the PHB says; KVM on POWER knows MSI routes only through irqfd and XICS source numbers.
 */

/** Bits 31:20 of an address that x86 takes for an interrupt. */
export const X86_MSI_BASE_ADDRESS_LOW = 0xfee0_0000;
export const X86_MSI_ADDRESS_MASK = 0xfff0_0000;

export const X86_MSI_ADDRESS_DEST_SHIFT = 12;
export const X86_MSI_ADDRESS_DEST_MASK = 0xff;
/** extended destination: bits 14:8 of the destination in bits 11:5 of the address */
export const X86_MSI_ADDRESS_EXT_DEST_SHIFT = 5;
export const X86_MSI_ADDRESS_EXT_DEST_MASK = 0x7f;
/** set: the address is in remappable format (VT-d) */
export const X86_MSI_ADDRESS_REMAPPABLE = 1 << 4;
export const X86_MSI_ADDRESS_REDIRECT_HINT = 1 << 3;
/** set: logical, clear: physical */
export const X86_MSI_ADDRESS_DEST_MODE_LOGICAL = 1 << 2;

export const X86_MSI_DATA_VECTOR_MASK = 0xff;
export const X86_MSI_DATA_DELIVERY_MODE_SHIFT = 8;
export const X86_MSI_DATA_DELIVERY_MODE_MASK = 7;
export const X86_MSI_DATA_LEVEL_ASSERT = 1 << 14;
export const X86_MSI_DATA_TRIGGER_LEVEL = 1 << 15;

/** Delivery modes, in MSI data, I/O APIC entries and the interrupt command register alike. */
export const APIC_DELIVERY_FIXED = 0;
export const APIC_DELIVERY_LOWEST_PRIORITY = 1;
export const APIC_DELIVERY_SMI = 2;
export const APIC_DELIVERY_REMOTE_READ = 3;
export const APIC_DELIVERY_NMI = 4;
export const APIC_DELIVERY_INIT = 5;
export const APIC_DELIVERY_STARTUP = 6;
export const APIC_DELIVERY_EXTINT = 7;

/** Offset of GITS_TRANSLATER, the doorbell, from the base address of an ITS (Arm IHI 0069, 12.19.13). */
export const GITS_TRANSLATER = 0x10040;

/** The low half of the address of an x86 MSI for an 8-bit destination. */
export const x86MsiAddress = (destination: number, logical = false, redirectHint = false): number =>
  (X86_MSI_BASE_ADDRESS_LOW |
    ((destination & X86_MSI_ADDRESS_DEST_MASK) << X86_MSI_ADDRESS_DEST_SHIFT) |
    (redirectHint ? X86_MSI_ADDRESS_REDIRECT_HINT : 0) |
    (logical ? X86_MSI_ADDRESS_DEST_MODE_LOGICAL : 0)) >>>
  0;

/** The data of an x86 MSI. */
export const x86MsiData = (vector: number, deliveryMode = APIC_DELIVERY_FIXED, level = false): number =>
  (vector & X86_MSI_DATA_VECTOR_MASK) |
  ((deliveryMode & X86_MSI_DATA_DELIVERY_MODE_MASK) << X86_MSI_DATA_DELIVERY_MODE_SHIFT) |
  (level ? X86_MSI_DATA_TRIGGER_LEVEL | X86_MSI_DATA_LEVEL_ASSERT : 0);
