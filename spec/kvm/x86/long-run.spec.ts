/** `Process.run`: KVM_RUN beside which other calls go on. */
import { describe, expect, test } from "vitest";
import { EAGAIN, EBADF, EINTR, EIO, ENODEV } from "../../../lib/abi/errno.ts";
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_EXIT_HLT,
  KVM_EXIT_INTR,
  KVM_EXIT_IO,
  KVM_IRQFD,
  KVM_RUN,
  KVM_SET_SIGNAL_MASK,
  KVM_SIGNAL_MSI,
  KvmIrqfd,
  KvmMsi,
} from "../../../lib/abi/kvm.ts";
import { KVM_GET_REGS, KvmRegs } from "../../../lib/abi/kvm-x86.ts";
import { load32, store32 } from "../../../lib/abi/struct.ts";
import { byHand } from "../../../lib/kernel/work-queue.ts";
import { guestPolicy } from "../../../lib/kvm/x86/guest-policy.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { settled } from "../settled.ts";
import { enableLapic, Guest, handlerAt, moveDword } from "./guest.ts";
import { mainline } from "./vm.ts";

const HLT = 0xf4;
const CLI = 0xfa;
const STI = 0xfb;
const NOP = 0x90;
const SIGUSR1 = 10;
/** pin 20 of the IOAPIC, which is GSI 20 and no pin of the PIC: vector 0x45 */
const pin20 = [...moveDword(0xfec0_0000, 0x38), ...moveDword(0xfec0_0010, 0x45)];

function started(irqchip = true, options = {}) {
  const machine = new Machine(mainline, options);
  const process = machine.process();
  const guest = new Guest(process, "prot32", (vm) => irqchip && process.ioctl(vm, KVM_CREATE_IRQCHIP, 0));
  const run = () => process.run(guest.vcpu);
  return { machine, process, guest, run };
}

/** sti; hlt, and then port 0x80: an interrupt of `vector` is counted at 0x6000 */
function sleeper(guest: Guest, vector: number): void {
  guest.code(...enableLapic, STI, HLT, 0xe6, 0x80);
  const count = [0xff, 0x05, 0x00, 0x60, 0, 0];
  guest.memory.set([...count, ...moveDword(0xfee0_00b0, 0), 0xcf], handlerAt(vector));
}

const message = (vector: number, destination = 0) =>
  KvmMsi.encode({ address_lo: 0xfee0_0000 | (destination << 12), data: vector });

describe("an answer", () => {
  test("is the one of the call: exits, one after the other", async () => {
    const { guest, run } = started(false);
    guest.code(0xe6, 0x80, 0xe4, 0x81, HLT);
    const seen = [];
    for (let i = 0; i < 3; i++) seen.push([await run(), guest.exitReason]);
    expect(seen).toEqual([
      [0, KVM_EXIT_IO],
      [0, KVM_EXIT_IO],
      [0, KVM_EXIT_HLT],
    ]);
  });

  test("of what is no vCPU", async () => {
    const { process, guest } = started(false);
    expect(await process.run(99)).toBe(-EBADF);
    expect(await process.run(guest.vm)).toBe(-ENODEV);
    expect(await process.run(process.eventfd2(0, 0))).toBe(-ENODEV);
  });

  test("of another process", async () => {
    const { process, guest } = started(false);
    expect(await process.fork().run(guest.vcpu)).toBe(-EIO);
  });
});

