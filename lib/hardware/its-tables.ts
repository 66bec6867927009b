/**
 * The tables of an ITS in guest memory, as KVM lays them out when it saves them (Documentation/virt/kvm/devices/
 * arm-vgic-its.rst, ABI revision 0; arch/arm64/kvm/vgic/vgic-its.c:vgic_its_save_tables_v0, 6.1). Every entry has 64
 * bits:
 *
 * - device: valid 63, distance to the next device 62:49, its table's address (bits 51:8) in 48:5, event bits − 1 in 4:0;
 * - event: distance to the next event 63:48, LPI 47:16, collection 15:0; zero is no event;
 * - collection: valid 63, processor 47:16, collection 15:0; a list that an invalid entry ends.
 */
import { EEXIST, EFAULT, EINVAL } from "../abi/errno.ts";
import { MIN_LPI } from "./gic.ts";
import {
  ENTRY,
  ID_BITS,
  type Its,
  type ItsDevice,
  isIndirect,
  isValid,
  levelTwoAddress,
  PAGE_64K,
  tableAddress,
  tableSize,
} from "./its.ts";

const VALID = 1n << 63n;
/** a distance that does not fit is cut: the reader then meets empty entries */
const MAX_DEVICE_DISTANCE = (1 << 14) - 1;
const MAX_EVENT_DISTANCE = (1 << 16) - 1;
const NOT_MAPPED = 0xffff_ffff;

// ---- saving ----------------------------------------------------------------------------------------------------------

/** KVM_DEV_ARM_ITS_SAVE_TABLES: 0; −EINVAL for a device outside the table; −EFAULT for memory that is not there. */
export function saveTables(its: Its): number {
  return saveDevices(its) || saveCollections(its);
}

function saveDevices(its: Its): number {
  if (!isValid(its.deviceBaser)) return 0;
  const devices = [...its.devices.values()].sort((a, b) => a.id - b.id);
  its.devices = new Map(devices.map((device) => [device.id, device]));
  for (const [i, device] of devices.entries()) {
    const entry = its.tableEntry(its.deviceBaser, device.id);
    if (entry < 0) return -EINVAL;
    const failed = saveEvents(its, device);
    if (failed !== 0) return failed;
    const next = i + 1 < devices.length ? Math.min(devices[i + 1].id - device.id, MAX_DEVICE_DISTANCE) : 0;
    const value =
      VALID | (BigInt(next) << 49n) | ((BigInt(device.table) >> 8n) << 5n) | BigInt(device.eventBits - 1);
    if (!its.writeEntry(entry, value)) return -EFAULT;
  }
  return 0;
}

function saveEvents(its: Its, device: ItsDevice): number {
  const events = [...device.events.values()].sort((a, b) => a.event - b.event);
  for (const [i, { event, irq, collection }] of events.entries()) {
    const next = i + 1 < events.length ? Math.min(events[i + 1].event - event, MAX_EVENT_DISTANCE) : 0;
    const value =
      collection === undefined
        ? 0n
        : (BigInt(next) << 48n) | (BigInt(irq.intid) << 16n) | BigInt(collection.id);
    if (!its.writeEntry(device.table + event * ENTRY, value)) return -EFAULT;
  }
  return 0;
}

function saveCollections(its: Its): number {
  if (!isValid(its.collectionBaser)) return 0;
  let at = tableAddress(its.collectionBaser);
  const end = at + tableSize(its.collectionBaser);
  for (const { id, target } of its.collections.values()) {
    const number = target === undefined ? NOT_MAPPED : its.numberOf(target);
    if (!its.writeEntry(at, VALID | (BigInt(number) << 16n) | BigInt(id))) return -EFAULT;
    at += ENTRY;
  }
  return at === end || its.writeEntry(at, 0n) ? 0 : -EFAULT;
}

// ---- restoring -------------------------------------------------------------------------------------------------------

/**
 * KVM_DEV_ARM_ITS_RESTORE_TABLES: 0; −EEXIST for a collection that is there; −EINVAL for an entry that cannot be;
 * −EFAULT. What was restored before a failure is taken back.
 */
export function restoreTables(its: Its): number {
  const failed = restoreCollections(its) || restoreDevices(its);
  if (failed !== 0) its.freeCollections();
  return failed;
}

function restoreCollections(its: Its): number {
  if (!isValid(its.collectionBaser)) return 0;
  const base = tableAddress(its.collectionBaser);
  for (let at = base; at < base + tableSize(its.collectionBaser); at += ENTRY) {
    const entry = its.readEntry(at);
    if (entry === undefined) return -EFAULT;
    if (!isValid(entry)) return 0;
    const number = Number((entry >> 16n) & 0xffff_ffffn);
    const target = number === NOT_MAPPED ? undefined : its.cpu(number);
    if (number !== NOT_MAPPED && target === undefined) return -EINVAL;
    const id = Number(entry & 0xffffn);
    if (its.collections.has(id)) return -EEXIST;
    const collection = its.addCollection(id);
    if (collection === undefined) return -EINVAL;
    collection.target = target;
  }
  return 0;
}

function restoreDevices(its: Its): number {
  const { deviceBaser } = its;
  if (!isValid(deviceBaser)) return 0;
  const restore = isIndirect(deviceBaser) ? restoreLevelOne : restoreDevice;
  const result = scan(its, tableAddress(deviceBaser), tableSize(deviceBaser), 0, restore);
  if (result < 0) its.freeDevices();
  return Math.min(result, 0);
}

/** Answers how far the next entry is, 0 for none, or −errno. */
type EntryReader = (its: Its, id: number, entry: bigint) => number;

/** Reads a table from entry to entry: 0 where one said that it is the last, 1 at the table's end, or −errno. */
function scan(its: Its, base: number, size: number, firstId: number, read: EntryReader): number {
  for (let at = 0; at < size; ) {
    const entry = its.readEntry(base + at);
    if (entry === undefined) return -EFAULT;
    const next = read(its, firstId + at / ENTRY, entry);
    if (next <= 0) return next;
    at += next * ENTRY;
  }
  return 1;
}

const restoreLevelOne: EntryReader = (its, index, entry) =>
  isValid(entry) ? scan(its, levelTwoAddress(entry), PAGE_64K, index * (PAGE_64K / ENTRY), restoreDevice) : 1;

const restoreDevice: EntryReader = (its, id, entry) => {
  if (!isValid(entry)) return 1;
  const eventBits = Number(entry & 0x1fn) + 1;
  if (eventBits > ID_BITS || its.tableEntry(its.deviceBaser, id) < 0) return -EINVAL;
  const device = its.addDevice(id, Number((entry >> 5n) & ((1n << 44n) - 1n)) * 256, eventBits);
  const result = scan(its, device.table, 2 ** eventBits * ENTRY, 0, (_its, event, value) =>
    restoreEvent(its, device, event, value),
  );
  if (result < 0) {
    its.freeDevice(id);
    return result;
  }
  return Number((entry >> 49n) & BigInt(MAX_DEVICE_DISTANCE));
};

function restoreEvent(its: Its, device: ItsDevice, event: number, entry: bigint): number {
  const lpi = Number((entry >> 16n) & 0xffff_ffffn);
  if (lpi === 0) return 1;
  const next = Number(entry >> 48n);
  if (lpi < MIN_LPI || event + next >= 2 ** device.eventBits) return -EINVAL;
  const collection = its.collections.get(Number(entry & 0xffffn));
  if (collection === undefined || !its.eventFits(device, event)) return -EINVAL;
  return its.addTranslation(device, event, lpi, collection) ? next : -EFAULT;
}
