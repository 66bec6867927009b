/**
 * The MPIC of a VM on an e500 host as a device (arch/powerpc/kvm/mpic.c, 6.1; Documentation/virt/kvm/devices/mpic.rst).
 * No recording of such a host stands behind this file; it is there where a profile offers KVM_CAP_IRQ_MPIC.
 *
 * Groups: 1 attribute 0 the base address (u64, a multiple of 256 KiB, 0: nowhere), 2 a register by its offset (u32),
 * 3 the line of a source by number (u32, 0 or 1). GSIs go through a routing table here: pins of the one controller, and
 * messages, of which the data matter alone.
 */
import { EBUSY, EEXIST, EFAULT, EINVAL, ENOMEM, ENOTTY, ENXIO, EPERM } from "../../abi/errno.ts";
import {
  KVM_CAP_IRQ_MPIC,
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KVM_SET_GSI_ROUTING,
  KVM_SIGNAL_MSI,
  KvmMsi,
} from "../../abi/kvm.ts";
import {
  KVM_DEV_MPIC_BASE_ADDR,
  KVM_DEV_MPIC_GRP_IRQ_ACTIVE,
  KVM_DEV_MPIC_GRP_MISC,
  KVM_DEV_MPIC_GRP_REGISTER,
} from "../../abi/kvm-ppc.ts";
import { load32, loadNumber64, store32, store64 } from "../../abi/struct.ts";
import { MPIC_MAX_CPUS, MPIC_SIZE, MPIC_SOURCES, Mpic, type MpicVersion } from "../../hardware/mpic.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { CreateDevice, DeviceAttr } from "../device.ts";
import type { Entry } from "../dispatch.ts";
import type { IoDevice } from "../io-bus.ts";
import { KVM_USERSPACE_IRQ_SOURCE_ID, setGsiRouting } from "../irq-routing.ts";
import type { Route } from "../routing-table.ts";
import type { VmFile } from "../vm.ts";
import type { PpcController, Presenter } from "./controller.ts";
import type { PpcVcpu } from "./vcpu.ts";
import { hasMpic, type PpcVm } from "./vm.ts";

/** KVM_IRQCHIP_NUM_PINS */
const PINS = 256;

/** KVM_CREATE_DEVICE. EINVAL: the VM has one; ENOMEM. */
export const createMpic =
  (version: MpicVersion): CreateDevice =>
  (vm) => {
    const arch = vm.arch as PpcVm;
    if (arch.controller !== undefined) return -EINVAL;
    if (vm.kernel.faults.allocation("openpic")) return -ENOMEM;
    return (arch.controller = new KvmMpic(arch, version));
  };

export class KvmMpic implements PpcController, IoDevice {
  readonly name = "kvm-mpic";
  readonly capability = KVM_CAP_IRQ_MPIC;
  readonly chip: Mpic;
  readonly isIoeventfd = false;
  readonly length = MPIC_SIZE;
  address = 0;
  readonly #vm: PpcVm;
  /** by CPU number */
  readonly connected = new Set<number>();

  constructor(vm: PpcVm, version: MpicVersion) {
    this.#vm = vm;
    this.chip = new Mpic(version);
  }

  // ---- the guest's accesses --------------------------------------------------------------------------------------

  /** Words, and single bytes. */
  read(address: number, length: number, data: Uint8Array, at: number): boolean {
    if (length !== 4 && length !== 1) return false;
    if (length === 4 && address % 4 !== 0) return false;
    const value = this.chip.read(address - this.address, this.#cpu);
    if (value < 0) return false;
    if (length === 4) store32(data, at, value);
    else data[at] = value >>> (8 * (address & 3));
    return true;
  }

  write(address: number, length: number, data: Uint8Array, at: number): boolean {
    if (length !== 4 || address % 4 !== 0) return false;
    const result = this.chip.write(address - this.address, load32(data, at), this.#cpu);
    this.#tellAcked();
    return result === 0;
  }

  /** The CPU that runs; −1 where none does. */
  get #cpu(): number {
    const presenter = this.#vm.running?.presenter;
    return presenter instanceof MpicConnection ? presenter.cpu : -1;
  }

  #tellAcked(): void {
    for (const irq of this.chip.acked.splice(0)) this.#vm.vm.routing.notifyAcked(0, irq);
  }

  // ---- attributes ------------------------------------------------------------------------------------------------

  /** ENXIO: no such attribute or register; EINVAL: a bad address, number or level; EFAULT. */
  set({ group, attr, user }: DeviceAttr): number {
    if (group === KVM_DEV_MPIC_GRP_MISC && Number(attr) === KVM_DEV_MPIC_BASE_ADDR)
      return this.#setBase(user);
    if (group === KVM_DEV_MPIC_GRP_REGISTER) {
      if (!user.readable(4)) return -EFAULT;
      if ((attr & 3n) !== 0n) return -ENXIO;
      const result = this.chip.write(Number(attr), load32(user.bytes, user.at), -1);
      this.#tellAcked();
      return result;
    }
    if (group !== KVM_DEV_MPIC_GRP_IRQ_ACTIVE) return -ENXIO;
    if (attr > MPIC_SOURCES) return -EINVAL;
    if (!user.readable(4)) return -EFAULT;
    const level = load32(user.bytes, user.at);
    if (level > 1) return -EINVAL;
    this.chip.setIrq(Number(attr), level === 1);
    return 0;
  }

