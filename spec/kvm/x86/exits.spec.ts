/**
 * Exits that an option of user space brings: task priority, hypercalls, MSRs; those of guests that cannot go on:
 * states that are not entered, events that meet no memory; and the clock of a VM that runs.
 */
import { describe, expect, test } from "vitest";
import {
  KVM_CAP_EXIT_HYPERCALL,
  KVM_CAP_X86_USER_SPACE_MSR,
  KVM_CREATE_GUEST_MEMFD,
  KVM_CREATE_VCPU,
  KVM_EXIT_FAIL_ENTRY,
  KVM_EXIT_HLT,
  KVM_EXIT_HYPERCALL,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_IO,
  KVM_EXIT_IRQ_WINDOW_OPEN,
  KVM_EXIT_MEMORY_FAULT,
  KVM_EXIT_MMIO,
  KVM_EXIT_SET_TPR,
  KVM_EXIT_SHUTDOWN,
  KVM_EXIT_TPR_ACCESS,
  KVM_EXIT_X86_RDMSR,
  KVM_EXIT_X86_WRMSR,
  KVM_INTERNAL_ERROR_DELIVERY_EV,
  KVM_INTERNAL_ERROR_EMULATION,
  KVM_MEM_GUEST_MEMFD,
  KVM_MSR_EXIT_REASON_FILTER,
  KVM_MSR_EXIT_REASON_INVAL,
  KVM_MSR_EXIT_REASON_UNKNOWN,
  KVM_MSR_EXIT_REASON_VALID_MASK,
  KVM_SET_USER_MEMORY_REGION2,
  KvmCreateGuestMemfd,
  KvmUserspaceMemoryRegion2,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_CLOCK,
  KVM_MSR_FILTER_DEFAULT_DENY,
  KVM_NMI,
  KVM_SET_CLOCK,
  KVM_SET_VCPU_EVENTS,
  KVM_TPR_ACCESS_REPORTING,
  KVM_X86_SET_MSR_FILTER,
  KvmClockData,
  KvmSregs,
  KvmVcpuEvents,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, load64, store32, store64 } from "../../../lib/abi/struct.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import type { Profile } from "../../../lib/machine/profile.ts";
import { changeSregs, enable, HLT, HOLE, head, interrupt, NOP, OUT, started, svm, union } from "./exiting.ts";
import { CODE, Guest, type Mode } from "./guest.ts";
import { mainline } from "./vm.ts";

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
