/**
 * What waits to be delivered to a vCPU: KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_NMI, KVM_SMI, KVM_INTERRUPT
 * (arch/x86/kvm/x86.c:kvm_vcpu_ioctl_x86_get_vcpu_events, 6.1 and 6.18).
 *
 * `struct kvm_vcpu_events`, 64 bytes: exception @0 (injected, nr, has_error_code, pending, error_code u32), interrupt @8
 * (injected, nr, soft, shadow), nmi @12 (injected, pending, masked, pad), sipi_vector u32 @16, flags u32 @20, smi @24
 * (smm, pending, smm_inside_nmi, latched_init), triple_fault @28, reserved, exception_has_payload @55,
 * exception_payload u64 @56.
 *
 * Where KVM has system management mode (KVM_CAP_X86_SMM) its state is kept; a pvm kernel is built without it.
 *
 * Missing: running a guest in system management mode.
 */
import { EEXIST, EFAULT, EINVAL, ENOTTY, ENXIO } from "../../abi/errno.ts";
import { KVM_INTERRUPT, KVM_MP_STATE_INIT_RECEIVED } from "../../abi/kvm.ts";
import {
  KVM_GET_VCPU_EVENTS,
  KVM_NMI,
  KVM_SET_VCPU_EVENTS,
  KVM_SMI,
  KVM_VCPUEVENT_VALID_NMI_PENDING,
  KVM_VCPUEVENT_VALID_PAYLOAD,
  KVM_VCPUEVENT_VALID_SHADOW,
  KVM_VCPUEVENT_VALID_SIPI_VECTOR,
  KVM_VCPUEVENT_VALID_SMM,
  KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
  KvmVcpuEvents,
} from "../../abi/kvm-x86.ts";
import { load32, load64, store32, store64 } from "../../abi/struct.ts";
import { EVENT_INIT } from "../../hardware/lapic.ts";
import type { Argument } from "../../kernel/argument.ts";
import { answering } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { X86Vcpu } from "./vcpu.ts";

/** KVM_X86_SHADOW_INT_MOV_SS and KVM_X86_SHADOW_INT_STI */
const BLOCKED_BY_BOTH = 3;
const NMI_VECTOR = 2;
const MACHINE_CHECK = 18;
/** #BP and #OF: software exceptions are not shown, the instruction is executed again */
const isSoft = (vector: number): boolean => vector === 3 || vector === 4;

const EXCEPTION = 0;
const INTERRUPT = 8;
const NMI = 12;
const SIPI = 16;
const FLAGS = 20;
const SMI = 24;
const TRIPLE_FAULT = 28;
const HAS_PAYLOAD = 55;
const PAYLOAD = 56;

const ALWAYS_KNOWN =
  KVM_VCPUEVENT_VALID_NMI_PENDING |
  KVM_VCPUEVENT_VALID_SIPI_VECTOR |
  KVM_VCPUEVENT_VALID_SHADOW |
  KVM_VCPUEVENT_VALID_SMM |
  KVM_VCPUEVENT_VALID_PAYLOAD |
  KVM_VCPUEVENT_VALID_TRIPLE_FAULT;

export class Events {
  readonly exception = {
    injected: false,
    pending: false,
    vector: 0,
    hasErrorCode: false,
    errorCode: 0,
    hasPayload: false,
    payload: 0n,
  };
  readonly interrupt = { injected: false, nr: 0, soft: false };
  /** blocking by STI or MOV SS, KVM_X86_SHADOW_INT_* */
  shadow = 0;
  /** `requested`: one was sent since the vCPU last looked, which wakes it even where NMIs are masked */
  readonly nmi = { injected: false, pending: 0, masked: false, requested: false };
  /** system management mode: on; an SMI came, and was seen; NMIs were masked when it was entered */
  readonly smi = { smm: false, requested: false, pending: false, insideNmi: false };
  tripleFault = false;
  /** an external interrupt of user space, for a split irqchip */
  pendingExternalVector = -1;

  /** An interrupt takes the place of the one that waits. */
  queueInterrupt(vector: number): void {
    this.interrupt.injected = true;
    this.interrupt.soft = false;
    this.interrupt.nr = vector;
  }

  /** One may wait behind one that is being handled; two while none is. */
  queueNmi(count = 1): void {
    const limit = this.nmi.masked || this.nmi.injected ? 1 : 2;
    this.nmi.pending = Math.min(this.nmi.pending + count, limit);
  }

  queueException(vector: number, errorCode?: number): void {
    const { exception } = this;
    exception.pending = true;
    exception.injected = false;
    exception.vector = vector;
    exception.hasErrorCode = errorCode !== undefined;
    exception.errorCode = errorCode ?? 0;
    exception.hasPayload = false;
    exception.payload = 0n;
  }

  queueMachineCheck(): void {
    this.queueException(MACHINE_CHECK);
  }

  /** INIT: nothing waits any more. */
  reset(keepsNmiMask: boolean): void {
    this.exception.injected = this.exception.pending = false;
    this.interrupt.injected = false;
    this.shadow = 0;
    this.nmi.injected = false;
    if (!keepsNmiMask) this.nmi.masked = false;
    this.nmi.pending = 0;
    this.smi.smm = this.smi.pending = this.smi.insideNmi = false;
  }

