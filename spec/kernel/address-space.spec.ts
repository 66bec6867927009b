import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PROT_READ, PROT_WRITE } from "../../lib/abi/mman.ts";
import { AddressSpace, SIGBUS, SIGSEGV, TASK_SIZE } from "../../lib/kernel/address-space.ts";
import { Argument } from "../../lib/kernel/argument.ts";

const PAGE = 4096;
const RW = PROT_READ | PROT_WRITE;
const EINVAL = 22;
const ENOMEM = 12;

const anonymous = (mm: AddressSpace, length: number, prot = RW, at = 0, fixed = false) =>
  mm.map(at, length, prot, fixed, false);

describe("mappings", () => {
  test("lie below the end of user space, page by page, top-down, with a free page between them", () => {
    const mm = new AddressSpace();
    const first = anonymous(mm, 2 * PAGE);
    const second = anonymous(mm, 1);
    expect(first % PAGE).toBe(0);
    expect(first + 2 * PAGE).toBeLessThan(TASK_SIZE);
    expect(second).toBe(first - 2 * PAGE);
    expect(mm.find(second + PAGE)).toBeUndefined();
  });

  test("a hint is taken where there is room, and only there", () => {
    const mm = new AddressSpace();
    expect(anonymous(mm, PAGE, RW, 0x100000)).toBe(0x100000);
    expect(anonymous(mm, PAGE, RW, 0x100000)).not.toBe(0x100000);
    expect(anonymous(mm, PAGE, RW, 0x200123)).toBe(0x200000);
    expect(anonymous(mm, PAGE, RW, 0x1000)).toBeGreaterThan(0x10000);
  });

  test("a fixed one replaces what was there, and splits it", () => {
    const mm = new AddressSpace();
    const start = anonymous(mm, 3 * PAGE);
    mm.find(start)!.bytes.fill(7);
    expect(anonymous(mm, PAGE, RW, start + PAGE, true)).toBe(start + PAGE);
    expect(mm.load(start + PAGE - 1, 1)).toBe(7);
    expect(mm.load(start + PAGE, 1)).toBe(0);
    expect(mm.load(start + 2 * PAGE, 1)).toBe(7);
    expect(anonymous(mm, PAGE, RW, start + 1, true)).toBe(-EINVAL);
    expect(anonymous(mm, PAGE, RW, TASK_SIZE, true)).toBe(-ENOMEM);
  });

  test("one that is too long is −ENOMEM, and nothing is lost", () => {
    const mm = new AddressSpace();
    expect(anonymous(mm, 2 ** 47)).toBe(-ENOMEM);
    expect(anonymous(mm, PAGE)).toBeGreaterThan(0);
  });

  test("a file is let go exactly when its last page is unmapped", () => {
    const mm = new AddressSpace();
    let released = 0;
    const start = mm.map(0, 3 * PAGE, RW, false, true, { bytes: new Uint8Array(3 * PAGE) }, () => released++);
    expect(mm.unmap(start + PAGE, PAGE)).toBe(0);
    expect(released).toBe(0);
    expect(mm.unmap(start, PAGE)).toBe(0);
    expect(released).toBe(0);
    expect(mm.unmap(start + 2 * PAGE, PAGE)).toBe(0);
    expect(released).toBe(1);
  });

  test("a file that a forked child has mapped too is let go by the last of both", () => {
    const mm = new AddressSpace();
    let released = 0;
    const start = mm.map(0, PAGE, RW, false, true, { bytes: new Uint8Array(PAGE) }, () => released++);
    const child = mm.fork();
    mm.clear();
    expect(released).toBe(0);
    child.unmap(start, PAGE);
    expect(released).toBe(1);
  });

  test("changing the protection of a part lets nothing go", () => {
    const mm = new AddressSpace();
    let released = 0;
    const start = mm.map(0, 3 * PAGE, RW, false, true, { bytes: new Uint8Array(3 * PAGE) }, () => released++);
    expect(mm.protect(start + PAGE, PAGE, PROT_READ)).toBe(0);
    expect([mm.store(start, 1, 1), mm.store(start + PAGE, 1, 1), mm.store(start + 2 * PAGE, 1, 1)]).toEqual([
      0,
      SIGSEGV,
      0,
    ]);
    expect(released).toBe(0);
    mm.clear();
    expect(released).toBe(1);
  });

  test("munmap: EINVAL for a crooked address, an empty length, a range past the end; a hole is no error", () => {
    const mm = new AddressSpace();
    for (const [address, length] of [
      [1, PAGE],
      [0, 0],
      [TASK_SIZE, PAGE],
      [-PAGE, PAGE],
    ])
      expect(mm.unmap(address, length)).toBe(-EINVAL);
    expect(mm.unmap(0x100000, PAGE)).toBe(0);
  });
});

describe("what a program's own access takes", () => {
  test("SIGSEGV outside, or against the protection; device memory answers itself", () => {
    const mm = new AddressSpace();
    const readOnly = anonymous(mm, PAGE, PROT_READ);
    expect(mm.load(readOnly, 4)).toBe(0);
    expect(mm.store(readOnly, 4, 1)).toBe(SIGSEGV);
    expect(mm.load(readOnly + PAGE - 2, 4)).toBe(SIGSEGV);
    expect(mm.load(0, 1)).toBe(SIGSEGV);
    const log: string[] = [];
    const device = mm.map(0, PAGE, RW, false, true, {
      device: {
        load: (offset, width) => (offset < 8 ? offset * 10 + width : SIGBUS),
        store: (offset, width, value) => (log.push(`${offset}/${width}=${value}`), 0),
      },
    });
    expect(mm.load(device + 4, 2)).toBe(42);
    expect(mm.load(device + 8, 4)).toBe(SIGBUS);
    expect(mm.store(device + 4, 8, 0x1122334455667788n)).toBe(0);
    expect(log).toEqual(["4/8=1234605616436508552"]);
  });

  test("every width, little endian", () => {
    const mm = new AddressSpace();
    const at = anonymous(mm, PAGE);
    expect(mm.store(at, 8, 0xf1e2d3c4b5a69788n)).toBe(0);
    expect(mm.load(at, 1)).toBe(0x88);
    expect(mm.load(at, 2)).toBe(0x9788);
    expect(mm.load(at, 4)).toBe(0xb5a69788);
    expect(mm.load(at, 8)).toBe(0xf1e2d3c4b5a69788n);
  });
});

