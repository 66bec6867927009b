/**
 * A device bound to an iommufd, and its attachment to a page table (drivers/iommu/iommufd/device.c, 6.12). The devices of
 * an IOMMU group share one page table: the first attaches the group, the others follow; attaching an attached device to
 * another page table moves the whole group.
 */
import { EINVAL, ENODEV, ENOENT, ENOMEM, EPERM } from "../abi/errno.ts";
import type { File } from "../kernel/file.ts";
import type { IommuGroup, PciFunction } from "./host.ts";
import { Ioas } from "./ioas.ts";
import { type IommuHardware, iommuHardware } from "./iommu-hardware.ts";
import type { Iommufd } from "./iommufd.ts";
import { IommufdObject } from "./iommufd-object.ts";
import { PageTable } from "./page-table.ts";

/** The bound devices of one IOMMU group. */
export interface DeviceGroup {
  /** what they are attached to */
  table: PageTable | undefined;
  /** those that were attached themselves */
  readonly attached: Set<BoundDevice>;
}

export class BoundDevice extends IommufdObject {
  readonly iommufd: Iommufd;
  readonly function: PciFunction;
  readonly hardware: IommuHardware;
  readonly #iommuGroup: IommuGroup;
  readonly #group: DeviceGroup;
  /** the iommufd's file: a bound device keeps it open */
  readonly #file: File;

  constructor(
    iommufd: Iommufd,
    file: File,
    pciFunction: PciFunction,
    iommuGroup: IommuGroup,
    group: DeviceGroup,
  ) {
    super(iommufd.lowestFreeId());
    this.iommufd = iommufd;
    this.function = pciFunction;
    this.hardware = iommuHardware(iommufd.host);
    this.#iommuGroup = iommuGroup;
    this.#group = group;
    this.#file = file.get();
    // the driver is its user until it is unbound
    this.users = 1;
  }

  /** Binds a device: ENODEV without an IOMMU, EPERM without interrupt remapping or where another owns the group's DMA, ENOMEM. */
  static claim(iommufd: Iommufd, file: File, pciFunction: PciFunction): BoundDevice | number {
    const { group } = pciFunction;
    const { host } = iommufd;
    if (group === undefined) return -ENODEV;
    if (!host.iommu.interruptRemapping && !host.options.allow_unsafe_interrupts) return -EPERM;
    const claimed = group.claimShared(iommufd);
    if (claimed < 0) return claimed;
    if (iommufd.fails("iommufd_device")) {
      group.release();
      return -ENOMEM;
    }
    let devices = iommufd.groups.get(group);
    if (devices === undefined)
      iommufd.groups.set(group, (devices = { table: undefined, attached: new Set() }));
    return iommufd.add(new BoundDevice(iommufd, file, pciFunction, group, devices));
  }

  get attached(): boolean {
    return this.#group.attached.has(this);
  }

  /**
   * Attaches to a page table, or to an address space, for which a page table is found or made: its number, or ENOENT,
   * EINVAL for another kind of object or another page table of the group, EADDRINUSE, EFAULT, ENOMEM.
   */
  attach(id: number): number {
    const target = this.iommufd.objects.get(id);
    if (target === undefined) return -ENOENT;
    if (target instanceof PageTable) {
      const attached = this.#use(target);
      return attached < 0 ? attached : target.id;
    }
    return target instanceof Ioas ? this.#attachToIoas(target) : -EINVAL;
  }

  #attachToIoas(ioas: Ioas): number {
    for (const table of ioas.tables) {
      if (!table.automatic) continue;
      const attached = this.#use(table);
      if (attached === 0) return table.id;
      if (attached !== -EINVAL) return attached;
    }
    if (!this.attached && this.#group.table !== undefined) return -EINVAL;
    const table = PageTable.allocate(this.iommufd, ioas, this.hardware, true);
    if (typeof table === "number") return table;
    const attached = this.#use(table);
    if (attached === 0) return table.id;
    this.iommufd.remove(table);
    return attached;
  }

  #use(table: PageTable): number {
    return this.attached ? this.#replace(table) : this.#attach(table);
  }

  #attach(table: PageTable): number {
    const group = this.#group;
    if (group.table !== undefined && group.table !== table) return -EINVAL;
    const reserved = table.ioas.map.reserve(this.hardware.reserved, this);
    if (reserved < 0) return reserved;
    group.table = table;
    group.attached.add(this);
    table.users++;
    this.users++;
    return 0;
  }

  /** All attached devices of the group move. */
  #replace(table: PageTable): number {
    const group = this.#group;
    const old = group.table!;
    if (old === table) return 0;
    if (old.ioas !== table.ioas) {
      for (const device of group.attached) {
        const reserved = table.ioas.map.reserve(device.hardware.reserved, device);
        if (reserved < 0) {
          for (const other of group.attached) table.ioas.map.unreserve(other);
          return reserved;
        }
      }
      for (const device of group.attached) old.ioas.map.unreserve(device);
    }
    group.table = table;
    table.users += group.attached.size;
    old.users -= group.attached.size;
    this.#drop(old);
    return 0;
  }

  /** Nothing happens if it is not attached. */
  detach(): void {
    if (!this.attached) return;
    const group = this.#group;
    const table = group.table!;
    group.attached.delete(this);
    if (group.attached.size === 0) group.table = undefined;
    table.ioas.map.unreserve(this);
    table.users--;
    this.users--;
    this.#drop(table);
  }

  /** A page table that was made by itself goes with its last device. */
  #drop(table: PageTable): void {
    if (table.automatic && table.users === 0) this.iommufd.remove(table);
  }

  /** The driver closes the device. */
  unbind(): void {
    this.detach();
    this.iommufd.remove(this);
    this.#file.put();
  }

  destroy(): void {
    this.#iommuGroup.release();
  }
}