describe("a vCPU that sleeps", () => {
  test("goes on when an eventfd is written: exactly one interrupt", async () => {
    const { machine, process, guest, run } = started();
    sleeper(guest, 0x45);
    const fd = process.eventfd2(0, 0);
    process.ioctl(guest.vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: 20 }));
    guest.code(...enableLapic, ...pin20, STI, HLT, 0xe6, 0x80);
    const answer = run();
    expect(await settled(answer)).toBe(false);
    expect(machine.kernel.naps.reports).toEqual(["vCPU 0 halted, interrupts on"]);
    process.write(fd, new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]));
    expect([await answer, guest.exitReason, load32(guest.memory, 0x6000)]).toEqual([0, KVM_EXIT_IO, 1]);
    expect(machine.kernel.deadlocks).toEqual([]);
  });

  test("is not woken by what has nothing for it", async () => {
    const { process, guest, run } = started();
    guest.code(CLI, HLT);
    const answer = run();
    process.ioctl(guest.vm, KVM_SIGNAL_MSI, message(0x45));
    process.eventfd2(0, 0);
    expect(await settled(answer)).toBe(false);
    process.kick(guest.vcpu);
    expect(await answer).toBe(-EINTR);
  });

  test("time passes to its timer, where every vCPU sleeps", async () => {
    const { machine, guest, run } = started();
    sleeper(guest, 0x70);
    guest.code(
      ...enableLapic,
      ...moveDword(0xfee0_0320, 0x70),
      ...moveDword(0xfee0_03e0, 0xb),
      ...moveDword(0xfee0_0380, 1_000_000),
      ...[STI, HLT, 0xe6, 0x80],
    );
    const before = machine.kernel.clock.now;
    expect([await run(), load32(guest.memory, 0x6000)]).toEqual([0, 1]);
    expect(machine.kernel.clock.now - before).toBe(1_000_000);
  });

  test("a timer that ticks for ever and wakes nobody does not keep time going", async () => {
    const { machine, process, guest, run } = started();
    const { clock } = machine.kernel;
    const tick = { expiry: 0, fire: (now: number) => clock.arm(tick, now + 1_000_000_000) };
    clock.arm(tick, clock.now + 1_000_000_000);
    guest.code(CLI, HLT);
    const before = clock.now;
    const answer = run();
    expect(await settled(answer)).toBe(false);
    expect(clock.now - before).toBe(60_000_000_000);
    process.kick(guest.vcpu);
    expect(await answer).toBe(-EINTR);
  });

  test("wakes when the test lets time pass, or runs deferred work", async () => {
    const { machine, process, guest, run } = started(true, { policy: byHand });
    sleeper(guest, 0x45);
    guest.code(...enableLapic, ...pin20, STI, HLT, 0xe6, 0x80);
    const fd = process.eventfd2(0, 0);
    process.ioctl(guest.vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: 20 }));
    const answer = run();
    process.write(fd, new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]));
    expect(await settled(answer)).toBe(false);
    expect(machine.kernel.work.step()?.name).toBe("irqfd-inject");
    expect([await answer, load32(guest.memory, 0x6000)]).toEqual([0, 1]);
  });

  test("one that waits for its start answers EAGAIN once the other one has sent INIT and SIPI", async () => {
    const { process, guest, run } = started();
    const second = process.ioctl(guest.vm, KVM_CREATE_VCPU, 1);
    const waits = process.run(second);
    expect(await settled(waits)).toBe(false);
    guest.code(
      ...enableLapic,
      ...moveDword(0xfee0_0310, 1 << 24),
      ...moveDword(0xfee0_0300, 0x4500),
      ...moveDword(0xfee0_0300, 0x4602),
      ...[0xe6, 0x80],
    );
    expect(await run()).toBe(0);
    expect(await waits).toBe(-EAGAIN);
    const regs = new Uint8Array(KvmRegs.size);
    expect(process.ioctl(second, KVM_GET_REGS, regs)).toBe(0);
  });
});

