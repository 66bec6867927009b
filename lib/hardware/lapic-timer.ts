/**
 * The local APIC's timer on a virtual clock: one-shot, periodic and TSC-deadline, as KVM runs it on an hrtimer
 * (arch/x86/kvm/lapic.c, 6.1 and 6.18). Times are nanoseconds of the virtual clock as plain numbers, exact below
 * 2^53; TSC values are bigints. Whoever owns the clock looks at `deadline`, steps there and calls `expire`.
 *
 * Expiry and injection are two steps, as in KVM: expiry counts `pending` up (never above 1) and wakes the vCPU; the
 * vCPU puts the vector into IRR when it next enters the guest (`Lapic.injectTimer`).
 *
 * Missing: the VMX preemption timer, posted timer interrupts, and lapic_timer_advance (KVM lets a TSC deadline fire
 * about a microsecond early and spins until it is reached; here it fires when it is reached).
 */
import {
  APIC_LVTT,
  APIC_TDCR,
  type APIC_TMCCT,
  APIC_TMICT,
  TIMER_ONESHOT,
  TIMER_PERIODIC,
  TIMER_TSCDEADLINE,
} from "./lapic-registers.ts";

/** `LapicTimer.deadline` when nothing is armed. */
export const NEVER = Number.POSITIVE_INFINITY;

export class LapicTimer {
  /** When the timer fires next on the virtual clock, or `NEVER`. */
  deadline: number;
  /** Expired and not yet injected: 0 or 1. */
  pending: number;
  /** Which mode bits the guest may set: none until CPUID is known, then 1 << 17, or 3 << 17 with TSC-deadline. */
  modeMask: number;
  /** `TIMER_ONESHOT`, `TIMER_PERIODIC`, `TIMER_TSCDEADLINE`, or both bits, which run nothing */
  mode: number;
  /** Length of one round in ns; 0 if the timer is not set. */
  period: number;
  /** When this round ends: TMCCT is counted from here even when no interrupt comes. */
  targetExpiration: number;
  /** IA32_TSC_DEADLINE; 0 when disarmed. */
  tscDeadline: bigint;
  /** 1, 2, 4 … 128, from TDCR */
  divideCount: number;
  /** The guest's TSC: ticks per millisecond (0: unknown, a TSC deadline never fires) and its value at time 0. */
  tscKhz: number;
  tscOffset: bigint;
  /** Length of a bus cycle in ns: KVM_CAP_X86_APIC_BUS_CYCLES_NS; 1 unless changed. */
  busCycleNs: number;
  /** Periodic rounds are not shorter than this (module parameter min_timer_period_us, 200 µs). */
  minPeriodNs: number;
  /** the LAPIC's registers, one u32 per 4 bytes */
  private readonly regs: Uint32Array;

  constructor(regs: Uint32Array, busCycleNs: number, minPeriodNs: number) {
    this.regs = regs;
    this.busCycleNs = busCycleNs;
    this.minPeriodNs = minPeriodNs;
    this.deadline = NEVER;
    this.pending = 0;
    this.modeMask = 0;
    this.mode = TIMER_ONESHOT;
    this.period = 0;
    this.targetExpiration = 0;
    this.tscDeadline = 0n;
    this.divideCount = 2;
    this.tscKhz = 0;
    this.tscOffset = 0n;
  }

  /** The guest's TSC at `now`. */
  guestTsc(now: number): bigint {
    const ticks = (BigInt(Math.floor(now)) * BigInt(this.tscKhz)) / 1_000_000n;
    return BigInt.asUintN(64, this.tscOffset + ticks);
  }

  /**
   * TMCCT: what is left of this round, in timer ticks (apic_get_tmcct). A round that has only just begun is whole: KVM
   * would say 0 there, but its clock never stands still between the start and the reading.
   */
  currentCount(now: number): number {
    if (this.mode === TIMER_TSCDEADLINE || this.regs[APIC_TMICT >> 2] === 0 || this.period === 0) return 0;
    const remaining = Math.max(this.targetExpiration - now, 0);
    const ofRound = remaining % this.period || Math.min(remaining, this.period);
    return Math.floor(ofRound / (this.busCycleNs * this.divideCount)) >>> 0;
  }

  /** Stops the hardware side only; what has expired stays pending. */
  disarm(): void {
    this.deadline = NEVER;
  }

  /** Stops the timer and forgets what has expired (cancel_apic_timer). */
  cancel(): void {
    this.deadline = NEVER;
    this.pending = 0;
  }

