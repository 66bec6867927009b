/**
 * Delivery of an interrupt message to the local APICs: who is meant, and did anybody take it
 * (arch/x86/kvm/lapic.c, irq_comm.c:kvm_irq_delivery_to_apic, 6.1 and 6.18).
 *
 * As in KVM there are two ways. The short one looks the destination up in a map from ids to LAPICs, which is built
 * when it is needed and something changed. The long one asks every LAPIC in vCPU order; it serves broadcasts,
 * shorthands, and VMs whose ids do not fit a map. They do not always agree (a destination that the map has no LAPIC
 * for answers 0, on the long way −1), so which way is taken is part of what user space sees.
 *
 * The map holds the LAPICs that were on the bus when an id or mode last changed. A vCPU just created changes its id
 * before it is on the bus: until the next change anywhere it is reached by broadcasts only (recorded on 6.18).
 */
import {
  DEST_PHYSICAL,
  DM_FIXED,
  DM_LOWEST,
  type InterruptMessage,
  SHORTHAND_ALL,
  SHORTHAND_ALL_BUT_SELF,
  SHORTHAND_NONE,
  SHORTHAND_SELF,
  X2APIC_BROADCAST,
  XAPIC_BROADCAST,
} from "./apic-message.ts";
import type { ApicSystem } from "./apic-system.ts";
import type { DestMap, Lapic } from "./lapic.ts";
import { APIC_DFR, APIC_LDR, DFR_CLUSTER, DFR_FLAT } from "./lapic-registers.ts";

/**
 * How logical destinations are looked up: not at all, nobody is enabled (and nobody is reached; in 6.1 everybody is
 * asked, "unset"), or by the one mode that all share.
 */
type LogicalMode = "none" | "disabled" | "unset" | "flat" | "cluster" | "x2apic";

/** Nobody matched; the answer of `deliver` otherwise counts the LAPICs that took the interrupt. */
export const NOBODY = -1;
/** Answer of `deliverFast`: the map cannot tell, it takes the long way. */
export const NOT_FAST = -2;

/** A destination that the map cannot tell. */
const UNMAPPED = -1;

const none: (Lapic | undefined)[] = [];

/** Puts a LAPIC at a place. What is before it is filled: an array with a wide hole is a slow one. */
function put(table: (Lapic | undefined)[], at: number, lapic: Lapic): void {
  while (table.length < at) table.push(undefined);
  table[at] = lapic;
}

/** The bits of a 16-bit set. */
function countBits(mask: number): number {
  let count = 0;
  for (let rest = mask; rest !== 0; rest &= rest - 1) count++;
  return count;
}

/** The number of the n-th bit that is set, counted from 0. */
function nthBit(mask: number, n: number): number {
  let rest = mask;
  for (let i = 0; i < n; i++) rest &= rest - 1;
  return 31 - Math.clz32(rest & -rest);
}

export class ApicBus {
  readonly system: ApicSystem;
  /** In the order the vCPUs were created. */
  readonly lapics: Lapic[];

  /** By physical id; ids from `idLimit` on are nobody's. */
  private physical: (Lapic | undefined)[];
  private idLimit: number;
  /** False where ids are shared: only the long way reaches all of them. */
  private mapValid: boolean;
  private logicalMode: LogicalMode;
  /** Eight LAPICs by their bit, or sixteen clusters of four. */
  private flat: (Lapic | undefined)[];
  private clusters: (Lapic | undefined)[];

  /** Where the last lookup points: `mask` says which of 16 entries from `base` of `table` are meant. */
  private table: (Lapic | undefined)[];
  private base: number;
  /** LAPICs among which lowest priority chooses; kept for reuse */
  private readonly candidates: Lapic[];

  constructor(system: ApicSystem) {
    this.system = system;
    this.lapics = [];
    this.physical = [];
    this.idLimit = 256;
    this.mapValid = false;
    this.logicalMode = "none";
    this.flat = [];
    this.clusters = [];
    this.table = none;
    this.base = 0;
    this.candidates = [];
  }

  /** A vCPU goes online: from now on its LAPIC hears broadcasts, and it is in the map after the next change. */
  add(lapic: Lapic): void {
    this.lapics.push(lapic);
    this.system.online = this.lapics.length;
  }

