import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Scheduled, scheduled, turnChooser } from "../../../lib/fuzz/explore/fast-check.ts";
import { type GuestStep, MsixBench } from "../../../lib/fuzz/explore/msix-bench.ts";
import { type Program, run } from "../../../lib/fuzz/explore/run.ts";
import { inOrder, replayChooser } from "../../../lib/fuzz/explore/strategies.ts";
import type { Thread } from "../../../lib/fuzz/explore/thread.ts";
import { PlainVmm } from "../../bugs/plain-vmm.ts";

/** Masking leaves a moment in which the irqfd has no route. */
class RouteFirst extends PlainVmm {
  override *disarm(vector: number): Thread {
    this.routes.delete(this.gsi(vector));
    yield* this.bench.setRoutes(this.routes);
    yield* super.disarm(vector);
  }
}

const vectors = 2;
const vector = fc.nat(vectors - 1);
const guestStep = fc.oneof(
  fc.tuple(fc.constantFrom("mask" as const, "unmask" as const), vector),
  fc.constantFrom<GuestStep>(["function mask"], ["function unmask"], ["disable"], ["enable"]),
);

/** Any guest and any device, on a VMM. */
const programs = (vmm: (bench: MsixBench) => PlainVmm): fc.Arbitrary<Program> =>
  fc
    .record({ guest: fc.array(guestStep, { maxLength: 8 }), device: fc.array(vector, { maxLength: 4 }) })
    .map(({ guest, device }) => ({
      name: JSON.stringify({ guest, device }),
      setup() {
        const bench = new MsixBench({ vectors, guest, device });
        return bench.world(vmm(bench));
      },
    }));

const failure = (it: Scheduled) => it.run().failure?.reason;

describe("programs that are arbitraries", () => {
  test("the straightforward VMM is right for every guest, device and order", () => {
    fc.assert(
      fc.property(scheduled(programs((bench) => new PlainVmm(bench))), (it) => failure(it) === undefined),
      { numRuns: 500, seed: 1 },
    );
  });

  test("a wrong one is found, and program and schedule are shrunk together", () => {
    const result = fc.check(
      fc.property(scheduled(programs((bench) => new RouteFirst(bench))), (it) => failure(it) === undefined),
      { numRuns: 2000, seed: 1 },
    );
    expect(result.failed).toBe(true);
    const [{ program, turns }] = result.counterexample!;
    const { guest, device } = JSON.parse(program.name) as { guest: GuestStep[]; device: number[] };
    expect(guest.map(([kind]) => kind)[0]).toBe("unmask");
    expect([guest.length, device.length]).toEqual([2, 1]);
    expect(turns.filter((turn) => turn !== 0).length).toBe(1);
    expect(String(result.counterexample![0])).toContain("device raises vector 0");
  });

  test("no turns are the default order, and turns make the same run again", () => {
    fc.assert(
      fc.property(scheduled(programs((bench) => new PlainVmm(bench))), ({ program, turns }) => {
        const first = run(program, turnChooser(turns));
        expect(run(program, replayChooser(first.schedule)).schedule).toEqual(first.schedule);
        expect(new Scheduled(program, []).run().schedule).toEqual(run(program, inOrder).schedule);
      }),
      { numRuns: 50, seed: 2 },
    );
  });
});
