/** What a file of the bug zoo gives: a VMM prototype with a historic fault, and the mended one, on one bench. */
import { type BenchOptions, MsixBench, type MsixVmm } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Program } from "../../lib/fuzz/explore/run.ts";

export interface Bug {
  /** its number in the zoo */
  readonly number: number;
  readonly title: string;
  /** where it happened */
  readonly reference: string;
  readonly broken: Program;
  readonly mended: Program;
}

interface MsixBug {
  number: number;
  title: string;
  reference: string;
  options: BenchOptions;
  broken(bench: MsixBench): MsixVmm;
  mended(bench: MsixBench): MsixVmm;
}

/** Two VMMs on the bench for MSI-X. */
export function msixBug({ number, title, reference, options, broken, mended }: MsixBug): Bug {
  const program = (name: string, vmm: (bench: MsixBench) => MsixVmm): Program => ({
    name,
    setup() {
      const bench = new MsixBench(options);
      return bench.world(vmm(bench));
    },
  });
  return {
    number,
    title,
    reference,
    broken: program(title, broken),
    mended: program(`${title} (mended)`, mended),
  };
}
