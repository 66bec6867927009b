/**
 * A bench for level-triggered interrupts: a device that holds its line up until its driver acknowledges it, a guest whose
 * handler is a script, a VMM between them, and KVM below, with the IOAPIC in the kernel or (`split`) in the VMM. What
 * must hold:
 *
 * - **a level line that is high is seen**: when everything is quiet the device does not assert its line, unless the guest
 *   has masked the pin.
 * - **no interrupt out of nothing**: the handler runs only when the line was up at some time since it ran last.
 * - **one resample per EOI**: the resamplefd is signalled at most once for each EOI, and each unmasking of the pin.
 *
 * The pin is number 20 of the IOAPIC; its interrupt is vector 0x50 on vCPU 0.
 */
import {
  KVM_CAP_SPLIT_IRQCHIP,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_ENABLE_CAP,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_RESAMPLE,
  KvmEnableCap,
  KvmIrqfd,
} from "../../abi/kvm.ts";
import { KVM_GET_LAPIC, KVM_SET_LAPIC, KvmLapicState } from "../../abi/kvm-x86.ts";
import { store32 } from "../../abi/struct.ts";
import type { Lapic } from "../../hardware/lapic.ts";
import type { EventFd } from "../../kernel/eventfd.ts";
import type { Process } from "../../kernel/process.ts";
import { byHand } from "../../kernel/work-queue.ts";
import type { VcpuFile } from "../../kvm/vcpu.ts";
import type { Vm, VmFile } from "../../kvm/vm.ts";
import { GuestBus } from "../../kvm/x86/guest-bus.ts";
import type { X86Vcpu } from "../../kvm/x86/vcpu.ts";
import type { X86Vm } from "../../kvm/x86/vm.ts";
import { Machine } from "../../machine/machine.ts";
import { Virqfd } from "../../vfio/virqfd.ts";
import type { World } from "./run.ts";
import { Calls, step, type Thread, until } from "./thread.ts";

/** What stands between the device's line and the guest. */
export interface LevelVmm {
  /** the device's line goes up, or down; a part of the step in which it does */
  raised(): void;
  lowered(): void;
  /** the guest touches the device's registers, before it does anything else there */
  accessed?(): void;
  /** the VMM hears of an EOI (split irqchip) */
  eoi?(vector: number): void;
  loop?(): Thread;
}

/**
 * Steps of the guest's handler, after it took the interrupt: acknowledge the device, end the interrupt, mask and unmask
 * the pin, send the pin's interrupts to another vCPU, or go on when nothing is under way in the host (a thread).
 */
export type HandlerStep = "ack" | "eoi" | "mask" | "unmask" | "later" | readonly ["route", number];

/** What guest and device do. */
export interface LevelOptions {
  /** the handler of each vCPU */
  handlers: readonly (readonly HandlerStep[])[];
  /** how often the device asserts its line */
  device: number;
  /** the IOAPIC is the VMM's */
  split?: boolean;
}

export const PIN = 20;
export const VECTOR = 0x50;

const IOAPIC = 0xfec0_0000;
const LAPIC_EOI = 0xfee0_00b0;
const LEVEL = 1 << 15;
const MASK = 1 << 16;
const SPIV = 0xf0;

interface Cpu {
  readonly bus: GuestBus;
  readonly lapic: Lapic;
}

/** A device with a level interrupt, a guest, and KVM, around a VMM that is to be tried. */
export class LevelBench {
  readonly process: Process;
  readonly calls: Calls;
  readonly vm: number;
  /** the device asserts its line */
  asserted = false;
  readonly #options: LevelOptions;
  readonly #cpus: readonly Cpu[];
  /** the line was up since the handler ran last */
  #wasUp = false;
  #masked = false;
  #resamples = 0;
  #allowedResamples = 0;
  #wrong: string | undefined;

