/**
 * The capability matrix: every cell from a run, equal to the expected table, and equal to every recorded answer to the same
 * question. Who says so is checked too: a call that a cell cites is looked up, and a cell that cites none has none.
 */
import { describe, expect, test } from "vitest";
import { ask, print, requests, shown } from "../../lib/examples/capability-matrix.ts";
import { fakeOf, profiles, stages } from "../../lib/examples/matrix-hosts.ts";
import { builtinHosts } from "../../lib/machine/builtin.ts";
import { expected } from "./expected-matrix.ts";
import { type RecordedAnswer, recordedAnswers } from "./recorded-answers.ts";

const recorded = recordedAnswers();

/** Cells as [profile, request, stage, answer, by]. */
const cells = profiles.flatMap((profile) =>
  requests.flatMap((request) =>
    stages.map((stage, column) => {
      const [answer, by] = expected[request][profile.name][column].split(" ");
      return { profile, request, stage, answer, by };
    }),
  ),
);

test("the table is whole", () => {
  expect(cells).toHaveLength(8 * 7 * 4);
  for (const request of requests)
    expect(Object.keys(expected[request])).toEqual(profiles.map(({ name }) => name));
});

describe.each(profiles)("$name", (profile) => {
  const own = cells.filter((cell) => cell.profile === profile);

  test("the first run is one", () => {
    expect(profile.reach(fakeOf(profile), "after the first run").ran).toBe(0);
  });

  test.each(own)("$request, $stage: $answer", ({ request, stage, answer }) => {
    expect(shown(ask(fakeOf(profile), profile, request, stage))).toBe(answer);
  });
});

describe("who says so", () => {
  const answersTo = ({ profile, request, stage }: (typeof cells)[number]): readonly RecordedAnswer[] =>
    recorded.get(`${profile.name}, ${request}, ${stage}`) ?? [];

  test("the call that a cell cites asks the cell's question, and has its answer", () => {
    for (const cell of cells.filter(({ by }) => by.includes("#"))) {
      const [trace, call] = cell.by.split("#");
      const answers = answersTo(cell).filter(
        (answer) => answer.trace === trace && answer.call === Number(call),
      );
      expect([cell.by, ...answers.map(({ answer }) => answer)]).toEqual([cell.by, cell.answer]);
    }
  });

  test("every recorded answer to the question of a cell is the cell's", () => {
    const others = cells.flatMap((cell) => answersTo(cell).filter(({ answer }) => answer !== cell.answer));
    expect(others).toEqual([]);
  });

  test("a cell that cites no call has none", () => {
    const cited = cells.filter((cell) => !cell.by.includes("#") && answersTo(cell).length > 0);
    expect(cited).toEqual([]);
  });

  test("the live kernel is asked about x86 alone", () => {
    const wrong = cells.filter(({ by, profile }) => by === "live" && !profile.name.startsWith("x86"));
    expect(wrong).toEqual([]);
  });
});

describe("other releases answer the same", () => {
  const others: [profile: string, hosts: readonly string[]][] = [
    ["POWER HV", ["ppc64le_6_1_pseries"]],
    ["ARM v2", ["arm64_6_1_gicv2", "arm64_7_2_gicv2"]],
    ["ARM v3", ["arm64_6_1_gicv3", "arm64_7_2_gicv3"]],
    ["ARM v3+ITS", ["arm64_6_1_gicv3", "arm64_7_2_gicv3"]],
  ];
  const rows = others.flatMap(([name, hosts]) => hosts.map((host) => ({ name, host })));

  test.each(rows)("$name on $host", ({ name, host }) => {
    expect(Object.keys(builtinHosts)).toContain(host);
    const different = cells
      .filter(({ profile }) => profile.name === name)
      .map((cell) => ({
        cell,
        run: shown(ask(fakeOf(cell.profile, host), cell.profile, cell.request, cell.stage)),
      }))
      .filter(({ cell, run }) => run !== cell.answer)
      .map(({ cell, run }) => `${cell.request}, ${cell.stage}: ${run}`);
    expect(different).toEqual([]);
  });
});

test("a table has a line for each profile, and every answer", () => {
  const lines = print("KVM_IRQ_LINE").split("\n");
  expect(lines).toHaveLength(2 + profiles.length);
  expect(lines.at(-1)).toBe("ARM v3+ITS    ENXIO               EBUSY    0            0");
});
