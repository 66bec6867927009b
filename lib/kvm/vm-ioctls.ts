/** The requests on a VM's file that every architecture knows, each beside the file that answers it. */
import { EINVAL } from "../abi/errno.ts";
import {
  KVM_CHECK_EXTENSION,
  KVM_CREATE_DEVICE,
  KVM_CREATE_VCPU,
  KVM_ENABLE_CAP,
  KVM_GET_DIRTY_LOG,
  KVM_IOEVENTFD,
  KVM_REGISTER_COALESCED_MMIO,
  KVM_SET_USER_MEMORY_REGION,
  KVM_SET_USER_MEMORY_REGION2,
  KVM_UNREGISTER_COALESCED_MMIO,
} from "../abi/kvm.ts";
import type { Argument } from "../kernel/argument.ts";
import type { Process } from "../kernel/process.ts";
import type { KvmArch } from "./arch.ts";
import { assignmentIoctls } from "./assigned-device.ts";
import { registerCoalescedMmio, unregisterCoalescedMmio } from "./coalesced-mmio.ts";
import { createDevice } from "./device.ts";
import { dirtyRingIoctls } from "./dirty-ring.ts";
import { type Entry, type Table, table } from "./dispatch.ts";
import { ioeventfd } from "./ioeventfd.ts";
import { KVM_SET_IRQCHIP_TYPE, setIrqchipType } from "./irqchip-type.ts";
import { getDirtyLog, setUserMemoryRegion, setUserMemoryRegion2 } from "./memory-slots.ts";
import type { VmFile } from "./vm.ts";

function createVcpu(file: VmFile, user: Argument, process: Process): number {
  const { vm } = file;
  if (user.value > 0xffff_ffff && vm.host.behaviour.vcpuIdUncut) return -EINVAL;
  return vm.createVcpu(user.low, process);
}

const common: readonly Entry<VmFile>[] = [
  [KVM_CREATE_VCPU, createVcpu],
  [
    KVM_CHECK_EXTENSION,
    (file, user) => (user.value > 0xffff_ffff ? 0 : file.vm.arch.checkExtension(user.low)),
  ],
  [KVM_SET_USER_MEMORY_REGION, setUserMemoryRegion],
  [KVM_SET_USER_MEMORY_REGION2, setUserMemoryRegion2],
  [KVM_GET_DIRTY_LOG, getDirtyLog],
  [KVM_IOEVENTFD, ioeventfd],
  [KVM_REGISTER_COALESCED_MMIO, registerCoalescedMmio],
  [KVM_UNREGISTER_COALESCED_MMIO, unregisterCoalescedMmio],
  [KVM_CREATE_DEVICE, createDevice],
  [KVM_ENABLE_CAP, (file, user, process) => file.vm.enableCap(user, process)],
  [KVM_SET_IRQCHIP_TYPE, setIrqchipType],
  ...dirtyRingIoctls,
  ...assignmentIoctls,
];

const tables = new WeakMap<KvmArch, Table<VmFile>>();

/** The table of an architecture: the common requests, then its own. */
export function vmIoctls(arch: KvmArch): Table<VmFile> {
  let found = tables.get(arch);
  if (found === undefined) tables.set(arch, (found = table(arch.encoding, ...common, ...arch.vmIoctls)));
  return found;
}
