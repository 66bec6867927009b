/**
 * Where the frames of a controller stand in guest memory: KVM_DEV_ARM_VGIC_GRP_ADDR and the older
 * KVM_ARM_SET_DEVICE_ADDR (arch/arm64/kvm/vgic/vgic-kvm-device.c:kvm_vgic_addr, vgic-mmio-v3.c:vgic_v3_set_redist_base,
 * 6.1).
 *
 * The value behind an address attribute has 64 bits; for a redistributor region: count 63:52, address 51:16, flags
 * 15:12, index 11:0.
 */
import { E2BIG, EEXIST, EFAULT, EINVAL, ENODEV, ENOENT } from "../../abi/errno.ts";
import {
  KVM_VGIC_V2_ADDR_TYPE_CPU,
  KVM_VGIC_V2_ADDR_TYPE_DIST,
  KVM_VGIC_V2_CPU_SIZE,
  KVM_VGIC_V2_DIST_SIZE,
  KVM_VGIC_V3_ADDR_TYPE_DIST,
  KVM_VGIC_V3_ADDR_TYPE_REDIST,
  KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
  KVM_VGIC_V3_DIST_SIZE,
} from "../../abi/kvm-arm64.ts";
import { load64, store64 } from "../../abi/struct.ts";
import type { RedistRegion } from "../../hardware/gic.ts";
import { GICD_FRAME, GICD_V2_FRAME } from "../../hardware/gic-distributor.ts";
import { GICR_FRAMES } from "../../hardware/gic-redistributor.ts";
import type { Argument } from "../../kernel/argument.ts";
import { UNDEFINED, type Vgic } from "./vgic.ts";

const KIB4 = 0x1000n;
const KIB64 = 0x10000n;
const NO_ADDRESS = 0xffff_ffff_ffff_ffffn;
const INDEX_MASK = 0xfffn;
const BASE_MASK = ((1n << 36n) - 1n) << 16n;

/** EEXIST: there is one already; EINVAL: not aligned, or past 2^64; E2BIG: past the guest's memory. */
export function checkRange(
  vgic: Vgic,
  current: number,
  address: bigint,
  alignment: bigint,
  size: bigint,
): number {
  if (current !== UNDEFINED) return -EEXIST;
  if (address % alignment !== 0n || size % alignment !== 0n) return -EINVAL;
  if (address + size >= 1n << 64n) return -EINVAL;
  return address + size > 1n << BigInt(vgic.addressBits) ? -E2BIG : 0;
}

const shown = (address: number): bigint => (address === UNDEFINED ? NO_ADDRESS : BigInt(address));

/** Sets the address of one frame of a GICv2, or the distributor's of a GICv3: ENODEV for the other version. */
export function setFrame(vgic: Vgic, type: number, address: bigint): number {
  const version = type === KVM_VGIC_V3_ADDR_TYPE_DIST ? 3 : 2;
  if (!vgic.created || vgic.gic.version !== version) return -ENODEV;
  const isCpu = type === KVM_VGIC_V2_ADDR_TYPE_CPU;
  const size = version === 3 ? KVM_VGIC_V3_DIST_SIZE : isCpu ? KVM_VGIC_V2_CPU_SIZE : KVM_VGIC_V2_DIST_SIZE;
  const current = isCpu ? vgic.cpuBase : vgic.distBase;
  const refused = checkRange(vgic, current, address, version === 3 ? KIB64 : KIB4, BigInt(size));
  if (refused < 0) return refused;
  if (isCpu) vgic.cpuBase = Number(address);
  else vgic.distBase = Number(address);
  return 0;
}

/** KVM_DEV_ARM_VGIC_GRP_ADDR, written. ENODEV for an attribute that is none. */
export function setAddress(vgic: Vgic, type: number, user: Argument): number {
  if (!user.readable(8)) return -EFAULT;
  const value = load64(user.bytes, user.at);
  switch (type) {
    case KVM_VGIC_V2_ADDR_TYPE_DIST:
    case KVM_VGIC_V2_ADDR_TYPE_CPU:
    case KVM_VGIC_V3_ADDR_TYPE_DIST:
      return setFrame(vgic, type, value);
    case KVM_VGIC_V3_ADDR_TYPE_REDIST:
      return vgic.gic.version === 3 ? addRegion(vgic, 0, value, 0) : -ENODEV;
    case KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION: {
      if (vgic.gic.version !== 3) return -ENODEV;
      const count = Number(value >> 52n);
      if (count === 0 || ((value >> 12n) & 0xfn) !== 0n) return -EINVAL;
      return addRegion(vgic, Number(value & INDEX_MASK), value & BASE_MASK, count);
    }
    default:
      return -ENODEV;
  }
}

