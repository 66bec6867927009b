/**
 * Exits that an option of user space brings: task priority, hypercalls, MSRs, Hyper-V; those of guests that cannot go on:
 * states that are not entered, events that meet no memory; and the clock of a VM that runs.
 */
import { describe, expect, test } from "vitest";
import {
  KVM_CAP_EXIT_HYPERCALL,
  KVM_CAP_HYPERV_SYNIC,
  KVM_CAP_HYPERV_SYNIC2,
  KVM_CAP_X86_USER_SPACE_MSR,
  KVM_CREATE_GUEST_MEMFD,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_ENABLE_CAP,
  KVM_EXIT_FAIL_ENTRY,
  KVM_EXIT_HLT,
  KVM_EXIT_HYPERCALL,
  KVM_EXIT_HYPERV,
  KVM_EXIT_HYPERV_HCALL,
  KVM_EXIT_HYPERV_SYNIC,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_IO,
  KVM_EXIT_IRQ_WINDOW_OPEN,
  KVM_EXIT_MEMORY_FAULT,
  KVM_EXIT_MMIO,
  KVM_EXIT_SET_TPR,
  KVM_EXIT_SHUTDOWN,
  KVM_EXIT_SYSTEM_EVENT,
  KVM_EXIT_TPR_ACCESS,
  KVM_EXIT_X86_RDMSR,
  KVM_EXIT_X86_WRMSR,
  KVM_EXIT_XEN,
  KVM_EXIT_XEN_HCALL,
  KVM_INTERNAL_ERROR_DELIVERY_EV,
  KVM_INTERNAL_ERROR_EMULATION,
  KVM_INTERRUPT,
  KVM_MEM_GUEST_MEMFD,
  KVM_MSR_EXIT_REASON_FILTER,
  KVM_MSR_EXIT_REASON_INVAL,
  KVM_MSR_EXIT_REASON_UNKNOWN,
  KVM_MSR_EXIT_REASON_VALID_MASK,
  KVM_SET_USER_MEMORY_REGION2,
  KVM_SYSTEM_EVENT_CRASH,
  KVM_SYSTEM_EVENT_RESET,
  KvmCreateGuestMemfd,
  KvmEnableCap,
  KvmUserspaceMemoryRegion2,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_CLOCK,
  KVM_GET_MSRS,
  KVM_GET_SREGS,
  KVM_HYPERV_EVENTFD,
  KVM_MSR_FILTER_DEFAULT_DENY,
  KVM_NMI,
  KVM_SET_CLOCK,
  KVM_SET_CPUID2,
  KVM_SET_MSRS,
  KVM_SET_SREGS,
  KVM_SET_VCPU_EVENTS,
  KVM_TPR_ACCESS_REPORTING,
  KVM_X86_SET_MSR_FILTER,
  KVM_XEN_HVM_CONFIG,
  KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL,
  KvmClockData,
  KvmCpuid2,
  KvmCpuidEntry2,
  KvmHypervEventfd,
  KvmMsrEntry,
  KvmMsrs,
  KvmSregs,
  KvmVcpuEvents,
  KvmXenHvmConfig,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, load64, store32, store64 } from "../../../lib/abi/struct.ts";
import { builtinHosts } from "../../../lib/machine/builtin.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { type Profile, profileFromHeader } from "../../../lib/machine/profile.ts";
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

/** AMD's module in some release. */
const svm = (kernel: string): Profile => profileFromHeader({ ...builtinHosts.x86_64_7_2_svm, kernel });
const changeSregs = (guest: Guest, change: (bytes: Uint8Array) => void): number => {
  const bytes = guest.get(KVM_GET_SREGS.number, KvmSregs.size);
  change(bytes);
  return guest.kernel.ioctl(guest.vcpu, KVM_SET_SREGS, bytes);
};
/** reason, ready_for_interrupt_injection, if_flag */
const head = ({ run }: Guest) => [load32(run, 8), run[12], run[13]];
const interrupt = (guest: Guest, vector: number) => {
  const bytes = new Uint8Array(4);
  store32(bytes, 0, vector);
  return guest.kernel.ioctl(guest.vcpu, KVM_INTERRUPT, bytes);
};
const msr = (index: number, data = 0n) => {
  const bytes = new Uint8Array(KvmMsrs.size + KvmMsrEntry.size);
  bytes.set(KvmMsrs.encode({ nmsrs: 1 }));
  bytes.set(KvmMsrEntry.encode({ index, data }), KvmMsrs.size);
  return bytes;
};
const setMsr = (guest: Guest, index: number, value: bigint) =>
  guest.kernel.ioctl(guest.vcpu, KVM_SET_MSRS, msr(index, value));
const getMsr = (guest: Guest, index: number) => {
  const bytes = msr(index);
  return guest.kernel.ioctl(guest.vcpu, KVM_GET_MSRS, bytes) === 1
    ? KvmMsrEntry.decode(bytes, KvmMsrs.size).data
    : undefined;
};
/** an address without memory */
const HOLE = 0x40_0000;
const OUT = [0xe6, 0x80];

