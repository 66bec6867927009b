/** Which addresses of the MPIC answer, what its registers keep, and what a CPU is told: arch/powerpc/kvm/mpic.c (6.1). */
import { describe, expect, test } from "vitest";
import { MPIC_20, Mpic } from "../../lib/hardware/mpic.ts";

const ENXIO = 6;
const SENSE = 1 << 22;
const MASK = 0x8000_0000;
const SPURIOUS = 0xffff;
const ivpr = (source: number) => 0x10000 + source * 0x20;
const idr = (source: number) => ivpr(source) + 0x10;
const cpuRegister = (cpu: number, register: number) => 0x20000 + cpu * 0x1000 + register;
const GCR = 0x1020;

function twoCpus() {
  const inputs = [{ external: false }, { external: false }];
  const mpic = new Mpic(MPIC_20);
  inputs.forEach((input, cpu) => {
    mpic.connect(cpu, input);
  });
  mpic.write(GCR, 0x8000_0000, -1);
  for (const cpu of [0, 1]) mpic.write(cpuRegister(cpu, 0x80), 0, -1);
  return {
    mpic,
    inputs: () => inputs.map(({ external }) => external),
    /** an edge of a priority, to CPU 0 */
    edge: (source: number, priority: number) => {
      mpic.write(ivpr(source), (priority << 16) | source, -1);
      mpic.write(idr(source), 1, -1);
    },
    take: (cpu: number) => mpic.read(cpuRegister(cpu, 0xa0), -1),
    end: (cpu: number) => mpic.write(cpuRegister(cpu, 0xb0), 0, -1),
  };
}

describe("addresses", () => {
  /** mpic.c: openpic_gbl_mmio to openpic_cpu_mmio, start and size */
  const REGIONS = [
    [0, 0x10f0],
    [0x10f0, 0x220],
    [0x1600, 0x200],
    [0x3800, 0x800],
    [0x10000, 256 * 0x20],
    [0x20000, 0x100 + 31 * 0x1000],
  ];
  /** the register that resets a processor is left to user space (openpic_gbl_write) */
  const PIR = 0x1090;

  test("inside the six regions everything is answered, outside nothing", () => {
    const { mpic } = twoCpus();
    const wrong: string[] = [];
    for (let address = 0; address < 0x40010; address += 16) {
      const there = REGIONS.some(([from, size]) => address >= from && address < from + size);
      if ((mpic.read(address, -1) === -ENXIO) === there) wrong.push(`read ${address.toString(16)}`);
      const expected = there && address !== PIR ? 0 : -ENXIO;
      if (mpic.write(address, 0, -1) !== expected) wrong.push(`write ${address.toString(16)}`);
    }
    expect(wrong).toEqual([]);
  });
});

describe("what a register keeps of 0xffff_ffff", () => {
  test.each([
    ["BRR1", 0, 0x0040_0200],
    ["FRR", 0x1000, (79 << 16) | (1 << 8) | 2],
    ["VIR", 0x1080, 0],
    ["IPI 3", 0x10d0, 0x800f_ffff],
    ["SPVE", 0x10e0, 0xffff],
    ["TFRR", 0x10f0, 0xffff_ffff],
    ["a bank of messages", 0x1600, 0],
    ["the first source", ivpr(0), 0x80cf_ffff],
    ["the last source", ivpr(255), 0x808f_ffff],
  ])("%s", (_name, address, kept) => {
    const { mpic } = twoCpus();
    mpic.write(address, 0xffff_ffff, -1);
    expect(mpic.read(address, -1)).toBe(kept);
    // and of nothing, where all of it can be written
    mpic.write(address, 0x1234, -1);
    const whole = [0x10d0, 0x10e0, 0x10f0, ivpr(0), ivpr(255)].includes(address);
    expect(mpic.read(address, -1)).toBe(whole ? 0x1234 : kept);
  });
});

describe("delivery", () => {
  test("a reset makes a pin an edge again: a pulse under the mask waits for it to go", () => {
    const { mpic, inputs, take } = twoCpus();
    mpic.write(ivpr(3), MASK | SENSE, -1);
    mpic.write(GCR, 0x8000_0000, -1);
    mpic.write(cpuRegister(0, 0x80), 0, -1);
    mpic.setIrq(3, true);
    mpic.setIrq(3, false);
    expect(inputs()).toEqual([false, false]);
    mpic.write(ivpr(3), (5 << 16) | 0x33, -1);
    expect(inputs()).toEqual([true, false]);
    expect([take(0), take(0)]).toEqual([0x33, SPURIOUS]);
  });

  test("every source in service, the first one too, hides one that is as urgent", () => {
    for (let serviced = 0; serviced < 15; serviced++) {
      const { mpic, inputs, edge, take, end } = twoCpus();
      edge(serviced, 5);
      edge(15, 5);
      mpic.setIrq(serviced, true);
      expect(take(0)).toBe(serviced);
      mpic.setIrq(15, true);
      expect(inputs()).toEqual([false, false]);
      end(0);
      expect(inputs()).toEqual([true, false]);
      expect(take(0)).toBe(15);
    }
  });

  test("an IPI is taken by each CPU that it names, once, and the first after a reset by CPU 0 too (idr_reset)", () => {
    for (const [named, fresh] of [
      [1, false],
      [2, false],
      [3, false],
      [2, true],
    ] as const)
      for (const order of [
        [0, 1, 0, 1],
        [1, 0, 1, 0],
      ]) {
        const { mpic, inputs, take, end } = twoCpus();
        mpic.write(0x10a0, (5 << 16) | 0xee, -1);
        if (!fresh) {
          mpic.write(cpuRegister(0, 0x40), 1, -1);
          expect(take(0)).toBe(0xee);
          end(0);
        }
        mpic.write(cpuRegister(0, 0x40), named, -1);
        const left = new Set([0, 1].filter((cpu) => (named >> cpu) & 1 || (fresh && cpu === 0)));
        for (const cpu of order) {
          expect(inputs()).toEqual([left.has(0), left.has(1)]);
          expect(take(cpu)).toBe(left.delete(cpu) ? 0xee : SPURIOUS);
          end(cpu);
        }
        expect(inputs()).toEqual([false, false]);
      }
  });
});
