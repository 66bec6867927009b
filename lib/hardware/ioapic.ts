/**
 * The I/O APIC of a PC (82093AA) as KVM holds it in the kernel: 24 pins, a redirection table, at 0xfec00000 a
 * register selector (+0x00) and a window (+0x10). It knows no LAPICs: where an interrupt message leaves, a method
 * answers SEND, the message stands in `message`, and the caller delivers it and reports what became of it:
 *
 *     let result = ioapic.setIrq(pin, source, level, lineStatus);
 *     if (result === SEND) result = ioapic.sent(deliver(ioapic.message, ioapic.messageDestMap));
 *
 * Below, "finish(x)" stands for that second line. Answers are KVM's: < 0 masked or ignored, 0 coalesced, > 0 how many
 * LAPICs took it.
 *
 *     write:  const done = ioapic.write(address, value, size);
 *             if (done & MASK_CHANGED) fireMaskNotifiers(ioapic.writtenPin, ioapic.masked(ioapic.writtenPin));
 *             if (done & LINE_PENDING && resampled(ioapic.writtenPin)) ioapic.clearPending(ioapic.writtenPin);
 *             else if (done & LINE_PENDING) finish(ioapic.service(ioapic.writtenPin));
 *             if (done & SCAN) all, or with done & SCAN_DESTINATIONS only the old and the new destinations, look anew
 *             at which EOIs they have to report
 *     EOI:    ioapic.rtcEoi(vcpuId, vector);
 *             for (let pin = ioapic.nextPin(vector, 0); pin >= 0; pin = ioapic.nextPin(vector, pin + 1)) {
 *               notifyAcked(pin);                          // may call setIrq
 *               finish(ioapic.eoi(pin, levelTriggered, directedEoi));
 *             }                                            // DELAYED: 10 ms later, finish(redeliver(pin)) for all pins
 *     set:    const irr = ioapic.loadFrom(bytes, at);
 *             for each pin in irr, ascending: finish(ioapic.inject(pin));
 *             ioapic.resetRtc(); for each vCPU: ioapic.restoreRtc(vcpuId, addressed, pendingEoi);
 *
 * State layout (struct kvm_ioapic_state, 216 bytes): base_address u64, ioregsel u32, id u32, irr u32, pad u32,
 * redirtbl[24] u64. Of an entry, low half: vector 0..7, delivery mode 8..10, logical destination 11, delivery status
 * 12, polarity 13, remote IRR 14, level-triggered 15, mask 16; high half: destination 24..31.
 *
 * What KVM does not do is missing here too: polarity and delivery status are stored and have no effect, there is no
 * EOI register (version 0x11), and the bus finds the chip at 0xfec00000 only, whatever base address it was given.
 */
import { copyOf } from "../abi/slab.ts";
import { load32, store32 } from "../abi/struct.ts";
import { type InterruptMessage, newMessage } from "./apic-message.ts";

export const IOAPIC_NUM_PINS = 24;
/** bytes of struct kvm_ioapic_state */
export const IOAPIC_STATE_SIZE = 216;
export const IOAPIC_DEFAULT_BASE_ADDRESS = 0xfec0_0000;
export const IOAPIC_MEM_LENGTH = 0x100;
/** The pin of the real-time clock, whose EOIs KVM counts. */
export const RTC_GSI = 8;
/** After so many EOIs in a row with the line still up, the next interrupt waits a moment. */
export const SUCCESSIVE_IRQ_MAX_COUNT = 10_000;
/** How long it waits: HZ / 100 jiffies, in nanoseconds. */
export const EOI_INJECT_DELAY = 10_000_000;

/** Answer: `message` has to be delivered, and the result given to `sent`. No delivery count is as large. */
export const SEND = 0x4000_0000;
/** Answer of `eoi`: call `redeliver` for all pins when EOI_INJECT_DELAY has passed. */
export const DELAYED = 0x4000_0001;

/** What `write` leaves to the caller, a set of: */
export const MASK_CHANGED = 1;
export const LINE_PENDING = 2;
export const SCAN = 4;
export const SCAN_DESTINATIONS = 8;

const DEST_LOGICAL = 1 << 11;
const DELIVERY_STATUS = 1 << 12;
const REMOTE_IRR = 1 << 14;
const LEVEL = 1 << 15;
const MASK = 1 << 16;

/** where the redirection table is in struct kvm_ioapic_state */
const REDIRTBL = 24;
/** after reset: every pin masked */
const resetTable = new Uint8Array(IOAPIC_STATE_SIZE - REDIRTBL);
for (let pin = 0; pin < IOAPIC_NUM_PINS; pin++) store32(resetTable, 8 * pin, MASK);

