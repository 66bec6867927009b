/** KVM_RUN where a processor runs the guest (svm), and what of it pvm does otherwise. */
import { describe, expect, test } from "vitest";
import { EAGAIN, EINTR, EINVAL } from "../../../lib/abi/errno.ts";
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_EXIT_DEBUG,
  KVM_EXIT_HLT,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_INTR,
  KVM_EXIT_IO,
  KVM_EXIT_IRQ_WINDOW_OPEN,
  KVM_EXIT_MMIO,
  KVM_EXIT_SHUTDOWN,
  KVM_GET_MP_STATE,
  KVM_INTERRUPT,
  KVM_RUN,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_CREATE_PIT2,
  KVM_GET_LAPIC,
  KVM_GET_REGS,
  KVM_NMI,
  KVM_SET_GUEST_DEBUG,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, load64, store32, store64 } from "../../../lib/abi/struct.ts";
import { guestPolicy } from "../../../lib/kvm/x86/guest-policy.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { CODE, enableLapic, Guest, handlerAt, type Mode, moveDword } from "./guest.ts";
import { mainline } from "./vm.ts";

function started(mode: Mode = "prot32", { profile = mainline, irqchip = false, pit = false } = {}) {
  const machine = new Machine(profile);
  const process = machine.process();
  const guest = new Guest(process, mode, (vm) => {
    if (irqchip) process.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
    if (pit) process.ioctl(vm, KVM_CREATE_PIT2, new Uint8Array(64));
  });
  return { machine, process, guest };
}

const HLT = 0xf4;
const NOP = 0x90;
const STI = 0xfb;

describe("port exits", () => {
  test("on svm RIP stands at the instruction until the next entry, on pvm OUT is over", () => {
    for (const [profile, rip] of [
      [mainline, 0n],
      [defaultProfile, 2n],
    ] as const) {
      const { guest } = started("prot32", { profile });
      guest.code(0xe6, 0x80, NOP, HLT);
      guest.enter();
      expect([guest.exitReason, guest.register("rip")]).toEqual([KVM_EXIT_IO, BigInt(CODE) + rip]);
      guest.enter();
      expect([guest.exitReason, guest.register("rip")]).toEqual([KVM_EXIT_HLT, BigInt(CODE) + 4n]);
    }
  });

  test("port 0x7e: RIP has moved on before the exit, a quirk", () => {
    const { guest } = started();
    guest.code(0xe6, 0x7e, HLT);
    guest.enter();
    expect([guest.exitReason, guest.register("rip")]).toEqual([KVM_EXIT_IO, BigInt(CODE + 2)]);
    guest.enter();
    expect([guest.exitReason, guest.register("rip")]).toEqual([KVM_EXIT_HLT, BigInt(CODE + 3)]);
  });

  test("immediate_exit finishes what waits, runs nothing, and answers EINTR", () => {
    const { guest } = started();
    guest.code(0xe4, 0x80, 0x40, HLT);
    guest.enter();
    guest.run[4096] = 0x21;
    guest.run[1] = 1;
    expect(guest.enter()).toBe(-EINTR);
    expect([guest.register("rax"), guest.register("rip")]).toEqual([0x21n, BigInt(CODE + 2)]);
    guest.run[1] = 0;
    expect(guest.enter()).toBe(0);
    expect(guest.register("rax")).toBe(0x22n);
  });

  test("REP INS asks for as many values as fit, and takes them at once", () => {
    const { guest } = started();
    guest.code(0xf3, 0x6d, HLT).registers({ rcx: 3, rdx: 0x1f0, rdi: 0x6000 });
    guest.enter();
    expect([guest.run[33], load32(guest.run, 36)]).toEqual([4, 3]);
    for (let i = 0; i < 3; i++) store32(guest.run, 4096 + 4 * i, 0x1111 * (i + 1));
    guest.enter();
    expect([guest.exitReason, guest.register("rcx"), guest.register("rdi")]).toEqual([
      KVM_EXIT_HLT,
      0n,
      0x600cn,
    ]);
    expect([0, 4, 8].map((at) => load32(guest.memory, 0x6000 + at))).toEqual([0x1111, 0x2222, 0x3333]);
  });

  test("REP OUTS exits for each value", () => {
    const { guest } = started();
    guest.code(0xf3, 0x6e, HLT).registers({ rcx: 3, rdx: 0x3f8, rsi: 0x6000 });
    guest.memory.set([7, 8, 9], 0x6000);
    const seen = [];
    for (guest.enter(); guest.exitReason === KVM_EXIT_IO; guest.enter()) seen.push(guest.run[4096]);
    expect(seen).toEqual([7, 8, 9]);
  });
});