  /**
   * Delivers a message (kvm_irq_delivery_to_apic). `source` is the LAPIC that sends an IPI, null for everything else.
   * The answer is `NOBODY` (−1), or how many LAPICs took it: 0 if those meant are disabled.
   */
  deliver(message: InterruptMessage, source: Lapic | null = null, destMap: DestMap | null = null): number {
    const taken = this.deliverFast(message, source, destMap);
    return taken === NOT_FAST ? this.deliverSlowly(message, source, destMap) : taken;
  }

  /** Only by the map, as inside an eventfd's wake-up; `NOT_FAST` if that cannot be (kvm_irq_delivery_to_apic_fast). */
  deliverFast(
    message: InterruptMessage,
    source: Lapic | null = null,
    destMap: DestMap | null = null,
  ): number {
    if (message.shorthand === SHORTHAND_SELF)
      return source === null ? 0 : accept(source, message, message.deliveryMode, destMap);
    let mask = this.lookUp(message, source);
    if (mask === UNMAPPED) return NOT_FAST;
    let taken = 0;
    for (; mask !== 0; mask &= mask - 1) {
      const lapic = this.table[this.base + 31 - Math.clz32(mask & -mask)];
      if (lapic !== undefined) taken += accept(lapic, message, message.deliveryMode, destMap);
    }
    return taken;
  }

  /**
   * Delivers a message to physical ids, bit n of `ids` for id `from` + n: how many took it. By the map alone; −1 where ids are
   * shared, and there is none (__pv_send_ipi).
   */
  deliverToIds(message: InterruptMessage, ids: bigint, from: number): number {
    if (this.system.mapStale) this.buildMap();
    if (!this.mapValid) return NOBODY;
    let taken = 0;
    for (let rest = ids, id = from; rest !== 0n && id < this.idLimit; rest >>= 1n, id++) {
      const lapic = (rest & 1n) === 0n ? undefined : this.physical[id];
      if (lapic !== undefined) taken += accept(lapic, message, message.deliveryMode, null);
    }
    return taken;
  }

  private deliverSlowly(message: InterruptMessage, source: Lapic | null, destMap: DestMap | null): number {
    let { deliveryMode } = message;
    if (
      message.destMode === DEST_PHYSICAL &&
      message.destId === XAPIC_BROADCAST &&
      (deliveryMode === DM_LOWEST || message.msiRedirHint)
    )
      deliveryMode = DM_FIXED;
    const lowest = deliveryMode === DM_LOWEST || message.msiRedirHint;
    let candidates = 0;
    let taken = NOBODY;
    for (const lapic of this.lapics) {
      if (!lapic.hwEnabled || !this.matches(lapic, source, message)) continue;
      if (!lowest) taken = Math.max(taken, 0) + accept(lapic, message, deliveryMode, destMap);
      else if (lapic.swEnabled) this.candidates[candidates++] = lapic;
    }
    if (candidates === 0) return taken;
    return accept(this.chooseLowest(message.vector, candidates), message, deliveryMode, destMap);
  }

  private chooseLowest(vector: number, count: number): Lapic {
    const { candidates } = this;
    if (this.system.settings.vectorHashing) return candidates[vector % count];
    let lowest = candidates[0];
    for (let i = 1; i < count; i++) if (candidates[i].arbPrio < lowest.arbPrio) lowest = candidates[i];
    return lowest;
  }

  /** Whether a message is meant for a LAPIC, asked the long way (kvm_apic_match_dest). */
  matches(lapic: Lapic, source: Lapic | null, message: InterruptMessage): boolean {
    switch (message.shorthand) {
      case SHORTHAND_NONE:
        return this.matchesDestination(lapic, source !== null, message.destId, message.destMode);
      case SHORTHAND_SELF:
        return lapic === source;
      case SHORTHAND_ALL:
        return true;
      case SHORTHAND_ALL_BUT_SELF:
        return lapic !== source;
      default:
        return false;
    }
  }

  /**
   * The broadcast quirk: what comes from outside (MSI, IOAPIC) to 0xff is a broadcast for x2APIC too, because no
   * interrupt remapping could spell the longer address (kvm_apic_mda).
   */
  matchesDestination(lapic: Lapic, ipi: boolean, destId: number, destMode: number): boolean {
    const { x2apicMode } = lapic;
    const quirk = !ipi && x2apicMode && !this.system.settings.broadcastQuirkDisabled;
    if (destId === (x2apicMode ? X2APIC_BROADCAST : XAPIC_BROADCAST) || (quirk && destId === XAPIC_BROADCAST))
      return true;
    return destMode === DEST_PHYSICAL ? matchesPhysical(lapic, destId) : matchesLogical(lapic, destId);
  }

