/**
 * A POWER vCPU: whether it may run, its end of the interrupt controller, its registers, and what a guest does on it:
 * hypercalls and accesses to memory that no slot backs (arch/powerpc/kvm/powerpc.c, 6.1).
 */
import { EBADF, EBUSY, EFAULT, EINTR, EINVAL, ENXIO, EPERM } from "../../abi/errno.ts";
import {
  KVM_CAP_IRQ_MPIC,
  KVM_CAP_IRQ_XICS,
  KVM_CAP_PPC_AIL_MODE_3,
  KVM_CAP_PPC_FWNMI,
  KVM_CAP_PPC_IRQ_XIVE,
  KVM_CAP_PPC_OSI,
  KVM_CAP_PPC_PAPR,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_INTR,
  KVM_INTERRUPT,
  KvmInterrupt,
} from "../../abi/kvm.ts";
import { KVM_INTERRUPT_UNSET, KvmRun } from "../../abi/kvm-ppc.ts";
import { load32, store32 } from "../../abi/struct.ts";
import type { ExternalInput } from "../../hardware/external-input.ts";
import type { Argument } from "../../kernel/argument.ts";
import { ASLEEP } from "../../kernel/long-call.ts";
import type { Process } from "../../kernel/process.ts";
import type { VcpuArch } from "../arch.ts";
import { DeviceFile } from "../device.ts";
import type { Entry } from "../dispatch.ts";
import type { Vcpu, VcpuFile } from "../vcpu.ts";
import { sleepUntil } from "../vcpu-sleep.ts";
import type { PpcController, Presenter } from "./controller.ts";
import { type Guest, GuestRunner } from "./guest.ts";
import { H_RTAS, H_SUCCESS } from "./hypercalls.ts";
import { OneRegs } from "./one-reg.ts";
import { PpcRegisters } from "./registers.ts";
import { rtasCall } from "./rtas.ts";
import { hasMpic, hasXive, type PpcVm } from "./vm.ts";

/** PVR of a POWER9 (2.0) and of a POWER8E: the processors of the recorded hosts in hypervisor and in user mode */
const PVR_POWER9 = 0x004e_1200;
const PVR_POWER8 = 0x004d_0200;
/** LPCR of a new vCPU of a radix guest: on a host that is a guest itself, and on a bare one */
const NESTED_LPCR = 0x0040_0000_0054_0413n;
const BARE_LPCR = 0x0040_0000_0054_f41fn;

const EXIT_REASON = KvmRun.offsetOf.exit_reason;
const IMMEDIATE_EXIT = KvmRun.offsetOf.immediate_exit;

export class PpcVcpu implements VcpuArch, ExternalInput {
  readonly vm: PpcVm;
  readonly vcpu: Vcpu;
  readonly registers: PpcRegisters;
  readonly oneRegs: OneRegs;
  /** its end of the VM's controller */
  presenter: Presenter | undefined;
  /** an external interrupt is pending */
  external = false;
  /** KVM_CAP_PPC_PAPR */
  papr = false;
  /** what it was told fits together; in hypervisor mode a guest needs PAPR. Looked at by KVM_ENABLE_CAP alone. */
  sane: boolean;
  #guest: GuestRunner | undefined;

  constructor(vm: PpcVm, vcpu: Vcpu) {
    this.vm = vm;
    this.vcpu = vcpu;
    this.registers = new PpcRegisters(vm.hv, vm.hv ? PVR_POWER9 : PVR_POWER8);
    const { host } = vm.vm;
    const ail = (host.vmCapabilities.get(KVM_CAP_PPC_AIL_MODE_3) ?? 0) !== 0;
    this.oneRegs = new OneRegs(vm.hv, hasXive(host) ? BARE_LPCR : NESTED_LPCR, ail, host.behaviour.ppcDexcr);
    this.sane = !vm.hv;
  }

  /** the guest's clock in ticks; it follows the host's */
  get timeBase(): number {
    return Math.floor(this.vcpu.vm.kernel.clock.now / 2);
  }

  get connected(): boolean {
    return this.presenter !== undefined;
  }

  online(): void {}

  /** KVM_RUN: EINVAL for a vCPU that is not ready. Without a guest it runs until a signal comes: EINTR. */
  run(patient: boolean): number {
    const { pages } = this.vcpu;
    this.#guest?.complete();
    if (pages[IMMEDIATE_EXIT] !== 0 || (patient && this.vcpu.kicked)) return -EINTR;
    if (!this.sane) {
      store32(pages, EXIT_REASON, KVM_EXIT_INTERNAL_ERROR);
      return -EINVAL;
    }
    return this.#guest === undefined ? this.#idle(patient) : this.#guest.run(patient);
  }

