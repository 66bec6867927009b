import { describe, expect, test } from "vitest";
import { ENOMEM, ENOSPC } from "../../lib/abi/errno.ts";
import { moving, type Protocol, protocols } from "../../lib/examples/affinity.ts";
import {
  all,
  everyFault,
  fourMsi,
  guestSides,
  lastVector,
  learns,
  loads,
  remappings,
  tellFault,
  tellLearns,
  tellUnplug,
  unplug,
} from "../../lib/examples/remapping.ts";
import { explore } from "../../lib/fuzz/explore/explore.ts";
import { type IrqKind, irqKinds } from "../../lib/hardware/irq-domain.ts";

describe("who learns of a failure", () => {
  const nobody = (steps: string) => steps.replaceAll("?", "nobody");
  const guest = (steps: string) => steps.replaceAll("?", "guest");
  const without = "placeholder: ?, vector: ?";
  const all3 = "IRTE: ?, placeholder: ?, vector: ?";
  const cells: Record<IrqKind, string>[] = [
    { INTx: "vector: VMM at start", MSI: nobody(without), "MSI-X": nobody(without), IMS: "not offered" },
    {
      INTx: "IRTE: VMM at start, vector: VMM at start",
      MSI: nobody(all3),
      "MSI-X": nobody(all3),
      IMS: "not offered",
    },
    { INTx: "vector: guest", MSI: guest(without), "MSI-X": guest(without), IMS: "not offered" },
    { INTx: "IRTE: guest, vector: guest", MSI: guest(all3), "MSI-X": guest(all3), IMS: guest(all3) },
  ];
  for (const [i, remapping] of remappings.entries())
    test.each(irqKinds)(`remapping ${JSON.stringify(remapping)}, %s`, (kind) => {
      expect(tellLearns(learns(kind, remapping))).toBe(cells[i][kind]);
    });

  test("MSI vectors of four", () => {
    expect([fourMsi(false), fourMsi(true)]).toEqual([1, 4]);
  });
});

describe("KVM and VFIO: every allocation of the host fails once", () => {
  test("a guest that tells its hypervisor gets an errno each time, and no interrupt", () => {
    const outcomes = everyFault("hypercall at activation");
    expect(outcomes.length).toBeGreaterThan(6);
    for (const { requested, came } of outcomes) {
      expect([-ENOMEM, -ENOSPC]).toContain(requested);
      expect(came).toBe(0);
    }
  });

  test("a guest that is trapped is told 0 each time", () => {
    for (const { requested } of everyFault("trap and unmask")) expect(requested).toBe(0);
  });

  const cells: [what: string, trapped: string, hypercall: string][] = [
    ["irq set data", "comes all the same, silence", "request_irq answers ENOMEM"],
    ["msi_desc", "comes all the same", "request_irq answers ENOSPC"],
    ["eventfd_ctx", "silence", "request_irq answers ENOMEM"],
    ["kvm_irq_routing_table", "silence", "request_irq answers ENOMEM"],
    ["kvm_kernel_irqfd", "silence", "request_irq answers ENOMEM"],
    ["irq context", "silence", "request_irq answers ENOMEM"],
    ["irq name", "silence", "request_irq answers ENOMEM"],
    ["vector of a processor", "silence", "request_irq answers ENOSPC"],
  ];
  test.each(cells)("%s", (what, trapped, hypercall) => {
    expect(guestSides.map((side) => tellFault(side, what))).toEqual([trapped, hypercall]);
  });
  test("no other allocation is on the way", () => {
    const whats = guestSides.flatMap((side) => everyFault(side).map(({ what }) => what));
    expect(new Set(whats)).toEqual(new Set(cells.map(([what]) => what)));
  });
});

describe("a processor of two goes", () => {
  const cells: Record<"true" | "false", string[]> = {
    true: ["goes", "goes", "stays (ENOSPC)", "goes"],
    false: ["goes", "stays (ENOSPC)", "stays (ENOSPC)", "no vectors to allocate"],
  };
  test.each([true, false])("reservation: %j", (reservation) => {
    expect(loads.map(([a, r]) => tellUnplug(unplug(reservation, a, r)))).toEqual(cells[`${reservation}`]);
  });
});

describe("exploration", () => {
  test("of two orders for the last vector one ends in silence, and it is found", () => {
    const { counterexample } = explore(lastVector("trap and unmask"), all);
    expect(counterexample?.failure.reason).toMatch(/^silence: request_irq answered 0 .* ENOSPC to the VMM/);
    expect(counterexample?.deviations.length).toBe(1);
    expect(explore(lastVector("hypercall at activation"), all)).toMatchObject({
      exhausted: true,
      counterexample: undefined,
    });
  });

  const moves: Record<Protocol, string | undefined> = {
    "address, then data": "2 of 2 interrupts were sent, 1 handled, 1 spurious",
    "masked meanwhile": undefined,
    "vector first, on the old processor": undefined,
    "the same, without a look at the IRR": "1 of 2 interrupts were sent, 0 handled, 0 spurious",
    remapping: undefined,
    "remapping, old vector released at once": "2 of 2 interrupts were sent, 1 handled, 1 spurious",
  };
  test.each(protocols)("an interrupt moves: %s", (protocol) => {
    const { counterexample, exhausted } = explore(moving(protocol), all);
    expect(counterexample?.failure.reason).toBe(moves[protocol]);
    expect(exhausted).toBe(moves[protocol] === undefined);
  });
});
