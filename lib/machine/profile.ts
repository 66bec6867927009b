/**
 * A host described by data: architecture, release, flavour, capabilities, facts about its processor, devices. The
 * header of a trace is such a description; `profileFromHeader` takes it as it is.
 */
import type { HostFacts } from "../kvm/host.ts";
import type { IrqchipProposal } from "../kvm/irqchip-type.ts";
import { completed } from "./builtin.ts";
import { factsOf, type HeaderFacts } from "./facts.ts";

/** An architecture, as headers of traces call it. */
export type ArchName = "x86_64" | "arm64" | "ppc64le" | "riscv64";

/** A host as data: architecture, release, flavour of KVM, capabilities, facts, devices. */
export interface Profile {
  readonly arch: ArchName;
  /** "6.18" */
  readonly release: string;
  /** "pvm", "svm", "vhe", "pr", …; null where there is no KVM */
  readonly flavour: string | null;
  /** KVM_CHECK_EXTENSION by number; a number that is missing answers 0 */
  readonly systemCapabilities: ReadonlyMap<number, number>;
  readonly vmCapabilities: ReadonlyMap<number, number>;
  readonly vcpuMmapSize: number;
  readonly pageSize: number;
  /** KVM_SET_IRQCHIP_TYPE, which no release has: what KVM_RUN does before the announced controller exists */
  readonly irqchipProposal?: IrqchipProposal;
  /** MSI-X of devices that KVM assigns can grow while it is on, which no release has */
  readonly growingMsix?: boolean;
  readonly facts: HostFacts;
  /** the machine around KVM: IOMMU, interrupt remapping, processors */
  readonly host: Readonly<Record<string, unknown>>;
  readonly devices: readonly unknown[];
  readonly pci: readonly unknown[];
}

/** What `profileFromHeader` reads of a trace's header. */
export interface ProfileHeader {
  arch: string;
  kernel: string;
  kvm?: string | null;
  capabilities?: { system?: Record<string, number>; vm?: Record<string, number> };
  vcpuMmapSize?: number;
  page_size?: number;
  host?: Record<string, unknown>;
  devices?: readonly unknown[];
  pci?: readonly unknown[];
  facts?: HeaderFacts;
}

/**
 * Pages of a vCPU's mapping: kvm_run; on x86 the data of port accesses; coalesced writes, where the host knows them
 * (virt/kvm/kvm_main.c:kvm_dev_ioctl, 6.1).
 */
function vcpuPages(header: ProfileHeader): number {
  if (header.arch === "x86_64") return 3;
  return header.arch === "ppc64le" && header.kvm === "hv" ? 1 : 2;
}

/** The host that a trace was recorded on; one that does not say what its KVM offers is completed from the library. */
export function profileFromHeader(given: ProfileHeader): Profile {
  const header = completed(given);
  const capabilities = (values: Record<string, number> | undefined) =>
    new Map(Object.entries(values ?? {}).map(([number, value]) => [Number(number), value]));
  return {
    arch: header.arch as ArchName,
    release: header.kernel,
    flavour: header.kvm ?? null,
    systemCapabilities: capabilities(header.capabilities?.system),
    vmCapabilities: capabilities(header.capabilities?.vm),
    vcpuMmapSize: header.vcpuMmapSize ?? vcpuPages(header) * (header.page_size ?? 4096),
    pageSize: header.page_size ?? 4096,
    facts: factsOf(header.arch, header.kernel, header.kvm ?? null, header.facts),
    host: header.host ?? {},
    devices: header.devices ?? [],
    pci: header.pci ?? [],
  };
}
