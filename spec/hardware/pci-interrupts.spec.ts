/** What a PCI function's registers let through: vectors that there are, bytes that are its own, accesses that count. */
import { describe, expect, test } from "vitest";
import { Edu } from "../../lib/hardware/edu.ts";
import { Ivshmem } from "../../lib/hardware/ivshmem.ts";
import { type PciBar, PciDevice } from "../../lib/hardware/pci-device.ts";
import { pciImage } from "../../lib/hardware/pci-image.ts";
import { RegisterDevice } from "../../lib/hardware/register-device.ts";

const memory: PciBar = { index: 0, size: 4096, type: "mem", wide: false, prefetchable: false };
const PENDING_BITS = 2048;

/** A function with four vectors, of MSI or of MSI-X, all on and free. */
function withVectors(kind: "msi" | "msix") {
  const device = new PciDevice({
    address: "0000:00:05.0",
    config: pciImage({
      pin: 1,
      bars: [memory],
      capabilities: [
        kind === "msi"
          ? { kind, vectors: 4, wide: true, maskable: true }
          : { kind, vectors: 4, table: [0, 1024], pending: [0, PENDING_BITS] },
      ],
    }),
    bars: [memory],
  });
  const sent: number[] = [];
  device.wires = { intx: () => undefined, message: (_device, { data }) => void sent.push(data) };
  device.writeConfig(4, 2, 6);
  if (kind === "msi") device.writeConfig(0x42, 2, 0x21);
  else {
    for (let vector = 0; vector < 4; vector++) {
      device.writeBar(0, 1024 + 16 * vector + 8, 4, vector);
      device.writeBar(0, 1024 + 16 * vector + 12, 4, 0);
    }
    device.writeConfig(device.msixCapability + 2, 2, 0x8000);
  }
  return { device, sent };
}

describe.each(["msi", "msix"] as const)("%s", (kind) => {
  test("exactly the vectors that there are can be raised", () => {
    const { device, sent } = withVectors(kind);
    for (const vector of [-32, -1, 0, 1, 2, 3, 4, 5, 31, 32, 33, 2047]) device[kind]!.raise(vector);
    expect(sent).toEqual([0, 1, 2, 3]);
  });
});

test("ivshmem: a doorbell is a write of four bytes to BAR 0, with a vector that the peer has", () => {
  const { device, sent } = withVectors("msix");
  device.model = new Ivshmem(device, 0, new Uint8Array(16));
  for (const vector of [0, 3, 4, 0xffff]) device.writeBar(0, 12, 4, vector);
  expect(sent).toEqual([0, 3]);
  for (const bar of [0, 1, 3]) for (const width of [1, 2, 8]) device.writeBar(bar, 12, width, 0);
  device.writeBar(1, 12, 4, 0);
  expect(sent).toEqual([0, 3]);
});

test("edu: the DMA registers hold 64 bits, of which a read of four bytes sees the lower half", () => {
  const { device } = withVectors("msi");
  device.model = new Edu(device);
  for (const offset of [0x80, 0x88, 0x90, 0x98]) {
    device.writeBar(0, offset, 8, 0x0123_4567_89ab_cdefn);
    expect([device.readBar(0, offset, 8), device.readBar(0, offset, 4)]).toEqual([
      0x0123_4567_89ab_cdefn,
      0x89ab_cdef,
    ]);
  }
});

test("registers may lie right behind the pending bits", () => {
  const { device } = withVectors("msix");
  expect(device.unmodelled).toBe(false);
  device.model = new RegisterDevice(device, {
    [PENDING_BITS - 4]: { initial: 0x1111 },
    [PENDING_BITS + 8]: { initial: 0x2222 },
  });
  const reads = [-4, 0, 4, 8].map((at) => device.readBar(0, PENDING_BITS + at, 4));
  expect([reads, device.unmodelled]).toEqual([[0x1111, 0, 0, 0x2222], false]);
});

describe("configuration space", () => {
  test("functions made of the same bytes do not share them", () => {
    const config = pciImage({ bars: [memory] });
    const before = config.slice();
    const [one, other] = [1, 2].map(() => new PciDevice({ address: "0000:00:05.0", config, bars: [memory] }));
    one.writeConfig(4, 2, 7);
    expect([one.command, other.command]).toEqual([7, 0]);
    expect(config).toEqual(before);
  });

  test("the BAR of the expansion ROM says its size, and is not there without one", () => {
    for (const rom of [undefined, 0x800, 0x1_0000, 0x10_0000]) {
      const device = new PciDevice({
        address: "0000:00:05.0",
        config: pciImage({}),
        ...(rom ? { rom } : {}),
      });
      device.writeConfig(0x30, 4, 0xffff_fffe);
      expect(device.readConfig(0x30, 4)).toBe(rom === undefined ? 0 : (2 ** 32 - rom) >>> 0);
    }
  });

  test("without extended capabilities the first word of the extended space is zero, and stays", () => {
    const config = new Uint8Array(4096);
    config.set(pciImage({}));
    const device = new PciDevice({ address: "0000:00:05.0", config });
    for (const width of [1, 2, 4]) device.writeConfig(0x100, width, 0xffff_ffff);
    device.writeConfig(0x104, 4, 0x1234);
    expect([device.readConfig(0x100, 4), device.readConfig(0x104, 4)]).toEqual([0, 0x1234]);
  });
});
