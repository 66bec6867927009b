import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ApicBus, NOBODY, NOT_FAST } from "../../lib/hardware/apic-bus.ts";
import {
  DEST_LOGICAL,
  DEST_PHYSICAL,
  DM_FIXED,
  DM_INIT,
  DM_LOWEST,
  DM_NMI,
  type InterruptMessage,
  messageFromMsi,
  newMessage,
  SHORTHAND_ALL,
  SHORTHAND_ALL_BUT_SELF,
  SHORTHAND_SELF,
} from "../../lib/hardware/apic-message.ts";
import { type ApicSettings, ApicSystem } from "../../lib/hardware/apic-system.ts";
import { Lapic } from "../../lib/hardware/lapic.ts";
import * as R from "../../lib/hardware/lapic-registers.ts";

const FLAT = 0xffff_ffff;
const CLUSTER = 0x0fff_ffff;
const NOW = 0;

interface Chip {
  id: number;
  x2apic?: boolean;
  /** logical id, and destination format */
  logical?: number;
  format?: number;
  /** xAPIC id where it is not the vCPU's number */
  physical?: number;
  off?: boolean;
}

function bus(chips: Chip[], settings: Partial<ApicSettings> = {}): ApicBus {
  const system = new ApicSystem(settings);
  const made = new ApicBus(system);
  for (const chip of chips) {
    const lapic = new Lapic(system, chip.id);
    made.add(lapic);
    lapic.setCpuid({ x2apic: true, tscDeadline: false, intelCompatible: true, physicalAddressBits: 40 });
    if (chip.x2apic) lapic.setBase(0xfee0_0c00, 0, true);
    if (chip.physical !== undefined) lapic.write(R.APIC_ID, chip.physical << 24, NOW);
    if (chip.logical !== undefined) lapic.write(R.APIC_LDR, chip.logical << 24, NOW);
    if (chip.format !== undefined) lapic.write(R.APIC_DFR, chip.format, NOW);
    lapic.write(R.APIC_SPIV, chip.off ? 0xff : 0x1ff, NOW);
  }
  return made;
}

/** Which LAPICs hold the vector; it is taken out again. */
function receivers(on: ApicBus, vector: number): number[] {
  const found: number[] = [];
  for (const [i, lapic] of on.lapics.entries()) {
    if (lapic.pendingEoi(vector)) found.push(i);
    lapic.regs[(R.APIC_IRR + (vector >> 5) * 16) >> 2] = 0;
  }
  return found;
}

/** The answer and the receivers of a message. */
function send(
  on: ApicBus,
  values: Partial<InterruptMessage>,
  source: Lapic | null = null,
): [number, number[]] {
  const message = newMessage({ vector: 0x41, ...values });
  const answer = on.deliver(message, source);
  return [answer, receivers(on, message.vector)];
}

/**
 * The manuals' rule, LAPIC by LAPIC (SDM volume 3, "Determining IPI Destination"), with KVM's two deviations: what is
 * not an IPI is a broadcast for x2APIC when it goes to 0xff (and not to 0xffffffff, as the map has it), and an id
 * beyond 8 bits reaches an xAPIC by its vCPU's number.
 */
function listens(chip: Chip, destId: number, logical: boolean, ipi: boolean, quirk: boolean): boolean {
  if (chip.x2apic) {
    if (destId === (quirk && !ipi ? 0xff : 0xffff_ffff)) return true;
    if (!logical) return destId === chip.id;
    return Math.floor(destId / 65536) === Math.floor(chip.id / 16) && ((destId >>> (chip.id % 16)) & 1) === 1;
  }
  if (destId === 0xff) return true;
  if (!logical) return destId > 255 ? destId === chip.id : destId === (chip.physical ?? chip.id & 0xff);
  const id = chip.logical ?? 0;
  if ((chip.format ?? FLAT) === FLAT) return (id & destId & 0xff) !== 0;
  return Math.floor(id / 16) === Math.floor(destId / 16) && (id & destId & 15) !== 0;
}

