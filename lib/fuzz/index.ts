/**
 * Looking for what goes wrong. Two ways:
 *
 * - `explore`: your program as threads; every order of its system calls and of the kernel's deferred work, or many by
 *   chance, and the one that goes wrong, made small (`toText`, `toMermaid`, `toPerfetto`, `toHtml`).
 * - Programs as data, run on two kernels whose answers are compared (`runProgram`, `compareOn`). Random ones are drawn
 *   with the package fast-check: `fake-kvm/fuzz/fast-check`.
 */
export { traceOf } from "./counterexample.ts";
export {
  type Counts,
  compareOn,
  type Difference,
  type Kernel as ComparedKernel,
  newCounts,
} from "./differential.ts";
export { AssignedDevice, hostWithDevice } from "./explore/assigned-device.ts";
export {
  type Counterexample,
  type ExploreOptions,
  type ExploreResult,
  explore,
  NotDeterministic,
  type Strategy,
} from "./explore/explore.ts";
export {
  type AutomaskedLine,
  type HandlerStep,
  LevelBench,
  type LevelOptions,
  type LevelVmm,
  ResamplingVmm,
} from "./explore/level-bench.ts";
export { ModeBench, type ModeOptions, type ModeStep, type ModeVmm } from "./explore/mode-bench.ts";
export { type BenchOptions, type GuestStep, MsixBench, type MsixVmm } from "./explore/msix-bench.ts";
export { type Delivery, Receiver } from "./explore/receiver.ts";
export { toHtml, toMermaid, toPerfetto, toText } from "./explore/report.ts";
export {
  type Chooser,
  type Enabled,
  type Failure,
  NotExplorable,
  type Outcome,
  type Program as ExploredProgram,
  type RunOptions,
  run,
  type Step,
  type World,
} from "./explore/run.ts";
export { Calls, type Op, step, type Thread, until } from "./explore/thread.ts";
export { assemble, assembleEach, type Bits } from "./guest-code.ts";
export { type RunOptions as ProgramRunOptions, runProgram, type Step as ProgramStep } from "./interpreter.ts";
export { fakeSide } from "./kernels.ts";
export {
  type Edit,
  formatProgram,
  type Kind,
  type Operation,
  type Part,
  type Patch,
  type Program,
  parseProgram,
  type Ref,
} from "./program.ts";
export { Random } from "./random.ts";
export { type Shows, shrink } from "./shrink.ts";