describe("states that are not entered", () => {
  const DB_OF_CS = 14 + 3;
  const setCode32 = (guest: Guest, on: number) =>
    changeSregs(guest, (bytes) => {
      bytes[DB_OF_CS] = on;
    });

  test("code of 64 and of 32 bits: FAIL_ENTRY, as often as it is tried, until it is mended", () => {
    const guest = started("long").code(NOP, HLT);
    expect(setCode32(guest, 1)).toBe(0);
    guest.run.fill(0xff, 32, 64);
    for (let i = 0; i < 2; i++) {
      expect(guest.enter()).toBe(0);
      expect([...head(guest), union(guest, 0), load32(guest.run, 40), load32(guest.run, 44)]).toEqual([
        ...[KVM_EXIT_FAIL_ENTRY, 0, 0],
        ...[0xffff_ffffn, 0, 0xffff_ffff],
      ]);
    }
    setCode32(guest, 0);
    guest.enter();
    expect([guest.exitReason, guest.register("rip")]).toEqual([KVM_EXIT_HLT, BigInt(CODE + 2)]);
  });

  test("an interrupt that was to be injected is there when it is mended", () => {
    const guest = started("long").code(NOP, HLT);
    setCode32(guest, 1);
    guest.registers({ rflags: 0x202 });
    interrupt(guest, 0x30);
    guest.enter();
    expect([...head(guest), guest.events[8], guest.events[9]]).toEqual([KVM_EXIT_FAIL_ENTRY, 0, 1, 1, 0x30]);
    setCode32(guest, 0);
    guest.enter();
    expect([guest.exitReason, guest.register("rip")]).toEqual([KVM_EXIT_HLT, 0x4601n]);
  });

  test.each([
    ["outside of long mode it is nothing", "prot32", mainline],
    ["pvm does not look", "long", defaultProfile],
  ] as const)("%s", (_why, mode, profile) => {
    const guest = started(mode, { profile }).code(NOP, HLT);
    setCode32(guest, 1);
    guest.enter();
    expect(guest.exitReason).toBe(KVM_EXIT_HLT);
  });

  test.each([
    [30, mainline, KVM_EXIT_HLT],
    [31, mainline, KVM_EXIT_FAIL_ENTRY],
    [31, defaultProfile, KVM_EXIT_HLT],
  ])("exception %i", (vector, profile, reason) => {
    const guest = started("prot32", { profile }).code(NOP, HLT);
    const { events } = guest;
    events.set([1, vector], 0);
    expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_VCPU_EVENTS, events)).toBe(0);
    guest.enter();
    expect(guest.exitReason).toBe(reason);
  });

  test("a window that is open is told before the first instruction, where a processor runs the guest", () => {
    const guest = started("prot32").code(NOP, HLT);
    guest.registers({ rflags: 0x202 });
    guest.run[0] = 1;
    for (let i = 0; i < 2; i++) {
      guest.enter();
      expect([...head(guest), guest.register("rip")]).toEqual([KVM_EXIT_IRQ_WINDOW_OPEN, 1, 1, BigInt(CODE)]);
    }
  });
});

