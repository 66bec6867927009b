import { describe, expect, test } from "vitest";
import type { PciBar } from "../../lib/hardware/pci-device.ts";
import type { CapabilityImage, ExtendedImage, PciImage } from "../../lib/hardware/pci-image.ts";
import { Assigned, CONFIG, EVENTFD, INTX, MSI, MSIX, NONE, TRIGGER } from "./assigned.ts";

const bar: PciBar = { index: 0, size: 65_536, type: "mem", wide: false, prefetchable: false };
const open = (image: PciImage, resets: string[] = []) =>
  new Assigned({ image: { bars: [bar], pin: 1, ...image }, resets });
const withCapability = (...capabilities: CapabilityImage[]) => open({ capabilities });
const word = (bytes: number[] | number) => {
  const [a, b, c, d] = bytes as number[];
  return (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
};

describe("the command register", () => {
  test("memory and I/O are remembered as the program wrote them, DisINTx is the program's alone", () => {
    const a = open({});
    a.write(CONFIG + 4, [0, 4]);
    expect([a.read(CONFIG + 4, 2), a.device.command]).toEqual([[0, 4], 0x400]);
    a.write(CONFIG + 4, [2, 0]);
    expect([a.read(CONFIG + 4, 2), a.device.command]).toEqual([[2, 0], 2]);
  });

  test("DisINTx byte by byte", () => {
    const a = open({});
    const fd = a.eventfd();
    a.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [fd]);
    a.write(CONFIG + 5, [4]);
    a.device.setIntx(true);
    expect(a.count(fd)).toBe(0);
    a.write(CONFIG + 5, [0]);
    expect(a.count(fd)).toBe(1);
  });

  test("while nothing is on, the device follows the program", () => {
    const a = open({});
    a.write(CONFIG + 5, [4]);
    expect(a.device.command & 0x400).toBe(0x400);
    a.write(CONFIG + 5, [0]);
    expect(a.device.command & 0x400).toBe(0);
  });

  test("INTx that is enabled while disabled by the program starts masked", () => {
    const a = open({});
    const fd = a.eventfd();
    a.write(CONFIG + 5, [4]);
    a.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [fd]);
    a.device.setIntx(true);
    expect([a.count(fd), a.device.intxHigh]).toEqual([0, false]);
    a.write(CONFIG + 5, [0]);
    expect(a.count(fd)).toBe(1);
  });
});

