/**
 * The file of a device (drivers/vfio/vfio_main.c:vfio_device_fops, device_cdev.c, 6.12). Opened by its group it works at
 * once; opened by its character device (/dev/vfio/devices/vfioN) it answers EINVAL until it is bound to an iommufd, and
 * then nobody else can have the device. Everything else is the device's.
 *
 * Missing: process address spaces (PASID) of 6.16 and VF tokens of later binds: their flags are refused.
 */
import { EBADF, EBADFD, EBUSY, EFAULT, EINVAL, ENODEV, ENOMEM } from "../abi/errno.ts";
import { O_RDWR } from "../abi/fcntl.ts";
import { store32 } from "../abi/struct.ts";
import {
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  VfioDeviceAttachIommufdPt,
  VfioDeviceBindIommufd,
  VfioDeviceDetachIommufdPt,
} from "../abi/vfio.ts";
import type { Backing } from "../kernel/address-space.ts";
import type { Argument } from "../kernel/argument.ts";
import { File } from "../kernel/file.ts";
import type { Process } from "../kernel/process.ts";
import { BoundDevice } from "./bound-device.ts";
import { genericNumber } from "./generic-number.ts";
import type { GroupFile } from "./group.ts";
import { IommufdFile } from "./iommufd.ts";
import type { VfioDevice } from "./vfio-device.ts";

/** bytes up to and including out_devid, pt_id, flags: what each request needs of its struct */
const BIND_LEAST = 16;
const ATTACH_LEAST = 12;
const DETACH_LEAST = 8;

export class DeviceFile extends File {
  readonly device: VfioDevice;
  /** given by a group, not opened by the character device */
  readonly byGroup: boolean;
  override readonly stream = false;
  /** whether the device is open on this file */
  granted = false;
  /** the VM that uses it, by the KVM pseudo device */
  vm: object | undefined;
  /** the file of a group in a container: held while this one is open */
  #groupFile: GroupFile | undefined;

  constructor(device: VfioDevice, byGroup: boolean, flags = O_RDWR) {
    super(device.host.kernel, flags);
    this.device = device;
    this.byGroup = byGroup;
  }

  /** Its character device opened: ENODEV where it is about to go, ENOMEM. */
  static openCharacterDevice(device: VfioDevice, flags: number): DeviceFile | number {
    if (device.leaving) return -ENODEV;
    if (device.host.kernel.faults.allocation("vfio_device_file")) return -ENOMEM;
    return new DeviceFile(device, false, flags);
  }

  /** A file on an open device, or why it does not open. */
  static openByGroup(device: VfioDevice, groupFile: GroupFile): DeviceFile | number {
    if (device.host.kernel.faults.allocation("vfio_device_file")) return -ENOMEM;
    const file = new DeviceFile(device, true);
    const { iommufdFile } = device.group;
    const failed = file.#open(iommufdFile);
    if (failed < 0) return failed;
    if (iommufdFile !== undefined) {
      const attached = device.openCount === 1 ? file.#attachToCompatIoas(iommufdFile) : 0;
      if (attached < 0) {
        file.#close();
        return attached;
      }
    } else {
      file.#groupFile = groupFile.get();
      device.group.containerUsers++;
    }
    return file;
  }

  get name(): string {
    return this.byGroup ? "anon_inode:[vfio-device]" : `/dev/vfio/devices/vfio${this.device.index}`;
  }

  /** the KVM pseudo device takes device files since 6.6 */
  get isVfio(): boolean {
    return this.device.host.behaviour.kvmVfioDeviceFiles;
  }

