/**
 * A page table of the IOMMU's that shows an IOAS (drivers/iommu/iommufd/hw_pagetable.c, 6.12): made by a request, or by
 * itself when a device is attached to an IOAS, and then gone with its last device.
 */

import { ENOMEM } from "../abi/errno.ts";
import type { Ioas } from "./ioas.ts";
import type { IommuHardware } from "./iommu-hardware.ts";
import type { Iommufd } from "./iommufd.ts";
import { IommufdObject } from "./iommufd-object.ts";

export class PageTable extends IommufdObject {
  readonly ioas: Ioas;
  /** made when a device was attached */
  readonly automatic: boolean;

  constructor(id: number, ioas: Ioas, automatic: boolean) {
    super(id);
    this.ioas = ioas;
    this.automatic = automatic;
  }

  /** One that shows the address space: EADDRINUSE where it cannot, EFAULT, ENOMEM. */
  static allocate(
    iommufd: Iommufd,
    ioas: Ioas,
    hardware: IommuHardware,
    automatic: boolean,
  ): PageTable | number {
    if (iommufd.fails("iommufd_hwpt")) return -ENOMEM;
    const table = new PageTable(iommufd.lowestFreeId(), ioas, automatic);
    const shown = ioas.map.addTable(table, hardware);
    if (shown < 0) return shown;
    ioas.users++;
    ioas.tables.push(table);
    return iommufd.add(table);
  }

  destroy(): void {
    const { ioas } = this;
    ioas.map.removeTable(this);
    ioas.tables.splice(ioas.tables.indexOf(this), 1);
    ioas.users--;
  }
}
