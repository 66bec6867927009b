import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EINVAL } from "../../lib/abi/errno.ts";
import { load32, store32 } from "../../lib/abi/struct.ts";
import { ApicBus } from "../../lib/hardware/apic-bus.ts";
import * as M from "../../lib/hardware/apic-message.ts";
import { type ApicSettings, ApicSystem } from "../../lib/hardware/apic-system.ts";
import {
  EVENT_INIT,
  EVENT_SIPI,
  LAPIC_DONE,
  LAPIC_EOI,
  LAPIC_FAULT,
  LAPIC_NOT_HERE,
  LAPIC_SEND_IPI,
  Lapic,
  x2apicLdr,
} from "../../lib/hardware/lapic.ts";
import * as R from "../../lib/hardware/lapic-registers.ts";

const NOW = 1000;
const CPUID = { x2apic: true, tscDeadline: true, intelCompatible: true, physicalAddressBits: 40 };

/** An enabled LAPIC in xAPIC mode. */
function enabled(settings: Partial<ApicSettings> = {}, vcpuId = 0, bsp = false): Lapic {
  const lapic = new Lapic(new ApicSystem(settings), vcpuId, bsp);
  lapic.setCpuid(CPUID);
  lapic.write(R.APIC_SPIV, 0x1ff, NOW);
  lapic.eventRequested = false;
  return lapic;
}

function x2apic(settings: Partial<ApicSettings> = {}, vcpuId = 0): Lapic {
  const lapic = enabled(settings, vcpuId);
  expect(lapic.setBase(0xfee0_0c00, 0, false)).toBe(LAPIC_DONE);
  return lapic;
}

const fixed = (lapic: Lapic, vector: number, trigMode = 0, level = 1): number =>
  lapic.acceptIrq(M.DM_FIXED, vector, level, trigMode);

/** The vectors in ISR, TMR or IRR. */
function vectors(lapic: Lapic, offset: number): number[] {
  return Array.from({ length: 256 }, (_, v) => v).filter(
    (v) => ((lapic.regs[(offset + (v >> 5) * 16) >> 2] >>> (v & 31)) & 1) !== 0,
  );
}

function save(lapic: Lapic): Uint8Array {
  const bytes = new Uint8Array(R.LAPIC_STATE_SIZE);
  expect(lapic.saveTo(bytes, 0, NOW)).toBe(0);
  return bytes;
}

/** The registers that are not zero. */
function nonZero(bytes: Uint8Array): Record<string, number> {
  const found: Record<string, number> = {};
  for (let at = 0; at < bytes.length; at += 4)
    if (load32(bytes, at) !== 0) found[at.toString(16)] = load32(bytes, at);
  return found;
}

function kicks(system: ApicSystem): Lapic[] {
  const taken: Lapic[] = [];
  for (let lapic = system.takeKicked(); lapic !== undefined; lapic = system.takeKicked()) taken.push(lapic);
  return taken;
}

const RESET = { 30: 0x5_0014, e0: 0xffff_ffff, f0: 0xff };
const MASKED = { 320: 0x1_0000, 330: 0x1_0000, 340: 0x1_0000, 360: 0x1_0000, 370: 0x1_0000 };

describe("reset", () => {
  test("boot processor and another one, as KVM_GET_LAPIC shows them (recorded on 6.18)", () => {
    const system = new ApicSystem();
    expect(nonZero(save(new Lapic(system, 0, true)))).toEqual({ ...RESET, ...MASKED, 350: 0x700 });
    expect(nonZero(save(new Lapic(system, 1)))).toEqual({
      ...RESET,
      ...MASKED,
      20: 0x100_0000,
      350: 0x1_0000,
    });
  });

  test("without the LINT0 quirk the boot processor's LINT0 is masked too", () => {
    const lapic = new Lapic(new ApicSystem({ lint0Reenabled: false }), 0, true);
    expect(lapic.regs[R.APIC_LVT0 >> 2]).toBe(0x1_0000);
    expect(lapic.acceptsPic()).toBe(false);
  });

  test("IA32_APIC_BASE names the boot processor", () => {
    const system = new ApicSystem();
    expect(new Lapic(system, 0, true).baseLo).toBe(0xfee0_0900);
    expect(new Lapic(system, 1).baseLo).toBe(0xfee0_0800);
  });

  test("INIT keeps mode, id and LDR of x2APIC and drops everything pending", () => {
    const lapic = x2apic({}, 0x123);
    fixed(lapic, 0x41);
    lapic.takeInterrupt();
    fixed(lapic, 0x42, 1);
    lapic.writeMsr(0x830, 0x55, 7, NOW);
    lapic.reset(true);
    expect(nonZero(save(lapic))).toEqual({
      ...RESET,
      ...MASKED,
      20: 0x2300_0000,
      350: 0x1_0000,
      d0: x2apicLdr(0x123),
    });
    expect(lapic.baseLo).toBe(0xfee0_0c00);
    expect(lapic.enabled).toBe(false);
    lapic.reset(false);
    expect(lapic.baseLo).toBe(0xfee0_0800);
    expect(lapic.xapicId).toBe(0x23);
  });

  test("CMCI comes masked with a seventh LVT entry, and the version says so", () => {
    const lapic = enabled();
    expect(lapic.write(R.APIC_LVTCMCI, 0, NOW)).toBe(LAPIC_FAULT);
    expect(lapic.read(R.APIC_LVTCMCI, 4, NOW)).toBe(LAPIC_FAULT);
    lapic.setCmci(true);
    expect(lapic.regs[R.APIC_LVR >> 2]).toBe(0x6_0014);
    expect(lapic.read(R.APIC_LVTCMCI, 4, NOW)).toBe(LAPIC_DONE);
    expect(lapic.valueLo).toBe(0x1_0000);
    expect(lapic.write(R.APIC_LVTCMCI, 0xffff_ffff, NOW)).toBe(LAPIC_DONE);
    expect(lapic.regs[R.APIC_LVTCMCI >> 2]).toBe(0x1_17ff);
    lapic.setCmci(false);
    expect(lapic.regs[R.APIC_LVR >> 2]).toBe(0x5_0014);
  });

  test("EOI-broadcast suppression is offered with x2APIC and without an IOAPIC in the kernel only", () => {
    for (const ioapicInKernel of [true, false])
      for (const hasX2apic of [true, false]) {
        const lapic = new Lapic(new ApicSystem({ ioapicInKernel }), 0);
        lapic.setCpuid({ ...CPUID, x2apic: hasX2apic });
        const offered = hasX2apic && !ioapicInKernel;
        expect(lapic.regs[R.APIC_LVR >> 2]).toBe(offered ? 0x105_0014 : 0x5_0014);
        lapic.write(R.APIC_SPIV, 0xffff_ffff, NOW);
        expect(lapic.regs[R.APIC_SPIV >> 2]).toBe(offered ? 0x13ff : 0x3ff);
        expect(lapic.directedEoi).toBe(offered);
      }
  });
});

