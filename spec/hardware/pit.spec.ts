import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { EOPNOTSUPP } from "../../lib/abi/errno.ts";
import {
  MIN_TIMER_PERIOD,
  nanoseconds,
  PIT_FLAGS_HPET_LEGACY,
  PIT_FLAGS_SPEAKER_DATA_ON,
  PIT_NOTHING,
  PIT_STATE_SIZE,
  PIT_STATE2_SIZE,
  Pit,
  ticks,
} from "../../lib/hardware/pit.ts";

const START = 1_000_000_000;
const FREQUENCY = 1_193_181n;
const SECOND = 1_000_000_000n;

/** Sets a counter's mode with 16-bit access, and its count. */
function program(pit: Pit, channel: number, mode: number, count: number, now: number): void {
  pit.write(0x43, (channel << 6) | 0x30 | (mode << 1), now);
  pit.write(0x40 + channel, count, now);
  pit.write(0x40 + channel, count >> 8, now);
}
function readCount(pit: Pit, channel: number, now: number): number {
  return pit.read(0x40 + channel, now) | (pit.read(0x40 + channel, now) << 8);
}
/** OUT, from the status that a read-back command latches. */
function readOut(pit: Pit, channel: number, now: number): number {
  pit.write(0x43, 0xe0 | (2 << channel), now);
  return pit.read(0x40 + channel, now) >> 7;
}
function stateOf(pit: Pit): Buffer {
  const bytes = Buffer.alloc(PIT_STATE2_SIZE, 0x55);
  pit.save2To(bytes, 0);
  return bytes;
}
/** Runs the timer and the work behind it up to a moment; `ack` stands for the guest. How often GSI 0 was pulsed. */
function run(pit: Pit, until: number, ack = (_pulses: number): boolean => true): number {
  let pulses = 0;
  const work = (): void => {
    while (pit.workQueued) {
      if (!pit.runWork()) continue;
      pulses++;
      if (ack(pulses)) pit.ack();
    }
  };
  while (pit.nextExpiry <= until) {
    pit.expire(pit.nextExpiry);
    work();
  }
  return pulses;
}

test("ticks and nanoseconds are exact, also where the product is not", () => {
  for (const n of [0, 1, 837, 838, 839, 999_999_999, 1e9, 54_925_439, 8e9 + 7, 9_007_199_254_740_000]) {
    expect(BigInt(ticks(n))).toBe((BigInt(n) * FREQUENCY) / SECOND);
    if (n <= 0xffff_ffff) expect(BigInt(nanoseconds(n))).toBe((BigInt(n) * SECOND) / FREQUENCY);
  }
  expect(BigInt(nanoseconds(0xffff_ffff))).toBe((0xffff_ffffn * SECOND) / FREQUENCY);
});

describe("counts against formulas", () => {
  test("count and OUT: every mode × counts × moments, on counters 1 and 2", () => {
    let cases = 0;
    for (const channel of [1, 2])
      for (let mode = 0; mode < 8; mode++)
        for (const written of [1, 2, 3, 100, 0x1234, 0xfffe, 0xffff, 0])
          for (const elapsed of [
            0, 800, 839, 1677, 83_000, 1e6, 54_925_439, 54_925_440, 1e9, 123_456_789_012,
          ]) {
            const pit = new Pit(START);
            program(pit, channel, mode, written, START);
            const count = written === 0 ? 65_536n : BigInt(written);
            const d = (BigInt(elapsed) * FREQUENCY) / SECOND;
            const counter = {
              straight: count - d,
              rate: count - (d % count),
              square: count - ((2n * d) % count),
            };
            const [wanted, out] = [
              [counter.straight, d >= count],
              [counter.straight, d < count],
              [counter.rate, d !== 0n && d % count === 0n],
              [counter.square, d % count < (count + 1n) / 2n],
              [counter.straight, d === count],
              [counter.straight, d === count],
            ][mode > 5 ? mode - 4 : mode];
            const now = START + elapsed;
            const got = [readCount(pit, channel, now), readOut(pit, channel, now)];
            expect([channel, mode, written, elapsed, ...got]).toEqual([
              ...[channel, mode, written, elapsed],
              ...[Number(BigInt.asUintN(16, BigInt(wanted))), Number(out)],
            ]);
            cases++;
          }
    expect(cases).toBe(2 * 8 * 8 * 10);
  });

  test("counter 0 counts by its timer: a periodic one starts again, a one-shot one wraps", () => {
    const pit = new Pit(START);
    program(pit, 0, 2, 1000, START);
    const period = nanoseconds(1000);
    expect(readCount(pit, 0, START + 838 * 10)).toBe(1000 - ticks(838 * 10));
    pit.expire(START + period);
    expect(readCount(pit, 0, START + period + 838 * 10)).toBe(1000 - ticks(838 * 10));
    program(pit, 0, 0, 1000, START);
    pit.expire(START + period);
    const late = START + period + 1_000_000;
    expect(readCount(pit, 0, late)).toBe((1000 - ticks(period + 1_000_000)) & 0xffff);
  });

  test("counter 0 that was never started stands at its count", () => {
    const pit = new Pit(START);
    pit.write(0x43, 0x3a, START); // mode 5: no timer
    pit.write(0x40, 0x34, START);
    pit.write(0x40, 0x12, START);
    expect(readCount(pit, 0, START + 5e9)).toBe(0x1234);
  });
});

