/**
 * The pair of 8259 interrupt controllers of a PC, as KVM holds them in the kernel: master at ports 0x20 and 0x21,
 * slave at 0xa0 and 0xa1 on the master's input 2, the trigger-mode registers ELCR at 0x4d0 and 0x4d1.
 *
 * An operation that ends interrupts (EOI commands, automatic EOI, polling, ICW1) leaves their numbers 0..15 in
 * `acked`: KVM runs its ack notifiers in the middle of such an operation, with the chip unlocked, and works out INTR
 * only afterwards. The caller does the same:
 *
 *     pic.write(port, value, 1, accepts);
 *     while (pic.acked !== 0) notifyAcked(pic.takeAck());   // a notifier may call setIrq
 *     pic.finish();
 *     if (pic.takeWakeup()) kickTheCpuThatTakesPicInterrupts();
 *
 * State layout (struct kvm_pic_state, 16 bytes, one per chip): last_irr irr imr isr priority_add irq_base
 * read_reg_select poll special_mask init_state auto_eoi rotate_on_auto_eoi special_fully_nested_mode init4 elcr
 * elcr_mask, one byte each.
 *
 * What KVM does not do is missing here too: special mask mode is stored and has no effect, single mode and
 * level-triggered mode of ICW1 are ignored. One thing is simpler: when both
 * chips end an interrupt automatically within one acknowledge cycle, both notifications come after it.
 */
import { EOPNOTSUPP } from "../abi/errno.ts";

export const PIC_NUM_PINS = 16;
/** bytes of struct kvm_pic_state */
export const PIC_STATE_SIZE = 16;
/** The master's input that the slave is wired to. */
const CASCADE = 2;

/** The registers of one 8259. Names as in struct kvm_pic_state. */
export class PicChip {
  /** the line as it was last seen, for edge detection */
  lastIrr = 0;
  irr = 0;
  imr = 0;
  isr = 0;
  /** the input that has the highest priority */
  priorityAdd = 0;
  irqBase = 0;
  readRegSelect = 0;
  poll = 0;
  specialMask = 0;
  /** 0: ready; 1, 2, 3: waits for ICW2, ICW3, ICW4 */
  initState = 0;
  autoEoi = 0;
  rotateOnAutoEoi = 0;
  specialFullyNestedMode = 0;
  init4 = 0;
  /** one bit an input: level-triggered */
  elcr = 0;
  /** the bits of ELCR that a guest may set */
  elcrMask: number;
  /** number of input 0 among the 16 of the pair */
  readonly firstIrq: number;

  constructor(firstIrq: number, elcrMask: number) {
    this.firstIrq = firstIrq;
    this.elcrMask = elcrMask;
  }

  /** Sets an input line: −1 masked, 0 the request was pending already, 1 a request. i8259.c:pic_set_irq1 (6.1) */
  setLine(input: number, level: boolean): number {
    const bit = 1 << input;
    let result = 1;
    if (!level) {
      if (this.elcr & bit) this.irr &= ~bit;
      this.lastIrr &= ~bit;
    } else {
      if (this.elcr & bit || !(this.lastIrr & bit)) {
        result = this.irr & bit ? 0 : 1;
        this.irr |= bit;
      }
      this.lastIrr |= bit;
    }
    return this.imr & bit ? -1 : result;
  }

  /** How far the most urgent input of a set is from the top; 8: the set is empty. i8259.c:get_priority (6.1) */
  priorityOf(set: number): number {
    if (set === 0) return 8;
    let priority = 0;
    while (priority < 8 && !(set & (1 << ((priority + this.priorityAdd) & 7)))) priority++;
    return priority;
  }

  /** The input whose request wins over what is in service, −1 if none. i8259.c:pic_get_irq (6.1) */
  pending(): number {
    const wanted = this.priorityOf(this.irr & ~this.imr);
    const ignored = this.specialFullyNestedMode && this.firstIrq === 0 ? 1 << CASCADE : 0;
    return wanted < this.priorityOf(this.isr & ~ignored) ? (wanted + this.priorityAdd) & 7 : -1;
  }

  saveTo(bytes: Uint8Array, at: number): void {
    bytes[at] = this.lastIrr;
    bytes[at + 1] = this.irr;
    bytes[at + 2] = this.imr;
    bytes[at + 3] = this.isr;
    bytes[at + 4] = this.priorityAdd;
    bytes[at + 5] = this.irqBase;
    bytes[at + 6] = this.readRegSelect;
    bytes[at + 7] = this.poll;
    bytes[at + 8] = this.specialMask;
    bytes[at + 9] = this.initState;
    bytes[at + 10] = this.autoEoi;
    bytes[at + 11] = this.rotateOnAutoEoi;
    bytes[at + 12] = this.specialFullyNestedMode;
    bytes[at + 13] = this.init4;
    bytes[at + 14] = this.elcr;
    bytes[at + 15] = this.elcrMask;
  }

