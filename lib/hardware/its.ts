/**
 * The interrupt translation service of a GICv3: device and event id become an LPI and a processor. Registers, the
 * command queue in guest memory, the commands, and message delivery (arch/arm64/kvm/vgic/vgic-its.c, 6.1; Arm IHI
 * 0069H chapter 5 and 12.19). Saving and restoring the tables is in its-tables.ts.
 *
 * Registers (64 KiB, then a frame whose word 0x40 is the doorbell): CTLR u32 @0, IIDR u32 @4, TYPER u64 @8, CBASER u64
 * @0x80, CWRITER u64 @0x88, CREADR u64 @0x90, BASER0 (devices) and BASER1 (collections) u64 @0x100, @0x108.
 *
 * Commands are 32 bytes: opcode in bits 7:0 of word 0, device id in 63:32; event id in bits 31:0 of word 1 (and the
 * LPI in 63:32, or the size of the event space in 4:0); collection, table address, target processor and valid bit in
 * word 2. A command that cannot be done is skipped, as the architecture allows.
 *
 * Missing: GICv4 commands.
 */
import { EBUSY, EINVAL } from "../abi/errno.ts";
import { load64, store64 } from "../abi/struct.ts";
import { type Gic, type GicCpu, type GicIrq, IMPLEMENTER_ARM, MIN_LPI, PRODUCT_ID_KVM } from "./gic.ts";
import { PIDR2_GICV3 } from "./gic-distributor.ts";
import { type LpiTables, sanitiseTableBase } from "./gic-redistributor.ts";
import { update64 } from "./gic-registers.ts";

/** Guest physical memory: every access answers whether it succeeded. */
export interface GuestMemory {
  read(address: number, into: Uint8Array): boolean;
  write(address: number, from: Uint8Array): boolean;
  /** whether a slot is there */
  visible(address: number): boolean;
}

/** Both frames. */
export const GITS_FRAMES = 0x20000;
/** Where a message is written to, from the start of the first frame. */
export const GITS_TRANSLATER = 0x10040;
export const GITS_CTLR = 0x0;
export const GITS_IIDR = 0x4;
export const GITS_TYPER = 0x8;
export const GITS_CBASER = 0x80;
export const GITS_CWRITER = 0x88;
export const GITS_CREADR = 0x90;
export const GITS_BASER = 0x100;
export const GITS_IDREGS = 0xffd0;

const CTLR_ENABLE = 1;
const CTLR_QUIESCENT = 0x8000_0000;
const VALID = 1n << 63n;
const INDIRECT = 1n << 62n;
/** device and event ids have 16 bits */
export const ID_BITS = 16;
/** bytes of an entry of every table */
export const ENTRY = 8;
const TYPE_DEVICE = 1n;
const TYPE_COLLECTION = 4n;
const TYPE_SHIFT = 56n;
const BASER_READ_ONLY = (0x1fn << 48n) | (7n << 56n);
const BASER_PAGE_64K = 2n << 8n;
const INNER_SHIFT = 59n;
const OUTER_SHIFT = 53n;
/** inner write-back, outer as inner, inner shareable, pages of 64 KiB, entries of 8 bytes */
const INITIAL_BASER = (3n << INNER_SHIFT) | (1n << 10n) | BASER_PAGE_64K | (BigInt(ENTRY - 1) << 48n);
const COMMAND = 32;
export const PAGE_64K = 0x10000;

const MAPD = 0x08;
const MAPC = 0x09;
const MAPTI = 0x0a;
const MAPI = 0x0b;
const MOVI = 0x01;
const DISCARD = 0x0f;
const INV = 0x0c;
const MOVALL = 0x0e;
const INVALL = 0x0d;
const INT = 0x03;
const CLEAR = 0x04;

/** Answer of `translate` and `trigger`: no such translation. */
export const UNMAPPED = 1;

export interface Collection {
  readonly id: number;
  /** the processor that it leads to; undefined while it is not mapped */
  target: GicCpu | undefined;
}

/** One event of a device. */
export interface Translation {
  readonly event: number;
  readonly irq: GicIrq;
  collection: Collection | undefined;
}

