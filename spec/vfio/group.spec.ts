import { describe, expect, test } from "vitest";
import {
  EBADF,
  EBADFD,
  EBUSY,
  EFAULT,
  EINVAL,
  EMFILE,
  ENODEV,
  ENOENT,
  ENOTTY,
  EPERM,
} from "../../lib/abi/errno.ts";
import { load32 } from "../../lib/abi/struct.ts";
import {
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_GET_STATUS,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
  VfioGroupStatus,
} from "../../lib/abi/vfio.ts";
import type { Process } from "../../lib/kernel/process.ts";
import {
  A,
  B,
  B2,
  container,
  cString,
  deviceAt,
  fakeHost,
  int,
  OTHER,
  openDevice,
  PORT,
  processOn,
} from "./fake-host.ts";

/** The flags of VFIO_GROUP_GET_STATUS, or −errno. */
function status(process: Process, group: number): number {
  const bytes = VfioGroupStatus.encode({ argsz: 8, flags: 0xaaaa_aaaa });
  const result = process.ioctl(group, VFIO_GROUP_GET_STATUS, bytes);
  return result < 0 ? result : load32(bytes, 4);
}

describe("group file", () => {
  test("exactly one description at a time; its duplicate keeps it", () => {
    const process = processOn(fakeHost());
    const group = process.open("/dev/vfio/1", 2);
    expect(process.open("/dev/vfio/1", 2)).toBe(-EBUSY);
    expect(process.open("/dev/vfio/1", 0)).toBe(-EBUSY);
    const copy = process.dup(group);
    process.close(group);
    expect(process.open("/dev/vfio/1", 2)).toBe(-EBUSY);
    process.close(copy);
    expect(process.open("/dev/vfio/1", 2)).toBe(group);
  });

  test("a group that vfio-pci owns no device of has no file", () => {
    const process = processOn(fakeHost());
    expect(process.open("/dev/vfio/3", 2)).toBe(-ENOENT);
    expect(process.open("/dev/vfio/1x", 2)).toBe(-ENOENT);
  });

  test("argsz of the status: less than 8 is EINVAL, any more is taken", () => {
    const process = processOn(fakeHost());
    const group = process.open("/dev/vfio/1", 2);
    for (const argsz of [0, 4, 7])
      expect(process.ioctl(group, VFIO_GROUP_GET_STATUS, VfioGroupStatus.encode({ argsz }))).toBe(-EINVAL);
    for (const argsz of [8, 9, 16, 0xffff_ffff]) {
      const bytes = VfioGroupStatus.encode({ argsz });
      expect(process.ioctl(group, VFIO_GROUP_GET_STATUS, bytes)).toBe(0);
      expect(VfioGroupStatus.decode(bytes)).toEqual({ argsz, flags: 1 });
    }
    expect(process.ioctl(group, VFIO_GROUP_GET_STATUS, 0)).toBe(-EFAULT);
    expect(process.ioctl(group, VFIO_GROUP_GET_STATUS, new Uint8Array(7))).toBe(-EFAULT);
  });

  test("unknown requests are ENOTTY", () => {
    const process = processOn(fakeHost());
    const group = process.open("/dev/vfio/1", 2);
    for (const request of [0x3b64, 0x3b65, 0x3b66, 0x3b6b, 0x3b70, 0x3b96])
      expect(process.ioctl(group, request, 0)).toBe(-ENOTTY);
  });

  test.each([
    ["6.1", EINVAL],
    ["6.12", EBADFD],
    ["7.2", EBADFD],
  ])("a file that is no container, on %s", (release, errno) => {
    const process = processOn(fakeHost(release));
    const group = process.open("/dev/vfio/1", 2);
    const eventfd = process.eventfd2(0, 0);
    expect(process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(eventfd))).toBe(-errno);
    expect(process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(group))).toBe(-errno);
    expect(process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(99))).toBe(-EBADF);
    expect(process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(-1))).toBe(-EBADF);
    expect(process.ioctl(group, VFIO_GROUP_SET_CONTAINER, 0)).toBe(-EFAULT);
  });

  test("in a container: not twice, not another; out of it: not twice", () => {
    const process = processOn(fakeHost());
    const first = process.open("/dev/vfio/vfio", 2);
    const second = process.open("/dev/vfio/vfio", 2);
    const group = process.open("/dev/vfio/1", 2);
    expect(process.ioctl(group, VFIO_GROUP_UNSET_CONTAINER)).toBe(-EINVAL);
    expect(process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(first))).toBe(0);
    expect(status(process, group)).toBe(3);
    expect(process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(first))).toBe(-EINVAL);
    expect(process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(second))).toBe(-EINVAL);
    expect(process.ioctl(group, VFIO_GROUP_UNSET_CONTAINER)).toBe(0);
    expect(process.ioctl(group, VFIO_GROUP_UNSET_CONTAINER)).toBe(-EINVAL);
    expect(status(process, group)).toBe(1);
  });
});

