import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  EADDRINUSE,
  EEXIST,
  EFAULT,
  EINVAL,
  ENOENT,
  ENOMEM,
  ENOSPC,
  EOVERFLOW,
  EPERM,
} from "../../lib/abi/errno.ts";
import { MAP_ANONYMOUS, MAP_PRIVATE } from "../../lib/abi/mman.ts";
import { RLIMIT_MEMLOCK } from "../../lib/kernel/process.ts";
import { IoAddressSpace, type Pages } from "../../lib/vfio/io-address-space.ts";
import type { IommuHardware } from "../../lib/vfio/iommu-hardware.ts";
import { accountOf } from "../../lib/vfio/pinned-memory.ts";
import { fakeHost, processOn } from "./fake-host.ts";

const MAX64 = 0xffff_ffff_ffff_ffffn;
const PAGE = 4096n;

const hardware: IommuHardware = {
  pageSizes: 0x1000n,
  aperture: { start: 0n, end: 0xff_ffffn },
  reserved: [],
  infoType: 0,
  info: new Uint8Array(0),
};

function setup() {
  const process = processOn(fakeHost());
  const memory = BigInt(process.mmap(0, 64 * 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const account = accountOf(process.mm);
  const pages = (length: bigint, address = memory, writable = true): Pages => ({
    process,
    address,
    length,
    writable,
    account,
  });
  const space = new IoAddressSpace(4096);
  const map = (iova: bigint | undefined, length: bigint, address = memory, writable = true) =>
    space.map([{ pages: pages(length, address, writable), offset: 0n, length }], iova, writable);
  return { process, memory, account, pages, space, map };
}

describe("an address space without a page table", () => {
  test("any byte may be the start and the end; nothing is pinned, whatever the memory", () => {
    const { map, space, account } = setup();
    expect(map(0x10_0001n, 1n)).toBe(0x10_0001n);
    expect(map(0x10_0002n, 7n, 0n)).toBe(0x10_0002n);
    expect(map(0x20_0000n, PAGE, 0xffff_8000_0000_0000n)).toBe(0x20_0000n);
    expect(map(0x10_0000n, 2n)).toBe(-EEXIST);
    expect(map(MAX64 - 1n, 3n)).toBe(-EOVERFLOW);
    expect(account.pages).toBe(0);
    expect(space.ranges).toEqual([{ start: 0n, end: MAX64 }]);
  });

  test("areas against a naive twin of bytes", () => {
    const operation = fc.record({ take: fc.boolean(), at: fc.nat(11), size: fc.integer({ min: 1, max: 4 }) });
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 30 }), (operations) => {
        const { space, map } = setup();
        const cells: (number | undefined)[] = Array(16).fill(undefined);
        let next = 0;
        for (const { take, at, size } of operations) {
          const inside = cells.slice(at, at + size);
          if (!take) {
            const free = inside.every((cell) => cell === undefined);
            expect(map(BigInt(at), BigInt(size))).toBe(free ? BigInt(at) : -EEXIST);
            if (free) cells.fill(next++, at, at + size);
            continue;
          }
          // areas go one by one from the lowest, until one is cut by the range
          let unmapped = 0n;
          let cut = false;
          for (const area of [...new Set(inside.filter((cell) => cell !== undefined))]) {
            const whole = cells.flatMap((cell, i) => (cell === area ? [i] : []));
            cut = whole[0] < at || whole[whole.length - 1] >= at + size;
            if (cut) break;
            unmapped += BigInt(whole.length);
            for (const i of whole) cells[i] = undefined;
          }
          expect(space.unmap(BigInt(at), BigInt(at + size - 1))).toBe(
            cut || unmapped === 0n ? -ENOENT : unmapped,
          );
        }
        expect(space.unmapAll()).toBe(BigInt(cells.filter((cell) => cell !== undefined).length));
      }),
      { numRuns: 300 },
    );
  });
});

describe("addresses that are chosen", () => {
  test("the lowest place, never the first page, aligned as the memory is", () => {
    const { map, memory } = setup();
    const odd = memory & 0xf000n ? memory : memory + PAGE;
    const aligned = (odd & ~0x3fffn) + 0x4000n;
    expect(map(undefined, 0x4000n, aligned)).toBe(0x4000n);
    expect(map(undefined, PAGE, aligned)).toBe(0x1000n);
    expect(map(undefined, PAGE, aligned)).toBe(0x2000n);
    expect(map(undefined, 0x2000n, aligned)).toBe(0x8000n);
    expect(map(undefined, PAGE, aligned)).toBe(0x3000n);
  });

  test("only in the ranges allowed, and ENOSPC when they are full", () => {
    const { map, space } = setup();
    expect(space.allow([{ start: 0x10_0000n, end: 0x10_2fffn }])).toBe(0);
    const chosen = [1, 2, 3, 4].map(() => map(undefined, PAGE));
    expect(chosen).toEqual([0x10_0000n, 0x10_1000n, 0x10_2000n, -ENOSPC]);
    expect(map(0x90_0000n, PAGE)).toBe(0x90_0000n);
    space.allow([]);
    expect(map(undefined, PAGE)).toBe(0x1000n);
  });

  test("a range that meets a reserved one is neither allowed nor reserved", () => {
    const { space } = setup();
    const owner = {};
    expect(space.reserve([{ start: 0x1000n, end: 0x1fffn }], owner)).toBe(0);
    expect(space.allow([{ start: 0n, end: 0x1000n }])).toBe(-EADDRINUSE);
    expect(space.allow([{ start: 0x2000n, end: 0x2fffn }])).toBe(0);
    expect(
      space.reserve(
        [
          { start: 0x5000n, end: 0x5fffn },
          { start: 0x2fffn, end: 0x2fffn },
        ],
        {},
      ),
    ).toBe(-EADDRINUSE);
    expect(space.ranges).toEqual([
      { start: 0n, end: 0xfffn },
      { start: 0x2000n, end: MAX64 },
    ]);
    space.unreserve(owner);
    expect(space.ranges).toEqual([{ start: 0n, end: MAX64 }]);
  });
});

