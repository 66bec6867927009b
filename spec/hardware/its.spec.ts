import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { load64, store64 } from "../../lib/abi/struct.ts";
import { Gic, GicCpu } from "../../lib/hardware/gic.ts";
import {
  GITS_BASER,
  GITS_CBASER,
  GITS_CREADR,
  GITS_CTLR,
  GITS_CWRITER,
  type GuestMemory,
  Its,
  savePendingTables,
} from "../../lib/hardware/its.ts";
import { restoreTables, saveTables } from "../../lib/hardware/its-tables.ts";
import { TranslationCache } from "../../lib/hardware/translation-cache.ts";

const VALID = 1n << 63n;
const DEVICES = 0x1_0000;
const COLLECTIONS = 0x2_0000;
const QUEUE = 0x3_0000;
const CONFIG = 0x4_0000;
const PENDING = 0x5_0000;
const SECOND_LEVEL = 0x10_0000;
const EVENT_TABLES = 0x20_0000;
const EBUSY = 16;

/** Guest memory from 0 on. */
class Memory implements GuestMemory {
  readonly bytes = new Uint8Array(0x40_0000);
  read(address: number, into: Uint8Array): boolean {
    if (address + into.length > this.bytes.length) return false;
    into.set(this.bytes.subarray(address, address + into.length));
    return true;
  }
  write(address: number, from: Uint8Array): boolean {
    if (address + from.length > this.bytes.length) return false;
    this.bytes.set(from, address);
    return true;
  }
  visible(address: number): boolean {
    return address < this.bytes.length;
  }
}

function newIts(indirect = false): { its: Its; gic: Gic; memory: Memory } {
  const memory = new Memory();
  const gic = new Gic(3, [new GicCpu(0, 0), new GicCpu(1, 1)]);
  gic.hasIts = true;
  gic.nrSpis = 32;
  gic.reset();
  gic.enabled = true;
  gic.propbaser = BigInt(CONFIG) | 0xfn;
  gic.cpus.forEach((cpu, i) => {
    cpu.pendbaser = BigInt(PENDING + 0x1_0000 * i);
    cpu.lpisEnabled = true;
  });
  memory.bytes.fill(0xa1, CONFIG, CONFIG + 0x1000);
  const its = new Its(gic, 0, memory, true);
  if (indirect) store64(memory.bytes, DEVICES, VALID | BigInt(SECOND_LEVEL));
  its.write(GITS_BASER, 8, VALID | (indirect ? 1n << 62n : 0n) | BigInt(DEVICES));
  its.write(GITS_BASER + 8, 8, VALID | BigInt(COLLECTIONS));
  its.write(GITS_CBASER, 8, VALID | BigInt(QUEUE));
  its.write(GITS_CTLR, 4, 1n);
  return { its, gic, memory };
}

const command = (a: bigint, b = 0n, c = 0n, d = 0n): Uint8Array => {
  const bytes = new Uint8Array(32);
  [a, b, c, d].forEach((value, i) => {
    store64(bytes, 8 * i, value);
  });
  return bytes;
};
const table = (device: number): bigint => BigInt(EVENT_TABLES + device * 0x1000);
const mapd = (device: number, bits: number, valid = true) =>
  command(0x08n | (BigInt(device) << 32n), BigInt(bits - 1), (valid ? VALID : 0n) | table(device));
const mapc = (collection: number, target: number, valid = true) =>
  command(0x09n, 0n, (valid ? VALID : 0n) | (BigInt(target) << 16n) | BigInt(collection));
const mapti = (device: number, event: number, lpi: number, collection: number) =>
  command(0x0an | (BigInt(device) << 32n), BigInt(event) | (BigInt(lpi) << 32n), BigInt(collection));
const movi = (device: number, event: number, collection: number) =>
  command(0x01n | (BigInt(device) << 32n), BigInt(event), BigInt(collection));
const discard = (device: number, event: number) => command(0x0fn | (BigInt(device) << 32n), BigInt(event));

