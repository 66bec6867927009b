/**
 * The page that a vCPU shares with user space, `struct kvm_run`: who writes what where (include/uapi/linux/kvm.h, 6.1).
 *
 * request_interrupt_window u8 @0, immediate_exit u8 @1, exit_reason u32 @8, ready_for_interrupt_injection u8 @12, if_flag
 * u8 @13, flags u16 @14, cr8 u64 @16, apic_base u64 @24, the union of exits @32, kvm_valid_regs u64 @288, kvm_dirty_regs u64
 * @296, the registers of KVM_CAP_SYNC_REGS @304. The data of port accesses starts with the second page.
 *
 * An exit writes its own fields and leaves the rest of the union as it was.
 */
import {
  KVM_EXIT_DEBUG,
  KVM_EXIT_FAIL_ENTRY,
  KVM_EXIT_HYPERCALL,
  KVM_EXIT_HYPERV,
  KVM_EXIT_HYPERV_HCALL,
  KVM_EXIT_HYPERV_SYNIC,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_IO,
  KVM_EXIT_IO_IN,
  KVM_EXIT_IO_OUT,
  KVM_EXIT_IOAPIC_EOI,
  KVM_EXIT_MEMORY_FAULT,
  KVM_EXIT_MMIO,
  KVM_EXIT_SYSTEM_EVENT,
  KVM_EXIT_X86_RDMSR,
  KVM_EXIT_X86_WRMSR,
  KVM_EXIT_XEN,
  KVM_EXIT_XEN_HCALL,
  KVM_INTERNAL_ERROR_DELIVERY_EV,
  KVM_INTERNAL_ERROR_EMULATION,
  KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
} from "../../abi/kvm.ts";
import { KVM_EXIT_HYPERCALL_LONG_MODE } from "../../abi/kvm-x86.ts";
import { load32, load64, store16, store32, store64 } from "../../abi/struct.ts";

export const REQUEST_INTERRUPT_WINDOW = 0;
export const IMMEDIATE_EXIT = 1;
const EXIT_REASON = 8;
export const READY_FOR_INTERRUPT_INJECTION = 12;
export const IF_FLAG = 13;
export const FLAGS = 14;
export const CR8 = 16;
export const APIC_BASE = 24;
const UNION = 32;
/** data of an MMIO exit */
export const MMIO_DATA = UNION + 8;
const MMIO_LENGTH = UNION + 16;
const MMIO_IS_WRITE = UNION + 20;
export const MSR_ERROR = UNION;
export const MSR_DATA = UNION + 16;
const HYPERCALL_RESULT = UNION + 56;
const HYPERCALL_FLAGS = UNION + 64;
const HYPERCALL_ARGUMENTS = 6;
/** bytes of struct kvm_hyperv_exit */
const HYPERV_EXIT = 56;
export const VALID_REGS = 288;
export const DIRTY_REGS = 296;
export const SYNC_REGS = 304;
/** where the data of port accesses starts */
export const PIO_DATA = 4096;
/** bytes of an instruction at most */
export const INSTRUCTION_BYTES = 15;
const NOP = 0x90;

/** What a part of KVM_RUN answers where the guest goes on: 0 is an exit, and a negative number an errno. */
export const GO_ON = 1;

/** The union of KVM_EXIT_TPR_ACCESS: where the instruction is, and whether it writes. */
export function tellTprAccess(bytes: Uint8Array, rip: number, write: boolean): void {
  store64(bytes, UNION, rip);
  store32(bytes, UNION + 8, write ? 1 : 0);
}

/** The result of a hypercall that did not become an exit. */
export const tellHypercallResult = (bytes: Uint8Array, result: bigint): void =>
  store64(bytes, HYPERCALL_RESULT, BigInt.asUintN(64, result));

export class RunPage {
  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  set exitReason(reason: number) {
    store32(this.bytes, EXIT_REASON, reason);
  }
  get exitReason(): number {
    return load32(this.bytes, EXIT_REASON);
  }

  /** An exit that has nothing to tell but its reason. */
  exit(reason: number): number {
    this.exitReason = reason;
    return 0;
  }

  get immediateExit(): boolean {
    return this.bytes[IMMEDIATE_EXIT] !== 0;
  }

  get wantsInterruptWindow(): boolean {
    return this.bytes[REQUEST_INTERRUPT_WINDOW] !== 0;
  }

  /** `count` accesses of `size` bytes; the data of a read starts as zeros. */
  io(write: boolean, size: number, port: number, count: number): void {
    const { bytes } = this;
    this.exitReason = KVM_EXIT_IO;
    bytes[UNION] = write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
    bytes[UNION + 1] = size;
    store16(bytes, UNION + 2, port);
    store32(bytes, UNION + 4, count);
    store64(bytes, UNION + 8, PIO_DATA);
    if (!write) bytes.fill(0, PIO_DATA, PIO_DATA + size * count);
  }

  mmio(write: boolean, address: number, length: number): void {
    const { bytes } = this;
    this.exitReason = KVM_EXIT_MMIO;
    store64(bytes, UNION, address);
    store32(bytes, MMIO_LENGTH, length);
    bytes[MMIO_IS_WRITE] = write ? 1 : 0;
  }

  msr(write: boolean, reason: number, index: number, value: bigint): void {
    const { bytes } = this;
    this.exitReason = write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
    bytes.fill(0, UNION, UNION + 8);
    store32(bytes, UNION + 8, reason);
    store32(bytes, UNION + 12, index);
    store64(bytes, MSR_DATA, write ? value : 0);
  }

