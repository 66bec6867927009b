import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  DELAYED,
  IOAPIC_NUM_PINS,
  IOAPIC_STATE_SIZE,
  Ioapic,
  LINE_PENDING,
  MASK_CHANGED,
  RTC_GSI,
  SCAN,
  SCAN_DESTINATIONS,
  SEND,
  SUCCESSIVE_IRQ_MAX_COUNT,
} from "../../lib/hardware/ioapic.ts";

const BASE = 0xfec0_0000;
const WINDOW = BASE + 0x10;
const LEVEL = 0x8000;
const REMOTE_IRR = 0x4000;
const POLARITY = 0x2000;
const MASK = 0x1_0000;

function writeRegister(ioapic: Ioapic, register: number, value: number): number {
  ioapic.write(BASE, register, 4);
  return ioapic.write(WINDOW, value, 4);
}
function readRegister(ioapic: Ioapic, register: number): number {
  ioapic.write(BASE, register, 4);
  return ioapic.read(WINDOW, 4);
}
const low = (pin: number): number => 0x10 + 2 * pin;
const high = (pin: number): number => 0x11 + 2 * pin;

function stateOf(ioapic: Ioapic): Buffer {
  const bytes = Buffer.alloc(IOAPIC_STATE_SIZE);
  ioapic.saveTo(bytes, 0);
  return bytes;
}
const pendingOf = (ioapic: Ioapic): number => stateOf(ioapic).readUInt32LE(16);

/** The LAPICs, as far as they matter here: each message counts, and the answer is always the same. */
class Bus {
  sent = 0;
  vectors: number[] = [];
  readonly ioapic: Ioapic;
  answer: number;
  constructor(ioapic: Ioapic, answer = 1) {
    this.ioapic = ioapic;
    this.answer = answer;
  }
  finish(result: number): number {
    if (result !== SEND) return result;
    this.sent++;
    this.vectors.push(this.ioapic.message.vector);
    if (this.answer > 0) this.ioapic.messageDestMap?.set(0, this.ioapic.message.vector);
    return this.ioapic.sent(this.answer);
  }
  /** A write as the caller has to do it, without a resampler. */
  writeRegister(register: number, value: number): void {
    const left = writeRegister(this.ioapic, register, value);
    if (left & LINE_PENDING) this.finish(this.ioapic.service(this.ioapic.writtenPin));
  }
  /** An EOI as the caller has to do it; `notify` stands for the ack notifiers. */
  eoi(vector: number, levelTriggered: boolean, notify?: (pin: number) => void): number[] {
    const pins: number[] = [];
    this.ioapic.rtcEoi(0, vector);
    for (let pin = this.ioapic.nextPin(vector, 0); pin >= 0; pin = this.ioapic.nextPin(vector, pin + 1)) {
      pins.push(pin);
      notify?.(pin);
      this.finish(this.ioapic.eoi(pin, levelTriggered, false));
    }
    return pins;
  }
}

