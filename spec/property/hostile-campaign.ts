/**
 * `npm run hostile [-- CALLS [SEED]]`: the hostile property on as many calls as wanted (a million by default).
 */
import fc from "fast-check";
import { hostileCall, runHostile, World } from "./hostile.ts";

const wanted = Number(process.argv[2] ?? 1_000_000);
const seed = Number(process.argv[3] ?? Date.now() % 2 ** 31);
const PROGRAM = 100;

console.log(`seed ${seed}`);
const programs = fc.array(hostileCall, { minLength: PROGRAM, maxLength: PROGRAM, size: "max" });
let calls = 0;
const started = performance.now();
const result = fc.check(
  fc.property(programs, (program) => {
    const world = new World();
    const broken = runHostile(world, program);
    world.process.exit();
    calls += program.length;
    if (process.stderr.isTTY && calls % 10_000 === 0) process.stderr.write(`\r${calls} calls`);
    if (broken !== undefined) throw new Error(broken);
  }),
  { seed, numRuns: Math.ceil(wanted / PROGRAM) },
);
const seconds = (performance.now() - started) / 1000;
console.log(
  `\r${calls} calls in ${seconds.toFixed(1)} s: ${result.failed ? "FAILED" : "0 exceptions, 0 changes after an error"}`,
);
if (result.failed) {
  console.log(result.errorInstance instanceof Error ? result.errorInstance.message : result.errorInstance);
  console.log(`counterexample of ${result.counterexample?.[0].length} calls`);
  process.exitCode = 1;
}
