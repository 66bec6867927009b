import { describe, expect, test } from "vitest";
import {
  E2BIG,
  EADDRINUSE,
  EBADF,
  EBADFD,
  EBUSY,
  EFAULT,
  EINVAL,
  EMSGSIZE,
  ENODEV,
  ENOENT,
  ENOTTY,
  EOPNOTSUPP,
  EPERM,
} from "../../lib/abi/errno.ts";
import {
  IOMMU_DESTROY,
  IOMMU_GET_HW_INFO,
  IOMMU_HWPT_ALLOC,
  IOMMU_IOAS_ALLOC,
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_UNMAP,
  IOMMU_OPTION,
  IOMMU_VFIO_IOAS,
  IommuDestroy,
  IommuHwInfo,
  IommuHwptAlloc,
  IommuIoasAlloc,
  IommuIoasIovaRanges,
  IommuIoasMap,
  IommuIoasUnmap,
  IommuOption,
  IommuVfioIoas,
} from "../../lib/abi/iommufd.ts";
import { MAP_ANONYMOUS, MAP_PRIVATE } from "../../lib/abi/mman.ts";
import { load32 } from "../../lib/abi/struct.ts";
import {
  VFIO_CHECK_EXTENSION,
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  VFIO_GET_API_VERSION,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
  VFIO_IOMMU_GET_INFO,
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
import { A, B, deviceAt, fakeHost, int, openDevice, processOn } from "./fake-host.ts";

const FIXED = 7;

function alloc(process: Process, fd: number): number {
  const bytes = IommuIoasAlloc.encode({ size: 12 });
  const result = process.ioctl(fd, IOMMU_IOAS_ALLOC, bytes);
  return result < 0 ? result : IommuIoasAlloc.decode(bytes).out_ioas_id;
}

const destroy = (process: Process, fd: number, id: number): number =>
  process.ioctl(fd, IOMMU_DESTROY, IommuDestroy.encode({ size: 8, id }));

const map = (
  process: Process,
  fd: number,
  ioas: number,
  vaddr: number,
  iova: number,
  length = 4096,
): number =>
  process.ioctl(
    fd,
    IOMMU_IOAS_MAP,
    IommuIoasMap.encode({ size: 40, flags: FIXED, ioas_id: ioas, user_va: vaddr, length, iova }),
  );

/** The number of the device, or −errno. */
function bind(process: Process, device: number, iommufd: number): number {
  const bytes = VfioDeviceBindIommufd.encode({ argsz: 16, iommufd });
  const result = process.ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, bytes);
  return result < 0 ? result : VfioDeviceBindIommufd.decode(bytes).out_devid;
}

/** The number of the page table, or −errno. */
function attach(process: Process, device: number, id: number): number {
  const bytes = VfioDeviceAttachIommufdPt.encode({ argsz: 12, pt_id: id });
  const result = process.ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, bytes);
  return result < 0 ? result : VfioDeviceAttachIommufdPt.decode(bytes).pt_id;
}

const detach = (process: Process, device: number): number =>
  process.ioctl(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, VfioDeviceDetachIommufdPt.encode({ argsz: 8 }));

function setup(release = "6.12") {
  const host = fakeHost(release);
  const process = processOn(host);
  const fd = process.open("/dev/iommu", 2);
  const cdev = (address: string) => process.open(`/dev/vfio/devices/vfio${deviceAt(host, address).index}`, 2);
  return { host, process, fd, cdev };
}

