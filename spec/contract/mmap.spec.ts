import { describe, expect } from "vitest";
import { type Answers, agreement, contract, named } from "./contract.ts";
import { kinds } from "./kinds.ts";

const READ = 1;
const WRITE = 2;
const SHARED = 1;
const PRIVATE = 2;
const ANONYMOUS = 0x20;
const PAGE = 4096;

/** An address is an address: which one, is the kernel's choice. */
const mapped = (result: number): number | string => (result >= PAGE ? "an address" : named(result));

describe("mmap", () => {
  contract("anonymous memory is zero, and takes bytes", (process) => {
    const page = process.mmap(0, PAGE, READ | WRITE, PRIVATE | ANONYMOUS, -1, 0);
    const bytes = process.memory(page, PAGE)!;
    expect(bytes.every((byte) => byte === 0)).toBe(true);
    bytes[5] = 7;
    expect([process.load(page + 5, 1), process.load(page + 4, 2), process.load(page, 8)]).toEqual([
      7,
      0x700,
      7n << 40n,
    ]);
    expect(process.store(page + 8, 8, 0x1122_3344_5566_7788n)).toBe(0);
    expect(process.load(page + 8, 4)).toBe(0x5566_7788);
  });

  contract("what is unmapped is gone, page by page", (process) => {
    const start = process.mmap(0, 3 * PAGE, READ | WRITE, PRIVATE | ANONYMOUS, -1, 0);
    process.store(start + 2 * PAGE, 4, 9);
    expect(process.munmap(start + PAGE, PAGE)).toBe(0);
    expect(process.load(start, 1)).toBe(0);
    expect(process.load(start + PAGE, 1)).toBe("SIGSEGV");
    expect(process.load(start + 2 * PAGE, 4)).toBe(9);
    expect(process.memory(start, 2 * PAGE)).toBe(undefined);
    expect(process.munmap(start, 3 * PAGE)).toBe(0);
    expect(process.munmap(start, 3 * PAGE)).toBe(0);
    expect(process.load(start + 2 * PAGE, 4)).toBe("SIGSEGV");
  });

  contract("an eventfd reads into mapped memory, and faults at its end", (process) => {
    const page = process.mmap(0, PAGE, READ | WRITE, PRIVATE | ANONYMOUS, -1, 0);
    const fd = process.eventfd2(5, 0);
    expect(process.read(fd, page + PAGE - 8, 8)).toBe(8);
    expect(process.load(page + PAGE - 8, 8)).toBe(5n);
  });

  agreement("every kind of file", (process) => {
    const answers: Answers = {};
    for (const [kind, fd] of Object.entries(kinds(process)))
      for (const prot of [0, READ, WRITE, READ | WRITE])
        for (const flags of [0, SHARED, PRIVATE, 3, SHARED | ANONYMOUS, PRIVATE | ANONYMOUS, 3 | ANONYMOUS])
          for (const offset of [0, PAGE, 2 * PAGE, 100 * PAGE, 1, 2 ** 43]) {
            const result = process.mmap(0, PAGE, prot, flags, fd, offset);
            answers[`${kind}, prot ${prot}, flags ${flags}, offset ${offset}`] = mapped(result);
            if (result >= 0) process.munmap(result, PAGE);
          }
    return answers;
  });

  agreement("sizes and addresses", (process) => {
    const answers: Answers = {};
    const sizes = [0, 1, PAGE, PAGE + 1, 2 ** 40, 2 ** 47, 2 ** 47 - PAGE, 2 ** 48, 2 ** 52, -1, -PAGE];
    for (const size of sizes)
      for (const flags of [PRIVATE | ANONYMOUS | 0x4000, 0x4000 | ANONYMOUS, 0x4000 | SHARED]) {
        const result = process.mmap(0, size, READ, flags, -1, 0);
        answers[`size ${size}, flags ${flags}`] = mapped(result);
        if (result > 0) process.munmap(result, size);
      }
    const addresses = [0, 1, 4095, 4096, 0xffff, 0x10000, 2 ** 47 - PAGE, 2 ** 47 - 2 * PAGE, 2 ** 47, -PAGE];
    for (const address of addresses)
      for (const [name, fixed] of Object.entries({ hint: 0, noreplace: 0x100000 })) {
        const result = process.mmap(address, PAGE, READ, PRIVATE | ANONYMOUS | fixed, -1, 0);
        answers[`${name} ${address}`] = name === "hint" ? mapped(result) : named(result);
        if (result >= 0) process.munmap(result, PAGE);
      }
    for (const address of [0, 1, PAGE, 2 ** 47 - PAGE, 2 ** 47, -PAGE])
      for (const size of [0, 1, PAGE, 2 ** 47, 2 ** 48, -1]) {
        answers[`munmap of ${size} at ${address}`] =
          address === 0 && size === 2 ** 47 - PAGE ? "" : named(process.munmap(address, size));
      }
    return answers;
  });

  agreement("every flag", (process) => {
    const answers: Answers = {};
    for (let bit = 2; bit < 32; bit++) {
      if (bit === 4 || bit === 8) continue; // MAP_FIXED at 0, MAP_GROWSDOWN
      for (const kind of [SHARED, PRIVATE, 3])
        for (const fd of [-1, process.open("/dev/kvm", 2)]) {
          const result = process.mmap(0, PAGE, READ, kind | ANONYMOUS | (1 << bit), fd, 0);
          answers[`flag ${bit}, kind ${kind}, ${fd}`] = mapped(result);
          if (result >= 0) process.munmap(result, PAGE);
          if (fd >= 0) process.close(fd);
        }
    }
    return answers;
  });
});
