/**
 * What a guest may reach, set on the VM: KVM_X86_SET_MSR_FILTER, KVM_SET_PMU_EVENT_FILTER, KVM_SET_NR_MMU_PAGES
 * (arch/x86/kvm/x86.c:kvm_vm_ioctl_set_msr_filter, arch/x86/kvm/pmu.c:kvm_vm_ioctl_set_pmu_event_filter, 6.18).
 *
 * `struct kvm_msr_filter`, 392 bytes: flags u32, then from 8 on sixteen ranges of 24 bytes: flags u32, nmsrs u32, base
 * u32, bitmap pointer @16. `struct kvm_pmu_event_filter`, 32 bytes: action, nevents, fixed_counter_bitmap, flags u32,
 * pad, then nevents u64.
 */
import { E2BIG, EFAULT, EINVAL, ENOTTY } from "../../abi/errno.ts";
import {
  KVM_GET_NR_MMU_PAGES,
  KVM_MSR_FILTER_DEFAULT_DENY,
  KVM_MSR_FILTER_MAX_BITMAP_SIZE,
  KVM_MSR_FILTER_MAX_RANGES,
  KVM_MSR_FILTER_RANGE_VALID_MASK,
  KVM_MSR_FILTER_VALID_MASK,
  KVM_PMU_EVENT_DENY,
  KVM_PMU_EVENT_FLAG_MASKED_EVENTS,
  KVM_PMU_EVENT_FLAGS_VALID_MASK,
  KVM_SET_NR_MMU_PAGES,
  KVM_SET_PMU_EVENT_FILTER,
  KVM_X86_SET_MSR_FILTER,
  KvmMsrFilter,
  KvmMsrFilterRange,
  KvmPmuEventFilter,
} from "../../abi/kvm-x86.ts";
import { load32, load64, loadNumber64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VmFile } from "../vm.ts";
import type { X86Vm } from "./vm.ts";

interface MsrRange {
  readonly base: number;
  readonly count: number;
  /** KVM_MSR_FILTER_READ, KVM_MSR_FILTER_WRITE */
  readonly flags: number;
  readonly bitmap: Uint8Array;
}

/** A guest's MSR accesses: the first range that holds the MSR and the kind of access decides. */
export class MsrFilter {
  readonly #defaultAllow: boolean;
  readonly #ranges: readonly MsrRange[];

  constructor(defaultAllow: boolean, ranges: readonly MsrRange[]) {
    this.#defaultAllow = defaultAllow;
    this.#ranges = ranges;
  }

  /** `kind` is KVM_MSR_FILTER_READ or KVM_MSR_FILTER_WRITE. The MSRs of the x2APIC are never filtered. */
  allows(index: number, kind: number): boolean {
    if (index >= 0x800 && index <= 0x8ff) return true;
    for (const { base, count, flags, bitmap } of this.#ranges) {
      const bit = index - base;
      if (bit >= 0 && bit < count && (flags & kind) !== 0)
        return ((bitmap[bit >>> 3] >>> (bit & 7)) & 1) === 1;
    }
    return this.#defaultAllow;
  }
}

/** EFAULT; EINVAL for unknown flags, a range without flags or too long, and for a filter that denies everything. */
function setMsrFilter(file: VmFile, user: Argument): number {
  if (!user.readable(KvmMsrFilter.size)) return -EFAULT;
  const { bytes, at } = user;
  const flags = load32(bytes, at);
  if ((flags & ~KVM_MSR_FILTER_VALID_MASK) !== 0) return -EINVAL;
  const denies = (flags & KVM_MSR_FILTER_DEFAULT_DENY) !== 0;
  const given: number[] = [];
  for (let i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
    const range = at + KvmMsrFilter.offsetOf.ranges + i * KvmMsrFilterRange.size;
    if (load32(bytes, range + 4) !== 0) given.push(range);
  }
  if (given.length === 0 && denies) return -EINVAL;
  const ranges: MsrRange[] = [];
  for (const range of given) {
    const result = readRange(user, range);
    if (typeof result === "number") return result;
    ranges.push(result);
  }
  (file.vm.arch as X86Vm).msrFilter = new MsrFilter(!denies, ranges);
  return 0;
}

