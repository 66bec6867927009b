import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EINVAL } from "../../../lib/abi/errno.ts";
import {
  KVM_GET_MP_STATE,
  KVM_MP_STATE_RUNNABLE,
  KVM_SET_MP_STATE,
  KVM_SET_USER_MEMORY_REGION,
  KVM_TRANSLATE,
  KvmMpState,
  KvmTranslation,
  KvmUserspaceMemoryRegion,
} from "../../../lib/abi/kvm.ts";
import { KVM_GET_SREGS, KVM_SET_SREGS, KvmSregs } from "../../../lib/abi/kvm-x86.ts";
import { store64 } from "../../../lib/abi/struct.ts";
import { mainline, X86 } from "./vm.ts";

const PAGING = 0x8000_0001n;

function setSregs(x86: X86, change: (sregs: ReturnType<typeof KvmSregs.at>) => void): number {
  const bytes = x86.get(KVM_GET_SREGS);
  change(KvmSregs.at(bytes));
  return x86.set(KVM_SET_SREGS, bytes);
}

describe("paging outside long mode", () => {
  test.each([
    ["pvm drops it", undefined, 1n],
    ["mainline keeps it", mainline, PAGING],
  ])("%s", (_name, profile, cr0) => {
    const x86 = new X86(profile === undefined ? {} : { profile });
    expect(setSregs(x86, (sregs) => (sregs.cr0 = PAGING))).toBe(0);
    expect(KvmSregs.decode(x86.get(KVM_GET_SREGS)).cr0).toBe(cr0);
  });
});

describe("CR4", () => {
  const SMEP = 1n << 20n;
  test("mainline asks CPUID", () => {
    const x86 = new X86({ profile: mainline });
    expect(setSregs(x86, (sregs) => (sregs.cr4 = SMEP))).toBe(-EINVAL);
    x86.setCpuid([{ function: 7, flags: 1, ebx: 1 << 7 }]);
    expect(setSregs(x86, (sregs) => (sregs.cr4 = SMEP))).toBe(0);
  });

  test("pvm does not", () => {
    expect(setSregs(new X86(), (sregs) => (sregs.cr4 = SMEP))).toBe(0);
  });
});

test("registers that are refused change nothing", () => {
  const x86 = new X86();
  fc.assert(
    fc.property(fc.uint8Array({ minLength: KvmSregs.size, maxLength: KvmSregs.size }), (bytes) => {
      const before = x86.get(KVM_GET_SREGS);
      if (x86.set(KVM_SET_SREGS, bytes) < 0) expect(x86.get(KVM_GET_SREGS)).toEqual(before);
    }),
  );
});

test("a boot CPU that is put where reset puts it runs", () => {
  const x86 = new X86({ irqchip: true });
  x86.set(KVM_SET_MP_STATE, KvmMpState.encode({ mp_state: 3 }));
  x86.set(KVM_SET_SREGS, x86.get(KVM_GET_SREGS));
  expect(KvmMpState.decode(x86.get(KVM_GET_MP_STATE)).mp_state).toBe(KVM_MP_STATE_RUNNABLE);
});

describe("KVM_TRANSLATE in long mode", () => {
  /** Tables at 0x1000 (top) to 0x4000: 0x400000 is one page, 0x600000 two MiB, the rest is not mapped. */
  function paged(): X86 {
    const x86 = new X86();
    const memory = x86.process.mmap(0, 0x10000, 3, 0x22, -1, 0);
    const slot = KvmUserspaceMemoryRegion.encode({ memory_size: 0x10000, userspace_addr: memory });
    expect(x86.process.ioctl(x86.vm, KVM_SET_USER_MEMORY_REGION, slot)).toBe(0);
    const table = x86.process.memory(memory, 0x10000)!;
    store64(table, 0x1000, 0x2003);
    store64(table, 0x2000, 0x3003);
    store64(table, 0x3000 + 2 * 8, 0x4003);
    store64(table, 0x3000 + 3 * 8, 0x20_0083);
    store64(table, 0x4000, 0x7003);
    const taken = setSregs(x86, (sregs) => {
      sregs.cr0 = PAGING;
      sregs.cr3 = 0x1000n;
      sregs.cr4 = 0x20n;
      sregs.efer = 0x500n;
    });
    expect(taken).toBe(0);
    return x86;
  }

  test.each([
    [0x40_0123n, 0x7123n],
    [0x60_0000n, 0x20_0000n],
    [0x7f_ffffn, 0x3f_ffffn],
    [0x40_1000n, undefined],
    [0x80_0000n, undefined],
    [1n << 39n, undefined],
  ])("%x", (linear, physical) => {
    const x86 = paged();
    const bytes = KvmTranslation.encode({ linear_address: linear });
    expect(x86.set(KVM_TRANSLATE, bytes)).toBe(0);
    const { physical_address, valid } = KvmTranslation.decode(bytes);
    expect([physical_address, valid]).toEqual(
      physical === undefined ? [0xffff_ffff_ffff_ffffn, 0] : [physical, 1],
    );
  });
});
