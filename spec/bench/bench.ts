/**
 * `npm run bench`: what a call costs, on the fake and, where it is there, on the real kernel in the same run, through
 * the same interface. The floor is a plain function call that reads one field through a DataView.
 *
 * Nothing here is asserted: times belong to the machine they were taken on.
 */
import Table from "cli-table3";
import { do_not_optimize, measure } from "mitata";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import { defaultProfile } from "../../lib/machine/default-profile.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { nativeKernel } from "../../lib/native/native.ts";
import { type Benchmark, benchmarks } from "./operations.ts";

interface Result {
  name: string;
  fake: number;
  native: number | undefined;
  c: number | undefined;
}

/** Median nanoseconds of one call. A benchmark that does not run on a kernel has none. */
async function nanoseconds(benchmark: Benchmark, kernel: () => Syscalls): Promise<number | undefined> {
  const process = kernel();
  try {
    const once = benchmark.prepare(process);
    const stats = await measure(once, { min_cpu_time: 200e6 });
    return stats.p50 / (benchmark.calls ?? 1);
  } catch {
    return undefined;
  } finally {
    process.exit();
  }
}

async function main(): Promise<void> {
  const native = nativeKernel();
  const results: Result[] = [];
  for (const benchmark of benchmarks) {
    const fake = await nanoseconds(benchmark, () => new Machine(defaultProfile).process());
    const real = !native.available ? undefined : await nanoseconds(benchmark, () => native.process());
    results.push({ name: benchmark.name, fake: fake!, native: real, c: benchmark.c });
  }
  const view = new DataView(new ArrayBuffer(8));
  const floor = await measure(() => do_not_optimize(view.getUint32(0, true)));

  const table = new Table({
    head: ["operation", "fake", "real, same FFI", "ratio", "real, from C", "ratio"],
    colAligns: ["left", "right", "right", "right", "right", "right"],
    style: { head: [], border: [] },
  });
  for (const { name, fake, native, c } of results)
    table.push([name, time(fake), time(native), ratio(native, fake), time(c), ratio(c, fake)]);
  console.log(table.toString());
  console.log(`floor: one DataView read, ${time(floor.p50)}`);
  if (!native.available) console.log(`the real kernel was not measured: ${native.reason}`);
  console.log("from C: measured once on the recorded host (see spec/bench/operations.ts)");
}

function time(ns: number | undefined): string {
  if (ns === undefined) return "–";
  if (ns < 1000) return `${ns.toFixed(ns < 10 ? 1 : 0)} ns`;
  if (ns < 1e6) return `${(ns / 1e3).toFixed(1)} µs`;
  return `${(ns / 1e6).toFixed(1)} ms`;
}

const ratio = (real: number | undefined, fake: number): string =>
  real === undefined ? "–" : `${(real / fake).toFixed(real / fake < 10 ? 1 : 0)}×`;

await main();
