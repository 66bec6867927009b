/**
 * The IOMMU driver of POWER: windows of translation entries (TCE) instead of a map
 * (drivers/vfio/vfio_iommu_spapr_tce.c, 6.1). Version 1 has the group's own 32-bit window; it is enabled first, which
 * charges the whole window to the process. Version 2 maps memory that was registered before, and makes and removes
 * windows; the first of them is made at the first need.
 *
 * An entry is overwritten without a word, and clearing an empty one is no error. Every request but VFIO_CHECK_EXTENSION is
 * the process's that first named memory: EPERM for another. As recorded (fixtures/recorded/ppc64le-6.12): a bus address
 * that is not aligned answers 1; version 1 always pins memory to be written; entries past the end of a window are the
 * hypervisor's H_PARAMETER (−4) on pseries, and harm on powernv.
 *
 * On pseries there is one window beside the default one, wherever it stands; a refused attempt to make another bars the
 * device from new ones for good (arch/powerpc/platforms/pseries/iommu.c:spapr_tce_create_table, 6.11).
 *
 * Error handling (EEH): no device fails here, so the state is always normal, and everything that would bring a device back
 * succeeds; errors cannot be injected (EIO), as recorded on powernv.
 *
 * Missing: levels of tables, how large a window the hypervisor allows;
 * pages larger than the processor's are not checked to lie in one piece of memory.
 */
import {
  EBUSY,
  EFAULT,
  EINVAL,
  EIO,
  ENODEV,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ENOTTY,
  ENXIO,
  EPERM,
  ERANGE,
} from "../abi/errno.ts";
import { load32, store64 } from "../abi/struct.ts";
import {
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_EEH,
  VFIO_IOMMU_DISABLE,
  VFIO_IOMMU_ENABLE,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_SPAPR_TCE_IOMMU,
  VFIO_SPAPR_TCE_v2_IOMMU,
  VfioIommuType1DmaMap,
  VfioIommuType1DmaUnmap,
} from "../abi/vfio.ts";
import {
  VFIO_EEH_PE_INJECT_ERR,
  VFIO_EEH_PE_OP,
  VFIO_EEH_PE_STATE_NORMAL,
  VFIO_IOMMU_SPAPR_INFO_DDW,
  VFIO_IOMMU_SPAPR_REGISTER_MEMORY,
  VFIO_IOMMU_SPAPR_TCE_CREATE,
  VFIO_IOMMU_SPAPR_TCE_GET_INFO,
  VFIO_IOMMU_SPAPR_TCE_REMOVE,
  VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY,
  VfioEehPeErr,
  VfioEehPeOp,
  VfioIommuSpaprRegisterMemory,
  VfioIommuSpaprTceCreate,
  VfioIommuSpaprTceInfo,
  VfioIommuSpaprTceRemove,
} from "../abi/vfio-spapr.ts";
import type { AddressSpace } from "../kernel/address-space.ts";
import type { Argument } from "../kernel/argument.ts";
import type { Process } from "../kernel/process.ts";
import type { VfioGroup } from "./group.ts";
import type { IommuGroup, TceDescription } from "./host.ts";
import type { Iommu, IommuDriver } from "./iommu-driver.ts";
import { accountOf, pin } from "./pinned-memory.ts";

/** windows that a group has at most */
const MAX_WINDOWS = 2;
/** where the second window begins on the bus */
const SECOND_WINDOW = 1n << 59n;
const DEFAULT_SHIFT = 12;
const BYTES_PER_TCE = 8n;
/** bytes of the info struct without what version 2 added */
const INFO_LEAST = 16;

/** bytes of VfioEehPeOp without the error */
const EEH_LEAST = 12;
/** the last kind of access that an error may be injected into, and the last type (EEH_ERR_FUNC_MAX, EEH_ERR_TYPE_64) */
const EEH_ERROR_FUNCTIONS = 19;
const EEH_ERROR_64 = 1;