describe("events that meet no memory on their way", () => {
  const { idt } = KvmSregs.offsetOf;
  const inHole: Record<string, (guest: Guest) => void> = {
    idt: (guest) => {
      guest.registers({ rflags: 0x202 });
      changeSregs(guest, (bytes) => store64(bytes, idt, HOLE));
    },
    stack: (guest) => guest.registers({ rflags: 0x202, rsp: HOLE + 0x800 }),
  };
  const { exception, nmi } = KvmVcpuEvents.offsetOf;
  type Way = [name: string, code: number[], start: (guest: Guest) => void, type: number, vector: number];
  const none = () => {};
  const ways: Way[] = [
    ["NMI", [...OUT, HLT], (guest) => guest.kernel.ioctl(guest.vcpu, KVM_NMI, 0), 2, 2],
    ["UD2", [0x0f, 0x0b, HLT], none, 3, 6],
    ["DIV by 0", [0xf6, 0xf1, HLT], none, 3, 0],
    ["INT 0x30", [0xcd, 0x30, HLT], none, 4, 0x30],
    ["INT3", [0xcc, HLT], none, 4, 3],
  ];
  /** where the first access goes, and its error */
  const access = (hole: string, vector: number): [bigint, bigint] =>
    hole === "idt" ? [BigInt(HOLE + 8 * vector), 0x1_0000_0004n] : [BigInt(HOLE + 0x7fc), 0x1_0000_0006n];
  const all = Object.keys(inHole).flatMap((hole) => ways.map((way) => [hole, ...way] as const));

  test.each(all)("6.14 and later, %s: %s is DELIVERY_EV", (hole, _name, code, start, type, vector) => {
    const guest = started("prot32", { profile: svm("7.2") }).code(...code);
    inHole[hole](guest);
    start(guest);
    expect(guest.enter()).toBe(0);
    const [address, error] = access(hole, vector);
    expect([guest.exitReason, load32(guest.run, 32), load32(guest.run, 36)]).toEqual([
      ...[KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_DELIVERY_EV, 5],
    ]);
    expect([8, 16, 24, 32, 40].map((at) => union(guest, at))).toEqual([address, 0x400n, error, address, 0n]);
    expect(guest.register("rip")).toBe(BigInt(CODE));
    const { events } = guest;
    const kept = [
      [events[exception], events[exception + 1]],
      [events[8], events[9]],
      [events[nmi], 2],
    ];
    // a software interrupt is told of by its number alone
    expect(kept[type === 3 ? 0 : type === 4 ? 1 : 2]).toEqual([type === 4 ? 0 : 1, vector]);
  });

  test.each(all.filter(([, name]) => name !== "NMI" && name !== "DIV by 0"))(
    "before, %s: KVM's emulator does not know %s",
    (hole, _name, code, _start, type, vector) => {
      const guest = started("prot32", { profile: svm("6.12") }).code(...code);
      inHole[hole](guest);
      guest.enter();
      const [address, error] = access(hole, vector);
      expect([guest.exitReason, load32(guest.run, 32), load32(guest.run, 36), union(guest, 8)]).toEqual([
        ...[KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_EMULATION, 8, 1n],
      ]);
      expect([...guest.run.subarray(48, 49 + code.length)]).toEqual([15, ...code]);
      const event = 0x8000_0000 + (type << 8) + vector;
      expect([32, 40, 48, 56, 64].map((at) => union(guest, at))).toEqual([
        ...[0x400n, error, address, BigInt(event), 0n],
      ]);
      // #UD waits
      expect([...guest.events.subarray(0, 4)]).toEqual([1, 6, 0, 1]);
    },
  );

  test.each([
    ["7.2", "interrupt"],
    ["6.12", "interrupt"],
    ["6.12", "NMI"],
  ])("%s: an %s waits on, and KVM's emulator does the guest's instructions", (kernel, what) => {
    const guest = started("prot32", { profile: svm(kernel) }).code(NOP, ...OUT, HLT, 0xe6, 0x81);
    inHole.idt(guest);
    if (what === "NMI") guest.kernel.ioctl(guest.vcpu, KVM_NMI, 0);
    else interrupt(guest, 0x30);
    // of its HLT nobody hears
    for (const [port, after] of [
      [0x80, 3],
      [0x81, 6],
    ]) {
      guest.enter();
      expect([guest.exitReason, load32(guest.run, 32), guest.register("rip")]).toEqual([
        ...[KVM_EXIT_IO, 0x101 + port * 0x1_0000, BigInt(CODE + after)],
      ]);
      const { events } = guest;
      expect(what === "NMI" ? [events[nmi], events[nmi + 2]] : [events[8], events[9]]).toEqual(
        what === "NMI" ? [1, 1] : [1, 0x30],
      );
    }
  });

  test("pvm shuts down", () => {
    const guest = started("prot32", { profile: defaultProfile }).code(...OUT);
    inHole.idt(guest);
    interrupt(guest, 0x30);
    guest.enter();
    expect(guest.exitReason).toBe(KVM_EXIT_SHUTDOWN);
  });
});

