/**
 * What a POWER host tells about memory management and about its processor, and the MMU that a guest chooses
 * (arch/powerpc/kvm/powerpc.c:kvm_arch_vm_ioctl, book3s_hv.c, book3s_pr.c, 6.1). The two hosts in hypervisor mode are a
 * POWER9 that is a guest itself (pseries: guests use radix trees only) and a bare one (powernv); their answers are
 * recorded (6.12).
 *
 * `struct kvm_ppc_smmu_info`, 592 bytes: flags u64, slb_size u32, data_keys u16, instr_keys u16, then 8 segment sizes of
 * 72 bytes: page_shift u32, slb_enc u32, 8 page sizes of page_shift u32, pte_enc u32. `struct kvm_ppc_rmmu_info`, 96
 * bytes: 8 geometries of 8 bytes (page_shift, 4 level_bits), 8 encodings u32. `struct kvm_ppc_cpu_char`, 32 bytes.
 *
 * Missing: the hash page table itself (see htab.ts).
 */
import { EFAULT, EINVAL, ENOTTY, EOPNOTSUPP } from "../../abi/errno.ts";
import {
  KVM_PPC_1T_SEGMENTS,
  KVM_PPC_ALLOCATE_HTAB,
  KVM_PPC_CONFIGURE_V3_MMU,
  KVM_PPC_GET_CPU_CHAR,
  KVM_PPC_GET_PVINFO,
  KVM_PPC_GET_RMMU_INFO,
  KVM_PPC_GET_SMMU_INFO,
  KVM_PPC_MMUV3_GTSE,
  KVM_PPC_MMUV3_RADIX,
  KVM_PPC_NO_HASH,
  KVM_PPC_PAGE_SIZES_REAL,
  KVM_PPC_SVM_OFF,
  KvmPpcCpuChar,
  KvmPpcMmuv3Cfg,
  KvmPpcPvinfo,
  KvmPpcRmmuInfo,
  KvmPpcSmmuInfo,
} from "../../abi/kvm-ppc.ts";
import { load32, store32, store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VmFile } from "../vm.ts";
import { hasXive, isHv } from "./vm.ts";

/** smallest and largest order of a hash page table */
const MIN_HPT_ORDER = 18;
const MAX_HPT_ORDER = 46;

const SEGMENT_SIZES = 16;
const SEGMENT = 72;

/** A segment size with one page size after another: page_shift and pte_enc. */
type Segment = [pageShift: number, slbEncoding: number, ...pages: [pageShift: number, pteEncoding: number][]];

const hvSegments: Segment[] = [
  [12, 0, [12, 0], [24, 0x38]],
  [16, 0x110, [16, 1], [24, 8]],
  [24, 0x100, [24, 0]],
];
const prSegments = (multiple: boolean): Segment[] => [
  [12, 0, [12, 0]],
  ...(multiple ? [[16, 0x110, [16, 1]] as Segment] : []),
  [24, 0x100, [24, 0]],
];

/** In user mode 64 KiB pages are told of once there is a vCPU. */
function smmuInfo(file: VmFile): Uint8Array {
  const { host, vcpus } = file.vm;
  const info = new Uint8Array(KvmPpcSmmuInfo.size);
  const hv = isHv(host);
  const multiple = hv || vcpus.length !== 0;
  let flags = multiple ? KVM_PPC_1T_SEGMENTS : 0;
  if (hv) flags |= KVM_PPC_PAGE_SIZES_REAL | (hasXive(host) ? 0 : KVM_PPC_NO_HASH);
  store32(info, 0, flags);
  store32(info, 8, hv ? 32 : 64);
  if (hv) store32(info, 12, (32 << 16) | 32);
  (hv ? hvSegments : prSegments(multiple)).forEach(([shift, encoding, ...pages], i) => {
    const at = SEGMENT_SIZES + i * SEGMENT;
    store32(info, at, shift);
    store32(info, at + 4, encoding);
    pages.forEach(([pageShift, pteEncoding], j) => {
      store32(info, at + 8 + j * 8, pageShift);
      store32(info, at + 12 + j * 8, pteEncoding);
    });
  });
  return info;
}

