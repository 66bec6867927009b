/**
 * A PCI device that vfio-pci owns, as VFIO shows it.
 *
 * Missing: everything but opening and closing.
 */
import { EINVAL, ENOTTY } from "../abi/errno.ts";
import type { CreateVfioDevice } from "./vfio-device.ts";
import { VfioDevice } from "./vfio-device.ts";

class PciVfioDevice extends VfioDevice {
  override open(): number {
    return 0;
  }
  override close(): void {}
  override request(): void {}
  override ioctl(): number {
    return -ENOTTY;
  }
  override read(): number {
    return -EINVAL;
  }
  override write(): number {
    return -EINVAL;
  }
  override mmap(): number {
    return -EINVAL;
  }
}

export const createPciVfioDevice: CreateVfioDevice = (host, pciFunction, group, index) =>
  new PciVfioDevice(host, pciFunction, group, index);
