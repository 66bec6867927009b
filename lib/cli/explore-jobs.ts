/**
 * `fake-kvm explore --jobs n`: a worker thread for each shard, the same shards that n machines would take by `--shard`.
 *
 * The runs of all shards have one numbering, that of jobs going in turn: run k of job j (both from 0) has the number
 * k·n + j. The lowest that goes wrong is told, however fast each worker is: whoever is beyond it stops, whoever is not
 * goes on.
 *
 * A worker is started with the file that this code is in, and so the command has to be bundled into one file
 * (dist/cli.js); `main.ts` sees that it is a worker.
 */
import { parentPort, Worker, workerData } from "node:worker_threads";
import { type ExploreResult, explore, NotDeterministic } from "../fuzz/explore/explore.ts";
import { type ExploreCommandOptions, exploration, load, type Shard, shardOf } from "./explore-options.ts";
import { thrownBy } from "./module.ts";
import { UsageError } from "./output.ts";

/** What a worker is given. */
interface Job {
  readonly kind: "fake-kvm explore";
  readonly path: string;
  readonly options: ExploreCommandOptions;
  readonly shard: Shard;
  readonly job: number;
  readonly jobs: number;
  /** one word: the lowest number of a run that went wrong */
  readonly found: SharedArrayBuffer;
}

/** What a worker answers: a result, or why there is none. */
type Answer = ExploreResult | { readonly notDeterministic: string } | { readonly unusable: string };

const NONE = 0x7fffffff;

/** Whether this thread is a worker of `exploreInJobs`. */
export const isJob = (): boolean => (workerData as Partial<Job> | null)?.kind === "fake-kvm explore";

/** The lowest run that goes wrong, and how many were needed until it if jobs went in turn. */
export async function exploreInJobs(
  path: string,
  options: ExploreCommandOptions,
  jobs: number,
): Promise<ExploreResult> {
  const { index, count } = shardOf(options) ?? { index: 1, count: 1 };
  const shards = Array.from(
    { length: jobs },
    (_, job): Shard => ({ index: (index - 1) * jobs + job + 1, count: count * jobs }),
  );
  const sizes = shards.map((shard) => exploration(options, shard).runs!);
  const shared = new SharedArrayBuffer(4);
  const found = new Int32Array(shared).fill(NONE);
  const workers: Worker[] = [];
  try {
    const results = await Promise.all(
      shards.map(async (shard, job) => {
        const data: Job = { kind: "fake-kvm explore", path, options, shard, job, jobs, found: shared };
        const worker = new Worker(new URL(import.meta.url), { workerData: data });
        workers.push(worker);
        const result = await answerOf(worker);
        if (result.counterexample !== undefined)
          Atomics.store(found, 0, Math.min(found[0], numberOf(result.runs - 1, job, jobs)));
        return result;
      }),
    );
    const runs = sizes.reduce((sum, size) => sum + size, 0);
    const winner = found[0] % jobs;
    const cut = results.reduce((sum, { cut = 0 }) => sum + cut, 0);
    if (found[0] === NONE)
      return { runs, exhausted: false, counterexample: undefined, ...(cut !== 0 && { cut }) };
    const { runs: turns, counterexample } = results[winner];
    const made = sizes.map((size, job) => Math.min(size, job <= winner ? turns : turns - 1));
    return { runs: made.reduce((sum, each) => sum + each, 0), exhausted: false, counterexample };
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

const numberOf = (run: number, job: number, jobs: number): number => run * jobs + job;

function answerOf(worker: Worker): Promise<ExploreResult> {
  return new Promise((resolve, reject) => {
    worker.once("message", (answer: Answer) => {
      if ("notDeterministic" in answer) reject(new NotDeterministic(answer.notDeterministic));
      else if ("unusable" in answer) reject(new UsageError(answer.unusable));
      else resolve(answer);
    });
    worker.once("error", reject);
    worker.once("exit", (code) => reject(new Error(`a worker ended with ${code} and without an answer`)));
  });
}

/** What a worker does. */
export async function doJob(): Promise<void> {
  const { path, options, shard, job, jobs, found } = workerData as Job;
  const lowest = new Int32Array(found);
  const stop = (made: number): boolean => numberOf(made, job, jobs) > Atomics.load(lowest, 0);
  const program = await load(path, options.export);
  let answer: Answer;
  try {
    answer = explore(program, { ...exploration(options, shard), stop });
  } catch (error) {
    answer =
      error instanceof NotDeterministic
        ? { notDeterministic: error.message }
        : { unusable: thrownBy(path, error).message };
  }
  parentPort!.postMessage(answer);
}
