/**
 * Hyper-V as KVM offers it to a guest: its MSRs, of a VM and of a vCPU, SynIC's among them, and what they ask of user space
 * (arch/x86/kvm/hyperv.c:kvm_hv_set_msr_common, synic_set_msr, 6.1; Microsoft's "Hypervisor Top Level Functional
 * Specification"). Its hypercalls: hyperv-hypercalls.ts.
 *
 * A guest may use them where its CPUID says so (leaf 0x40000001 "Hv#1"), user space always. A crash and a reset become
 * KVM_EXIT_SYSTEM_EVENT, what a guest writes to SynIC's control and pages KVM_EXIT_HYPERV.
 *
 * Missing: the page of the reference TSC, synthetic timers, interrupts of SynIC, the page that assists the local APIC and its
 * MSRs, the debugger's MSRs (they read as 0); that KVM_CAP_HYPERV_ENFORCE_CPUID keeps a guest from what its CPUID lacks.
 */
import { KVM_CAP_HYPERV_SYNIC2, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET } from "../../abi/kvm.ts";
import type { EventFd } from "../../kernel/eventfd.ts";
import { ANY_INDEX, EAX } from "./cpuid.ts";
import { copyGuest } from "./guest-memory.ts";
import type { RunPage } from "./run-page.ts";
import type { X86Vcpu } from "./vcpu.ts";

const BASE = 0x4000_0000;
const GUEST_OS_ID = 0x4000_0000;
const HYPERCALL = 0x4000_0001;
const VP_INDEX = 0x4000_0002;
const RESET = 0x4000_0003;
const TSC_FREQUENCY = 0x4000_0022;
const APIC_FREQUENCY = 0x4000_0023;
const SCONTROL = 0x4000_0080;
const SVERSION = 0x4000_0081;
const SIEFP = 0x4000_0082;
const SIMP = 0x4000_0083;
const EOM = 0x4000_0084;
const SINT0 = 0x4000_0090;
const SINT15 = 0x4000_009f;
const CRASH_P0 = 0x4000_0100;
const CRASH_P4 = 0x4000_0104;
const CRASH_CTL = 0x4000_0105;

const SIGNATURE_LEAF = 0x4000_0001;
/** "Hv#1" */
const SIGNATURE = 0x3123_7648;
const CRASH_NOTIFY = 1n << 63n;
const ENABLE = 1n;
const PAGE = 4096;
const PAGE_MASK = 0xffff_ffff_ffff_f000n;
const VERSION_1 = 1n;
const SINT_MASKED = 1n << 16n;
/** the first vector that is no exception */
const FIRST_VECTOR = 16n;
/** VMMCALL, RET */
const hypercallPage = [0x0f, 0x01, 0xd9, 0xc3];
/** OR EAX, 0x80000000 before, where there are Xen's hypercalls too */
const notXen = [0x0d, 0, 0, 0, 0x80];
/** what tells them apart */
const NOT_XEN = 0x8000_0000n;

/** What a VM keeps. */
export class HypervVm {
  guestOsId = 0n;
  hypercall = 0n;
  readonly crashParameters: bigint[] = [0n, 0n, 0n, 0n, 0n];
  crashControl = 0n;
  /** connections that have an eventfd, which a guest signals by a hypercall */
  readonly connections = new Map<number, EventFd>();
}

/** What its next entry tells user space instead of entering the guest. */
const CRASHED = 1;
const RESETTING = 2;
const SYNIC_CHANGED = 4;

/** What a vCPU keeps. */
export class HypervVcpu {
  readonly #vcpu: X86Vcpu;
  /** the number that the guest knows it by */
  vpIndex: bigint;
  /** KVM_CAP_HYPERV_SYNIC, KVM_CAP_HYPERV_SYNIC2: there is a SynIC; and the guest's pages are left as they are */
  synic = false;
  #keepsPages = false;
  #control = 0n;
  #version = VERSION_1;
  #eventPage = 0n;
  #messagePage = 0n;
  readonly #sints: bigint[] = new Array<bigint>(16).fill(SINT_MASKED);
  /** what user space is to hear of; 0 most of the time */
  requests = 0;
  /** the exit that SynIC asked for: MSR, control, page of events, page of messages */
  #exit: readonly [number, bigint, bigint, bigint] = [0, 0n, 0n, 0n];

  constructor(vcpu: X86Vcpu, index: number) {
    this.#vcpu = vcpu;
    this.vpIndex = BigInt(index);
  }

  /** The guest's CPUID has Hyper-V. */
  get isShown(): boolean {
    return this.#vcpu.cpuid.register(SIGNATURE_LEAF, ANY_INDEX, EAX) === SIGNATURE;
  }

  /** A hypercall with some RAX is Hyper-V's: the guest has told its name. */
  takesHypercall(rax: bigint): boolean {
    const { hyperv, xen } = this.#vcpu.vm;
    if (xen.takesHypercalls && (rax & NOT_XEN) === 0n) return false;
    return hyperv.guestOsId !== 0n && this.isShown;
  }

  activateSynic(capability: number): void {
    this.synic = true;
    this.#control = ENABLE;
    this.#keepsPages = capability === KVM_CAP_HYPERV_SYNIC2;
  }

