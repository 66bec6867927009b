import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Edu } from "../../lib/hardware/edu.ts";
import type { MsiMessage } from "../../lib/hardware/interrupt-remapping.ts";
import { Ivshmem } from "../../lib/hardware/ivshmem.ts";
import { type PciBar, PciDevice } from "../../lib/hardware/pci-device.ts";
import { type CapabilityImage, pciImage } from "../../lib/hardware/pci-image.ts";
import { doorbell, intxLevel, RegisterDevice } from "../../lib/hardware/register-device.ts";

const memory: PciBar = { index: 0, size: 4096, type: "mem", wide: false, prefetchable: false };

function make(capabilities: readonly CapabilityImage[], options: { intxDisable?: boolean } = {}) {
  const device = new PciDevice({
    address: "0000:00:05.0",
    config: pciImage({ pin: 1, bars: [memory], capabilities }),
    bars: [memory],
    ...options,
  });
  const levels: boolean[] = [];
  const messages: MsiMessage[] = [];
  device.wires = {
    intx: (_device, high) => void levels.push(high),
    message: (_device, message) => void messages.push({ ...message }),
  };
  device.writeConfig(4, 2, 6);
  return { device, levels, messages };
}

describe("INTx", () => {
  test("DisINTx takes the wire down and leaves the status", () => {
    const { device, levels } = make([]);
    device.setIntx(true);
    device.setIntx(true);
    expect([levels, device.status & 8]).toEqual([[true], 8]);
    device.writeConfig(4, 2, 0x406);
    expect([levels, device.status & 8, device.intxHigh]).toEqual([[true, false], 8, false]);
    device.writeConfig(4, 2, 6);
    device.setIntx(false);
    expect([levels, device.status & 8]).toEqual([[true, false, true, false], 0]);
  });

  test("a device that cannot disable it", () => {
    const { device, levels } = make([], { intxDisable: false });
    device.setIntx(true);
    device.writeConfig(4, 2, 0x406);
    expect([device.command, levels]).toEqual([6, [true]]);
  });
});

describe("MSI", () => {
  const program = (device: PciDevice, at: number) => {
    device.writeConfig(at + 4, 4, 0xfee0_1000);
    device.writeConfig(at + 8, 4, 0);
    device.writeConfig(at + 12, 2, 0x4a);
  };

  test("off, without bus mastering, in D3hot: nothing is sent", () => {
    const { device, messages } = make([
      { kind: "msi", vectors: 1, wide: true },
      { kind: "pm", noSoftReset: true },
    ]);
    program(device, 0x40);
    device.msi!.raise(0);
    device.writeConfig(0x42, 2, 1);
    device.writeConfig(4, 2, 2);
    device.msi!.raise(0);
    device.writeConfig(4, 2, 6);
    device.writeConfig(device.pmCapability + 4, 2, 3);
    device.msi!.raise(0);
    device.writeConfig(device.pmCapability + 4, 2, 0);
    expect(messages).toEqual([]);
    device.msi!.raise(0);
    expect(messages).toEqual([{ addressLo: 0xfee0_1000, addressHi: 0, data: 0x4a }]);
  });

  test("the vector stands in the lowest bits of the data, as far as vectors were given", () => {
    const { device, messages } = make([{ kind: "msi", vectors: 8, wide: true }]);
    program(device, 0x40);
    for (const [given, expected] of [
      [0, [0x4a, 0x4a, 0x4a]],
      [1, [0x4a, 0x4b, 0x4b]],
      [3, [0x48, 0x4b, 0x4f]],
    ] as const) {
      device.writeConfig(0x42, 2, 1 | (given << 4));
      messages.length = 0;
      for (const vector of [0, 3, 7]) device.msi!.raise(vector);
      expect(messages.map(({ data }) => data)).toEqual(expected);
    }
  });

  test("a masked vector is latched, and sent when the mask goes", () => {
    const { device, messages } = make([{ kind: "msi", vectors: 4, wide: true, maskable: true }]);
    program(device, 0x40);
    device.writeConfig(0x42, 2, 0x21);
    device.writeConfig(0x50, 4, 0b0110);
    for (const vector of [0, 1, 2, 2]) device.msi!.raise(vector);
    expect([messages.map(({ data }) => data & 3), device.readConfig(0x54, 4)]).toEqual([[0], 0b0110]);
    device.writeConfig(0x50, 4, 0b0100);
    expect([messages.map(({ data }) => data & 3), device.readConfig(0x54, 4)]).toEqual([[0, 1], 0b0100]);
    device.writeConfig(0x50, 4, 0);
    expect([messages.map(({ data }) => data & 3), device.readConfig(0x54, 4)]).toEqual([[0, 1, 2], 0]);
  });
});