  get exceptionWaits(): boolean {
    return this.exception.pending || this.tripleFault;
  }

  /** New registers: an exception that has not been delivered is forgotten. */
  dropException(): void {
    this.exception.pending = false;
  }
}

/**
 * NMIs that came as messages wait at the local APIC until the vCPU looks; those beyond the limit are one. That one was sent
 * is still to be looked at on the way into the guest (process_nmi leaves KVM_REQ_NMI alone; live 6.18).
 */
function takeNmis({ lapic, events }: X86Vcpu): void {
  const sent = lapic?.nmiQueued ?? 0;
  if (sent !== 0) events.nmi.requested = true;
  events.queueNmi(sent);
  if (lapic !== undefined) lapic.nmiQueued = 0;
}

/** An SMI that came as a message or by KVM_SMI waits until the vCPU looks. */
function takeSmi({ lapic, events }: X86Vcpu): void {
  if (lapic?.smiPending !== true && !events.smi.requested) return;
  if (lapic !== undefined) lapic.smiPending = false;
  events.smi.requested = false;
  events.smi.pending = true;
}

/** Blocking by STI and by MOV SS as the processor holds it: AMD's has one flag for both. */
function keptShadow(vcpu: X86Vcpu, shadow: number): number {
  if (!vcpu.vcpu.vm.host.behaviour.svmInterruptShadow) return shadow;
  return shadow === 0 ? 0 : BLOCKED_BY_BOTH;
}

const of = (file: VcpuFile): X86Vcpu => file.vcpu.arch as X86Vcpu;
const flag = (value: boolean): number => (value ? 1 : 0);

/** Writes `struct kvm_vcpu_events`. */
export function storeEvents(vcpu: X86Vcpu, bytes: Uint8Array, at: number): void {
  const { events } = vcpu;
  const { settings } = vcpu.vm;
  const { exception, interrupt, nmi } = events;
  takeNmis(vcpu);
  takeSmi(vcpu);
  bytes.fill(0, at, at + KvmVcpuEvents.size);
  if (!isSoft(exception.vector)) {
    const injected = exception.injected || (exception.pending && !settings.exceptionPayload);
    bytes[at + EXCEPTION] = flag(injected);
    bytes[at + EXCEPTION + 3] = flag(exception.pending);
  }
  bytes[at + EXCEPTION + 1] = exception.vector;
  bytes[at + EXCEPTION + 2] = flag(exception.hasErrorCode);
  store32(bytes, at + EXCEPTION + 4, exception.errorCode);
  bytes[at + HAS_PAYLOAD] = flag(exception.hasPayload);
  store64(bytes, at + PAYLOAD, exception.payload);

  bytes[at + INTERRUPT] = flag(interrupt.injected && !interrupt.soft);
  bytes[at + INTERRUPT + 1] = interrupt.nr;
  bytes[at + INTERRUPT + 3] = events.shadow;

  bytes[at + NMI] = flag(nmi.injected);
  const shown = vcpu.vcpu.vm.host.behaviour.nmiCountShown ? nmi.pending : Math.min(nmi.pending, 1);
  bytes[at + NMI + 1] = shown;
  bytes[at + NMI + 2] = flag(nmi.masked);

  bytes[at + SMI] = flag(events.smi.smm);
  bytes[at + SMI + 1] = flag(events.smi.pending);
  bytes[at + SMI + 2] = flag(events.smi.insideNmi);
  bytes[at + SMI + 3] = flag(((vcpu.lapic?.pendingEvents ?? 0) & EVENT_INIT) !== 0);

  let flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
  if (settings.exceptionPayload) flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
  if (settings.tripleFaultEvent) {
    bytes[at + TRIPLE_FAULT] = flag(events.tripleFault);
    flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
  }
  store32(bytes, at + FLAGS, flags);
}

const getEvents = answering(KvmVcpuEvents.size, (file: VcpuFile, bytes, at) =>
  storeEvents(of(file), bytes, at),
);

/**
 * KVM_SET_VCPU_EVENTS: EINVAL for unknown flags, for a payload that was not enabled, for an exception that is none. Two errors come
 * after the rest was taken: SMM state, which this kernel lacks, and a triple fault event that was not enabled.
 */
