/**
 * The in-kernel interrupt controller of an arm64 VM, and the order in which it comes to life: created (GICv2 by
 * KVM_CREATE_IRQCHIP or as a device, GICv3 as a device), given addresses, initialised (no vCPU may follow), and with
 * the first KVM_RUN put on the memory bus; if that fails the VM is dead (arch/arm64/kvm/vgic/vgic-init.c,
 * vgic-irqfd.c, 6.1). A GICv2 that nobody initialised does so by itself when it is needed.
 *
 * Routes: pin n of the only controller is SPI 32 + n; after initialisation GSI n leads to pin n. A message needs an ITS.
 */
import { E2BIG, EBUSY, EEXIST, EINVAL, ENODEV, ENXIO } from "../../abi/errno.ts";
import {
  KVM_CAP_MAX_VCPUS,
  KVM_DEV_TYPE_ARM_VGIC_V2,
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KVM_MSI_VALID_DEVID,
} from "../../abi/kvm.ts";
import { store32 } from "../../abi/struct.ts";
import { Gic, type GicCpu, type GicIrq, NR_PRIVATE_IRQS, qemuGic } from "../../hardware/gic.ts";
import {
  GICD_FRAME,
  GICD_V2_FRAME,
  gicV2Distributor,
  gicV3Distributor,
} from "../../hardware/gic-distributor.ts";
import { GICR_FRAMES, redistributor } from "../../hardware/gic-redistributor.ts";
import type { Region } from "../../hardware/gic-registers.ts";
import { GITS_TRANSLATER, type Its, lpiTables, UNMAPPED } from "../../hardware/its.ts";
import { ENTRIES_PER_CPU } from "../../hardware/translation-cache.ts";
import type { KvmHost } from "../host.ts";
import { type IrqArch, WOULD_BLOCK } from "../irq-routing.ts";
import type { Route } from "../routing-table.ts";
import type { Vm } from "../vm.ts";
import { SlotMemory } from "./guest-memory.ts";
import type { Arm64Vcpu } from "./vcpu.ts";
import { ItsFrames, RegisterFrame } from "./vgic-frames.ts";

export const VGIC_V2_MAX_CPUS = 8;
export const VGIC_V3_MAX_CPUS = 512;
/** pins of a route: SPIs to 1019 (KVM_IRQCHIP_NUM_PINS) */
const NUM_PINS = 1020 - NR_PRIVATE_IRQS;
const ROUTE_BYTES = 48;
const GICC_V2_FRAME = 0x2000;

/** An address that nobody set. */
export const UNDEFINED = -1;

/**
 * Which controller the host has: a GICv2 host serves 8 vCPUs at most. What a GICv3 host with the GICv2's interface
 * could emulate beside its own is not recorded.
 */
export const hostGicVersion = (host: KvmHost): 2 | 3 =>
  (host.systemCapabilities.get(KVM_CAP_MAX_VCPUS) ?? 0) <= VGIC_V2_MAX_CPUS ? 2 : 3;

export class Vgic implements IrqArch {
  readonly vm: Vm;
  readonly gic: Gic;
  readonly memory: SlotMemory;
  /** in the order of creation */
  readonly itses: Its[] = [];
  readonly redistributor: readonly Region[];
  /** there is one in the kernel */
  created = false;
  initialized = false;
  /** on the memory bus: a vCPU has run */
  ready = false;
  distBase = UNDEFINED;
  /** GICv2: the processor interface */
  cpuBase = UNDEFINED;
  /** the processor whose access is being handled */
  current: GicCpu | undefined;
  /** the interrupt by which a nested hypervisor is told of its list registers */
  maintenanceIrq = 25;
  readonly #redistFrames = new Map<GicCpu, RegisterFrame>();

  /** guest physical addresses have so many bits */
  readonly addressBits: number;

  constructor(vm: Vm, addressBits: number) {
    this.vm = vm;
    this.addressBits = addressBits;
    const version = hostGicVersion(vm.host);
    this.gic = new Gic(version, [], qemuGic);
    this.gic.privateTargetsById = vm.host.behaviour.gicPrivateTargetsById;
    this.memory = new SlotMemory(vm);
    this.redistributor = redistributor(lpiTables(this.gic, this.memory));
  }

  get byId(): boolean {
    return this.vm.host.behaviour.armVcpusById;
  }

  get maxCpus(): number {
    const version = this.created ? this.gic.version : hostGicVersion(this.vm.host);
    return version === 2 ? VGIC_V2_MAX_CPUS : VGIC_V3_MAX_CPUS;
  }

  /** Messages can be delivered: a GICv3 with an ITS. */
  get hasIts(): boolean {
    return this.created && this.gic.version === 3 && this.gic.hasIts;
  }

  // ---- coming to life --------------------------------------------------------------------------------------------------

