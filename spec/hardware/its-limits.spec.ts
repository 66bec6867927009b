/** Where the ids of an ITS end: tables that have room, and 16 bits (arch/arm64/kvm/vgic/vgic-its.c:vgic_its_check_id, 6.1). */
import { expect, test } from "vitest";
import { store64 } from "../../lib/abi/struct.ts";
import { Gic, GicCpu } from "../../lib/hardware/gic.ts";
import { GITS_BASER, GITS_CTLR, Its } from "../../lib/hardware/its.ts";
import { restoreTables, saveTables } from "../../lib/hardware/its-tables.ts";

const VALID = 1n << 63n;
const INDIRECT = 1n << 62n;
const DEVICES = 0x1_0000;
const COLLECTIONS = 0x10_0000;
const EVENTS = 0x20_0000;
const SECOND_LEVELS = 0x30_0000;
const PAGE = 0x1_0000;
const ENTRIES = PAGE / 8;

function newIts(deviceBaser: bigint, collectionBaser: bigint) {
  const bytes = new Uint8Array(0x80_0000);
  const gic = new Gic(3, [new GicCpu(0, 0)]);
  gic.hasIts = true;
  gic.reset();
  gic.enabled = true;
  gic.propbaser = 0xfn;
  gic.cpus[0].lpisEnabled = true;
  const its = new Its(
    gic,
    0,
    {
      read(address, into) {
        if (address + into.length > bytes.length) return false;
        into.set(bytes.subarray(address, address + into.length));
        return true;
      },
      write(address, from) {
        if (address + from.length > bytes.length) return false;
        bytes.set(from, address);
        return true;
      },
      visible: (address) => address < bytes.length,
    },
    true,
  );
  its.write(GITS_BASER, 8, deviceBaser);
  its.write(GITS_BASER + 8, 8, collectionBaser);
  its.write(0x80, 8, VALID);
  its.write(GITS_CTLR, 4, 1n);
  const execute = (...words: bigint[]) => {
    const command = new Uint8Array(32);
    words.forEach((value, i) => {
      store64(command, 8 * i, value);
    });
    its.execute(command);
  };
  return {
    its,
    bytes,
    mapDevice: (id: number) => execute(0x08n | (BigInt(id) << 32n), 0n, VALID | BigInt(EVENTS + id * 0x100)),
    mapCollection: (id: number) => execute(0x09n, 0n, VALID | BigInt(id)),
    mapEvent: (device: number, lpi: number) =>
      execute(0x0an | (BigInt(device) << 32n), BigInt(lpi) << 32n, 0n),
  };
}

const collectionsOf = (pages: number) => VALID | BigInt(COLLECTIONS) | BigInt(pages - 1);

test("a collection is mapped exactly where the table has room for its id", () => {
  for (const pages of [1, 2]) {
    const { its, mapCollection } = newIts(VALID | BigInt(DEVICES), collectionsOf(pages));
    const ids = [0, ENTRIES - 1, ENTRIES, 2 * ENTRIES - 1, 2 * ENTRIES];
    for (const id of ids) mapCollection(id);
    expect([...its.collections.keys()]).toEqual(ids.filter((id) => id < pages * ENTRIES));
  }
});

test("a device has 16 bits of id, however long its table is", () => {
  const { its, mapDevice } = newIts(VALID | BigInt(DEVICES) | 8n, collectionsOf(1));
  for (const id of [0, ENTRIES, 0xfffe, 0xffff, 0x1_0000, 0x1_0001]) mapDevice(id);
  expect([...its.devices.keys()]).toEqual([0, ENTRIES, 0xfffe, 0xffff]);
});

test("two levels: devices behind any entry of the first come back from memory", () => {
  const baser = VALID | INDIRECT | BigInt(DEVICES);
  const { its, bytes, mapDevice, mapCollection, mapEvent } = newIts(baser, collectionsOf(1));
  const devices = [0, ENTRIES - 1, ENTRIES, 2 * ENTRIES + 5];
  for (const entry of [0, 1, 2])
    store64(bytes, DEVICES + 8 * entry, VALID | BigInt(SECOND_LEVELS + entry * PAGE));
  mapCollection(0);
  devices.forEach((id, i) => {
    mapDevice(id);
    mapEvent(id, 8192 + i);
  });
  const lpis = () =>
    devices.map((id) => {
      const irq = its.translate(id, 0);
      return typeof irq === "number" ? irq : irq.intid;
    });
  expect(lpis()).toEqual([8192, 8193, 8194, 8195]);
  expect(saveTables(its)).toBe(0);
  its.reset();
  its.write(GITS_BASER, 8, baser);
  its.write(GITS_BASER + 8, 8, collectionsOf(1));
  its.write(0x80, 8, VALID);
  expect(restoreTables(its)).toBe(0);
  its.write(GITS_CTLR, 4, 1n);
  expect(lpis()).toEqual([8192, 8193, 8194, 8195]);
});