  /** Takes the mode from LVTT; going to or from TSC-deadline stops the timer (apic_update_lvtt). */
  updateMode(): void {
    const mode = this.regs[APIC_LVTT >> 2] & this.modeMask;
    if (mode === this.mode) return;
    if ((this.mode === TIMER_TSCDEADLINE) !== (mode === TIMER_TSCDEADLINE)) {
      this.cancel();
      this.regs[APIC_TMICT >> 2] = 0;
      this.period = 0;
      this.tscDeadline = 0n;
    }
    this.mode = mode;
    this.limitPeriod();
  }

  /** Takes the divisor from TDCR: bits 3, 1 and 0 count 2, 4 … 128, 1 (update_divide_count). */
  updateDivideCount(): void {
    const tdcr = this.regs[APIC_TDCR >> 2];
    const shift = (tdcr & 3) | ((tdcr & 8) >> 1);
    this.divideCount = 1 << ((shift + 1) & 7);
  }

  /** A new divisor while a round runs stretches what is left of it (update_target_expiration). */
  rescale(oldDivisor: number, now: number): boolean {
    this.disarm();
    this.period = this.countToNs(this.regs[APIC_TMICT >> 2]);
    this.limitPeriod();
    const remaining = Math.max(this.targetExpiration - now, 0);
    this.targetExpiration = now + Math.floor((remaining * this.divideCount) / oldDivisor);
    return this.restart(now);
  }

  /**
   * Starts a round (start_apic_timer): from TMICT, or from the TMCCT of a restored state. True if it had expired
   * already: the vCPU is to be woken.
   */
  start(now: number, countRegister: typeof APIC_TMICT | typeof APIC_TMCCT = APIC_TMICT): boolean {
    this.pending = 0;
    const counting = this.mode === TIMER_PERIODIC || this.mode === TIMER_ONESHOT;
    if (counting && !this.setTarget(now, countRegister)) return false;
    return this.restart(now);
  }

  /** The clock reached `deadline` (apic_timer_fn). True if that made an interrupt pending. */
  expire(now: number): boolean {
    if (this.deadline > now) return false;
    this.deadline = NEVER;
    const fired = this.setPending();
    if (this.mode === TIMER_PERIODIC && this.period !== 0) {
      this.advance(now);
      this.deadline = this.targetExpiration;
    }
    return fired;
  }

  private setPending(): boolean {
    if (this.pending !== 0) return false;
    this.pending = 1;
    return true;
  }

  private countToNs(count: number): number {
    return count * this.busCycleNs * this.divideCount;
  }

  private limitPeriod(): void {
    if (this.mode === TIMER_PERIODIC && this.period !== 0 && this.period < this.minPeriodNs)
      this.period = this.minPeriodNs;
  }

  /** set_target_expiration: a restored count of 0 means a whole period, or (one-shot) that it is over. */
  private setTarget(now: number, countRegister: number): boolean {
    this.period = this.countToNs(this.regs[APIC_TMICT >> 2]);
    if (this.period === 0) {
      this.tscDeadline = 0n;
      return false;
    }
    this.limitPeriod();
    let remaining = this.period;
    if (countRegister !== APIC_TMICT) {
      remaining = this.countToNs(this.regs[countRegister >> 2]);
      if (remaining === 0 && this.mode === TIMER_PERIODIC) remaining = this.period;
      if (remaining > this.period) {
        this.regs[countRegister >> 2] = 0;
        remaining = this.period;
      }
    }
    this.targetExpiration = now + remaining;
    return true;
  }

  private restart(now: number): boolean {
    if (this.mode !== TIMER_PERIODIC && this.pending !== 0) return false;
    if (this.mode === TIMER_TSCDEADLINE) return this.armTscDeadline(now);
    if (this.mode === TIMER_PERIODIC || this.mode === TIMER_ONESHOT) return this.armCount(now);
    return false;
  }

  /** start_sw_period */
  private armCount(now: number): boolean {
    if (this.period === 0) return false;
    let fired = false;
    if (now > this.targetExpiration) {
      fired = this.setPending();
      if (this.mode === TIMER_ONESHOT) return fired;
      this.advance(now);
    }
    this.deadline = this.targetExpiration;
    return fired;
  }

  /** start_sw_tscdeadline: the wait is computed in 64 bits and wraps there */
  private armTscDeadline(now: number): boolean {
    if (this.tscDeadline === 0n || this.tscKhz === 0) return false;
    const tsc = this.guestTsc(now);
    const wait = BigInt.asUintN(64, (this.tscDeadline - tsc) * 1_000_000n) / BigInt(this.tscKhz);
    if (this.tscDeadline <= tsc || wait === 0n) return this.setPending();
    this.deadline = now + Number(wait);
    return false;
  }

  /** The next round; one that would lie in the past starts now, missed rounds are not made up (6.1, 6.18). */
  private advance(now: number): void {
    this.targetExpiration = Math.max(this.targetExpiration + this.period, now);
  }
}