  /** ENODEV: the host has none of this kind; EEXIST; EBUSY: a vCPU ran already; E2BIG: too many vCPUs. */
  create(type: number): number {
    const version = type === KVM_DEV_TYPE_ARM_VGIC_V2 ? 2 : 3;
    if (version !== hostGicVersion(this.vm.host)) return -ENODEV;
    if (this.created) return -EEXIST;
    if (this.vm.vcpus.some((vcpu) => (vcpu.arch as Arm64Vcpu).ran)) return -EBUSY;
    if (this.gic.cpus.length > (version === 2 ? VGIC_V2_MAX_CPUS : VGIC_V3_MAX_CPUS)) return -E2BIG;
    this.created = true;
    this.gic.version = version;
    return 0;
  }

  /** KVM_DEV_ARM_VGIC_CTRL_INIT, or the first touch of a GICv2. Once more is nothing. */
  init(): number {
    if (this.initialized) return 0;
    const { gic } = this;
    gic.reset();
    if (gic.hasIts) this.openTranslationCache();
    const failed = this.vm.routing.replace(defaultRoutes(gic.nrSpis), 0, gic.nrSpis);
    if (failed < 0) return failed;
    this.initialized = true;
    return 0;
  }

  /** EBUSY for a GICv3 that is not initialised; a GICv2 is then. */
  lazyInit(): number {
    if (this.initialized) return 0;
    return this.created && this.gic.version === 2 ? this.init() : -EBUSY;
  }

  /** The cache of translations has its size from the vCPUs there are when it is first needed. */
  openTranslationCache(): void {
    const { translations, cpus } = this.gic;
    if (translations.capacity === 0)
      translations.capacity = this.vm.host.behaviour.itsCacheUnbounded
        ? Number.POSITIVE_INFINITY
        : cpus.length * ENTRIES_PER_CPU;
  }

  /**
   * Before a vCPU's first run: the controller appears on the bus. ENXIO: an address is missing; EINVAL: frames overlap;
   * EBUSY: a GICv3 not initialised. A failure ends the VM.
   */
  mapResources(): number {
    if (this.ready || !this.created) return 0;
    const failed = this.gic.version === 2 ? this.#mapV2() : this.#mapV3();
    if (failed < 0) {
      this.vm.dead = true;
      return failed;
    }
    this.ready = true;
    const v2 = this.gic.version === 2;
    const frame = new RegisterFrame(
      this,
      v2 ? gicV2Distributor : gicV3Distributor,
      this.distBase,
      v2 ? GICD_V2_FRAME : GICD_FRAME,
      () => this.current,
    );
    return this.vm.buses.mmio.register(frame);
  }