export interface ItsDevice {
  readonly id: number;
  /** its table in guest memory, and how many bits its event ids have */
  readonly table: number;
  readonly eventBits: number;
  readonly events: Map<number, Translation>;
}

/** Where the address of a table's entry comes out of `tableEntry`; it has no room in the answer. */
const NOWHERE = -1;

export class Its {
  readonly gic: Gic;
  /** which one of the controller's ITSes it is */
  readonly number: number;
  readonly memory: GuestMemory;
  /** by which number a command names a processor: 6.1 by their order, later by the program's ids */
  readonly byId: boolean;
  /** guest address of the first frame, −1 while it has none */
  base = -1;
  enabled = false;
  deviceBaser = INITIAL_BASER | (TYPE_DEVICE << TYPE_SHIFT);
  collectionBaser = INITIAL_BASER | (TYPE_COLLECTION << TYPE_SHIFT);
  cbaser = 0n;
  cwriter = 0;
  creadr = 0;
  devices = new Map<number, ItsDevice>();
  collections = new Map<number, Collection>();
  readonly #command = new Uint8Array(COMMAND);

  constructor(gic: Gic, number: number, memory: GuestMemory, byId: boolean) {
    this.gic = gic;
    this.number = number;
    this.memory = memory;
    this.byId = byId;
  }

  cpu(number: number): GicCpu | undefined {
    return this.byId ? this.gic.cpus.find((cpu) => cpu.id === number) : this.gic.cpus[number];
  }

  /** The number by which a table names a processor. */
  numberOf(cpu: GicCpu): number {
    return this.byId ? cpu.id : cpu.index;
  }

  // ---- registers -------------------------------------------------------------------------------------------------------

  /** Whether a register stands at an offset, and how many bytes it has: 4, 8, or 0. */
  static width(offset: number): 0 | 4 | 8 {
    if (offset < GITS_TYPER) return 4;
    if (offset >= GITS_IDREGS && offset < GITS_IDREGS + 0x30) return 4;
    if (offset < GITS_TYPER + 8) return 8;
    if (offset >= GITS_CBASER && offset < GITS_CREADR + 8) return 8;
    return offset >= GITS_BASER && offset < GITS_BASER + 0x40 ? 8 : 0;
  }

