/** Where the frames of a GICv3 may stand: arch/arm64/kvm/vgic/vgic-mmio-v3.c:vgic_v3_set_redist_base (6.12). */
import { describe, expect, test } from "vitest";
import { KVM_DEV_TYPE_ARM_VGIC_ITS } from "../../../lib/abi/kvm.ts";
import {
  KVM_DEV_ARM_VGIC_GRP_ADDR,
  KVM_DEV_ARM_VGIC_GRP_ITS_REGS,
  KVM_VGIC_ITS_ADDR_TYPE,
  KVM_VGIC_V3_ADDR_TYPE_DIST,
  KVM_VGIC_V3_ADDR_TYPE_REDIST,
  KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
} from "../../../lib/abi/kvm-arm64.ts";
import { GicWorld } from "./gic-world.ts";

/** a VM of type 0 has 40 bits of guest addresses */
const END = 2 ** 40;
const FRAMES = 0x2_0000;

function world(cpus = 2) {
  const gic = new GicWorld(cpus);
  const set = (type: number, value: number | bigint) =>
    gic.set(gic.vgic, KVM_DEV_ARM_VGIC_GRP_ADDR, type, value);
  return {
    gic,
    distributor: (base: number) => set(KVM_VGIC_V3_ADDR_TYPE_DIST, base),
    old: (base: number) => set(KVM_VGIC_V3_ADDR_TYPE_REDIST, base),
    region: (index: number, base: number, count: number) =>
      set(KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, BigInt(base) | BigInt(index) | (BigInt(count) << 52n)),
    readRegion: (index: number) =>
      gic.get(gic.vgic, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, index),
  };
}

describe("regions of redistributors", () => {
  test("a counted one has the room that it names, however many vCPUs there are", () => {
    for (let cpus = 0; cpus < 4; cpus++)
      for (let count = 1; count < 5; count++)
        for (let room = 0; room < 5; room++)
          expect([cpus, count, room, world(cpus).region(0, END - room * FRAMES, count)]).toEqual([
            cpus,
            count,
            room,
            count <= room ? 0 : "E2BIG",
          ]);
  });

  test("one of the old kind has room for all vCPUs", () => {
    for (let cpus = 1; cpus < 4; cpus++)
      for (let room = 1; room < 5; room++)
        expect(world(cpus).old(END - room * FRAMES)).toBe(cpus <= room ? 0 : "E2BIG");
  });

  test("they are numbered from 0 on, without a gap, and lie apart", () => {
    const { region, readRegion } = world();
    expect([1, 2, 0xfff].map((index) => region(index, 0x1000_0000, 1))).toEqual([
      "EINVAL",
      "EINVAL",
      "EINVAL",
    ]);
    expect(region(0, 0x1000_0000, 2)).toBe(0);
    expect(region(0, 0x2000_0000, 2)).toBe("EINVAL");
    expect(region(2, 0x2000_0000, 2)).toBe("EINVAL");
    for (const base of [0x1000_0000, 0x1000_0000 + FRAMES, 0x1000_0000 - FRAMES])
      expect(region(1, base, 2)).toBe("EINVAL");
    expect(region(1, 0x1000_0000 + 2 * FRAMES, 3)).toBe(0);
    expect(region(2, 0x1000_0000 - FRAMES, 1)).toBe(0);
    expect([0, 1, 2, 3].map(readRegion)).toEqual([
      (2n << 52n) | 0x1000_0000n,
      (3n << 52n) | 0x1004_0001n,
      (1n << 52n) | 0x0ffe_0002n,
      "ENOENT",
    ]);
  });

  test("one that meets the distributor is refused and leaves nothing, once there are vCPUs to stand in it", () => {
    for (const cpus of [0, 1]) {
      const { distributor, region, readRegion } = world(cpus);
      expect(distributor(0x1001_0000)).toBe(0);
      expect(region(0, 0x1000_0000, 1)).toBe(cpus === 0 ? 0 : "EINVAL");
      expect(readRegion(0)).toBe(cpus === 0 ? (1n << 52n) | 0x1000_0000n : "ENOENT");
      if (cpus === 1) expect(region(0, 0x2000_0000, 1)).toBe(0);
    }
  });

  test("one of the old kind over the distributor is refused before its end is looked at", () => {
    const { distributor, old } = world(2);
    expect(distributor(END - 0x1_0000)).toBe(0);
    expect([old(END - FRAMES), old(END - 0x1_0000), old(END - 3 * FRAMES)]).toEqual(["EINVAL", "EINVAL", 0]);
  });

  test("there is one of the old kind, and then no other", () => {
    const { old, region } = world();
    expect([old(0x1000_0000), old(0x2000_0000), region(0, 0x2000_0000, 1)]).toEqual([0, "EEXIST", "EINVAL"]);
    const counted = world();
    expect([counted.region(0, 0x1000_0000, 2), counted.old(0x2000_0000)]).toEqual([0, "EINVAL"]);
  });
});

describe("an ITS", () => {
  test("says its address once it has one", () => {
    for (const base of [0x0808_0000, 0x1_0000_0000, END - 0x2_0000]) {
      const { gic } = world();
      const its = gic.device(KVM_DEV_TYPE_ARM_VGIC_ITS);
      const address = () => gic.get(its, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE);
      expect(address()).toBe(2n ** 64n - 1n);
      expect(gic.set(its, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE, base)).toBe(0);
      expect(address()).toBe(BigInt(base));
    }
  });

  test("registers are reached as a whole: words before TYPER and from 0xffd0 on, doubles between (vgic_its_attr_regs_access)", () => {
    const { gic } = world();
    const its = gic.device(KVM_DEV_TYPE_ARM_VGIC_ITS);
    gic.set(its, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE, 0x0808_0000);
    const doubles = [0x8, 0x80, 0x88, 0x90, ...Array.from({ length: 8 }, (_, i) => 0x100 + 8 * i)];
    const words = [0, 4, ...Array.from({ length: 12 }, (_, i) => 0xffd0 + 4 * i)];
    const wrong: string[] = [];
    const offsets = Array.from({ length: 0x200 }, (_, i) => i).concat(
      Array.from({ length: 0x100 }, (_, i) => 0xff00 + i),
    );
    for (const offset of offsets) {
      const wide = offset >= 8 && offset < 0xffd0;
      const there = (wide ? doubles : words).includes(offset);
      const expected = offset % (wide ? 8 : 4) !== 0 ? "EINVAL" : there ? 0 : "ENXIO";
      const has = gic.has(its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, offset);
      const got = gic.get(its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, offset);
      if (has !== expected || (typeof got === "bigint" ? 0 : got) !== expected)
        wrong.push(`${offset.toString(16)}: ${has}, ${got}, ${expected}`);
    }
    expect(wrong).toEqual([]);
  });
});
