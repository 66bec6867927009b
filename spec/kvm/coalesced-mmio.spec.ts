import { expect, test } from "vitest";
import {
  KVM_CREATE_VCPU,
  KVM_REGISTER_COALESCED_MMIO,
  KVM_UNREGISTER_COALESCED_MMIO,
  KvmCoalescedMmioZone,
} from "../../lib/abi/kvm.ts";
import type { VmFile } from "../../lib/kvm/vm.ts";
import { testVm } from "./vm.ts";

const PAGE = 4096;
const ENTRIES = Math.floor((PAGE - 8) / 24);

function world() {
  const test = testVm();
  const vcpu = test.process.ioctl(test.vm, KVM_CREATE_VCPU, 0);
  const ring = test.process.memory(test.process.mmap(0, PAGE, 3, 1, vcpu, 2 * PAGE), PAGE)!;
  const { buses } = (test.process.fds.get(test.vm) as VmFile).vm;
  const zone = (request: typeof KVM_REGISTER_COALESCED_MMIO, addr: number | bigint, size: number, pio = 0) =>
    test.process.ioctl(test.vm, request, KvmCoalescedMmioZone.encode({ addr, size, pio } as never));
  const view = new DataView(ring.buffer, ring.byteOffset, PAGE);
  return { ...test, ring, view, buses, zone };
}

test("a write becomes an entry of the ring: address, length, port or memory, data", () => {
  const { view, buses, zone } = world();
  expect(zone(KVM_REGISTER_COALESCED_MMIO, 0x6000, 0x100)).toBe(0);
  expect(zone(KVM_REGISTER_COALESCED_MMIO, 0x70, 2, 1)).toBe(0);
  const data = Uint8Array.of(0x11, 0x22, 0x33, 0x44);
  expect([
    buses.mmio.write(0x60fc, 4, data, 0),
    buses.mmio.write(0x60fe, 4, data, 0),
    buses.pio.write(0x71, 1, data, 3),
  ]).toEqual([true, false, true]);
  expect([view.getUint32(0, true), view.getUint32(4, true)]).toEqual([0, 2]);
  expect([
    view.getBigUint64(8, true),
    view.getUint32(16, true),
    view.getUint32(20, true),
    view.getUint32(24, true),
  ]).toEqual([0x60fcn, 4, 0, 0x44332211]);
  expect([
    view.getBigUint64(32, true),
    view.getUint32(40, true),
    view.getUint32(44, true),
    view.getUint8(48),
  ]).toEqual([0x71n, 1, 1, 0x44]);
});

test("the ring is full with one entry left; room that user space makes is used; it wraps", () => {
  const { view, buses, zone } = world();
  zone(KVM_REGISTER_COALESCED_MMIO, 0x6000, 0x100);
  const write = () => buses.mmio.write(0x6000, 1, Uint8Array.of(1), 0);
  let taken = 0;
  while (write()) taken++;
  expect(taken).toBe(ENTRIES - 1);
  view.setUint32(0, 2, true);
  expect([write(), write(), write()]).toEqual([true, true, false]);
  expect(view.getUint32(4, true)).toBe(1);
});

test("an index beyond the ring, written by user space, is a full ring", () => {
  const { view, buses, zone } = world();
  zone(KVM_REGISTER_COALESCED_MMIO, 0x6000, 0x100);
  view.setUint32(4, 0xffffffff, true);
  expect(buses.mmio.write(0x6000, 1, Uint8Array.of(1), 0)).toBe(false);
});

test("a zone goes when the range to remove lies in it; removing nothing is no error", () => {
  const { buses, zone } = world();
  zone(KVM_REGISTER_COALESCED_MMIO, 0x6000, 0x100);
  zone(KVM_REGISTER_COALESCED_MMIO, 0x6000, 0x200);
  const count = () => buses.mmio.devices.length;
  expect(count()).toBe(2);
  expect(zone(KVM_UNREGISTER_COALESCED_MMIO, 0x6000, 0x201)).toBe(0);
  expect(zone(KVM_UNREGISTER_COALESCED_MMIO, 0x6000, 0xffffffff)).toBe(0);
  expect(count()).toBe(2);
  expect(zone(KVM_UNREGISTER_COALESCED_MMIO, 0x6080, 0x100)).toBe(0);
  expect(count()).toBe(1);
  expect(zone(KVM_UNREGISTER_COALESCED_MMIO, 0x6000, 0x10)).toBe(0);
  expect(count()).toBe(0);
  expect([zone(KVM_REGISTER_COALESCED_MMIO, 0, 1, 2), zone(KVM_UNREGISTER_COALESCED_MMIO, 0, 1, 2)]).toEqual([
    -22, -22,
  ]);
});

test("the bus takes a thousand zones", () => {
  const { zone } = world();
  const results = Array.from({ length: 1001 }, (_, i) =>
    zone(KVM_REGISTER_COALESCED_MMIO, 0x100000 + i * 16, 16),
  );
  expect(results.filter((result) => result === 0).length).toBe(1000);
  expect(results[1000]).toBe(-28);
});

// virt/kvm/coalesced_mmio.c:coalesced_mmio_in_range (6.1)
test("every access around a zone: it lies inside, with both ends", () => {
  const { view, buses, zone } = world();
  zone(KVM_REGISTER_COALESCED_MMIO, 0x6010, 0x10);
  const data = new Uint8Array(8);
  const wrong: string[] = [];
  for (let address = 0x6000; address < 0x6030; address++)
    for (const length of [1, 2, 4, 8]) {
      view.setUint32(0, view.getUint32(4, true), true); // everything is taken out
      const inside = address >= 0x6010 && address + length <= 0x6020;
      const last = view.getUint32(4, true);
      const taken = buses.mmio.write(address, length, data, 0);
      const moved = view.getUint32(4, true) !== last;
      if (taken !== inside || moved !== inside) wrong.push(`${address.toString(16)} ${length}`);
      if (buses.pio.write(address, length, data, 0)) wrong.push(`port ${address.toString(16)} ${length}`);
    }
  expect(wrong).toEqual([]);
});

// virt/kvm/coalesced_mmio.c:kvm_vm_ioctl_unregister_coalesced_mmio (6.1): zones that hold the range go, of one kind
test("what unregistering a range takes away: every range around a zone, of memory and of ports", () => {
  for (const zonePio of [0, 1])
    for (const pio of [0, 1])
      for (let from = 0x600e; from < 0x6016; from++)
        for (let size = 0; size < 9; size++) {
          const { buses, zone } = world();
          expect(zone(KVM_REGISTER_COALESCED_MMIO, 0x6010, 4, zonePio)).toBe(0);
          expect(zone(KVM_UNREGISTER_COALESCED_MMIO, from, size, pio)).toBe(0);
          const gone = pio === zonePio && from >= 0x6010 && from + size <= 0x6014;
          const bus = zonePio === 1 ? buses.pio : buses.mmio;
          expect([zonePio, pio, from, size, bus.write(0x6010, 4, new Uint8Array(4), 0)]).toEqual([
            zonePio,
            pio,
            from,
            size,
            !gone,
          ]);
        }
});