  /** A register, aligned to its width. */
  #register(offset: number): bigint {
    switch (offset) {
      case GITS_CTLR:
        return BigInt(
          ((this.creadr === this.cwriter ? CTLR_QUIESCENT : 0) | (this.enabled ? CTLR_ENABLE : 0)) >>> 0,
        );
      case GITS_IIDR:
        return BigInt(((PRODUCT_ID_KVM << 24) | IMPLEMENTER_ARM) >>> 0);
      case GITS_TYPER:
        return BigInt(((ID_BITS - 1) << 13) | ((ID_BITS - 1) << 8) | ((ENTRY - 1) << 4) | 1);
      case GITS_CBASER:
        return this.cbaser;
      case GITS_CWRITER:
        return BigInt(this.cwriter);
      case GITS_CREADR:
        return BigInt(this.creadr);
      case GITS_BASER:
        return this.deviceBaser;
      case GITS_BASER + 8:
        return this.collectionBaser;
      default:
        return BigInt(identification.get(offset) ?? 0);
    }
  }

  /** Reads `width` bytes (4 or 8) of the first frame; what is not there reads zero. */
  read(offset: number, width: number): bigint {
    const own = Its.width(offset);
    if (own === 0 || width > own || offset % width !== 0) return 0n;
    return BigInt.asUintN(width * 8, this.#register(offset & ~(own - 1)) >> BigInt((offset & (own - 1)) * 8));
  }

  /** A guest writes. */
  write(offset: number, width: number, value: bigint): void {
    const own = Its.width(offset);
    if (own === 0 || width > own || offset % width !== 0) return;
    switch (offset & ~(own - 1)) {
      case GITS_CTLR:
        this.#writeCtlr((value & 1n) === 1n);
        break;
      case GITS_CBASER:
        this.#writeCbaser(update64(this.cbaser, offset, width, value));
        break;
      case GITS_CWRITER:
        this.#writeCwriter(update64(BigInt(this.cwriter), offset, width, value));
        break;
      case GITS_BASER:
      case GITS_BASER + 8:
        this.#writeBaser(offset, width, value);
        break;
    }
  }

  /** User space writes a whole register: as the guest, but CREADR and IIDR can be written. 0 or −errno. */
  userWrite(offset: number, value: bigint): number {
    if (offset === GITS_IIDR) return (value & 0xf000n) === 0n ? 0 : -EINVAL;
    if ((offset & ~7) === GITS_CREADR) {
      if (this.enabled) return -EBUSY;
      const at = commandOffset(value);
      if (at >= this.#queueSize) return -EINVAL;
      this.creadr = at;
      return 0;
    }
    this.write(offset, Its.width(offset), value);
    return 0;
  }

  /** Enabling needs both tables and the queue. Disabling forgets what was looked up. */
  #writeCtlr(enable: boolean): void {
    if (!this.enabled && enable && (this.deviceBaser & this.collectionBaser & this.cbaser & VALID) === 0n)
      return;
    this.enabled = enable;
    if (!enable) this.gic.translations.clear();
    this.#runCommands();
  }

  #writeCbaser(value: bigint): void {
    if (this.enabled) return;
    this.cbaser = sanitiseTableBase(value, INNER_SHIFT, OUTER_SHIFT) & ~(0xfn << 12n);
    this.creadr = 0;
    this.cwriter = 0;
  }

  #writeCwriter(value: bigint): void {
    const at = commandOffset(value);
    if (at >= this.#queueSize) return;
    this.cwriter = at;
    this.#runCommands();
  }

  /** The type and size of entries cannot be changed; a collection table is flat. Without VALID the contents go. */
  #writeBaser(offset: number, width: number, value: bigint): void {
    if (this.enabled) return;
    const devices = (offset & 8) === 0;
    let baser = update64(devices ? this.deviceBaser : this.collectionBaser, offset, width, value);
    baser &= ~BASER_READ_ONLY;
    if (!devices) baser &= ~INDIRECT;
    baser |= (BigInt(ENTRY - 1) << 48n) | ((devices ? TYPE_DEVICE : TYPE_COLLECTION) << TYPE_SHIFT);
    baser = (sanitiseTableBase(baser, INNER_SHIFT, OUTER_SHIFT) & ~(3n << 8n)) | BASER_PAGE_64K;
    if (devices) this.deviceBaser = baser;
    else this.collectionBaser = baser;
    if ((baser & VALID) !== 0n) return;
    if (devices) this.freeDevices();
    else this.freeCollections();
  }

  /** KVM_DEV_ARM_ITS_CTRL_RESET. */
  reset(): void {
    this.deviceBaser &= ~VALID;
    this.collectionBaser &= ~VALID;
    this.cbaser = 0n;
    this.creadr = 0;
    this.cwriter = 0;
    this.enabled = false;
    this.freeDevices();
    this.freeCollections();
  }

  // ---- messages --------------------------------------------------------------------------------------------------------

  /** What a message of a device means: an interrupt, UNMAPPED, or −EBUSY while the ITS or the LPIs are off. */
  translate(device: number, event: number): GicIrq | number {
    if (!this.enabled) return -EBUSY;
    const found = this.devices.get(device)?.events.get(event);
    const target = found?.collection?.target;
    if (found === undefined || target === undefined) return UNMAPPED;
    if (!target.lpisEnabled) return -EBUSY;
    this.gic.translations.add(this.number, device, event, found.irq);
    return found.irq;
  }

  /** Delivers a message: 0, UNMAPPED or −EBUSY. */
  trigger(device: number, event: number): number {
    const irq = this.translate(device, event);
    if (typeof irq === "number") return irq;
    this.deliver(irq);
    return 0;
  }

  deliver(irq: GicIrq): void {
    irq.pendingLatch = true;
    this.gic.enqueue(irq);
  }

  // ---- commands --------------------------------------------------------------------------------------------------------

  get #queueSize(): number {
    return (Number(this.cbaser & 0xffn) + 1) << 12;
  }

  #runCommands(): void {
    if (!this.enabled) return;
    const base = Number(this.cbaser & (((1n << 40n) - 1n) << 12n));
    while (this.cwriter !== this.creadr) {
      if (this.memory.read(base + this.creadr, this.#command)) this.execute(this.#command);
      this.creadr += COMMAND;
      if (this.creadr === this.#queueSize) this.creadr = 0;
    }
  }

  /** One command of 32 bytes. */
  execute(command: Uint8Array): void {
    const [word0, word1, word2, word3] = [0, 8, 16, 24].map((at) => load64(command, at));
    const device = Number(word0 >> 32n);
    const event = Number(word1 & 0xffff_ffffn);
    const collection = Number(word2 & 0xffffn);
    const target = Number((word2 >> 16n) & 0xffff_ffffn);
    const valid = (word2 & VALID) !== 0n;
    switch (Number(word0 & 0xffn)) {
      case MAPD:
        this.#mapDevice(device, Number(word1 & 0x1fn) + 1, Number(word2 & (((1n << 44n) - 1n) << 8n)), valid);
        break;
      case MAPC:
        this.#mapCollection(collection, target, valid);
        break;
      case MAPTI:
        this.#mapEvent(device, event, Number(word1 >> 32n), collection);
        break;
      case MAPI:
        this.#mapEvent(device, event, event, collection);
        break;
      case MOVI:
        this.#moveEvent(device, event, collection);
        break;
      case DISCARD:
        this.#discard(device, event);
        break;
      case CLEAR: {
        const irq = this.#event(device, event)?.irq;
        if (irq !== undefined) irq.pendingLatch = false;
        break;
      }
      case MOVALL:
        this.#moveAll(target, Number((word3 >> 16n) & 0xffff_ffffn));
        break;
      case INT:
        this.trigger(device, event);
        break;
      case INV: {
        const irq = this.#event(device, event)?.irq;
        if (irq !== undefined) this.loadConfig(irq);
        break;
      }
      case INVALL: {
        const cpu = this.collections.get(collection)?.target;
        if (cpu !== undefined) this.invalidateAll(cpu);
        break;
      }
      // SYNC, and what is not known: nothing to do
    }
  }

  #event(device: number, event: number): Translation | undefined {
    return this.devices.get(device)?.events.get(event);
  }

  #mapDevice(id: number, eventBits: number, table: number, valid: boolean): void {
    const entry = this.tableEntry(this.deviceBaser, id);
    if (entry === NOWHERE || (valid && eventBits > ID_BITS)) return;
    this.freeDevice(id);
    if (valid) this.addDevice(id, table, eventBits);
    else this.writeEntry(entry, 0n);
  }

  addDevice(id: number, table: number, eventBits: number): ItsDevice {
    const device = { id, table, eventBits, events: new Map() };
    this.devices.set(id, device);
    return device;
  }

  #mapCollection(id: number, target: number, valid: boolean): void {
    const cpu = this.cpu(target);
    if (!valid) {
      if (!this.byId && cpu === undefined) return;
      this.freeCollection(id);
      this.gic.translations.clear();
      return;
    }
    if (cpu === undefined) return;
    const collection = this.collections.get(id) ?? this.addCollection(id);
    if (collection === undefined) return;
    collection.target = cpu;
    for (const device of this.devices.values())
      for (const translation of device.events.values())
        if (translation.collection === collection) translation.irq.target = cpu;
  }

  /** A new collection, not mapped; undefined where the table has no room for its id. */
  addCollection(id: number): Collection | undefined {
    if (this.tableEntry(this.collectionBaser, id) === NOWHERE) return undefined;
    const collection: Collection = { id, target: undefined };
    this.collections.set(id, collection);
    return collection;
  }

  #mapEvent(deviceId: number, event: number, lpi: number, collectionId: number): void {
    const device = this.devices.get(deviceId);
    if (device === undefined || !this.eventFits(device, event)) return;
    if (lpi < MIN_LPI || lpi >= 1 << Math.min(Number(this.gic.propbaser & 0x1fn) + 1, ID_BITS)) return;
    if (device.events.has(event)) return;
    const known = this.collections.get(collectionId);
    const collection = known ?? this.addCollection(collectionId);
    if (collection === undefined) return;
    if (!this.addTranslation(device, event, lpi, collection) && known === undefined)
      this.freeCollection(collectionId);
  }

  /** Adds an event of a device; false where the LPI's tables cannot be read. */
  addTranslation(device: ItsDevice, event: number, lpi: number, collection: Collection): boolean {
    const { gic } = this;
    const known = gic.lpis.has(lpi);
    const irq = gic.addLpi(lpi, collection.target);
    if (!known && !(this.loadConfig(irq) && this.#loadPendingBit(irq))) {
      gic.release(irq);
      return false;
    }
    device.events.set(event, { event, irq, collection });
    return true;
  }

  #moveEvent(device: number, event: number, collectionId: number): void {
    const translation = this.#event(device, event);
    const collection = this.collections.get(collectionId);
    if (translation?.collection?.target === undefined || collection?.target === undefined) return;
    translation.collection = collection;
    this.gic.translations.clear();
    translation.irq.target = collection.target;
  }

  #discard(deviceId: number, event: number): void {
    const device = this.devices.get(deviceId);
    const translation = device?.events.get(event);
    if (device === undefined || translation?.collection?.target === undefined) return;
    this.gic.translations.clear();
    device.events.delete(event);
    this.gic.release(translation.irq);
    this.writeEntry(device.table + event * ENTRY, 0n);
  }

  /** Every LPI of one processor goes to another. */
  #moveAll(from: number, to: number): void {
    const source = this.cpu(from);
    const target = this.cpu(to);
    if (source === undefined || target === undefined || source === target) return;
    for (const irq of this.gic.lpis.values()) if (irq.target === source) irq.target = target;
    this.gic.translations.clear();
  }

  freeDevice(id: number): void {
    const device = this.devices.get(id);
    if (device === undefined) return;
    for (const { irq } of device.events.values()) this.gic.release(irq);
    this.gic.translations.clear();
    this.devices.delete(id);
  }

  freeDevices(): void {
    for (const id of [...this.devices.keys()]) this.freeDevice(id);
  }

  /** Events of the collection lead nowhere from now on. */
  freeCollection(id: number): void {
    const collection = this.collections.get(id);
    if (collection === undefined) return;
    for (const device of this.devices.values())
      for (const translation of device.events.values())
        if (translation.collection === collection) translation.collection = undefined;
    this.collections.delete(id);
  }

  freeCollections(): void {
    for (const id of [...this.collections.keys()]) this.freeCollection(id);
  }

  // ---- tables in guest memory ---------------------------------------------------------------------------------------------

  /** The guest address of an id's entry in a table, −1 where the table is too small or no memory is behind it. */
  tableEntry(baser: bigint, id: number): number {
    if (id >= 1 << ID_BITS) return NOWHERE;
    const size = tableSize(baser);
    const base = tableAddress(baser);
    if ((baser & INDIRECT) === 0n) {
      if (id >= size / ENTRY) return NOWHERE;
      return this.memory.visible(base + id * ENTRY) ? base + id * ENTRY : NOWHERE;
    }
    const perPage = PAGE_64K / ENTRY;
    const index = Math.floor(id / perPage);
    if (index >= size / ENTRY) return NOWHERE;
    const page = this.readEntry(base + index * ENTRY);
    if (page === undefined || (page & VALID) === 0n) return NOWHERE;
    const address = levelTwoAddress(page) + (id % perPage) * ENTRY;
    return this.memory.visible(address) ? address : NOWHERE;
  }

  /** Whether an event id is within a device's table. */
  eventFits(device: ItsDevice, event: number): boolean {
    return event < 2 ** device.eventBits && this.memory.visible(device.table + event * ENTRY);
  }

  readEntry(address: number): bigint | undefined {
    const bytes = new Uint8Array(ENTRY);
    return this.memory.read(address, bytes) ? load64(bytes, 0) : undefined;
  }

  writeEntry(address: number, value: bigint): boolean {
    const bytes = new Uint8Array(ENTRY);
    store64(bytes, 0, value);
    return this.memory.write(address, bytes);
  }

  // ---- LPIs --------------------------------------------------------------------------------------------------------------

  /** Reads an LPI's byte of configuration: bit 0 enabled, bits 7:2 priority. */
  loadConfig(irq: GicIrq): boolean {
    return loadLpiConfig(this.gic, this.memory, irq);
  }

  invalidateAll(cpu: GicCpu): void {
    for (const irq of [...this.gic.lpis.values()]) if (irq.target === cpu) this.loadConfig(irq);
  }

  /** Takes the pending bit that a new LPI has in memory, and clears it there. */
  #loadPendingBit(irq: GicIrq): boolean {
    if (irq.target === undefined) return true;
    const address = pendingAddress(irq.target) + (irq.intid >>> 3);
    const byte = new Uint8Array(1);
    if (!this.memory.read(address, byte)) return false;
    const bit = 1 << (irq.intid & 7);
    irq.pendingLatch = (byte[0] & bit) !== 0;
    this.gic.enqueue(irq);
    if (!irq.pendingLatch) return true;
    byte[0] &= ~bit;
    return this.memory.write(address, byte);
  }
}