describe("recorded on 6.18", () => {
  test("400 random operations: states, without what depends on time", () => {
    const pit = new Pit(START);
    const timeless = (state: Buffer): string => {
      for (let channel = 0; channel < 3; channel++) {
        const at = 24 * channel;
        state.fill(0, at + 4, at + 6); // the latched count
        state[at + 8] &= 0x7f; // OUT
        if (channel !== 0) state.fill(0, at + 16, at + 24);
      }
      return state.toString("hex", 0, PIT_STATE_SIZE + 4);
    };
    const lines = readFileSync(new URL("../../fixtures/chips/pit-6.18.jsonl", import.meta.url), "utf8");
    let lastRead = 0;
    let steps = 0;
    for (const text of lines.trimEnd().split("\n")) {
      const [operation, answer, state] = JSON.parse(text);
      const [name, a, b] = operation;
      if (name === "out") pit.write(a, b, START);
      if (name === "set") pit.load2From(Buffer.from(a, "hex"), 0, START);
      if (name === "in") {
        const got = pit.read(a, START);
        if (a === 0x43) expect([steps, got, lastRead]).toEqual([steps, PIT_NOTHING, answer]);
        if (a === 0x61) expect([steps, got & 0xcf]).toEqual([steps, answer & 0xcf]);
        lastRead = answer;
      }
      const wanted = timeless(Buffer.from(state, "hex"));
      expect([steps, operation, timeless(stateOf(pit))]).toEqual([steps, operation, wanted]);
      steps++;
    }
    expect(steps).toBe(400);
  });

  test("after creation: no mode, counts of 65536, gates of counters 0 and 1 high", () => {
    const wanted = Buffer.alloc(PIT_STATE2_SIZE);
    for (let channel = 0; channel < 3; channel++) {
      wanted.writeUInt32LE(0x1_0000, 24 * channel);
      wanted[24 * channel + 13] = 0xff;
      wanted[24 * channel + 15] = channel === 2 ? 0 : 1;
      if (channel !== 0) wanted.writeBigInt64LE(BigInt(START), 24 * channel + 16);
    }
    expect(stateOf(new Pit(START)).equals(wanted)).toBe(true);
  });
});

describe("ports", () => {
  test("access modes: low byte, high byte, both in turn", () => {
    const pit = new Pit(START);
    for (const [control, written, count, read] of [
      [0x10, [0x34], 0x34, [0x34, 0x34]],
      [0x20, [0x12], 0x1200, [0x12, 0x12]],
      [0x30, [0x34, 0x12], 0x1234, [0x34, 0x12, 0x34]],
    ] as const) {
      pit.write(0x43, 0x40 | control, START);
      for (const byte of written) pit.write(0x41, byte, START);
      expect(pit.channels[1].count).toBe(count);
      expect(read.map(() => pit.read(0x41, START))).toEqual([...read]);
    }
  });

  test("a latched count stands until it is read; a second latch command does nothing", () => {
    const pit = new Pit(START);
    program(pit, 2, 2, 0x1000, START);
    pit.write(0x43, 0x80, START + 838 * 16);
    pit.write(0x43, 0x80, START + 838 * 200);
    const latched = 0x1000 - ticks(838 * 16);
    expect([pit.read(0x42, START + 1e6), pit.read(0x42, START + 1e6)]).toEqual([
      latched & 0xff,
      latched >> 8,
    ]);
    expect(readCount(pit, 2, START + 838 * 300)).toBe(0x1000 - ticks(838 * 300));
  });

  test("read-back latches status and count of several counters; the status comes first", () => {
    const pit = new Pit(START);
    program(pit, 1, 3, 0x1234, START);
    program(pit, 2, 0, 0x4321, START);
    pit.write(0x43, 0xcc, START);
    expect([0, 1, 2].map(() => pit.read(0x41, START + 1e6))).toEqual([0x80 | 0x30 | 0x06, 0x34, 0x12]);
    expect([0, 1, 2].map(() => pit.read(0x42, START + 1e6))).toEqual([0x30, 0x21, 0x43]);
  });

  test("port 0x61: gate and speaker written; gate, speaker, refresh and OUT read", () => {
    const pit = new Pit(START);
    program(pit, 2, 0, 100, START);
    pit.write(0x61, 0x03, START);
    expect(pit.flags).toBe(PIT_FLAGS_SPEAKER_DATA_ON);
    const even = START - (START % 32_768);
    expect(pit.read(0x61, even)).toBe(0x03);
    expect(pit.read(0x61, even + 16_384 + 32_768 * 10)).toBe(0x33);
    pit.write(0x61, 0x00, START);
    expect([pit.flags, pit.read(0x61, even)]).toEqual([0, 0]);
  });

  test("a rising gate starts counter 2 again in modes 1, 2, 3 and 5", () => {
    for (let mode = 0; mode < 6; mode++) {
      const pit = new Pit(START);
      program(pit, 2, mode, 1000, START);
      pit.write(0x61, 1, START + 50);
      pit.write(0x61, 1, START + 60);
      const restarts = [1, 2, 3, 5].includes(mode);
      expect([mode, pit.channels[2].countLoadTime]).toEqual([mode, BigInt(restarts ? START + 50 : START)]);
    }
  });

  test("other ports are not here", () => {
    const pit = new Pit(START);
    for (const port of [0x3f, 0x44, 0x60, 0x62])
      expect([pit.read(port, START), pit.write(port, 0, START)]).toEqual([-EOPNOTSUPP, -EOPNOTSUPP]);
  });
});

