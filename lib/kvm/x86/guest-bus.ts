/**
 * The machine around a guest's processor: memory slots, the interrupt controllers at their addresses and ports, what is
 * registered on the buses of the VM, CPUID and MSRs (arch/x86/kvm/x86.c:vcpu_mmio_read, kernel_pio,
 * virt/kvm/kvm_main.c:kvm_io_bus_write, 6.1).
 */
import { EOPNOTSUPP } from "../../abi/errno.ts";
import {
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  KVM_MSR_EXIT_REASON_FILTER,
  KVM_MSR_EXIT_REASON_INVAL,
} from "../../abi/kvm.ts";
import {
  KVM_IRQCHIP_IOAPIC,
  KVM_IRQCHIP_PIC_MASTER,
  KVM_IRQCHIP_PIC_SLAVE,
  KVM_MSR_FILTER_READ,
  KVM_MSR_FILTER_WRITE,
  KVM_X86_QUIRK_FIX_HYPERCALL_INSN,
  KvmCpuidEntry2,
} from "../../abi/kvm-x86.ts";
import { PROT_READ, PROT_WRITE } from "../../abi/mman.ts";
import { load32 } from "../../abi/struct.ts";
import { LINE_PENDING, MASK_CHANGED, SCAN, SCAN_DESTINATIONS } from "../../hardware/ioapic.ts";
import { LAPIC_EOI, LAPIC_FAULT, LAPIC_NOT_HERE, LAPIC_SEND_IPI } from "../../hardware/lapic.ts";
import { PIT_NOTHING } from "../../hardware/pit.ts";
import { type Bus, MSR_EXIT, MSR_FAULT } from "../../hardware/x86/bus.ts";
import type { Cpu } from "../../hardware/x86/cpu.ts";
import { EXIT_BAD_ADDRESS, EXIT_MEMORY_FAULT, VECTORING } from "../../hardware/x86/memory.ts";
import { CR0, CR0_PG, CR8, EFER_NX, RAX, RBX, RCX, RDX, RSI } from "../../hardware/x86/state.ts";
import type { SlotMemfd } from "../guest-memfd.ts";
import type { MemorySlot } from "../memory-slots.ts";
import { sendIoapicEoi } from "./guest-interrupts.ts";
import { refusalOf, refusedToGuest } from "./guest-msrs.ts";
import { loadRegisters, storeRegisters } from "./guest-registers.ts";
import { answerHypervCall, type HypervCall, hypervCall } from "./hyperv-hypercalls.ts";
import { PORT_STRINGS } from "./intercepts.ts";
import type { NestedPages } from "./nested-pages.ts";
import { processorHypercall } from "./processor-hypercalls.ts";
import { EFER_LMA, EFER_LME } from "./registers.ts";
import { tellHypercallResult, tellTprAccess } from "./run-page.ts";
import type { X86Vcpu } from "./vcpu.ts";
import { type XenCall, xenCall } from "./xen.ts";

const PAGE = 4096;
const TPR = 0x80;
const X2APIC_FIRST = 0x800;
const X2APIC_LAST = 0x8ff;
const IA32_TSC = 0x10;
const IA32_APIC_BASE = 0x1b;
const IA32_TSC_DEADLINE = 0x6e0;
const IA32_EFER = 0xc000_0080;
/** of CPUID 0x80000001, EDX */
const EDX = KvmCpuidEntry2.offsetOf.edx;
const NX = 1 << 20;
const LM = 1 << 29;
const SPEAKER = 0x61;
/** the first port behind the PIT's */
const PIT_END = 0x44;
/** results of hypercalls: KVM_ENOSYS, KVM_EPERM, KVM_EINVAL */
const HYPERCALL_UNKNOWN = -1000n;
const HYPERCALL_FORBIDDEN = -1n;
const HYPERCALL_INVALID = -22n;
const KVM_HC_VAPIC_POLL_IRQ = 1n;
const KVM_HC_MAP_GPA_RANGE = 12n;

