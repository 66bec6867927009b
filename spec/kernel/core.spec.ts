/** Clock, work queue, faults, wait queue, descriptor table: the small parts that everything else stands on. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Clock, type Timer } from "../../lib/kernel/clock.ts";
import { Faults } from "../../lib/kernel/faults.ts";
import { Kernel } from "../../lib/kernel/kernel.ts";
import { Process } from "../../lib/kernel/process.ts";
import { type Waiter, WaitQueue } from "../../lib/kernel/wait-queue.ts";
import { byHand, type Work, WorkQueue } from "../../lib/kernel/work-queue.ts";

const timer = (fire: (now: number) => void): Timer => ({ expiry: Number.POSITIVE_INFINITY, fire });

describe("clock", () => {
  test("fires in the order of time, at each timer's own moment, those of one moment in the order they were armed", () => {
    const clock = new Clock(0);
    const log: string[] = [];
    for (const [name, at] of [
      ["c", 30],
      ["a", 10],
      ["b1", 20],
      ["b2", 20],
      ["late", 41],
    ] as const)
      clock.arm(
        timer((now) => log.push(`${name}@${now}`)),
        at,
      );
    clock.advance(40);
    expect(log).toEqual(["a@10", "b1@20", "b2@20", "c@30"]);
    expect(clock.now).toBe(40);
    expect(clock.next).toBe(41);
  });

  test("a timer armed again fires once, a cancelled one not, and one that arms itself goes on", () => {
    const clock = new Clock(0);
    let fired = 0;
    const again = timer(() => fired++);
    clock.arm(again, 5);
    clock.arm(again, 7);
    const cancelled = timer(() => expect.unreachable());
    clock.arm(cancelled, 6);
    clock.cancel(cancelled);
    const periodic: Timer = timer((now) => now < 100 && clock.arm(periodic, now + 10));
    clock.arm(periodic, 10);
    clock.advanceTo(1000);
    expect([fired, clock.now, clock.next]).toEqual([1, 1000, Number.POSITIVE_INFINITY]);
  });
});

describe("work queue", () => {
  const work = (name: string, log: string[], more?: () => void): Work => ({
    name,
    run: () => (log.push(name), more?.()),
  });

  test("an item that waits is not queued twice; once run it may be queued again", () => {
    const queue = new WorkQueue(byHand);
    const log: string[] = [];
    const item = work("a", log);
    expect([queue.schedule(item), queue.schedule(item)]).toEqual([true, false]);
    queue.drain();
    expect(queue.schedule(item)).toBe(true);
    queue.drain();
    expect(log).toEqual(["a", "a"]);
  });

  test("drain runs what items queue; step picks one; flush runs one kind and leaves the others", () => {
    const queue = new WorkQueue(byHand);
    const log: string[] = [];
    queue.schedule(work("a", log, () => queue.schedule(work("a2", log))));
    queue.schedule(work("b", log));
    queue.schedule(work("c", log));
    expect(queue.step(1)?.name).toBe("b");
    queue.flush("c");
    expect(log).toEqual(["b", "c"]);
    queue.drain();
    expect(log).toEqual(["b", "c", "a", "a2"]);
    expect(queue.step()).toBeUndefined();
  });

  test("what was cancelled does not run", () => {
    const queue = new WorkQueue(byHand);
    const item = work("a", []);
    queue.schedule(item);
    expect([queue.cancel(item), queue.cancel(item), queue.pending]).toEqual([true, false, 0]);
  });
});

describe("faults", () => {
  test("exactly the nth chance fails, counted from now", () => {
    const faults = new Faults();
    faults.allocation("before");
    faults.failNth("allocation", 2);
    expect(["a", "b", "c"].map((what) => faults.allocation(what))).toEqual([false, true, false]);
    expect(faults.hits).toEqual([{ kind: "allocation", nth: 3, what: "b" }]);
    expect(faults.seen).toEqual({ allocation: 4, interrupt: 0 });
  });

  test("every allocation of a program can be made to fail, one after another, with ENOMEM and nothing left behind", () => {
    const program = (process: Process): number[] => [
      process.eventfd2(0, 0),
      process.epoll_create1(0),
      process.mmap(0, 4096, 3, 0x22, -1, 0),
    ];
    const clean = new Process(new Kernel());
    program(clean);
    const chances = clean.kernel.faults.seen.allocation;
    expect(chances).toBe(3);
    for (let nth = 1; nth <= chances; nth++) {
      const process = new Process(new Kernel());
      process.kernel.faults.failNth("allocation", nth);
      const results = program(process);
      expect(results.filter((result) => result < 0)).toEqual([-12]);
      expect(results[nth - 1]).toBe(-12);
      expect(process.fds.open.length).toBe(3 + results.slice(0, 2).filter((result) => result >= 0).length);
    }
  });
});

describe("wait queue", () => {
  const waiter = (name: string, log: string[], exclusive = false, woken = true): Waiter => ({
    exclusive,
    wake: () => (log.push(name), woken),
  });

  test("priority waiters in the order they came, then the last comer first; an exclusive waiter that was woken ends it", () => {
    const queue = new WaitQueue();
    const log: string[] = [];
    queue.add(waiter("a", log));
    queue.add(waiter("b", log));
    queue.addPriority(waiter("idle", log, true, false));
    queue.wake(1);
    expect(log).toEqual(["idle", "b", "a"]);
    queue.addPriority(waiter("first", log, true));
    log.length = 0;
    queue.wake(1);
    expect(log).toEqual(["idle", "first"]);
  });

  test("a waiter that another removes meanwhile is not woken", () => {
    const queue = new WaitQueue();
    const log: string[] = [];
    const second = waiter("second", log);
    queue.add(second);
    queue.add({ exclusive: false, wake: () => (queue.remove(second), true) });
    queue.wake(1);
    expect(log).toEqual([]);
  });
});

test("descriptors: the lowest free number, against a twin that is a set", () => {
  const step = fc.oneof(
    fc.constant({ kind: "open" as const, fd: 0 }),
    fc.record({ kind: fc.constant("close" as const), fd: fc.integer({ min: 0, max: 9 }) }),
    fc.record({ kind: fc.constant("dup" as const), fd: fc.integer({ min: 0, max: 9 }) }),
    fc.record({ kind: fc.constant("from" as const), fd: fc.integer({ min: 0, max: 9 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const process = new Process(new Kernel());
      process.setrlimit(7, 8);
      const twin = new Set([0, 1, 2]);
      const lowest = (from: number) =>
        [0, 1, 2, 3, 4, 5, 6, 7].find((fd) => fd >= from && !twin.has(fd)) ?? -24;
      for (const { kind, fd } of steps) {
        let expected: number;
        if (kind === "open") expected = lowest(0);
        else if (kind === "from") expected = fd >= 8 ? -22 : twin.has(0) ? lowest(fd) : -9;
        else if (kind === "close") expected = twin.delete(fd) ? 0 : -9;
        else expected = twin.has(fd) ? lowest(0) : -9;
        const result =
          kind === "open"
            ? process.eventfd2(0, 0)
            : kind === "close"
              ? process.close(fd)
              : kind === "dup"
                ? process.dup(fd)
                : process.fcntl(0, 0, fd);
        if (kind === "from" && !twin.has(0)) expect(result).toBeLessThan(0);
        else expect(result).toBe(expected);
        if (kind !== "close" && result >= 0) twin.add(result);
        expect(process.fds.open).toEqual([...twin].sort((a, b) => a - b));
      }
    }),
    { numRuns: 500 },
  );
});

test("a sleep that nothing can end is reported, and answers EINTR", () => {
  const reports: string[] = [];
  const process = new Process(new Kernel({ onDeadlock: (report) => reports.push(report) }));
  const fd = process.eventfd2(0, 0);
  expect(process.read(fd, new Uint8Array(8))).toBe(-4);
  expect(process.poll([{ fd, events: 1, revents: 0 }], -1)).toBe(-4);
  expect(reports).toEqual(["read of an eventfd at zero", `poll of ${fd}`]);
});

test("time passes in a sleep with a deadline, and a timer on the way may end it", () => {
  const process = new Process(new Kernel());
  const { clock } = process.kernel;
  const fd = process.eventfd2(0, 0);
  const start = clock.now;
  expect(process.poll([{ fd, events: 1, revents: 0 }], 5)).toBe(0);
  expect(clock.now - start).toBe(5_000_000);
  clock.arm(
    timer(() => process.write(fd, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0))),
    clock.now + 1000,
  );
  expect(process.poll([{ fd, events: 1, revents: 0 }], -1)).toBe(1);
  expect(clock.now - start).toBe(5_001_000);
});

test("readable() settles when the eventfd is signalled, and not before", async () => {
  const process = new Process(new Kernel());
  const fd = process.eventfd2(0, 0);
  let settled = false;
  const ready = process.readable(fd).then((result) => ((settled = true), result));
  await Promise.resolve();
  expect(settled).toBe(false);
  process.write(fd, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
  expect(await ready).toBe(0);
  expect(await process.readable(99)).toBe(-9);
});
