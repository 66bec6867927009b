/**
 * A PCI device through VFIO: container, group, device, and its interrupts on eventfds that irqfds take into the VM.
 *
 * VFIO_DEVICE_SET_IRQS: argsz u32 @0, flags u32 @4, index u32 @8, start u32 @12, count u32 @16, then a descriptor of 32
 * bits for each vector, −1 for none.
 */
import { O_RDWR } from "../abi/fcntl.ts";
import { store32 } from "../abi/struct.ts";
import {
  VFIO_DEVICE_SET_IRQS,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_SET_IOMMU,
  VFIO_TYPE1v2_IOMMU,
  VfioIrqSet,
} from "../abi/vfio.ts";
import type { Co, Linux } from "./co.ts";
import type { Irqchip } from "./irqchip.ts";
import type { HostMsix } from "./pci-assign.ts";
import type { Message } from "./route-table.ts";

/** Opens a device of a group in a container of its own: its descriptor, or −errno. */
export function* openVfioDevice(linux: Linux, group: number, address: string): Co<number> {
  const container = yield* linux.open("/dev/vfio/vfio", O_RDWR);
  if (container < 0) return container;
  const groupFd = yield* linux.open(`/dev/vfio/${group}`, O_RDWR);
  if (groupFd < 0) return groupFd;
  const fd = new Uint8Array(4);
  store32(fd, 0, container);
  const joined = yield* linux.ioctl(groupFd, VFIO_GROUP_SET_CONTAINER, fd);
  if (joined < 0) return joined;
  const iommu = yield* linux.ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU);
  if (iommu < 0) return iommu;
  const name = new Uint8Array(address.length + 1);
  for (let i = 0; i < address.length; i++) name[i] = address.charCodeAt(i);
  return yield* linux.ioctl(groupFd, VFIO_GROUP_GET_DEVICE_FD, name);
}

/** Binds eventfds to the vectors of an index from `start` on; −1 for a vector that leads nowhere. */
export function setIrqs(
  linux: Linux,
  device: number,
  index: number,
  start: number,
  fds: readonly number[],
  action = VFIO_IRQ_SET_ACTION_TRIGGER,
): Co<number> {
  const bytes = new Uint8Array(VfioIrqSet.size + 4 * fds.length);
  const flags = action | (fds.length === 0 ? VFIO_IRQ_SET_DATA_NONE : VFIO_IRQ_SET_DATA_EVENTFD);
  bytes.set(VfioIrqSet.encode({ argsz: bytes.length, flags, index, start, count: fds.length }));
  fds.forEach((fd, i) => {
    store32(bytes, VfioIrqSet.size + 4 * i, fd);
  });
  return linux.ioctl(device, VFIO_DEVICE_SET_IRQS, bytes);
}

/** MSI-X of a VFIO device: an eventfd, an irqfd and a GSI for each vector. */
export class VfioMsix implements HostMsix {
  readonly #linux: Linux;
  readonly #device: number;
  readonly #irqchip: Irqchip;
  readonly #vectors = new Map<number, { fd: number; gsi: number }>();

  constructor(linux: Linux, device: number, irqchip: Irqchip) {
    this.#linux = linux;
    this.#device = device;
    this.#irqchip = irqchip;
  }

  /** Without vectors: MSI-X on, vector 0 allocated and bound to nothing. */
  *start(vectors: ReadonlyMap<number, Message>): Co<number> {
    for (const [vector, message] of vectors) {
      const bound = yield* this.#bind(vector, message);
      if (bound < 0) return bound;
    }
    const count = Math.max(0, ...vectors.keys()) + 1;
    const fds = Array.from({ length: count }, (_, vector) => this.#vectors.get(vector)?.fd ?? -1);
    return yield* setIrqs(this.#linux, this.#device, VFIO_PCI_MSIX_IRQ_INDEX, 0, fds);
  }

  *add(vector: number, message: Message): Co<number> {
    const fd = yield* this.#bind(vector, message);
    return fd < 0 ? fd : yield* setIrqs(this.#linux, this.#device, VFIO_PCI_MSIX_IRQ_INDEX, vector, [fd]);
  }

  *update(vector: number, message: Message): Co<number> {
    return yield* this.#irqchip.updateMsiRoute(this.#vectors.get(vector)!.gsi, message);
  }

  *stop(): Co<number> {
    const result = yield* setIrqs(this.#linux, this.#device, VFIO_PCI_MSIX_IRQ_INDEX, 0, []);
    for (const { fd, gsi } of this.#vectors.values()) {
      yield* this.#irqchip.removeIrqfd(fd, gsi);
      yield* this.#linux.close(fd);
      yield* this.#irqchip.releaseMsiRoute(gsi);
    }
    this.#vectors.clear();
    return result;
  }

  /** An eventfd that raises the message: its descriptor, or −errno. */
  *#bind(vector: number, message: Message): Co<number> {
    const fd = yield* this.#linux.eventfd2(0, 0);
    if (fd < 0) return fd;
    const gsi = yield* this.#irqchip.addMsiRoute(message);
    if (gsi < 0) return gsi;
    const bound = yield* this.#irqchip.addIrqfd(fd, gsi);
    if (bound < 0) return bound;
    this.#vectors.set(vector, { fd, gsi });
    return fd;
  }
}

/** INTx of a VFIO device: the interrupt raises a GSI, and the guest's acknowledgement unmasks it in the device. */
export function* enableVfioIntx(linux: Linux, device: number, irqchip: Irqchip, gsi: number): Co<number> {
  const trigger = yield* linux.eventfd2(0, 0);
  const unmask = yield* linux.eventfd2(0, 0);
  const bound = yield* irqchip.addIrqfd(trigger, gsi, unmask);
  if (bound < 0) return bound;
  const on = yield* setIrqs(linux, device, VFIO_PCI_INTX_IRQ_INDEX, 0, [trigger]);
  if (on < 0) return on;
  return yield* setIrqs(linux, device, VFIO_PCI_INTX_IRQ_INDEX, 0, [unmask], VFIO_IRQ_SET_ACTION_UNMASK);
}
