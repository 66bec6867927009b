import { describe, expect, test } from "vitest";
import { EBADF, EEXIST, EINVAL, EIO, ENODEV, ENOSPC, ENOTTY } from "../../lib/abi/errno.ts";
import { load32, store32 } from "../../lib/abi/struct.ts";
import {
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_IOEVENTFD,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_DEVICE_RESET,
  VfioDeviceIoeventfd,
} from "../../lib/abi/vfio.ts";
import type { PciBar } from "../../lib/hardware/pci-device.ts";
import type { PciImage } from "../../lib/hardware/pci-image.ts";
import { doorbell, intxLevel, RegisterDevice } from "../../lib/hardware/register-device.ts";
import { byHand } from "../../lib/kernel/work-queue.ts";
import {
  Assigned,
  BOOL,
  CONFIG,
  EVENTFD,
  INTX,
  MASK,
  MSI,
  MSIX,
  NONE,
  type Options,
  REQ,
  region,
  TRIGGER,
  UNMASK,
} from "./assigned.ts";

const bar0: PciBar = { index: 0, size: 8192, type: "mem", wide: false, prefetchable: false };
const image: PciImage = {
  pin: 1,
  bars: [bar0, { index: 2, size: 64, type: "io", wide: false, prefetchable: false }],
  capabilities: [
    { kind: "exp", flr: true },
    { kind: "pm" },
    { kind: "msi", vectors: 1, wide: true },
    { kind: "msix", vectors: 4, table: [0, 4096], pending: [0, 6144] },
  ],
};
/** A register at 0 raises a message, at 4 it is the level of INTx, at 8 it holds what was written. */
const model: Options["model"] = (device) => new RegisterDevice(device, { 0: doorbell, 4: intxLevel, 8: {} });
const open = (more: Partial<Options> = {}) => new Assigned({ image, model, ...more });
const word = (value: number) => [value & 255, (value >> 8) & 255, (value >> 16) & 255, value >>> 24];