/** Every destination of 8 bits in both modes. */
function checkAll(chips: Chip[], settings: Partial<ApicSettings> = {}): void {
  const on = bus(chips, settings);
  for (const destMode of [DEST_PHYSICAL, DEST_LOGICAL])
    for (let destId = 0; destId < 256; destId++) {
      const expected = chips.flatMap((chip, i) =>
        listens(chip, destId, destMode === DEST_LOGICAL, false, !settings.broadcastQuirkDisabled) ? [i] : [],
      );
      const [answer, got] = send(on, { destId, destMode });
      // Nobody: 0 if a map could tell, −1 if everybody was asked.
      const counts = expected.length > 0 ? answer === expected.length : answer === 0 || answer === NOBODY;
      if (!counts || got.join() !== expected.join())
        expect([chips, destMode, destId, answer, got]).toEqual([
          chips,
          destMode,
          destId,
          expected.length,
          expected,
        ]);
    }
}

describe("destinations against the manuals' rule, every 8-bit id in both modes", () => {
  test("one to four flat LAPICs, each of which has no bit, its own, another's or two bits", () => {
    const patterns = [0, 1, 2, 3];
    for (let count = 1; count <= 4; count++)
      for (let choice = 0; choice < 4 ** count; choice++)
        checkAll(
          Array.from({ length: count }, (_, id) => ({ id, logical: patterns[(choice >> (2 * id)) & 3] })),
        );
  });

  test("three LAPICs in two clusters, each with one of four ids", () => {
    const ids = [0x01, 0x02, 0x11, 0x13];
    for (let choice = 0; choice < 64; choice++)
      checkAll(
        Array.from({ length: 3 }, (_, id) => ({
          id,
          format: CLUSTER,
          logical: ids[(choice >> (2 * id)) & 3],
        })),
      );
  });

  test("two LAPICs, flat and clustered in each combination", () => {
    for (const first of [FLAT, CLUSTER])
      for (const second of [FLAT, CLUSTER])
        for (const logical of [0x01, 0x12, 0x80, 0xff])
          checkAll([
            { id: 0, format: first, logical: 0x01 },
            { id: 1, format: second, logical },
          ]);
  });

  test("xAPIC ids moved about, shared ones too", () => {
    for (let choice = 0; choice < 64; choice++)
      checkAll(
        Array.from({ length: 3 }, (_, id) => ({ id, logical: 1 << id, physical: (choice >> (2 * id)) & 3 })),
      );
  });

  test("x2APIC and mixed modes, with the broadcast quirk and without", () => {
    for (const broadcastQuirkDisabled of [false, true])
      for (let choice = 1; choice < 8; choice++)
        checkAll(
          [0, 1, 17].map((id, i) => ({ id, x2apic: ((choice >> i) & 1) === 1, logical: 1 << i })),
          { broadcastQuirkDisabled },
        );
  });

  test("a format register that is neither flat nor cluster hears only broadcasts, unless the map has it", () => {
    const on = bus([
      { id: 0, logical: 1, format: 0x7fff_ffff },
      { id: 1, logical: 1, format: FLAT },
    ]);
    expect(send(on, { destMode: DEST_LOGICAL, destId: 1 })).toEqual([1, [1]]);
    expect(send(on, { destMode: DEST_LOGICAL, destId: 0xff })).toEqual([2, [0, 1]]);
  });
});