describe("the timer", () => {
  test("modes 0, 1 and 4 fire once, 2 and 3 for ever, 5 never", () => {
    const pulses = [0, 1, 2, 3, 4, 5].map((mode) => {
      const pit = new Pit(START);
      program(pit, 0, mode, 11_932, START);
      expect(pit.nextExpiry).toBe(mode === 5 ? Number.POSITIVE_INFINITY : START + nanoseconds(11_932));
      return run(pit, START + 100 * nanoseconds(11_932));
    });
    expect(pulses).toEqual([1, 1, 100, 100, 1, 0]);
  });

  test("a period below the minimum is stretched, the first interval is not", () => {
    const pit = new Pit(START);
    program(pit, 0, 2, 10, START);
    const first = START + nanoseconds(10);
    expect(pit.nextExpiry).toBe(first);
    pit.expire(first);
    expect(pit.nextExpiry).toBe(first + MIN_TIMER_PERIOD);
    const other = new Pit(START, 1000);
    program(other, 0, 2, 10, START);
    other.expire(first);
    expect(other.nextExpiry).toBe(first + nanoseconds(10));
  });

  test("the timer does not fire before its time", () => {
    const pit = new Pit(START);
    program(pit, 0, 2, 1000, START);
    pit.expire(pit.nextExpiry - 1);
    expect([pit.workQueued, pit.pending]).toEqual([false, 0]);
  });
});

describe("reinjection", () => {
  const period = nanoseconds(11_932);
  function ticking(reinject: boolean): Pit {
    const pit = new Pit(START);
    pit.setReinject(reinject);
    program(pit, 0, 2, 11_932, START);
    return pit;
  }

  test("every tick becomes exactly one interrupt, however late the guest acknowledges", () => {
    for (const silent of [0, 1, 2, 3, 7, 50]) {
      const pit = ticking(true);
      expect(run(pit, START + silent * period, () => false)).toBe(Math.min(silent, 1));
      expect(pit.pending).toBe(silent);
      let pulses = Math.min(silent, 1);
      for (let n = 0; n < silent; n++) {
        pit.ack();
        if (pit.runWork()) pulses++;
      }
      expect([pulses, pit.pending, pit.workQueued]).toEqual([silent, 0, false]);
      expect(run(pit, START + (silent + 3) * period)).toBe(3);
    }
  });

  test("without it every tick is one interrupt whether acknowledged or not", () => {
    const pit = ticking(false);
    expect(run(pit, START + 50 * period, () => false)).toBe(50);
    expect(pit.pending).toBe(0);
    pit.ack();
    expect(pit.workQueued).toBe(false);
  });

  test("turning it on, unmasking and loading forget what is pending", () => {
    for (const forget of [
      (p: Pit) => {
        p.setReinject(false);
        p.setReinject(true);
      },
      (p: Pit) => p.resetReinject(),
      (p: Pit) => program(p, 0, 2, 11_932, START + 5 * period),
    ]) {
      const pit = ticking(true);
      run(pit, START + 5 * period, () => false);
      pit.setReinject(true);
      expect(pit.pending).toBe(5);
      forget(pit);
      expect(pit.pending).toBe(0);
      pit.expire(pit.nextExpiry);
      expect(pit.runWork()).toBe(true);
    }
  });

  test("loading counter 0 ends the queued work: one pulse, reported once", () => {
    const pit = ticking(true);
    pit.expire(pit.nextExpiry);
    program(pit, 0, 2, 11_932, START + period);
    expect([pit.flushed, pit.workQueued, pit.runWork()]).toEqual([true, false, false]);
    pit.write(0x43, 0, START);
    expect(pit.flushed).toBe(false);
  });
});

