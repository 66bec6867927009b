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
});
