import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EBUSY, EINVAL, ENOSPC, ERANGE } from "../../lib/abi/errno.ts";
import { InterruptRemapping, type RemappingKind } from "../../lib/hardware/interrupt-remapping.ts";
import { PciDevice } from "../../lib/hardware/pci-device.ts";
import { pciImage } from "../../lib/hardware/pci-image.ts";
import { VectorMatrix } from "../../lib/hardware/vector-matrix.ts";
import { EventFd } from "../../lib/kernel/eventfd.ts";
import { HostIrqs, type IrqHandler } from "../../lib/kernel/irq.ts";
import { Kernel } from "../../lib/kernel/kernel.ts";
import { byHand } from "../../lib/kernel/work-queue.ts";

interface Setup {
  kind?: RemappingKind;
  entries?: number;
  vectors?: number;
  maskable?: boolean;
}

function setup({ kind = "intel", entries = 64, vectors = 201, maskable = false }: Setup = {}) {
  const kernel = new Kernel({ policy: byHand });
  const matrix = new VectorMatrix({ cpus: 1, firstSystem: 0xeb, system: [0x80, 0x32] });
  while (matrix.free > vectors) matrix.allocate();
  const remapping = new InterruptRemapping(kind, entries);
  const irqs = new HostIrqs(kernel, matrix, remapping);
  const device = (slot: number, pin = 20): PciDevice => {
    const made = new PciDevice({
      address: `0000:00:0${slot}.0`,
      config: pciImage({
        pin: 1,
        bars: [{ index: 0, size: 65_536, type: "mem", wide: false, prefetchable: false }],
        capabilities: [
          { kind: "msi", vectors: 8, wide: true, maskable },
          { kind: "msix", vectors: 8, table: [0, 0], pending: [0, 4096] },
        ],
      }),
      bars: [{ index: 0, size: 65_536, type: "mem", wide: false, prefetchable: false }],
    });
    irqs.connect(made, pin);
    made.writeConfig(4, 2, 6);
    return made;
  };
  return { kernel, matrix, remapping, irqs, device };
}

const counter = () => {
  const handler = { handled: 0, handle: (): boolean => (handler.handled++, true) };
  return handler satisfies IrqHandler & { handled: number };
};