  loadFrom(bytes: Uint8Array, at: number): void {
    this.lastIrr = bytes[at];
    this.irr = bytes[at + 1];
    this.imr = bytes[at + 2];
    this.isr = bytes[at + 3];
    this.priorityAdd = bytes[at + 4];
    this.irqBase = bytes[at + 5];
    this.readRegSelect = bytes[at + 6];
    this.poll = bytes[at + 7];
    this.specialMask = bytes[at + 8];
    this.initState = bytes[at + 9];
    this.autoEoi = bytes[at + 10];
    this.rotateOnAutoEoi = bytes[at + 11];
    this.specialFullyNestedMode = bytes[at + 12];
    this.init4 = bytes[at + 13];
    this.elcr = bytes[at + 14];
    this.elcrMask = bytes[at + 15];
  }
}

export class Pic {
  readonly master = new PicChip(0, 0xf8);
  readonly slave = new PicChip(8, 0xde);
  /** INTR, the line from the master to the processor */
  output = false;
  /** interrupts 0..15 that an operation has ended and whose ack notifiers have not run, a bitmap */
  acked = 0;
  /** inputs 0..15 whose mask bit the last write has turned over, a bitmap (for mask notifiers) */
  maskChanged = 0;
  /** INTR was low and has been worked out again: the processor has to look. i8259.c:pic_irq_request (6.1) */
  #wakeupNeeded = false;
  /** INTR has to be worked out once the ack notifiers have run */
  #updateNeeded = false;
  /** per input, one bit for each interrupt source that holds the line up */
  readonly #irqStates = new Uint32Array(PIC_NUM_PINS);

  /**
   * A source raises or lowers its hold on a line; the line is the OR of all sources. Answers < 0 masked or no such
   * line, 0 coalesced, 1 delivered. i8259.c:kvm_pic_set_irq (6.1)
   */
  setIrq(irq: number, level: boolean, sourceId: number): number {
    if (irq < 0 || irq >= PIC_NUM_PINS) return -1;
    if (level) this.#irqStates[irq] |= 1 << sourceId;
    else this.#irqStates[irq] &= ~(1 << sourceId);
    const result = this.#chip(irq).setLine(irq & 7, this.#irqStates[irq] !== 0);
    this.update();
    return result;
  }

  /** A source lets go of all lines; the lines stay as they are until set again. i8259.c:kvm_pic_clear_all (6.1) */
  clearSource(sourceId: number): void {
    for (let irq = 0; irq < PIC_NUM_PINS; irq++) this.#irqStates[irq] &= ~(1 << sourceId);
  }

  /** Works out INTR, the slave's request first. KVM_SET_IRQCHIP ends with it, whatever chip was set. */
  update(): void {
    this.#updateNeeded = false;
    if (this.slave.pending() >= 0) {
      this.master.setLine(CASCADE, true);
      this.master.setLine(CASCADE, false);
    }
    if (!this.output) this.#wakeupNeeded = true;
    this.output = this.master.pending() >= 0;
  }

  /** The next interrupt that `acked` holds, taken out of it; −1 if there is none. */
  takeAck(): number {
    if (this.acked === 0) return -1;
    const irq = 31 - Math.clz32(this.acked & -this.acked);
    this.acked &= ~(1 << irq);
    return irq;
  }

  /** What is left of an operation after its ack notifiers. */
  finish(): void {
    if (this.#updateNeeded) this.update();
  }

  /** Whether a processor that accepts PIC interrupts has to be kicked; asking takes the note away. */
  takeWakeup(): boolean {
    const needed = this.#wakeupNeeded;
    this.#wakeupNeeded = false;
    return needed;
  }

  /** The processor acknowledges INTR: the vector, of 8 bits. i8259.c:kvm_pic_read_irq (6.1) */
  readIrq(): number {
    this.output = false;
    this.#updateNeeded = true;
    const irq = this.master.pending();
    if (irq >= 0) this.#acknowledge(this.master, irq);
    let vector = this.master.irqBase + (irq >= 0 ? irq : 7);
    if (irq === CASCADE) {
      const input = this.slave.pending();
      if (input >= 0) this.#acknowledge(this.slave, input);
      vector = this.slave.irqBase + (input >= 0 ? input : 7);
    }
    if (this.acked === 0) this.finish();
    return vector & 0xff;
  }

  /**
   * Writes a port. `accepts`: some processor takes PIC interrupts at present (its LAPIC's LINT0 passes them, or it has
   * none); ICW1 ends pending edges only then. 0, or −EOPNOTSUPP for a port that is not here.
   */
  write(port: number, value: number, size: number, accepts: boolean): number {
    this.maskChanged = 0;
    const chip = this.#at(port);
    if (chip === undefined) return -EOPNOTSUPP;
    if (size !== 1) return 0;
    value &= 0xff;
    if (port >= 0x4d0) chip.elcr = value & chip.elcrMask;
    else if (port & 1) this.#writeData(chip, value);
    else if (value & 0x10) this.#reset(chip, value, accepts);
    else if (value & 0x08) this.#ocw3(chip, value);
    else this.#ocw2(chip, value);
    return 0;
  }

  /** Reads a port: the byte, or −EOPNOTSUPP for a port that is not here. A pending poll command is answered first. */
  read(port: number, size: number): number {
    const chip = this.#at(port);
    if (chip === undefined) return -EOPNOTSUPP;
    if (size !== 1) return 0;
    if (port >= 0x4d0) return chip.elcr;
    if (chip.poll) return this.#poll(chip);
    if (port & 1) return chip.imr;
    return chip.readRegSelect ? chip.isr : chip.irr;
  }

  #chip(irq: number): PicChip {
    return irq < 8 ? this.master : this.slave;
  }

