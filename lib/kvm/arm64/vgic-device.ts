/**
 * The controller as a device: KVM_DEV_TYPE_ARM_VGIC_V2 and _V3, and their attributes (arch/arm64/kvm/vgic/
 * vgic-kvm-device.c, 6.1; Documentation/virt/kvm/devices/arm-vgic.rst, arm-vgic-v3.rst).
 *
 * An attribute of a register group: the register's offset in bits 31:0; in 63:32 the vCPU, for a GICv2 its id (bits
 * 39:32), for a GICv3 its affinity. Values have 32 bits, system registers 64.
 *
 * A GICv2 initialises itself when a register is touched; a GICv3 answers EBUSY until it is initialised.
 */
import { EBUSY, EFAULT, EINVAL, ENODEV, ENXIO } from "../../abi/errno.ts";
import { KVM_DEV_TYPE_ARM_VGIC_V2, KVM_DEV_TYPE_ARM_VGIC_V3 } from "../../abi/kvm.ts";
import {
  KVM_DEV_ARM_VGIC_CTRL_INIT,
  KVM_DEV_ARM_VGIC_GRP_ADDR,
  KVM_DEV_ARM_VGIC_GRP_CPU_REGS,
  KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
  KVM_DEV_ARM_VGIC_GRP_CTRL,
  KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
  KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
  KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ,
  KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
  KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
  KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES,
  KVM_VGIC_V2_ADDR_TYPE_CPU,
  KVM_VGIC_V2_ADDR_TYPE_DIST,
  KVM_VGIC_V3_ADDR_TYPE_DIST,
  KVM_VGIC_V3_ADDR_TYPE_REDIST,
  KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
} from "../../abi/kvm-arm64.ts";
import { load32, load64, store32, store64 } from "../../abi/struct.ts";
import { type GicCpu, NR_PRIVATE_IRQS } from "../../hardware/gic.ts";
import { hasSysreg, readSysreg, writeSysreg } from "../../hardware/gic-cpu-interface.ts";
import {
  GICD_IIDR,
  GICD_TYPER2,
  gicV2Distributor,
  gicV2Interface,
  gicV3Distributor,
} from "../../hardware/gic-distributor.ts";
import {
  type Region,
  readLineLevels,
  regionFor,
  userReadFrame,
  userWriteFrame,
  writeLineLevels,
} from "../../hardware/gic-registers.ts";
import { savePendingTables } from "../../hardware/its.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { DeviceAttr, KvmDevice } from "../device.ts";
import type { Vm } from "../vm.ts";
import type { Vgic } from "./vgic.ts";
import { getAddress, setAddress } from "./vgic-addresses.ts";
import type { Arm64Vm } from "./vm.ts";

/** SPIs are 32 to 1019; the last four numbers mean something else */
const MAX_IRQS = 1024;
const MIN_IRQS = NR_PRIVATE_IRQS + 32;

const offsetOf = (attr: bigint): number => Number(attr & 0xffff_ffffn);

/** Reads or writes 32 bits of the program. */
const put32 = (user: Argument, value: number): number => {
  if (!user.writable(4)) return -EFAULT;
  store32(user.bytes, user.at, value);
  return 0;
};

/** What both versions answer. */
abstract class VgicDevice implements KvmDevice {
  abstract readonly name: string;
  readonly vgic: Vgic;

  constructor(vgic: Vgic) {
    this.vgic = vgic;
  }

  set({ group, attr, user }: DeviceAttr): number {
    const { vgic } = this;
    switch (group) {
      case KVM_DEV_ARM_VGIC_GRP_ADDR:
        return noSuchAttribute(setAddress(vgic, attr < 0x100n ? Number(attr) : -1, user));
      case KVM_DEV_ARM_VGIC_GRP_NR_IRQS: {
        if (!user.readable(4)) return -EFAULT;
        const count = load32(user.bytes, user.at);
        if (count < MIN_IRQS || count > MAX_IRQS || count % 32 !== 0) return -EINVAL;
        if (vgic.ready || vgic.gic.nrSpis !== 0) return -EBUSY;
        vgic.gic.nrSpis = count - NR_PRIVATE_IRQS;
        return 0;
      }
      case KVM_DEV_ARM_VGIC_GRP_CTRL:
        if (attr === BigInt(KVM_DEV_ARM_VGIC_CTRL_INIT)) return vgic.init();
        if (attr === BigInt(KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES)) {
          if (vgic.gic.version !== 3 || !vgic.initialized) return -ENXIO;
          return savePendingTables(vgic.gic, vgic.memory) ? 0 : -EFAULT;
        }
        return -ENXIO;
      default:
        return -ENXIO;
    }
  }

  get({ group, attr, user }: DeviceAttr): number {
    switch (group) {
      case KVM_DEV_ARM_VGIC_GRP_ADDR:
        return noSuchAttribute(getAddress(this.vgic, attr < 0x100n ? Number(attr) : -1, user));
      case KVM_DEV_ARM_VGIC_GRP_NR_IRQS:
        return put32(user, this.vgic.gic.nrIrqs);
      default:
        return -ENXIO;
    }
  }

