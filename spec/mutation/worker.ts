/**
 * Runs tests against mutants, in a process of its own: a mutant may eat its memory or never come to an end, and then the
 * campaign ends the process and starts another. Either every test once, noting which mutants it comes past, or a list of
 * mutants, each until a test fails.
 */
import { readFileSync } from "node:fs";
import { Script } from "node:vm";
import type { Control } from "./instrument.ts";
import type { Test } from "./vitest.ts";

export interface CoverageJob {
  kind: "coverage";
  bundle: string;
  packages: string[];
  mutants: number;
}

export interface TestedMutant {
  id: number;
  /** it is come past while modules are loaded: they are loaded again for it */
  loads: boolean;
  /** numbers of the tests that come past it */
  tests: number[];
}

export interface MutantsJob {
  kind: "mutants";
  bundle: string;
  packages: string[];
  /** by number: what it is, how long it takes, in milliseconds, and the share of the file's mutants it comes past */
  tests: { id: string; spec: string; time: number; share: number }[];
  mutants: TestedMutant[];
  /** kills so far, by number of the test */
  kills: [test: number, kills: number][];
  /** milliseconds of tests for one mutant */
  limit: number;
}

export interface CoverageResult {
  kind: "coverage";
  /** numbers of the mutants that are come past while modules are loaded */
  loading: number[];
  tests: { id: string; spec: string; time: number; failed?: string; mutants: number[] }[];
}

export type Outcome = "killed" | "timed out" | "survived" | "survived so far";

export interface MutantResult {
  kind: "mutant";
  id: number;
  outcome: Outcome;
  /** number of the test that killed it */
  by?: number;
  /** tests it was put to */
  ran: number;
}

/** Milliseconds that this process has computed: other programs do not count. */
const ownTime = (): number => process.cpuUsage().user / 1000;
/** More than ten times of what a test takes, and this: it does not come to an end. */
const SLACK = 400;

interface Loaded {
  control: Control;
  tests: Test[];
  runTest(test: Test): Promise<void>;
}

const packages = new Map<string, unknown>();
let script: (require: (name: string) => unknown, module: object, control: Control) => void;
const gunzipped = new WeakMap<Buffer, Buffer>();
const filesRead = new Map<string, unknown>();

/** Files are read and unpacked once, however often the modules are loaded. */
async function prepare(bundle: string, names: string[]): Promise<void> {
  for (const name of names) packages.set(name, await import(name));
  const fs = packages.get("node:fs") as typeof import("node:fs") | undefined;
  if (fs !== undefined)
    packages.set("node:fs", {
      ...fs,
      readFileSync(path: string | URL, encoding?: BufferEncoding) {
        const key = `${path} ${JSON.stringify(encoding)}`;
        let content = filesRead.get(key);
        if (content === undefined) filesRead.set(key, (content = fs.readFileSync(path, encoding)));
        return content;
      },
    });
  const zlib = packages.get("node:zlib") as typeof import("node:zlib") | undefined;
  if (zlib !== undefined)
    packages.set("node:zlib", {
      ...zlib,
      gunzipSync(packed: Buffer) {
        const content = gunzipped.get(packed) ?? zlib.gunzipSync(packed);
        gunzipped.set(packed, content);
        return content;
      },
    });
  const { configureGlobal } = (await import("fast-check")).default;
  configureGlobal({ seed: 1, endOnFailure: true });
  const text = readFileSync(bundle, "utf8");
  script = new Script(`(function (require, module, control) {${text}\n})`, {
    filename: bundle,
  }).runInThisContext() as typeof script;
}

function load(mutant: number, coverage = new Uint8Array(0)): Loaded {
  const control: Control = { mutant, coverage, time: ownTime };
  const module = { exports: {} as Pick<Loaded, "tests" | "runTest"> };
  script((name) => packages.get(name), module, control);
  return { control, tests: module.exports.tests, runTest: module.exports.runTest };
}

/** What a test throws, in words; nothing if it passes. */
async function failure(loaded: Loaded, test: Test): Promise<string | undefined> {
  try {
    await loaded.runTest(test);
    return undefined;
  } catch (error) {
    return String((error as Error)?.message ?? error) || "failed";
  }
}