  #mapV2(): number {
    const { distBase, cpuBase } = this;
    if (distBase === UNDEFINED || cpuBase === UNDEFINED) return -ENXIO;
    if (distBase + GICD_V2_FRAME > cpuBase && cpuBase + GICC_V2_FRAME > distBase) return -EINVAL;
    return this.init();
  }

  #mapV3(): number {
    if (this.gic.cpus.some((cpu) => cpu.redistBase === UNDEFINED)) return -ENXIO;
    if (this.distBase === UNDEFINED) return -ENXIO;
    if (!this.basesFit()) return -EINVAL;
    return this.initialized ? 0 : -EBUSY;
  }

  // ---- redistributors ----------------------------------------------------------------------------------------------------

  regionSize(region: { count: number }): number {
    return (region.count === 0 ? this.gic.cpus.length : region.count) * GICR_FRAMES;
  }

  /** Whether a range touches a redistributor region. */
  overlapsRegion(base: number, size: number): boolean {
    return this.gic.regions.some(
      (region) => base + size > region.base && base < region.base + this.regionSize(region),
    );
  }

  /** Whether regions are inside the guest's address space and clear of the distributor (vgic_v3_check_base). */
  basesFit(): boolean {
    const limit = 2 ** this.addressBits;
    if (this.gic.regions.some((region) => region.base + this.regionSize(region) > limit)) return false;
    return this.distBase === UNDEFINED || !this.overlapsRegion(this.distBase, GICD_FRAME);
  }

  /** Gives a vCPU its place in the first region that has one; without a region it waits. */
  registerRedistributor(cpu: GicCpu): number {
    if (cpu.redistBase !== UNDEFINED) return 0;
    const region = this.gic.regions.find(({ count, used }) => count === 0 || used < count);
    if (region === undefined) return 0;
    if (!this.basesFit()) return -EINVAL;
    cpu.region = region;
    cpu.regionSlot = region.used;
    cpu.redistBase = region.base + region.used * GICR_FRAMES;
    const frame = new RegisterFrame(this, this.redistributor, cpu.redistBase, GICR_FRAMES, () => cpu);
    const failed = this.vm.buses.mmio.register(frame);
    if (failed < 0) return failed;
    this.#redistFrames.set(cpu, frame);
    region.used++;
    return 0;
  }

  unregisterRedistributor(cpu: GicCpu): void {
    const frame = this.#redistFrames.get(cpu);
    if (frame !== undefined) this.vm.buses.mmio.unregister(frame);
    this.#redistFrames.delete(cpu);
    cpu.redistBase = UNDEFINED;
  }

  // ---- routes --------------------------------------------------------------------------------------------------------------

  readonly canSetRouting = true;

  irqfdAllowed(): boolean {
    return true;
  }

  /** arch/arm64/kvm/vgic/vgic-irqfd.c:kvm_set_routing_entry (6.1) */
  checkRoute(type: number, irqchip: number, pin: number): number {
    if (type === KVM_IRQ_ROUTING_MSI) return 0;
    if (type !== KVM_IRQ_ROUTING_IRQCHIP) return -EINVAL;
    return pin < NUM_PINS && irqchip === 0 ? 0 : -EINVAL;
  }

  setRoute(route: Route, _sourceId: number, level: boolean): number {
    if (route.type === KVM_IRQ_ROUTING_MSI) {
      if (!this.hasIts) return -ENODEV;
      if (!level) return -1;
      return this.sendMsi(route.addressLo, route.addressHi, route.data, route.flags, route.devid);
    }
    const intid = route.pin + NR_PRIVATE_IRQS;
    return intid < this.gic.nrIrqs ? this.inject(undefined, intid, level) : -EINVAL;
  }

  /** A line can always be raised inside a wake-up; a message, if its translation is known already. */
  setInAtomic(route: Route): number {
    if (route.type === KVM_IRQ_ROUTING_MSI) {
      if (!this.hasIts) return WOULD_BLOCK;
      return this.#sendCached(route.addressLo, route.addressHi, route.data, route.devid) ? 0 : WOULD_BLOCK;
    }
    return this.initialized ? this.setRoute(route, 0, true) : WOULD_BLOCK;
  }

  routingChanged(): void {}

  /** A wire of the controller (kvm_vgic_inject_irq): EBUSY, EINVAL for an interrupt or a processor that is none. */
  inject(cpu: GicCpu | undefined, intid: number, level: boolean, owner: unknown = null): number {
    const busy = this.lazyInit();
    if (busy < 0) return busy;
    const irq = this.gic.irq(cpu, intid);
    if (irq === undefined) return -EINVAL;
    this.gic.inject(irq, level, owner);
    return 0;
  }

  /** A device in the kernel takes a private interrupt or an SPI for itself: EAGAIN is the caller's matter. */
  own(cpu: GicCpu, intid: number, owner: unknown): number {
    const irq: GicIrq | undefined = this.gic.irq(cpu, intid);
    if (irq === undefined || intid < 16) return -EINVAL;
    if (irq.owner !== null && irq.owner !== owner) return -EEXIST;
    irq.owner = owner;
    return 0;
  }

  /** The guest has ended these SPIs: who waits for them is told. */
  notifyAcked(): void {
    const { acked } = this.gic;
    while (acked.length !== 0) this.vm.routing.notifyAcked(0, acked.shift()! - NR_PRIVATE_IRQS);
  }

  // ---- messages ------------------------------------------------------------------------------------------------------------

  /**
   * A message: 1 delivered, 0 not mapped. ENODEV: no ITS; EINVAL: no device id, or no ITS at the address; EBUSY: the
   * ITS or the LPIs are off.
   */
  sendMsi(addressLo: number, addressHi: number, data: number, flags: number, device: number): number {
    if (this.#sendCached(addressLo, addressHi, data, device)) return 1;
    if (!this.hasIts) return -ENODEV;
    if ((flags & KVM_MSI_VALID_DEVID) === 0) return -EINVAL;
    const its = this.#itsAt(addressHi * 2 ** 32 + addressLo);
    if (its === undefined) return -EINVAL;
    const result = its.trigger(device, data);
    if (result < 0) return result;
    return result === UNMAPPED ? 0 : 1;
  }

  #sendCached(addressLo: number, addressHi: number, data: number, device: number): boolean {
    const base = addressHi * 2 ** 32 + addressLo - GITS_TRANSLATER;
    for (const its of this.itses) {
      if (its.base !== base) continue;
      const irq = this.gic.translations.find(its.number, device, data);
      if (irq === undefined) continue;
      its.deliver(irq);
      return true;
    }
    return false;
  }

  /** The ITS whose frames hold an address: the first thing on the bus that does. */
  #itsAt(address: number): Its | undefined {
    const device = this.vm.buses.mmio.devices.find(
      (each) => address >= each.address && address < each.address + each.length,
    );
    return device instanceof ItsFrames ? device.its : undefined;
  }
}

/** GSI n → pin n. */
function defaultRoutes(count: number): Uint8Array {
  const bytes = new Uint8Array(count * ROUTE_BYTES);
  for (let gsi = 0; gsi < count; gsi++) {
    store32(bytes, gsi * ROUTE_BYTES, gsi);
    store32(bytes, gsi * ROUTE_BYTES + 4, KVM_IRQ_ROUTING_IRQCHIP);
    store32(bytes, gsi * ROUTE_BYTES + 20, gsi);
  }
  return bytes;
}
