/** Every opcode leaves behind what it left on a real kernel (Linux 6.18, flavour pvm, where KVM's emulator runs them). */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { guestPolicy } from "../../../lib/kvm/x86/guest-policy.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { BUDGET, formsOf, modes, opcodes, Player, playRow, prefixesOf, rowName } from "./opcodes.ts";

const recorded = new Map<string, [hash: string, ...leftOut: number[]]>(
  gunzipSync(
    readFileSync(new URL("../../../fixtures/guests/x86_64-6.18-pvm-opcodes.jsonl.gz", import.meta.url)),
  )
    .toString()
    .trim()
    .split("\n")
    .slice(1)
    .map((line) => JSON.parse(line))
    .map(([name, ...rest]) => [name, rest]),
);

describe.each(modes)("%s", (mode) => {
  test.each(
    prefixesOf(mode).map((prefix) => [Buffer.from(prefix).toString("hex") || "none", prefix] as const),
  )("after prefix %s", (_, prefix) => {
    const machine = new Machine(defaultProfile);
    guestPolicy(machine.kernel).budget = BUDGET;
    const player = new Player(machine.process(), mode);
    const different: string[] = [];
    for (const opcode of opcodes) {
      const name = rowName(mode, prefix, opcode);
      const [hash, ...leftOut] = recorded.get(name)!;
      if (playRow(player, formsOf(mode, prefix, opcode), leftOut) !== hash) different.push(name);
    }
    expect(different).toEqual([]);
  });
});

test("nothing else is recorded, and next to nothing is left out", () => {
  const rows = modes.flatMap((mode) => prefixesOf(mode).map((prefix) => [mode, prefix] as const));
  expect(recorded.size).toBe(rows.length * opcodes.length);
  const forms = rows.flatMap(([mode, prefix]) =>
    opcodes.map((opcode) => formsOf(mode, prefix, opcode).length),
  );
  const all = forms.reduce((sum, count) => sum + count, 0);
  const leftOut = [...recorded.values()].reduce((sum, [, ...left]) => sum + left.length, 0);
  expect([all, leftOut]).toEqual([82_784, 250]);
});