  /** One more file has the device open; the first one binds it to the iommufd, if there is one, and opens it. */
  #open(iommufdFile: IommufdFile | undefined): number {
    const { device } = this;
    if (device.openCount === 0) {
      if (iommufdFile !== undefined) {
        const bound = BoundDevice.claim(iommufdFile.iommufd, iommufdFile, device.function);
        if (typeof bound === "number") return bound;
        device.bound = bound;
      }
      const failed = device.open();
      if (failed < 0) {
        device.bound?.unbind();
        device.bound = undefined;
        return failed;
      }
    }
    device.openCount++;
    this.granted = true;
    return 0;
  }

  /** A group with an iommufd as its container: the device is attached to the container's address space. */
  #attachToCompatIoas({ iommufd }: IommufdFile): number {
    if (iommufd.noiommu) return 0;
    const ioas = iommufd.compatIoas();
    return typeof ioas === "number" ? ioas : Math.min(this.device.bound!.attach(ioas.id), 0);
  }

  /** One file less; the last one closes the device. */
  #close(): void {
    const { device } = this;
    this.granted = false;
    if (--device.openCount !== 0) return;
    device.close();
    device.bound?.unbind();
    device.bound = undefined;
  }

  override ioctl(process: Process, request: number, user: Argument): number {
    const number = genericNumber(process, request);
    if (number === VFIO_DEVICE_BIND_IOMMUFD.number && this.device.host.iommufd)
      return this.#bind(process, user);
    if (!this.granted) return -EINVAL;
    if (!this.byGroup) {
      if (number === VFIO_DEVICE_ATTACH_IOMMUFD_PT.number) return this.#attach(user);
      if (number === VFIO_DEVICE_DETACH_IOMMUFD_PT.number) return this.#detach(user);
    }
    return this.device.ioctl(process, number, user);
  }

  /** EINVAL for a group's file, a second time, or a device that is open elsewhere; EBUSY while its group is open. */
  #bind(process: Process, user: Argument): number {
    if (!user.readable(BIND_LEAST)) return -EFAULT;
    const { argsz, flags, iommufd } = VfioDeviceBindIommufd.at(user.bytes, user.at);
    if (argsz < BIND_LEAST || flags !== 0 || iommufd < 0 || this.byGroup) return -EINVAL;
    const { device } = this;
    const { group } = device;
    if (group.openedFile !== undefined) return -EBUSY;
    if (this.granted) return -EINVAL;
    const file = process.fds.get(iommufd);
    if (file === undefined) return -EBADF;
    if (!(file instanceof IommufdFile)) return -EBADFD;
    if (device.openCount !== 0) return -EINVAL;
    const failed = this.#open(file);
    if (failed < 0) return failed;
    if (!user.writable(BIND_LEAST)) {
      this.#close();
      return -EFAULT;
    }
    group.boundCharacterDevices++;
    store32(user.bytes, user.at + VfioDeviceBindIommufd.offsetOf.out_devid, device.bound!.id);
    return 0;
  }

  #attach(user: Argument): number {
    if (!user.readable(ATTACH_LEAST)) return -EFAULT;
    const { argsz, flags, pt_id } = VfioDeviceAttachIommufdPt.at(user.bytes, user.at);
    if (argsz < ATTACH_LEAST || flags !== 0) return -EINVAL;
    const bound = this.device.bound!;
    const table = bound.attach(pt_id);
    if (table < 0) return table;
    if (!user.writable(ATTACH_LEAST)) {
      bound.detach();
      return -EFAULT;
    }
    store32(user.bytes, user.at + VfioDeviceAttachIommufdPt.offsetOf.pt_id, table);
    return 0;
  }

  #detach(user: Argument): number {
    if (!user.readable(DETACH_LEAST)) return -EFAULT;
    const { argsz, flags } = VfioDeviceDetachIommufdPt.at(user.bytes, user.at);
    if (argsz < DETACH_LEAST || flags !== 0) return -EINVAL;
    this.device.bound!.detach();
    return 0;
  }

  override read(user: Argument, count: number, offset: number): number {
    return this.granted ? this.device.read(user, count, offset) : -EINVAL;
  }

  override write(user: Argument, count: number, offset: number): number {
    return this.granted ? this.device.write(user, count, offset) : -EINVAL;
  }

  override mmap(offset: number, length: number, prot: number, shared: boolean): Backing | number {
    return this.granted ? this.device.mmap(offset, length, prot, shared) : -EINVAL;
  }

  /** The KVM pseudo device tells which VM uses it, or none any more. */
  setVm(vm: object | undefined): void {
    this.vm = vm;
  }

  override release(): void {
    const { device } = this;
    const { group } = device;
    if (this.granted) {
      this.#close();
      if (!this.byGroup) group.boundCharacterDevices--;
    }
    if (this.#groupFile !== undefined) {
      group.containerUsers--;
      this.#groupFile.put();
    }
    if (device.leaving && device.openCount === 0) device.host.removeDevice(device);
  }
}
