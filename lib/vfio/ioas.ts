/** An address space of an iommufd's, with its number and the page tables that show it. */
import { IoAddressSpace } from "./io-address-space.ts";
import { IommufdObject } from "./iommufd-object.ts";
import type { PageTable } from "./page-table.ts";

export class Ioas extends IommufdObject {
  readonly map = new IoAddressSpace();
  /** in the order they were made */
  readonly tables: PageTable[] = [];

  destroy(): void {
    this.map.unmapAll();
  }
}
