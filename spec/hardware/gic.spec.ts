import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Gic, GicCpu } from "../../lib/hardware/gic.ts";
import {
  guestReadInterface,
  guestReadSysreg,
  guestWriteInterface,
  guestWriteSysreg,
  ICC_EOIR1_EL1,
  ICC_HPPIR1_EL1,
  ICC_IAR1_EL1,
  ICC_IGRPEN1_EL1,
  ICC_PMR_EL1,
  ICC_RPR_EL1,
  load,
  maintenance,
  save,
} from "../../lib/hardware/gic-cpu-interface.ts";
import { gicV2Distributor, gicV3Distributor } from "../../lib/hardware/gic-distributor.ts";
import {
  readFrame,
  readLineLevels,
  userReadFrame,
  userWriteFrame,
  writeFrame,
} from "../../lib/hardware/gic-registers.ts";

const SPURIOUS = 1023;
const GICC_CTLR = 0x00;
const GICC_PMR = 0x04;
const GICC_IAR = 0x0c;
const GICC_EOIR = 0x10;

function newGic(version: 2 | 3, cpus = 1, spis = 64): Gic {
  const gic = new Gic(
    version,
    Array.from({ length: cpus }, (_, i) => new GicCpu(i, i)),
  );
  for (const cpu of gic.cpus) cpu.mpidr = cpu.id;
  gic.nrSpis = spis;
  gic.reset();
  return gic;
}

/** A GICv3 whose only processor takes interrupts of group 1. */
function running(spis = 64): { gic: Gic; cpu: GicCpu } {
  const gic = newGic(3, 1, spis);
  const [cpu] = gic.cpus;
  gic.enabled = true;
  guestWriteSysreg(gic, cpu, ICC_PMR_EL1, 0xf0n);
  guestWriteSysreg(gic, cpu, ICC_IGRPEN1_EL1, 1n);
  return { gic, cpu };
}

const word = (gic: Gic, offset: number): number =>
  Number(readFrame(gicV3Distributor, gic, gic.cpus[0], offset, 4));
const write = (gic: Gic, offset: number, value: number): void =>
  writeFrame(gicV3Distributor, gic, gic.cpus[0], offset, 4, BigInt(value));

