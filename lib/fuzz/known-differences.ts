/**
 * Differences that are meant to be, each with its reason: a list of {"call", "what", "reason"}, where `what` is part of
 * the words that a difference is told in. Entries with a "trace" are about replays.
 */
import { knownEntries } from "../trace/known.ts";
import type { Difference } from "./differential.ts";

interface Known {
  readonly call: string;
  readonly what: string;
  readonly reason: string;
}

/** From the text of the list: the reason by which a difference is known, if it is. */
export function knownDifferences(source: string): (difference: Difference) => string | undefined {
  const list = knownEntries(source).filter((entry) => !("trace" in entry)) as unknown as Known[];
  for (const entry of list)
    for (const key of ["call", "what", "reason"] as const)
      if (typeof entry[key] !== "string" || entry[key] === "")
        throw new TypeError(`a known difference needs "${key}": ${JSON.stringify(entry)}`);
  return ({ call, what }) => list.find((entry) => entry.call === call && what.includes(entry.what))?.reason;
}
