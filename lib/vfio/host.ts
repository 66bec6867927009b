/**
 * What VFIO knows of the host it runs on: PCI functions and their IOMMU groups, the drivers bound to them, module
 * options, and how the release behaves. The machine floor builds it from a profile.
 *
 * Every PCI function is listed, those that vfio-pci owns with everything about them (`description`). An IOMMU group has
 * one owner of its DMA: the host's drivers, or user space (drivers/iommu/iommu.c:iommu_group_claim_dma_owner,
 * iommu_device_use_default_domain, 6.1).
 *
 * Missing: hot-plug of functions; a device that is to be given back is asked for once, not every ten seconds; drivers other than vfio-pci are names.
 */
import { EBUSY, EINVAL, ENODEV, ENOENT, EPERM } from "../abi/errno.ts";
import type { Kernel } from "../kernel/kernel.ts";
import type { VfioDeviceBehaviour } from "./device.ts";
import { type GroupFile, VfioGroup } from "./group.ts";
import type { VfioIrqBehaviour } from "./irqs.ts";
import type { CreateVfioDevice, VfioDevice } from "./vfio-device.ts";

/** What differs between releases in this floor; the machine floor fills it in from its table. */
export interface VfioBehaviour extends VfioIrqBehaviour, VfioDeviceBehaviour {
  /** a file that is no container answers EBADFD to VFIO_GROUP_SET_CONTAINER; before, EINVAL */
  readonly vfioContainerBadFd: boolean;
  /** the KVM pseudo device takes device files too; before, groups only */
  readonly kvmVfioDeviceFiles: boolean;
  /** a range that wraps around is EOVERFLOW to MAP_DMA and UNMAP_DMA; before, EINVAL */
  readonly type1RangeOverflow: boolean;
  /** the type 1 driver's nested translation is no extension any more */
  readonly type1NestingGone: boolean;
  /** capabilities of an info struct begin at multiples of eight bytes; before, each right behind the last */
  readonly vfioCapabilitiesAligned: boolean;
  /** AMD's driver lists the page sizes of 52 address bits; before, every size of 64 bits */
  readonly amdPageSizesCut: boolean;
  /** pinning private memory for reading makes the page the process's own first; before, the zero page was used */
  readonly longtermUnshares: boolean;
  /** a device whose driver is leaving is not found by name any more; before, it was while somebody had it open */
  readonly vfioLeavingHidden: boolean;
}

/** A PCI function as a profile lists it. */
export interface PciDescription {
  /** "0000:00:05.0" */
  readonly bdf: string;
  /** "0x8086" */
  readonly vendor: string;
  readonly device: string;
  /** "0x020000" */
  readonly class: string;
  readonly group?: number | string | null;
  /** the driver bound to it, if it is known */
  readonly driver?: string | null;
}

/** One that is bound to vfio-pci: more keys (config, bars, msi, msix, irq, reset_methods) are the device model's. */
export interface VfioDeviceDescription extends PciDescription {
  /** "vfio0" */
  readonly vfio_dev?: string;
  readonly [key: string]: unknown;
}

/** The IOMMU in front of the devices. */
export interface IommuDescription {
  readonly kind: "intel" | "amd" | "smmuv3" | "spapr" | null;
  /** interrupts of devices are remapped: a device cannot raise another's */
  readonly interruptRemapping: boolean;
  /** accesses that bypass the caches can be forbidden (KVM need not emulate WBINVD) */
  readonly cacheCoherent?: boolean;
  readonly cpus: number;
  /** of kind "spapr" */
  readonly tce?: TceDescription;
}

/** Windows of translation entries, POWER's kind of IOMMU. */
export interface TceDescription {
  /** bytes of the window that every group has, from 0 on */
  readonly size: bigint;
  /** one bit for each size that an entry may map */
  readonly pageSizes: bigint;
  /** windows that a program may make, and levels of their tables */
  readonly windows: number;
  readonly levels: number;
  /** the platform recovers from errors (EEH) */
  readonly eeh: boolean;
  /** the kernel is a guest itself: its windows and their entries are the hypervisor's (pseries, not powernv) */
  readonly hypervisor: boolean;
}

/** Options of the modules; sysfs changes them (/sys/module/MODULE/parameters/NAME). */
export interface ModuleOptions {
  allow_unsafe_interrupts: boolean;
  disable_hugepages: boolean;
  dma_entry_limit: number;
  enable_unsafe_noiommu_mode: boolean;
  nointxmask: boolean;
  disable_vga: boolean;
  disable_idle_d3: boolean;
  enable_sriov: boolean;
  disable_denylist: boolean;
}

