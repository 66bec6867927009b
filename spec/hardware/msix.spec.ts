import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MSIX_ENTRY_SIZE, Msix } from "../../lib/hardware/msix.ts";

function make(vectors: number): { msix: Msix; sent: number[] } {
  const sent: number[] = [];
  const msix = new Msix(vectors, ({ data }) => void sent.push(data));
  for (let v = 0; v < vectors; v++) msix.writeTable(v * MSIX_ENTRY_SIZE + 8, 4, v);
  return { msix, sent };
}

const setMask = (msix: Msix, vector: number, masked: boolean) =>
  msix.writeTable(vector * MSIX_ENTRY_SIZE + 12, 4, masked ? 1 : 0);

describe("MSI-X", () => {
  test("after reset: off, every vector masked, nothing pending", () => {
    const { msix } = make(3);
    expect(msix.enabled).toBe(false);
    expect([0, 1, 2].map((v) => msix.readTable(v * 16 + 12, 4))).toEqual([1, 1, 1]);
    expect(msix.readPending(0, 8)).toBe(0n);
  });

  test("accesses of 4 and 8 bytes; others read zero and write nothing", () => {
    const { msix } = make(2);
    msix.writeTable(16, 8, 0x1122_3344_5566_7788n);
    expect(msix.readTable(16, 8)).toBe(0x1122_3344_5566_7788n);
    expect(msix.readTable(20, 4)).toBe(0x1122_3344);
    msix.writeTable(16, 2, 0);
    msix.writeTable(17, 4, 0);
    msix.writeTable(20, 8, 0n);
    msix.writeTable(32, 4, 0xffff_ffff);
    expect(msix.readTable(16, 8)).toBe(0x1122_3344_5566_7788n);
    expect([
      msix.readTable(16, 1),
      msix.readTable(16, 2),
      msix.readTable(18, 4),
      msix.readTable(32, 4),
    ]).toEqual([0, 0, 0, 0]);
  });

  test("an entry's address, high address and data are the message", () => {
    const messages: unknown[] = [];
    const msix = new Msix(1, (message) => void messages.push({ ...message }));
    msix.writeTable(0, 8, 0x0000_0001_fee0_1000n);
    msix.writeTable(8, 4, 0x41);
    setMask(msix, 0, false);
    msix.control(true, false);
    msix.raise(0);
    expect(messages).toEqual([{ addressLo: 0xfee0_1000, addressHi: 1, data: 0x41 }]);
  });

  test("a latched vector is sent once, however often it was raised", () => {
    const { msix, sent } = make(1);
    msix.control(true, false);
    msix.raise(0);
    msix.raise(0);
    expect([sent.length, msix.readPending(0, 4)]).toEqual([0, 1]);
    setMask(msix, 0, false);
    expect([sent, msix.readPending(0, 4)]).toEqual([[0], 0]);
  });

  test("every short history of mask, function mask, enable and raise, against a twin", () => {
    const operations = ["enable", "disable", "hold", "free", "mask", "unmask", "raise"] as const;
    let histories = 0;
    const run = (history: readonly (typeof operations)[number][]): void => {
      histories++;
      const { msix, sent } = make(1);
      const twin = { on: false, held: false, masked: true, pending: false, sent: 0 };
      for (const operation of history) {
        if (operation === "enable" || operation === "disable") twin.on = operation === "enable";
        else if (operation === "hold" || operation === "free") twin.held = operation === "hold";
        else if (operation === "mask" || operation === "unmask") twin.masked = operation === "mask";
        else twin.pending = true;
        if (twin.pending && twin.on && !twin.held && !twin.masked) {
          twin.pending = false;
          twin.sent++;
        }
        if (operation === "raise") msix.raise(0);
        else if (operation === "mask" || operation === "unmask") setMask(msix, 0, twin.masked);
        else msix.control(twin.on, twin.held);
        expect([sent.length, msix.isPending(0)]).toEqual([twin.sent, twin.pending]);
      }
    };
    const all = (history: (typeof operations)[number][], left: number): void => {
      if (left === 0) run(history);
      else for (const operation of operations) all([...history, operation], left - 1);
    };
    all([], 5);
    expect(histories).toBe(7 ** 5);
  });

  test("pending bits of any vector, in 64-bit words; writing them does nothing", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2048 }), fc.nat(2047), (vectors, which) => {
        const vector = which % vectors;
        const { msix } = make(vectors);
        msix.raise(vector);
        expect(msix.readPending((vector >>> 6) * 8, 8)).toBe(1n << BigInt(vector & 63));
        expect(msix.pending.length).toBe(Math.ceil(vectors / 64) * 8);
        msix.raise(vectors);
        msix.raise(-1);
      }),
      { numRuns: 60 },
    );
  });
});