  /** Whether a table has a register of 32 bits there. */
  hasRegister(regions: readonly Region[], offset: number): number {
    if (offset % 4 !== 0) return -ENXIO;
    return regionFor(regions, this.vgic.gic.nrIrqs, offset, 4) === undefined ? -ENXIO : 0;
  }

  /** Reads or writes a register of a frame for user space. */
  access(regions: readonly Region[], cpu: GicCpu, attr: DeviceAttr, write: boolean): number {
    const { user } = attr;
    const offset = offsetOf(attr.attr);
    if (write) return userWriteFrame(regions, this.vgic.gic, cpu, offset, load32(user.bytes, user.at));
    return put32(user, userReadFrame(regions, this.vgic.gic, cpu, offset));
  }
}

const noSuchAttribute = (result: number): number => (result === -ENODEV ? -ENXIO : result);

const among = (attr: bigint, ...known: number[]): number =>
  known.some((each) => BigInt(each) === attr) ? 0 : -ENXIO;

class VgicV2Device extends VgicDevice {
  readonly name = "kvm-arm-vgic-v2";

  override set(attr: DeviceAttr): number {
    return isV2Registers(attr.group) ? this.#registers(attr, true) : super.set(attr);
  }

  override get(attr: DeviceAttr): number {
    return isV2Registers(attr.group) ? this.#registers(attr, false) : super.get(attr);
  }

  has({ group, attr }: DeviceAttr): number {
    switch (group) {
      case KVM_DEV_ARM_VGIC_GRP_ADDR:
        return among(attr, KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V2_ADDR_TYPE_CPU);
      case KVM_DEV_ARM_VGIC_GRP_DIST_REGS:
      case KVM_DEV_ARM_VGIC_GRP_CPU_REGS:
        if (this.#cpu(attr) === undefined) return -EINVAL;
        return this.hasRegister(tableV2(group), offsetOf(attr));
      case KVM_DEV_ARM_VGIC_GRP_NR_IRQS:
        return 0;
      case KVM_DEV_ARM_VGIC_GRP_CTRL:
        return among(attr, KVM_DEV_ARM_VGIC_CTRL_INIT);
      default:
        return -ENXIO;
    }
  }

  #cpu(attr: bigint): GicCpu | undefined {
    const id = Number((attr >> 32n) & 0xffn);
    return this.vgic.gic.cpus.find((cpu) => cpu.id === id);
  }

  /** EINVAL: no such vCPU; EFAULT. */
  #registers(attr: DeviceAttr, write: boolean): number {
    const cpu = this.#cpu(attr.attr);
    if (cpu === undefined) return -EINVAL;
    if (write && !attr.user.readable(4)) return -EFAULT;
    const failed = this.vgic.init();
    return failed < 0 ? failed : this.access(tableV2(attr.group), cpu, attr, write);
  }
}

const isV2Registers = (group: number): boolean =>
  group === KVM_DEV_ARM_VGIC_GRP_DIST_REGS || group === KVM_DEV_ARM_VGIC_GRP_CPU_REGS;

const tableV2 = (group: number): readonly Region[] =>
  group === KVM_DEV_ARM_VGIC_GRP_DIST_REGS ? gicV2Distributor : gicV2Interface;

class VgicV3Device extends VgicDevice {
  readonly name = "kvm-arm-vgic-v3";

  override set(attr: DeviceAttr): number {
    if (isV3Registers(attr.group)) return this.#registers(attr, true);
    if (attr.group === KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ && this.#hasMaintenanceIrq)
      return this.#setMaintenanceIrq(attr.user);
    return super.set(attr);
  }

  override get(attr: DeviceAttr): number {
    if (isV3Registers(attr.group)) return this.#registers(attr, false);
    if (attr.group === KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ && this.#hasMaintenanceIrq)
      return put32(attr.user, this.vgic.maintenanceIrq);
    return super.get(attr);
  }

  has({ group, attr }: DeviceAttr): number {
    switch (group) {
      case KVM_DEV_ARM_VGIC_GRP_ADDR:
        return among(
          attr,
          KVM_VGIC_V3_ADDR_TYPE_DIST,
          KVM_VGIC_V3_ADDR_TYPE_REDIST,
          KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
        );
      case KVM_DEV_ARM_VGIC_GRP_DIST_REGS:
      case KVM_DEV_ARM_VGIC_GRP_REDIST_REGS:
      case KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS:
        if (this.#cpu(group, attr) === undefined) return -EINVAL;
        if (group === KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS) return hasSysreg(Number(attr & 0xffffn)) ? 0 : -ENXIO;
        return this.hasRegister(this.#table(group), offsetOf(attr));
      case KVM_DEV_ARM_VGIC_GRP_NR_IRQS:
        return 0;
      case KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO:
        return levelInfo(attr) === LINE_LEVEL ? 0 : -ENXIO;
      case KVM_DEV_ARM_VGIC_GRP_CTRL:
        return among(attr, KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES);
      case KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ:
        return this.#hasMaintenanceIrq ? 0 : -ENXIO;
      default:
        return -ENXIO;
    }
  }

  get #hasMaintenanceIrq(): boolean {
    return this.vgic.vm.host.behaviour.vgicMaintenanceIrq;
  }

  /** Source: arch/arm64/kvm/vgic/vgic-kvm-device.c:vgic_set_common_attr (7.2). No trace sets it. */
  #setMaintenanceIrq(user: Argument): number {
    if (!user.readable(4)) return -EFAULT;
    const intid = load32(user.bytes, user.at);
    if (this.vgic.initialized) return -EBUSY;
    if (intid < 16 || intid >= NR_PRIVATE_IRQS) return -EINVAL;
    this.vgic.maintenanceIrq = intid;
    return 0;
  }

  #table(group: number): readonly Region[] {
    return group === KVM_DEV_ARM_VGIC_GRP_DIST_REGS ? gicV3Distributor : this.vgic.redistributor;
  }

  /** The distributor's registers are the first vCPU's; the others name one by its affinity. */
  #cpu(group: number, attr: bigint): GicCpu | undefined {
    if (group === KVM_DEV_ARM_VGIC_GRP_DIST_REGS) return this.vgic.gic.cpus[0];
    return this.vgic.gic.cpuByMpidr(Number(attr >> 32n));
  }

