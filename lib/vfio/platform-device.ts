/**
 * A platform device (one without a bus that could be asked) as VFIO shows it: its interrupts
 * (drivers/vfio/platform/vfio_platform_irq.c, vfio_platform_common.c, 6.1). Each index is one interrupt. A level is
 * masked by the handler and unmasked by user space, by hand or by an eventfd; an edge is only signalled. From source, not
 * recorded.
 *
 * Missing: regions, the reset of a device, groups and containers: the file is handed to a process as it is.
 */
import { EFAULT, EINVAL, ENOMEM, ENOTTY } from "../abi/errno.ts";
import { O_RDWR } from "../abi/fcntl.ts";
import { load32 } from "../abi/struct.ts";
import {
  VFIO_DEVICE_FLAGS_PLATFORM,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_TYPE_MASK,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_IRQ_SET_DATA_TYPE_MASK,
  VfioDeviceInfo,
  VfioIrqInfo,
  VfioIrqSet,
} from "../abi/vfio.ts";
import type { Argument } from "../kernel/argument.ts";
import type { EventFd } from "../kernel/eventfd.ts";
import { File } from "../kernel/file.ts";
import type { Kernel } from "../kernel/kernel.ts";
import type { Process } from "../kernel/process.ts";
import { enableVirqfd, eventfdOf, type Virqfd } from "./virqfd.ts";

/** An interrupt of the device, as the host's controller has it. */
export interface PlatformInterrupt {
  /** whether the handler masks it, as it does levels */
  readonly automasked: boolean;
  /** instead of the eventfd, if there is somebody who takes the interrupt at once */
  readonly bypass?: (() => void) | undefined;
  /** request_irq; disabled at first */
  request(handler: () => void): void;
  free(): void;
  setEnabled(on: boolean): void;
}

class PlatformIrq {
  readonly interrupt: PlatformInterrupt;
  trigger: EventFd | undefined;
  masked = false;
  readonly virqfds: { mask: Virqfd | undefined; unmask: Virqfd | undefined } = {
    mask: undefined,
    unmask: undefined,
  };

  constructor(interrupt: PlatformInterrupt) {
    this.interrupt = interrupt;
  }

  get flags(): number {
    const level = VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
    return VFIO_IRQ_INFO_EVENTFD | (this.interrupt.automasked ? level : 0);
  }

  setMasked(masked: boolean): void {
    if (this.masked === masked) return;
    this.masked = masked;
    this.interrupt.setEnabled(!masked);
  }

  handle(): void {
    const { automasked, bypass } = this.interrupt;
    if (automasked) {
      if (this.masked) return;
      this.setMasked(true);
    }
    if (bypass === undefined) this.trigger?.signal();
    else bypass();
  }
}

export class PlatformDeviceFile extends File {
  readonly name = "[vfio-device]";
  readonly #irqs: readonly PlatformIrq[];

  constructor(kernel: Kernel, interrupts: readonly PlatformInterrupt[]) {
    super(kernel, O_RDWR);
    this.#irqs = interrupts.map((interrupt) => new PlatformIrq(interrupt));
  }

  override ioctl(process: Process, request: number, user: Argument): number {
    switch (request) {
      case VFIO_DEVICE_GET_INFO.number:
        return this.#info(user);
      case VFIO_DEVICE_GET_IRQ_INFO.number:
        return this.#irqInfo(user);
      case VFIO_DEVICE_SET_IRQS.number:
        return this.#setIrqs(process, user);
      case VFIO_DEVICE_GET_REGION_INFO.number:
      case VFIO_DEVICE_RESET.number:
        return -EINVAL;
      default:
        return -ENOTTY;
    }
  }

  override release(): void {
    for (const irq of this.#irqs) {
      this.#setTrigger(undefined, irq, -1);
      irq.virqfds.mask?.disable();
      irq.virqfds.unmask?.disable();
    }
  }