const deviceIds = [0, 1, 5, 300];
const eventIds = [0, 1, 2, 7];
const collectionIds = [0, 1, 9];
const device = fc.constantFrom(...deviceIds);
const event = fc.constantFrom(...eventIds);
const collection = fc.constantFrom(...collectionIds);
const lpi = fc.integer({ min: 8190, max: 8200 });

type Step =
  | { do: "mapd"; device: number; bits: number; valid: boolean }
  | { do: "mapc"; collection: number; target: number; valid: boolean }
  | { do: "mapti"; device: number; event: number; lpi: number; collection: number }
  | { do: "movi"; device: number; event: number; collection: number }
  | { do: "discard"; device: number; event: number };

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    fc.record({
      do: fc.constant("mapd" as const),
      device,
      bits: fc.constantFrom(1, 3, 16),
      valid: fc.boolean(),
    }),
    fc.record({
      do: fc.constant("mapc" as const),
      collection,
      target: fc.constantFrom(0, 1, 2),
      valid: fc.boolean(),
    }),
    fc.record({ do: fc.constant("mapti" as const), device, event, lpi, collection }),
    fc.record({ do: fc.constant("mapti" as const), device, event, lpi, collection }),
    fc.record({ do: fc.constant("movi" as const), device, event, collection }),
    fc.record({ do: fc.constant("discard" as const), device, event }),
  ),
  { maxLength: 40 },
);

const bytesOf = (step: Step): Uint8Array => {
  switch (step.do) {
    case "mapd":
      return mapd(step.device, step.bits, step.valid);
    case "mapc":
      return mapc(step.collection, step.target, step.valid);
    case "mapti":
      return mapti(step.device, step.event, step.lpi, step.collection);
    case "movi":
      return movi(step.device, step.event, step.collection);
    case "discard":
      return discard(step.device, step.event);
  }
};

interface TwinEvent {
  lpi: number;
  collection: number | undefined;
}

/** The manual's tables as plain maps. */
class Twin {
  readonly devices = new Map<number, { bits: number; events: Map<number, TwinEvent> }>();
  /** undefined: known, but not mapped */
  readonly collections = new Map<number, number | undefined>();

  do(step: Step): void {
    const target = (id: number | undefined) => (id === undefined ? undefined : this.collections.get(id));
    switch (step.do) {
      case "mapd":
        this.devices.delete(step.device);
        if (step.valid) this.devices.set(step.device, { bits: step.bits, events: new Map() });
        return;
      case "mapc":
        if (step.valid && step.target > 1) return;
        if (step.valid) this.collections.set(step.collection, step.target);
        else {
          this.collections.delete(step.collection);
          for (const { events } of this.devices.values())
            for (const each of events.values())
              if (each.collection === step.collection) each.collection = undefined;
        }
        return;
      case "mapti": {
        const found = this.devices.get(step.device);
        if (found === undefined || step.event >= 2 ** found.bits || step.lpi < 8192) return;
        if (found.events.has(step.event)) return;
        if (!this.collections.has(step.collection)) this.collections.set(step.collection, undefined);
        found.events.set(step.event, { lpi: step.lpi, collection: step.collection });
        return;
      }
      case "movi": {
        const found = this.devices.get(step.device)?.events.get(step.event);
        if (target(found?.collection) === undefined || target(step.collection) === undefined) return;
        found!.collection = step.collection;
        return;
      }
      case "discard": {
        const found = this.devices.get(step.device);
        if (target(found?.events.get(step.event)?.collection) !== undefined) found!.events.delete(step.event);
      }
    }
  }

  /** LPI and processor behind a message, or undefined. */
  translate(deviceId: number, eventId: number): string | undefined {
    const found = this.devices.get(deviceId)?.events.get(eventId);
    const cpu = found?.collection === undefined ? undefined : this.collections.get(found.collection);
    return cpu === undefined ? undefined : `${found!.lpi}`;
  }
}

