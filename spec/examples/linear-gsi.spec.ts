/** A number that is cut to 16 bits ends in another source's word: found by search and by chance, and printed. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { FIRST_SOURCE, fired, firstCut, print } from "../../lib/examples/linear-gsi.ts";

/** The word of a source of priority 5 whose interrupt waits (trace ppc64le-kvm-6.12/xics-sources). */
const SHOWN = 0xc05_0000_0000n;

/** Different sources that often agree in their lower 16 bits; the first one fires. */
const sources = fc
  .uniqueArray(
    fc.record({
      high: fc.nat(0xf),
      low: fc.oneof(fc.integer({ min: FIRST_SOURCE, max: 24 }), fc.constant(0xffff)),
    }),
    { selector: ({ high, low }) => high * 0x1_0000 + low, minLength: 1, maxLength: 6 },
  )
  .map((parts) => parts.map(({ high, low }) => high * 0x1_0000 + low));

const untouched = (mask: number) =>
  fc.property(sources, (numbers) =>
    [...fired(numbers, mask).changed.keys()].every((number) => number === numbers[0]),
  );

describe("nobody else's word changes", () => {
  test("with all bits: exactly the word of the source that fired", () => {
    fc.assert(
      fc.property(sources, (numbers) => {
        expect([...fired(numbers, 0xffff_ffff).changed]).toEqual([[numbers[0], SHOWN]]);
      }),
      { numRuns: 60 },
    );
  });

  test("with 16 bits: a counterexample is found, two sources 0x10000 apart", () => {
    const { failed, counterexample } = fc.check(untouched(0xffff), { numRuns: 500, seed: 1 });
    expect(failed).toBe(true);
    const [numbers] = counterexample!;
    expect(numbers).toHaveLength(2);
    expect(numbers[1]).toBe(numbers[0] & 0xffff);
    expect(numbers[0]).toBeGreaterThan(0xffff);
    expect([...fired(numbers, 0xffff).changed]).toEqual([[numbers[1], SHOWN]]);
  });
});

test("the lowest such source", () => {
  expect(firstCut()).toBe(0x1_0000 + FIRST_SOURCE);
});

test("printed", () => {
  expect(print().split("\n")).toEqual([
    "message of source 0x10010  GSI      word of 0x10010  word of 0x10",
    "─────────────────────────  ───────  ───────────────  ─────────────",
    "& 0xffff                   0x10     unchanged        0xc0500000000",
    "& 0xffffffff               0x10010  0xc0500000000    unchanged",
  ]);
});
