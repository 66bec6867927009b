/**
 * Whatever a program does with containers, groups, devices and iommufds: when it is gone, everything is free. And when an
 * allocation fails anywhere, the call answers ENOMEM and can simply be made again.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ENOMEM } from "../../lib/abi/errno.ts";
import { IOMMU_IOAS_ALLOC, IOMMU_IOAS_MAP, IommuIoasAlloc, IommuIoasMap } from "../../lib/abi/iommufd.ts";
import { MAP_ANONYMOUS, MAP_PRIVATE } from "../../lib/abi/mman.ts";
import {
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_SET_IOMMU,
  VfioDeviceAttachIommufdPt,
  VfioDeviceBindIommufd,
  VfioDeviceDetachIommufdPt,
  VfioIommuType1DmaMap,
  VfioIommuType1DmaUnmap,
} from "../../lib/abi/vfio.ts";
import type { Process } from "../../lib/kernel/process.ts";
import type { VfioHost } from "../../lib/vfio/host.ts";
import { accountOf } from "../../lib/vfio/pinned-memory.ts";
import { A, B, B2, deviceAt, fakeHost, int, openDevice, processOn } from "./fake-host.ts";

const devices = [A, B, B2];

/** What is not free: nothing after the last program is gone. */
function leftovers(host: VfioHost, process: Process): string[] {
  const left: string[] = [];
  for (const group of host.iommuGroups.values()) if (group.claimed) left.push(`group ${group.id} is claimed`);
  for (const group of host.groups.values()) {
    if (group.openedFile !== undefined) left.push(`group ${group.name} is open`);
    if (group.hasContainer) left.push(`group ${group.name} is in a container`);
    if (group.containerUsers !== 0) left.push(`group ${group.name} is used`);
    if (group.boundCharacterDevices !== 0) left.push(`group ${group.name} is bound`);
  }
  for (const name of devices) {
    const device = deviceAt(host, name);
    if (device.openCount !== 0) left.push(`${name} is open`);
    if (device.opened !== device.closed)
      left.push(`${name}: opened ${device.opened}, closed ${device.closed}`);
    if (device.bound !== undefined) left.push(`${name} is bound`);
  }
  if (accountOf(process.mm).pages !== 0) left.push("pages are charged to the memory");
  if (accountOf(host.kernel).pages !== 0) left.push("pages are charged to the user");
  return left;
}

type Operation = (process: Process, host: VfioHost, fd: number, other: number, n: number) => number;

const operations: readonly Operation[] = [
  (process) => process.open("/dev/vfio/vfio", 2),
  (process) => process.open("/dev/iommu", 2),
  (process, _host, _fd, _other, n) => process.open(`/dev/vfio/${1 + (n % 2)}`, 2),
  (process, _host, _fd, _other, n) => process.open(`/dev/vfio/devices/vfio${n % 3}`, 2),
  (process, _host, fd, other) => process.ioctl(fd, VFIO_GROUP_SET_CONTAINER, int(other)),
  (process, _host, fd, other) => process.ioctl(fd, VFIO_GROUP_SET_CONTAINER, int(other)),
  (process, _host, fd) => process.ioctl(fd, VFIO_GROUP_UNSET_CONTAINER),
  (process, _host, fd, _other, n) => process.ioctl(fd, VFIO_SET_IOMMU, n % 2 === 0 ? 1 : 3),
  (process, _host, fd, _other, n) => openDevice(process, fd, devices[n % 3]),
  (process, _host, fd, other) =>
    process.ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, VfioDeviceBindIommufd.encode({ argsz: 16, iommufd: other })),
  (process, _host, fd, _other, n) =>
    process.ioctl(
      fd,
      VFIO_DEVICE_ATTACH_IOMMUFD_PT,
      VfioDeviceAttachIommufdPt.encode({ argsz: 12, pt_id: 1 + (n % 4) }),
    ),
  (process, _host, fd) =>
    process.ioctl(fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, VfioDeviceDetachIommufdPt.encode({ argsz: 8 })),
  (process, _host, fd) => process.ioctl(fd, IOMMU_IOAS_ALLOC, IommuIoasAlloc.encode({ size: 12 })),
  (process, host, fd, _other, n) =>
    process.ioctl(
      fd,
      IOMMU_IOAS_MAP,
      IommuIoasMap.encode({
        size: 40,
        flags: 7,
        ioas_id: 1 + (n % 4),
        user_va: memoryOf(host),
        length: 4096,
        iova: n * 4096,
      }),
    ),
  (process, host, fd, _other, n) =>
    process.ioctl(
      fd,
      VFIO_IOMMU_MAP_DMA,
      VfioIommuType1DmaMap.encode({ argsz: 32, flags: 3, vaddr: memoryOf(host), iova: n * 4096, size: 4096 }),
    ),
  (process, _host, fd) =>
    process.ioctl(fd, VFIO_IOMMU_UNMAP_DMA, VfioIommuType1DmaUnmap.encode({ argsz: 24, flags: 2 })),
  (process, _host, fd) => process.dup(fd),
  (process, _host, fd) => process.close(fd),
  (process, _host, fd) => process.mmap(0, 4096, 3, 1, fd, 0),
];

