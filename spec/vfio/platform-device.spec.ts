import { describe, expect, test } from "vitest";
import { EBADF, EFAULT, EINVAL, ENOMEM, ENOTTY } from "../../lib/abi/errno.ts";
import { store32 } from "../../lib/abi/struct.ts";
import {
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
  VFIO_GET_API_VERSION,
  VfioDeviceInfo,
  VfioIrqInfo,
  VfioIrqSet,
} from "../../lib/abi/vfio.ts";
import { Kernel } from "../../lib/kernel/kernel.ts";
import { Process } from "../../lib/kernel/process.ts";
import { PlatformDeviceFile, type PlatformInterrupt } from "../../lib/vfio/platform-device.ts";

const NONE = 1;
const BOOL = 2;
const EVENTFD = 4;
const MASK = 8;
const UNMASK = 16;
const TRIGGER = 32;

/** An interrupt that a test fires. */
class Wire implements PlatformInterrupt {
  readonly automasked: boolean;
  handler: (() => void) | undefined;
  enabled = false;

  constructor(automasked: boolean) {
    this.automasked = automasked;
  }
  request(handler: () => void): void {
    this.handler = handler;
  }
  free(): void {
    this.handler = undefined;
    this.enabled = false;
  }
  setEnabled(on: boolean): void {
    this.enabled = on;
  }
  fire(): void {
    if (this.enabled) this.handler?.();
  }
}

function world() {
  const process = new Process(new Kernel());
  const [level, edge] = [new Wire(true), new Wire(false)];
  const device = process.install(new PlatformDeviceFile(process.kernel, [level, edge]), true);
  const set = (flags: number, index: number, start: number, count: number, data: readonly number[] = []) => {
    const width = (flags & BOOL) !== 0 ? 1 : 4;
    const bytes = new Uint8Array(VfioIrqSet.size + width * data.length);
    bytes.set(VfioIrqSet.encode({ argsz: bytes.length, flags, index, start, count }));
    data.forEach((value, i) => {
      if (width === 1) bytes[VfioIrqSet.size + i] = value;
      else store32(bytes, VfioIrqSet.size + 4 * i, value);
    });
    return process.ioctl(device, VFIO_DEVICE_SET_IRQS, bytes);
  };
  const fd = process.eventfd2(0, 0x800);
  const count = () => {
    const buffer = new Uint8Array(8);
    return process.read(fd, buffer) < 0 ? 0 : buffer[0];
  };
  return { process, device, level, edge, set, fd, count };
}

test("what it is, and what it has", () => {
  const { process, device } = world();
  const info = VfioDeviceInfo.encode({ argsz: VfioDeviceInfo.size });
  expect(process.ioctl(device, VFIO_DEVICE_GET_INFO, info)).toBe(0);
  expect(VfioDeviceInfo.decode(info)).toMatchObject({ flags: 4, num_regions: 0, num_irqs: 2 });
  const irq = (index: number) => {
    const bytes = VfioIrqInfo.encode({ argsz: VfioIrqInfo.size, index });
    const result = process.ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, bytes);
    return result < 0 ? result : VfioIrqInfo.decode(bytes);
  };
  expect(irq(0)).toMatchObject({ flags: 7, count: 1 });
  expect(irq(1)).toMatchObject({ flags: 1, count: 1 });
  expect(irq(2)).toBe(-EINVAL);
  expect(process.ioctl(device, VFIO_DEVICE_GET_INFO, VfioDeviceInfo.encode({ argsz: 15 }))).toBe(-EINVAL);
  for (const request of [VFIO_DEVICE_GET_INFO, VFIO_DEVICE_GET_IRQ_INFO, VFIO_DEVICE_SET_IRQS])
    expect(process.ioctl(device, request, new Uint8Array(3))).toBe(-EFAULT);
  for (const request of [VFIO_DEVICE_GET_REGION_INFO, VFIO_DEVICE_RESET])
    expect(process.ioctl(device, request, new Uint8Array(64))).toBe(-EINVAL);
  expect(process.ioctl(device, VFIO_GET_API_VERSION, 0)).toBe(-ENOTTY);
});

describe("VFIO_DEVICE_SET_IRQS", () => {
  test("what cannot be", () => {
    const { set, fd, process } = world();
    expect(set(TRIGGER | NONE, 2, 0, 1)).toBe(-EINVAL);
    expect(set(TRIGGER | NONE, 0, 1, 1)).toBe(-EINVAL);
    expect(set(TRIGGER | NONE, 0, 0, 3)).toBe(-EINVAL);
    expect(set(TRIGGER | EVENTFD, 0, 0, 1)).toBe(-EINVAL);
    expect(set(TRIGGER | EVENTFD | 64, 0, 0, 1, [fd])).toBe(-EINVAL);
    expect(set(NONE, 0, 0, 1)).toBe(-ENOTTY);
    expect(set(MASK | NONE, 1, 0, 1)).toBe(-EINVAL);
    expect(set(UNMASK | EVENTFD, 1, 0, 1, [fd])).toBe(-EINVAL);
    expect(set(TRIGGER | EVENTFD, 0, 0, 1, [99])).toBe(-EBADF);
    process.kernel.faults.failNth("allocation", 1);
    expect(set(TRIGGER | EVENTFD, 0, 0, 1, [fd])).toBe(-ENOMEM);
  });

  test("a level is signalled once, then masked until it is unmasked: by hand, or by an eventfd", () => {
    const { set, fd, level, count, process } = world();
    expect(set(TRIGGER | EVENTFD, 0, 0, 1, [fd])).toBe(0);
    level.fire();
    level.fire();
    expect([count(), level.enabled]).toEqual([1, false]);
    expect(set(UNMASK | BOOL, 0, 0, 1, [0])).toBe(0);
    expect(level.enabled).toBe(false);
    expect(set(UNMASK | NONE, 0, 0, 1)).toBe(0);
    level.fire();
    expect([count(), level.enabled]).toEqual([1, false]);
    const unmask = process.eventfd2(0, 0);
    expect(set(UNMASK | EVENTFD, 0, 0, 1, [unmask])).toBe(0);
    process.write(unmask, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
    expect(level.enabled).toBe(true);
    expect(set(UNMASK | EVENTFD, 0, 0, 1, [0xffff_ffff])).toBe(0);
    expect(set(MASK | NONE, 0, 0, 1)).toBe(0);
    process.write(unmask, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
    expect(level.enabled).toBe(false);
  });

  test("an edge is signalled each time", () => {
    const { set, fd, edge, count } = world();
    expect(set(TRIGGER | EVENTFD, 1, 0, 1, [fd])).toBe(0);
    edge.fire();
    edge.fire();
    expect([count(), edge.enabled]).toEqual([2, true]);
  });

  test("a trigger by hand, a trigger taken away, and what closing leaves", () => {
    const { set, fd, edge, level, count, process, device } = world();
    set(TRIGGER | EVENTFD, 1, 0, 1, [fd]);
    expect([set(TRIGGER | NONE, 1, 0, 1), set(TRIGGER | BOOL, 1, 0, 1, [1]), count()]).toEqual([0, 0, 2]);
    expect([set(TRIGGER | NONE, 1, 0, 0), edge.handler]).toEqual([0, undefined]);
    set(TRIGGER | EVENTFD, 0, 0, 1, [fd]);
    expect(level.enabled).toBe(true);
    process.close(device);
    expect([level.handler, level.enabled]).toEqual([undefined, false]);
  });
});
