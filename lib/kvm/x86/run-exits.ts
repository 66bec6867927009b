/**
 * Instructions that wait for user space: their exits, and what the next entry makes of the answer
 * (arch/x86/kvm/x86.c:kvm_arch_vcpu_ioctl_run, complete_emulated_mmio, complete_fast_pio_in, complete_emulated_msr_access,
 * complete_hypercall_exit, 6.1 and 6.18).
 *
 * The interpreter takes such an instruction back, and runs it again from its start with the answer at hand. Writes that
 * nobody in the kernel takes are posted: they become exits one after the other once their instruction is done.
 */
import { EFAULT } from "../../abi/errno.ts";
import { load64 } from "../../abi/struct.ts";
import type { Cpu } from "../../hardware/x86/cpu.ts";
import {
  EXIT_BAD_ADDRESS,
  EXIT_HYPERCALL,
  EXIT_MEMORY_FAULT,
  EXIT_MMIO,
  EXIT_PORT_IN,
  EXIT_PORT_OUT,
  EXIT_RDMSR,
  EXIT_WRMSR,
} from "../../hardware/x86/memory.ts";
import { RAX, RBX, RCX, RDX, TF } from "../../hardware/x86/state.ts";
import type { GuestBus } from "./guest-bus.ts";
import type { HypervCall } from "./hyperv-hypercalls.ts";
import type { EmulationFailure } from "./run-emulation-failure.ts";
import { GO_ON, MMIO_DATA, MSR_DATA, MSR_ERROR, PIO_DATA, type RunPage } from "./run-page.ts";
import type { X86Vcpu } from "./vcpu.ts";
import { WaitingInstruction } from "./waiting-instruction.ts";
import type { XenCall } from "./xen.ts";

const QUIRK_OUT_7E = 1 << 3;

/** What the next entry has to finish. */
export type Unfinished =
  | "nothing"
  | "port"
  | "mmio"
  | "writes"
  | "out"
  | "msr"
  | "hypercall"
  | "hyperv"
  | "xen";

/** The instruction that waited has its answer, and is to be run again. */
export const AGAIN = 2;

export class Exits {
  readonly #vcpu: X86Vcpu;
  readonly #cpu: Cpu;
  readonly #bus: GuestBus;
  readonly #page: RunPage;
  readonly #failure: EmulationFailure;
  /** privileged code is run by KVM's emulator */
  readonly #emulated: boolean;
  readonly #waiting: WaitingInstruction;
  unfinished: Unfinished = "nothing";
  /** the posted write that user space sees at present */
  #posted = 0;

  constructor(vcpu: X86Vcpu, cpu: Cpu, bus: GuestBus, page: RunPage, failure: EmulationFailure) {
    this.#vcpu = vcpu;
    this.#cpu = cpu;
    this.#bus = bus;
    this.#page = page;
    this.#failure = failure;
    this.#emulated = vcpu.vcpu.vm.host.behaviour.kernelCodeEmulated;
    this.#waiting = new WaitingInstruction(cpu.state);
  }

  /** An instruction waits for user space. */
  wait(): number {
    const { memory } = this.#cpu;
    const page = this.#page;
    const { exitAddress, exitLength, exitCount } = memory;
    switch (memory.exit) {
      case EXIT_PORT_IN:
        page.io(false, exitLength, exitAddress, exitCount);
        this.#remember("port");
        return 0;
      case EXIT_PORT_OUT:
        page.io(true, exitLength, exitAddress, 1);
        page.bytes.set(memory.data.subarray(0, exitLength), PIO_DATA);
        this.#remember("out");
        if (exitAddress === 0x7e && (this.#vcpu.vm.settings.disabledQuirks & QUIRK_OUT_7E) === 0)
          this.#skipOut();
        return 0;
      case EXIT_MMIO:
        page.mmio(false, exitAddress, exitLength);
        this.#remember("mmio");
        return 0;
      case EXIT_RDMSR:
      case EXIT_WRMSR:
        page.msr(memory.exit === EXIT_WRMSR, this.#bus.msrReason, exitAddress, this.#cpu.msrValue);
        this.#remember("msr");
        return 0;
      case EXIT_HYPERCALL:
        if (this.#bus.userCall === undefined) this.#hypercall();
        else this.#userCall(this.#bus.userCall);
        return 0;
      case EXIT_MEMORY_FAULT:
      case EXIT_BAD_ADDRESS:
        if (memory.exit === EXIT_MEMORY_FAULT) page.memoryFault(exitAddress, exitLength);
        memory.forget();
        memory.postedCount = 0;
        return -EFAULT;
      default:
        return this.#failure.exit();
    }
  }

  #hypercall(): void {
    const cpu = this.#cpu;
    const { r64 } = cpu.state;
    const [number, ...args] = [RAX, RBX, RCX, RDX].map((register) =>
      cpu.long ? r64[register] : BigInt.asUintN(32, r64[register]),
    );
    this.#page.hypercall(number, args, cpu.long);
    this.#remember("hypercall");
  }

  /** One of Hyper-V's or Xen's. */
  #userCall(call: HypervCall | XenCall): void {
    const { long, cpl } = this.#cpu;
    this.#bus.userCall = undefined;
    if ("output" in call) this.#page.hypervCall(call.input, call.parameter, call.output);
    else this.#page.xenCall(long, cpl, call.input, call.parameters);
    this.#remember("output" in call ? "hyperv" : "xen");
  }

  /** The quirk of port 0x7e: RIP moves on before the exit. */
  #skipOut(): void {
    this.#cpu.memory.answer(this.#cpu.memory.data, 0, 0);
    this.#cpu.step();
    this.unfinished = "nothing";
  }

  /** It waits from now on. */
  #remember(unfinished: Unfinished): void {
    this.unfinished = unfinished;
    this.#waiting.begin(!this.#emulated && this.#vcpu.debug.singleSteps ? TF : 0);
  }

