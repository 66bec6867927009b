/**
 * What the local APICs of one virtual machine have in common (the APIC part of struct kvm_arch): settings that
 * capabilities and quirks change, where releases differ, and the marks that tell when the map from ids to LAPICs
 * has to be built again. It knows no VM; the VM fills it in.
 */
import type { Lapic } from "./lapic.ts";

export interface ApicSettings {
  /** KVM_X2APIC_API_USE_32BIT_IDS: ids in KVM_SET_LAPIC and MSIs are 32 bits wide. */
  x2apicFormat: boolean;
  /** KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: 0xff is no broadcast for LAPICs in x2APIC mode. */
  broadcastQuirkDisabled: boolean;
  /** KVM_X86_QUIRK_LINT0_REENABLED: the boot processor starts with LINT0 open for the PIC. */
  lint0Reenabled: boolean;
  /** KVM_X86_QUIRK_LAPIC_MMIO_HOLE: the page of a disabled LAPIC still swallows accesses. */
  mmioHole: boolean;
  /** With the IOAPIC in the kernel the EOI-broadcast suppression bit is not offered. */
  ioapicInKernel: boolean;
  /** Whether this KVM has system management mode (KVM_CAP_X86_SMM); without it an SMI is refused. */
  smm: boolean;
  /** Module parameter vector_hashing: lowest priority goes to the (vector mod n)-th of n, not to the least busy. */
  vectorHashing: boolean;
  /** APIC virtualization by the processor: ISR is always searched, KVM's cached copy of its top is not used. */
  apicv: boolean;
  /** AMD keeps the x2APIC ICR in two registers, Intel in one of 64 bits at 0x300. */
  splitX2apicIcr: boolean;
  /** KVM_CAP_X86_APIC_BUS_CYCLES_NS */
  busCycleNs: number;
  /** Module parameter min_timer_period_us, in ns. */
  minTimerPeriodNs: number;
  /**
   * Ids shared by several LAPICs switch the map off, so that each of them is reached (6.3 and later). Before, the
   * first in vCPU order hid the others physically, the last logically.
   */
  oneToOneIdMap: boolean;
  /** User space does not want EOI broadcasts to be suppressible, whatever the controllers (6.18). */
  broadcastsEveryEoi: boolean;
  /**
   * In x2APIC mode the id is the vCPU's number whatever KVM_SET_LAPIC says, and leaving x2APIC mode restores the
   * xAPIC id (6.18). Before (6.1), the id of a KVM_SET_LAPIC was taken as it came.
   */
  readonlyX2apicId: boolean;
}

export class ApicSystem {
  readonly settings: ApicSettings;
  /** An id, a mode or an enable bit changed since the map was last up to date. */
  mapDirty: boolean;
  /** The map has to be built again, from the first `mapOnline` LAPICs. */
  mapStale: boolean;
  mapOnline: number;
  /** `settings.x2apicFormat` as it was when the map was due: switching it on later does not change the map */
  mapX2apicFormat: boolean;
  /** Rises whenever every LAPIC has to work out anew which EOIs it reports (eoi-reports.ts). */
  scans: number;
  /** LAPICs that are on the bus. */
  online: number;
  /** LAPICs whose LINT0 takes NMIs: the PIT asks before it looks for them (kvm_arch.vapics_in_nmi_mode). */
  lapicsInNmiMode: number;
  /** LAPICs whose vCPU has to be woken (kvm_vcpu_kick), each once; drain with `takeKicked`. */
  private readonly kicked: Lapic[];

  constructor(settings: Partial<ApicSettings> = {}) {
    this.settings = {
      x2apicFormat: false,
      broadcastQuirkDisabled: false,
      lint0Reenabled: true,
      mmioHole: true,
      ioapicInKernel: true,
      smm: false,
      vectorHashing: true,
      apicv: false,
      splitX2apicIcr: false,
      busCycleNs: 1,
      minTimerPeriodNs: 200_000,
      oneToOneIdMap: true,
      broadcastsEveryEoi: false,
      readonlyX2apicId: true,
      ...settings,
    };
    this.mapDirty = false;
    this.mapStale = false;
    this.mapOnline = 0;
    this.mapX2apicFormat = false;
    this.scans = 0;
    this.online = 0;
    this.lapicsInNmiMode = 0;
    this.kicked = [];
  }

  /**
   * Where KVM recalculates its map (kvm_recalculate_apic_map); nothing unless something changed. Which LAPICs are on
   * the bus counts now, the map itself is built when it is next needed. Before the first vCPU there is no map.
   */
  recalculateMap(): void {
    if (!this.mapDirty) return;
    this.mapDirty = false;
    this.mapStale = true;
    this.mapOnline = this.online;
    this.mapX2apicFormat = this.settings.x2apicFormat;
    this.scans++;
  }

  /** Notes that a vCPU has to be woken. */
  kick(lapic: Lapic): void {
    if (lapic.kicked) return;
    lapic.kicked = true;
    this.kicked.push(lapic);
  }

  /** A LAPIC whose vCPU has to be woken, and forgets it; `undefined` when there is none left. */
  takeKicked(): Lapic | undefined {
    const lapic = this.kicked.pop();
    if (lapic !== undefined) lapic.kicked = false;
    return lapic;
  }
}
