import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import { File } from "../../lib/kernel/file.ts";
import { Process } from "../../lib/kernel/process.ts";
import { readTrace } from "../../lib/trace/files.ts";
import { growth, kinds, type Sample, type SoakOptions, soak } from "./soak.ts";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

const traces = ["x86_64-kvm-6.18/irqfd_resample", "x86_64-vfio-6.12/F_edu-intel", "arm64-kvm-6.12/its"].map(
  (name) => () => readTrace(`fixtures/traces/${name}.jsonl.gz`, name),
);

/** So many programs; the clock counts what it is asked. */
const short = (programs: number, seed = 1): SoakOptions => {
  let clock = 0;
  return {
    seed,
    traces,
    more: (made) => made < programs,
    sample: (made) => made % kinds.length === 0,
    collect,
    now: () => clock++,
  };
};

const known = {
  known: [
    { trace: "F_edu", call: 168, reason: "" },
    { trace: "F_edu", call: 175, reason: "" },
  ],
};

test("programs of every kind: nothing breaks a rule, nothing is left", () => {
  const result = soak({ ...short(12 * kinds.length), ...known });
  expect(result.broken).toEqual([]);
  expect(result.left).toEqual({ files: 0, mappings: 0, timers: 0, work: 0 });
  for (const kind of kinds) {
    expect(result.programs[kind]).toBe(12);
    expect(result.calls[kind]).toBeGreaterThan(12);
  }
  // one after each round, and the last
  expect(result.samples.length).toBe(13);
  expect(File.prototype.get.name).toBe("get");
});

test("the same seed, the same calls; another seed, others", () => {
  const calls = (seed: number) => soak({ ...short(kinds.length, seed), ...known }).calls;
  expect(calls(3)).toEqual(calls(3));
  expect(calls(3)).not.toEqual(calls(4));
});

describe("what is planted is found", () => {
  /** With a method of a class replaced meanwhile. */
  function planted<T extends object, K extends keyof T>(type: T, method: K, broken: T[K]): string[] {
    const original = type[method];
    type[method] = broken;
    try {
      return [...soak({ ...short(1), traces: [] }).broken];
    } finally {
      type[method] = original;
    }
  }

  test("an exception", () => {
    const threw = planted(Process.prototype, "eventfd2", () => {
      throw new Error("planted");
    });
    expect(threw.length).toBe(1);
    expect(threw[0]).toMatch(/^hostile 0 of seed 1 threw .*planted/);
  });

  test("files that nobody lets go", () => {
    const { exit } = Process.prototype;
    const left = planted(Process.prototype, "exit", function (this: Process) {
      const { eventfd2 } = Process.prototype;
      const file = this.fds.get(eventfd2.call(this, 0, 0))!;
      file.get();
      exit.call(this);
    });
    expect(left).toEqual([
      'hostile 0 of seed 1 left {"files":1,"mappings":0,"timers":0,"work":0}: anon_inode:[eventfd]',
    ]);
  });

  test("memory of a process that stays mapped", () => {
    const left = planted(Process.prototype, "exit", function (this: Process) {
      this.fds.clear();
    });
    expect(left.length).toBe(1);
    expect(left[0]).toContain('"mappings":1');
  });
});

describe("growth", () => {
  const series = (heap: (i: number) => number): Sample[] =>
    Array.from({ length: 20 }, (_, i) => ({ seconds: i, programs: 1000 * i, heap: heap(i), external: 5 }));

  test("a warm-up, then noise: flat", () => {
    const samples = series((i) => 2e7 + Math.min(i, 8) * 1e6 + (i % 2) * 1e5);
    expect(growth(samples, "heap").flat).toBe(true);
    expect(growth(samples, "external")).toEqual({ slope: 0, rise: 0, flat: true });
  });

  test("two hundred bytes a program: a leak", () => {
    const { slope, rise, flat } = growth(
      series((i) => 2e7 + 200_000 * i),
      "heap",
    );
    expect(slope).toBeCloseTo(200);
    expect(rise).toBeCloseTo(1_800_000);
    expect(flat).toBe(false);
  });

  test("one sample says nothing, and so do two of one moment", () => {
    expect(growth(series(() => 1).slice(0, 1), "heap").flat).toBe(true);
  });
});
