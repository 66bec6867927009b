import { describe, expect, test } from "vitest";
import { Kernel } from "../../lib/kernel/kernel.ts";
import { behaviourOf } from "../../lib/machine/behaviours.ts";
import { hostInterrupts, pinOf } from "../../lib/machine/host-interrupts.ts";
import { MachinePci } from "../../lib/machine/pci.ts";
import { profileFromHeader } from "../../lib/machine/profile.ts";

const fn = (bdf: string, vendor = "0x8086", device = "0x1234", kind = "0x020000") => ({
  bdf,
  vendor,
  device,
  class: kind,
});
const console = fn("0000:00:02.0", "0x1af4", "0x1043", "0x078000");
const port = (slot: number) => fn(`0000:00:0${slot}.0`, "0x1b36", "0x000c", "0x060400");

function free(release: string, host: Record<string, unknown>, pci: ReturnType<typeof fn>[]) {
  const profile = profileFromHeader({ arch: "x86_64", kernel: release, host, pci, devices: [] });
  const { irqs } = new MachinePci(profile, [], new Kernel(), behaviourOf(release), new Map());
  return { vectors: irqs.matrix.free, entries: 65_536 - irqs.remapping.inUse("") };
}

describe("what a host uses itself", () => {
  test.each([
    ["6.1", 1, 192],
    ["6.12", 1, 192],
    ["6.12", 2, 393],
    ["7.2", 1, 192],
  ])("%s, %i processors: %i vectors are left, as recorded", (release, cpus, vectors) => {
    expect(free(release, { iommu: "intel", intremap: true, cpus }, [console]).vectors).toBe(vectors);
  });

  test("each release's own vectors", () => {
    const host = { iommu: null, cpus: 1 };
    expect(["6.5", "6.6", "6.9", "6.10"].map((release) => free(release, host, []).vectors)).toEqual([
      195, 196, 196, 195,
    ]);
  });

  test("root ports have a message each, and every enabled pin an entry", () => {
    const host = { iommu: "intel", intremap: true, cpus: 1 };
    const [none, one, four] = [
      [console],
      [console, port(3)],
      [console, port(3), port(4), port(8), port(9)],
    ].map((pci) => free("6.12", host, pci));
    expect([none.entries, one.entries, four.entries]).toEqual([65_536 - 18, 65_536 - 20, 65_536 - 25]);
    expect([none.vectors - one.vectors, none.vectors - four.vectors]).toEqual([1, 4]);
  });

  test("functions that are given away use nothing; a profile may say it all itself", () => {
    const used = hostInterrupts({ iommu: "amd" }, [console], new Set([console.bdf]));
    expect(used).toEqual({ pins: 15, active: 6, unmapped: 1, messages: {}, pciPins: [] });
    expect(
      hostInterrupts({ interrupts: { pins: 3, active: 1, messages: { x: 7 } } }, [console], new Set()),
    ).toEqual({
      pins: 3,
      active: 1,
      unmapped: 0,
      messages: { x: 7 },
      pciPins: [22],
    });
  });
});

describe("the pin of a function's INTx", () => {
  const pci = [
    port(3),
    port(4),
    port(9),
    fn("0000:01:00.0"),
    fn("0000:02:00.0"),
    fn("0000:03:00.0", "0x1b36", "0x000e", "0x060400"),
    fn("0000:04:01.0"),
    fn("0000:04:02.0"),
  ];
  test.each([
    ["0000:00:05.0", 1, 21],
    ["0000:00:05.0", 2, 22],
    ["0000:00:0a.0", 1, 22],
    ["0000:01:00.0", 1, 23],
    ["0000:02:00.0", 1, 20],
    ["0000:04:01.0", 1, 22],
    ["0000:04:02.0", 1, 23],
    ["0000:04:02.0", 0, 0],
  ])("%s, pin %i: %i", (bdf, intx, expected) => {
    expect(pinOf(pci, bdf, intx)).toBe(expected);
  });
});
