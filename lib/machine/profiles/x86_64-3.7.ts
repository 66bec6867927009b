/**
 * A PC of Linux 3.7 with VT-d: the time of device assignment by KVM itself. Worked out from source (arch/x86/kvm/x86.c:
 * kvm_dev_ioctl_check_extension, virt/kvm/kvm_main.c, 3.7), not recorded.
 */
import type { ProfileHeader } from "../profile.ts";

/** capabilities that are 1 */
const offered = [
  0, 1, 3, 4, 7, 11, 12, 14, 16, 17, 18, 20, 21, 22, 23, 24, 26, 27, 28, 29, 30, 32, 33, 34, 35, 36, 37, 39,
  47, 50, 51, 54, 55, 56, 59, 61, 72, 75, 76, 77,
];

const capabilities: Record<string, number> = {
  ...Object.fromEntries(offered.map((number) => [number, 1])),
  "9": 160,
  "10": 32,
  "15": 2,
  "25": 1024,
  "31": 32,
  "66": 254,
};

export const x86_64_3_7: ProfileHeader = {
  arch: "x86_64",
  kernel: "3.7",
  kvm: "vmx",
  capabilities: { system: capabilities, vm: capabilities },
  host: { machine: "from source, not recorded", iommu: "intel", intremap: true, cpus: 2, modules: ["vfio"] },
};
