import fc from "fast-check";
import { expect, test } from "vitest";
import { hostileProperty, runHostile, World } from "./hostile.ts";

test("whatever a program does, a system call answers a number, and an error changes nothing", () => {
  fc.assert(hostileProperty(40), { numRuns: 300 });
});

test("an exception and a change in spite of an error are found", () => {
  const throwing = new World();
  throwing.process.dup = () => {
    throw new Error("planted");
  };
  expect(runHostile(throwing, [{ call: "dup", fd: { open: 0 } }])).toContain("planted");

  const changing = new World();
  changing.process.dup = () => {
    changing.process.write(changing.eventfds[0], Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
    return -22;
  };
  expect(runHostile(changing, [{ call: "dup", fd: { open: 0 } }])).toContain("EINVAL and changed byte");

  const odd = new World();
  odd.process.dup = () => Number.NaN;
  expect(runHostile(odd, [{ call: "dup", fd: { open: 0 } }])).toContain("answered NaN");
});
