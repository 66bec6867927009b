/** The PCI devices of a profile as hardware: configuration, BARs, models by vendor and device, wired to the host. */
import { fromHex } from "../abi/hex.ts";
import {
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_VNDR,
  PCI_EXP_DEVCTL,
  PCI_PM_CTRL,
  PCI_PM_CTRL_DATA_SEL_MASK,
} from "../abi/pci.ts";
import { ByteSwapped } from "../hardware/byte-swapped.ts";
import { Edu } from "../hardware/edu.ts";
import {
  AMD_TABLE_ENTRIES,
  AMD_TABLE_ENTRIES_2K,
  InterruptRemapping,
  type RemappingKind,
} from "../hardware/interrupt-remapping.ts";
import { Ivshmem } from "../hardware/ivshmem.ts";
import { capabilities } from "../hardware/pci-capabilities.ts";
import { type PciBar, PciDevice, type PciModel, type ResetMethod } from "../hardware/pci-device.ts";
import { VectorMatrix } from "../hardware/vector-matrix.ts";
import { HostIrqs } from "../kernel/irq.ts";
import type { Kernel } from "../kernel/kernel.ts";
import type { PciHardware } from "../vfio/device.ts";
import type { PciDescription, VfioDeviceDescription } from "../vfio/host.ts";
import { bridgesByBus, hostInterrupts, occupy, pinOf } from "./host-interrupts.ts";
import type { Profile } from "./profile.ts";

/** What differs between releases in the host's interrupts; the machine fills it in from its table. */
export interface InterruptBehaviour {
  /** no vector is kept for the clean-up after an interrupt moved; before, 0x20 was */
  readonly irqMoveWithoutVector: boolean;
  /** 0xeb is the kernel's own: posted interrupts of devices for the host */
  readonly postedMsiVector: boolean;
  /** AMD tables of 2,048 entries, where the IOMMU has them (`host.interrupt_remapping_entries`) */
  readonly amdLargeTables: boolean;
}

/** The system call of 32-bit programs, and the cascade of the old interrupt controllers. */
const SYSTEM_VECTORS = [0x80, 0x32];
const IRQ_MOVE_CLEANUP_VECTOR = 0x20;
const LOCAL_TIMER_VECTOR = 0xec;
const POSTED_MSI_VECTOR = 0xeb;

/** Makes the model of a device: what its registers do. */
export type ModelFactory = (device: PciDevice) => PciModel;

/** Models by "vendor:device". */
export const pciModels = new Map<string, ModelFactory>([
  ["0x1234:0x11e8", (device) => new Edu(device)],
  ["0x1af4:0x1110", (device) => new Ivshmem(device)],
]);

/** What a profile says of a device beyond what VFIO's outer half reads. */
interface DeviceDescription extends VfioDeviceDescription {
  readonly config?: string;
  readonly bars?: readonly {
    index: number;
    size: number;
    type: "mem" | "io";
    "64bit"?: boolean;
    prefetchable?: boolean;
  }[];
  readonly rom?: number;
  readonly reset_methods?: readonly ResetMethod[];
  /** the pin of its INTx, where it is known: 16 and above */
  readonly irq?: number;
  readonly config_size?: number;
  /** the registers of its model are big endian */
  readonly big_endian?: boolean;
}

/** The PCI devices of a host, as a test sees them. */
export class MachinePci implements PciHardware {
  readonly irqs: HostIrqs;
  readonly nointxmask: boolean;
  readonly unmodelled: { offset: number; length: number }[] = [];
  readonly #devices = new Map<string, PciDevice>();
  readonly #pci: readonly PciDescription[];
  readonly #models: ReadonlyMap<string, ModelFactory>;

