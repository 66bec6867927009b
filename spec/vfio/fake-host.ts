/** A host with scripted devices: what a spec of VFIO's outer half needs. */
import { store32 } from "../../lib/abi/struct.ts";
import { VFIO_GROUP_GET_DEVICE_FD, VFIO_GROUP_SET_CONTAINER, VFIO_SET_IOMMU } from "../../lib/abi/vfio.ts";
import { Kernel } from "../../lib/kernel/kernel.ts";
import { Process } from "../../lib/kernel/process.ts";
import { behaviourOf } from "../../lib/machine/behaviours.ts";
import { ContainerFile } from "../../lib/vfio/container.ts";
import { DeviceFile } from "../../lib/vfio/device-file.ts";
import { VfioHost, type VfioHostOptions } from "../../lib/vfio/host.ts";
import { IommufdFile } from "../../lib/vfio/iommufd.ts";
import { VfioDevice } from "../../lib/vfio/vfio-device.ts";

/** A device that counts what the outer half does to it. */
export class ScriptedDevice extends VfioDevice {
  opened = 0;
  closed = 0;
  requested = 0;
  /** what open() answers */
  answer = 0;

  override open(): number {
    if (this.answer === 0) this.opened++;
    return this.answer;
  }
  override close(): void {
    this.closed++;
  }
  override request(): void {
    this.requested++;
  }
  override ioctl(): number {
    return 77;
  }
  override read(): number {
    return 1;
  }
  override write(): number {
    return 2;
  }
  override mmap() {
    return { bytes: new Uint8Array(4096) };
  }
}

export const A = "0000:00:01.0";
export const B = "0000:00:02.0";
export const B2 = "0000:00:02.1";
/** the root port above B, and a function of another group that no driver is known for */
export const PORT = "0000:00:02.7";
export const OTHER = "0000:00:03.0";

const pci = (bdf: string, group: number, driver?: string) => ({
  bdf,
  vendor: "0x1234",
  device: "0x5678",
  class: "0x020000",
  group,
  ...(driver === undefined ? {} : { driver }),
});

/** Groups 1 (A) and 2 (B, B2 and a port) belong to vfio-pci, group 3 to nobody. */
export function fakeHost(release = "6.12", options: Partial<VfioHostOptions> = {}): VfioHost {
  const behaviour = behaviourOf(release);
  return new VfioHost({
    kernel: new Kernel({ behaviour }),
    arch: "x86_64",
    release,
    iommu: { kind: "intel", interruptRemapping: true, cpus: 1 },
    behaviour,
    pci: [pci(A, 1), pci(B, 2), pci(B2, 2), pci(PORT, 2, "pcieport"), pci(OTHER, 3)],
    devices: [pci(A, 1), pci(B, 2), pci(B2, 2)],
    iommufd: true,
    createDevice: (host, pciFunction, group, index) => new ScriptedDevice(host, pciFunction, group, index),
    ...options,
  });
}

export const deviceAt = (host: VfioHost, address: string): ScriptedDevice =>
  host.functions.get(address)!.vfio as ScriptedDevice;

/** A process whose /dev/vfio is this host's. */
export function processOn(host: VfioHost): Process {
  const { nodes } = host.kernel;
  nodes.set("/dev/vfio/vfio", (_process, flags) => ContainerFile.open(host, flags));
  nodes.set("/dev/vfio/", (_process, flags, path) => host.openGroup(path.slice(10), flags));
  nodes.set("/dev/iommu", (_process, flags) => IommufdFile.open(host, flags));
  nodes.set("/dev/vfio/devices/", (_process, flags, path) =>
    DeviceFile.openCharacterDevice(
      host.deviceByIndex(Number(path.slice("/dev/vfio/devices/vfio".length)))!,
      flags,
    ),
  );
  return new Process(host.kernel);
}

/** The bytes of one int. */
export function int(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  store32(bytes, 0, value);
  return bytes;
}

export const cString = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`);

/** A container with an IOMMU of `type`, and the group files put into it. */
export function container(process: Process, type: number, ...groups: string[]) {
  const fd = process.open("/dev/vfio/vfio", 2);
  const groupFds = groups.map((name) => process.open(`/dev/vfio/${name}`, 2));
  for (const group of groupFds) process.ioctl(group, VFIO_GROUP_SET_CONTAINER, int(fd));
  const answer = process.ioctl(fd, VFIO_SET_IOMMU, type);
  return { fd, groups: groupFds, answer };
}

export const openDevice = (process: Process, group: number, name: string): number =>
  process.ioctl(group, VFIO_GROUP_GET_DEVICE_FD, cString(name));