describe("32-bit destinations", () => {
  const chips = [0, 1, 15, 16, 33, 300].map((id) => ({ id, x2apic: true }));
  const interesting = fc.oneof(
    fc.constantFrom(...chips.map((chip) => chip.id), 255, 256, 301, 0xffff_ffff, 0x1234_5678),
    fc.tuple(fc.constantFrom(0, 1, 2, 18, 19, 0xffff), fc.nat(0xffff)).map(([c, m]) => c * 65536 + m),
  );

  test("IPIs and MSIs among x2APICs, against the rule", () => {
    const on = bus(chips, { x2apicFormat: true });
    fc.assert(
      fc.property(interesting, fc.boolean(), fc.boolean(), (destId, logical, ipi) => {
        const expected = chips.flatMap((chip, i) => (listens(chip, destId, logical, ipi, true) ? [i] : []));
        const destMode = logical ? DEST_LOGICAL : DEST_PHYSICAL;
        const [answer, got] = send(on, { destId, destMode }, ipi ? on.lapics[0] : null);
        expect(got).toEqual(expected);
        if (expected.length > 0) expect(answer).toBe(expected.length);
        else expect([0, NOBODY]).toContain(answer);
      }),
    );
  });

  test("a vCPU plugged in late is reached by its long id, with 32-bit ids also by its short one (recorded on 6.18)", () => {
    const late = bus([{ id: 0 }, { id: 300 }], { x2apicFormat: true });
    expect(send(late, { destId: 300 })).toEqual([1, [1]]);
    expect(send(late, { destId: 44 })).toEqual([1, [1]]);
    expect(send(bus([{ id: 0 }, { id: 300 }]), { destId: 44 })).toEqual([1, [1]]);
    expect(send(bus([{ id: 0 }, { id: 300 }]), { destId: 300 })).toEqual([0, []]);
  });
});

describe("answers when nobody takes it", () => {
  const three = (logical: (i: number) => number): Chip[] =>
    [0, 1, 2].map((id) => ({ id, logical: logical(id) }));

  test("0 where a map could tell, −1 where everybody was asked (recorded on 6.18)", () => {
    const on = bus(three((i) => 1 << i));
    expect(send(on, { destId: 9 })).toEqual([0, []]);
    expect(send(on, { destId: 8, destMode: DEST_LOGICAL })).toEqual([0, []]);
    const shared = bus(three(() => 1));
    expect(send(shared, { destId: 8, destMode: DEST_LOGICAL })).toEqual([NOBODY, []]);
    expect(send(shared, { destId: 1, destMode: DEST_LOGICAL })).toEqual([3, [0, 1, 2]]);
    const sameId = bus([0, 1, 2].map((id) => ({ id, physical: 1 })));
    expect(send(sameId, { destId: 1 })).toEqual([3, [0, 1, 2]]);
    expect(send(sameId, { destId: 0 })).toEqual([NOBODY, []]);
  });

  test("disabled by software: matched, not taken; logically nobody is asked when all are", () => {
    const on = bus([0, 1].map((id) => ({ id, logical: 1 << id, off: true })));
    expect(send(on, { destId: 0 })).toEqual([0, []]);
    expect(send(on, { destId: 0xff })).toEqual([0, []]);
    expect(on.deliver(newMessage({ destId: 0, deliveryMode: DM_NMI }))).toBe(1);
    expect(on.deliver(newMessage({ destId: 1, destMode: DEST_LOGICAL, deliveryMode: DM_NMI }))).toBe(0);
    expect(on.lapics.map((lapic) => lapic.nmiQueued)).toEqual([1, 0]);
  });

  test("disabled in IA32_APIC_BASE: not there at all", () => {
    const on = bus([{ id: 0 }]);
    on.lapics[0].setBase(0xfee0_0000, 0, true);
    expect(on.deliver(newMessage({ destId: 0xff, deliveryMode: DM_NMI }))).toBe(NOBODY);
    expect(on.deliver(newMessage({ destId: 0, deliveryMode: DM_NMI }))).toBe(0);
    expect(on.lapics[0].nmiQueued).toBe(0);
  });

  test("without any vCPU nobody is there (recorded on 6.18)", () => {
    expect(new ApicBus(new ApicSystem()).deliver(newMessage())).toBe(NOBODY);
  });

  test("the newest vCPU hears only broadcasts until some id or mode changes (recorded on 6.18)", () => {
    const system = new ApicSystem();
    const on = new ApicBus(system);
    for (let id = 0; id < 3; id++) on.add(new Lapic(system, id));
    const nmi = (destId: number): number => on.deliver(newMessage({ destId, deliveryMode: DM_NMI }));
    expect([nmi(0), nmi(1), nmi(2), nmi(0xff)]).toEqual([1, 1, 0, 3]);
    on.lapics[0].write(R.APIC_SPIV, 0x1ff, NOW);
    expect([nmi(0), nmi(1), nmi(2), nmi(0xff)]).toEqual([1, 1, 1, 3]);
    expect(on.lapics.map((lapic) => lapic.nmiQueued)).toEqual([4, 4, 3]);
  });
});