const translate = (its: Its, deviceId: number, eventId: number): string | undefined => {
  const irq = its.translate(deviceId, eventId);
  return typeof irq === "number" ? undefined : `${irq.intid}`;
};

const everything = (ask: (device: number, event: number) => string | undefined) =>
  deviceIds.flatMap((deviceId) => eventIds.map((eventId) => ask(deviceId, eventId)));

describe("commands against plain maps", () => {
  test.each([false, true])("two-level device table %s", (indirect) => {
    fc.assert(
      fc.property(steps, (sequence) => {
        const { its } = newIts(indirect);
        const twin = new Twin();
        for (const step of sequence) {
          its.execute(bytesOf(step));
          twin.do(step);
          expect(everything((d, e) => translate(its, d, e))).toEqual(
            everything((d, e) => twin.translate(d, e)),
          );
        }
      }),
    );
  });

  test("LPIs live exactly as long as something maps to them", () => {
    fc.assert(
      fc.property(steps, (sequence) => {
        const { its, gic } = newIts();
        for (const step of sequence) its.execute(bytesOf(step));
        const mapped = new Set(
          [...its.devices.values()].flatMap(({ events }) => [...events.values()].map(({ irq }) => irq.intid)),
        );
        expect(new Set(gic.lpis.keys())).toEqual(mapped);
        its.reset();
        expect(gic.lpis.size).toBe(0);
      }),
    );
  });
});

describe("tables in memory", () => {
  test.each([false, true])("what is saved comes back the same; two levels %s", (indirect) => {
    fc.assert(
      fc.property(steps, (sequence) => {
        const { its } = newIts(indirect);
        // an event whose collection was unmapped is saved as no event: its neighbours then lose their distance
        for (const step of sequence) if (!(step.do === "mapc" && !step.valid)) its.execute(bytesOf(step));
        const before = everything((d, e) => translate(its, d, e));
        const registers = [GITS_CBASER, GITS_BASER, GITS_BASER + 8].map(
          (at) => [at, its.read(at, 8)] as const,
        );
        expect(saveTables(its)).toBe(0);
        its.reset();
        expect(everything((d, e) => translate(its, d, e)).filter((each) => each !== undefined)).toEqual([]);
        for (const [at, value] of registers) its.write(at, 8, value);
        expect(restoreTables(its)).toBe(0);
        its.write(GITS_CTLR, 4, 1n);
        expect(everything((d, e) => translate(its, d, e))).toEqual(before);
      }),
    );
  });

  test("a collection that is there already refuses, and all collections go", () => {
    const { its } = newIts();
    its.execute(mapc(0, 0));
    saveTables(its);
    expect(restoreTables(its)).toBe(-17);
    expect(its.collections.size).toBe(0);
  });

  test("entries as the documentation lays them out", () => {
    const { its, memory } = newIts();
    for (const each of [mapd(1, 5), mapd(5, 5), mapc(2, 1), mapti(1, 0, 8192, 2), mapti(1, 3, 8195, 2)])
      its.execute(each);
    saveTables(its);
    expect(load64(memory.bytes, DEVICES + 8)).toBe(VALID | (4n << 49n) | ((table(1) >> 8n) << 5n) | 4n);
    expect(load64(memory.bytes, DEVICES + 40)).toBe(VALID | ((table(5) >> 8n) << 5n) | 4n);
    expect(load64(memory.bytes, Number(table(1)))).toBe((3n << 48n) | (8192n << 16n) | 2n);
    expect(load64(memory.bytes, Number(table(1)) + 24)).toBe((8195n << 16n) | 2n);
    expect(load64(memory.bytes, COLLECTIONS)).toBe(VALID | (1n << 16n) | 2n);
    expect(load64(memory.bytes, COLLECTIONS + 8)).toBe(0n);
  });

  test("pending bits are saved, each LPI in its processor's table", () => {
    const { its, gic, memory } = newIts();
    for (const each of [mapd(1, 5), mapc(0, 0), mapc(1, 1), mapti(1, 0, 8192, 0), mapti(1, 1, 8201, 1)])
      its.execute(each);
    for (const id of [0, 1]) expect(its.trigger(1, id)).toBe(0);
    expect(savePendingTables(gic, memory)).toBe(true);
    expect(memory.bytes[PENDING + 1024]).toBe(0x01);
    expect(memory.bytes[PENDING + 0x1_0000 + 1025]).toBe(0x02);
  });

  test("a pending bit in memory makes a new LPI pending, and is taken", () => {
    const { its, gic, memory } = newIts();
    memory.bytes[PENDING + 1024] = 0x01;
    for (const each of [mapd(1, 5), mapc(0, 0), mapti(1, 0, 8192, 0)]) its.execute(each);
    expect(gic.lpis.get(8192)!.pendingLatch).toBe(true);
    expect(memory.bytes[PENDING + 1024]).toBe(0);
  });
});

