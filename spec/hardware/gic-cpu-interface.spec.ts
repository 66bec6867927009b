/**
 * What is loaded into the list registers, and what a processor makes of it: arch/arm64/kvm/vgic/vgic.c (6.1,
 * vgic_irq_cmp, vgic_flush_lr_state), IHI 0069H 4.7, 4.8, 12.11.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Gic, GicCpu, type GicIrq } from "../../lib/hardware/gic.ts";
import {
  guestReadInterface,
  guestReadSysreg,
  guestWriteInterface,
  guestWriteSysreg,
  ICC_BPR0_EL1,
  ICC_BPR1_EL1,
  ICC_CTLR_EL1,
  ICC_EOIR1_EL1,
  ICC_IAR0_EL1,
  ICC_IAR1_EL1,
  ICC_IGRPEN0_EL1,
  ICC_IGRPEN1_EL1,
  ICC_PMR_EL1,
  ICC_RPR_EL1,
  ICC_SGI1R_EL1,
  load,
  maintenance,
  save,
} from "../../lib/hardware/gic-cpu-interface.ts";
import { gicV2Distributor } from "../../lib/hardware/gic-distributor.ts";
import { writeFrame } from "../../lib/hardware/gic-registers.ts";

const SPURIOUS = 1023;
const GICC_CTLR = 0x00;
const GICC_PMR = 0x04;
const GICC_IAR = 0x0c;
const GICC_HPPIR = 0x18;

function newGic(version: 2 | 3, cpus = 1): { gic: Gic; cpu: GicCpu } {
  const gic = new Gic(
    version,
    Array.from({ length: cpus }, (_, i) => new GicCpu(i, i)),
  );
  for (const cpu of gic.cpus) cpu.mpidr = cpu.id;
  gic.nrSpis = 64;
  gic.reset();
  gic.enabled = true;
  const [cpu] = gic.cpus;
  if (version === 3) {
    guestWriteSysreg(gic, cpu, ICC_PMR_EL1, 0xf8n);
    guestWriteSysreg(gic, cpu, ICC_IGRPEN0_EL1, 1n);
    guestWriteSysreg(gic, cpu, ICC_IGRPEN1_EL1, 1n);
  } else {
    guestWriteInterface(cpu, GICC_CTLR, 1);
    guestWriteInterface(cpu, GICC_PMR, 0xf8);
  }
  return { gic, cpu };
}

function pending(gic: Gic, intid: number, priority: number): GicIrq {
  const irq = gic.irq(gic.cpus[0], intid)!;
  irq.enabled = true;
  irq.priority = priority;
  gic.inject(irq, true);
  return irq;
}

describe("more interrupts than list registers", () => {
  /** Each by its place in the queue: what it is while the list registers are filled the first time and the second. */
  const one = fc.record({
    ready: fc.boolean(),
    priority: fc.constantFrom(0x10, 0x20, 0x30),
    later: fc.constantFrom(0x10, 0x20, 0x30),
  });

  test("those that are ready are loaded by priority, equal ones in their order; the others keep theirs behind them", () => {
    fc.assert(
      fc.property(fc.array(one, { minLength: 5, maxLength: 9 }), (all) => {
        const { gic, cpu } = newGic(3);
        const irqs = all.map(({ priority }, i) => pending(gic, 32 + i, priority));
        all.forEach(({ ready }, i) => {
          irqs[i].enabled = ready;
        });
        load(gic, cpu);
        const ready = all.map((each, i) => ({ ...each, i })).filter((each) => each.ready);
        ready.sort((a, b) => a.priority - b.priority);
        expect(cpu.lrs.map(({ irq }) => irq.intid)).toEqual(ready.slice(0, 4).map(({ i }) => 32 + i));

        const behind = all.map((each, i) => ({ ...each, i })).filter((each) => !each.ready);
        const order = [...ready, ...behind].sort((a, b) => a.later - b.later);
        all.forEach(({ later }, i) => {
          Object.assign(irqs[i], { enabled: true, priority: later });
        });
        save(gic, cpu);
        load(gic, cpu);
        expect(cpu.lrs.map(({ irq }) => irq.intid)).toEqual(order.slice(0, 4).map(({ i }) => 32 + i));
      }),
    );
  });
});

