/** The MPIC as its documentation has it: no recording of a real kernel stands behind these. */
import { describe, expect, test } from "vitest";
import { MPIC_20, MPIC_42, MPIC_MSIIR, Mpic } from "../../lib/hardware/mpic.ts";

const ENXIO = 6;
const SENSE = 1 << 22;
const ivpr = (source: number) => 0x10000 + source * 0x20;
const idr = (source: number) => ivpr(source) + 0x10;
const ctpr = (cpu: number) => 0x20000 + cpu * 0x1000 + 0x80;
const iack = (cpu: number) => 0x20000 + cpu * 0x1000 + 0xa0;
const eoi = (cpu: number) => 0x20000 + cpu * 0x1000 + 0xb0;
const ipi = (cpu: number, number: number) => 0x20000 + cpu * 0x1000 + 0x40 + number * 0x10;
const GCR = 0x1020;
const SPURIOUS = 0xffff;

function twoCpus(version = MPIC_20) {
  const inputs = [{ external: false }, { external: false }];
  const mpic = new Mpic(version);
  inputs.forEach((input, cpu) => {
    mpic.connect(cpu, input);
  });
  mpic.write(GCR, 0x8000_0000, -1);
  for (const cpu of [0, 1]) mpic.write(ctpr(cpu), 0, -1);
  const set = (source: number, priority: number, vector: number, cpus = 1, extra = 0) => {
    mpic.write(ivpr(source), (priority << 16) | vector | extra, -1);
    mpic.write(idr(source), cpus, -1);
  };
  return { mpic, inputs, set };
}

describe("registers", () => {
  test.each([
    ["2.0", MPIC_20, 0x0040_0200, 79],
    ["4.2", MPIC_42, 0x0040_0402, 195],
  ])("version %s: block revision, number of interrupts and CPUs", (_name, version, brr1, irqs) => {
    const { mpic } = twoCpus(version);
    expect(mpic.read(0, -1)).toBe(brr1);
    expect(mpic.read(0x1000, -1)).toBe((irqs << 16) | (1 << 8) | 2);
  });

  test("after reset everything is masked, and a CPU takes nothing", () => {
    const mpic = new Mpic(MPIC_20);
    expect(mpic.read(ivpr(3), -1)).toBe(0x8000_0000);
    expect(mpic.read(ivpr(20), -1)).toBe(0x8080_0000);
    expect(mpic.read(ctpr(0), -1)).toBe(15);
    expect(mpic.read(0x10e0, -1)).toBe(SPURIOUS);
  });

  test("an internal source has no sense bit, an IPI no polarity either, and activity is read-only", () => {
    const { mpic } = twoCpus();
    mpic.write(ivpr(20), 0xffff_ffff, -1);
    expect(mpic.read(ivpr(20), -1)).toBe(0x808f_ffff);
    mpic.write(ivpr(3), 0xffff_ffff, -1);
    expect(mpic.read(ivpr(3), -1)).toBe(0x80cf_ffff);
    mpic.write(0x10a0, 0xffff_ffff, -1);
    expect(mpic.read(0x10a0, -1)).toBe(0x800f_ffff);
  });

  test("a CPU's own view needs a CPU, and holes have no register", () => {
    const { mpic } = twoCpus();
    expect(mpic.read(0x90, 1)).toBe(1);
    expect(mpic.read(0x90, -1)).toBe(0xffff_ffff);
    expect(mpic.write(0x1090, 1, -1)).toBe(-ENXIO);
    for (const hole of [0x1400, 0x2000, 0x12000 + 0x2000, 0x3f100]) expect(mpic.read(hole, -1)).toBe(-ENXIO);
  });
});

