/**
 * The invariants of the benches, asked of the fake itself: programs that are right (the mended prototypes of the bug zoo)
 * go wrong only where the kernel below does. On the fake as it is none does; with each of ten planted mistakes one does.
 */
import { expect, test } from "vitest";
import { explore } from "../../lib/fuzz/explore/explore.ts";
import { zoo } from "../bugs/zoo.ts";
import { mistakes } from "./planted.ts";

const strategy = { exhaustive: { preemptions: 2 } };
const RUNS = 300;

/** The first violation: the program, and what it says. */
function violation(): string | undefined {
  for (const { mended } of zoo) {
    const { counterexample } = explore(mended, { strategy, runs: RUNS });
    if (counterexample !== undefined) return `${mended.name}: ${counterexample.failure.reason}`;
  }
  return undefined;
}

test("there are ten mistakes, in four places", () => {
  expect(mistakes.length).toBe(10);
  expect(new Set(mistakes.map(({ where }) => where)).size).toBe(4);
});

test("the fake as it is: no violation", () => {
  expect(violation()).toBeUndefined();
});

test.each(mistakes.map((mistake) => [`${mistake.where}: ${mistake.what}`, mistake] as const))(
  "%s",
  (_title, mistake) => {
    const takeOut = mistake.plant();
    try {
      expect(violation()).toEqual(expect.any(String));
    } finally {
      takeOut();
    }
    expect(violation()).toBeUndefined();
  },
);
