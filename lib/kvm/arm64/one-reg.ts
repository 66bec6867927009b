/**
 * KVM_GET_ONE_REG, KVM_SET_ONE_REG, KVM_GET_REG_LIST on arm64, and the registers of KvmRegs (arch/arm64/kvm/guest.c,
 * 6.1). `struct kvm_one_reg`, 16 bytes: id u64, address u64 of the value, whose size is in bits 55:52 of the id.
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
import { KVM_ARM_VCPU_EL1_32BIT, KVM_REG_ARM_CORE, KvmRegs } from "../../abi/kvm-arm64.ts";
import { load32, load64, loadNumber64, store32, store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { Arm64Vcpu } from "./vcpu.ts";

const SIZE_SHIFT = 52n;
const CORE_INDEX = 0xffffn;
const KIND = 0x0fff_0000n;
const { offsetOf } = KvmRegs;
const PC = 32 * 8;
const PSTATE = 33 * 8;
/** EL1h or, for a guest of 32 bits, Supervisor; interrupts masked */
const PSTATE_RESET = 0x3c5;
const PSTATE_RESET_32 = 0x1d3;
/** where 64-bit registers end, and where V0 to V31, FPSR and FPCR stand */
const WORDS_END = offsetOf.spsr + 5 * 8;
const FP = offsetOf.fp_regs;
const VREGS_END = FP + 32 * 16;
const FP_END = VREGS_END + 8;
/** Modes of PSTATE: EL0t, EL1t, EL1h; User of 32 bits; and those that only a guest of 32 bits has. */
const MODES_64 = new Set([0, 4, 5]);
const MODE_USER = 0x10;
const MODES_32 = new Set([0x11, 0x12, 0x13, 0x17, 0x1b, 0x1f]);
const MODE_SYSTEM = 0x1f;
const MODE_32 = 0x10;

/** Brings the registers into the state after KVM_ARM_VCPU_INIT. */
export function resetRegisters(vcpu: Arm64Vcpu): void {
  vcpu.core.fill(0);
  store64(vcpu.core, PSTATE, vcpu.has(KVM_ARM_VCPU_EL1_32BIT) ? PSTATE_RESET_32 : PSTATE_RESET);
  vcpu.registers.reset();
}

/** How many bytes the core register at an offset of KvmRegs has; 0 for none. */
function coreSize(offset: number): number {
  if (offset < WORDS_END) return offset % 8 === 0 ? 8 : 0;
  if (offset < FP) return 0;
  if (offset < VREGS_END) return (offset - FP) % 16 === 0 ? 16 : 0;
  return offset < FP_END ? 4 : 0;
}

const isCore = (id: bigint): boolean => (id & KIND) === KVM_REG_ARM_CORE;
const sizeOf = (id: bigint): number => 2 ** Number((id >> SIZE_SHIFT) & 0xfn);

interface OneReg {
  id: bigint;
  value: Argument;
}

/** ENOEXEC, EFAULT; EINVAL for what is no register of arm64. */
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
  if (offset + sizeOf(id) >= KvmRegs.size) return -ENOENT;
  return coreSize(offset) !== sizeOf(id) ? -EINVAL : offset;
}

function getOneReg(file: VcpuFile, user: Argument): number {
  const reg = parse(file, user);
  if (typeof reg === "number") return reg;
  const vcpu = file.vcpu.arch as Arm64Vcpu;
  const size = sizeOf(reg.id);
  if (isCore(reg.id)) {
    const offset = coreOffset(reg.id);
    if (offset < 0) return offset;
    if (!reg.value.writable(size)) return -EFAULT;
    reg.value.bytes.set(vcpu.core.subarray(offset, offset + size), reg.value.at);
    return 0;
  }
  const value = vcpu.registers.read(reg.id);
  if (value === undefined) return -ENOENT;
  if (!reg.value.writable(size)) return -EFAULT;
  if (size === 4) store32(reg.value.bytes, reg.value.at, Number(value));
  else store64(reg.value.bytes, reg.value.at, value);
  return 0;
}

function setOneReg(file: VcpuFile, user: Argument): number {
  const reg = parse(file, user);
  if (typeof reg === "number") return reg;
  const vcpu = file.vcpu.arch as Arm64Vcpu;
  if (isCore(reg.id)) return setCore(vcpu, reg);
  if (vcpu.registers.read(reg.id) === undefined) return -ENOENT;
  const size = sizeOf(reg.id);
  if (!reg.value.readable(size)) return -EFAULT;
  const { bytes, at } = reg.value;
  return vcpu.registers.write(reg.id, size === 4 ? BigInt(load32(bytes, at)) : load64(bytes, at));
}

/** EINVAL for a mode that the guest cannot have. */
function setCore(vcpu: Arm64Vcpu, { id, value }: OneReg): number {
  const offset = coreOffset(id);
  if (offset < 0) return offset;
  const size = sizeOf(id);
  if (!value.readable(size)) return -EFAULT;
  const { bytes, at } = value;
  if (offset === PSTATE) {
    const mode = load32(bytes, at) & 0x1f;
    const narrow = vcpu.has(KVM_ARM_VCPU_EL1_32BIT);
    if (mode !== MODE_USER && !(narrow ? MODES_32 : MODES_64).has(mode)) return -EINVAL;
  }
  vcpu.core.set(bytes.subarray(at, at + size), offset);
  if ((vcpu.core[PSTATE] & MODE_32) !== 0) narrowRegisters(vcpu.core);
  return 0;
}

/** In a mode of 32 bits the upper halves of general registers are zero: X0 to X14 in User and System, else all. */
function narrowRegisters(core: Uint8Array): void {
  const mode = core[PSTATE] & 0x1f;
  const count = mode === MODE_USER || mode === MODE_SYSTEM ? 15 : 31;
  for (let i = 0; i < count; i++) store32(core, i * 8 + 4, 0);
  store32(core, PC + 4, 0);
}

/** Ids of all core registers, in the order of KvmRegs. */
const coreIds: readonly bigint[] = (() => {
  const ids: bigint[] = [];
  for (let offset = 0; offset < FP_END; offset += coreSize(offset) || 4) {
    const size = coreSize(offset);
    if (size === 0) continue;
    const sizeBits = size === 4 ? KVM_REG_SIZE_U32 : size === 8 ? KVM_REG_SIZE_U64 : KVM_REG_SIZE_U128;
    ids.push(KVM_REG_ARM64 | sizeBits | KVM_REG_ARM_CORE | BigInt(offset / 4));
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
  const ids = [...coreIds, ...vcpu.registers.ids];
  if (!user.writable(8)) return -EFAULT;
  store64(user.bytes, user.at, ids.length);
  if (room < ids.length) return -E2BIG;
  if (!user.writable(ids.length * 8, 8)) return -EFAULT;
  ids.forEach((id, i) => {
    store64(user.bytes, user.at + 8 + i * 8, id);
  });
  return 0;
}

export const oneRegIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_ONE_REG, getOneReg],
  [KVM_SET_ONE_REG, setOneReg],
  [KVM_GET_REG_LIST, getRegList],
];