describe("IA32_APIC_BASE", () => {
  const DISABLED = 0xfee0_0000;
  const XAPIC = 0xfee0_0800;
  const X2APIC = 0xfee0_0c00;
  const INVALID = 0xfee0_0400;
  const modes = [DISABLED, XAPIC, X2APIC];

  test("every step between modes, by the host and by the guest", () => {
    const refused: string[] = [];
    for (const from of modes)
      for (const to of [...modes, INVALID])
        for (const host of [true, false]) {
          const lapic = new Lapic(new ApicSystem(), 5);
          lapic.setCpuid(CPUID);
          lapic.setBase(from, 0, true);
          expect(lapic.baseLo).toBe(from);
          const answer = lapic.setBase(to, 0, host);
          expect(lapic.baseLo).toBe(answer === LAPIC_DONE ? to : from);
          if (answer === LAPIC_FAULT)
            refused.push(`${(from & 0xf00).toString(16)}-${(to & 0xf00).toString(16)}${host ? " host" : ""}`);
        }
    expect(refused.sort()).toEqual(
      [
        "0-400",
        "0-400 host",
        "0-c00",
        "800-400",
        "800-400 host",
        "c00-400",
        "c00-400 host",
        "c00-800",
      ].sort(),
    );
  });

  test("reserved bits: 7:0, 9, x2APIC without CPUID, and above the physical address width", () => {
    for (let bit = 0; bit < 64; bit++) {
      const lapic = new Lapic(new ApicSystem(), 0);
      lapic.setCpuid({ ...CPUID, x2apic: false });
      const lo = bit < 32 ? 0xfee0_0800 ^ (1 << bit) : 0xfee0_0800;
      const hi = bit < 32 ? 0 : 2 ** (bit - 32);
      const refused = bit < 8 || bit === 9 || bit === 10 || bit >= 40;
      expect([bit, lapic.setBase(lo, hi, true)]).toEqual([bit, refused ? LAPIC_FAULT : LAPIC_DONE]);
    }
  });

  test("x2APIC mode takes the id from the vCPU's number, leaving it restores the short one", () => {
    const lapic = enabled({}, 0x123);
    lapic.write(R.APIC_ID, 0x700_0000, NOW);
    lapic.setBase(X2APIC, 0, true);
    expect(lapic.regs[R.APIC_ID >> 2]).toBe(0x123);
    expect(lapic.regs[R.APIC_LDR >> 2]).toBe(0x12_0008);
    lapic.setBase(XAPIC, 0, true);
    expect(lapic.regs[R.APIC_ID >> 2]).toBe(0x2300_0000);
    const before = x2apic({ readonlyX2apicId: false }, 0x123);
    before.setBase(XAPIC, 0, true);
    expect(before.regs[R.APIC_ID >> 2]).toBe(0x123);
  });

  test("the page follows the base", () => {
    const lapic = enabled();
    expect(lapic.contains(0xfee0_0fff, 0)).toBe(true);
    expect(lapic.contains(0xfee0_1000, 0)).toBe(false);
    lapic.setBase(0x0012_3800, 1, true);
    expect(lapic.contains(0xfee0_0000, 0)).toBe(false);
    expect(lapic.contains(0x0012_3000, 1)).toBe(true);
    expect(lapic.contains(0x0012_3000, 0)).toBe(false);
  });
});

