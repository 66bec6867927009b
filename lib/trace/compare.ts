/**
 * What differs between two answers, in words. "the kernel" is the recorded one; what stands before it is ours.
 */
import { errnoName, errnoNumbers } from "../abi/errno.ts";
import type { VolatileRange } from "./format.ts";
import { fieldAt, type Layout } from "./layout.ts";

/** Other names of a number, which recorders use too. */
const aliases: Record<string, string> = {
  ENOTSUP: "EOPNOTSUPP",
  EWOULDBLOCK: "EAGAIN",
  EDEADLOCK: "EDEADLK",
};

/** The number that stands for an errno name of a trace; one that is not known here still compares unequal to all. */
export const errnoOf = (name: string): number =>
  (errnoNumbers as Record<string, number>)[aliases[name] ?? name] ?? Number.POSITIVE_INFINITY;

/** How a result prints: `0`, `7`, `EINVAL`. */
export const answer = (result: number): string => (result < 0 ? errnoName(-result) : String(result));

/** Compares a result with the recorded one: a number, or −1 with an errno name. */
export function compareResult(
  result: number,
  ret: number,
  errno: string | undefined,
  what = "answered",
): string | undefined {
  const recorded = errno === undefined ? ret : -errnoOf(errno);
  if (result === recorded) return undefined;
  return `${what} ${answer(result)}, the kernel answered ${errno ?? ret}`;
}

/** Whether a byte is in a range that differs from run to run. */
export const isVolatile = (ranges: readonly VolatileRange[] | undefined, at: number): boolean =>
  ranges?.some(([start, length]) => at >= start && at < start + length) ?? false;

const hex = (bytes: Uint8Array, from: number, to: number): string => {
  let digits = "";
  for (let i = from; i < to; i++) digits += bytes[i].toString(16).padStart(2, "0");
  return digits;
};

/** A number beside one that is printed as hex is printed so, too. */
const inBaseOf = (other: string, text: string): string =>
  other.startsWith("0x") && /^\d+$/.test(text) ? `0x${BigInt(text).toString(16)}` : text;

/** How many differing places are told one by one. */
const TOLD = 3;

/**
 * Compares bytes, volatile ranges excepted: `out: gsi is 5, the kernel says 4`. Where a layout is known, the field is
 * named; else the offset.
 */
export function compareBytes(
  name: string,
  ours: Uint8Array,
  recorded: Uint8Array,
  ranges?: readonly VolatileRange[],
  layout?: Layout,
): string | undefined {
  if (ours.length !== recorded.length)
    return `${name} has ${ours.length} bytes, the kernel's has ${recorded.length}`;
  const places: string[] = [];
  let more = 0;
  for (let at = 0; at < ours.length; at++) {
    if (ours[at] === recorded[at] || isVolatile(ranges, at)) continue;
    const field = layout && fieldAt(layout, recorded, at);
    const end = field === undefined ? endOfRun(ours, recorded, at, ranges) : field.at + field.size;
    if (places.length === TOLD) more++;
    else if (field !== undefined) {
      const [is, says] = [field.print(ours), field.print(recorded)];
      places.push(`${field.name} is ${inBaseOf(says, is)}, the kernel says ${inBaseOf(is, says)}`);
    } else places.push(`at ${at} is ${hex(ours, at, end)}, the kernel says ${hex(recorded, at, end)}`);
    at = end - 1;
  }
  if (places.length === 0) return undefined;
  return `${name}: ${places.join(", ")}${more === 0 ? "" : `, and ${more} more`}`;
}

/** Where a run of differing bytes ends; at most 8 of them are told. */
function endOfRun(
  ours: Uint8Array,
  recorded: Uint8Array,
  from: number,
  ranges: readonly VolatileRange[] | undefined,
): number {
  let end = from + 1;
  while (end < from + 8 && end < ours.length && ours[end] !== recorded[end] && !isVolatile(ranges, end))
    end++;
  return end;
}
