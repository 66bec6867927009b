/**
 * The registers of the local APIC: offsets in its page and the bits in them (Intel SDM volume 3, chapter
 * "Advanced Programmable Interrupt Controller"; names as in arch/x86/include/asm/apicdef.h, 6.1). Each register is
 * 32 bits wide and stands alone in 16 bytes; in x2APIC mode offset `r` is MSR 0x800 + r / 16.
 */
export const APIC_ID = 0x20;
export const APIC_LVR = 0x30;
export const APIC_TASKPRI = 0x80;
export const APIC_ARBPRI = 0x90;
export const APIC_PROCPRI = 0xa0;
export const APIC_EOI = 0xb0;
export const APIC_LDR = 0xd0;
export const APIC_DFR = 0xe0;
export const APIC_SPIV = 0xf0;
/** ISR, TMR and IRR: 256 bits each, eight registers of 32 vectors. */
export const APIC_ISR = 0x100;
export const APIC_TMR = 0x180;
export const APIC_IRR = 0x200;
export const APIC_ESR = 0x280;
export const APIC_LVTCMCI = 0x2f0;
export const APIC_ICR = 0x300;
export const APIC_ICR2 = 0x310;
export const APIC_LVTT = 0x320;
export const APIC_LVTTHMR = 0x330;
export const APIC_LVTPC = 0x340;
export const APIC_LVT0 = 0x350;
export const APIC_LVT1 = 0x360;
export const APIC_LVTERR = 0x370;
export const APIC_TMICT = 0x380;
export const APIC_TMCCT = 0x390;
export const APIC_TDCR = 0x3e0;
export const APIC_SELF_IPI = 0x3f0;

/** struct kvm_lapic_state: the first KiB of the page. */
export const LAPIC_STATE_SIZE = 0x400;
/** MSR of register offset 0. */
export const X2APIC_MSR_BASE = 0x800;

/** LVR: version of the chip, and the bit that promises SPIV's EOI-broadcast suppression. */
export const APIC_VERSION = 0x14;
export const LVR_DIRECTED_EOI = 1 << 24;

export const SPIV_APIC_ENABLED = 1 << 8;
export const SPIV_DIRECTED_EOI = 1 << 12;

export const DFR_FLAT = 0xffff_ffff;
export const DFR_CLUSTER = 0x0fff_ffff;

export const ICR_BUSY = 1 << 12;
export const ICR_ASSERT = 1 << 14;
export const ICR_LEVEL_TRIGGER = 1 << 15;
/** Bits of a 64-bit ICR write that must be zero in x2APIC mode: 31:20, 17:16, 13 */
export const X2APIC_ICR_RESERVED = 0xfff3_2000;

export const LVT_MASKED = 1 << 16;
export const LVT_LEVEL_TRIGGER = 1 << 15;
export const LVT_REMOTE_IRR = 1 << 14;
export const LVT_POLARITY = 1 << 13;
export const LVT_SEND_PENDING = 1 << 12;
/** Delivery mode, here as in a message. */
export const LVT_MODE = 0x700;
export const VECTOR_MASK = 0xff;

/** Timer modes: bits 18:17 of the timer's LVT entry. */
export const TIMER_ONESHOT = 0;
export const TIMER_PERIODIC = 1 << 17;
export const TIMER_TSCDEADLINE = 2 << 17;

/** IA32_APIC_BASE, lower half. */
export const BASE_BSP = 1 << 8;
export const BASE_X2APIC = 1 << 10;
export const BASE_ENABLE = 1 << 11;
export const DEFAULT_BASE_ADDRESS = 0xfee0_0000;

/** LVT entries by KVM's number: timer, thermal, performance, LINT0, LINT1, error, CMCI (arch/x86/kvm/lapic.h, 6.1). */
export const LVT_OFFSETS: readonly number[] = [
  APIC_LVTT,
  APIC_LVTTHMR,
  APIC_LVTPC,
  APIC_LVT0,
  APIC_LVT1,
  APIC_LVTERR,
  APIC_LVTCMCI,
];
const LVT_BITS = LVT_MASKED | LVT_SEND_PENDING | VECTOR_MASK;
const LINT_BITS = LVT_BITS | LVT_MODE | LVT_POLARITY | LVT_REMOTE_IRR | LVT_LEVEL_TRIGGER;
/** Bits that a write may set, per LVT entry; the timer's mode bits come on top. */
export const LVT_WRITABLE: readonly number[] = [
  LVT_BITS,
  LVT_BITS | LVT_MODE,
  LVT_BITS | LVT_MODE,
  LINT_BITS,
  LINT_BITS,
  LVT_BITS,
  LVT_BITS | LVT_MODE,
];
