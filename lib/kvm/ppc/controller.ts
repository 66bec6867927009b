/**
 * What the interrupt controllers of a POWER VM have in common: XICS, XICS on XIVE hardware, XIVE, MPIC. A VM has at most one;
 * it is a device with a descriptor, and gone with it. A vCPU is connected to it by KVM_ENABLE_CAP.
 */
import { EINVAL, ENODEV } from "../../abi/errno.ts";
import type { KvmDevice } from "../device.ts";
import { type IrqArch, WOULD_BLOCK } from "../irq-routing.ts";
import type { Route, RouteCheck } from "../routing-table.ts";
import type { PpcVcpu } from "./vcpu.ts";
import { hasMpic, type PpcVm } from "./vm.ts";

export interface PpcController extends KvmDevice {
  /** the capability that connects a vCPU */
  readonly capability: number;
  /** `level` is the number of KVM_IRQ_LINE: 0, or −EINVAL for a source that is not set up */
  setIrq(irq: number, level: number): number;
  /** a presenter for a vCPU that has none yet, or −errno: −EEXIST for a server in use, −EINVAL, −ENOMEM */
  connect(vcpu: PpcVcpu, server: number): Presenter | number;
  /** where GSIs are routed: what an entry may be, and what it does */
  checkRoute?: RouteCheck["checkRoute"];
  setRoute?(route: Route, level: boolean): number;
  /** the firmware calls on sources (RTAS), where the controller has any */
  readonly rtas?: RtasSources;
}

/** ibm,set-xive and its kin: 0 or −EINVAL. */
export interface RtasSources {
  setXive(irq: number, server: number, priority: number): number;
  getXive(irq: number): { server: number; priority: number } | number;
  intOn(irq: number): number;
  intOff(irq: number): number;
}

/** A vCPU's end of a controller. */
export interface Presenter {
  /** KVM_REG_PPC_ICP_STATE: 8 bytes; 0, −EINVAL, −ENXIO */
  saveIcp(bytes: Uint8Array, at: number): number;
  restoreIcp(bytes: Uint8Array, at: number): number;
  /** KVM_REG_PPC_VP_STATE: 8 bytes of the hardware's registers, or −errno */
  readonly vpState: Uint8Array | number;
  /** H_XIRR and its kin, on the registers of the vCPU: the status for GPR 3, or undefined where it is not handled here */
  hypercall(number: number): number | undefined;
  disconnect(): void;
}

/** The controllers as irqfds see them: a GSI is a source, and every source can be raised at once. */
export class PpcIrq implements IrqArch {
  readonly #vm: PpcVm;

  constructor(vm: PpcVm) {
    this.#vm = vm;
  }

  get initialized(): boolean {
    return this.#vm.controller !== undefined;
  }

  irqfdAllowed(): boolean {
    return true;
  }

  get canSetRouting(): boolean {
    return hasMpic(this.#vm.vm.host);
  }

  checkRoute(type: number, first: number, second: number): number {
    return this.#vm.controller?.checkRoute?.(type, first, second) ?? -EINVAL;
  }

  setRoute(route: Route, _sourceId: number, level: boolean): number {
    const { controller } = this.#vm;
    if (controller === undefined) return -ENODEV;
    return controller.setRoute?.(route, level) ?? controller.setIrq(route.gsi, level ? 1 : 0);
  }

  /** Without a routing table inside the wake-up too, with resampling too (arch/powerpc/kvm/book3s.c:kvm_arch_set_irq_inatomic, 6.1). */
  setInAtomic(route: Route): number {
    const { controller } = this.#vm;
    if (controller?.setRoute !== undefined) return WOULD_BLOCK;
    return controller?.setIrq(route.gsi, 1) ?? -ENODEV;
  }

  routingChanged(): void {}
}