describe("objects", () => {
  test("numbers begin at 1; the lowest free one is taken", () => {
    const { process, fd } = setup();
    expect([1, 2, 3].map(() => alloc(process, fd))).toEqual([1, 2, 3]);
    expect(destroy(process, fd, 2)).toBe(0);
    expect(destroy(process, fd, 2)).toBe(-ENOENT);
    expect(destroy(process, fd, 0)).toBe(-ENOENT);
    expect(alloc(process, fd)).toBe(2);
  });

  test("every size: too short is EINVAL, zeroes beyond the struct are nothing, others E2BIG", () => {
    const { process, fd } = setup();
    for (let size = 0; size <= 16; size++) {
      const bytes = new Uint8Array(16);
      bytes[0] = size;
      expect(process.ioctl(fd, IOMMU_IOAS_ALLOC, bytes)).toBe(size < 12 ? -EINVAL : 0);
    }
    const more = IommuIoasAlloc.encode({ size: 16 });
    expect(process.ioctl(fd, IOMMU_IOAS_ALLOC, more)).toBe(-EFAULT);
    expect(process.ioctl(fd, IOMMU_IOAS_ALLOC, new Uint8Array([...more, 0, 0, 1, 0]))).toBe(-E2BIG);
    expect(process.ioctl(fd, IOMMU_IOAS_ALLOC, 0)).toBe(-EFAULT);
    expect(process.ioctl(fd, IOMMU_IOAS_ALLOC, IommuIoasAlloc.encode({ size: 12, flags: 1 }))).toBe(
      -EOPNOTSUPP,
    );
  });

  test("requests that nobody knows are ENOTTY; VFIO's container is there", () => {
    const { process, fd } = setup();
    for (const request of [0x3b7f, 0x3bc0, 0x3bff, 0x3b63])
      expect(process.ioctl(fd, request, 0)).toBe(-ENOTTY);
    expect(process.ioctl(fd, VFIO_GET_API_VERSION)).toBe(0);
    expect([1, 3, 9, 6, 8].map((n) => process.ioctl(fd, VFIO_CHECK_EXTENSION, n))).toEqual([1, 1, 1, 0, 0]);
  });

  test("the ranges of an address space: as many as there is room for, and how many there are", () => {
    const { process, fd } = setup();
    const id = alloc(process, fd);
    const bytes = IommuIoasIovaRanges.encode({ size: 32, ioas_id: id });
    expect(process.ioctl(fd, IOMMU_IOAS_IOVA_RANGES, bytes)).toBe(-EMSGSIZE);
    expect(IommuIoasIovaRanges.decode(bytes)).toMatchObject({ num_iovas: 1, out_iova_alignment: 1n });
  });

  test("accounting is chosen before there is an object", () => {
    const { process, fd } = setup();
    const option = (op: number, val64: number) =>
      process.ioctl(fd, IOMMU_OPTION, IommuOption.encode({ size: 24, op, val64 }));
    expect([option(0, 1), option(0, 2), option(1, 0), option(2, 0)]).toEqual([0, -EINVAL, 0, -EOPNOTSUPP]);
    alloc(process, fd);
    expect([option(0, 0), option(1, 0)]).toEqual([-EBUSY, 0]);
  });
});

describe("a device's character device", () => {
  test("nothing but binding works before it is bound", () => {
    const { process, fd, cdev, host } = setup();
    const device = cdev(A);
    for (let request = 0x3b64; request <= 0x3b7a; request++)
      if (request !== VFIO_DEVICE_BIND_IOMMUFD.number)
        expect(process.ioctl(device, request, 0)).toBe(-EINVAL);
    expect(process.pread(device, new Uint8Array(4), 4, 0)).toBe(-EINVAL);
    expect(process.pwrite(device, new Uint8Array(4), 4, 0)).toBe(-EINVAL);
    expect(process.mmap(0, 4096, 3, 1, device, 0)).toBe(-EINVAL);
    expect(deviceAt(host, A).opened).toBe(0);
    expect(bind(process, device, fd)).toBe(1);
    expect(process.ioctl(device, 0x3b6b, 0)).toBe(77);
    expect(deviceAt(host, A).opened).toBe(1);
  });

  test("wrong arguments of bind", () => {
    const { process, fd, cdev } = setup();
    const device = cdev(A);
    const eventfd = process.eventfd2(0, 0);
    const answers = [
      { argsz: 15, iommufd: fd },
      { argsz: 16, flags: 1, iommufd: fd },
      { argsz: 16, iommufd: -1 },
      { argsz: 16, iommufd: 99 },
      { argsz: 16, iommufd: eventfd },
      { argsz: 16, iommufd: device },
    ].map((values) => process.ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, VfioDeviceBindIommufd.encode(values)));
    expect(answers).toEqual([-EINVAL, -EINVAL, -EINVAL, -EBADF, -EBADFD, -EBADFD]);
  });

  test("one binding at a time; the group is busy meanwhile, and the other way round", () => {
    const { process, fd, cdev } = setup();
    const [first, second] = [cdev(A), cdev(A)];
    bind(process, first, fd);
    expect(bind(process, first, fd)).toBe(-EINVAL);
    expect(bind(process, second, fd)).toBe(-EINVAL);
    expect(process.open("/dev/vfio/1", 2)).toBe(-EBUSY);
    process.close(first);
    const group = process.open("/dev/vfio/1", 2);
    expect(group).toBe(first);
    expect(bind(process, second, fd)).toBe(-EBUSY);
    process.close(group);
    expect(bind(process, second, fd)).toBe(1);
  });

  test("the functions of an IOMMU group belong to one iommufd", () => {
    const { process, fd, cdev } = setup();
    const other = process.open("/dev/iommu", 2);
    const [first, second] = [cdev(B), process.open("/dev/vfio/devices/vfio2", 2)];
    expect(bind(process, first, fd)).toBe(1);
    expect(bind(process, second, other)).toBe(-EPERM);
    expect(bind(process, second, fd)).toBe(2);
    process.close(first);
    process.close(second);
    const again = cdev(B);
    expect(bind(process, again, other)).toBe(1);
  });

  test("EPERM without interrupt remapping", () => {
    const host = fakeHost("6.12", { iommu: { kind: "intel", interruptRemapping: false, cpus: 1 } });
    const process = processOn(host);
    const fd = process.open("/dev/iommu", 2);
    const device = process.open("/dev/vfio/devices/vfio0", 2);
    expect(bind(process, device, fd)).toBe(-EPERM);
    expect(host.iommuGroups.get(1)!.claimed).toBe(false);
  });

  test("the iommufd lives as long as a device is bound to it", () => {
    const { process, fd, cdev, host } = setup();
    const device = cdev(A);
    const ioas = alloc(process, fd);
    bind(process, device, fd);
    attach(process, device, ioas);
    process.close(fd);
    expect(process.ioctl(device, 0x3b6b, 0)).toBe(77);
    process.close(device);
    expect(host.iommuGroups.get(1)!.claimed).toBe(false);
    expect(deviceAt(host, A).closed).toBe(1);
  });
});

