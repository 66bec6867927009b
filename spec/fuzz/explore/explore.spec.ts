import { describe, expect, test } from "vitest";
import { explore, NotDeterministic, shrink } from "../../../lib/fuzz/explore/explore.ts";
import { toHtml, toMermaid, toPerfetto, toText } from "../../../lib/fuzz/explore/report.ts";
import { NotExplorable, type Program, run, type World } from "../../../lib/fuzz/explore/run.ts";
import { Exhaustive, inOrder, replayChooser } from "../../../lib/fuzz/explore/strategies.ts";
import { Calls, step, type Thread, until } from "../../../lib/fuzz/explore/thread.ts";
import { Kernel } from "../../../lib/kernel/kernel.ts";
import { Process } from "../../../lib/kernel/process.ts";
import { byHand } from "../../../lib/kernel/work-queue.ts";

const kernel = () => new Kernel({ policy: byHand });

/** Two threads that each read a counter and write it back, one more: the textbook lost update. */
const lostUpdate: Program = {
  name: "lost update",
  setup() {
    let counter = 0;
    function* thread(): Thread {
      const seen = yield* step("read", () => counter);
      yield* step("write", () => (counter = seen + 1));
    }
    return {
      kernel: kernel(),
      threads: { a: thread(), b: thread() },
      final: () => (counter === 2 ? undefined : `the counter is ${counter}`),
    };
  },
};

/** `threads` threads of `length` steps each, all of which touch their own object, or one object. */
const counting = (threads: number, length: number, shared: boolean, seen: Set<string>): Program => ({
  name: "counting",
  setup() {
    const order: string[] = [];
    function* thread(name: string): Thread {
      for (let i = 0; i < length; i++)
        yield* step(name, () => void order.push(name), [shared ? "one" : name]);
    }
    const names = ["a", "b", "c"].slice(0, threads);
    return {
      kernel: kernel(),
      threads: Object.fromEntries(names.map((name) => [name, thread(name)])),
      final: () => void seen.add(order.join("")),
    };
  },
});

describe("strategies", () => {
  test.each([
    "random",
    { pct: { depth: 2 } },
    { exhaustive: {} },
    { exhaustive: { preemptions: 1 } },
  ] as const)("%j finds the lost update", (strategy) => {
    for (let seed = 1; seed <= 20; seed++) {
      const { counterexample, runs } = explore(lostUpdate, { strategy, seed, runs: 500 });
      expect(counterexample?.failure.reason).toBe("the counter is 1");
      expect(counterexample!.deviations.length).toBe(1);
      expect(runs).toBeLessThan(100);
    }
  });

  test("in order there is nothing wrong, and without a preemption neither", () => {
    expect(run(lostUpdate, inOrder).failure).toBeUndefined();
    expect(explore(lostUpdate, { strategy: { exhaustive: { preemptions: 0 } } })).toEqual({
      runs: 2,
      exhausted: true,
      counterexample: undefined,
    });
  });

  test("exhaustive search runs every order exactly once: 6! / (3! 3!) and 6! / (2! 2! 2!)", () => {
    for (const [threads, length, orders] of [
      [2, 3, 20],
      [3, 2, 90],
    ]) {
      const seen = new Set<string>();
      expect(explore(counting(threads, length, true, seen), { strategy: { exhaustive: {} } }).runs).toBe(
        orders,
      );
      expect(seen.size).toBe(orders);
    }
  });

  test("with a bound, exactly the orders with so few preemptions", () => {
    const preemptions = (order: string) =>
      [...order].filter((name, i) => i > 0 && name !== order[i - 1] && order.slice(i).includes(order[i - 1]))
        .length;
    const all = new Set<string>();
    explore(counting(2, 3, true, all), { strategy: { exhaustive: {} } });
    for (const bound of [0, 1, 2, 3]) {
      const seen = new Set<string>();
      explore(counting(2, 3, true, seen), { strategy: { exhaustive: { preemptions: bound } } });
      expect([...seen].sort()).toEqual([...all].filter((order) => preemptions(order) <= bound).sort());
    }
  });

  test("orders that cannot differ are run once", () => {
    const seen = new Set<string>();
    const search = new Exhaustive();
    let completed = 0;
    for (let choose = search.next(); choose !== undefined; choose = search.next()) {
      const before = search.pruned;
      run(counting(3, 2, false, seen), choose);
      if (search.pruned === before) completed++;
    }
    expect(completed).toBe(1);
    expect(seen.size).toBe(1);
  });
});

