/**
 * What one run of an exploration costs: a host, a VM with two vCPUs, a device with eight vectors, a guest that masks and
 * unmasks them, and about 30 steps in a random order.
 */
import { type GuestStep, MsixBench } from "../../lib/fuzz/explore/msix-bench.ts";
import { type Program, run } from "../../lib/fuzz/explore/run.ts";
import { randomChooser } from "../../lib/fuzz/explore/strategies.ts";
import { Random } from "../../lib/fuzz/random.ts";
import { PlainVmm } from "../bugs/plain-vmm.ts";

const guest: readonly GuestStep[] = [
  ["unmask", 0],
  ["unmask", 1],
  ["write", 0, 0x60],
  ["mask", 0],
  ["unmask", 2],
  ["mask", 1],
  ["unmask", 0],
];

const program: Program = {
  name: "eight vectors",
  setup() {
    const bench = new MsixBench({ vectors: 8, vcpus: 2, guest, device: [0, 1, 2, 3, 4, 5, 6, 7] });
    return bench.world(new PlainVmm(bench));
  },
};

/** Makes one run, another order each time; answers its steps. */
export function explorationRun(): () => number {
  const random = new Random(1);
  return () => {
    const { steps, failure } = run(program, randomChooser(random));
    if (failure !== undefined) throw new Error(failure.reason);
    return steps;
  };
}