describe("one SPI against the naive twin", () => {
  const SPI = 33;
  const BIT = 1 << 1;
  const operations = [
    "raise",
    "lower",
    "setPending",
    "clearPending",
    "enable",
    "disable",
    "ack",
    "eoi",
  ] as const;
  type Operation = (typeof operations)[number];

  /** What the manual says about one interrupt, in words. */
  class Twin {
    line = false;
    latch = false;
    enabled = false;
    active = false;
    ended = 0;
    readonly edge: boolean;
    constructor(edge: boolean) {
      this.edge = edge;
    }
    get pending(): boolean {
      return this.latch || (!this.edge && this.line);
    }
    do(operation: Operation): number | undefined {
      switch (operation) {
        case "raise":
          if (this.edge) this.latch = true;
          else this.line = true;
          return;
        case "lower":
          this.line = false;
          return;
        case "setPending":
          this.latch = true;
          return;
        case "clearPending":
          this.latch = false;
          return;
        case "enable":
          this.enabled = true;
          return;
        case "disable":
          this.enabled = false;
          return;
        case "ack":
          if (!this.pending || !this.enabled || this.active) return SPURIOUS;
          this.active = true;
          if (this.edge) this.latch = false;
          return SPI;
        case "eoi":
          if (!this.active) return;
          this.active = false;
          // what was pending by a write has been served
          if (!this.edge) {
            this.latch = false;
            this.ended++;
          }
          return;
      }
    }
  }

  class Real {
    readonly gic: Gic;
    readonly cpu: GicCpu;
    ended = 0;
    constructor(edge: boolean) {
      ({ gic: this.gic, cpu: this.cpu } = running());
      write(this.gic, 0xc08, edge ? 0x8 : 0);
    }
    do(operation: Operation): number | undefined {
      const { gic, cpu } = this;
      switch (operation) {
        case "raise":
        case "lower":
          gic.inject(gic.irq(cpu, SPI)!, operation === "raise");
          return;
        case "setPending":
          return void write(gic, 0x204, BIT);
        case "clearPending":
          return void write(gic, 0x284, BIT);
        case "enable":
          return void write(gic, 0x104, BIT);
        case "disable":
          return void write(gic, 0x184, BIT);
        case "ack": {
          load(gic, cpu);
          const intid = guestReadSysreg(gic, cpu, ICC_IAR1_EL1);
          save(gic, cpu);
          return intid;
        }
        case "eoi":
          load(gic, cpu);
          guestWriteSysreg(gic, cpu, ICC_EOIR1_EL1, BigInt(SPI));
          save(gic, cpu);
          this.ended += gic.acked.splice(0).filter((intid) => intid === SPI).length;
          return;
      }
    }
  }

  function compare(edge: boolean, sequence: readonly Operation[]): void {
    const twin = new Twin(edge);
    const real = new Real(edge);
    for (const operation of sequence) {
      const expected = twin.do(operation);
      const got = real.do(operation);
      const state = {
        got,
        pending: (word(real.gic, 0x204) & BIT) !== 0,
        latch: (userReadFrame(gicV3Distributor, real.gic, real.cpu, 0x204) & BIT) !== 0,
        line: (readLineLevels(real.gic, real.cpu, 32) & BIT) !== 0,
        active: (word(real.gic, 0x304) & BIT) !== 0,
        enabled: (word(real.gic, 0x104) & BIT) !== 0,
        ended: real.ended,
      };
      const should = {
        got: expected,
        pending: twin.pending,
        latch: twin.latch,
        line: twin.line,
        active: twin.active,
        enabled: twin.enabled,
        ended: twin.ended,
      };
      if (JSON.stringify(state) !== JSON.stringify(should))
        expect({ sequence, operation, ...state }).toEqual({ sequence, operation, ...should });
    }
  }

  test.each([true, false])("edge %s: every sequence of five operations", (edge) => {
    let sequences = 0;
    const walk = (sequence: Operation[]): void => {
      if (sequence.length === 5) {
        compare(edge, sequence);
        sequences++;
      } else for (const operation of operations) walk([...sequence, operation]);
    };
    walk([]);
    expect(sequences).toBe(operations.length ** 5);
  });

  test("long sequences", () => {
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.array(fc.constantFrom(...operations), { minLength: 20, maxLength: 60 }),
        compare,
      ),
      { numRuns: 200 },
    );
  });
});

describe("set and clear registers against sets of numbers", () => {
  /** Offset of the set register, and of the clear register; neither distributor delivers anything. */
  const kinds = { enable: [0x100, 0x180], pending: [0x200, 0x280], active: [0x300, 0x380] } as const;
  const frames = { 2: gicV2Distributor, 3: gicV3Distributor } as const;
  const step = fc.record({
    kind: fc.constantFrom<keyof typeof kinds>("enable", "pending", "active"),
    clear: fc.boolean(),
    word: fc.integer({ min: 0, max: 3 }),
    bits: fc.integer({ min: 0, max: 0xffff_ffff }),
  });

  test.each([2, 3] as const)("GICv%i", (version) => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const gic = newGic(version);
        const [cpu] = gic.cpus;
        const sets = { enable: new Set<number>(), pending: new Set<number>(), active: new Set<number>() };
        if (version === 2) for (let sgi = 0; sgi < 16; sgi++) sets.enable.add(sgi);
        for (const { kind, clear, word: index, bits } of steps) {
          writeFrame(frames[version], gic, cpu, kinds[kind][clear ? 1 : 0] + 4 * index, 4, BigInt(bits));
          for (let bit = 0; bit < 32; bit++) {
            const intid = 32 * index + bit;
            // private interrupts of a GICv3 are in the redistributor; SGIs of a GICv2 become pending elsewhere
            const there =
              intid < gic.nrIrqs && (version === 2 ? !(kind === "pending" && intid < 16) : intid >= 32);
            if (there && ((bits >>> bit) & 1) === 1) clear ? sets[kind].delete(intid) : sets[kind].add(intid);
          }
        }
        for (const kind of ["enable", "pending", "active"] as const)
          for (const offset of kinds[kind])
            for (let index = 0; index < 4; index++) {
              let bits = 0;
              for (let bit = 0; bit < 32; bit++) if (sets[kind].has(32 * index + bit)) bits |= 1 << bit;
              expect(readFrame(frames[version], gic, cpu, offset + 4 * index, 4)).toBe(BigInt(bits >>> 0));
            }
      }),
    );
  });
});

