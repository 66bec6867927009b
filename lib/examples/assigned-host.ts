/** A host with one PCI device that can be given away: three MSI-X vectors, INTx, and the resets that are asked for. */
import { toHex } from "../abi/hex.ts";
import type { PciDevice, ResetMethod } from "../hardware/pci-device.ts";
import { pciImage } from "../hardware/pci-image.ts";
import type { Process } from "../kernel/process.ts";
import type { Policy } from "../kernel/work-queue.ts";
import { Machine } from "../machine/machine.ts";
import { type Profile, type ProfileHeader, profileFromHeader } from "../machine/profile.ts";
import { x86_64_3_7 } from "../machine/profiles/x86_64-3.7.ts";
import { x86_64_6_18_pvm } from "../machine/profiles/x86_64-6.18-pvm.ts";

export const ADDRESS = "0000:00:05.0";
export const DEVFN = 5 << 3;
export const GROUP = 1;
export const VECTORS = 3;

export interface AssignedHostOptions {
  /** "3.7": KVM's own assignment; "6.1" and "6.12": VFIO */
  readonly release: "3.7" | "6.1" | "6.12";
  readonly policy?: Policy;
  readonly resets?: readonly ResetMethod[];
  readonly growingMsix?: boolean;
  readonly iommu?: "intel" | "amd" | null;
  /** false: an IOMMU that does not remap interrupts */
  readonly remapping?: boolean;
}

/** A function of a host's bus as a profile describes it. */
export interface DeviceOptions {
  readonly address: string;
  readonly device: number;
  readonly group: number;
  /** pin of the host's interrupt controllers */
  readonly irq: number;
  /** bytes of BAR 0 */
  readonly size: number;
  /** vectors; the table lies in the second half of BAR 0 */
  readonly msix?: number;
  readonly resets?: readonly ResetMethod[];
}

export function describeDevice({ address, device, group, irq, size, msix, resets = [] }: DeviceOptions) {
  const bar = { index: 0, size, type: "mem", wide: false, prefetchable: false } as const;
  const table = size / 2;
  const config = pciImage({
    vendor: 0x1af4,
    device,
    pin: 1,
    bars: [bar],
    capabilities: [
      ...(msix === undefined
        ? []
        : [
            {
              kind: "msix" as const,
              vectors: msix,
              table: [0, table] as [number, number],
              pending: [0, table + size / 4] as [number, number],
            },
          ]),
      { kind: "pm" },
      { kind: "exp", flr: resets.includes("flr") },
    ],
  });
  return {
    bdf: address,
    vendor: "0x1af4",
    device: `0x${device.toString(16)}`,
    class: "0x00ff00",
    group,
    driver: "vfio-pci",
    config: toHex(config),
    config_size: config.length,
    bars: [{ ...bar, "64bit": false }],
    reset_methods: resets,
    irq,
    vfio_dev: `vfio${group}`,
  };
}

const profiles = new Map<string, Profile>();

/** The profile for these options, made once. */
export function assignedProfile(options: AssignedHostOptions): Profile {
  const { policy: _, ...description } = options;
  const key = JSON.stringify(description);
  let profile = profiles.get(key);
  if (profile === undefined) profiles.set(key, (profile = makeProfile(description)));
  return profile;
}

function makeProfile({
  release,
  resets = ["flr"],
  growingMsix,
  iommu,
  remapping = true,
}: AssignedHostOptions): Profile {
  const base: ProfileHeader = release === "3.7" ? x86_64_3_7 : { ...x86_64_6_18_pvm, kernel: release };
  const host = { cpus: 2, iommu: "intel", intremap: true, modules: ["vfio"], ...base.host };
  const device = describeDevice({
    address: ADDRESS,
    device: 0x10ff,
    group: GROUP,
    irq: 20,
    size: 8192,
    msix: VECTORS,
    resets,
  });
  const profile = profileFromHeader({
    ...base,
    host: iommu === undefined ? host : { ...host, iommu, intremap: remapping && iommu !== null },
    devices: [device],
    pci: [device],
  });
  return growingMsix === true ? { ...profile, growingMsix } : profile;
}

export class AssignedHost {
  readonly machine: Machine;
  readonly process: Process;

  constructor(options: AssignedHostOptions) {
    this.machine = new Machine(assignedProfile(options), options.policy ? { policy: options.policy } : {});
    this.process = this.machine.process();
  }

  /** The device itself. */
  get device(): PciDevice {
    return this.machine.pci!.device(ADDRESS);
  }
}
