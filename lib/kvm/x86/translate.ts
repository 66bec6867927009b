/**
 * KVM_TRANSLATE: from a guest's linear address to its physical one (arch/x86/kvm/x86.c:kvm_arch_vcpu_ioctl_translate,
 * 6.1). `struct kvm_translation`, 24 bytes: linear_address u64, physical_address u64, valid u8, writeable u8, usermode
 * u8. Without paging the two are the same.
 *
 * Missing: paging outside long mode, which pvm does not keep, and the fifth level.
 */
import { EFAULT } from "../../abi/errno.ts";
import { KVM_TRANSLATE, KvmTranslation } from "../../abi/kvm.ts";
import { load64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { X86Vcpu } from "./vcpu.ts";

const PRESENT = 1n;
const LARGE = 1n << 7n;
const FRAME = 0x000f_ffff_ffff_f000n;
const UNMAPPED = 0xffff_ffff_ffff_ffffn;

/** Walks the four levels of page tables: the physical address, or undefined. */
export function walk(vcpu: X86Vcpu, linear: bigint): bigint | undefined {
  const { registers } = vcpu;
  if (!registers.isPaging) return linear === UNMAPPED ? undefined : linear;
  let table = registers.sregs.cr3 & FRAME;
  for (let shift = 39n; shift >= 12n; shift -= 9n) {
    const entry = readPhysical(vcpu, table + (((linear >> shift) & 0x1ffn) << 3n));
    if (entry === undefined || (entry & PRESENT) === 0n) return undefined;
    const offset = (1n << shift) - 1n;
    if (shift === 12n || (shift < 39n && (entry & LARGE) !== 0n))
      return (entry & FRAME & ~offset) | (linear & offset);
    table = entry & FRAME;
  }
  return undefined;
}

function readPhysical(vcpu: X86Vcpu, address: bigint): bigint | undefined {
  const { vm } = vcpu.vcpu;
  const user = vm.slots.userAddress(Number(address));
  const bytes = user < 0 ? null : vm.mm.copyIn(user, 8);
  return bytes === null ? undefined : load64(bytes, 0);
}

/** EFAULT. An address that is not mapped is no error: `valid` says so. */
function translate(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmTranslation.size)) return -EFAULT;
  const vcpu = file.vcpu.arch as X86Vcpu;
  const physical = walk(vcpu, KvmTranslation.at(user.bytes, user.at).linear_address);
  if (!user.writable(KvmTranslation.size)) return -EFAULT;
  const answer = KvmTranslation.at(user.bytes, user.at);
  answer.physical_address = physical ?? UNMAPPED;
  answer.valid = physical === undefined ? 0 : 1;
  answer.writeable = 1;
  answer.usermode = 0;
  return 0;
}

export const translateIoctls: readonly Entry<VcpuFile>[] = [[KVM_TRANSLATE, translate]];