async function cover({ mutants }: CoverageJob): Promise<CoverageResult> {
  const coverage = new Uint8Array(mutants);
  const seen = (): number[] => {
    const list: number[] = [];
    for (let id = coverage.indexOf(1); id !== -1; id = coverage.indexOf(1, id + 1)) list.push(id);
    coverage.fill(0);
    return list;
  };
  const loaded = load(-1, coverage);
  const loading = seen();
  const tests: CoverageResult["tests"] = [];
  for (const test of loaded.tests) {
    const start = ownTime();
    const failed = await failure(loaded, test);
    const time = ownTime() - start;
    tests.push({
      id: test.id,
      spec: test.spec,
      time,
      mutants: seen(),
      ...(failed === undefined ? {} : { failed }),
    });
  }
  return { kind: "coverage", loading, tests };
}

/**
 * Likely killers first: those that killed neighbours, that come past much of the file, that are quick; and of one spec's
 * tests, which are much alike, each later.
 */
function ordered(tests: readonly number[], job: MutantsJob, kills: ReadonlyMap<number, number>): number[] {
  const costs = tests.map((test) => {
    const { time, share, spec } = job.tests[test];
    return { test, spec, cost: (time + 0.1) / (0.01 + share) / (1 + 10 * (kills.get(test) ?? 0)) };
  });
  costs.sort((a, b) => a.cost - b.cost);
  const seen = new Map<string, number>();
  for (const each of costs) {
    const before = seen.get(each.spec) ?? 0;
    seen.set(each.spec, before + 1);
    each.cost *= 1 + before;
  }
  return costs.sort((a, b) => a.cost - b.cost).map(({ test }) => test);
}

async function runMutants(job: MutantsJob, tell: (result: MutantResult) => void): Promise<void> {
  const kills = new Map<number, number>(job.kills);
  let clean = load(-1);
  const numbers = new Map(job.tests.map(({ id }, number) => [id, number]));
  const byNumber = (loaded: Loaded): Map<number, Test> =>
    new Map(loaded.tests.map((test) => [numbers.get(test.id) as number, test]));
  let cleanTests = byNumber(clean);

  /** The test fails with the mutant, and passes without it in the same modules. */
  const kill = (id: number, outcome: Outcome, by: number | undefined, ran: number): void => {
    if (by !== undefined) kills.set(by, (kills.get(by) ?? 0) + 1);
    tell({ kind: "mutant", id, outcome, ran, ...(by === undefined ? {} : { by }) });
  };

  for (const { id, loads, tests } of job.mutants) {
    let loaded = clean;
    let byId = cleanTests;
    if (loads) {
      try {
        loaded = load(id);
        byId = byNumber(loaded);
      } catch {
        kill(id, "killed", undefined, 0);
        continue;
      }
    }
    const order = ordered(tests, job, kills);
    let outcome: Outcome = "survived";
    let ran = 0;
    let by: number | undefined;
    const began = ownTime();
    for (const test of order) {
      if (ownTime() - began > job.limit) {
        outcome = "survived so far";
        break;
      }
      const body = byId.get(test);
      if (body === undefined) continue;
      const until = ownTime() + job.tests[test].time * 10 + SLACK;
      loaded.control.activate?.(id, until);
      const failed = await failure(loaded, body);
      ran++;
      if (failed !== undefined) {
        if (!loads) {
          // What the mutant leaves behind in the modules must not count for the next one.
          loaded.control.activate?.(-1, Number.POSITIVE_INFINITY);
          if ((await failure(loaded, body)) !== undefined) {
            clean = load(-1);
            cleanTests = byNumber(clean);
            loaded = clean;
            byId = cleanTests;
            loaded.control.activate?.(id, ownTime() + job.tests[test].time * 10 + SLACK);
            if ((await failure(loaded, byId.get(test) as Test)) === undefined) continue;
          }
        }
        outcome = failed.includes("the mutant runs for too long") ? "timed out" : "killed";
        by = test;
        break;
      }
    }
    loaded.control.activate?.(-1, Number.POSITIVE_INFINITY);
    kill(id, outcome, by, ran);
  }
}

process.on("message", async (job: CoverageJob | MutantsJob) => {
  await prepare(job.bundle, job.packages);
  if (job.kind === "coverage") process.send?.(await cover(job));
  else await runMutants(job, (result) => process.send?.(result));
  process.send?.({ kind: "done" });
});
