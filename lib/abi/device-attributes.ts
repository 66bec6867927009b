/**
 * How many bytes are behind kvm_device_attr.addr. The struct does not say: it follows from the file (a device of some
 * type, a VM, a vCPU), the group and the attribute. A recorder has to know it before the call; `Facts.attributeBytes`
 * in ioctl.ts is this function with its first three arguments bound.
 *
 * Missing: FSL's MPIC (4 bytes, 8 for its base address, which is given here), s390's FLIC, LoongArch's devices.
 */
import type { FileKind } from "./ioctl.ts";
import * as kvm from "./kvm.ts";
import * as arm64 from "./kvm-arm64.ts";
import * as ppc from "./kvm-ppc.ts";
import * as riscv from "./kvm-riscv.ts";
import * as x86 from "./kvm-x86.ts";
import type { Arch } from "./requests.ts";

/** Bytes behind an attribute; 0 where nothing is copied or nothing is known. `type` is KVM_DEV_TYPE_… of a device. */
export function attributeBytes(arch: Arch, on: FileKind, type: number, group: number, attr: bigint): number {
  if (on === "device") return deviceBytes(type, group, attr);
  if (arch === "arm64") return on === "vm" ? armVmBytes(group) : armVcpuBytes(group, attr);
  // arch/x86/kvm/x86.c:kvm_arch_tsc_get_attr, kvm_x86_dev_get_attr (6.1); SEV's attributes are 64 bits too
  if (arch === "x86_64" && (on === "system" || group === x86.KVM_VCPU_TSC_CTRL)) return 8;
  return 0;
}

/** Where the bytes behind an attribute of a device hold descriptors. virt/kvm/vfio.c:kvm_vfio_set_file (6.12) */
export function attributeDescriptors(type: number, group: number, attr: bigint): readonly number[] {
  if (type !== kvm.KVM_DEV_TYPE_VFIO || group !== kvm.KVM_DEV_VFIO_FILE) return [];
  return attr === BigInt(kvm.KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE) ? [0, 4] : [0];
}

function deviceBytes(type: number, group: number, attr: bigint): number {
  switch (type) {
    case kvm.KVM_DEV_TYPE_VFIO: // virt/kvm/vfio.c:kvm_vfio_set_file (6.12)
      return attr === BigInt(kvm.KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE) ? kvm.KvmVfioSpaprTce.size : 4;
    case kvm.KVM_DEV_TYPE_ARM_VGIC_V2:
    case kvm.KVM_DEV_TYPE_ARM_VGIC_V3:
      return vgicBytes(group);
    case kvm.KVM_DEV_TYPE_ARM_VGIC_ITS: // arch/arm64/kvm/vgic/vgic-its.c:vgic_its_set_attr (6.1)
      return group === arm64.KVM_DEV_ARM_VGIC_GRP_CTRL ? 0 : 8;
    case kvm.KVM_DEV_TYPE_XICS: // arch/powerpc/kvm/book3s_xics.c:xics_set_attr (6.1)
      return group === ppc.KVM_DEV_XICS_GRP_SOURCES ? 8 : 4;
    case kvm.KVM_DEV_TYPE_XIVE:
      return xiveBytes(group, attr);
    case kvm.KVM_DEV_TYPE_RISCV_AIA: // arch/riscv/kvm/aia_device.c:aia_set_attr (6.12)
      if (group === riscv.KVM_DEV_RISCV_AIA_GRP_ADDR || group === riscv.KVM_DEV_RISCV_AIA_GRP_IMSIC) return 8;
      return group === riscv.KVM_DEV_RISCV_AIA_GRP_CTRL ? 0 : 4;
    case kvm.KVM_DEV_TYPE_FSL_MPIC_20:
    case kvm.KVM_DEV_TYPE_FSL_MPIC_42:
      return group === ppc.KVM_DEV_MPIC_GRP_MISC ? 8 : 4;
    default:
      return 0;
  }
}

/** arch/arm64/kvm/vgic/vgic-kvm-device.c:vgic_set_common_attr, vgic_v3_set_attr (6.1) */
function vgicBytes(group: number): number {
  switch (group) {
    case arm64.KVM_DEV_ARM_VGIC_GRP_ADDR:
    case arm64.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS:
      return 8;
    case arm64.KVM_DEV_ARM_VGIC_GRP_CTRL:
      return 0;
    default:
      return 4;
  }
}

/** arch/powerpc/kvm/book3s_xive_native.c:kvmppc_xive_native_set_attr (6.1) */
function xiveBytes(group: number, attr: bigint): number {
  switch (group) {
    case ppc.KVM_DEV_XIVE_GRP_CTRL:
      return attr === BigInt(ppc.KVM_DEV_XIVE_NR_SERVERS) ? 4 : 0;
    case ppc.KVM_DEV_XIVE_GRP_SOURCE:
    case ppc.KVM_DEV_XIVE_GRP_SOURCE_CONFIG:
      return 8;
    case ppc.KVM_DEV_XIVE_GRP_EQ_CONFIG:
      return ppc.KvmPpcXiveEq.size;
    default:
      return 0;
  }
}

/** arch/arm64/kvm/arm.c:kvm_vm_set_attr (6.12) */
const armVmBytes = (group: number): number =>
  group === arm64.KVM_ARM_VM_SMCCC_CTRL ? arm64.KvmSmcccFilter.size : 0;

/** arch/arm64/kvm/pmu-emul.c:kvm_arm_pmu_v3_set_attr, arch_timer.c, pvtime.c (6.12) */
function armVcpuBytes(group: number, attr: bigint): number {
  if (group === arm64.KVM_ARM_VCPU_PVTIME_CTRL) return 8;
  if (group === arm64.KVM_ARM_VCPU_TIMER_CTRL) return 4;
  if (group !== arm64.KVM_ARM_VCPU_PMU_V3_CTRL) return 0;
  if (attr === BigInt(arm64.KVM_ARM_VCPU_PMU_V3_INIT)) return 0;
  return attr === BigInt(arm64.KVM_ARM_VCPU_PMU_V3_FILTER) ? arm64.KvmPmuEventFilter.size : 4;
}
