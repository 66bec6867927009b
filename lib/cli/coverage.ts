/**
 * `fake-kvm coverage`: every request that the kernel headers declare, on every kind of file that knows it somewhere,
 * and what becomes of it here, per architecture:
 *
 * - implemented: a dispatch table of that kind of file has it, or its list of answered requests where the dispatch is no
 *   table (VFIO, device files, epoll; specs hold lists and answers together); nothing else counts;
 * - answered as absent: the kernel of this architecture does not know it on such a file either, and there is a machine
 *   of this architecture that refuses it, or the request needs something that no profile has (`withoutIt`);
 * - not yet: everything else.
 */
import { type FileKind, isRequest, type Request } from "../abi/ioctl.ts";
import { KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR, KVM_SET_DEVICE_ATTR } from "../abi/kvm.ts";
import * as legacy from "../abi/kvm-legacy.ts";
import * as s390 from "../abi/kvm-s390.ts";
import { EPIOCGPARAMS, EPIOCSPARAMS } from "../abi/poll.ts";
import { type Arch, architectures, numberOn, requestList, requestsOf } from "../abi/requests.ts";
import { systemIoctls } from "../kvm/system.ts";
import { vcpuIoctls } from "../kvm/vcpu.ts";
import { vmIoctls } from "../kvm/vm-ioctls.ts";
import { architectures as machines } from "../machine/machine.ts";
import { answeredRequests, spaprRequests } from "../vfio/requests.ts";
import type { Output } from "./output.ts";
import { type Column, drawTable } from "./table.ts";

export type State = "implemented" | "answered as absent" | "not yet";

/** One request on one kind of file. */
export interface Covered {
  name: string;
  on: FileKind;
  states: Record<Arch, State>;
  /** why no host here knows it */
  reason?: string;
}

/** The dispatch tables of an architecture, by kind of file; none where there is no machine of it. */
function tablesOf(arch: Arch): Partial<Record<FileKind, ReadonlyMap<number, unknown>>> | undefined {
  const kvm = machines[arch];
  if (kvm === undefined) return undefined;
  const listed: Partial<Record<FileKind, readonly Request[]>> = {
    ...answeredRequests,
    "vfio-container": [
      ...(answeredRequests["vfio-container"] ?? []),
      ...(arch === "ppc64le" ? spaprRequests : []),
    ],
    device: [KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR],
    epoll: [EPIOCGPARAMS, EPIOCSPARAMS],
  };
  const lists = Object.entries(listed).map(([kind, requests]) => [
    kind,
    new Map(requests.map((request) => [numberOn(arch, request), request])),
  ]);
  return {
    ...Object.fromEntries(lists),
    system: systemIoctls(kvm),
    vm: vmIoctls(kvm),
    vcpu: vcpuIoctls(kvm),
  };
}

/**
 * Requests that a kernel knows only with something that no host here has: they answer as a kernel without it does, and on
 * x86 as the live 6.18 does (spec/contract/kvm-requests).
 */
const withoutIt: readonly [names: RegExp, reason: string][] = [
  [/^KVM_XEN_/, "KVM_CAP_XEN_HVM is 0"],
  [/^KVM_HYPERV_EVENTFD$|^KVM_GET_SUPPORTED_HV_CPUID$/, "KVM_CAP_HYPERV_CPUID is 0"],
  [/^KVM_[GS]ET_NESTED_STATE$/, "KVM_CAP_NESTED_STATE is 0"],
  [/^KVM_SET_MEMORY_ATTRIBUTES$/, "KVM_CAP_MEMORY_ATTRIBUTES is 0"],
  [/^KVM_GET_NR_MMU_PAGES$/, "gone from newer kernels"],
  [/^KVM_PPC_GET_COMPAT_CAPS$/, "newer than the POWER kernels that were asked"],
  [/^VFIO_DEVICE_(QUERY_GFX_PLANE|GET_GFX_DMABUF)$/, "no device with a display"],
  [/^VFIO_MIG_/, "no device that migrates"],
  [/^VFIO_IOMMU_(ENABLE|DISABLE)$/, "SPAPR TCE only"],
];

const reasons: readonly [ReadonlySet<unknown>, string][] = [
  [new Set(Object.values(legacy).filter(isRequest)), "retired before 6.1"],
  [new Set(Object.values(s390).filter(isRequest)), "s390 only"],
];

/** The kinds of file that a declaration names, wherever it is known. */
export const kindsOf = ({ on }: Request): readonly FileKind[] =>
  on === undefined ? [] : typeof on === "string" ? [on] : on;

/** Dispatch tables hold numbers as signed integers (kvm/dispatch.ts), lists as they are. */
const has = (table: ReadonlyMap<number, unknown> | undefined, number: number): boolean =>
  table !== undefined && (table.has(number) || table.has(number | 0));

/** What becomes of a request on a kind of file. */
function stateOn(arch: Arch): (name: string, kind: FileKind) => State {
  const tables = tablesOf(arch);
  const own = new Map(requestList(arch).map((named) => [named.name, named]));
  return (name, kind) => {
    const named = own.get(name);
    if (named !== undefined && has(tables?.[kind], named.number)) return "implemented";
    const known = (named?.on.includes(kind) ?? false) && !withoutIt.some(([names]) => names.test(name));
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
        const reason =
          reasons.find(([requests]) => requests.has(request))?.[1] ??
          withoutIt.find(([names]) => names.test(name))?.[1];
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