describe("a run", () => {
  test("is made again from its schedule", () => {
    const { counterexample } = explore(lostUpdate, { strategy: "random", seed: 3 });
    const again = run(lostUpdate, replayChooser(JSON.parse(JSON.stringify(counterexample!.schedule))));
    expect(again.failure).toEqual(counterexample!.failure);
    expect(
      explore(lostUpdate, { strategy: { replay: counterexample!.schedule } }).counterexample?.schedule,
    ).toEqual(counterexample!.schedule);
  });

  test("that ends otherwise the second time is reported as not deterministic", () => {
    let runs = 0;
    const program: Program = {
      name: "moody",
      setup: () => ({ kernel: kernel(), threads: {}, final: () => `run ${++runs}` }),
    };
    expect(() => explore(program)).toThrow(NotDeterministic);
    expect(() => shrink(program, run(program, inOrder))).toThrow("the same schedule");
  });

  test("in which a thread waits for ever is a deadlock, unless the thread is a daemon", () => {
    const program = (daemons: string[]): Program => ({
      name: "waiting",
      setup: () => ({ kernel: kernel(), threads: { waiter: until("for ever", () => false) }, daemons }),
    });
    expect(run(program([]), inOrder).failure?.reason).toBe("deadlock: waiter waits: for ever");
    expect(run(program(["waiter"]), inOrder).failure).toBeUndefined();
  });

  test("that does not come to its end is cut, which is told and no failure", () => {
    function* endless(): Thread {
      for (;;) yield* step("again", () => undefined);
    }
    const program: Program = {
      name: "endless",
      setup: () => ({ kernel: kernel(), threads: { a: endless() } }),
    };
    expect(run(program, inOrder, { maxSteps: 7 })).toMatchObject({ steps: 7, cut: true, failure: undefined });
    const result = explore(program, { strategy: "random", runs: 3, maxSteps: 7 });
    expect(result).toEqual({ runs: 3, exhausted: false, counterexample: undefined, cut: 3 });
  });

  test("of what is no world, or by another program's schedule, is refused", () => {
    const world = (threads: object): Program => ({
      name: "none",
      setup: () => ({ kernel: kernel(), threads }) as World,
    });
    for (const [threads, message] of [
      [{ a: () => {} }, "thread a is no generator"],
      [{ a: (async function* () {})() }, "thread a is no generator"],
      [{ a: [until("x", () => true)].values() }, "a call is made by yield*"],
    ] as const)
      expect(() => run(world(threads), inOrder)).toThrow(new RegExp(message.replace("*", "\\*")));
    expect(() => explore(lostUpdate, { strategy: { replay: ["nobody"] } })).toThrow(NotExplorable);
    const failing: Program = {
      name: "x",
      setup() {
        throw new Error("in setup");
      },
    };
    expect(() => run(failing, inOrder)).toThrow("in setup");
  });

  test("in which a thread throws fails with its words", () => {
    function* thrower(): Thread {
      yield* step("before", () => undefined);
      throw new Error("broken");
    }
    const outcome = run(
      { name: "thrower", setup: () => ({ kernel: kernel(), threads: { thrower: thrower() } }) },
      inOrder,
    );
    expect(outcome.failure).toEqual({ reason: "broken", step: 1 });
  });

  test("runs the kernel's deferred work and its timers as actors", () => {
    const seen: string[] = [];
    const program: Program = {
      name: "work",
      setup() {
        const host = kernel();
        seen.length = 0;
        function* thread(): Thread {
          yield* step("schedule", () => {
            host.work.schedule({ name: "inject", run: () => seen.push("first") });
            host.work.schedule({ name: "inject", run: () => seen.push("second") });
            host.clock.arm({ expiry: 0, fire: () => seen.push("timer") }, host.clock.now + 10);
          });
        }
        return { kernel: host, threads: { thread: thread() }, timers: true };
      },
    };
    const outcome = run(program, replayChooser(["thread", "inject#2", "clock", "inject"]));
    expect(outcome.failure).toBeUndefined();
    expect(seen).toEqual(["second", "timer", "first"]);
    expect(run(program, replayChooser(["thread", "nobody"])).failure?.reason).toContain(
      "cannot go on at step 2",
    );
  });

  test("a thread blocks in a read of an eventfd until another writes it", () => {
    const program: Program = {
      name: "eventfd",
      setup() {
        const process = new Process(kernel());
        const calls = new Calls(process);
        const fd = process.eventfd2(0, 0);
        let got = 0;
        function* reader(): Thread {
          got = yield* calls.take(fd);
        }
        function* writer(): Thread {
          yield* calls.signal(fd);
          yield* calls.signal(fd);
        }
        return {
          kernel: process.kernel,
          threads: { reader: reader(), writer: writer() },
          final: () => (got === 0 ? "nothing was read" : undefined),
        };
      },
    };
    expect(explore(program, { strategy: { exhaustive: {} } })).toEqual({
      runs: 2,
      exhausted: true,
      counterexample: undefined,
    });
  });
});

