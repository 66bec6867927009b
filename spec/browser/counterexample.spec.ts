/**
 * A counterexample as a page and as a timeline: the page as Chromium lays it out, the timeline by the rules of the
 * Trace Event Format.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type Counterexample, explore } from "../../lib/fuzz/explore/explore.ts";
import { toHtml, toPerfetto } from "../../lib/fuzz/explore/report.ts";
import { bug as eoiNotForwarded } from "../bugs/31-eoi-not-forwarded.ts";
import { bug as forwardedInFlight } from "../bugs/39-forwarded-in-flight.ts";
import { chromium, open } from "./bundle.ts";

/** A thread for the device, the vCPU, and work of the kernel. */
const found: Counterexample = explore(eoiNotForwarded.broken).counterexample!;
/** Four threads, and three places where the order is not the ordinary one. */
const turns: Counterexample = explore(forwardedInFlight.broken).counterexample!;
/** The same with text that is markup where it is not escaped. */
const hostile: Counterexample = {
  ...found,
  program: "<script>document.body.remove()</script>",
  failure: { ...found.failure, reason: 'a < b && "c" > <b>d</b>' },
  steps: found.steps.map((step) => ({ ...step, label: `</td></tr></table>${step.label}` })),
};

const browser = chromium();
const where =
  browser === undefined ? "in Chromium (skipped: none in the path, and CHROMIUM names none)" : "in Chromium";

/** What a reader sees, as the browser has laid it out. */
interface Seen {
  heading: string;
  lanes: string[];
  rows: { number: string; cells: string[]; height: number; colored: boolean }[];
  failure: string;
  failureHeight: number;
}

const look = `<pre id="seen"></pre><script>{
  const text = (element) => element.innerText.trim();
  const plain = getComputedStyle(document.body).backgroundColor;
  const failure = document.querySelectorAll(".failure");
  document.getElementById("seen").textContent = encodeURIComponent(JSON.stringify({
    heading: text(document.querySelector("h1")),
    lanes: [...document.querySelectorAll("thead th")].slice(1).map(text),
    rows: [...document.querySelectorAll("tbody tr")].map((row) => ({
      number: text(row.querySelector("th")),
      cells: [...row.querySelectorAll("td")].map(text),
      height: row.getBoundingClientRect().height,
      colored: getComputedStyle(row).backgroundColor !== plain,
    })),
    failure: [...failure].map(text).join(),
    failureHeight: failure[0].getBoundingClientRect().height,
  }));
}</script>`;

function see(counterexample: Counterexample): Seen {
  const folder = mkdtempSync(join(tmpdir(), "fake-kvm-counterexample-"));
  const path = join(folder, "page.html");
  writeFileSync(path, toHtml(counterexample).replace("</html>", `${look}</html>`));
  const dom = open(browser!, `file://${path}`, "--dump-dom");
  rmSync(folder, { recursive: true });
  return JSON.parse(decodeURIComponent(/<pre id="seen">([^<]*)</.exec(dom)![1])) as Seen;
}

describe.skipIf(browser === undefined)(where, () => {
  test.each([
    ["work of the kernel", found],
    ["three turns", turns],
    ["text full of markup", hostile],
  ])(
    "%s: a row a step, each in its lane, and what went wrong",
    (_, counterexample) => {
      const { heading, lanes, rows, failure, failureHeight } = see(counterexample);
      const { steps, deviations } = counterexample;
      expect(heading).toBe(counterexample.program);
      expect(lanes).toEqual([...new Set(steps.map(({ actor }) => actor))]);
      expect(rows.map(({ number }) => number)).toEqual(steps.map((_, i) => `${i + 1}`));
      for (const [i, { cells, height, colored }] of rows.entries()) {
        const filled = lanes.filter((_, lane) => cells[lane] !== "");
        expect(filled).toEqual([steps[i].actor]);
        expect(cells.join("").startsWith(steps[i].label)).toBe(true);
        expect(height).toBeGreaterThan(0);
        expect(colored).toBe(deviations.some(({ step }) => step === i));
      }
      expect(failure).toBe(counterexample.failure.reason);
      expect(failureHeight).toBeGreaterThan(0);
    },
    90_000,
  );
});

test("the counterexamples have what is looked at: lanes and turns", () => {
  const sizes = [found, turns].map(({ steps, deviations }) => [
    new Set(steps.map(({ actor }) => actor)).size,
    deviations.length,
  ]);
  expect(sizes).toEqual([
    [3, 1],
    [4, 3],
  ]);
});

describe("the Trace Event Format", () => {
  type Event = Record<string, unknown>;
  const isString = (value: unknown) => typeof value === "string" && value !== "";
  const isTime = (value: unknown) => typeof value === "number" && Number.isFinite(value) && value >= 0;
  const isId = (value: unknown) => Number.isInteger(value);
  const isObject = (value: unknown) => typeof value === "object" && value !== null && !Array.isArray(value);
  const isNamed = (value: unknown) => isObject(value) && isString((value as Event).name);
  const isOptional = (value: unknown) => value === undefined || isObject(value);
  /** By phase: the fields it must have and what they are; it has no others. */
  const phases: Record<string, Record<string, (value: unknown) => boolean>> = {
    // complete events
    X: { name: isString, pid: isId, tid: isId, ts: isTime, dur: isTime, args: isOptional },
    // instant events; the scope is global, process or thread
    i: {
      name: isString,
      pid: isId,
      tid: isId,
      ts: isTime,
      s: (value) => ["g", "p", "t"].includes(value as string),
    },
    // metadata
    M: {
      name: (value) => ["process_name", "thread_name"].includes(value as string),
      pid: isId,
      tid: isId,
      args: isNamed,
    },
  };

  test.each([
    ["work of the kernel", found],
    ["three turns", turns],
    ["text full of markup", hostile],
  ])("%s: every event has what its phase needs", (_, counterexample) => {
    const { traceEvents, displayTimeUnit, ...rest } = JSON.parse(toPerfetto(counterexample)) as Event;
    expect(rest).toEqual({});
    expect(["ms", "ns"]).toContain(displayTimeUnit);
    const wrong = (traceEvents as Event[]).filter(({ ph, ...fields }) => {
      const rules = phases[ph as string];
      if (rules === undefined) return true;
      const names = new Set([...Object.keys(rules), ...Object.keys(fields)]);
      return [...names].some((name) => rules[name]?.(fields[name]) !== true);
    });
    expect(wrong).toEqual([]);
  });

  test("a slice a step on the track of its actor, in order and side by side; the failure ends it", () => {
    const { traceEvents } = JSON.parse(toPerfetto(found)) as { traceEvents: Event[] };
    const of = (phase: string) => traceEvents.filter(({ ph }) => ph === phase);
    const tracks = new Map(
      of("M")
        .filter(({ name }) => name === "thread_name")
        .map(({ tid, args }) => [tid, (args as { name: string }).name]),
    );
    const slices = of("X");
    expect(slices.map(({ name, tid }) => [name, tracks.get(tid)])).toEqual(
      found.steps.map(({ label, actor }) => [label, actor]),
    );
    const end = slices.reduce((time, { ts, dur }) => {
      expect(ts).toBe(time);
      return time + (dur as number);
    }, 0);
    expect(of("i").map(({ name, ts }) => [name, ts])).toEqual([[found.failure.reason, end]]);
  });
});
