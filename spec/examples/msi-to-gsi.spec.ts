import { describe, expect, test } from "vitest";
import { ENOSYS } from "../../lib/abi/errno.ts";
import {
  cases,
  type Design,
  designs,
  hotPlug,
  intoMemory,
  onX86,
  tell,
  tellMemory,
  twoRoutes,
  withoutRouting,
} from "../../lib/examples/msi-to-gsi.ts";
import { explore } from "../../lib/fuzz/explore/explore.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { Direct, now } from "../../lib/vmm/co.ts";
import { Irqchip } from "../../lib/vmm/irqchip.ts";
import { SourceNumbers, SpaprPhb } from "../../lib/vmm/spapr-phb.ts";

/** Every cell of the table. */
const cells: Record<string, Record<Design, string>> = {
  "x86, vector 0x41": {
    irqchip: "GSI 0x0 → 0x41, 1 route, then 0",
    "irqchip, all bits": "GSI 0x0 → 0x41, 1 route, then 0",
    bridge: "GSI 0x0 → 0x41, 1 route, then 0",
  },
  "POWER, global, source 0x1234": {
    irqchip: "GSI 0x1234 → 0x1234",
    "irqchip, all bits": "GSI 0x1234 → 0x1234",
    bridge: "GSI 0x1234 → 0x1234",
  },
  "POWER, global, source 0x12345": {
    irqchip: "GSI 0x2345 → 0x2345, WRONG",
    "irqchip, all bits": "GSI 0x12345 → 0x12345",
    bridge: "GSI 0x12345 → 0x12345",
  },
  "POWER, per bridge, source 0x1234": {
    irqchip: "GSI 0x0 → nobody, LOST",
    "irqchip, all bits": "GSI 0x0 → nobody, LOST",
    bridge: "GSI 0x1234 → 0x1234",
  },
  "POWER, per bridge, source 0x12345": {
    irqchip: "GSI 0x0 → nobody, LOST",
    "irqchip, all bits": "GSI 0x0 → nobody, LOST",
    bridge: "GSI 0x12345 → 0x12345",
  },
};

describe("the table", () => {
  test("has these rows", () => {
    expect(cases.map(({ name }) => name)).toEqual(Object.keys(cells));
  });
  for (const { name, run } of cases)
    test.each(designs)(`${name}, %s`, (design) => {
      expect(tell(run(design))).toBe(cells[name][design]);
    });
  test.each(designs)("without routing, %s", (design) => {
    expect(withoutRouting(design)).toBe(-ENOSYS);
  });
});

test("a message into the guest's memory is a write where the VMM looks, an interrupt where it does not", () => {
  expect(tellMemory(intoMemory(true))).toBe("memory at 0x100000 written");
  expect(tellMemory(intoMemory(false))).toBe("vector 0x41");
});

test("both designs agree on every number of 16 bits, and on no other", () => {
  const irqchip = new Irqchip(new Direct(new Machine().process()), -1, { routing: "linear" });
  const bridge = new SpaprPhb(irqchip, new SourceNumbers(16, 1 << 20));
  const agree = (data: number) => {
    const message = { addressHi: 0x400, addressLo: 0, data };
    return now(irqchip.addMsiRoute(message)) === now(bridge.addMsiRoute(message));
  };
  let agreed = 0;
  for (let data = 0; data < 1 << 20; data++) if (agree(data)) agreed++;
  expect(agreed).toBe(0x1_0000);
  expect(agree(0xffff)).toBe(true);
  expect(agree(0x1_0000)).toBe(false);
});

test("every vector of x86 that can be sent comes as itself", () => {
  for (let vector = 16; vector < 256; vector++) expect(onX86("irqchip", vector).came).toEqual([vector]);
});

describe("exploration", () => {
  const all = { strategy: { exhaustive: {} } } as const;

  test("finds that a number beyond 16 bits is lost by the mask: one turn away from the ordinary order", () => {
    const { counterexample } = explore(hotPlug("irqchip"), all);
    expect(counterexample?.failure.reason).toBe("source 0x10000 did not get its interrupt");
    expect(counterexample?.deviations.length).toBe(1);
  });

  test.each(["bridge", "irqchip, all bits"] as const)("%s loses none in any order", (design) => {
    expect(explore(hotPlug(design), all)).toEqual({ runs: 4, exhausted: true, counterexample: undefined });
  });

  test("finds the route that is taken back by another's commit, and with the lock none in any order", () => {
    const { counterexample } = explore(twoRoutes(false), all);
    expect(counterexample?.failure.reason).toMatch(/of vectors 0x41 and 0x42 came/);
    expect(counterexample?.deviations.length).toBe(2);
    const locked = explore(twoRoutes(true), all);
    expect([locked.exhausted, locked.counterexample]).toEqual([true, undefined]);
  });
});