describe("device by name", () => {
  test("only names of this group's devices, with spaces after them if need be", () => {
    const process = processOn(fakeHost());
    const { groups } = container(process, 1, "1", "2");
    const answers = [A, `${A} `, `${A}   `, B, PORT, OTHER, "", "a", A.slice(5), `${A},`, `${A}x`].map(
      (name) => {
        const fd = openDevice(process, groups[0], name);
        if (fd >= 0) process.close(fd);
        return Math.min(fd, 0);
      },
    );
    expect(answers).toEqual([0, 0, 0, ...Array(8).fill(-ENODEV)]);
    expect(openDevice(process, groups[0], `${A} vf_token=1`)).toBe(-EINVAL);
  });

  test("a name of a page or more is EINVAL; one that ends in nowhere is EFAULT", () => {
    const process = processOn(fakeHost());
    const { groups } = container(process, 1, "1");
    expect(openDevice(process, groups[0], "x".repeat(4096))).toBe(-EINVAL);
    expect(openDevice(process, groups[0], "x".repeat(4095))).toBe(-ENODEV);
    expect(process.ioctl(groups[0], VFIO_GROUP_GET_DEVICE_FD, cString(A).subarray(0, 12))).toBe(-EFAULT);
    expect(process.ioctl(groups[0], VFIO_GROUP_GET_DEVICE_FD, 0)).toBe(-EFAULT);
  });

  test("EINVAL before there is a container, and before it has an IOMMU", () => {
    const host = fakeHost();
    const process = processOn(host);
    const group = process.open("/dev/vfio/1", 2);
    expect(openDevice(process, group, A)).toBe(-EINVAL);
    const fd = process.open("/dev/vfio/vfio", 2);
    process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(fd));
    expect(openDevice(process, group, A)).toBe(-EINVAL);
    expect(deviceAt(host, A).opened).toBe(0);
  });

  test("without a free descriptor nothing is opened", () => {
    const host = fakeHost();
    const process = processOn(host);
    const { groups } = container(process, 1, "1");
    process.fds.limit = process.fds.open.length;
    expect(openDevice(process, groups[0], A)).toBe(-EMFILE);
    expect([deviceAt(host, A).opened, deviceAt(host, A).openCount]).toEqual([0, 0]);
  });

  test("a device that does not open leaves nothing behind", () => {
    const host = fakeHost();
    const process = processOn(host);
    const { groups } = container(process, 1, "1");
    deviceAt(host, A).answer = -EPERM;
    const before = process.fds.open;
    expect(openDevice(process, groups[0], A)).toBe(-EPERM);
    expect(process.fds.open).toEqual(before);
    expect(process.ioctl(groups[0], VFIO_GROUP_UNSET_CONTAINER)).toBe(0);
  });
});

describe("life cycles", () => {
  test("the first file opens the device, the last one closes it", () => {
    const host = fakeHost();
    const process = processOn(host);
    const { groups } = container(process, 1, "1");
    const files = [1, 2, 3].map(() => openDevice(process, groups[0], A));
    const device = deviceAt(host, A);
    expect([device.opened, device.closed, device.openCount]).toEqual([1, 0, 3]);
    for (const [i, fd] of files.entries()) {
      process.close(fd);
      expect([device.opened, device.closed, device.openCount]).toEqual([1, i === 2 ? 1 : 0, 2 - i]);
    }
  });

  test("the group stays busy, and in its container, until the last device is closed", () => {
    const process = processOn(fakeHost());
    const { groups } = container(process, 1, "2");
    const [group] = groups;
    const first = openDevice(process, group, B);
    const second = openDevice(process, group, B2);
    expect(process.ioctl(group, VFIO_GROUP_UNSET_CONTAINER)).toBe(-EBUSY);
    process.close(first);
    expect(process.ioctl(group, VFIO_GROUP_UNSET_CONTAINER)).toBe(-EBUSY);
    process.close(second);
    expect(process.ioctl(group, VFIO_GROUP_UNSET_CONTAINER)).toBe(0);
  });

  test("every order of closing container, group and device ends with everything free", () => {
    const orders = [
      [0, 1, 2],
      [0, 2, 1],
      [1, 0, 2],
      [1, 2, 0],
      [2, 0, 1],
      [2, 1, 0],
    ];
    for (const order of orders) {
      const host = fakeHost();
      const process = processOn(host);
      const { fd, groups } = container(process, 1, "1");
      const files = [fd, groups[0], openDevice(process, groups[0], A)];
      for (const [step, which] of order.entries()) {
        process.close(files[which]);
        const deviceClosed = order.slice(0, step + 1).includes(2);
        const groupClosed = order.slice(0, step + 1).includes(1);
        // the device holds the group's file, the group its container
        expect(host.groups.get("1")!.openedFile === undefined).toBe(deviceClosed && groupClosed);
        expect(host.iommuGroups.get(1)!.claimed).toBe(!(deviceClosed && groupClosed));
      }
      expect(deviceAt(host, A).closed).toBe(1);
    }
  });

  test("a mapping keeps the device open after its descriptor is closed", () => {
    const host = fakeHost();
    const process = processOn(host);
    const { groups } = container(process, 1, "1");
    const fd = openDevice(process, groups[0], A);
    const address = process.mmap(0, 4096, 3, 1, fd, 0);
    process.close(fd);
    expect(process.ioctl(groups[0], VFIO_GROUP_UNSET_CONTAINER)).toBe(-EBUSY);
    process.munmap(address, 4096);
    expect(process.ioctl(groups[0], VFIO_GROUP_UNSET_CONTAINER)).toBe(0);
    expect(deviceAt(host, A).closed).toBe(1);
  });
});

