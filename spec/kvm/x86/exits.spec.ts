/** Exits that an option of user space brings: task priority, hypercalls, MSRs; and the clock of a VM that runs. */
import { describe, expect, test } from "vitest";
import {
  KVM_CAP_EXIT_HYPERCALL,
  KVM_CAP_X86_USER_SPACE_MSR,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_ENABLE_CAP,
  KVM_EXIT_HLT,
  KVM_EXIT_HYPERCALL,
  KVM_EXIT_IO,
  KVM_EXIT_SET_TPR,
  KVM_EXIT_TPR_ACCESS,
  KVM_EXIT_X86_RDMSR,
  KVM_EXIT_X86_WRMSR,
  KVM_MSR_EXIT_REASON_FILTER,
  KVM_MSR_EXIT_REASON_INVAL,
  KVM_MSR_EXIT_REASON_UNKNOWN,
  KVM_MSR_EXIT_REASON_VALID_MASK,
  KvmEnableCap,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_CLOCK,
  KVM_MSR_FILTER_DEFAULT_DENY,
  KVM_SET_CLOCK,
  KVM_TPR_ACCESS_REPORTING,
  KVM_X86_SET_MSR_FILTER,
  KvmClockData,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, load64, store32, store64 } from "../../../lib/abi/struct.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import type { Profile } from "../../../lib/machine/profile.ts";
import { CODE, Guest, type Mode } from "./guest.ts";
import { mainline } from "./vm.ts";

const HLT = 0xf4;
const NOP = 0x90;

function started(mode: Mode, { profile = mainline as Profile, irqchip = false } = {}): Guest {
  const process = new Machine(profile).process();
  return new Guest(process, mode, (vm) => irqchip && process.ioctl(vm, KVM_CREATE_IRQCHIP, 0));
}

const enable = (guest: Guest, cap: number, value: number) =>
  guest.kernel.ioctl(
    guest.vm,
    KVM_ENABLE_CAP,
    KvmEnableCap.encode({ cap, args: [BigInt(value), 0n, 0n, 0n] }),
  );
const union = ({ run }: Guest, at: number) => load64(run, 32 + at);

describe("task priority of user space", () => {
  /** mov cr8, rax */
  const toCr8 = [0x44, 0x0f, 0x22, 0xc0];

  test("a processor tells when the guest lowers it", () => {
    const guest = started("long");
    // 9, 9, 3, 5
    guest.code(...toCr8, ...toCr8, 0xb0, 3, ...toCr8, 0xb0, 5, ...toCr8, HLT);
    guest.registers({ rax: 9 });
    expect([guest.enter(), guest.exitReason, guest.register("rip")]).toEqual([
      0,
      KVM_EXIT_SET_TPR,
      BigInt(CODE + 14),
    ]);
    expect(load64(guest.run, 16)).toBe(3n);
    guest.enter();
    expect([guest.exitReason, load64(guest.run, 16)]).toEqual([KVM_EXIT_HLT, 5n]);
  });

  test("pvm's emulator does not, and nobody does with a local APIC in the kernel", () => {
    for (const options of [{ profile: defaultProfile }, { irqchip: true }]) {
      const guest = started("long", options);
      guest.code(...toCr8, 0xb0, 3, ...toCr8, 0xe6, 0x80);
      guest.registers({ rax: 9 });
      guest.enter();
      expect([guest.exitReason, load64(guest.run, 16)]).toEqual([KVM_EXIT_IO, 3n]);
    }
  });
});