describe("shorthands and IPIs", () => {
  test("self, all and all but self, whatever the destination field says", () => {
    const on = bus([0, 1, 2].map((id) => ({ id })));
    const source = on.lapics[1];
    for (const destId of [0, 1, 7, 0xff])
      for (const destMode of [DEST_PHYSICAL, DEST_LOGICAL]) {
        expect(send(on, { shorthand: SHORTHAND_SELF, destId, destMode }, source)).toEqual([1, [1]]);
        expect(send(on, { shorthand: SHORTHAND_ALL, destId, destMode }, source)).toEqual([3, [0, 1, 2]]);
        expect(send(on, { shorthand: SHORTHAND_ALL_BUT_SELF, destId, destMode }, source)).toEqual([
          2,
          [0, 2],
        ]);
      }
    expect(send(on, { shorthand: SHORTHAND_SELF })).toEqual([0, []]);
    const alone = bus([{ id: 0 }]);
    expect(send(alone, { shorthand: SHORTHAND_ALL_BUT_SELF }, alone.lapics[0])).toEqual([NOBODY, []]);
  });

  test("an IPI from an x2APIC to 0xff is an id, not a broadcast", () => {
    const on = bus([0, 1, 255].map((id) => ({ id, x2apic: true })));
    expect(send(on, { destId: 0xff }, on.lapics[0])).toEqual([1, [2]]);
    expect(send(on, { destId: 0xffff_ffff }, on.lapics[0])).toEqual([3, [0, 1, 2]]);
    expect(send(on, { destId: 0xff })).toEqual([3, [0, 1, 2]]);
  });

  test("an ICR write, carried to the bus, does what it says", () => {
    const on = bus([0, 1, 2].map((id) => ({ id })));
    on.lapics[0].write(R.APIC_ICR2, 0x0200_0000, NOW);
    on.lapics[0].write(R.APIC_ICR, 0x4500, NOW);
    expect(on.deliver(on.lapics[0].ipi, on.lapics[0])).toBe(1);
    expect(on.lapics.map((lapic) => lapic.pendingEvents)).toEqual([0, 0, 1]);
    expect(on.lapics[0].ipi.deliveryMode).toBe(DM_INIT);
  });
});