describe("registers", () => {
  /** Offsets in units of 16 that answer, counted through all 64. */
  const readable = (lapic: Lapic): number[] =>
    Array.from({ length: 64 }, (_, i) => i).filter((i) => lapic.read(i << 4, 4, NOW) === LAPIC_DONE);
  // prettier-ignore
  const always = [0x02, 0x03, 0x08, 0x0a, 0x0d, 0x0f, ...Array.from({ length: 25 }, (_, i) => 0x10 + i)];
  const high = [0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3e];

  test("which can be read (in x2APIC mode as recorded on 6.18)", () => {
    expect(readable(x2apic())).toEqual([...always, ...high]);
    expect(readable(enabled())).toEqual([...always, 0x09, 0x0e, 0x31, ...high].sort((a, b) => a - b));
  });

  test("reads stay within 32 bits, in any width that fits", () => {
    const lapic = enabled();
    for (let byte = 0; byte < 16; byte++)
      for (const length of [1, 2, 4, 8]) {
        const answer = lapic.read(R.APIC_LVR + byte, length, NOW);
        expect(answer).toBe(byte + length <= 4 ? LAPIC_DONE : LAPIC_FAULT);
        const mask = 2 ** (8 * length) - 1;
        if (answer === LAPIC_DONE)
          expect(lapic.valueLo).toBe(Number((0x5_0014n >> BigInt(8 * byte)) & BigInt(mask)));
      }
    expect(lapic.read(0x400, 4, NOW)).toBe(LAPIC_FAULT);
  });

  test("which can be written, in both modes", () => {
    const writable = (lapic: Lapic, value: number): number[] =>
      Array.from({ length: 64 }, (_, i) => i).filter(
        (i) => (lapic.write(i << 4, value, NOW) & LAPIC_FAULT) === 0,
      );
    const both = [0x08, 0x0b, 0x0f, 0x28, 0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3e];
    expect(writable(enabled(), 0x1ff)).toEqual([0x02, ...both, 0x0d, 0x0e, 0x31].sort((a, b) => a - b));
    expect(writable(x2apic(), 0)).toEqual([...both, 0x3f]);
    const notZero = writable(x2apic(), 0x1ff);
    expect(notZero).toEqual(both.filter((i) => i !== 0x28));
  });

  test("what a write of all ones leaves", () => {
    const lapic = enabled();
    const left = (offset: number): number => {
      lapic.write(offset, 0xffff_ffff, NOW);
      return lapic.regs[offset >> 2];
    };
    expect(left(R.APIC_TASKPRI)).toBe(0xff);
    expect(left(R.APIC_LDR)).toBe(0xff00_0000);
    expect(left(R.APIC_DFR)).toBe(0xffff_ffff);
    expect(left(R.APIC_ICR)).toBe(0xffff_efff);
    expect(left(R.APIC_ICR2)).toBe(0xff00_0000);
    expect(left(R.APIC_ID)).toBe(0xff00_0000);
    expect(left(R.APIC_ESR)).toBe(0);
    expect(left(R.APIC_LVTT)).toBe(0x7_10ff);
    expect([R.APIC_LVTTHMR, R.APIC_LVTPC].map(left)).toEqual([0x1_17ff, 0x1_17ff]);
    expect([R.APIC_LVT0, R.APIC_LVT1].map(left)).toEqual([0x1_f7ff, 0x1_f7ff]);
    expect(left(R.APIC_LVTERR)).toBe(0x1_10ff);
    expect(left(R.APIC_TDCR)).toBe(0xb);
    expect(left(R.APIC_SPIV)).toBe(0x3ff);
  });

  test("switching off by SPIV masks every LVT entry, and they stay masked", () => {
    const lapic = enabled();
    for (const offset of R.LVT_OFFSETS.slice(0, 6)) lapic.write(offset, 0x30, NOW);
    lapic.write(R.APIC_SPIV, 0xff, NOW);
    for (const offset of R.LVT_OFFSETS.slice(0, 6)) {
      expect(lapic.regs[offset >> 2]).toBe(0x1_0030);
      lapic.write(offset, 0x31, NOW);
      expect(lapic.regs[offset >> 2]).toBe(0x1_0031);
    }
  });

  test("the page takes 32-bit writes at multiples of 16 only", () => {
    for (let byte = 0; byte < 16; byte++)
      for (const length of [1, 2, 4, 8]) {
        const lapic = enabled();
        expect(lapic.mmioWrite(R.APIC_TASKPRI + byte, length, 0x20, NOW)).toBe(LAPIC_DONE);
        expect(lapic.regs[R.APIC_TASKPRI >> 2]).toBe(byte === 0 && length === 4 ? 0x20 : 0);
      }
    expect(enabled().mmioWrite(R.APIC_LVR, 4, 1, NOW)).toBe(LAPIC_DONE);
    expect(enabled().mmioWrite(R.APIC_ICR, 4, 1, NOW)).toBe(LAPIC_SEND_IPI);
  });

  test("where the page is not: a hole that swallows, or (without the quirk) nothing", () => {
    for (const mmioHole of [true, false])
      for (const base of [0xfee0_0000, 0xfee0_0c00]) {
        const lapic = enabled({ mmioHole });
        lapic.setBase(base, 0, true);
        const answer = mmioHole ? LAPIC_DONE : LAPIC_NOT_HERE;
        lapic.valueLo = 0;
        expect(lapic.mmioRead(R.APIC_LVR, 4, NOW)).toBe(answer);
        expect(lapic.valueLo).toBe(mmioHole ? 0xffff_ffff : 0);
        expect(lapic.mmioWrite(R.APIC_TASKPRI, 4, 0x20, NOW)).toBe(answer);
        expect(lapic.regs[R.APIC_TASKPRI >> 2]).toBe(0);
      }
  });

  test("MSRs are x2APIC's, 32 bits but for ICR", () => {
    expect(enabled().readMsr(0x803, NOW)).toBe(LAPIC_FAULT);
    expect(enabled().writeMsr(0x808, 0x20, 0, NOW)).toBe(LAPIC_FAULT);
    const lapic = x2apic();
    expect(lapic.writeMsr(0x808, 0x20, 1, NOW)).toBe(LAPIC_FAULT);
    expect(lapic.writeMsr(0x808, 0x20, 0, NOW)).toBe(LAPIC_DONE);
    expect(lapic.readMsr(0x808, NOW)).toBe(LAPIC_DONE);
    expect([lapic.valueLo, lapic.valueHi]).toEqual([0x20, 0]);
    expect(lapic.writeMsr(0x830, 0x1055, 0xdead_beef, NOW)).toBe(LAPIC_SEND_IPI);
    expect(lapic.readMsr(0x830, NOW)).toBe(LAPIC_DONE);
    expect([lapic.valueLo, lapic.valueHi]).toEqual([0x55, 0xdead_beef]);
  });

  test("each bit of an x2APIC ICR: reserved or not", () => {
    const refused = Array.from({ length: 32 }, (_, i) => i).filter(
      (i) => x2apic().writeMsr(0x830, 1 << i, 0, NOW) === LAPIC_FAULT,
    );
    expect(refused).toEqual([13, 16, 17, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31]);
  });

  test("the message in an ICR", () => {
    const lapic = enabled();
    lapic.write(R.APIC_ICR2, 0x1234_5678, NOW);
    expect(lapic.write(R.APIC_ICR, 0x000c_c955, NOW)).toBe(LAPIC_SEND_IPI);
    expect(lapic.ipi).toEqual({
      vector: 0x55,
      deliveryMode: M.DM_LOWEST,
      destMode: M.DEST_LOGICAL,
      destId: 0x12,
      trigMode: 0x8000,
      level: 1,
      shorthand: M.SHORTHAND_ALL_BUT_SELF,
      msiRedirHint: false,
    });
    const long = x2apic();
    expect(long.writeMsr(0x830, 0x455, 0x1234_5678, NOW)).toBe(LAPIC_SEND_IPI);
    expect(long.ipi).toEqual({
      ...M.newMessage(),
      vector: 0x55,
      deliveryMode: M.DM_NMI,
      destId: 0x1234_5678,
      level: 0,
    });
    expect(long.writeMsr(0x83f, 0x66, 0, NOW)).toBe(LAPIC_SEND_IPI);
    expect(long.ipi).toEqual({ ...M.newMessage(), vector: 0x66, shorthand: M.SHORTHAND_SELF, level: 0 });
  });
});