  get({ group, attr, user }: DeviceAttr): number {
    if (group === KVM_DEV_MPIC_GRP_MISC && Number(attr) === KVM_DEV_MPIC_BASE_ADDR) {
      if (!user.writable(8)) return -EFAULT;
      store64(user.bytes, user.at, this.address);
      return 0;
    }
    let value: number;
    if (group === KVM_DEV_MPIC_GRP_REGISTER) {
      value = (attr & 3n) === 0n ? this.chip.read(Number(attr), -1) : -ENXIO;
      if (value < 0) return value;
    } else if (group === KVM_DEV_MPIC_GRP_IRQ_ACTIVE) {
      if (attr > MPIC_SOURCES) return -EINVAL;
      value = Number(this.chip.sources[Number(attr)].pending);
    } else return -ENXIO;
    if (!user.writable(4)) return -EFAULT;
    store32(user.bytes, user.at, value);
    return 0;
  }

  has({ group, attr }: DeviceAttr): number {
    const known =
      (group === KVM_DEV_MPIC_GRP_MISC && Number(attr) === KVM_DEV_MPIC_BASE_ADDR) ||
      group === KVM_DEV_MPIC_GRP_REGISTER ||
      (group === KVM_DEV_MPIC_GRP_IRQ_ACTIVE && attr <= MPIC_SOURCES);
    return known ? 0 : -ENXIO;
  }

  #setBase(user: Argument): number {
    if (!user.readable(8)) return -EFAULT;
    const base = loadNumber64(user.bytes, user.at);
    if (base % MPIC_SIZE !== 0) return -EINVAL;
    const { mmio } = this.#vm.vm.buses;
    mmio.unregister(this);
    this.address = base;
    if (base !== 0) mmio.register(this);
    return 0;
  }

  // ---- interrupts ------------------------------------------------------------------------------------------------

  /** KVM_IRQ_LINE: through the routing table; −1 where the GSI leads nowhere. */
  setIrq(gsi: number, level: number): number {
    return this.#vm.vm.routing.setIrq(KVM_USERSPACE_IRQ_SOURCE_ID, gsi, level !== 0, false);
  }

  checkRoute(type: number, irqchip: number, pin: number): number {
    if (type === KVM_IRQ_ROUTING_MSI) return 0;
    return type === KVM_IRQ_ROUTING_IRQCHIP && irqchip === 0 && pin < PINS ? 0 : -EINVAL;
  }

  /** A message counts whatever the level, as in KVM. */
  setRoute(route: Route, level: boolean): number {
    if (route.type === KVM_IRQ_ROUTING_MSI) this.chip.message(route.data);
    else this.chip.setIrq(route.pin, level);
    return 0;
  }

  connect(vcpu: PpcVcpu, cpu: number): Presenter | number {
    if (cpu >= MPIC_MAX_CPUS) return -EPERM;
    if (this.connected.has(cpu)) return -EEXIST;
    if (vcpu.presenter !== undefined) return -EBUSY;
    this.connected.add(cpu);
    this.chip.connect(cpu, vcpu);
    return new MpicConnection(cpu);
  }

  /** It lives as long as the VM, its descriptor does not matter. */
  destroy(): void {
    this.#vm.removeController();
  }
}

class MpicConnection implements Presenter {
  readonly cpu: number;
  readonly vpState = -ENXIO;

  constructor(cpu: number) {
    this.cpu = cpu;
  }

  saveIcp(): number {
    return -ENXIO;
  }

  restoreIcp(): number {
    return -ENXIO;
  }

  hypercall(): undefined {
    return undefined;
  }

  disconnect(): void {}
}

/** KVM_SIGNAL_MSI: 0. ENOTTY: the host routes nothing; EFAULT; EINVAL: no controller, flags. */
function signalMsi(file: VmFile, user: Argument): number {
  if (!hasMpic(file.vm.host)) return -ENOTTY;
  if (!user.readable(KvmMsi.size)) return -EFAULT;
  const { controller } = file.vm.arch as PpcVm;
  const { data, flags } = KvmMsi.at(user.bytes, user.at);
  if (!(controller instanceof KvmMpic) || flags !== 0) return -EINVAL;
  controller.chip.message(data);
  return 0;
}

export const mpicIoctls: readonly Entry<VmFile>[] = [
  [KVM_SET_GSI_ROUTING, (file, user) => (hasMpic(file.vm.host) ? setGsiRouting(file, user) : -ENOTTY)],
  [KVM_SIGNAL_MSI, signalMsi],
];
