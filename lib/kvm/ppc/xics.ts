/**
 * The in-kernel XICS of a POWER VM as a device (arch/powerpc/kvm/book3s_xics.c, 6.1). Group 1: a source by number, its
 * state a u64. There is no other group: NR_SERVERS belongs to the hosts that play XICS on XIVE.
 *
 * What user space sees is in the traces ppc64le-kvm-6.12/xics-create and xics-sources.
 */
import { EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ENXIO } from "../../abi/errno.ts";
import { KVM_CAP_IRQ_XICS } from "../../abi/kvm.ts";
import { KVM_DEV_XICS_GRP_SOURCES } from "../../abi/kvm-ppc.ts";
import { XICS_FIRST_SOURCE, XICS_IPI, XICS_SOURCES, Xics, type XicsPresenter } from "../../hardware/xics.ts";
import type { DeviceAttr } from "../device.ts";
import type { Vm } from "../vm.ts";
import type { PpcController, Presenter, RtasSources } from "./controller.ts";
import { H_CPPR, H_EOI, H_IPI, H_IPOLL, H_PARAMETER, H_SUCCESS, H_XIRR, H_XIRR_X } from "./hypercalls.ts";
import type { PpcVcpu } from "./vcpu.ts";
import type { PpcVm } from "./vm.ts";

const WORD = 8;

/** Whether a number can be that of a source. */
export const isSource = (attr: bigint): boolean => attr >= XICS_FIRST_SOURCE && attr < XICS_SOURCES;

/** KVM_CREATE_DEVICE. EEXIST: the VM has a controller; ENOMEM. */
export function createXics(vm: Vm): KvmXics | number {
  const arch = vm.arch as PpcVm;
  if (arch.controller !== undefined) return -EEXIST;
  if (vm.kernel.faults.allocation("kvmppc_xics")) return -ENOMEM;
  return (arch.controller = new KvmXics(arch));
}

export class KvmXics implements PpcController {
  readonly name = "kvm-xics";
  readonly capability = KVM_CAP_IRQ_XICS;
  readonly chip = new Xics();
  readonly rtas: RtasSources;
  readonly #vm: PpcVm;

  constructor(vm: PpcVm) {
    this.#vm = vm;
    const chip = this.chip;
    this.rtas = {
      setXive: (irq, server, priority) => chip.setXive(irq, server, priority),
      getXive: (irq) => chip.source(irq) ?? -EINVAL,
      intOn: (irq) => chip.intOn(irq),
      intOff: (irq) => chip.intOff(irq),
    };
  }

  /** ENXIO: no such group; ENOENT: the number cannot be a source's; ENOMEM, EFAULT; EINVAL: no such server. */
  set({ group, attr, user }: DeviceAttr): number {
    if (group !== KVM_DEV_XICS_GRP_SOURCES) return -ENXIO;
    if (!isSource(attr)) return -ENOENT;
    const irq = Number(attr);
    if (this.chip.source(irq) === undefined) {
      if (this.#vm.vm.kernel.faults.allocation("kvmppc_ics")) return -ENOMEM;
      this.chip.addBlock(irq);
    }
    if (!user.readable(WORD)) return -EFAULT;
    return this.chip.restoreSource(this.chip.source(irq)!, user.bytes, user.at);
  }

  /** ENXIO; ENOENT: the source was never set up; EFAULT. The number's upper 32 bits are not looked at. */
  get({ group, attr, user }: DeviceAttr): number {
    if (group !== KVM_DEV_XICS_GRP_SOURCES) return -ENXIO;
    const source = this.chip.source(Number(attr & 0xffff_ffffn));
    if (source?.exists !== true) return -ENOENT;
    if (!user.writable(WORD)) return -EFAULT;
    source.saveTo(user.bytes, user.at);
    return 0;
  }

  has({ group, attr }: DeviceAttr): number {
    return group === KVM_DEV_XICS_GRP_SOURCES && isSource(attr) ? 0 : -ENXIO;
  }

  setIrq(irq: number, level: number): number {
    return this.chip.setIrq(irq, level);
  }

  connect(vcpu: PpcVcpu, server: number): Presenter | number {
    if (this.chip.presenter(server) !== undefined) return -EEXIST;
    if (this.#vm.vm.kernel.faults.allocation("kvmppc_icp")) return -ENOMEM;
    return new XicsConnection(this, vcpu, this.chip.addPresenter(server, vcpu));
  }

  /** The guest ended a source: whoever waits for it is told. */
  acked(irq: number): void {
    this.#vm.vm.routing.notifyAcked(0, irq);
  }

  /** The descriptor is closed: every vCPU is without a controller again. */
  release(): void {
    this.#vm.removeController();
  }

  destroy(): void {
    this.#vm.removeController();
  }
}

class XicsConnection implements Presenter {
  readonly #xics: KvmXics;
  readonly #vcpu: PpcVcpu;
  readonly #presenter: XicsPresenter;
  readonly vpState = -ENXIO;

  constructor(xics: KvmXics, vcpu: PpcVcpu, presenter: XicsPresenter) {
    this.#xics = xics;
    this.#vcpu = vcpu;
    this.#presenter = presenter;
  }

  saveIcp(bytes: Uint8Array, at: number): number {
    this.#xics.chip.savePresenter(this.#presenter, bytes, at);
    return 0;
  }

  restoreIcp(bytes: Uint8Array, at: number): number {
    return this.#xics.chip.restorePresenter(this.#presenter, bytes, at);
  }

  /** book3s_xics.c:kvmppc_xics_hcall (6.1). Arguments from GPR 4 on, and answers there. */
  hypercall(number: number): number | undefined {
    const { chip } = this.#xics;
    const { registers } = this.#vcpu;
    const first = registers.gpr(4);
    switch (number) {
      case H_XIRR:
      case H_XIRR_X:
        registers.setGpr(4, chip.xirr(this.#presenter));
        if (number === H_XIRR_X) registers.setGpr(5, this.#vcpu.timeBase);
        return H_SUCCESS;
      case H_CPPR:
        chip.setCppr(this.#presenter, first);
        return H_SUCCESS;
      case H_EOI: {
        const status = chip.eoi(this.#presenter, first >>> 0);
        const irq = first & 0xff_ffff;
        if (status === H_SUCCESS && irq !== XICS_IPI) this.#xics.acked(irq);
        return status;
      }
      case H_IPI:
        return chip.ipi(first, registers.gpr(5));
      case H_IPOLL: {
        const polled = chip.presenter(first);
        if (polled === undefined) return H_PARAMETER;
        registers.setGpr(4, polled.xirr);
        registers.setGpr(5, polled.mfrr);
        return H_SUCCESS;
      }
    }
    return undefined;
  }

  disconnect(): void {
    this.#xics.chip.removePresenter(this.#presenter);
  }
}