function readRange(user: Argument, at: number): MsrRange | number {
  const { bytes } = user;
  const flags = load32(bytes, at);
  const count = load32(bytes, at + 4);
  if ((flags & ~KVM_MSR_FILTER_RANGE_VALID_MASK) !== 0 || flags === 0) return -EINVAL;
  const size = Math.ceil(count / 64) * 8;
  if (size > KVM_MSR_FILTER_MAX_BITMAP_SIZE) return -EINVAL;
  const source = user.pointer(loadNumber64(bytes, at + KvmMsrFilterRange.offsetOf.bitmap));
  if (!source.readable(size)) return -EFAULT;
  const bitmap = source.bytes.slice(source.at, source.at + size);
  return { base: load32(bytes, at + 8), count, flags, bitmap };
}

/** KVM_PMU_EVENT_FILTER_MAX_EVENTS */
const MAX_EVENTS = 300;
/** what is neither event select (0 to 7), match (8 to 15), exclude (55) nor mask (56 to 63) of a masked event */
const MASKED_RESERVED = 0x007f_ffff_ffff_0000n;
/** bits 8 to 11 of an event select, which AMD has */
const AMD_EVENT_SELECT = 0xf_0000_0000n;

/** EFAULT, EINVAL for unknown flags or actions, E2BIG for more than 300 events. */
function setPmuEventFilter(file: VmFile, user: Argument): number {
  if (!user.readable(KvmPmuEventFilter.size)) return -EFAULT;
  const { action, nevents, flags } = KvmPmuEventFilter.at(user.bytes, user.at);
  if (action > KVM_PMU_EVENT_DENY || (flags & ~KVM_PMU_EVENT_FLAGS_VALID_MASK) !== 0) return -EINVAL;
  if (flags !== 0 && !file.vm.host.behaviour.maskedPmuEvents) return -EINVAL;
  if (nevents > MAX_EVENTS) return -E2BIG;
  if (!user.readable(nevents * 8, KvmPmuEventFilter.size)) return -EFAULT;
  const events: bigint[] = [];
  for (let i = 0; i < nevents; i++) events.push(load64(user.bytes, user.at + KvmPmuEventFilter.size + 8 * i));
  const masked = (flags & KVM_PMU_EVENT_FLAG_MASKED_EVENTS) !== 0;
  const { flavour } = file.vm.host;
  const reserved = flavour === "svm" ? MASKED_RESERVED & ~AMD_EVENT_SELECT : MASKED_RESERVED;
  if (masked && events.some((event) => (event & reserved) !== 0n)) return -EINVAL;
  (file.vm.arch as X86Vm).pmuEventFilter = { action, flags, events };
  return 0;
}

/** KVM_MIN_ALLOC_MMU_PAGES */
const MIN_MMU_PAGES = 64;

function setNrMmuPages(file: VmFile, user: Argument): number {
  if (user.value < MIN_MMU_PAGES) return -EINVAL;
  const vm = file.vm.arch as X86Vm;
  vm.hasMmuPages = true;
  vm.mmuPages = user.low;
  return 0;
}

/** one page of tables for so many of memory, where user space does not say */
const PAGES_A_TABLE = 50;

/** address spaces: the usual one, and that of system management mode */
const NORMAL = 0;
const MANAGEMENT = 1;

/** ENOTTY since it is gone. */
function getNrMmuPages({ vm }: VmFile): number {
  if (vm.host.behaviour.nrMmuPagesGone) return -ENOTTY;
  const { mmuPages } = vm.arch as X86Vm;
  const slots = [...vm.slots.list(NORMAL), ...vm.slots.list(MANAGEMENT)];
  if (mmuPages !== 0 || slots.length === 0) return mmuPages;
  const pages = slots.reduce((sum, slot) => sum + slot.pages, 0);
  return Math.max(MIN_MMU_PAGES, Math.floor(pages / PAGES_A_TABLE));
}

export const filterIoctls: readonly Entry<VmFile>[] = [
  [KVM_X86_SET_MSR_FILTER, setMsrFilter],
  [KVM_SET_PMU_EVENT_FILTER, setPmuEventFilter],
  [KVM_SET_NR_MMU_PAGES, setNrMmuPages],
  [KVM_GET_NR_MMU_PAGES, getNrMmuPages],
];
