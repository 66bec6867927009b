/** What an x86 VM holds beside the common part: the interrupt controllers and the settings of KVM_ENABLE_CAP. */
import { EINVAL } from "../../abi/errno.ts";
import {
  KVM_CAP_DISABLE_QUIRKS2,
  KVM_CAP_MAX_VCPU_ID,
  KVM_CAP_MAX_VCPUS,
  KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
  KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
  KVM_CAP_X2APIC_API,
  KVM_CAP_X86_SMM,
} from "../../abi/kvm.ts";
import type { Process } from "../../kernel/process.ts";
import type { VmArch } from "../arch.ts";
import type { KvmHost } from "../host.ts";
import type { IrqArch } from "../irq-routing.ts";
import type { MemoryChange, MemorySlot } from "../memory-slots.ts";
import type { Vm } from "../vm.ts";
import { enableVmCap, newSettings, tellApics, type VmSettings, x2apicApiFlags } from "./capabilities.ts";
import { hostTscKhz, KvmClock } from "./clock.ts";
import type { MsrFilter } from "./filters.ts";
import { hostPhysicalBits } from "./host-cpuid.ts";
import { HypervVm } from "./hyperv.ts";
import type { Irqchip } from "./irqchip.ts";
import { NestedPages } from "./nested-pages.ts";
import type { KvmPit } from "./pit.ts";
import { encryptionContext } from "./sev.ts";
import { TscSync } from "./tsc-sync.ts";
import { Xen } from "./xen.ts";

/**
 * Guest physical addresses that a slot may reach, in frames: 52 bits, or with paging by the processor what that has
 * (arch/x86/kvm/mmu.h:kvm_mmu_max_gfn, 6.1).
 */
const slotFrames = (host: KvmHost): number =>
  2 ** ((host.flavour === "pvm" ? 52 : hostPhysicalBits(host)) - 12);

/** AMD's module knows them, whatever the processor. */
const encryptionCaps: readonly number[] = [
  KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
  KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
];

export class X86Vm implements VmArch {
  readonly vm: Vm;
  readonly maxVcpus: number;
  maxVcpuIds: number;
  /** KVM_SET_BOOT_CPU_ID: the vCPU that starts as the bootstrap processor */
  bootCpuId = 0;
  pit: KvmPit | undefined;
  /** what KVM_ENABLE_CAP changed */
  readonly settings: VmSettings = newSettings();
  readonly clock: KvmClock;
  /** the frequency of the TSC that new vCPUs get */
  tscKhz: number;
  /** the VM may have page tables: KVM_SET_NR_MMU_PAGES was called, or there was a memory slot once */
  hasMmuPages = false;
  /** what the processor finds of the guest's memory */
  readonly nestedPages: NestedPages;
  /** how many, as KVM_SET_NR_MMU_PAGES was told */
  mmuPages = 0;
  /** MSR_KVM_WALL_CLOCK: where the guest wants the time of its start */
  wallClock = 0n;
  readonly tscSync = new TscSync();
  readonly hyperv = new HypervVm();
  readonly xen = new Xen();
  msrFilter: MsrFilter | undefined;
  pmuEventFilter: { action: number; flags: number; events: readonly bigint[] } | undefined;
  #irqchip: Irqchip | undefined;
  readonly #maxFrames: number;

  constructor(vm: Vm) {
    this.vm = vm;
    this.maxVcpus = vm.host.vmCapabilities.get(KVM_CAP_MAX_VCPUS) ?? 4;
    this.maxVcpuIds = vm.host.vmCapabilities.get(KVM_CAP_MAX_VCPU_ID) ?? this.maxVcpus;
    this.clock = new KvmClock(vm.kernel.clock);
    this.tscKhz = hostTscKhz(vm.host);
    this.#maxFrames = slotFrames(vm.host);
    this.nestedPages = new NestedPages(vm.host.behaviour.largeMappingsAligned);
  }

  /** the in-kernel interrupt controllers, once there are any */
  get irqchip(): Irqchip | undefined {
    return this.#irqchip;
  }
  set irqchip(irqchip: Irqchip | undefined) {
    this.#irqchip = irqchip;
    tellApics(this);
  }

  /** where the controllers are: in user space, all in the kernel, or the local APICs only */
  get irqchipMode(): "none" | "kernel" | "split" {
    return this.irqchip?.mode ?? "none";
  }

  get irq(): IrqArch | undefined {
    return this.irqchip;
  }

  precreateVcpu(id: number): number {
    return id >= this.maxVcpuIds ? -EINVAL : 0;
  }

  checkExtension(capability: number): number {
    if (capability === KVM_CAP_X2APIC_API) return this.x2apicApiFlags;
    return this.vm.host.vmCapabilities.get(capability) ?? 0;
  }

  /** this KVM has system management mode */
  get hasSmm(): boolean {
    return this.vm.host.vmCapabilities.has(KVM_CAP_X86_SMM);
  }

  /** KVM_X2APIC_API_* that may be enabled now */
  get x2apicApiFlags(): number {
    const offered = this.vm.host.vmCapabilities.get(KVM_CAP_X2APIC_API) ?? 0;
    return x2apicApiFlags(offered, this.irqchipMode === "split");
  }

  /** KVM_X86_QUIRK_* that may be disabled */
  get offeredQuirks(): bigint {
    return BigInt(this.vm.host.vmCapabilities.get(KVM_CAP_DISABLE_QUIRKS2) ?? 0);
  }

  prepareMemory(change: MemoryChange, slot: MemorySlot | null): number {
    if (change === "delete" || change === "move") this.nestedPages.clear();
    if (slot === null || change === "flags") return 0;
    if (slot.baseFrame + slot.pages > this.#maxFrames) return -EINVAL;
    this.hasMmuPages = true;
    return 0;
  }

  enableCap(capability: number, flags: number, args: readonly bigint[], process: Process): number {
    if (flags === 0 && this.vm.host.flavour === "svm" && encryptionCaps.includes(capability))
      return encryptionContext(process, args[0]);
    return enableVmCap(this, capability, flags, args);
  }

  destroy(): void {
    this.pit?.destroy();
    this.irqchip?.destroy();
  }
}