describe("acceptIrq", () => {
  test("the mode decides what the vCPU finds, and it is woken once", () => {
    const modes = [
      M.DM_FIXED,
      M.DM_LOWEST,
      M.DM_SMI,
      M.DM_REMRD,
      M.DM_NMI,
      M.DM_INIT,
      M.DM_STARTUP,
      M.DM_EXTINT,
    ];
    const found = modes.map((mode) => {
      const lapic = enabled({ smm: true });
      const taken = [lapic.acceptIrq(mode, 0x41, 1, 0), lapic.acceptIrq(mode, 0x41, 1, 0)];
      expect(kicks(lapic.system)).toEqual(taken[0] === 1 ? [lapic] : []);
      expect(kicks(lapic.system)).toEqual([]);
      const { nmiQueued, smiPending, pendingEvents, pvUnhalted, arbPrio, eventRequested, sipiVector } = lapic;
      const irr = vectors(lapic, R.APIC_IRR);
      return {
        taken,
        irr,
        nmiQueued,
        smiPending,
        pendingEvents,
        pvUnhalted,
        arbPrio,
        eventRequested,
        sipiVector,
      };
    });
    const idle = {
      taken: [1, 1],
      irr: [] as number[],
      nmiQueued: 0,
      smiPending: false,
      pendingEvents: 0,
      pvUnhalted: false,
      arbPrio: 0,
      eventRequested: false,
      sipiVector: 0,
    };
    expect(found).toEqual([
      { ...idle, irr: [0x41], eventRequested: true },
      { ...idle, irr: [0x41], eventRequested: true, arbPrio: 2 },
      { ...idle, smiPending: true },
      { ...idle, pvUnhalted: true, eventRequested: true },
      { ...idle, nmiQueued: 2 },
      { ...idle, pendingEvents: EVENT_INIT, eventRequested: true },
      { ...idle, pendingEvents: EVENT_SIPI, sipiVector: 0x41, eventRequested: true },
      { ...idle, taken: [0, 0] },
    ]);
  });

  test("disabled by software: vectors are lost, everything else is taken (recorded on 6.18)", () => {
    const lapic = new Lapic(new ApicSystem(), 5);
    const taken = [0, 1, 2, 3, 4, 5, 6, 7].map((mode) => lapic.acceptIrq(mode << 8, 0x55, 1, 0));
    expect(taken).toEqual([0, 0, 0, 1, 1, 1, 1, 0]);
    expect(vectors(lapic, R.APIC_IRR)).toEqual([]);
  });

  test("a level-triggered de-assert does nothing, for INIT neither", () => {
    const lapic = enabled();
    expect(fixed(lapic, 0x41, 0x8000, 0)).toBe(0);
    expect(lapic.acceptIrq(M.DM_INIT, 0, 0, 0x8000)).toBe(0);
    expect(fixed(lapic, 0x42, 0, 0)).toBe(1);
    expect(lapic.acceptIrq(M.DM_INIT, 0, 0, 0)).toBe(1);
    expect(vectors(lapic, R.APIC_IRR)).toEqual([0x42]);
  });

  test("INIT wipes out a SIPI before it, a SIPI after it stays", () => {
    const lapic = enabled();
    lapic.acceptIrq(M.DM_STARTUP, 1, 1, 0);
    lapic.acceptIrq(M.DM_INIT, 0, 1, 0);
    expect(lapic.pendingEvents).toBe(EVENT_INIT);
    lapic.acceptIrq(M.DM_STARTUP, 2, 1, 0);
    expect([lapic.pendingEvents, lapic.sipiVector]).toEqual([EVENT_INIT | EVENT_SIPI, 2]);
  });

  test("TMR follows the last arrival of a vector, for all vectors, the illegal ones too", () => {
    const lapic = enabled();
    const took = new Map<number, number>();
    for (let vector = 0; vector < 256; vector++) {
      expect(lapic.acceptIrq(M.DM_FIXED, vector, 1, 0x8000, took)).toBe(1);
      expect(vectors(lapic, R.APIC_TMR)).toEqual([vector]);
      expect([...took]).toEqual([[0, vector]]);
      expect(fixed(lapic, vector)).toBe(1);
      expect(vectors(lapic, R.APIC_TMR)).toEqual([]);
    }
    expect(vectors(lapic, R.APIC_IRR).length).toBe(256);
  });
});

