import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  decodeListRegister,
  encodeListRegister,
  handleOne,
  NONE,
  PhysicalGic,
} from "../../lib/hardware/gic-physical.ts";

const SPI = 100;

function gic(options: { edge?: boolean; forwarded?: boolean } = {}): PhysicalGic {
  const made = new PhysicalGic();
  Object.assign(made.irq(SPI), options);
  return made;
}

describe("priority drop and deactivation", () => {
  test("an active interrupt is not taken again, whatever its line does", () => {
    const host = gic({ forwarded: true });
    host.setLine(SPI, true);
    expect(handleOne(host, () => undefined)).toBe(SPI);
    expect([host.highest, host.irq(SPI).active]).toEqual([NONE, true]);
    host.setLine(SPI, false);
    host.setLine(SPI, true);
    expect(host.highest).toBe(NONE);
    host.deactivateByGuest(SPI);
    expect(host.highest).toBe(SPI);
    expect(host.deactivations).toEqual({ host: 0, guest: 1 });
  });

  test("a level that went away before the deactivation does not come again, an edge that came meanwhile does", () => {
    for (const edge of [false, true]) {
      const host = gic({ edge, forwarded: true });
      host.setLine(SPI, true);
      handleOne(host, () => undefined);
      host.setLine(SPI, false);
      if (edge) host.setLine(SPI, true);
      host.deactivateByGuest(SPI);
      expect(host.highest).toBe(edge ? SPI : NONE);
    }
  });

  test("not forwarded, the host deactivates once an interrupt; disabled, it takes none", () => {
    const host = gic();
    host.setLine(SPI, true);
    expect(handleOne(host, () => host.setLine(SPI, false))).toBe(SPI);
    expect(host.deactivations).toEqual({ host: 1, guest: 0 });
    host.setLine(SPI, true);
    host.irq(SPI).enabled = false;
    expect(handleOne(host, () => undefined)).toBe(NONE);
  });

  test("with nothing pending no handler is called and nothing is deactivated", () => {
    const host = gic();
    const handled: number[] = [];
    expect(handleOne(host, (intid) => handled.push(intid))).toBe(NONE);
    expect([handled, host.deactivations]).toEqual([[], { host: 0, guest: 0 }]);
  });

  test("any sequence: an interrupt is taken exactly if it is pending, enabled and not active", () => {
    const action = fc.constantFrom("up", "down", "take", "end", "enable", "disable");
    fc.assert(
      fc.property(fc.array(action, { maxLength: 30 }), fc.boolean(), (actions, edge) => {
        const host = gic({ edge, forwarded: true });
        let line = false;
        let latch = false;
        let active = false;
        let enabled = true;
        for (const each of actions) {
          const due = enabled && !active && (edge ? latch : line);
          expect(host.highest).toBe(due ? SPI : NONE);
          if (each === "up" || each === "down") {
            if (each === "up" && !line) latch = true;
            line = each === "up";
            host.setLine(SPI, line);
          } else if (each === "take") {
            expect(host.acknowledge()).toBe(due ? SPI : NONE);
            if (due) [active, latch] = [true, false];
          } else if (each === "end") {
            host.deactivateByGuest(SPI);
            active = false;
          } else host.irq(SPI).enabled = enabled = each === "enable";
        }
      }),
    );
  });
});

test("state of a forwarded interrupt: what is saved and put back is as it was", () => {
  for (const active of [false, true])
    for (const pending of [false, true]) {
      const host = gic({ edge: true, forwarded: true });
      host.restoreForwarded(SPI, { active, pending });
      expect(host.saveForwarded(SPI)).toEqual({ active, pending });
      expect(host.highest).toBe(pending && !active ? SPI : NONE);
    }
});

describe("a list register", () => {
  test("the fields stand where GICv2 has them", () => {
    expect(encodeListRegister({ virtual: 40, priority: 0xa0, pending: true })).toBe(0x1a00_0028);
    expect(encodeListRegister({ virtual: 40, physical: 100, active: true })).toBe(0xa001_9028);
    expect(encodeListRegister({ virtual: 40, eoi: true })).toBe(0x0008_0028);
  });

  test("HW and the maintenance bit exclude each other", () => {
    for (let physical = 16; physical < 1020; physical++) {
      expect(decodeListRegister(encodeListRegister({ virtual: 40, physical }))).toEqual({
        physical,
        eoi: false,
      });
      expect(decodeListRegister(encodeListRegister({ virtual: 40, physical, eoi: true })).physical).toBe(
        physical | 512,
      );
    }
    expect(decodeListRegister(encodeListRegister({ virtual: 40, eoi: true }))).toEqual({
      physical: undefined,
      eoi: true,
    });
  });
});
