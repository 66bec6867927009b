/**
 * KVM_ARM_GET_REG_WRITABLE_MASKS: which bits of the identification registers user space may change, as 6.12 and 7.2 told
 * (arch/arm64/kvm/sys_regs.c:kvm_vm_ioctl_get_reg_writable_masks, 6.12). `struct reg_mask_range`, 64 bytes: addr u64, range
 * u32, reserved. Behind `addr` 192 masks, u64 each: at 64 · (op1: 0, 1, 3) + 8 · CRm + op2 of registers with op0 3, CRn 0.
 *
 * Hosts without 32-bit programs, which have no registers of AArch32, are missing.
 */
import { EFAULT, EINVAL } from "../../abi/errno.ts";
import { KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES } from "../../abi/kvm.ts";
import {
  KVM_ARM_FEATURE_ID_RANGE,
  KVM_ARM_FEATURE_ID_RANGE_SIZE,
  KVM_ARM_GET_REG_WRITABLE_MASKS,
  RegMaskRange,
} from "../../abi/kvm-arm64.ts";
import { store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VmFile } from "../vm.ts";

type Masks = readonly (readonly [index: number, mask: bigint])[];

/** AArch32: all of each register, but for four places that have none */
const NO_AARCH32 = new Set([11, 27, 29, 31]);
const aarch32: Masks = Array.from({ length: 24 }, (_, i) => [8 + i, 0xffff_ffffn] as const).filter(
  ([index]) => !NO_AARCH32.has(index),
);

// biome-ignore format: a table
const masks612: Masks = [
  ...aarch32,
  [32, 0xffff00f00f00ffffn], // ID_AA64PFR0_EL1
  [33, 0xf000000ffn], // ID_AA64PFR1_EL1
  [34, 0xf00000000n], // ID_AA64PFR2_EL1
  [36, 0xff0ff0f0fff00ffn], // ID_AA64ZFR0_EL1
  [39, 0xf0000003n], // ID_AA64FPFR0_EL1
  [40, 0xf000f00f0fn], // ID_AA64DFR0_EL1
  [48, 0xfffffffffffffff0n], // ID_AA64ISAR0_EL1
  [49, 0xffffffff00fff00fn], // ID_AA64ISAR1_EL1
  [50, 0xffff0fffffff00ffn], // ID_AA64ISAR2_EL1
  [56, 0xff00f000ffffff0fn], // ID_AA64MMFR0_EL1
  [57, 0xfffff0f00ffff00fn], // ID_AA64MMFR1_EL1
  [58, 0xf0ff000ff00fffffn], // ID_AA64MMFR2_EL1
  [59, 0xf0f0fn], // ID_AA64MMFR3_EL1
  [65, 0x7fffffffffffn], // CLIDR_EL1
  [129, 0x300f000fn], // CTR_EL0
];
// biome-ignore format: a table
const masks72: Masks = [
  ...aarch32,
  [0, 0xffffffffn], // MIDR_EL1
  [6, 0xffffffffffffffffn], // REVIDR_EL1
  [32, 0xffff00f0ff00ffffn], // ID_AA64PFR0_EL1
  [33, 0xf00000f0000f0ffn], // ID_AA64PFR1_EL1
  [34, 0xf0000fff0n], // ID_AA64PFR2_EL1
  [36, 0xfffff0f0ffff0ffn], // ID_AA64ZFR0_EL1
  [39, 0xfc0080ffn], // ID_AA64FPFR0_EL1
  [40, 0xf000f00f0fn], // ID_AA64DFR0_EL1
  [48, 0xfffffffff0fffff0n], // ID_AA64ISAR0_EL1
  [49, 0xffffffff00fff00fn], // ID_AA64ISAR1_EL1
  [50, 0xffffffffffff00ffn], // ID_AA64ISAR2_EL1
  [51, 0xff0f00f0n], // ID_AA64ISAR3_EL1
  [56, 0xff00ffffffffff0fn], // ID_AA64MMFR0_EL1
  [57, 0xffffffff0ffff00fn], // ID_AA64MMFR1_EL1
  [58, 0xf0ff000ff00fffffn], // ID_AA64MMFR2_EL1
  [59, 0xf0fffn], // ID_AA64MMFR3_EL1
  [60, 0xf00000n], // ID_AA64MMFR4_EL1
  [65, 0x7fffffffffffn], // CLIDR_EL1
  [71, 0xffffffffffffffffn], // AIDR_EL1
  [129, 0x300fc00fn], // CTR_EL0
];

/** EFAULT; EINVAL: another range, reserved words. */
function getWritableMasks({ vm }: VmFile, user: Argument): number {
  if ((vm.host.vmCapabilities.get(KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES) ?? 0) === 0)
    return vm.host.arch.unknownVmIoctl;
  if (!user.readable(RegMaskRange.size)) return -EFAULT;
  const { addr, range, reserved } = RegMaskRange.decode(user.bytes, user.at);
  if (range !== KVM_ARM_FEATURE_ID_RANGE || reserved.some((word) => word !== 0)) return -EINVAL;
  const target = user.pointer(Number(addr));
  const size = 8 * KVM_ARM_FEATURE_ID_RANGE_SIZE;
  if (!target.writable(size)) return -EFAULT;
  target.bytes.fill(0, target.at, target.at + size);
  for (const [index, mask] of vm.host.behaviour.armMoreWritableIds ? masks72 : masks612)
    store64(target.bytes, target.at + 8 * index, mask);
  return 0;
}

export const writableMaskIoctls: readonly Entry<VmFile>[] = [
  [KVM_ARM_GET_REG_WRITABLE_MASKS, getWritableMasks],
];
