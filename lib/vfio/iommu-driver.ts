/**
 * What a container asks of the IOMMU behind it (struct vfio_iommu_driver_ops in drivers/vfio/vfio.h, 6.1). A driver
 * exists before any container; VFIO_SET_IOMMU opens it for one container.
 */
import type { Argument } from "../kernel/argument.ts";
import type { Process } from "../kernel/process.ts";
import type { VfioGroup } from "./group.ts";
import type { VfioHost } from "./host.ts";

export interface IommuDriver {
  readonly name: string;
  /** whether it works for groups without an IOMMU, and for those alone */
  readonly noiommu: boolean;
  /** VFIO_CHECK_EXTENSION, with the driver opened (`iommu`) or before */
  checkExtension(host: VfioHost, extension: number, iommu: Iommu | undefined): number;
  /** VFIO_SET_IOMMU: the driver for one container, or −errno */
  open(host: VfioHost, type: number): Iommu | number;
}

/** The driver as one container has it. */
export interface Iommu {
  readonly driver: IommuDriver;
  ioctl(process: Process, request: number, user: Argument): number;
  attach(group: VfioGroup): number;
  detach(group: VfioGroup): void;
  /** the container's file was closed, while groups still hold the container */
  containerClosed?(): void;
  /** the last group has left */
  release(): void;
}
