import { describe, expect, test } from "vitest";
import {
  assigned,
  type Device,
  devices,
  type Guest,
  guests,
  policies,
  type Reset,
  resets,
  search,
  strayMessages,
  tell,
  troubles,
  troublesOf,
} from "../../lib/examples/assigned-msix.ts";
import { explore } from "../../lib/fuzz/explore/explore.ts";
import type { MsixPolicy } from "../../lib/vmm/pci-assign.ts";

/** Every cell: Linux and FreeBSD, each with a patient, a strict and a firmware device. */
const cells: Record<MsixPolicy, Record<Guest, readonly [string, string, string]>> = {
  masked: {
    Linux: ["works", "lost", "firmware breaks"],
    FreeBSD: ["works", "lost", "firmware breaks"],
  },
  data: {
    Linux: ["lost, spurious", "lost, spurious", "lost, spurious"],
    FreeBSD: ["works", "lost", "firmware breaks"],
  },
  "data, fixed": {
    Linux: ["lost, spurious", "lost, spurious", "lost, spurious"],
    FreeBSD: ["lost", "lost", "lost, firmware breaks"],
  },
  one: {
    Linux: ["lost, spurious", "lost, spurious", "lost, spurious"],
    FreeBSD: ["lost, spurious", "lost, spurious", "lost, spurious"],
  },
  sysfs: { Linux: ["works", "lost", "works"], FreeBSD: ["works", "lost", "works"] },
  "sysfs, unmasked": { Linux: ["works", "lost", "works"], FreeBSD: ["works", "lost", "works"] },
  empty: { Linux: ["works", "works", "works"], FreeBSD: ["works", "works", "works"] },
  "vector 0": { Linux: ["works", "lost", "works"], FreeBSD: ["works", "lost", "works"] },
  dynamic: { Linux: ["works", "works", "works"], FreeBSD: ["works", "works", "works"] },
};

describe("the table", () => {
  for (const policy of policies)
    for (const guest of guests)
      test.each(devices.map((device, i) => [device, cells[policy][guest][i]] as const))(
        `${policy}, ${guest}, %s: %s`,
        (device: Device, cell) => {
          expect(tell(troublesOf(policy, guest, device))).toBe(cell);
        },
      );

  const stray: [masks: boolean, restored: boolean, Record<Reset, number>][] = [
    [true, false, { flr: 0, pm: 0, bus: 0, none: 0 }],
    [true, true, { flr: 0, pm: 0, bus: 0, none: 0 }],
    [false, false, { flr: 0, pm: 0, bus: 0, none: 3 }],
    [false, true, { flr: 3, pm: 3, bus: 3, none: 3 }],
  ];
  test.each(stray)(
    "stray messages of a stale table: masked by hand %j, restored %j",
    (masks, restored, sent) => {
      expect(
        Object.fromEntries(resets.map((reset) => [reset, strayMessages(masks, reset, restored)])),
      ).toEqual(sent);
    },
  );
});

describe("exploration", () => {
  test.each([
    ["masked", "Linux", "strict", "lost interrupt"],
    ["masked", "Linux", "firmware", "firmware breaks"],
    ["data", "Linux", "patient", "spurious interrupt"],
    ["data, fixed", "FreeBSD", "patient", "lost interrupt"],
    ["one", "Linux", "patient", "lost interrupt"],
    ["vector 0", "Linux", "strict", "lost interrupt"],
  ] as const)(
    "%s, %s, %s: finds the %s, at most one turn away from the ordinary order",
    (policy, guest, device, trouble) => {
      const { counterexample } = explore(assigned(policy, guest, device, [trouble]), search);
      expect(counterexample?.failure.reason.startsWith(trouble)).toBe(true);
      expect(counterexample!.deviations.length).toBeLessThanOrEqual(1);
    },
  );

  test.each(["empty", "dynamic"] as const)("%s: nothing in any order with one preemption", (policy) => {
    for (const guest of guests)
      for (const device of devices)
        expect(explore(assigned(policy, guest, device, troubles), search)).toMatchObject({
          exhausted: true,
          counterexample: undefined,
        });
  });
});
