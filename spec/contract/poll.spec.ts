import { describe, expect } from "vitest";
import { EINVAL } from "../../lib/abi/errno.ts";
import type { PollFd, Syscalls } from "../../lib/kernel/syscalls.ts";
import { type Answers, agreement, contract, counter, named } from "./contract.ts";
import { kinds } from "./kinds.ts";

const poll = (process: Syscalls, fd: number, events: number): string => {
  const entry: PollFd = { fd, events, revents: 0x5a5a };
  const result = named(process.poll([entry], 0));
  return `${result} 0x${entry.revents.toString(16)}`;
};

describe("poll", () => {
  contract("an eventfd is readable above zero, writable below the top", (process) => {
    const fd = process.eventfd2(0, 0);
    expect(poll(process, fd, 5)).toBe("1 0x4");
    process.write(fd, counter(1));
    expect(poll(process, fd, 5)).toBe("1 0x5");
    process.read(fd, new Uint8Array(8));
    process.write(fd, counter(0xffff_ffff_ffff_fffen));
    expect(poll(process, fd, 5)).toBe("1 0x1");
    expect(poll(process, fd, 4)).toBe("0 0x0");
  });

  contract("descriptors that are not open, negative, many", (process) => {
    expect(poll(process, 99, 1)).toBe("1 0x20");
    expect(poll(process, 99, 0)).toBe("1 0x20");
    expect(poll(process, -1, 1)).toBe("0 0x0");
    expect(process.poll([], 0)).toBe(0);
    const RLIMIT_NOFILE = 7;
    process.setrlimit(RLIMIT_NOFILE, 10);
    const many = (count: number) => Array.from({ length: count }, () => ({ fd: -1, events: 1, revents: 0 }));
    expect(process.poll(many(10), 0)).toBe(0);
    expect(process.poll(many(11), 0)).toBe(-EINVAL);
  });

  contract("a timeout that passes answers 0", (process) => {
    expect(process.poll([{ fd: process.eventfd2(0, 0), events: 1, revents: 0 }], 5)).toBe(0);
  });

  agreement("every kind of file, every event bit", (process) => {
    const answers: Answers = {};
    const files = kinds(process);
    for (const [kind, fd] of Object.entries(files))
      for (let bit = 0; bit < 17; bit++) {
        const events = bit === 16 ? 0xffff : 1 << bit;
        answers[`poll ${kind} for 0x${events.toString(16)}`] = poll(process, fd, events);
      }
    process.write(files.writing, Uint8Array.of(1, 2, 3));
    process.write(files.eventfd, counter(0xffff_ffff_ffff_fff0n));
    for (const kind of ["reading", "writing", "eventfd"])
      answers[`${kind} later`] = poll(process, files[kind], 0xffff);
    process.close(files.writing);
    answers["reading end, hung up"] = poll(process, files.reading, 0xffff);
    process.read(files.reading, new Uint8Array(8));
    answers["reading end, hung up and empty"] = poll(process, files.reading, 0xffff);
    const pair: number[] = [];
    process.pipe2(pair, 0);
    process.close(pair[0]);
    answers["writing end without a reader"] = poll(process, pair[1], 0xffff);
    return answers;
  });
});