describe("one pin against the naive twin", () => {
  const operations = ["raise", "lower", "eoi", "mask", "unmask"] as const;

  /** What the datasheet and KVM's additions say about one pin, in words. */
  class NaivePin {
    up = false;
    waitsForEoi = false;
    /** edges: an edge that came while masked waits, is never sent, and swallows the edges after it */
    edgeKept = false;
    visible = false;
    sent = 0;
    readonly level: boolean;
    masked: boolean;
    readonly answer: number;
    constructor(level: boolean, masked: boolean, answer: number) {
      this.level = level;
      this.masked = masked;
      this.answer = answer;
    }
    do(operation: (typeof operations)[number]): number {
      switch (operation) {
        case "raise":
          if (this.level) {
            this.up = true;
            this.visible = true;
            return this.tryLevel();
          }
          if (this.edgeKept) {
            this.visible = true;
            return 0;
          }
          this.edgeKept = true;
          this.visible = this.masked;
          if (this.masked) return -1;
          this.sent++;
          return this.answer;
        case "lower":
          this.up = false;
          this.edgeKept = false;
          this.visible = false;
          return 1;
        case "eoi":
          if (!this.level) return 0;
          this.waitsForEoi = false;
          if (this.up) this.tryLevel();
          return 0;
        default:
          this.masked = operation === "mask";
          if (this.up) this.tryLevel();
          return 0;
      }
    }
    tryLevel(): number {
      if (this.masked || this.waitsForEoi) return -1;
      this.sent++;
      this.waitsForEoi = this.answer !== 0;
      return this.answer;
    }
  }

  test("every history of six steps × trigger × polarity × mask × result of delivery", () => {
    const length = 6;
    const pin = 5;
    let histories = 0;
    for (const trigger of [0, LEVEL])
      for (const polarity of [0, POLARITY])
        for (const mask of [0, MASK])
          for (const answer of [-1, 0, 1])
            for (let n = 0; n < operations.length ** length; n++) {
              const ioapic = new Ioapic();
              const bus = new Bus(ioapic, answer);
              const twin = new NaivePin(trigger !== 0, mask !== 0, answer);
              const entry = 0x31 | trigger | polarity;
              writeRegister(ioapic, low(pin), entry | mask);
              const history: string[] = [];
              for (let i = 0, rest = n; i < length; i++, rest = Math.floor(rest / operations.length)) {
                const operation = operations[rest % operations.length];
                history.push(operation);
                let got = 0;
                if (operation === "raise") got = bus.finish(ioapic.setIrq(pin, 0, true, true));
                else if (operation === "lower") got = bus.finish(ioapic.setIrq(pin, 0, false, true));
                else if (operation === "eoi") bus.eoi(0x31, trigger !== 0);
                else bus.writeRegister(low(pin), entry | (operation === "mask" ? MASK : 0));
                const wanted = twin.do(operation);
                const remoteIrr = (readRegister(ioapic, low(pin)) & REMOTE_IRR) !== 0;
                const visible = i === length - 1 ? pendingOf(ioapic) !== 0 : twin.visible;
                if (
                  got !== wanted ||
                  bus.sent !== twin.sent ||
                  remoteIrr !== twin.waitsForEoi ||
                  visible !== twin.visible
                )
                  expect({
                    trigger,
                    polarity,
                    mask,
                    answer,
                    history,
                    got,
                    sent: bus.sent,
                    remoteIrr,
                    visible,
                  }).toEqual({
                    ...{ trigger, polarity, mask, answer, history, got: wanted, sent: twin.sent },
                    ...{ remoteIrr: twin.waitsForEoi, visible: twin.visible },
                  });
              }
              histories++;
            }
    expect(histories).toBe(2 * 2 * 2 * 3 * 15_625);
  }, 60_000);
});