  constructor(
    profile: Profile,
    devices: readonly unknown[],
    kernel: Kernel,
    behaviour: InterruptBehaviour,
    models: ReadonlyMap<string, ModelFactory>,
  ) {
    this.#pci = profile.pci as readonly PciDescription[];
    this.#models = models;
    this.nointxmask = (profile.host.vfio_params as Record<string, unknown> | undefined)?.nointxmask === "Y";
    const { host } = profile;
    const system = behaviour.irqMoveWithoutVector
      ? SYSTEM_VECTORS
      : [...SYSTEM_VECTORS, IRQ_MOVE_CLEANUP_VECTOR];
    const cpus = typeof host.cpus === "number" ? host.cpus : 1;
    const firstSystem = behaviour.postedMsiVector ? POSTED_MSI_VECTOR : LOCAL_TIMER_VECTOR;
    this.irqs = new HostIrqs(
      kernel,
      new VectorMatrix({ cpus, firstSystem, system }),
      remappingOf(profile, behaviour),
    );
    const described = devices as readonly DeviceDescription[];
    occupy(this.irqs, hostInterrupts(host, this.#pci, new Set(described.map(({ bdf }) => bdf))));
    for (const description of described) this.#add(description);
  }

  #add(description: DeviceDescription): PciDevice {
    const { bdf, vendor, device: id, rom, reset_methods: resetMethods, irq } = description;
    const config = imageOf(description);
    const bars: PciBar[] = (description.bars ?? []).map((bar) => ({
      index: bar.index,
      size: bar.size,
      type: bar.type,
      wide: bar["64bit"] === true,
      prefetchable: bar.prefetchable === true,
    }));
    const writable =
      vendor === "0x1af4" ? virtioWritable(config) : id === "0x10d3" ? e1000eWritable(config) : [];
    const device = new PciDevice({
      writable,
      address: bdf,
      config,
      bars,
      rom: rom ?? 0,
      resetMethods: (resetMethods ?? []).filter((method) => method !== "bus" || this.#aloneOnBus(bdf)),
    });
    const model = this.#models.get(`${vendor}:${id}`)?.(device);
    device.model = model !== undefined && description.big_endian === true ? new ByteSwapped(model) : model;
    this.irqs.connect(device, irq !== undefined && irq >= 16 ? irq : pinOf(this.#pci, bdf, device.pin));
    this.#devices.set(bdf, device);
    return device;
  }

  /** A reset of the bus is a reset of the function where there is no other on it. */
  #aloneOnBus(address: string): boolean {
    return !this.#pci.some(({ bdf }) => bdf !== address && bdf.slice(0, 7) === address.slice(0, 7));
  }

  /** A function; one that the profile lists without describing it has its ids alone. */
  device(address: string): PciDevice {
    let device = this.#devices.get(address);
    if (device === undefined) {
      const listed = this.#pci.find(({ bdf }) => bdf === address);
      const { vendor, device: id } = listed ?? { vendor: "0xffff", device: "0xffff" };
      device = this.#add({ bdf: address, vendor, device: id, class: listed?.class ?? "0xff0000" });
    }
    return device;
  }

  /**
   * The link below the recorded root ports never reports that it is up again, so Linux takes their bus for lost
   * (drivers/pci/pci.c:pci_bridge_wait_for_secondary_bus; traces: C_device answers ENOTTY there, 0 below a bridge).
   */
  busReturns(address: string): boolean {
    const bridge = bridgesByBus(this.#pci).get(Number.parseInt(address.slice(5, 7), 16));
    const above = this.#pci.find(({ bdf }) => bdf === bridge);
    return !(above?.vendor === "0x1b36" && above.device === "0x000c");
  }
}

/**
 * What a virtio function lets be written beyond the usual: its error reporting, and the window into its BARs, a vendor
 * capability of type 5 (virtio specification 1.2, 4.1.4.9): BAR, offset, length, data.
 */
function virtioWritable(config: Uint8Array): [offset: number, mask: number][] {
  const bytes: [number, number][] = [];
  for (const { id, at } of capabilities(config)) {
    if (id === PCI_CAP_ID_EXP) bytes.push([at + PCI_EXP_DEVCTL, 0x0f]);
    if (id !== PCI_CAP_ID_VNDR || config[at + 3] !== 5) continue;
    bytes.push([at + 4, 0xff]);
    for (let offset = 8; offset < 20; offset++) bytes.push([at + offset, 0xff]);
  }
  return bytes;
}

/** An 82574L keeps the selector of a data register that it does not have. */
const e1000eWritable = (config: Uint8Array): [offset: number, mask: number][] =>
  capabilities(config)
    .filter(({ id }) => id === PCI_CAP_ID_PM)
    .map(({ at }) => [at + PCI_PM_CTRL + 1, PCI_PM_CTRL_DATA_SEL_MASK >> 8]);

function remappingOf({ host }: Profile, behaviour: InterruptBehaviour): InterruptRemapping {
  const kind = (host.intremap === true ? (host.iommu ?? null) : null) as RemappingKind;
  if (kind !== "amd") return new InterruptRemapping(kind === "intel" ? kind : null);
  const large = behaviour.amdLargeTables && host.interrupt_remapping_entries === AMD_TABLE_ENTRIES_2K;
  return new InterruptRemapping("amd", large ? AMD_TABLE_ENTRIES_2K : AMD_TABLE_ENTRIES);
}

/** The configuration space that a profile gives; without one, its ids alone. */
function imageOf({ config, config_size: size, vendor, device }: DeviceDescription): Uint8Array {
  if (config !== undefined) return fromHex(config);
  const bytes = new Uint8Array(size ?? 256);
  new DataView(bytes.buffer).setUint16(0, Number(vendor), true);
  new DataView(bytes.buffer).setUint16(2, Number(device), true);
  return bytes;
}
