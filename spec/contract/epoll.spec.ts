import { describe, expect } from "vitest";
import type { EpollEvent, Syscalls } from "../../lib/kernel/syscalls.ts";
import { type Answers, agreement, contract, counter, named } from "./contract.ts";
import { kinds } from "./kinds.ts";

const ADD = 1;
const DEL = 2;
const MOD = 3;
const IN = 1;
const OUT = 4;
const ET = 0x8000_0000;
const ONESHOT = 0x4000_0000;
const WAKEUP = 0x2000_0000;
const EXCLUSIVE = 0x1000_0000;

const wait = (process: Syscalls, epoll: number, max = 8): (string | number)[] => {
  const events: EpollEvent[] = [];
  const result = process.epoll_wait(epoll, events, max, 0);
  return result < 0
    ? [named(result)]
    : events.map((event) => `${event.data}: 0x${event.events.toString(16)}`);
};
const ctl = (process: Syscalls, epoll: number, operation: number, fd: number, events?: number, data = fd) =>
  named(
    process.epoll_ctl(
      epoll,
      operation,
      fd,
      events === undefined ? undefined : { events, data: BigInt(data) },
    ),
  );

describe("epoll", () => {
  contract("level-triggered: reported as long as it holds", (process) => {
    const [epoll, fd] = [process.epoll_create1(0), process.eventfd2(0, 0)];
    expect(ctl(process, epoll, ADD, fd, IN)).toBe(0);
    expect(wait(process, epoll)).toEqual([]);
    process.write(fd, counter(1));
    expect(wait(process, epoll)).toEqual([`${fd}: 0x1`]);
    expect(wait(process, epoll)).toEqual([`${fd}: 0x1`]);
    process.read(fd, new Uint8Array(8));
    expect(wait(process, epoll)).toEqual([]);
  });

  contract("edge-triggered: reported once a write", (process) => {
    const [epoll, fd] = [process.epoll_create1(0), process.eventfd2(1, 0)];
    ctl(process, epoll, ADD, fd, IN + ET);
    expect(wait(process, epoll)).toEqual([`${fd}: 0x1`]);
    expect(wait(process, epoll)).toEqual([]);
    process.write(fd, counter(1));
    expect(wait(process, epoll)).toEqual([`${fd}: 0x1`]);
    expect(wait(process, epoll)).toEqual([]);
  });

  contract("one-shot: silent until it is set again", (process) => {
    const [epoll, fd] = [process.epoll_create1(0), process.eventfd2(1, 0)];
    ctl(process, epoll, ADD, fd, IN + ONESHOT);
    expect(wait(process, epoll)).toEqual([`${fd}: 0x1`]);
    process.write(fd, counter(1));
    expect(wait(process, epoll)).toEqual([]);
    expect(ctl(process, epoll, MOD, fd, IN + ONESHOT)).toBe(0);
    expect(wait(process, epoll)).toEqual([`${fd}: 0x1`]);
  });

  contract("what is reported goes to the end of the line", (process) => {
    const epoll = process.epoll_create1(0);
    const fds = [1, 2, 3].map(() => process.eventfd2(1, 0));
    for (const fd of fds) ctl(process, epoll, ADD, fd, IN);
    const seen = [0, 1, 2, 3].map(() => wait(process, epoll, 2).join(" "));
    const name = (index: number) => `${fds[index]}: 0x1`;
    expect(seen).toEqual([
      `${name(0)} ${name(1)}`,
      `${name(2)} ${name(0)}`,
      `${name(1)} ${name(2)}`,
      `${name(0)} ${name(1)}`,
    ]);
  });

  contract("the order of readiness, not of the interests", (process) => {
    const epoll = process.epoll_create1(0);
    const fds = [1, 2, 3].map(() => process.eventfd2(0, 0));
    for (const fd of fds) ctl(process, epoll, ADD, fd, IN);
    for (const index of [2, 0, 1]) process.write(fds[index], counter(1));
    expect(wait(process, epoll)).toEqual([2, 0, 1].map((index) => `${fds[index]}: 0x1`));
  });

  contract("a duplicate keeps an interest alive, the last close ends it", (process) => {
    const [epoll, fd] = [process.epoll_create1(0), process.eventfd2(1, 0)];
    const copy = process.dup(fd);
    ctl(process, epoll, ADD, fd, IN);
    process.close(fd);
    expect(wait(process, epoll)).toEqual([`${fd}: 0x1`]);
    expect(ctl(process, epoll, DEL, fd)).toBe("EBADF");
    process.close(copy);
    expect(wait(process, epoll)).toEqual([]);
  });

  contract("nesting: five deep, and never in a circle", (process) => {
    const chain = [process.eventfd2(1, 0)];
    const answers: (number | string)[] = [];
    for (let depth = 0; depth < 7; depth++) {
      const epoll = process.epoll_create1(0);
      answers.push(ctl(process, epoll, ADD, chain.at(-1)!, IN));
      chain.push(epoll);
    }
    expect(answers).toEqual([0, 0, 0, 0, 0, "ELOOP", 0]);
    const [a, b] = [process.epoll_create1(0), process.epoll_create1(0)];
    expect(ctl(process, a, ADD, b, IN)).toBe(0);
    expect(ctl(process, b, ADD, a, IN)).toBe("ELOOP");
    expect(ctl(process, a, ADD, a, IN)).toBe("EINVAL");
  });

  contract("an epoll in an epoll is readable when it has something to report", (process) => {
    const [outer, inner, fd] = [process.epoll_create1(0), process.epoll_create1(0), process.eventfd2(0, 0)];
    ctl(process, inner, ADD, fd, IN);
    ctl(process, outer, ADD, inner, IN);
    expect(wait(process, outer)).toEqual([]);
    process.write(fd, counter(1));
    expect(wait(process, outer)).toEqual([`${inner}: 0x1`]);
    expect(wait(process, inner)).toEqual([`${fd}: 0x1`]);
  });

  agreement("epoll_create1 with every flag", (process) => {
    const answers: Answers = {};
    for (let bit = 0; bit < 32; bit++) answers[`flag ${bit}`] = named(process.epoll_create1(1 << bit));
    return answers;
  });

  agreement("epoll_ctl on every kind of file", (process) => {
    const answers: Answers = {};
    const files = kinds(process);
    const epoll = process.epoll_create1(0);
    for (const [kind, fd] of Object.entries(files))
      for (const [name, operation] of Object.entries({
        nothing: 0,
        ADD,
        again: ADD,
        MOD,
        DEL,
        gone: DEL,
        four: 4,
      })) {
        answers[`${name} ${kind}`] = [ctl(process, epoll, operation, fd, 0xffff, 1), wait(process, epoll)];
        answers[`${name} ${kind}, no event`] = ctl(process, epoll, operation, fd);
      }
    for (const [kind, fd] of Object.entries(files)) {
      answers[`ctl of ${kind}`] = ctl(process, fd, ADD, files.eventfd, IN);
      answers[`ctl of ${kind} with a closed one`] = ctl(process, fd, ADD, 99, IN);
      answers[`wait of ${kind}`] = wait(process, fd);
      answers[`wait of ${kind} for nothing`] = wait(process, fd, 0);
    }
    answers["far too many"] = wait(process, epoll, 0x7fff_ffff);
    answers["a negative number"] = wait(process, epoll, -1);
    return answers;
  });

  agreement("flags of an interest", (process) => {
    const answers: Answers = {};
    const flags = { IN, ET, ONESHOT, WAKEUP, EXCLUSIVE, RDHUP: 0x2000, PRI: 2, ERR: 8, HUP: 0x10 };
    const list = Object.entries(flags);
    for (let mask = 0; mask < 1 << list.length; mask++) {
      const chosen = list.filter((_, index) => (mask >> index) & 1);
      const events = chosen.reduce((sum, [, bit]) => sum + bit, 0);
      const name = chosen.map(([flag]) => flag).join("+");
      const [epoll, fd, inner] = [process.epoll_create1(0), process.eventfd2(1, 0), process.epoll_create1(0)];
      answers[`ADD ${name}`] = [
        ctl(process, epoll, ADD, fd, events),
        wait(process, epoll),
        ctl(process, epoll, MOD, fd, IN + OUT),
        wait(process, epoll),
        wait(process, epoll),
      ];
      answers[`MOD ${name}`] = [
        ctl(process, epoll, DEL, fd),
        ctl(process, epoll, ADD, fd, 0),
        ctl(process, epoll, MOD, fd, events),
        wait(process, epoll),
        wait(process, epoll),
      ];
      answers[`ADD ${name} for an epoll`] = ctl(process, epoll, ADD, inner, events);
      for (const one of [epoll, fd, inner]) process.close(one);
    }
    return answers;
  });
});