describe("sleep and wake-up", () => {
  test("nothing can wake it: EINTR, and a report", () => {
    const { machine, guest } = started("prot32", { irqchip: true });
    guest.code(0xfa, HLT);
    expect([guest.enter(), guest.exitReason]).toEqual([-EINTR, KVM_EXIT_INTR]);
    expect(machine.kernel.deadlocks).toEqual(["vCPU 0 halted, interrupts off"]);
  });

  test("the timer of the local APIC wakes it after its time, once", () => {
    const { machine, guest } = started("prot32", { irqchip: true });
    guest.code(
      ...enableLapic,
      ...moveDword(0xfee0_0320, 0x70),
      ...moveDword(0xfee0_03e0, 0xb),
      ...moveDword(0xfee0_0380, 1_000_000),
      STI,
      HLT,
      HLT,
    );
    guest.memory.set([0xff, 0x05, 0, 0x60, 0, 0, ...moveDword(0xfee0_00b0, 0), 0xcf], handlerAt(0x70));
    const before = machine.kernel.clock.now;
    expect(guest.enter()).toBe(-EINTR);
    expect(load32(guest.memory, 0x6000)).toBe(1);
    expect(machine.kernel.clock.now - before).toBe(1_000_000);
  });

  test("the PIT ticks through the PIC", () => {
    const { guest } = started("prot32", { irqchip: true, pit: true });
    const out = (port: number, value: number) => [0xb0, value, 0xe6, port];
    guest.code(
      ...[0x11, 0x20, 0x04, 0x01].flatMap((value, i) => out(i === 0 ? 0x20 : 0x21, value)),
      ...out(0x21, 0xfe),
      ...[out(0x43, 0x34), out(0x40, 0xff), out(0x40, 0xff)].flat(),
      STI,
      ...[HLT, 0x83, 0x3d, 0, 0x60, 0, 0, 3, 0x75, 0xf6],
      ...[0xfa, HLT],
    );
    guest.memory.set([0xff, 0x05, 0, 0x60, 0, 0, ...out(0x20, 0x20), 0xcf], handlerAt(0x20));
    expect(guest.enter()).toBe(-EINTR);
    expect(load32(guest.memory, 0x6000)).toBe(3);
  });

  test("a guest that never stops answers EINTR when its budget is used up, and can go on", () => {
    const { machine, guest } = started();
    guestPolicy(machine.kernel).budget = 5000;
    guest.code(0x41, 0xeb, 0xfd);
    expect([guest.enter(), guest.exitReason]).toEqual([-EINTR, KVM_EXIT_INTR]);
    const first = guest.register("rcx");
    expect(first >= 2500n && first < 3100n).toBe(true);
    expect(guest.enter()).toBe(-EINTR);
    expect(guest.register("rcx")).toBe(2n * first);
  });

  test("time passes by instructions where the policy says so", () => {
    const { machine, guest } = started();
    guestPolicy(machine.kernel).nanosecondsPerInstruction = 3;
    guest.code(...new Array(99).fill(NOP), HLT);
    const before = machine.kernel.clock.now;
    guest.enter();
    expect(machine.kernel.clock.now - before).toBe(300);
  });
});

describe("interrupts of user space", () => {
  test("the window opens after the shadow of STI", () => {
    const { guest } = started();
    guest.code(NOP, STI, NOP, NOP, HLT);
    guest.run[0] = 1;
    expect([guest.enter(), guest.exitReason, guest.register("rip")]).toEqual([
      0,
      KVM_EXIT_IRQ_WINDOW_OPEN,
      BigInt(CODE + 3),
    ]);
    expect([guest.run[12], guest.run[13]]).toEqual([1, 1]);
    guest.run[0] = 0;
    guest.kernel.ioctl(guest.vcpu, KVM_INTERRUPT, Uint8Array.of(0x41, 0, 0, 0));
    guest.enter();
    expect([guest.exitReason, guest.register("rip")]).toEqual([KVM_EXIT_HLT, BigInt(handlerAt(0x41) + 1)]);
    expect(load32(guest.memory, 0x7ff4)).toBe(CODE + 3);
  });

  test("an NMI is taken whatever IF says, a second one after IRET", () => {
    const { guest } = started();
    guest.code(NOP, 0xfa, 0xe6, 0x80, HLT);
    guest.memory.set([0xff, 0x05, 0, 0x60, 0, 0, 0xe6, 0x81, 0xcf], handlerAt(2));
    for (let i = 0; i < 3; i++) guest.kernel.ioctl(guest.vcpu, KVM_NMI, 0);
    const ports: number[] = [];
    for (guest.enter(); guest.exitReason === KVM_EXIT_IO; guest.enter()) ports.push(guest.run[34]);
    expect(ports).toEqual([0x81, 0x81, 0x80]);
    expect(load32(guest.memory, 0x6000)).toBe(2);
  });
});

