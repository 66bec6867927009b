/**
 * Calls of a trace that are meant to differ, each with its reason: entries `{"trace", "call", "reason"}` of
 * fixtures/known-differences.json, with the scenario of the trace and the number of the call. Entries of other kinds in
 * the same list are for others.
 */
export interface KnownCall {
  readonly trace: string;
  readonly call: number;
  readonly reason: string;
}

/** The entries of a list of differences that are meant to be, of all kinds. Throws where it is no list of objects. */
export function knownEntries(source: string): Record<string, unknown>[] {
  const list: unknown = JSON.parse(source);
  if (!Array.isArray(list) || list.some((entry) => typeof entry !== "object" || entry === null))
    throw new TypeError("known differences are a list of objects");
  return list;
}

/** From the text of the list. */
export function knownCalls(source: string): KnownCall[] {
  const calls = knownEntries(source).filter((entry) => "trace" in entry);
  for (const { trace, call, reason } of calls)
    if (typeof trace !== "string" || typeof call !== "number" || typeof reason !== "string" || reason === "")
      throw new TypeError(
        `a known difference needs "trace", "call" and "reason": ${JSON.stringify({ trace, call, reason })}`,
      );
  return calls as unknown as KnownCall[];
}
