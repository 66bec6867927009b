/** The capability matrix of x86, cell by cell, from the fake and from the real kernel. */
import { describe, expect } from "vitest";
import { ask, requests } from "../../lib/examples/capability-matrix.ts";
import { profiles, stages } from "../../lib/examples/matrix-hosts.ts";
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
});
