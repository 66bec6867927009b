import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ENOSPC } from "../../lib/abi/errno.ts";
import {
  DROPPED,
  InterruptRemapping,
  type MsiMessage,
  POSTED,
  RemappingBlock,
} from "../../lib/hardware/interrupt-remapping.ts";

const A = "0000:00:01.0";
const B = "0000:00:02.0";
const message = (): MsiMessage => ({ addressLo: 0, addressHi: 0, data: 0 });
const block = (answer: RemappingBlock | number): RemappingBlock => {
  if (typeof answer === "number") throw new Error(`no entry: ${answer}`);
  return answer;
};

describe("interrupt remapping", () => {
  test("Intel: one table for all devices, AMD: one for each, none: no limit", () => {
    const intel = new InterruptRemapping("intel", 3);
    for (const device of [A, B, A]) block(intel.allocate(device, 1));
    expect(intel.allocate(B, 1)).toBe(-ENOSPC);
    const amd = new InterruptRemapping("amd", 3);
    for (const device of [A, A, A]) block(amd.allocate(device, 1));
    expect(amd.allocate(A, 1)).toBe(-ENOSPC);
    expect(block(amd.allocate(B, 1)).first).toBe(0);
    const off = new InterruptRemapping(null);
    for (let i = 0; i < 100_000; i++) block(off.allocate(A, 1));
    expect(off.inUse(A)).toBe(0);
  });

  test("the capacity of the tables", () => {
    const intel = new InterruptRemapping("intel");
    for (let i = 0; i < 65_536; i++) block(intel.allocate(A, 1));
    expect(intel.allocate(A, 1)).toBe(-ENOSPC);
    const amd = new InterruptRemapping("amd");
    for (let i = 0; i < 512; i++) block(amd.allocate(A, 1));
    expect(amd.allocate(A, 1)).toBe(-ENOSPC);
  });

  test.each([
    ["intel", 3, 4, 4],
    ["amd", 3, 4, 3],
  ] as const)("%s: a block of three is aligned, and takes what it takes", (kind, count, align, taken) => {
    const remapping = new InterruptRemapping(kind, 16);
    block(remapping.allocate(A, 1));
    const three = block(remapping.allocate(A, count));
    expect(three.first % align).toBe(0);
    expect(remapping.inUse(A)).toBe(1 + taken);
    remapping.release(three);
    expect(remapping.inUse(A)).toBe(1);
  });

  test.each(["intel", "amd", null] as const)(
    "%s: the message of an activated entry leads to its vector",
    (kind) => {
      const remapping = new InterruptRemapping(kind);
      const sent = message();
      for (let skip = 0; skip < 40; skip++) remapping.allocate(A, 1);
      const taken = block(remapping.allocate(A, 4));
      const places = [0x141, 0x52, 0x263, 0x74];
      for (let i = 0; i < 4; i++) {
        remapping.activate(taken, i, places[i], sent);
        expect(remapping.translate(A, sent)).toBe(places[i]);
        if (kind !== null) {
          expect(remapping.translate(B, sent)).toBe(DROPPED);
          remapping.deactivate(taken, i);
          expect(remapping.translate(A, sent)).toBe(DROPPED);
        }
      }
    },
  );

  test("the index is in the address up to the last entry", () => {
    const remapping = new InterruptRemapping("intel");
    const sent = message();
    for (let i = 0; i < 65_536; i++) {
      const taken = block(remapping.allocate(A, 1));
      if (i % 4097 !== 0 && i !== 65_535) continue;
      remapping.activate(taken, 0, i & 0xff, sent);
      expect(remapping.translate(A, sent)).toBe(i & 0xff);
    }
  });

  test("with remapping on, a message in the old format is dropped; other addresses always", () => {
    const intel = new InterruptRemapping("intel");
    const taken = block(intel.allocate(A, 1));
    intel.activate(taken, 0, 0x41, message());
    expect(intel.translate(A, { addressLo: 0xfee0_0000, addressHi: 0, data: 0x41 })).toBe(DROPPED);
    const off = new InterruptRemapping(null);
    expect(off.translate(A, { addressLo: 0xfee0_3000, addressHi: 0, data: 0x41 })).toBe(0x341);
    expect(off.translate(A, { addressLo: 0xfec0_0000, addressHi: 0, data: 0x41 })).toBe(DROPPED);
    expect(off.translate(A, { addressLo: 0xfee0_0000, addressHi: 1, data: 0x41 })).toBe(DROPPED);
  });

  test("posted: the virtual processor has it until the host takes it back, or the entry goes", () => {
    const remapping = new InterruptRemapping("intel");
    const taken = block(remapping.allocate(A, 1));
    const sent = message();
    let posted = 0;
    const to = { post: () => void posted++ };
    expect(remapping.post(taken, 0, to)).toBe(false);
    remapping.activate(taken, 0, 0x41, sent);
    expect(remapping.post(taken, 0, to)).toBe(true);
    expect(remapping.translate(A, sent)).toBe(POSTED);
    expect(posted).toBe(1);
    remapping.unpost(taken, 0);
    expect(remapping.translate(A, sent)).toBe(0x41);
    remapping.post(taken, 0, to);
    remapping.deactivate(taken, 0);
    expect(remapping.translate(A, sent)).toBe(DROPPED);
    expect(posted).toBe(1);
    expect(new InterruptRemapping(null).post(new RemappingBlock(undefined, 0, 1, 0), 0, to)).toBe(false);
  });

  test("random histories: blocks never overlap, and everything given back is there again", () => {
    const step = fc.record({ free: fc.boolean(), count: fc.integer({ min: 1, max: 8 }), which: fc.nat(50) });
    fc.assert(
      fc.property(
        fc.constantFrom("intel" as const, "amd" as const),
        fc.array(step, { maxLength: 80 }),
        (kind, steps) => {
          const remapping = new InterruptRemapping(kind, 64);
          const owned: RemappingBlock[] = [];
          for (const { free, count, which } of steps) {
            if (free && owned.length !== 0) remapping.release(owned.splice(which % owned.length, 1)[0]);
            else {
              const answer = remapping.allocate(A, count);
              if (typeof answer !== "number") {
                for (const { first, taken } of owned)
                  expect(first + taken <= answer.first || answer.first + answer.taken <= first).toBe(true);
                owned.push(answer);
              }
            }
            expect(remapping.inUse(A)).toBe(owned.reduce((sum, { taken }) => sum + taken, 0));
          }
          for (const each of owned) remapping.release(each);
          for (let i = 0; i < 64; i++) block(remapping.allocate(A, 1));
        },
      ),
      { numRuns: 60 },
    );
  });
});
