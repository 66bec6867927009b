import { describe, expect, test } from "vitest";
import {
  accounts,
  bypass,
  combinations,
  device,
  forwarded,
  outcome,
  search,
  sharedTimer,
} from "../../lib/examples/forwarded.ts";
import { explore } from "../../lib/fuzz/explore/explore.ts";
import type { ForwardedOptions } from "../../lib/vmm/forwarded-irq.ts";

/** forwarded, masked, resampled: level, edge */
const cells: [boolean, boolean, boolean, string, string][] = [
  [true, true, true, "works", "lost"],
  [true, true, false, "lost", "lost"],
  [true, false, true, "works", "works"],
  [true, false, false, "works", "works"],
  [false, true, true, "works", "lost"],
  [false, true, false, "storm in the guest", "lost"],
  [false, false, true, "storm in the host", "works"],
  [false, false, false, "storm in the host", "works"],
];

describe("the table", () => {
  test("has these rows", () => {
    expect(combinations.map(({ forwarded, masks, unmasks }) => [forwarded, masks, unmasks])).toEqual(
      cells.map((row) => row.slice(0, 3)),
    );
  });
  test.each(cells)(
    "forwarded %j, masked %j, resampled %j: level %s, edge %s",
    (isForwarded, masks, unmasks, level, edge) => {
      const options: ForwardedOptions = { forwarded: isForwarded, masks, unmasks, direct: false };
      expect([outcome("level", options), outcome("edge", options)]).toEqual([level, edge]);
    },
  );
});

describe("in every order with two preemptions", () => {
  test.each(["level", "edge"] as const)(
    "%s, forwarded: two events, two interrupts on each side, none deactivated by the host",
    (trigger) => {
      const all = accounts(trigger, forwarded);
      expect(all.length).toBeGreaterThan(1);
      for (const { hostInterrupts, guestInterrupts, hostDeactivations } of all)
        expect([hostInterrupts, guestInterrupts, hostDeactivations]).toEqual([2, 2, 0]);
    },
  );

  test.each(["level", "edge"] as const)(
    "%s, injected directly: the same interrupts by fewer calls",
    (trigger) => {
      for (const { taken, way } of accounts(trigger, bypass))
        expect([taken, way]).toEqual([
          [40, 40],
          ["VFIO", "vgic"],
        ]);
      for (const { taken, way } of accounts(trigger, forwarded))
        expect([taken, way]).toEqual([
          [40, 40],
          ["VFIO", "eventfd", "irqfd", "vgic"],
        ]);
    },
  );

  test("not forwarded, masked and resampled: one unmask and one deactivation for each interrupt", () => {
    const classic = { forwarded: false, masks: true, unmasks: true, direct: false };
    for (const { hostInterrupts, hostDeactivations, unmasks } of accounts("level", classic))
      expect([hostInterrupts, hostDeactivations, unmasks]).toEqual([2, 2, 2]);
  });
});

describe("exploration", () => {
  test.each([
    [
      { forwarded: false, masks: false, unmasks: true, direct: false },
      "storm: the host takes the interrupt again and again",
    ],
    [
      { forwarded: false, masks: true, unmasks: false, direct: false },
      "storm: the guest takes the interrupt again and again",
    ],
  ])("not forwarded, a part left out: %j", (options, reason) => {
    expect(explore(device("level", options), search).counterexample?.failure.reason).toBe(reason);
  });

  test("a shared timer whose state does not move with the guest is found, one whose state does is not", () => {
    const { counterexample } = explore(sharedTimer(false), search);
    expect(counterexample?.failure.reason).toBe(
      "guest B runs, its timer is due, and its interrupt does not come",
    );
    expect(counterexample?.deviations.length).toBe(1);
    expect(explore(sharedTimer(true), { strategy: { exhaustive: {} } })).toMatchObject({
      exhausted: true,
      counterexample: undefined,
    });
  });
});
