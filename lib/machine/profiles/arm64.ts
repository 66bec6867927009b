/**
 * The recorded arm64 hosts (a spec compares them with the headers of the traces named): an emulated machine with a GICv3
 * and an ITS, whose kernel runs at EL2 itself ("vhe"), and one with a GICv2 and a Cortex-A72 ("nvhe").
 */
import type { ProfileHeader } from "../profile.ts";

/** A capability below zero is a question that only a VM answers: 0 there, or 1 once it has an ITS. */
function host(header: ProfileHeader, capabilities: Record<string, number>): ProfileHeader {
  const vm = Object.fromEntries(Object.entries(capabilities).filter(([, value]) => value >= 0));
  return { ...header, capabilities: { system: capabilities, vm } };
}

/** arm64-kvm-6.1/vgic-create */
export const arm64_6_1_gicv3: ProfileHeader = host(
  {
    arch: "arm64",
    kernel: "6.1.0-50-arm64",
    kvm: "vhe",
    page_size: 4096,
    host: {
      machine: "qemu-system-aarch64 virt,virtualization=on,gic-version=3,its=on (TCG)",
      cpu: "max",
      distribution: "Debian kernel",
    },
  },
  // biome-ignore format: a table
  {
    0: 1, 3: 1, 9: 1, 10: 32767, 14: 1, 15: 1, 16: 1, 21: 1, 23: 1, 25: 4096, 30: 1, 32: 1, 36: 1, 40: 1, 41:
    1, 66: 512, 70: 1, 77: 1, 81: 1, 82: 1, 87: 1, 88: 1, 89: 1, 93: 1, 98: 1, 102: 1, 105: 1, 119: 6, 120: 4,
    122: 1, 126: 1, 127: 1, 128: 512, 131: -22, 136: 1, 144: 1, 158: 1, 162: 1, 165: 48, 168: 3, 171: 1, 172:
    1, 174: 1, 177: 1, 178: 1, 182: 1, 187: 1, 195: 196611, 198: 1, 203: 1, 215: 1, 216: 1,
  },
);

/** arm64-kvm-6.1/gicv2-vgic-create */
export const arm64_6_1_gicv2: ProfileHeader = host(
  {
    arch: "arm64",
    kernel: "6.1.0-50-arm64",
    kvm: "nvhe",
    page_size: 4096,
    host: {
      machine: "qemu-system-aarch64 virt,virtualization=on,gic-version=2 (TCG)",
      cpu: "cortex-a72",
      distribution: "Debian kernel",
    },
  },
  // biome-ignore format: a table
  {
    0: 1, 3: 1, 9: 1, 10: 32767, 14: 1, 15: 1, 16: 1, 21: 1, 23: 1, 25: 4096, 30: 1, 32: 1, 36: 1, 40: 1, 41:
    1, 66: 8, 70: 1, 77: 1, 81: 1, 82: 1, 87: 1, 88: 1, 89: 1, 93: 1, 98: 1, 102: 1, 105: 1, 119: 6, 120: 4,
    122: 1, 126: 1, 127: 1, 128: 8, 131: -22, 136: 1, 144: 1, 162: 1, 165: 44, 168: 3, 174: 1, 177: 1, 178: 1,
    182: 1, 187: 1, 195: 196611, 198: 1, 203: 1, 215: 1, 216: 1,
  },
);

/** arm64-kvm-6.12/vgic-create */
export const arm64_6_12_gicv3: ProfileHeader = host(
  {
    arch: "arm64",
    kernel: "6.12.107+deb13-arm64",
    kvm: "vhe",
    page_size: 4096,
    host: {
      machine: "qemu-system-aarch64 virt,virtualization=on,gic-version=3,its=on (TCG)",
      cpu: "max",
      distribution: "Debian trixie kernel",
    },
  },
  // biome-ignore format: a table
  {
    0: 1, 3: 1, 9: 1, 10: 32767, 14: 1, 15: 1, 16: 1, 21: 1, 23: 1, 25: 4096, 30: 1, 32: 1, 36: 1, 40: 1, 41:
    1, 66: 512, 70: 1, 77: 1, 81: 1, 82: 1, 87: 1, 88: 1, 89: 1, 93: 1, 98: 1, 102: 1, 105: 1, 119: 6, 120: 4,
    122: 1, 126: 1, 127: 1, 128: 512, 131: -22, 136: 1, 144: 1, 158: 1, 162: 1, 165: 52, 168: 3, 171: 1, 172:
    1, 174: 1, 177: 1, 178: 1, 182: 1, 187: 1, 195: 196611, 198: 1, 203: 1, 215: 1, 216: 1, 223: 1048576, 225:
    1, 227: 1, 229: 1075843072, 230: 1, 231: 1,
  },
);

