import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { KVM_GET_SREGS, KvmSregs } from "../../../lib/abi/kvm-x86.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { mainline, X86 } from "./vm.ts";

const TSC = 0x10;

describe("time stamp counter", () => {
  test("a guest of pvm reads the host's, whatever is written", () => {
    const x86 = new X86();
    const before = x86.msr(TSC);
    expect(x86.setMsr(TSC, 5n)).toBe(true);
    expect(x86.msr(TSC)).toBe(before);
  });

  test("elsewhere it starts at 0, keeps what is written, and goes on from there", () => {
    const x86 = new X86({ profile: mainline });
    expect(x86.msr(TSC)).toBe(0n);
    x86.setMsr(TSC, 1000n);
    expect(x86.msr(TSC)).toBe(1000n);
    x86.machine.kernel.clock.advance(1_000_000);
    expect(x86.msr(TSC)).toBe(1000n + BigInt(mainline.facts.tscKhz!));
  });
});

test("FS.base and GS.base are the segments' bases", () => {
  const x86 = new X86();
  x86.setMsr(0xc000_0100, 0x1234n);
  x86.setMsr(0xc000_0101, 0x5678n);
  const sregs = KvmSregs.decode(x86.get(KVM_GET_SREGS));
  expect([sregs.fs.base, sregs.gs.base]).toEqual([0x1234n, 0x5678n]);
});

test("every MSR of the list can be read", () => {
  const x86 = new X86();
  const unreadable = defaultProfile.facts.msrIndices!.filter((index) => x86.msr(index) === undefined);
  expect(unreadable).toEqual([]);
});

test("a write that is refused changes nothing", () => {
  const indices = [...defaultProfile.facts.msrIndices!, 0x1b, 0x200, 0x201, 0x250, 0x2ff, 0x400, 0xc000_0080];
  const x86 = new X86();
  fc.assert(
    fc.property(fc.constantFrom(...indices), fc.bigInt(0n, 2n ** 64n - 1n), (index, value) => {
      const before = x86.msr(index);
      if (!x86.setMsr(index, value)) expect(x86.msr(index)).toBe(before);
    }),
  );
});