describe("messages", () => {
  test.each(["intel", "amd", null] as const)("%s: each MSI-X vector reaches its handler", (kind) => {
    const { irqs, device } = setup({ kind });
    const dev = device(1);
    expect(irqs.enable(dev, 3, true)).toBe(3);
    const handlers = [0, 1, 2].map(counter);
    handlers.forEach((handler, i) => void irqs.request(irqs.irqOf(dev, i)!, handler));
    dev.msix!.raise(0);
    dev.msix!.raise(2);
    dev.msix!.raise(2);
    expect(handlers.map(({ handled }) => handled)).toEqual([1, 0, 2]);
    irqs.free(irqs.irqOf(dev, 2)!);
    dev.msix!.raise(2);
    expect([handlers[2].handled, dev.msix!.isPending(2)]).toEqual([2, true]);
  });

  test.each([
    [0, true, -ENOSPC],
    [3, true, 3],
    [4, true, 4],
    [0, false, -ENOSPC],
    [3, false, 1],
    [4, false, 4],
  ])("%i entries left, four wanted (MSI-X %s): %i", (entries, msix, expected) => {
    const { irqs, device, remapping, matrix } = setup({ entries });
    const dev = device(1);
    const free = matrix.free;
    expect(irqs.enable(dev, 4, msix)).toBe(expected);
    const on = expected === 4;
    expect([dev.msix!.enabled || dev.msi!.enabled, remapping.inUse(""), irqs.countOf(dev)]).toEqual([
      on,
      on ? 4 : 0,
      on ? 4 : 0,
    ]);
    irqs.disable(dev);
    expect([remapping.inUse(""), matrix.free, matrix.reserved]).toEqual([0, free, 0]);
  });

  test("several MSI without remapping: one at most", () => {
    const { irqs, device } = setup({ kind: null });
    const dev = device(1);
    expect([irqs.enable(dev, 2, false), dev.msi!.enabled, irqs.enable(dev, 1, false)]).toEqual([1, false, 1]);
  });

  test("none asked for, the wrong capability, not in D0", () => {
    const { irqs, device } = setup();
    const dev = device(1);
    expect([irqs.enable(dev, 0, true), irqs.enable(dev, 0, false)]).toEqual([-ERANGE, -ERANGE]);
    const bare = new PciDevice({
      address: "0000:00:08.0",
      config: pciImage({ capabilities: [{ kind: "pm" }] }),
    });
    expect([irqs.enable(bare, 1, true), irqs.enable(bare, 1, false)]).toEqual([-EINVAL, -EINVAL]);
  });

  test.each([
    ["MSI-X: when it is requested", true, false],
    ["MSI that cannot be masked: when it is turned on", false, false],
    ["MSI that can be masked: when it is requested", false, true],
  ])("where the vector is taken, %s", (_name, msix, maskable) => {
    const { irqs, device, matrix } = setup({ vectors: 1, maskable });
    const dev = device(1);
    const early = !msix && !maskable;
    expect(irqs.enable(dev, 2, msix)).toBe(early ? -ENOSPC : 2);
    if (early) expect(irqs.enable(dev, 1, msix)).toBe(1);
    expect(matrix.free).toBe(early ? 0 : 1);
    expect(irqs.request(irqs.irqOf(dev, 0)!, counter())).toBe(0);
    if (!early) expect(irqs.request(irqs.irqOf(dev, 1)!, counter())).toBe(-ENOSPC);
    irqs.free(irqs.irqOf(dev, 0)!);
    expect(matrix.free).toBe(1);
  });

  test("the table after each step: masked, programmed, open, empty", () => {
    const { irqs, device } = setup();
    const dev = device(1);
    const entry = (v: number) => [
      dev.readBar(0, 16 * v, 4),
      dev.readBar(0, 16 * v + 8, 4),
      dev.readBar(0, 16 * v + 12, 4),
    ];
    expect(entry(1)).toEqual([0, 0, 1]);
    irqs.enable(dev, 2, true);
    expect([entry(1), entry(2)]).toEqual([
      [0xfee0_0038, 0, 1],
      [0, 0, 1],
    ]);
    irqs.request(irqs.irqOf(dev, 1)!, counter());
    expect(entry(1)).toEqual([0xfee0_0038, 0, 0]);
    irqs.free(irqs.irqOf(dev, 1)!);
    expect(entry(1)).toEqual([0, 0, 1]);
    irqs.disable(dev);
    expect(entry(0)).toEqual([0, 0, 1]);
  });

  test("after a reset everything is programmed again", () => {
    const { irqs, device } = setup();
    const dev = device(1);
    irqs.enable(dev, 2, true);
    const handler = counter();
    irqs.request(irqs.irqOf(dev, 1)!, handler);
    dev.reset();
    dev.writeConfig(4, 2, 6);
    dev.msix!.raise(1);
    expect(handler.handled).toBe(0);
    dev.msix!.pending.fill(0);
    irqs.restore(dev);
    dev.msix!.raise(1);
    expect([handler.handled, dev.msix!.masked(0)]).toEqual([1, true]);
  });

  test("random histories of several devices: no entry and no vector is lost, none is given twice", () => {
    const step = fc.record({ which: fc.nat(2), what: fc.nat(5), index: fc.nat(7), msix: fc.boolean() });
    fc.assert(
      fc.property(
        fc.nat(12),
        fc.nat(6),
        fc.boolean(),
        fc.array(step, { maxLength: 60 }),
        (entries, vectors, maskable, steps) => {
          const { irqs, device, matrix, remapping } = setup({ entries, vectors, maskable });
          const devices = [1, 2, 3].map((slot) => device(slot));
          const requested = new Map<PciDevice, Set<number>>(devices.map((each) => [each, new Set()]));
          for (const { which, what, index, msix } of steps) {
            const dev = devices[which];
            const mine = requested.get(dev)!;
            const irq = irqs.irqOf(dev, index);
            if (what === 0 && irqs.countOf(dev) === 0) irqs.enable(dev, index + 1, msix);
            else if (what === 1) {
              for (const each of mine) irqs.free(irqs.irqOf(dev, each)!);
              mine.clear();
              irqs.disable(dev);
            } else if (what === 2 && irq === undefined && dev.msix!.enabled) irqs.extend(dev, index);
            else if (what === 3 && irq !== undefined && !mine.has(index)) {
              if (irqs.request(irq, counter()) === 0) mine.add(index);
            } else if (what === 4 && mine.delete(index)) irqs.free(irq!);
            const places = devices.flatMap((each) =>
              Array.from({ length: 8 }, (_, i) => irqs.irqOf(each, i)?.place ?? -1).filter(
                (place) => place >= 0,
              ),
            );
            expect(new Set(places).size).toBe(places.length);
            expect(matrix.free).toBe(vectors - places.length);
          }
          for (const [dev, mine] of requested) {
            for (const each of mine) irqs.free(irqs.irqOf(dev, each)!);
            irqs.disable(dev);
          }
          expect([matrix.free, matrix.reserved, remapping.inUse("")]).toEqual([vectors, 0, 0]);
        },
      ),
      { numRuns: 150 },
    );
  });

  test("inside an eventfd's wake-up a handler waits for the work queue", () => {
    const { irqs, device, kernel } = setup();
    const dev = device(1);
    irqs.enable(dev, 1, true);
    const handler = counter();
    irqs.request(irqs.irqOf(dev, 0)!, handler);
    const eventfd = new EventFd(kernel, 0, 0);
    eventfd.waitQueue.add({ exclusive: false, wake: () => (dev.msix!.raise(0), true) });
    eventfd.signal();
    expect(handler.handled).toBe(0);
    kernel.work.drain();
    expect(handler.handled).toBe(1);
  });
});

