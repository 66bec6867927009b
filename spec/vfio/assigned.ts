/** A machine with one PCI device, opened through a container: what a spec of VFIO's inner half needs. */
import { store32 } from "../../lib/abi/struct.ts";
import {
  VFIO_DEVICE_SET_IRQS,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_SET_IOMMU,
  VfioIrqSet,
} from "../../lib/abi/vfio.ts";
import type { PciBar, PciDevice } from "../../lib/hardware/pci-device.ts";
import { type PciImage, pciImage } from "../../lib/hardware/pci-image.ts";
import type { Process } from "../../lib/kernel/process.ts";
import type { Policy } from "../../lib/kernel/work-queue.ts";
import { defaultProfile } from "../../lib/machine/default-profile.ts";
import { Machine } from "../../lib/machine/machine.ts";
import type { ModelFactory } from "../../lib/machine/pci.ts";
import type { Profile } from "../../lib/machine/profile.ts";

export const NONE = 1;
export const BOOL = 2;
export const EVENTFD = 4;
export const MASK = 8;
export const UNMASK = 16;
export const TRIGGER = 32;
export const INTX = 0;
export const MSI = 1;
export const MSIX = 2;
export const ERR = 3;
export const REQ = 4;

export const ADDRESS = "0000:00:05.0";
/** Region i starts here in the device's file. */
export const region = (index: number): number => index * 2 ** 40;
export const CONFIG = region(7);

export interface Options {
  image: PciImage;
  release?: string;
  rom?: number;
  resets?: readonly string[];
  /** "amd", "intel", null */
  iommu?: string | null;
  cpus?: number;
  host?: Record<string, unknown>;
  model?: ModelFactory;
  policy?: Policy;
  /** more functions beside it, each with its IOMMU group */
  beside?: readonly {
    bdf: string;
    group: number;
    vendor?: string;
    device?: string;
    class?: string;
    given?: boolean;
  }[];
  address?: string;
}

export class Assigned {
  readonly machine: Machine;
  readonly process: Process;
  readonly container: number;
  readonly group: number;
  readonly fd: number;
  readonly device: PciDevice;

  constructor(options: Options) {
    const { image, release = "6.12", iommu = "intel", cpus = 1, address = ADDRESS } = options;
    const bars = image.bars ?? [];
    const config = pciImage({ vendor: 0x1234, ...image });
    const beside = options.beside ?? [];
    const describe = (bdf: string, group: number) => ({
      bdf,
      vendor: "0x1234",
      device: "0x10ff",
      class: "0x00ff00",
      group,
      bars: bars.map(({ index, size, type, wide, prefetchable }: PciBar) => ({
        index,
        size,
        type,
        "64bit": wide,
        prefetchable,
      })),
      rom: options.rom ?? 0,
      reset_methods: options.resets ?? [],
      config: Buffer.from(config).toString("hex"),
    });
    const profile: Profile = {
      ...defaultProfile,
      release,
      host: { iommu, intremap: iommu !== null, cpus, modules: ["vfio"], ...options.host },
      devices: [
        describe(address, 1),
        ...beside.filter(({ given }) => given).map(({ bdf, group }) => describe(bdf, group)),
      ],
      pci: [
        { bdf: address, vendor: "0x1234", device: "0x10ff", class: "0x00ff00", group: 1 },
        ...beside.map((each) => ({ vendor: "0x1234", device: "0x10ff", class: "0x00ff00", ...each })),
      ],
    };
    const models = options.model === undefined ? new Map() : new Map([["0x1234:0x10ff", options.model]]);
    this.machine = new Machine(profile, { models, ...(options.policy && { policy: options.policy }) });
    this.process = this.machine.process();
    this.container = this.process.open("/dev/vfio/vfio", 2);
    this.group = this.process.open("/dev/vfio/1", 2);
    const argument = new Uint8Array(4);
    store32(argument, 0, this.container);
    this.process.ioctl(this.group, VFIO_GROUP_SET_CONTAINER, argument);
    this.process.ioctl(this.container, VFIO_SET_IOMMU, 1);
    this.fd = this.open(address);
    this.device = this.machine.pci!.device(address);
  }

  /** Opens the device (again): a descriptor, or −errno. */
  open(address = ADDRESS): number {
    return this.process.ioctl(this.group, VFIO_GROUP_GET_DEVICE_FD, new TextEncoder().encode(`${address}\0`));
  }

  get irqs() {
    return this.machine.pci!.irqs;
  }

  /** VFIO_DEVICE_SET_IRQS; argsz is right unless given. */
  setIrqs(
    index: number,
    flags: number,
    start: number,
    count: number,
    data: readonly number[] = [],
    argsz?: number,
  ) {
    const size = (flags & EVENTFD) !== 0 ? 4 : (flags & BOOL) !== 0 ? 1 : 0;
    const bytes = new Uint8Array(VfioIrqSet.size + size * data.length);
    const head = VfioIrqSet.at(bytes, 0);
    head.argsz = argsz ?? bytes.length;
    head.flags = flags;
    head.index = index;
    head.start = start;
    head.count = count;
    data.forEach((value, i) => {
      if (size === 4) store32(bytes, VfioIrqSet.size + 4 * i, value);
      else bytes[VfioIrqSet.size + i] = value;
    });
    return this.process.ioctl(this.fd, VFIO_DEVICE_SET_IRQS, bytes);
  }

  eventfd(): number {
    return this.process.eventfd2(0, 0x800);
  }

  /** Reads an eventfd: its count, 0 if it was not signalled. */
  count(fd: number): number {
    const bytes = new Uint8Array(8);
    return this.process.read(fd, bytes) === 8 ? Number(new DataView(bytes.buffer).getBigUint64(0, true)) : 0;
  }

  read(offset: number, count: number): number[] | number {
    const bytes = new Uint8Array(count);
    const result = this.process.pread(this.fd, bytes, count, offset);
    return result < 0 ? result : [...bytes.subarray(0, result)];
  }

  write(offset: number, bytes: readonly number[]): number {
    return this.process.pwrite(this.fd, Uint8Array.from(bytes), bytes.length, offset);
  }
}
