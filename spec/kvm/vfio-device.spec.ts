import { describe, expect, test } from "vitest";
import { EBADF, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENXIO, EPERM } from "../../lib/abi/errno.ts";
import {
  KVM_CREATE_DEVICE,
  KVM_CREATE_VM,
  KVM_DEV_TYPE_VFIO,
  KVM_DEV_VFIO_FILE,
  KVM_DEV_VFIO_FILE_ADD,
  KVM_DEV_VFIO_FILE_DEL,
  KVM_GET_DEVICE_ATTR,
  KVM_HAS_DEVICE_ATTR,
  KVM_SET_DEVICE_ATTR,
  KvmCreateDevice,
  KvmDeviceAttr,
} from "../../lib/abi/kvm.ts";
import type { Process } from "../../lib/kernel/process.ts";
import { behaviourOf } from "../../lib/machine/behaviours.ts";
import { defaultProfile } from "../../lib/machine/default-profile.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { GroupFile } from "../../lib/vfio/group.ts";
import { A, container, deviceAt, fakeHost, int, openDevice, processOn } from "../vfio/fake-host.ts";

const ADD = KVM_DEV_VFIO_FILE_ADD;
const DEL = KVM_DEV_VFIO_FILE_DEL;

function setup(release = "6.12") {
  const { kernel } = new Machine({ ...defaultProfile, release });
  const host = fakeHost(release, { kernel, behaviour: behaviourOf(release) });
  const process = processOn(host);
  const vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
  return { host, process, vm, device: createDevice(process, vm) };
}

function createDevice(process: Process, vm: number): number {
  const bytes = KvmCreateDevice.encode({ type: KVM_DEV_TYPE_VFIO });
  const result = process.ioctl(vm, KVM_CREATE_DEVICE, bytes);
  return result < 0 ? result : KvmCreateDevice.decode(bytes).fd;
}

function set(process: Process, device: number, attr: number, fd: number, group = KVM_DEV_VFIO_FILE): number {
  const addr = process.addressOf(int(fd));
  return process.ioctl(device, KVM_SET_DEVICE_ATTR, KvmDeviceAttr.encode({ group, attr, addr }));
}

describe("attributes", () => {
  test("which there are, in every group", () => {
    const { process, device } = setup();
    for (let group = 0; group < 4; group++)
      for (let attr = 0; attr < 6; attr++) {
        const known = group === KVM_DEV_VFIO_FILE && (attr === ADD || attr === DEL);
        const bytes = KvmDeviceAttr.encode({ group, attr });
        expect(process.ioctl(device, KVM_HAS_DEVICE_ATTR, bytes)).toBe(known ? 0 : -ENXIO);
        expect(process.ioctl(device, KVM_GET_DEVICE_ATTR, bytes)).toBe(-EPERM);
        if (!known) expect(set(process, device, attr, 99, group)).toBe(-ENXIO);
      }
  });

  test("one device a VM; closed, it may be made again", () => {
    const { process, vm, device } = setup();
    expect(createDevice(process, vm)).toBe(-EBUSY);
    process.close(device);
    expect(createDevice(process, vm)).toBe(device);
  });

  test("files that are none, or none of VFIO's", () => {
    const { process, vm, device } = setup();
    const eventfd = process.eventfd2(0, 0);
    const containerFd = process.open("/dev/vfio/vfio", 2);
    expect([99, -1].map((fd) => set(process, device, ADD, fd))).toEqual([-EBADF, -EBADF]);
    const wrong = [eventfd, containerFd, vm, device];
    expect(wrong.map((fd) => set(process, device, ADD, fd))).toEqual(wrong.map(() => -EINVAL));
    expect(wrong.map((fd) => set(process, device, DEL, fd))).toEqual(wrong.map(() => -ENOENT));
    const bytes = KvmDeviceAttr.encode({ group: KVM_DEV_VFIO_FILE, attr: ADD });
    expect(process.ioctl(device, KVM_SET_DEVICE_ATTR, bytes)).toBe(-EFAULT);
  });

  test("a group twice, by a duplicate, away, away twice", () => {
    const { process, device } = setup();
    const group = process.open("/dev/vfio/1", 2);
    const copy = process.dup(group);
    const steps: [number, number, number][] = [
      [DEL, group, -ENOENT],
      [ADD, group, 0],
      [ADD, group, -EEXIST],
      [ADD, copy, -EEXIST],
      [DEL, copy, 0],
      [DEL, group, -ENOENT],
    ];
    for (const [attr, fd, answer] of steps) expect(set(process, device, attr, fd)).toBe(answer);
  });

  test.each([
    ["6.1", -EINVAL],
    ["6.12", 0],
  ])("a device's file, on %s", (release, answer) => {
    const { process, device } = setup(release);
    const { groups } = container(process, 1, "1");
    const fd = openDevice(process, groups[0], A);
    expect(set(process, device, ADD, fd)).toBe(answer);
    expect(set(process, device, DEL, fd)).toBe(answer === 0 ? 0 : -ENOENT);
  });
});

describe("what it holds", () => {
  const holders: [string, (s: ReturnType<typeof setup>, fd: number) => void][] = [
    ["it is removed", ({ process, device }, fd) => set(process, device, DEL, fd)],
    ["the pseudo device is closed", ({ process, device }) => process.close(device)],
    ["the process is gone", ({ process }) => process.exit()],
  ];

  test.each(holders)("a group stays open, and knows its VM, until %s", (_what, letGo) => {
    const one = setup();
    const { host, process, device } = one;
    const fd = process.open("/dev/vfio/1", 2);
    const copy = process.dup(fd);
    expect(set(process, device, ADD, fd)).toBe(0);
    const file = process.fds.get(fd);
    expect(file instanceof GroupFile && file.vm !== undefined).toBe(true);
    process.close(fd);
    expect(host.groups.get("1")!.openedFile).toBe(file);
    letGo(one, copy);
    process.close(copy);
    expect(host.groups.get("1")!.openedFile).toBeUndefined();
    expect(file instanceof GroupFile && file.vm).toBeUndefined();
  });

  test("a bound character device stays bound after its descriptor is closed", () => {
    const { host, process, device } = setup();
    const iommufd = process.open("/dev/iommu", 2);
    const path = `/dev/vfio/devices/vfio${deviceAt(host, A).index}`;
    const fd = process.open(path, 2);
    const bind = () => {
      const bytes = new Uint8Array(16);
      bytes[0] = 16;
      bytes[8] = iommufd;
      return process.ioctl(fd, 0x3b76, bytes);
    };
    expect(bind()).toBe(0);
    expect(set(process, device, ADD, fd)).toBe(0);
    process.close(fd);
    expect(process.open(path, 2)).toBe(fd);
    expect(bind()).toBe(-EINVAL);
    process.close(device);
    expect(deviceAt(host, A).closed).toBe(1);
    expect(bind()).toBe(0);
  });

  test("a group may be in two VMs", () => {
    const { process, device } = setup();
    const second = createDevice(process, process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0));
    const group = process.open("/dev/vfio/1", 2);
    expect([set(process, device, ADD, group), set(process, second, ADD, group)]).toEqual([0, 0]);
  });
});