describe("reset", () => {
  const capabilities: CapabilityImage[] = [
    { kind: "exp", flr: true },
    { kind: "pm" },
    { kind: "msix", vectors: 2, table: [0, 0], pending: [0, 2048] },
    { kind: "af", flr: true },
  ];
  const disturb = (device: PciDevice) => {
    device.writeConfig(4, 2, 0x507);
    device.writeConfig(0x10, 4, 0xd000_0000);
    device.writeConfig(device.msixCapability + 2, 2, 0xc000);
    device.writeBar(0, 12, 4, 0);
    device.msix!.raise(0);
    device.setIntx(true);
  };
  const settled = (device: PciDevice) => ({
    command: device.command,
    bar: device.readConfig(0x10, 4),
    msix: device.msix!.enabled,
    control: device.readConfig(device.msixCapability + 2, 2),
    mask: device.readBar(0, 12, 4),
    pending: device.readBar(0, 2048, 4),
    intx: device.intx,
  });
  const clear = { command: 0, bar: 0, msix: false, control: 1, mask: 1, pending: 0, intx: false };

  test.each([
    ["function level", (d: PciDevice) => d.writeConfig(d.expCapability + 8, 2, 0x8000)],
    ["AF", (d: PciDevice) => d.writeConfig(d.msixCapability + 12 + 4, 1, 1)],
    [
      "D3hot and back",
      (d: PciDevice) => {
        d.writeConfig(d.pmCapability + 4, 2, 3);
        d.writeConfig(d.pmCapability + 4, 2, 0);
      },
    ],
    ["bus", (d: PciDevice) => d.reset()],
  ])("%s", (_name, reset) => {
    const { device } = make(capabilities);
    disturb(device);
    expect(settled(device)).not.toEqual(clear);
    reset(device);
    expect(settled(device)).toEqual(clear);
  });

  test("not on the way back from D3hot where the function says so", () => {
    const { device } = make([{ kind: "pm", noSoftReset: true }]);
    device.writeConfig(device.pmCapability + 4, 2, 3);
    device.writeConfig(device.pmCapability + 4, 2, 0);
    expect(device.command).toBe(6);
  });

  test("the bit that starts it reads as zero", () => {
    const { device } = make(capabilities);
    device.writeConfig(device.expCapability + 8, 2, 0xffff);
    expect(device.readConfig(device.expCapability + 8, 2) & 0x8000).toBe(0);
  });
});

describe("BARs", () => {
  test("decoded while enabled and awake", () => {
    const { device } = make([{ kind: "pm", noSoftReset: true }]);
    expect([device.decodes("mem"), device.decodes("io")]).toEqual([true, false]);
    device.writeConfig(0x44, 2, 3);
    expect(device.decodes("mem")).toBe(false);
  });

  test("a register that nobody defined reads zero and says so", () => {
    const { device } = make([]);
    device.model = new RegisterDevice(device, { 8: {} });
    device.writeBar(0, 8, 4, 7);
    expect([device.readBar(0, 8, 4), device.unmodelled]).toEqual([7, false]);
    expect([device.readBar(0, 12, 4), device.unmodelled]).toEqual([0, true]);
  });

  test("sizing: what is written back says the size, for any size", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 4, max: 31 }),
        fc.constantFrom("mem" as const, "io" as const),
        (log, type) => {
          const bar: PciBar = { index: 2, size: 2 ** log, type, wide: false, prefetchable: false };
          const device = new PciDevice({
            address: "0000:00:01.0",
            config: pciImage({ bars: [bar] }),
            bars: [bar],
          });
          device.writeConfig(0x18, 4, 0xffff_ffff);
          const kind = type === "io" ? 1 : 0;
          expect(device.readConfig(0x18, 4)).toBe(((2 ** 32 - 2 ** log) | kind) >>> 0);
        },
      ),
    );
  });
});

