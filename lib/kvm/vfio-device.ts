/**
 * The VFIO pseudo device: user space shows KVM the VFIO files whose devices the VM uses (virt/kvm/vfio.c, 6.1 and
 * 6.12; Documentation/virt/kvm/devices/vfio.rst). One a VM. A file added is held until it is removed or the device's
 * own file is closed.
 *
 * Attributes of group KVM_DEV_VFIO_FILE: ADD and DEL take a pointer to an s32 descriptor; SET_SPAPR_TCE is POWER's, and
 * takes two of them.
 *
 * Missing: whether a guest's table fits a window of the group (SET_SPAPR_TCE takes every table).
 */
import { EBADF, EEXIST, EFAULT, EINVAL, ENOENT, ENXIO } from "../abi/errno.ts";
import {
  KVM_DEV_VFIO_FILE,
  KVM_DEV_VFIO_FILE_ADD,
  KVM_DEV_VFIO_FILE_DEL,
  KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE,
  KvmVfioSpaprTce,
} from "../abi/kvm.ts";
import { s32 } from "../abi/struct.ts";
import type { Argument } from "../kernel/argument.ts";
import type { File } from "../kernel/file.ts";
import type { Process } from "../kernel/process.ts";
import { type DeviceAttr, type KvmDevice, onlyOne } from "./device.ts";
import type { Vm } from "./vm.ts";

/** A file that VFIO knows as one of its own: it is told which VM uses it. */
export interface VfioFile extends File {
  /** whether the VFIO pseudo device of this release takes it */
  readonly isVfio: boolean;
  setVm(vm: Vm | undefined): void;
}

const isVfio = (file: File): file is VfioFile => "isVfio" in file && file.isVfio === true;

function letGo(file: File): void {
  if (isVfio(file)) file.setVm(undefined);
  file.put();
}

class VfioDevice implements KvmDevice {
  readonly name = "kvm-vfio";
  readonly #vm: Vm;
  #files: File[] = [];

  constructor(vm: Vm) {
    this.#vm = vm;
  }

  has({ group, attr }: DeviceAttr): number {
    if (group !== KVM_DEV_VFIO_FILE) return -ENXIO;
    if (attr === BigInt(KVM_DEV_VFIO_FILE_ADD) || attr === BigInt(KVM_DEV_VFIO_FILE_DEL)) return 0;
    return attr === BigInt(KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE) && this.#vm.host.arch.name === "ppc64le"
      ? 0
      : -ENXIO;
  }

  set({ group, attr, user, process }: DeviceAttr): number {
    if (group !== KVM_DEV_VFIO_FILE) return -ENXIO;
    if (attr === BigInt(KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE) && this.#vm.host.arch.name === "ppc64le")
      return this.#setSpaprTce(user, process);
    const adding = attr === BigInt(KVM_DEV_VFIO_FILE_ADD);
    if (!adding && attr !== BigInt(KVM_DEV_VFIO_FILE_DEL)) return -ENXIO;
    if (!user.readable(4)) return -EFAULT;
    const file = process.fds.get(s32.get(user.bytes, user.at));
    if (file === undefined) return -EBADF;
    return adding ? this.#add(file) : this.#delete(file);
  }

  #add(file: File): number {
    if (!isVfio(file)) return -EINVAL;
    if (this.#files.includes(file)) return -EEXIST;
    this.#files.push(file.get());
    file.setVm(this.#vm);
    return 0;
  }

  #delete(file: File): number {
    const index = this.#files.indexOf(file);
    if (index < 0) return -ENOENT;
    this.#files.splice(index, 1);
    letGo(file);
    return 0;
  }

  /**
   * A guest's table (KVM_CREATE_SPAPR_TCE) is to be shown by a group's window: EFAULT, EBADF, ENOENT for a group that was
   * not added, EINVAL for a file that is no table.
   */
  #setSpaprTce(user: Argument, process: Process): number {
    if (!user.readable(KvmVfioSpaprTce.size)) return -EFAULT;
    const { groupfd, tablefd } = KvmVfioSpaprTce.decode(user.bytes, user.at);
    const group = process.fds.get(groupfd);
    if (group === undefined) return -EBADF;
    if (!this.#files.includes(group)) return -ENOENT;
    const table = process.fds.get(tablefd);
    if (table === undefined) return -EBADF;
    return table.name === "anon_inode:kvm-spapr-tce" ? 0 : -EINVAL;
  }

  /** Its file was closed: whatever it held is let go. */
  release(): void {
    for (const held of this.#files.splice(0)) letGo(held);
  }

  destroy(): void {
    this.release();
  }
}

/** EBUSY for a second one in a VM. */
export const createVfioDevice = (vm: Vm): KvmDevice | number => onlyOne(vm, "kvm-vfio") || new VfioDevice(vm);
