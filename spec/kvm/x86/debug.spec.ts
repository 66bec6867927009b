/** Debugging from outside (KVM_SET_GUEST_DEBUG) and the guest's own debug registers, where a processor runs the guest (svm) and where pvm does. */
import { describe, expect, test } from "vitest";
import { KVM_CREATE_IRQCHIP, KVM_EXIT_DEBUG, KVM_EXIT_HLT, KVM_EXIT_IO } from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_DEBUGREGS,
  KVM_SET_DEBUGREGS,
  KVM_SET_GUEST_DEBUG,
  KvmDebugregs,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, load64, store32, store64 } from "../../../lib/abi/struct.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import type { Profile } from "../../../lib/machine/profile.ts";
import { CODE, Guest, type Mode } from "./guest.ts";
import { mainline } from "./vm.ts";

const ENABLE = 1;
const SINGLESTEP = 2;
const USE_SW_BP = 0x10000;
const USE_HW_BP = 0x20000;
const BLOCKIRQ = 0x100000;
const NOP = 0x90;
const HLT = 0xf4;
const INT3 = 0xcc;
const DR6 = 0xffff_0ff0n;
const BS = 0x4000n;
const handlerAt = (vector: number) => BigInt(0x4000 + 32 * vector);
/** mov [address], eax */
const store = (address: number) => [0xa3, address & 0xff, (address >> 8) & 0xff, 0, 0];
/** mov eax, [address] */
const load = (address: number) => [0xa1, address & 0xff, (address >> 8) & 0xff, 0, 0];

function started(profile: Profile, mode: Mode = "prot32", irqchip = false): Guest {
  const process = new Machine(profile).process();
  return new Guest(process, mode, (vm) => irqchip && process.ioctl(vm, KVM_CREATE_IRQCHIP, 0));
}

/** DR0 to DR3, DR7 */
type Registers = readonly [number, number, number, number, number];

function debug(guest: Guest, control: number, [a, b, c, d, dr7]: Registers = [0, 0, 0, 0, 0]): void {
  const bytes = new Uint8Array(72);
  store32(bytes, 0, control);
  [a, b, c, d].forEach((address, i) => {
    store64(bytes, 8 + 8 * i, address);
  });
  store64(bytes, 8 + 56, dr7);
  expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_GUEST_DEBUG, bytes)).toBe(0);
}

function guestRegisters(guest: Guest, [a, b, c, d, dr7]: Registers): void {
  const db = [a, b, c, d].map(BigInt);
  const bytes = KvmDebugregs.encode({ db, dr6: DR6, dr7: BigInt(dr7) });
  expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_DEBUGREGS, bytes)).toBe(0);
}

const dr6Of = (guest: Guest): bigint =>
  load64(guest.get(KVM_GET_DEBUGREGS.number, KvmDebugregs.size), KvmDebugregs.offsetOf.dr6);

/** exception, linear address, DR6, DR7 of KVM_EXIT_DEBUG */
const exit = ({ run }: Guest) => [load32(run, 32), load64(run, 40), load64(run, 48), load64(run, 56)];

/** Enters until something else than an exit to a debugger: the addresses of those. */
function stops(guest: Guest): bigint[] {
  const seen = [];
  for (guest.enter(); guest.exitReason === KVM_EXIT_DEBUG && seen.length < 20; guest.enter())
    seen.push(load64(guest.run, 40));
  return seen;
}

const both = [
  ["svm", mainline],
  ["pvm", defaultProfile],
] as const;

describe("single step", () => {
  test.each(both)("%s: every instruction is an exit, and the guest sees nothing of it", (name, profile) => {
    const guest = started(profile);
    guest.code(NOP, 0xb0, 7, NOP);
    debug(guest, ENABLE | SINGLESTEP);
    for (const at of [1, 3, 4]) {
      expect(guest.enter()).toBe(0);
      // KVM's own step does not tell DR7
      expect(exit(guest)).toEqual([1, BigInt(CODE + at), DR6 | BS, name === "svm" ? 0x400n : 0n]);
    }
    expect([guest.register("rflags"), dr6Of(guest)]).toEqual([2n, DR6]);
  });

  test("an instruction that waited for user space stops when it is done, IN on both", () => {
    for (const [, profile] of both) {
      const guest = started(profile);
      guest.code(0xe4, 0x80, NOP, NOP);
      debug(guest, ENABLE | SINGLESTEP);
      guest.enter();
      expect(guest.exitReason).toBe(KVM_EXIT_IO);
      guest.enter();
      expect([guest.exitReason, load64(guest.run, 40)]).toEqual([KVM_EXIT_DEBUG, BigInt(CODE + 2)]);
    }
  });

  test("the step of an OUT is lost where KVM's emulator makes it", () => {
    const after = (profile: Profile) => {
      const guest = started(profile);
      guest.code(0xe6, 0x80, NOP, NOP);
      debug(guest, ENABLE | SINGLESTEP);
      guest.enter();
      guest.enter();
      return load64(guest.run, 40);
    };
    expect([after(mainline), after(defaultProfile)]).toEqual([BigInt(CODE + 2), BigInt(CODE + 3)]);
  });

  test("HLT: an exit of its own on svm; on pvm a step, and the halt comes after the next instruction", () => {
    const svm = started(mainline);
    svm.code(HLT, NOP, NOP, NOP);
    debug(svm, ENABLE | SINGLESTEP);
    svm.enter();
    expect(svm.exitReason).toBe(KVM_EXIT_HLT);
    const pvm = started(defaultProfile);
    pvm.code(HLT, NOP, NOP, NOP);
    debug(pvm, ENABLE | SINGLESTEP);
    pvm.enter();
    expect(pvm.exitReason).toBe(KVM_EXIT_DEBUG);
    debug(pvm, 0);
    pvm.enter();
    expect([pvm.exitReason, pvm.register("rip")]).toEqual([KVM_EXIT_HLT, BigInt(CODE + 2)]);
  });
});