describe("priorities", () => {
  test("interrupts are taken in the order of their priority, each once, and end in reverse", () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.integer({ min: 0, max: 15 }), { minLength: 1, maxLength: 16 }),
        (order) => {
          const { gic, cpu } = running();
          order.forEach((level, i) => {
            const irq = gic.irq(cpu, 32 + i)!;
            irq.enabled = true;
            irq.priority = level * 8;
            gic.inject(irq, true);
          });
          const taken: number[] = [];
          for (;;) {
            load(gic, cpu);
            const next = guestReadSysreg(gic, cpu, ICC_HPPIR1_EL1);
            const intid = guestReadSysreg(gic, cpu, ICC_IAR1_EL1);
            if (intid === SPURIOUS) break;
            expect(intid).toBe(next);
            taken.push(intid);
            guestWriteSysreg(gic, cpu, ICC_EOIR1_EL1, BigInt(intid));
            save(gic, cpu);
          }
          const byPriority = order
            .map((level, i) => ({ level, intid: 32 + i }))
            .sort((a, b) => a.level - b.level);
          expect(taken).toEqual(byPriority.map(({ intid }) => intid));
          expect(guestReadSysreg(gic, cpu, ICC_RPR_EL1)).toBe(0xff);
        },
      ),
    );
  });

  test("the mask lets only higher priorities through", () => {
    const { gic, cpu } = running();
    const irq = gic.irq(cpu, 40)!;
    irq.enabled = true;
    irq.priority = 0x80;
    gic.inject(irq, true);
    const seen = [0x80, 0x88].map((mask) => {
      guestWriteSysreg(gic, cpu, ICC_PMR_EL1, BigInt(mask));
      load(gic, cpu);
      const answer = guestReadSysreg(gic, cpu, ICC_IAR1_EL1);
      save(gic, cpu);
      return answer;
    });
    expect(seen).toEqual([SPURIOUS, 40]);
  });

  test("more interrupts than list registers: the highest are loaded", () => {
    const { gic, cpu } = running();
    for (let i = 0; i < 10; i++) {
      const irq = gic.irq(cpu, 32 + i)!;
      irq.enabled = true;
      irq.priority = 0xe0 - 8 * i;
      gic.inject(irq, true);
    }
    load(gic, cpu);
    expect(cpu.lrs.map(({ irq }) => irq.intid)).toEqual([41, 40, 39, 38]);
  });
});

