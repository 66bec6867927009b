/** Guests written as generators: their accesses, exits and interrupts. */
import { describe, expect, test } from "vitest";
import { EAGAIN, EBADF, EINTR, EINVAL } from "../../../lib/abi/errno.ts";
import {
  KVM_CREATE_IRQCHIP,
  KVM_IRQ_LINE,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_RESAMPLE,
} from "../../../lib/abi/kvm.ts";
import { load32 as bytes32, store32 as put32 } from "../../../lib/abi/struct.ts";
import { assemble } from "../../../lib/fuzz/guest-code.ts";
import {
  type Access,
  enableInterrupts,
  eoi,
  type Handlers,
  halt,
  in8,
  in32,
  load16,
  load32,
  out8,
  out16,
  out32,
  type Script,
  store8,
  store32,
  store64,
} from "../../../lib/hardware/guest-script.ts";
import type { Process } from "../../../lib/kernel/process.ts";
import { runScript } from "../../../lib/kvm/x86/script.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { Guest } from "./guest.ts";
import { mainline } from "./vm.ts";

const DEVICE = 0xd000_0000;
const LAPIC = 0xfee0_0000;
const IOAPIC = 0xfec0_0000;
const IO = 2;
const MMIO = 6;
const HLT = 5;
const SHUTDOWN = 8;

function scripted(main: () => Script, handlers: Handlers = new Map(), irqchip = false) {
  const machine = new Machine(mainline);
  const process = machine.process();
  const guest = new Guest(process, "prot32", (vm) => {
    if (irqchip) process.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
  });
  expect(runScript(process, guest.vcpu, main(), handlers)).toBe(0);
  return { machine, process, guest };
}

const line = (process: Process, vm: number, gsi: number, level: number) => {
  const bytes = new Uint8Array(8);
  put32(bytes, 0, gsi);
  put32(bytes, 4, level);
  return process.ioctl(vm, KVM_IRQ_LINE, bytes);
};

describe("accesses", () => {
  test("memory is read and written without an exit", () => {
    const { guest } = scripted(function* () {
      const value = yield load32(0x6000);
      yield store32(0x6004, value + 1);
      yield store64(0x6008, 0x1122_3344_5566_7788n);
      yield store8(0x6004, yield load16(0x6009));
    });
    put32(guest.memory, 0x6000, 41);
    expect(guest.enter()).toBe(0);
    expect(guest.exitReason).toBe(HLT);
    expect(bytes32(guest.memory, 0x6004)).toBe(0x77);
    expect(bytes32(guest.memory, 0x600c)).toBe(0x1122_3344);
  });

  test("what user space answers comes back from yield, exactly once", () => {
    const seen: number[] = [];
    const { guest } = scripted(function* () {
      seen.push(yield in8(0x3f8));
      seen.push(yield load32(DEVICE + 4));
      yield out16(0x80, 0xbeef);
      yield store32(DEVICE, 0x1234_5678);
    });
    expect(guest.enter()).toBe(0);
    expect([guest.exitReason, guest.run[32], guest.run[33], bytes32(guest.run, 32) >>> 16]).toEqual([
      IO,
      0,
      1,
      0x3f8,
    ]);
    guest.run[4096] = 0x5a;
    expect(guest.enter()).toBe(0);
    expect([guest.exitReason, bytes32(guest.run, 32), bytes32(guest.run, 48)]).toEqual([MMIO, DEVICE + 4, 4]);
    put32(guest.run, 40, 0xcafe);
    expect(guest.enter()).toBe(0);
    expect([guest.exitReason, guest.run[32], guest.run[4096], guest.run[4097]]).toEqual([IO, 1, 0xef, 0xbe]);
    expect(guest.enter()).toBe(0);
    expect([guest.exitReason, bytes32(guest.run, 40), guest.run[52]]).toEqual([MMIO, 0x1234_5678, 1]);
    expect(guest.enter()).toBe(0);
    expect(guest.exitReason).toBe(HLT);
    expect(seen).toEqual([0x5a, 0xcafe]);
  });

  test("a descriptor that is no vCPU", () => {
    const { process, guest } = scripted(function* () {});
    expect(runScript(process, 99, (function* () {})())).toBe(-EBADF);
    expect(runScript(process, guest.vm, (function* () {})())).toBe(-EINVAL);
  });
});

