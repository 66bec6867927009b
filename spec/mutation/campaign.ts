/**
 * `npm run mutation`: mutants of the kernel, kvm, vfio and hardware, each put to the tests that come past it. A mutant
 * is killed if a test fails; what survives is a gap in the tests, or no change at all.
 *
 *     npm run mutation -- [--only PREFIX,…] [--specs PREFIX,…] [--sample N] [--seed N] [--limit MS] [--jobs N] [--out FILE]
 *                         [--again RESULTS]
 *
 * Every mutant is taken, or a uniform sample of N. One that has survived `limit` milliseconds of tests, the likely
 * killers first, counts as survived: the score is a lower bound. Survivors go to a file, a JSON line each; those that
 * stand in spec/mutation/judged.json with a reason are left out of it. `again` puts only those to the tests anew that
 * survived in an earlier run (dist/mutation/results.jsonl): after tests were added.
 *
 * Stryker's own runner starts vitest anew for each mutant, some seconds each; here tests run in one process, some
 * milliseconds each.
 */
import { type ChildProcess, fork } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { build } from "esbuild";
import { bundle, type Instrumented, instrument, type Mutant, noting, switched } from "./instrument.ts";
import { type Judged, judge } from "./judged.ts";
import type { CoverageResult, MutantResult, MutantsJob, Outcome, TestedMutant } from "./worker.ts";

const { values } = parseArgs({
  options: {
    specs: { type: "string", default: "" },
    only: { type: "string", default: "" },
    sample: { type: "string", default: "0" },
    seed: { type: "string", default: "1" },
    limit: { type: "string", default: "1000" },
    jobs: { type: "string", default: "2" },
    again: { type: "string", default: "" },
    out: { type: "string", default: "dist/mutation/survivors.jsonl" },
  },
});
const folder = "dist/mutation";
const MUTATED = ["lib/hardware", "lib/kernel", "lib/kvm", "lib/vfio"];
/** Specs of packaging, documents, browsers, the command line and the real kernel's binding: far from what is mutated. */
const LEFT_OUT =
  /^spec\/(mutation|bench|browser|cli|native|package|vitest)\/|^spec\/(docs|readme|tidy)\.spec|^spec\/trace\/(format|record|strace)\.spec/;
/** Every mutant's outcome, as they come; in order at the end. */
const RESULTS = `${folder}/results.jsonl`;
/** Milliseconds without a word from a worker, beyond the limit: it hangs. */
const PATIENCE = 30000;

const filesIn = (path: string): string[] =>
  readdirSync(path, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(".ts"))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();

/** Numbers below 2^32, from a seed (xorshift). */
function* random(seed: number): Generator<number, never> {
  let state = (seed * 0x9e3779b1) >>> 0 || 1;
  for (;;) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    yield (state >>>= 0);
  }
}

function sampled<T>(all: readonly T[], count: number, seed: number): T[] {
  if (count === 0 || count >= all.length) return [...all];
  const numbers = random(seed);
  const left = [...all];
  return Array.from({ length: count }, () => left.splice(numbers.next().value % left.length, 1)[0]);
}

/** A worker that takes jobs; asks for a fresh one after each. */
async function inWorker<R>(
  job: object,
  heard: (message: R) => void,
  patience: number,
): Promise<"done" | "gone"> {
  return new Promise((answer) => {
    const child: ChildProcess = fork(`${folder}/worker.js`, {
      execArgv: ["--max-old-space-size=3000", "--expose-gc"],
      stdio: ["ignore", "ignore", "ignore", "ipc"],
    });
    let timer = setTimeout(() => child.kill("SIGKILL"), patience);
    let result: "done" | "gone" = "gone";
    child.on("message", (message: R & { kind: string }) => {
      clearTimeout(timer);
      timer = setTimeout(() => child.kill("SIGKILL"), patience);
      if (message.kind === "done") {
        result = "done";
        child.kill("SIGKILL");
      } else heard(message);
    });
    child.on("exit", () => {
      clearTimeout(timer);
      answer(result);
    });
    child.send(job);
  });
}

const split = (prefixes: string): string[] => prefixes.split(",").filter((prefix) => prefix !== "");
/** A filter: a path begins with one of the prefixes, if there are any. */
const among =
  (prefixes: string[]) =>
  (path: string): boolean =>
    prefixes.length === 0 || prefixes.some((prefix) => path.startsWith(prefix));
const specs = filesIn("spec")
  .filter((path) => path.endsWith(".spec.ts") && !LEFT_OUT.test(path))
  .filter(among(split(values.specs)));
mkdirSync(folder, { recursive: true });
await build({
  entryPoints: ["spec/mutation/worker.ts"],
  outfile: `${folder}/worker.js`,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  packages: "external",
  logLevel: "error",
});

