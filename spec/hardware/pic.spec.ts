import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { EOPNOTSUPP } from "../../lib/abi/errno.ts";
import { PIC_STATE_SIZE, Pic } from "../../lib/hardware/pic.ts";

/** Ends an operation without notifiers: which interrupts were acknowledged, in order. */
function drain(pic: Pic): number[] {
  const acked: number[] = [];
  while (pic.acked !== 0) acked.push(pic.takeAck());
  pic.finish();
  return acked;
}

function stateOf(pic: Pic): string {
  const bytes = Buffer.alloc(2 * PIC_STATE_SIZE);
  pic.master.saveTo(bytes, 0);
  pic.slave.saveTo(bytes, PIC_STATE_SIZE);
  return bytes.toString("hex");
}

function load(pic: Pic, chip: "master" | "slave", hex: string): void {
  pic[chip].loadFrom(Buffer.from(hex, "hex"), 0);
  pic.update();
}

/** As firmware sets it up: master at vector 0x08, slave at 0x70, nothing masked. */
function initialised(icw4 = 0x01): Pic {
  const pic = new Pic();
  for (const [base, vectors, cascade] of [
    [0x20, 0x08, 0x04],
    [0xa0, 0x70, 0x02],
  ]) {
    pic.write(base, 0x11, 1, true);
    pic.write(base + 1, vectors, 1, true);
    pic.write(base + 1, cascade, 1, true);
    pic.write(base + 1, icw4, 1, true);
    pic.write(base + 1, 0, 1, true);
  }
  return pic;
}

/**
 * The naive twin. Inputs are objects, priorities a list that is turned round, EOIs are looked for by walking the list.
 * The slave asks the master by a short pulse on input 2, again with every update.
 */
interface Input {
  number: number;
  up: boolean;
  levelTriggered: boolean;
  masked: boolean;
  requested: boolean;
  inService: boolean;
}

class NaiveChip {
  inputs: Input[] = Array.from({ length: 8 }, (_, number) => ({
    number,
    up: false,
    levelTriggered: false,
    masked: false,
    requested: false,
    inService: false,
  }));
  /** most urgent first */
  order = [...this.inputs];

  lowestIs(number: number): void {
    while (this.order[7].number !== number) this.order.push(this.order.shift()!);
  }
  set(number: number, up: boolean): number {
    const input = this.inputs[number];
    let answer = 1;
    if (up && (input.levelTriggered || !input.up)) {
      answer = input.requested ? 0 : 1;
      input.requested = true;
    }
    if (!up && input.levelTriggered) input.requested = false;
    input.up = up;
    return input.masked ? -1 : answer;
  }
  winner(): Input | undefined {
    for (const input of this.order) {
      if (input.inService) return undefined;
      if (input.requested && !input.masked) return input;
    }
    return undefined;
  }
  take(input: Input): void {
    input.inService = true;
    if (!input.levelTriggered) input.requested = false;
  }
}

class NaivePic {
  chips = [new NaiveChip(), new NaiveChip()];
  intr = false;

  update(): void {
    if (this.chips[1].winner() !== undefined) {
      this.chips[0].set(2, true);
      this.chips[0].set(2, false);
    }
    this.intr = this.chips[0].winner() !== undefined;
  }
  set(irq: number, up: boolean): number {
    const answer = this.chips[irq >> 3].set(irq % 8, up);
    this.update();
    return answer;
  }
  acknowledge(): number {
    const first = this.chips[0].winner();
    let vector = 0x08 + 7;
    if (first !== undefined) {
      this.chips[0].take(first);
      vector = 0x08 + first.number;
      if (first.number === 2) {
        const second = this.chips[1].winner();
        if (second !== undefined) this.chips[1].take(second);
        vector = 0x70 + (second?.number ?? 7);
      }
    }
    this.update();
    return vector;
  }
  command(chip: number, value: number): number[] {
    const { order, inputs } = this.chips[chip];
    const rotate = (value & 0x80) !== 0;
    const specific = (value & 0x40) !== 0;
    if (!(value & 0x20)) {
      if (rotate && specific) {
        this.chips[chip].lowestIs(value & 7);
        this.update();
      }
      return [];
    }
    const ended = specific ? inputs[value & 7] : order.find((input) => input.inService);
    // "specific, no rotation, EOI" is 011; 010 does nothing
    if (ended === undefined) return [];
    ended.inService = false;
    if (rotate) this.chips[chip].lowestIs(ended.number);
    this.update();
    return [chip * 8 + ended.number];
  }
}

