/**
 * A virtual machine: what every architecture shares of it, its file, and the requests that need nothing but it
 * (virt/kvm/kvm_main.c:kvm_vm_ioctl, 6.1 and 6.18). A VM lives as long as its file, a vCPU file or a device file is
 * open, and remembers the memory of the process that created it: a call from other memory answers EIO.
 */
import { EBADF, EFAULT, EINVAL, EIO, EMFILE, ENOMEM } from "../abi/errno.ts";
import { O_RDWR } from "../abi/fcntl.ts";
import {
  KVM_CAP_DIRTY_LOG_RING,
  KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
  KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
  KVM_CAP_HALT_POLL,
  KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
  KVM_CAP_NR_MEMSLOTS,
  KVM_CAP_READONLY_MEM,
  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
  KvmEnableCap,
} from "../abi/kvm.ts";
import { type AddressSpace, PAGE_SIZE } from "../kernel/address-space.ts";
import type { Argument } from "../kernel/argument.ts";
import { File } from "../kernel/file.ts";
import type { Kernel } from "../kernel/kernel.ts";
import type { Process } from "../kernel/process.ts";
import type { VmArch } from "./arch.ts";
import { type AssignedDevice, freeAssignedDevices } from "./assigned-device.ts";
import type { CoalescedZone } from "./coalesced-mmio.ts";
import type { KvmDevice } from "./device.ts";
import { DIRTY_RING_ENTRY, DIRTY_RING_RESERVED } from "./dirty-ring.ts";
import { handlerOf, type Table } from "./dispatch.ts";
import type { KvmHost } from "./host.ts";
import { IoBus } from "./io-bus.ts";
import type { Bus, IoEventFd } from "./ioeventfd.ts";
import { IrqRouting } from "./irq-routing.ts";
import { IrqFds, type Resampler, releaseIrqfds, updateIrqfds } from "./irqfd.ts";
import { MemorySlots } from "./memory-slots.ts";
import { Vcpu, VcpuFile } from "./vcpu.ts";
import { vmIoctls } from "./vm-ioctls.ts";

/** KVM_CAP_MULTI_ADDRESS_SPACE */
const MULTI_ADDRESS_SPACE = 118;

export class Vm {
  readonly host: KvmHost;
  readonly kernel: Kernel;
  /** the memory of the process that created the VM */
  readonly mm: AddressSpace;
  /** KVM_CREATE_VM's argument */
  readonly type: number;
  readonly arch: VmArch;
  readonly slots: MemorySlots;
  readonly buses: Record<Bus, IoBus> = {
    mmio: new IoBus(),
    pio: new IoBus(),
    "fast-mmio": new IoBus(),
    "virtio-ccw": new IoBus(),
  };
  readonly ioeventfds: IoEventFd[] = [];
  readonly coalescedZones: CoalescedZone[] = [];
  readonly devices: KvmDevice[] = [];
  /** in the order of creation */
  readonly vcpus: Vcpu[] = [];
  readonly vcpuById = new Map<number, Vcpu>();
  readonly routing: IrqRouting;
  readonly irqfds = new IrqFds();
  /** by GSI */
  readonly resamplers = new Map<number, Resampler>();
  /** PCI devices that KVM itself has given to the VM */
  readonly assignedDevices: AssignedDevice[] = [];
  /** KVM_SET_IRQCHIP_TYPE: the type of controller that is to come */
  announcedIrqchip: number | undefined;
  /** after an error from which a VM does not recover: every later call answers EIO */
  dead = false;
  /** bytes of a vCPU's dirty ring; 0 while there is none */
  dirtyRingSize = 0;
  /** slots keep a bitmap beside the ring */
  dirtyRingWithBitmap = false;
  #references = 0;

  constructor(host: KvmHost, mm: AddressSpace, type = 0) {
    this.host = host;
    this.type = type;
    this.kernel = host.kernel;
    this.mm = mm;
    const capabilities = host.vmCapabilities;
    this.slots = new MemorySlots(
      this,
      capabilities.get(KVM_CAP_NR_MEMSLOTS) ?? 32,
      Math.max(1, capabilities.get(MULTI_ADDRESS_SPACE) ?? 1),
      (capabilities.get(KVM_CAP_READONLY_MEM) ?? 0) !== 0,
    );
    this.routing = host.arch.createRouting?.(this) ?? new IrqRouting(this);
    this.routing.onChange.push(() => updateIrqfds(this));
    this.arch = host.arch.createVm(this);
  }

  /** The page with coalesced writes that every vCPU maps. It lives in the pages of the first vCPU. */
  get coalescedRing(): Uint8Array {
    const at = (this.host.arch.coalescedMmioPage ?? 2) * PAGE_SIZE;
    return this.vcpus[0].pages.subarray(at, at + PAGE_SIZE);
  }

  get(): this {
    this.#references++;
    return this;
  }