describe("INTx", () => {
  const raise = (a: Assigned, level: number) => a.write(region(0) + 4, word(level));

  test("a signal masks until unmask; an unmask with the line high signals again", () => {
    const a = open();
    const fd = a.eventfd();
    a.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [fd]);
    raise(a, 1);
    raise(a, 0);
    raise(a, 1);
    expect(a.count(fd)).toBe(1);
    a.setIrqs(INTX, NONE | UNMASK, 0, 1);
    a.setIrqs(INTX, BOOL | UNMASK, 0, 1, [1]);
    expect(a.count(fd)).toBe(2);
    raise(a, 0);
    a.setIrqs(INTX, BOOL | UNMASK, 0, 1, [0]);
    raise(a, 1);
    expect(a.count(fd)).toBe(0);
    a.setIrqs(INTX, NONE | UNMASK, 0, 1);
    expect(a.count(fd)).toBe(1);
  });

  test("the command register that the program sees knows nothing of it", () => {
    const a = open();
    const fd = a.eventfd();
    a.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [fd]);
    raise(a, 1);
    expect([a.device.command & 0x400, a.read(CONFIG + 5, 1)]).toEqual([0x400, [0]]);
    expect(a.read(CONFIG + 6, 1)).toEqual([0x18]);
  });

  test("enabled with the line high: one signal", () => {
    const a = open();
    const fd = a.eventfd();
    raise(a, 1);
    a.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [fd]);
    expect(a.count(fd)).toBe(1);
  });

  test("an unmask eventfd: inside its write the line is looked at, the signal itself is deferred", () => {
    const a = open({ policy: byHand });
    const [fd, unmask] = [a.eventfd(), a.eventfd()];
    a.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [fd]);
    a.setIrqs(INTX, EVENTFD | UNMASK, 0, 1, [unmask]);
    raise(a, 1);
    expect(a.count(fd)).toBe(1);
    a.process.write(unmask, new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]));
    expect([a.count(fd), a.machine.kernel.work.items.map(({ name }) => name)]).toEqual([
      0,
      ["virqfd-inject"],
    ]);
    a.process.settle();
    expect([a.count(fd), a.count(unmask)]).toEqual([1, 0]);
  });

  test("an unmask eventfd goes with its last owner", () => {
    const a = open();
    const [fd, unmask] = [a.eventfd(), a.eventfd()];
    a.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [fd]);
    a.setIrqs(INTX, EVENTFD | UNMASK, 0, 1, [unmask]);
    a.process.close(unmask);
    expect(a.setIrqs(INTX, EVENTFD | UNMASK, 0, 1, [a.eventfd()])).toBe(0);
  });

  test("a device that cannot disable INTx has its pin for itself, and is masked there", () => {
    const a = open({ host: { vfio_params: { nointxmask: "Y" } } });
    const fd = a.eventfd();
    a.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [fd]);
    raise(a, 1);
    expect([a.count(fd), a.device.intxHigh]).toEqual([1, true]);
    a.setIrqs(INTX, NONE | UNMASK, 0, 1);
    expect(a.count(fd)).toBe(1);
    raise(a, 0);
    a.setIrqs(INTX, NONE | UNMASK, 0, 1);
    a.setIrqs(INTX, NONE | MASK, 0, 1);
    raise(a, 1);
    expect(a.count(fd)).toBe(0);
    a.setIrqs(INTX, NONE | UNMASK, 0, 1);
    expect(a.count(fd)).toBe(1);
    raise(a, 0);
    expect(a.setIrqs(INTX, NONE | TRIGGER, 0, 0)).toBe(0);
  });

  test("two devices on one pin: each hears its own", () => {
    const other = "0000:00:09.0";
    const a = open({ beside: [{ bdf: other, group: 2, given: true, device: "0x10ff" }] });
    const second = a.process.open("/dev/vfio/2", 2);
    const container = new Uint8Array(4);
    store32(container, 0, a.container);
    a.process.ioctl(second, 0x3b68, container);
    const otherFd = a.process.ioctl(second, 0x3b6a, new TextEncoder().encode(`${other}\0`));
    const device = a.machine.pci!.device(other);
    expect(a.irqs.pinOf(device)).toBe(a.irqs.pinOf(a.device));
    const [one, two] = [a.eventfd(), a.eventfd()];
    a.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [one]);
    const bytes = new Uint8Array(24);
    [24, EVENTFD | TRIGGER, INTX, 0, 1, two].forEach((value, i) => void store32(bytes, 4 * i, value));
    expect(a.process.ioctl(otherFd, 0x3b6e, bytes)).toBe(0);
    a.device.setIntx(true);
    expect([a.count(one), a.count(two)]).toEqual([1, 0]);
    device.setIntx(true);
    expect([a.count(one), a.count(two)]).toEqual([0, 1]);
  });
});

describe("regions", () => {
  test("memory off, and D3: EIO and SIGBUS; the MSI-X table reads as ones all the same", () => {
    const a = open();
    const map = a.process.mmap(0, 8192, 3, 1, a.fd, 0);
    expect(a.process.store(map + 8, 4, 77)).toBe(0);
    expect(a.read(region(0) + 8, 4)).toEqual(word(77));
    const power = CONFIG + a.device.pmCapability + 4;
    for (const { at, off, on } of [
      { at: CONFIG + 4, off: [0, 0], on: [6, 0] },
      { at: power, off: [3, 0], on: [0, 0] },
    ]) {
      a.write(at, off);
      expect([a.read(region(0) + 8, 4), a.write(region(0) + 8, [1]), a.read(region(2), 1)]).toEqual([
        -EIO,
        -EIO,
        [0],
      ]);
      expect([a.process.load(map + 8, 4), a.process.store(map + 8, 4, 1)]).toEqual(["SIGBUS", "SIGBUS"]);
      expect(a.read(region(0) + 4096, 4)).toEqual([255, 255, 255, 255]);
      a.write(at, on);
      expect(typeof a.process.load(map + 8, 4)).toBe("number");
    }
  });

  test("a mapping shows the real table, and a write there unmasks", () => {
    const a = open();
    const fd = a.eventfd();
    a.write(CONFIG + 4, [6, 0]);
    a.setIrqs(MSIX, EVENTFD | TRIGGER, 0, 1, [fd]);
    const map = a.process.mmap(0, 4096, 3, 1, a.fd, 4096);
    expect(a.process.load(map + 12, 4)).toBe(0);
    a.process.store(map + 12, 4, 1);
    a.write(region(0), word(0));
    expect([a.count(fd), a.process.load(map + 2048, 8)]).toEqual([0, 1n]);
    a.process.store(map + 12, 4, 0);
    expect(a.count(fd)).toBe(1);
  });

  test("an access is cut at the end of a BAR, and around the table", () => {
    const a = open();
    expect((a.read(region(0) + 8190, 16) as number[]).length).toBe(2);
    expect(a.read(region(0) + 4092, 8)).toEqual([0, 0, 0, 0, 255, 255, 255, 255]);
    expect(a.write(region(0) + 4092, new Array(200).fill(1))).toBe(200);
    expect(a.device.readBar(0, 4096, 4)).toBe(0);
  });
});