describe("against the naive twin", () => {
  type Step = readonly [label: string, real: (p: Pic) => unknown, twin: (p: NaivePic) => unknown];
  const line = (irq: number, up: boolean): Step => [
    `${irq} ${up ? "up" : "down"}`,
    (p) => [p.setIrq(irq, up, 0), drain(p)],
    (p) => [p.set(irq, up), []],
  ];
  const command = (chip: number, value: number): Step => [
    `OCW2 ${chip} ${value.toString(16)}`,
    (p) => [p.write(chip === 0 ? 0x20 : 0xa0, value, 1, true), drain(p)],
    (p) => [0, p.command(chip, value)],
  ];
  const acknowledge: Step = ["INTA", (p) => [p.readIrq(), drain(p)], (p) => [p.acknowledge(), []]];
  const mask = (value: number): Step => [
    `mask ${value.toString(16)}`,
    (p) => [p.write(0x21, value, 1, true), drain(p)],
    (p) => {
      for (const input of p.chips[0].inputs) input.masked = ((value >> input.number) & 1) === 1;
      p.update();
      return [0, []];
    },
  ];

  function compare(steps: readonly Step[], elcrs: readonly [number, number]): void {
    const real = initialised();
    real.write(0x4d0, elcrs[0], 1, true);
    real.write(0x4d1, elcrs[1], 1, true);
    const twin = new NaivePic();
    for (const input of twin.chips[0].inputs) input.levelTriggered = ((elcrs[0] >> input.number) & 1) === 1;
    for (const input of twin.chips[1].inputs) input.levelTriggered = ((elcrs[1] >> input.number) & 1) === 1;
    for (const [index, [label, onReal, onTwin]] of steps.entries()) {
      const [answer, acked] = onReal(real) as [number, number[]];
      const [twinAnswer, twinAcked] = onTwin(twin) as [number, number[]];
      if (answer !== twinAnswer || acked.join() !== twinAcked.join() || real.output !== twin.intr) {
        const history = steps.slice(0, index + 1).map(([name]) => name);
        expect([history, label, answer, acked, real.output]).toEqual([
          history,
          label,
          twinAnswer,
          twinAcked,
          twin.intr,
        ]);
      }
    }
  }

  function everyHistory(steps: readonly Step[], length: number, elcrs: readonly [number, number]): number {
    const total = steps.length ** length;
    const history: Step[] = new Array(length);
    for (let n = 0; n < total; n++) {
      for (let i = 0, rest = n; i < length; i++, rest = Math.floor(rest / steps.length))
        history[i] = steps[rest % steps.length];
      compare(history, elcrs);
    }
    return total;
  }

  test("lines, acknowledge cycles and EOIs: every history of five steps, edge and level", () => {
    const steps = [line(3, true), line(3, false), line(9, true), line(9, false), acknowledge]
      .concat([command(0, 0x20), command(1, 0x20), command(0, 0x63)])
      .concat([mask(0x08), mask(0)]);
    expect(everyHistory(steps, 5, [0, 0])).toBe(100_000);
    expect(everyHistory(steps, 4, [0x08, 0x02])).toBe(10_000);
  });

  test("every OCW2 command after every pair of requests and acknowledge cycles", () => {
    let histories = 0;
    for (let value = 0; value < 0x100; value++) {
      if (value & 0x18) continue; // an ICW1 or OCW3
      for (let a = 0; a < 16; a++)
        for (let b = 0; b < 16; b++) {
          if (a === 2 || b === 2) continue;
          const head = [line(a, true), acknowledge, line(b, true), acknowledge];
          compare(
            [...head, command(a >> 3, value), command(b >> 3, value), acknowledge, acknowledge],
            [0, 0],
          );
          histories++;
        }
    }
    expect(histories).toBe(64 * 15 * 15);
  });

  test("priorities of one chip: every order, every set of requests, every set in service", () => {
    let cases = 0;
    for (let lowest = 0; lowest < 8; lowest++)
      for (let irr = 0; irr < 0x100; irr++)
        for (let isr = 0; isr < 0x100; isr++) {
          const pic = new Pic();
          pic.master.priorityAdd = (lowest + 1) & 7;
          pic.master.irr = irr;
          pic.master.isr = isr;
          let winner = -1;
          for (let i = 1; i <= 8 && winner < 0; i++) {
            const input = (lowest + i) & 7;
            if ((isr >> input) & 1) break;
            if ((irr >> input) & 1) winner = input;
          }
          if (pic.master.pending() !== winner) expect([lowest, irr, isr, pic.master.pending()]).toBe(winner);
          cases++;
        }
    expect(cases).toBe(8 * 65536);
  });
});