describe("exceptions", () => {
  test("without an IDT: double fault, then SHUTDOWN", () => {
    const { guest } = started();
    const sregs = guest.get(0x8138ae83, 312);
    sregs[216] = sregs[217] = 0;
    guest.kernel.ioctl(guest.vcpu, 0x4138ae84, sregs);
    guest.code(0x31, 0xc9, 0xf7, 0xf1);
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_SHUTDOWN]);
  });

  test("outside of the subset: an internal error with the bytes of the instruction, again and again", () => {
    const { guest } = started();
    guest.code(NOP, 0xd9, 0xe8, HLT);
    for (let i = 0; i < 2; i++) {
      expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_INTERNAL_ERROR]);
      expect([load32(guest.run, 32), load32(guest.run, 36), load64(guest.run, 40)]).toEqual([1, 8, 1n]);
      expect(Array.from(guest.run.subarray(48, 52))).toEqual([15, 0xd9, 0xe8, HLT]);
      expect(guest.register("rip")).toBe(BigInt(CODE + 1));
    }
  });

  test("single step: an exit after each instruction", () => {
    const { guest } = started();
    guest.code(NOP, 0x40, HLT);
    const debug = new Uint8Array(KVM_SET_GUEST_DEBUG.size);
    store32(debug, 0, 3);
    guest.kernel.ioctl(guest.vcpu, KVM_SET_GUEST_DEBUG, debug);
    const places = [];
    for (guest.enter(); guest.exitReason === KVM_EXIT_DEBUG && places.length < 5; guest.enter())
      places.push(load32(guest.run, 40));
    expect(places.slice(0, 2)).toEqual([CODE + 1, CODE + 2]);
  });
});

describe("several vCPUs", () => {
  test("INIT and SIPI start the second; until then it waits, and then KVM_RUN answers EAGAIN once", () => {
    const { process, machine, guest } = started("prot32", { irqchip: true });
    const second = process.ioctl(guest.vm, KVM_CREATE_VCPU, 1);
    expect(process.ioctl(second, KVM_RUN, 0)).toBe(-EINTR);
    expect(machine.kernel.deadlocks).toEqual(["vCPU 1 waits for INIT and SIPI; vCPU 0 is not in KVM_RUN"]);
    guest.code(
      ...enableLapic,
      ...moveDword(0xfee0_0310, 1 << 24),
      ...moveDword(0xfee0_0300, 0x4500),
      ...moveDword(0xfee0_0300, 0x4602),
      0xe6,
      0x80,
      HLT,
    );
    guest.memory.set([0xb8, 0x34, 0x12, 0xe7, 0x90], 0x2000);
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
    expect(process.ioctl(second, KVM_RUN, 0)).toBe(-EAGAIN);
    const page = process.memory(process.mmap(0, 0x3000, 3, 1, second, 0), 0x3000)!;
    expect([process.ioctl(second, KVM_RUN, 0), load32(page, 8), page[34], page[4096], page[4097]]).toEqual([
      0,
      KVM_EXIT_IO,
      0x90,
      0x34,
      0x12,
    ]);
    const state = new Uint8Array(4);
    process.ioctl(second, KVM_GET_MP_STATE, state);
    expect(load32(state, 0)).toBe(0);
  });
});

describe("registers in the page", () => {
  test("dirty ones are taken, wanted ones are shown, unknown ones are EINVAL", () => {
    const { guest } = started();
    guest.code(0x40, HLT);
    const regs = guest.get(KVM_GET_REGS.number, 144);
    store64(regs, 0, 41);
    guest.run.set(regs, 304);
    store64(guest.run, 296, 1);
    store64(guest.run, 288, 1);
    expect(guest.enter()).toBe(0);
    expect([load64(guest.run, 304), load64(guest.run, 296)]).toEqual([42n, 0n]);
    store64(guest.run, 288, 8);
    expect(guest.enter()).toBe(-EINVAL);
  });
});

describe("memory", () => {
  test("KVM_RUN of a guest whose memory is gone", () => {
    const { guest, process } = started();
    guest.code(0xa1, 0, 0, 2, 0, HLT);
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_MMIO]);
    expect(process.ioctl(guest.vcpu, KVM_RUN, 1)).toBe(-EINVAL);
  });

  test("the local APIC's page hides memory and other devices", () => {
    const { guest, process } = started("prot32", { irqchip: true });
    guest.code(...enableLapic, 0xa1, 0x30, 0, 0xe0, 0xfe, 0xe6, 0x80, HLT);
    expect([guest.enter(), guest.exitReason, guest.register("rax")]).toEqual([0, KVM_EXIT_IO, 0x5_0014n]);
    const lapic = new Uint8Array(1024);
    process.ioctl(guest.vcpu, KVM_GET_LAPIC, lapic);
    expect(load32(lapic, 0xf0)).toBe(0x1ff);
  });
});
