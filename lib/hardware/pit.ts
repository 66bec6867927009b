/**
 * The 8254 interval timer as KVM holds it in the kernel: three counters at ports 0x40 to 0x42, the control word at
 * 0x43, and port 0x61 if KVM_PIT_SPEAKER_DUMMY asked for it. Counter 0 drives GSI 0. Time is the caller's, in nanoseconds, exact below
 * 2^53; every method that depends on it takes `now`.
 *
 * The caller owns the timer and the work item behind it:
 *
 *     at nextExpiry:  pit.expire(now);
 *     acked(0):       pit.ack();
 *     unmasked(0):    pit.resetReinject();
 *     then, whenever `workQueued` has become true, later: if (pit.runWork()) raise and lower GSI 0
 *
 * Loading counter 0 ends queued work first (kthread_flush_work); `flushed` says that GSI 0 has to be pulsed for it.
 *
 * State layout (struct kvm_pit_state2, 112 bytes): three channels of 24 bytes (count u32, latched_count u16,
 * count_latched, status_latched, status, read_state, write_state, write_latch, rw_mode, mode, bcd, gate u8,
 * count_load_time s64), flags u32, reserved[9] u32. struct kvm_pit_state is the three channels.
 *
 * What KVM does not do is missing here too: BCD counting, NULL COUNT in the status, counting that stops while the
 * gate is low, mode 5 on counter 0 (no timer). Counter 0 counts by its timer, not by its load time.
 */
import { EOPNOTSUPP } from "../abi/errno.ts";
import { load16, load32, load64, store16, store32, store64 } from "../abi/struct.ts";

/** Ticks a second. */
export const PIT_FREQUENCY = 1_193_181;
/** bytes of struct kvm_pit_state (without flags) and struct kvm_pit_state2 */
export const PIT_STATE_SIZE = 72;
export const PIT_STATE2_SIZE = 112;
/** A timer of the HPET has taken over: counter 0 starts none. */
export const PIT_FLAGS_HPET_LEGACY = 1;
/** Bit 1 of port 0x61. */
export const PIT_FLAGS_SPEAKER_DATA_ON = 2;
/** Answer of `read`: port 0x43 leaves the buffer as it is; the guest sees its last port read again (seen on 6.18). */
export const PIT_NOTHING = -1;
/** The shortest period of counter 0, kvm.min_timer_period_us, in nanoseconds. */
export const MIN_TIMER_PERIOD = 200_000;

const CHANNEL_SIZE = 24;
const SECOND = 1_000_000_000;
/** A mode that no counter has: after a reset. */
const NO_MODE = 0xff;

/** What the next byte of a count is; 1, and any number but these, is the low byte alone. */
const MSB = 2;
const WORD0 = 3;
const WORD1 = 4;

/** Nanoseconds to ticks, rounded down. In two parts: the product itself goes beyond 2^53 after 8 seconds. */
export function ticks(nanoseconds: number): number {
  const seconds = Math.floor(nanoseconds / SECOND);
  return seconds * PIT_FREQUENCY + Math.floor(((nanoseconds - seconds * SECOND) * PIT_FREQUENCY) / SECOND);
}

/** Ticks to nanoseconds, rounded down. */
export function nanoseconds(ticks: number): number {
  const seconds = Math.floor(ticks / PIT_FREQUENCY);
  return seconds * SECOND + Math.floor(((ticks - seconds * PIT_FREQUENCY) * SECOND) / PIT_FREQUENCY);
}

/** One counter. Names as in struct kvm_pit_channel_state. */
export class PitChannel {
  /** the initial count; 65536 is written as 0 */
  count = 0;
  latchedCount = 0;
  /** 0: no count is latched; else which of its bytes comes next */
  countLatched = 0;
  statusLatched = 0;
  status = 0;
  readState = 0;
  writeState = 0;
  /** the low byte, until the high byte comes */
  writeLatch = 0;
  rwMode = 0;
  mode = NO_MODE;
  bcd = 0;
  gate: number;
  /** nanoseconds; counter 0 only keeps what KVM_SET_PIT put there */
  countLoadTime = 0n;

  constructor(gate: number) {
    this.gate = gate;
  }

  /** The count, so many nanoseconds after it was loaded; the lower 16 bits count. i8254.c:pit_get_count (6.1) */
  countAfter(elapsed: number): number {
    const d = ticks(elapsed);
    switch (this.mode) {
      case 0:
      case 1:
      case 4:
      case 5:
        return (this.count - d) & 0xffff;
      case 3:
        return (this.count - ((2 * d) % this.count)) & 0xffff;
      default:
        return (this.count - (d % this.count)) & 0xffff;
    }
  }

