/**
 * KVM_RUN of guests that are scripts, on arm64 and POWER: signals, immediate_exit, kicks, sleeps and `Process.run`
 * (virt/kvm/kvm_main.c, arch/arm64/kvm/arm.c:kvm_arch_vcpu_ioctl_run, arch/powerpc/kvm/powerpc.c, 6.1; what arm64 answers
 * to signals and immediate_exit was asked of Linux 6.1, 6.12 and 7.2).
 */
import { describe, expect, test } from "vitest";
import { EINTR, ENOEXEC } from "../../lib/abi/errno.ts";
import {
  KVM_EXIT_INTR,
  KVM_EXIT_MMIO,
  KVM_RUN,
  KVM_SET_MP_STATE,
  KVM_SET_SIGNAL_MASK,
} from "../../lib/abi/kvm.ts";
import { KvmRun } from "../../lib/abi/kvm-arm64.ts";
import { load32, store32 } from "../../lib/abi/struct.ts";
import {
  ICC_IGRPEN1_EL1,
  ICC_PMR_EL1,
  ICC_SGI1R_EL1,
  ICC_SRE_EL1,
} from "../../lib/hardware/gic-cpu-interface.ts";
import type { Process } from "../../lib/kernel/process.ts";
import * as arm from "../../lib/kvm/arm64/guest.ts";
import * as power from "../../lib/kvm/ppc/guest.ts";
import { H_CPPR, H_EOI, H_IPI, H_XIRR } from "../../lib/kvm/ppc/hypercalls.ts";
import type { MachineOptions } from "../../lib/machine/machine.ts";
import { GICD, GICR, GicWorld, RAM } from "./arm64/gic-world.ts";
import { takeInterrupt } from "./arm64/guests.ts";
import { vcpuOf as powerVcpu } from "./ppc/guests.ts";
import { pseries, World } from "./ppc/world.ts";
import { settled } from "./settled.ts";

const DEVICE = 0x9000_0000;
const IMMEDIATE_EXIT = KvmRun.offsetOf.immediate_exit;
const EXIT_REASON = KvmRun.offsetOf.exit_reason;
const MMIO_DATA = 40;
const SIGUSR1 = 10;
const bit = (signal: number) => 1n << BigInt(signal - 1);

/** What a guest of these tests does, on either architecture. */
type Duty =
  | { do: "store"; value: number }
  | { do: "load" }
  | { do: "take" }
  | { do: "wake"; other: number }
  | { do: "spin"; until: () => boolean };

interface Side {
  process: Process;
  fds: number[];
  run: number;
  signalMask: number;
  pages(index: number): Uint8Array;
  /** Puts a guest on a vCPU; what it reads goes to `seen`. */
  load(index: number, duties: Duty[], seen?: number[]): void;
}

function arm64(options: MachineOptions = {}): Side {
  const world = new GicWorld(2, undefined, options).initialise();
  return {
    process: world.process,
    fds: world.vcpus,
    run: KVM_RUN.number,
    signalMask: KVM_SET_SIGNAL_MASK.number,
    pages: (index) => world.vcpu(index).vcpu.pages,
    load: (index, duties, seen = []) => world.vcpu(index).load(armGuest(index, duties, seen)),
  };
}

function* armGuest(index: number, duties: Duty[], seen: number[]): arm.Guest {
  const frame = GICR + 0x2_0000 * index + 0x1_0000;
  yield* arm.store(GICD, 4, 0x12);
  yield* arm.store(frame + 0x80, 4, 0xffff_ffff);
  yield* arm.store(frame + 0x100, 4, 0xffff);
  yield* arm.writeRegister(ICC_SRE_EL1, 7);
  yield* arm.writeRegister(ICC_PMR_EL1, 0xff);
  yield* arm.writeRegister(ICC_IGRPEN1_EL1, 1);
  for (const duty of duties)
    if (duty.do === "store") yield* arm.store(DEVICE, 4, duty.value);
    else if (duty.do === "load") seen.push(Number(yield* arm.load(DEVICE, 4)));
    else if (duty.do === "take") seen.push(yield* takeInterrupt());
    else if (duty.do === "wake") yield* arm.writeRegister(ICC_SGI1R_EL1, (3 << 24) | (1 << duty.other));
    else while (!duty.until()) yield* arm.load(RAM, 4);
}

