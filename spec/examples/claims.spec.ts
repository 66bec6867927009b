/** Every claim of the threads that can be tested: the run decides, and says what is written beside the claim. */
import { describe, expect, test } from "vitest";
import { threads } from "../../lib/examples/threads.ts";

for (const { name, claims } of threads)
  describe(name, () => {
    test.each(claims)("$who, $when: $says", ({ holds, verdict }) => {
      expect(holds()).toBe(verdict === "confirmed");
    });
  });

test("no claim stands twice", () => {
  const all = threads.flatMap(({ name, claims }) => claims.map(({ who, says }) => `${name} ${who} ${says}`));
  expect(new Set(all).size).toBe(all.length);
});