describe("recorded on 6.18", () => {
  /**
   * One vCPU, LAPIC id 0 with its logical destination 0. The recorded guest took an interrupt and its EOI at once
   * (operation "inta"); "eoi" alone found nothing in service. Pins 0, 3, 8, 17 and 23 were used.
   */
  test("500 random operations: answers and states", () => {
    const ioapic = new Ioapic();
    const waiting = new Set<number>();
    const levelVectors = new Set<number>();
    let handled = new Set<number>();
    let scanNeeded = true;
    const addressed = (destId: number, destMode: number) =>
      destId === 0xff || (destMode === 0 && destId === 0);
    const deliver = (): number => {
      const { vector, deliveryMode, destId, destMode, trigMode } = ioapic.message;
      if (!addressed(destId, destMode) || deliveryMode === 0x700) return 0;
      if (deliveryMode === 0x300) return 1;
      waiting.add(vector);
      if (trigMode) levelVectors.add(vector);
      else levelVectors.delete(vector);
      ioapic.messageDestMap?.set(0, vector);
      return 1;
    };
    const finish = (result: number) => (result === SEND ? ioapic.sent(deliver()) : result);
    const scan = (): void => {
      handled = new Set();
      const rtc = ioapic.rtcVectorOf(0);
      if (rtc !== undefined) handled.add(rtc);
      for (let pin = 0; pin < IOAPIC_NUM_PINS; pin++) {
        const vector = ioapic.vector(pin);
        if (!ioapic.wantsEoi(pin, false)) continue;
        if (addressed(ioapic.destId(pin), ioapic.destMode(pin)) || waiting.has(vector)) handled.add(vector);
      }
      scanNeeded = false;
    };
    const take = (): number => {
      const vector = Math.max(-1, ...waiting);
      if (vector < 0) return -1;
      waiting.delete(vector);
      scanNeeded = true;
      if (!handled.has(vector)) return vector;
      ioapic.rtcEoi(0, vector);
      for (let pin = ioapic.nextPin(vector, 0); pin >= 0; pin = ioapic.nextPin(vector, pin + 1))
        finish(ioapic.eoi(pin, levelVectors.has(vector), false));
      return vector;
    };
    const write = (register: number, value: number): number => {
      const left = writeRegister(ioapic, register, value);
      if (left & LINE_PENDING) finish(ioapic.service(ioapic.writtenPin));
      if (left & SCAN) scan();
      return 0;
    };
    const set = (hex: string): number => {
      const irr = ioapic.loadFrom(Buffer.from(hex, "hex"), 0);
      for (let pin = 0; pin < IOAPIC_NUM_PINS; pin++) if (irr & (1 << pin)) finish(ioapic.inject(pin));
      ioapic.resetRtc();
      const hit = addressed(ioapic.destId(RTC_GSI), ioapic.destMode(RTC_GSI));
      ioapic.restoreRtc(0, hit, waiting.has(ioapic.vector(RTC_GSI)));
      scanNeeded = true;
      return 0;
    };
    const shortState = (): string => {
      const state = stateOf(ioapic).toString("hex");
      return (
        state.slice(16, 48) + [0, 3, 8, 17, 23].map((p) => state.slice(48 + 16 * p, 64 + 16 * p)).join("")
      );
    };

    const lines = readFileSync(new URL("../../fixtures/chips/ioapic-6.18.jsonl", import.meta.url), "utf8");
    let steps = 0;
    for (const text of lines.trimEnd().split("\n")) {
      const [operation, answer, state] = JSON.parse(text);
      const [name, a, b] = operation;
      if (scanNeeded && name !== "line" && name !== "set") scan();
      let got = 0;
      if (name === "line") got = finish(ioapic.setIrq(a, 0, b === 1, true));
      else if (name === "inta") got = take();
      else if (name === "rd") got = readRegister(ioapic, a);
      else if (name === "wr") got = write(a, b);
      else if (name === "set") got = set(a);
      expect([steps, operation, got, shortState()]).toEqual([steps, operation, answer, state]);
      steps++;
    }
    expect(steps).toBe(500);
  });

  test("after creation", () => {
    const wanted = Buffer.alloc(IOAPIC_STATE_SIZE);
    wanted.writeUInt32LE(BASE, 0);
    for (let pin = 0; pin < IOAPIC_NUM_PINS; pin++) wanted.writeUInt32LE(MASK, 24 + 8 * pin);
    expect(stateOf(new Ioapic()).equals(wanted)).toBe(true);
  });

  test("KVM_SET_IRQCHIP takes every bit; but of irr what was sent is not pending", () => {
    const ioapic = new Ioapic();
    const bus = new Bus(ioapic);
    const state = Buffer.alloc(IOAPIC_STATE_SIZE, 0xff);
    state.writeUInt32LE(0x34, 24 + 8 * 4); // edge
    state.writeUInt32LE(0xa035, 24 + 8 * 5); // level
    state.writeUInt32LE(1, 28 + 8 * 5);
    const irr = ioapic.loadFrom(state, 0);
    expect(irr).toBe(0xff_ffff);
    for (let pin = 0; pin < IOAPIC_NUM_PINS; pin++) bus.finish(ioapic.inject(pin));
    expect(bus.vectors).toEqual([0x34, 0x35]);
    state.writeUInt32LE(0xff_ffef, 16);
    state.writeUInt32LE(0xe035, 24 + 8 * 5); // remote IRR
    expect(stateOf(ioapic).equals(state)).toBe(true);
  });
});

