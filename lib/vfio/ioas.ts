/** An address space of an iommufd's, with its number and the page tables that show it. */
import { IoAddressSpace } from "./io-address-space.ts";
import { IommufdObject } from "./iommufd-object.ts";
import type { PageTable } from "./page-table.ts";

export class Ioas extends IommufdObject {
  readonly map: IoAddressSpace;
  /** in the order they were made */
  readonly tables: PageTable[] = [];

  constructor(id: number, pageSize: number) {
    super(id);
    this.map = new IoAddressSpace(pageSize);
  }

  destroy(): void {
    this.map.unmapAll();
  }
}
