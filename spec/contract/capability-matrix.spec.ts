/** The capability matrix of x86, cell by cell, from the fake and from the real kernel, and programs of its requests. */
import fc from "fast-check";
import { describe, expect } from "vitest";
import { ask, requests } from "../../lib/examples/capability-matrix.ts";
import { profiles, stages } from "../../lib/examples/matrix-hosts.ts";
import { programs, rowOf, run, twin } from "../examples/matrix-programs.ts";
import { agreement, contract, named } from "./contract.ts";

describe.each(profiles.filter(({ name }) => name.startsWith("x86")))("$name", (profile) => {
  contract("the first run is one", (process) => {
    expect(profile.reach(process, "after the first run").ran).toBe(0);
  });

  agreement("what every request answers at every stage", (process) =>
    Object.fromEntries(
      requests.flatMap((request) =>
        stages.map((stage) => [`${request}, ${stage}`, named(ask(process, profile, request, stage))]),
      ),
    ),
  );

  contract("programs of routes and irqfds see what the row says", (process) => {
    const stage = "after the first run";
    const row = rowOf(profile, stage);
    fc.assert(
      fc.property(programs, (program) => {
        expect(run(profile, stage, program, process)).toEqual(twin(row, program));
      }),
      { numRuns: 15 },
    );
  });
});
