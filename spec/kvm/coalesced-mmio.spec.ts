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
