import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
  KVM_CLEAR_DIRTY_LOG,
  KVM_ENABLE_CAP,
  KVM_GET_DIRTY_LOG,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  KVM_SET_USER_MEMORY_REGION,
  KvmClearDirtyLog,
  KvmDirtyLog,
  KvmEnableCap,
  KvmUserspaceMemoryRegion,
} from "../../lib/abi/kvm.ts";
import type { VmFile } from "../../lib/kvm/vm.ts";
import { testVm } from "./vm.ts";

const PAGE = 4096;
const EINVAL = 22;
const EEXIST = 17;
const ENOENT = 2;
const EFAULT = 14;

interface Region {
  slot: number;
  flags: number;
  page: number;
  pages: number;
  user: number;
}

const encode = ({ slot, flags, page, pages, user }: Region) =>
  KvmUserspaceMemoryRegion.encode({
    slot,
    flags,
    guest_phys_addr: page * PAGE,
    memory_size: pages * PAGE,
    userspace_addr: user * PAGE,
  });

/** Every rule of __kvm_set_memory_region that the space below can reach, over a plain list. */
class Twin {
  readonly slots = new Map<number, Region>();

  set(region: Region): number {
    const old = this.slots.get(region.slot);
    if ((region.flags & ~3) !== 0) return -EINVAL;
    if (region.pages === 0) {
      if (old === undefined) return -EINVAL;
      this.slots.delete(region.slot);
      return 0;
    }
    if (old !== undefined) {
      const same = old.pages === region.pages && old.user === region.user;
      if (!same || ((old.flags ^ region.flags) & KVM_MEM_READONLY) !== 0) return -EINVAL;
    }
    if (old === undefined || old.page !== region.page)
      for (const other of this.slots.values())
        if (
          other.slot !== region.slot &&
          other.page < region.page + region.pages &&
          region.page < other.page + other.pages
        )
          return -EEXIST;
    this.slots.set(region.slot, region);
    return 0;
  }

  find(page: number): Region | undefined {
    return [...this.slots.values()].find((slot) => page >= slot.page && page < slot.page + slot.pages);
  }
}

const region: fc.Arbitrary<Region> = fc.record({
  slot: fc.integer({ min: 0, max: 3 }),
  flags: fc.constantFrom(0, 0, 1, 2, 3, 4),
  page: fc.integer({ min: 0, max: 9 }),
  pages: fc.integer({ min: 0, max: 4 }),
  user: fc.constantFrom(256, 512),
});

test("slots against a twin that is a list: every answer, and where every frame leads", () => {
  let accepted = 0;
  fc.assert(
    fc.property(fc.array(region, { minLength: 1, maxLength: 20 }), (regions) => {
      const { process, vm } = testVm();
      const twin = new Twin();
      const { slots } = (process.fds.get(vm) as VmFile).vm;
      for (const entry of regions) {
        const result = process.ioctl(vm, KVM_SET_USER_MEMORY_REGION, encode(entry));
        expect(result).toBe(twin.set(entry));
        if (result === 0) accepted++;
        for (let page = 0; page < 16; page++) {
          const expected = twin.find(page);
          expect(slots.userAddress(page * PAGE + 5)).toBe(
            expected === undefined ? -1 : (expected.user + page - expected.page) * PAGE + 5,
          );
        }
        expect(
          slots
            .list()
            .map(({ id }) => id)
            .sort(),
        ).toEqual([...twin.slots.keys()].sort());
      }
    }),
    { numRuns: 500 },
  );
  expect(accepted).toBeGreaterThan(1000);
});

describe("limits", () => {
  const at = (given: NonNullable<Parameters<typeof KvmUserspaceMemoryRegion.encode>[0]>) => {
    const { process, vm } = testVm();
    return process.ioctl(
      vm,
      KVM_SET_USER_MEMORY_REGION,
      KvmUserspaceMemoryRegion.encode({ memory_size: PAGE, userspace_addr: 0x100000, ...given }),
    );
  };

  test.each([
    ["the last slot", { slot: 32763 }, 0],
    ["one slot more", { slot: 32764 }, -EINVAL],
    ["another address space", { slot: 0x10000 }, -EINVAL],
    ["a crooked guest address", { guest_phys_addr: 1 }, -EINVAL],
    ["a crooked size", { memory_size: PAGE + 1 }, -EINVAL],
    ["a crooked user address", { userspace_addr: 0x100001 }, -EINVAL],
    ["a user address in the kernel's half", { userspace_addr: 0xffff800000000000n }, -EINVAL],
    ["a range that wraps", { guest_phys_addr: 0xfffffffffffff000n, memory_size: 2 * PAGE }, -EINVAL],
    ["a range that ends at 2^64", { guest_phys_addr: 0xfffffffffffff000n }, -EINVAL],
    ["the last page of 52 bits", { guest_phys_addr: 0xffffffffff000n }, 0],
    ["one page beyond 52 bits", { guest_phys_addr: 0x10000000000000n }, -EINVAL],
    ["2^31 pages", { memory_size: 2n ** 43n }, -EINVAL],
  ])("%s", (_name, given, expected) => {
    expect(at(given)).toBe(expected);
  });

  test("a struct that is cut short is EFAULT", () => {
    const { process, vm } = testVm();
    expect(process.ioctl(vm, KVM_SET_USER_MEMORY_REGION, new Uint8Array(31))).toBe(-EFAULT);
  });
});