describe("INT3", () => {
  test("svm: an exit at the instruction, again and again; without a debugger the guest's", () => {
    const guest = started(mainline);
    guest.code(NOP, INT3);
    debug(guest, ENABLE | USE_SW_BP);
    for (let i = 0; i < 2; i++) {
      guest.enter();
      expect([guest.exitReason, ...exit(guest)]).toEqual([KVM_EXIT_DEBUG, 3, BigInt(CODE + 1), 0n, 0n]);
    }
    debug(guest, 0);
    guest.enter();
    expect([guest.exitReason, guest.register("rip")]).toEqual([KVM_EXIT_HLT, handlerAt(3) + 1n]);
  });

  test("svm: INT 3 in two bytes is the guest's", () => {
    const guest = started(mainline);
    guest.code(0xcd, 3);
    debug(guest, ENABLE | USE_SW_BP);
    guest.enter();
    expect(guest.register("rip")).toBe(handlerAt(3) + 1n);
  });
});

describe("breakpoints of a debugger", () => {
  test.each(both)("%s: on code, before the instruction, each that is there", (name, profile) => {
    const guest = started(profile);
    guest.code(NOP, NOP, NOP, HLT);
    debug(guest, ENABLE | USE_HW_BP, [CODE + 2, 0, CODE + 2, CODE + 1, 0x423]);
    for (let i = 0; i < 2; i++) {
      guest.enter();
      // without RF the same one hits again
      expect(exit(guest)).toEqual([1, BigInt(CODE + 2), DR6 | 5n, name === "svm" ? 0x423n : 0n]);
    }
    expect(guest.register("rip")).toBe(BigInt(CODE + 2));
  });

  test("RF lets an instruction pass on svm, not on pvm", () => {
    for (const [profile, reason] of [
      [mainline, KVM_EXIT_HLT],
      [defaultProfile, KVM_EXIT_DEBUG],
    ] as const) {
      const guest = started(profile);
      guest.code(NOP, HLT);
      guest.registers({ rflags: 0x10002 });
      debug(guest, ENABLE | USE_HW_BP, [CODE, 0, 0, 0, 1]);
      guest.enter();
      expect(guest.exitReason).toBe(reason);
    }
  });

  test.each([
    ["a write", 1, store(0x6000), true],
    ["a read by a breakpoint on writes", 1, load(0x6000), false],
    ["a read", 3, load(0x6000), true],
    ["a write by one on both", 3, store(0x6000), true],
    ["a wide access that begins before", 1, store(0x5ffd), true],
    ["one that ends before", 1, store(0x5ffc), false],
    ["one behind", 1, store(0x6001), false],
  ])("svm: on data, after the instruction: %s", (_what, kind, code, hits) => {
    const guest = started(mainline);
    // a first access to the page, so that it could be cached
    guest.code(...store(0x6800), ...load(0x6800), ...code, NOP, HLT);
    debug(guest, ENABLE | USE_HW_BP, [0, 0x6000, 0, 0, 0x404 | (kind << 20)]);
    expect(stops(guest)).toEqual(hits ? [BigInt(CODE + 15)] : []);
    expect(guest.exitReason).toBe(KVM_EXIT_HLT);
    if (hits) expect(load64(guest.run, 48)).toBe(DR6 | 2n);
  });

  test.each([
    [0, 1],
    [1, 2],
    [3, 4],
    [2, 8],
  ])("svm: length %i is %i bytes, from a multiple of it on", (code, length) => {
    for (let at = 0x5ff8; at < 0x6018; at++) {
      const guest = started(mainline);
      guest.code(0xa2, at & 0xff, at >> 8, 0, 0, NOP, HLT); // mov [at], al
      debug(guest, ENABLE | USE_HW_BP, [0x600b, 0, 0, 0, 0x401 | (1 << 16) | (code << 18)]);
      const start = 0x600b - (0x600b % length);
      expect(stops(guest).length).toBe(at >= start && at < start + length ? 1 : 0);
    }
  });

  test("svm: a step and a breakpoint on data are one exit", () => {
    const guest = started(mainline);
    guest.code(...store(0x6000), NOP);
    debug(guest, ENABLE | SINGLESTEP | USE_HW_BP, [0x6000, 0, 0, 0, 0x10401]);
    guest.enter();
    expect(exit(guest)).toEqual([1, BigInt(CODE + 5), DR6 | BS | 1n, 0x10401n]);
  });

  test("svm: the guest's own breakpoints are forgotten meanwhile", () => {
    const guest = started(mainline);
    guest.code(NOP, NOP, HLT);
    guestRegisters(guest, [CODE + 1, 0, 0, 0, 0x401]);
    debug(guest, ENABLE | USE_HW_BP);
    guest.enter();
    expect([guest.exitReason, guest.register("rip")]).toEqual([KVM_EXIT_HLT, BigInt(CODE + 3)]);
  });
});

