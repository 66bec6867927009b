/**
 * The hash page table of a guest as a file (KVM_PPC_GET_HTAB_FD), and its resizing (KVM_PPC_RESIZE_HPT_PREPARE,
 * …_COMMIT), in hypervisor mode (arch/powerpc/kvm/book3s_64_mmu_hv.c, 6.1). Guests start with radix trees, and have no
 * hash table: the file reads as empty, cannot be written, and there is nothing to resize.
 *
 * `struct kvm_get_htab_fd`, 32 bytes: flags u64 (1 bolted entries only, 2 for writing), start_index u64, reserved.
 *
 * Missing: the table of a guest that has chosen one.
 */
import { EFAULT, EINVAL, EMFILE, ENOMEM, ENOTTY } from "../../abi/errno.ts";
import { O_RDONLY, O_WRONLY } from "../../abi/fcntl.ts";
import {
  KVM_GET_HTAB_BOLTED_ONLY,
  KVM_GET_HTAB_WRITE,
  KVM_PPC_GET_HTAB_FD,
  KVM_PPC_RESIZE_HPT_COMMIT,
  KVM_PPC_RESIZE_HPT_PREPARE,
  KvmGetHtabFd,
  KvmPpcResizeHpt,
} from "../../abi/kvm-ppc.ts";
import { load64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import { File } from "../../kernel/file.ts";
import type { Process } from "../../kernel/process.ts";
import type { Entry, Handler } from "../dispatch.ts";
import type { Vm, VmFile } from "../vm.ts";
import { isHv } from "./vm.ts";

const FLAGS = BigInt(KVM_GET_HTAB_BOLTED_ONLY | KVM_GET_HTAB_WRITE);

class HtabFile extends File {
  readonly name = "anon_inode:kvm-htab";
  readonly #vm: Vm;

  constructor(vm: Vm, writable: boolean) {
    super(vm.kernel, writable ? O_WRONLY : O_RDONLY);
    this.#vm = vm.get();
  }

  override read(): number {
    return 0;
  }

  override write(): number {
    return -EINVAL;
  }

  override release(): void {
    this.#vm.put();
  }
}

/** ENOTTY in user mode; EFAULT, EINVAL for unknown flags, ENOMEM, EMFILE. */
function getHtabFd(file: VmFile, user: Argument, process: Process): number {
  const { vm } = file;
  if (!isHv(vm.host)) return -ENOTTY;
  if (!user.readable(KvmGetHtabFd.size)) return -EFAULT;
  const flags = load64(user.bytes, user.at);
  if ((flags & ~FLAGS) !== 0n) return -EINVAL;
  if (vm.kernel.faults.allocation("kvm_htab_ctx")) return -ENOMEM;
  if (process.fds.lowestFree() < 0) return -EMFILE;
  return process.install(new HtabFile(vm, (flags & BigInt(KVM_GET_HTAB_WRITE)) !== 0n), true);
}

const resize: Handler<VmFile> = (file, user) => {
  if (!isHv(file.vm.host)) return -ENOTTY;
  return user.readable(KvmPpcResizeHpt.size) ? -EINVAL : -EFAULT;
};

export const htabIoctls: readonly Entry<VmFile>[] = [
  [KVM_PPC_GET_HTAB_FD, getHtabFd],
  [KVM_PPC_RESIZE_HPT_PREPARE, resize],
  [KVM_PPC_RESIZE_HPT_COMMIT, resize],
];
