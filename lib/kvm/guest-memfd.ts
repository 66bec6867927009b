/**
 * KVM_CREATE_GUEST_MEMFD: a file of memory for one VM (virt/kvm/guest_memfd.c:kvm_gmem_create, 6.18).
 * `struct kvm_create_guest_memfd`, 64 bytes: size u64, flags u64, reserved, which is not looked at.
 *
 * Missing: fallocate and the private half of memory; mapping works where GUEST_MEMFD_FLAG_MMAP was given.
 */
import { EFAULT, EINVAL, EMFILE, ENODEV, ENOMEM } from "../abi/errno.ts";
import {
  GUEST_MEMFD_FLAG_MMAP,
  KVM_CAP_GUEST_MEMFD_FLAGS,
  KVM_CREATE_GUEST_MEMFD,
  KvmCreateGuestMemfd,
} from "../abi/kvm.ts";
import { type Backing, PAGE_SIZE } from "../kernel/address-space.ts";
import type { Argument } from "../kernel/argument.ts";
import { File, O_RDWR } from "../kernel/file.ts";
import type { Process } from "../kernel/process.ts";
import type { Entry } from "./dispatch.ts";
import { beyond } from "./vcpu.ts";
import type { Vm, VmFile } from "./vm.ts";

export class GuestMemfd extends File {
  readonly name = "anon_inode:[kvm-gmem]";
  readonly vm: Vm;
  readonly size: bigint;
  readonly memfdFlags: number;
  #bytes: Uint8Array | undefined;

  constructor(vm: Vm, size: bigint, flags: number) {
    super(vm.kernel, O_RDWR);
    this.vm = vm.get();
    this.size = size;
    this.memfdFlags = flags;
  }

  /** ENODEV where the file was not made for it, EINVAL for a private mapping. */
  override mmap(offset: number, length: number, _prot: number, shared: boolean): Backing | number {
    if ((this.memfdFlags & GUEST_MEMFD_FLAG_MMAP) === 0) return -ENODEV;
    if (!shared) return -EINVAL;
    const end = Number(this.size);
    this.#bytes ??= new Uint8Array(end);
    if (offset + length <= end) return { bytes: this.#bytes.subarray(offset, offset + length) };
    return { device: beyond(this.#bytes, offset) };
  }

  override release(): void {
    this.vm.put();
  }
}

/** EFAULT; EINVAL for unknown flags, no size, a size that is not whole pages or negative; EMFILE, ENOMEM. */
function createGuestMemfd(file: VmFile, user: Argument, process: Process): number {
  if (!user.readable(KvmCreateGuestMemfd.size)) return -EFAULT;
  const { size, flags } = KvmCreateGuestMemfd.decode(user.bytes, user.at);
  const { vm } = file;
  const allowed = BigInt(vm.host.vmCapabilities.get(KVM_CAP_GUEST_MEMFD_FLAGS) ?? 0);
  if ((flags & ~allowed) !== 0n) return -EINVAL;
  if (size === 0n || size >> 63n !== 0n || size % BigInt(PAGE_SIZE) !== 0n) return -EINVAL;
  if (process.fds.lowestFree() < 0) return -EMFILE;
  if (vm.kernel.faults.allocation("kvm_gmem")) return -ENOMEM;
  return process.install(new GuestMemfd(vm, size, Number(flags)), true);
}

export const guestMemfdIoctls: readonly Entry<VmFile>[] = [[KVM_CREATE_GUEST_MEMFD, createGuestMemfd]];