  /** EINVAL: no such vCPU; EFAULT; EBUSY: not initialised; and what the register has against it. */
  #registers(attr: DeviceAttr, write: boolean): number {
    const { group, user } = attr;
    const cpu = this.#cpu(group, attr.attr);
    if (cpu === undefined) return -EINVAL;
    if (group !== KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS && write && !user.readable(4)) return -EFAULT;
    const identification = this.#identification(attr);
    if (!this.vgic.initialized && !identification) return -EBUSY;
    if (identification && write && this.#tooLateFor(attr)) return -EBUSY;
    if (group === KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS) return this.#sysreg(cpu, attr, write);
    if (group === KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO) return this.#lineLevels(cpu, attr, write);
    return this.access(this.#table(group), cpu, attr, write);
  }

  /** What a GIC says that it is can be chosen before it is initialised, by later releases. */
  #identification(attr: DeviceAttr): boolean {
    if (attr.group !== KVM_DEV_ARM_VGIC_GRP_DIST_REGS) return false;
    const offset = offsetOf(attr.attr);
    return (
      this.vgic.vm.host.behaviour.vgicIdentifiedEarly && (offset === GICD_IIDR || offset === GICD_TYPER2)
    );
  }

  /** GICD_TYPER2 is always zero here: no direct injection of SGIs. */
  #tooLateFor({ attr, user }: DeviceAttr): boolean {
    return this.vgic.initialized && offsetOf(attr) === GICD_TYPER2 && load32(user.bytes, user.at) !== 0;
  }

  #sysreg(cpu: GicCpu, { attr, user }: DeviceAttr, write: boolean): number {
    const register = Number(attr & 0xffffn);
    if (write) {
      if (!user.readable(8)) return -EFAULT;
      return writeSysreg(this.vgic.gic, cpu, register, load64(user.bytes, user.at));
    }
    const value = readSysreg(this.vgic.gic, cpu, register);
    if (value < 0) return value;
    if (!user.writable(8)) return -EFAULT;
    store64(user.bytes, user.at, value);
    return 0;
  }

  /** The attribute: what is asked in bits 31:10, the first of 32 interrupts in 9:0. */
  #lineLevels(cpu: GicCpu, { attr, user }: DeviceAttr, write: boolean): number {
    const intid = Number(attr & 0x3ffn);
    if (levelInfo(attr) !== LINE_LEVEL || intid % 32 !== 0) return -EINVAL;
    if (!write) return put32(user, readLineLevels(this.vgic.gic, cpu, intid));
    writeLineLevels(this.vgic.gic, cpu, intid, load32(user.bytes, user.at));
    return 0;
  }
}

const LINE_LEVEL = 0;
const levelInfo = (attr: bigint): number => Number((attr >> 10n) & 0x3f_ffffn);

const isV3Registers = (group: number): boolean =>
  group === KVM_DEV_ARM_VGIC_GRP_DIST_REGS ||
  group === KVM_DEV_ARM_VGIC_GRP_REDIST_REGS ||
  group === KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS ||
  group === KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO;

const vgicOf = (vm: Vm): Vgic => (vm.arch as Arm64Vm).vgic;

export function createVgicV2(vm: Vm): KvmDevice | number {
  const refused = vgicOf(vm).create(KVM_DEV_TYPE_ARM_VGIC_V2);
  return refused < 0 ? refused : new VgicV2Device(vgicOf(vm));
}

export function createVgicV3(vm: Vm): KvmDevice | number {
  const refused = vgicOf(vm).create(KVM_DEV_TYPE_ARM_VGIC_V3);
  return refused < 0 ? refused : new VgicV3Device(vgicOf(vm));
}