  constructor(options: LevelOptions) {
    this.#options = options;
    const process = new Machine(undefined, { policy: byHand }).process();
    this.process = process;
    this.calls = new Calls(process);
    this.vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    if (options.split === true)
      process.ioctl(
        this.vm,
        KVM_ENABLE_CAP,
        KvmEnableCap.encode({ cap: KVM_CAP_SPLIT_IRQCHIP, args: [24n, 0n, 0n, 0n] }),
      );
    else process.ioctl(this.vm, KVM_CREATE_IRQCHIP, 0);
    this.#cpus = options.handlers.map((_, id) => this.#addCpu(id));
    this.#program(LEVEL | VECTOR, 0);
  }

  #addCpu(id: number): Cpu {
    const { process } = this;
    const fd = process.ioctl(this.vm, KVM_CREATE_VCPU, id);
    const state = new Uint8Array(KvmLapicState.size);
    process.ioctl(fd, KVM_GET_LAPIC, state);
    store32(state, SPIV, 0x1ff);
    process.ioctl(fd, KVM_SET_LAPIC, state);
    const vcpu = (process.fds.get(fd) as VcpuFile).vcpu.arch as X86Vcpu;
    return { bus: new GuestBus(vcpu), lapic: vcpu.lapic! };
  }

  /** The VM behind its descriptor. */
  get kernelVm(): Vm {
    return (this.process.fds.get(this.vm) as VmFile).vm;
  }

  /** Binds an eventfd to the pin, with a resamplefd if one is given, before the exploration begins. */
  bind(fd: number, resamplefd?: number): void {
    const flags = resamplefd === undefined ? 0 : KVM_IRQFD_FLAG_RESAMPLE;
    const args = KvmIrqfd.encode({ fd, gsi: PIN, flags, resamplefd: resamplefd ?? 0 });
    this.process.ioctl(this.vm, KVM_IRQFD, args);
    if (resamplefd === undefined) return;
    const eventfd = this.process.fds.get(resamplefd) as EventFd;
    const signal = eventfd.signal.bind(eventfd);
    eventfd.signal = () => {
      this.#resamples++;
      signal();
    };
  }

  eventfd(): number {
    return this.process.eventfd2(0, 0x800);
  }

  signal(fd: number): void {
    this.process.write(fd, one);
  }

  world(vmm: LevelVmm): World {
    const threads: Record<string, Thread> = {};
    const daemons: string[] = ["vmm"];
    this.#cpus.forEach((cpu, id) => {
      threads[`vcpu${id}`] = this.#guest(vmm, cpu, this.#options.handlers[id]);
      daemons.push(`vcpu${id}`);
    });
    threads.device = this.#device(vmm);
    if (vmm.loop !== undefined) threads.vmm = vmm.loop();
    return {
      kernel: this.process.kernel,
      threads,
      daemons,
      check: () => this.#check(),
      final: () =>
        this.asserted && !this.#masked ? "the device asserts its line, and nobody is told" : undefined,
    };
  }

  *#device(vmm: LevelVmm): Thread {
    for (let i = 0; i < this.#options.device; i++) {
      yield* step("device: asserts its line", () => {
        this.#wasUp = true;
        if (this.asserted) return;
        this.asserted = true;
        vmm.raised();
      });
    }
  }

  // ---- the guest -------------------------------------------------------------------------------------------------

  *#guest(vmm: LevelVmm, cpu: Cpu, handler: readonly HandlerStep[]): Thread {
    const { kernel } = this.process;
    for (;;) {
      yield {
        run: () => this.#take(cpu),
        blocked: () => cpu.lapic.hasInterrupt() === -1,
        label: () => "guest: takes the interrupt",
      };
      for (const action of handler)
        if (action === "later")
          yield* until("the handler's thread is scheduled", () => kernel.work.pending === 0);
        else yield* step(`guest: ${action.toString()}`, () => this.#handle(vmm, cpu, action));
    }
  }

  #take(cpu: Cpu): void {
    cpu.lapic.takeInterrupt();
    if (!this.#wasUp) this.#wrong = "an interrupt, and the line was not up since the last one";
    this.#wasUp = this.asserted;
  }

  #handle(vmm: LevelVmm, cpu: Cpu, action: HandlerStep): void {
    switch (action) {
      case "ack":
        vmm.accessed?.();
        if (!this.asserted) return;
        this.asserted = false;
        this.#wasUp = false;
        vmm.lowered();
        return;
      case "eoi":
        this.#allowedResamples++;
        // on its way into the guest it has learnt which EOIs are reported
        (this.kernelVm.arch as X86Vm).irqchip!.scan(cpu.lapic);
        cpu.bus.writeMmio(LAPIC_EOI, 4, new Uint8Array(4), 0);
        if (this.#options.split === true) vmm.eoi?.(VECTOR);
        return;
      case "mask":
        this.#masked = true;
        this.#write(cpu, 0x10 + 2 * PIN, MASK | LEVEL | VECTOR);
        return;
      case "unmask":
        this.#masked = false;
        this.#allowedResamples++;
        this.#write(cpu, 0x10 + 2 * PIN, LEVEL | VECTOR);
        return;
      case "later":
        return;
      default:
        this.#write(cpu, 0x11 + 2 * PIN, action[1] << 24);
    }
  }

  #program(low: number, destination: number): void {
    this.#write(this.#cpus[0], 0x11 + 2 * PIN, destination << 24);
    this.#write(this.#cpus[0], 0x10 + 2 * PIN, low);
  }

  /** A write to a register of the IOAPIC, as the guest makes it. */
  #write({ bus }: Cpu, register: number, value: number): void {
    const data = new Uint8Array(4);
    store32(data, 0, register);
    bus.writeMmio(IOAPIC, 4, data, 0);
    store32(data, 0, value);
    bus.writeMmio(IOAPIC + 0x10, 4, data, 0);
  }

  #check(): string | undefined {
    if (this.#wrong !== undefined) return this.#wrong;
    if (this.#resamples > this.#allowedResamples)
      return `${this.#resamples} resamples for ${this.#allowedResamples} EOIs`;
    return undefined;
  }
}

