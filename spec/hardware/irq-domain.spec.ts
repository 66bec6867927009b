import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ENODEV, ENOSPC } from "../../lib/abi/errno.ts";
import { InterruptRemapping, type RemappingKind } from "../../lib/hardware/interrupt-remapping.ts";
import { type DomainIrq, Domains, type DomainsOptions, irqKinds } from "../../lib/hardware/irq-domain.ts";
import { VectorMatrix } from "../../lib/hardware/vector-matrix.ts";

const SOURCE = "0000:00:05.0";

/** Two processors of `vectors` vectors each. */
function domains(kind: RemappingKind, options: Partial<DomainsOptions> & { vectors?: number } = {}) {
  const { vectors = 100, ...rest } = options;
  return new Domains({
    matrix: new VectorMatrix({ cpus: 2, firstSystem: 0x20 + vectors, system: [] }),
    remapping: new InterruptRemapping(kind, 64),
    ...rest,
  });
}

const several = (answer: DomainIrq[] | number): DomainIrq[] => {
  if (typeof answer === "number") throw new Error(`refused: ${answer}`);
  return answer;
};

test("an interrupt arrives once it is requested, not before, and not after it was released", () => {
  for (const kind of ["intel", "amd", null] as const)
    for (const irqKind of irqKinds) {
      const host = domains(kind);
      if (irqKind === "IMS" && kind === null) {
        expect(host.allocate(irqKind, SOURCE)).toBe(-ENODEV);
        continue;
      }
      const [irq] = several(host.allocate(irqKind, SOURCE));
      expect(host.send(irq)).toBeUndefined();
      expect(host.request(irq)).toBe(0);
      expect(host.send(irq)).toBe(irq);
      host.release([irq]);
      expect(host.send(irq)).toBeUndefined();
    }
});

test("whatever fails, everything is given back", () => {
  for (const reservation of [true, false])
    for (const count of [1, 4])
      for (let nth = 1; nth <= 8; nth++) {
        let seen = 0;
        const host = domains("intel", { reservation, fault: () => ++seen === nth });
        const irqs = host.allocate("MSI-X", SOURCE, count);
        if (typeof irqs === "number") expect(irqs).toBe(-ENOSPC);
        else {
          for (const irq of irqs) host.request(irq);
          host.release(irqs);
        }
        expect([host.remapping.inUse(SOURCE), host.matrix.free]).toEqual([0, 200]);
      }
});

describe("affinity", () => {
  test("any sequence of moves: the vectors in use are those of the interrupts, each arrives where it should", () => {
    const moves = fc.array(fc.tuple(fc.nat(5), fc.nat(1)), { maxLength: 40 });
    fc.assert(
      fc.property(moves, fc.constantFrom("intel" as const, "amd" as const, null), (list, kind) => {
        const host = domains(kind, { vectors: 4 });
        const irqs = several(host.allocate("MSI-X", SOURCE, 6));
        for (const irq of irqs) expect(host.request(irq)).toBe(0);
        for (const [which, cpu] of list) {
          const irq = irqs[which];
          const before = irq.place;
          const full = irqs.filter((each) => each.cpu === cpu).length === 4;
          const answer = host.setAffinity(irq, cpu);
          expect(answer).toBe(irq.cpu === cpu ? 0 : -ENOSPC);
          if (answer < 0) expect([full, irq.place]).toEqual([true, before]);
          for (const each of irqs) expect(host.send(each)).toBe(each);
        }
        expect(host.matrix.free).toBe(2);
        expect(new Set(irqs.map(({ place }) => place)).size).toBe(6);
      }),
    );
  });

  test("the device's message is written once with remapping, at each change without", () => {
    const writes = (kind: RemappingKind) => {
      const host = domains(kind);
      const [irq] = several(host.allocate("MSI-X", SOURCE));
      host.request(irq);
      host.setAffinity(irq, 1 - irq.cpu);
      host.setAffinity(irq, 1 - irq.cpu);
      return irq.writes;
    };
    expect([writes("intel"), writes("amd"), writes(null)]).toEqual([1, 1, 4]);
  });

  test("an interrupt without a vector does not move, and gets one where there is room", () => {
    const host = domains("intel");
    const [irq] = several(host.allocate("MSI-X", SOURCE));
    expect([host.setAffinity(irq, 1), irq.place]).toEqual([0, -1]);
  });
});

describe("a processor goes", () => {
  test("every interrupt moves, and arrives", () => {
    const host = domains("intel");
    const irqs = several(host.allocate("MSI-X", SOURCE, 60));
    for (const irq of irqs) host.request(irq);
    expect(irqs.filter(({ cpu }) => cpu === 1).length).toBe(30);
    expect(host.takeOffline(1)).toBe(0);
    expect(irqs.every((irq) => irq.cpu === 0 && host.send(irq) === irq)).toBe(true);
    expect(host.at(0, irqs[0].place & 0xff)).toBe(irqs[0]);
  });

  test("where the vectors do not suffice it stays, and nothing has moved", () => {
    const host = domains("intel", { vectors: 20 });
    const irqs = several(host.allocate("MSI-X", SOURCE, 30));
    for (const irq of irqs) host.request(irq);
    const before = irqs.map(({ place }) => place);
    expect(host.takeOffline(1)).toBe(-ENOSPC);
    expect(irqs.map(({ place }) => place)).toEqual(before);
  });
});

test("several MSI vectors are neighbours in the table; without remapping there is one", () => {
  const four = several(domains("intel").allocate("MSI", SOURCE, 4));
  expect(new Set(four.map(({ block }) => block)).size).toBe(1);
  expect(four.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
  expect(several(domains(null).allocate("MSI", SOURCE, 4)).length).toBe(1);
});
