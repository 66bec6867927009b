/** How much a bus holds, with the kernel's own chips on it, and what a range that was removed leaves (virt/kvm/kvm_main.c). */
import { describe, expect, test } from "vitest";
import { errnoName } from "../../lib/abi/errno.ts";
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_IOEVENTFD,
  KVM_REGISTER_COALESCED_MMIO,
  KVM_UNREGISTER_COALESCED_MMIO,
  KvmCoalescedMmioZone,
  KvmIoeventfd,
} from "../../lib/abi/kvm.ts";
import { KVM_CREATE_PIT2, KvmPitConfig } from "../../lib/abi/kvm-x86.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import type { VmFile } from "../../lib/kvm/vm.ts";
import { contract } from "../contract/contract.ts";
import { testVm } from "./vm.ts";

const named = (result: number) => (result < 0 ? errnoName(-result) : result);
const SPEAKER = 1;

function newVm(process: Syscalls) {
  const vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
  const zone = (request: typeof KVM_REGISTER_COALESCED_MMIO, addr: number | bigint, size: number, pio = 0) =>
    named(process.ioctl(vm, request, KvmCoalescedMmioZone.encode({ addr: BigInt(addr), size, pio })));
  return {
    vm,
    zone,
    /** Registers zones until none fits: how many did. */
    fill(pio: number): number {
      let count = 0;
      while (zone(KVM_REGISTER_COALESCED_MMIO, count, 1, pio) === 0 && count < 2000) count++;
      return count;
    },
    irqchip: () => named(process.ioctl(vm, KVM_CREATE_IRQCHIP, 0)),
    pit: (flags: number) => named(process.ioctl(vm, KVM_CREATE_PIT2, KvmPitConfig.encode({ flags }))),
  };
}

describe("a bus holds a thousand ranges", () => {
  contract("the chips' among them: one of the IOAPIC, three of the PIC, one or two of the PIT", (process) => {
    const bare = newVm(process);
    expect([bare.fill(0), bare.fill(1)]).toEqual([1000, 1000]);
    const chips = newVm(process);
    expect(chips.irqchip()).toBe(0);
    expect([chips.fill(0), chips.fill(1)]).toEqual([999, 997]);
    for (const flags of [0, SPEAKER]) {
      const all = newVm(process);
      expect([all.irqchip(), all.pit(flags)]).toEqual([0, 0]);
      expect([all.fill(0), all.fill(1)]).toEqual([999, flags === SPEAKER ? 995 : 996]);
    }
  });

  contract("a PIT for which there is no room is not made: ENOMEM", (process) => {
    for (const flags of [0, SPEAKER])
      for (const room of [0, 1, 2]) {
        const { irqchip, pit, fill, zone } = newVm(process);
        expect([irqchip(), fill(1)]).toEqual([0, 997]);
        for (let i = 0; i < room; i++) expect(zone(KVM_UNREGISTER_COALESCED_MMIO, i, 1, 1)).toBe(0);
        const enough = room > (flags === SPEAKER ? 1 : 0);
        expect([flags, room, pit(flags)]).toEqual([flags, room, enough ? 0 : "ENOMEM"]);
        if (!enough) {
          // what was taken for the other half is free again
          let free = 0;
          while (zone(KVM_REGISTER_COALESCED_MMIO, 5000 + free, 1, 1) === 0) free++;
          expect(free).toBe(room);
        }
      }
  });

  // not asked of the real kernel, which takes milliseconds for each
  test("what is removed makes room, however often", () => {
    const { fill, zone } = newVm(testVm().process);
    for (let i = 0; i < 1500; i++) {
      expect(zone(KVM_REGISTER_COALESCED_MMIO, 0x6000, 8)).toBe(0);
      expect(zone(KVM_UNREGISTER_COALESCED_MMIO, 0x6000, 8)).toBe(0);
    }
    expect(fill(0)).toBe(1000);
  });
});

contract("an ioeventfd of any length can be assigned again after it was taken away", (process) => {
  const { vm } = newVm(process);
  const fd = process.eventfd2(0, 0);
  for (const pio of [0, 2])
    for (const len of [0, 1, 2, 4, 8])
      for (let round = 0; round < 2; round++)
        for (const [flags, expected] of [
          [pio, 0],
          [pio, "EEXIST"],
          [pio | 4, 0],
          [pio | 4, "ENOENT"],
        ] as const) {
          const request = KvmIoeventfd.encode({ addr: 0x100n, len, fd, flags });
          expect([pio, len, flags, named(process.ioctl(vm, KVM_IOEVENTFD, request))]).toEqual([
            pio,
            len,
            flags,
            expected,
          ]);
        }
});

describe("coalesced zones (virt/kvm/coalesced_mmio.c:coalesced_mmio_in_range)", () => {
  const world = () => {
    const { process, vm } = testVm();
    process.ioctl(vm, KVM_CREATE_VCPU, 0);
    const { buses } = (process.fds.get(vm) as VmFile).vm;
    const zone = (request: typeof KVM_REGISTER_COALESCED_MMIO, addr: bigint, size: number) =>
      process.ioctl(vm, request, KvmCoalescedMmioZone.encode({ addr, size, pio: 0 }));
    return { buses, zone };
  };

  test("one without a size takes no access", () => {
    const { buses, zone } = world();
    expect(zone(KVM_REGISTER_COALESCED_MMIO, 0x6000n, 0)).toBe(0);
    for (let address = 0x5ff8; address < 0x6008; address++)
      for (const length of [1, 2, 4, 8])
        expect(buses.mmio.write(address, length, new Uint8Array(8), 0)).toBe(false);
  });

  test("a range that wraps at the end of addresses takes none away", () => {
    const { buses, zone } = world();
    const last = 2n ** 64n;
    expect(zone(KVM_REGISTER_COALESCED_MMIO, 0x6000n, 0x1000)).toBe(0);
    for (const [from, size] of [
      [last - 1n, 1],
      [last - 1n, 0x6001],
      [last - 0x1000n, 0x7000],
      [last - 0x1000n, 0x7fff],
    ] as const)
      expect(zone(KVM_UNREGISTER_COALESCED_MMIO, from, size)).toBe(0);
    expect(buses.mmio.write(0x6000, 4, new Uint8Array(8), 0)).toBe(true);
    expect(zone(KVM_UNREGISTER_COALESCED_MMIO, 0x6000n, 1)).toBe(0);
    expect(buses.mmio.write(0x6000, 4, new Uint8Array(8), 0)).toBe(false);
  });
});
