/**
 * Hosts that traces were recorded on and whose headers name the machine, but not its devices: the emulated machines of
 * the arm64 and POWER recordings, each with one `edu` device bound to vfio-pci.
 */
import { toHex } from "../abi/hex.ts";
import type { IommuDescription, VfioDeviceDescription } from "../vfio/host.ts";
import type { Profile } from "./profile.ts";

export interface KnownHost {
  readonly iommu: IommuDescription;
  readonly devices: readonly VfioDeviceDescription[];
}

interface Edu {
  bdf: string;
  group: number;
  /** the command register before the device is opened */
  command: number;
  /** the address in BAR 0 */
  address: number;
  line: number;
  resets: readonly string[];
  /** byte order of its registers: QEMU gives the device the target's own */
  bigEndian?: boolean;
}

/** QEMU's edu device (docs/specs/edu.txt): BAR 0 of 1 MiB, INTA, one MSI vector. */
function edu({ bdf, group, command, address, line, resets, bigEndian = false }: Edu): VfioDeviceDescription {
  const config = new Uint8Array(256);
  const view = new DataView(config.buffer);
  const put32 = (at: number, value: number): void => view.setUint32(at, value, true);
  put32(0x00, 0x11e8_1234);
  put32(0x04, 0x0010_0000 | command);
  put32(0x08, 0x00ff_0010);
  put32(0x10, address);
  put32(0x2c, 0x1100_1af4);
  put32(0x34, 0x40);
  put32(0x3c, 0x0100 | line);
  put32(0x40, 0x0080_0005);
  return {
    bdf,
    vendor: "0x1234",
    device: "0x11e8",
    class: "0x00ff00",
    config_size: 256,
    group,
    bars: [
      {
        index: 0,
        size: 1 << 20,
        type: "mem",
        "64bit": false,
        prefetchable: false,
        address: `0x${address.toString(16)}`,
      },
    ],
    intx: "A",
    msi: { cap: 0x40, vectors: 1, "64bit": true, maskable: false },
    caps: [[5, 0x40]],
    config: toHex(config),
    reset_methods: [...resets],
    irq: line,
    vfio_dev: "vfio0",
    big_endian: bigEndian,
  };
}

const pseries: KnownHost = {
  iommu: {
    kind: "spapr",
    interruptRemapping: true,
    cpus: 1,
    tce: { size: 0x4000_0000n, pageSizes: 0x0121_1000n, windows: 2, levels: 1, eeh: false, hypervisor: true },
  },
  devices: [
    edu({
      bdf: "0001:00:00.0",
      group: 1,
      command: 0x102,
      address: 0x8000_0000,
      line: 0,
      resets: [],
      bigEndian: true,
    }),
  ],
};

const powernv: KnownHost = {
  iommu: {
    kind: "spapr",
    interruptRemapping: true,
    cpus: 1,
    tce: { size: 0x8000_0000n, pageSizes: 0x4021_1000n, windows: 2, levels: 5, eeh: true, hypervisor: false },
  },
  devices: [
    edu({
      bdf: "0001:01:00.0",
      group: 1,
      command: 0x102,
      address: 0x8000_0000,
      line: 0,
      resets: ["bus"],
      bigEndian: true,
    }),
  ],
};

const virt = (group: number): KnownHost => ({
  iommu: { kind: "smmuv3", interruptRemapping: true, cpus: 1 },
  devices: [
    edu({
      bdf: "0000:00:05.0",
      group,
      command: 0x2,
      address: 0x1000_0000,
      line: 0x15,
      resets: [],
    }),
  ],
});

/** The machine that a profile names, if its devices are known here; group numbers are those of the recorded boots. */
export function knownHost({ host, release }: Profile): KnownHost | undefined {
  const { machine } = host;
  if (typeof machine !== "string" || !machine.includes("edu")) return undefined;
  if (machine.startsWith("qemu-system-ppc64 pseries")) return pseries;
  if (machine.startsWith("qemu-system-ppc64 powernv")) return powernv;
  if (!machine.startsWith("qemu-system-aarch64 virt") || !machine.includes("iommu=smmuv3")) return undefined;
  return virt(release.startsWith("6.") ? 1 : 2);
}