describe("Hyper-V", () => {
  const BASE = 0x4000_0000;
  const RESET = BASE + 3;
  const CRASH_P0 = BASE + 0x100;
  const CRASH_CTL = BASE + 0x105;
  const WRMSR = [0x0f, 0x30];
  const RDMSR = [0x0f, 0x32];
  const VMMCALL = [0x0f, 0x01, 0xd9];
  const withHyperv = (mode: Mode, { shown = true, synic = 0, irqchip = false } = {}): Guest => {
    const guest = started(mode, { profile: svm("6.12"), irqchip: irqchip || synic !== 0 });
    if (synic !== 0)
      expect(guest.kernel.ioctl(guest.vcpu, KVM_ENABLE_CAP, KvmEnableCap.encode({ cap: synic }))).toBe(0);
    if (shown) {
      const leaves = [
        { function: 1, edx: 0x078b_fbff },
        { function: 0x4000_0000, eax: 0x4000_0005 },
        { function: 0x4000_0001, eax: 0x3123_7648 },
        { function: 0x8000_0000, eax: 0x8000_0001 },
        { function: 0x8000_0001, edx: 0x2010_0800 },
      ];
      const bytes = new Uint8Array(KvmCpuid2.size + leaves.length * KvmCpuidEntry2.size);
      bytes.set(KvmCpuid2.encode({ nent: leaves.length }));
      leaves.forEach((leaf, i) => {
        bytes.set(KvmCpuidEntry2.encode(leaf), KvmCpuid2.size + i * KvmCpuidEntry2.size);
      });
      expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_CPUID2, bytes)).toBe(0);
    }
    return guest;
  };
  const writing = (guest: Guest, index: number, value: bigint) => {
    guest.code(...WRMSR, ...OUT);
    guest.registers({ rcx: index, rax: value & 0xffff_ffffn, rdx: value >> 32n });
    guest.enter();
    return guest.exitReason;
  };

  test.each([
    ["a crash", CRASH_CTL, 1n << 63n, KVM_SYSTEM_EVENT_CRASH],
    ["a reset", RESET, 1n, KVM_SYSTEM_EVENT_RESET],
  ])("%s that the guest tells is an exit, once", (_what, index, value, type) => {
    const guest = withHyperv("long");
    guest.run.fill(0xff, 32, 64);
    expect(writing(guest, index, value)).toBe(KVM_EXIT_SYSTEM_EVENT);
    expect([load32(guest.run, 32), load32(guest.run, 36), union(guest, 8)]).toEqual([
      ...[type, 0, 0xffff_ffff_ffff_ffffn],
    ]);
    expect([...head(guest), guest.register("rip")]).toEqual([KVM_EXIT_SYSTEM_EVENT, 0, 0, BigInt(CODE + 2)]);
    guest.enter();
    expect(guest.exitReason).toBe(KVM_EXIT_IO);
  });

  test.each([
    [CRASH_CTL, 0n],
    [CRASH_CTL, 1n << 62n],
    [RESET, 0n],
    [RESET, 2n],
    [CRASH_P0, 0xabcdn],
  ])("%i: %i is none", (index, value) => {
    const guest = withHyperv("long");
    expect(writing(guest, index, value)).toBe(KVM_EXIT_IO);
    expect(getMsr(guest, index)).toBe(index === CRASH_P0 ? value : 0n);
  });

  test("a guest whose CPUID does not show it gets #GP", () => {
    const guest = withHyperv("long", { shown: false });
    expect(writing(guest, RESET, 1n)).toBe(KVM_EXIT_HLT);
    expect(guest.register("rip")).toBe(0x41a1n);
  });

  test("user space is told INVAL of a write that is refused", () => {
    const guest = withHyperv("long", { shown: false });
    enable(guest, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_INVAL);
    expect(writing(guest, RESET, 1n)).toBe(KVM_EXIT_X86_WRMSR);
  });

  test("user space writes the parameters, the control and a reset; a reset waits while nobody enters the guest", () => {
    const guest = withHyperv("long", { shown: false }).code(...OUT);
    for (let i = 0; i < 5; i++) expect(setMsr(guest, CRASH_P0 + i, BigInt(i) << 60n)).toBe(1);
    for (let i = 0; i < 5; i++) expect(getMsr(guest, CRASH_P0 + i)).toBe(BigInt(i) << 60n);
    expect([setMsr(guest, CRASH_CTL, 0xffff_ffff_ffff_ffffn), getMsr(guest, CRASH_CTL)]).toEqual([
      ...[1, 1n << 63n],
    ]);
    expect(setMsr(guest, RESET, 1n)).toBe(1);
    guest.run[1] = 1;
    expect(guest.enter()).toBe(-4);
    guest.run[1] = 0;
    guest.enter();
    expect([guest.exitReason, load32(guest.run, 32)]).toEqual([
      KVM_EXIT_SYSTEM_EVENT,
      KVM_SYSTEM_EVENT_RESET,
    ]);
    guest.enter();
    expect(guest.exitReason).toBe(KVM_EXIT_IO);
  });

  test("pvm has none of it", () => {
    const guest = started("long", { profile: defaultProfile });
    expect(setMsr(guest, RESET, 1n)).toBe(0);
    expect(writing(guest, RESET, 1n)).toBe(KVM_EXIT_HLT);
  });

  test.each([
    [KVM_CAP_HYPERV_SYNIC, 0],
    [KVM_CAP_HYPERV_SYNIC2, 0x77],
  ])(
    "SynIC by capability %i: what the guest writes is an exit, and its pages start as zeros or not",
    (synic, byte) => {
      const guest = withHyperv("long", { synic });
      expect(getMsr(guest, BASE + 0x80)).toBe(1n);
      guest.memory.fill(0x77, 0x9000, 0xc000);
      const told = (index: number, control: bigint, events: bigint, messages: bigint) =>
        expect([
          load32(guest.run, 32),
          load32(guest.run, 40),
          ...[16, 24, 32].map((at) => union(guest, at)),
        ]).toEqual([...[KVM_EXIT_HYPERV_SYNIC, BASE + index], ...[control, events, messages]]);
      expect(writing(guest, BASE + 0x82, 0x9001n)).toBe(KVM_EXIT_HYPERV);
      told(0x82, 1n, 0x9001n, 0n);
      expect(writing(guest, BASE + 0x83, 0xa001n)).toBe(KVM_EXIT_HYPERV);
      told(0x83, 1n, 0x9001n, 0xa001n);
      expect(writing(guest, BASE + 0x80, 0n)).toBe(KVM_EXIT_HYPERV);
      told(0x80, 0n, 0x9001n, 0xa001n);
      expect([0x8fff, 0x9000, 0xafff, 0xb000].map((at) => guest.memory[at])).toEqual([0, byte, byte, 0x77]);
      // a page that is off, the end of messages and interrupts are KVM's own
      expect(writing(guest, BASE + 0x84, 0n)).toBe(KVM_EXIT_IO);
      expect(writing(guest, BASE + 0x90, 0x30n)).toBe(KVM_EXIT_IO);
      expect(getMsr(guest, BASE + 0x90)).toBe(0x30n);
      expect([setMsr(guest, BASE + 0x80, 1n), setMsr(guest, BASE + 0x82, 0xb001n)]).toEqual([1, 1]);
      guest.code(...OUT);
      guest.registers({});
      guest.enter();
      expect([guest.exitReason, guest.memory[0xb000]]).toEqual([KVM_EXIT_IO, 0x77]);
    },
  );

  test("a SynIC that is not there: user space reads what it would start with, and may write 0", () => {
    const guest = withHyperv("long", { irqchip: true });
    const values = [0x80, 0x81, 0x82, 0x83, 0x84, 0x90].map((at) => [
      getMsr(guest, BASE + at),
      setMsr(guest, BASE + at, 1n),
      setMsr(guest, BASE + at, 0n),
    ]);
    expect(values).toEqual([0n, 1n, 0n, 0n, 0n, 0x1_0000n].map((value) => [value, 0, 1]));
  });

  test.each(["long", "prot32"] as const)("%s: a message is posted by user space", (mode) => {
    const guest = withHyperv(mode, { synic: KVM_CAP_HYPERV_SYNIC });
    setMsr(guest, BASE, 1n);
    guest.code(...VMMCALL, ...OUT);
    if (mode === "long") guest.registers({ rcx: 0x5c, rdx: 0x1_0000_9000n, r8: 0x2_0000_a000n });
    else guest.registers({ rax: 0x5c, rdx: 0, rbx: 1, rcx: 0x9000, rdi: 2, rsi: 0xa000 });
    guest.run.fill(0xff, 32, 88);
    guest.enter();
    expect([guest.exitReason, load32(guest.run, 32), guest.register("rip")]).toEqual([
      ...[KVM_EXIT_HYPERV, KVM_EXIT_HYPERV_HCALL, BigInt(CODE)],
    ]);
    expect([4, 8, 16, 24, 32].map((at) => (at === 4 ? load32(guest.run, 36) : union(guest, at)))).toEqual([
      ...[0xffff_ffff, 0x5cn, 0xffff_ffff_ffff_ffffn, 0x1_0000_9000n, 0x2_0000_a000n],
    ]);
    store64(guest.run, 48, 0x1_0002_0003n);
    guest.enter();
    expect([guest.exitReason, guest.register("rax"), guest.register("rip")]).toEqual([
      ...[KVM_EXIT_IO, mode === "long" ? 0x1_0002_0003n : 0x2_0003n, BigInt(CODE + VMMCALL.length)],
    ]);
    expect(guest.register("rdx")).toBe(mode === "long" ? 0x1_0000_9000n : 1n);
  });

  test.each([
    ["post a message", 0x5cn, 0x9000n, 3n],
    ["signal an unknown connection", 0x1_005dn, 0x124n, 3n],
    ["signal one", 0x1_005dn, 0x123n, 0n],
    ["signal one, by memory", 0x5dn, 0x9000n, 0n],
    ["by memory that is not aligned", 0x5dn, 0x9004n, 4n],
    ["by no memory", 0x5dn, BigInt(HOLE), 4n],
    ["flags of a connection", 0x1_005dn, 0x1_0000_0123n, 3n],
    ["reserved bits of a connection", 0x1_005dn, 0x100_0123n, 3n],
    ["with repetitions", 0x1_0001_005dn, 0x123n, 3n],
    ["with a head", 0x3_005dn, 0x123n, 3n],
    ["reserved bits", 0x801_005dn, 0x123n, 3n],
    ["spin", 8n, 0n, 0n],
    ["nobody knows", 0x77n, 0n, 2n],
  ])("without SynIC KVM answers: %s", (_what, rcx, rdx, result) => {
    const guest = withHyperv("long", { irqchip: true });
    const eventfd = guest.kernel.eventfd2(0, 0x800);
    const assign = KvmHypervEventfd.encode({ conn_id: 0x123, fd: eventfd });
    expect(guest.kernel.ioctl(guest.vm, KVM_HYPERV_EVENTFD, assign)).toBe(0);
    setMsr(guest, BASE, 1n);
    store32(guest.memory, 0x9000, 0x123);
    guest.code(...VMMCALL, ...OUT);
    guest.registers({ rcx, rdx, r8: 0xa000 });
    guest.enter();
    expect([guest.exitReason, guest.register("rax")]).toEqual([KVM_EXIT_IO, result]);
    const count = new Uint8Array(8);
    const signalled = result === 0n && rcx !== 8n;
    expect([guest.kernel.read(eventfd, count, 8), count[0]]).toEqual(signalled ? [8, 1] : [-11, 0]);
  });

  test("the guest's name and its page of hypercalls", () => {
    const guest = withHyperv("long");
    const page = () => [getMsr(guest, BASE + 1), [...guest.memory.subarray(0xc000, 0xc005)]];
    // without a name there is none
    expect([setMsr(guest, BASE + 1, 0xc001n), page()]).toEqual([1, [0n, [0, 0, 0, 0, 0]]]);
    setMsr(guest, BASE, 0x77n);
    expect([setMsr(guest, BASE + 1, 0xc000n), page()]).toEqual([1, [0xc000n, [0, 0, 0, 0, 0]]]);
    expect([setMsr(guest, BASE + 1, 0xc001n), page()]).toEqual([1, [0xc001n, [...VMMCALL, 0xc3, 0]]]);
    expect([setMsr(guest, BASE + 1, BigInt(HOLE + 1)), page()]).toEqual([
      0,
      [0xc001n, [...VMMCALL, 0xc3, 0]],
    ]);
    setMsr(guest, BASE, 0n);
    expect(getMsr(guest, BASE + 1)).toBe(0xc000n);
  });

  test.each([
    ["CPUID does not show it", false, 1n],
    ["the guest has no name", true, 0n],
  ])("hypercalls are KVM's where %s", (_why, shown, name) => {
    const guest = withHyperv("long", { shown });
    setMsr(guest, BASE, name);
    guest.code(...VMMCALL, ...OUT);
    guest.registers({ rax: 0x55, rcx: 0x5c });
    guest.enter();
    expect([guest.exitReason, BigInt.asIntN(64, guest.register("rax"))]).toEqual([KVM_EXIT_IO, -1000n]);
  });

  test("numbers that a guest reads and may not write", () => {
    const guest = withHyperv("long");
    expect([getMsr(guest, BASE + 2), getMsr(guest, BASE + 0x23)]).toEqual([0n, 1_000_000_000n]);
    guest.code(...RDMSR, ...OUT);
    guest.registers({ rcx: BASE + 2, rax: 5 });
    guest.enter();
    expect([guest.exitReason, guest.register("rax")]).toEqual([KVM_EXIT_IO, 0n]);
    expect(writing(guest, BASE + 2, 1n)).toBe(KVM_EXIT_HLT);
    expect([setMsr(guest, BASE + 2, 7n), getMsr(guest, BASE + 2)]).toEqual([1, 7n]);
    expect(setMsr(guest, BASE + 2, 1n << 31n)).toBe(0);
  });
});

