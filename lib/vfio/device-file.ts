/**
 * The file of a device (drivers/vfio/vfio_main.c:vfio_device_fops, 6.12). Opened by its group it works at once; opened by
 * its character device it answers EINVAL until it is bound to an iommufd. Everything else is the device's.
 */
import { EINVAL } from "../abi/errno.ts";
import type { Backing } from "../kernel/address-space.ts";
import type { Argument } from "../kernel/argument.ts";
import { File, O_RDWR } from "../kernel/file.ts";
import type { Process } from "../kernel/process.ts";
import { genericNumber } from "./generic-number.ts";
import type { GroupFile } from "./group.ts";
import type { VfioDevice } from "./vfio-device.ts";

export class DeviceFile extends File {
  readonly device: VfioDevice;
  /** the group's file that gave it, held while this one is open; none for a character device */
  readonly groupFile: GroupFile | undefined;
  /** whether the device is open on this file */
  granted = false;
  /** the VM that uses it, by the KVM pseudo device */
  vm: object | undefined;
  override readonly stream = false;

  constructor(device: VfioDevice, groupFile: GroupFile | undefined, flags = O_RDWR) {
    super(device.host.kernel, flags);
    this.device = device;
    this.groupFile = groupFile;
  }

  /** the KVM pseudo device takes device files since 6.6 */
  get isVfio(): boolean {
    return this.device.host.behaviour.kvmVfioDeviceFiles;
  }

  /** A file on an open device, or why it does not open. */
  static openByGroup(device: VfioDevice, groupFile: GroupFile): DeviceFile | number {
    const file = new DeviceFile(device, groupFile);
    const failed = file.openDevice();
    if (failed < 0) return failed;
    groupFile.get();
    device.group.containerUsers++;
    return file;
  }

  get name(): string {
    return this.groupFile === undefined
      ? `/dev/vfio/devices/vfio${this.device.index}`
      : "anon_inode:[vfio-device]";
  }

  /** One more file has the device open; the first one opens it. */
  openDevice(): number {
    const { device } = this;
    if (device.openCount === 0) {
      const failed = device.open();
      if (failed < 0) return failed;
    }
    device.openCount++;
    this.granted = true;
    return 0;
  }

  /** One file less; the last one closes the device, which then goes if its driver is to leave it. */
  closeDevice(): void {
    const { device } = this;
    this.granted = false;
    if (--device.openCount === 0) device.close();
  }

  override ioctl(process: Process, request: number, user: Argument): number {
    if (!this.granted) return -EINVAL;
    return this.device.ioctl(process, genericNumber(process, request), user);
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
    const { device, groupFile } = this;
    if (this.granted) this.closeDevice();
    if (groupFile !== undefined) {
      device.group.containerUsers--;
      groupFile.put();
    }
    if (device.leaving && device.openCount === 0) device.host.removeDevice(device);
  }
}
