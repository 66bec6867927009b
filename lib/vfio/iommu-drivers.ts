/** The IOMMU drivers of a host, in the order in which a container asks them. */
import type { VfioHost } from "./host.ts";
import type { IommuDriver } from "./iommu-driver.ts";
import { noiommu } from "./noiommu.ts";
import { spaprTce } from "./spapr-tce.ts";
import { type1 } from "./type1.ts";

const power: readonly IommuDriver[] = [noiommu, spaprTce];
const others: readonly IommuDriver[] = [noiommu, type1];

export const iommuDrivers = ({ arch }: VfioHost): readonly IommuDriver[] =>
  arch === "ppc64le" ? power : others;