describe("lowest priority", () => {
  const four = (settings: Partial<ApicSettings> = {}, chips = 4): ApicBus =>
    bus(
      Array.from({ length: chips }, (_, id) => ({ id, logical: 1 << id })),
      settings,
    );
  const lowest = { destMode: DEST_LOGICAL, deliveryMode: DM_LOWEST };

  test("vector hashing: the (vector mod n)-th of the bits meant, for every vector and every set", () => {
    const on = four();
    for (let destId = 1; destId < 16; destId++) {
      const meant = [0, 1, 2, 3].filter((i) => ((destId >> i) & 1) === 1);
      for (let vector = 0; vector < 256; vector++) {
        const got = send(on, { ...lowest, destId, vector });
        const expected = meant[vector % meant.length];
        if (got[0] !== 1 || got[1].join() !== `${expected}`)
          expect([destId, vector, got]).toEqual([1, [expected]]);
      }
    }
  });

  test("a bit that nobody has takes its share, which is lost (recorded on 6.18)", () => {
    const on = four({}, 3);
    expect([0x50, 0x51, 0x52, 0x53].map((vector) => send(on, { ...lowest, destId: 15, vector }))).toEqual([
      [1, [0]],
      [1, [1]],
      [1, [2]],
      [0, []],
    ]);
    expect([0x62, 0x63].map((vector) => send(on, { ...lowest, destId: 0xff, vector }))).toEqual([
      [1, [2]],
      [1, [0]],
    ]);
  });

  test("asked one by one, those disabled by software do not count", () => {
    const on = bus([0, 1, 2].map((id) => ({ id, logical: 1, off: id === 1 })));
    expect([0x40, 0x41, 0x42].map((vector) => send(on, { ...lowest, destId: 1, vector }))).toEqual([
      [1, [0]],
      [1, [2]],
      [1, [0]],
    ]);
  });

  test("without hashing the one that took the fewest, the first of equals: by map and one by one", () => {
    for (const shared of [false, true]) {
      const chips = [0, 1, 2].map((id) => ({ id, logical: shared ? 1 : 1 << id }));
      const on = bus(chips, { vectorHashing: false });
      const order = Array.from({ length: 6 }, () => send(on, { ...lowest, destId: shared ? 1 : 7 })[1]);
      expect(order).toEqual([[0], [1], [2], [0], [1], [2]]);
    }
  });

  test("a physical destination has one LAPIC anyway; a physical broadcast becomes fixed (recorded on 6.18)", () => {
    const on = four({}, 3);
    expect(send(on, { destId: 1, deliveryMode: DM_LOWEST, vector: 0x60 })).toEqual([1, [1]]);
    const message = newMessage({ destId: 0xff, deliveryMode: DM_LOWEST, vector: 0x60 });
    expect([on.deliver(message), receivers(on, 0x60)]).toEqual([3, [0, 1, 2]]);
    expect(message.deliveryMode).toBe(DM_LOWEST);
    expect(send(on, { destId: 0xff, msiRedirHint: true, vector: 0x61 })).toEqual([1, [1]]);
  });

  test("a redirection hint chooses one, as fixed", () => {
    const on = four();
    expect(send(on, { destMode: DEST_LOGICAL, destId: 15, msiRedirHint: true, vector: 0x42 })).toEqual([
      1,
      [2],
    ]);
    expect(on.lapics[2].arbPrio).toBe(0);
  });
});

describe("the releases before ids had to be one to one (6.1)", () => {
  const old = { oneToOneIdMap: false };

  test("of equal xAPIC ids the first is reached, of equal logical bits the last", () => {
    const on = bus(
      [0, 1, 2].map((id) => ({ id, physical: 1, logical: 1 })),
      old,
    );
    expect(send(on, { destId: 1 })).toEqual([1, [0]]);
    expect(send(on, { destId: 1, destMode: DEST_LOGICAL })).toEqual([1, [2]]);
  });

  test("of several logical bits the lowest counts", () => {
    const on = bus([{ id: 0, logical: 0x06 }], old);
    expect(send(on, { destId: 2, destMode: DEST_LOGICAL })).toEqual([1, [0]]);
    expect(send(on, { destId: 4, destMode: DEST_LOGICAL })).toEqual([0, []]);
  });

  test("mixed modes, and nobody enabled: everybody is asked", () => {
    const mixed = [
      { id: 0, logical: 0x01, format: FLAT },
      { id: 1, logical: 0x11, format: CLUSTER },
    ];
    expect(send(bus(mixed, old), { destId: 0x11, destMode: DEST_LOGICAL })).toEqual([2, [0, 1]]);
    const off = bus([{ id: 0, logical: 1, off: true }], old);
    expect(off.deliver(newMessage({ destId: 1, destMode: DEST_LOGICAL, deliveryMode: DM_NMI }))).toBe(1);
  });
});

