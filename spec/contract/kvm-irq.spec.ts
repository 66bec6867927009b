import { describe, expect } from "vitest";
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_IRQ_LINE_STATUS,
  KVM_IRQ_ROUTING_MSI,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_IRQFD_FLAG_RESAMPLE,
  KVM_SET_GSI_ROUTING,
  KVM_SIGNAL_MSI,
  KvmIrqfd,
  KvmIrqLevel,
  KvmIrqRoutingEntry,
  KvmMsi,
} from "../../lib/abi/kvm.ts";
import { KVM_SET_IRQCHIP, KvmIrqchip } from "../../lib/abi/kvm-x86.ts";
import { load32, store32 } from "../../lib/abi/struct.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import { type Answers, agreement, contract, counter, named } from "./contract.ts";
import { chips, clearLapic, IOAPIC, lapicVectors, makeVm, modes, redirect, setLapic } from "./kvm-vm.ts";

const NONBLOCK = 0x800;
const one = counter(1);

/** A routing table of whole entries. */
function table(...entries: Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(8 + entries.length * KvmIrqRoutingEntry.size);
  store32(bytes, 0, entries.length);
  for (const [i, entry] of entries.entries()) bytes.set(entry, 8 + i * KvmIrqRoutingEntry.size);
  return bytes;
}
const message = (gsi: number, data: number, flags = 0) =>
  KvmIrqRoutingEntry.encode({
    gsi,
    type: KVM_IRQ_ROUTING_MSI,
    flags,
    u: { msi: { address_lo: 0xfee00000, data } },
  });
const pin = (gsi: number, irqchip: number, number: number, type = 1, flags = 0) =>
  KvmIrqRoutingEntry.encode({ gsi, type, flags, u: { irqchip: { irqchip, pin: number } } });

const irqfd = (process: Syscalls, vm: number, fd: number, gsi: number, flags = 0, resamplefd = 0) =>
  named(process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi, flags, resamplefd })));

/** The status that KVM_IRQ_LINE_STATUS writes, or the error. */
function line(process: Syscalls, vm: number, irq: number, level: number): number | string {
  const args = KvmIrqLevel.encode({ irq, level });
  const result = process.ioctl(vm, KVM_IRQ_LINE_STATUS, args);
  return result < 0 ? named(result) : load32(args, 0) | 0;
}

describe("lines", () => {
  agreement("KVM_IRQ_LINE_STATUS of every GSI, up, up, down, down, and the chips after each", (process) => {
    const { vm } = makeVm(process, "kernel");
    const entries: Record<number, bigint> = {};
    for (let pin = 0; pin < 24; pin++)
      entries[pin] = BigInt(0x30 + pin) | (pin % 3 === 0 ? 0x8000n : 0n) | (pin % 5 === 0 ? 0x10000n : 0n);
    redirect(process, vm, entries);
    const answers: Answers = {};
    for (let gsi = 0; gsi < 26; gsi++)
      for (const [i, level] of [1, 1, 0, 0].entries())
        answers[`GSI ${gsi}, call ${i}`] = [line(process, vm, gsi, level), ...chips(process, vm)];
    return answers;
  });

  agreement("every kind of IOAPIC entry: delivery mode, trigger, polarity, mask, destination", (process) => {
    const { vm, vcpus } = makeVm(process, "kernel", 2);
    const answers: Answers = {};
    for (let mode = 0; mode < 8; mode++)
      for (const bits of [0, 0x2000, 0x8000, 0xa000, 0x10000, 0x18000])
        for (const [logical, destination] of [
          [0, 0],
          [0, 1],
          [0, 7],
          [0, 0xff],
          [0x800, 1],
          [0x800, 3],
          [0x800, 4],
        ]) {
          const low = 0x51 | (mode << 8) | bits | logical;
          redirect(process, vm, { 20: (BigInt(destination) << 56n) | BigInt(low) });
          const statuses = [1, 1, 0, 1, 0].map((level) => line(process, vm, 20, level));
          answers[`${low.toString(16)} to ${destination}`] = [
            statuses,
            chips(process, vm)[2],
            vcpus.map((vcpu) => lapicVectors(process, vcpu)),
          ];
          for (const vcpu of vcpus) clearLapic(process, vcpu);
          redirect(process, vm, { 20: 0x10000n });
        }
    return answers;
  });

  contract(
    "an edge is told as delivered, a line that is up already as coalesced, a masked pin as ignored",
    (process) => {
      const { vm, vcpus } = makeVm(process, "kernel");
      redirect(process, vm, { 20: 0x61n, 21: 0x10062n });
      expect([1, 1, 0, 1].map((level) => line(process, vm, 20, level))).toEqual([1, 0, 1, 1]);
      expect(lapicVectors(process, vcpus[0]).irr).toEqual([0x61]);
      expect(line(process, vm, 21, 1)).toBe(-1);
    },
  );
});