/** An IOMMU group: functions that the IOMMU cannot tell apart. */
export class IommuGroup {
  readonly id: number;
  readonly functions: PciFunction[] = [];
  /** who owns the DMA of its devices: undefined while it is the host or nobody */
  owner: object | undefined;
  /** claims of the owner, or drivers of the host that use the devices */
  #owners = 0;

  constructor(id: number) {
    this.id = id;
  }

  /** User space takes the group: EPERM while anyone has it. */
  claim(owner: object): number {
    if (this.#owners !== 0) return -EPERM;
    this.owner = owner;
    this.#owners = 1;
    return 0;
  }

  /** One of several claims of the same owner (iommufd binds device by device): EPERM while another has the group. */
  claimShared(owner: object): number {
    if (this.#owners !== 0 && this.owner !== owner) return -EPERM;
    this.owner = owner;
    this.#owners++;
    return 0;
  }

  /** The owner gives one claim back. */
  release(): void {
    if (--this.#owners === 0) this.owner = undefined;
  }

  /** Whether anyone has the group: then user space cannot have it. */
  get claimed(): boolean {
    return this.#owners !== 0;
  }

  /** A host driver starts to use a device: EBUSY while user space owns the group. */
  useByHost(): number {
    if (this.owner !== undefined) return -EBUSY;
    this.#owners++;
    return 0;
  }

  unuseByHost(): void {
    this.#owners--;
  }
}

/** One PCI function of the host. */
export class PciFunction {
  readonly address: string;
  readonly description: VfioDeviceDescription;
  group: IommuGroup | undefined;
  /** the driver bound to it */
  driver: string | undefined;
  /** /sys/bus/pci/devices/ADDRESS/driver_override */
  driverOverride = "";
  /** while vfio-pci is bound */
  vfio: VfioDevice | undefined;

  constructor(description: VfioDeviceDescription) {
    this.address = description.bdf;
    this.description = description;
  }
}

/** Drivers that leave the DMA of their device alone: they may sit in a group that user space owns. */
const driversWithoutDma = new Set(["vfio-pci", "pcieport", "pci-stub"]);

export interface VfioHostOptions {
  kernel: Kernel;
  arch: string;
  /** "6.12" */
  release: string;
  iommu: IommuDescription;
  behaviour: VfioBehaviour;
  pci: readonly PciDescription[];
  devices: readonly VfioDeviceDescription[];
  modules?: Partial<ModuleOptions>;
  /** whether the kernel has iommufd, and with it the devices' own files */
  iommufd?: boolean;
  createDevice: CreateVfioDevice;
}

export class VfioHost {
  readonly kernel: Kernel;
  readonly arch: string;
  readonly release: string;
  readonly iommu: IommuDescription;
  readonly behaviour: VfioBehaviour;
  readonly options: ModuleOptions;
  readonly iommufd: boolean;
  /** every PCI function by its address, in the order of the profile */
  readonly functions = new Map<string, PciFunction>();
  readonly iommuGroups = new Map<number, IommuGroup>();
  /** groups with a device that vfio-pci owns, by the name of their file ("4", "noiommu-0") */
  readonly groups = new Map<string, VfioGroup>();
  /** devices by the number of their file, /dev/vfio/devices/vfioN */
  readonly #devices: (VfioDevice | undefined)[] = [];
  readonly #createDevice: CreateVfioDevice;

  constructor(options: VfioHostOptions) {
    this.kernel = options.kernel;
    this.arch = options.arch;
    this.release = options.release;
    this.iommu = options.iommu;
    this.behaviour = options.behaviour;
    this.iommufd = options.iommufd ?? false;
    this.options = {
      allow_unsafe_interrupts: false,
      disable_hugepages: false,
      dma_entry_limit: 65535,
      enable_unsafe_noiommu_mode: false,
      nointxmask: false,
      disable_vga: false,
      disable_idle_d3: false,
      enable_sriov: false,
      disable_denylist: false,
      ...options.modules,
    };
    this.#createDevice = options.createDevice;
    const owned = new Map(options.devices.map((device) => [device.bdf, device]));
    for (const listed of options.pci) this.#add({ ...listed, ...owned.get(listed.bdf) });
    for (const device of options.devices) if (!this.functions.has(device.bdf)) this.#add(device);
    for (const { bdf } of options.devices) this.bind(this.functions.get(bdf)!, "vfio-pci");
  }

  #add(description: VfioDeviceDescription): void {
    const pciFunction = new PciFunction(description);
    this.functions.set(pciFunction.address, pciFunction);
    const { group, driver } = description;
    if (group !== null && group !== undefined && this.iommu.kind !== null) {
      pciFunction.group = this.iommuGroup(Number(group));
      pciFunction.group.functions.push(pciFunction);
    }
    if (driver !== null && driver !== undefined && driver !== "vfio-pci") this.bind(pciFunction, driver);
  }

  /** The group of a number, made at its first mention. */
  iommuGroup(id: number): IommuGroup {
    let group = this.iommuGroups.get(id);
    if (group === undefined) this.iommuGroups.set(id, (group = new IommuGroup(id)));
    return group;
  }

  /** Opens /dev/vfio/NAME: a group file, ENOENT, EBUSY. */
  openGroup(name: string, flags: number): GroupFile | number {
    const group = this.groups.get(name);
    return group === undefined ? -ENOENT : group.open(flags);
  }

  /** The device of /dev/vfio/devices/vfioN. */
  deviceByIndex(index: number): VfioDevice | undefined {
    return this.#devices[index];
  }

  /**
   * Binds a driver to a function that has none: EBUSY with another driver bound, or where user space owns the group; for
   * vfio-pci EINVAL without an IOMMU (unless no-IOMMU mode is on).
   */
  bind(pciFunction: PciFunction, driver: string): number {
    if (pciFunction.driver !== undefined) return -EBUSY;
    if (driver === "vfio-pci") return this.#bindVfio(pciFunction);
    if (!driversWithoutDma.has(driver)) {
      const used = pciFunction.group?.useByHost() ?? 0;
      if (used < 0) return used;
    }
    pciFunction.driver = driver;
    return 0;
  }

  #bindVfio(pciFunction: PciFunction): number {
    const noiommu = pciFunction.group === undefined;
    if (noiommu) {
      if (!this.options.enable_unsafe_noiommu_mode) return -EINVAL;
      pciFunction.group = this.iommuGroup(this.#lowestFreeGroup());
      pciFunction.group.functions.push(pciFunction);
    }
    const iommuGroup = pciFunction.group!;
    const name = noiommu ? `noiommu-${iommuGroup.id}` : `${iommuGroup.id}`;
    let group = this.groups.get(name);
    if (group === undefined) this.groups.set(name, (group = new VfioGroup(this, name, iommuGroup, noiommu)));
    pciFunction.driver = "vfio-pci";
    const device = this.#createDevice(this, pciFunction, group, this.#deviceIndex(pciFunction));
    pciFunction.vfio = this.#devices[device.index] = device;
    group.devices.push(device);
    return 0;
  }

  #lowestFreeGroup(): number {
    let id = 0;
    while (this.iommuGroups.has(id)) id++;
    return id;
  }

  /** The number that the profile tells, or the lowest free one. */
  #deviceIndex({ description }: PciFunction): number {
    const told = Number(/^vfio(\d+)$/.exec(description.vfio_dev ?? "")?.[1] ?? Number.NaN);
    if (Number.isInteger(told) && this.deviceByIndex(told) === undefined) return told;
    let index = 0;
    while (this.deviceByIndex(index) !== undefined) index++;
    return index;
  }

  /** Takes the driver away: ENODEV without one. vfio-pci's device asks its user for itself and goes once it is closed. */
  unbind(pciFunction: PciFunction): number {
    const { driver, vfio } = pciFunction;
    if (driver === undefined) return -ENODEV;
    if (vfio !== undefined) {
      if (vfio.leaving) return -EBUSY;
      vfio.leaving = true;
      if (vfio.openCount !== 0) vfio.request();
      else this.removeDevice(vfio);
      return 0;
    }
    if (!driversWithoutDma.has(driver)) pciFunction.group?.unuseByHost();
    pciFunction.driver = undefined;
    return 0;
  }

  /** The driver lets a device go that nobody has open any more. The group goes with its last device. */
  removeDevice(device: VfioDevice): void {
    const { group, function: pciFunction } = device;
    pciFunction.vfio = this.#devices[device.index] = undefined;
    pciFunction.driver = undefined;
    group.devices.splice(group.devices.indexOf(device), 1);
    if (group.noiommu) {
      this.iommuGroups.delete(group.iommuGroup.id);
      pciFunction.group = undefined;
    }
    if (group.devices.length !== 0) return;
    this.groups.delete(group.name);
    group.remove();
  }
}
