/**
 * KVM_CREATE_SPAPR_TCE, …_64: the table by which a guest's firmware calls (H_PUT_TCE) say what a bus may reach, as a
 * file to be mapped: one u64 a page (arch/powerpc/kvm/book3s_64_vio.c, 6.1).
 *
 * `struct kvm_create_spapr_tce`, 16 bytes: liobn u64, window_size u32 in bytes of pages of 4 KiB.
 * `struct kvm_create_spapr_tce_64`, 32 bytes: liobn u64, page_shift u32, flags u32, offset u64 and size u64 in pages.
 *
 * Missing: the hypercalls that fill the table, IOMMU groups behind it.
 */
import { EBUSY, EFAULT, EINVAL, EMFILE, ENOMEM } from "../../abi/errno.ts";
import { O_RDWR } from "../../abi/fcntl.ts";
import {
  KVM_CREATE_SPAPR_TCE,
  KVM_CREATE_SPAPR_TCE_64,
  KvmCreateSpaprTce,
  KvmCreateSpaprTce64,
} from "../../abi/kvm-ppc.ts";
import type { Backing } from "../../kernel/address-space.ts";
import type { Argument } from "../../kernel/argument.ts";
import { File } from "../../kernel/file.ts";
import type { Process } from "../../kernel/process.ts";
import type { Entry } from "../dispatch.ts";
import type { Vm, VmFile } from "../vm.ts";
import type { PpcVm } from "./vm.ts";

const ENTRY = 8;
const MIN_SHIFT = 12;
const MAX_SHIFT = 34;
/** a table larger than this is more memory than a host has */
const MAX_BYTES = 2 ** 32;

export class SpaprTceFile extends File {
  readonly name = "anon_inode:kvm-spapr-tce";
  readonly #vm: Vm;
  readonly #liobn: bigint;
  readonly #length: number;
  #bytes: Uint8Array | undefined;

  constructor(vm: Vm, liobn: bigint, entries: number) {
    super(vm.kernel, O_RDWR);
    this.#vm = vm.get();
    this.#liobn = liobn;
    this.#length = Math.ceil((entries * ENTRY) / vm.host.pageSize) * vm.host.pageSize;
  }

  override mmap(offset: number, length: number): Backing | number {
    if (offset + length > this.#length) return -EINVAL;
    this.#bytes ??= new Uint8Array(this.#length);
    return { bytes: this.#bytes.subarray(offset, offset + length) };
  }

  override release(): void {
    (this.#vm.arch as PpcVm).tceTables.delete(this.#liobn);
    this.#vm.put();
  }
}

/** EINVAL: an empty table, pages smaller than 4 KiB or larger than 16 GiB, an end beyond 64 bits; ENOMEM, EBUSY, EMFILE. */
function create(
  vm: Vm,
  liobn: bigint,
  shift: number,
  offset: bigint,
  size: bigint,
  process: Process,
): number {
  if (size === 0n || shift < MIN_SHIFT || shift > MAX_SHIFT) return -EINVAL;
  if (BigInt.asUintN(64, offset + size) > 0xffff_ffff_ffff_ffffn >> BigInt(shift)) return -EINVAL;
  if (size * BigInt(ENTRY) > MAX_BYTES || vm.kernel.faults.allocation("kvmppc_spapr_tce_table"))
    return -ENOMEM;
  const { tceTables } = vm.arch as PpcVm;
  if (tceTables.has(liobn)) return -EBUSY;
  if (process.fds.lowestFree() < 0) return -EMFILE;
  tceTables.add(liobn);
  return process.install(new SpaprTceFile(vm, liobn, Number(size)), true);
}

function createTce(file: VmFile, user: Argument, process: Process): number {
  if (!user.readable(KvmCreateSpaprTce.size)) return -EFAULT;
  const { liobn, window_size } = KvmCreateSpaprTce.at(user.bytes, user.at);
  return create(file.vm, liobn, MIN_SHIFT, 0n, BigInt(window_size >>> MIN_SHIFT), process);
}

function createTce64(file: VmFile, user: Argument, process: Process): number {
  if (!user.readable(KvmCreateSpaprTce64.size)) return -EFAULT;
  const { liobn, page_shift, flags, offset, size } = KvmCreateSpaprTce64.decode(user.bytes, user.at);
  return flags !== 0 ? -EINVAL : create(file.vm, liobn, page_shift, offset, size, process);
}

export const spaprTceIoctls: readonly Entry<VmFile>[] = [
  [KVM_CREATE_SPAPR_TCE, createTce],
  [KVM_CREATE_SPAPR_TCE_64, createTce64],
];