  /** The OUT pin, so many nanoseconds after the count was loaded: 0 or 1. i8254.c:pit_get_out (6.1) */
  outAfter(elapsed: number): number {
    const d = ticks(elapsed);
    switch (this.mode) {
      case 1:
        return Number(d < this.count);
      case 2:
        return Number(d !== 0 && d % this.count === 0);
      case 3:
        // half of count + 1, which is worked out in 32 bits
        return Number(d % this.count < ((this.count + 1) >>> 0) >>> 1);
      case 4:
      case 5:
        return Number(d === this.count);
      default:
        return Number(d >= this.count);
    }
  }

  saveTo(bytes: Uint8Array, at: number): void {
    store32(bytes, at, this.count);
    store16(bytes, at + 4, this.latchedCount);
    bytes[at + 6] = this.countLatched;
    bytes[at + 7] = this.statusLatched;
    bytes[at + 8] = this.status;
    bytes[at + 9] = this.readState;
    bytes[at + 10] = this.writeState;
    bytes[at + 11] = this.writeLatch;
    bytes[at + 12] = this.rwMode;
    bytes[at + 13] = this.mode;
    bytes[at + 14] = this.bcd;
    bytes[at + 15] = this.gate;
    store64(bytes, at + 16, this.countLoadTime);
  }

  loadFrom(bytes: Uint8Array, at: number): void {
    this.count = load32(bytes, at);
    this.latchedCount = load16(bytes, at + 4);
    this.countLatched = bytes[at + 6];
    this.statusLatched = bytes[at + 7];
    this.status = bytes[at + 8];
    this.readState = bytes[at + 9];
    this.writeState = bytes[at + 10];
    this.writeLatch = bytes[at + 11];
    this.rwMode = bytes[at + 12];
    this.mode = bytes[at + 13];
    this.bcd = bytes[at + 14];
    this.gate = bytes[at + 15];
    this.countLoadTime = load64(bytes, at + 16);
  }
}

export class Pit {
  readonly channels = [new PitChannel(1), new PitChannel(1), new PitChannel(0)] as const;
  /** PIT_FLAGS_…; KVM_SET_PIT2 may set other bits too */
  flags = 0;
  /** The work item has to run. */
  workQueued = false;
  /** The last call ended queued work that pulses GSI 0. */
  flushed = false;
  /** when counter 0's timer fires, in nanoseconds; Infinity: it does not */
  nextExpiry = Number.POSITIVE_INFINITY;

  readonly #minPeriod: number;
  /** as `nextExpiry`, but a timer that has fired or was cancelled keeps its last time: the count goes on from there */
  #expires = 0;
  #period = 0;
  #periodic = false;
  /** missed ticks are made up for, one with every acknowledged interrupt */
  #reinject = true;
  /** ticks that wait for an acknowledgement */
  #pending = 0;
  #irqAck = true;

  /** KVM_CREATE_PIT2. i8254.c:kvm_pit_reset (6.1) */
  constructor(now: number, minPeriod = MIN_TIMER_PERIOD) {
    this.#minPeriod = minPeriod;
    for (let channel = 0; channel < 3; channel++) this.#loadCount(channel, 0, now);
  }

  get reinject(): boolean {
    return this.#reinject;
  }

  /** Ticks that wait for an acknowledgement; always 0 without `reinject`, but for what was pending when it ended. */
  get pending(): number {
    return this.#pending;
  }

