/**
 * `fake-kvm explore FILE`: the module's `program` in many orders of its threads and of the kernel's deferred work. The
 * first order in which it goes wrong is shrunk and told; the schedule at its end makes the run again (`--replay`).
 *
 * Shards share the runs of a strategy with a seed: by machine (`--shard i/n`), by processor of one machine (`--jobs n`),
 * or both. The reports of shards (`--format json`) are merged into one (`--merge REPORT...`).
 */
import { type Counterexample, explore, NotDeterministic } from "../fuzz/explore/explore.ts";
import { toHtml, toMermaid, toPerfetto, toText } from "../fuzz/explore/report.ts";
import type { Kernel } from "../kernel/kernel.ts";
import { WorkQueue } from "../kernel/work-queue.ts";
import { exploreInJobs } from "./explore-jobs.ts";
import { type ExploreCommandOptions, exploration, load, shardOf } from "./explore-options.ts";
import { type ExploreReport, mergeReports, readReport, reportOf } from "./explore-report.ts";
import { thrownBy } from "./module.ts";
import { type Output, UsageError } from "./output.ts";

/** Those that show one counterexample. */
const pictures: Readonly<Record<string, (counterexample: Counterexample) => string>> = {
  mermaid: toMermaid,
  perfetto: toPerfetto,
  html: toHtml,
};
const formats = ["text", ...Object.keys(pictures), "json"];

/** The exit code: 0 if nothing goes wrong, else 1. */
export async function exploreCommand(
  path: string | undefined,
  options: ExploreCommandOptions,
  output: Output,
): Promise<number> {
  const { format, merge, replay, strategy } = options;
  if (!formats.includes(format)) throw new UsageError(`no format "${format}": ${formats.join(", ")}`);
  if ((path === undefined) === (merge === undefined))
    throw new UsageError("explore takes a module, or reports to --merge");
  try {
    const report =
      path === undefined ? mergeReports(merge!.map(readReport)) : await exploreFile(path, options, output);
    const all = replay === undefined && merge === undefined ? `, all that ${strategy} has` : "";
    tell(report, format, all, output);
    return report.counterexamples.length === 0 ? 0 : 1;
  } catch (error) {
    if (error instanceof NotDeterministic) {
      output.warn(`fake-kvm: ${error.message}`);
      return 1;
    }
    throw error instanceof UsageError || path === undefined ? error : thrownBy(path, error);
  }
}

async function exploreFile(
  path: string,
  options: ExploreCommandOptions,
  output: Output,
): Promise<ExploreReport> {
  const { jobs = 1, replay, runs } = options;
  if (jobs < 1) throw new UsageError("no jobs, no runs: --jobs 1 is the least");
  if (runs === 0) throw new UsageError("no runs, no answer: --runs 1 is the least");
  const how = exploration(options, shardOf(options));
  const program = await load(path, options.export);
  const one = jobs === 1 || replay !== undefined;
  const result = one ? explore(program, how) : await exploreInJobs(path, options, jobs);
  if (result.counterexample === undefined && runsByItself(program.setup().kernel))
    output.warn("deferred work ran by itself, its orders were not tried: new Machine(…, { policy: byHand })");
  return reportOf(program, result);
}

/** Whether the policy of a kernel runs deferred work: it is tried on a queue of its own. */
function runsByItself(kernel: Kernel): boolean {
  let ran = false;
  const queue = new WorkQueue();
  queue.schedule({ name: "probe", run: () => (ran = true) });
  kernel.work.policy?.(queue);
  return ran;
}

const counted = (runs: number): string => `${runs} ${runs === 1 ? "run" : "runs"}`;

/** `all`: what is said of a search that came to its end. */
function tell(report: ExploreReport, format: string, all: string, output: Output): void {
  const { program, runs, exhausted, counterexamples, cut } = report;
  const wrong = counterexamples.length > 0;
  if (format === "json") output.print(JSON.stringify(report));
  else if (wrong && format === "text")
    output.print(`${counterexamples.map(toText).join("\n\n")}\nfound after ${counted(runs)}`);
  else if (wrong) output.print(pictures[format](counterexamples[0]));
  if (!wrong) output.warn(`${program}: nothing goes wrong in ${counted(runs)}${exhausted ? all : ""}`);
  if (!wrong && cut !== undefined) output.warn(`${cut} of these did not end by themselves`);
}