const say = (text: string): void => console.log(text);
const files = MUTATED.flatMap(filesIn).filter(among(split(values.only)));
const instrumented: Instrumented[] = [];
for (const file of files) instrumented.push(await instrument(file));
const bases = new Map<string, number>();
let count = 0;
for (const { file, mutants } of instrumented) {
  bases.set(file, count);
  count += mutants.length;
}
const all = instrumented.flatMap(({ mutants }) => mutants);
say(`${files.length} files, ${count} mutants`);

const coverage = await covered();
const running = coverage.tests.filter(({ failed }) => failed === undefined);
for (const { id, failed } of coverage.tests)
  if (failed !== undefined) say(`left out: ${id}: ${failed.slice(0, 150)}`);
const time = running.reduce((sum, test) => sum + test.time, 0);
say(`${running.length} tests, ${(time / 1000).toFixed(1)} s`);

/** Which mutants each test comes past; kept as long as neither sources nor specs change. */
async function covered(): Promise<CoverageResult> {
  const hash = createHash("sha256").update(JSON.stringify([files, specs]));
  for (const file of [...filesIn("lib"), ...filesIn("spec")])
    if (!file.startsWith("spec/mutation/")) hash.update(readFileSync(file));
  const kept = `${folder}/coverage-${hash.digest("hex").slice(0, 16)}.json`;
  say(`coverage: ${kept}`);
  if (existsSync(kept)) return JSON.parse(readFileSync(kept, "utf8"));
  const texts = new Map(instrumented.map((one) => [one.file, noting(one, bases.get(one.file) as number)]));
  const outfile = `${folder}/coverage.cjs`;
  const packages = await bundle(specs, texts, outfile);
  let result: CoverageResult | undefined;
  await inWorker<CoverageResult>(
    { kind: "coverage", bundle: outfile, packages, mutants: count },
    (message) => (result = message),
    1000000,
  );
  if (result === undefined) throw new Error("the tests do not run");
  writeFileSync(kept, JSON.stringify(result));
  return result;
}

/** By number of the mutant: numbers of the tests that come past it. */
const testsOf: number[][] = Array.from({ length: count }, () => []);
running.forEach((test, number) => {
  for (const mutant of test.mutants) testsOf[mutant].push(number);
});
const loading = new Set(coverage.loading);

interface Result {
  mutant: Mutant;
  outcome: Outcome | "not covered";
  by?: string;
  ran: number;
}
const results: Result[] = [];
const chosen =
  values.again === "" ? new Set(sampled(all, Number(values.sample), Number(values.seed))) : survivors();

/** Survivors of an earlier run, wherever their lines have moved; every other outcome of it is kept. */
function survivors(): Set<Mutant> {
  const before: (Mutant & Omit<Result, "mutant">)[] = readFileSync(values.again, "utf8")
    .trim()
    .split("\n")
    .map((text) => JSON.parse(text));
  const found = new Set<Mutant>();
  const byId = new Map(all.map((mutant) => [`${mutant.file} ${mutant.id}`, mutant]));
  for (const { outcome, by, ran, ...mutant } of before) {
    const same = byId.get(`${mutant.file} ${mutant.id}`);
    const alike = (one: Mutant | undefined): boolean =>
      one?.source === mutant.source &&
      one.mutator === mutant.mutator &&
      one.original === mutant.original &&
      one.replacement === mutant.replacement;
    const there = alike(same) ? same : all.find((one) => one.file === mutant.file && alike(one));
    if (there === undefined) continue;
    if (outcome.startsWith("survived")) found.add(there);
    else results.push({ mutant: there, outcome, ran, ...(by === undefined ? {} : { by }) });
  }
  say(`${found.size} survived before`);
  return found;
}