describe("KVM_SET_PIT and KVM_SET_PIT2", () => {
  function stateWith(mode: number, flags: number): Buffer {
    const state = stateOf(new Pit(START));
    state.writeUInt32LE(1000, 0);
    state[13] = mode;
    state.writeBigInt64LE(-5n, 16);
    state.writeUInt32LE(flags, PIT_STATE_SIZE);
    return state;
  }

  test("counts are loaded: counter 0 starts, 1 and 2 begin now, 0 means 65536, the load time of 0 is kept", () => {
    const pit = new Pit(START);
    const state = stateWith(2, 0xfffe);
    state.writeUInt32LE(0, 24);
    pit.load2From(state, 0, START + 77);
    expect(pit.nextExpiry).toBe(START + 77 + nanoseconds(1000));
    const got = stateOf(pit);
    state.writeUInt32LE(0x1_0000, 24);
    state.writeBigInt64LE(BigInt(START + 77), 40);
    state.writeBigInt64LE(BigInt(START + 77), 64);
    expect(got.toString("hex")).toBe(state.toString("hex"));
  });

  test("SET_PIT leaves the flags", () => {
    const pit = new Pit(START);
    pit.write(0x61, 2, START);
    pit.loadFrom(stateWith(2, 0), 0, START);
    expect([pit.flags, pit.nextExpiry]).toEqual([2, START + nanoseconds(1000)]);
    const bytes = Buffer.alloc(PIT_STATE_SIZE);
    pit.saveTo(bytes, 0);
    expect(bytes.equals(stateOf(pit).subarray(0, PIT_STATE_SIZE))).toBe(true);
  });

  test("HPET legacy turned on stops the timer and keeps the mode; turned off starts it", () => {
    const pit = new Pit(START);
    pit.load2From(stateWith(2, 0), 0, START);
    pit.load2From(stateWith(2, PIT_FLAGS_HPET_LEGACY), 0, START);
    expect([pit.nextExpiry, pit.channels[0].mode]).toEqual([Number.POSITIVE_INFINITY, 2]);
    program(pit, 0, 2, 500, START);
    pit.loadFrom(stateWith(2, 0), 0, START);
    pit.load2From(stateWith(2, PIT_FLAGS_HPET_LEGACY), 0, START);
    expect(pit.nextExpiry).toBe(Number.POSITIVE_INFINITY);
    pit.load2From(stateWith(2, 0), 0, START);
    expect(pit.nextExpiry).toBe(START + nanoseconds(1000));
  });
});

test("ticks that nobody acknowledged, against the naive twin: every sequence of seven steps", () => {
  const steps = ["tick", "ack", "reinject", "drop"] as const;
  let wrong = 0;
  for (let code = 0; code < steps.length ** 7; code++) {
    const pit = new Pit(START);
    program(pit, 0, 2, 10_000, START);
    let pulses = 0;
    // i8254.c: pit_timer_fn, kvm_pit_ack_irq, pit_do_work, kvm_pit_set_reinject (6.1); without reinjection nobody
    // listens to acknowledgements
    const twin = { reinject: true, acked: true, waiting: 0, pulses: 0 };
    const work = (): void => {
      if (twin.reinject && !twin.acked) return;
      twin.acked = !twin.reinject && twin.acked;
      twin.pulses++;
    };
    for (let i = 0, rest = code; i < 7; i++, rest = Math.floor(rest / steps.length)) {
      switch (steps[rest % steps.length]) {
        case "tick":
          pit.expire(pit.nextExpiry);
          if (twin.reinject) twin.waiting++;
          work();
          break;
        case "ack":
          pit.ack();
          if (!twin.reinject) break;
          twin.acked = true;
          twin.waiting = Math.max(twin.waiting - 1, 0);
          if (twin.waiting > 0) work();
          break;
        case "reinject":
          pit.setReinject(true);
          if (!twin.reinject) Object.assign(twin, { reinject: true, acked: true, waiting: 0 });
          break;
        case "drop":
          pit.setReinject(false);
          twin.reinject = false;
      }
      while (pit.workQueued) if (pit.runWork()) pulses++;
    }
    if (pulses !== twin.pulses || pit.pending !== twin.waiting) wrong++;
  }
  expect(wrong).toBe(0);
});
