/**
 * The routing table as a relation between GSIs and what they lead to: which tables are legal, and what a GSI reaches,
 * against a twin that keeps a plain set of pairs.
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import { KVM_IRQ_LINE_STATUS, KVM_SET_GSI_ROUTING, KvmIrqLevel } from "../../lib/abi/kvm.ts";
import { KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KvmIrqchip } from "../../lib/abi/kvm-x86.ts";
import { load32, store32 } from "../../lib/abi/struct.ts";
import { IOAPIC, IrqWorld, routingTable, type TestRoute } from "./world.ts";

const EINVAL = 22;
const PIC_MASTER = 0;
const PIC_SLAVE = 1;
/** pins of each controller */
const PINS: Record<number, number> = { [PIC_MASTER]: 8, [PIC_SLAVE]: 8, [IOAPIC]: 24 };
/** the vector that the IOAPIC sends for a pin in these worlds */
const pinVector = (pin: number): number => 0x80 + pin;

/** A world whose IOAPIC sends every pin's own vector, edge-triggered. */
function world(): IrqWorld {
  const world = new IrqWorld();
  const chip = KvmIrqchip.encode({ chip_id: IOAPIC });
  world.process.ioctl(world.vm, KVM_GET_IRQCHIP, chip);
  for (let pin = 0; pin < 24; pin++) store32(chip, KvmIrqchip.offsetOf.chip + 24 + pin * 8, pinVector(pin));
  world.process.ioctl(world.vm, KVM_SET_IRQCHIP, chip);
  return world;
}

/** Legal: pins that exist; per GSI one message alone, or pins of controllers that differ. */
function legal(routes: readonly TestRoute[]): boolean {
  return routes.every((route, i) => {
    if ("chip" in route && !(route.pin < (PINS[route.chip] ?? 0))) return false;
    return routes.every(
      (other, j) =>
        i === j ||
        other.gsi !== route.gsi ||
        ("chip" in route && "chip" in other && route.chip !== other.chip),
    );
  });
}

const route: fc.Arbitrary<TestRoute> = fc.oneof(
  fc.record({ gsi: fc.integer({ min: 0, max: 5 }), vector: fc.integer({ min: 0x30, max: 0x3f }) }),
  fc.record({
    gsi: fc.integer({ min: 0, max: 5 }),
    chip: fc.constantFrom(PIC_MASTER, PIC_SLAVE, IOAPIC, IOAPIC, 3),
    pin: fc.constantFrom(0, 1, 2, 7, 8, 23, 24, 0xffffffff),
  }),
);

/** What raising a GSI sends to LAPICs, and which PIC inputs go up. */
function reaches(routes: readonly TestRoute[], gsi: number): { vectors: number[]; picInputs: number[] } {
  const mine = routes.filter((entry) => entry.gsi === gsi);
  return {
    vectors: mine.flatMap((entry) =>
      "vector" in entry ? [entry.vector] : entry.chip === IOAPIC ? [pinVector(entry.pin)] : [],
    ),
    picInputs: mine
      .flatMap((entry) =>
        "chip" in entry && entry.chip !== IOAPIC ? [entry.pin + (entry.chip === PIC_SLAVE ? 8 : 0)] : [],
      )
      .sort((a, b) => a - b),
  };
}

/** Inputs of both PICs that were requested (irr), but for the cascade. */
function picRequests(world: IrqWorld): number[] {
  return [PIC_MASTER, PIC_SLAVE].flatMap((chip_id) => {
    const chip = KvmIrqchip.encode({ chip_id });
    world.process.ioctl(world.vm, KVM_GET_IRQCHIP, chip);
    const irr = chip[KvmIrqchip.offsetOf.chip + 1];
    return [0, 1, 2, 3, 4, 5, 6, 7].filter((pin) => (irr >> pin) & 1).map((pin) => pin + 8 * chip_id);
  });
}

/** Whether the slave's request shows on the master's input 2: it always does, and is no route's doing. */
const withoutCascade = (inputs: number[], expected: number[]): number[] =>
  inputs.filter((input) => input !== 2 || expected.includes(2) || !inputs.some((other) => other >= 8));

test("a table is taken if it is legal, and then a GSI reaches exactly what the table says", () => {
  let taken = 0;
  let refused = 0;
  fc.assert(
    fc.property(fc.array(route, { maxLength: 6 }), fc.integer({ min: 0, max: 5 }), (routes, gsi) => {
      const subject = world();
      const { process, vm } = subject;
      const result = process.ioctl(vm, KVM_SET_GSI_ROUTING, routingTable(routes));
      expect(result).toBe(legal(routes) ? 0 : -EINVAL);
      if (result === 0) taken++;
      else refused++;
      // A refused table leaves the old one: there GSI n is pin n of the IOAPIC, and of the PICs below 16.
      const before = [0, 1, 2, 3, 4, 5].flatMap((n): TestRoute[] => [
        { gsi: n, chip: IOAPIC, pin: n },
        { gsi: n, chip: PIC_MASTER, pin: n },
      ]);
      const expected = reaches(result === 0 ? routes : before, gsi);
      const level = KvmIrqLevel.encode({ irq: gsi, level: 1 });
      expect(process.ioctl(vm, KVM_IRQ_LINE_STATUS, level)).toBe(0);
      expect(subject.delivered).toEqual(expected.vectors);
      expect(withoutCascade(picRequests(subject), expected.picInputs)).toEqual(expected.picInputs);
      const nowhere = expected.vectors.length === 0 && expected.picInputs.length === 0;
      if (nowhere) expect(load32(level, 0)).toBe(0xffffffff);
      process.exit();
    }),
    { numRuns: 2000 },
  );
  expect(taken).toBeGreaterThan(300);
  expect(refused).toBeGreaterThan(300);
});

test("the limits: 4096 entries, GSIs below 4096, no flags", () => {
  const { process, vm } = world();
  const many = (count: number) =>
    routingTable(Array.from({ length: count }, (_, gsi) => ({ gsi: gsi % 4096, vector: 0x31 })));
  expect(process.ioctl(vm, KVM_SET_GSI_ROUTING, many(4096))).toBe(0);
  expect(process.ioctl(vm, KVM_SET_GSI_ROUTING, many(4097))).toBe(-EINVAL);
  expect(process.ioctl(vm, KVM_SET_GSI_ROUTING, routingTable([{ gsi: 4095, vector: 0x31 }]))).toBe(0);
  expect(process.ioctl(vm, KVM_SET_GSI_ROUTING, routingTable([{ gsi: 4096, vector: 0x31 }]))).toBe(-EINVAL);
  const flagged = routingTable([]);
  store32(flagged, 4, 1);
  expect(process.ioctl(vm, KVM_SET_GSI_ROUTING, flagged)).toBe(-EINVAL);
});
