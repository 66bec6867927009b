/**
 * One program under two profiles differs only where the matrix says so. The cells of the matrix are the recorded ones
 * (expected-matrix.ts), not what the run at hand answers.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { shown } from "../../lib/examples/capability-matrix.ts";
import { type MatrixProfile, profiles, type Stage, stages } from "../../lib/examples/matrix-hosts.ts";
import {
  type MatrixRow,
  type Op,
  type Outcome,
  programs,
  requestOf,
  rowOf,
  run,
  twin,
} from "./matrix-programs.ts";

const RUNNING: Stage = "after the first run";

const stagesOf = profiles.flatMap((profile) =>
  stages.map((stage) => ({ profile, name: profile.name, stage })),
);

test.each(stagesOf)(
  "$name, $stage: a program sees what the row says, and nothing else",
  ({ profile, stage }) => {
    const row = rowOf(profile, stage);
    fc.assert(
      fc.property(programs, (program) => {
        const { answers, came } = twin(row, program);
        expect(run(profile, stage, program)).toEqual({ answers, came: stage === RUNNING ? came : [] });
      }),
      { numRuns: stage === RUNNING ? 100 : 25 },
    );
  },
);

const pairs = profiles.flatMap((a, i) =>
  profiles.slice(i + 1).map((b) => ({ a, b, pair: `${a.name} and ${b.name}` })),
);

/** Requests that a program makes, and whose cells two rows have different. */
const differing = (a: MatrixRow, b: MatrixRow) =>
  Object.values(requestOf).filter((request) => a[request] !== b[request]);

describe.each(pairs)("$pair", ({ a, b }) => {
  const [rowA, rowB] = [rowOf(a, RUNNING), rowOf(b, RUNNING)];
  const cells = differing(rowA, rowB);

  test("without the steps whose cells differ, nothing differs but where messages lead", () => {
    const messagesLeadElsewhere = cells.includes("KVM_SET_GSI_ROUTING") || cells.includes("KVM_SIGNAL_MSI");
    fc.assert(
      fc.property(programs, (program) => {
        const common = program.filter((op) => !cells.includes(requestOf[op.do] as (typeof cells)[number]));
        const [ofA, ofB] = [run(a, RUNNING, common), run(b, RUNNING, common)];
        expect(ofA.answers).toEqual(ofB.answers);
        if (!messagesLeadElsewhere) expect(ofA.came).toEqual(ofB.came);
      }),
      { numRuns: 25 },
    );
  });
});

/** The smallest program that two profiles answer differently, and the first cell that explains it. */
function smallest(
  a: MatrixProfile,
  b: MatrixProfile,
): { program: Op[]; ofA: Outcome; ofB: Outcome } | undefined {
  const same = (program: Op[]): boolean =>
    JSON.stringify(run(a, RUNNING, program)) === JSON.stringify(run(b, RUNNING, program));
  const result = fc.check(fc.property(programs, same), { numRuns: 80, seed: 7 });
  if (!result.failed) return undefined;
  const [program] = result.counterexample!;
  return { program, ofA: run(a, RUNNING, program), ofB: run(b, RUNNING, program) };
}

test("two profiles are told apart by a program if and only if their cells differ, and by one step in such a cell", {
  timeout: 30_000,
}, () => {
  const rows = pairs.map(({ a, b, pair }) => {
    const found = smallest(a, b);
    const cells = differing(rowOf(a, RUNNING), rowOf(b, RUNNING));
    if (found === undefined) {
      expect([pair, cells]).toEqual([pair, []]);
      return `${pair}: no difference`;
    }
    const { program, ofA, ofB } = found;
    const step = program.findIndex((_, i) => ofA.answers[i] !== ofB.answers[i]);
    const request = requestOf[program[step].do];
    expect([pair, program.length, cells.includes(request as (typeof cells)[number])]).toEqual([
      pair,
      1,
      true,
    ]);
    return `${pair}: ${JSON.stringify(program[step])}: ${shown(ofA.answers[step])}, ${shown(ofB.answers[step])}`;
  });
  expect(rows.filter((row) => row.endsWith("no difference"))).toEqual([
    "x86 full and ARM v3+ITS: no difference",
    "POWER HV and POWER PR: no difference",
    "ARM v2 and ARM v3: no difference",
  ]);
});
