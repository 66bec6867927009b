/**
 * A VFIO container: the file /dev/vfio/vfio (drivers/vfio/container.c, 6.1 and 6.12). Groups are put into it, then
 * VFIO_SET_IOMMU chooses the IOMMU driver, which answers every other request. When the last group leaves, the driver
 * goes, and the container is as new. A group keeps its container alive beyond the container's file.
 */
import { EINVAL, ENODEV, ENOMEM, EPERM } from "../abi/errno.ts";
import { VFIO_API_VERSION, VFIO_CHECK_EXTENSION, VFIO_GET_API_VERSION, VFIO_SET_IOMMU } from "../abi/vfio.ts";
import type { Argument } from "../kernel/argument.ts";
import { File } from "../kernel/file.ts";
import type { Process } from "../kernel/process.ts";
import { genericNumber } from "./generic-number.ts";
import type { VfioGroup } from "./group.ts";
import type { VfioHost } from "./host.ts";
import type { Iommu, IommuDriver } from "./iommu-driver.ts";
import { iommuDrivers } from "./iommu-drivers.ts";

export class Container {
  readonly host: VfioHost;
  /** the latest first, as Linux keeps them */
  readonly groups: VfioGroup[] = [];
  /** what VFIO_SET_IOMMU chose */
  iommu: Iommu | undefined;
  #noiommu = false;

  constructor(host: VfioHost) {
    this.host = host;
  }

  /** EPERM where groups with and without an IOMMU would mix, or a host driver has a device of the group. */
  attach(group: VfioGroup): number {
    if (this.groups.length !== 0 && this.#noiommu !== group.noiommu) return -EPERM;
    if (!group.noiommu) {
      const claimed = group.iommuGroup.claim(group);
      if (claimed < 0) return claimed;
    }
    const attached = this.iommu?.attach(group) ?? 0;
    if (attached < 0) {
      if (!group.noiommu) group.iommuGroup.release();
      return attached;
    }
    group.container = this;
    group.containerUsers = 1;
    this.#noiommu = group.noiommu;
    this.groups.unshift(group);
    return 0;
  }

  detach(group: VfioGroup): void {
    const { iommu } = this;
    iommu?.detach(group);
    if (!group.noiommu) group.iommuGroup.release();
    group.container = undefined;
    group.containerUsers = 0;
    this.groups.splice(this.groups.indexOf(group), 1);
    if (this.groups.length !== 0) return;
    iommu?.release();
    this.iommu = undefined;
  }

  /** The first positive answer of a driver; once one is chosen, its answer. */
  checkExtension(extension: number): number {
    const { host, iommu } = this;
    if (iommu !== undefined) return iommu.driver.checkExtension(host, extension, iommu);
    for (const driver of iommuDrivers(host)) {
      if (this.groups.length !== 0 && !this.#allows(driver)) continue;
      const answer = driver.checkExtension(host, extension, undefined);
      if (answer > 0) return answer;
    }
    return 0;
  }

  /** EINVAL without a group or a second time; ENODEV where no driver knows the type; what the last one tried says. */
  setIommu(type: number): number {
    if (this.groups.length === 0 || this.iommu !== undefined) return -EINVAL;
    const { host } = this;
    let result = -ENODEV;
    for (const driver of iommuDrivers(host)) {
      if (!this.#allows(driver) || driver.checkExtension(host, type, undefined) <= 0) continue;
      const iommu = driver.open(host, type);
      if (typeof iommu === "number") {
        result = iommu;
        continue;
      }
      result = attachAll(iommu, this.groups);
      if (result < 0) {
        iommu.release();
        continue;
      }
      this.iommu = iommu;
      break;
    }
    return result;
  }

  #allows(driver: IommuDriver): boolean {
    return driver.noiommu === this.#noiommu;
  }
}

/** All groups, or none. */
function attachAll(iommu: Iommu, groups: readonly VfioGroup[]): number {
  for (let i = 0; i < groups.length; i++) {
    const attached = iommu.attach(groups[i]);
    if (attached < 0) {
      while (--i >= 0) iommu.detach(groups[i]);
      return attached;
    }
  }
  return 0;
}

export class ContainerFile extends File {
  readonly name = "/dev/vfio/vfio";
  readonly container: Container;

  constructor(host: VfioHost, flags: number) {
    super(host.kernel, flags);
    this.container = new Container(host);
  }

  /** A new container, or ENOMEM. */
  static open(host: VfioHost, flags: number): ContainerFile | number {
    return host.kernel.faults.allocation("vfio_container") ? -ENOMEM : new ContainerFile(host, flags);
  }

  override readonly stream = false;

  override ioctl(process: Process, request: number, user: Argument): number {
    const { container } = this;
    const { iommu } = container;
    const number = genericNumber(process, request);
    if (number === VFIO_GET_API_VERSION.number) return VFIO_API_VERSION;
    if (number === VFIO_CHECK_EXTENSION.number) return container.checkExtension(user.value);
    if (number === VFIO_SET_IOMMU.number) return container.setIommu(user.value);
    return iommu === undefined ? -EINVAL : iommu.ioctl(process, number, user);
  }

  override release(): void {
    this.container.iommu?.containerClosed?.();
  }
}