/** KVM_DEV_ARM_VGIC_GRP_ADDR, read: all ones where there is no address, ENOENT for a region that is not there. */
export function getAddress(vgic: Vgic, type: number, user: Argument): number {
  const { version, regions } = vgic.gic;
  let value: bigint;
  switch (type) {
    case KVM_VGIC_V2_ADDR_TYPE_DIST:
    case KVM_VGIC_V2_ADDR_TYPE_CPU:
      if (version !== 2) return -ENODEV;
      value = shown(type === KVM_VGIC_V2_ADDR_TYPE_DIST ? vgic.distBase : vgic.cpuBase);
      break;
    case KVM_VGIC_V3_ADDR_TYPE_DIST:
      if (version !== 3) return -ENODEV;
      value = shown(vgic.distBase);
      break;
    case KVM_VGIC_V3_ADDR_TYPE_REDIST:
      if (version !== 3) return -ENODEV;
      value = shown(regions[0]?.base ?? UNDEFINED);
      break;
    case KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION: {
      if (!user.readable(8)) return -EFAULT;
      if (version !== 3) return -ENODEV;
      const index = Number(load64(user.bytes, user.at) & 0xffn);
      const region = regions.find((each) => each.index === index);
      if (region === undefined) return -ENOENT;
      value = BigInt(index) | BigInt(region.base) | (BigInt(region.count) << 52n);
      break;
    }
    default:
      return -ENODEV;
  }
  if (!user.writable(8)) return -EFAULT;
  store64(user.bytes, user.at, value);
  return 0;
}

/**
 * Adds a region of redistributors, and gives a place to every vCPU that has none. `count` 0 is the old kind: one region
 * for all. EINVAL: wrong index, mixed kinds, overlap, misaligned; EEXIST: a second one of the old kind; E2BIG.
 */
function addRegion(vgic: Vgic, index: number, base: bigint, count: number): number {
  const { regions, cpus } = vgic.gic;
  const size = (count === 0 ? cpus.length : count) * GICR_FRAMES;
  if (base + BigInt(size) >= 1n << 64n) return -EINVAL;
  const last = regions.at(-1);
  if (last === undefined) {
    if (index !== 0) return -EINVAL;
  } else {
    if (count === 0) return last.count !== 0 ? -EINVAL : -EEXIST;
    if (index !== last.index + 1) return -EINVAL;
  }
  const start = Number(base);
  if (count === 0 && vgic.distBase !== UNDEFINED && overlapsDistributor(vgic, start, size)) return -EINVAL;
  if (vgic.overlapsRegion(start, size)) return -EINVAL;
  const refused = checkRange(vgic, UNDEFINED, base, KIB64, BigInt(size));
  if (refused < 0) return refused;
  const region: RedistRegion = { index, base: start, count, used: 0 };
  regions.push(region);
  const failed = registerAll(vgic);
  if (failed < 0) regions.splice(regions.indexOf(region), 1);
  return failed;
}

const overlapsDistributor = (vgic: Vgic, base: number, size: number): boolean =>
  base + size > vgic.distBase && base < vgic.distBase + (vgic.gic.version === 3 ? GICD_FRAME : GICD_V2_FRAME);

/** All or none (vgic_register_all_redist_iodevs). */
function registerAll(vgic: Vgic): number {
  const { cpus } = vgic.gic;
  for (let i = 0; i < cpus.length; i++) {
    const failed = vgic.registerRedistributor(cpus[i]);
    if (failed < 0) {
      for (let j = 0; j < i; j++) vgic.unregisterRedistributor(cpus[j]);
      return failed;
    }
  }
  return 0;
}