describe("reset", () => {
  test("without a way: EINVAL; with one, the header and MSI-X survive, the device does not", () => {
    expect(open().process.ioctl(open().fd, VFIO_DEVICE_RESET, 0)).toBe(-EINVAL);
    const a = open({ resets: ["flr"] });
    const fd = a.eventfd();
    a.write(CONFIG + 4, [6, 0]);
    a.setIrqs(MSIX, EVENTFD | TRIGGER, 0, 2, [fd, fd]);
    a.write(region(0) + 8, word(77));
    expect(a.process.ioctl(a.fd, VFIO_DEVICE_RESET, 0)).toBe(0);
    expect(a.read(CONFIG + 4, 2)).toEqual([6, 0]);
    expect(a.read(region(0) + 8, 4)).toEqual(word(0));
    a.write(region(0), word(1));
    expect([a.count(fd), a.device.msix!.enabled]).toEqual([1, true]);
  });

  test("the bit in PCI Express' capability resets, and reads as zero", () => {
    const a = open({ resets: ["flr"] });
    a.write(region(0) + 8, word(77));
    a.write(CONFIG + a.device.expCapability + 8, [0, 0x80]);
    expect(a.read(region(0) + 8, 4)).toEqual(word(0));
    expect(a.read(CONFIG + a.device.expCapability + 8, 2)).toEqual([0, 0]);
  });

  test("D3hot and back: BARs and command as before", () => {
    const a = open();
    a.write(CONFIG + 4, [6, 1]);
    const before = a.device.readConfig(0x10, 4);
    a.write(CONFIG + a.device.pmCapability + 4, [3]);
    a.write(CONFIG + a.device.pmCapability + 4, [0]);
    expect([a.read(CONFIG + 4, 2), a.device.readConfig(0x10, 4)]).toEqual([[6, 1], before]);
  });
});

describe("hot reset", () => {
  const below = "0000:01:00.0";
  const bridge = { bdf: "0000:00:03.0", group: 9, class: "0x060400" };

  function info(a: Assigned, argsz: number) {
    const bytes = new Uint8Array(argsz);
    store32(bytes, 0, argsz);
    const result = a.process.ioctl(a.fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, bytes);
    return { result, count: load32(bytes, 8), entries: [...bytes.subarray(12)] };
  }
  function hotReset(a: Assigned, fds: readonly number[]): number {
    const bytes = new Uint8Array(12 + 4 * fds.length);
    store32(bytes, 0, bytes.length);
    store32(bytes, 8, fds.length);
    fds.forEach((fd, i) => void store32(bytes, 12 + 4 * i, fd));
    return a.process.ioctl(a.fd, VFIO_DEVICE_PCI_HOT_RESET, bytes);
  }

  test("the root bus cannot", () => {
    expect([info(open(), 64).result, hotReset(open(), [4])]).toEqual([-ENODEV, -ENODEV]);
  });

  test("who is on the bus, and whose groups are needed", () => {
    const a = open({
      address: below,
      beside: [bridge, { bdf: "0000:01:02.1", group: 2, given: true }],
    });
    expect(info(a, 12)).toEqual({ result: -ENOSPC, count: 2, entries: [] });
    expect(info(a, 28).entries).toEqual([1, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 1, 0x11]);
    const other = a.process.open("/dev/vfio/2", 2);
    expect([hotReset(a, []), hotReset(a, [a.group]), hotReset(a, [a.container]), hotReset(a, [99])]).toEqual([
      -EINVAL,
      -EINVAL,
      -EINVAL,
      -EBADF,
    ]);
    a.write(region(0) + 8, word(77));
    expect(hotReset(a, [a.group, other])).toBe(0);
    expect(a.read(region(0) + 8, 4)).toEqual(word(0));
  });

  test("a function that user space does not have is in the way", () => {
    const a = open({ address: below, beside: [bridge, { bdf: "0000:01:02.1", group: 2 }] });
    expect(hotReset(a, [a.group, a.group])).toBe(-EINVAL);
  });
});