describe("the queue", () => {
  test("commands run up to CWRITER, and wrap", () => {
    const { its, memory } = newIts();
    const commands = Array.from({ length: 200 }, (_, i) => mapc(i, 0));
    let writer = 0;
    for (const each of commands) {
      memory.write(QUEUE + writer, each);
      writer = (writer + 32) % 0x1000;
      its.write(GITS_CWRITER, 8, BigInt(writer));
    }
    expect(its.collections.size).toBe(200);
    expect(its.read(GITS_CREADR, 8)).toBe(BigInt((200 * 32) % 0x1000));
  });

  test("nothing runs while the ITS is off", () => {
    const { its, memory } = newIts();
    its.write(GITS_CTLR, 4, 0n);
    memory.write(QUEUE, mapc(0, 0));
    its.write(GITS_CWRITER, 8, 32n);
    expect([its.collections.size, its.read(GITS_CTLR, 4)]).toEqual([0, 0n]);
    its.write(GITS_CTLR, 4, 1n);
    expect([its.collections.size, its.read(GITS_CTLR, 4)]).toEqual([1, 0x8000_0001n]);
  });

  test("messages meet EBUSY while the ITS or the LPIs are off", () => {
    const { its, gic } = newIts();
    for (const each of [mapd(1, 5), mapc(0, 0), mapti(1, 0, 8192, 0)]) its.execute(each);
    gic.cpus[0].lpisEnabled = false;
    expect(its.trigger(1, 0)).toBe(-EBUSY);
    its.write(GITS_CTLR, 4, 0n);
    expect(its.trigger(9, 0)).toBe(-EBUSY);
  });
});

describe("translations that are remembered", () => {
  const { gic } = newIts();
  const irq = gic.irq(gic.cpus[0], 32)!;

  test("the one that was not used for the longest time makes room", () => {
    const cache = new TranslationCache();
    cache.capacity = 3;
    for (const id of [0, 1, 2]) cache.add(0, 1, id, irq);
    cache.find(0, 1, 0);
    cache.add(0, 1, 3, irq);
    expect([0, 1, 2, 3].map((id) => cache.find(0, 1, id) !== undefined)).toEqual([true, false, true, true]);
  });

  test("ITSes and devices are told apart; ids beyond 16 bits are not remembered", () => {
    const cache = new TranslationCache();
    cache.capacity = Number.POSITIVE_INFINITY;
    cache.add(1, 2, 3, irq);
    cache.add(0, 0x1_0000, 0, irq);
    expect(
      [
        [1, 2, 3],
        [0, 2, 3],
        [1, 3, 2],
        [0, 0x1_0000, 0],
        [1, 0, 0],
      ].map(([its, d, e]) => cache.find(its, d, e) !== undefined),
    ).toEqual([true, false, false, false, false]);
  });

  test("without a capacity nothing is", () => {
    const cache = new TranslationCache();
    cache.add(0, 0, 0, irq);
    expect(cache.size).toBe(0);
  });
});