  /** The exits that were asked for, one an entry: 0 for one. */
  exit(page: RunPage): number {
    if ((this.requests & CRASHED) !== 0) {
      this.requests &= ~CRASHED;
      return page.systemEvent(KVM_SYSTEM_EVENT_CRASH);
    }
    if ((this.requests & RESETTING) !== 0) {
      this.requests &= ~RESETTING;
      return page.systemEvent(KVM_SYSTEM_EVENT_RESET);
    }
    this.requests = 0;
    return page.synic(...this.#exit);
  }

  // ---- MSRs --------------------------------------------------------------------------------------------------------

  /** undefined for a refusal */
  read(index: number, byGuest: boolean): bigint | undefined {
    const { vm } = this.#vcpu;
    const { hyperv } = vm;
    if (byGuest && !this.isShown) return undefined;
    if (index >= CRASH_P0 && index <= CRASH_P4) return hyperv.crashParameters[index - CRASH_P0];
    if (index >= SCONTROL && index <= SINT15)
      return this.synic || !byGuest ? this.#readSynic(index) : undefined;
    switch (index) {
      case GUEST_OS_ID:
        return hyperv.guestOsId;
      case HYPERCALL:
        return hyperv.hypercall;
      case VP_INDEX:
        return this.vpIndex;
      case CRASH_CTL:
        return hyperv.crashControl;
      case TSC_FREQUENCY:
        return BigInt(this.#vcpu.tscKhz) * 1000n;
      case APIC_FREQUENCY:
        return 1_000_000_000n / BigInt(vm.settings.apicBusCycleNs);
      default:
        return 0n;
    }
  }

  #readSynic(index: number): bigint | undefined {
    if (index >= SINT0) return this.#sints[index - SINT0];
    switch (index) {
      case SCONTROL:
        return this.#control;
      case SVERSION:
        return this.#version;
      case SIEFP:
        return this.#eventPage;
      case SIMP:
        return this.#messagePage;
      case EOM:
        return 0n;
      default:
        return undefined;
    }
  }

  /** false for a refusal */
  write(index: number, value: bigint, byGuest: boolean): boolean {
    const { vm } = this.#vcpu;
    const { hyperv } = vm;
    if (byGuest && !this.isShown) return false;
    if (index >= CRASH_P0 && index <= CRASH_P4) {
      hyperv.crashParameters[index - CRASH_P0] = value;
      return true;
    }
    if (index >= SCONTROL && index <= SINT15)
      return this.synic || (!byGuest && value === 0n) ? this.#writeSynic(index, value, byGuest) : false;
    switch (index) {
      case GUEST_OS_ID:
        hyperv.guestOsId = value;
        if (value === 0n) hyperv.hypercall &= ~ENABLE;
        return true;
      case HYPERCALL:
        return this.#writeHypercall(value);
      case VP_INDEX:
        if (byGuest || (value & 0xffff_ffffn) >= BigInt(vm.maxVcpus)) return false;
        this.vpIndex = value & 0xffff_ffffn;
        return true;
      case RESET:
        if (value === 1n) this.requests |= RESETTING;
        return true;
      case CRASH_CTL:
        if (!byGuest) hyperv.crashControl = value & CRASH_NOTIFY;
        else if ((value & CRASH_NOTIFY) !== 0n) this.requests |= CRASHED;
        return true;
      // user space may write what it has read
      case TSC_FREQUENCY:
      case APIC_FREQUENCY:
        return !byGuest;
      default:
        return false;
    }
  }

  /** The guest gets a page with the hypercall in it. */
  #writeHypercall(value: bigint): boolean {
    const { vm } = this.#vcpu;
    const { hyperv } = vm;
    if (hyperv.guestOsId === 0n) return true;
    const code = vm.xen.takesHypercalls ? [...notXen, ...hypercallPage] : hypercallPage;
    const address = Number(value & PAGE_MASK);
    if ((value & ENABLE) !== 0n && !copyGuest(vm.vm, address, Uint8Array.from(code), true)) return false;
    hyperv.hypercall = value;
    return true;
  }

  #writeSynic(index: number, value: bigint, byGuest: boolean): boolean {
    if (index >= SINT0) {
      const vector = value & 0xffn;
      if (vector < FIRST_VECTOR && byGuest && (value & SINT_MASKED) === 0n) return false;
      this.#sints[index - SINT0] = value;
      return true;
    }
    switch (index) {
      case SCONTROL:
        this.#control = value;
        break;
      case SVERSION:
        if (byGuest) return false;
        this.#version = value;
        return true;
      case SIEFP:
        if (byGuest && !this.#clears(value)) return false;
        this.#eventPage = value;
        break;
      case SIMP:
        if (byGuest && !this.#clears(value)) return false;
        this.#messagePage = value;
        break;
      case EOM:
        return true;
      default:
        return false;
    }
    if (byGuest) {
      this.#exit = [index, this.#control, this.#eventPage, this.#messagePage];
      this.requests |= SYNIC_CHANGED;
    }
    return true;
  }

  /** A page that the guest turns on starts as zeros: false where there is none. */
  #clears(value: bigint): boolean {
    if ((value & ENABLE) === 0n || this.#keepsPages) return true;
    return copyGuest(this.#vcpu.vm.vm, Number(value & PAGE_MASK), new Uint8Array(PAGE), true);
  }
}

/** Whether KVM hands an MSR to Hyper-V, so that a refusal is of its value. */
export const isHypervMsr = (index: number): boolean => index >= BASE && index <= SINT15;