const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);

/**
 * A level interrupt as VFIO gives it to a VMM: a signal masks it; on unmask it comes again, and stays masked, where the
 * line is still up.
 */
export class AutomaskedLine {
  readonly #bench: LevelBench;
  readonly #eventfd: number;
  masked = false;

  constructor(bench: LevelBench, eventfd: number) {
    this.#bench = bench;
    this.#eventfd = eventfd;
  }

  raised(): void {
    if (this.masked) return;
    this.masked = true;
    this.#bench.signal(this.#eventfd);
  }

  unmask(): void {
    if (this.#unmask()) this.#bench.signal(this.#eventfd);
  }

  /** Whether it has to come again. */
  #unmask(): boolean {
    if (this.masked && this.#bench.asserted) return true;
    this.masked = false;
    return false;
  }

  /** Unmasks when an eventfd is signalled. */
  unmaskBy(fd: number): void {
    const eventfd = this.#bench.process.fds.get(fd) as EventFd;
    new Virqfd(
      eventfd,
      () => this.#unmask(),
      () => this.#bench.signal(this.#eventfd),
      () => undefined,
    );
  }
}

/** The right way: irqfd with a resamplefd, and the resamplefd unmasks the line. */
export class ResamplingVmm implements LevelVmm {
  readonly line: AutomaskedLine;

  constructor(bench: LevelBench) {
    const [fd, resamplefd] = [bench.eventfd(), bench.eventfd()];
    this.line = new AutomaskedLine(bench, fd);
    this.line.unmaskBy(resamplefd);
    bench.bind(fd, resamplefd);
  }

  raised(): void {
    this.line.raised();
  }
  lowered(): void {}
}
