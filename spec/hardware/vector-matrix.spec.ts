import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ENOSPC } from "../../lib/abi/errno.ts";
import { cpuOf, VectorMatrix, vectorOf } from "../../lib/hardware/vector-matrix.ts";

const pc = (cpus: number) => new VectorMatrix({ cpus, firstSystem: 0xeb, system: [0x80, 0x32] });

describe("vector matrix", () => {
  test("what a processor has: 32 to 0xea but the system's own", () => {
    expect(pc(1).free).toBe(0xeb - 0x20 - 2);
    expect(pc(2).free).toBe(2 * (0xeb - 0x20 - 2));
    expect(pc(2).available(1)).toBe(0xeb - 0x20 - 2);
  });

  test("lowest first, never a system vector, until there is none", () => {
    const matrix = pc(1);
    const given: number[] = [];
    for (let place = matrix.allocate(); place >= 0; place = matrix.allocate()) given.push(vectorOf(place));
    const expected = Array.from({ length: 0xeb - 0x20 }, (_, i) => 0x20 + i).filter(
      (v) => v !== 0x80 && v !== 0x32,
    );
    expect(given).toEqual(expected);
    expect(matrix.allocate()).toBe(-ENOSPC);
    matrix.release(0x55);
    expect(matrix.allocate()).toBe(0x55);
  });

  test("the emptiest processor is next", () => {
    const matrix = pc(3);
    expect([1, 2, 3, 4].map(() => cpuOf(matrix.allocate()))).toEqual([0, 1, 2, 0]);
  });

  test("a certain vector, once", () => {
    const matrix = pc(1);
    expect(matrix.allocateAt(0, 0x30)).toBe(0x30);
    expect(matrix.allocateAt(0, 0x30)).toBe(-ENOSPC);
    expect(matrix.allocateAt(0, 0x80)).toBe(-ENOSPC);
  });

  test("managed: kept on all processors or on none, taken and given back without touching the others' count", () => {
    const matrix = pc(2);
    expect(matrix.reserveManaged([0, 1])).toBe(0);
    expect(matrix.free).toBe(2 * 201 - 2);
    const place = matrix.allocateManaged([1]);
    expect(cpuOf(place)).toBe(1);
    expect(matrix.allocateManaged([1])).toBe(-ENOSPC);
    matrix.release(place);
    expect(matrix.free).toBe(2 * 201 - 2);
    matrix.releaseManaged([0, 1]);
    expect(matrix.free).toBe(2 * 201);
    while (matrix.available(1) > 0 || matrix.available(0) > 1)
      expect(matrix.allocate()).toBeGreaterThanOrEqual(0);
    const before = matrix.free;
    expect(matrix.reserveManaged([0, 1])).toBe(-ENOSPC);
    expect(matrix.free).toBe(before);
  });

  test("a reservation costs nothing", () => {
    const matrix = pc(1);
    for (let i = 0; i < 5000; i++) matrix.reserve();
    expect([matrix.reserved, matrix.free]).toEqual([5000, 201]);
    matrix.unreserve();
    expect(matrix.reserved).toBe(4999);
  });

  test("random histories against a set: nothing is given twice, nothing is lost", () => {
    const step = fc.oneof(fc.constant(-1), fc.nat(600));
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 3 }), fc.array(step, { maxLength: 700 }), (cpus, steps) => {
        const matrix = pc(cpus);
        const out: number[] = [];
        for (const which of steps) {
          if (which < 0 || out.length === 0) {
            const place = matrix.allocate();
            if (place < 0) expect(out.length).toBe(cpus * 201);
            else {
              expect(out.includes(place)).toBe(false);
              out.push(place);
            }
          } else matrix.release(out.splice(which % out.length, 1)[0]);
          expect(matrix.free).toBe(cpus * 201 - out.length);
        }
      }),
      { numRuns: 40 },
    );
  });
});
