/** Which EOIs a local APIC reports: every vector, and when they are worked out anew. */
import { describe, expect, test } from "vitest";
import { ApicSystem } from "../../lib/hardware/apic-system.ts";
import { EoiReports } from "../../lib/hardware/eoi-reports.ts";

const all = Array.from({ length: 256 }, (_, vector) => vector);
const reported = (reports: EoiReports) => all.filter((vector) => reports.has(vector));

function started() {
  const system = new ApicSystem();
  const reports = new EoiReports(system);
  return { system, reports };
}

describe("when they are due", () => {
  test("before the first time, after each change of the whole, after a request", () => {
    const { system, reports } = started();
    expect(reports.due).toBe(true);
    reports.begin();
    expect(reports.due).toBe(false);
    system.scans++;
    expect(reports.due).toBe(true);
    reports.taken();
    expect(reports.due).toBe(false);
    reports.request();
    expect(reports.due).toBe(true);
  });

  test("a request is this local APIC's alone", () => {
    const { system, reports } = started();
    const other = new EoiReports(system);
    for (const each of [reports, other]) each.begin();
    reports.request();
    expect([reports.due, other.due]).toEqual([true, false]);
  });

  test("the map from ids to local APICs was recalculated: all of them; nothing had changed: none", () => {
    const { system, reports } = started();
    reports.begin();
    system.recalculateMap();
    expect(reports.due).toBe(false);
    system.mapDirty = true;
    system.recalculateMap();
    expect(reports.due).toBe(true);
  });
});

describe("which they are", () => {
  test("each vector by itself: of a pin that leads here, or in flight here", () => {
    for (const vector of all)
      for (const [leadsHere, inFlight] of [
        [false, false],
        [false, true],
        [true, false],
        [true, true],
      ]) {
        const { reports } = started();
        reports.begin();
        reports.add(vector, leadsHere, inFlight);
        expect(reported(reports)).toEqual(leadsHere || inFlight ? [vector] : []);
      }
  });

  test("begin forgets them, a request that is only taken does not", () => {
    const { reports } = started();
    reports.begin();
    reports.add(0x31, true, false);
    reports.request();
    reports.taken();
    expect(reported(reports)).toEqual([0x31]);
    reports.begin();
    expect(reported(reports)).toEqual([]);
  });
});

describe("one that is reported only because it was in flight", () => {
  test("the highest of them is looked at again once it is over; others, and those that lead here, are not", () => {
    for (const ended of all) {
      const { reports } = started();
      reports.begin();
      reports.add(0x31, false, true);
      reports.add(0x51, false, true);
      reports.add(0x41, false, true);
      reports.add(0x61, true, true);
      reports.reported(ended);
      expect(reports.due).toBe(ended === 0x51);
    }
  });

  test("begin forgets it", () => {
    const { reports } = started();
    reports.begin();
    reports.add(0x51, false, true);
    reports.begin();
    reports.reported(0x51);
    expect(reports.due).toBe(false);
  });
});
