import { describe, expect, test } from "vitest";
import { ApicSystem } from "../../lib/hardware/apic-system.ts";
import { Lapic } from "../../lib/hardware/lapic.ts";
import * as R from "../../lib/hardware/lapic-registers.ts";
import { NEVER } from "../../lib/hardware/lapic-timer.ts";

const VECTOR = 0x30;
const DIVIDE_BY_1 = 0xb;

/** An enabled LAPIC whose timer counts nanoseconds, with the given LVTT. */
function timer(lvtt: number, busCycleNs = 1): Lapic {
  const lapic = new Lapic(new ApicSystem({ busCycleNs }), 0);
  lapic.setCpuid({ x2apic: true, tscDeadline: true, intelCompatible: true, physicalAddressBits: 40 });
  lapic.write(R.APIC_SPIV, 0x1ff, 0);
  lapic.write(R.APIC_TDCR, DIVIDE_BY_1, 0);
  lapic.write(R.APIC_LVTT, lvtt, 0);
  return lapic;
}

function count(lapic: Lapic, now: number): number {
  lapic.read(R.APIC_TMCCT, 4, now);
  return lapic.valueLo;
}

/** Takes interrupts until none is left: how often the timer's came. */
function interrupts(lapic: Lapic): number {
  lapic.injectTimer();
  let taken = 0;
  for (; lapic.takeInterrupt() === VECTOR; taken++) lapic.eoi();
  return taken;
}

/** Steps the clock from deadline to deadline; the times at which the timer interrupted. */
function run(lapic: Lapic, until: number): number[] {
  const times: number[] = [];
  while (lapic.timer.deadline <= until) {
    const now = lapic.timer.deadline;
    lapic.expireTimer(now);
    for (let n = interrupts(lapic); n > 0; n--) times.push(now);
  }
  return times;
}

function restore(lapic: Lapic, lvtt: number, initial: number, current: number, now: number): void {
  const state = new Uint8Array(1024);
  lapic.saveTo(state, 0, now);
  const view = new DataView(state.buffer);
  view.setUint32(R.APIC_LVTT, lvtt, true);
  view.setUint32(R.APIC_TMICT, initial, true);
  view.setUint32(R.APIC_TMCCT, current, true);
  expect(lapic.loadFrom(state, 0, now)).toBe(0);
}

describe("counting", () => {
  test("the divisor, for each of the sixteen values", () => {
    const lapic = timer(VECTOR);
    const divisors = Array.from({ length: 16 }, (_, tdcr) => {
      lapic.write(R.APIC_TDCR, tdcr, 0);
      return lapic.timer.divideCount;
    });
    expect(divisors).toEqual([2, 4, 8, 16, 2, 4, 8, 16, 32, 64, 128, 1, 32, 64, 128, 1]);
  });

  test("one-shot fires once, at count times divisor times bus cycle", () => {
    for (const busCycleNs of [1, 25])
      for (const [tdcr, divisor] of [
        [DIVIDE_BY_1, 1],
        [0, 2],
        [0xa, 128],
      ]) {
        const lapic = timer(VECTOR, busCycleNs);
        lapic.write(R.APIC_TDCR, tdcr, 0);
        lapic.write(R.APIC_TMICT, 1000, 500);
        const length = 1000 * divisor * busCycleNs;
        expect(count(lapic, 500)).toBe(1000);
        expect(count(lapic, 501)).toBe(999);
        expect(count(lapic, 500 + length / 2)).toBe(500);
        expect(count(lapic, 500 + length)).toBe(0);
        expect(run(lapic, 1e9)).toEqual([500 + length]);
        expect(lapic.timer.deadline).toBe(NEVER);
      }
  });

  test("periodic fires each round, and the count starts again", () => {
    const lapic = timer(R.TIMER_PERIODIC | VECTOR);
    lapic.write(R.APIC_TMICT, 300_000, 0);
    expect(run(lapic, 1_000_000)).toEqual([300_000, 600_000, 900_000]);
    expect(count(lapic, 1_000_000)).toBe(200_000);
    lapic.write(R.APIC_TMICT, 0, 1_000_000);
    expect(lapic.timer.deadline).toBe(NEVER);
    expect(count(lapic, 1_000_001)).toBe(0);
  });

  test("periodic rounds are at least min_timer_period_us long, one-shots are not (recorded on 6.18)", () => {
    const lapic = timer(R.TIMER_PERIODIC | VECTOR);
    lapic.write(R.APIC_TMICT, 1000, 0);
    expect(run(lapic, 600_000)).toEqual([200_000, 400_000, 600_000]);
    expect(count(lapic, 600_001)).toBe(199_999);
    const once = timer(VECTOR);
    once.write(R.APIC_TMICT, 1000, 0);
    expect(run(once, 600_000)).toEqual([1000]);
  });

  test("rounds missed while nobody looked are one interrupt, and the next round starts now", () => {
    const lapic = timer(R.TIMER_PERIODIC | VECTOR);
    lapic.write(R.APIC_TMICT, 300_000, 0);
    expect(lapic.expireTimer(1_000_000)).toBe(true);
    expect(lapic.timer.deadline).toBe(1_000_000);
    expect(lapic.expireTimer(1_000_000)).toBe(false);
    expect(lapic.timer.deadline).toBe(1_300_000);
    expect(interrupts(lapic)).toBe(1);
  });

  test("a new divisor stretches what is left (recorded on 6.18: the count stays, its speed changes)", () => {
    const lapic = timer(VECTOR);
    lapic.write(R.APIC_TMICT, 1_000_000, 0);
    lapic.write(R.APIC_TDCR, 0, 400_000);
    expect(count(lapic, 400_000)).toBe(600_000);
    expect(count(lapic, 500_000)).toBe(550_000);
    expect(run(lapic, 1e9)).toEqual([1_600_000]);
  });
});

