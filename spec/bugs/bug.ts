/** What a file of the bug zoo gives: a VMM prototype with a historic fault, and the mended one, on one bench. */
import { LevelBench, type LevelOptions, type LevelVmm } from "../../lib/fuzz/explore/level-bench.ts";
import { ModeBench, type ModeOptions, type ModeVmm } from "../../lib/fuzz/explore/mode-bench.ts";
import { type BenchOptions, MsixBench, type MsixVmm } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Program, World } from "../../lib/fuzz/explore/run.ts";

export interface Bug {
  /** its number in the zoo */
  readonly number: number;
  readonly title: string;
  /** where it happened */
  readonly reference: string;
  readonly broken: Program;
  readonly mended: Program;
}

interface OnBench<Options, Bench, Vmm> {
  number: number;
  title: string;
  reference: string;
  options: Options;
  broken(bench: Bench): Vmm;
  mended(bench: Bench): Vmm;
}

/** Two VMMs on the bench for MSI-X. */
export const msixBug = (parts: OnBench<BenchOptions, MsixBench, MsixVmm>): Bug =>
  onBench(parts, (options, vmm) => {
    const bench = new MsixBench(options);
    return bench.world(vmm(bench));
  });

/** Two VMMs, or kernels, on the bench for level-triggered interrupts. */
export const levelBug = (parts: OnBench<LevelOptions, LevelBench, LevelVmm>): Bug =>
  onBench(parts, (options, vmm) => {
    const bench = new LevelBench(options);
    return bench.world(vmm(bench));
  });

/** Two VMMs, or kernels, on the bench for the modes of an assigned device. */
export const modeBug = (parts: OnBench<ModeOptions, ModeBench, ModeVmm>): Bug =>
  onBench(parts, (options, vmm) => {
    const bench = new ModeBench(options);
    return bench.world(vmm(bench));
  });

function onBench<Options, Bench, Vmm>(
  { number, title, reference, options, broken, mended }: OnBench<Options, Bench, Vmm>,
  setup: (options: Options, vmm: (bench: Bench) => Vmm) => World,
): Bug {
  return {
    number,
    title,
    reference,
    broken: { name: title, setup: () => setup(options, broken) },
    mended: { name: `${title} (mended)`, setup: () => setup(options, mended) },
  };
}
