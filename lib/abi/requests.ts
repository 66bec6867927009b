/**
 * Every request of an architecture by number. A number alone does not name a request: VFIO's device and container
 * share numbers (0x3b70 is VFIO_DEVICE_GET_PCI_HOT_RESET_INFO on one and VFIO_IOMMU_GET_INFO on the other), so the kind
 * of file decides; POWER's container shares them with the type 1 IOMMU, so the architecture's own request goes first.
 *
 * Requests of kvm-s390.ts, kvm-legacy.ts and of the other architectures are found by number too, after all others: a
 * printer wants their names, and programs do make them, to see them refused. No file knows them.
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
const shared: readonly Module[] = [kvm, vfio, iommufd, poll];
const refused: readonly Module[] = [s390, legacy, x86, arm64, ppc, spapr, riscv];

const attr = (...on: FileKind[]): Record<string, readonly FileKind[]> => ({
  KVM_SET_DEVICE_ATTR: on.filter((kind) => kind !== "system"),
  KVM_GET_DEVICE_ATTR: on,
  KVM_HAS_DEVICE_ATTR: on,
});
/** Where an architecture knows a shared request on fewer kinds of file (arch/…/kvm and its Kconfig, 6.1; traces). */
const narrower: Record<Arch, Record<string, readonly FileKind[]>> = {
  x86_64: attr("device", "vcpu", "system"),
  arm64: {
    ...attr("device", "vm", "vcpu"),
    KVM_GET_DEVICE_ATTR: ["device", "vcpu"],
    KVM_ENABLE_CAP: ["vm"],
    KVM_INTERRUPT: [],
    KVM_PRE_FAULT_MEMORY: [],
  },
  // book3s: neither MSI routes nor coalesced MMIO, and the interrupt controllers are devices
  ppc64le: {
    ...attr("device"),
    KVM_CREATE_IRQCHIP: [],
    KVM_SET_GSI_ROUTING: [],
    KVM_SIGNAL_MSI: [],
    KVM_REGISTER_COALESCED_MMIO: [],
    KVM_UNREGISTER_COALESCED_MMIO: [],
    KVM_GET_REG_LIST: [],
    KVM_CLEAR_DIRTY_LOG: [],
    KVM_GET_MP_STATE: [],
    KVM_CREATE_GUEST_MEMFD: [],
    KVM_PRE_FAULT_MEMORY: [],
    // an e500's, and a POWER 970's until 3.19
    KVM_DIRTY_TLB: [],
    KVM_ALLOCATE_RMA: [],
  },
  riscv64: { ...attr("device"), KVM_ENABLE_CAP: ["vm"], KVM_CREATE_IRQCHIP: [] },
};

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

/** A retired request has two names; the one with underscores is the lesser. */
function collect(arch: Arch, modules: readonly Module[], foreign: boolean): NamedRequest[] {
  const found = new Map<Request, NamedRequest>();
  for (const module of modules)
    for (const [name, request] of Object.entries(module))
      if (isRequest(request) && !(found.has(request) && name.startsWith("__"))) {
        const kinds = typeof request.on === "string" ? [request.on] : (request.on ?? []);
        const on = foreign ? [] : (narrower[arch][name] ?? kinds);
        found.set(request, { name, request, on, number: numberOn(arch, request) });
      }
  return [...found.values()];
}

const lists = new Map<Arch, readonly NamedRequest[]>();
const maps = new Map<Arch, ReadonlyMap<number, readonly NamedRequest[]>>();

/** Every request of an architecture; retired ones and those of other architectures are not among them. */
export function requestList(arch: Arch): readonly NamedRequest[] {
  let result = lists.get(arch);
  if (result === undefined) {
    result = collect(arch, [...own[arch], ...shared], false);
    lists.set(arch, result);
  }
  return result;
}

/** Every request of an architecture by number; several where a number means different things on different files. */
export function requestsOf(arch: Arch): ReadonlyMap<number, readonly NamedRequest[]> {
  let map = maps.get(arch);
  if (map === undefined) {
    const made = new Map<number, NamedRequest[]>();
    for (const named of [...requestList(arch), ...collect(arch, refused, true)]) {
      const others = made.get(named.number);
      if (others === undefined) made.set(named.number, [named]);
      else if (!others.some(({ name }) => name === named.name)) others.push(named);
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

/** The request of a C name on an architecture, its own or one that it refuses. */
export function requestNamed(arch: Arch, name: string): NamedRequest | undefined {
  const mine = requestList(arch).find((named) => named.name === name);
  if (mine !== undefined) return mine;
  for (const list of requestsOf(arch).values())
    for (const named of list) if (named.name === name) return named;
  return undefined;
}