describe("messages", () => {
  agreement("KVM_SIGNAL_MSI by delivery mode, destination mode, destination, hint and vector", (process) => {
    const { vm, vcpus } = makeVm(process, "kernel", 3);
    const answers: Answers = {};
    for (let mode = 0; mode < 8; mode++)
      for (const low of [0, 4, 8, 12])
        for (const destination of [0, 1, 2, 3, 5, 7, 0xff])
          for (const vector of [0, 15, 16, 0x41, 0xff]) {
            const msi = KvmMsi.encode({
              address_lo: (0xfee00000 | (destination << 12) | low) >>> 0,
              data: (mode << 8) | vector,
            });
            answers[`${mode} ${low} ${destination} ${vector}`] = [
              named(process.ioctl(vm, KVM_SIGNAL_MSI, msi)),
              vcpus.map((vcpu) => lapicVectors(process, vcpu).irr),
            ];
            for (const vcpu of vcpus) clearLapic(process, vcpu);
          }
    return answers;
  });

  agreement("flags, address and data bits that mean nothing, and no irqchip", (process) => {
    const answers: Answers = {};
    for (const mode of modes) {
      const { vm } = makeVm(process, mode);
      for (const given of [
        {},
        { flags: 1 },
        { flags: 1, devid: 7 },
        { flags: 2 },
        { flags: 0xffffffff },
        { address_hi: 1 },
        { address_hi: 0x100 },
        { address_lo: 0 },
        { address_lo: 0x12345678 },
        { data: 0xffff0041 },
        { data: 0x4041 },
        { data: 0xc041 },
        { pad: new Uint8Array(12).fill(0xff) },
      ])
        answers[`${mode} ${JSON.stringify(given)}`] = named(
          process.ioctl(vm, KVM_SIGNAL_MSI, KvmMsi.encode({ address_lo: 0xfee00000, data: 0x41, ...given })),
        );
    }
    return answers;
  });
});

describe("routing", () => {
  agreement("every pair of entries for one GSI, and each alone", (process) => {
    const { vm } = makeVm(process, "kernel");
    const entries: Record<string, Uint8Array> = {
      message: message(5, 0x41),
      "message with a device id": message(5, 0x41, 1),
      "message with flags": message(5, 0x41, 2),
      "PIC master 1": pin(5, 0, 1),
      "PIC master 8": pin(5, 0, 8),
      "PIC slave 1": pin(5, 1, 1),
      "IOAPIC 3": pin(5, 2, 3),
      "IOAPIC 24": pin(5, 2, 24),
      "chip 3": pin(5, 3, 0),
      "pin with flags": pin(5, 2, 3, 1, 1),
      "type 0": pin(5, 2, 3, 0),
      "type 3": pin(5, 2, 3, 3),
      "type 4": pin(5, 2, 3, 4),
      "type 5": pin(5, 2, 3, 5),
      "type 6": pin(5, 2, 3, 6),
    };
    const answers: Answers = {};
    for (const [name, entry] of Object.entries(entries)) {
      answers[name] = named(process.ioctl(vm, KVM_SET_GSI_ROUTING, table(entry)));
      for (const [other, second] of Object.entries(entries))
        answers[`${name} and ${other}`] = named(process.ioctl(vm, KVM_SET_GSI_ROUTING, table(entry, second)));
    }
    return answers;
  });

  agreement("limits and irqchip modes", (process) => {
    const answers: Answers = {};
    for (const mode of modes) {
      const { vm } = makeVm(process, mode);
      const set = (bytes: Uint8Array) => named(process.ioctl(vm, KVM_SET_GSI_ROUTING, bytes));
      const header = (nr: number, flags = 0) => {
        const bytes = new Uint8Array(8);
        store32(bytes, 0, nr);
        store32(bytes, 4, flags);
        return bytes;
      };
      answers[mode] = [
        set(table()),
        set(table(message(4095, 1))),
        set(table(message(4096, 1))),
        set(table(message(0xffffffff, 1))),
        set(table(pin(0, 2, 0))),
        set(header(0, 1)),
        set(header(1)),
        set(header(4097)),
        set(header(0xffffffff)),
        set(new Uint8Array(7)),
      ];
    }
    return answers;
  });
});