describe("interrupts", () => {
  test("a level interrupt: the handler's EOI lowers the line, then signals the resamplefd, exactly once", () => {
    const log: string[] = [];
    const { process, guest } = scripted(
      function* () {
        yield store32(LAPIC + 0xf0, 0x1ff);
        yield store32(IOAPIC, 0x10 + 2 * 20);
        yield store32(IOAPIC + 0x10, 0x8000 | 0x61);
        yield enableInterrupts();
        yield out8(0x80, 1);
        for (;;) yield halt();
      },
      new Map([
        [
          0x61,
          function* (): Script {
            log.push("handler");
            yield out8(0x80, 2);
            yield eoi();
            log.push("ended");
          },
        ],
      ]),
      true,
    );
    const eventfd = process.eventfd2(0, 0x800);
    const resamplefd = process.eventfd2(0, 0x800);
    const irqfd = new Uint8Array(32);
    [eventfd, 20, KVM_IRQFD_FLAG_RESAMPLE, resamplefd].forEach((value, i) => {
      put32(irqfd, 4 * i, value);
    });
    expect(process.ioctl(guest.vm, KVM_IRQFD, irqfd)).toBe(0);
    expect([guest.enter(), guest.exitReason, guest.run[4096]]).toEqual([0, IO, 1]);
    const one = new Uint8Array(8);
    one[0] = 1;
    process.write(eventfd, one);
    expect([guest.enter(), guest.exitReason, guest.run[4096]]).toEqual([0, IO, 2]);
    const count = new Uint8Array(8);
    expect(process.read(resamplefd, count)).toBe(-EAGAIN);
    expect(guest.enter()).toBe(-EINTR);
    expect(process.read(resamplefd, count)).toBe(8);
    expect(count[0]).toBe(1);
    expect(log).toEqual(["handler", "ended"]);
  });

  test("a line that stays high interrupts again after each EOI", () => {
    let taken = 0;
    const { machine, process, guest } = scripted(
      function* () {
        yield store32(LAPIC + 0xf0, 0x1ff);
        yield store32(IOAPIC, 0x10 + 2 * 20);
        yield store32(IOAPIC + 0x10, 0x8000 | 0x61);
        yield enableInterrupts();
        for (;;) yield halt();
      },
      new Map([
        [
          0x61,
          function* (): Script {
            if (++taken === 3) yield out8(0x80, taken);
            yield eoi();
          },
        ],
      ]),
      true,
    );
    line(process, guest.vm, 20, 1);
    expect([guest.enter(), guest.exitReason, guest.run[4096]]).toEqual([0, IO, 3]);
    line(process, guest.vm, 20, 0);
    expect(guest.enter()).toBe(-EINTR);
    expect(taken).toBe(3);
    expect(machine.kernel.deadlocks).toEqual(["vCPU 0 halted, interrupts on"]);
  });

  test("a vector without a handler shuts the guest down", () => {
    const { guest } = scripted(
      function* () {
        yield store32(LAPIC + 0xf0, 0x1ff);
        yield enableInterrupts();
        yield store32(LAPIC + 0x300, 0x4_4071);
        yield halt();
      },
      new Map(),
      true,
    );
    expect([guest.enter(), guest.exitReason]).toEqual([0, SHUTDOWN]);
  });
});

describe("the same accesses as machine code", () => {
  const accesses: Access[] = [
    store32(0x6100, 0xdead_beef),
    load16(0x6100),
    out8(0x80, 7),
    in32(0x84),
    store8(DEVICE + 1, 0x99),
    load32(DEVICE + 8),
    out32(0x90, 0x0102_0304),
    halt(),
  ];
  const RESULTS = 0x6200;

  function exits(guest: Guest): string[] {
    const seen: string[] = [];
    for (let i = 0; i < 20; i++) {
      expect(guest.enter()).toBe(0);
      const { run } = guest;
      if (guest.exitReason === HLT) return seen;
      if (guest.exitReason === IO) {
        seen.push(
          `io ${run[32]} ${run[33]} ${(bytes32(run, 32) >>> 16).toString(16)} ${run.slice(4096, 4096 + run[33])}`,
        );
        if (run[32] === 0) put32(run, 4096, 0x7777_0000 + i);
      } else {
        expect(guest.exitReason).toBe(MMIO);
        const data = run[52] === 1 ? run.slice(40, 40 + run[48]) : "";
        seen.push(`mmio ${run[52]} ${run[48]} ${bytes32(run, 32).toString(16)} ${data}`);
        if (run[52] === 0) put32(run, 40, 0x5555_0000 + i);
      }
    }
    throw new Error("the guest does not halt");
  }

  test("makes the same exits and reads the same", () => {
    const reads: number[] = [];
    const { guest } = scripted(function* () {
      for (const access of accesses) {
        const value = yield access;
        if (access.does === "load" || access.does === "in") reads.push(value);
      }
    });
    const expected = exits(guest);
    expect(expected.length).toBe(5);
    const native = new Guest(new Machine(mainline).process(), "prot32");
    native.code(...assemble(accesses, RESULTS));
    expect(exits(native)).toEqual(expected);
    expect(reads).toEqual(reads.map((_, i) => bytes32(native.memory, RESULTS + 4 * i)));
    expect(reads).toEqual([0xbeef, 0x7777_0001, 0x5555_0003]);
  });
});