/** Radix trees of pages of 4 and of 64 KiB; a host that is a guest names the encodings of 2 MiB and 1 GiB too. */
function rmmuInfo(file: VmFile): Uint8Array {
  const info = new Uint8Array(KvmPpcRmmuInfo.size);
  info.set([12, 9, 9, 9, 13, 0, 0, 0, 16, 5, 9, 9, 13]);
  const encodings = [0x0000_000c, 0xa000_0010, 0x2000_0015, 0x4000_001e];
  (hasXive(file.vm.host) ? encodings.slice(0, 2) : encodings).forEach((encoding, i) => {
    store32(info, 64 + i * 4, encoding);
  });
  return info;
}

/** What mitigations the processor needs; the bare host's firmware says nothing. */
function cpuChar(file: VmFile): Uint8Array {
  const info = new Uint8Array(KvmPpcCpuChar.size);
  if (hasXive(file.vm.host)) return info;
  store64(info, 0, 0x0400_0000_0000_0000n);
  store64(info, 8, 0xe000_0000_0000_0000n);
  store64(info, 16, 0xff40_0000_0000_0000n);
  store64(info, 24, 0xe400_0000_0000_0000n);
  return info;
}

/** The instructions of a hypercall, big-endian, and "idle" as a feature. */
function pvInfo(): Uint8Array {
  const info = new Uint8Array(KvmPpcPvinfo.size);
  info.set([1, 0, 0, 0, 0x3c, 0, 0x4b, 0x56, 0x60, 0, 0x4d, 0x21, 0x44, 0, 0, 2, 0x60]);
  return info;
}

const answer = (user: Argument, info: Uint8Array): number => (user.copyOut(info) ? 0 : -EFAULT);

/**
 * KVM_PPC_CONFIGURE_V3_MMU: flags u64 (1 radix, 2 the guest may flush its own TLB), process_table u64 (bit 63 radix, its
 * size as an order in the low five bits). EINVAL: user mode, unknown flags, flags that disagree, an order above 24, a
 * hash table where the host has none.
 */
function configureMmu(file: VmFile, user: Argument): number {
  const { host } = file.vm;
  if (!isHv(host)) return -EINVAL;
  if (!user.readable(KvmPpcMmuv3Cfg.size)) return -EFAULT;
  const { flags, process_table } = KvmPpcMmuv3Cfg.at(user.bytes, user.at);
  if ((flags & ~BigInt(KVM_PPC_MMUV3_RADIX | KVM_PPC_MMUV3_GTSE)) !== 0n) return -EINVAL;
  const radix = (flags & BigInt(KVM_PPC_MMUV3_RADIX)) !== 0n;
  if (process_table >> 63n !== (radix ? 1n : 0n)) return -EINVAL;
  if ((process_table & 0x1fn) > 24n) return -EINVAL;
  return radix || hasXive(host) ? 0 : -EINVAL;
}

/** KVM_PPC_ALLOCATE_HTAB: the order, u32. EOPNOTSUPP on a host that is a guest, ENOTTY in user mode, EFAULT, EINVAL. */
function allocateHtab(file: VmFile, user: Argument): number {
  const { host } = file.vm;
  if (!isHv(host)) return -ENOTTY;
  if (!hasXive(host)) return -EOPNOTSUPP;
  if (!user.readable(4)) return -EFAULT;
  const order = load32(user.bytes, user.at);
  return order < MIN_HPT_ORDER || order > MAX_HPT_ORDER ? -EINVAL : 0;
}

export const mmuIoctls: readonly Entry<VmFile>[] = [
  [KVM_PPC_GET_PVINFO, (_file, user) => answer(user, pvInfo())],
  [KVM_PPC_GET_SMMU_INFO, (file, user) => answer(user, smmuInfo(file))],
  [KVM_PPC_GET_RMMU_INFO, (file, user) => (isHv(file.vm.host) ? answer(user, rmmuInfo(file)) : -EINVAL)],
  [KVM_PPC_GET_CPU_CHAR, (file, user) => answer(user, cpuChar(file))],
  [KVM_PPC_CONFIGURE_V3_MMU, configureMmu],
  [KVM_PPC_ALLOCATE_HTAB, allocateHtab],
  [KVM_PPC_SVM_OFF, () => 0],
];