describe("viability", () => {
  const bindForeign = (host: ReturnType<typeof fakeHost>, address: string, driver = "virtio-pci") => {
    const pciFunction = host.functions.get(address)!;
    host.unbind(pciFunction);
    return host.bind(pciFunction, driver);
  };

  test.each([
    ["virtio-pci", 0, -EPERM],
    ["pcieport", 1, 0],
    ["pci-stub", 1, 0],
  ])("another function bound to %s", (driver, flags, attach) => {
    const host = fakeHost();
    const process = processOn(host);
    expect(bindForeign(host, B2, driver)).toBe(0);
    const group = process.open("/dev/vfio/2", 2);
    expect(status(process, group)).toBe(flags);
    const fd = process.open("/dev/vfio/vfio", 2);
    expect(process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(fd))).toBe(attach);
  });

  test("a group in a container refuses host drivers; out of it, one makes it not viable", () => {
    const host = fakeHost();
    const process = processOn(host);
    host.unbind(host.functions.get(B2)!);
    const { groups } = container(process, 1, "2");
    expect(host.bind(host.functions.get(B2)!, "virtio-pci")).toBe(-EBUSY);
    expect(host.functions.get(B2)!.driver).toBeUndefined();
    process.ioctl(groups[0], VFIO_GROUP_UNSET_CONTAINER);
    expect(host.bind(host.functions.get(B2)!, "virtio-pci")).toBe(0);
    expect(status(process, groups[0])).toBe(0);
    host.unbind(host.functions.get(B2)!);
    expect(status(process, groups[0])).toBe(1);
  });
});

describe("unbinding", () => {
  test("the group's file goes with its last device", () => {
    const host = fakeHost();
    const process = processOn(host);
    host.unbind(host.functions.get(B)!);
    process.close(process.open("/dev/vfio/2", 2));
    host.unbind(host.functions.get(B2)!);
    expect(process.open("/dev/vfio/2", 2)).toBe(-ENOENT);
  });

  test.each([
    ["6.1", true],
    ["6.12", false],
  ])("an open device is asked for once and goes when it is closed; by name on %s: %s", (release, found) => {
    const host = fakeHost(release);
    const process = processOn(host);
    const { groups } = container(process, 1, "1");
    const fd = openDevice(process, groups[0], A);
    const device = deviceAt(host, A);
    expect(host.unbind(device.function)).toBe(0);
    expect(device.requested).toBe(1);
    const again = openDevice(process, groups[0], A);
    expect(again >= 0).toBe(found);
    if (found) process.close(again);
    else expect(again).toBe(-ENODEV);
    expect(status(process, groups[0])).toBe(3);
    process.close(fd);
    expect(host.functions.get(A)!.driver).toBeUndefined();
    expect(status(process, groups[0])).toBe(-ENODEV);
    expect(process.ioctl(groups[0], VFIO_GROUP_UNSET_CONTAINER)).toBe(-EINVAL);
    expect(openDevice(process, groups[0], A)).toBe(-ENODEV);
    process.close(groups[0]);
    expect(process.open("/dev/vfio/1", 2)).toBe(-ENOENT);
  });
});