describe("the guest's own breakpoints", () => {
  test.each(both)("%s: on code: #DB, DR6 tells which", (_name, profile) => {
    const guest = started(profile);
    guest.code(NOP, NOP, HLT);
    guestRegisters(guest, [CODE + 1, 0, 0, 0, 0x401]);
    guest.enter();
    expect([guest.exitReason, guest.register("rip"), dr6Of(guest)]).toEqual([
      KVM_EXIT_HLT,
      handlerAt(1) + 1n,
      DR6 | 1n,
    ]);
    // flags, CS, and the address of the instruction that was not run
    expect(load32(guest.memory, 0x8000 - 12)).toBe(CODE + 1);
  });

  test("svm: on data: #DB behind the instruction; on pvm nothing", () => {
    for (const [profile, rip] of [
      [mainline, handlerAt(1) + 1n],
      [defaultProfile, BigInt(CODE + 7)],
    ] as const) {
      const guest = started(profile);
      guest.code(...store(0x6000), NOP, HLT);
      guestRegisters(guest, [0x6000, 0, 0, 0, 0x10401]);
      guest.enter();
      expect(guest.register("rip")).toBe(rip);
    }
  });

  test("svm: one that the guest sets itself counts from then on", () => {
    const guest = started(mainline);
    // mov [0x6000], eax; mov ebx, 0x6000; mov dr0, ebx; mov ebx, 0x10401; mov dr7, ebx; mov [0x6000], eax
    guest.code(
      ...store(0x6000),
      ...[0xbb, 0x00, 0x60, 0, 0, 0x0f, 0x23, 0xc3, 0xbb, 0x01, 0x04, 0x01, 0, 0x0f, 0x23, 0xfb],
      ...store(0x6000),
      NOP,
      HLT,
    );
    guest.enter();
    expect(guest.register("rip")).toBe(handlerAt(1) + 1n);
    expect(load32(guest.memory, 0x8000 - 12)).toBe(CODE + 26);
  });

  test("a repeated instruction is trapped after a round on svm, after all of them on pvm", () => {
    for (const [profile, rcx] of [
      [mainline, 2n],
      [defaultProfile, 0n],
    ] as const) {
      const guest = started(profile);
      guest.code(0xf3, 0xaa, NOP, HLT);
      guest.registers({ rflags: 0x102, rcx: 3, rdi: 0x6000 });
      guest.enter();
      expect([guest.register("rip"), guest.register("rcx")]).toEqual([handlerAt(1) + 1n, rcx]);
    }
  });
});

test("BLOCKIRQ: the guest takes no interrupt and no NMI until it is gone", () => {
  const guest = started(mainline, "prot32", true);
  guest.code(0xb0, 2, 0xe6, 0x80, 0xe6, 0x80, HLT);
  debug(guest, ENABLE | BLOCKIRQ);
  guest.kernel.ioctl(guest.vcpu, 0xae9a, 0); // KVM_NMI
  guest.enter();
  expect([guest.exitReason, guest.register("rip")]).toEqual([KVM_EXIT_IO, BigInt(CODE + 2)]);
  debug(guest, 0);
  guest.memory.set([0xe6, 0x81], Number(handlerAt(2)));
  guest.enter();
  expect([guest.exitReason, guest.run[34]]).toEqual([KVM_EXIT_IO, 0x81]);
});

test("a breakpoint on data in the upper half is cut to a multiple of its length", () => {
  const guest = started(mainline, "long");
  store64(guest.memory, 0x10000 + 8 * 511, 0x11007); // the lowest 512 GiB once more, at the top
  const bytes = new Uint8Array(72);
  store32(bytes, 0, ENABLE | USE_HW_BP);
  store64(bytes, 8, 0xffff_ff80_0000_8003n);
  store64(bytes, 8 + 56, 0xd_0001); // DR0: writes, four bytes
  expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_GUEST_DEBUG, bytes)).toBe(0);
  guest.code(0xa3, 0, 0x80, 0, 0, 0x80, 0xff, 0xff, 0xff, NOP, HLT); // mov [0xffffff8000008000], eax
  expect(guest.enter()).toBe(0);
  expect(guest.exitReason).toBe(KVM_EXIT_DEBUG);
});
