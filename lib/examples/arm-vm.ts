/** An arm64 VM with a GICv2 and one vCPU, and a guest in TypeScript that serves one device. */
import {
  KVM_CREATE_DEVICE,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_DEV_TYPE_ARM_VGIC_V2,
  KVM_SET_DEVICE_ATTR,
  KvmCreateDevice,
  KvmDeviceAttr,
} from "../abi/kvm.ts";
import {
  KVM_ARM_PREFERRED_TARGET,
  KVM_ARM_VCPU_INIT,
  KVM_DEV_ARM_VGIC_CTRL_INIT,
  KVM_DEV_ARM_VGIC_GRP_ADDR,
  KVM_DEV_ARM_VGIC_GRP_CTRL,
  KVM_VGIC_V2_ADDR_TYPE_CPU,
  KVM_VGIC_V2_ADDR_TYPE_DIST,
  KvmVcpuInit,
} from "../abi/kvm-arm64.ts";
import { store64 } from "../abi/struct.ts";
import { SPURIOUS } from "../hardware/gic-cpu-interface.ts";
import type { Process } from "../kernel/process.ts";
import { byHand } from "../kernel/work-queue.ts";
import { type Guest, load, store, wfi } from "../kvm/arm64/guest.ts";
import type { Arm64Vcpu } from "../kvm/arm64/vcpu.ts";
import type { VcpuFile } from "../kvm/vcpu.ts";
import type { VmFile } from "../kvm/vm.ts";
import { builtinHosts } from "../machine/builtin.ts";
import { Machine } from "../machine/machine.ts";
import { profileFromHeader } from "../machine/profile.ts";

const profile = profileFromHeader(builtinHosts.arm64_6_12_gicv2);

const GICD = 0x0800_0000;
const GICC = 0x0801_0000;
const GICD_CTLR = GICD;
const GICD_ISENABLER1 = GICD + 0x104;
const GICD_ITARGETSR = GICD + 0x800;
const GICD_ICFGR = GICD + 0xc00;
const GICC_CTLR = GICC;
const GICC_PMR = GICC + 4;
const GICC_IAR = GICC + 0xc;
const GICC_EOIR = GICC + 0x10;
/** the device's register: memory of nobody, an exit to user space */
export const DEVICE = 0x9000_0000;

export class ArmVm {
  readonly machine = new Machine(profile, { policy: byHand });
  readonly process: Process = this.machine.process();
  readonly vm: number;
  readonly vcpu: number;

  constructor() {
    const { process } = this;
    this.vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    this.vcpu = process.ioctl(this.vm, KVM_CREATE_VCPU, 0);
    const init = new Uint8Array(KvmVcpuInit.size);
    process.ioctl(this.vm, KVM_ARM_PREFERRED_TARGET, init);
    process.ioctl(this.vcpu, KVM_ARM_VCPU_INIT, init);
    const create = KvmCreateDevice.encode({ type: KVM_DEV_TYPE_ARM_VGIC_V2 });
    process.ioctl(this.vm, KVM_CREATE_DEVICE, create);
    const { fd } = KvmCreateDevice.decode(create);
    this.#set(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V2_ADDR_TYPE_DIST, GICD);
    this.#set(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V2_ADDR_TYPE_CPU, GICC);
    this.#set(fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0);
  }

  #set(fd: number, group: number, attr: number, value: number): void {
    const bytes = new Uint8Array(8);
    store64(bytes, 0, value);
    const addr = BigInt(this.process.addressOf(bytes));
    this.process.ioctl(fd, KVM_SET_DEVICE_ATTR, KvmDeviceAttr.encode({ group, attr: BigInt(attr), addr }));
  }

  get cpu(): Arm64Vcpu {
    return (this.process.fds.get(this.vcpu) as VcpuFile).vcpu.arch as Arm64Vcpu;
  }

  get kvm() {
    return (this.process.fds.get(this.vm) as VmFile).vm;
  }
}

/**
 * Sets its controller up for one SPI, then takes interrupts for ever: acknowledge, serve the device (an exit), end. `took`
 * is told each number that it acknowledges.
 */
export function* servingGuest(intid: number, edge: boolean, took: (intid: number) => void): Guest {
  yield* store(GICD_ICFGR + 4 * (intid >>> 4), 4, edge ? 2 << (2 * (intid & 15)) : 0);
  yield* store(GICD_ITARGETSR + intid, 1, 1);
  yield* store(GICD_ISENABLER1, 4, 1 << (intid & 31));
  yield* store(GICD_CTLR, 4, 1);
  yield* store(GICC_PMR, 4, 0xff);
  yield* store(GICC_CTLR, 4, 1);
  for (;;) {
    const iar = Number(yield* load(GICC_IAR, 4)) & 0x3ff;
    if (iar === SPURIOUS) {
      yield* wfi();
      continue;
    }
    took(iar);
    yield* store(DEVICE, 4, 1);
    yield* store(GICC_EOIR, 4, iar);
  }
}
