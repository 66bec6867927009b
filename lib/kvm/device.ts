/**
 * KVM_CREATE_DEVICE and the files it makes (virt/kvm/kvm_main.c:kvm_ioctl_create_device, kvm_device_ioctl, 6.1): a
 * device answers three requests about attributes, group and number each. Which types there are is the architecture's
 * matter; the VFIO pseudo device is everywhere.
 *
 * `struct kvm_create_device`, 12 bytes: type u32, fd u32 (written), flags u32. `struct kvm_device_attr`, 24 bytes:
 * flags u32, group u32, attr u64, addr u64 (a pointer whose target depends on the attribute).
 */
import { EBUSY, EFAULT, EIO, EMFILE, ENODEV, ENOMEM, ENOTTY, EPERM } from "../abi/errno.ts";
import { O_RDWR } from "../abi/fcntl.ts";
import {
  KVM_CREATE_DEVICE_TEST,
  KVM_GET_DEVICE_ATTR,
  KVM_HAS_DEVICE_ATTR,
  KVM_SET_DEVICE_ATTR,
  KvmCreateDevice,
  KvmDeviceAttr,
} from "../abi/kvm.ts";
import { store32 } from "../abi/struct.ts";
import type { Argument } from "../kernel/argument.ts";
import { File } from "../kernel/file.ts";
import type { Process } from "../kernel/process.ts";
import type { Vm, VmFile } from "./vm.ts";

/** An attribute as a device sees it; `user` is what `addr` points to. */
export interface DeviceAttr {
  readonly group: number;
  readonly attr: bigint;
  readonly flags: number;
  readonly user: Argument;
  readonly process: Process;
}

/** A device: what it does not define answers EPERM (set, get, has) as in Linux. */
export interface KvmDevice {
  readonly name: string;
  set?(attr: DeviceAttr): number;
  get?(attr: DeviceAttr): number;
  has?(attr: DeviceAttr): number;
  /** its file was closed, for kinds that end with their file */
  release?(): void;
  /** the VM is gone */
  destroy?(): void;
}

/** Makes a device of one type: the device, or −errno. */
export type CreateDevice = (vm: Vm) => KvmDevice | number;

/** ENODEV for a type that this host does not have, EBUSY, EMFILE, ENOMEM, EFAULT. Flags other than TEST are ignored. */
export function createDevice(file: VmFile, user: Argument, process: Process): number {
  if (!user.readable(KvmCreateDevice.size)) return -EFAULT;
  const { bytes, at } = user;
  const { type, flags } = KvmCreateDevice.at(bytes, at);
  const vm = file.vm;
  const create = vm.host.arch.deviceTypes.get(type);
  if (create === undefined || vm.host.arch.hasDevice?.(type, vm.host) === false) return -ENODEV;
  if ((flags & KVM_CREATE_DEVICE_TEST) !== 0) return 0;
  if (vm.kernel.faults.allocation("kvm_device")) return -ENOMEM;
  const device = create(vm);
  if (typeof device === "number") return device;
  if (process.fds.lowestFree() < 0) {
    device.destroy?.();
    return -EMFILE;
  }
  vm.devices.push(device);
  const fd = process.install(new DeviceFile(vm, device), true);
  if (!user.writable(KvmCreateDevice.size)) return -EFAULT;
  store32(user.bytes, user.at + KvmCreateDevice.offsetOf.fd, fd);
  return 0;
}

export class DeviceFile extends File {
  readonly vm: Vm;
  readonly device: KvmDevice;

  constructor(vm: Vm, device: KvmDevice) {
    super(vm.kernel, O_RDWR);
    this.vm = vm.get();
    this.device = device;
  }

  get name(): string {
    return `anon_inode:${this.device.name}`;
  }

  override ioctl(process: Process, request: number, user: Argument): number {
    if (this.vm.mm !== process.mm || this.vm.dead) return -EIO;
    const number = this.vm.host.arch.encoding === "powerpc" ? "powerpc" : "number";
    const { device } = this;
    if (request === KVM_SET_DEVICE_ATTR[number]) return access(device, device.set, user, process);
    if (request === KVM_GET_DEVICE_ATTR[number]) return access(device, device.get, user, process);
    if (request === KVM_HAS_DEVICE_ATTR[number]) return access(device, device.has, user, process);
    return -ENOTTY;
  }

  override release(): void {
    if (this.device.release !== undefined) {
      const index = this.vm.devices.indexOf(this.device);
      if (index >= 0) this.vm.devices.splice(index, 1);
      this.device.release();
    }
    this.vm.put();
  }
}

function access(
  device: KvmDevice,
  accessor: ((attr: DeviceAttr) => number) | undefined,
  user: Argument,
  process: Process,
): number {
  if (accessor === undefined) return -EPERM;
  if (!user.readable(KvmDeviceAttr.size)) return -EFAULT;
  const { flags, group, attr, addr } = KvmDeviceAttr.decode(user.bytes, user.at);
  return accessor.call(device, { flags, group, attr, user: user.pointer(Number(addr)), process });
}

/** Refuses a second device of a kind. */
export const onlyOne = (vm: Vm, name: string): number =>
  vm.devices.some((device) => device.name === name) ? -EBUSY : 0;
