import { describe, expect } from "vitest";
import { type Answers, agreement, contract, counted, counter, named } from "./contract.ts";

const SEMAPHORE = 1;
const NONBLOCK = 0x800;
const TOP = 0xffff_ffff_ffff_fffen;

describe("eventfd", () => {
  contract("writes add up, a read takes all", (process) => {
    const fd = process.eventfd2(5, NONBLOCK);
    const buffer = new Uint8Array(8);
    expect(process.write(fd, counter(7))).toBe(8);
    expect(process.read(fd, buffer)).toBe(8);
    expect(counted(buffer)).toBe(12n);
    expect(named(process.read(fd, buffer))).toBe("EAGAIN");
  });

  contract("a semaphore gives one at a time", (process) => {
    const fd = process.eventfd2(2, NONBLOCK | SEMAPHORE);
    const buffer = new Uint8Array(8);
    const answers = [1, 2, 3].map(() => [named(process.read(fd, buffer)), counted(buffer)]);
    expect(answers).toEqual([
      [8, 1n],
      [8, 1n],
      ["EAGAIN", 1n],
    ]);
  });

  contract("the top is 2^64 − 2", (process) => {
    const fd = process.eventfd2(0, NONBLOCK);
    const write = (value: bigint) => named(process.write(fd, counter(value)));
    expect(write(TOP + 1n)).toBe("EINVAL");
    expect(write(TOP)).toBe(8);
    expect(write(0n)).toBe(8);
    expect(write(1n)).toBe("EAGAIN");
    const buffer = new Uint8Array(8);
    process.read(fd, buffer);
    expect(counted(buffer)).toBe(TOP);
  });

  contract("a fault takes the counter all the same", (process) => {
    const fd = process.eventfd2(3, NONBLOCK);
    expect(named(process.read(fd, new Uint8Array(7), 8))).toBe("EFAULT");
    expect(named(process.read(fd, new Uint8Array(8)))).toBe("EAGAIN");
  });

  agreement("eventfd2 with every flag and some counts", (process) => {
    const answers: Answers = {};
    for (let bit = 0; bit < 32; bit++) {
      const fd = process.eventfd2(1, 1 << bit);
      answers[`flag ${bit}`] = [named(fd), named(process.fcntl(fd, 1)), named(process.fcntl(fd, 3))];
    }
    for (const initval of [0, 1, 0x7fff_ffff, 0xffff_ffff]) {
      const fd = process.eventfd2(initval, NONBLOCK);
      const buffer = new Uint8Array(8);
      answers[`initval ${initval}`] = [named(process.read(fd, buffer)), counted(buffer)];
    }
    return answers;
  });

  agreement("reads and writes of every size", (process) => {
    const answers: Answers = {};
    for (const flags of [NONBLOCK, NONBLOCK | SEMAPHORE])
      for (let given = 0; given <= 17; given++)
        for (let count = 0; count <= 17; count++) {
          const fd = process.eventfd2(9, flags);
          const buffer = new Uint8Array(given).fill(1, 0, 1);
          const written = named(process.write(fd, buffer, count));
          const read = named(process.read(fd, buffer, count));
          answers[`${count} of ${given} bytes, flags ${flags}`] = [written, read, Array.from(buffer)];
          process.close(fd);
        }
    return answers;
  });

  agreement("read and write at an address", (process) => {
    const answers: Answers = {};
    const shared = process.mmap(0, 4096, 1, 0x21, -1, 0);
    const page = process.mmap(0, 8192, 3, 0x22, -1, 0);
    process.munmap(page + 4096, 4096);
    const places = {
      null: 0,
      one: 1,
      start: page,
      end: page + 4088,
      over: page + 4089,
      shared,
      high: 2 ** 47,
      kernel: -8,
    };
    for (const [name, address] of Object.entries(places)) {
      const fd = process.eventfd2(3, NONBLOCK);
      answers[name] = [
        named(process.read(fd, address, 8)),
        named(process.write(fd, address, 8)),
        named(process.write(fd, address, 7)),
        named(process.read(fd, address, 7)),
        named(process.read(fd, new Uint8Array(8))),
      ];
    }
    return answers;
  });
});