  resume(): number {
    return this.#guest === undefined ? this.#idle(true) : this.#guest.resume();
  }

  #idle(patient: boolean): number {
    if (patient && sleepUntil(this.vcpu, true, "runs no guest", () => false) === ASLEEP) return ASLEEP;
    store32(this.vcpu.pages, EXIT_REASON, KVM_EXIT_INTR);
    return -EINTR;
  }

  /** Puts a guest on the vCPU: from now on KVM_RUN runs it. */
  load(guest: Guest): void {
    this.#guest = new GuestRunner(this, guest);
  }

  /** What succeeded is checked as a whole: −EINVAL where the vCPU cannot run with it; it is done all the same. */
  enableCap(capability: number, flags: number, args: readonly bigint[], process: Process): number {
    if (flags !== 0) return -EINVAL;
    const result = this.#enable(capability, args, process);
    if (result !== 0) return result;
    this.sane = this.papr || !this.vm.hv;
    return this.sane ? 0 : -EINVAL;
  }

  #enable(capability: number, args: readonly bigint[], process: Process): number {
    switch (capability) {
      case KVM_CAP_PPC_OSI:
        return 0;
      case KVM_CAP_PPC_PAPR:
        this.papr = true;
        return 0;
      case KVM_CAP_PPC_FWNMI:
        return this.vm.hv ? 0 : -EINVAL;
      case KVM_CAP_IRQ_MPIC:
        return hasMpic(this.vm.vm.host) ? this.#connect(capability, args, process) : -EINVAL;
      case KVM_CAP_IRQ_XICS:
      case KVM_CAP_PPC_IRQ_XIVE:
        return this.#connect(capability, args, process);
    }
    return -EINVAL;
  }

  /**
   * EBADF; ENXIO: the host does not run on XIVE; EPERM: no device, another VM's, or of the other kind; EBUSY: connected already;
   * and what the controller has against the server number.
   */
  #connect(capability: number, args: readonly bigint[], process: Process): number {
    const file = process.fds.get(Number(args[0] & 0xffff_ffffn));
    if (file === undefined) return -EBADF;
    if (capability === KVM_CAP_PPC_IRQ_XIVE && !this.vm.hv) return -ENXIO;
    if (!(file instanceof DeviceFile)) return -EPERM;
    const controller = file.device as Partial<PpcController>;
    if (controller.capability !== capability || file.vm !== this.vm.vm) return -EPERM;
    // an MPIC looks at the CPU number first
    if (this.presenter !== undefined && capability !== KVM_CAP_IRQ_MPIC) return -EBUSY;
    const presenter = controller.connect!(this, Number(args[1] & 0xffff_ffffn));
    if (typeof presenter === "number") return presenter;
    this.presenter = presenter;
    return 0;
  }

  disconnect(): void {
    this.presenter?.disconnect();
    this.presenter = undefined;
  }

  /**
   * What a guest asks of its hypervisor: number in GPR 3, arguments from GPR 4 on; the status comes back in GPR 3. False
   * where user space has to answer.
   */
  hypercall(): boolean {
    const number = this.registers.gpr(3);
    if (number === H_RTAS) return this.#rtas();
    if (!this.vm.hypercalls.has(number)) return false;
    const status = this.presenter?.hypercall(number);
    if (status === undefined) return false;
    this.registers.setGpr(3, status);
    return true;
  }

  #rtas(): boolean {
    if (this.vm.rtasTokens.size === 0 || rtasCall(this.vm, this.registers.gpr(4)) < 0) return false;
    this.registers.setGpr(3, H_SUCCESS);
    return true;
  }

  destroy(): void {
    this.disconnect();
  }
}

/** KVM_INTERRUPT: every value but UNSET raises the input, with a controller or without. EFAULT. */
function interrupt(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmInterrupt.size)) return -EFAULT;
  const vcpu = file.vcpu.arch as PpcVcpu;
  vcpu.external = load32(user.bytes, user.at) !== KVM_INTERRUPT_UNSET;
  return 0;
}

export const interruptIoctls: readonly Entry<VcpuFile>[] = [[KVM_INTERRUPT, interrupt]];
