/** The frames of a redistributor: arch/arm64/kvm/vgic/vgic-mmio-v3.c:vgic_v3_rd_registers (6.1), IHI 0069H 12.10, 12.11. */
import { expect, test } from "vitest";
import { Gic, GicCpu } from "../../lib/hardware/gic.ts";
import { redistributor } from "../../lib/hardware/gic-redistributor.ts";
import { readFrame, userReadFrame, userWriteFrame, writeFrame } from "../../lib/hardware/gic-registers.ts";

const SGI_FRAME = 0x10000;

function newRedistributor() {
  const gic = new Gic(3, [new GicCpu(0, 0), new GicCpu(1, 1)]);
  gic.hasIts = true;
  gic.reset();
  gic.enabled = true;
  const invalidated: number[] = [];
  const regions = redistributor({
    loadPending: () => undefined,
    invalidate: (intid) => invalidated.push(intid),
    invalidateAll: () => invalidated.push(-1),
  });
  const [cpu, other] = gic.cpus;
  return {
    gic,
    cpu,
    regions,
    invalidated,
    read: (offset: number, width = 4) => readFrame(regions, gic, cpu, offset, width),
    readOther: (offset: number) => readFrame(regions, gic, other, offset, 4),
    write: (offset: number, value: bigint, width = 4) => writeFrame(regions, gic, cpu, offset, width, value),
  };
}

test("an LPI is invalidated by the lower half of INVLPIR, all by that of INVALLR, while LPIs are on; both read zero", () => {
  for (const enabled of [false, true])
    for (const [offset, width] of [
      [0, 8],
      [0, 4],
      [4, 4],
    ]) {
      const { cpu, read, write, invalidated } = newRedistributor();
      cpu.lpisEnabled = enabled;
      write(0xa0 + offset, 8200n, width);
      write(0xb0 + offset, 0n, width);
      expect(invalidated).toEqual(enabled && offset === 0 ? [8200, -1] : []);
      expect([read(0xa0 + offset, width), read(0xb0 + offset, width)]).toEqual([0n, 0n]);
    }
});

test("every bit of a private interrupt's group, enable, pending and active registers is that processor's own", () => {
  for (let bit = 0; bit < 32; bit++) {
    const { read, readOther, write } = newRedistributor();
    const set = BigInt((1 << bit) >>> 0);
    write(SGI_FRAME + 0x80, set);
    expect([read(SGI_FRAME + 0x80), readOther(SGI_FRAME + 0x80)]).toEqual([set, 0xffff_ffffn]);
    write(SGI_FRAME + 0x180, 0xffff_ffffn);
    for (const [toSet, toClear] of [
      [0x100, 0x180],
      [0x200, 0x280],
      [0x300, 0x380],
    ]) {
      const before = readOther(SGI_FRAME + toSet);
      write(SGI_FRAME + toSet, set);
      expect([read(SGI_FRAME + toSet), read(SGI_FRAME + toClear)]).toEqual([set, set]);
      write(SGI_FRAME + toClear, set ^ 0xffff_ffffn);
      expect(read(SGI_FRAME + toSet)).toBe(set);
      write(SGI_FRAME + toClear, set);
      expect([read(SGI_FRAME + toSet), read(SGI_FRAME + toClear)]).toEqual([0n, 0n]);
      expect(readOther(SGI_FRAME + toSet)).toBe(before);
    }
  }
});

test("user space finds what is pending in ISPENDR; ICPENDR reads zero and takes nothing", () => {
  const { gic, cpu, regions } = newRedistributor();
  const user = (offset: number) => userReadFrame(regions, gic, cpu, SGI_FRAME + offset);
  expect(userWriteFrame(regions, gic, cpu, SGI_FRAME + 0x200, 0xa5)).toBe(0);
  expect(userWriteFrame(regions, gic, cpu, SGI_FRAME + 0x280, 0xffff_ffff)).toBe(0);
  expect([user(0x200), user(0x280)]).toEqual([0xa5, 0]);
});
