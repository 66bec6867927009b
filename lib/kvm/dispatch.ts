/**
 * From a request number to its handler: one table per kind of file and architecture, made once. POWER encodes numbers
 * differently, so a table is built for one encoding.
 */
import type { Encoding, Request } from "../abi/ioctl.ts";
import type { Argument } from "../kernel/argument.ts";
import type { Process } from "../kernel/process.ts";

/** Answers a request on a file: a result ≥ 0, or −errno. */
export type Handler<F> = (file: F, user: Argument, process: Process) => number;
export type Entry<F> = readonly [Request, Handler<F>];
/** By the number as a signed integer: one of 32 bits is no object for V8, 10 ns less than unsigned (measured). */
export type Table<F> = ReadonlyMap<number, Handler<F>>;

/** A table of the entries; a later entry replaces an earlier one of the same number. */
export function table<F>(encoding: Encoding, ...entries: readonly Entry<F>[]): Table<F> {
  const result = new Map<number, Handler<F>>();
  for (const [request, handler] of entries)
    result.set((encoding === "powerpc" ? request.powerpc : request.number) | 0, handler);
  return result;
}

/** What answers a request; undefined: nobody. */
export const handlerOf = <F>(table: Table<F>, request: number): Handler<F> | undefined =>
  table.get(request | 0);