describe("KVM_TPR_ACCESS_REPORTING", () => {
  /** mov eax, [TPR]; mov [TPR], eax */
  const read = [0xa1, 0x80, 0x00, 0xe0, 0xfe];
  const write = [0xa3, 0x80, 0x00, 0xe0, 0xfe];
  const report = (guest: Guest, on: number) => {
    const control = new Uint8Array(40);
    control[0] = on;
    return guest.kernel.ioctl(guest.vcpu, KVM_TPR_ACCESS_REPORTING, control);
  };

  test("an exit for each access, with its place and direction", () => {
    const guest = started("prot32", { irqchip: true });
    report(guest, 1);
    guest.code(...read, ...write, 0xe6, 0x80);
    for (const [at, isWrite] of [
      [0, 0],
      [5, 1],
    ]) {
      guest.enter();
      expect([guest.exitReason, union(guest, 0), load32(guest.run, 40)]).toEqual([
        KVM_EXIT_TPR_ACCESS,
        BigInt(CODE + at),
        isWrite,
      ]);
    }
    guest.enter();
    expect(guest.exitReason).toBe(KVM_EXIT_IO);
  });

  test("off: none", () => {
    const guest = started("prot32", { irqchip: true });
    report(guest, 1);
    report(guest, 0);
    guest.code(...read, 0xe6, 0x80);
    guest.enter();
    expect(guest.exitReason).toBe(KVM_EXIT_IO);
  });
});

describe("KVM_HC_MAP_GPA_RANGE", () => {
  const VMMCALL = [0x0f, 0x01, 0xd9];
  const call = (mode: Mode, enabled: boolean, start: number, pages: number) => {
    const guest = started(mode);
    if (enabled) enable(guest, KVM_CAP_EXIT_HYPERCALL, 1 << 12);
    guest.code(...VMMCALL, HLT);
    guest.registers({ rax: 12, rbx: start, rcx: pages, rdx: 7 });
    guest.enter();
    return guest;
  };

  test.each([
    ["prot32", 0n, 0xffff_fffbn],
    ["long", 1n, 0xffff_ffff_ffff_fffbn],
  ] as const)("%s: an exit with its arguments; user space answers", (mode, flags, result) => {
    const guest = call(mode, true, 0x4000, 2);
    expect([guest.exitReason, ...[0, 8, 16, 24, 56, 64].map((at) => union(guest, at))]).toEqual([
      KVM_EXIT_HYPERCALL,
      ...[12n, 0x4000n, 2n, 7n, 0n, flags],
    ]);
    store64(guest.run, 32 + 56, 0xffff_ffff_ffff_fffbn);
    guest.enter();
    expect([guest.exitReason, guest.register("rax"), guest.register("rip")]).toEqual([
      KVM_EXIT_HLT,
      result,
      BigInt(CODE + 4),
    ]);
  });

  test.each([
    ["it was not asked for", false, 0x4000, 2, -1000n],
    ["no whole pages", true, 0x4001, 2, -22n],
    ["no page", true, 0x4000, 0, -22n],
  ])("the guest is refused: %s", (_why, enabled, start, pages, error) => {
    const guest = call("long", enabled, start, pages);
    expect([guest.exitReason, BigInt.asIntN(64, guest.register("rax"))]).toEqual([KVM_EXIT_HLT, error]);
  });
});

