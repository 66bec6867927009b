/**
 * A host described for any other device needs no new code: devices made by chance, and what VFIO says of their regions,
 * interrupts and configuration space against a model of a few lines that is told the description, not the bytes.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EFAULT, EINVAL } from "../../lib/abi/errno.ts";
import { load16, load32, store32 } from "../../lib/abi/struct.ts";
import {
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VfioIrqInfo,
  VfioRegionInfo,
} from "../../lib/abi/vfio.ts";
import type { PciBar } from "../../lib/hardware/pci-device.ts";
import type { CapabilityImage, PciImage } from "../../lib/hardware/pci-image.ts";
import { Assigned, CONFIG, region } from "./assigned.ts";

interface Generated {
  bars: PciBar[];
  pin: number;
  rom: number;
  capabilities: CapabilityImage[];
  resets: string[];
}

/** Ids of capabilities that VFIO does not know, and leaves out of the list. */
const HIDDEN = [0x04, 0x0a, 0x0b, 0x0d, 0x16, 0x7f];

const bars = fc
  .array(
    fc.record({
      log: fc.integer({ min: 4, max: 20 }),
      type: fc.constantFrom("mem" as const, "mem" as const, "io" as const),
      wide: fc.boolean(),
      prefetchable: fc.boolean(),
      gap: fc.nat(1),
    }),
    { maxLength: 6 },
  )
  .map((list): PciBar[] => {
    const made: PciBar[] = [];
    let index = 0;
    for (const { log, type, wide, prefetchable, gap } of list) {
      index += gap;
      const isWide = wide && type === "mem";
      if (index + (isWide ? 1 : 0) > 5) break;
      const size = type === "io" ? Math.min(2 ** log, 256) : 2 ** log;
      made.push({ index, size, type, wide: isWide, prefetchable: prefetchable && type === "mem" });
      index += isWide ? 2 : 1;
    }
    return made;
  });

const generated: fc.Arbitrary<Generated> = bars.chain((made) => {
  const big = made.filter(({ type, size }) => type === "mem" && size >= 65_536);
  const kinds: fc.Arbitrary<CapabilityImage>[] = [
    fc.record({
      kind: fc.constant("pm" as const),
      d1: fc.boolean(),
      d2: fc.boolean(),
      noSoftReset: fc.boolean(),
    }),
    fc.record({
      kind: fc.constant("msi" as const),
      vectors: fc.constantFrom(1, 2, 4, 8, 16, 32),
      wide: fc.boolean(),
      maskable: fc.boolean(),
    }),
    fc.record({
      kind: fc.constant("exp" as const),
      version: fc.constantFrom(1 as const, 2 as const),
      flr: fc.boolean(),
    }),
    fc.record({ kind: fc.constant("af" as const), flr: fc.boolean() }),
  ];
  if (big.length !== 0)
    kinds.push(
      fc
        .record({ vectors: fc.integer({ min: 1, max: 2048 }), bar: fc.nat(big.length - 1) })
        .map(({ vectors, bar }) => ({
          kind: "msix" as const,
          vectors,
          table: [big[bar].index, 0] as [number, number],
          pending: [big[bar].index, 49_152] as [number, number],
        })),
    );
  const others: fc.Arbitrary<CapabilityImage> = fc.oneof(
    fc.record({ kind: fc.constant("vendor" as const), bytes: fc.array(fc.nat(255), { maxLength: 9 }) }),
    fc.record({
      kind: fc.constant("raw" as const),
      id: fc.constantFrom(...HIDDEN),
      bytes: fc.array(fc.nat(255), { minLength: 2, maxLength: 6 }),
    }),
  );
  return fc.record({
    bars: fc.constant(made),
    pin: fc.nat(4),
    rom: fc.constantFrom(0, 0, 65_536),
    capabilities: fc
      .tuple(
        fc.subarray(kinds).chain((list) => fc.tuple(...list)),
        fc.array(others, { maxLength: 2 }),
      )
      .chain(([known, more]) =>
        fc.shuffledSubarray([...known, ...more], { minLength: known.length + more.length }),
      ),
    resets: fc.constantFrom([], ["flr"], ["pm"], ["bus"]),
  });
});

const open = ({ bars: list, pin, rom, capabilities, resets }: Generated): Assigned =>
  new Assigned({ image: { bars: list, pin, capabilities } satisfies PciImage, rom, resets });

const find = <K extends CapabilityImage["kind"]>(device: Generated, kind: K) =>
  device.capabilities.find((each): each is Extract<CapabilityImage, { kind: K }> => each.kind === kind);

