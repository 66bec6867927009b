import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { KVM_MSR_FILTER_READ, KVM_MSR_FILTER_WRITE } from "../../../lib/abi/kvm-x86.ts";
import { MsrFilter } from "../../../lib/kvm/x86/filters.ts";

const bitmap = Uint8Array.of(0b0000_0010);

describe("MSR filter", () => {
  const filter = new MsrFilter(false, [{ base: 0x174, count: 3, flags: KVM_MSR_FILTER_READ, bitmap }]);

  test.each([
    ["a set bit allows", 0x175, KVM_MSR_FILTER_READ, true],
    ["a clear bit denies", 0x174, KVM_MSR_FILTER_READ, false],
    ["another kind of access is the default's", 0x175, KVM_MSR_FILTER_WRITE, false],
    ["behind the range is the default's", 0x177, KVM_MSR_FILTER_READ, false],
    ["before the range is the default's", 0x173, KVM_MSR_FILTER_READ, false],
    ["x2APIC registers are never filtered", 0x808, KVM_MSR_FILTER_WRITE, true],
  ])("%s", (_name, index, kind, allowed) => expect(filter.allows(index, kind)).toBe(allowed));

  test("the first range that holds the access decides", () => {
    const both = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
    const all = Uint8Array.of(0xff);
    const none = Uint8Array.of(0);
    fc.assert(
      fc.property(fc.boolean(), fc.boolean(), (first, second) => {
        const ranges = [first, second].map((on) => ({
          base: 0,
          count: 8,
          flags: both,
          bitmap: on ? all : none,
        }));
        expect(new MsrFilter(!first, ranges).allows(3, KVM_MSR_FILTER_READ)).toBe(first);
      }),
    );
  });

  test("every MSR around two ranges, each kind of access, each default", () => {
    const ranges = [
      { base: 0x7f0, count: 12, flags: KVM_MSR_FILTER_READ, bitmap: Uint8Array.of(0x5a, 0x09) },
      {
        base: 0x8fa,
        count: 9,
        flags: KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
        bitmap: Uint8Array.of(0xc3, 1),
      },
    ];
    const bits = ranges.map(({ bitmap }) =>
      [...bitmap].flatMap((byte) =>
        [...byte.toString(2).padStart(8, "0")].reverse().map((digit) => digit === "1"),
      ),
    );
    const wrong: string[] = [];
    for (const byDefault of [false, true])
      for (const kind of [KVM_MSR_FILTER_READ, KVM_MSR_FILTER_WRITE])
        for (let index = 0x7e0; index < 0x920; index++) {
          const found = ranges.findIndex(
            ({ base, count, flags }) => (flags & kind) !== 0 && index >= base && index < base + count,
          );
          const x2apic = index >> 8 === 8;
          const expected = x2apic || (found < 0 ? byDefault : bits[found][index - ranges[found].base]);
          if (new MsrFilter(byDefault, ranges).allows(index, kind) !== expected)
            wrong.push(`${index.toString(16)} ${kind} ${byDefault}`);
        }
    expect(wrong).toEqual([]);
  });
});