describe("irqfd", () => {
  agreement("arguments, by irqchip mode", (process) => {
    const answers: Answers = {};
    for (const mode of modes) {
      const { kvm, vm } = makeVm(process, mode);
      const [a, b] = [process.eventfd2(0, NONBLOCK), process.eventfd2(0, NONBLOCK)];
      const ask = (name: string, ...args: [fd: number, gsi: number, flags?: number, resamplefd?: number]) =>
        (answers[`${mode}: ${name}`] = irqfd(process, vm, ...args));
      ask("assign", a, 5);
      ask("assign again", a, 5);
      ask("assign to another GSI", a, 6);
      ask("another to the same GSI", b, 5);
      ask("deassign from a GSI it has not", a, 6, KVM_IRQFD_FLAG_DEASSIGN);
      ask("deassign", a, 5, KVM_IRQFD_FLAG_DEASSIGN);
      ask("deassign again", a, 5, KVM_IRQFD_FLAG_DEASSIGN);
      ask("no descriptor", 999, 5);
      ask("no eventfd", kvm, 5);
      ask("deassign no descriptor", 999, 5, KVM_IRQFD_FLAG_DEASSIGN);
      ask("deassign no eventfd", kvm, 5, KVM_IRQFD_FLAG_DEASSIGN);
      ask("unknown flag", a, 5, 4);
      ask("resample", a, 5, KVM_IRQFD_FLAG_RESAMPLE, b);
      ask("resample without a descriptor", a, 6, KVM_IRQFD_FLAG_RESAMPLE, 999);
      ask("resample to what is no eventfd", a, 6, KVM_IRQFD_FLAG_RESAMPLE, kvm);
      ask("deassign a resampling one", a, 5, KVM_IRQFD_FLAG_DEASSIGN);
      ask("a GSI that nothing routes", a, 0xffffffff);
      answers[`${mode}: short`] = named(process.ioctl(vm, KVM_IRQFD, new Uint8Array(31)));
    }
    return answers;
  });

  contract("a signal is delivered exactly once, and the counter is taken", (process) => {
    const { vm, vcpus } = makeVm(process, "kernel");
    const fd = process.eventfd2(0, NONBLOCK);
    process.ioctl(vm, KVM_SET_GSI_ROUTING, table(message(24, 0x41)));
    expect(irqfd(process, vm, fd, 24)).toBe(0);
    process.write(fd, one);
    expect(lapicVectors(process, vcpus[0]).irr).toEqual([0x41]);
    expect(named(process.read(fd, new Uint8Array(8)))).toBe("EAGAIN");
    clearLapic(process, vcpus[0]);
    process.settle();
    expect(lapicVectors(process, vcpus[0]).irr).toEqual([]);
  });

  contract(
    "an eventfd that was signalled before is injected, and keeps its counter until the irqfd leaves",
    (process) => {
      const { vm, vcpus } = makeVm(process, "kernel");
      const fd = process.eventfd2(3, NONBLOCK);
      process.ioctl(vm, KVM_SET_GSI_ROUTING, table(message(24, 0x41)));
      irqfd(process, vm, fd, 24);
      process.settle();
      expect(lapicVectors(process, vcpus[0]).irr).toEqual([0x41]);
      const poll = [{ fd, events: 1, revents: 0 }];
      expect(process.poll(poll, 0)).toBe(1);
      expect(irqfd(process, vm, fd, 24, KVM_IRQFD_FLAG_DEASSIGN)).toBe(0);
      expect(process.poll(poll, 0)).toBe(0);
    },
  );

  contract(
    "a route that changes changes what a signal does; without one the signal is swallowed",
    (process) => {
      const { vm, vcpus } = makeVm(process, "kernel");
      const fd = process.eventfd2(0, NONBLOCK);
      irqfd(process, vm, fd, 24);
      const signalled = (routes: Uint8Array) => {
        process.ioctl(vm, KVM_SET_GSI_ROUTING, routes);
        process.write(fd, one);
        process.settle();
        const { irr } = lapicVectors(process, vcpus[0]);
        clearLapic(process, vcpus[0]);
        return irr;
      };
      redirect(process, vm, { 4: 0x70n });
      expect(signalled(table(message(24, 0x41)))).toEqual([0x41]);
      expect(signalled(table(message(24, 0x42)))).toEqual([0x42]);
      expect(signalled(table(pin(24, IOAPIC, 4)))).toEqual([0x70]);
      expect(signalled(table())).toEqual([]);
      expect(named(process.read(fd, new Uint8Array(8)))).toBe("EAGAIN");
    },
  );

  contract(
    "a closed eventfd takes its irqfd along: the number, opened anew, is another eventfd",
    (process) => {
      const { vm } = makeVm(process, "kernel");
      const fd = process.eventfd2(0, NONBLOCK);
      expect(irqfd(process, vm, fd, 24)).toBe(0);
      process.close(fd);
      process.settle();
      const again = process.eventfd2(0, NONBLOCK);
      expect(again).toBe(fd);
      expect(irqfd(process, vm, again, 24)).toBe(0);
    },
  );

  contract(
    "resampling holds the line until somebody lets go: deassign of the last one lowers it",
    (process) => {
      const { vm } = makeVm(process, "kernel");
      redirect(process, vm, { 20: 0x8055n });
      const [a, b, resample] = [0, 1, 2].map(() => process.eventfd2(0, NONBLOCK));
      expect(irqfd(process, vm, a, 20, KVM_IRQFD_FLAG_RESAMPLE, resample)).toBe(0);
      expect(irqfd(process, vm, b, 20, KVM_IRQFD_FLAG_RESAMPLE, resample)).toBe(0);
      const irr = () =>
        (Number.parseInt(chips(process, vm)[2].slice(32, 40).match(/../g)!.reverse().join(""), 16) >> 20) & 1;
      process.write(a, one);
      process.settle();
      expect(irr()).toBe(1);
      irqfd(process, vm, a, 20, KVM_IRQFD_FLAG_DEASSIGN);
      process.settle();
      expect(irr()).toBe(1);
      irqfd(process, vm, b, 20, KVM_IRQFD_FLAG_DEASSIGN);
      process.settle();
      expect(irr()).toBe(0);
      expect(named(process.read(resample, new Uint8Array(8)))).toBe("EAGAIN");
    },
  );
});