describe("guest memory files", () => {
  /** mov [rbx], al; mov cl, [rbx + 1]: a guest of prot32 takes them for EBX */
  const CODE_OF_GUEST = [0x88, 0x03, 0x8a, 0x4b, 0x01, HLT];
  const MMAP = 1n;
  const INIT_SHARED = 2n;

  /** Two pages at HOLE, in a file and in memory of the program's that has 0x66 in its second byte. */
  const withFile = (profile: Profile, flags: bigint) => {
    const process = new Machine(profile).process();
    const guest = new Guest(process, "prot32").code(...CODE_OF_GUEST);
    const create = KvmCreateGuestMemfd.encode({ size: 0x3000n, flags });
    const file = process.ioctl(guest.vm, KVM_CREATE_GUEST_MEMFD, create);
    const program = process.mmap(0, 0x2000, 3, 0x22, -1, 0);
    process.store(program + 1, 1, 0x66);
    const region = KvmUserspaceMemoryRegion2.encode({
      slot: 1,
      flags: KVM_MEM_GUEST_MEMFD,
      guest_phys_addr: BigInt(HOLE),
      memory_size: 0x2000n,
      userspace_addr: BigInt(program),
      guest_memfd_offset: 0x1000n,
      guest_memfd: file,
    });
    expect(process.ioctl(guest.vm, KVM_SET_USER_MEMORY_REGION2, region)).toBe(0);
    guest.registers({ rbx: HOLE, rax: 0x5a });
    return { process, guest, file, program };
  };

  test("one that can be mapped holds the guest's memory, and the program sees it", () => {
    const { process, guest, file, program } = withFile(svm("7.2"), MMAP | INIT_SHARED);
    const mapped = process.mmap(0, 0x3000, 3, 1, file, 0);
    process.store(mapped + 0x1001, 1, 0x77);
    guest.enter();
    expect([guest.exitReason, guest.register("rcx")]).toEqual([KVM_EXIT_HLT, 0x77n]);
    expect([process.load(mapped + 0x1000, 1), process.load(program, 1)]).toEqual([0x5a, 0]);
  });

  test("without GUEST_MEMFD_FLAG_INIT_SHARED a program that touches it takes SIGBUS, the guest does not", () => {
    const { process, guest, file } = withFile(svm("7.2"), MMAP);
    const mapped = process.mmap(0, 0x3000, 3, 1, file, 0);
    expect([process.store(mapped + 0x1001, 1, 0x77), process.load(mapped, 1)]).toEqual(["SIGBUS", "SIGBUS"]);
    guest.enter();
    expect([guest.exitReason, guest.register("rcx")]).toEqual([KVM_EXIT_HLT, 0n]);
  });

  test.each([
    ["a file that cannot be mapped", svm("7.2"), 0n],
    ["pvm", defaultProfile, MMAP | INIT_SHARED],
  ])("%s: the guest has the program's memory, file or not", (_what, profile, flags) => {
    const { process, guest, file, program } = withFile(profile, flags);
    process.close(file);
    guest.enter();
    expect([guest.exitReason, guest.register("rcx"), process.load(program, 1)]).toEqual([
      ...[KVM_EXIT_HLT, 0x66n, 0x5a],
    ]);
  });

  const gone = () => {
    const all = withFile(svm("7.2"), MMAP | INIT_SHARED);
    all.process.close(all.file);
    all.guest.run.fill(0xff, 32, 64);
    return all.guest;
  };
  const told = (guest: Guest) => [guest.exitReason, ...[0, 8, 16, 24].map((at) => union(guest, at))];
  const fault = (page: number) => [
    ...[KVM_EXIT_MEMORY_FAULT, 0n, BigInt(HOLE + page), 0x1000n, 0xffff_ffff_ffff_ffffn],
  ];

  test.each([
    ["a write", {}, 0, CODE],
    ["a read", { rip: CODE + 2, rbx: HOLE + 0x1000 }, 0x1000, CODE + 2],
    ["code", { rip: HOLE + 0x1003 }, 0x1000, HOLE + 0x1003],
  ])("once it is gone: %s is EFAULT and MEMORY_FAULT, each time", (_what, registers, page, rip) => {
    const guest = gone();
    guest.registers({ rbx: HOLE, ...registers });
    for (let i = 0; i < 2; i++) {
      expect(guest.enter()).toBe(-14);
      expect([...told(guest), guest.register("rip")]).toEqual([...fault(page), BigInt(rip)]);
    }
  });

  test("once it is gone: an interrupt whose stack was there waits on", () => {
    const guest = gone();
    guest.registers({ rflags: 0x202, rsp: HOLE + 0x800 });
    interrupt(guest, 0x30);
    expect([guest.enter(), ...told(guest)]).toEqual([-14, ...fault(0)]);
    expect([guest.events[8], guest.events[9], guest.register("rip")]).toEqual([1, 0x30, BigInt(CODE)]);
  });
});