describe("MSRs for user space", () => {
  const RDMSR = [0x0f, 0x32];
  const WRMSR = [0x0f, 0x30];
  const TSC = 0x10;
  const NOBODY_KNOWS = 0x1_2345;
  const EFER = 0xc000_0080;
  const access = (code: readonly number[], rcx: number, reasons = KVM_MSR_EXIT_REASON_VALID_MASK) => {
    const guest = started("long");
    enable(guest, KVM_CAP_X86_USER_SPACE_MSR, reasons);
    if (rcx === TSC) {
      const filter = new Uint8Array(8 + 16 * 24);
      store32(filter, 0, KVM_MSR_FILTER_DEFAULT_DENY);
      const bitmap = guest.kernel.addressOf(new Uint8Array(8).fill(0xff));
      // one range that allows TSC_ADJUST, so that the default is of use
      store32(filter, 8, 3);
      store32(filter, 12, 1);
      store32(filter, 16, 0x3b);
      store64(filter, 24, bitmap);
      expect(guest.kernel.ioctl(guest.vm, KVM_X86_SET_MSR_FILTER, filter)).toBe(0);
    }
    guest.code(...code, NOP, HLT);
    guest.registers({ rcx, rax: 0x1122_3344, rdx: 0x5566_7788 });
    guest.enter();
    return guest;
  };
  /** reason, index, data */
  const exit = ({ run }: Guest) => [load32(run, 40), load32(run, 44), load64(run, 48)];

  test.each([
    [TSC, KVM_MSR_EXIT_REASON_FILTER],
    [NOBODY_KNOWS, KVM_MSR_EXIT_REASON_UNKNOWN],
  ])("RDMSR of %i", (index, reason) => {
    for (const failed of [false, true]) {
      const guest = access(RDMSR, index);
      expect([guest.exitReason, ...exit(guest)]).toEqual([KVM_EXIT_X86_RDMSR, reason, index, 0n]);
      guest.run[32] = failed ? 1 : 0;
      store64(guest.run, 48, 0x12_3456_7890);
      guest.enter();
      expect([guest.register("rax"), guest.register("rdx"), guest.register("rip")]).toEqual(
        failed
          ? [0x1122_3344n, 0x5566_7788n, 0x41a1n]
          : [0x3456_7890n, 0x12n, BigInt(CODE + RDMSR.length + 2)],
      );
    }
  });

  test.each([
    [TSC, KVM_MSR_EXIT_REASON_FILTER],
    [NOBODY_KNOWS, KVM_MSR_EXIT_REASON_UNKNOWN],
    [EFER, KVM_MSR_EXIT_REASON_INVAL],
  ])("WRMSR of %i", (index, reason) => {
    for (const failed of [false, true]) {
      const guest = access(WRMSR, index);
      expect([guest.exitReason, ...exit(guest)]).toEqual([
        KVM_EXIT_X86_WRMSR,
        reason,
        index,
        0x5566_7788_1122_3344n,
      ]);
      guest.run[32] = failed ? 1 : 0;
      guest.enter();
      expect(guest.register("rip")).toBe(failed ? 0x41a1n : BigInt(CODE + WRMSR.length + 2));
    }
  });

  test("a reason that was not asked for: #GP", () => {
    const guest = access(RDMSR, NOBODY_KNOWS, KVM_MSR_EXIT_REASON_INVAL);
    expect([guest.exitReason, guest.register("rip")]).toEqual([KVM_EXIT_HLT, 0x41a1n]);
  });

  test("user space may more than the guest: SMI_COUNT is written by it alone", () => {
    const guest = access(WRMSR, 0x34);
    expect(exit(guest).slice(0, 2)).toEqual([KVM_MSR_EXIT_REASON_INVAL, 0x34]);
  });
});

describe("the clock of a VM", () => {
  const flagsOf = (guest: Guest) => {
    const data = new Uint8Array(KvmClockData.size);
    guest.kernel.ioctl(guest.vm, KVM_GET_CLOCK, data);
    return KvmClockData.at(data).flags;
  };

  test("is tied to the host's TSC from the first entry on", () => {
    const guest = started("prot32");
    guest.code(HLT);
    expect(flagsOf(guest)).toBe(0);
    guest.enter();
    expect(flagsOf(guest)).toBe(14);
  });

  test("not by a vCPU that only finished an exit", () => {
    const guest = started("prot32");
    guest.run[1] = 1;
    guest.enter();
    expect(flagsOf(guest)).toBe(0);
  });

  test("a second vCPU with the same TSC leaves it so, KVM_SET_CLOCK looks again", () => {
    const guest = started("prot32");
    guest.code(HLT);
    guest.enter();
    guest.kernel.ioctl(guest.vm, KVM_CREATE_VCPU, 1);
    expect(flagsOf(guest)).toBe(14);
    guest.kernel.ioctl(guest.vm, KVM_SET_CLOCK, new Uint8Array(KvmClockData.size));
    expect(flagsOf(guest)).toBe(14);
  });
});
