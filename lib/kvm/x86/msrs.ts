/**
 * KVM_GET_MSRS, KVM_SET_MSRS on a vCPU, KVM_GET_MSRS on /dev/kvm for what the host reports as features, the lists of
 * both, and the same registers as KVM_GET/SET_ONE_REG (arch/x86/kvm/x86.c:msr_io, 6.1 and 6.18). Which MSR takes what
 * stands in msr-rules.ts.
 *
 * `struct kvm_msrs`, 8 bytes: nmsrs u32, pad u32, then entries of 16: index u32, reserved u32, data u64. The answer is how
 * many entries were dealt with: the first one that is refused ends it.
 */
import { E2BIG, EFAULT, EINVAL } from "../../abi/errno.ts";
import { KVM_GET_ONE_REG, KVM_GET_REG_LIST, KVM_SET_ONE_REG, KvmOneReg } from "../../abi/kvm.ts";
import {
  KVM_GET_MSR_FEATURE_INDEX_LIST,
  KVM_GET_MSR_INDEX_LIST,
  KVM_GET_MSRS,
  KVM_SET_MSRS,
  KVM_X86_REG_TYPE_MSR,
  KvmMsrEntry,
  KvmMsrs,
} from "../../abi/kvm-x86.ts";
import { load32, load64, loadNumber64, store32, store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import { copyOut } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import type { KvmSystem } from "../system.ts";
import type { VcpuFile } from "../vcpu.ts";
import { clearsRefused, type MsrRules, msrRules, otherwise } from "./msr-rules.ts";
import type { X86Vcpu } from "./vcpu.ts";

/** MAX_IO_MSRS */
const MAX_ENTRIES = 256;
const HEADER = KvmMsrs.size;
const ENTRY = KvmMsrEntry.size;

/** KVM_SYSTEM_TIME, ASYNC_PF_EN, STEAL_TIME, PV_EOI_EN, ASYNC_PF_INT */
const AGREED = [0x4b56_4d01, 0x4b56_4d02, 0x4b56_4d03, 0x4b56_4d04, 0x4b56_4d06];

/** What a vCPU keeps of its MSRs; those that are part of something else (EFER, MCE banks, APIC base) live there. */
export class Msrs {
  readonly values = new Map<number, bigint>();
  /** the guest's clock page is on */
  kvmclockOn = false;
  miscEnable: bigint;
  readonly #vcpu: X86Vcpu;
  readonly #rules: MsrRules;

  constructor(vcpu: X86Vcpu) {
    this.#vcpu = vcpu;
    this.#rules = msrRules(vcpu.vcpu.vm.host.flavour ?? "");
    this.miscEnable = vcpu.vcpu.vm.host.behaviour.miscEnableUnchecked ? 1n : 0x1800n;
  }

  /** INIT: what the guest had agreed with KVM is void, everything else stays. */
  init(): void {
    for (const index of AGREED) this.values.delete(index);
    this.kvmclockOn = false;
  }

  /** As user space reads it, or the guest: undefined for one that is not there. */
  get(index: number, byGuest = false): bigint | undefined {
    return (this.#rules.get(index) ?? otherwise(this.#vcpu, index)).read(this.#vcpu, index, byGuest);
  }

  /** As user space writes it, or the guest: false for a refusal. */
  set(index: number, value: bigint, byGuest = false): boolean {
    const { xen, vm } = this.#vcpu.vm;
    if (xen.msr !== 0 && index === xen.msr && (byGuest || !vm.host.behaviour.xenPageOfGuestsOnly))
      return xen.writePage(this.#vcpu, value);
    return (this.#rules.get(index) ?? otherwise(this.#vcpu, index)).write(this.#vcpu, index, value, byGuest);
  }
}

/** Goes through the entries until one is refused: how many were taken. What is read is written back. */
function transfer(
  user: Argument,
  one: (bytes: Uint8Array, at: number, index: number) => boolean,
  writeBack: boolean,
): number {
  if (!user.readable(HEADER)) return -EFAULT;
  const count = load32(user.bytes, user.at);
  if (count >= MAX_ENTRIES) return -E2BIG;
  if (!user.readable(count * ENTRY, HEADER)) return -EFAULT;
  if (writeBack && !user.writable(count * ENTRY, HEADER)) return -EFAULT;
  const { bytes } = user;
  let at = user.at + HEADER;
  for (let i = 0; i < count; i++, at += ENTRY) if (!one(bytes, at, load32(bytes, at))) return i;
  return count;
}

/** A read that is refused leaves 0, or before 6.12 what was there. */
function getMsrs(file: VcpuFile, user: Argument): number {
  const vcpu = file.vcpu.arch as X86Vcpu;
  const { msrs } = vcpu;
  return transfer(
    user,
    (bytes, at, index) => {
      const value = msrs.get(index);
      if (value !== undefined || clearsRefused(vcpu, index)) store64(bytes, at + 8, value ?? 0n);
      return value !== undefined;
    },
    true,
  );
}

function setMsrs(file: VcpuFile, user: Argument): number {
  const { msrs } = file.vcpu.arch as X86Vcpu;
  return transfer(user, (bytes, at, index) => msrs.set(index, load64(bytes, at + 8)), false);
}

/** On /dev/kvm: the features. Any other MSR of the list reads as 0, before 6.12 not at all. */
function getFeatureMsrs(file: KvmSystem, user: Argument): number {
  const { facts, behaviour } = file.host;
  const { msrFeatureValues } = facts;
  const others = behaviour.msrRefusalsCleared ? facts.msrIndices : undefined;
  return transfer(
    user,
    (bytes, at, index) => {
      const value = msrFeatureValues?.get(index) ?? (others?.includes(index) ? 0n : undefined);
      store64(bytes, at + 8, value ?? 0n);
      return value !== undefined;
    },
    true,
  );
}

/** E2BIG where the room is too small: then too the number of entries is told. */
function list(indices: readonly number[] | undefined, user: Argument): number {
  const known = indices ?? [];
  if (!user.readable(4)) return -EFAULT;
  const room = load32(user.bytes, user.at);
  if (!user.writable(4)) return -EFAULT;
  store32(user.bytes, user.at, known.length);
  if (room < known.length) return -E2BIG;
  const bytes = new Uint8Array(known.length * 4);
  known.forEach((index, i) => {
    store32(bytes, 4 * i, index);
  });
  return copyOut(user, bytes, 4) ? 0 : -EFAULT;
}

/** The MSR that a register id names: 64 bits wide, of x86, of type MSR, nothing reserved; −1 for another. */
function msrOf(bytes: Uint8Array, at: number): number {
  const high = load32(bytes, at + 4);
  return high === (0x2030_0000 | KVM_X86_REG_TYPE_MSR) >>> 0 ? load32(bytes, at) : -1;
}

/** EFAULT; EINVAL for an id that is no MSR, or an MSR that is refused. */
function getOneReg(file: VcpuFile, user: Argument): number {
  if (!file.vcpu.vm.host.behaviour.x86OneReg) return -EINVAL;
  if (!user.readable(KvmOneReg.size)) return -EFAULT;
  const index = msrOf(user.bytes, user.at);
  const value = index < 0 ? undefined : (file.vcpu.arch as X86Vcpu).msrs.get(index);
  if (value === undefined) return -EINVAL;
  const target = user.pointer(loadNumber64(user.bytes, user.at + KvmOneReg.offsetOf.addr));
  if (!target.writable(8)) return -EFAULT;
  store64(target.bytes, target.at, value);
  target.finish();
  return 0;
}

function setOneReg(file: VcpuFile, user: Argument): number {
  if (!file.vcpu.vm.host.behaviour.x86OneReg) return -EINVAL;
  if (!user.readable(KvmOneReg.size)) return -EFAULT;
  const index = msrOf(user.bytes, user.at);
  if (index < 0) return -EINVAL;
  const source = user.pointer(loadNumber64(user.bytes, user.at + KvmOneReg.offsetOf.addr));
  if (!source.readable(8)) return -EFAULT;
  return (file.vcpu.arch as X86Vcpu).msrs.set(index, load64(source.bytes, source.at)) ? 0 : -EINVAL;
}

/** No register has a name of its own here: the shadow stack pointer would, where CET is offered. */
function getRegList(file: VcpuFile, user: Argument): number {
  if (!file.vcpu.vm.host.behaviour.x86OneReg) return -EINVAL;
  if (!user.readable(8)) return -EFAULT;
  if (!user.writable(8)) return -EFAULT;
  store64(user.bytes, user.at, 0);
  return 0;
}

export const msrSystemIoctls: readonly Entry<KvmSystem>[] = [
  [KVM_GET_MSR_INDEX_LIST, (file, user) => list(file.host.facts.msrIndices, user)],
  [KVM_GET_MSR_FEATURE_INDEX_LIST, (file, user) => list(file.host.facts.msrFeatureIndices, user)],
  [KVM_GET_MSRS, getFeatureMsrs],
];

export const msrIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_MSRS, getMsrs],
  [KVM_SET_MSRS, setMsrs],
  [KVM_GET_ONE_REG, getOneReg],
  [KVM_SET_ONE_REG, setOneReg],
  [KVM_GET_REG_LIST, getRegList],
];