  /** A hypercall: its number and arguments; the result starts as 0. */
  hypercall(number: bigint, args: readonly bigint[], longMode: boolean): void {
    const { bytes } = this;
    this.exitReason = KVM_EXIT_HYPERCALL;
    store64(bytes, UNION, number);
    for (let i = 0; i < HYPERCALL_ARGUMENTS && i < args.length; i++)
      store64(bytes, UNION + 8 + 8 * i, args[i]);
    store64(bytes, HYPERCALL_RESULT, 0);
    store64(bytes, HYPERCALL_FLAGS, longMode ? KVM_EXIT_HYPERCALL_LONG_MODE : 0);
  }

  get hypercallResult(): bigint {
    return load64(this.bytes, HYPERCALL_RESULT);
  }

  ioapicEoi(vector: number): void {
    this.exitReason = KVM_EXIT_IOAPIC_EOI;
    this.bytes[UNION] = vector;
  }

  /** A page of guest memory has nothing behind it any more; KVM_RUN answers EFAULT beside. */
  memoryFault(address: number, size: number): void {
    const { bytes } = this;
    store64(bytes, UNION, 0);
    store64(bytes, UNION + 8, address);
    store64(bytes, UNION + 16, size);
    this.exitReason = KVM_EXIT_MEMORY_FAULT;
  }

  /** The processor did not take the guest's state; it is the host's first processor that looked at it. */
  failEntry(reason: number): number {
    store64(this.bytes, UNION, reason);
    store32(this.bytes, UNION + 8, 0);
    return this.exit(KVM_EXIT_FAIL_ENTRY);
  }

  /** What Hyper-V's MSRs ask for: KVM_SYSTEM_EVENT_*. */
  systemEvent(type: number): number {
    store32(this.bytes, UNION, type);
    store32(this.bytes, UNION + 4, 0);
    return this.exit(KVM_EXIT_SYSTEM_EVENT);
  }

  /** A guest has written an MSR of SynIC's. */
  synic(msr: number, control: bigint, eventPage: bigint, messagePage: bigint): number {
    const { bytes } = this;
    bytes.fill(0, UNION, UNION + HYPERV_EXIT);
    store32(bytes, UNION, KVM_EXIT_HYPERV_SYNIC);
    store32(bytes, UNION + 8, msr);
    store64(bytes, UNION + 16, control);
    store64(bytes, UNION + 24, eventPage);
    store64(bytes, UNION + 32, messagePage);
    return this.exit(KVM_EXIT_HYPERV);
  }

  /** A hypercall of Hyper-V's. */
  hypervCall(input: bigint, parameter: bigint, output: bigint): number {
    const { bytes } = this;
    store32(bytes, UNION, KVM_EXIT_HYPERV_HCALL);
    store64(bytes, UNION + 8, input);
    store64(bytes, UNION + 24, parameter);
    store64(bytes, UNION + 32, output);
    return this.exit(KVM_EXIT_HYPERV);
  }

  get hypervResult(): bigint {
    return load64(this.bytes, UNION + 16);
  }

  /** A hypercall of Xen's. */
  xenCall(long: boolean, cpl: number, input: bigint, parameters: readonly bigint[]): number {
    const { bytes } = this;
    store32(bytes, UNION, KVM_EXIT_XEN_HCALL);
    store32(bytes, UNION + 8, long ? 1 : 0);
    store32(bytes, UNION + 12, cpl);
    store64(bytes, UNION + 16, input);
    parameters.forEach((parameter, i) => {
      store64(bytes, UNION + 32 + 8 * i, parameter);
    });
    return this.exit(KVM_EXIT_XEN);
  }

  get xenResult(): bigint {
    return load64(this.bytes, UNION + 24);
  }

  /** An event met an address without memory: what the processor told of its exit, and the host's processor, the first one. */
  vectoringFailure(code: number, error: number, address: number): number {
    const { bytes } = this;
    store32(bytes, UNION, KVM_INTERNAL_ERROR_DELIVERY_EV);
    store32(bytes, UNION + 4, 5);
    store64(bytes, UNION + 8, address);
    store64(bytes, UNION + 16, code);
    store64(bytes, UNION + 24, error);
    store64(bytes, UNION + 32, address);
    store64(bytes, UNION + 40, 0);
    return this.exit(KVM_EXIT_INTERNAL_ERROR);
  }

  /**
   * An instruction that cannot be run, with its bytes if they could be read. What the flavour tells of its exit: `info`, its
   * error and address, and `event`, which was on its way.
   */
  emulationFailure(
    instruction: Uint8Array,
    length: number,
    info: number,
    error = 0,
    address = 0,
    event = 0,
    eventCode = 0,
  ): void {
    const { bytes } = this;
    this.exitReason = KVM_EXIT_INTERNAL_ERROR;
    store32(bytes, UNION, KVM_INTERNAL_ERROR_EMULATION);
    store64(bytes, UNION + 8, length > 0 ? KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES : 0);
    let at = UNION + 16;
    if (length > 0) {
      bytes[at] = length;
      bytes.fill(NOP, at + 1, at + 1 + INSTRUCTION_BYTES);
      bytes.set(instruction.subarray(0, length), at + 1);
      at += 16;
    }
    store64(bytes, at, info);
    store64(bytes, at + 8, error);
    store64(bytes, at + 16, address);
    store64(bytes, at + 24, event);
    store64(bytes, at + 32, eventCode);
    store32(bytes, UNION + 4, (at + 40 - UNION - 8) / 8);
  }

  /** Where the guest stopped; the two registers are left as they are where nothing is said of them. */
  debug(exception: number, address: number, dr6 = -1, dr7 = -1): void {
    const { bytes } = this;
    this.exitReason = KVM_EXIT_DEBUG;
    store32(bytes, UNION, exception);
    store64(bytes, UNION + 8, address);
    if (dr6 >= 0) store64(bytes, UNION + 16, dr6);
    if (dr7 >= 0) store64(bytes, UNION + 24, dr7);
  }
}
