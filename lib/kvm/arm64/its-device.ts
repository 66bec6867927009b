/**
 * KVM_DEV_TYPE_ARM_VGIC_ITS: an ITS as a device (arch/arm64/kvm/vgic/vgic-its.c, 6.1; Documentation/virt/kvm/devices/
 * arm-vgic-its.rst). There may be several; a GICv3 need not be there yet. Registers have 64 bits behind the attribute,
 * whatever their own width.
 */
import { EFAULT, EINVAL, ENODEV, ENXIO } from "../../abi/errno.ts";
import {
  KVM_DEV_ARM_ITS_CTRL_RESET,
  KVM_DEV_ARM_ITS_RESTORE_TABLES,
  KVM_DEV_ARM_ITS_SAVE_TABLES,
  KVM_DEV_ARM_VGIC_CTRL_INIT,
  KVM_DEV_ARM_VGIC_GRP_ADDR,
  KVM_DEV_ARM_VGIC_GRP_CTRL,
  KVM_DEV_ARM_VGIC_GRP_ITS_REGS,
  KVM_VGIC_ITS_ADDR_TYPE,
  KVM_VGIC_V3_ITS_SIZE,
} from "../../abi/kvm-arm64.ts";
import { load64, store64 } from "../../abi/struct.ts";
import { INITIAL_TABLE_BASE } from "../../hardware/gic.ts";
import { GITS_IDREGS, GITS_TYPER, Its } from "../../hardware/its.ts";
import { restoreTables, saveTables } from "../../hardware/its-tables.ts";
import type { DeviceAttr, KvmDevice } from "../device.ts";
import type { Vm } from "../vm.ts";
import { UNDEFINED, type Vgic } from "./vgic.ts";
import { checkRange } from "./vgic-addresses.ts";
import { ItsFrames } from "./vgic-frames.ts";
import type { Arm64Vm } from "./vm.ts";

const NO_ADDRESS = 0xffff_ffff_ffff_ffffn;

class ItsDevice implements KvmDevice {
  readonly name = "kvm-arm-vgic-its";
  readonly #vgic: Vgic;
  readonly #its: Its;

  constructor(vgic: Vgic, its: Its) {
    this.#vgic = vgic;
    this.#its = its;
  }

  has({ group, attr }: DeviceAttr): number {
    switch (group) {
      case KVM_DEV_ARM_VGIC_GRP_ADDR:
        return attr === BigInt(KVM_VGIC_ITS_ADDR_TYPE) ? 0 : -ENXIO;
      case KVM_DEV_ARM_VGIC_GRP_CTRL:
        return isControl(attr) ? 0 : -ENXIO;
      case KVM_DEV_ARM_VGIC_GRP_ITS_REGS:
        return misaligned(attr) ? -EINVAL : Its.width(offsetOf(attr)) === 0 ? -ENXIO : 0;
      default:
        return -ENXIO;
    }
  }

  set({ group, attr, user }: DeviceAttr): number {
    switch (group) {
      case KVM_DEV_ARM_VGIC_GRP_ADDR:
        if (attr !== BigInt(KVM_VGIC_ITS_ADDR_TYPE)) return -ENODEV;
        return user.readable(8) ? this.#setAddress(load64(user.bytes, user.at)) : -EFAULT;
      case KVM_DEV_ARM_VGIC_GRP_CTRL:
        return this.#control(attr);
      case KVM_DEV_ARM_VGIC_GRP_ITS_REGS: {
        if (!user.readable(8)) return -EFAULT;
        const value = load64(user.bytes, user.at);
        return this.#refuseRegister(attr) || this.#its.userWrite(offsetOf(attr), value);
      }
      default:
        return -ENXIO;
    }
  }

  get({ group, attr, user }: DeviceAttr): number {
    let value: bigint;
    if (group === KVM_DEV_ARM_VGIC_GRP_ADDR) {
      if (attr !== BigInt(KVM_VGIC_ITS_ADDR_TYPE)) return -ENODEV;
      value = this.#its.base === UNDEFINED ? NO_ADDRESS : BigInt(this.#its.base);
    } else if (group === KVM_DEV_ARM_VGIC_GRP_ITS_REGS) {
      const refused = this.#refuseRegister(attr);
      if (refused < 0) return refused;
      value = this.#its.read(offsetOf(attr), Its.width(offsetOf(attr)));
    } else return -ENXIO;
    if (!user.writable(8)) return -EFAULT;
    store64(user.bytes, user.at, value);
    return 0;
  }

  /** EINVAL: misaligned; ENXIO: the ITS has no address yet, or no register there. */
  #refuseRegister(attr: bigint): number {
    if (misaligned(attr)) return -EINVAL;
    return this.#its.base === UNDEFINED || Its.width(offsetOf(attr)) === 0 ? -ENXIO : 0;
  }

  #setAddress(address: bigint): number {
    const refused = checkRange(this.#vgic, this.#its.base, address, 0x10000n, BigInt(KVM_VGIC_V3_ITS_SIZE));
    if (refused < 0) return refused;
    this.#its.base = Number(address);
    return this.#vgic.vm.buses.mmio.register(new ItsFrames(this.#its, this.#its.base));
  }

  #control(attr: bigint): number {
    if (!isControl(attr)) return this.#vgic.vm.host.behaviour.itsControlChecked ? -ENXIO : 0;
    switch (Number(attr)) {
      case KVM_DEV_ARM_ITS_CTRL_RESET:
        this.#its.reset();
        return 0;
      case KVM_DEV_ARM_ITS_SAVE_TABLES:
        return saveTables(this.#its);
      case KVM_DEV_ARM_ITS_RESTORE_TABLES:
        return restoreTables(this.#its);
      default:
        return 0;
    }
  }
}

const offsetOf = (attr: bigint): number => (attr <= 0xffff_ffffn ? Number(attr) : 0xffff_fff8);

/** Registers between TYPER and the last page's identification have 64 bits. */
function misaligned(attr: bigint): boolean {
  const double = attr >= BigInt(GITS_TYPER) && attr < BigInt(GITS_IDREGS);
  return (attr & (double ? 7n : 3n)) !== 0n;
}

const isControl = (attr: bigint): boolean =>
  attr === BigInt(KVM_DEV_ARM_VGIC_CTRL_INIT) ||
  attr === BigInt(KVM_DEV_ARM_ITS_CTRL_RESET) ||
  attr === BigInt(KVM_DEV_ARM_ITS_SAVE_TABLES) ||
  attr === BigInt(KVM_DEV_ARM_ITS_RESTORE_TABLES);

/** A new ITS; the table of LPI configurations has its reset value again. */
export function createIts(vm: Vm): KvmDevice | number {
  const { vgic } = vm.arch as Arm64Vm;
  const its = new Its(vgic.gic, vgic.itses.length, vgic.memory, vgic.byId);
  vgic.itses.push(its);
  vgic.gic.hasIts = true;
  vgic.gic.propbaser = INITIAL_TABLE_BASE;
  if (vgic.initialized) vgic.openTranslationCache();
  return new ItsDevice(vgic, its);
}
