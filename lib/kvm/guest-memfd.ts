/**
 * KVM_CREATE_GUEST_MEMFD: a file of memory for one VM (virt/kvm/guest_memfd.c:kvm_gmem_create, 6.18).
 * `struct kvm_create_guest_memfd`, 64 bytes: size u64, flags u64, reserved, which is not looked at.
 *
 * A slot on a file that can be mapped (GUEST_MEMFD_FLAG_MMAP) has its memory there, for the guest; what KVM itself reads and
 * writes, and the guest of a slot on another file, has that of the program. Once the file is gone, so is that memory:
 * KVM_EXIT_MEMORY_FAULT. A program finds memory behind its mapping only with GUEST_MEMFD_FLAG_INIT_SHARED, else SIGBUS.
 *
 * Missing: fallocate and the private half of memory.
 */
import { EBADF, EFAULT, EINVAL, EMFILE, ENODEV, ENOMEM } from "../abi/errno.ts";
import { O_RDWR } from "../abi/fcntl.ts";
import {
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  KVM_CAP_GUEST_MEMFD,
  KVM_CAP_GUEST_MEMFD_FLAGS,
  KVM_CREATE_GUEST_MEMFD,
  KvmCreateGuestMemfd,
} from "../abi/kvm.ts";
import { type Backing, PAGE_SIZE } from "../kernel/address-space.ts";
import type { Argument } from "../kernel/argument.ts";
import { File } from "../kernel/file.ts";
import type { Process } from "../kernel/process.ts";
import type { Entry } from "./dispatch.ts";
import type { Vm, VmFile } from "./vm.ts";

/** it is a regular file, of any size */
const O_LARGEFILE = 0x8000;

/** Pages of a file that a memory slot uses. */
interface Binding {
  readonly start: number;
  readonly end: number;
}

/** What a memory slot has of a file. */
export interface SlotMemfd {
  /** the guest's memory is here, not in the program's */
  readonly holdsGuest: boolean;
  /** the bytes of the whole file; undefined once it is gone */
  readonly bytes: Uint8Array | undefined;
  /** where the slot starts in them */
  readonly offset: number;
  /** gives the pages back */
  unbind(): void;
}

export class GuestMemfd extends File {
  readonly name = "anon_inode:[kvm-gmem]";
  readonly vm: Vm;
  readonly size: bigint;
  readonly memfdFlags: number;
  #bytes: Uint8Array | undefined;
  #released = false;
  #bindings: Binding[] = [];

  constructor(vm: Vm, size: bigint, flags: number) {
    super(vm.kernel, O_RDWR | O_LARGEFILE);
    this.vm = vm.get();
    this.size = size;
    this.memfdFlags = flags;
  }

  /** ENODEV where the file was not made for it, EINVAL for a private mapping; one may reach beyond the end. */
  override mmap(offset: number, length: number, _prot: number, shared: boolean): Backing | number {
    if ((this.memfdFlags & GUEST_MEMFD_FLAG_MMAP) === 0) return -ENODEV;
    if (!shared) return -EINVAL;
    if ((this.memfdFlags & GUEST_MEMFD_FLAG_INIT_SHARED) === 0) return { bytes: new Uint8Array(0) };
    return { bytes: this.bytes!.subarray(offset, offset + length) };
  }

  /** What is in it; undefined once nobody has it open or mapped. */
  get bytes(): Uint8Array | undefined {
    if (this.#released) return undefined;
    this.#bytes ??= new Uint8Array(Number(this.size));
    return this.#bytes;
  }

  /** Gives pages to a memory slot. EINVAL: beyond the end, or some of them are another slot's. */
  bind(offset: bigint, pages: number): Binding | number {
    const bytes = BigInt(pages) * BigInt(PAGE_SIZE);
    if (offset >> 63n !== 0n || offset + bytes > this.size) return -EINVAL;
    const start = Number(offset / BigInt(PAGE_SIZE));
    const end = start + pages;
    if (this.#bindings.some((other) => start < other.end && other.start < end)) return -EINVAL;
    const binding = { start, end };
    this.#bindings.push(binding);
    return binding;
  }

  /** The slot is gone. */
  unbind(binding: Binding): void {
    this.#bindings = this.#bindings.filter((other) => other !== binding);
  }

  override release(): void {
    this.#released = true;
    this.vm.put();
  }
}

/**
 * Binds the file of a descriptor to a slot of a VM: what the slot has of it, or −errno (virt/kvm/guest_memfd.c:kvm_gmem_bind,
 * 6.18). EBADF; EINVAL: another kind of file, another VM's, and as `bind`.
 */
export function bindGuestMemfd(
  vm: Vm,
  process: Process,
  fd: number,
  offset: bigint,
  pages: number,
): SlotMemfd | number {
  const file = process.fds.get(fd);
  if (file === undefined) return -EBADF;
  if (!(file instanceof GuestMemfd) || file.vm !== vm) return -EINVAL;
  const binding = file.bind(offset, pages);
  if (typeof binding === "number") return binding;
  return {
    // pvm looks at the program's memory alone (live 6.18)
    holdsGuest: (file.memfdFlags & GUEST_MEMFD_FLAG_MMAP) !== 0 && vm.host.flavour !== "pvm",
    offset: Number(offset),
    get bytes() {
      return file.bytes;
    },
    unbind: () => file.unbind(binding),
  };
}

/** EFAULT; EINVAL for unknown flags, no size, a size that is not whole pages or negative; EMFILE, ENOMEM. */
function createGuestMemfd(file: VmFile, user: Argument, process: Process): number {
  const { vm } = file;
  if (!vm.host.systemCapabilities.has(KVM_CAP_GUEST_MEMFD)) return vm.host.arch.unknownVmIoctl;
  if (!user.readable(KvmCreateGuestMemfd.size)) return -EFAULT;
  const { size, flags } = KvmCreateGuestMemfd.decode(user.bytes, user.at);
  const allowed = BigInt(vm.host.vmCapabilities.get(KVM_CAP_GUEST_MEMFD_FLAGS) ?? 0);
  if ((flags & ~allowed) !== 0n) return -EINVAL;
  if (size === 0n || size >> 63n !== 0n || size % BigInt(PAGE_SIZE) !== 0n) return -EINVAL;
  if (process.fds.lowestFree() < 0) return -EMFILE;
  if (vm.kernel.faults.allocation("kvm_gmem")) return -ENOMEM;
  return process.install(new GuestMemfd(vm, size, Number(flags)), false);
}

export const guestMemfdIoctls: readonly Entry<VmFile>[] = [[KVM_CREATE_GUEST_MEMFD, createGuestMemfd]];