describe("who would be meant", () => {
  test("destinations and the single one, by map and one by one", () => {
    const on = bus([0, 1, 2].map((id) => ({ id, logical: 1 << id })));
    const meant = (values: Partial<InterruptMessage>): [number[], number | undefined] => {
      const into: Lapic[] = [];
      on.destinations(newMessage(values), into);
      return [into.map((lapic) => lapic.vcpuId), on.singleDestination(newMessage(values))?.vcpuId];
    };
    expect(meant({ destId: 1 })).toEqual([[1], 1]);
    expect(meant({ destId: 9 })).toEqual([[], undefined]);
    expect(meant({ destId: 5, destMode: DEST_LOGICAL })).toEqual([[0, 2], undefined]);
    expect(meant({ destId: 5, destMode: DEST_LOGICAL, deliveryMode: DM_LOWEST, vector: 0x41 })).toEqual([
      [2],
      2,
    ]);
    expect(meant({ destId: 0xff })).toEqual([[0, 1, 2], undefined]);
    on.lapics[0].write(R.APIC_ID, 0x100_0000, NOW);
    expect(meant({ destId: 1 })).toEqual([[0, 1], undefined]);
    expect(meant({ destId: 2 })).toEqual([[2], 2]);
  });

  test("delivery by the map alone refuses what needs everybody", () => {
    const on = bus([0, 1].map((id) => ({ id, logical: 1 << id })));
    expect(on.deliverFast(newMessage({ destId: 1, vector: 0x41 }))).toBe(1);
    expect(on.deliverFast(newMessage({ destId: 0xff, vector: 0x41 }))).toBe(NOT_FAST);
    expect(on.deliverFast(newMessage({ shorthand: SHORTHAND_ALL, vector: 0x41 }))).toBe(NOT_FAST);
    expect(receivers(on, 0x41)).toEqual([1]);
  });

  test("who took it, with which vector, is noted; who refused is not", () => {
    const on = bus([{ id: 0 }, { id: 1, off: true }, { id: 2 }]);
    const took = new Map<number, number>();
    expect(on.deliver(newMessage({ destId: 0xff, vector: 0x28 }), null, took)).toBe(2);
    expect([...took]).toEqual([
      [0, 0x28],
      [2, 0x28],
    ]);
  });
});

describe("a single destination among many", () => {
  test("does not ask the others", () => {
    const on = bus(
      Array.from({ length: 1024 }, (_, id) => ({ id, x2apic: true })),
      { x2apicFormat: true },
    );
    let asked = 0;
    for (const lapic of on.lapics)
      Object.defineProperty(lapic, "hwEnabled", {
        get: () => {
          asked++;
          return true;
        },
      });
    on.deliver(newMessage({ destId: 5, vector: 0x41 }));
    const building = asked;
    asked = 0;
    // 0xff is everybody, by the broadcast quirk.
    const ids = on.lapics.map((lapic) => lapic.vcpuId).filter((id) => id !== 0xff);
    for (const id of ids) expect(on.deliver(newMessage({ destId: id, vector: 0x42 }))).toBe(1);
    expect(building).toBe(2048);
    expect(asked).toBe(0);
  });
});

describe("messageFromMsi", () => {
  test("each field from its bits", () => {
    const message = newMessage();
    messageFromMsi(message, 0xfee1_200c, 0x0034_5600, 0x0000_c941, true);
    expect(message).toEqual({
      vector: 0x41,
      deliveryMode: DM_LOWEST,
      destMode: DEST_LOGICAL,
      destId: 0x0034_5612,
      trigMode: 0x8000,
      level: 1,
      shorthand: 0,
      msiRedirHint: true,
    });
    messageFromMsi(message, 0xfee1_2000, 0x0034_5600, 0x41, false);
    expect(message).toEqual(newMessage({ vector: 0x41, deliveryMode: DM_FIXED, destId: 0x12 }));
  });
});

test("x2APIC ids of more than twelve bits: each vCPU is reached by its own, by its number and logically", () => {
  const ids = [0, 1, 16, 0xfff, 0x1000, 0x1011, 0x3fff];
  for (const oneToOneIdMap of [true, false]) {
    const many = bus(
      ids.map((id) => ({ id, x2apic: true })),
      { oneToOneIdMap },
    );
    for (const [place, id] of ids.entries()) {
      expect(send(many, { destId: id, destMode: DEST_PHYSICAL })).toEqual([1, [place]]);
      const logical = ((id >> 4) << 16) | (1 << (id & 15));
      expect(send(many, { destId: logical, destMode: DEST_LOGICAL })).toEqual([1, [place]]);
    }
  }
});
