import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import picocolors from "picocolors";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ExploreReport } from "../../lib/cli/explore-report.ts";
import type { Output } from "../../lib/cli/output.ts";
import { run } from "../../lib/cli/program.ts";

const folder = mkdtempSync(join(tmpdir(), "explore-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Two threads that each read a counter and write it back, one more; nothing of the library is imported. */
const source = (update: string) => `
export const program = {
  name: "lost update",
  setup() {
    let counter = 0;
    const step = (label, run) => ({ label: () => label, run });
    function* thread() {
      ${update}
    }
    return {
      kernel: { work: { items: [] }, clock: {} },
      threads: { a: thread(), b: thread() },
      final: () => (counter === 2 ? undefined : "the counter is " + counter),
    };
  },
};`;
const broken = join(folder, "broken.mjs");
const mended = join(folder, "mended.mjs");
writeFileSync(
  broken,
  source('const seen = yield step("read", () => counter); yield step("write", () => (counter = seen + 1));'),
);
writeFileSync(mended, source('yield step("add", () => (counter += 1));'));
writeFileSync(join(folder, "empty.mjs"), "export const other = 1;");

async function explore(...args: string[]) {
  const lines: string[] = [];
  const warnings: string[] = [];
  const output: Output = {
    print: (text) => void lines.push(text),
    warn: (text) => void warnings.push(text),
    width: Number.POSITIVE_INFINITY,
    interactive: false,
    colors: picocolors.createColors(false),
  };
  const code = await run(["explore", ...args], output, true);
  return { code, text: lines.join("\n"), warnings: warnings.join("\n") };
}

test("a program that goes wrong is told, and its schedule makes the run again", async () => {
  const { code, text } = await explore(broken, "--strategy", "exhaustive:1");
  expect(code).toBe(1);
  expect(text).toBe(
    [
      "lost update: the counter is 1",
      "  1  a  read = 0",
      "* 2  b  read = 0",
      "  3  b  write = 1",
      "  4  a  write = 1",
      'schedule: ["a","b","b","a"]',
      "found after 2 runs",
    ].join("\n"),
  );
  const again = await explore(broken, "--replay", 'schedule: ["a","b","b","a"]', "--format", "json");
  expect(again.code).toBe(1);
  const { counterexamples, ...rest } = JSON.parse(again.text) as ExploreReport;
  expect(rest).toEqual({ program: "lost update", runs: 1, exhausted: false });
  expect(counterexamples.map(({ schedule }) => schedule)).toEqual([["a", "b", "b", "a"]]);
});

test.each(["text", "mermaid", "perfetto", "html", "json"])("as %s", async (format) => {
  const { code, text } = await explore(broken, "--format", format);
  expect(code).toBe(1);
  expect(text).toContain("the counter is 1");
});

test("a program that is right", async () => {
  const { code, warnings } = await explore(mended, "--strategy", "exhaustive");
  expect([code, warnings]).toEqual([0, "lost update: nothing goes wrong in 2 runs, all that exhaustive has"]);
});

test.each([
  ["a setup that throws", "setup() { throw new Error('boom') }", /world.mjs:2: boom$/],
  ["no world", "setup() {}", /p: setup gives { kernel, threads }$/],
  [
    "a function in place of a generator",
    "setup: () => ({ kernel, threads: { t() {} } })",
    /thread t is no generator/,
  ],
  [
    "one that is asynchronous",
    "setup: () => ({ kernel, threads: { t: (async function* () {})() } })",
    /no generator/,
  ],
  [
    "yield in place of yield*",
    "setup: () => ({ kernel, threads: { t: (function* () { yield 5; })() } })",
    /by yield\*/,
  ],
])("%s is no program, in whichever order", async (_what, setup, message) => {
  // a module is loaded once
  const world = join(mkdtempSync(join(folder, "world-")), "world.mjs");
  const kernel = "const kernel = { work: { items: [] }, clock: {} };";
  writeFileSync(world, `${kernel}\nexport const program = { name: "p", ${setup} };`);
  const { code, warnings } = await explore(world);
  expect([code, warnings]).toEqual([2, expect.stringMatching(message)]);
});

test("a schedule of another program is told", async () => {
  const { code, warnings } = await explore(broken, "--replay", '["a","nobody"]');
  expect(code).toBe(2);
  expect(warnings).toContain("the schedule names an actor that cannot go on at step 2 (a, b can)");
});

test.each([
  ["(queue) => queue.drain()", "deferred work ran by itself, its orders were not tried"],
  ["() => {}", "p: nothing goes wrong in 3 runs"],
])("whether deferred work ran by itself is told: %s", async (policy, message) => {
  const module = join(mkdtempSync(join(folder, "policy-")), "policy.mjs");
  const kernel = `{ work: { items: [], policy: ${policy} }, clock: {} }`;
  writeFileSync(
    module,
    `export const program = { name: "p", setup: () => ({ kernel: ${kernel}, threads: {} }) };`,
  );
  const { code, warnings } = await explore(module, "--runs", "3");
  expect([code, warnings.split("\n")[0]]).toEqual([0, expect.stringContaining(message)]);
});

test("runs that do not end are told", async () => {
  const module = join(mkdtempSync(join(folder, "endless-")), "endless.mjs");
  const thread = '(function* () { for (;;) yield { label: () => "again", run() {} }; })()';
  const kernel = "{ work: { items: [] }, clock: {} }";
  writeFileSync(
    module,
    `export const program = { name: "p", setup: () => ({ kernel: ${kernel}, threads: { t: ${thread} } }) };`,
  );
  const { code, warnings } = await explore(module, "--runs", "2");
  expect([code, warnings.split("\n")]).toEqual([
    0,
    ["p: nothing goes wrong in 2 runs", "2 of these did not end by themselves"],
  ]);
});

test("shards share the runs", async () => {
  const told = await Promise.all(
    [1, 2, 3].map((i) => explore(mended, "--runs", "10", "--strategy", "random", "--shard", `${i}/3`)),
  );
  expect(told.map(({ warnings }) => /in (\d+) runs/.exec(warnings)![1])).toEqual(["3", "3", "4"]);
});

describe("--jobs", () => {
  const cli = join(folder, "cli.mjs");
  /** Nine steps each, and wrong in few orders. */
  const rare = join(folder, "rare.mjs");
  /** Wrong in the third worker, and nowhere else. */
  const third = join(folder, "third.mjs");

  beforeAll(async () => {
    await build({
      entryPoints: ["lib/cli/main.ts"],
      outfile: cli,
      bundle: true,
      platform: "node",
      format: "esm",
      target: "node20",
      external: ["koffi"],
      banner: {
        js: `import { createRequire as __createRequire } from "node:module"; globalThis.require ??= __createRequire(import.meta.url);`,
      },
      logLevel: "silent",
    });
    writeFileSync(
      rare,
      `let order;
export const program = {
  name: "rare",
  setup() {
    order = "";
    function* thread(name) {
      for (let i = 0; i < 9; i++) yield { label: () => name, run: () => void (order += name) };
    }
    return {
      kernel: { work: { items: [] }, clock: {} },
      threads: { a: thread("a"), b: thread("b") },
      final: () => (order.startsWith("abbabaab") ? "the order is " + order.slice(0, 8) : undefined),
    };
  },
};`,
    );
    writeFileSync(
      third,
      `import { workerData } from "node:worker_threads";
export const program = {
  name: "third",
  setup: () => ({
    kernel: { work: { items: [] }, clock: {} },
    threads: {},
    final: () => (workerData?.job === 2 ? "it is the third" : undefined),
  }),
};`,
    );
  });

  function inJobs(...args: string[]) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [cli, "explore", ...args], {
      encoding: "utf8",
      timeout: 60_000,
    });
    return { status, stdout, stderr: stderr.trim() };
  }

  test.each([1, 2, 3])("finds what four machines find, and tells the first: seed %i", async (seed) => {
    const args = [rare, "--strategy", "random", "--runs", "8000", "--seed", `${seed}`, "--format", "json"];
    const shards: ExploreReport[] = [];
    for (const i of [1, 2, 3, 4])
      shards.push(JSON.parse((await explore(...args, "--shard", `${i}/4`)).text) as ExploreReport);
    const found = shards
      .map(({ runs, counterexamples }, job) => ({ runs, counterexamples, number: (runs - 1) * 4 + job }))
      .filter(({ counterexamples }) => counterexamples.length === 1)
      .sort((a, b) => a.number - b.number);
    expect(found.length).toBe(4);
    const { status, stdout } = inJobs(...args, "--jobs", "4");
    expect(status).toBe(1);
    expect(JSON.parse(stdout)).toEqual({
      program: "rare",
      runs: found[0].number + 1,
      exhausted: false,
      counterexamples: found[0].counterexamples,
    });
  });

  test("jobs of a machine that is a shard itself: 2/2 in two jobs is 3/4 and 4/4", async () => {
    const args = [rare, "--strategy", "random", "--runs", "8000", "--format", "json"];
    const [third, fourth] = await Promise.all(
      [3, 4].map(
        async (i) => JSON.parse((await explore(...args, "--shard", `${i}/4`)).text) as ExploreReport,
      ),
    );
    const first = third.runs <= fourth.runs ? third : fourth;
    const { stdout } = inJobs(...args, "--shard", "2/2", "--jobs", "2");
    expect((JSON.parse(stdout) as ExploreReport).counterexamples).toEqual(first.counterexamples);
    expect(first.counterexamples.length).toBe(1);
  });

  test("one that finds something ends the others", () => {
    const { status, stdout } = inJobs(third, "--strategy", "random", "--runs", "2000000000", "--jobs", "4");
    expect([status, stdout]).toEqual([1, "third: it is the third\nschedule: []\nfound after 3 runs\n"]);
  });

  test("a program that is right: the runs of all", () => {
    const { status, stdout, stderr } = inJobs(mended, "--runs", "10", "--jobs", "3");
    expect([status, stdout, stderr]).toEqual([0, "", "lost update: nothing goes wrong in 10 runs"]);
  });

  test("a module that cannot be loaded is refused once", () => {
    const { status, stderr } = inJobs(join(folder, "empty.mjs"), "--jobs", "2");
    expect(status).toBe(2);
    expect(stderr).toMatch(/^fake-kvm: [^\n]* exports no `program` with a `setup`$/);
  });

  test("one that answers otherwise each time is told as such", () => {
    const chance = join(folder, "chance.mjs");
    writeFileSync(
      chance,
      `let run = 0;
export const program = {
  name: "chance",
  setup: () => ({ kernel: { work: { items: [] }, clock: {} }, threads: {}, final: () => "run " + run++ }),
};`,
    );
    const { status, stderr } = inJobs(chance, "--strategy", "random", "--jobs", "2");
    expect(status).toBe(1);
    expect(stderr).toBe('fake-kvm: chance: the same schedule ended in "run 0" and then in "run 1"');
  });
});