describe("a kick", () => {
  test("ends a run that sleeps, as a signal", async () => {
    const { process, guest, run } = started();
    guest.code(CLI, HLT);
    const answer = run();
    process.kick(guest.vcpu);
    expect([await answer, guest.exitReason]).toEqual([-EINTR, KVM_EXIT_INTR]);
  });

  test("before a run ends it at once, as immediate_exit; the next one runs", async () => {
    const { process, guest, run } = started(false);
    guest.code(HLT);
    store32(guest.run, 8, 77);
    process.kick(guest.vcpu);
    expect([await run(), guest.exitReason]).toEqual([-EINTR, 77]);
    expect([await run(), guest.exitReason]).toEqual([0, KVM_EXIT_HLT]);
  });

  test("a signal that the vCPU's mask lets through does the same", async () => {
    const { process, guest, run } = started();
    guest.code(CLI, HLT);
    process.sigprocmask(0, 1n << BigInt(SIGUSR1 - 1));
    const mask = new Uint8Array(12);
    mask[0] = 8;
    process.ioctl(guest.vcpu, KVM_SET_SIGNAL_MASK, mask);
    const answer = run();
    expect(await settled(answer)).toBe(false);
    process.kill(SIGUSR1);
    expect([await answer, guest.exitReason]).toEqual([-EINTR, KVM_EXIT_INTR]);
    expect(process.sigtimedwait(1n << BigInt(SIGUSR1 - 1))).toBe(SIGUSR1);
  });
});

describe("meanwhile", () => {
  test("other calls on the vCPU would wait: EINTR and a report", async () => {
    const { machine, process, guest, run } = started();
    guest.code(CLI, HLT);
    const answer = run();
    const regs = new Uint8Array(KvmRegs.size);
    expect(process.ioctl(guest.vcpu, KVM_GET_REGS, regs)).toBe(-EINTR);
    expect(machine.kernel.deadlocks).toEqual(["a call waits for the KVM_RUN of vCPU 0"]);
    process.kick(guest.vcpu);
    await answer;
    expect(process.ioctl(guest.vcpu, KVM_GET_REGS, regs)).toBe(0);
  });

  test("a second run of the same vCPU comes after the first", async () => {
    const { process, guest, run } = started();
    guest.code(CLI, HLT, 0xe6, 0x80);
    const order: string[] = [];
    const first = run().then(() => order.push("first"));
    const second = run().then(() => order.push("second"));
    process.kick(guest.vcpu);
    await first;
    process.kick(guest.vcpu);
    await second;
    expect(order).toEqual(["first", "second"]);
  });

  test("a guest that spins goes on until another one writes what it waits for", async () => {
    let pauses = 0;
    const pause = () => {
      if (++pauses === 3) guest.memory[0x6000] = 1;
      return Promise.resolve();
    };
    const { guest, run } = started(false, { pause });
    // again: cmp byte [0x6000], 0; je again; out 0x80, al
    guest.code(0x80, 0x3d, 0x00, 0x60, 0, 0, 0, 0x74, 0xf7, 0xe6, 0x80);
    expect([await run(), guest.exitReason, pauses]).toEqual([0, KVM_EXIT_IO, 3]);
  });

  test("one that never stops answers EINTR when its budget is used up", async () => {
    const { machine, guest, run } = started(false);
    guestPolicy(machine.kernel).budget = 300_000;
    guest.code(NOP, 0xeb, 0xfd);
    expect([await run(), guest.exitReason]).toEqual([-EINTR, KVM_EXIT_INTR]);
  });

  test("the descriptor may be closed: the run ends by itself", async () => {
    const { process, guest, run } = started();
    sleeper(guest, 0x45);
    const answer = run();
    process.close(guest.vcpu);
    expect(await settled(answer)).toBe(false);
    process.ioctl(guest.vm, KVM_SIGNAL_MSI, message(0x45));
    expect(await answer).toBe(0);
  });

  test("a synchronous KVM_RUN that would sleep for ever tells what every vCPU waits for", async () => {
    const { machine, process, guest, run } = started();
    const second = process.ioctl(guest.vm, KVM_CREATE_VCPU, 1);
    guest.code(CLI, HLT);
    const answer = run();
    await settled(answer);
    expect(process.ioctl(second, KVM_RUN, 0)).toBe(-EINTR);
    expect(machine.kernel.deadlocks).toEqual([
      "vCPU 1 waits for INIT and SIPI; vCPU 0 halted, interrupts off",
    ]);
    process.kick(guest.vcpu);
    await answer;
  });

  test("exit: what still runs is interrupted", async () => {
    const { process, guest, run } = started();
    guest.code(CLI, HLT);
    const answer = run();
    process.exit();
    expect(await answer).toBe(-EINTR);
  });
});