export function loadEvents(vcpu: X86Vcpu, bytes: Uint8Array, at: number): number {
  const { events } = vcpu;
  const { settings } = vcpu.vm;
  const flags = load32(bytes, at + FLAGS);
  if ((flags & ~ALWAYS_KNOWN) !== 0) return -EINVAL;
  let injected = bytes[at + EXCEPTION] !== 0;
  let pending = false;
  let hasPayload = false;
  if ((flags & KVM_VCPUEVENT_VALID_PAYLOAD) !== 0) {
    if (!settings.exceptionPayload) return -EINVAL;
    pending = bytes[at + EXCEPTION + 3] !== 0;
    if (pending) injected = false;
    hasPayload = pending && bytes[at + HAS_PAYLOAD] !== 0;
  }
  if ((flags & KVM_VCPUEVENT_VALID_SMM) !== 0 && !startsLater(vcpu, bytes, at + SMI)) return -EINVAL;
  const vector = bytes[at + EXCEPTION + 1];
  if ((injected || pending) && (vector > 31 || vector === NMI_VECTOR)) return -EINVAL;

  takeNmis(vcpu);
  vcpu.requestEvent();
  const { exception, interrupt, nmi } = events;
  exception.injected = injected;
  exception.pending = pending;
  exception.vector = vector;
  exception.hasErrorCode = bytes[at + EXCEPTION + 2] !== 0;
  exception.errorCode = load32(bytes, at + EXCEPTION + 4);
  exception.hasPayload = hasPayload;
  exception.payload = load64(bytes, at + PAYLOAD);

  interrupt.injected = bytes[at + INTERRUPT] !== 0;
  interrupt.nr = bytes[at + INTERRUPT + 1];
  interrupt.soft = bytes[at + INTERRUPT + 2] !== 0;
  if ((flags & KVM_VCPUEVENT_VALID_SHADOW) !== 0) events.shadow = keptShadow(vcpu, bytes[at + INTERRUPT + 3]);

  nmi.injected = bytes[at + NMI] !== 0;
  nmi.masked = bytes[at + NMI + 2] !== 0;
  if ((flags & KVM_VCPUEVENT_VALID_NMI_PENDING) !== 0) {
    nmi.pending = 0;
    events.queueNmi(bytes[at + NMI + 1]);
    if (nmi.pending !== 0 && vcpu.vcpu.vm.host.behaviour.nmiCountShown) nmi.requested = true;
  }

  if ((flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR) !== 0 && vcpu.lapic !== undefined)
    vcpu.lapic.sipiVector = load32(bytes, at + SIPI);
  if ((flags & KVM_VCPUEVENT_VALID_SMM) !== 0) {
    if (vcpu.vm.hasSmm) takeSmmState(events, bytes, at + SMI);
    else if (bytes[at + SMI] !== 0 || bytes[at + SMI + 1] !== 0 || bytes[at + SMI + 2] !== 0) return -EINVAL;
    if (vcpu.lapic !== undefined) {
      const latched = bytes[at + SMI + 3] !== 0;
      vcpu.lapic.pendingEvents = (vcpu.lapic.pendingEvents & ~EVENT_INIT) | (latched ? EVENT_INIT : 0);
    }
  }
  if ((flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) !== 0) {
    if (!settings.tripleFaultEvent) return -EINVAL;
    events.tripleFault = bytes[at + TRIPLE_FAULT] !== 0;
  }
  return 0;
}

/** Leaving system management mode forgets whether it was entered inside an NMI. */
function takeSmmState({ smi }: Events, bytes: Uint8Array, at: number): void {
  if (bytes[at] !== flag(smi.smm)) {
    smi.smm = bytes[at] !== 0;
    if (!smi.smm) smi.insideNmi = false;
  }
  smi.pending = bytes[at + 1] !== 0;
  if (smi.smm) smi.insideNmi = bytes[at + 2] !== 0;
}

/** An INIT is kept back in system management mode: a vCPU that has had one, and waits for its start, is not in it. */
const startsLater = (vcpu: X86Vcpu, bytes: Uint8Array, at: number): boolean =>
  vcpu.vcpu.vm.host.behaviour.startStatesAnyTime ||
  (bytes[at] === 0 && bytes[at + 1] === 0) ||
  vcpu.mpState !== KVM_MP_STATE_INIT_RECEIVED;

/** ENOTTY where this KVM has no system management mode. */
function smiNow(file: VcpuFile): number {
  const vcpu = of(file);
  if (!vcpu.vm.hasSmm) return -ENOTTY;
  vcpu.events.smi.requested = true;
  return 0;
}

function setEvents(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmVcpuEvents.size)) return -EFAULT;
  return loadEvents(of(file), user.bytes, user.at);
}

/**
 * KVM_INTERRUPT: EFAULT, EINVAL for a vector above 255, ENXIO where the kernel has the PIC, EEXIST where a split irqchip
 * still waits for the one before.
 */
function interrupt(file: VcpuFile, user: Argument): number {
  if (!user.readable(4)) return -EFAULT;
  const vector = load32(user.bytes, user.at);
  if (vector > 255) return -EINVAL;
  const vcpu = of(file);
  const { events } = vcpu;
  if (vcpu.vm.irqchipMode === "none") {
    events.queueInterrupt(vector);
    return 0;
  }
  if (vcpu.vm.irqchipMode === "kernel") return -ENXIO;
  if (events.pendingExternalVector !== -1) return -EEXIST;
  events.pendingExternalVector = vector;
  return 0;
}

export const eventIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_VCPU_EVENTS, getEvents],
  [KVM_SET_VCPU_EVENTS, setEvents],
  [
    KVM_NMI,
    (file) => {
      const { events } = of(file);
      events.queueNmi();
      events.nmi.requested = true;
      return 0;
    },
  ],
  [KVM_SMI, smiNow],
  [KVM_INTERRUPT, interrupt],
];
