/** Every broken prototype is found by each strategy for all seeds, small; every mended one is clean. */
import { describe, expect, test } from "vitest";
import { explore } from "../../lib/fuzz/explore/explore.ts";
import { run } from "../../lib/fuzz/explore/run.ts";
import { replayChooser } from "../../lib/fuzz/explore/strategies.ts";
import { hunt, isSure, MAX_RUNS, PREEMPTIONS, zoo } from "./zoo.ts";

/** where the bounded search is too large to finish here, the mended one is run so often; `npm run bugs` does more */
const MENDED_RUNS = 2_000;
/** and at random, beside the bounded search */
const RANDOM_RUNS = 100;

test("every number of the list is there", () => {
  expect([...new Set(zoo.map(({ number }) => number))]).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
});

describe.each(zoo.map((bug) => [`${bug.number}. ${bug.title}`, bug] as const))("%s", (_title, bug) => {
  test("is found", () => {
    const hunts = hunt(bug, 20, 1 + bug.number * 1000);
    expect(
      hunts.filter((found) => !isSure(found)).map(({ strategy, runs, sizes }) => ({ strategy, runs, sizes })),
    ).toEqual([]);
  });

  test("is told by a schedule that makes it happen again", () => {
    const { counterexample } = explore(bug.broken, {
      strategy: { exhaustive: { preemptions: PREEMPTIONS } },
      runs: MAX_RUNS,
    });
    const again = run(bug.broken, replayChooser(counterexample!.schedule));
    expect(again.failure?.reason).toBe(counterexample!.failure.reason);
  });

  test("is mended", () => {
    const searched = explore(bug.mended, {
      strategy: { exhaustive: { preemptions: PREEMPTIONS } },
      runs: MENDED_RUNS,
    });
    expect(searched.counterexample).toBeUndefined();
    const random = explore(bug.mended, { strategy: "random", runs: RANDOM_RUNS, seed: bug.number });
    expect(random.counterexample).toBeUndefined();
  });
});