describe("delivery", () => {
  test("an edge is taken exactly once", () => {
    const { mpic, inputs, set } = twoCpus();
    set(3, 5, 0x33);
    mpic.setIrq(3, true);
    expect(inputs[0].external).toBe(true);
    expect([mpic.read(iack(0), -1), mpic.read(iack(0), -1)]).toEqual([0x33, SPURIOUS]);
    expect(inputs[0].external).toBe(false);
    mpic.write(eoi(0), 0, -1);
    expect(mpic.acked.splice(0)).toEqual([3]);
    mpic.write(eoi(0), 0, -1);
    expect(mpic.acked).toEqual([]);
  });

  test("a level comes again after its end, until it goes down", () => {
    const { mpic, inputs, set } = twoCpus();
    set(3, 5, 0x33, 1, SENSE);
    mpic.setIrq(3, true);
    for (let round = 0; round < 3; round++) {
      expect(mpic.read(iack(0), -1)).toBe(0x33);
      expect(inputs[0].external).toBe(false);
      mpic.write(eoi(0), 0, -1);
      expect(inputs[0].external).toBe(true);
    }
    mpic.setIrq(3, false);
    expect(inputs[0].external).toBe(false);
    expect(mpic.read(iack(0), -1)).toBe(SPURIOUS);
  });

  test("every pair of priorities under every task priority: the more urgent first, the first of equals", () => {
    const wrong: string[] = [];
    for (let a = 0; a < 16; a++)
      for (let b = 0; b < 16; b++)
        for (let task = 0; task < 16; task++) {
          const { mpic, set } = twoCpus();
          set(3, a, 0x33);
          set(4, b, 0x44);
          mpic.write(ctpr(0), task, -1);
          mpic.setIrq(3, true);
          mpic.setIrq(4, true);
          const winner = a >= b ? 0x33 : 0x44;
          const expected = Math.max(a, b) > task ? winner : SPURIOUS;
          if (mpic.read(iack(0), -1) !== expected) wrong.push(`${a} ${b} ${task}`);
        }
    expect(wrong).toEqual([]);
  });

  test("what is serviced hides what is not more urgent", () => {
    const { mpic, inputs, set } = twoCpus();
    set(3, 5, 0x33);
    set(4, 5, 0x44);
    set(5, 6, 0x55);
    mpic.setIrq(3, true);
    mpic.read(iack(0), -1);
    mpic.setIrq(4, true);
    expect(inputs[0].external).toBe(false);
    mpic.setIrq(5, true);
    expect(inputs[0].external).toBe(true);
    expect(mpic.read(iack(0), -1)).toBe(0x55);
    mpic.write(eoi(0), 0, -1);
    expect([...mpic.acked]).toEqual([5]);
    mpic.write(eoi(0), 0, -1);
    expect(mpic.read(iack(0), -1)).toBe(0x44);
  });

  test("a masked source waits, and CPUs of its destination all get it", () => {
    const { mpic, inputs, set } = twoCpus();
    set(3, 5, 0x33, 3, 0x8000_0000);
    mpic.setIrq(3, true);
    expect(inputs.map(({ external }) => external)).toEqual([false, false]);
    set(3, 5, 0x33, 3);
    mpic.write(ivpr(3), (5 << 16) | 0x33, -1);
    expect(inputs.map(({ external }) => external)).toEqual([true, true]);
  });

  test("an IPI is taken once by each CPU it names", () => {
    const { mpic } = twoCpus();
    mpic.write(0x10a0, (5 << 16) | 0xee, -1);
    mpic.write(ipi(0, 0), 3, -1);
    const taken = [0, 1, 0, 1].map((cpu) => {
      const vector = mpic.read(iack(cpu), -1);
      mpic.write(eoi(cpu), 0, -1);
      return vector;
    });
    expect(taken.filter((vector) => vector === 0xee)).toHaveLength(2);
  });

  test("a message sets a bit of its bank; reading the bank clears it and lowers the source", () => {
    const { mpic, inputs, set } = twoCpus();
    set(225, 5, 0x77);
    mpic.write(MPIC_MSIIR, (1 << 29) | (4 << 24), -1);
    expect(inputs[0].external).toBe(true);
    expect(mpic.read(0x1600 + 0x120, -1)).toBe(1 << 1);
    expect([mpic.read(0x1610, -1), mpic.read(0x1610, -1)]).toEqual([1 << 4, 0]);
    expect(mpic.read(iack(0), -1)).toBe(SPURIOUS);
  });

  test("in version 2.0 a critical interrupt reaches no external input", () => {
    const { mpic, inputs, set } = twoCpus();
    set(3, 5, 0x33, 0x4000_0000);
    mpic.setIrq(3, true);
    expect(inputs[0].external).toBe(false);
  });
});

