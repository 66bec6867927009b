import { describe, expect, test } from "vitest";
import { EINVAL } from "../../../lib/abi/errno.ts";
import { KVM_GET_SREGS, KVM_SET_SREGS, KvmSregs } from "../../../lib/abi/kvm-x86.ts";
import { VcpuFile } from "../../../lib/kvm/vcpu.ts";
import type { X86Vcpu } from "../../../lib/kvm/x86/vcpu.ts";
import { mainline, X86 } from "./vm.ts";

const leaf1 = { function: 1, index: 0, flags: 0, eax: 5, ebx: 6, ecx: 1 << 26, edx: 1 << 9 };

describe("a KVM that answers every CPUID itself", () => {
  test("shows what was set, and adds nothing", () => {
    const x86 = new X86({ profile: mainline });
    expect(x86.setCpuid([leaf1])).toBe(0);
    expect(x86.cpuid()).toEqual([leaf1]);
  });

  test("keeps leaves that pvm removes", () => {
    const x86 = new X86({ profile: mainline });
    x86.setCpuid([{ function: 0x1d, index: 0, flags: 1, eax: 1 }]);
    expect(x86.cpuid().map((leaf) => leaf.function)).toEqual([0x1d]);
  });
});

describe("bits that follow the vCPU", () => {
  test("OSXSAVE is CR4's", () => {
    const x86 = new X86({ profile: mainline });
    x86.setCpuid([leaf1]);
    const sregs = x86.get(KVM_GET_SREGS);
    KvmSregs.at(sregs).cr4 = 1n << 18n;
    expect(x86.set(KVM_SET_SREGS, sregs)).toBe(0);
    expect(x86.cpuid()[0].ecx! >>> 0).toBe(((1 << 26) | (1 << 27)) >>> 0);
  });

  test("APIC is the enable bit of the APIC's base", () => {
    const x86 = new X86({ profile: mainline });
    x86.setCpuid([leaf1]);
    x86.setMsr(0x1b, 0xfee0_0100n);
    expect(x86.cpuid()[0].edx).toBe(0);
    x86.setMsr(0x1b, 0xfee0_0900n);
    expect(x86.cpuid()[0].edx).toBe(1 << 9);
  });
});

test("after the first run only the same table is taken", () => {
  const x86 = new X86({ profile: mainline });
  x86.setCpuid([leaf1]);
  const file = x86.process.fds.get(x86.vcpu) as VcpuFile;
  expect(file).toBeInstanceOf(VcpuFile);
  (file.vcpu.arch as X86Vcpu).hasRun = true;
  expect(x86.setCpuid([{ ...leaf1, eax: 7 }])).toBe(-EINVAL);
  expect(x86.setCpuid([])).toBe(-EINVAL);
  expect(x86.setCpuid([leaf1])).toBe(0);
  expect(x86.cpuid()).toEqual([leaf1]);
});
