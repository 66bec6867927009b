/**
 * Records what every opcode does on this host's kernel:
 *
 *     node spec/run.mjs spec/kvm/x86/record-opcodes.ts FILE
 *
 * Forms that run on and on are left out, on the fake or on the kernel. Rows where the fake answers otherwise are told.
 */
import { writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { guestPolicy } from "../../../lib/kvm/x86/guest-policy.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { nativeKernel } from "../../../lib/native/native.ts";
import { hostRelease } from "../../../lib/trace/files.ts";
import { BUDGET, formsOf, modes, opcodes, Player, playRow, prefixesOf, rowName } from "./opcodes.ts";

const [file] = process.argv.slice(2);
const native = nativeKernel();
if (!native.available) throw new Error(native.reason);
/** what ends within the budget of the fake needs a fraction of it */
const PATIENCE_MS = 250;
const { kernel, kvm } = hostRelease();
const lines = [JSON.stringify({ about: "what every opcode leaves behind", kernel, kvm })];
let forms = 0;
for (const mode of modes) {
  const machine = new Machine(defaultProfile);
  guestPolicy(machine.kernel).budget = BUDGET;
  const fake = new Player(machine.process(), mode);
  const real = new Player(native.process(), mode, (run) => native.interrupted(PATIENCE_MS, run));
  for (const prefix of prefixesOf(mode))
    for (const opcode of opcodes) {
      const name = rowName(mode, prefix, opcode);
      const all = formsOf(mode, prefix, opcode);
      const leftOut = all.flatMap((form, i) =>
        fake.play(form) === undefined || real.play(form) === undefined ? [i] : [],
      );
      const hash = playRow(real, all, leftOut);
      if (playRow(fake, all, leftOut) !== hash) console.log(`${name}: the fake answers otherwise`);
      forms += all.length - leftOut.length;
      lines.push(JSON.stringify([name, hash, ...leftOut]));
    }
}
writeFileSync(file, gzipSync(`${lines.join("\n")}\n`, { level: 9 }));
console.log(`${lines.length - 1} opcodes, ${forms} forms`);
