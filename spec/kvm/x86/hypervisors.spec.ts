/** Guests that believe in Hyper-V or Xen: KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_HYPERV, KVM_EXIT_XEN, and what KVM answers itself. */
import { describe, expect, test } from "vitest";
import {
  KVM_CAP_HYPERV_SYNIC,
  KVM_CAP_HYPERV_SYNIC2,
  KVM_CAP_X86_USER_SPACE_MSR,
  KVM_ENABLE_CAP,
  KVM_EXIT_HLT,
  KVM_EXIT_HYPERV,
  KVM_EXIT_HYPERV_HCALL,
  KVM_EXIT_HYPERV_SYNIC,
  KVM_EXIT_IO,
  KVM_EXIT_SYSTEM_EVENT,
  KVM_EXIT_X86_WRMSR,
  KVM_EXIT_XEN,
  KVM_EXIT_XEN_HCALL,
  KVM_MSR_EXIT_REASON_INVAL,
  KVM_SYSTEM_EVENT_CRASH,
  KVM_SYSTEM_EVENT_RESET,
  KvmEnableCap,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_HYPERV_EVENTFD,
  KVM_SET_CPUID2,
  KVM_XEN_HVM_CONFIG,
  KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL,
  KvmCpuid2,
  KvmCpuidEntry2,
  KvmHypervEventfd,
  KvmXenHvmConfig,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, store32, store64 } from "../../../lib/abi/struct.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { enable, getMsr, HOLE, head, OUT, setMsr, started, svm, union } from "./exiting.ts";
import { CODE, type Guest, type Mode } from "./guest.ts";

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
