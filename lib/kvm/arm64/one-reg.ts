/**
 * KVM_GET_ONE_REG, KVM_SET_ONE_REG, KVM_GET_REG_LIST on arm64 (arch/arm64/kvm/guest.c, 6.1): `struct kvm_one_reg`, 16
 * bytes: id u64, address u64 of the value, whose size is in bits 55:52 of the id.
 *
 * Missing: the system registers but for MPIDR_EL1, SVE; timers do not count.
 */
import { E2BIG, EFAULT, EINVAL, ENOENT, ENOEXEC, EPERM } from "../../abi/errno.ts";
import {
  KVM_GET_ONE_REG,
  KVM_GET_REG_LIST,
  KVM_REG_ARM64,
  KVM_REG_SIZE_U32,
  KVM_REG_SIZE_U64,
  KVM_REG_SIZE_U128,
  KVM_SET_ONE_REG,
  KvmOneReg,
} from "../../abi/kvm.ts";
import {
  ARM64_SYS_REG,
  KVM_ARM_VCPU_PSCI_0_2,
  KVM_REG_ARM_CORE,
  KVM_REG_ARM_PSCI_VERSION,
  KVM_REG_ARM_PTIMER_CNT,
  KVM_REG_ARM_PTIMER_CTL,
  KVM_REG_ARM_PTIMER_CVAL,
  KVM_REG_ARM_TIMER_CNT,
  KVM_REG_ARM_TIMER_CTL,
  KVM_REG_ARM_TIMER_CVAL,
  KvmRegs,
} from "../../abi/kvm-arm64.ts";
import { load32, load64, loadNumber64, store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { Arm64Vcpu } from "./vcpu.ts";

const SIZE_SHIFT = 52n;
const CORE_INDEX = 0xffffn;
const CORE_KIND = 0x00ff_0000n;
const { offsetOf } = KvmRegs;
const PSTATE = 33 * 8;
/** EL1h, all interrupts masked */
const PSTATE_RESET = 0x3c5n;
/** where 64-bit registers end, and where V0 to V31, FPSR and FPCR stand */
const FP = offsetOf.fp_regs;
const VREGS_END = FP + 32 * 16;
const FP_END = VREGS_END + 8;
/** EL0t, EL1t, EL1h: the modes that a guest's PSTATE may have */
const MODES = new Set([0, 4, 5]);
const MPIDR_EL1 = ARM64_SYS_REG(3, 0, 0, 0, 5);
/** bit 31 reads as one */
const MPIDR_RES1 = 1n << 31n;
/** PSCI 1.1, as 6.1 and 6.12 offer it; 0.1 without the feature */
const PSCI_1_1 = 0x1_0001n;
const PSCI_0_1 = 0x0_0001n;

/** The affinity of a vCPU: 16 of them to a cluster (arch/arm64/kvm/sys_regs.c:reset_mpidr, 6.1). */
export const affinityOf = (id: number): number =>
  (id & 0xf) | (((id >>> 4) & 0xff) << 8) | (((id >>> 12) & 0xff) << 16);

/** Brings the registers into the state after KVM_ARM_VCPU_INIT. */
export function resetRegisters(vcpu: Arm64Vcpu): void {
  vcpu.core.fill(0);
  store64(vcpu.core, PSTATE, PSTATE_RESET);
  vcpu.cpu.mpidr = affinityOf(vcpu.vcpu.id);
  const { registers } = vcpu;
  registers.clear();
  for (const id of TIMERS) registers.set(id, 0n);
  registers.set(KVM_REG_ARM_PSCI_VERSION, vcpu.has(KVM_ARM_VCPU_PSCI_0_2) ? PSCI_1_1 : PSCI_0_1);
  registers.set(MPIDR_EL1, MPIDR_RES1 | BigInt(vcpu.cpu.mpidr));
}

const TIMERS = [
  KVM_REG_ARM_TIMER_CTL,
  KVM_REG_ARM_TIMER_CNT,
  KVM_REG_ARM_TIMER_CVAL,
  KVM_REG_ARM_PTIMER_CTL,
  KVM_REG_ARM_PTIMER_CNT,
  KVM_REG_ARM_PTIMER_CVAL,
];

/** How many bytes the core register at an offset of KvmRegs has; 0 for none. */
function coreSize(offset: number): number {
  if (offset < FP) return offset % 8 === 0 ? 8 : 0;
  if (offset < VREGS_END) return (offset - FP) % 16 === 0 ? 16 : 0;
  return offset < FP_END ? 4 : 0;
}

const isCore = (id: bigint): boolean => (id & CORE_KIND) === KVM_REG_ARM_CORE;
const sizeOf = (id: bigint): number => 2 ** Number((id >> SIZE_SHIFT) & 0xfn);

interface OneReg {
  id: bigint;
  value: Argument;
}

/** ENOEXEC, EFAULT; ENOENT for what is no register of arm64. */
function parse(file: VcpuFile, user: Argument): OneReg | number {
  if (!(file.vcpu.arch as Arm64Vcpu).initialized) return -ENOEXEC;
  if (!user.readable(KvmOneReg.size)) return -EFAULT;
  const id = load64(user.bytes, user.at);
  if (id >> 56n !== KVM_REG_ARM64 >> 56n) return -EINVAL;
  return { id, value: user.pointer(loadNumber64(user.bytes, user.at + 8)) };
}

/** Where a core register is, or −ENOENT (beyond the last), −EINVAL (within another one, another size). */
function coreOffset(id: bigint): number {
  const offset = Number(id & CORE_INDEX) * 4;
  const size = coreSize(offset);
  if (offset >= KvmRegs.size || offset + sizeOf(id) > KvmRegs.size) return -ENOENT;
  return size !== sizeOf(id) ? -EINVAL : offset;
}

function getOneReg(file: VcpuFile, user: Argument): number {
  const reg = parse(file, user);
  if (typeof reg === "number") return reg;
  const vcpu = file.vcpu.arch as Arm64Vcpu;
  if (isCore(reg.id)) {
    const offset = coreOffset(reg.id);
    if (offset < 0) return offset;
    const size = sizeOf(reg.id);
    if (!reg.value.writable(size)) return -EFAULT;
    reg.value.bytes.set(vcpu.core.subarray(offset, offset + size), reg.value.at);
    return 0;
  }
  const value = vcpu.registers.get(reg.id);
  if (value === undefined) return -ENOENT;
  if (!reg.value.writable(8)) return -EFAULT;
  store64(reg.value.bytes, reg.value.at, value);
  return 0;
}

function setOneReg(file: VcpuFile, user: Argument): number {
  const reg = parse(file, user);
  if (typeof reg === "number") return reg;
  const vcpu = file.vcpu.arch as Arm64Vcpu;
  if (isCore(reg.id)) {
    const offset = coreOffset(reg.id);
    if (offset < 0) return offset;
    const size = sizeOf(reg.id);
    if (!reg.value.readable(size)) return -EFAULT;
    const { bytes, at } = reg.value;
    if (offset === PSTATE && !MODES.has(load32(bytes, at) & 0x1f)) return -EINVAL;
    vcpu.core.set(bytes.subarray(at, at + size), offset);
    return 0;
  }
  const old = vcpu.registers.get(reg.id);
  if (old === undefined) return -ENOENT;
  if (!reg.value.readable(8)) return -EFAULT;
  const value = load64(reg.value.bytes, reg.value.at);
  if (reg.id === MPIDR_EL1 && value !== old) return -EINVAL;
  vcpu.registers.set(reg.id, value);
  return 0;
}

/** Ids of all core registers, in the order of KvmRegs. */
const coreIds: readonly bigint[] = (() => {
  const ids: bigint[] = [];
  for (let offset = 0; offset < FP_END; ) {
    const size = coreSize(offset);
    const sizeBits = size === 4 ? KVM_REG_SIZE_U32 : size === 8 ? KVM_REG_SIZE_U64 : KVM_REG_SIZE_U128;
    ids.push(KVM_REG_ARM64 | sizeBits | KVM_REG_ARM_CORE | BigInt(offset / 4));
    offset += size;
  }
  return ids;
})();

/** ENOEXEC; EPERM: not finalised; EFAULT; E2BIG: more than there is room for, whose number is written. */
function getRegList(file: VcpuFile, user: Argument): number {
  const vcpu = file.vcpu.arch as Arm64Vcpu;
  if (!vcpu.initialized) return -ENOEXEC;
  if (!vcpu.finalized) return -EPERM;
  if (!user.readable(8)) return -EFAULT;
  const room = loadNumber64(user.bytes, user.at);
  const ids = [...coreIds, ...vcpu.registers.keys()];
  if (!user.writable(8)) return -EFAULT;
  store64(user.bytes, user.at, ids.length);
  if (room < ids.length) return -E2BIG;
  if (!user.writable(ids.length * 8, 8)) return -EFAULT;
  ids.forEach((id, i) => void store64(user.bytes, user.at + 8 + i * 8, id));
  return 0;
}

export const oneRegIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_ONE_REG, getOneReg],
  [KVM_SET_ONE_REG, setOneReg],
  [KVM_GET_REG_LIST, getRegList],
];