describe("attachment", () => {
  test("to an address space: a page table is made, shared by attachments, and gone with the last", () => {
    const { process, fd, cdev } = setup();
    const device = cdev(A);
    const ioas = alloc(process, fd);
    const id = bind(process, device, fd);
    expect(detach(process, device)).toBe(0);
    const table = attach(process, device, ioas);
    expect(table).toBe(3);
    for (const used of [ioas, id, table]) expect(destroy(process, fd, used)).toBe(-EBUSY);
    expect(attach(process, device, ioas)).toBe(table);
    const other = alloc(process, fd);
    expect(attach(process, device, other)).toBe(5);
    expect(destroy(process, fd, table)).toBe(-ENOENT);
    expect(destroy(process, fd, ioas)).toBe(0);
    detach(process, device);
    expect(destroy(process, fd, 5)).toBe(-ENOENT);
    expect(destroy(process, fd, other)).toBe(0);
  });

  test("to a page table that was asked for: it stays", () => {
    const { process, fd, cdev } = setup();
    const device = cdev(A);
    const ioas = alloc(process, fd);
    const id = bind(process, device, fd);
    const bytes = IommuHwptAlloc.encode({ size: 48, dev_id: id, pt_id: ioas });
    expect(process.ioctl(fd, IOMMU_HWPT_ALLOC, bytes)).toBe(0);
    const table = IommuHwptAlloc.decode(bytes).out_hwpt_id;
    expect(attach(process, device, table)).toBe(table);
    expect(destroy(process, fd, table)).toBe(-EBUSY);
    detach(process, device);
    expect(destroy(process, fd, table)).toBe(0);
  });

  test("objects that are none, or of another kind", () => {
    const { process, fd, cdev } = setup();
    const device = cdev(A);
    const id = bind(process, device, fd);
    expect([99, 0, id].map((target) => attach(process, device, target))).toEqual([-ENOENT, -ENOENT, -EINVAL]);
    const flags = VfioDeviceAttachIommufdPt.encode({ argsz: 12, flags: 1, pt_id: id });
    expect(process.ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, flags)).toBe(-EINVAL);
  });

  test("a group of two: the second follows the first, a move takes both", () => {
    const { process, fd, cdev } = setup();
    const [first, second] = [cdev(B), process.open("/dev/vfio/devices/vfio2", 2)];
    bind(process, first, fd);
    bind(process, second, fd);
    const [one, two] = [alloc(process, fd), alloc(process, fd)];
    const table = attach(process, first, one);
    expect(attach(process, second, two)).toBe(-EINVAL);
    expect(attach(process, second, one)).toBe(table);
    const moved = attach(process, first, two);
    expect(moved).not.toBe(table);
    expect(destroy(process, fd, one)).toBe(0);
    detach(process, first);
    expect(destroy(process, fd, two)).toBe(-EBUSY);
    detach(process, second);
    expect(destroy(process, fd, two)).toBe(0);
  });

  test("an address that the device keeps for interrupts: EADDRINUSE; later mappings there EINVAL", () => {
    const { process, fd, cdev } = setup();
    const memory = process.mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const device = cdev(A);
    bind(process, device, fd);
    const ioas = alloc(process, fd);
    map(process, fd, ioas, memory, 0xfee0_0000);
    expect(attach(process, device, ioas)).toBe(-EADDRINUSE);
    const unmap = IommuIoasUnmap.encode({ size: 24, ioas_id: ioas, iova: 0, length: 0xffff_ffff_ffff_ffffn });
    expect(process.ioctl(fd, IOMMU_IOAS_UNMAP, unmap)).toBe(0);
    expect(attach(process, device, ioas)).toBe(3);
    expect(map(process, fd, ioas, memory, 0xfee0_0000)).toBe(-EINVAL);
    expect(map(process, fd, ioas, memory, 0x1000)).toBe(0);
  });

  test("what the hardware says, cut and padded to the room there is", () => {
    const { process, fd, cdev } = setup();
    const id = bind(process, cdev(A), fd);
    for (const room of [0, 8, 24, 40]) {
      const data = new Uint8Array(40).fill(0xee);
      const address = process.addressOf(data);
      const bytes = IommuHwInfo.encode({ size: 40, dev_id: id, data_len: room, data_uptr: address });
      expect(process.ioctl(fd, IOMMU_GET_HW_INFO, bytes)).toBe(0);
      expect(load32(bytes, 12)).toBe(24);
      expect(load32(bytes, 24)).toBe(1);
      expect(data.subarray(room).every((byte) => byte === 0xee)).toBe(true);
      if (room >= 24) expect(data.subarray(24, room).every((byte) => byte === 0)).toBe(true);
    }
    expect(process.ioctl(fd, IOMMU_GET_HW_INFO, IommuHwInfo.encode({ size: 40, dev_id: 99 }))).toBe(-ENOENT);
  });
});