test("an instruction that waits for a device has its operands: registers that are set meanwhile are not among them", () => {
  // add [rbx], cl
  const guest = started("prot32").code(0x00, 0x0b, HLT);
  guest.registers({ rbx: HOLE, rcx: 0x66 });
  guest.enter();
  expect([guest.exitReason, guest.run[52]]).toEqual([KVM_EXIT_MMIO, 0]);
  guest.run[40] = 0xee;
  guest.registers({ rbx: HOLE + 0x1000, rcx: 1 });
  guest.enter();
  expect([guest.exitReason, guest.run[52], union(guest, 0), guest.run[40]]).toEqual([
    ...[KVM_EXIT_MMIO, 1, BigInt(HOLE), 0x54],
  ]);
  expect([guest.register("rbx"), guest.register("rcx")]).toEqual([BigInt(HOLE + 0x1000), 1n]);
});

describe("Xen", () => {
  const VMMCALL = [0x0f, 0x01, 0xd9];
  const MSR = 0x4000_0200;
  const WRMSR = [0x0f, 0x30];
  const configured = (mode: Mode, { kernel = "6.12", flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL } = {}) => {
    const guest = started(mode, { profile: svm(kernel) });
    const config = KvmXenHvmConfig.encode({ flags, msr: MSR });
    expect(guest.kernel.ioctl(guest.vm, KVM_XEN_HVM_CONFIG, config)).toBe(0);
    return guest;
  };
  const asked = {
    ...{ rbx: 0x1_0000_0011n, rcx: 0x22, rdx: 0x33, rsi: 0x44, rdi: 0x55, rbp: 0x66 },
    ...{ r8: 0x88, r9: 0x99, r10: 0xaa },
  };

  test.each([
    ["long", 1, [0x55n, 0x44n, 0x33n, 0xaan, 0x88n, 0x99n]],
    ["prot32", 0, [0x11n, 0x22n, 0x33n, 0x44n, 0x55n, 0x66n]],
    ["real", 0, [0x11n, 0x22n, 0x33n, 0x44n, 0x55n, 0x66n]],
  ] as const)("%s: a hypercall is an exit, and RAX its result", (mode, long, parameters) => {
    const guest = configured(mode).code(...VMMCALL, ...OUT);
    guest.registers({ ...asked, rax: 0x1_0000_0002n });
    guest.run.fill(0xff, 32, 120);
    guest.enter();
    const input = mode === "long" ? 0x1_0000_0002n : 2n;
    expect([guest.exitReason, ...[0, 4, 8, 12].map((at) => load32(guest.run, 32 + at))]).toEqual([
      ...[KVM_EXIT_XEN, KVM_EXIT_XEN_HCALL, 0xffff_ffff],
      ...[long, 0],
    ]);
    expect([16, 24, 32, 40, 48, 56, 64, 72].map((at) => union(guest, at))).toEqual([
      ...[input, 0xffff_ffff_ffff_ffffn, ...parameters],
    ]);
    store64(guest.run, 56, 0x1_2345_6789n);
    guest.enter();
    expect([guest.exitReason, guest.register("rax"), load32(guest.run, 32)]).toEqual([
      ...[KVM_EXIT_IO, 0x1_2345_6789n, 0x80_0101],
    ]);
  });

  test("where RIP was moved meanwhile there is no result", () => {
    const guest = configured("long").code(...VMMCALL, ...OUT);
    guest.registers({ rax: 2 });
    guest.enter();
    guest.registers({ rax: 5, rip: CODE + 3 });
    store64(guest.run, 56, 0x77n);
    guest.enter();
    expect([guest.exitReason, guest.register("rax")]).toEqual([KVM_EXIT_IO, 5n]);
  });

  test("without KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL hypercalls are KVM's", () => {
    const guest = configured("long", { flags: 0 }).code(...VMMCALL, ...OUT);
    guest.registers({ rax: 2 });
    guest.enter();
    expect([guest.exitReason, BigInt.asIntN(64, guest.register("rax"))]).toEqual([KVM_EXIT_IO, -1000n]);
  });

  const stub = (guest: Guest, at: number) => [...guest.memory.subarray(at, at + 32)];
  const made = (number: number) => [0xb8, number, 0, 0, 0, ...VMMCALL, 0xc3, ...new Array(23).fill(0xcc)];

  test.each([
    ["6.12", 1],
    ["7.2", 0],
  ] as const)("%s: the MSR makes a page of hypercalls; for user space up to 6.14", (kernel, forUser) => {
    const guest = configured("prot32", { kernel });
    expect(setMsr(guest, MSR, 0x9000n)).toBe(forUser);
    const writing = (value: number) => {
      guest.code(...WRMSR, ...OUT);
      guest.registers({ rcx: MSR, rax: value });
      guest.enter();
      return guest.exitReason;
    };
    expect(writing(0xa000)).toBe(KVM_EXIT_IO);
    expect([0x9000, 0x9000 + 127 * 32].map((at) => stub(guest, at))).toEqual(
      forUser === 1 ? [made(0), made(127)] : [new Array(32).fill(0), new Array(32).fill(0)],
    );
    expect([0xa000, 0xa000 + 3 * 32, 0xa000 + 127 * 32].map((at) => stub(guest, at))).toEqual([
      ...[made(0), made(3), made(127)],
    ]);
    // only the first page, and only of memory
    expect([writing(0xb001), writing(HOLE)]).toEqual([KVM_EXIT_HLT, KVM_EXIT_HLT]);
    expect(getMsr(guest, MSR)).toBeUndefined();
  });

  test.each([
    ["prot32", 0, 1, 0x11],
    ["long", 1, 2, 0x33],
  ] as const)("%s: or a page of the program's", (mode, number, pages, byte) => {
    const guest = configured(mode, { flags: 0 });
    const blobs = guest.kernel.mmap(0, 0x3000, 3, 0x22, -1, 0);
    guest.kernel.memory(blobs, 0x3000)!.forEach((_byte, at, all) => {
      all[at] = [0x11, 0x22, 0x33][at >> 12];
    });
    const config = KvmXenHvmConfig.encode({
      ...{ msr: MSR, blob_addr_32: BigInt(blobs), blob_size_32: 1 },
      ...{ blob_addr_64: BigInt(blobs) + 0x1000n, blob_size_64: 2 },
    });
    expect(guest.kernel.ioctl(guest.vm, KVM_XEN_HVM_CONFIG, config)).toBe(0);
    expect([setMsr(guest, MSR, BigInt(0x9000 + number)), setMsr(guest, MSR, BigInt(0xa000 + pages))]).toEqual(
      [...[1, 0]],
    );
    expect([0x8fff, 0x9000, 0x9fff, 0xa000].map((at) => guest.memory[at])).toEqual([0, byte, byte, 0]);
  });
});
