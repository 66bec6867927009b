/**
 * A VFIO group: the file /dev/vfio/N (drivers/vfio/group.c, 6.12; vfio_main.c, 6.1). It has one file description at a
 * time, is put into a container (or an iommufd), and gives descriptors of its devices by name. An open device holds the
 * group's file: the group stays busy until the last device is closed.
 *
 * `struct vfio_group_status`, 8 bytes: argsz u32, flags u32.
 */
import { EBADF, EBADFD, EBUSY, EFAULT, EINVAL, EMFILE, ENODEV, ENOTTY } from "../abi/errno.ts";
import { load32, s32, store32 } from "../abi/struct.ts";
import {
  VFIO_GROUP_FLAGS_CONTAINER_SET,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_GET_STATUS,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
  VfioGroupStatus,
} from "../abi/vfio.ts";
import type { Argument } from "../kernel/argument.ts";
import { File } from "../kernel/file.ts";
import type { Process } from "../kernel/process.ts";
import { type Container, ContainerFile } from "./container.ts";
import { DeviceFile } from "./device-file.ts";
import { genericNumber } from "./generic-number.ts";
import type { IommuGroup, VfioHost } from "./host.ts";
import { IommufdFile } from "./iommufd.ts";
import type { VfioDevice } from "./vfio-device.ts";

export class VfioGroup {
  readonly host: VfioHost;
  /** of its file: "4", "noiommu-0" */
  readonly name: string;
  readonly iommuGroup: IommuGroup;
  /** a group made up for a device without an IOMMU */
  readonly noiommu: boolean;
  readonly devices: VfioDevice[] = [];
  container: Container | undefined;
  /** one for the container, one for each open device file */
  containerUsers = 0;
  openedFile: GroupFile | undefined;
  /** an iommufd in the place of a container */
  iommufdFile: IommufdFile | undefined;
  /** device files that were opened by their character device and bound to an iommufd */
  boundCharacterDevices = 0;
  /** whether the last device is gone: the file, if still open, is dead */
  removed = false;

  constructor(host: VfioHost, name: string, iommuGroup: IommuGroup, noiommu: boolean) {
    this.host = host;
    this.name = name;
    this.iommuGroup = iommuGroup;
    this.noiommu = noiommu;
  }

  /** EBUSY while it is open, or while a device of it is in use by its character device. */
  open(flags: number): GroupFile | number {
    if (this.openedFile !== undefined || this.boundCharacterDevices !== 0) return -EBUSY;
    return (this.openedFile = new GroupFile(this, flags));
  }

  /** whether it is in a container, or an iommufd stands for one */
  get hasContainer(): boolean {
    return this.container !== undefined || this.iommufdFile !== undefined;
  }

  leaveContainer(): void {
    this.container?.detach(this);
    this.iommufdFile?.put();
    this.iommufdFile = undefined;
  }

  /** The last device was unbound. */
  remove(): void {
    this.leaveContainer();
    this.removed = true;
  }
}

export class GroupFile extends File {
  readonly group: VfioGroup;
  /** the KVM pseudo device takes it */
  readonly isVfio = true;
  /** the VM that uses it, by the KVM pseudo device */
  vm: object | undefined;

  constructor(group: VfioGroup, flags: number) {
    super(group.host.kernel, flags);
    this.group = group;
  }

  get name(): string {
    return `/dev/vfio/${this.group.name}`;
  }

  override ioctl(process: Process, request: number, user: Argument): number {
    switch (genericNumber(process, request)) {
      case VFIO_GROUP_GET_STATUS.number:
        return this.#status(user);
      case VFIO_GROUP_SET_CONTAINER.number:
        return this.#setContainer(user, process);
      case VFIO_GROUP_UNSET_CONTAINER.number:
        return this.#unsetContainer();
      case VFIO_GROUP_GET_DEVICE_FD.number:
        return this.#deviceFd(user, process);
      default:
        return -ENOTTY;
    }
  }