/** Component and peripheral identification (GITS_PIDR…, GITS_CIDR…). */
const identification = new Map([
  [0xffd0, 0x40],
  [0xffe0, 0x92],
  [0xffe4, 0xb4],
  [0xffe8, PIDR2_GICV3],
  [0xfff0, 0x0d],
  [0xfff4, 0xf0],
  [0xfff8, 0x05],
  [0xfffc, 0xb1],
]);

/** CWRITER, CREADR: bits 19:5. */
const commandOffset = (value: bigint): number => Number(value & 0xf_ffe0n);

/** Bytes of a table. */
export const tableSize = (baser: bigint): number => (Number(baser & 0xffn) + 1) * PAGE_64K;

export const isIndirect = (baser: bigint): boolean => (baser & INDIRECT) !== 0n;
export const isValid = (value: bigint): boolean => (value & VALID) !== 0n;

/** A table's address: bits 47:16, and bits 51:48 in 15:12. */
export const tableAddress = (baser: bigint): number =>
  Number((baser & 0xffff_ffff_0000n) | (((baser >> 12n) & 0xfn) << 48n));

/** The page that an entry of a two-level table points to. */
export const levelTwoAddress = (entry: bigint): number => Number(entry & (((1n << 36n) - 1n) << 16n));

const pendingAddress = (cpu: GicCpu): number => Number(cpu.pendbaser & (((1n << 36n) - 1n) << 16n));

