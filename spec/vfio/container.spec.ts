import { describe, expect, test } from "vitest";
import { EINVAL, ENODEV, ENOTTY, EPERM } from "../../lib/abi/errno.ts";
import {
  VFIO_CHECK_EXTENSION,
  VFIO_GET_API_VERSION,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_MAP_DMA,
  VFIO_NOIOMMU_IOMMU,
  VFIO_SET_IOMMU,
  VfioIommuType1DmaMap,
} from "../../lib/abi/vfio.ts";
import type { Process } from "../../lib/kernel/process.ts";
import { A, container, fakeHost, int, openDevice, processOn } from "./fake-host.ts";

/** The extensions below 16 that a container answers 1 to. */
const extensions = (process: Process, fd: number): number[] =>
  Array.from({ length: 16 }, (_, n) => n).filter((n) => process.ioctl(fd, VFIO_CHECK_EXTENSION, n) === 1);

describe("container", () => {
  test("version and extensions, before, in and after its IOMMU", () => {
    const process = processOn(fakeHost());
    const fd = process.open("/dev/vfio/vfio", 2);
    expect(process.ioctl(fd, VFIO_GET_API_VERSION, 7)).toBe(0);
    expect(extensions(process, fd)).toEqual([1, 3, 6, 9]);
    const group = process.open("/dev/vfio/1", 2);
    process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(fd));
    expect(extensions(process, fd)).toEqual([1, 3, 6, 9]);
    expect(process.ioctl(fd, VFIO_SET_IOMMU, 1)).toBe(0);
    expect(extensions(process, fd)).toEqual([1, 3, 6, 9, 10]);
    process.ioctl(group, VFIO_GROUP_UNSET_CONTAINER);
    expect(extensions(process, fd)).toEqual([1, 3, 6, 9]);
    expect(process.ioctl(fd, VFIO_CHECK_EXTENSION, 0x1_0000_0001)).toBe(0);
  });

  test("nesting is an extension until 6.12 and never works", () => {
    for (const [release, answer, errno] of [
      ["6.12", 1, EINVAL],
      ["7.2", 0, ENODEV],
    ] as const) {
      const process = processOn(fakeHost(release));
      const { fd, answer: set } = container(process, 6, "1");
      expect([process.ioctl(fd, VFIO_CHECK_EXTENSION, 6), set]).toEqual([answer, -errno]);
    }
  });

  test("AMD's IOMMU keeps accesses coherent, once it is set", () => {
    const iommu = { kind: "amd", interruptRemapping: true, cacheCoherent: true, cpus: 1 } as const;
    const process = processOn(fakeHost("6.12", { iommu }));
    const { fd } = container(process, 1, "1");
    expect(extensions(process, fd)).toEqual([1, 3, 4, 6, 9, 10]);
  });

  test("SET_IOMMU: EINVAL without a group or twice, ENODEV for a type nobody has", () => {
    const process = processOn(fakeHost());
    const fd = process.open("/dev/vfio/vfio", 2);
    for (const type of [0, 1, 3, 8]) expect(process.ioctl(fd, VFIO_SET_IOMMU, type)).toBe(-EINVAL);
    const group = process.open("/dev/vfio/1", 2);
    process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(fd));
    const answers = [0, 2, 4, 7, 8, 10, 99, 6, 9, 1, 1, 3].map((type) =>
      process.ioctl(fd, VFIO_SET_IOMMU, type),
    );
    expect(answers).toEqual([...Array(7).fill(-ENODEV), -EINVAL, -EINVAL, 0, -EINVAL, -EINVAL]);
  });

  test("every other request is EINVAL before there is an IOMMU, then the IOMMU's", () => {
    const process = processOn(fakeHost());
    const fd = process.open("/dev/vfio/vfio", 2);
    for (let request = 0x3b67; request <= 0x3b80; request++)
      expect(process.ioctl(fd, request, 0)).toBe(-EINVAL);
    const { fd: set } = container(process, 1, "1");
    for (const request of [0x3b67, 0x3b6e, 0x3b73, 0x3b96])
      expect(process.ioctl(set, request, 0)).toBe(-ENOTTY);
  });

  test("the last group that leaves takes the IOMMU with it", () => {
    const process = processOn(fakeHost());
    const { fd, groups } = container(process, 3, "1", "2");
    process.ioctl(groups[0], VFIO_GROUP_UNSET_CONTAINER);
    expect(process.ioctl(fd, VFIO_SET_IOMMU, 1)).toBe(-EINVAL);
    expect(openDevice(process, groups[0], A)).toBe(-EINVAL);
    process.ioctl(groups[0], VFIO_GROUP_SET_CONTAINER, int(fd));
    expect(openDevice(process, groups[0], A)).toBe(6);
    process.close(6);
    for (const group of groups) process.ioctl(group, VFIO_GROUP_UNSET_CONTAINER);
    expect(process.ioctl(fd, VFIO_IOMMU_GET_INFO, new Uint8Array(16))).toBe(-EINVAL);
  });

  test("without interrupt remapping: EPERM, and the group stays; the module option lifts it", () => {
    const iommu = { kind: "intel", interruptRemapping: false, cpus: 1 } as const;
    const host = fakeHost("6.12", { iommu });
    const process = processOn(host);
    const { fd, groups, answer } = container(process, 1, "1");
    expect(answer).toBe(-EPERM);
    expect(openDevice(process, groups[0], A)).toBe(-EINVAL);
    expect(process.ioctl(fd, VFIO_SET_IOMMU, 3)).toBe(-EPERM);
    host.options.allow_unsafe_interrupts = true;
    expect(process.ioctl(fd, VFIO_SET_IOMMU, 3)).toBe(0);
    expect(openDevice(process, groups[0], A)).toBe(5);
  });
});

describe("no IOMMU", () => {
  const iommu = { kind: null, interruptRemapping: false, cpus: 1 } as const;

  test("without the module option vfio-pci takes no device: there is no group", () => {
    const host = fakeHost("6.12", { iommu });
    expect(host.groups.size).toBe(0);
    expect([...host.functions.values()].filter(({ driver }) => driver === "vfio-pci")).toEqual([]);
  });

  test("with it every device has a group of its own and a driver without requests", () => {
    const host = fakeHost("6.12", { iommu, modules: { enable_unsafe_noiommu_mode: true } });
    expect([...host.groups.keys()]).toEqual(["noiommu-0", "noiommu-1", "noiommu-2"]);
    const process = processOn(host);
    const { fd, groups, answer } = container(process, VFIO_NOIOMMU_IOMMU, "noiommu-0", "noiommu-1");
    expect(answer).toBe(0);
    expect(extensions(process, fd)).toEqual([8]);
    expect(process.ioctl(fd, VFIO_IOMMU_GET_INFO, new Uint8Array(16))).toBe(-ENOTTY);
    const map = VfioIommuType1DmaMap.encode({ argsz: 32, flags: 3, size: 4096 });
    expect(process.ioctl(fd, VFIO_IOMMU_MAP_DMA, map)).toBe(-ENOTTY);
    expect(openDevice(process, groups[0], A)).toBe(6);
  });

  test("type 1 is not for such groups", () => {
    const host = fakeHost("6.12", { iommu, modules: { enable_unsafe_noiommu_mode: true } });
    expect(container(processOn(host), 1, "noiommu-0").answer).toBe(-ENODEV);
  });
});
