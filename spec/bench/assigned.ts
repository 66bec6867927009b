/** A host with PCI devices behind an IOMMU, one of them opened through VFIO, and what is measured of it. */
import { KVM_IRQFD, KVM_SET_GSI_ROUTING, KvmIrqfd } from "../../lib/abi/kvm.ts";
import { store32 } from "../../lib/abi/struct.ts";
import {
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VfioIrqSet,
} from "../../lib/abi/vfio.ts";
import type { PciDevice } from "../../lib/hardware/pci-device.ts";
import { pciImage } from "../../lib/hardware/pci-image.ts";
import type { Process } from "../../lib/kernel/process.ts";
import { defaultProfile } from "../../lib/machine/default-profile.ts";
import { Machine } from "../../lib/machine/machine.ts";
import type { Profile } from "../../lib/machine/profile.ts";
import { Direct, now } from "../../lib/vmm/co.ts";
import { openVfioDevice } from "../../lib/vmm/vfio-pci.ts";
import { routes, vmWithLapic } from "./operations.ts";

const VECTORS = 64;
const COMMAND = 4;
const MEMORY_AND_MASTER = 6;
const REGION_SHIFT = 2 ** 40;
const bar = { index: 0, size: 1 << 16, type: "mem", wide: false, prefetchable: false } as const;
const config = Array.from(
  pciImage({
    pin: 1,
    bars: [bar],
    capabilities: [{ kind: "msix", vectors: VECTORS, table: [0, 0], pending: [0, 0x8000] }],
  }),
  (byte) => byte.toString(16).padStart(2, "0"),
).join("");

const addressOf = (n: number): string => `0000:${hex(n >> 5)}:${hex(n & 31)}.0`;
const hex = (value: number): string => value.toString(16).padStart(2, "0");

/** A host with so many devices, each in its own group. */
export function hostWith(devices: number): Profile {
  const described = Array.from({ length: devices }, (_, n) => ({
    bdf: addressOf(n),
    vendor: "0x1af4",
    device: "0x10ff",
    class: "0x00ff00",
    group: n + 1,
    irq: 20,
    bars: [{ ...bar, "64bit": false }],
    config,
  }));
  const host = { iommu: "intel", intremap: true, cpus: 4, modules: ["vfio"] };
  return { ...defaultProfile, host, devices: described, pci: described };
}

/** SET_IRQS with ACTION_TRIGGER on MSI-X: eventfds for the vectors from 0 on; none: off. */
function irqSet(fds: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(VfioIrqSet.size + 4 * fds.length);
  const flags =
    VFIO_IRQ_SET_ACTION_TRIGGER | (fds.length === 0 ? VFIO_IRQ_SET_DATA_NONE : VFIO_IRQ_SET_DATA_EVENTFD);
  const index = VFIO_PCI_MSIX_IRQ_INDEX;
  bytes.set(VfioIrqSet.encode({ argsz: bytes.length, flags, index, start: 0, count: fds.length }));
  fds.forEach((fd, i) => {
    store32(bytes, VfioIrqSet.size + 4 * i, fd);
  });
  return bytes;
}

/** Only the fake can be measured: a real device would have to be taken from the host. */
export interface FakeBenchmark {
  readonly name: string;
  /** system calls in one run of the function, where one is not what is reported */
  readonly calls?: number;
  prepare(): () => unknown;
}

/** A host with n devices, the last one opened. */
function opened(n = 1): { linux: Process; fd: number; device: PciDevice } {
  const machine = new Machine(hostWith(n));
  const linux = machine.process();
  const address = addressOf(n - 1);
  const fd = now(openVfioDevice(new Direct(linux), n, address));
  if (fd < 0) throw new Error(`VFIO_GROUP_GET_DEVICE_FD: ${fd}`);
  const at = VFIO_PCI_CONFIG_REGION_INDEX * REGION_SHIFT + COMMAND;
  linux.pwrite(fd, Uint8Array.of(MEMORY_AND_MASTER, 0), 2, at);
  return { linux, fd, device: machine.pci!.device(address) };
}

/** Raises the first vector of the last of n devices: it goes by an eventfd and an irqfd into a LAPIC. */
export function interrupt(n = 1): () => unknown {
  const { linux, fd, device } = opened(n);
  const { vm } = vmWithLapic(linux);
  linux.ioctl(vm, KVM_SET_GSI_ROUTING, routes(1, 24));
  const eventfd = linux.eventfd2(0, 0);
  linux.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd: eventfd, gsi: 24 }));
  linux.ioctl(fd, VFIO_DEVICE_SET_IRQS, irqSet([eventfd]));
  return () => device.msix!.raise(0);
}

const enableAndDisable = (vectors: number): FakeBenchmark => ({
  name: `VFIO_DEVICE_SET_IRQS, ${vectors} vector${vectors === 1 ? "" : "s"}, on and off`,
  prepare() {
    const { linux, fd } = opened();
    const on = irqSet(Array.from({ length: vectors }, () => linux.eventfd2(0, 0)));
    const off = irqSet([]);
    if (linux.ioctl(fd, VFIO_DEVICE_SET_IRQS, on) !== 0) throw new Error("SET_IRQS was refused");
    linux.ioctl(fd, VFIO_DEVICE_SET_IRQS, off);
    return () => {
      linux.ioctl(fd, VFIO_DEVICE_SET_IRQS, on);
      return linux.ioctl(fd, VFIO_DEVICE_SET_IRQS, off);
    };
  },
});

export const assignedBenchmarks: readonly FakeBenchmark[] = [
  enableAndDisable(1),
  enableAndDisable(VECTORS),
  {
    name: "device interrupt → eventfd → irqfd → LAPIC IRR",
    prepare: interrupt,
  },
  {
    name: "VFIO: read of 4 bytes of configuration space",
    prepare() {
      const { linux, fd } = opened();
      const word = new Uint8Array(4);
      const at = VFIO_PCI_CONFIG_REGION_INDEX * REGION_SHIFT;
      return () => linux.pread(fd, word, 4, at);
    },
  },
  {
    name: "a host with 100 PCI devices is made",
    prepare() {
      const profile = hostWith(100);
      return () => new Machine(profile);
    },
  },
];