describe("priorities", () => {
  test("PPR for every TPR and every vector in service, against the manual's rule", () => {
    for (let inService = -1; inService < 256; inService++) {
      const lapic = enabled();
      if (inService >= 0) lapic.ackInterrupt(inService);
      for (let tpr = 0; tpr < 256; tpr++) {
        lapic.write(R.APIC_TASKPRI, tpr, NOW);
        const tprClass = tpr >> 4;
        const isrClass = inService < 0 ? 0 : inService >> 4;
        const ppr = tprClass >= isrClass ? tpr : isrClass * 16;
        if (lapic.regs[R.APIC_PROCPRI >> 2] !== ppr || lapic.cr8 !== tprClass)
          expect([inService, tpr, lapic.regs[R.APIC_PROCPRI >> 2], lapic.cr8]).toEqual([
            inService,
            tpr,
            ppr,
            tprClass,
          ]);
      }
    }
  });

  test("an interrupt gets through when its class is above PPR: every TPR and every vector", () => {
    const lapic = enabled();
    for (let vector = 0; vector < 256; vector++) {
      lapic.regs.fill(0, R.APIC_IRR >> 2, R.APIC_ESR >> 2);
      fixed(lapic, vector);
      for (let tpr = 0; tpr < 256; tpr++) {
        lapic.write(R.APIC_TASKPRI, tpr, NOW);
        // KVM compares the class with all of PPR: TPR 0x41 holds back class 4 as TPR 0x40 does.
        const through = vector >> 4 > tpr >> 4;
        if (lapic.hasInterrupt() !== (through ? vector : -1))
          expect([vector, tpr, lapic.hasInterrupt()]).toEqual([vector, tpr, through ? vector : -1]);
      }
    }
  });

  test("CR8 writes the upper half of TPR", () => {
    const lapic = enabled();
    for (let cr8 = 0; cr8 < 16; cr8++) {
      lapic.cr8 = cr8;
      expect(lapic.regs[R.APIC_TASKPRI >> 2]).toBe(cr8 << 4);
      expect(lapic.cr8).toBe(cr8);
    }
  });

  test("disabled in IA32_APIC_BASE nothing gets through, and the PIC does", () => {
    const lapic = enabled();
    fixed(lapic, 0x41);
    expect([lapic.hasInterrupt(), lapic.acceptsPic()]).toEqual([0x41, false]);
    lapic.setBase(0xfee0_0000, 0, true);
    expect([lapic.hasInterrupt(), lapic.acceptsPic()]).toEqual([-1, true]);
  });

  test("the PIC comes through LINT0 when it is open as ExtINT: every mode", () => {
    const lapic = enabled();
    for (let mode = 0; mode < 8; mode++)
      for (const masked of [0, R.LVT_MASKED]) {
        lapic.write(R.APIC_LVT0, (mode << 8) | masked, NOW);
        expect(lapic.acceptsPic()).toBe(mode === 7 && masked === 0);
      }
  });

  /** The same with two sets and no cache. */
  class Twin {
    irr = new Set<number>();
    tmr = new Set<number>();
    isr = new Set<number>();
    tpr = 0;
    get top(): number {
      return Math.max(-1, ...this.isr);
    }
    get ppr(): number {
      const isrClass = this.top < 0 ? 0 : this.top & 0xf0;
      return (this.tpr & 0xf0) >= isrClass ? this.tpr : isrClass;
    }
    take(): number {
      const vector = Math.max(-1, ...this.irr);
      if (vector < 0 || vector >> 4 <= this.ppr >> 4) return -1;
      this.irr.delete(vector);
      this.isr.add(vector);
      return vector;
    }
    eoi(): number {
      const vector = this.top;
      this.isr.delete(vector);
      return vector;
    }
  }

  const step = fc.oneof(
    fc.record({ op: fc.constant("irq" as const), value: fc.nat(255), level: fc.boolean() }),
    fc.record({ op: fc.constant("tpr" as const), value: fc.nat(255) }),
    fc.constant({ op: "take" as const }),
    fc.constant({ op: "eoi" as const }),
    fc.constant({ op: "restore" as const }),
  );

  test("arrival, taking, EOI, TPR and save-and-restore in any order, against sets", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const lapic = enabled();
        const twin = new Twin();
        for (const s of steps) {
          if (s.op === "irq") {
            fixed(lapic, s.value, s.level ? 1 : 0);
            twin.irr.add(s.value);
            if (s.level) twin.tmr.add(s.value);
            else twin.tmr.delete(s.value);
          } else if (s.op === "tpr") {
            lapic.write(R.APIC_TASKPRI, s.value, NOW);
            twin.tpr = s.value;
          } else if (s.op === "take") {
            expect(lapic.takeInterrupt()).toBe(twin.take());
          } else if (s.op === "eoi") {
            const vector = twin.eoi();
            expect(lapic.write(R.APIC_EOI, 0, NOW)).toBe(vector < 0 ? LAPIC_DONE : LAPIC_EOI);
            if (vector >= 0)
              expect([lapic.eoiVector, lapic.eoiLevel]).toEqual([vector, twin.tmr.has(vector)]);
          } else {
            expect(lapic.loadFrom(save(lapic), 0, NOW)).toBe(0);
          }
          const sorted = (set: Set<number>): number[] => [...set].sort((a, b) => a - b);
          expect(vectors(lapic, R.APIC_IRR)).toEqual(sorted(twin.irr));
          expect(vectors(lapic, R.APIC_ISR)).toEqual(sorted(twin.isr));
          expect(vectors(lapic, R.APIC_TMR)).toEqual(sorted(twin.tmr));
          lapic.read(R.APIC_PROCPRI, 4, NOW);
          expect(lapic.valueLo).toBe(twin.ppr);
          expect(lapic.highestIrr()).toBe(Math.max(-1, ...twin.irr));
          for (const vector of [...twin.irr, ...twin.isr]) expect(lapic.pendingEoi(vector)).toBe(true);
        }
      }),
    );
  });

  test("an event is asked for when PPR falls below something pending, and only then", () => {
    const lapic = enabled();
    fixed(lapic, 0x61);
    expect(lapic.takeInterrupt()).toBe(0x61);
    fixed(lapic, 0x51);
    lapic.write(R.APIC_TASKPRI, 0x50, NOW);
    lapic.eventRequested = false;
    expect(lapic.eoi()).toBe(LAPIC_EOI);
    expect(lapic.eventRequested).toBe(true);
    lapic.eventRequested = false;
    lapic.write(R.APIC_TASKPRI, 0x60, NOW);
    expect(lapic.eventRequested).toBe(false);
    lapic.write(R.APIC_TASKPRI, 0x5f, NOW);
    expect(lapic.eventRequested).toBe(false);
    lapic.write(R.APIC_TASKPRI, 0x4f, NOW);
    expect(lapic.eventRequested).toBe(true);
  });

  test("auto-EOI leaves nothing in service", () => {
    const lapic = enabled();
    fixed(lapic, 0x61);
    lapic.ackInterrupt(0x61, true);
    expect([vectors(lapic, R.APIC_IRR), vectors(lapic, R.APIC_ISR)]).toEqual([[], []]);
    expect(lapic.eoi()).toBe(LAPIC_DONE);
  });
});

