/** Dirty rings: what a guest wrote, collected and given back. */
import { describe, expect, test } from "vitest";
import { EINVAL, ENXIO } from "../../lib/abi/errno.ts";
import {
  KVM_CAP_DIRTY_LOG_RING,
  KVM_ENABLE_CAP,
  KVM_EXIT_DIRTY_RING_FULL,
  KVM_EXIT_HLT,
  KVM_GET_DIRTY_LOG,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_RESET_DIRTY_RINGS,
  KVM_SET_USER_MEMORY_REGION,
  KvmEnableCap,
  KvmUserspaceMemoryRegion,
} from "../../lib/abi/kvm.ts";
import { load32, loadNumber64 } from "../../lib/abi/struct.ts";
import { DirtyRing } from "../../lib/kvm/dirty-ring.ts";
import { defaultProfile } from "../../lib/machine/default-profile.ts";
import { Machine } from "../../lib/machine/machine.ts";
import type { Profile } from "../../lib/machine/profile.ts";
import { Guest } from "./x86/guest.ts";
import { mainline } from "./x86/vm.ts";

const DIRTY = 1;
const RESET = 2;
const SLOT = 3;
const LOGGED = 0x10_0000;
const RING = 4096;
const ENTRIES = RING / 16;
/** entries after which a vCPU stops */
const SOFT_LIMIT = ENTRIES - 64;
const HLT = 0xf4;
/** mov byte [LOGGED + page · 4096 + offset], 1 */
const write = (page: number, offset = 0) => {
  const address = LOGGED + 4096 * page + offset;
  return [0xc6, 0x05, address & 0xff, (address >> 8) & 0xff, (address >> 16) & 0xff, address >>> 24, 1];
};
/** again: mov byte [edi], 1; add edi, 4096; dec ecx; jnz again; hlt */
const writePages = [0xc6, 0x07, 1, 0x81, 0xc7, 0, 0x10, 0, 0, 0x49, 0x75, 0xf4, HLT];

function started(profile: Profile, flags = KVM_MEM_LOG_DIRTY_PAGES) {
  const process = new Machine(profile).process();
  const guest = new Guest(process, "prot32", (vm) => {
    const args = [BigInt(RING), 0n, 0n, 0n];
    expect(
      process.ioctl(vm, KVM_ENABLE_CAP, KvmEnableCap.encode({ cap: KVM_CAP_DIRTY_LOG_RING, args })),
    ).toBe(0);
  });
  const userspace_addr = process.mmap(0, 0x20_0000, 3, 0x22, -1, 0);
  const region = { slot: SLOT, flags, guest_phys_addr: LOGGED, memory_size: 0x20_0000, userspace_addr };
  process.ioctl(guest.vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(region));
  const ring = process.memory(process.mmap(0, RING, 3, 1, guest.vcpu, 64 * 4096), RING)!;
  /** the entries that wait: slot and page */
  const dirty = () =>
    Array.from({ length: ENTRIES }, (_, i) => 16 * i)
      .filter((at) => load32(ring, at) === DIRTY)
      .map((at) => [load32(ring, at + 4), loadNumber64(ring, at + 8)]);
  const collect = () => {
    for (let at = 0; at < RING; at += 16) if (load32(ring, at) === DIRTY) ring[at] = RESET;
    return process.ioctl(guest.vm, KVM_RESET_DIRTY_RINGS, 0);
  };
  return { process, guest, ring, dirty, collect };
}

describe("a guest's writes", () => {
  test("a processor: each page once, until its entry was given back", () => {
    const { guest, dirty, collect } = started(mainline);
    guest.code(...write(0), ...write(0, 8), ...write(2), ...write(0), HLT);
    const both = [
      [SLOT, 0],
      [SLOT, 2],
    ];
    for (const expected of [both, both]) {
      guest.registers({});
      guest.enter();
      expect(dirty()).toEqual(expected);
    }
    expect(collect()).toBe(2);
    expect(dirty()).toEqual([]);
    guest.registers({});
    guest.enter();
    expect(dirty()).toEqual(both);
  });

  test("pvm's emulator: each write", () => {
    const { guest, dirty, collect } = started(defaultProfile);
    guest.code(...write(0), ...write(0, 8), ...write(2), ...write(0), HLT);
    guest.enter();
    expect(dirty().map(([, page]) => page)).toEqual([0, 0, 2, 0]);
    expect(collect()).toBe(4);
  });

  test("a slot that is not logged has no entries, and a bitmap there is none", () => {
    const { guest, dirty, process } = started(mainline, 0);
    guest.code(...write(0), HLT);
    guest.enter();
    expect(dirty()).toEqual([]);
    expect(process.ioctl(guest.vm, KVM_GET_DIRTY_LOG, new Uint8Array(16))).toBe(-ENXIO);
  });

  test("a read is no write", () => {
    const { guest, dirty } = started(mainline);
    guest.code(0xa0, 0, 0, 0x10, 0, HLT);
    guest.enter();
    expect(dirty()).toEqual([]);
  });
});

describe("a full ring", () => {
  test("a processor stops behind the write that fills it, again and again until entries are back", () => {
    const { guest, dirty, collect } = started(mainline);
    guest.code(...writePages).registers({ rdi: LOGGED, rcx: SOFT_LIMIT + 2 });
    for (let i = 0; i < 2; i++) {
      expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_DIRTY_RING_FULL]);
      expect([dirty().length, guest.register("rip")]).toEqual([SOFT_LIMIT, 0x1003n]);
    }
    expect(collect()).toBe(SOFT_LIMIT);
    guest.enter();
    expect([guest.exitReason, dirty().length]).toEqual([KVM_EXIT_HLT, 2]);
  });

  test("pvm looks every 1024 instructions, here 256 writes", () => {
    const { guest, dirty } = started(defaultProfile);
    guest.code(...writePages).registers({ rdi: LOGGED, rcx: 300 });
    guest.enter();
    expect([guest.exitReason, dirty().length, guest.register("rcx")]).toEqual([
      KVM_EXIT_DIRTY_RING_FULL,
      256,
      44n,
    ]);
  });
});

describe("KVM_RESET_DIRTY_RINGS", () => {
  test("EINVAL without rings", () => {
    const process = new Machine(mainline).process();
    const guest = new Guest(process, "prot32");
    expect(process.ioctl(guest.vm, KVM_RESET_DIRTY_RINGS, 0)).toBe(-EINVAL);
  });

  test("takes entries in their order, up to the first that was not collected", () => {
    const ring = new DirtyRing(RING);
    for (let page = 0; page < 4; page++) ring.push(1, page);
    for (const index of [0, 1, 3]) ring.bytes[16 * index] = RESET;
    const given: number[] = [];
    expect(ring.reset((_slot, page) => given.push(page))).toBe(2);
    expect(given).toEqual([0, 1]);
    ring.bytes[32] = RESET;
    expect(ring.reset((_slot, page) => given.push(page))).toBe(2);
    expect(given).toEqual([0, 1, 2, 3]);
  });

  test("goes round", () => {
    const ring = new DirtyRing(RING);
    for (let page = 0; page < 1000; page++) {
      ring.push(1, page);
      const at = 16 * (page % ENTRIES);
      expect([load32(ring.bytes, at), loadNumber64(ring.bytes, at + 8)]).toEqual([DIRTY, page]);
      ring.bytes[at] = RESET;
      expect(ring.reset(() => {})).toBe(1);
      expect(ring.full).toBe(false);
    }
  });
});