describe("--merge", () => {
  const step = (actor: string) => ({ actor, label: "step" });
  const counterexample = (reason: string, schedule: string[]) => ({
    program: "p",
    failure: { reason, step: schedule.length },
    schedule,
    deviations: [],
    steps: schedule.map(step),
  });
  const report = (name: string, content: object) => {
    const path = join(folder, name);
    writeFileSync(path, JSON.stringify({ program: "p", exhausted: false, counterexamples: [], ...content }));
    return path;
  };
  const long = counterexample("lost", ["a", "b", "a"]);
  const short = counterexample("lost", ["a", "b"]);
  const other = counterexample("twice", ["a", "b", "b", "b"]);
  const one = report("one.json", { runs: 7, counterexamples: [other, long] });
  const two = report("two.json", { runs: 5, counterexamples: [short] });
  const clean = report("clean.json", { runs: 100 });

  test.each([[[one, two, clean]], [[clean, two, one]]])(
    "runs in all, the smallest of each reason",
    async (paths) => {
      const { code, text } = await explore("--merge", ...paths, "--format", "json");
      expect(code).toBe(1);
      expect(JSON.parse(text)).toEqual({
        program: "p",
        runs: 112,
        exhausted: false,
        counterexamples: [short, other],
      });
    },
  );

  test("as text: each of them", async () => {
    const { text } = await explore("--merge", one, two);
    expect(text).toBe(
      [
        "p: lost",
        "  1  a  step",
        "  2  b  step",
        'schedule: ["a","b"]',
        "",
        "p: twice",
        "  1  a  step",
        "  2  b  step",
        "  3  b  step",
        "  4  b  step",
        'schedule: ["a","b","b","b"]',
        "found after 12 runs",
      ].join("\n"),
    );
  });

  test("as a picture: the smallest", async () => {
    const { text } = await explore("--merge", one, two, "--format", "mermaid");
    expect(text.match(/Note over k: .*/g)).toEqual(["Note over k: lost"]);
  });

  test("nothing found: the exit code is 0", async () => {
    const { code, warnings } = await explore("--merge", clean, clean);
    expect([code, warnings]).toEqual([0, "p: nothing goes wrong in 200 runs"]);
  });

  test("what shards print is merged, and merged again", async () => {
    const shards = await Promise.all(
      [1, 2].map((i) => explore(mended, "--runs", "9", "--shard", `${i}/2`, "--format", "json")),
    );
    const paths = shards.map(({ code, text }, i) => {
      expect(code).toBe(0);
      return report(`shard-${i}.json`, JSON.parse(text) as object);
    });
    const merged = await explore("--merge", ...paths, "--format", "json");
    const again = await explore("--merge", report("merged.json", JSON.parse(merged.text) as object));
    expect([again.code, again.warnings]).toEqual([0, "lost update: nothing goes wrong in 9 runs"]);
  });

  test.each([
    ["another program", { program: "q", runs: 1 }, 'reports of two programs: "p" and "q"'],
    ["no runs", {}, "is no report"],
    [
      "a counterexample without steps",
      { runs: 1, counterexamples: [{ ...short, steps: 1 }] },
      "is no report",
    ],
  ])("%s is refused", async (_, content, message) => {
    const { code, warnings } = await explore("--merge", one, report("bad.json", content));
    expect(code).toBe(2);
    expect(warnings).toContain(message);
  });

  test("a file that is not there, or no JSON, is refused", async () => {
    expect((await explore("--merge", join(folder, "nowhere.json"))).code).toBe(2);
    expect((await explore("--merge", broken)).code).toBe(2);
  });

  test("a module and reports at once, or neither, is refused", async () => {
    for (const args of [[], [broken, "--merge", one]]) {
      const { code, warnings } = await explore(...args);
      expect([code, warnings]).toEqual([2, "fake-kvm: explore takes a module, or reports to --merge"]);
    }
  });
});

test.each([
  [["broken.mjs", "--jobs", "0"], "--jobs 1 is the least"],
  [["broken.mjs", "--jobs", "2", "--strategy", "exhaustive"], "has no shards"],
  [["empty.mjs"], "exports no `program`"],
  [["missing.mjs"], "missing.mjs"],
  [["broken.mjs", "--strategy", "luck"], "no strategy"],
  [["broken.mjs", "--strategy", "pct:x"], "is not a number"],
  [["broken.mjs", "--format", "gif"], "no format"],
  [["broken.mjs", "--replay", "{}"], "a list of names"],
  [["broken.mjs", "--shard", "5/4"], "is no shard"],
  [["broken.mjs", "--strategy", "exhaustive", "--shard", "1/4"], "has no shards"],
])("%j is refused", async ([file, ...options], message) => {
  const { code, warnings } = await explore(join(folder, file), ...options);
  expect(code).toBe(2);
  expect(warnings).toContain(message);
});
