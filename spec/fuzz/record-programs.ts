/**
 * Records what random programs are answered by this host's kernel:
 *
 *     node spec/run.mjs spec/fuzz/record-programs.ts COUNT SEED FILE [GUESTS]
 *
 * GUESTS programs run guests. The file has a header line in front of each program's calls. What the fake answers
 * differently is left out (that is what `fake-kvm fuzz` is for), and so are guests that go on and on.
 */
import { writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { programAt } from "../../lib/fuzz/campaign.ts";
import { traceOf } from "../../lib/fuzz/counterexample.ts";
import { guestKinds, guestPrograms } from "../../lib/fuzz/guest-programs.ts";
import { nativeSide } from "../../lib/fuzz/kernels.ts";
import { programs } from "../../lib/fuzz/programs.ts";
import { headerOf } from "../../lib/fuzz/this-host.ts";
import { nativeKernel } from "../../lib/native/native.ts";
import { formatTrace } from "../../lib/trace/format.ts";
import { replay } from "../../lib/trace/replay.ts";

const [count, seed, file, guests] = process.argv.slice(2);
const native = nativeKernel();
if (!native.available) throw new Error(native.reason);
const header = headerOf(native);
const kernel = nativeSide(native);
const kinds = [programs({ length: 40 }), guestPrograms(guestKinds)];
const TOO_LONG_MS = 500;
const chunks: string[] = [];
let left = 0;
for (let index = 0; index < Number(count); index++) {
  const arbitrary = kinds[index < Number(guests ?? 0) ? 1 : 0];
  const program = programAt(arbitrary, Number(seed), index);
  const trace = traceOf(
    program,
    kernel,
    header,
    `random-${seed}-${index}`,
    "a random program, of the kernel",
  );
  const began = performance.now();
  const same = replay({ name: "", ...trace }).different === 0;
  if (same && performance.now() - began < TOO_LONG_MS) chunks.push(formatTrace(trace));
  else left++;
}
writeFileSync(file, gzipSync(chunks.join(""), { level: 9 }));
console.log(`${chunks.length} programs, ${left} left out`);
