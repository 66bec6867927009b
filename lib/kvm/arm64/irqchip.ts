/**
 * Requests of an arm64 VM about interrupts: KVM_CREATE_IRQCHIP (a GICv2, where the host has one), its addresses by
 * KVM_ARM_SET_DEVICE_ADDR, KVM_IRQ_LINE, KVM_SIGNAL_MSI (arch/arm64/kvm/arm.c, 6.1).
 *
 * KVM_IRQ_LINE and KVM_IRQ_LINE_STATUS: `struct kvm_irq_level`, 8 bytes: irq u32 @0: kind in bits 27:24 (0 a wire of the
 * processor, 1 SPI, 2 PPI), vCPU in 23:16 and its upper bits in 31:28, number in 15:0; level u32 @4. No route is asked,
 * and no status comes back. KVM_SIGNAL_MSI: `struct kvm_msi`, 32 bytes.
 */
import { EFAULT, EINVAL, ENODEV, ENXIO } from "../../abi/errno.ts";
import {
  KVM_CREATE_IRQCHIP,
  KVM_DEV_TYPE_ARM_VGIC_V2,
  KVM_IRQ_LINE,
  KVM_IRQ_LINE_STATUS,
  KVM_IRQFD,
  KVM_MSI_VALID_DEVID,
  KVM_SET_GSI_ROUTING,
  KVM_SIGNAL_MSI,
  KvmIrqLevel,
  KvmMsi,
} from "../../abi/kvm.ts";
import {
  KVM_ARM_DEVICE_VGIC_V2,
  KVM_ARM_IRQ_CPU_FIQ,
  KVM_ARM_IRQ_TYPE_CPU,
  KVM_ARM_IRQ_TYPE_PPI,
  KVM_ARM_IRQ_TYPE_SPI,
  KVM_ARM_SET_DEVICE_ADDR,
  KVM_VGIC_V2_ADDR_TYPE_CPU,
  KVM_VGIC_V2_ADDR_TYPE_DIST,
  KvmArmDeviceAddr,
} from "../../abi/kvm-arm64.ts";
import { load32, load64 } from "../../abi/struct.ts";
import { type GicCpu, NR_PRIVATE_IRQS, NR_SGIS } from "../../hardware/gic.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import { setGsiRouting } from "../irq-routing.ts";
import { irqfd } from "../irqfd.ts";
import type { Vcpu } from "../vcpu.ts";
import type { VmFile } from "../vm.ts";
import type { Arm64Vcpu } from "./vcpu.ts";
import type { Vgic } from "./vgic.ts";
import { setFrame } from "./vgic-addresses.ts";
import type { Arm64Vm } from "./vm.ts";

const vgicOf = (file: VmFile): Vgic => (file.vm.arch as Arm64Vm).vgic;

/** EFAULT; ENODEV: another device, no GICv2, another frame; EEXIST, EINVAL, E2BIG as for the device's attribute. */
function setDeviceAddr(file: VmFile, user: Argument): number {
  if (!user.readable(KvmArmDeviceAddr.size)) return -EFAULT;
  const id = load32(user.bytes, user.at);
  const type = id & 0xffff;
  if (id >>> 16 !== KVM_ARM_DEVICE_VGIC_V2) return -ENODEV;
  if (type !== KVM_VGIC_V2_ADDR_TYPE_DIST && type !== KVM_VGIC_V2_ADDR_TYPE_CPU) return -ENODEV;
  return setFrame(vgicOf(file), type, load64(user.bytes, user.at + KvmArmDeviceAddr.offsetOf.addr));
}

/** EFAULT; ENXIO: a wire of the processor with a controller, another without; EINVAL; EBUSY: not initialised. */
function irqLine(file: VmFile, user: Argument): number {
  if (!user.readable(KvmIrqLevel.size)) return -EFAULT;
  const irq = load32(user.bytes, user.at);
  const level = load32(user.bytes, user.at + 4) !== 0;
  const vgic = vgicOf(file);
  const vcpuNumber = ((irq >>> 16) & 0xff) + (irq >>> 28) * 256;
  const number = irq & 0xffff;
  switch ((irq >>> 24) & 0xf) {
    case KVM_ARM_IRQ_TYPE_CPU: {
      if (vgic.created) return -ENXIO;
      const vcpu = vcpuOf(file, vcpuNumber);
      if (vcpu === undefined || number > KVM_ARM_IRQ_CPU_FIQ) return -EINVAL;
      (vcpu.arch as Arm64Vcpu).setWire(number, level);
      return 0;
    }
    case KVM_ARM_IRQ_TYPE_PPI: {
      const refused = notReady(vgic);
      if (refused < 0) return refused;
      const vcpu = vcpuOf(file, vcpuNumber);
      if (vcpu === undefined || number < NR_SGIS || number >= NR_PRIVATE_IRQS) return -EINVAL;
      return vgic.inject(privateCpu(vgic, vcpu), number, level);
    }
    case KVM_ARM_IRQ_TYPE_SPI: {
      const refused = notReady(vgic);
      if (refused < 0) return refused;
      return number < NR_PRIVATE_IRQS ? -EINVAL : vgic.inject(undefined, number, level);
    }
    default:
      return -EINVAL;
  }
}

/** Later releases look whether the controller is initialised before they look at the number. */
function notReady(vgic: Vgic): number {
  if (!vgic.created) return -ENXIO;
  return vgic.vm.host.behaviour.armIrqLineInitFirst ? vgic.lazyInit() : 0;
}

/** By its id; until 6.6 by its place in the order of creation. */
const vcpuOf = (file: VmFile, number: number): Vcpu | undefined =>
  file.vm.host.behaviour.armVcpusById ? file.vm.vcpuById.get(number) : file.vm.vcpus[number];

/** Until 6.6 the place that was asked for is turned into an id, and that is taken for a place again. */
const privateCpu = (vgic: Vgic, vcpu: Vcpu): GicCpu | undefined =>
  vgic.byId ? (vcpu.arch as Arm64Vcpu).cpu : vgic.gic.cpus[vcpu.id];

/** EFAULT; EINVAL: no controller, flags; then as Vgic.sendMsi. */
function signalMsi(file: VmFile, user: Argument): number {
  if (!user.readable(KvmMsi.size)) return -EFAULT;
  const vgic = vgicOf(file);
  const { bytes, at } = user;
  const flags = load32(bytes, at + 12);
  if (!vgic.created || (flags & ~KVM_MSI_VALID_DEVID) !== 0) return -EINVAL;
  if (!vgic.hasIts) return -ENODEV;
  return vgic.sendMsi(
    load32(bytes, at),
    load32(bytes, at + 4),
    load32(bytes, at + 8),
    flags,
    load32(bytes, at + 16),
  );
}

export const irqchipIoctls: readonly Entry<VmFile>[] = [
  [KVM_CREATE_IRQCHIP, (file) => vgicOf(file).create(KVM_DEV_TYPE_ARM_VGIC_V2)],
  [KVM_ARM_SET_DEVICE_ADDR, setDeviceAddr],
  [KVM_IRQ_LINE, irqLine],
  [KVM_IRQ_LINE_STATUS, irqLine],
  [KVM_SET_GSI_ROUTING, setGsiRouting],
  [KVM_SIGNAL_MSI, signalMsi],
  [KVM_IRQFD, irqfd],
];