function ppc(options: MachineOptions = {}): Side {
  const world = new World(pseries, options);
  const fds = world.connected(2);
  return {
    process: world.process,
    fds,
    run: KVM_RUN.powerpc,
    signalMask: KVM_SET_SIGNAL_MASK.powerpc,
    pages: (index) => powerVcpu(world.process, fds[index]).vcpu.pages,
    load: (index, duties, seen = []) =>
      powerVcpu(world.process, fds[index]).load(powerGuest(index, duties, seen)),
  };
}

function* powerGuest(index: number, duties: Duty[], seen: number[]): power.Guest {
  yield* power.hypercall(H_CPPR, 0xff);
  for (const duty of duties)
    if (duty.do === "store") yield* power.store(DEVICE, 4, duty.value);
    else if (duty.do === "load") seen.push(yield* power.load(DEVICE, 4));
    else if (duty.do === "take") {
      yield* power.wait();
      const [, xirr] = yield* power.hypercall(H_XIRR);
      // an IPI is there until its priority is taken back
      yield* power.hypercall(H_IPI, index, 0xff);
      yield* power.hypercall(H_EOI, xirr);
      seen.push(xirr & 0xff_ffff);
    } else if (duty.do === "wake") yield* power.hypercall(H_IPI, duty.other, 5);
    else while (!duty.until()) yield* power.hypercall(H_XIRR);
}

const sides = [
  { name: "arm64", make: arm64, ipi: 3 },
  { name: "POWER", make: ppc, ipi: 2 },
];

