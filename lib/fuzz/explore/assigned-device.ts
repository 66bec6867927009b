/**
 * A PCI device on a host with VFIO, opened: what VMM code that is explored does its VFIO calls on. The device has INTx
 * (pin A), one MSI message that cannot be masked, and MSI-X.
 */
import { toHex } from "../../abi/hex.ts";
import { store32 } from "../../abi/struct.ts";
import {
  VFIO_DEVICE_SET_IRQS,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_SET_IOMMU,
  VFIO_TYPE1_IOMMU,
  VfioIrqSet,
} from "../../abi/vfio.ts";
import type { PciDevice } from "../../hardware/pci-device.ts";
import { pciImage } from "../../hardware/pci-image.ts";
import type { HostIrqs } from "../../kernel/irq.ts";
import type { Process } from "../../kernel/process.ts";
import { defaultProfile } from "../../machine/default-profile.ts";
import type { Machine } from "../../machine/machine.ts";
import type { Profile } from "../../machine/profile.ts";
import type { Calls, Thread } from "./thread.ts";

const ADDRESS = "0000:00:05.0";
const GROUP = 1;
const PCI_COMMAND_MEMORY_MASTER = 0x106;
const BAR = { index: 0, size: 1 << 16, type: "mem", wide: false, prefetchable: false } as const;

/** A host with the device: the default profile with an IOMMU in front of it; `host`: more facts about it. */
export function hostWithDevice(vectors: number, host: Readonly<Record<string, unknown>> = {}): Profile {
  const config = pciImage({
    pin: 1,
    bars: [BAR],
    capabilities: [
      { kind: "msi", vectors: 1, wide: true },
      { kind: "msix", vectors, table: [0, 0], pending: [0, 0x8000] },
    ],
  });
  const listed = { bdf: ADDRESS, vendor: "0x1af4", device: "0x10ff", class: "0x00ff00", group: GROUP };
  const described = {
    ...listed,
    irq: 20,
    bars: [{ index: 0, size: BAR.size, type: "mem", "64bit": false, prefetchable: false }],
    config: toHex(config),
  };
  return {
    ...defaultProfile,
    host: {
      iommu: "amd",
      intremap: true,
      cpus: 1,
      modules: ["vfio"],
      ...host,
    },
    devices: [described],
    pci: [listed],
  };
}

/** An assigned PCI device with its two sides: hardware, and the VFIO descriptor of the VMM. */
export class AssignedDevice {
  readonly process: Process;
  /** descriptor of the device */
  readonly fd: number;
  readonly pci: PciDevice;
  readonly irqs: HostIrqs;

  constructor(machine: Machine, process: Process) {
    this.process = process;
    const container = process.open("/dev/vfio/vfio", 2);
    const group = process.open(`/dev/vfio/${GROUP}`, 2);
    const argument = new Uint8Array(4);
    store32(argument, 0, container);
    process.ioctl(group, VFIO_GROUP_SET_CONTAINER, argument);
    process.ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU);
    this.fd = process.ioctl(group, VFIO_GROUP_GET_DEVICE_FD, new TextEncoder().encode(`${ADDRESS}\0`));
    this.pci = machine.pci!.device(ADDRESS);
    this.irqs = machine.pci!.irqs;
    this.pci.writeConfig(4, 2, PCI_COMMAND_MEMORY_MASTER);
  }

  /** VFIO_DEVICE_SET_IRQS with ACTION_TRIGGER: eventfds for vectors from `start` on, −1 for none. */
  trigger(calls: Calls, index: number, start: number, fds: readonly number[]): Thread<number> {
    const bytes = irqSet(index, VFIO_IRQ_SET_DATA_EVENTFD, start, fds.length, 4 * fds.length);
    fds.forEach((fd, i) => {
      store32(bytes, VfioIrqSet.size + 4 * i, fd);
    });
    return calls.ioctl(this.fd, VFIO_DEVICE_SET_IRQS, bytes);
  }

  /** The same with DATA_NONE: with count 0 the index is turned off, with more their eventfds are signalled. */
  triggerNone(calls: Calls, index: number, start: number, count: number): Thread<number> {
    return calls.ioctl(this.fd, VFIO_DEVICE_SET_IRQS, irqSet(index, VFIO_IRQ_SET_DATA_NONE, start, count, 0));
  }
}

function irqSet(index: number, data: number, start: number, count: number, extra: number): Uint8Array {
  const bytes = new Uint8Array(VfioIrqSet.size + extra);
  const head = VfioIrqSet.at(bytes, 0);
  head.argsz = bytes.length;
  head.flags = data | VFIO_IRQ_SET_ACTION_TRIGGER;
  head.index = index;
  head.start = start;
  head.count = count;
  return bytes;
}
