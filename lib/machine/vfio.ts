/** VFIO on a machine: its host from the profile, its nodes under /dev. */
import { ENOENT } from "../abi/errno.ts";
import type { Kernel } from "../kernel/kernel.ts";
import { ContainerFile } from "../vfio/container.ts";
import { pciVfioDevices } from "../vfio/device.ts";
import { DeviceFile } from "../vfio/device-file.ts";
import {
  type IommuDescription,
  type ModuleOptions,
  type PciDescription,
  type VfioBehaviour,
  type VfioDeviceDescription,
  VfioHost,
} from "../vfio/host.ts";
import { IommufdFile } from "../vfio/iommufd.ts";
import { knownHost } from "./known-hosts.ts";
import type { MachinePci } from "./pci.ts";
import type { Profile } from "./profile.ts";

/** Whether the profile's host has VFIO at all. */
export const hasVfio = (profile: Profile): boolean =>
  profile.devices.length !== 0 || hasModule(profile, "vfio");

const hasModule = ({ host }: Profile, name: string): boolean =>
  Array.isArray(host.modules) && host.modules.includes(name);

/** VFIO as the profile describes it, with its nodes; undefined for a host without it. */
export function createVfio(
  profile: Profile,
  kernel: Kernel,
  behaviour: VfioBehaviour,
  pci: MachinePci | undefined,
): VfioHost | undefined {
  const known = knownHost(profile);
  if ((known === undefined && !hasVfio(profile)) || pci === undefined) return undefined;
  const host = new VfioHost({
    kernel,
    arch: profile.arch,
    release: profile.release,
    iommu: known?.iommu ?? iommuOf(profile),
    behaviour,
    pci: profile.pci as readonly PciDescription[],
    devices: known?.devices ?? (profile.devices as readonly VfioDeviceDescription[]),
    modules: moduleOptions(profile),
    iommufd: hasModule(profile, "iommufd"),
    createDevice: pciVfioDevices(pci),
  });
  kernel.nodes.set("/dev/vfio/vfio", (_process, flags) => ContainerFile.open(host, flags));
  kernel.nodes.set("/dev/vfio/", (_process, flags, path) =>
    host.openGroup(path.slice("/dev/vfio/".length), flags),
  );
  if (!host.iommufd) return host;
  kernel.nodes.set("/dev/iommu", (_process, flags) => IommufdFile.open(host, flags));
  kernel.nodes.set("/dev/vfio/devices/", (_process, flags, path) => {
    const index = /\/vfio(\d+)$/.exec(path)?.[1];
    const device = index === undefined ? undefined : host.deviceByIndex(Number(index));
    if (device === undefined) return -ENOENT;
    return DeviceFile.openCharacterDevice(device, flags);
  });
  return host;
}

function iommuOf({ host }: Profile): IommuDescription {
  return {
    kind: (host.iommu ?? null) as IommuDescription["kind"],
    interruptRemapping: host.intremap === true,
    cacheCoherent: host.iommu === "amd",
    cpus: typeof host.cpus === "number" ? host.cpus : 1,
  };
}

/** The options as sysfs shows them: "Y", "N", a number. */
function moduleOptions({ host }: Profile): Partial<ModuleOptions> {
  const shown = { ...asRecord(host.vfio_iommu_type1), ...asRecord(host.vfio_params) };
  const options: Record<string, boolean | number> = {};
  for (const [name, value] of Object.entries(shown))
    options[name] = value === "Y" ? true : value === "N" ? false : Number(value);
  return options;
}

const asRecord = (value: unknown): Record<string, unknown> =>
  typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
