/** The IOMMU drivers of a host, in the order in which a container asks them. */
import type { VfioHost } from "./host.ts";
import type { IommuDriver } from "./iommu-driver.ts";
import { noiommu } from "./noiommu.ts";
import { type1 } from "./type1.ts";

const all: readonly IommuDriver[] = [noiommu, type1];

export const iommuDrivers = (_host: VfioHost): readonly IommuDriver[] => all;
