/**
 * Hypercalls of a guest about its other vCPUs: KVM_HC_KICK_CPU, KVM_HC_SEND_IPI, KVM_HC_SCHED_YIELD
 * (arch/x86/kvm/x86.c:kvm_emulate_hypercall, arch/x86/kvm/lapic.c:kvm_pv_send_ipi, 6.1). Arguments in RBX, RCX, RDX, RSI.
 *
 * Missing: that a vCPU which yields lets another one run first.
 */
import { EOPNOTSUPP } from "../../abi/errno.ts";
import {
  KVM_FEATURE_PV_SCHED_YIELD,
  KVM_FEATURE_PV_SEND_IPI,
  KVM_FEATURE_PV_UNHALT,
  KVM_HC_KICK_CPU,
  KVM_HC_SCHED_YIELD,
  KVM_HC_SEND_IPI,
} from "../../abi/kvm-para.ts";
import { DEST_PHYSICAL, DM_REMRD, newMessage, SHORTHAND_NONE } from "../../hardware/apic-message.ts";
import type { X86Vcpu } from "./vcpu.ts";

const KVM_EINVAL = 22;
const ICR_DESTINATION = 0xc_0800;
const ICR_ASSERT = 0x4000;
const ICR_LEVEL = 0x8000;
const message = newMessage();

/** The result, or undefined for what is none of them, or is not offered to the guest (guest_pv_has). */
export function processorHypercall(
  vcpu: X86Vcpu,
  number: bigint,
  args: readonly bigint[],
  wide: boolean,
): bigint | undefined {
  switch (Number(number)) {
    case KVM_HC_KICK_CPU:
      return offers(vcpu, KVM_FEATURE_PV_UNHALT) ? kick(vcpu, Number(args[1] & 0xffff_ffffn)) : undefined;
    case KVM_HC_SEND_IPI:
      return offers(vcpu, KVM_FEATURE_PV_SEND_IPI) ? sendIpi(vcpu, args, wide ? 64 : 32) : undefined;
    case KVM_HC_SCHED_YIELD:
      return offers(vcpu, KVM_FEATURE_PV_SCHED_YIELD) ? 0n : undefined;
    default:
      return undefined;
  }
}

const offers = (vcpu: X86Vcpu, feature: number): boolean =>
  !vcpu.enforcesPvCpuid || ((vcpu.cpuid.paravirtualFeatures >>> feature) & 1) !== 0;

/** Wakes the vCPU with this APIC id out of its halt, interrupts on or off. */
function kick(vcpu: X86Vcpu, id: number): bigint {
  message.deliveryMode = DM_REMRD;
  message.destMode = DEST_PHYSICAL;
  message.shorthand = SHORTHAND_NONE;
  message.vector = message.level = message.trigMode = 0;
  message.msiRedirHint = false;
  message.destId = id;
  vcpu.vm.irqchip?.bus.deliver(message);
  return 0n;
}

/** An IPI to two sets of APIC ids that follow each other: how many took it. */
function sendIpi(vcpu: X86Vcpu, args: readonly bigint[], width: number): bigint {
  const [low, high, first, icr] = args;
  if ((Number(icr & 0xffff_ffffn) & ICR_DESTINATION) !== 0) return BigInt(-KVM_EINVAL);
  const command = Number(icr & 0xffffn);
  message.vector = command & 0xff;
  message.deliveryMode = command & 0x700;
  message.level = (command & ICR_ASSERT) !== 0 ? 1 : 0;
  message.trigMode = command & ICR_LEVEL;
  const bus = vcpu.vm.irqchip?.bus;
  const min = Number(first & 0xffff_ffffn);
  const taken = bus?.deliverToIds(message, low, min) ?? -1;
  if (taken < 0) return BigInt(-EOPNOTSUPP);
  return BigInt(taken + bus!.deliverToIds(message, high, (min + width) >>> 0));
}