  #info(user: Argument): number {
    const least = VfioDeviceInfo.offsetOf.cap_offset;
    if (!user.readable(least)) return -EFAULT;
    if (load32(user.bytes, user.at) < least) return -EINVAL;
    if (!user.writable(least)) return -EFAULT;
    const info = VfioDeviceInfo.at(user.bytes, user.at);
    info.flags = VFIO_DEVICE_FLAGS_PLATFORM;
    info.num_regions = 0;
    info.num_irqs = this.#irqs.length;
    return 0;
  }

  #irqInfo(user: Argument): number {
    if (!user.writable(VfioIrqInfo.size)) return -EFAULT;
    const info = VfioIrqInfo.at(user.bytes, user.at);
    if (info.argsz < VfioIrqInfo.size || info.index >= this.#irqs.length) return -EINVAL;
    info.flags = this.#irqs[info.index].flags;
    info.count = 1;
    return 0;
  }

  /** VFIO_DEVICE_SET_IRQS. EFAULT; EINVAL: what cannot be; ENOTTY: no such action. */
  #setIrqs(process: Process, user: Argument): number {
    if (!user.readable(VfioIrqSet.size)) return -EFAULT;
    const { argsz, flags, index, start, count } = VfioIrqSet.at(user.bytes, user.at);
    const kind = flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
    const action = flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
    const total = this.#irqs.length;
    if (argsz < VfioIrqSet.size || index >= total || (flags & ~(kind | action)) !== 0) return -EINVAL;
    if (start >= total || start + count > total) return -EINVAL;
    const width = WIDTHS.get(kind);
    if (width === undefined || argsz - VfioIrqSet.size < width * count) return -EINVAL;
    const size = width * count;
    if (size !== 0 && !user.readable(size, VfioIrqSet.size)) return -EFAULT;
    const at = user.at + VfioIrqSet.size;
    const value = size === 0 ? 1 : width === 1 ? user.bytes[at] : load32(user.bytes, at) | 0;
    const irq = this.#irqs[index];
    switch (action) {
      case VFIO_IRQ_SET_ACTION_MASK:
      case VFIO_IRQ_SET_ACTION_UNMASK: {
        const masks = action === VFIO_IRQ_SET_ACTION_MASK;
        if (start !== 0 || count !== 1 || !irq.interrupt.automasked) return -EINVAL;
        if (kind === VFIO_IRQ_SET_DATA_EVENTFD) return maskBy(process, irq, masks ? "mask" : "unmask", value);
        if (value !== 0) irq.setMasked(masks);
        return 0;
      }
      case VFIO_IRQ_SET_ACTION_TRIGGER:
        if (count === 0 && kind === VFIO_IRQ_SET_DATA_NONE) return this.#setTrigger(process, irq, -1);
        if (start !== 0 || count !== 1) return -EINVAL;
        if (kind === VFIO_IRQ_SET_DATA_EVENTFD) return this.#setTrigger(process, irq, value);
        if (value !== 0) irq.handle();
        return 0;
      default:
        return -ENOTTY;
    }
  }

  /** Another eventfd, or none. What was there is gone even where the new one cannot be had. */
  #setTrigger(process: Process | undefined, irq: PlatformIrq, fd: number): number {
    if (irq.trigger !== undefined) irq.interrupt.free();
    irq.trigger = undefined;
    if (fd < 0 || process === undefined) return 0;
    if (process.kernel.faults.allocation("irq name")) return -ENOMEM;
    const trigger = eventfdOf(process, fd);
    if (typeof trigger === "number") return trigger;
    irq.trigger = trigger;
    irq.interrupt.request(() => irq.handle());
    if (!irq.masked) irq.interrupt.setEnabled(true);
    return 0;
  }
}

/** An eventfd that masks, or unmasks; −1 takes it away. */
function maskBy(process: Process, irq: PlatformIrq, which: "mask" | "unmask", fd: number): number {
  const { virqfds } = irq;
  if (fd < 0) {
    virqfds[which]?.disable();
    virqfds[which] = undefined;
    return 0;
  }
  const change = () => (irq.setMasked(which === "mask"), false);
  const made = enableVirqfd(
    process,
    fd,
    change,
    () => undefined,
    () => void (virqfds[which] = undefined),
  );
  if (typeof made === "number") return made;
  virqfds[which] = made;
  return 0;
}

/** bytes of data for each interrupt */
const WIDTHS = new Map([
  [VFIO_IRQ_SET_DATA_NONE, 0],
  [VFIO_IRQ_SET_DATA_BOOL, 1],
  [VFIO_IRQ_SET_DATA_EVENTFD, 4],
]);
