/**
 * What waits to be delivered to a vCPU: KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_NMI, KVM_SMI, KVM_INTERRUPT
 * (arch/x86/kvm/x86.c:kvm_vcpu_ioctl_x86_get_vcpu_events, 6.1 and 6.18).
 *
 * `struct kvm_vcpu_events`, 64 bytes: exception @0 (injected, nr, has_error_code, pending, error_code u32), interrupt @8
 * (injected, nr, soft, shadow), nmi @12 (injected, pending, masked, pad), sipi_vector u32 @16, flags u32 @20, smi @24
 * (smm, pending, smm_inside_nmi, latched_init), triple_fault @28, reserved, exception_has_payload @55,
 * exception_payload u64 @56.
 *
 * Missing: system management mode; this kernel is built without it.
 */
import { EEXIST, EFAULT, EINVAL, ENOTTY, ENXIO } from "../../abi/errno.ts";
import { KVM_INTERRUPT } from "../../abi/kvm.ts";
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
  readonly nmi = { injected: false, pending: 0, masked: false };
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
  reset(): void {
    this.exception.injected = this.exception.pending = false;
    this.interrupt.injected = false;
    this.shadow = 0;
    this.nmi.injected = this.nmi.masked = false;
    this.nmi.pending = 0;
  }

  get exceptionWaits(): boolean {
    return this.exception.pending || this.tripleFault;
  }

  /** New registers: an exception that has not been delivered is forgotten. */
  dropException(): void {
    this.exception.pending = false;
  }
}

/** NMIs that came as messages wait at the local APIC until the vCPU looks; those beyond the limit are one. */
function takeNmis({ lapic, events }: X86Vcpu): void {
  events.queueNmi(lapic?.nmiQueued ?? 0);
  if (lapic !== undefined) lapic.nmiQueued = 0;
}

const of = (file: VcpuFile): X86Vcpu => file.vcpu.arch as X86Vcpu;
const flag = (value: boolean): number => (value ? 1 : 0);

const getEvents = answering(KvmVcpuEvents.size, (file: VcpuFile, bytes, at) => {
  const vcpu = of(file);
  const { events } = vcpu;
  const { settings } = vcpu.vm;
  const { exception, interrupt, nmi } = events;
  takeNmis(vcpu);
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
  bytes[at + NMI + 1] = nmi.pending;
  bytes[at + NMI + 2] = flag(nmi.masked);

  bytes[at + SMI + 3] = flag(((vcpu.lapic?.pendingEvents ?? 0) & EVENT_INIT) !== 0);

  let flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
  if (settings.exceptionPayload) flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
  if (settings.tripleFaultEvent) {
    bytes[at + TRIPLE_FAULT] = flag(events.tripleFault);
    flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
  }
  store32(bytes, at + FLAGS, flags);
});

/**
 * EFAULT; EINVAL for unknown flags, for a payload that was not enabled, for an exception that is none. Two errors come
 * after the rest was taken: SMM state, which this kernel lacks, and a triple fault event that was not enabled.
 */
function setEvents(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmVcpuEvents.size)) return -EFAULT;
  const vcpu = of(file);
  const { events } = vcpu;
  const { settings } = vcpu.vm;
  const { bytes, at } = user;
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
  const vector = bytes[at + EXCEPTION + 1];
  if ((injected || pending) && (vector > 31 || vector === NMI_VECTOR)) return -EINVAL;

  takeNmis(vcpu);
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
  if ((flags & KVM_VCPUEVENT_VALID_SHADOW) !== 0) events.shadow = bytes[at + INTERRUPT + 3];

  nmi.injected = bytes[at + NMI] !== 0;
  nmi.masked = bytes[at + NMI + 2] !== 0;
  if ((flags & KVM_VCPUEVENT_VALID_NMI_PENDING) !== 0) {
    nmi.pending = 0;
    events.queueNmi(bytes[at + NMI + 1]);
  }

  if ((flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR) !== 0 && vcpu.lapic !== undefined)
    vcpu.lapic.sipiVector = load32(bytes, at + SIPI);
  if ((flags & KVM_VCPUEVENT_VALID_SMM) !== 0) {
    if (bytes[at + SMI] !== 0 || bytes[at + SMI + 1] !== 0 || bytes[at + SMI + 2] !== 0) return -EINVAL;
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
      of(file).events.queueNmi();
      return 0;
    },
  ],
  [KVM_SMI, () => -ENOTTY],
  [KVM_INTERRUPT, interrupt],
];
