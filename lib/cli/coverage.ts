/**
 * `fake-kvm coverage`: every request that the kernel headers declare, on every kind of file that knows it somewhere,
 * and what becomes of it here, per architecture:
 *
 * - implemented: a dispatch table of that kind of file has it; nothing else counts;
 * - answered as absent: the kernel of this architecture does not know it on such a file either, and there is a machine
 *   of this architecture that refuses it;
 * - not yet: everything else.
 *
 * Missing: the requests of device files, whose dispatch is no table yet; they show as not yet.
 */
import { type FileKind, isRequest, type Request } from "../abi/ioctl.ts";
import * as legacy from "../abi/kvm-legacy.ts";
import * as s390 from "../abi/kvm-s390.ts";
import { type Arch, architectures, requestList, requestsOf } from "../abi/requests.ts";
import { systemIoctls } from "../kvm/system.ts";
import { vcpuIoctls } from "../kvm/vcpu.ts";
import { vmIoctls } from "../kvm/vm-ioctls.ts";
import { architectures as machines } from "../machine/machine.ts";
import type { Output } from "./output.ts";
import { type Column, drawTable } from "./table.ts";

export type State = "implemented" | "answered as absent" | "not yet";

/** One request on one kind of file. */
export interface Covered {
  name: string;
  on: FileKind;
  states: Record<Arch, State>;
  /** why no architecture here knows it */
  reason?: string;
}

/** The dispatch tables of an architecture, by kind of file; none where there is no machine of it. */
function tablesOf(arch: Arch): Partial<Record<FileKind, ReadonlyMap<number, unknown>>> | undefined {
  const kvm = machines[arch];
  if (kvm === undefined) return undefined;
  return { system: systemIoctls(kvm), vm: vmIoctls(kvm), vcpu: vcpuIoctls(kvm) };
}

const reasons: readonly [ReadonlySet<unknown>, string][] = [
  [new Set(Object.values(legacy).filter(isRequest)), "retired before 6.1"],
  [new Set(Object.values(s390).filter(isRequest)), "s390 only"],
];

/** The kinds of file that a declaration names, wherever it is known. */
export const kindsOf = ({ on }: Request): readonly FileKind[] =>
  on === undefined ? [] : typeof on === "string" ? [on] : on;

/** What becomes of a request on a kind of file. */
function stateOn(arch: Arch): (name: string, kind: FileKind) => State {
  const tables = tablesOf(arch);
  const own = new Map(requestList(arch).map((named) => [named.name, named]));
  return (name, kind) => {
    const named = own.get(name);
    if (named !== undefined && tables?.[kind]?.has(named.number)) return "implemented";
    const known = named?.on.includes(kind) ?? false;
    return known || tables === undefined ? "not yet" : "answered as absent";
  };
}

/** Every request of the headers, in the order of the architectures and their headers. */
export function coverage(): Covered[] {
  const found = new Map<string, Pick<Covered, "name" | "on" | "reason">>();
  for (const arch of architectures)
    for (const { name, request } of [...requestsOf(arch).values()].flat())
      for (const on of kindsOf(request)) {
        if (found.has(`${name} ${on}`)) continue;
        const reason = reasons.find(([requests]) => requests.has(request))?.[1];
        found.set(`${name} ${on}`, { name, on, ...(reason !== undefined && { reason }) });
      }
  const states = architectures.map((arch) => [arch, stateOn(arch)] as const);
  return [...found.values()].map((row) => ({
    ...row,
    states: Object.fromEntries(
      states.map(([arch, state]) => [arch, state(row.name, row.on)]),
    ) as Covered["states"],
  }));
}

const marks: Record<State, string> = { implemented: "yes", "answered as absent": "absent", "not yet": "-" };

/** Prints the list; the exit code is 0. */
export function coverageCommand(options: { json?: boolean }, output: Output): number {
  const rows = coverage();
  if (options.json) {
    output.print(JSON.stringify(rows, null, 1));
    return 0;
  }
  const { dim, green } = output.colors;
  const paint = (cell: string): string => (cell === marks.implemented ? green(cell) : dim(cell));
  const columns: Column[] = [
    { heading: "request", narrowest: 14 },
    { heading: "file" },
    ...architectures.map((arch) => ({ heading: arch, paint })),
    { heading: "why", narrowest: 3 },
  ];
  const cells = rows.map((row) => [
    row.name,
    row.on,
    ...architectures.map((arch) => marks[row.states[arch]]),
    row.reason ?? "",
  ]);
  output.print(drawTable(columns, cells, [columns.length - 1, 0], output));
  for (const arch of architectures) {
    const states = rows.map((row) => row.states[arch]);
    const count = (state: State): number => states.filter((other) => other === state).length;
    output.print(
      `${arch}: ${states.length} request–file pairs, ${count("implemented")} implemented, ${count("answered as absent")} answered as absent, ${count("not yet")} not yet`,
    );
  }
  return 0;
}