describe("modes", () => {
  test("only those that CPUID offers can be set: none before leaf 1 is known", () => {
    const kept = (tscDeadline: boolean | undefined): number => {
      const lapic = new Lapic(new ApicSystem(), 0);
      if (tscDeadline !== undefined)
        lapic.setCpuid({ x2apic: true, tscDeadline, intelCompatible: true, physicalAddressBits: 40 });
      lapic.write(R.APIC_SPIV, 0x1ff, 0);
      lapic.write(R.APIC_LVTT, 0x7_0000, 0);
      return lapic.regs[R.APIC_LVTT >> 2];
    };
    expect([undefined, false, true].map(kept)).toEqual([0x1_0000, 0x3_0000, 0x7_0000]);
  });

  test("one-shot to periodic and back keeps counting, to and from TSC-deadline stops: every pair", () => {
    const modes = [R.TIMER_ONESHOT, R.TIMER_PERIODIC, R.TIMER_TSCDEADLINE, 3 << 17];
    for (const from of modes)
      for (const to of modes) {
        const lapic = timer(from | VECTOR);
        lapic.write(R.APIC_TMICT, 1_000_000, 0);
        const started = from !== R.TIMER_TSCDEADLINE;
        expect(lapic.regs[R.APIC_TMICT >> 2]).toBe(started ? 1_000_000 : 0);
        lapic.write(R.APIC_LVTT, to | VECTOR, 100);
        const deadlineChanged = (from === R.TIMER_TSCDEADLINE) !== (to === R.TIMER_TSCDEADLINE);
        expect(lapic.regs[R.APIC_TMICT >> 2]).toBe(started && !deadlineChanged ? 1_000_000 : 0);
        const runs = (from === R.TIMER_ONESHOT || from === R.TIMER_PERIODIC) && !deadlineChanged;
        expect(lapic.timer.deadline).toBe(runs ? 1_000_000 : NEVER);
      }
  });

  test("a TSC deadline fires when the guest's TSC reaches it, once", () => {
    const lapic = timer(R.TIMER_TSCDEADLINE | VECTOR);
    lapic.timer.tscKhz = 2_000_000;
    lapic.timer.tscOffset = 5000n;
    lapic.setTscDeadline(5000n + 2_000_000n, 100);
    expect(lapic.tscDeadline).toBe(2_005_000n);
    expect(run(lapic, 1e9)).toEqual([1_000_000]);
    expect(lapic.tscDeadline).toBe(0n);
  });

  test("one in the past fires at once, 0 disarms, and an unknown TSC never fires", () => {
    const lapic = timer(R.TIMER_TSCDEADLINE | VECTOR);
    lapic.setTscDeadline(1n, 0);
    expect([lapic.timer.deadline, interrupts(lapic)]).toEqual([NEVER, 0]);
    lapic.timer.tscKhz = 1_000_000;
    lapic.setTscDeadline(5000n, 1000);
    expect(lapic.timer.deadline).toBe(5000);
    lapic.setTscDeadline(0n, 1001);
    expect([lapic.timer.deadline, interrupts(lapic)]).toEqual([NEVER, 0]);
    lapic.setTscDeadline(900n, 1002);
    expect([lapic.timer.deadline, interrupts(lapic)]).toEqual([NEVER, 1]);
  });

  test("the MSR reads 0 and takes nothing outside its mode (recorded on 6.18)", () => {
    const lapic = timer(R.TIMER_TSCDEADLINE | VECTOR);
    lapic.timer.tscKhz = 1_000_000;
    lapic.setTscDeadline(1n << 62n, 0);
    expect(lapic.tscDeadline).toBe(1n << 62n);
    expect(count(lapic, 1)).toBe(0);
    lapic.write(R.APIC_LVTT, VECTOR, 1);
    lapic.setTscDeadline(5n, 1);
    expect([lapic.tscDeadline, lapic.timer.deadline]).toEqual([0n, NEVER]);
  });
});

