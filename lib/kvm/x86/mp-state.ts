/**
 * Whether a vCPU runs, sleeps, or waits to be started: KVM_GET_MP_STATE, KVM_SET_MP_STATE, `struct kvm_mp_state`, one
 * u32 (arch/x86/kvm/x86.c, arch/x86/kvm/lapic.c:kvm_apic_accept_events, 6.1 and 6.18).
 */
import { EFAULT, EINVAL } from "../../abi/errno.ts";
import {
  KVM_GET_MP_STATE,
  KVM_MP_STATE_AP_RESET_HOLD,
  KVM_MP_STATE_HALTED,
  KVM_MP_STATE_INIT_RECEIVED,
  KVM_MP_STATE_RUNNABLE,
  KVM_MP_STATE_SIPI_RECEIVED,
  KVM_MP_STATE_UNINITIALIZED,
  KVM_SET_MP_STATE,
} from "../../abi/kvm.ts";
import { load32, store32 } from "../../abi/struct.ts";
import { EVENT_INIT, EVENT_SIPI } from "../../hardware/lapic.ts";
import type { Argument } from "../../kernel/argument.ts";
import { answering } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { X86Vcpu } from "./vcpu.ts";

/** One that runs has no kick to wake it any more (arch/x86/kvm/x86.h:kvm_set_mp_state, 6.18). */
export function enterState(vcpu: X86Vcpu, state: number): void {
  if (state === KVM_MP_STATE_RUNNABLE && vcpu.lapic !== undefined) vcpu.lapic.pvUnhalted = false;
  vcpu.mpState = state;
}

/**
 * INIT and startup IPIs that came as messages take effect: an INIT first, then a startup of a vCPU that waits for it. In
 * system management mode an INIT waits, and a startup is lost; so it is while AMD's GIF is off.
 */
export function acceptEvents(vcpu: X86Vcpu): void {
  const { lapic } = vcpu;
  if (lapic === undefined || lapic.pendingEvents === 0) return;
  if (vcpu.events.smi.smm || !vcpu.gif) {
    lapic.pendingEvents &= ~EVENT_SIPI;
    return;
  }
  const events = lapic.pendingEvents;
  lapic.pendingEvents = 0;
  if ((events & EVENT_INIT) !== 0) {
    vcpu.init();
    enterState(vcpu, vcpu.isBsp ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED);
  }
  if ((events & EVENT_SIPI) !== 0 && vcpu.mpState === KVM_MP_STATE_INIT_RECEIVED) {
    vcpu.registers.startAt(lapic.sipiVector);
    enterState(vcpu, KVM_MP_STATE_RUNNABLE);
  }
}

const getMpState = answering(4, (file: VcpuFile, bytes, at) => {
  const vcpu = file.vcpu.arch as X86Vcpu;
  acceptEvents(vcpu);
  const kicked = vcpu.lapic?.pvUnhalted === true;
  const sleeps = vcpu.mpState === KVM_MP_STATE_HALTED || vcpu.mpState === KVM_MP_STATE_AP_RESET_HOLD;
  store32(bytes, at, kicked && sleeps ? KVM_MP_STATE_RUNNABLE : vcpu.mpState);
});

const withLapic: readonly number[] = [
  KVM_MP_STATE_RUNNABLE,
  KVM_MP_STATE_UNINITIALIZED,
  KVM_MP_STATE_INIT_RECEIVED,
  KVM_MP_STATE_HALTED,
  KVM_MP_STATE_SIPI_RECEIVED,
  KVM_MP_STATE_AP_RESET_HOLD,
];

/** what an INIT leads to, which waits in system management mode */
const startStates: readonly number[] = [KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_SIPI_RECEIVED];

/** Before 7.2, such a state was refused while it would have to wait. */
const keepsStartsBack = (vcpu: X86Vcpu): boolean =>
  !vcpu.vcpu.vm.host.behaviour.startStatesAnyTime &&
  (vcpu.events.smi.smm || vcpu.events.smi.pending || !vcpu.gif);

/** EFAULT; EINVAL for a state that is none on x86, and for any but RUNNABLE without an in-kernel local APIC. */
function setMpState(file: VcpuFile, user: Argument): number {
  if (!user.readable(4)) return -EFAULT;
  const state = load32(user.bytes, user.at);
  const vcpu = file.vcpu.arch as X86Vcpu;
  if (vcpu.lapic === undefined) {
    if (state !== KVM_MP_STATE_RUNNABLE) return -EINVAL;
  } else if (!withLapic.includes(state)) return -EINVAL;
  else if (startStates.includes(state) && keepsStartsBack(vcpu)) return -EINVAL;
  else if (state === KVM_MP_STATE_SIPI_RECEIVED) {
    vcpu.mpState = KVM_MP_STATE_INIT_RECEIVED;
    vcpu.lapic.pendingEvents |= EVENT_SIPI;
    return 0;
  }
  enterState(vcpu, state);
  vcpu.requestEvent();
  return 0;
}

export const mpStateIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_MP_STATE, getMpState],
  [KVM_SET_MP_STATE, setMpState],
];
