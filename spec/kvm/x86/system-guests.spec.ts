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
  ["system", 2400, 22],
  ["any", 1600, 1],
  ["vector", 600, 4],
] as const)("instructions: %s", (kind, count, different) => {
  const recorded: (Program & Outcome)[] = gunzipSync(
    readFileSync(new URL(`x86_64-6.18-pvm-${kind}.jsonl.gz`, folder)),
  )
    .toString()
    .trim()
    .split("\n")
    .slice(1)
    .map((line) => JSON.parse(line));
  /** Numbers of programs that end differently still. */
  const open: number[] = JSON.parse(
    readFileSync(new URL(`x86_64-6.18-pvm-${kind}-open.json`, folder), "utf8"),
  ).programs;

  test(`${count} programs, ${different} end differently`, () =>
    expect([recorded.length, open.length]).toEqual([count, different]));

  test.each(Array.from({ length: Math.ceil(count / SLICE) }, (_, i) => i * SLICE))(
    "programs from %d on",
    (from) => {
      recorded.slice(from, from + SLICE).forEach((program, i) => {
        const { code } = program;
        const ours = { code, ...play(new Machine(defaultProfile).process(), program) };
        const kernel = { code, runs: program.runs, memory: program.memory };
        if (open.includes(from + i)) expect(ours).not.toEqual(kernel);
        else expect(ours).toEqual(kernel);
      });
    },
  );
});