describe("recorded on 6.18", () => {
  test("500 random operations: answers and states", () => {
    const pic = new Pic();
    const lines = readFileSync(new URL("../../fixtures/chips/pic-6.18.jsonl", import.meta.url), "utf8");
    let steps = 0;
    for (const text of lines.trimEnd().split("\n")) {
      const [operation, answer, state] = JSON.parse(text);
      const [name, a, b] = operation;
      let got = 0;
      if (name === "line") got = pic.setIrq(a, b === 1, 0);
      else if (name === "inta") got = pic.output ? pic.readIrq() : -1;
      else if (name === "in") got = pic.read(a, 1);
      else if (name === "out") got = pic.write(a, b, 1, true);
      else load(pic, a === 0 ? "master" : "slave", b);
      drain(pic);
      expect([steps, operation, got, stateOf(pic)]).toEqual([steps, operation, answer, state]);
      steps++;
    }
    expect(steps).toBe(500);
  });

  test("after creation, and through KVM_SET_IRQCHIP: every byte is taken, the mask of ELCR too", () => {
    const pic = new Pic();
    expect(stateOf(pic)).toBe("000000000000000000000000000000f8" + "000000000000000000000000000000de");
    load(pic, "master", "0000fb0000080000000000000001f800");
    expect(stateOf(pic).slice(0, 32)).toBe("0000fb0000080000000000000001f800");
  });
});

describe("ports", () => {
  test("poll answers bit 7 and the input once, then the register again", () => {
    const pic = initialised();
    pic.setIrq(3, true, 0);
    pic.write(0x20, 0x0c, 1, true);
    expect(pic.read(0x21, 1)).toBe(0x83);
    expect(drain(pic)).toEqual([3]);
    expect(pic.read(0x21, 1)).toBe(0);
    pic.write(0x20, 0x0c, 1, true);
    expect([pic.read(0x20, 1), drain(pic)]).toEqual([7, []]);
  });

  test("the slave polled takes the master's request away with it", () => {
    const pic = initialised();
    pic.setIrq(12, true, 0);
    expect([pic.output, pic.master.irr]).toEqual([true, 4]);
    pic.write(0xa0, 0x0c, 1, true);
    expect(pic.read(0xa0, 1)).toBe(0x84);
    expect(drain(pic)).toEqual([12]);
    expect([pic.output, pic.master.irr, pic.slave.irr]).toEqual([false, 0, 0]);
  });

  test("ELCR keeps the inputs that a guest may set", () => {
    const pic = new Pic();
    pic.write(0x4d0, 0xff, 1, true);
    pic.write(0x4d1, 0xff, 1, true);
    expect([pic.read(0x4d0, 1), pic.read(0x4d1, 1)]).toEqual([0xf8, 0xde]);
  });

  test("wide accesses do nothing and read 0; other ports are not here", () => {
    const pic = initialised();
    pic.write(0x21, 0x5a, 1, true);
    expect(pic.write(0x21, 0xffff, 2, true)).toBe(0);
    expect([pic.read(0x21, 2), pic.read(0x21, 1)]).toEqual([0, 0x5a]);
    for (const port of [0x1f, 0x22, 0x9f, 0xa2, 0x4cf, 0x4d2])
      expect([pic.read(port, 1), pic.write(port, 0, 1, true)]).toEqual([-EOPNOTSUPP, -EOPNOTSUPP]);
  });

  test("a write of the mask reports which bits it turned over, of either chip", () => {
    const pic = initialised();
    pic.write(0x21, 0x0f, 1, true);
    expect(pic.maskChanged).toBe(0x000f);
    pic.write(0xa1, 0x81, 1, true);
    expect(pic.maskChanged).toBe(0x8100);
    pic.write(0xa1, 0x81, 1, true);
    expect(pic.maskChanged).toBe(0);
  });

  test("ICW1 ends pending edges if some processor listens, keeps pending levels and ISR", () => {
    for (const accepts of [true, false]) {
      const pic = initialised();
      pic.write(0x4d0, 0x10, 1, true);
      for (const irq of [3, 5]) pic.setIrq(irq, true, 0);
      pic.master.isr = 0x28;
      pic.setIrq(4, true, 0);
      pic.write(0x20, 0x11, 1, accepts);
      expect(drain(pic)).toEqual(accepts ? [3, 5] : []);
      expect([pic.master.irr, pic.master.isr]).toEqual([0x10, accepts ? 0 : 0x28]);
    }
  });
});

