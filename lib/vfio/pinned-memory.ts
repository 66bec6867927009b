/**
 * Memory pinned for a device: whether every page can be pinned, and the account of RLIMIT_MEMLOCK that they are charged
 * to (drivers/vfio/vfio_iommu_type1.c:vfio_pin_pages_remote, vfio_lock_acct, 6.1). Every mapping of a page counts again.
 * A process with CAP_IPC_LOCK is charged and not limited. Device memory is not counted.
 *
 * Before 6.2 a page of private memory that was never written is the shared zero page to a device that only reads: not
 * counted. Later it is made a page of its own first.
 */
import { EFAULT, ENOMEM } from "../abi/errno.ts";
import { PROT_READ, PROT_WRITE } from "../abi/mman.ts";
import type { AddressSpace } from "../kernel/address-space.ts";
import type { Kernel } from "../kernel/kernel.ts";
import { type Process, RLIMIT_MEMLOCK } from "../kernel/process.ts";

/** Who is charged for pinned pages, and how many more it may be. */
export interface Account {
  /** pages that it may still be charged */
  room(process: Process): number;
  /** charges pages (a negative number gives them back) */
  charge(pages: number): void;
}

class MemoryAccount implements Account {
  pages = 0;

  room(process: Process): number {
    return limitOf(process) - this.pages;
  }

  charge(pages: number): void {
    this.pages += pages;
  }
}

const accounts = new WeakMap<object, MemoryAccount>();

/** The account of an address space (mm->locked_vm), or of a kernel's one user (user->locked_vm). */
export function accountOf(owner: AddressSpace | Kernel): Account & { readonly pages: number } {
  let account = accounts.get(owner);
  if (account === undefined) accounts.set(owner, (account = new MemoryAccount()));
  return account;
}

/** How many pages the process may have charged: RLIMIT_MEMLOCK. */
export function limitOf(process: Process): number {
  if (!process.dropped.has("CAP_IPC_LOCK")) return Number.POSITIVE_INFINITY;
  return Math.floor((process.limits.get(RLIMIT_MEMLOCK) ?? DEFAULT_LIMIT) / process.mm.pageSize);
}

/** 8 MiB (include/uapi/linux/resource.h:MLOCK_LIMIT, 6.1) */
const DEFAULT_LIMIT = 8 << 20;

/** Pins a page-aligned range of the process: pages to charge, −EFAULT, or −ENOMEM over its limit. */
export function pin(
  process: Process,
  address: number,
  size: number,
  write: boolean,
  zeroPageCounts: boolean,
  account: Account = accountOf(process.mm),
): number {
  const { mm } = process;
  const { pageSize } = mm;
  const room = account.room(process);
  let counted = 0;
  for (let done = 0; done < size; ) {
    const mapping = mm.find(address + done);
    if (mapping === undefined || (mapping.prot & (write ? PROT_WRITE : PROT_READ)) === 0) return -EFAULT;
    const end = Math.min(address + size, Math.ceil(mapping.end / pageSize) * pageSize);
    const pages = (end - address - done) / pageSize;
    const zeroPage = !zeroPageCounts && !write && !mapping.shared && !mapping.touched;
    if (mapping.device === undefined && !zeroPage) counted += pages;
    if (counted > room) return -ENOMEM;
    done += pages * pageSize;
  }
  return counted;
}
