/**
 * What linux/kvm.h shows of s390 on every architecture (7.3), so that its numbers have names. fake-kvm has no s390: the
 * requests whose structs stand in s390's own asm/kvm.h are missing.
 */
import { io, iow, iowr } from "./ioctl.ts";
import { KVMIO } from "./kvm.ts";
import { bytes, struct, u8, u32, u64 } from "./struct.ts";

export const KVM_S390_GET_SKEYS_NONE = 1;
export const KVM_S390_SKEYS_MAX = 1048576;

export const KVM_VM_S390_UCONTROL = 1;

export const KVM_S390_SIE_PAGE_OFFSET = 1;
export const KVM_S390_KEYOP_ISKE = 0x01;
export const KVM_S390_KEYOP_RRBE = 0x02;
export const KVM_S390_KEYOP_SSKE = 0x03;

export const KvmS390Keyop = struct({ guest_addr: u64, key: u8, operation: u8, pad: bytes(6) });

export const KVM_S390_STORE_STATUS_NOADDR = 0xffffffffffffffffn;
export const KVM_S390_STORE_STATUS_PREFIXED = 0xfffffffffffffffen;

export const KVM_S390_ENABLE_SIE = io(KVMIO, 0x06, { on: "system" });
export const KVM_S390_VCPU_FAULT = iow(KVMIO, 0x52, 8, { on: "vcpu", copy: "value" });
export const KVM_S390_KEYOP = iowr(KVMIO, 0x53, KvmS390Keyop, { on: "vm" });
/** Of s390's own structs this one is here because programs try the request on every architecture, to see it refused. */
export const KvmS390Interrupt = struct({ type: u32, parm: u32, parm64: u64 });
export const KVM_S390_INTERRUPT = iow(KVMIO, 0x94, KvmS390Interrupt, { on: ["vm", "vcpu"] });
export const KVM_S390_STORE_STATUS = iow(KVMIO, 0x95, 8, { on: "vcpu", copy: "value" });
export const KVM_S390_INITIAL_RESET = io(KVMIO, 0x97, { on: "vcpu" });
export const KVM_S390_NORMAL_RESET = io(KVMIO, 0xc3, { on: "vcpu" });
export const KVM_S390_CLEAR_RESET = io(KVMIO, 0xc4, { on: "vcpu" });
