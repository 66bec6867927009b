/** Memory of a file for guests: mapped, bound to a slot (virt/kvm/guest_memfd.c, 6.18). */
import { describe, expect, test } from "vitest";
import { errnoName } from "../../lib/abi/errno.ts";
import {
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  KVM_CREATE_GUEST_MEMFD,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_VCPU_MMAP_SIZE,
  KVM_MEM_GUEST_MEMFD,
  KVM_SET_USER_MEMORY_REGION2,
  KvmCreateGuestMemfd,
  KvmUserspaceMemoryRegion2,
} from "../../lib/abi/kvm.ts";
import { builtinHosts } from "../../lib/machine/builtin.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { profileFromHeader } from "../../lib/machine/profile.ts";
import { contract } from "../contract/contract.ts";
import { testVm } from "./vm.ts";

const PAGE = 4096;
const SHARED = 1;
const named = (result: number) => (result < 0 ? errnoName(-result) : result);

const ofPages = (pages: number) =>
  KvmCreateGuestMemfd.encode({
    size: BigInt(pages * PAGE),
    flags: BigInt(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED),
  });

function world() {
  const made = testVm(new Machine(profileFromHeader(builtinHosts.x86_64_7_2_svm)));
  const { process, vm } = made;
  const create = (pages: number, on = vm) => process.ioctl(on, KVM_CREATE_GUEST_MEMFD, ofPages(pages));
  return { ...made, create };
}

describe("mappings", () => {
  test("all of a file show the same bytes, each its part, and keep them when one goes", () => {
    const { process, create } = world();
    const fd = create(4);
    const whole = process.mmap(0, 4 * PAGE, 3, SHARED, fd, 0);
    const part = process.mmap(0, 2 * PAGE, 3, SHARED, fd, PAGE);
    const [one, other] = [process.memory(whole, 4 * PAGE)!, process.memory(part, 2 * PAGE)!];
    for (let page = 0; page < 4; page++) one[page * PAGE] = page + 1;
    expect([other[0], other[PAGE]]).toEqual([2, 3]);
    other[5] = 0x55;
    expect(one[PAGE + 5]).toBe(0x55);
    expect([process.munmap(whole, 4 * PAGE), process.munmap(part, 2 * PAGE)]).toEqual([0, 0]);
    const again = process.memory(process.mmap(0, PAGE, 3, SHARED, fd, PAGE), PAGE)!;
    expect([again[0], again[5]]).toEqual([2, 0x55]);
  });

  contract("one may reach beyond the end of its file: up to there a system call finds memory", (process) => {
    const kvm = process.open("/dev/kvm", 2);
    const vm = process.ioctl(kvm, KVM_CREATE_VM, 0);
    const vcpu = process.ioctl(vm, KVM_CREATE_VCPU, 0);
    const memfd = process.ioctl(vm, KVM_CREATE_GUEST_MEMFD, ofPages(2));
    const eventfd = process.eventfd2(0, 0);
    for (const [fd, pages] of [
      [memfd, 2],
      [vcpu, process.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0) / PAGE],
    ])
      for (const first of [0, 1, pages, pages + 1]) {
        const address = process.mmap(0, 5 * PAGE, 3, SHARED, fd, first * PAGE);
        const written = [0, 1, 2, 3, 4].map((page) =>
          named(process.write(eventfd, address + page * PAGE, 8)),
        );
        expect(written).toEqual([0, 1, 2, 3, 4].map((page) => (first + page < pages ? 8 : "EFAULT")));
        // nor across the end
        const last = address + (pages - first) * PAGE - 4;
        if (first < pages) expect(named(process.write(eventfd, last, 8))).toBe("EFAULT");
        expect(process.munmap(address, 5 * PAGE)).toBe(0);
      }
  });

  test("the program itself takes SIGBUS beyond the end", () => {
    const { process, create } = world();
    const address = process.mmap(0, 3 * PAGE, 3, SHARED, create(2), PAGE);
    const { mm } = process;
    expect([mm.store(address + PAGE - 8, 8, 5n), mm.load(address + PAGE - 8, 8)]).toEqual([0, 5n]);
    for (const at of [PAGE - 4, PAGE, 2 * PAGE])
      expect([mm.load(address + at, 8), mm.store(address + at, 8, 1n)]).toEqual(["SIGBUS", "SIGBUS"]);
  });
});

test("ENOMEM where there is no memory for the file, and no descriptor is taken", () => {
  const { machine, create } = world();
  machine.kernel.faults.failNth("allocation", 1);
  expect(named(create(1))).toBe("ENOMEM");
  const [first, second] = [create(1), create(1)];
  expect(second).toBe(first + 1);
});

test("a slot takes pages of a file of its own VM that no other slot has", () => {
  const { process, kvm, vm, create } = world();
  const other = process.ioctl(kvm, KVM_CREATE_VM, 0);
  const memory = process.mmap(0, 4 * PAGE, 3, 0x22, -1, 0);
  const set = (slot: number, guest_memfd: number, page = 0, pages = 1) =>
    named(
      process.ioctl(
        vm,
        KVM_SET_USER_MEMORY_REGION2,
        KvmUserspaceMemoryRegion2.encode({
          slot,
          flags: KVM_MEM_GUEST_MEMFD,
          guest_phys_addr: BigInt(slot * 0x1_0000),
          memory_size: BigInt(pages * PAGE),
          userspace_addr: BigInt(memory),
          guest_memfd_offset: BigInt(page * PAGE),
          guest_memfd,
        }),
      ),
    );
  const fd = create(4);
  expect(set(0, 999)).toBe("EBADF");
  expect(set(0, process.eventfd2(0, 0))).toBe("EINVAL");
  expect(set(0, create(4, other))).toBe("EINVAL");
  expect(set(0, fd, 3, 2)).toBe("EINVAL");
  // what was refused is not there: its place is free
  expect(set(0, fd, 1, 2)).toBe(0);
  expect([set(1, fd, 0, 2), set(1, fd, 2, 2), set(1, fd, 3, 1), set(2, fd, 0, 1)]).toEqual([
    "EINVAL",
    "EINVAL",
    0,
    0,
  ]);
});