  // ---- the map -----------------------------------------------------------------------------------------------

  /**
   * Points `table` and `base` at the LAPICs a message is meant for and returns which of 16 entries they are, as bits;
   * entries may be empty. `UNMAPPED` if the map cannot tell (kvm_apic_map_get_dest_lapic).
   */
  private lookUp(message: InterruptMessage, source: Lapic | null): number {
    if (message.shorthand !== SHORTHAND_NONE) return UNMAPPED;
    if (this.system.mapStale) this.buildMap();
    const { destId } = message;
    if (!this.mapValid || this.isBroadcast(destId, source)) return UNMAPPED;
    if (message.destMode === DEST_PHYSICAL) {
      this.table = this.physical;
      this.base = destId;
      return destId < this.idLimit ? 1 : 0;
    }
    const mask = this.lookUpLogical(destId);
    if (mask <= 0 || !(message.deliveryMode === DM_LOWEST || message.msiRedirHint)) return mask;
    return this.system.settings.vectorHashing ? this.hashed(mask, message.vector) : this.leastBusy(mask);
  }

  /** The (vector mod n)-th of the n bits, filled or not (kvm_vector_to_index). */
  private hashed(mask: number, vector: number): number {
    return 1 << nthBit(mask, vector % countBits(mask));
  }

  private leastBusy(mask: number): number {
    let lowest: Lapic | undefined;
    let bit = 0;
    for (let i = 0; i < 16; i++) {
      const lapic = (mask & (1 << i)) !== 0 ? this.table[this.base + i] : undefined;
      if (lapic === undefined || (lowest !== undefined && lapic.arbPrio >= lowest.arbPrio)) continue;
      lowest = lapic;
      bit = 1 << i;
    }
    return bit;
  }

  /** kvm_apic_is_broadcast_dest */
  private isBroadcast(destId: number, source: Lapic | null): boolean {
    if (this.system.settings.broadcastQuirkDisabled)
      return destId === X2APIC_BROADCAST || (destId === XAPIC_BROADCAST && this.logicalMode !== "x2apic");
    return destId === (source?.x2apicMode ? X2APIC_BROADCAST : XAPIC_BROADCAST);
  }

  /** kvm_apic_map_get_logical_dest; with x2APIC a cluster is sixteen physical ids in a row. */
  private lookUpLogical(destId: number): number {
    switch (this.logicalMode) {
      case "flat":
        this.table = this.flat;
        this.base = 0;
        return destId & 0xff;
      case "cluster":
        this.table = this.clusters;
        this.base = ((destId >> 4) & 15) * 4;
        return destId & 15;
      case "x2apic":
        this.table = this.physical;
        this.base = (destId >>> 16) * 16;
        if (this.base >= this.idLimit) return 0;
        return destId & (0xffff >> Math.max(this.base + 16 - this.idLimit, 0));
      case "disabled":
        return 0;
      default:
        return UNMAPPED;
    }
  }

  /** kvm_recalculate_apic_map, of the LAPICs that were online when it was due */
  private buildMap(): void {
    const { lapics, system } = this;
    system.mapStale = false;
    const online = Math.min(system.mapOnline, lapics.length);
    let maxId = 255;
    for (let i = 0; i < online; i++)
      if (lapics[i].hwEnabled && lapics[i].vcpuId > maxId) maxId = lapics[i].vcpuId;
    this.idLimit = maxId + 1;
    this.physical = [];
    this.flat = [];
    this.clusters = [];
    this.mapValid = true;
    this.logicalMode = system.settings.oneToOneIdMap ? "disabled" : "unset";
    for (let i = 0; i < online; i++) {
      if (!lapics[i].hwEnabled) continue;
      this.mapPhysical(lapics[i]);
      if (!this.mapValid) return;
      this.mapLogical(lapics[i]);
    }
  }

  /**
   * With 32-bit ids a LAPIC in xAPIC mode whose vCPU number exceeds 255 is reached by that number (a vCPU plugged in
   * later starts like that), and the first of equal xAPIC ids wins. Otherwise an id that two share ends the map.
   */
  private mapPhysical(lapic: Lapic): void {
    const { physical } = this;
    const { x2apicMode, vcpuId, xapicId } = lapic;
    if (this.system.mapX2apicFormat || !this.system.settings.oneToOneIdMap) {
      if (x2apicMode || vcpuId > 0xff) put(physical, vcpuId, lapic);
      if (!x2apicMode && physical[xapicId] === undefined) put(physical, xapicId, lapic);
      return;
    }
    const id = x2apicMode ? vcpuId : xapicId;
    if (physical[id] !== undefined) this.mapValid = false;
    else put(physical, id, lapic);
  }