  /** KVM_REINJECT_CONTROL. i8254.c:kvm_pit_set_reinject (6.1) */
  setReinject(reinject: boolean): void {
    if (reinject && !this.#reinject) this.resetReinject();
    this.#reinject = reinject;
  }

  /** Forgets missed ticks: GSI 0 was unmasked, or counter 0 loaded. i8254.c:pit_mask_notifer (6.1) */
  resetReinject(): void {
    this.#pending = 0;
    this.#irqAck = true;
  }

  /** The timer has come to `nextExpiry`. i8254.c:pit_timer_fn (6.1) */
  expire(now: number): void {
    if (now < this.nextExpiry) return;
    if (this.#reinject) this.#pending++;
    this.workQueued = true;
    if (this.#periodic) {
      this.#expires += this.#period;
      this.nextExpiry = this.#expires;
    } else this.nextExpiry = Number.POSITIVE_INFINITY;
  }

  /** The guest has acknowledged GSI 0. i8254.c:kvm_pit_ack_irq (6.1) */
  ack(): void {
    if (!this.#reinject) return;
    this.#irqAck = true;
    if (this.#pending > 0 && --this.#pending > 0) this.workQueued = true;
  }

  /** The queued work: whether GSI 0 has to be raised and lowered now. i8254.c:pit_do_work (6.1) */
  runWork(): boolean {
    if (!this.workQueued) return false;
    this.workQueued = false;
    if (this.#reinject && !this.#irqAck) return false;
    if (this.#reinject) this.#irqAck = false;
    return true;
  }

  /** Writes a port; of a wide access the lowest byte counts. 0, or −EOPNOTSUPP for a port that is not here. */
  write(port: number, value: number, now: number): number {
    this.flushed = false;
    value &= 0xff;
    if (port === 0x43) this.#control(value, now);
    else if (port >= 0x40 && port < 0x43) this.#writeCount(port - 0x40, value, now);
    else if (port === 0x61) this.#writeSpeaker(value, now);
    else return -EOPNOTSUPP;
    return 0;
  }

  /** Reads a port: the byte, PIT_NOTHING, or −EOPNOTSUPP for a port that is not here. */
  read(port: number, now: number): number {
    if (port === 0x61) return this.#readSpeaker(now);
    if (port < 0x40 || port > 0x43) return -EOPNOTSUPP;
    return port === 0x43 ? PIT_NOTHING : this.#readCount(port - 0x40, now);
  }

  /** KVM_GET_PIT: the three channels. */
  saveTo(bytes: Uint8Array, at: number): void {
    for (let channel = 0; channel < 3; channel++)
      this.channels[channel].saveTo(bytes, at + channel * CHANNEL_SIZE);
  }

  /** KVM_GET_PIT2: the channels, flags, and zeros. */
  save2To(bytes: Uint8Array, at: number): void {
    this.saveTo(bytes, at);
    store32(bytes, at + PIT_STATE_SIZE, this.flags);
    bytes.fill(0, at + PIT_STATE_SIZE + 4, at + PIT_STATE2_SIZE);
  }

  /** KVM_SET_PIT: takes the channels as they are and starts each counter. x86.c:kvm_vm_ioctl_set_pit (6.1) */
  loadFrom(bytes: Uint8Array, at: number, now: number): void {
    this.flushed = false;
    for (let channel = 0; channel < 3; channel++)
      this.channels[channel].loadFrom(bytes, at + channel * CHANNEL_SIZE);
    for (let channel = 0; channel < 3; channel++) this.#loadCount(channel, this.channels[channel].count, now);
  }

  /** KVM_SET_PIT2: as before, and the flags; when HPET_LEGACY turns on, the timer stops. x86.c:kvm_vm_ioctl_set_pit2 (6.1) */
  load2From(bytes: Uint8Array, at: number, now: number): void {
    const flags = load32(bytes, at + PIT_STATE_SIZE);
    const legacyStarts = (flags & ~this.flags & PIT_FLAGS_HPET_LEGACY) !== 0;
    this.flags = flags;
    this.flushed = false;
    for (let channel = 0; channel < 3; channel++)
      this.channels[channel].loadFrom(bytes, at + channel * CHANNEL_SIZE);
    const mode = this.channels[0].mode;
    if (legacyStarts) this.channels[0].mode = NO_MODE;
    this.#loadCount(0, this.channels[0].count, now);
    this.channels[0].mode = mode;
    this.#loadCount(1, this.channels[1].count, now);
    this.#loadCount(2, this.channels[2].count, now);
  }

  /** i8254.c:pit_load_count (6.1) */
  #loadCount(channel: number, count: number, now: number): void {
    const counter = this.channels[channel];
    counter.count = count === 0 ? 0x1_0000 : count;
    if (channel !== 0) {
      counter.countLoadTime = BigInt(now);
      return;
    }
    switch (counter.mode) {
      case 0:
      case 1:
      case 4:
        this.#startTimer(counter.count, false, now);
        break;
      case 2:
      case 3:
        this.#startTimer(counter.count, true, now);
        break;
      default:
        this.#stopTimer();
    }
  }

  /** The first tick comes after the true interval, even where the period is not allowed. i8254.c:create_pit_timer (6.1) */
  #startTimer(count: number, periodic: boolean, now: number): void {
    if (this.flags & PIT_FLAGS_HPET_LEGACY) return;
    this.#stopTimer();
    const interval = nanoseconds(count);
    this.#period = periodic ? Math.max(interval, this.#minPeriod) : interval;
    this.#periodic = periodic;
    this.resetReinject();
    this.#expires = now + interval;
    this.nextExpiry = this.#expires;
  }

  #stopTimer(): void {
    this.nextExpiry = Number.POSITIVE_INFINITY;
    if (this.runWork()) this.flushed = true;
  }

  /** Nanoseconds since a counter was loaded. i8254.c:kpit_elapsed (6.1) */
  #elapsed(channel: number, now: number): number {
    if (channel !== 0) return now - Number(this.channels[channel].countLoadTime);
    return this.#period === 0 ? 0 : this.#period - (this.#expires - now);
  }

  #control(value: number, now: number): void {
    if (value >> 6 === 3) {
      for (let channel = 0; channel < 3; channel++) {
        if (!(value & (2 << channel))) continue;
        if (!(value & 0x20)) this.#latchCount(channel, now);
        if (!(value & 0x10)) this.#latchStatus(channel, now);
      }
      return;
    }
    const access = (value >> 4) & 3;
    if (access === 0) {
      this.#latchCount(value >> 6, now);
      return;
    }
    const counter = this.channels[value >> 6];
    const mode = (value >> 1) & 7;
    counter.rwMode = access;
    counter.readState = access;
    counter.writeState = access;
    counter.mode = mode > 5 ? mode - 4 : mode;
    counter.bcd = value & 1;
  }

  #latchCount(channel: number, now: number): void {
    const counter = this.channels[channel];
    if (counter.countLatched) return;
    counter.latchedCount = counter.countAfter(this.#elapsed(channel, now));
    counter.countLatched = counter.rwMode;
  }

  #latchStatus(channel: number, now: number): void {
    const counter = this.channels[channel];
    if (counter.statusLatched) return;
    const out = counter.outAfter(this.#elapsed(channel, now));
    counter.status = ((out << 7) | (counter.rwMode << 4) | (counter.mode << 1) | counter.bcd) & 0xff;
    counter.statusLatched = 1;
  }

  #writeCount(channel: number, value: number, now: number): void {
    const counter = this.channels[channel];
    switch (counter.writeState) {
      case MSB:
        this.#loadCount(channel, value << 8, now);
        break;
      case WORD0:
        counter.writeLatch = value;
        counter.writeState = WORD1;
        break;
      case WORD1:
        this.#loadCount(channel, counter.writeLatch | (value << 8), now);
        counter.writeState = WORD0;
        break;
      default:
        this.#loadCount(channel, value, now);
    }
  }

