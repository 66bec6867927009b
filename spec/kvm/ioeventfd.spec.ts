import fc from "fast-check";
import { expect, test } from "vitest";
import { KVM_IOEVENTFD, KvmIoeventfd } from "../../lib/abi/kvm.ts";
import type { EventFd } from "../../lib/kernel/eventfd.ts";
import type { VmFile } from "../../lib/kvm/vm.ts";
import { testVm } from "./vm.ts";

const EINVAL = 22;
const EEXIST = 17;
const ENOENT = 2;
const DATAMATCH = 1;
const PIO = 2;
const DEASSIGN = 4;

interface Registration {
  bus: "mmio" | "pio";
  addr: number;
  len: number;
  fd: number;
  /** undefined: any value */
  match: bigint | undefined;
}

/** What the documentation says, over a plain list: who collides, who is removed, who is told of a write. */
class Twin {
  list: Registration[] = [];

  assign(entry: Registration): number {
    if (![0, 1, 2, 4, 8].includes(entry.len)) return -EINVAL;
    if (entry.len === 0 && entry.match !== undefined) return -EINVAL;
    const taken = this.list.some(
      (other) =>
        other.bus === entry.bus &&
        other.addr === entry.addr &&
        (other.len === 0 ||
          entry.len === 0 ||
          (other.len === entry.len &&
            (other.match === undefined || entry.match === undefined || other.match === entry.match))),
    );
    if (taken) return -EEXIST;
    this.list.push(entry);
    return 0;
  }

  deassign(entry: Registration): number {
    const index = this.list.findIndex(
      (other) =>
        other.bus === entry.bus &&
        other.addr === entry.addr &&
        other.len === entry.len &&
        other.fd === entry.fd &&
        other.match === entry.match,
    );
    if (index < 0) return -ENOENT;
    this.list.splice(index, 1);
    return 0;
  }

  told(bus: string, addr: number, len: number, value: bigint): number[] {
    return this.list
      .filter(
        (entry) =>
          entry.bus === bus &&
          entry.addr === addr &&
          (entry.len === 0 || entry.len === len) &&
          (entry.match === undefined || entry.match === value),
      )
      .map(({ fd }) => fd);
  }
}

const registration = fc.record({
  bus: fc.constantFrom("mmio" as const, "mmio" as const, "pio" as const),
  addr: fc.constantFrom(0x1000, 0x2000),
  len: fc.constantFrom(0, 1, 2, 4, 8, 3),
  fd: fc.constantFrom(0, 1),
  match: fc.constantFrom<bigint | undefined>(undefined, undefined, 1n, 0x101n),
});
const step = fc.oneof(
  fc.record({
    kind: fc.constantFrom("assign" as const, "assign" as const, "deassign" as const),
    entry: registration,
  }),
  fc.record({
    kind: fc.constant("write" as const),
    bus: fc.constantFrom("mmio" as const, "mmio" as const, "pio" as const),
    addr: fc.constantFrom(0x1000, 0x2000),
    len: fc.constantFrom(1, 2, 4, 8),
    value: fc.constantFrom(1n, 0x101n),
  }),
);

test("against a twin that is a list: answers, and exactly who is told of a write", () => {
  let hits = 0;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
      const { process, vm } = testVm();
      const fds = [process.eventfd2(0, 0x800), process.eventfd2(0, 0x800)];
      const { buses } = (process.fds.get(vm) as VmFile).vm;
      const twin = new Twin();
      for (const action of steps) {
        if (action.kind !== "write") {
          const { bus, addr, len, fd, match } = action.entry;
          const flags =
            (match === undefined ? 0 : DATAMATCH) |
            (bus === "pio" ? PIO : 0) |
            (action.kind === "deassign" ? DEASSIGN : 0);
          const args = KvmIoeventfd.encode({ datamatch: match ?? 0x55n, addr, len, fd: fds[fd], flags });
          expect(process.ioctl(vm, KVM_IOEVENTFD, args)).toBe(twin[action.kind](action.entry));
          continue;
        }
        const data = new Uint8Array(8);
        new DataView(data.buffer).setBigUint64(0, action.value, true);
        // An access of a guest goes to the bus of any-length writes first.
        const taken =
          (action.bus === "mmio" && buses["fast-mmio"].write(action.addr, 0, data, 0)) ||
          buses[action.bus].write(action.addr, action.len, data, 0);
        const told = twin.told(
          action.bus,
          action.addr,
          action.len,
          BigInt.asUintN(8 * action.len, action.value),
        );
        expect(taken).toBe(told.length > 0);
        expect(told.length).toBeLessThanOrEqual(1);
        hits += told.length;
        const counters = fds.map((fd) => (process.fds.get(fd) as EventFd).lo);
        expect(counters).toEqual([0, 1].map((fd) => told.filter((other) => other === fd).length));
        for (const fd of fds) process.read(fd, new Uint8Array(8));
      }
    }),
    { numRuns: 2000 },
  );
  expect(hits).toBeGreaterThan(200);
});

test("a range that holds others, of which the search meets the narrower first, does not hide them", () => {
  const { process, vm } = testVm();
  const fd = process.eventfd2(0, 0x800);
  const { buses } = (process.fds.get(vm) as VmFile).vm;
  for (const [addr, len] of [
    [0x1004, 1],
    [0x1004, 4],
    [0x1000, 8],
  ])
    expect(process.ioctl(vm, KVM_IOEVENTFD, KvmIoeventfd.encode({ addr, len, fd }))).toBe(0);
  expect(buses.mmio.write(0x1004, 4, new Uint8Array(8), 0)).toBe(true);
  expect((process.fds.get(fd) as EventFd).lo).toBe(1);
});

test("a write lies inside one registration exactly: neither wider nor narrower, nor one byte off", () => {
  const { process, vm } = testVm();
  const fd = process.eventfd2(0, 0x800);
  expect(process.ioctl(vm, KVM_IOEVENTFD, KvmIoeventfd.encode({ addr: 0x1000, len: 4, fd }))).toBe(0);
  const { buses } = (process.fds.get(vm) as VmFile).vm;
  const data = new Uint8Array(8);
  const answers = [
    [0x1000, 4],
    [0x1000, 2],
    [0x1000, 8],
    [0x1001, 2],
    [0x0fff, 4],
  ].map(([addr, len]) => buses.mmio.write(addr, len, data, 0));
  expect(answers).toEqual([true, false, false, false, false]);
  expect((process.fds.get(fd) as EventFd).lo).toBe(1);
});