  #status(user: Argument): number {
    if (!user.readable(VfioGroupStatus.size)) return -EFAULT;
    if (load32(user.bytes, user.at) < VfioGroupStatus.size) return -EINVAL;
    const { group } = this;
    if (group.removed) return -ENODEV;
    let flags = 0;
    if (group.hasContainer) flags = VFIO_GROUP_FLAGS_CONTAINER_SET | VFIO_GROUP_FLAGS_VIABLE;
    else if (!group.iommuGroup.claimed) flags = VFIO_GROUP_FLAGS_VIABLE;
    if (!user.writable(VfioGroupStatus.size)) return -EFAULT;
    store32(user.bytes, user.at + VfioGroupStatus.offsetOf.flags, flags);
    return 0;
  }

  /** EFAULT, EBADF, EINVAL in a container already, ENODEV, EBADFD for a file that is no container, EPERM not viable. */
  #setContainer(user: Argument, process: Process): number {
    if (!user.readable(4)) return -EFAULT;
    const file = process.fds.get(s32.get(user.bytes, user.at));
    if (file === undefined) return -EBADF;
    const { group } = this;
    if (group.hasContainer) return -EINVAL;
    if (group.removed) return -ENODEV;
    if (file instanceof ContainerFile) return file.container.attach(group);
    if (file instanceof IommufdFile) return this.#setIommufd(file);
    return group.host.behaviour.vfioContainerBadFd ? -EBADFD : -EINVAL;
  }

  /** An iommufd becomes the container: its address space for that is made. A group without an IOMMU needs none: EINVAL. */
  #setIommufd(file: IommufdFile): number {
    const { group } = this;
    const { iommufd } = file;
    if (group.noiommu) {
      if (iommufd.vfioIoas !== undefined) return -EINVAL;
      iommufd.noiommu = true;
    } else {
      if (iommufd.noiommu) return -EINVAL;
      const ioas = iommufd.compatIoas();
      if (typeof ioas === "number") return ioas;
    }
    group.iommufdFile = file.get();
    return 0;
  }

  /** EINVAL without one, EBUSY while a device is open (an iommufd lets go all the same). */
  #unsetContainer(): number {
    const { group } = this;
    if (!group.hasContainer) return -EINVAL;
    if (group.container !== undefined && group.containerUsers !== 1) return -EBUSY;
    group.leaveContainer();
    return 0;
  }

  /** EINVAL for a name of a page or more, ENODEV for one that is no device of the group; EINVAL without an IOMMU. */
  #deviceFd(user: Argument, process: Process): number {
    const name = readName(user);
    if (typeof name === "number") return name;
    const { group } = this;
    for (const device of group.devices) {
      const match = device.match(name);
      if (match < 0) return match;
      if (match > 0) return hidden(device) ? -ENODEV : this.#openDevice(device, process);
    }
    return -ENODEV;
  }

  #openDevice(device: VfioDevice, process: Process): number {
    const { group } = this;
    if (group.container?.iommu === undefined && group.iommufdFile === undefined) return -EINVAL;
    if (process.fds.lowestFree() < 0) return -EMFILE;
    const opened = DeviceFile.openByGroup(device, this);
    return typeof opened === "number" ? opened : process.install(opened, true);
  }

  /** The KVM pseudo device tells which VM uses it, or none any more. */
  setVm(vm: object | undefined): void {
    this.vm = vm;
  }

  override release(): void {
    const { group } = this;
    group.leaveContainer();
    group.openedFile = undefined;
  }
}

const hidden = ({ leaving, openCount, host }: VfioDevice): boolean =>
  leaving && (host.behaviour.vfioLeavingHidden || openCount === 0);

/** A string of less than a page: EFAULT where it ends in nowhere, EINVAL where it is longer. */
function readName(user: Argument): string | number {
  let name = "";
  for (let length = 0; length < user.memory.pageSize; length++) {
    if (!user.readable(length + 1)) return -EFAULT;
    const byte = user.bytes[user.at + length];
    if (byte === 0) return name;
    name += String.fromCharCode(byte);
  }
  return -EINVAL;
}