export class Ioapic {
  /** The message that SEND speaks of. */
  readonly message: InterruptMessage = newMessage();
  /** Where its delivery has to note vCPU id → vector for each LAPIC that took it; null: nowhere. */
  messageDestMap: Map<number, number> | null = null;
  /** The pin whose entry `write` has changed, and the destination that it had; KVM seeks it in the new mode. */
  writtenPin = 0;
  previousDestId = 0;

  #baseLo = IOAPIC_DEFAULT_BASE_ADDRESS;
  #baseHi = 0;
  #ioregsel = 0;
  #id = 0;
  #irr = 0;
  #pad = 0;
  /** as in struct kvm_ioapic_state, so that it is copied as a whole */
  readonly #redirtbl = copyOf(resetTable);
  /** edges of `irr` that have left as a message */
  #irrDelivered = 0;
  /** per pin, one bit for each interrupt source that holds the line up */
  readonly #irqStates: number[] = new Array(IOAPIC_NUM_PINS).fill(0);
  /** per pin, EOIs in a row that found the line still up */
  readonly #eoiCount: number[] = new Array(IOAPIC_NUM_PINS).fill(0);
  #sentPin = 0;
  #rtcPendingEoi = 0;
  readonly #rtcDestMap = new Map<number, number>();

  /**
   * A source raises or lowers its hold on a pin's line; the line is the OR of all sources. `lineStatus`: the caller
   * wants to know whether it was coalesced (KVM_IRQ_LINE_STATUS). ioapic.c:kvm_ioapic_set_irq (6.1)
   */
  setIrq(pin: number, sourceId: number, level: boolean, lineStatus: boolean): number {
    if (pin < 0 || pin >= IOAPIC_NUM_PINS) return -1;
    if (level) this.#irqStates[pin] |= 1 << sourceId;
    else this.#irqStates[pin] &= ~(1 << sourceId);
    if (this.#irqStates[pin] !== 0) return this.#raise(pin, lineStatus);
    this.#irr &= ~(1 << pin);
    return 1;
  }

  /** A source lets go of all lines; `irr` stays as it is. ioapic.c:kvm_ioapic_clear_all (6.1) */
  clearSource(sourceId: number): void {
    for (let pin = 0; pin < IOAPIC_NUM_PINS; pin++) this.#irqStates[pin] &= ~(1 << sourceId);
  }

  /** Sends what pin's entry says, if it is not masked and does not wait for an EOI. ioapic.c:ioapic_service (6.1) */
  service(pin: number): number {
    return this.#service(pin, this.#low(pin), false);
  }

  /** The result of delivering `message`; gives it back. */
  sent(result: number): number {
    if (this.messageDestMap !== null) this.#rtcPendingEoi = Math.max(result, 0);
    const low = this.#low(this.#sentPin);
    if (result !== 0 && low & LEVEL) this.#setLow(this.#sentPin, low | REMOTE_IRR);
    return result;
  }

  /** The first pin from `from` on whose entry has this vector; −1: no more. */
  nextPin(vector: number, from: number): number {
    for (let pin = from; pin < IOAPIC_NUM_PINS; pin++) if (this.vector(pin) === vector) return pin;
    return -1;
  }

  /**
   * What an EOI does to a pin after its ack notifiers. `directedEoi`: the LAPIC does not broadcast EOIs (bit 12 of its
   * spurious vector register). SEND, DELAYED or 0. ioapic.c:kvm_ioapic_update_eoi_one (6.1)
   */
  eoi(pin: number, levelTriggered: boolean, directedEoi: boolean): number {
    if (!levelTriggered || directedEoi) return 0;
    this.#setLow(pin, this.#low(pin) & ~REMOTE_IRR);
    if (this.masked(pin) || !(this.#irr & (1 << pin))) {
      this.#eoiCount[pin] = 0;
      return 0;
    }
    if (++this.#eoiCount[pin] < SUCCESSIVE_IRQ_MAX_COUNT) return this.service(pin);
    this.#eoiCount[pin] = 0;
    return DELAYED;
  }

  /** The delayed part of an EOI, for each pin in turn. ioapic.c:kvm_ioapic_eoi_inject_work (6.1) */
  redeliver(pin: number): number {
    if (!this.levelTriggered(pin) || !(this.#irr & (1 << pin))) return 0;
    return this.service(pin);
  }

  /** Raises a pin that the state from `loadFrom` has pending; no source holds it. ioapic.c:kvm_ioapic_inject_all (6.1) */
  inject(pin: number): number {
    return this.#raise(pin, true);
  }

  /** A resampler looks after the pending line of a pin that was unmasked. ioapic.c:ioapic_write_indirect (6.4) */
  clearPending(pin: number): void {
    this.#irr &= ~(1 << pin);
  }

  /** An EOI of the clock's interrupt came in, from the vCPU that has it. ioapic.c:rtc_irq_eoi (6.1) */
  rtcEoi(vcpuId: number, vector: number): void {
    if (this.#rtcDestMap.get(vcpuId) !== vector) return;
    this.#rtcDestMap.delete(vcpuId);
    this.#rtcPendingEoi--;
  }

  /** Forgets which EOIs of the clock are awaited; `restoreRtc` for each vCPU finds them again. */
  resetRtc(): void {
    this.#rtcPendingEoi = 0;
    if (this.#rtcDestMap.size !== 0) this.#rtcDestMap.clear(); // of an empty one: 100 ns (measured)
  }

  /**
   * A vCPU's LAPIC was set (or pin 8's entry): is an EOI of the clock awaited from it? `addressed`: pin 8's
   * destination includes it; `pendingEoi`: pin 8's vector is in its IRR or ISR.
   * ioapic.c:__rtc_irq_eoi_tracking_restore_one (6.1)
   */
  restoreRtc(vcpuId: number, addressed: boolean, pendingEoi: boolean): void {
    if (!addressed || pendingEoi === this.#rtcDestMap.has(vcpuId)) return;
    if (pendingEoi) this.#rtcDestMap.set(vcpuId, this.vector(RTC_GSI));
    else this.#rtcDestMap.delete(vcpuId);
    this.#rtcPendingEoi += pendingEoi ? 1 : -1;
  }

  /** The vector whose EOI the clock awaits from a vCPU; undefined: none. ioapic.c:kvm_ioapic_scan_entry (6.1) */
  rtcVectorOf(vcpuId: number): number | undefined {
    return this.#rtcDestMap.get(vcpuId);
  }

  /** How many EOIs of the clock are awaited. */
  get rtcPendingEoi(): number {
    return this.#rtcPendingEoi;
  }

  /** Whether LAPICs have to report EOIs of this pin's vector: it is level-triggered, the clock, or listened to. */
  wantsEoi(pin: number, hasNotifier: boolean): boolean {
    return hasNotifier || pin === RTC_GSI || this.levelTriggered(pin);
  }

  vector(pin: number): number {
    return this.#redirtbl[8 * pin];
  }
  destId(pin: number): number {
    return this.#redirtbl[8 * pin + 7];
  }
  /** 0 physical, 0x800 logical */
  destMode(pin: number): number {
    return this.#low(pin) & DEST_LOGICAL;
  }
  levelTriggered(pin: number): boolean {
    return (this.#low(pin) & LEVEL) !== 0;
  }
  masked(pin: number): boolean {
    return (this.#low(pin) & MASK) !== 0;
  }

  /** The halves of a pin's entry. */
  #low(pin: number): number {
    return load32(this.#redirtbl, 8 * pin);
  }
  #setLow(pin: number, value: number): void {
    store32(this.#redirtbl, 8 * pin, value);
  }

  /** Whether an address is in the chip's window. */
  claims(address: number): boolean {
    const base = this.#baseHi * 0x1_0000_0000 + this.#baseLo;
    return address >= base && address < base + IOAPIC_MEM_LENGTH;
  }

  /** Reads a register: `size` bytes of it as an unsigned number (the upper half of 8 is 0). */
  read(address: number, size: number): number {
    const offset = address & 0xff;
    const value = offset === 0 ? this.#ioregsel : offset === 0x10 ? this.#readWindow() : 0;
    if (size === 8 || size === 4) return value;
    return size === 2 ? value & 0xffff : size === 1 ? value & 0xff : 0;
  }

  /** Writes a register (of 8 bytes, the lower four). What is left to do: MASK_CHANGED, LINE_PENDING, SCAN, … */
  write(address: number, value: number, size: number): number {
    if (size === 2) value &= 0xffff;
    else if (size === 1) value &= 0xff;
    else if (size !== 4 && size !== 8) return 0;
    const offset = address & 0xff;
    if (offset === 0) this.#ioregsel = value & 0xff;
    return offset === 0x10 ? this.#writeWindow(value >>> 0) : 0;
  }

  /** KVM_GET_IRQCHIP; edges that have left are not pending. ioapic.c:kvm_get_ioapic (6.1) */
  saveTo(bytes: Uint8Array, at: number): void {
    store32(bytes, at, this.#baseLo);
    store32(bytes, at + 4, this.#baseHi);
    store32(bytes, at + 8, this.#ioregsel);
    store32(bytes, at + 12, this.#id);
    store32(bytes, at + 16, this.#irr & ~this.#irrDelivered);
    store32(bytes, at + 20, this.#pad);
    bytes.set(this.#redirtbl, at + REDIRTBL);
  }

  /** KVM_SET_IRQCHIP: every bit is taken as it is. Answers the pins to `inject`, a bitmap. ioapic.c:kvm_set_ioapic (6.1) */
  loadFrom(bytes: Uint8Array, at: number): number {
    this.#baseLo = load32(bytes, at);
    this.#baseHi = load32(bytes, at + 4);
    this.#ioregsel = load32(bytes, at + 8);
    this.#id = load32(bytes, at + 12);
    this.#pad = load32(bytes, at + 20);
    this.#redirtbl.set(bytes.subarray(at + REDIRTBL, at + IOAPIC_STATE_SIZE));
    this.#irr = 0;
    this.#irrDelivered = 0;
    this.resetRtc();
    return load32(bytes, at + 16) & ((1 << IOAPIC_NUM_PINS) - 1);
  }

  /** ioapic.c:ioapic_set_irq (6.1), with the line up */
  #raise(pin: number, lineStatus: boolean): number {
    if (pin === RTC_GSI && lineStatus && this.#rtcPendingEoi > 0) return 0;
    const bit = 1 << pin;
    const wasPending = (this.#irr & bit) !== 0;
    this.#irr |= bit;
    const low = this.#low(pin);
    if (!(low & LEVEL)) {
      this.#irrDelivered &= ~bit;
      if (wasPending) return 0;
    }
    return this.#service(pin, low, lineStatus);
  }

  /** `low`: the lower half of the pin's entry */
  #service(pin: number, low: number, lineStatus: boolean): number {
    if (low & MASK || (low & LEVEL && low & REMOTE_IRR)) return -1;
    const message = this.message;
    message.vector = low & 0xff;
    message.deliveryMode = low & 0x700;
    message.destMode = low & DEST_LOGICAL;
    message.trigMode = low & LEVEL ? 1 : 0;
    message.destId = this.destId(pin);
    if (!(low & LEVEL)) this.#irrDelivered |= 1 << pin;
    this.messageDestMap = pin === RTC_GSI && lineStatus ? this.#rtcDestMap : null;
    this.#sentPin = pin;
    return SEND;
  }

  #readWindow(): number {
    switch (this.#ioregsel) {
      case 0: // identification
      case 2: // arbitration
        return (this.#id & 0xf) << 24;
      case 1: // version, and the number of the last pin
        return ((IOAPIC_NUM_PINS - 1) << 16) | 0x11;
    }
    const pin = ((this.#ioregsel - 0x10) >>> 0) >>> 1;
    if (pin >= IOAPIC_NUM_PINS) return 0xffff_ffff;
    return load32(this.#redirtbl, 8 * pin + 4 * (this.#ioregsel & 1));
  }

  /** ioapic.c:ioapic_write_indirect (6.1; 6.4 where the line is pending) */
  #writeWindow(value: number): number {
    if (this.#ioregsel === 0) this.#id = (value >> 24) & 0xf;
    const pin = ((this.#ioregsel - 0x10) >>> 0) >>> 1;
    if (pin >= IOAPIC_NUM_PINS) return 0;
    const before = this.#low(pin);
    this.writtenPin = pin;
    this.previousDestId = this.destId(pin);
    let low = before;
    if (this.#ioregsel & 1) store32(this.#redirtbl, 8 * pin + 4, value);
    else low = (value & ~(REMOTE_IRR | DELIVERY_STATUS)) | (before & (REMOTE_IRR | DELIVERY_STATUS));
    // a guest clears remote IRR without an EOI register by making the entry edge-triggered for a moment
    if (!(low & LEVEL)) low &= ~REMOTE_IRR;
    this.#setLow(pin, low);

    let left = SCAN;
    if ((low & 0x700) === 0) left |= SCAN_DESTINATIONS;
    if ((low ^ before) & MASK) left |= MASK_CHANGED;
    if (low & LEVEL && this.#irr & (1 << pin) && !(low & (MASK | REMOTE_IRR))) left |= LINE_PENDING;
    return left;
  }
}
