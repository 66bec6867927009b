/**
 * Programs of the processor's own instructions that ran on a real kernel (Linux 6.18, flavour pvm, where KVM's emulator
 * runs them): what each KVM_RUN answers, every register that user space can read, and memory.
 */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { type Outcome, type Program, play } from "./system-guests.ts";

const folder = new URL("../../../fixtures/guests/", import.meta.url);
const recorded: (Program & Outcome)[] = gunzipSync(
  readFileSync(new URL("x86_64-6.18-pvm-system.jsonl.gz", folder)),
)
  .toString()
  .trim()
  .split("\n")
  .slice(1)
  .map((line) => JSON.parse(line));
/** Numbers of programs that end differently still. */
const open: number[] = JSON.parse(
  readFileSync(new URL("x86_64-6.18-pvm-system-open.json", folder), "utf8"),
).programs;
const SLICE = 50;

test("2400 programs were recorded; 47 end differently", () =>
  expect([recorded.length, open.length]).toEqual([2400, 47]));

describe.each([
  ["real", 0],
  ["prot16", 0],
  ["prot32", 0],
  ["long", 0],
  ["prot32", 3],
] as const)("%s, CPL %d", (mode, cpl) => {
  const some = recorded
    .map((program, number) => ({ ...program, number }))
    .filter((program) => program.mode === mode && program.cpl === cpl);
  test.each(Array.from({ length: Math.ceil(some.length / SLICE) }, (_, i) => i * SLICE))(
    "programs from %d on",
    (from) => {
      for (const { number, ...program } of some.slice(from, from + SLICE)) {
        const { runs, memory } = play(new Machine(defaultProfile).process(), program);
        const { code } = program;
        const [ours, kernel] = [
          { code, runs, memory },
          { code, runs: program.runs, memory: program.memory },
        ];
        if (open.includes(number)) expect(ours).not.toEqual(kernel);
        else expect(ours).toEqual(kernel);
      }
    },
  );
});
