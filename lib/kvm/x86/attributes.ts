/**
 * KVM_HAS/GET/SET_DEVICE_ATTR on /dev/kvm (which XSAVE components a guest may have) and on a vCPU (the offset of its
 * TSC), as in arch/x86/kvm/x86.c:kvm_x86_dev_get_attr, kvm_vcpu_ioctl_device_attr (6.1 and 6.18).
 */
import { EFAULT, EINVAL, ENXIO } from "../../abi/errno.ts";
import {
  KVM_GET_DEVICE_ATTR,
  KVM_HAS_DEVICE_ATTR,
  KVM_SET_DEVICE_ATTR,
  KvmDeviceAttr,
} from "../../abi/kvm.ts";
import { KVM_X86_GRP_SYSTEM, KVM_X86_XCOMP_GUEST_SUPP } from "../../abi/kvm-x86.ts";
import { load32, load64, loadNumber64, store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { KvmSystem } from "../system.ts";
import type { VcpuFile } from "../vcpu.ts";
import { isSevAttribute } from "./sev.ts";
import type { X86Vcpu } from "./vcpu.ts";

/** KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET (arch/x86/include/uapi/asm/kvm.h) */
const VCPU_TSC_CTRL = 0;
const VCPU_TSC_OFFSET = 0;

const { group, attr, addr } = KvmDeviceAttr.offsetOf;

/** Whether the one attribute there is was asked for. */
const asks = (user: Argument, ofGroup: number, ofAttr: number): boolean =>
  load32(user.bytes, user.at + group) === ofGroup && loadNumber64(user.bytes, user.at + attr) === ofAttr;

function give(user: Argument, value: number | bigint): number {
  const target = user.pointer(loadNumber64(user.bytes, user.at + addr));
  if (!target.writable(8)) return -EFAULT;
  store64(target.bytes, target.at, value);
  target.finish();
  return 0;
}

function hasVcpu(_file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmDeviceAttr.size)) return -EFAULT;
  return asks(user, VCPU_TSC_CTRL, VCPU_TSC_OFFSET) ? 0 : -ENXIO;
}

const isSev = ({ host }: KvmSystem, user: Argument): boolean =>
  isSevAttribute(host, load32(user.bytes, user.at + group), loadNumber64(user.bytes, user.at + attr));

function hasSystem(file: KvmSystem, user: Argument): number {
  if (!user.readable(KvmDeviceAttr.size)) return -EFAULT;
  if (isSev(file, user)) return 0;
  return asks(user, KVM_X86_GRP_SYSTEM, KVM_X86_XCOMP_GUEST_SUPP) ? 0 : -ENXIO;
}

function getSystem(file: KvmSystem, user: Argument): number {
  if (!user.readable(KvmDeviceAttr.size)) return -EFAULT;
  if (isSev(file, user)) return give(user, 0);
  if (!asks(user, KVM_X86_GRP_SYSTEM, KVM_X86_XCOMP_GUEST_SUPP)) return -ENXIO;
  return give(user, file.host.facts.guestXcr0 ?? 3);
}

function getVcpu(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmDeviceAttr.size)) return -EFAULT;
  if (!asks(user, VCPU_TSC_CTRL, VCPU_TSC_OFFSET)) return -ENXIO;
  return give(user, (file.vcpu.arch as X86Vcpu).tscOffset);
}

function setVcpu(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmDeviceAttr.size)) return -EFAULT;
  if (!asks(user, VCPU_TSC_CTRL, VCPU_TSC_OFFSET)) return -ENXIO;
  const source = user.pointer(loadNumber64(user.bytes, user.at + addr));
  if (!source.readable(8)) return -EFAULT;
  const vcpu = file.vcpu.arch as X86Vcpu;
  vcpu.vm.tscSync.setOffset(vcpu, load64(source.bytes, source.at));
  return 0;
}

export const attributeSystemIoctls: readonly Entry<KvmSystem>[] = [
  [KVM_HAS_DEVICE_ATTR, hasSystem],
  [KVM_GET_DEVICE_ATTR, getSystem],
  [KVM_SET_DEVICE_ATTR, () => -EINVAL],
];
export const attributeVcpuIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_HAS_DEVICE_ATTR, hasVcpu],
  [KVM_GET_DEVICE_ATTR, getVcpu],
  [KVM_SET_DEVICE_ATTR, setVcpu],
];