describe("INTR", () => {
  test("automatic EOI acknowledges master and slave, and rotates if told to", () => {
    const pic = initialised(0x03);
    pic.write(0x20, 0x80, 1, true);
    pic.setIrq(9, true, 0);
    expect(pic.readIrq()).toBe(0x71);
    expect(drain(pic)).toEqual([2, 9]);
    expect([pic.master.isr, pic.slave.isr, pic.master.priorityAdd, pic.slave.priorityAdd]).toEqual([
      0, 0, 3, 0,
    ]);
  });

  test("spurious vectors: 7 of the master, 7 of the slave when its request is gone", () => {
    const pic = initialised();
    expect(pic.readIrq()).toBe(0x0f);
    pic.write(0x4d1, 0x02, 1, true);
    pic.setIrq(9, true, 0);
    pic.setIrq(9, false, 0);
    expect([pic.output, pic.readIrq()]).toEqual([true, 0x77]);
  });

  test("special fully nested mode lets the slave interrupt itself through the master", () => {
    for (const nested of [false, true]) {
      const pic = initialised(nested ? 0x11 : 0x01);
      pic.setIrq(12, true, 0);
      expect(pic.readIrq()).toBe(0x74);
      pic.setIrq(9, true, 0);
      expect(pic.output).toBe(nested);
    }
  });

  test("an ack notifier that lowers a level-triggered line leaves no request of the slave behind", () => {
    for (const eoi of [0x20, 0x61, 0xa0, 0xe1]) {
      const pic = initialised();
      pic.write(0x4d1, 0x02, 1, true);
      pic.setIrq(9, true, 1);
      pic.readIrq();
      pic.write(0xa0, eoi, 1, true);
      expect(pic.takeAck()).toBe(9);
      pic.setIrq(9, false, 1);
      pic.finish();
      pic.write(0x20, 0x20, 1, true);
      expect(drain(pic)).toEqual([2]);
      expect([pic.output, pic.master.irr]).toEqual([false, 0]);
    }
  });

  test("a vector has 8 bits, whatever base was set (recorded on 6.18: base 0xfd, input 6: vector 3)", () => {
    const pic = new Pic();
    load(pic, "master", "0040000000fd000000000000000000f8");
    expect([pic.output, pic.readIrq()]).toEqual([true, 3]);
  });

  test("a wake-up is noted once for each time that INTR was low", () => {
    const pic = initialised();
    pic.takeWakeup();
    pic.setIrq(3, true, 0);
    expect([pic.takeWakeup(), pic.takeWakeup()]).toEqual([true, false]);
    pic.setIrq(4, true, 0);
    expect(pic.takeWakeup()).toBe(false);
    pic.readIrq();
    expect(pic.takeWakeup()).toBe(true);
  });
});

test("a line is up while any source holds it", () => {
  const pic = initialised();
  pic.write(0x4d1, 0x02, 1, true);
  expect(pic.setIrq(9, true, 0)).toBe(1);
  expect(pic.setIrq(9, true, 1)).toBe(0);
  pic.setIrq(9, false, 0);
  expect(pic.slave.irr).toBe(2);
  pic.setIrq(9, false, 1);
  expect(pic.slave.irr).toBe(0);
  pic.setIrq(9, true, 2);
  pic.clearSource(2);
  expect(pic.slave.irr).toBe(2);
  expect([pic.setIrq(-1, true, 0), pic.setIrq(16, true, 0)]).toEqual([-1, -1]);
});

// arch/x86/kvm/i8259.c:pic_get_irq (6.1): special_fully_nested_mode of the master only, and only of its input 2
test("special fully nested mode: input 2 in service hides nothing on the master; on the slave it hides as any other", () => {
  const taken = (icw4: number) => {
    const pic = initialised(icw4);
    pic.setIrq(10, true, 0);
    expect([pic.readIrq(), drain(pic)]).toEqual([0x72, []]);
    const seen: (number | boolean)[] = [];
    // the slave has input 2 in service: 11 is less urgent, 9 is more
    for (const irq of [11, 9]) {
      pic.setIrq(irq, true, 0);
      seen.push(pic.output);
      if (pic.output) seen.push(pic.readIrq());
    }
    return seen;
  };
  expect(taken(0x01)).toEqual([false, false]);
  expect(taken(0x11)).toEqual([false, true, 0x71]);
});