export class GuestBus implements Bus {
  bytes: Uint8Array = new Uint8Array(0);
  at = 0;
  eachWrite = false;
  /** a page went into the ring of the vCPU: it may be full */
  ringPushed = false;
  /** the guest lowered its task priority, which user space keeps: it may want to inject (cr8_write_interception) */
  tprLowered = false;
  /** the next entry has something to tell user space */
  wantsEntry = false;
  /** the guest used its task priority register, and user space wants to know of it (KVM_TPR_ACCESS_REPORTING) */
  tprAccessed = false;
  readonly #vcpu: X86Vcpu;
  /** the processor behind this bus, for MSRs that are registers of it */
  cpu!: Cpu;
  /** the hypercall of Hyper-V's or Xen's that goes to user space */
  userCall: HypervCall | XenCall | undefined;
  /** why an MSR access goes to user space */
  msrReason = 0;
  /** KVM's emulator does the instruction: its accesses are not the processor's */
  emulates = false;
  /** an event met a page on its way to its handler that the processor did not find without KVM */
  faultedOnTheWay = false;
  readonly #nested: NestedPages | undefined;

  constructor(vcpu: X86Vcpu) {
    this.#vcpu = vcpu;
    if (!vcpu.vcpu.vm.host.behaviour.kernelCodeEmulated) this.#nested = vcpu.vm.nestedPages;
  }