describe("copies", () => {
  test("a range without a gap, over several areas; ENOENT for one with a gap", () => {
    const { space, map, memory } = setup();
    map(0x1000n, PAGE, memory);
    map(0x2000n, PAGE, memory + 8n * PAGE);
    map(0x4000n, PAGE, memory);
    const slices = space.slices(0x1800n, 0x1000n);
    expect(slices).toMatchObject([
      { offset: 0x800n, length: 0x800n },
      { offset: 0n, length: 0x800n },
    ]);
    expect(space.slices(0x1000n, 0x3000n)).toBe(-ENOENT);
    expect(space.slices(0x4000n, 0x1001n)).toBe(-ENOENT);
    expect(space.slices(0x1000n, 0n)).toBe(-EINVAL);
    expect(space.slices(MAX64, 2n)).toBe(-EOVERFLOW);
  });

  test("what was mapped read only is not copied to be written", () => {
    const { space, map, memory } = setup();
    map(0x1000n, PAGE, memory, false);
    const slices = space.slices(0x1000n, PAGE);
    if (typeof slices === "number") throw new Error("no slices");
    expect(space.map(slices, 0x9000n, true)).toBe(-EPERM);
    expect(space.map(slices, 0x9000n, false)).toBe(0x9000n);
  });
});

describe("page tables", () => {
  test("one makes alignment its page size, reserves what it cannot show, and pins", () => {
    const { space, map, account } = setup();
    map(0x1000n, 3n * PAGE);
    const table = {};
    expect(space.addTable(table, hardware)).toBe(0);
    expect([space.alignment, account.pages]).toEqual([PAGE, 3]);
    expect(space.ranges).toEqual([hardware.aperture]);
    expect(map(0x1_0000n, 0x800n)).toBe(-EINVAL);
    expect(map(0x1_0800n, PAGE)).toBe(-EINVAL);
    expect(map(0x100_0000n, PAGE)).toBe(-EINVAL);
    expect(map(0x1_0000n, PAGE, 0n)).toBe(-EFAULT);
    expect(map(0x1_0000n, PAGE)).toBe(0x1_0000n);
    space.removeTable(table);
    expect([space.alignment, account.pages]).toEqual([1n, 0]);
    expect(space.ranges).toEqual([{ start: 0n, end: MAX64 }]);
  });

  test.each([
    ["unaligned", 0x1001n, 1n],
    ["outside the aperture", 0x100_0000n, PAGE],
  ])("an area that is %s: EADDRINUSE, and nothing is left", (_what, iova, length) => {
    const { space, map, account } = setup();
    map(0x8000n, PAGE);
    map(iova, length);
    expect(space.addTable({}, hardware)).toBe(-EADDRINUSE);
    expect([space.alignment, account.pages]).toEqual([1n, 0]);
    expect(space.ranges).toEqual([{ start: 0n, end: MAX64 }]);
  });

  test("memory that cannot be pinned, or not all of it: nothing stays pinned", () => {
    const { space, map, account, process } = setup();
    map(0x1000n, PAGE);
    map(0x2000n, PAGE, 0n);
    expect(space.addTable({}, hardware)).toBe(-EFAULT);
    expect(account.pages).toBe(0);
    space.unmap(0x2000n, 0x2fffn);
    map(0x2000n, 4n * PAGE);
    process.dropped.add("CAP_IPC_LOCK");
    process.setrlimit(RLIMIT_MEMLOCK, 4 * 4096);
    expect(space.addTable({}, hardware)).toBe(-ENOMEM);
    expect(account.pages).toBe(0);
    process.setrlimit(RLIMIT_MEMLOCK, 5 * 4096);
    expect(space.addTable({}, hardware)).toBe(0);
    expect(account.pages).toBe(5);
  });

  test("an area is cut at a page only without large pages", () => {
    const { space, map, account } = setup();
    expect(space.disableLargePages()).toBe(0);
    expect(space.alignment).toBe(PAGE);
    const table = {};
    space.addTable(table, hardware);
    map(0x1_0000n, 4n * PAGE);
    expect(space.cut(0x1_0fffn)).toBe(0);
    expect(space.unmap(0x1_0000n, 0x1_0fffn)).toBe(PAGE);
    expect(account.pages).toBe(3);
    expect(space.cut(0x1_1800n)).toBe(-EINVAL);
    space.enableLargePages();
    expect(space.cut(0x1_1fffn)).toBe(-EINVAL);
    expect(space.disableLargePages()).toBe(-EINVAL);
    expect(space.unmapAll()).toBe(3n * PAGE);
    expect(account.pages).toBe(0);
  });
});