  /**
   * One mode for all that are enabled, and one LAPIC for each logical bit, or there is no logical map. 6.1 minds the
   * modes only: of LAPICs with the same bit the last has it, of a LAPIC's bits the first counts.
   */
  private mapLogical(lapic: Lapic): void {
    const { oneToOneIdMap } = this.system.settings;
    const ldr = lapic.regs[APIC_LDR >> 2];
    if (this.logicalMode === "none" || !lapic.swEnabled || ldr === 0) return;
    const mode = logicalModeOf(lapic);
    if (this.logicalMode === "disabled" || this.logicalMode === "unset") this.logicalMode = mode;
    else if (this.logicalMode !== mode) this.logicalMode = "none";
    if (this.logicalMode === "none" || mode === "x2apic") return;
    const mask = this.lookUpLogical(ldr >>> 24);
    if (mask === 0) return;
    const at = this.base + nthBit(mask, 0);
    const shared = (mask & (mask - 1)) !== 0 || this.table[at] !== undefined;
    if (shared && oneToOneIdMap) this.logicalMode = "none";
    else put(this.table, at, lapic);
  }

  // ---- who would be meant ------------------------------------------------------------------------------------

  /** Appends the LAPICs a message would go to (kvm_bitmap_or_dest_vcpus), for the IOAPIC's scan. */
  destinations(message: InterruptMessage, into: Lapic[]): void {
    let mask = this.lookUp(message, null);
    if (mask === UNMAPPED) {
      for (const lapic of this.lapics)
        if (lapic.hwEnabled && this.matches(lapic, null, message)) into.push(lapic);
      return;
    }
    for (; mask !== 0; mask &= mask - 1) {
      const lapic = this.table[this.base + 31 - Math.clz32(mask & -mask)];
      if (lapic !== undefined) into.push(lapic);
    }
  }

  /** The only LAPIC a message can go to, or null: whether it could be posted (kvm_intr_is_single_vcpu). */
  singleDestination(message: InterruptMessage): Lapic | null {
    const mask = this.lookUp(message, null);
    if (mask > 0 && (mask & (mask - 1)) === 0) {
      const lapic = this.table[this.base + nthBit(mask, 0)];
      if (lapic !== undefined) return lapic;
    }
    let single: Lapic | null = null;
    for (const lapic of this.lapics) {
      if (!lapic.hwEnabled || !this.matches(lapic, null, message)) continue;
      if (single !== null) return null;
      single = lapic;
    }
    return single;
  }
}

const accept = (
  lapic: Lapic,
  message: InterruptMessage,
  deliveryMode: number,
  destMap: DestMap | null,
): number => lapic.acceptIrq(deliveryMode, message.vector, message.level, message.trigMode, destMap);

/** A LAPIC in xAPIC mode is reached by its vCPU's number too where that has no 8-bit id (kvm_apic_match_physical_addr). */
const matchesPhysical = (lapic: Lapic, destId: number): boolean =>
  destId === (lapic.x2apicMode || destId > 0xff ? lapic.vcpuId : lapic.xapicId);

/** kvm_apic_match_logical_addr; a destination register that is neither flat nor cluster matches nothing. */
function matchesLogical(lapic: Lapic, destId: number): boolean {
  const ldr = lapic.regs[APIC_LDR >> 2];
  if (lapic.x2apicMode) return ldr >>> 16 === destId >>> 16 && (ldr & destId & 0xffff) !== 0;
  const id = ldr >>> 24;
  const dfr = lapic.regs[APIC_DFR >> 2];
  if (dfr === DFR_FLAT) return (id & destId) !== 0;
  if (dfr === DFR_CLUSTER) return id >> 4 === destId >>> 4 && (id & destId & 15) !== 0;
  return false;
}

function logicalModeOf(lapic: Lapic): LogicalMode {
  if (lapic.x2apicMode) return "x2apic";
  return lapic.regs[APIC_DFR >> 2] === DFR_FLAT ? "flat" : "cluster";
}