  /** A latched status comes first, then a latched count, then the count itself. */
  #readCount(channel: number, now: number): number {
    const counter = this.channels[channel];
    if (counter.statusLatched) {
      counter.statusLatched = 0;
      return counter.status;
    }
    if (counter.countLatched) {
      const next = counter.countLatched;
      counter.countLatched = next === WORD0 ? MSB : 0;
      return next === MSB ? counter.latchedCount >> 8 : counter.latchedCount & 0xff;
    }
    const count = counter.countAfter(this.#elapsed(channel, now));
    const state = counter.readState;
    if (state === WORD0) counter.readState = WORD1;
    else if (state === WORD1) counter.readState = WORD0;
    return state === MSB || state === WORD1 ? count >> 8 : count & 0xff;
  }

  /** i8254.c:speaker_ioport_write, pit_set_gate (6.1) */
  #writeSpeaker(value: number, now: number): void {
    this.flags = ((this.flags & ~PIT_FLAGS_SPEAKER_DATA_ON) | (value & 2)) >>> 0;
    const counter = this.channels[2];
    const restarts = counter.mode === 1 || counter.mode === 2 || counter.mode === 3 || counter.mode === 5;
    if (restarts && counter.gate < (value & 1)) counter.countLoadTime = BigInt(now);
    counter.gate = value & 1;
  }

  /** Bit 0 gate, 1 speaker data, 4 refresh (toggles every 2^14 ns), 5 OUT. i8254.c:speaker_ioport_read (6.1) */
  #readSpeaker(now: number): number {
    const counter = this.channels[2];
    const data = this.flags & PIT_FLAGS_SPEAKER_DATA_ON;
    const refresh = Math.floor(now / 16384) & 1;
    return data | counter.gate | (refresh << 4) | (counter.outAfter(this.#elapsed(2, now)) << 5);
  }
}