/** what a hypercall that puts an entry past the end answers, handed on as it is */
const H_PARAMETER = -4;
/** what an address check that fails answers: the truth of it (arch/powerpc/include/asm/iommu.h, 6.1) */
const UNALIGNED = 1;

interface Window {
  readonly start: bigint;
  readonly size: bigint;
  /** log 2 of the bytes that an entry maps */
  readonly shift: number;
  /** pages charged for the table itself */
  readonly charged: number;
  /** version 2: the registered memory behind each entry that is set */
  readonly entries: Map<bigint, Registered>;
}

/** Memory that was registered, shared by all containers of the process. */
interface Registered {
  readonly address: bigint;
  readonly size: bigint;
  readonly charged: number;
  /** containers that registered it */
  users: number;
  /** entries that map it */
  mapped: number;
}

const registered = new WeakMap<AddressSpace, Registered[]>();

/** groups whose hypervisor refused a window: it is not asked again */
const barred = new WeakSet<IommuGroup>();

const registeredBy = (mm: AddressSpace): Registered[] => {
  let regions = registered.get(mm);
  if (regions === undefined) registered.set(mm, (regions = []));
  return regions;
};

export const spaprTce: IommuDriver = {
  name: "spapr-tce",
  noiommu: false,

  checkExtension({ iommu }, extension) {
    if (extension === VFIO_SPAPR_TCE_IOMMU || extension === VFIO_SPAPR_TCE_v2_IOMMU) return 1;
    return extension === VFIO_EEH && iommu.tce?.eeh === true ? 1 : 0;
  },

  open(host, type) {
    const { tce } = host.iommu;
    if (tce === undefined) return -ENODEV;
    if (type === VFIO_SPAPR_TCE_IOMMU) return new SpaprTce(tce, false);
    return type === VFIO_SPAPR_TCE_v2_IOMMU ? new SpaprTce(tce, true) : -EINVAL;
  },
};

class SpaprTce implements Iommu {
  readonly driver = spaprTce;
  readonly #tce: TceDescription;
  readonly #v2: boolean;
  readonly #groups = new Set<VfioGroup>();
  readonly #windows: (Window | undefined)[] = [];
  readonly #registered = new Set<Registered>();
  /** the first window of version 2 is still to be made */
  #defaultPending = false;
  #enabled = false;
  #locked = 0;
  /** whose memory is mapped */
  #mm: AddressSpace | undefined;

  constructor(tce: TceDescription, v2: boolean) {
    this.#tce = tce;
    this.#v2 = v2;
  }

