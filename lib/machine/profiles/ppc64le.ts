/**
 * The recorded POWER hosts (a spec compares them with the headers of the traces named): a POWER9 that is a guest itself
 * and runs guests in hypervisor mode, a bare POWER9, and a POWER8 that runs guests in user mode. Every capability
 * answers the same on /dev/kvm and on a VM.
 */
import type { ProfileHeader } from "../profile.ts";

function host(header: ProfileHeader, capabilities: Record<string, number>): ProfileHeader {
  return { ...header, capabilities: { system: capabilities, vm: capabilities } };
}

/** ppc64le-kvm-6.12/system */
export const ppc64le_6_12_pseries: ProfileHeader = host(
  {
    arch: "ppc64le",
    kernel: "6.12.107+deb13-powerpc64le",
    kvm: "hv",
    page_size: 4096,
    host: {
      machine:
        "qemu-system-ppc64 pseries,cap-nested-hv=on (TCG): the kernel is itself a guest, KVM-HV nested v1, XICS in book3s_xics",
      cpu: "POWER9",
      distribution: "Debian trixie kernel",
    },
  },
  // biome-ignore format: a table
  {
    3: 1, 9: 1, 10: 32767, 16: 1, 21: 1, 23: 1, 30: 1, 32: 1, 36: 1, 40: 1, 43: 1, 53: 1, 54: 1, 58: 1, 63:
    1, 64: 1, 66: 2048, 67: 1, 68: 1, 70: 1, 78: 1, 80: 1, 84: 1, 89: 1, 91: 1, 92: 1, 94: 1, 98: 1, 103: 1,
    104: 1, 105: 1, 122: 1, 125: 1, 128: 16384, 133: 1, 134: 1, 136: 1, 142: 1, 146: 1, 147: 15, 151: 1,
    160: 1, 182: 1, 202: 1, 203: 1, 210: 1, 215: 1, 231: 1,
  },
);

/** ppc64le-kvm-6.12/powernv9-system */
export const ppc64le_6_12_powernv9: ProfileHeader = host(
  {
    arch: "ppc64le",
    kernel: "6.12.107+deb13-powerpc64le",
    kvm: "hv",
    page_size: 4096,
    host: {
      machine: "qemu-system-ppc64 powernv9 (TCG): bare metal, KVM-HV, XICS on XIVE",
      cpu: "POWER9",
      distribution: "Debian trixie kernel",
    },
  },
  // biome-ignore format: a table
  {
    3: 1, 9: 1, 10: 32767, 16: 1, 21: 1, 23: 1, 30: 1, 32: 1, 36: 1, 40: 1, 43: 1, 53: 1, 54: 1, 58: 1, 63:
    1, 64: 1, 66: 2048, 67: 1, 68: 1, 70: 1, 78: 1, 80: 1, 84: 1, 89: 1, 91: 1, 92: 1, 94: 1, 98: 1, 103: 1,
    104: 1, 105: 1, 115: 1, 122: 1, 125: 1, 128: 16384, 133: 1, 134: 1, 136: 1, 142: 1, 146: 1, 147: 15,
    151: 1, 160: 1, 169: 1, 182: 1, 202: 1, 203: 1, 215: 1, 231: 1,
  },
);

/** ppc64le-kvm-pr/pr-system */
export const ppc64le_6_12_pr: ProfileHeader = host(
  {
    arch: "ppc64le",
    kernel: "6.12.107",
    kvm: "pr",
    page_size: 4096,
    host: {
      machine: "qemu-system-ppc64 pseries (TCG): KVM-PR",
      cpu: "POWER8",
      distribution: "6.12.107 built with KVM_BOOK3S_64_PR, 4K pages",
    },
  },
  // biome-ignore format: a table
  {
    3: 1, 9: 1, 10: 32767, 15: 1, 16: 1, 21: 1, 23: 1, 30: 1, 32: 1, 36: 1, 40: 1, 43: 1, 48: 1, 52: 1, 53:
    1, 54: 1, 57: 1, 58: 1, 63: 1, 66: 8, 67: 1, 68: 1, 70: 1, 78: 1, 82: 1, 89: 1, 91: 1, 92: 1, 94: 1, 98:
    1, 103: 1, 104: 1, 105: 1, 122: 1, 125: 1, 128: 8, 136: 1, 142: 1, 151: 1, 162: 1, 176: 1, 182: 1, 203:
    1, 215: 1, 231: 1,
  },
);

/** ppc64le-kvm-6.1/xics-create */
export const ppc64le_6_1_pseries: ProfileHeader = host(
  {
    arch: "ppc64le",
    kernel: "6.1.0-50-powerpc64le",
    kvm: "hv",
    page_size: 65536,
    host: {
      machine:
        "qemu-system-ppc64 pseries,cap-nested-hv=on (TCG): the kernel is itself a guest, KVM-HV nested v1, XICS in book3s_xics",
      cpu: "POWER9",
      distribution: "Debian kernel",
    },
  },
  // biome-ignore format: a table
  {
    3: 1, 9: 1, 10: 32767, 16: 1, 21: 1, 23: 1, 30: 1, 32: 1, 36: 1, 40: 1, 43: 1, 53: 1, 54: 1, 58: 1, 63:
    1, 64: 1, 66: 2048, 67: 1, 68: 1, 70: 1, 78: 1, 80: 1, 82: 1, 84: 1, 89: 1, 91: 1, 92: 1, 94: 1, 98: 1,
    103: 1, 104: 1, 105: 1, 122: 1, 125: 1, 128: 16384, 133: 1, 134: 1, 136: 1, 146: 1, 147: 15, 151: 1,
    160: 1, 182: 1, 202: 1, 203: 1, 210: 1, 215: 1,
  },
);
