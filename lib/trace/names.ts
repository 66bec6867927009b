/**
 * Names of the numbers in calls: flags, capabilities, types. They come from the abi declarations, by the prefix that
 * the C headers give them; which prefix belongs to which field stands here.
 *
 * Missing: names that depend on more than the field (the attributes of a device group, MSR numbers).
 */
import * as eventfd from "../abi/eventfd.ts";
import * as fcntl from "../abi/fcntl.ts";
import * as kvm from "../abi/kvm.ts";
import * as kvmX86 from "../abi/kvm-x86.ts";
import * as mman from "../abi/mman.ts";
import * as poll from "../abi/poll.ts";
import * as vfio from "../abi/vfio.ts";

type Module = Readonly<Record<string, unknown>>;

/** Numbers by value whose names start with a prefix; the first declaration of a value names it. */
function named(modules: readonly Module[], prefix: string, suffix = ""): Map<number, string> {
  const names = new Map<number, string>();
  for (const module of modules)
    for (const [name, value] of Object.entries(module))
      if (typeof value === "number" && name.startsWith(prefix) && name.endsWith(suffix) && !isMask(name))
        if (!names.has(value)) names.set(value, name);
  return names;
}

/** Names that are no value of their own: masks, ends of ranges. */
const isMask = (name: string): boolean => /_(MASK|MAX|TYPE|NUM_REGIONS|NUM_IRQS)$/.test(name);

const kvmModules: readonly Module[] = [kvm, kvmX86];

/** One value that has a name. */
const value = (prefix: string, suffix?: string, modules: readonly Module[] = kvmModules): Names => ({
  names: named(modules, prefix, suffix),
  flags: false,
});
/** Bits that have names. */
const flags = (prefix: string, modules: readonly Module[] = kvmModules): Names => ({
  names: named(modules, prefix),
  flags: true,
});

export interface Names {
  readonly names: ReadonlyMap<number, string>;
  /** whether several of them can stand together */
  readonly flags: boolean;
}

const vfioFlags = (prefix: string): Names => flags(prefix, [vfio]);
const irqIndex = value("VFIO_PCI_", "_IRQ_INDEX", [vfio]);
const capability = value("KVM_CAP_");
const deviceType = value("KVM_DEV_TYPE_");
const mpState = value("KVM_MP_STATE_");
const memory = flags("KVM_MEM_");

/** `request field`, the field by its last name; a request alone is its plain argument. */
const byField = new Map<string, Names>([
  ["KVM_CHECK_EXTENSION", capability],
  ["VFIO_CHECK_EXTENSION", value("VFIO_", "_IOMMU", [vfio])],
  ["VFIO_SET_IOMMU", value("VFIO_", "_IOMMU", [vfio])],
  ["KVM_ENABLE_CAP cap", capability],
  ["KVM_CREATE_DEVICE type", deviceType],
  ["KVM_CREATE_DEVICE flags", flags("KVM_CREATE_DEVICE_")],
  ["KVM_IRQFD flags", flags("KVM_IRQFD_FLAG_")],
  ["KVM_IOEVENTFD flags", flags("KVM_IOEVENTFD_FLAG_")],
  ["KVM_SET_USER_MEMORY_REGION flags", memory],
  ["KVM_SET_USER_MEMORY_REGION2 flags", memory],
  ["KVM_SET_GSI_ROUTING type", value("KVM_IRQ_ROUTING_")],
  ["KVM_SIGNAL_MSI flags", flags("KVM_MSI_")],
  ["KVM_GET_MP_STATE mp_state", mpState],
  ["KVM_SET_MP_STATE mp_state", mpState],
  ["VFIO_GROUP_GET_STATUS flags", vfioFlags("VFIO_GROUP_FLAGS_")],
  ["VFIO_DEVICE_GET_INFO flags", vfioFlags("VFIO_DEVICE_FLAGS_")],
  ["VFIO_DEVICE_GET_REGION_INFO flags", vfioFlags("VFIO_REGION_INFO_FLAG_")],
  ["VFIO_DEVICE_GET_REGION_INFO index", value("VFIO_PCI_", "_REGION_INDEX", [vfio])],
  ["VFIO_DEVICE_GET_IRQ_INFO flags", vfioFlags("VFIO_IRQ_INFO_")],
  ["VFIO_DEVICE_GET_IRQ_INFO index", irqIndex],
  ["VFIO_DEVICE_SET_IRQS flags", vfioFlags("VFIO_IRQ_SET_")],
  ["VFIO_DEVICE_SET_IRQS index", irqIndex],
  ["VFIO_IOMMU_GET_INFO flags", vfioFlags("VFIO_IOMMU_INFO_")],
  ["VFIO_IOMMU_MAP_DMA flags", vfioFlags("VFIO_DMA_MAP_FLAG_")],
  ["VFIO_IOMMU_UNMAP_DMA flags", vfioFlags("VFIO_DMA_UNMAP_FLAG_")],
  ["VFIO_IOMMU_DIRTY_PAGES flags", vfioFlags("VFIO_IOMMU_DIRTY_PAGES_FLAG_")],
]);

/** The names that a field of a request takes; the plain argument where no field is given. */
export const namesOf = (request: string, field?: string): Names | undefined =>
  byField.get(field === undefined ? request : `${request} ${field}`);

const bitsOf = (module: Module, ...prefixes: string[]): Names => {
  const names = new Map<number, string>();
  for (const prefix of prefixes)
    for (const [bit, name] of named([module], prefix)) if (!names.has(bit)) names.set(bit, name);
  return { names, flags: true };
};

export const eventfdFlags = bitsOf(eventfd, "EFD_");
export const protections = bitsOf(mman, "PROT_");
export const mapFlags = bitsOf(mman, "MAP_");
export const pollEvents = bitsOf(poll, "POLL");
const statusFlags: Names = {
  flags: true,
  names: new Map([...bitsOf(fcntl, "O_").names].filter(([bit]) => bit > fcntl.O_ACCMODE)),
};
const commands: Names = { names: named([fcntl], "F_"), flags: false };

/** `O_RDWR|O_CLOEXEC`: the access mode is a number, the rest are bits. */
export function openFlags(value: number): string {
  const mode = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"][value & fcntl.O_ACCMODE];
  const rest = value & ~fcntl.O_ACCMODE;
  return rest === 0 ? mode : `${mode}|${spell(rest, statusFlags)}`;
}

export const fcntlCommand = (command: number): string => spell(command, commands);

/** A number with its names: `KVM_CAP_IRQCHIP`, `A|B|0x100`; plain where there is none. */
export function spell(value: number, { names, flags }: Names): string {
  const whole = names.get(value);
  if (whole !== undefined && (!flags || value !== 0)) return whole;
  const plain = value > 9 ? `0x${value.toString(16)}` : String(value);
  if (!flags || value === 0) return flags && whole !== undefined ? whole : plain;
  const parts: string[] = [];
  let rest = value >>> 0;
  for (const [bit, name] of [...names].sort(([a], [b]) => a - b))
    if (bit !== 0 && (rest & bit) >>> 0 === bit >>> 0) {
      parts.push(name);
      rest = (rest & ~bit) >>> 0;
    }
  if (parts.length === 0) return plain;
  if (rest !== 0) parts.push(`0x${rest.toString(16)}`);
  return parts.join("|");
}