  /** Version 1 has one group a container: EBUSY for another, as for any while it is enabled. */
  attach(group: VfioGroup): number {
    if (this.#groups.size !== 0 && !this.#v2) return -EBUSY;
    if (this.#enabled && !this.#v2) return -EBUSY;
    this.#groups.add(group);
    if (!this.#v2) this.#windows[0] = this.#window(0n, this.#tce.size, DEFAULT_SHIFT, 0);
    else if (this.#groups.size === 1) this.#defaultPending = true;
    return 0;
  }

  detach(group: VfioGroup): void {
    this.#groups.delete(group);
    if (!this.#v2) this.#windows.length = 0;
  }

  release(): void {
    for (let number = 0; number < this.#windows.length; number++) this.#removeWindow(number);
    for (const region of [...this.#registered]) this.#letGo(region);
    this.#disable();
  }

  ioctl(process: Process, request: number, user: Argument): number {
    if (this.#mm !== undefined && this.#mm !== process.mm) return -EPERM;
    switch (request) {
      case VFIO_IOMMU_SPAPR_TCE_GET_INFO.number:
        return this.#getInfo(user);
      case VFIO_IOMMU_MAP_DMA.number:
        return this.#map(process, user);
      case VFIO_IOMMU_UNMAP_DMA.number:
        return this.#unmap(process, user);
      case VFIO_EEH_PE_OP.number:
        return this.#groups.size === 0 ? 0 : this.#errorHandling(user);
    }
    if (!this.#v2) {
      if (request === VFIO_IOMMU_ENABLE.number) return this.#enable(process);
      if (request !== VFIO_IOMMU_DISABLE.number) return -ENOTTY;
      this.#disable();
      return 0;
    }
    switch (request) {
      case VFIO_IOMMU_SPAPR_REGISTER_MEMORY.number:
        return this.#register(process, user);
      case VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY.number:
        return this.#unregister(process, user);
      case VFIO_IOMMU_SPAPR_TCE_CREATE.number:
        return this.#create(process, user);
      case VFIO_IOMMU_SPAPR_TCE_REMOVE.number:
        return this.#remove(process, user);
      default:
        return -ENOTTY;
    }
  }

  #getInfo(user: Argument): number {
    if (this.#groups.size === 0) return -ENXIO;
    if (!user.readable(INFO_LEAST)) return -EFAULT;
    const { argsz } = VfioIommuSpaprTceInfo.decode(user.bytes, user.at);
    if (argsz < INFO_LEAST) return -EINVAL;
    const { size, pageSizes, windows, levels } = this.#tce;
    const ddw = { pgsizes: pageSizes, max_dynamic_windows_supported: windows, levels };
    const info = VfioIommuSpaprTceInfo.encode({
      argsz,
      flags: this.#v2 ? VFIO_IOMMU_SPAPR_INFO_DDW : 0,
      dma32_window_start: 0,
      dma32_window_size: Number(size),
      ddw: this.#v2 ? ddw : {},
    });
    const written = argsz >= info.length ? info.length : INFO_LEAST;
    if (!user.writable(written)) return -EFAULT;
    user.bytes.set(info.subarray(0, written), user.at);
    return 0;
  }

  /** ENODEV where the group is no unit of error handling; EFAULT; EINVAL: no such operation. */
  #errorHandling(user: Argument): number {
    if (!this.#tce.eeh) return -ENODEV;
    if (!user.readable(EEH_LEAST)) return -EFAULT;
    const argsz = load32(user.bytes, user.at);
    const { flags, op } = VfioEehPeOp.offsetOf;
    if (argsz < EEH_LEAST || load32(user.bytes, user.at + flags) !== 0) return -EINVAL;
    const operation = load32(user.bytes, user.at + op);
    if (operation < VFIO_EEH_PE_INJECT_ERR) return VFIO_EEH_PE_STATE_NORMAL;
    if (operation > VFIO_EEH_PE_INJECT_ERR || argsz < VfioEehPeOp.size) return -EINVAL;
    if (!user.readable(VfioEehPeOp.size)) return -EFAULT;
    const { type, func } = VfioEehPeErr.decode(user.bytes, user.at + VfioEehPeOp.size - VfioEehPeErr.size);
    if (func > EEH_ERROR_FUNCTIONS) return -EINVAL;
    return type > EEH_ERROR_64 ? -ERANGE : -EIO;
  }

  // --- version 1 --------------------------------------------------------------------------------------------------

  /** EBUSY a second time, ENODEV without a group, ENOMEM where the window is more than the process may lock. */
  #enable(process: Process): number {
    if (this.#enabled) return -EBUSY;
    if (this.#groups.size === 0) return -ENODEV;
    const pages = Number(this.#tce.size) / process.mm.pageSize;
    const charged = this.#charge(process, pages);
    if (charged < 0) return charged;
    this.#mm = process.mm;
    this.#locked = pages;
    this.#enabled = true;
    return 0;
  }

  #disable(): void {
    if (!this.#enabled) return;
    this.#enabled = false;
    accountOf(this.#mm!).charge(-this.#locked);
    this.#locked = 0;
  }

  #charge(process: Process, pages: number): number {
    const account = accountOf(process.mm);
    if (pages > account.room(process)) return -ENOMEM;
    account.charge(pages);
    return 0;
  }

  // --- mapping ----------------------------------------------------------------------------------------------------

  /** EPERM before it is enabled, ENXIO outside every window; version 1 EFAULT, version 2 EINVAL for unregistered memory. */
  #map(process: Process, user: Argument): number {
    if (!this.#enabled) return -EPERM;
    if (!user.readable(VfioIommuType1DmaMap.size)) return -EFAULT;
    const { argsz, flags, vaddr, iova, size } = VfioIommuType1DmaMap.decode(user.bytes, user.at);
    if (argsz < VfioIommuType1DmaMap.size) return -EINVAL;
    if ((flags & ~(VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)) !== 0) return -EINVAL;
    const window = this.#windowAt(process, iova);
    if (typeof window === "number") return window;
    const mask = (1n << BigInt(window.shift)) - 1n;
    if (((size | vaddr) & mask) !== 0n || flags === 0) return -EINVAL;
    if ((iova & mask) !== 0n) return UNALIGNED;
    return this.#v2
      ? this.#setEntries(process.mm, window, iova, vaddr, size)
      : this.#pinEntries(process, window, iova, Number(vaddr), size);
  }

  /** Version 1: every page is pinned, whatever the device may do. */
  #pinEntries(process: Process, window: Window, iova: bigint, vaddr: number, size: bigint): number {
    const { pageSize } = process.mm;
    const room = window.start + window.size - iova;
    const past = this.#tce.hypervisor && size > room;
    const start = Math.floor(vaddr / pageSize) * pageSize;
    const end = Math.ceil((vaddr + Number(past ? room : size)) / pageSize) * pageSize;
    const pinned = pin(process, start, end - start, true, true, unlimited);
    return pinned < 0 ? pinned : past ? H_PARAMETER : 0;
  }

  /** Entries before the first that fails are taken back. */
  #setEntries(mm: AddressSpace, window: Window, iova: bigint, vaddr: bigint, size: bigint): number {
    const step = 1n << BigInt(window.shift);
    const last = (window.start + window.size) >> BigInt(window.shift);
    const first = iova >> BigInt(window.shift);
    for (let done = 0n; done < size; done += step) {
      const entry = (iova + done) >> BigInt(window.shift);
      const at = vaddr + done;
      const region = registeredBy(mm).find(
        ({ address, size }) => at >= address && at + step <= address + size,
      );
      if (region === undefined || (entry >= last && this.#tce.hypervisor)) {
        clearEntries(window, first, entry);
        return region === undefined ? -EINVAL : H_PARAMETER;
      }
      clearEntries(window, entry, entry + 1n);
      window.entries.set(entry, region);
      region.mapped++;
    }
    return 0;
  }

  #unmap(process: Process, user: Argument): number {
    if (!this.#enabled) return -EPERM;
    if (!user.readable(VfioIommuType1DmaUnmap.size)) return -EFAULT;
    const { argsz, flags, iova, size } = VfioIommuType1DmaUnmap.decode(user.bytes, user.at);
    if (argsz < VfioIommuType1DmaUnmap.size || flags !== 0) return -EINVAL;
    const window = this.#windowAt(process, iova);
    if (typeof window === "number") return window;
    const mask = (1n << BigInt(window.shift)) - 1n;
    if ((size & mask) !== 0n) return -EINVAL;
    if ((iova & mask) !== 0n) return UNALIGNED;
    const shift = BigInt(window.shift);
    clearEntries(window, iova >> shift, (iova + size) >> shift);
    return 0;
  }

  #windowAt(process: Process, iova: bigint): Window | number {
    const made = this.#makeDefaultWindow(process);
    if (made < 0) return made;
    return this.#windows.find((w) => w !== undefined && iova >= w.start && iova < w.start + w.size) ?? -ENXIO;
  }

  // --- windows of version 2 ---------------------------------------------------------------------------------------

  #window(start: bigint, size: bigint, shift: number, charged: number): Window {
    return { start, size, shift, charged, entries: new Map() };
  }

  #makeDefaultWindow(process: Process): number {
    if (!this.#defaultPending) return 0;
    const start = this.#makeWindow(process, DEFAULT_SHIFT, this.#tce.size, 1);
    if (typeof start === "number") return start;
    this.#defaultPending = false;
    return 0;
  }

  /** Its address; ENOSPC, EINVAL for a size or a page that the bus does not have, ENOMEM. */
  #makeWindow(process: Process, shift: number, size: bigint, levels: number): bigint | number {
    let number = 0;
    while (this.#windows[number] !== undefined) number++;
    if (number >= MAX_WINDOWS) return -ENOSPC;
    const { pageSizes, levels: most, hypervisor } = this.#tce;
    if (shift >= 64 || (pageSizes & (1n << BigInt(shift))) === 0n) return -EINVAL;
    if ((levels === 0 && !hypervisor) || levels > most || size === 0n || (size & (size - 1n)) !== 0n)
      return -EINVAL;
    const pages = Number(((size >> BigInt(shift)) * BYTES_PER_TCE) / BigInt(process.mm.pageSize));
    const charged = this.#charge(process, pages);
    if (charged < 0) return charged;
    this.#mm = process.mm;
    const start = hypervisor ? this.#askHypervisor(number, shift, size) : number === 0 ? 0n : SECOND_WINDOW;
    if (typeof start === "number") return start;
    this.#windows[number] = this.#window(start, size, shift, pages);
    return start;
  }

  /** EPERM for a first window beside one that stands at the second's place, ENODEV once there was no room. */
  #askHypervisor(number: number, shift: number, size: bigint): bigint | number {
    const devices = [...this.#groups].map(({ iommuGroup }) => iommuGroup);
    if (devices.some((group) => barred.has(group))) return -ENODEV;
    const made = this.#windows.some((window) => window !== undefined && window.start !== 0n);
    if (number === 0) {
      if (made) return -EPERM;
      if (shift === DEFAULT_SHIFT && size <= this.#tce.size) return 0n;
    }
    if (!made) return SECOND_WINDOW;
    for (const group of devices) barred.add(group);
    return -ENODEV;
  }

  #removeWindow(number: number): void {
    const window = this.#windows[number];
    if (window === undefined) return;
    for (const region of window.entries.values()) region.mapped--;
    this.#windows[number] = undefined;
    if (window.charged !== 0) accountOf(this.#mm!).charge(-window.charged);
  }

  #create(process: Process, user: Argument): number {
    this.#mm ??= process.mm;
    if (this.#groups.size === 0) return -ENXIO;
    if (!user.readable(VfioIommuSpaprTceCreate.size)) return -EFAULT;
    const create = VfioIommuSpaprTceCreate.decode(user.bytes, user.at);
    if (create.argsz < VfioIommuSpaprTceCreate.size || create.flags !== 0) return -EINVAL;
    const pending = this.#makeDefaultWindow(process);
    if (pending < 0) return pending;
    const start = this.#makeWindow(process, create.page_shift, create.window_size, create.levels);
    if (typeof start === "number") return start;
    if (!user.writable(VfioIommuSpaprTceCreate.size)) return -EFAULT;
    store64(user.bytes, user.at + VfioIommuSpaprTceCreate.offsetOf.start_addr, start);
    return 0;
  }

  #remove(process: Process, user: Argument): number {
    this.#mm ??= process.mm;
    if (this.#groups.size === 0) return -ENXIO;
    if (!user.readable(VfioIommuSpaprTceRemove.size)) return -EFAULT;
    const { argsz, flags, start_addr } = VfioIommuSpaprTceRemove.decode(user.bytes, user.at);
    if (argsz < VfioIommuSpaprTceRemove.size || flags !== 0) return -EINVAL;
    if (this.#defaultPending && start_addr === 0n) {
      this.#defaultPending = false;
      return 0;
    }
    const number = this.#windows.findIndex(
      (window) =>
        window !== undefined && start_addr >= window.start && start_addr < window.start + window.size,
    );
    if (number < 0) return -EINVAL;
    this.#removeWindow(number);
    return 0;
  }

  // --- registered memory ------------------------------------------------------------------------------------------

  /** EINVAL unaligned or where it meets other registered memory, EBUSY a second time, EFAULT, ENOMEM. */
  #register(process: Process, user: Argument): number {
    this.#mm ??= process.mm;
    const range = readRange(user, process.mm.pageSize);
    if (typeof range === "number") return range;
    const { address, size } = range;
    if (address + size >= 1n << 64n) return -EINVAL;
    let region: Registered | number | undefined = this.#find(address, size);
    if (region !== undefined && this.#registered.has(region)) return -EBUSY;
    region ??= this.#pinRegion(process, address, size);
    if (typeof region === "number") return region;
    region.users++;
    this.#registered.add(region);
    this.#enabled = true;
    return 0;
  }

  #find(address: bigint, size: bigint): Registered | undefined {
    return registeredBy(this.#mm!).find((other) => other.address === address && other.size === size);
  }

  #pinRegion(process: Process, address: bigint, size: bigint): Registered | number {
    if (size === 0n) return -ENOMEM;
    const pages = Number(size) / process.mm.pageSize;
    const charged = this.#charge(process, pages);
    if (charged < 0) return charged;
    const regions = registeredBy(process.mm);
    const meets = regions.some(
      (other) => other.address < address + size && address < other.address + other.size,
    );
    const pinned = pin(process, Number(address), Number(size), true, true, unlimited);
    if (pinned < 0 || meets) {
      accountOf(process.mm).charge(-pages);
      return pinned < 0 ? pinned : -EINVAL;
    }
    const region = { address, size, charged: pages, users: 0, mapped: 0 };
    regions.push(region);
    return region;
  }

  /**
   * ENOENT for what this container did not register. Memory that is still mapped leaves the container, and stays
   * registered with its process.
   */
  #unregister(process: Process, user: Argument): number {
    if (this.#mm === undefined) return -EPERM;
    const range = readRange(user, process.mm.pageSize);
    if (typeof range === "number") return range;
    const region = this.#find(range.address, range.size);
    if (region === undefined || !this.#registered.has(region)) return -ENOENT;
    this.#letGo(region);
    return 0;
  }

  /** A mapped region keeps its last user. */
  #letGo(region: Registered): void {
    this.#registered.delete(region);
    if (region.users > 1 || region.mapped === 0) region.users--;
    if (region.users !== 0) return;
    const regions = registeredBy(this.#mm!);
    regions.splice(regions.indexOf(region), 1);
    accountOf(this.#mm!).charge(-region.charged);
  }
}

/** Pages that were charged before are not charged again. */
const unlimited = { room: () => Number.POSITIVE_INFINITY, charge() {} };

function clearEntries(window: Window, first: bigint, end: bigint): void {
  if (window.entries.size === 0) return;
  for (let entry = first; entry < end; entry++) {
    const region = window.entries.get(entry);
    if (region === undefined) continue;
    region.mapped--;
    window.entries.delete(entry);
  }
}

/** The range of a request about memory, aligned to pages: EFAULT, EINVAL. */
function readRange(user: Argument, pageSize: number): { address: bigint; size: bigint } | number {
  if (!user.readable(VfioIommuSpaprRegisterMemory.size)) return -EFAULT;
  const { argsz, flags, vaddr, size } = VfioIommuSpaprRegisterMemory.decode(user.bytes, user.at);
  if (argsz < VfioIommuSpaprRegisterMemory.size || flags !== 0) return -EINVAL;
  return ((vaddr | size) & BigInt(pageSize - 1)) === 0n ? { address: vaddr, size } : -EINVAL;
}