describe("from expiry to interrupt", () => {
  test("expiry wakes the vCPU once, however often the timer fires before it runs", () => {
    const lapic = timer(R.TIMER_PERIODIC | VECTOR);
    lapic.write(R.APIC_TMICT, 300_000, 0);
    expect([lapic.expireTimer(300_000), lapic.expireTimer(600_000), lapic.expireTimer(900_000)]).toEqual([
      true,
      false,
      false,
    ]);
    expect(lapic.system.takeKicked()).toBe(lapic);
    expect(lapic.system.takeKicked()).toBe(undefined);
    expect([interrupts(lapic), interrupts(lapic)]).toEqual([1, 0]);
  });

  test("nothing fires before its time", () => {
    const lapic = timer(VECTOR);
    lapic.write(R.APIC_TMICT, 1000, 0);
    expect(lapic.expireTimer(999)).toBe(false);
    expect(interrupts(lapic)).toBe(0);
  });

  test("while LVTT is masked an expired timer waits, and comes when it is opened (recorded on 6.18)", () => {
    const lapic = timer(R.LVT_MASKED | VECTOR);
    lapic.write(R.APIC_TMICT, 1000, 0);
    lapic.expireTimer(1000);
    expect([lapic.hasPendingTimer(), interrupts(lapic)]).toEqual([false, 0]);
    lapic.write(R.APIC_LVTT, VECTOR, 2000);
    expect([lapic.hasPendingTimer(), interrupts(lapic)]).toEqual([true, 1]);
  });

  test("switching off by SPIV and a new count forget what had expired", () => {
    for (const [offset, value] of [
      [R.APIC_SPIV, 0xff],
      [R.APIC_TMICT, 5000],
    ]) {
      const lapic = timer(VECTOR);
      lapic.write(R.APIC_TMICT, 1000, 0);
      lapic.expireTimer(1000);
      lapic.write(offset, value, 1000);
      expect(lapic.timer.pending).toBe(0);
    }
  });
});

describe("KVM_SET_LAPIC restarts the timer from TMCCT (recorded on 6.18)", () => {
  test("one-shot: from the count given, over at 0, whole when it exceeds the initial count", () => {
    for (const [current, at] of [
      [500_000, 500_007],
      [2_000_000, 1_000_007],
      [0, 7],
    ]) {
      const lapic = timer(VECTOR);
      restore(lapic, VECTOR, 1_000_000, current, 7);
      expect(count(lapic, 7)).toBe(Math.min(current, 1_000_000));
      expect(lapic.regs[R.APIC_TMCCT >> 2]).toBe(0);
      expect(run(lapic, 1e9)).toEqual([at]);
    }
  });

  test("periodic: the first round from the count given, a whole one at 0", () => {
    for (const [current, first] of [
      [400_000, 400_000],
      [0, 1_000_000],
      [3_000_000, 1_000_000],
    ]) {
      const lapic = timer(R.TIMER_PERIODIC | VECTOR);
      restore(lapic, R.TIMER_PERIODIC | VECTOR, 1_000_000, current, 0);
      expect(run(lapic, 2_500_000)).toEqual(
        [first, first + 1_000_000, first + 2_000_000].filter((t) => t <= 2_500_000),
      );
    }
  });

  test("into TSC-deadline mode the initial count is cleared, in it a restored one stays", () => {
    const lapic = timer(VECTOR);
    restore(lapic, R.TIMER_TSCDEADLINE | VECTOR, 1000, 5, 0);
    expect(lapic.regs[R.APIC_TMICT >> 2]).toBe(0);
    restore(lapic, R.TIMER_TSCDEADLINE | VECTOR, 1000, 5, 0);
    expect([lapic.regs[R.APIC_TMICT >> 2], count(lapic, 0), lapic.timer.deadline]).toEqual([1000, 0, NEVER]);
  });

  test("reset stops it", () => {
    const lapic = timer(R.TIMER_PERIODIC | VECTOR);
    lapic.write(R.APIC_TMICT, 1_000_000, 0);
    lapic.reset(true);
    expect([lapic.timer.deadline, lapic.timer.mode, count(lapic, 5)]).toEqual([NEVER, R.TIMER_ONESHOT, 0]);
  });
});

test("a TSC deadline that is less than a nanosecond ahead has come; one of a nanosecond is waited for", () => {
  for (const khz of [1_000_000, 2_000_000, 3_500_000])
    for (let ahead = 0n; ahead < 8n; ahead++) {
      const lapic = timer(R.TIMER_TSCDEADLINE | VECTOR);
      lapic.timer.tscKhz = khz;
      const now = 1_000;
      lapic.setTscDeadline(BigInt(now * (khz / 1_000_000)) + ahead, now);
      // lapic.c:start_sw_tscdeadline (6.1): whole nanoseconds
      const wait = Math.floor(Number(ahead) / (khz / 1_000_000));
      expect([lapic.timer.pending, lapic.timer.deadline]).toEqual(wait === 0 ? [1, NEVER] : [0, now + wait]);
    }
});
