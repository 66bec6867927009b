import { describe, expect } from "vitest";
import { type Answers, agreement, contract, named } from "./contract.ts";

const NONBLOCK = 0x800;

describe("pipe", () => {
  contract("bytes come out in order, then EAGAIN, then the end", (process) => {
    const pair: number[] = [];
    expect(process.pipe2(pair, NONBLOCK)).toBe(0);
    expect(pair).toEqual([3, 4]);
    const buffer = new Uint8Array(8);
    expect(process.write(pair[1], Uint8Array.of(1, 2, 3, 4, 5))).toBe(5);
    expect(process.read(pair[0], buffer, 3)).toBe(3);
    expect(process.read(pair[0], buffer.subarray(3))).toBe(2);
    expect(Array.from(buffer)).toEqual([1, 2, 3, 4, 5, 0, 0, 0]);
    expect(named(process.read(pair[0], buffer))).toBe("EAGAIN");
    process.close(pair[1]);
    expect(process.read(pair[0], buffer)).toBe(0);
  });

  contract("nobody reads: EPIPE", (process) => {
    const pair: number[] = [];
    process.pipe2(pair, NONBLOCK);
    process.close(pair[0]);
    expect(named(process.write(pair[1], Uint8Array.of(1)))).toBe("EPIPE");
  });

  contract("each end has one direction", (process) => {
    const pair: number[] = [];
    process.pipe2(pair, NONBLOCK);
    expect(named(process.read(pair[1], new Uint8Array(1)))).toBe("EBADF");
    expect(named(process.write(pair[0], new Uint8Array(1)))).toBe("EBADF");
  });

  agreement("filled up with writes of a size", (process) => {
    const answers: Answers = {};
    for (const size of [1, 8, 4095, 4096, 4097, 65536, 65537, 100_000]) {
      const pair: number[] = [];
      process.pipe2(pair, NONBLOCK);
      const buffer = new Uint8Array(size);
      const results: (string | number)[] = [];
      for (let count = 0; size >= 4095 && count < 20; count++)
        results.push(named(process.write(pair[1], buffer)));
      results.push(
        named(process.write(pair[1], new Uint8Array(1))),
        named(process.write(pair[1], new Uint8Array(0))),
      );
      const all = process.read(pair[0], new Uint8Array(70_000));
      answers[`writes of ${size}`] = [results, all];
      for (const end of pair) process.close(end);
    }
    return answers;
  });

  agreement("packets", (process) => {
    const answers: Answers = {};
    const O_DIRECT = 0x4000;
    const pair: number[] = [];
    process.pipe2(pair, NONBLOCK | O_DIRECT);
    for (const size of [1, 5, 0, 4096, 4097, 9000]) {
      const written = named(process.write(pair[1], new Uint8Array(size).fill(size)));
      const reads = [3, 4096, 4096, 1].map((room) => named(process.read(pair[0], new Uint8Array(room))));
      answers[`a write of ${size}`] = [written, ...reads];
    }
    return answers;
  });

  agreement("pipe2 with every flag", (process) => {
    const answers: Answers = {};
    for (let bit = 0; bit < 32; bit++) {
      if (bit === 7) continue; // O_NOTIFICATION_PIPE
      const pair: number[] = [];
      answers[`flag ${bit}`] = [
        named(process.pipe2(pair, 1 << bit)),
        pair.slice(),
        pair.map((fd) => process.fcntl(fd, 3)),
      ];
      for (const end of pair) process.close(end);
    }
    return answers;
  });
});