/** One file's mutants: a bundle for it, and workers until each mutant has its outcome. */
async function runFile(one: Instrumented): Promise<void> {
  const base = bases.get(one.file) as number;
  // While modules are loaded, a mutant may matter for every test; those that come past the file are tried first.
  // lib/hardware/pic.ts is what spec/hardware/pic.spec.ts is about
  const own = one.file.replace(/^lib/, "spec").replace(/\.ts$/, ".spec.ts");
  const shares = new Map<number, number>();
  for (const { id } of one.mutants)
    for (const test of testsOf[base + id]) shares.set(test, (shares.get(test) ?? 0) + 1);
  const near = [...shares.keys()];
  const rest = running.map((_, number) => number).filter((number) => !near.includes(number));
  const todo: TestedMutant[] = [];
  for (const mutant of one.mutants) {
    if (!chosen.has(mutant)) continue;
    const tests = testsOf[base + mutant.id];
    const loads = loading.has(base + mutant.id);
    if (!loads && tests.length === 0) results.push({ mutant, outcome: "not covered", ran: 0 });
    else todo.push({ id: mutant.id, loads, tests: loads ? (near.length > 0 ? near : rest) : tests });
  }
  if (todo.length === 0) return;
  const outfile = `${folder}/${one.file.replaceAll("/", "-")}.cjs`;
  const used = new Set(todo.flatMap(({ tests }) => tests.map((test) => running[test].spec)));
  const packages = await bundle(
    specs.filter((spec) => used.has(spec)),
    new Map([[one.file, switched(one)]]),
    outfile,
  );
  const kills = new Map<number, number>();
  const began = performance.now();
  const here: Result[] = [];
  while (todo.length > 0) {
    const job: MutantsJob = {
      kind: "mutants",
      bundle: outfile,
      packages,
      tests: running.map(({ id, spec, time }, number) => ({
        id,
        spec,
        time,
        share: (shares.get(number) ?? 0) / one.mutants.length + (spec === own ? 10 : 0),
      })),
      mutants: todo,
      kills: [...kills],
      limit: Number(values.limit),
    };
    const end = await inWorker<MutantResult>(
      job,
      ({ id, outcome, by, ran }) => {
        todo.splice(
          todo.findIndex((each) => each.id === id),
          1,
        );
        if (by !== undefined) kills.set(by, (kills.get(by) ?? 0) + 1);
        here.push({
          mutant: one.mutants[id],
          outcome,
          ran,
          ...(by === undefined ? {} : { by: running[by].id }),
        });
      },
      Number(values.limit) + PATIENCE,
    );
    // It hung, or ate its memory: that is noticed.
    if (end === "gone" && todo.length > 0)
      here.push({ mutant: one.mutants[todo.shift()?.id as number], outcome: "timed out", ran: 0 });
  }
  results.push(...here);
  appendFileSync(RESULTS, here.map(line).join(""));
  const lived = here.filter(({ outcome }) => outcome.startsWith("survived")).length;
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  say(`${one.file}: ${here.length} mutants, ${lived} survived, ${seconds} s`);
}

writeFileSync(RESULTS, "");
const queue = [...instrumented];
await Promise.all(
  Array.from({ length: Number(values.jobs) }, async () => {
    for (let one = queue.shift(); one !== undefined; one = queue.shift()) await runFile(one);
  }),
);

const judged: Judged[] = JSON.parse(readFileSync("spec/mutation/judged.json", "utf8"));
const isJudged = judge(judged);
const lived = results.filter(({ outcome }) => outcome.startsWith("survived"));
const open = lived.filter(({ mutant }) => isJudged(mutant) === undefined);
writeFileSync(values.out, open.map(line).join(""));
writeFileSync(
  RESULTS,
  results
    .sort((a, b) =>
      a.mutant.file < b.mutant.file ? -1 : a.mutant.file > b.mutant.file ? 1 : a.mutant.id - b.mutant.id,
    )
    .map(line)
    .join(""),
);

function line({ mutant, outcome, by, ran }: Result): string {
  return `${JSON.stringify({ ...mutant, outcome, ran, ...(by === undefined ? {} : { by }) })}\n`;
}

/** Wilson's interval of 95 % for a share of a sample. */
function interval(share: number, n: number): string {
  if (n === 0) return "";
  const z = 1.96;
  const middle = (share + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return `${percent(middle - half)} – ${percent(middle + half)}`;
}
const percent = (share: number): string => `${(share * 100).toFixed(1)} %`;

function table(): string {
  const sample = results.length < all.length;
  const folders = new Map<string, Result[]>();
  const add = (name: string, result: Result): void => {
    const list = folders.get(name) ?? [];
    list.push(result);
    folders.set(name, list);
  };
  for (const result of results) {
    const parts = result.mutant.file.split("/");
    add(parts.slice(0, -1).join("/"), result);
    if (parts.length > 3) add(`${parts.slice(0, 2).join("/")} with its folders`, result);
    else if (filesIn(parts.slice(0, 2).join("/")).some((path) => path.split("/").length > 3))
      add(`${parts.slice(0, 2).join("/")} with its folders`, result);
  }
  const rows = [...folders]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, list]) => {
      const of = (...outcomes: string[]): number =>
        list.filter(({ outcome }) => outcomes.includes(outcome)).length;
      const dead = of("killed", "timed out");
      const live = of("survived", "survived so far");
      const equivalent = list.filter(
        ({ mutant, outcome }) => outcome.startsWith("survived") && isJudged(mutant) !== undefined,
      ).length;
      return [
        name,
        list.length,
        of("not covered"),
        of("killed"),
        of("timed out"),
        live,
        equivalent,
        percent(dead / (dead + live)),
        percent(dead / (dead + live - equivalent)),
        ...(sample ? [interval(dead / (dead + live), dead + live)] : []),
      ];
    });
  const headings = [
    "folder",
    sample ? "sampled" : "mutants",
    "not covered",
    "killed",
    "timed out",
    "survived",
    "of them equivalent",
    "score of covered",
    "without equivalent",
    ...(sample ? ["95 % interval"] : []),
  ];
  return [headings, headings.map((_, column) => (column === 0 ? "---" : "---:")), ...rows]
    .map((row) => `| ${row.join(" | ")} |`)
    .join("\n");
}
say(table());
say(`${open.length} survivors, not judged: ${values.out}`);
