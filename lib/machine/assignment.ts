/** The PCI devices of a host as KVM's own assignment sees them; releases from 4.12 on have none of it. */
import type { Assignment } from "../kvm/assigned-device.ts";
import { resetFunction } from "../vfio/function-reset.ts";
import type { PciDescription } from "../vfio/host.ts";
import { releaseAtLeast } from "./behaviours.ts";
import type { MachinePci } from "./pci.ts";
import type { Profile } from "./profile.ts";

/** Drivers that hold a function without using it. */
const placeholders = new Set([undefined, null, "pci-stub", "vfio-pci"]);

export function createAssignment(profile: Profile, pci: MachinePci): Assignment | undefined {
  if (profile.arch !== "x86_64" || releaseAtLeast(profile.release, "4.12")) return undefined;
  const listed = [...profile.pci, ...profile.devices] as readonly PciDescription[];
  const driven = listed.filter(({ driver }) => !placeholders.has(driver));
  return {
    irqs: pci.irqs,
    iommu: profile.host.iommu === "intel" || profile.host.iommu === "amd",
    find(segment, bus, devfn) {
      const address = `${hex(segment, 4)}:${hex(bus, 2)}:${hex(devfn >>> 3, 2)}.${devfn & 7}`;
      return listed.some(({ bdf }) => bdf === address) ? pci.device(address) : undefined;
    },
    reset: (device) => void resetFunction(device, pci.irqs),
    taken: new Set(driven.map(({ bdf }) => pci.device(bdf))),
    growingMsix: profile.growingMsix,
  };
}

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, "0");