describe("fork", () => {
  test("private memory is copied, shared memory shared", () => {
    const mm = new AddressSpace();
    const own = anonymous(mm, PAGE);
    const shared = mm.map(0, PAGE, RW, false, true);
    mm.store(own, 1, 1);
    mm.store(shared, 1, 1);
    const child = mm.fork();
    child.store(own, 1, 2);
    child.store(shared, 1, 2);
    expect([mm.load(own, 1), mm.load(shared, 1)]).toEqual([1, 2]);
  });

  test("a mapping that was shared before it was touched is shared too", () => {
    const mm = new AddressSpace();
    const shared = mm.map(0, PAGE, RW, false, true);
    const child = mm.fork();
    child.store(shared, 1, 9);
    expect(mm.load(shared, 1)).toBe(9);
  });
});

describe("a pointer of a system call", () => {
  test("reaches exactly as far as the memory does", () => {
    const mm = new AddressSpace();
    const start = anonymous(mm, PAGE);
    const user = new Argument();
    for (const [before, size, ok] of [
      [16, 16, true],
      [16, 17, false],
      [1, 1, true],
      [1, 2, false],
      [0, 1, false],
    ] as const)
      expect(user.point(mm, start + PAGE - before).readable(size)).toBe(ok);
  });

  test("bytes handed over directly end where they end", () => {
    const user = new Argument().point(new AddressSpace(), new Uint8Array(24));
    expect(user.readable(24)).toBe(true);
    expect(user.readable(25)).toBe(false);
    expect(user.writable(8, 16)).toBe(true);
    expect(user.writable(8, 17)).toBe(false);
  });

  test("read-only memory can be read and not written", () => {
    const mm = new AddressSpace();
    const user = new Argument().point(mm, anonymous(mm, PAGE, PROT_READ));
    expect([user.readable(8), user.writable(8)]).toEqual([true, false]);
  });

  test("bytes that span two mappings are gathered, and written back at the end of the call", () => {
    const mm = new AddressSpace();
    const second = anonymous(mm, PAGE, RW, 0x201000, true);
    const first = anonymous(mm, PAGE, RW, 0x200000, true);
    mm.store(first + PAGE - 1, 1, 0xaa);
    mm.store(second, 1, 0xbb);
    const user = new Argument().point(mm, first + PAGE - 1);
    expect(user.readable(2)).toBe(true);
    expect([...user.bytes.subarray(user.at, user.at + 2)]).toEqual([0xaa, 0xbb]);
    expect(user.writable(2)).toBe(true);
    user.bytes.set([1, 2], user.at);
    user.finish();
    expect([mm.load(first + PAGE - 1, 1), mm.load(second, 1)]).toEqual([1, 2]);
  });

  test("addressOf names bytes of the program, views of one buffer included", () => {
    const mm = new AddressSpace();
    const buffer = new Uint8Array(64);
    const address = mm.addressOf(buffer);
    expect(mm.addressOf(buffer)).toBe(address);
    expect(mm.addressOf(buffer.subarray(8, 16))).toBe(address + 8);
    const user = new Argument().point(mm, address);
    expect(user.readable(64)).toBe(true);
    expect(user.readable(65)).toBe(false);
    expect(user.bytes[user.at]).toBe(0);
    buffer[0] = 5;
    expect(user.bytes[user.at]).toBe(5);
  });
});

test("against a twin that keeps one entry a page", () => {
  const page = fc.integer({ min: 0x100, max: 0x110 });
  const step = fc.oneof(
    fc.record({
      kind: fc.constant("map" as const),
      page,
      pages: fc.integer({ min: 1, max: 4 }),
      prot: fc.constantFrom(0, 1, 3),
    }),
    fc.record({ kind: fc.constant("unmap" as const), page, pages: fc.integer({ min: 1, max: 4 }) }),
    fc.record({ kind: fc.constant("store" as const), page, value: fc.integer({ min: 1, max: 255 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
      const mm = new AddressSpace();
      const twin = new Map<number, { prot: number; value: number }>();
      for (const action of steps) {
        if (action.kind === "map") {
          anonymous(mm, action.pages * PAGE, action.prot, action.page * PAGE, true);
          for (let i = 0; i < action.pages; i++) twin.set(action.page + i, { prot: action.prot, value: 0 });
        } else if (action.kind === "unmap") {
          mm.unmap(action.page * PAGE, action.pages * PAGE);
          for (let i = 0; i < action.pages; i++) twin.delete(action.page + i);
        } else {
          const entry = twin.get(action.page);
          const allowed = entry !== undefined && (entry.prot & PROT_WRITE) !== 0;
          expect(mm.store(action.page * PAGE, 1, action.value)).toBe(allowed ? 0 : SIGSEGV);
          if (allowed) entry.value = action.value;
        }
      }
      for (let number = 0x0ff; number < 0x116; number++) {
        const entry = twin.get(number);
        const readable = entry !== undefined && (entry.prot & PROT_READ) !== 0;
        expect(mm.load(number * PAGE, 1)).toBe(readable ? entry.value : SIGSEGV);
      }
    }),
    { numRuns: 500 },
  );
});