describe("local vectors", () => {
  test("each entry delivers by its own mode and mask", () => {
    for (const offset of R.LVT_OFFSETS.slice(0, 6)) {
      const lapic = enabled();
      lapic.write(offset, 0x35, NOW);
      expect(lapic.localDeliver(offset)).toBe(1);
      expect(vectors(lapic, R.APIC_IRR)).toEqual([0x35]);
      lapic.write(offset, 0x1_0036, NOW);
      expect(lapic.localDeliver(offset)).toBe(0);
      expect(vectors(lapic, R.APIC_IRR)).toEqual([0x35]);
    }
  });

  test("a performance interrupt masks its entry, except on AMD", () => {
    for (const intelCompatible of [true, false]) {
      const lapic = enabled();
      lapic.setCpuid({ ...CPUID, intelCompatible });
      lapic.write(R.APIC_LVTPC, M.DM_NMI, NOW);
      expect([lapic.localDeliver(R.APIC_LVTPC), lapic.localDeliver(R.APIC_LVTPC)]).toEqual([
        1,
        intelCompatible ? 0 : 1,
      ]);
      expect(lapic.nmiQueued).toBe(intelCompatible ? 1 : 2);
    }
  });

  test("LAPICs whose LINT0 takes NMIs are counted once each", () => {
    const system = new ApicSystem();
    const [a, b] = [new Lapic(system, 0), new Lapic(system, 1)];
    for (const lapic of [a, b]) lapic.write(R.APIC_SPIV, 0x1ff, NOW);
    const counts: number[] = [];
    for (const [lapic, entry] of [
      [a, M.DM_NMI],
      [a, M.DM_NMI | 0x33],
      [b, M.DM_NMI],
      [b, M.DM_NMI | R.LVT_MASKED],
      [a, M.DM_EXTINT],
    ] as const) {
      lapic.write(R.APIC_LVT0, entry, NOW);
      counts.push(system.lapicsInNmiMode);
    }
    expect(counts).toEqual([1, 1, 2, 1, 0]);
  });

  test("level-triggered LINT entries mark TMR", () => {
    const lapic = enabled();
    lapic.write(R.APIC_LVT1, 0x8035, NOW);
    expect(lapic.localDeliver(R.APIC_LVT1)).toBe(1);
    expect(vectors(lapic, R.APIC_TMR)).toEqual([0x35]);
  });
});

