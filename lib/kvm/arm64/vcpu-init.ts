/**
 * KVM_ARM_VCPU_INIT, KVM_ARM_PREFERRED_TARGET, KVM_ARM_VCPU_FINALIZE, the MP state and the pending exceptions of a vCPU
 * (arch/arm64/kvm/arm.c:kvm_vcpu_set_target, reset.c, guest.c, 6.1 and 6.12).
 *
 * `struct kvm_vcpu_init`, 32 bytes: target u32 @0, features 7 × u32 @4 (a mask, of which the first word is used).
 */
import { EFAULT, EINVAL, ENOENT, ENOEXEC, EPERM } from "../../abi/errno.ts";
import {
  KVM_CAP_ARM_EL1_32BIT,
  KVM_CAP_ARM_INJECT_SERROR_ESR,
  KVM_CAP_ARM_PMU_V3,
  KVM_CAP_ARM_PTRAUTH_ADDRESS,
  KVM_CAP_ARM_SVE,
  KVM_GET_MP_STATE,
  KVM_SET_MP_STATE,
} from "../../abi/kvm.ts";
import {
  KVM_ARM_PREFERRED_TARGET,
  KVM_ARM_TARGET_GENERIC_V8,
  KVM_ARM_VCPU_EL1_32BIT,
  KVM_ARM_VCPU_FINALIZE,
  KVM_ARM_VCPU_INIT,
  KVM_ARM_VCPU_PMU_V3,
  KVM_ARM_VCPU_POWER_OFF,
  KVM_ARM_VCPU_PSCI_0_2,
  KVM_ARM_VCPU_PTRAUTH_ADDRESS,
  KVM_ARM_VCPU_PTRAUTH_GENERIC,
  KVM_ARM_VCPU_SVE,
  KVM_GET_VCPU_EVENTS,
  KVM_SET_VCPU_EVENTS,
  KvmVcpuEvents,
  KvmVcpuInit,
} from "../../abi/kvm-arm64.ts";
import { load32, store32, store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { KvmHost } from "../host.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { VmFile } from "../vm.ts";
import { resetRegisters } from "./one-reg.ts";
import type { Arm64Vcpu } from "./vcpu.ts";

const FEATURE_WORDS = 7;
/** Features that releases know: until 7.1 seven, later two more, of nested virtualisation. */
const FEATURES = 7;
const FEATURES_NESTED = 9;

const RUNNABLE = 0;
const STOPPED = 5;
const SUSPENDED = 10;

const archOf = (file: VcpuFile): Arm64Vcpu => file.vcpu.arch as Arm64Vcpu;

/** Features that the host's processor and KVM offer. */
function supportedFeatures(host: KvmHost): number {
  const offers = (capability: number) => (host.vmCapabilities.get(capability) ?? 0) > 0;
  let mask = (1 << KVM_ARM_VCPU_POWER_OFF) | (1 << KVM_ARM_VCPU_PSCI_0_2);
  if (offers(KVM_CAP_ARM_EL1_32BIT)) mask |= 1 << KVM_ARM_VCPU_EL1_32BIT;
  if (offers(KVM_CAP_ARM_PMU_V3)) mask |= 1 << KVM_ARM_VCPU_PMU_V3;
  if (offers(KVM_CAP_ARM_SVE)) mask |= 1 << KVM_ARM_VCPU_SVE;
  if (offers(KVM_CAP_ARM_PTRAUTH_ADDRESS))
    mask |= (1 << KVM_ARM_VCPU_PTRAUTH_ADDRESS) | (1 << KVM_ARM_VCPU_PTRAUTH_GENERIC);
  return mask;
}

/**
 * EFAULT; EINVAL: another target, a feature that the host lacks, half of pointer authentication, other features than
 * before or than another vCPU has; ENOENT: a feature that the release does not know. Again with the same: a reset.
 */
function init(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmVcpuInit.size)) return -EFAULT;
  const { bytes, at } = user;
  const vcpu = archOf(file);
  const { host } = vcpu.vm.vm;
  if (load32(bytes, at) !== KVM_ARM_TARGET_GENERIC_V8) return -EINVAL;
  const features = load32(bytes, at + 4);
  const known = host.behaviour.armNestedFeatures ? FEATURES_NESTED : FEATURES;
  if (features >>> known !== 0) return -ENOENT;
  for (let i = 1; i < FEATURE_WORDS; i++) if (load32(bytes, at + 4 + 4 * i) !== 0) return -ENOENT;
  if ((features & ~supportedFeatures(host)) !== 0) return -EINVAL;
  const pointerAuth = (features >>> KVM_ARM_VCPU_PTRAUTH_ADDRESS) & 3;
  if (pointerAuth === 1 || pointerAuth === 2) return -EINVAL;
  if (vcpu.initialized && vcpu.features !== features) return -EINVAL;
  const other = vcpu.vm.vcpus.find((each) => each.initialized);
  if (host.behaviour.armSharedFeatures && other !== undefined && other.features !== features) return -EINVAL;
  vcpu.features = features;
  vcpu.initialized = true;
  resetRegisters(vcpu);
  vcpu.wires = 0;
  vcpu.serrorPending = false;
  vcpu.mpState = vcpu.has(KVM_ARM_VCPU_POWER_OFF) ? STOPPED : RUNNABLE;
  return 0;
}