function loadLpiConfig(gic: Gic, memory: GuestMemory, irq: GicIrq): boolean {
  const base = Number(gic.propbaser & (((1n << 40n) - 1n) << 12n));
  const byte = new Uint8Array(1);
  if (!memory.read(base + irq.intid - MIN_LPI, byte)) return false;
  irq.priority = byte[0] & 0xfc;
  irq.enabled = (byte[0] & 1) !== 0;
  gic.enqueue(irq);
  return true;
}

/** The tables of LPIs as a redistributor needs them. */
export function lpiTables(gic: Gic, memory: GuestMemory): LpiTables {
  return {
    loadPending(cpu) {
      const byte = new Uint8Array(1);
      for (const irq of [...gic.lpis.values()]) {
        if (irq.target !== cpu) continue;
        if (!memory.read(pendingAddress(cpu) + (irq.intid >>> 3), byte)) return;
        irq.pendingLatch = (byte[0] & (1 << (irq.intid & 7))) !== 0;
        gic.enqueue(irq);
      }
    },
    invalidate(intid) {
      const irq = gic.lpis.get(intid);
      if (irq !== undefined) loadLpiConfig(gic, memory, irq);
    },
    invalidateAll(cpu) {
      for (const irq of [...gic.lpis.values()]) if (irq.target === cpu) loadLpiConfig(gic, memory, irq);
    },
  };
}

/** KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES: the pending bits of all LPIs go to guest memory; false for a fault. */
export function savePendingTables(gic: Gic, memory: GuestMemory): boolean {
  const byte = new Uint8Array(1);
  for (const irq of gic.lpis.values()) {
    if (irq.target === undefined) continue;
    const address = pendingAddress(irq.target) + (irq.intid >>> 3);
    if (!memory.read(address, byte)) return false;
    const bit = 1 << (irq.intid & 7);
    if (((byte[0] & bit) !== 0) === irq.pendingLatch) continue;
    byte[0] ^= bit;
    if (!memory.write(address, byte)) return false;
  }
  return true;
}
