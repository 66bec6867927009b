/**
 * Records what programs of the processor's own instructions, of `any`, or of the FPU's (`vector`), do on this host's kernel:
 *
 *     node spec/run.mjs spec/kvm/x86/record-system-guests.ts COUNT SEED FILE [any | vector]
 *
 * Programs that do not come to an end are left out, and those that answer differently a second time.
 */
import { writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { nativeKernel } from "../../../lib/native/native.ts";
import { hostRelease } from "../../../lib/trace/files.ts";
import { type Outcome, play, programs } from "./system-guests.ts";

const [count, seed, file, kind] = process.argv.slice(2);
const native = nativeKernel();
if (!native.available) throw new Error(native.reason);
const PATIENCE_MS = 100;
const EINTR = 4;
const { kernel, kvm } = hostRelease();
const lines = [
  JSON.stringify({
    about: "short programs, and what they left behind",
    kernel,
    kvm,
  }),
];
const generator = programs(Number(seed), kind === "any" || kind === "vector" ? kind : "system");
let left = 0;
while (lines.length <= Number(count)) {
  const program = generator.next().value;
  const outcome = (): Outcome => {
    const linux = native.process();
    try {
      return play(linux, program, (run) => native.interrupted(PATIENCE_MS, run));
    } finally {
      linux.exit();
    }
  };
  const first = outcome();
  if (
    first.runs.some(({ answer }) => answer === -EINTR) ||
    JSON.stringify(first) !== JSON.stringify(outcome())
  )
    left++;
  else lines.push(JSON.stringify({ ...program, ...first }));
}
writeFileSync(file, gzipSync(`${lines.join("\n")}\n`, { level: 9 }));
console.log(`${lines.length - 1} programs, ${left} left out`);