/** The only target there is, no features. */
function preferredTarget(_file: VmFile, user: Argument): number {
  if (!user.writable(KvmVcpuInit.size)) return -EFAULT;
  user.bytes.fill(0, user.at, user.at + KvmVcpuInit.size);
  store32(user.bytes, user.at, KVM_ARM_TARGET_GENERIC_V8);
  return 0;
}

/** ENOEXEC; EFAULT; EINVAL: nothing to finalise by that name; EPERM: twice. */
function finalize(file: VcpuFile, user: Argument): number {
  const vcpu = archOf(file);
  if (!vcpu.initialized) return -ENOEXEC;
  if (!user.readable(4)) return -EFAULT;
  if (load32(user.bytes, user.at) !== KVM_ARM_VCPU_SVE || !vcpu.has(KVM_ARM_VCPU_SVE)) return -EINVAL;
  if (vcpu.sveFinalized) return -EPERM;
  vcpu.sveFinalized = true;
  return 0;
}

function getMpState(file: VcpuFile, user: Argument): number {
  if (!user.writable(4)) return -EFAULT;
  store32(user.bytes, user.at, archOf(file).mpState);
  return 0;
}

function setMpState(file: VcpuFile, user: Argument): number {
  if (!user.readable(4)) return -EFAULT;
  const state = load32(user.bytes, user.at);
  if (state !== RUNNABLE && state !== STOPPED && state !== SUSPENDED) return -EINVAL;
  archOf(file).mpState = state;
  return 0;
}

/** of the ESR of an SError without one: its syndrome is the implementation's own (inject_fault.c:kvm_inject_vabt, 6.1) */
const ESR_ELX_ISV = 1n << 24n;

const hasEsr = (file: VcpuFile): boolean =>
  (file.vcpu.vm.host.vmCapabilities.get(KVM_CAP_ARM_INJECT_SERROR_ESR) ?? 0) !== 0;

/** ENOEXEC before KVM_ARM_VCPU_INIT on later releases; earlier ones answer. */
function getEvents(file: VcpuFile, user: Argument): number {
  const vcpu = archOf(file);
  if (!vcpu.initialized && file.vcpu.vm.host.behaviour.armEventsNeedInit) return -ENOEXEC;
  if (!user.writable(KvmVcpuEvents.size)) return -EFAULT;
  const { bytes, at } = user;
  bytes.fill(0, at, at + KvmVcpuEvents.size);
  bytes[at] = Number(vcpu.serrorPending);
  bytes[at + 1] = Number(hasEsr(file));
  if (vcpu.serrorPending && hasEsr(file)) store64(bytes, at + 8, vcpu.serrorEsr);
  return 0;
}

/** EINVAL: reserved bytes, an ESR that the host cannot inject. Missing: the abort of `ext_dabt_pending`. */
function setEvents(file: VcpuFile, user: Argument): number {
  const vcpu = archOf(file);
  if (!vcpu.initialized && file.vcpu.vm.host.behaviour.armEventsNeedInit) return -ENOEXEC;
  if (!user.readable(KvmVcpuEvents.size)) return -EFAULT;
  const { exception, reserved } = KvmVcpuEvents.decode(user.bytes, user.at);
  if (reserved.some((word) => word !== 0) || exception.pad.some((byte) => byte !== 0)) return -EINVAL;
  if (exception.serror_pending === 0) return 0;
  if (exception.serror_has_esr !== 0) {
    if (!hasEsr(file) || exception.serror_esr >> 25n !== 0n) return -EINVAL;
    vcpu.serrorEsr = exception.serror_esr;
  } else vcpu.serrorEsr = ESR_ELX_ISV;
  vcpu.serrorPending = true;
  return 0;
}

export const vcpuInitIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_ARM_VCPU_INIT, init],
  [KVM_ARM_VCPU_FINALIZE, finalize],
  [KVM_GET_MP_STATE, getMpState],
  [KVM_SET_MP_STATE, setMpState],
  [KVM_GET_VCPU_EVENTS, getEvents],
  [KVM_SET_VCPU_EVENTS, setEvents],
];

export const targetIoctls: readonly Entry<VmFile>[] = [[KVM_ARM_PREFERRED_TARGET, preferredTarget]];