  /** An instruction is done, and its writes go to user space. */
  post(): number {
    this.#posted = 0;
    this.unfinished = "writes";
    return this.#showPosted();
  }

  #showPosted(): number {
    const { memory } = this.#cpu;
    const page = this.#page;
    const index = this.#posted;
    const address = memory.postedAddress[index];
    const length = memory.postedLength[index];
    const data = memory.posted.subarray(8 * index, 8 * index + length);
    if (memory.postedPort[index] !== 0) {
      page.io(true, length, address, 1);
      page.bytes.set(data, PIO_DATA);
    } else {
      page.mmio(true, address, length);
      page.bytes.set(data, MMIO_DATA);
    }
    return 0;
  }

  // ---- the next entry ----------------------------------------------------------------------------------------------

  /** Whether what waits is finished by the emulator. */
  byEmulator(unfinished: Unfinished): boolean {
    return this.#emulated || unfinished === "mmio";
  }

  /** Hands over what user space answered: AGAIN, GO_ON where no instruction waits, 0 for another exit. */
  handOver(): number {
    const cpu = this.#cpu;
    const { memory } = cpu;
    const { bytes } = this.#page;
    const unfinished = this.unfinished;
    this.unfinished = "nothing";
    if (unfinished === "nothing") return GO_ON;
    if (unfinished !== "writes") {
      if (this.byEmulator(unfinished)) this.#waiting.takeUp(cpu.opcode);
      else if (this.#waiting.moved) {
        memory.forget();
        return GO_ON;
      }
    }
    switch (unfinished) {
      case "writes":
        if (++this.#posted < memory.postedCount) {
          this.unfinished = "writes";
          return this.#showPosted();
        }
        memory.postedCount = 0;
        return GO_ON;
      case "port": {
        const length = memory.exitLength * memory.exitCount;
        cpu.portBuffer.set(bytes.subarray(PIO_DATA, PIO_DATA + length));
        cpu.portAt = 0;
        cpu.portEnd = length;
        cpu.portAnswered = true;
        break;
      }
      case "mmio":
        memory.answer(bytes, MMIO_DATA, memory.exitLength);
        break;
      case "out":
        memory.answer(bytes, PIO_DATA, 0);
        break;
      case "msr":
        cpu.msrAnswered = true;
        cpu.msrFailed = bytes[MSR_ERROR] !== 0;
        cpu.msrValue = load64(bytes, MSR_DATA);
        break;
      case "hypercall":
        cpu.msrAnswered = true;
        cpu.msrFailed = false;
        cpu.msrValue = BigInt.asUintN(cpu.long ? 64 : 32, this.#page.hypercallResult);
        break;
    }
    if (unfinished === "hyperv" || unfinished === "xen") {
      const xen = unfinished === "xen";
      const result = xen ? this.#page.xenResult : this.#page.hypervResult;
      cpu.msrAnswered = true;
      cpu.msrFailed = false;
      cpu.msrValue = xen || cpu.long ? result : this.#bus.splitResult(result);
    }
    return AGAIN;
  }

  /** The emulator has done the instruction that waited. */
  finished(): void {
    this.#waiting.end(this.#cpu.opcode);
  }
}
