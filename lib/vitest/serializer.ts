/**
 * Snapshots that read: a struct as strace prints it (`{gsi=24, flags=0}`), a trace or a recording as its calls, one a
 * line. For `expect.addSnapshotSerializer`.
 */
import { toHex } from "../abi/hex.ts";
import type { TraceHeader, TraceLine } from "../trace/format.ts";
import { printNumber } from "../trace/layout.ts";
import { Strace } from "../trace/strace.ts";

/** a header for recordings, which have none yet */
const SOME_HEADER: TraceHeader = {
  format: "kvm-vfio-trace",
  version: 1,
  kernel: "",
  arch: "x86_64",
  kvm: null,
  host: {},
};
const PADDING = /^(pad|padding|reserved)\d*$/;

/** A trace, or what has been recorded so far. */
export interface Recorded {
  readonly header?: TraceHeader;
  readonly lines: readonly TraceLine[];
}

const isStruct = (value: unknown): value is object =>
  typeof value === "object" &&
  value !== null &&
  "structAt" in value &&
  "bytes" in value &&
  value.bytes instanceof Uint8Array;

const isRecorded = (value: unknown): value is Recorded =>
  typeof value === "object" &&
  value !== null &&
  "lines" in value &&
  Array.isArray(value.lines) &&
  value.lines.length !== 0 &&
  value.lines.every((line) => typeof line?.call === "string" && typeof line.n === "number");

/** Members of unions that a field before the union chooses: of a route by `type`, of a chip by `chip_id`. */
const chosenBy: readonly [union: string, by: string, members: readonly (string | undefined)[]][] = [
  ["u", "type", [undefined, "irqchip", "msi", "adapter", "hv_sint", "xen_evtchn"]],
  ["chip", "chip_id", ["pic", "pic", "ioapic"]],
];

/** The one member that counts, where there is one. */
function memberOf(view: object, name: string): string | undefined {
  const values = view as Record<string, unknown>;
  for (const [union, by, members] of chosenBy) {
    const member = name === union && typeof values[by] === "number" ? members[values[by]] : undefined;
    if (member !== undefined && isStruct(values[name]) && member in values[name]) return member;
  }
  return undefined;
}

/** A struct view in words; padding that is zero is left out, and so are members of a union that do not count. */
export function printStruct(view: object, only?: string): string {
  const fields = Object.getOwnPropertyDescriptors(Object.getPrototypeOf(view));
  const parts: string[] = [];
  for (const name in fields) {
    if (only !== undefined && name !== only) continue;
    if (fields[name].get === undefined) continue;
    // the halves of a 64-bit field
    if (/(Lo|Hi)$/.test(name) && name.slice(0, -2) in fields) continue;
    const value = (view as Record<string, unknown>)[name];
    const member = memberOf(view, name);
    const printed = member === undefined ? printValue(value) : printStruct(value as object, member);
    if (PADDING.test(name) && /^[0[\], ]*$/.test(printed)) continue;
    parts.push(`${name}=${printed}`);
  }
  return `{${parts.join(", ")}}`;
}

function printValue(value: unknown): string {
  if (typeof value === "number" || typeof value === "bigint") return printNumber(value);
  if (value instanceof Uint8Array) return value.every((byte) => byte === 0) ? "0" : `"${toHex(value)}"`;
  if (Array.isArray(value)) return `[${value.map(printValue).join(", ")}]`;
  if (isStruct(value)) return printStruct(value);
  if (typeof value === "object" && value !== null)
    return `{${Object.entries(value)
      .map(([name, inner]) => `${name}=${printValue(inner)}`)
      .join(", ")}}`;
  return String(value);
}

/** A trace in words. */
export function printTrace({ header = SOME_HEADER, lines }: Recorded): string {
  const strace = new Strace(header);
  return lines.map((line) => strace.line(line)).join("\n");
}

/** For `expect.addSnapshotSerializer`: structs and recordings. */
export const serializer = {
  test: (value: unknown): boolean => isStruct(value) || isRecorded(value),
  serialize: (value: unknown): string =>
    isStruct(value) ? printStruct(value) : printTrace(value as Recorded),
};