/** arm64-kvm-6.12/gicv2-vgic-create */
export const arm64_6_12_gicv2: ProfileHeader = host(
  {
    arch: "arm64",
    kernel: "6.12.107+deb13-arm64",
    kvm: "nvhe",
    page_size: 4096,
    host: {
      machine: "qemu-system-aarch64 virt,virtualization=on,gic-version=2 (TCG)",
      cpu: "cortex-a72",
      distribution: "Debian trixie kernel",
    },
  },
  // biome-ignore format: a table
  {
    0: 1, 3: 1, 9: 1, 10: 32767, 14: 1, 15: 1, 16: 1, 21: 1, 23: 1, 25: 4096, 30: 1, 32: 1, 36: 1, 40: 1, 41:
    1, 66: 8, 70: 1, 77: 1, 81: 1, 82: 1, 87: 1, 88: 1, 89: 1, 93: 1, 98: 1, 102: 1, 105: 1, 119: 6, 120: 4,
    122: 1, 126: 1, 127: 1, 128: 8, 131: -22, 136: 1, 144: 1, 162: 1, 165: 44, 168: 3, 174: 1, 177: 1, 178: 1,
    182: 1, 187: 1, 195: 196611, 198: 1, 203: 1, 215: 1, 216: 1, 223: 1048576, 225: 1, 227: 1, 229:
    1075843072, 230: 1, 231: 1,
  },
);

/** arm64-kvm-7.2/vgic-create */
export const arm64_7_2_gicv3: ProfileHeader = host(
  {
    arch: "arm64",
    kernel: "7.2.13+deb14-arm64",
    kvm: "vhe",
    page_size: 4096,
    host: {
      machine: "qemu-system-aarch64 virt,virtualization=on,gic-version=3,its=on (TCG)",
      cpu: "max",
      distribution: "Debian kernel",
    },
  },
  // biome-ignore format: a table
  {
    0: 1, 3: 1, 9: 1, 10: 32767, 14: 1, 15: 1, 16: 1, 21: 1, 23: 1, 25: 4096, 30: 1, 32: 1, 36: 1, 40: 1, 41:
    1, 66: 512, 70: 1, 77: 1, 81: 1, 82: 1, 87: 1, 88: 1, 89: 1, 93: 1, 98: 1, 102: 1, 105: 1, 119: 6, 120: 4,
    122: 1, 126: 1, 127: 1, 128: 512, 131: -22, 136: 1, 144: 1, 158: 1, 162: 1, 165: 52, 168: 3, 171: 1, 172:
    1, 174: 1, 177: 1, 178: 1, 182: 1, 187: 1, 195: 196611, 198: 1, 203: 1, 215: 1, 216: 1, 223: 1048576, 225:
    1, 227: 1, 229: 1075843072, 230: 1, 231: 1, 234: 1, 239: 1, 243: -22, 244: 3, 245: 1,
  },
);

/** arm64-kvm-7.2/gicv2-vgic-create */
export const arm64_7_2_gicv2: ProfileHeader = host(
  {
    arch: "arm64",
    kernel: "7.2.13+deb14-arm64",
    kvm: "nvhe",
    page_size: 4096,
    host: {
      machine: "qemu-system-aarch64 virt,virtualization=on,gic-version=2 (TCG)",
      cpu: "cortex-a72",
      distribution: "Debian kernel",
    },
  },
  // biome-ignore format: a table
  {
    0: 1, 3: 1, 9: 1, 10: 32767, 14: 1, 15: 1, 16: 1, 21: 1, 23: 1, 25: 4096, 30: 1, 32: 1, 36: 1, 40: 1, 41:
    1, 66: 8, 70: 1, 77: 1, 81: 1, 82: 1, 87: 1, 88: 1, 89: 1, 93: 1, 98: 1, 102: 1, 105: 1, 119: 6, 120: 4,
    122: 1, 126: 1, 127: 1, 128: 8, 131: -22, 136: 1, 144: 1, 162: 1, 165: 44, 168: 3, 174: 1, 177: 1, 178: 1,
    182: 1, 187: 1, 195: 196611, 198: 1, 203: 1, 215: 1, 216: 1, 223: 1048576, 225: 1, 227: 1, 229:
    1075843072, 230: 1, 231: 1, 234: 1, 239: 1, 243: -22, 244: 3, 245: 1,
  },
);