describe("ioeventfd", () => {
  const set = (a: Assigned, at: number, width: number, data: number, fd: number) =>
    a.process.ioctl(
      a.fd,
      VFIO_DEVICE_IOEVENTFD,
      VfioDeviceIoeventfd.encode({
        argsz: 28,
        flags: width,
        offset: BigInt(at),
        data: BigInt(data),
        fd,
        reserved: 0,
      }),
    );
  const one = new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]);

  test("writes when it is signalled, while memory is on", () => {
    const a = open();
    const fd = a.eventfd();
    expect(set(a, 8, 4, 0x1234, fd)).toBe(0);
    expect([set(a, 8, 4, 0x1234, fd), set(a, 8, 4, 1, 99), set(a, 8, 4, 1, -1)]).toEqual([
      -EEXIST,
      -EBADF,
      -ENODEV,
    ]);
    a.process.write(fd, one);
    expect([a.read(region(0) + 8, 2), a.count(fd)]).toEqual([[0x34, 0x12], 0]);
    a.write(region(0) + 8, word(0));
    a.write(CONFIG + 4, [0, 0]);
    a.process.write(fd, one);
    a.write(CONFIG + 4, [2, 0]);
    expect(a.read(region(0) + 8, 4)).toEqual(word(0));
    expect(set(a, 8, 4, 0x1234, -1)).toBe(0);
    a.process.write(fd, one);
    expect([a.read(region(0) + 8, 4), a.count(fd)]).toEqual([word(0), 1]);
  });

  test("an interrupt that it makes the device raise comes after the wake-up", () => {
    const a = open({ policy: byHand });
    const [bell, fd] = [a.eventfd(), a.eventfd()];
    a.write(CONFIG + 4, [6, 0]);
    a.setIrqs(MSIX, EVENTFD | TRIGGER, 0, 2, [fd, fd]);
    set(a, 0, 4, 1, bell);
    a.process.write(bell, one);
    expect([a.count(fd), a.machine.kernel.work.items.map(({ name }) => name)]).toEqual([0, ["interrupt"]]);
    a.process.settle();
    expect(a.count(fd)).toBe(1);
  });

  test("not into the table, not over the end, not elsewhere; a thousand at most", () => {
    const a = open();
    const fd = a.eventfd();
    for (const at of [4093, 4096, 4159, 8190, 8192, region(1), CONFIG])
      expect(set(a, at, 4, 0, fd)).toBe(-EINVAL);
    expect([set(a, 4092, 4, 0, fd), set(a, 4160, 4, 0, fd)]).toEqual([0, 0]);
    for (const width of [0, 3, 5, 16]) expect(set(a, 8, width, 0, fd)).toBe(-EINVAL);
    for (let i = 2; i < 1000; i++) expect(set(a, 16, 4, i, fd)).toBe(0);
    expect(set(a, 16, 4, 1000, fd)).toBe(-ENOSPC);
  });
});