describe("registers", () => {
  test("identification, version, arbitration, and nothing beyond the table", () => {
    const ioapic = new Ioapic();
    writeRegister(ioapic, 0, 0xffff_ffff);
    writeRegister(ioapic, 1, 0xffff_ffff);
    writeRegister(ioapic, 2, 0);
    expect([0, 1, 2].map((r) => readRegister(ioapic, r))).toEqual([0x0f00_0000, 0x0017_0011, 0x0f00_0000]);
    for (const register of [3, 0x0f, 0x40, 0x41, 0xff]) {
      expect(writeRegister(ioapic, register, 0)).toBe(0);
      expect(readRegister(ioapic, register)).toBe(0xffff_ffff);
    }
  });

  test("the selector has 8 bits, narrow accesses take and give the low bytes, other offsets are 0", () => {
    const ioapic = new Ioapic();
    ioapic.write(BASE, 0x1234_5601, 4);
    expect([ioapic.read(BASE, 4), ioapic.read(WINDOW, 2), ioapic.read(WINDOW, 1)]).toEqual([1, 0x11, 0x11]);
    expect([ioapic.read(WINDOW, 8), ioapic.read(WINDOW, 3), ioapic.read(BASE + 4, 4)]).toEqual([
      0x17_0011, 0, 0,
    ]);
    ioapic.write(BASE, low(3), 1);
    ioapic.write(WINDOW, 0xffff_ff41, 1);
    expect(ioapic.read(WINDOW, 4)).toBe(0x41);
    expect(ioapic.write(WINDOW, 0, 3)).toBe(0);
    expect(ioapic.read(WINDOW, 4)).toBe(0x41);
  });

  test("remote IRR and delivery status are read-only; turning edge-triggered clears remote IRR", () => {
    const ioapic = new Ioapic();
    const bus = new Bus(ioapic);
    writeRegister(ioapic, low(3), 0xffff_ffff);
    expect(readRegister(ioapic, low(3))).toBe(0xffff_afff);
    writeRegister(ioapic, low(3), 0x31 | LEVEL);
    expect(bus.finish(ioapic.setIrq(3, 0, true, true))).toBe(1);
    writeRegister(ioapic, low(3), 0x31 | LEVEL | MASK);
    expect(readRegister(ioapic, low(3))).toBe(0x31 | LEVEL | MASK | REMOTE_IRR);
    writeRegister(ioapic, low(3), 0x31 | MASK);
    expect(readRegister(ioapic, low(3))).toBe(0x31 | MASK);
  });

  test("what a write leaves to do", () => {
    const ioapic = new Ioapic();
    const bus = new Bus(ioapic);
    expect(writeRegister(ioapic, low(3), 0x31 | LEVEL)).toBe(SCAN | SCAN_DESTINATIONS | MASK_CHANGED);
    expect(writeRegister(ioapic, high(3), 0x0500_0000)).toBe(SCAN | SCAN_DESTINATIONS);
    expect([ioapic.writtenPin, ioapic.previousDestId, ioapic.destId(3)]).toEqual([3, 0, 5]);
    expect(writeRegister(ioapic, low(3), 0x131 | LEVEL | MASK)).toBe(SCAN | MASK_CHANGED);
    expect(bus.finish(ioapic.setIrq(3, 0, true, true))).toBe(-1);
    expect(writeRegister(ioapic, low(3), 0x131 | LEVEL)).toBe(SCAN | MASK_CHANGED | LINE_PENDING);
    expect(bus.finish(ioapic.service(3))).toBe(1);
    expect(writeRegister(ioapic, low(3), 0x131 | LEVEL)).toBe(SCAN);
  });

  test("a resampler takes a pending line over when it is unmasked", () => {
    const ioapic = new Ioapic();
    const bus = new Bus(ioapic);
    writeRegister(ioapic, low(3), 0x31 | LEVEL | MASK);
    ioapic.setIrq(3, 1, true, false);
    expect(writeRegister(ioapic, low(3), 0x31 | LEVEL) & LINE_PENDING).toBe(LINE_PENDING);
    ioapic.clearPending(3);
    expect(pendingOf(ioapic)).toBe(0);
    expect(bus.finish(ioapic.setIrq(3, 1, true, false))).toBe(1);
    expect(bus.sent).toBe(1);
  });

  test("the window is at the base address that was set", () => {
    const ioapic = new Ioapic();
    expect([BASE - 1, BASE, BASE + 0xff, BASE + 0x100].map((a) => ioapic.claims(a))).toEqual([
      false,
      true,
      true,
      false,
    ]);
    const state = stateOf(ioapic);
    state.writeUInt32LE(0xfec0_0080, 0);
    ioapic.loadFrom(state, 0);
    expect([ioapic.claims(BASE), ioapic.claims(BASE + 0x80)]).toEqual([false, true]);
    state.writeUInt32LE(1, 4);
    ioapic.loadFrom(state, 0);
    expect(ioapic.claims(BASE + 0x80)).toBe(false);
  });
});

