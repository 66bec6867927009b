/**
 * A device as VFIO's outer half sees it: registered by a driver (vfio-pci), member of a group, opened by group or by its
 * own character device, told to give itself back. What it answers once open is the driver's: a subclass.
 *
 * The seam: group.ts, device-file.ts and iommufd.ts call the abstract methods; a subclass never looks at containers.
 */
import { EINVAL } from "../abi/errno.ts";
import type { Backing } from "../kernel/address-space.ts";
import type { Argument } from "../kernel/argument.ts";
import type { Process } from "../kernel/process.ts";
import type { BoundDevice } from "./bound-device.ts";
import type { VfioGroup } from "./group.ts";
import type { PciFunction, VfioHost } from "./host.ts";

export abstract class VfioDevice {
  readonly host: VfioHost;
  readonly function: PciFunction;
  readonly group: VfioGroup;
  /** N of its character device /dev/vfio/devices/vfioN */
  readonly index: number;
  /** files on which the device is open: the first opens it, the last closes it */
  openCount = 0;
  /** the device as its iommufd has it, while it is open on one */
  bound: BoundDevice | undefined;
  /** whether a driver's unbinding waits until the last file is closed; nobody opens it any more */
  leaving = false;

  constructor(host: VfioHost, pciFunction: PciFunction, group: VfioGroup, index: number) {
    this.host = host;
    this.function = pciFunction;
    this.group = group;
    this.index = index;
  }

  /** "0000:00:05.0": what VFIO_GROUP_GET_DEVICE_FD takes. */
  get name(): string {
    return this.function.address;
  }

  /**
   * Whether the name that a program asked for means this device: 1 for yes, 0 for no, EINVAL for yes with options: the
   * only one there is, a VF token, is for virtual functions and their owners
   * (drivers/vfio/pci/vfio_pci_core.c:vfio_pci_core_match, 6.1). Spaces after the name are no option.
   */
  match(name: string): number {
    if (!name.startsWith(this.name)) return 0;
    const options = name.slice(this.name.length);
    if (options !== "" && !options.startsWith(" ")) return 0;
    return options.trim() === "" ? 1 : -EINVAL;
  }

  /** The first file: the device is enabled and reset. 0 or −errno. */
  abstract open(): number;
  /** The last file is closed: interrupts off, device reset. */
  abstract close(): void;
  /** The host wants the device back: called once for every time it asks (the REQ interrupt). */
  abstract request(): void;
  /** Any request but binding and attaching, VFIO_DEVICE_FEATURE included; its number in the generic encoding. */
  abstract ioctl(process: Process, request: number, user: Argument): number;
  abstract read(user: Argument, count: number, offset: number): number;
  abstract write(user: Argument, count: number, offset: number): number;
  abstract mmap(offset: number, length: number, prot: number, shared: boolean): Backing | number;
}

/** Makes the device of a function that was bound to vfio-pci. */
export type CreateVfioDevice = (
  host: VfioHost,
  pciFunction: PciFunction,
  group: VfioGroup,
  index: number,
) => VfioDevice;