describe("dirty log", () => {
  const PAGES = 70;
  function logged(flags = KVM_MEM_LOG_DIRTY_PAGES) {
    const test = testVm();
    const set = (value: number) =>
      test.process.ioctl(
        test.vm,
        KVM_SET_USER_MEMORY_REGION,
        encode({ slot: 1, flags: value, page: 100, pages: PAGES, user: 256 }),
      );
    expect(set(flags)).toBe(0);
    const bitmap = new Uint8Array(24).fill(0xee);
    const address = test.process.addressOf(bitmap);
    const get = (dirty_bitmap = address) =>
      test.process.ioctl(test.vm, KVM_GET_DIRTY_LOG, KvmDirtyLog.encode({ slot: 1, dirty_bitmap }));
    const { slots } = (test.process.fds.get(test.vm) as VmFile).vm;
    return { ...test, set, bitmap, address, get, slots };
  }

  test("whole 64-bit words are written, and a page is reported once", () => {
    const { get, bitmap, slots } = logged();
    for (const page of [100, 107, 108, 169, 170]) slots.markDirty(page);
    expect(get()).toBe(0);
    expect([...bitmap]).toEqual([
      0x81,
      1,
      0,
      0,
      0,
      0,
      0,
      0,
      0x20,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      ...new Array(8).fill(0xee),
    ]);
    expect(get()).toBe(0);
    expect(bitmap.subarray(0, 16).every((byte) => byte === 0)).toBe(true);
  });

  test("ENOENT without a log, EFAULT at the exact end; the log starts anew all the same", () => {
    const none = logged(0);
    expect(none.get()).toBe(-ENOENT);
    const { get, bitmap, address, slots } = logged();
    slots.markDirty(100);
    expect(get(address + 9)).toBe(-EFAULT);
    slots.markDirty(101);
    expect(get(address + 8)).toBe(0);
    expect(bitmap[8]).toBe(2);
  });

  test("the log starts anew when logging is turned off and on", () => {
    const { set, get, bitmap, slots } = logged();
    slots.markDirty(100);
    expect([set(0), get(), set(KVM_MEM_LOG_DIRTY_PAGES), get()]).toEqual([0, -ENOENT, 0, 0]);
    expect(bitmap[0]).toBe(0);
  });

  test("manual protection: a page stays reported until it is cleared by hand", () => {
    const { process, vm } = testVm();
    const enable = (value: number) =>
      process.ioctl(
        vm,
        KVM_ENABLE_CAP,
        KvmEnableCap.encode({ cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, args: [value, 0, 0, 0] }),
      );
    expect([enable(4), enable(2), enable(1)]).toEqual([-EINVAL, -EINVAL, 0]);
    const { slots } = (process.fds.get(vm) as VmFile).vm;
    process.ioctl(
      vm,
      KVM_SET_USER_MEMORY_REGION,
      encode({ slot: 1, flags: 1, page: 100, pages: PAGES, user: 256 }),
    );
    for (const page of [100, 101, 164]) slots.markDirty(page);
    const bitmap = new Uint8Array(16);
    const dirty_bitmap = process.addressOf(bitmap);
    const get = () => process.ioctl(vm, KVM_GET_DIRTY_LOG, KvmDirtyLog.encode({ slot: 1, dirty_bitmap }));
    const clear = (first_page: number, num_pages: number) =>
      process.ioctl(
        vm,
        KVM_CLEAR_DIRTY_LOG,
        KvmClearDirtyLog.encode({ slot: 1, first_page, num_pages, dirty_bitmap }),
      );
    expect([get(), get(), bitmap[0], bitmap[8]]).toEqual([0, 0, 3, 1]);
    bitmap.fill(0);
    bitmap[0] = 2;
    expect([clear(1, 64), clear(0, 63), clear(64, 64), clear(128, 0)]).toEqual([
      -EINVAL,
      -EINVAL,
      -EINVAL,
      -EINVAL,
    ]);
    expect(clear(0, 64)).toBe(0);
    expect([get(), bitmap[0], bitmap[8]]).toEqual([0, 1, 1]);
    bitmap.fill(0xff);
    expect(clear(64, PAGES - 64)).toBe(0);
    expect([get(), bitmap[0], bitmap[8]]).toEqual([0, 1, 0]);
  });
});