describe("irqchips", () => {
  agreement("creation in every order", (process) => {
    const answers: Answers = {};
    for (const mode of modes)
      for (const vcpus of [0, 1]) {
        const { vm } = makeVm(process, mode, vcpus);
        answers[`${mode}, ${vcpus}`] = [
          named(process.ioctl(vm, KVM_CREATE_IRQCHIP, 0)),
          named(process.ioctl(vm, KVM_CREATE_IRQCHIP, 1)),
          process.ioctl(vm, KVM_CREATE_VCPU, 5) >= 0,
          named(process.ioctl(vm, KVM_CREATE_IRQCHIP, 0)),
          ...chips(process, vm),
        ];
      }
    return answers;
  });

  agreement("what KVM_SET_IRQCHIP takes, bit by bit", (process) => {
    const { vm } = makeVm(process, "kernel");
    const answers: Answers = {};
    for (const [chip_id, length] of [
      [0, 16],
      [1, 16],
      [IOAPIC, 40],
      [3, 1],
    ])
      for (let byte = 0; byte < length; byte++)
        for (const value of [0, 0x55, 0xff]) {
          const chip = KvmIrqchip.encode({ chip_id });
          chip[8 + byte] = value;
          answers[`chip ${chip_id} byte ${byte} = ${value}`] = [
            named(process.ioctl(vm, KVM_SET_IRQCHIP, chip)),
            ...chips(process, vm),
          ];
        }
    return answers;
  });

  agreement("KVM_SET_LAPIC keeps what it is given, but for what is computed", (process) => {
    const { vcpus } = makeVm(process, "kernel");
    const answers: Answers = {};
    for (let offset = 0; offset < 0x400; offset += 0x10) {
      // The timer's registers start a timer, whose count nobody can compare.
      if (offset >= 0x320 && offset <= 0x3e0) continue;
      for (const value of [0, 0x55555555, 0xffffffff]) {
        const result = named(setLapic(process, vcpus[0], { [offset]: value }));
        answers[`${offset.toString(16)} = ${value.toString(16)}`] = [result, lapicVectors(process, vcpus[0])];
      }
      clearLapic(process, vcpus[0]);
    }
    return answers;
  });
});