describe("KVM_GET_LAPIC and KVM_SET_LAPIC", () => {
  test("a state of all ones is taken raw but for version, PPR and TMCCT (recorded on 6.18)", () => {
    const lapic = new Lapic(new ApicSystem(), 0, true);
    expect(lapic.loadFrom(new Uint8Array(1024).fill(0xff), 0, NOW)).toBe(0);
    const state = save(lapic);
    const expected = new Uint8Array(1024).fill(0xff);
    store32(expected, R.APIC_LVR, 0x5_0014);
    store32(expected, R.APIC_PROCPRI, 0xff);
    expect(state).toEqual(expected);
    expect(lapic.loadFrom(new Uint8Array(1024), 0, NOW)).toBe(0);
    expect(nonZero(save(lapic))).toEqual({ 30: 0x5_0014 });
  });

  test("PPR follows the ISR of before, and the new one the next time (recorded on 6.18)", () => {
    const lapic = new Lapic(new ApicSystem(), 0, true);
    const state = save(lapic);
    store32(state, R.APIC_SPIV, 0x1ff);
    store32(state, R.APIC_ISR + 0x20, 1 << 5);
    lapic.loadFrom(state, 0, NOW);
    expect(load32(save(lapic), R.APIC_PROCPRI)).toBe(0);
    lapic.loadFrom(save(lapic), 0, NOW);
    expect(load32(save(lapic), R.APIC_PROCPRI)).toBe(0x40);
    const withApicv = new Lapic(new ApicSystem({ apicv: true }), 0, true);
    withApicv.loadFrom(state, 0, NOW);
    expect(load32(save(withApicv), R.APIC_PROCPRI)).toBe(0x40);
  });

  test("the caller's bytes are left alone, other bytes of the buffer too", () => {
    const lapic = x2apic({}, 7);
    const buffer = new Uint8Array(1024 + 16).fill(0xaa);
    expect(lapic.saveTo(buffer, 8, NOW)).toBe(0);
    expect([...buffer.subarray(0, 8), ...buffer.subarray(1032)]).toEqual(new Array(16).fill(0xaa));
    const copy = buffer.slice();
    expect(lapic.loadFrom(buffer, 8, NOW)).toBe(0);
    expect(buffer).toEqual(copy);
  });

  test("x2APIC ids: shifted without, whole with 32-bit ids, and a foreign one is refused after SPIV was written", () => {
    const short = x2apic({}, 5);
    expect(load32(save(short), R.APIC_ID)).toBe(0x0500_0000);
    const state = save(short);
    store32(state, R.APIC_ID, 0x0900_0000);
    store32(state, R.APIC_LDR, 0);
    expect(short.loadFrom(state, 0, NOW)).toBe(0);
    expect(load32(save(short), R.APIC_ID)).toBe(0x0500_0000);
    expect(load32(save(short), R.APIC_LDR)).toBe(x2apicLdr(5));

    const long = x2apic({ x2apicFormat: true }, 300);
    const whole = save(long);
    expect(load32(whole, R.APIC_ID)).toBe(300);
    store32(whole, R.APIC_ID, 301);
    store32(whole, R.APIC_SPIV, 0xff);
    store32(whole, R.APIC_TASKPRI, 0x20);
    expect(long.loadFrom(whole, 0, NOW)).toBe(-EINVAL);
    expect(load32(save(long), R.APIC_TASKPRI)).toBe(0);
    expect(load32(save(long), R.APIC_SPIV)).toBe(0xff);
    expect(long.enabled).toBe(false);
  });

  test("6.1 takes the x2APIC id as it comes, and cannot show a foreign one with 32-bit ids", () => {
    const lapic = x2apic({ readonlyX2apicId: false }, 5);
    const state = save(lapic);
    store32(state, R.APIC_ID, 0x0900_0000);
    expect(lapic.loadFrom(state, 0, NOW)).toBe(0);
    expect(load32(save(lapic), R.APIC_ID)).toBe(0x0900_0000);
    expect(load32(save(lapic), R.APIC_LDR)).toBe(x2apicLdr(9));
    lapic.system.settings.x2apicFormat = true;
    expect(lapic.saveTo(new Uint8Array(1024), 0, NOW)).toBe(-EINVAL);
  });

  test("the 64-bit ICR is split for user space: at 0x304 and 0x310, on AMD at 0x310 only", () => {
    for (const splitX2apicIcr of [false, true]) {
      const lapic = x2apic({ splitX2apicIcr });
      lapic.writeMsr(0x830, 0x55, 5, NOW);
      const state = save(lapic);
      expect([0x300, 0x304, 0x310].map((at) => load32(state, at))).toEqual([0x55, splitX2apicIcr ? 0 : 5, 5]);
      store32(state, R.APIC_ICR2, 6);
      store32(state, 0x304, 9);
      lapic.loadFrom(state, 0, NOW);
      lapic.readMsr(0x830, NOW);
      expect([lapic.valueLo, lapic.valueHi]).toEqual([0x55, 6]);
    }
  });

  test("arbitration priority starts again", () => {
    const lapic = enabled();
    lapic.acceptIrq(M.DM_LOWEST, 0x41, 1, 0);
    expect(lapic.arbPrio).toBe(1);
    lapic.loadFrom(save(lapic), 0, NOW);
    expect(lapic.arbPrio).toBe(0);
  });
});

/**
 * What a real kernel did: random SET_LAPIC, MSIs, MSR writes and, from a guest, accesses to the page, with what changed
 * in every LAPIC's KVM_GET_LAPIC after each. Timers run in it only where they cannot fire; TMCCT is not compared.
 */
