/**
 * Programs of the processor's own instructions, and of any, that ran on a real kernel (Linux 6.18, flavour pvm, where KVM's emulator
 * runs them): what each KVM_RUN answers, every register that user space can read, and memory.
 */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { type Outcome, type Program, play } from "./system-guests.ts";

const folder = new URL("../../../fixtures/guests/", import.meta.url);
const SLICE = 50;

describe.each([
  ["system", 2400],
  ["any", 1600],
  ["vector", 600],
] as const)("instructions: %s", (kind, count) => {
  const recorded: (Program & Outcome)[] = gunzipSync(
    readFileSync(new URL(`x86_64-6.18-pvm-${kind}.jsonl.gz`, folder)),
  )
    .toString()
    .trim()
    .split("\n")
    .slice(1)
    .map((line) => JSON.parse(line));

  test(`${count} programs`, () => expect(recorded.length).toBe(count));

  test.each(Array.from({ length: count / SLICE }, (_, i) => i * SLICE))("programs from %d on", (from) => {
    for (const program of recorded.slice(from, from + SLICE)) {
      const { code } = program;
      expect({ code, ...play(new Machine(defaultProfile).process(), program) }).toEqual({
        code,
        runs: program.runs,
        memory: program.memory,
      });
    }
  });
});