test("a message carries the entry's fields in KVM's encodings", () => {
  const ioapic = new Ioapic();
  writeRegister(ioapic, low(23), 0x0d42 | LEVEL);
  writeRegister(ioapic, high(23), 0xab12_3456);
  expect(ioapic.setIrq(23, 0, true, true)).toBe(SEND);
  expect(ioapic.message).toEqual({
    vector: 0x42,
    deliveryMode: 0x500,
    destMode: 0x800,
    destId: 0xab,
    trigMode: 1,
    level: 1,
    shorthand: 0,
    msiRedirHint: false,
  });
  expect(ioapic.messageDestMap).toBe(null);
});

describe("lines", () => {
  test("a line is up while any source holds it", () => {
    const ioapic = new Ioapic();
    const bus = new Bus(ioapic);
    writeRegister(ioapic, low(4), 0x34);
    expect(bus.finish(ioapic.setIrq(4, 0, true, true))).toBe(1);
    expect(bus.finish(ioapic.setIrq(4, 1, true, true))).toBe(0);
    expect(bus.finish(ioapic.setIrq(4, 0, false, true))).toBe(0);
    expect(bus.finish(ioapic.setIrq(4, 1, false, true))).toBe(1);
    expect(bus.finish(ioapic.setIrq(4, 1, true, true))).toBe(1);
    ioapic.clearSource(1);
    expect(bus.finish(ioapic.setIrq(4, 0, false, true))).toBe(1);
    expect(bus.sent).toBe(2);
    expect([ioapic.setIrq(-1, 0, true, true), ioapic.setIrq(24, 0, true, true)]).toEqual([-1, -1]);
  });

  test("an EOI reaches every pin of its vector; notifiers come before a line is looked at again", () => {
    const ioapic = new Ioapic();
    const bus = new Bus(ioapic);
    for (const pin of [3, 7, 20]) {
      writeRegister(ioapic, low(pin), 0x41 | LEVEL);
      bus.finish(ioapic.setIrq(pin, 1, true, false));
    }
    expect(bus.sent).toBe(3);
    const lower7 = (pin: number): void => void (pin === 7 && ioapic.setIrq(7, 1, false, false));
    expect(bus.eoi(0x41, true, lower7)).toEqual([3, 7, 20]);
    expect(bus.sent).toBe(5);
    const remote = [3, 7, 20].map((pin) => (readRegister(ioapic, low(pin)) & REMOTE_IRR) !== 0);
    expect(remote).toEqual([true, false, true]);
    expect(bus.eoi(0x42, true)).toEqual([]);
  });

  test("an EOI that is not broadcast, and one of an edge, leave remote IRR alone", () => {
    const ioapic = new Ioapic();
    const bus = new Bus(ioapic);
    writeRegister(ioapic, low(3), 0x41 | LEVEL);
    bus.finish(ioapic.setIrq(3, 0, true, false));
    expect([ioapic.eoi(3, true, true), ioapic.eoi(3, false, false)]).toEqual([0, 0]);
    expect(readRegister(ioapic, low(3)) & REMOTE_IRR).toBe(REMOTE_IRR);
  });

  test("the 10000th EOI in a row with the line up is put off; one with the line down starts over", () => {
    const ioapic = new Ioapic();
    const bus = new Bus(ioapic);
    writeRegister(ioapic, low(3), 0x41 | LEVEL);
    bus.finish(ioapic.setIrq(3, 0, true, false));
    for (let round = 0; round < 2; round++) {
      for (let n = 1; n < SUCCESSIVE_IRQ_MAX_COUNT; n++) bus.finish(ioapic.eoi(3, true, false));
      expect(bus.sent).toBe((round + 1) * SUCCESSIVE_IRQ_MAX_COUNT);
      expect(ioapic.eoi(3, true, false)).toBe(DELAYED);
      for (let pin = 0; pin < IOAPIC_NUM_PINS; pin++) bus.finish(ioapic.redeliver(pin));
      expect(bus.sent).toBe((round + 1) * SUCCESSIVE_IRQ_MAX_COUNT + 1);
    }
    bus.sent = 0;
    for (let n = 1; n < SUCCESSIVE_IRQ_MAX_COUNT; n++) bus.finish(ioapic.eoi(3, true, false));
    ioapic.setIrq(3, 0, false, false);
    expect(ioapic.eoi(3, true, false)).toBe(0);
    bus.finish(ioapic.setIrq(3, 0, true, false));
    expect(ioapic.eoi(3, true, false)).toBe(SEND);
  });
});