describe("models", () => {
  test("edu: INTx while MSI is off, a message each time while it is on", () => {
    const { device, levels, messages } = make([{ kind: "msi", vectors: 1, wide: true }]);
    device.model = new Edu(device);
    expect(device.readBar(0, 0, 4)).toBe(0x0100_00ed);
    device.writeBar(0, 0x60, 4, 5);
    device.writeBar(0, 0x64, 4, 1);
    expect([device.readBar(0, 0x24, 4), levels]).toEqual([4, [true]]);
    device.writeBar(0, 0x64, 4, 4);
    expect(levels).toEqual([true, false]);
    device.writeConfig(0x42, 2, 1);
    device.writeBar(0, 0x60, 4, 1);
    device.writeBar(0, 0x60, 4, 1);
    expect([levels.length, messages.length]).toEqual([2, 2]);
  });

  test("edu: liveness, factorial with its interrupt, odd widths", () => {
    const { device, levels } = make([]);
    device.model = new Edu(device);
    device.writeBar(0, 4, 4, 0x1234_5678);
    expect(device.readBar(0, 4, 4)).toBe(~0x1234_5678 >>> 0);
    device.writeBar(0, 0x20, 4, 0x80);
    device.writeBar(0, 8, 4, 5);
    expect([device.readBar(0, 8, 4), device.readBar(0, 0x24, 4), levels]).toEqual([120, 1, [true]]);
    expect([device.readBar(0, 0, 1), device.readBar(0, 0, 8)]).toEqual([0, 0xffff_ffff_ffff_ffffn]);
  });

  test("ivshmem: a ring reaches the peer's vector, and is lost without MSI-X", () => {
    const pair = [0, 1].map(() => make([{ kind: "msix", vectors: 2, table: [0, 1024], pending: [0, 2048] }]));
    const shared = new Uint8Array(16);
    const models = pair.map(({ device }, peer) => (device.model = new Ivshmem(device, peer, shared)));
    for (const model of models) for (const other of models) model.peers.set(other.peer, other);
    const [{ device: one }, { device: two, messages }] = pair;
    one.writeBar(0, 12, 4, 0x1_0001);
    expect([two.readBar(0, 2048, 4), two.readBar(0, 8, 4)]).toEqual([0, 1]);
    two.writeConfig(two.msixCapability + 2, 2, 0x8000);
    one.writeBar(0, 12, 4, 0x1_0001);
    expect([two.readBar(0, 2048, 4), messages.length]).toEqual([2, 0]);
    two.writeBar(0, 1024 + 16 + 12, 4, 0);
    expect([two.readBar(0, 2048, 4), messages.length]).toEqual([0, 1]);
    one.writeBar(2, 4, 8, 0x0102_0304_0506_0708n);
    expect(two.readBar(2, 4, 8)).toBe(0x0102_0304_0506_0708n);
  });

  test("registers of a test's own: doorbell, level, widths", () => {
    const { device, levels } = make([{ kind: "msix", vectors: 4, table: [0, 1024], pending: [0, 2048] }]);
    device.model = new RegisterDevice(device, { 0: doorbell, 4: intxLevel, 8: { initial: 0x1122_3344 } });
    device.writeConfig(device.msixCapability + 2, 2, 0x8000);
    device.writeBar(0, 0, 4, 3);
    expect(device.readBar(0, 2048, 4)).toBe(8);
    device.writeBar(0, 4, 4, 1);
    device.writeBar(0, 4, 4, 0);
    expect(levels).toEqual([true, false]);
    expect([device.readBar(0, 9, 1), device.readBar(0, 10, 2), device.readBar(0, 8, 8)]).toEqual([
      0x33,
      0x1122,
      0x1122_3344n,
    ]);
    device.writeBar(0, 9, 1, 0xff);
    expect(device.readBar(0, 8, 4)).toBe(0x1122_ff44);
  });

  test("registers of a test's own: every width at every place", () => {
    const { device } = make([]);
    const words = new Map([
      [0, 0x1122_3344],
      [4, 0x5566_7788],
      [12, 0x99aa_bbcc],
    ]);
    const at = (byte: number): number | undefined => {
      const word = words.get(byte & ~3);
      return word === undefined ? undefined : (word >>> (8 * (byte & 3))) & 0xff;
    };
    const registers = Object.fromEntries([...words].map(([offset, initial]) => [offset, { initial }]));
    const model = new RegisterDevice(device, registers, 2);
    for (const width of [1, 2, 4, 8])
      for (let offset = 0; offset < 20; offset += width) {
        const bytes = Array.from({ length: width }, (_, i) => at(offset + i));
        const none = bytes.every((byte) => byte === undefined);
        const value = bytes.reduceRight((sum, byte) => sum * 256n + BigInt(byte ?? 0), 0n);
        const expected = none ? undefined : width === 8 ? value : Number(value);
        expect([width, offset, model.read(2, offset, width)]).toEqual([width, offset, expected]);
        expect(model.read(0, offset, width)).toBe(undefined);
      }
    model.write(2, 0, 8, 0x0102_0304_0506_0708n);
    model.write(2, 12, 2, 0xffff);
    model.write(2, 14, 1, 0x12);
    model.write(0, 0, 4, 0);
    model.write(2, 8, 4, 5);
    expect([0, 4, 8, 12].map((offset) => model.read(2, offset, 4))).toEqual([
      0x0506_0708,
      0x0102_0304,
      undefined,
      0x9912_ffff,
    ]);
    model.reset();
    expect(model.read(2, 12, 4)).toBe(0x99aa_bbcc);
  });
});