const memories = new WeakMap<VfioHost, number>();
const memoryOf = (host: VfioHost): number => memories.get(host)!;

function program(release: string) {
  const host = fakeHost(release);
  const process = processOn(host);
  memories.set(host, process.mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  return { host, process };
}

const step = fc.tuple(
  fc.nat(operations.length - 1),
  fc.integer({ min: 3, max: 12 }),
  fc.integer({ min: 3, max: 12 }),
  fc.nat(11),
);

/** Makes one step with descriptors that are open: what it answered. */
function make(process: Process, host: VfioHost, [operation, fd, other, n]: [number, number, number, number]) {
  const open = process.fds.open.filter((number) => number > 2);
  const pick = (which: number) => (open.length === 0 ? 99 : open[which % open.length]);
  return operations[operation](process, host, pick(fd), pick(other), n);
}

describe("random programs", () => {
  test("come to every operation", () => {
    const reached = new Set<number>();
    const { host } = program("6.12");
    fc.assert(
      fc.property(fc.array(step, { minLength: 60, maxLength: 60 }), (steps) => {
        const process = processOn(host);
        memories.set(host, process.mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        for (const each of steps) if (make(process, host, each) >= 0) reached.add(each[0]);
        process.exit();
      }),
      { numRuns: 300, seed: 1 },
    );
    expect(operations.map((_, i) => i).filter((i) => !reached.has(i))).toEqual([]);
  });

  test.each(["6.1", "6.12", "7.2"])("leave nothing behind on %s", (release) => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const { host, process } = program(release);
        for (const each of steps) make(process, host, each);
        process.exit();
        expect(leftovers(host, process)).toEqual([]);
      }),
      { numRuns: 150 },
    );
  });

  test("a driver that leaves in between takes its device when it can", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), fc.nat(39), fc.nat(2), (steps, when, which) => {
        const { host, process } = program("6.12");
        const leaving = host.functions.get(devices[which])!;
        steps.forEach(([operation, fd, other, n], i) => {
          if (i === when) host.unbind(leaving);
          if (operation !== 3 || leaving.vfio !== undefined)
            operations[operation](process, host, fd, other, n);
        });
        process.exit();
        expect(leaving.driver).toBe(when < steps.length ? undefined : "vfio-pci");
        for (const group of host.iommuGroups.values()) expect(group.claimed).toBe(false);
      }),
      { numRuns: 150 },
    );
  });
});

describe("failing allocations", () => {
  /** The calls of two ways to a mapped device; a call that answers ENOMEM is made again. */
  function run(host: VfioHost, process: Process): { answers: number[]; failures: number } {
    let failures = 0;
    const answers: number[] = [];
    const call = (make: () => number): number => {
      let answer = make();
      if (answer === -ENOMEM) {
        failures++;
        answer = make();
      }
      answers.push(answer);
      return answer;
    };
    const containerFd = call(() => process.open("/dev/vfio/vfio", 2));
    const group = call(() => process.open("/dev/vfio/1", 2));
    call(() => process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(containerFd)));
    call(() => process.ioctl(containerFd, VFIO_SET_IOMMU, 3));
    call(() => operations[14](process, host, containerFd, 0, 1));
    call(() => openDevice(process, group, A));
    const iommufd = call(() => process.open("/dev/iommu", 2));
    call(() => operations[12](process, host, iommufd, 0, 0));
    call(() => operations[13](process, host, iommufd, 0, 4));
    const device = call(() => process.open(`/dev/vfio/devices/vfio${deviceAt(host, B).index}`, 2));
    call(() => operations[9](process, host, device, iommufd, 0));
    call(() => operations[10](process, host, device, 0, 0));
    const second = call(() => process.open("/dev/iommu", 2));
    process.close(group);
    return { answers: [...answers, second], failures };
  }

  test("each in turn: ENOMEM once, and nothing else changes", () => {
    const clean = program("6.12");
    const before = clean.host.kernel.faults.seen.allocation;
    const expected = run(clean.host, clean.process);
    const chances = clean.host.kernel.faults.seen.allocation - before;
    expect(expected.failures).toBe(0);
    expect(chances).toBe(12);
    for (let nth = 1; nth <= chances; nth++) {
      const { host, process } = program("6.12");
      host.kernel.faults.failNth("allocation", nth);
      expect(run(host, process)).toEqual({ answers: expected.answers, failures: 1 });
      process.exit();
      expect(leftovers(host, process)).toEqual([]);
    }
  });
});