describe("the clock's pin", () => {
  function clock(): [Ioapic, Bus] {
    const ioapic = new Ioapic();
    writeRegister(ioapic, low(RTC_GSI), 0x51);
    return [ioapic, new Bus(ioapic)];
  }
  const tick = (ioapic: Ioapic, bus: Bus, lineStatus: boolean): number => {
    const result = bus.finish(ioapic.setIrq(RTC_GSI, 0, true, lineStatus));
    ioapic.setIrq(RTC_GSI, 0, false, lineStatus);
    return result;
  };

  test("a tick before the EOI of the last one is coalesced, if the caller asks", () => {
    const [ioapic, bus] = clock();
    expect([tick(ioapic, bus, true), tick(ioapic, bus, true)]).toEqual([1, 0]);
    expect([ioapic.rtcPendingEoi, ioapic.rtcVectorOf(0)]).toEqual([1, 0x51]);
    bus.eoi(0x52, false);
    expect(tick(ioapic, bus, true)).toBe(0);
    expect(tick(ioapic, bus, false)).toBe(1);
    bus.eoi(0x51, false);
    expect(ioapic.rtcPendingEoi).toBe(0);
    expect(tick(ioapic, bus, true)).toBe(1);
    expect(bus.sent).toBe(3);
  });

  test("with the caller not asking nothing is awaited, nor when nobody took it", () => {
    const [ioapic, bus] = clock();
    expect([tick(ioapic, bus, false), tick(ioapic, bus, false), ioapic.rtcPendingEoi]).toEqual([1, 1, 0]);
    bus.answer = -1;
    expect([tick(ioapic, bus, true), tick(ioapic, bus, true), ioapic.rtcPendingEoi]).toEqual([-1, -1, 0]);
  });

  test("what is awaited is found again from the LAPICs", () => {
    const [ioapic] = clock();
    ioapic.restoreRtc(0, true, true);
    ioapic.restoreRtc(0, true, true);
    ioapic.restoreRtc(1, true, true);
    ioapic.restoreRtc(2, false, true);
    expect(ioapic.rtcPendingEoi).toBe(2);
    ioapic.restoreRtc(1, true, false);
    ioapic.rtcEoi(0, 0x51);
    ioapic.rtcEoi(0, 0x51);
    expect(ioapic.rtcPendingEoi).toBe(0);
  });

  test("EOIs are wanted of level-triggered pins, the clock, and pins with a notifier", () => {
    const [ioapic] = clock();
    writeRegister(ioapic, low(3), 0x31 | LEVEL);
    expect([3, 4, RTC_GSI].map((pin) => ioapic.wantsEoi(pin, false))).toEqual([true, false, true]);
    expect(ioapic.wantsEoi(4, true)).toBe(true);
  });
});

test("the clock's interrupt is tracked when its line brought it, and not when unmasking or an EOI did", () => {
  const CLOCK = 0x31;
  for (const by of ["line", "unmask", "eoi"] as const) {
    const ioapic = new Ioapic();
    const bus = new Bus(ioapic);
    bus.writeRegister(high(RTC_GSI), 0);
    bus.writeRegister(low(RTC_GSI), LEVEL | CLOCK | (by === "unmask" ? MASK : 0));
    bus.finish(ioapic.setIrq(RTC_GSI, 0, true, by !== "eoi"));
    if (by === "unmask") bus.writeRegister(low(RTC_GSI), LEVEL | CLOCK);
    if (by === "eoi") bus.eoi(CLOCK, true);
    expect([by, bus.sent, ioapic.rtcPendingEoi]).toEqual([by, by === "eoi" ? 2 : 1, by === "line" ? 1 : 0]);
  }
});