/**
 * Between the registers: arch/powerpc/kvm/mpic.c (6.1), openpic_gbl_read, openpic_tmr_read, openpic_msi_read,
 * openpic_cpu_read_internal and their writers look at the low four bits of the address, openpic_src_read at five.
 */
describe("addresses", () => {
  const NOTHING = 0xffff_ffff;
  const ranges: [name: string, from: number, until: number, between: number][] = [
    ["global", 0x1000, 0x10f0, NOTHING],
    ["timers", 0x10f0, 0x11f0, NOTHING],
    ["messages", 0x1600, 0x1800, -ENXIO],
    ["sources", 0x10000, 0x10000 + 8 * 0x20, NOTHING],
    ["CPU 1", 0x21040, 0x210c0, NOTHING],
  ];
  /** where reading changes something */
  const taken = (address: number) => (address & 0xff0) === 0xa0 || (address >= 0x1600 && address < 0x1800);
  const state = (mpic: Mpic) =>
    ranges.flatMap(([, from, until]) =>
      Array.from({ length: (until - from) / 16 }, (_, i) => from + 16 * i).map((address) =>
        taken(address) ? 0 : mpic.read(address, -1),
      ),
    );

  test.each(ranges)("%s", (_name, from, until, between) => {
    const { mpic, inputs, set } = twoCpus();
    set(3, 5, 0x33);
    const before = state(mpic);
    const wrong: string[] = [];
    for (let address = from; address < until; address++) {
      if ((address & 0xf) === 0 || (from === 0x10000 && (address & 0x1f) === 0x18)) continue;
      const read = mpic.read(address, -1);
      if (read !== between) wrong.push(`${address.toString(16)} reads ${read}`);
      mpic.write(address, 0, -1);
      mpic.write(address, 0xffff_ffff, -1);
      if (state(mpic).some((value, i) => value !== before[i]))
        wrong.push(`${address.toString(16)} is written`);
    }
    expect(wrong).toEqual([]);
    expect(inputs.map(({ external }) => external)).toEqual([false, false]);
  });
});

describe("destinations (arch/powerpc/kvm/mpic.c:write_IRQreg_idr, 6.1)", () => {
  test("2.0: critical destinations are told in bits from 30 down, ignore the mask and reach no external input", () => {
    const { mpic, inputs } = twoCpus(MPIC_20);
    mpic.write(ivpr(3), 0x8000_0000 | SENSE | (5 << 16) | 0x33, -1);
    mpic.write(idr(3), 0x2000_0000, -1);
    mpic.setIrq(3, true);
    expect(inputs.map(({ external }) => external)).toEqual([false, false]);
    // active in spite of the mask
    expect(mpic.read(ivpr(3), -1) & 0x4000_0000).not.toBe(0);
    expect(mpic.read(iack(0), -1)).toBe(SPURIOUS);
    // an edge would be over at once (openpic_set_irq)
    mpic.write(ivpr(3), 0x8000_0000 | (5 << 16) | 0x33, -1);
    mpic.setIrq(3, true);
    expect(mpic.read(ivpr(3), -1) & 0x4000_0000).toBe(0);
  });

  test("an ordinary destination stays masked until it is unmasked", () => {
    const { mpic, inputs } = twoCpus(MPIC_42);
    mpic.write(idr(3), 2, -1);
    mpic.write(ivpr(3), 0x8000_0000 | (5 << 16) | 0x33, -1);
    mpic.setIrq(3, true);
    expect(mpic.read(ivpr(3), -1) & 0x4000_0000).toBe(0);
    mpic.write(ivpr(3), (5 << 16) | 0x33, -1);
    expect(inputs.map(({ external }) => external)).toEqual([false, true]);
    expect([mpic.read(iack(0), -1), mpic.read(iack(1), -1)]).toEqual([SPURIOUS, 0x33]);
  });

  test.each([
    ["2.0", MPIC_20, 0xe000_0003],
    ["4.2", MPIC_42, 3],
  ])("version %s: which bits of a destination are kept", (_name, version, kept) => {
    const { mpic } = twoCpus(version);
    mpic.write(idr(3), 0xffff_ffff, -1);
    expect(mpic.read(idr(3), -1) >>> 0).toBe(kept);
  });
});