describe("an SGI of several senders (GICv2)", () => {
  const SGI = 5;
  const send = (gic: Gic, sender: number): void =>
    writeFrame(gicV2Distributor, gic, gic.cpus[sender], 0xf00, 4, BigInt((1 << 16) | SGI));

  test("nothing less urgent is loaded beside it while it waits for its senders; equals are", () => {
    const SPI = 40;
    for (let senders = 1; senders < 8; senders++)
      for (const priority of [0x40, 0x48, 0x50]) {
        const { gic, cpu } = newGic(2, 3);
        gic.irq(cpu, SGI)!.priority = 0x48;
        for (const sender of [0, 1, 2]) if ((senders >> sender) & 1) send(gic, sender);
        pending(gic, SPI, priority);
        load(gic, cpu);
        const several = (senders & (senders - 1)) !== 0;
        const first = 31 - Math.clz32(senders & -senders);
        const taken = guestReadInterface(cpu, GICC_IAR);
        const next = guestReadInterface(cpu, GICC_HPPIR);
        const sgi = SGI | (first << 10);
        expect({ senders, priority, taken, next }).toEqual({
          senders,
          priority,
          taken: priority < 0x48 ? SPI : sgi,
          next: priority < 0x48 ? SGI : several && priority > 0x48 ? SPURIOUS : SPI,
        });
      }
  });

  test("an SPI has no senders: it holds nothing back, however often it is loaded", () => {
    const { gic, cpu } = newGic(2, 2);
    pending(gic, 40, 0x20);
    for (let i = 0; i < 3; i++) {
      load(gic, cpu);
      save(gic, cpu);
    }
    gic.irq(cpu, SGI)!.priority = 0x48;
    for (const sender of [0, 1]) send(gic, sender);
    load(gic, cpu);
    expect([GICC_IAR, GICC_HPPIR].map((register) => guestReadInterface(cpu, register))).toEqual([40, SGI]);
  });
});

test("the end of one level is told while others are pending or active, and the line that is still up comes again", () => {
  const { gic, cpu } = newGic(3);
  for (const intid of [40, 41, 42]) gic.irq(cpu, intid)!.edge = false;
  const [low, high] = [pending(gic, 40, 0x80), pending(gic, 41, 0x40)];
  pending(gic, 42, 0xc0);
  load(gic, cpu);
  expect(guestReadSysreg(gic, cpu, ICC_IAR1_EL1)).toBe(high.intid);
  expect(maintenance(cpu)).toBe(false);
  guestWriteSysreg(gic, cpu, ICC_EOIR1_EL1, 41n);
  expect(maintenance(cpu)).toBe(true);
  save(gic, cpu);
  load(gic, cpu);
  expect(guestReadSysreg(gic, cpu, ICC_IAR1_EL1)).toBe(high.intid);
  expect(gic.acked).toEqual([41]);
  expect(low.active).toBe(false);
});

test("the binary points: what is left of a priority while it is active, for each group and with CBPR", () => {
  for (let bpr0 = 2; bpr0 < 8; bpr0++)
    for (let bpr1 = 3; bpr1 < 8; bpr1++)
      for (const common of [0, 1])
        for (const group of [0, 1]) {
          const { gic, cpu } = newGic(3);
          guestWriteSysreg(gic, cpu, ICC_BPR0_EL1, BigInt(bpr0));
          guestWriteSysreg(gic, cpu, ICC_BPR1_EL1, BigInt(bpr1));
          guestWriteSysreg(gic, cpu, ICC_CTLR_EL1, BigInt(common));
          pending(gic, 40, 0xf0).group = group;
          load(gic, cpu);
          expect(guestReadSysreg(gic, cpu, group === 0 ? ICC_IAR0_EL1 : ICC_IAR1_EL1)).toBe(40);
          // IHI 0069H 4.8.2: of group 0 bits 7 to BPR0 + 1 preempt, of group 1 bits 7 to BPR1
          const from = group === 0 || common === 1 ? bpr0 + 1 : bpr1;
          expect(guestReadSysreg(gic, cpu, ICC_RPR_EL1)).toBe((0xf0 >> from) << from);
        }
});

test("ICC_SGI1R_EL1 reaches exactly those that it names, by affinity and list or all but the sender", () => {
  const affinities = [0x000000, 0x000001, 0x00000f, 0x000100, 0x010000, 0x010102, 0x000010];
  const bits = fc.record({
    list: fc.constantFrom(0, 1, 2, 4, 0x8001, 0xffff),
    intid: fc.integer({ min: 0, max: 15 }),
    aff1: fc.constantFrom(0, 1, 2),
    aff2: fc.constantFrom(0, 1, 2),
    aff3: fc.constantFrom(0, 1, 0x80),
    everyone: fc.boolean(),
    reserved: fc.constantFrom(0, 1, 0x80, 0xff),
  });
  fc.assert(
    fc.property(bits, ({ list, intid, aff1, aff2, aff3, everyone, reserved }) => {
      const { gic } = newGic(3, affinities.length);
      gic.cpus.forEach((cpu, i) => {
        cpu.mpidr = affinities[i];
      });
      const value =
        (BigInt(reserved) << 56n) |
        (BigInt(aff3) << 48n) |
        (everyone ? 1n << 40n : 0n) |
        (BigInt(aff2) << 32n) |
        BigInt(((intid << 24) | (aff1 << 16) | list) >>> 0);
      guestWriteSysreg(gic, gic.cpus[1], ICC_SGI1R_EL1, value);
      const named = affinities.map((affinity, i) =>
        everyone
          ? i !== 1
          : aff3 === 0 &&
            affinity >> 16 === aff2 &&
            ((affinity >> 8) & 0xff) === aff1 &&
            (affinity & 0xff) < 16 &&
            ((list >> (affinity & 0xff)) & 1) === 1,
      );
      expect(gic.cpus.map((cpu) => cpu.privateIrqs.map((irq) => irq.pending))).toEqual(
        named.map((is) => Array.from({ length: 32 }, (_, number) => is && number === intid)),
      );
    }),
    { numRuns: 500 },
  );
});