describe("an iommufd as a group's container", () => {
  test("its address space is made, the device is attached; the group lets go with the device open", () => {
    const { process, fd, host } = setup();
    const group = process.open("/dev/vfio/1", 2);
    expect(process.ioctl(fd, VFIO_SET_IOMMU, 1)).toBe(-ENODEV);
    expect(process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(fd))).toBe(0);
    expect(process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(fd))).toBe(-EINVAL);
    const get = IommuVfioIoas.encode({ size: 12 });
    expect(process.ioctl(fd, IOMMU_VFIO_IOAS, get)).toBe(0);
    expect(IommuVfioIoas.decode(get).ioas_id).toBe(1);
    expect([0, 1, 3, 8].map((type) => process.ioctl(fd, VFIO_SET_IOMMU, type))).toEqual([
      -EINVAL,
      0,
      0,
      -EINVAL,
    ]);
    const device = openDevice(process, group, A);
    expect(device).toBe(5);
    expect(deviceAt(host, A).bound!.attached).toBe(true);
    expect(process.ioctl(group, VFIO_GROUP_UNSET_CONTAINER)).toBe(0);
    expect(process.ioctl(group, VFIO_GROUP_UNSET_CONTAINER)).toBe(-EINVAL);
    expect(process.ioctl(device, 0x3b6b, 0)).toBe(77);
    process.close(device);
    expect(host.iommuGroups.get(1)!.claimed).toBe(false);
  });

  test("type 1 requests: a mapping can be cut in version 1, not in version 2", () => {
    for (const [version, answer] of [
      [1, 0],
      [3, -ENOENT],
    ]) {
      const { process, fd } = setup();
      const memory = process.mmap(0, 4 * 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      const group = process.open("/dev/vfio/1", 2);
      process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(fd));
      expect(process.ioctl(fd, VFIO_SET_IOMMU, version)).toBe(0);
      openDevice(process, group, A);
      const mapped = VfioIommuType1DmaMap.encode({
        argsz: 32,
        flags: 3,
        vaddr: memory,
        iova: 0x1_0000,
        size: 4 * 4096,
      });
      expect(process.ioctl(fd, VFIO_IOMMU_MAP_DMA, mapped)).toBe(0);
      expect(process.ioctl(fd, VFIO_IOMMU_MAP_DMA, mapped)).toBe(-17);
      const unmap = VfioIommuType1DmaUnmap.encode({ argsz: 24, iova: 0x1_1000, size: 4096 });
      expect(process.ioctl(fd, VFIO_IOMMU_UNMAP_DMA, unmap)).toBe(answer);
      expect(VfioIommuType1DmaUnmap.decode(unmap).size).toBe(answer === 0 ? 4096n : 0n);
    }
  });

  test("information with capabilities, as many as fit", () => {
    const { process, fd } = setup();
    const group = process.open("/dev/vfio/1", 2);
    process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(fd));
    openDevice(process, group, A);
    const whole = 24 + 16 + 16 + 2 * 16;
    for (let argsz = 0; argsz <= whole + 4; argsz++) {
      const bytes = new Uint8Array(128);
      bytes[0] = argsz;
      expect(process.ioctl(fd, VFIO_IOMMU_GET_INFO, bytes)).toBe(argsz < 16 ? -EINVAL : 0);
      if (argsz < 16) continue;
      expect(load32(bytes, 0)).toBe(whole);
      if (argsz >= 20) expect(load32(bytes, 16)).toBe(argsz >= whole ? 24 : 0);
    }
  });
});