describe("MSI", () => {
  test("enable and the number in use obey SET_IRQS; addresses and data are the program's to keep", () => {
    const a = withCapability({ kind: "msi", vectors: 8, wide: true });
    a.write(CONFIG + 0x42, [0x71, 0]);
    expect(a.read(CONFIG + 0x42, 2)).toEqual([0, 0]);
    a.write(CONFIG + 0x44, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(a.read(CONFIG + 0x44, 10)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    const fd = a.eventfd();
    a.setIrqs(MSI, EVENTFD | TRIGGER, 0, 4, [fd, fd, fd, fd]);
    a.write(CONFIG + 0x42, [0x71, 0]);
    expect(a.read(CONFIG + 0x42, 1)).toEqual([0x21]);
    expect([a.device.msi!.enabled, a.device.msi!.inUse]).toEqual([true, 4]);
    a.write(CONFIG + 0x42, [0x20, 0]);
    expect(a.device.msi!.enabled).toBe(false);
  });

  test("per-vector masks are the device's", () => {
    const a = withCapability({ kind: "msi", vectors: 4, wide: false, maskable: true });
    a.write(CONFIG + 0x4c, [5, 0, 0, 0]);
    expect(a.device.readConfig(0x4c, 4)).toBe(5);
  });
});

test("MSI-X: writes are dropped, reads show the device", () => {
  const a = withCapability({ kind: "msix", vectors: 3, table: [0, 0], pending: [0, 4096] });
  a.write(CONFIG + 0x42, [0xff, 0xff]);
  expect(a.read(CONFIG + 0x42, 2)).toEqual([2, 0]);
  a.setIrqs(MSIX, EVENTFD | TRIGGER, 0, 1, [a.eventfd()]);
  a.write(CONFIG + 0x42, [0, 0]);
  expect(a.read(CONFIG + 0x42, 2)).toEqual([2, 0x80]);
  a.setIrqs(MSIX, NONE | TRIGGER, 0, 0);
  expect(a.read(CONFIG + 0x42, 2)).toEqual([2, 0]);
});

describe("power management", () => {
  test("states that the function has", () => {
    const a = withCapability({ kind: "pm", d1: true, noSoftReset: true });
    const states = [1, 2, 3, 0].map((state) => {
      a.write(CONFIG + 0x44, [state, 0]);
      return (a.read(CONFIG + 0x44, 1) as number[])[0] & 3;
    });
    expect(states).toEqual([1, 1, 3, 0]);
  });

  test("wake-up events are not shown", () => {
    const a = withCapability({ kind: "raw", id: 1, bytes: [3, 0xfa, 0, 0x81, 0, 0] });
    expect(a.read(CONFIG + 0x42, 4)).toEqual([3, 2, 0, 0]);
    a.write(CONFIG + 0x45, [0xff]);
    expect((a.read(CONFIG + 0x45, 1) as number[])[0] & 0x81).toBe(0);
  });
});

test("PCI Express: payload is the program's alone, the read request follows, not below the payload", () => {
  const a = withCapability({
    kind: "raw",
    id: 0x10,
    bytes: [1, 0, 0, 0, 0, 0, 0x20, 0, ...new Array(12).fill(0)],
  });
  a.write(CONFIG + 0x48, [0xe0, 0x30]);
  expect([a.read(CONFIG + 0x48, 2), a.device.readConfig(0x48, 2) & 0xe0]).toEqual([[0xe0, 0x30], 0x20]);
});

describe("extended capabilities", () => {
  const list = (...extended: ExtendedImage[]) => {
    const a = open({ capabilities: [{ kind: "exp" }], extended });
    const shown: number[] = [];
    let at = 0x100;
    do {
      const header = word(a.read(CONFIG + at, 4));
      shown.push(header & 0xffff);
      at = header >>> 20;
    } while (at !== 0);
    return shown;
  };
  const bytes = (count: number) => new Array(count).fill(0);
  const error = { id: 1, bytes: bytes(0x44) };
  const serial = { id: 3, bytes: bytes(8) };
  const hidden = { id: 0x1b, bytes: bytes(4) };

  test("hidden ones are left out; a hidden first one becomes an anchor; none at all is an empty list", () => {
    expect(list(error, serial)).toEqual([1, 3]);
    expect(list(error, hidden, serial)).toEqual([1, 3]);
    expect(list(hidden, serial)).toEqual([0, 3]);
    expect(list(hidden)).toEqual([0]);
    expect(list()).toEqual([0]);
  });

  test("of the error registers only masks, severity and checks can be written; a vendor's own bytes all", () => {
    const a = open({
      capabilities: [{ kind: "exp" }],
      extended: [error, { id: 0x0b, bytes: [0, 0, 0xc1, 0, 1, 2, 3, 4] }],
    });
    for (let at = 0x100; at < 0x140; at += 4) a.write(CONFIG + at, [255, 255, 255, 255]);
    expect([0x104, 0x10c, 0x114, 0x11c].map((at) => word(a.read(CONFIG + at, 4)))).toEqual([
      0, 0x03ff_f030, 0xf1c1, 0,
    ]);
  });

  test("behind the last one the device keeps what is written", () => {
    const a = open({ capabilities: [{ kind: "exp" }], extended: [serial] });
    a.write(CONFIG + 0x800, [1, 2, 3, 4]);
    expect(a.device.readConfig(0x800, 4)).toBe(0x0403_0201);
  });
});

test("a controller with broken INTx has no pin, and its INTx stays disabled", () => {
  const a = open({
    vendor: 0x8086,
    device: 0x1572,
    capabilities: [{ kind: "msix", vectors: 1, table: [0, 0], pending: [0, 4096] }],
  });
  expect([a.read(CONFIG + 0x3d, 1), a.device.command & 0x400]).toEqual([[0], 0x400]);
  expect(a.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [a.eventfd()])).toBe(-22);
  a.setIrqs(MSIX, EVENTFD | TRIGGER, 0, 1, [a.eventfd()]);
  a.setIrqs(MSIX, NONE | TRIGGER, 0, 0);
  expect(a.device.command & 0x400).toBe(0x400);
});