  put(): void {
    if (--this.#references !== 0) return;
    freeAssignedDevices(this);
    for (const device of this.devices.splice(0)) device.destroy?.();
    for (const vcpu of this.vcpus.splice(0)) vcpu.arch?.destroy();
    this.arch.destroy();
  }

  /**
   * KVM_CREATE_VCPU: a new vCPU's descriptor. EINVAL for an id or a number of vCPUs beyond the limit, EEXIST for an
   * id in use, EMFILE, ENOMEM, and what the architecture has against it.
   */
  createVcpu(id: number, process: Process): number {
    if (id >= this.arch.maxVcpuIds) return -EINVAL;
    if (this.vcpus.length >= this.arch.maxVcpus) return -EINVAL;
    const refused = this.arch.precreateVcpu(id);
    if (refused < 0) return refused;
    if (this.kernel.faults.allocation("kvm_vcpu")) return -ENOMEM;
    const vcpu = new Vcpu(this, id);
    const failed = vcpu.create();
    if (failed < 0) return failed;
    if (process.fds.lowestFree() < 0) {
      vcpu.arch?.destroy();
      return -EMFILE;
    }
    vcpu.index = this.vcpus.length;
    this.vcpus.push(vcpu);
    this.vcpuById.set(id, vcpu);
    vcpu.arch!.online();
    return process.install(new VcpuFile(vcpu), true);
  }

  /** Whether dirty pages are in bitmaps: with a ring only where both were asked for (kvm_use_dirty_bitmap). */
  get usesDirtyBitmap(): boolean {
    return this.dirtyRingSize === 0 || this.dirtyRingWithBitmap;
  }

  /** KVM_ENABLE_CAP: what every architecture shares, then the architecture's own. */
  enableCap(user: Argument, process: Process): number {
    if (!user.readable(KvmEnableCap.size)) return -EFAULT;
    const { cap, flags, args } = KvmEnableCap.decode(user.bytes, user.at);
    const offered = (number: number) => (this.host.vmCapabilities.get(number) ?? 0) !== 0;
    switch (cap) {
      case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: {
        if (!offered(cap)) break;
        const value = Number(args[0]);
        const allowed =
          value & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE ? (this.host.vmCapabilities.get(cap) ?? 0) : 0;
        if (flags !== 0 || args[0] > 3n || (value & ~allowed) !== 0) return -EINVAL;
        this.slots.manualDirtyLogProtect = value;
        return 0;
      }
      case KVM_CAP_HALT_POLL:
        if (!offered(cap)) break;
        return flags !== 0 || args[0] >= 1n << 32n ? -EINVAL : 0;
      case KVM_CAP_DIRTY_LOG_RING:
      case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
        if (!offered(cap)) break;
        return this.#enableDirtyRing(args[0]);
      case KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP:
        if (!offered(cap)) break;
        if (flags !== 0 || this.dirtyRingSize === 0 || this.slots.list().length !== 0) return -EINVAL;
        this.dirtyRingWithBitmap = true;
        return 0;
    }
    return this.arch.enableCap(cap, flags, args, process);
  }

  /** virt/kvm/kvm_main.c:kvm_vm_ioctl_enable_dirty_log_ring (6.1). */
  #enableDirtyRing(size: bigint): number {
    const limit = this.host.vmCapabilities.get(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) ?? 0;
    const bytes = Number(size & 0xffff_ffffn);
    if (bytes === 0 || (bytes & (bytes - 1)) !== 0) return -EINVAL;
    if (bytes < DIRTY_RING_RESERVED * DIRTY_RING_ENTRY || bytes < PAGE_SIZE) return -EINVAL;
    if (bytes > limit) return -7;
    if (this.dirtyRingSize !== 0 || this.vcpus.length !== 0) return -EINVAL;
    this.dirtyRingSize = bytes;
    return 0;
  }
}

export class VmFile extends File {
  readonly name = "anon_inode:kvm-vm";
  readonly vm: Vm;
  readonly #handlers: Table<VmFile>;

  constructor(vm: Vm) {
    super(vm.kernel, O_RDWR);
    this.vm = vm.get();
    this.#handlers = vmIoctls(vm.host.arch);
  }

  override ioctl(process: Process, request: number, user: Argument): number {
    const vm = this.vm;
    if (vm.mm !== process.mm || vm.dead) return -EIO;
    const handler = handlerOf(this.#handlers, request);
    return handler === undefined ? vm.host.arch.unknownVmIoctl : handler(this, user, process);
  }

  override release(): void {
    releaseIrqfds(this.vm);
    this.vm.put();
  }
}

/** The VM behind a descriptor, for devices and VFIO. */
export function vmOf(process: Process, fd: number): Vm | number {
  const file = process.fds.get(fd);
  if (file === undefined) return -EBADF;
  return file instanceof VmFile ? file.vm : -EINVAL;
}