function regionInfo(real: Assigned, index: number, argsz = 64) {
  const bytes = new Uint8Array(argsz);
  const info = VfioRegionInfo.at(bytes, 0);
  info.argsz = argsz;
  info.index = index;
  const result = real.process.ioctl(real.fd, VFIO_DEVICE_GET_REGION_INFO, bytes);
  if (result < 0) return result;
  const { flags, size, offset, cap_offset: cap } = info;
  return { flags, size: Number(size), offset: Number(offset), cap: cap === 0 ? 0 : load16(bytes, cap) };
}

const SMALL_RUN = { numRuns: 150 };

describe("a device made by chance", () => {
  test("regions", () => {
    fc.assert(
      fc.property(generated, (device) => {
        const real = open(device);
        const table = find(device, "msix")?.table[0];
        for (let index = 0; index <= 5; index++) {
          const bar = device.bars.find((each) => each.index === index);
          // BARs of a hand-made image lie at multiples of a page
          const mapped = bar?.type === "mem";
          const msix = mapped && table === index;
          const expected = {
            flags: bar === undefined ? 0 : 3 + (mapped ? 4 : 0) + (msix ? 8 : 0),
            size: bar?.size ?? 0,
            offset: region(index),
            cap: msix ? 3 : 0,
          };
          expect(regionInfo(real, index)).toEqual(expected);
          expect(real.read(region(index) + expected.size, 4)).toBe(-EINVAL);
          const map = real.process.mmap(0, 4096, 3, 1, real.fd, region(index));
          expect(map > 0).toBe(mapped);
        }
        expect(regionInfo(real, 6)).toEqual({
          flags: device.rom === 0 ? 0 : 1,
          size: device.rom,
          offset: region(6),
          cap: 0,
        });
        const express = find(device, "exp") !== undefined;
        expect(regionInfo(real, 7)).toEqual({ flags: 3, size: express ? 4096 : 256, offset: CONFIG, cap: 0 });
        expect([8, 9, 100].map((index) => regionInfo(real, index))).toEqual([-EINVAL, -EINVAL, -EINVAL]);
      }),
      SMALL_RUN,
    );
  });

  test("interrupts and flags", () => {
    fc.assert(
      fc.property(generated, (device) => {
        const real = open(device);
        const express = find(device, "exp") !== undefined;
        const counts = [
          device.pin === 0 ? 0 : 1,
          find(device, "msi")?.vectors ?? 0,
          find(device, "msix")?.vectors ?? 0,
          express ? 1 : -EINVAL,
          1,
        ];
        counts.forEach((count, index) => {
          const info = VfioIrqInfo.encode({ argsz: 16, flags: 0, index, count: 0 });
          const result = real.process.ioctl(real.fd, VFIO_DEVICE_GET_IRQ_INFO, info);
          expect(result < 0 ? result : VfioIrqInfo.at(info, 0).count).toBe(count);
          const flags = index === 0 ? 7 : index === 2 && count > 0 ? 1 : 9;
          if (result === 0) expect(VfioIrqInfo.at(info, 0).flags).toBe(flags);
        });
        const info = new Uint8Array(24);
        store32(info, 0, 24);
        expect(real.process.ioctl(real.fd, VFIO_DEVICE_GET_INFO, info)).toBe(0);
        expect([load32(info, 4), load32(info, 8), load32(info, 12)]).toEqual([
          2 + (device.resets.length === 0 ? 0 : 1),
          9,
          5,
        ]);
      }),
      SMALL_RUN,
    );
  });

  test("the list of capabilities is the description's, without those that VFIO does not know", () => {
    fc.assert(
      fc.property(generated, (device) => {
        const real = open(device);
        const ids = { pm: 1, msi: 5, vendor: 9, exp: 16, msix: 17, af: 19 };
        const expected = device.capabilities
          .filter(({ kind }) => kind !== "raw")
          .map(({ kind }) => ids[kind as "pm"]);
        const config = real.read(CONFIG, 256) as number[];
        const shown: number[] = [];
        for (let at = config[0x34]; at !== 0; at = config[at + 1]) shown.push(config[at]);
        expect(shown).toEqual(expected);
        expect((config[6] & 0x10) !== 0).toBe(expected.length !== 0);
      }),
      SMALL_RUN,
    );
  });

  test("a BAR says its size, and keeps its kind", () => {
    fc.assert(
      fc.property(generated, (device) => {
        const real = open(device);
        real.write(CONFIG + 0x10, new Array(24).fill(0xff));
        const read = Uint8Array.from(real.read(CONFIG + 0x10, 24) as number[]);
        const expected = new Uint8Array(24);
        for (const { index, size, type, wide, prefetchable } of device.bars) {
          const kind = type === "io" ? 1 : (wide ? 4 : 0) + (prefetchable ? 8 : 0);
          store32(expected, 4 * index, (2 ** 32 - size) | kind);
          if (wide) store32(expected, 4 * index + 4, 0xffff_ffff);
        }
        expect([...read]).toEqual([...expected]);
      }),
      SMALL_RUN,
    );
  });

  test("an access of any place and width is what its bytes are; over the end it is EFAULT as a whole", () => {
    fc.assert(
      fc.property(generated, fc.nat(4200), fc.integer({ min: 1, max: 40 }), (device, at, count) => {
        const real = open(device);
        const size = find(device, "exp") === undefined ? 256 : 4096;
        const got = real.read(CONFIG + at, count);
        if (at + count > size) expect(got).toBe(-EFAULT);
        else {
          const bytes = Array.from(
            { length: count },
            (_, i) => (real.read(CONFIG + at + i, 1) as number[])[0],
          );
          expect(got).toEqual(bytes);
        }
      }),
      SMALL_RUN,
    );
  });

  /** What a program can change, byte by byte: told from the description. */
  function changeable(device: Generated): Map<number, number> {
    const bits = new Map<number, number>([
      [0x3c, 0xff],
      [0x0c, 0xff],
      [0x05, 0x05],
      [0x04, 0x07],
    ]);
    const set = (at: number, ...masks: number[]): void => {
      for (const [i, mask] of masks.entries()) bits.set(at + i, mask);
    };
    let at = 0x40;
    for (const capability of device.capabilities) {
      const { kind } = capability;
      let length = { pm: 8, af: 6, exp: 0x3c, msix: 12, msi: 10, vendor: 3, raw: 2 }[kind];
      if (kind === "msi") {
        length += (capability.wide ? 4 : 0) + (capability.maskable ? 10 : 0);
        const data = at + 8 + (capability.wide ? 4 : 0);
        for (let i = at + 4; i < data + 2; i++) set(i, 0xff);
        // enable and the number in use obey SET_IRQS; the rest of the low byte is kept as it is written
        set(at + 2, 0x8e);
        if (capability.maskable)
          for (let i = 0; i < 4; i++)
            set(data + 4 + i, Number((2n ** BigInt(capability.vectors) - 1n) >> BigInt(8 * i)) & 0xff);
      }
      if (kind === "pm") set(at + 4, 0x03);
      if (kind === "exp") {
        if (capability.version === 1) length = 0x14;
        set(at + 8, 0xe0, 0x70);
        if (capability.version === 2) set(at + 0x29, 0x80);
      }
      if (kind === "vendor" || kind === "raw") length += capability.bytes.length;
      at = (at + length + 3) & ~3;
    }
    return bits;
  }

  test("which bits can be changed: all ones, then all zeros, byte by byte", () => {
    fc.assert(
      fc.property(generated, (device) => {
        const real = open(device);
        const bits = changeable(device);
        const used = usedBytes(device);
        for (let at = 0; at < 256; at++) {
          if ((at >= 0x10 && at < 0x28) || (at >= 0x30 && at < 0x34)) continue;
          const before = (real.read(CONFIG + at, 1) as number[])[0];
          real.write(CONFIG + at, [0xff]);
          const ones = (real.read(CONFIG + at, 1) as number[])[0];
          real.write(CONFIG + at, [0]);
          const zeros = (real.read(CONFIG + at, 1) as number[])[0];
          const expected = used.has(at) ? (bits.get(at) ?? 0) : 0xff;
          expect({ at, changed: ones ^ zeros }).toEqual({ at, changed: expected });
          real.write(CONFIG + at, [before]);
        }
      }),
      { numRuns: 80 },
    );
  });

  /** Bytes of the header and of capabilities; all others are the device's to keep. */
  function usedBytes(device: Generated): Set<number> {
    const used = new Set(Array.from({ length: 64 }, (_, i) => i));
    let at = 0x40;
    for (const capability of device.capabilities) {
      let length = { pm: 8, af: 6, exp: 0x3c, msix: 12, msi: 10, vendor: 3, raw: 4 }[capability.kind];
      if (capability.kind === "msi") length += (capability.wide ? 4 : 0) + (capability.maskable ? 10 : 0);
      if (capability.kind === "exp" && capability.version === 1) length = 0x14;
      if (capability.kind === "vendor") length += capability.bytes.length;
      for (let i = 0; i < length; i++) used.add(at + i);
      const whole = capability.kind === "raw" ? 2 + capability.bytes.length : length;
      at = (at + whole + 3) & ~3;
    }
    return used;
  }

  test("closed and opened again: nothing that the program wrote is left in the header", () => {
    fc.assert(
      fc.property(
        generated,
        fc.array(fc.tuple(fc.nat(63), fc.nat(255)), { maxLength: 20 }),
        (device, writes) => {
          const real = open(device);
          const before = real.read(CONFIG, 64);
          for (const [at, value] of writes) real.write(CONFIG + at, [value]);
          real.process.close(real.fd);
          const again = real.open();
          expect(again).toBe(real.fd);
          expect(real.read(CONFIG, 64)).toEqual(before);
        },
      ),
      SMALL_RUN,
    );
  });
});
