/**
 * Every request of an architecture by number. A number alone does not name a request: VFIO's device and container
 * share numbers (0x3b70 is VFIO_DEVICE_GET_PCI_HOT_RESET_INFO on one and VFIO_IOMMU_GET_INFO on the other), so the kind
 * of file decides; POWER's container shares them with the type 1 IOMMU, so the architecture's own request goes first.
 *
 * Requests of kvm-s390.ts and kvm-legacy.ts are found too, after all others: a printer wants their names.
 */
import type { Encoding, FileKind, Request } from "./ioctl.ts";
import { isRequest } from "./ioctl.ts";
import * as iommufd from "./iommufd.ts";
import * as kvm from "./kvm.ts";
import * as arm64 from "./kvm-arm64.ts";
import * as legacy from "./kvm-legacy.ts";
import * as ppc from "./kvm-ppc.ts";
import * as riscv from "./kvm-riscv.ts";
import * as s390 from "./kvm-s390.ts";
import * as x86 from "./kvm-x86.ts";
import * as poll from "./poll.ts";
import * as vfio from "./vfio.ts";
import * as spapr from "./vfio-spapr.ts";

export type Arch = "x86_64" | "arm64" | "ppc64le" | "riscv64";
export const architectures: readonly Arch[] = ["x86_64", "arm64", "ppc64le", "riscv64"];

type Module = Readonly<Record<string, unknown>>;
const own: Record<Arch, readonly Module[]> = {
  x86_64: [x86],
  arm64: [arm64],
  ppc64le: [ppc, spapr],
  riscv64: [riscv],
};
const shared: readonly Module[] = [kvm, vfio, iommufd, poll, s390, legacy];

export interface NamedRequest {
  /** the name in the C header */
  readonly name: string;
  readonly request: Request;
  /** the kinds of file that know it */
  readonly on: readonly FileKind[];
  /** its number on this architecture */
  readonly number: number;
}

/** How an architecture packs a request number. */
export const encodingOf = (arch: Arch): Encoding => (arch === "ppc64le" ? "powerpc" : "generic");

/** The number of a request on an architecture. */
export const numberOn = (arch: Arch, request: Request): number =>
  encodingOf(arch) === "powerpc" ? request.powerpc : request.number;

function list(arch: Arch): NamedRequest[] {
  const found = new Map<Request, NamedRequest>();
  for (const module of [...own[arch], ...shared])
    // a retired request has two names; the one with underscores is the lesser
    for (const [name, request] of Object.entries(module))
      if (isRequest(request) && !(found.has(request) && name.startsWith("__")))
        found.set(request, {
          name,
          request,
          on: request.on === undefined ? [] : typeof request.on === "string" ? [request.on] : request.on,
          number: numberOn(arch, request),
        });
  return [...found.values()];
}

const lists = new Map<Arch, readonly NamedRequest[]>();
const maps = new Map<Arch, ReadonlyMap<number, readonly NamedRequest[]>>();

/** Every request of an architecture. */
export function requestList(arch: Arch): readonly NamedRequest[] {
  let result = lists.get(arch);
  if (result === undefined) {
    result = list(arch);
    lists.set(arch, result);
  }
  return result;
}

/** Every request of an architecture by number; several where a number means different things on different files. */
export function requestsOf(arch: Arch): ReadonlyMap<number, readonly NamedRequest[]> {
  let map = maps.get(arch);
  if (map === undefined) {
    const made = new Map<number, NamedRequest[]>();
    for (const named of requestList(arch)) {
      const others = made.get(named.number);
      if (others === undefined) made.set(named.number, [named]);
      else others.push(named);
    }
    map = made;
    maps.set(arch, map);
  }
  return map;
}

/** The request that a number means on a kind of file; without a kind, the first one of that number. */
export function findRequest(arch: Arch, number: number, on?: FileKind): NamedRequest | undefined {
  const found = requestsOf(arch).get(number >>> 0);
  return on === undefined ? found?.[0] : found?.find((named) => named.on.includes(on));
}

/** The request of a C name on an architecture. */
export const requestNamed = (arch: Arch, name: string): NamedRequest | undefined =>
  requestList(arch).find((named) => named.name === name);
