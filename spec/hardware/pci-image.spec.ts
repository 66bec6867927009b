/** Configuration spaces put together: BARs, chains of capabilities (PCI Local Bus 3.0, 6.2.5 and 6.7; PCIe 5.0, 7.6.3). */
import { describe, expect, test } from "vitest";
import { load16, load32 } from "../../lib/abi/struct.ts";
import type { PciBar } from "../../lib/hardware/pci-device.ts";
import { type CapabilityImage, pciImage } from "../../lib/hardware/pci-image.ts";

const BAR0 = 0x10;
const bar = (index: number, size: number, wide = false): PciBar => ({
  index,
  size,
  type: "mem",
  wide,
  prefetchable: false,
});

describe("BARs", () => {
  test("each where it was told, or behind the one before, aligned to its size; both halves of a wide one", () => {
    const bars = [bar(0, 4096), bar(1, 0x10_0000), bar(2, 0x2000, true), bar(4, 256, true)];
    const config = pciImage({ bars, addresses: { 2: 0x12_3456_0000 } });
    const at = [0, 1, 2, 3, 4, 5].map((index) => load32(config, BAR0 + 4 * index));
    expect(at.map((value) => (value & ~15) >>> 0)).toEqual([
      0xe000_0000, 0xe010_0000, 0x3456_0000, 0x10, 0xe020_0000, 0,
    ]);
    // bit 2: of 64 bits
    expect(at.map((value) => value & 15)).toEqual([0, 0, 4, 2, 4, 0]);
  });
});

describe("capabilities", () => {
  const kinds: [capability: CapabilityImage, id: number, length: number][] = [
    [{ kind: "pm" }, 0x01, 8],
    [{ kind: "msi", vectors: 4 }, 0x05, 10],
    [{ kind: "msi", vectors: 4, wide: true }, 0x05, 14],
    [{ kind: "msi", vectors: 4, wide: true, maskable: true }, 0x05, 24],
    [{ kind: "msix", vectors: 8, table: [0, 0], pending: [0, 2048] }, 0x11, 12],
    [{ kind: "exp" }, 0x10, 0x3c],
    [{ kind: "exp", version: 1 }, 0x10, 0x14],
    [{ kind: "af" }, 0x13, 6],
    [{ kind: "vendor", bytes: [1, 2] }, 0x09, 5],
    [{ kind: "raw", id: 0x0d, bytes: [1, 2, 3] }, 0x0d, 5],
  ];

  test("every pair: the chain goes from one to the next, on a multiple of four, and ends", () => {
    for (const [first, firstId, length] of kinds)
      for (const [second, secondId] of kinds) {
        const config = pciImage({ capabilities: [first, second] });
        expect([first.kind, second.kind, config.length]).toEqual([
          first.kind,
          second.kind,
          first.kind === "exp" || second.kind === "exp" ? 4096 : 256,
        ]);
        const next = 0x40 + ((length + 3) & ~3);
        expect([config[0x34], config[0x40], config[0x41], config[next], config[next + 1]]).toEqual([
          0x40,
          firstId,
          next,
          secondId,
          0,
        ]);
        expect(load16(config, 6) & 0x10).toBe(0x10);
      }
    const none = pciImage({});
    expect([none[0x34], load16(none, 6) & 0x10, none.length]).toEqual([0, 0, 256]);
  });

  test("extended ones from 0x100 on: each points to the next, the last to 0; none without PCI Express", () => {
    const extended = [
      { id: 0x0d, bytes: [1, 2] },
      { id: 0x03, version: 2, bytes: [5, 6, 7, 8] },
      { id: 0x0b, bytes: [9] },
    ];
    const config = pciImage({ capabilities: [{ kind: "exp" }], extended });
    expect([0x100, 0x108, 0x110].map((at) => load32(config, at))).toEqual([
      0x0d + (1 << 16) + 0x108 * 2 ** 20,
      0x03 + (2 << 16) + 0x110 * 2 ** 20,
      0x0b + (1 << 16),
    ]);
    expect([...config.subarray(0x104, 0x106), ...config.subarray(0x10c, 0x110), config[0x114]]).toEqual([
      1, 2, 5, 6, 7, 8, 9,
    ]);
    expect(pciImage({ extended }).length).toBe(256);
  });
});