describe.each(sides)("$name", ({ make, ipi }) => {
  /** KVM_RUN on the same thread: its answer and the exit reason. */
  const enter = (side: Side, index = 0) => [
    side.process.ioctl(side.fds[index], side.run, 0),
    load32(side.pages(index), EXIT_REASON),
  ];
  /** KVM_RUN on a thread of its own. */
  const begin = (side: Side, index = 0) => side.process.run(side.fds[index]);

  describe("immediate_exit", () => {
    test("the guest takes no step, and the exit reason stays", () => {
      const side = make();
      side.load(0, [{ do: "store", value: 1 }]);
      const pages = side.pages(0);
      store32(pages, EXIT_REASON, 77);
      pages[IMMEDIATE_EXIT] = 1;
      expect([enter(side), enter(side)]).toEqual([
        [-EINTR, 77],
        [-EINTR, 77],
      ]);
      pages[IMMEDIATE_EXIT] = 0;
      expect(enter(side)).toEqual([0, KVM_EXIT_MMIO]);
    });

    test("what user space answered is taken over all the same", () => {
      const side = make();
      const seen: number[] = [];
      side.load(0, [{ do: "load" }, { do: "store", value: 1 }], seen);
      const pages = side.pages(0);
      expect(enter(side)).toEqual([0, KVM_EXIT_MMIO]);
      store32(pages, MMIO_DATA, 0x1111);
      pages[IMMEDIATE_EXIT] = 1;
      expect([enter(side), seen]).toEqual([[-EINTR, KVM_EXIT_MMIO], []]);
      store32(pages, MMIO_DATA, 0x2222);
      pages[IMMEDIATE_EXIT] = 0;
      expect([enter(side), seen]).toEqual([[0, KVM_EXIT_MMIO], [0x1111]]);
    });
  });

  describe("a signal", () => {
    test("that waits keeps the guest from being entered: EINTR, KVM_EXIT_INTR", () => {
      const side = make();
      side.load(0, [{ do: "store", value: 1 }]);
      const { process, fds } = side;
      process.sigprocmask(0, bit(SIGUSR1));
      const mask = new Uint8Array(12);
      mask[0] = 8;
      expect(process.ioctl(fds[0], side.signalMask, mask)).toBe(0);
      process.kill(SIGUSR1);
      expect([enter(side), enter(side)]).toEqual([
        [-EINTR, KVM_EXIT_INTR],
        [-EINTR, KVM_EXIT_INTR],
      ]);
      expect(process.sigtimedwait(bit(SIGUSR1))).toBe(SIGUSR1);
      expect(enter(side)).toEqual([0, KVM_EXIT_MMIO]);
    });

    test("ends a sleep under a mask that lets it through, and no other", async () => {
      const side = make();
      side.load(0, [{ do: "take" }]);
      const { process, fds } = side;
      process.sigprocmask(0, bit(SIGUSR1));
      const answer = begin(side);
      process.kill(SIGUSR1);
      expect(await settled(answer)).toBe(false);
      process.kick(fds[0]);
      expect(await answer).toBe(-EINTR);
      const mask = new Uint8Array(12);
      mask[0] = 8;
      process.ioctl(fds[0], side.signalMask, mask);
      expect(await begin(side)).toBe(-EINTR);
      process.sigtimedwait(bit(SIGUSR1));
      const asleep = begin(side);
      expect(await settled(asleep)).toBe(false);
      process.kill(SIGUSR1);
      expect([await asleep, load32(side.pages(0), EXIT_REASON)]).toEqual([-EINTR, KVM_EXIT_INTR]);
    });
  });

  describe("a guest that waits for an interrupt", () => {
    test("is woken by the other one's IPI: exactly one", async () => {
      const side = make();
      const seen: number[] = [];
      side.load(0, [{ do: "take" }, { do: "store", value: 1 }], seen);
      side.load(1, [
        { do: "wake", other: 0 },
        { do: "store", value: 1 },
      ]);
      const sleeps = begin(side);
      expect(await settled(sleeps)).toBe(false);
      expect(side.process.kernel.naps.reports).toEqual(["vCPU 0 waits for an interrupt"]);
      expect(await begin(side, 1)).toBe(0);
      expect([await sleeps, load32(side.pages(0), EXIT_REASON), seen]).toEqual([0, KVM_EXIT_MMIO, [ipi]]);
      expect(side.process.kernel.deadlocks).toEqual([]);
    });

    test("and the one that woke it may sleep at once: it is woken in turn", async () => {
      const side = make();
      const seen: number[][] = [[], []];
      side.load(0, [{ do: "take" }, { do: "wake", other: 1 }, { do: "store", value: 1 }], seen[0]);
      side.load(1, [{ do: "wake", other: 0 }, { do: "take" }, { do: "store", value: 1 }], seen[1]);
      expect(await Promise.all([begin(side), begin(side, 1)])).toEqual([0, 0]);
      expect(seen).toEqual([[ipi], [ipi]]);
    });

    test("for ever: a synchronous KVM_RUN tells what every vCPU waits for", async () => {
      const side = make();
      side.load(0, [{ do: "take" }]);
      expect(enter(side)).toEqual([-EINTR, KVM_EXIT_INTR]);
      const { deadlocks } = side.process.kernel;
      expect(deadlocks).toEqual(["vCPU 0 waits for an interrupt; vCPU 1 is not in KVM_RUN"]);
      side.load(1, [{ do: "take" }]);
      const other = begin(side, 1);
      await settled(other);
      expect(enter(side)).toEqual([-EINTR, KVM_EXIT_INTR]);
      expect(deadlocks[1]).toBe("vCPU 0 waits for an interrupt; vCPU 1 waits for an interrupt");
      side.process.kick(side.fds[1]);
      expect(await other).toBe(-EINTR);
    });

    test("beside others that sleep: the program is told once", async () => {
      const told: string[][] = [];
      const side = make({ onAsleep: (reports) => told.push(reports.toSorted()) });
      side.load(0, [{ do: "take" }]);
      side.load(1, []);
      const both = [begin(side), begin(side, 1)];
      await settled(both[0]);
      expect(told).toEqual([["vCPU 0 waits for an interrupt", "vCPU 1 has come to its end"]]);
      for (const fd of side.fds) side.process.kick(fd);
      expect(await Promise.all(both)).toEqual([-EINTR, -EINTR]);
      expect(told.length).toBe(1);
    });
  });

  describe("Process.run", () => {
    test("exits, one after the other", async () => {
      const side = make();
      side.load(0, [
        { do: "store", value: 1 },
        { do: "store", value: 2 },
      ]);
      const values = [];
      for (let i = 0; i < 2; i++) values.push([await begin(side), load32(side.pages(0), MMIO_DATA)]);
      expect(values).toEqual([
        [0, 1],
        [0, 2],
      ]);
    });

    test("a kick before it ends it at once, as immediate_exit; the next one runs", async () => {
      const side = make();
      side.load(0, [{ do: "store", value: 1 }]);
      store32(side.pages(0), EXIT_REASON, 77);
      side.process.kick(side.fds[0]);
      expect([await begin(side), load32(side.pages(0), EXIT_REASON)]).toEqual([-EINTR, 77]);
      expect([await begin(side), load32(side.pages(0), EXIT_REASON)]).toEqual([0, KVM_EXIT_MMIO]);
    });

    test("a guest that spins lets others go on, and goes on when they have done what it waits for", async () => {
      let pauses = 0;
      const options: MachineOptions & { pause: () => Promise<void> } = {
        pause: () => {
          pauses++;
          return Promise.resolve();
        },
      };
      const side = make(options);
      side.load(0, [
        { do: "spin", until: () => pauses === 3 },
        { do: "store", value: 1 },
      ]);
      expect([await begin(side), pauses]).toEqual([0, 3]);
    });

    test("without a guest, or with one that has ended: until a kick", async () => {
      const side = make();
      side.load(1, []);
      const both = [begin(side), begin(side, 1)];
      expect(await settled(both[0])).toBe(false);
      expect(side.process.kernel.naps.reports.toSorted()).toEqual([
        "vCPU 0 runs no guest",
        "vCPU 1 has come to its end",
      ]);
      for (const fd of side.fds) side.process.kick(fd);
      expect(await Promise.all(both)).toEqual([-EINTR, -EINTR]);
    });
  });
});

describe("arm64", () => {
  test("a vCPU that is not initialised: ENOEXEC, with immediate_exit too", () => {
    const world = new GicWorld();
    const vcpu = world.vcpu(0);
    vcpu.initialized = false;
    const run = () => world.process.ioctl(world.vcpus[0], KVM_RUN, 0);
    expect(run()).toBe(-ENOEXEC);
    vcpu.vcpu.pages[IMMEDIATE_EXIT] = 1;
    expect(run()).toBe(-ENOEXEC);
  });

  test("one that is switched off sleeps until a kick", async () => {
    const STOPPED = 5;
    const side = arm64();
    side.load(0, [{ do: "store", value: 1 }]);
    const state = new Uint8Array(4);
    store32(state, 0, STOPPED);
    expect(side.process.ioctl(side.fds[0], KVM_SET_MP_STATE, state)).toBe(0);
    const answer = side.process.run(side.fds[0]);
    expect(await settled(answer)).toBe(false);
    expect(side.process.kernel.naps.reports).toEqual(["vCPU 0 is switched off"]);
    side.process.kick(side.fds[0]);
    expect([await answer, load32(side.pages(0), EXIT_REASON)]).toEqual([-EINTR, KVM_EXIT_INTR]);
  });
});
