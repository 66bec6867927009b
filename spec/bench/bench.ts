/**
 * `npm run bench`: what a call costs, on the fake and, where it is there, on the real kernel in the same run, through
 * the same interface. The floor is a plain function call that reads one field through a DataView.
 *
 * Two more tables are of the fake alone: devices, which no host gives away for a measurement, and growth, which is
 * plotted too (dist/bench-*.svg).
 *
 * Nothing here is asserted: times belong to the machine they were taken on.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import Table from "cli-table3";
import { do_not_optimize, measure } from "mitata";
import { KVM_CREATE_VM } from "../../lib/abi/kvm.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import { defaultProfile } from "../../lib/machine/default-profile.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { nativeKernel } from "../../lib/native/native.ts";
import { assignedBenchmarks } from "./assigned.ts";
import { explorationRun } from "./exploration.ts";
import { bytesOfVm, growths, measureGrowth } from "./growth.ts";
import { type Benchmark, benchmarks, must, vmWithLapic } from "./operations.ts";
import { plot } from "./plot.ts";

/** no colours, and no lines between rows */
const plain = {
  style: { head: [], border: [] },
  chars: { mid: "", "left-mid": "", "mid-mid": "", "right-mid": "" },
};

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
    await measure(once, { min_cpu_time: 100e6 }); // until it is compiled
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
  for (const { name, calls = 1, prepare } of assignedBenchmarks)
    results.push({ name, fake: (await median(prepare())) / calls, native: undefined, c: undefined });
  const view = new DataView(new ArrayBuffer(8));
  const floor = await measure(() => do_not_optimize(view.getUint32(0, true)));

  const table = new Table({
    head: ["operation", "fake", "real, same FFI", "ratio", "real, from C", "ratio"],
    colAligns: ["left", "right", "right", "right", "right", "right"],
    ...plain,
  });
  for (const { name, fake, native, c } of results)
    table.push([name, time(fake), time(native), ratio(native, fake), time(c), ratio(c, fake)]);
  console.log(table.toString());
  console.log(`floor: one DataView read, ${time(floor.p50)}`);
  console.log(
    `exploration: ${explorationsASecond()} runs a second of processor time, in a process of its own (host, VM, two vCPUs, eight vectors, 30 steps)`,
  );
  if (!native.available) console.log(`the real kernel was not measured: ${native.reason}`);
  console.log("from C: measured once on the recorded host (see spec/bench/operations.ts)");
  printWeight();
  await printGrowth();
}

const EXPLORATION = "exploration";

/** In a process of its own, as an exploration is: here other benchmarks have filled the heap and the call sites. */
function explorationsASecond(): string {
  return execFileSync(process.execPath, [process.argv[1], EXPLORATION], { encoding: "utf8" }).trim();
}

/** By processor time, the collector's and the compiler's included: how busy the machine is otherwise does not count. */
function explore(): void {
  const once = explorationRun();
  for (let i = 0; i < 20_000; i++) once(); // until everything is compiled
  const runs = 50_000;
  const before = process.cpuUsage();
  for (let i = 0; i < runs; i++) once();
  const { user, system } = process.cpuUsage(before);
  console.log(Math.round((runs * 1e6) / (user + system)));
}

const median = async (once: () => unknown): Promise<number> =>
  (await measure(once, { min_cpu_time: 100e6 })).p50;

function printWeight(): void {
  const empty = bytesOfVm((process) => {
    must(process.ioctl(must(process.open("/dev/kvm", 2)), KVM_CREATE_VM, 0));
  });
  const full = bytesOfVm((process) => {
    vmWithLapic(process);
  });
  if (empty === undefined || full === undefined) return;
  const kilobytes = (bytes: number) => `${(bytes / 1024).toFixed(1)} KiB`;
  console.log(`\na VM weighs ${kilobytes(empty)}; with an irqchip and a vCPU ${kilobytes(full)}`);
}

/** A table and a picture for each; the pictures are written to dist. */
async function printGrowth(): Promise<void> {
  mkdirSync("dist", { recursive: true });
  for (const growth of growths) {
    const series = await measureGrowth(growth, median);
    const table = new Table({
      head: [growth.name, ...growth.sizes.map((n) => n.toLocaleString("en"))],
      colAligns: ["left", ...growth.sizes.map((): "right" => "right")],
      ...plain,
    });
    for (const { name, points } of series) table.push([name, ...points.map(([, ns]) => time(ns))]);
    const path = `dist/bench-${growth.name.replaceAll(" ", "-")}.svg`;
    writeFileSync(path, plot(`What a call costs, by ${growth.name}`, growth.unit, series));
    console.log(`\n${table.toString()}\n${path}`);
  }
}

function time(ns: number | undefined): string {
  if (ns === undefined) return "–";
  if (ns < 1000) return `${ns.toFixed(ns < 10 ? 1 : 0)} ns`;
  if (ns < 1e6) return `${(ns / 1e3).toFixed(1)} µs`;
  return `${(ns / 1e6).toFixed(1)} ms`;
}

const ratio = (real: number | undefined, fake: number): string =>
  real === undefined ? "–" : `${(real / fake).toFixed(real / fake < 10 ? 1 : 0)}×`;

if (process.argv[2] === EXPLORATION) explore();
else await main();