  get #now(): number {
    return this.#vcpu.vcpu.vm.kernel.clock.now;
  }

  // ---- memory ----------------------------------------------------------------------------------------------------

  page(frame: number, forWriting: boolean): boolean {
    const { vm } = this.#vcpu.vcpu;
    const slot = vm.slots.find(frame);
    if (slot === undefined) return false;
    if (forWriting && (slot.flags & KVM_MEM_READONLY) !== 0) return false;
    if (slot.memfd?.holdsGuest === true) return this.#memfdPage(slot.memfd, frame, frame - slot.baseFrame);
    const address = slot.userspaceAddress + (frame - slot.baseFrame) * PAGE;
    if (!vm.mm.locate(address, PAGE, forWriting ? PROT_WRITE : PROT_READ)) {
      if (!vm.host.behaviour.kernelCodeEmulated) this.cpu.memory.wait(EXIT_BAD_ADDRESS, 0, 0);
      return false;
    }
    this.bytes = vm.mm.bytes;
    this.at = vm.mm.at;
    this.eachWrite = false;
    const becomesWritable = this.#nested !== undefined && this.#find(this.#nested, slot, frame, forWriting);
    if ((forWriting || becomesWritable) && (slot.flags & KVM_MEM_LOG_DIRTY_PAGES) !== 0)
      this.#log(slot, frame);
    return true;
  }

  /** The processor looks for the page of a slot: whether it can be written from now on, and could not before. */
  #find(nested: NestedPages, slot: MemorySlot, frame: number, forWriting: boolean): boolean {
    if (this.emulates || PORT_STRINGS.has(this.cpu.opcode)) return false;
    if (!nested.access(slot, frame, forWriting, this.bytes, this.at)) return false;
    if (this.cpu.memory.refuses === VECTORING) this.faultedOnTheWay = true;
    return nested.writable;
  }

  #memfdPage(memfd: SlotMemfd, frame: number, page: number): boolean {
    const { bytes } = memfd;
    if (bytes === undefined) {
      this.cpu.memory.wait(EXIT_MEMORY_FAULT, frame * PAGE, PAGE);
      return false;
    }
    this.bytes = bytes;
    this.at = memfd.offset + page * PAGE;
    this.eachWrite = false;
    return true;
  }

  /** A page is about to be written: it goes into the bitmap of its slot, or into the ring of this vCPU. */
  #log(slot: MemorySlot, frame: number): void {
    const { vcpu } = this.#vcpu;
    const { vm } = vcpu;
    if (slot.dirty !== undefined) vm.slots.markDirty(frame);
    if (vm.dirtyRingSize === 0) return;
    this.eachWrite = vm.host.behaviour.kernelCodeEmulated;
    const page = frame - slot.baseFrame;
    if (!this.eachWrite && !vm.slots.writtenFirst(slot, page)) return;
    this.ringPushed = true;
    vcpu.dirtyRing.push((slot.addressSpace << 16) | slot.id, page);
  }

  // ---- memory-mapped devices -------------------------------------------------------------------------------------

  readMmio(address: number, length: number, data: Uint8Array, at: number): boolean {
    const vcpu = this.#vcpu;
    const { lapic } = vcpu;
    const lo = address >>> 0;
    if (lapic?.contains(lo, Math.floor(address / 2 ** 32)) === true) {
      if ((lo & 0xfff) === TPR) this.#tprAccess(false);
      const answer = lapic.mmioRead(lo & 0xfff, length, this.#now);
      if (answer !== LAPIC_NOT_HERE) {
        if ((answer & LAPIC_FAULT) === 0) put(data, at, length, lapic.valueLo, lapic.valueHi);
        return true;
      }
    }
    const ioapic = vcpu.vm.irqchip?.ioapic;
    if (ioapic?.claims(address) === true && ioapic.claims(address + length - 1)) {
      put(data, at, length, ioapic.read(address, length));
      return true;
    }
    return vcpu.vcpu.vm.buses.mmio.read(address, length, data, at);
  }

  writeMmio(address: number, length: number, data: Uint8Array, at: number): boolean {
    const vcpu = this.#vcpu;
    const { lapic } = vcpu;
    const lo = address >>> 0;
    const irqchip = vcpu.vm.irqchip;
    if (lapic?.contains(lo, Math.floor(address / 2 ** 32)) === true) {
      if ((lo & 0xfff) === TPR) this.#tprAccess(true);
      const answer = lapic.mmioWrite(lo & 0xfff, length, get(data, at, Math.min(length, 4)), this.#now);
      if (answer !== LAPIC_NOT_HERE) {
        this.#lapicDid(answer);
        return true;
      }
    }
    const ioapic = irqchip?.ioapic;
    if (ioapic?.claims(address) === true && ioapic.claims(address + length - 1)) {
      this.#ioapicDid(ioapic.write(address, get(data, at, Math.min(length, 4)), length));
      return true;
    }
    return vcpu.vcpu.vm.buses.mmio.write(address, length, data, at);
  }

  /** The page tells of the access at once, the exit comes with the next entry (__report_tpr_access). */
  #tprAccess(write: boolean): void {
    const vcpu = this.#vcpu;
    if (!vcpu.reportsTprAccess) return;
    this.tprAccessed = this.wantsEntry = true;
    tellTprAccess(vcpu.vcpu.pages, this.cpu.start, write);
  }

  /** What a register write of the local APIC leaves to do. */
  #lapicDid(answer: number): void {
    const { lapic, lapicClock, vm } = this.#vcpu;
    if ((answer & LAPIC_SEND_IPI) !== 0) vm.irqchip!.bus.deliver(lapic!.ipi, lapic!);
    if ((answer & LAPIC_EOI) !== 0) sendIoapicEoi(this.#vcpu);
    lapicClock!.follow();
  }

  #ioapicDid(done: number): void {
    const { vm } = this.#vcpu;
    const irqchip = vm.irqchip!;
    const ioapic = irqchip.ioapic!;
    const pin = ioapic.writtenPin;
    if ((done & SCAN) !== 0) irqchip.ioapicChanged((done & SCAN_DESTINATIONS) !== 0);
    if ((done & MASK_CHANGED) !== 0) {
      const gsi = vm.vm.routing.gsiOf(KVM_IRQCHIP_IOAPIC, pin);
      for (const notifier of irqchip.maskNotifiers)
        if (notifier.gsi === gsi) notifier.changed(ioapic.masked(pin));
    }
    if ((done & LINE_PENDING) !== 0) {
      const gsi = vm.vm.routing.gsiOf(KVM_IRQCHIP_IOAPIC, pin);
      // a resampled line may have gone down while it was masked: its devices are asked
      const resampler = vm.vm.resamplers.get(gsi);
      if (resampler === undefined) irqchip.ioapicSends(ioapic.service(pin));
      else {
        for (const irqfd of resampler.irqfds) irqfd.resamplefd!.signal();
        ioapic.clearPending(pin);
      }
    }
  }

  // ---- ports -----------------------------------------------------------------------------------------------------

  readPort(port: number, length: number, data: Uint8Array, at: number): boolean {
    const { irqchip, pit } = this.#vcpu.vm;
    const pic = irqchip?.pic;
    if (pic !== undefined && inOnePair(port, length)) {
      const value = pic.read(port, length);
      if (value !== -EOPNOTSUPP) {
        irqchip!.picChanged();
        put(data, at, length, value);
        return true;
      }
    }
    if (pit !== undefined && this.#inPit(port, length)) {
      const value = pit.chip.read(port, this.#now);
      if (value !== -EOPNOTSUPP) {
        if (value !== PIT_NOTHING) put(data, at, length, value);
        return true;
      }
    }
    return this.#vcpu.vcpu.vm.buses.pio.read(port, length, data, at);
  }

  writePort(port: number, length: number, data: Uint8Array, at: number): boolean {
    const { irqchip, pit } = this.#vcpu.vm;
    const value = get(data, at, length);
    const pic = irqchip?.pic;
    if (
      pic !== undefined &&
      inOnePair(port, length) &&
      pic.write(port, value, length, this.#picAccepted()) !== -EOPNOTSUPP
    ) {
      this.#picMasks();
      irqchip!.picChanged();
      return true;
    }
    if (pit !== undefined && this.#inPit(port, length)) {
      if (pit.chip.write(port, value, this.#now) !== -EOPNOTSUPP) {
        pit.follow();
        pit.schedule();
        return true;
      }
    }
    return this.#vcpu.vcpu.vm.buses.pio.write(port, length, data, at);
  }

  /** The PIT has four ports, and the speaker four. */
  #inPit(port: number, length: number): boolean {
    return port === SPEAKER ? this.#vcpu.vm.pit!.speaker : port + length <= PIT_END;
  }

  #picAccepted(): boolean {
    for (const lapic of this.#vcpu.vm.irqchip!.bus.lapics) if (lapic.acceptsPic()) return true;
    return false;
  }

  #picMasks(): void {
    const { irqchip } = this.#vcpu.vm;
    const pic = irqchip!.pic!;
    const changed = pic.maskChanged;
    if (changed === 0) return;
    // i8259.c:pic_ioport_write, kvm_fire_mask_notifiers (6.1)
    for (let irq = 0; irq < 16; irq++) {
      if ((changed & (1 << irq)) === 0) continue;
      const [chip, mask] =
        irq < 8 ? [KVM_IRQCHIP_PIC_MASTER, pic.master.imr] : [KVM_IRQCHIP_PIC_SLAVE, pic.slave.imr];
      const gsi = this.#vcpu.vcpu.vm.routing.gsiOf(chip, irq & 7);
      for (const notifier of irqchip!.maskNotifiers)
        if (notifier.gsi === gsi) notifier.changed((mask & (1 << (irq & 7))) !== 0);
    }
  }

  // ---- CPUID, MSRs, time -----------------------------------------------------------------------------------------

  cpuid(leaf: number, subleaf: number, out: Uint32Array): void {
    const { cpuid } = this.#vcpu;
    out.fill(0);
    if (cpuid.count === 0) return;
    let entry = cpuid.find(leaf, subleaf);
    if (entry === undefined && cpuid.isIntelCompatible) {
      // beyond the last leaf of its range a processor of Intel's answers with its last basic leaf
      const last = cpuid.register(leaf & 0x8000_0000 ? 0x8000_0000 : 0, 0, 12);
      if (leaf > last) entry = cpuid.find(cpuid.register(0, 0, 12), subleaf);
    }
    if (entry === undefined) return;
    storeRegisters(this.cpu.state, this.#vcpu);
    cpuid.shown(this.#vcpu);
    for (let i = 0; i < 4; i++) out[i] = load32(entry, 12 + 4 * i);
  }

  readMsr(index: number): bigint | undefined | typeof MSR_EXIT {
    const vcpu = this.#vcpu;
    if (vcpu.vm.msrFilter?.allows(index, KVM_MSR_FILTER_READ) === false)
      return this.#refusedRead(KVM_MSR_EXIT_REASON_FILTER);
    const { lapic } = vcpu;
    if (lapic !== undefined && index >= X2APIC_FIRST && index <= X2APIC_LAST)
      return (lapic.readMsr(index, this.#now) & LAPIC_FAULT) !== 0
        ? this.#refusedRead(KVM_MSR_EXIT_REASON_INVAL)
        : (BigInt(lapic.valueHi >>> 0) << 32n) | BigInt(lapic.valueLo >>> 0);
    storeRegisters(this.cpu.state, vcpu);
    const refused = refusedToGuest(vcpu, index, false);
    if (refused !== 0) return this.#refusedRead(refused);
    return vcpu.msrs.get(index, true) ?? this.#refusedRead(refusalOf(index, vcpu));
  }

  /** User space is asked for the value, or the guest gets #GP. */
  #refusedRead(reason: number): undefined | typeof MSR_EXIT {
    return this.#askUser(reason) ? MSR_EXIT : undefined;
  }

  #refusedWrite(reason: number): number | typeof MSR_EXIT {
    return this.#askUser(reason) ? MSR_EXIT : MSR_FAULT;
  }

  writeMsr(index: number, value: bigint): number | typeof MSR_EXIT {
    const vcpu = this.#vcpu;
    if (vcpu.vm.msrFilter?.allows(index, KVM_MSR_FILTER_WRITE) === false)
      return this.#refusedWrite(KVM_MSR_EXIT_REASON_FILTER);
    const lo = Number(value & 0xffff_ffffn);
    const hi = Number(value >> 32n);
    const { lapic, lapicClock } = vcpu;
    if (lapic !== undefined && index >= X2APIC_FIRST && index <= X2APIC_LAST) {
      const answer = lapic.writeMsr(index, lo, hi, this.#now);
      if ((answer & LAPIC_FAULT) !== 0) return this.#refusedWrite(KVM_MSR_EXIT_REASON_INVAL);
      this.#lapicDid(answer);
      return 0;
    }
    if (lapic !== undefined && index === IA32_TSC_DEADLINE) {
      lapic.setTscDeadline(value, this.#now);
      lapicClock!.follow();
      return 0;
    }
    storeRegisters(this.cpu.state, vcpu);
    const refused = refusedToGuest(vcpu, index, true);
    if (refused !== 0) return this.#refusedWrite(refused);
    if (!this.#setMsr(index, value, lo, hi)) return this.#refusedWrite(refusalOf(index, vcpu));
    loadRegisters(this.cpu.state, vcpu);
    this.cpu.memory.flush();
    return 0;
  }

  #setMsr(index: number, value: bigint, lo: number, hi: number): boolean {
    const vcpu = this.#vcpu;
    const { sregs } = vcpu.registers;
    if (index === IA32_EFER) {
      const paging = (this.cpu.state.c32[2 * CR0] & CR0_PG) !== 0;
      if (paging && ((lo ^ sregs.eferLo) & EFER_LME) !== 0) return false;
      // what a guest sets its CPUID must have (arch/x86/kvm/x86.c:__kvm_valid_efer, 6.1)
      const known = vcpu.cpuid.register(0x8000_0001, 0, EDX);
      if ((lo & (EFER_LME | EFER_LMA)) !== 0 && (known & LM) === 0) return false;
      if ((lo & EFER_NX) !== 0 && (known & NX) === 0) return false;
    }
    if (index === IA32_APIC_BASE && vcpu.lapic !== undefined) {
      if ((vcpu.lapic.setBase(lo, hi, false) & LAPIC_FAULT) !== 0) return false;
    }
    const taken = vcpu.msrs.set(index, value, true);
    this.wantsEntry ||= vcpu.hyperv.requests !== 0;
    return taken;
  }

  #askUser(reason: number): boolean {
    this.msrReason = reason;
    return (this.#vcpu.vm.settings.userSpaceMsr & reason) !== 0;
  }

  readTsc(): bigint {
    return this.#vcpu.msrs.get(IA32_TSC) ?? 0n;
  }

  readPmc(_index: number): bigint | undefined {
    return undefined;
  }

  fpuArea(): Uint8Array {
    return this.#vcpu.fpu.area;
  }

  readCr8(): number {
    return this.#vcpu.lapic?.cr8 ?? this.cpu.state.c32[2 * CR8];
  }

  writeCr8(value: number): void {
    const { lapic } = this.#vcpu;
    const { c32 } = this.cpu.state;
    if (lapic !== undefined) {
      lapic.cr8 = value;
      return;
    }
    this.tprLowered ||= value < c32[2 * CR8];
    c32[2 * CR8] = value;
  }

  allowedCr4(): number {
    return this.#vcpu.registers.allowedCr4();
  }

  fixesHypercalls(): boolean {
    return (this.#vcpu.vm.settings.disabledQuirks & KVM_X86_QUIRK_FIX_HYPERCALL_INSN) === 0;
  }

  /** arch/x86/kvm/x86.c:kvm_emulate_hypercall (6.1). Missing: KVM_HC_CLOCK_PAIRING. */
  hypercall(): bigint | undefined {
    const { hyperv, vm: arch } = this.#vcpu;
    if (hyperv.takesHypercall(this.cpu.r64[RAX])) return this.#hypervCall();
    if (arch.xen.takesHypercalls) {
      this.userCall = xenCall(this.cpu);
      return undefined;
    }
    const result = this.#answerHypercall();
    const { pages, vm } = this.#vcpu.vcpu;
    if (result !== undefined && vm.host.behaviour.hypercallResultShown) tellHypercallResult(pages, result);
    return result === undefined || this.cpu.long ? result : BigInt.asUintN(32, result);
  }

  /** Hyper-V's are for the kernel of a guest outside of real mode. */
  #hypervCall(): bigint | undefined {
    const { cpu } = this;
    if (cpu.cpl !== 0 || !cpu.protectedMode) {
      cpu.undefinedOpcode();
      return cpu.r64[RAX];
    }
    const call = hypervCall(cpu);
    const result = answerHypervCall(this.#vcpu, call);
    if (result === undefined) this.userCall = call;
    return result === undefined || cpu.long ? result : this.splitResult(result);
  }

  /** Outside of 64-bit mode the result of a hypercall of Hyper-V's is in EDX:EAX: its low half. */
  splitResult(result: bigint): bigint {
    this.cpu.r64[RDX] = result >> 32n;
    return result & 0xffff_ffffn;
  }

  #answerHypercall(): bigint | undefined {
    const { cpu } = this;
    if (cpu.cpl !== 0) return HYPERCALL_FORBIDDEN;
    const { r64 } = cpu.state;
    const [number, ...args] = [RAX, RBX, RCX, RDX, RSI].map((register) =>
      cpu.long ? r64[register] : BigInt.asUintN(32, r64[register]),
    );
    const [start, pages] = args;
    if (number === KVM_HC_VAPIC_POLL_IRQ) return 0n;
    const answered = processorHypercall(this.#vcpu, number, args, cpu.long);
    if (answered !== undefined) return answered;
    const exits = BigInt(this.#vcpu.vm.settings.exitHypercalls);
    if (number !== KVM_HC_MAP_GPA_RANGE || (exits & (1n << number)) === 0n) return HYPERCALL_UNKNOWN;
    // whole pages, at least one, and no end beyond the last
    const frame = start / BigInt(PAGE);
    if (start % BigInt(PAGE) !== 0n || pages === 0n || frame + pages >= 1n << 64n) return HYPERCALL_INVALID;
    return undefined;
  }
}

/** A value of up to 4 bytes, the rest zeros. */
function put(data: Uint8Array, at: number, length: number, lo: number, hi = 0): void {
  for (let i = 0; i < length; i++) data[at + i] = (i < 4 ? lo : hi) >>> (8 * (i & 3));
}

function get(data: Uint8Array, at: number, length: number): number {
  let value = 0;
  for (let i = length - 1; i >= 0; i--) value = value * 256 + data[at + i];
  return value >>> 0;
}

/** The PIC's ports are pairs, each a device of its own: an access that begins in one and ends elsewhere finds none. */
const inOnePair = (port: number, length: number): boolean => (port & 1) + length <= 2;