describe("features", () => {
  const GET = 1 << 16;
  const SET = 1 << 17;
  const PROBE = 1 << 18;
  const [ENTRY, WITH_WAKEUP, EXIT] = [3, 4, 5];
  function feature(a: Assigned, flags: number, data: readonly number[] = []): number {
    const bytes = new Uint8Array(8 + 4 * data.length);
    store32(bytes, 0, bytes.length);
    store32(bytes, 4, flags);
    data.forEach((value, i) => void store32(bytes, 8 + 4 * i, value));
    return a.process.ioctl(a.fd, VFIO_DEVICE_FEATURE, bytes);
  }

  test("every feature, every way to ask", () => {
    const a = open();
    let asked = 0;
    for (let number = 0; number < 32; number++)
      for (let ways = 0; ways < 8; ways++) {
        const flags = number | (ways << 16);
        const [get, set, probe] = [(ways & 1) !== 0, (ways & 2) !== 0, (ways & 4) !== 0];
        const known = [ENTRY, WITH_WAKEUP, EXIT].includes(number);
        let expected: number = known ? 0 : -ENOTTY;
        if (get && set && !probe) expected = -EINVAL;
        else if (known && (get || (!probe && !set))) expected = -EINVAL;
        else if (number === WITH_WAKEUP && !probe) expected = -EINVAL;
        expect({ number, ways, result: feature(a, flags) }).toEqual({ number, ways, result: expected });
        if (number === ENTRY && expected === 0) feature(a, EXIT | SET);
        asked++;
      }
    expect(asked).toBe(256);
    expect([feature(a, 1 << 19), feature(a, ENTRY | GET | PROBE)]).toEqual([-EINVAL, -EINVAL]);
  });

  test("asleep: mappings take SIGBUS, other requests wake it up for their time", () => {
    const a = open();
    const map = a.process.mmap(0, 4096, 3, 1, a.fd, 0);
    expect([feature(a, ENTRY | SET), feature(a, ENTRY | SET)]).toEqual([0, -EINVAL]);
    expect([a.process.load(map, 4), a.read(region(0) + 8, 4)]).toEqual(["SIGBUS", word(0)]);
    expect([feature(a, EXIT | SET), a.process.load(map, 4), feature(a, EXIT | SET)]).toEqual([0, 0, 0]);
  });

  test("with a wake-up eventfd the first request signals it, and low power is over", () => {
    const a = open();
    const fd = a.eventfd();
    const map = a.process.mmap(0, 4096, 3, 1, a.fd, 0);
    expect([feature(a, WITH_WAKEUP | SET, [-1, 0]), feature(a, WITH_WAKEUP | SET, [99, 0])]).toEqual([
      -EINVAL,
      -EBADF,
    ]);
    expect([feature(a, WITH_WAKEUP | SET, [fd, 0]), a.count(fd), a.process.load(map, 4)]).toEqual([
      0,
      0,
      "SIGBUS",
    ]);
    a.read(CONFIG, 4);
    expect([a.count(fd), a.process.load(map, 4)]).toEqual([1, 0]);
    a.read(CONFIG, 4);
    expect(a.count(fd)).toBe(0);
  });

  test("INTx is held while asleep, and looked at on waking up", () => {
    const a = open();
    const fd = a.eventfd();
    a.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [fd]);
    feature(a, ENTRY | SET);
    a.device.setIntx(true);
    expect(a.count(fd)).toBe(0);
    a.read(CONFIG, 4);
    expect(a.count(fd)).toBe(1);
  });
});

describe("closing", () => {
  test("interrupts are off, the device is reset, a mapping keeps it open", () => {
    const a = open({ resets: ["flr"] });
    const fd = a.eventfd();
    a.write(CONFIG + 4, [6, 0]);
    a.setIrqs(MSI, EVENTFD | TRIGGER, 0, 1, [fd]);
    a.setIrqs(REQ, EVENTFD | TRIGGER, 0, 1, [fd]);
    const map = a.process.mmap(0, 4096, 3, 1, a.fd, 0);
    a.process.store(map + 8, 4, 77);
    a.process.close(a.fd);
    expect([a.device.msi!.enabled, a.process.load(map + 8, 4)]).toEqual([true, 77]);
    a.process.munmap(map, 4096);
    expect([a.device.msi!.enabled, a.device.readBar(0, 8, 4), a.device.command & 4]).toEqual([false, 0, 0]);
    expect(a.open()).toBe(a.fd);
  });

  test("the host asks for the device back: REQ is signalled", () => {
    const a = open();
    const fd = a.eventfd();
    a.setIrqs(REQ, EVENTFD | TRIGGER, 0, 1, [fd]);
    a.machine.sysfs("/sys/bus/pci/devices/0000:00:05.0/driver/unbind", "0000:00:05.0");
    expect(a.count(fd)).toBe(1);
  });
});