describe("pins", () => {
  const lowering = (dev: PciDevice) => {
    const handler = {
      handled: 0,
      handle(): boolean {
        if (!dev.intx) return false;
        handler.handled++;
        dev.setIntx(false);
        return true;
      },
    };
    return handler;
  };

  test("shared: handlers run until nobody holds the pin up", () => {
    const { irqs, device } = setup();
    const devices = [device(1), device(2)];
    const handlers = devices.map(lowering);
    for (const handler of handlers) expect(irqs.requestPin(20, handler, true)).toBe(0);
    devices[1].setIntx(true);
    devices[0].setIntx(true);
    expect(handlers.map(({ handled }) => handled)).toEqual([1, 1]);
  });

  test("a level that nobody handles does not go round for ever", () => {
    const { irqs, device } = setup();
    const dev = device(1);
    let asked = 0;
    irqs.requestPin(20, { handle: () => (asked++, false) }, true);
    dev.setIntx(true);
    expect(asked).toBe(1);
  });

  test("sharing needs both sides; the last one out gives the vector back", () => {
    const { irqs, matrix } = setup({ vectors: 1 });
    const [a, b] = [counter(), counter()];
    expect(irqs.requestPin(20, a, true)).toBe(0);
    expect([irqs.requestPin(20, b, false), irqs.requestPin(20, b, true), matrix.free]).toEqual([
      -EBUSY,
      0,
      0,
    ]);
    expect(irqs.requestPin(21, counter(), true)).toBe(-ENOSPC);
    irqs.freePin(20, a);
    expect(matrix.free).toBe(0);
    irqs.freePin(20, b);
    expect([matrix.free, irqs.requestPin(20, a, false), irqs.requestPin(20, b, true)]).toEqual([
      1,
      0,
      -EBUSY,
    ]);
  });

  test("held at the pin: looked at again when it is let go, as often as it was held", () => {
    const { irqs, device } = setup();
    const dev = device(1);
    const handler = lowering(dev);
    irqs.requestPin(20, handler, false);
    irqs.holdPin(20);
    irqs.holdPin(20);
    dev.setIntx(true);
    irqs.allowPin(20);
    expect(handler.handled).toBe(0);
    irqs.allowPin(20);
    expect(handler.handled).toBe(1);
  });

  test("an enabled pin has one entry, however many devices are on it", () => {
    const { irqs, remapping } = setup({ entries: 1 });
    expect([irqs.enablePin(20), irqs.enablePin(20), irqs.enablePin(21), irqs.enablePin(0)]).toEqual([
      0,
      0,
      -ENOSPC,
      0,
    ]);
    irqs.disablePin(20);
    expect(remapping.inUse("")).toBe(1);
    irqs.disablePin(20);
    expect([remapping.inUse(""), irqs.enablePin(21)]).toEqual([0, 0]);
  });
});