describe("recorded on 6.18", () => {
  interface Step {
    op: "vm" | "vcpu" | "cpuid" | "set" | "msi" | "wrmsr" | "rdmsr" | "mw" | "mr";
    fmt: number;
    split: boolean;
    id: number;
    i: number;
    x2: boolean;
    tscd: boolean;
    bits: number;
    words: [number, number][];
    tmcct: number;
    lo: number;
    hi: number;
    data: number;
    msr: number;
    off: number;
    len: number;
    val: number;
    ret?: number;
    changes?: [number, number, number][];
  }

  class Recorded {
    system = new ApicSystem();
    bus = new ApicBus(this.system);
    message = M.newMessage();
    shadow: Uint8Array[] = [];
    emulator = new Uint8Array(4);

    send(lapic: Lapic, answer: number): number {
      if ((answer & LAPIC_SEND_IPI) !== 0) this.bus.deliver(lapic.ipi, lapic);
      return (answer & LAPIC_FAULT) !== 0 ? 0 : 1;
    }

    /** What the call returned, and for reads the value. */
    act(s: Step): unknown {
      const lapic = this.bus.lapics[s.i];
      switch (s.op) {
        case "vm": {
          const settings = {
            x2apicFormat: (s.fmt & 1) !== 0,
            broadcastQuirkDisabled: (s.fmt & 2) !== 0,
            ioapicInKernel: !s.split,
          };
          this.system = new ApicSystem(settings);
          this.bus = new ApicBus(this.system);
          this.shadow = [];
          return undefined;
        }
        case "vcpu":
          this.bus.add(new Lapic(this.system, s.id, s.id === 0));
          this.shadow.push(new Uint8Array(1024));
          return undefined;
        case "cpuid":
          lapic.setCpuid({
            x2apic: s.x2,
            tscDeadline: s.tscd,
            intelCompatible: true,
            physicalAddressBits: s.bits,
          });
          return undefined;
        case "set": {
          const state = this.shadow[s.i].slice();
          for (const [at, value] of s.words) store32(state, at, value);
          store32(state, R.APIC_TMCCT, s.tmcct);
          return lapic.loadFrom(state, 0, NOW);
        }
        case "msi":
          if (this.system.settings.x2apicFormat && (s.hi & 0xff) !== 0) return -EINVAL;
          M.messageFromMsi(this.message, s.lo, s.hi, s.data, this.system.settings.x2apicFormat);
          return this.bus.deliver(this.message);
        case "wrmsr":
          if (s.msr === 0x1b) return this.send(lapic, lapic.setBase(s.lo, s.hi, true));
          return this.send(lapic, lapic.writeMsr(s.msr, s.lo, s.hi, NOW));
        case "rdmsr": {
          const ok = lapic.readMsr(s.msr, NOW) === LAPIC_DONE;
          return ok ? [1, lapic.valueLo, lapic.valueHi] : [0, 0, 0];
        }
        case "mw":
          this.send(lapic, lapic.mmioWrite(s.off, s.len, s.val, NOW));
          lapic.hasInterrupt();
          return undefined;
        case "mr": {
          if (lapic.mmioRead(s.off, s.len, NOW) === LAPIC_DONE)
            for (let i = 0; i < s.len; i++) this.emulator[i] = lapic.valueLo >>> (8 * i);
          lapic.hasInterrupt();
          const read = new Uint8Array(4);
          read.set(this.emulator.subarray(0, s.len));
          return load32(read, 0);
        }
      }
    }

    wrong(s: Step): string | null {
      const got = this.act(s);
      const want = s.op === "rdmsr" ? [s.ret, s.lo, s.hi] : s.op === "mr" ? s.val : s.ret;
      if (JSON.stringify(got) !== JSON.stringify(want)) return `answered ${got}`;
      for (const [i, at, value] of s.changes ?? []) store32(this.shadow[i], at, value);
      for (const [i, shadow] of this.shadow.entries()) {
        const state = save(this.bus.lapics[i]);
        store32(state, R.APIC_TMCCT, 0);
        if (Buffer.compare(state, shadow) !== 0) return `vCPU ${i}: ${JSON.stringify(nonZero(state))}`;
      }
      return null;
    }
  }

  test("every answer and every register after every step", () => {
    const file = new URL("../../fixtures/chips/lapic-6.18.jsonl", import.meta.url);
    const steps = readFileSync(file, "utf8").trim().split("\n").slice(1);
    const twin = new Recorded();
    const failures: string[] = [];
    for (const line of steps) {
      const wrong = twin.wrong(JSON.parse(line));
      if (wrong !== null) failures.push(`${line}: ${wrong}`);
    }
    expect(failures).toEqual([]);
    expect(steps.length).toBe(STEPS);
  });
});

/** Steps in the recording. */
const STEPS = 2338;

// arch/x86/kvm/lapic.c:__apic_read, APIC_ARBPRI (6.1)
test("the arbitration priority reads 0, whatever stands there", () => {
  const lapic = enabled();
  const page = save(lapic);
  store32(page, R.APIC_ARBPRI, 0x55);
  expect(lapic.loadFrom(page, 0, NOW)).toBe(0);
  expect([load32(save(lapic), R.APIC_ARBPRI), lapic.read(R.APIC_ARBPRI, 4, NOW), lapic.valueLo]).toEqual([
    0x55,
    LAPIC_DONE,
    0,
  ]);
});

// arch/x86/kvm/lapic.c:kvm_apic_after_set_mcg_cap (6.1): entries that are new are masked, others stay
test("the CMCI entry comes masked each time that it comes", () => {
  const lapic = enabled();
  for (let round = 0; round < 2; round++) {
    lapic.setCmci(true);
    expect(load32(save(lapic), R.APIC_LVTCMCI)).toBe(R.LVT_MASKED);
    lapic.setCmci(true);
    lapic.write(R.APIC_LVTCMCI, 0x41, NOW);
    lapic.setCmci(true);
    expect(load32(save(lapic), R.APIC_LVTCMCI)).toBe(0x41);
    lapic.setCmci(false);
    expect(load32(save(lapic), R.APIC_LVTCMCI)).toBe(0x41);
  }
});