  #at(port: number): PicChip | undefined {
    switch (port) {
      case 0x20:
      case 0x21:
      case 0x4d0:
        return this.master;
      case 0xa0:
      case 0xa1:
      case 0x4d1:
        return this.slave;
      default:
        return undefined;
    }
  }

  /** The request becomes an interrupt in service; a level-triggered request stays. i8259.c:pic_intack (6.1) */
  #acknowledge(chip: PicChip, input: number): void {
    chip.isr |= 1 << input;
    if (!(chip.elcr & (1 << input))) chip.irr &= ~(1 << input);
    if (!chip.autoEoi) return;
    if (chip.rotateOnAutoEoi) chip.priorityAdd = (input + 1) & 7;
    this.#end(chip, input);
  }

  /** The interrupt is over. i8259.c:pic_clear_isr (6.1) */
  #end(chip: PicChip, input: number): void {
    chip.isr &= ~(1 << input);
    this.acked |= 1 << (chip.firstIrq + input);
  }

  /** ICW1. Registers that it does not name keep their value, ISR among them. i8259.c:kvm_pic_reset (6.1) */
  #reset(chip: PicChip, icw1: number, accepts: boolean): void {
    const edges = chip.irr & ~chip.elcr;
    chip.init4 = icw1 & 1;
    chip.lastIrr = 0;
    chip.irr &= chip.elcr;
    chip.imr = 0;
    chip.priorityAdd = 0;
    chip.specialMask = 0;
    chip.readRegSelect = 0;
    if (!chip.init4) {
      chip.specialFullyNestedMode = 0;
      chip.autoEoi = 0;
    }
    chip.initState = 1;
    if (!accepts) return;
    for (let input = 0; input < 8; input++) if (edges & (1 << input)) this.#end(chip, input);
  }

  #ocw2(chip: PicChip, value: number): void {
    const command = value >> 5;
    switch (command) {
      case 0: // rotate in automatic EOI mode: clear
      case 4: // … set
        chip.rotateOnAutoEoi = command >> 2;
        break;
      case 1: // non-specific EOI
      case 5: // … with rotation
        {
          const priority = chip.priorityOf(chip.isr);
          if (priority === 8) break;
          const input = (priority + chip.priorityAdd) & 7;
          if (command === 5) chip.priorityAdd = (input + 1) & 7;
          this.#end(chip, input);
          this.#updateNeeded = true;
        }
        break;
      case 7: // specific EOI with rotation
      case 3: // specific EOI
        if (command === 7) chip.priorityAdd = (value + 1) & 7;
        this.#end(chip, value & 7);
        this.#updateNeeded = true;
        break;
      case 6: // set priority
        chip.priorityAdd = (value + 1) & 7;
        this.update();
        break;
    }
  }

  #ocw3(chip: PicChip, value: number): void {
    if (value & 0x04) chip.poll = 1;
    if (value & 0x02) chip.readRegSelect = value & 1;
    if (value & 0x40) chip.specialMask = (value >> 5) & 1;
  }

  /** OCW1, or the initialisation command word that is awaited. */
  #writeData(chip: PicChip, value: number): void {
    switch (chip.initState) {
      case 0:
        this.maskChanged = (chip.imr ^ value) << chip.firstIrq;
        chip.imr = value;
        this.update();
        break;
      case 1:
        chip.irqBase = value & 0xf8;
        chip.initState = 2;
        break;
      case 2:
        chip.initState = chip.init4 ? 3 : 0;
        break;
      case 3:
        chip.specialFullyNestedMode = (value >> 4) & 1;
        chip.autoEoi = (value >> 1) & 1;
        chip.initState = 0;
        break;
    }
  }

  /**
   * Takes and ends the winning request in one go: bit 7 and its input; 7 if there is none. i8259.c:pic_poll_read (6.1),
   * where bit 7 is missing; 6.18 sets it.
   */
  #poll(chip: PicChip): number {
    chip.poll = 0;
    const input = chip.pending();
    if (input < 0) {
      this.update();
      return 7;
    }
    if (chip === this.slave) {
      this.master.isr &= ~(1 << CASCADE);
      this.master.irr &= ~(1 << CASCADE);
    }
    chip.irr &= ~(1 << input);
    this.#end(chip, input);
    if (chip === this.slave || input !== CASCADE) this.#updateNeeded = true;
    return 0x80 | input;
  }
}