describe("reports", () => {
  const { counterexample } = explore(lostUpdate, { strategy: { exhaustive: {} } });

  test("text", () => {
    expect(toText(counterexample!)).toBe(
      [
        "lost update: the counter is 1",
        "  1  a  read = 0",
        "* 2  b  read = 0",
        "  3  b  write = 1",
        "  4  a  write = 1",
        'schedule: ["a","b","b","a"]',
      ].join("\n"),
    );
  });

  test("Mermaid", () => {
    const lines = toMermaid(counterexample!).split("\n");
    expect(lines[0]).toBe("sequenceDiagram");
    // reads and writes of a counter are no system calls
    expect(lines.slice(4)).toEqual([
      "  a0->>a0: read = 0",
      "  a1->>a1: read = 0",
      "  a1->>a1: write = 1",
      "  a0->>a0: write = 1",
      "  Note over k: the counter is 1",
    ]);
  });

  test("what a call answers below 0 is an error, what a step does is a number", () => {
    const steps = ["close(9)", "takes away"].map((label) => ({ actor: "a", label, result: -9 }));
    const told = { ...counterexample!, steps };
    expect(toText(told)).toContain("close(9) = −EBADF");
    expect(toText(told)).toContain("takes away = -9");
    expect(toMermaid(told)).toContain("a0->>k: close(9) = −EBADF");
  });

  test("Perfetto: a slice a step on the actor's track, without overlap", () => {
    const { traceEvents } = JSON.parse(toPerfetto(counterexample!)) as {
      traceEvents: { ph: string; ts: number; tid: number }[];
    };
    const slices = traceEvents.filter(({ ph }) => ph === "X");
    expect(slices.map(({ ts, tid }) => [ts, tid])).toEqual([
      [0, 1],
      [1, 2],
      [2, 2],
      [3, 1],
    ]);
  });

  test("HTML: nothing of the program can break out of the page", () => {
    const page = toHtml({ ...counterexample!, program: "<script>alert(1)</script>" });
    expect(page).not.toContain("<script>");
    expect(page.match(/<tr/g)?.length).toBe(5);
  });
});