describe("lines", () => {
  test("a level that is still up comes again after its end, and its end is told once", () => {
    const { gic, cpu } = running();
    write(gic, 0xc08, 0);
    write(gic, 0x104, 1);
    gic.inject(gic.irq(cpu, 32)!, true);
    const taken: number[] = [];
    for (let i = 0; i < 3; i++) {
      load(gic, cpu);
      taken.push(guestReadSysreg(gic, cpu, ICC_IAR1_EL1));
      expect(maintenance(cpu)).toBe(false);
      guestWriteSysreg(gic, cpu, ICC_EOIR1_EL1, 32n);
      expect(maintenance(cpu)).toBe(true);
      save(gic, cpu);
    }
    expect(taken).toEqual([32, 32, 32]);
    expect(gic.acked).toEqual([32, 32, 32]);
  });

  test("two edges before the guest looks are one interrupt", () => {
    const { gic, cpu } = running();
    write(gic, 0x104, 1);
    const irq = gic.irq(cpu, 32)!;
    gic.inject(irq, true);
    gic.inject(irq, true);
    load(gic, cpu);
    const answers = [ICC_IAR1_EL1, ICC_IAR1_EL1].map((register) => guestReadSysreg(gic, cpu, register));
    expect(answers).toEqual([32, SPURIOUS]);
  });

  test("only its owner drives an interrupt that has one", () => {
    const { gic, cpu } = running();
    const irq = gic.irq(cpu, 27)!;
    irq.owner = "timer";
    gic.inject(irq, true);
    expect(irq.lineLevel).toBe(false);
    gic.inject(irq, true, "timer");
    expect(irq.lineLevel).toBe(true);
  });
});

describe("SGIs of a GICv2", () => {
  test("each sender's comes once, the lowest number first", () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.integer({ min: 0, max: 7 }), { minLength: 1, maxLength: 8 }),
        (senders) => {
          const gic = newGic(2, 8);
          gic.enabled = true;
          const [cpu] = gic.cpus;
          guestWriteInterface(cpu, GICC_CTLR, 1);
          guestWriteInterface(cpu, GICC_PMR, 0xf0);
          // GICD_SGIR: SGI 5 to processor 0
          for (const sender of senders)
            writeFrame(gicV2Distributor, gic, gic.cpus[sender], 0xf00, 4, BigInt((1 << 16) | 5));
          const taken: number[] = [];
          for (;;) {
            load(gic, cpu);
            const answer = guestReadInterface(cpu, GICC_IAR);
            if (answer === SPURIOUS) break;
            taken.push(answer);
            guestWriteInterface(cpu, GICC_EOIR, answer);
            save(gic, cpu);
          }
          expect(taken).toEqual([...senders].sort((a, b) => a - b).map((sender) => (sender << 10) | 5));
        },
      ),
    );
  });
});

describe("what user space may not do", () => {
  test("a GICv3's ISPENDR is written as a whole, its ICPENDR not at all", () => {
    const { gic, cpu } = running();
    for (const value of [0xff, 0x0f]) userWriteFrame(gicV3Distributor, gic, cpu, 0x204, value);
    userWriteFrame(gicV3Distributor, gic, cpu, 0x284, 0xffff_ffff);
    expect(userReadFrame(gicV3Distributor, gic, cpu, 0x204)).toBe(0x0f);
    expect(userReadFrame(gicV3Distributor, gic, cpu, 0x284)).toBe(0);
  });

  test("GICD_IIDR takes revisions 2 and 3 and nothing else", () => {
    const gic = newGic(3);
    const [cpu] = gic.cpus;
    const results = [0, 1, 2, 3, 4, 15].map((revision) =>
      userWriteFrame(gicV3Distributor, gic, cpu, 8, (0x4b00_043b | (revision << 12)) >>> 0),
    );
    expect(results).toEqual([-22, -22, 0, 0, -22, -22]);
    expect(userWriteFrame(gicV3Distributor, gic, cpu, 8, 0x4b00_343c)).toBe(-22);
  });

  test("accesses that no register takes read zero and change nothing", () => {
    const { gic, cpu } = running(32);
    for (const offset of [0x1, 0x20, 0x104 + 4, 0x8000, 0xfff0_0000])
      expect(userWriteFrame(gicV3Distributor, gic, cpu, offset, 0xffff_ffff)).toBe(0);
    expect(word(gic, 0x108)).toBe(0);
    expect(gic.spis.filter((irq) => irq.enabled)).toEqual([]);
  });
});
