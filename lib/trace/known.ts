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

/** From the text of the list. */
export function knownCalls(source: string): KnownCall[] {
  const list = JSON.parse(source) as readonly Record<string, unknown>[];
  const calls = list.filter((entry) => "trace" in entry);
  for (const { trace, call, reason } of calls)
    if (typeof trace !== "string" || typeof call !== "number" || typeof reason !== "string" || reason === "")
      throw new TypeError(
        `a known difference needs "trace", "call" and "reason": ${JSON.stringify({ trace, call, reason })}`,
      );
  return calls as unknown as KnownCall[];
}
