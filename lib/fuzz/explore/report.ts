/**
 * A counterexample for people: numbered text, a Mermaid sequence diagram for an issue tracker, a trace for Perfetto or
 * chrome://tracing with a lane for each actor, and one HTML page that needs nothing else.
 */
import { errnoName } from "../../abi/errno.ts";
import type { Counterexample } from "./explore.ts";
import type { Step } from "./run.ts";

/** Whether a step is a system call (`Calls`), and not a device's, a guest's or deferred work's own. */
const isCall = ({ label }: Step): boolean => /^(open|close|eventfd2|ioctl|read|write)\(/.test(label);

const answer = (step: Step): string => {
  const { result } = step;
  if (result === undefined) return "";
  return result < 0 && isCall(step) ? ` = −${errnoName(-result)}` : ` = ${result}`;
};

/** Actors in the order in which they first go. */
const actors = (counterexample: Counterexample): string[] => [
  ...new Set(counterexample.steps.map(({ actor }) => actor)),
];

/** Numbered steps; a `*` marks where the order is not the ordinary one. */
export function toText(counterexample: Counterexample): string {
  const { program, steps, failure, deviations } = counterexample;
  const lanes = Math.max(...steps.map(({ actor }) => actor.length), 0);
  const digits = String(steps.length).length;
  const marked = new Set(deviations.map(({ step }) => step));
  return [
    `${program}: ${failure.reason}`,
    ...steps.map(
      (step, i) =>
        `${marked.has(i) ? "*" : " "} ${String(i + 1).padStart(digits)}  ${step.actor.padEnd(lanes)}  ${step.label}${answer(step)}`,
    ),
    `schedule: ${JSON.stringify(counterexample.schedule)}`,
  ].join("\n");
}

/** A Mermaid sequence diagram: actors call the kernel, or do something by themselves. */
export function toMermaid(counterexample: Counterexample): string {
  const ids = new Map(actors(counterexample).map((actor, i) => [actor, `a${i}`]));
  const plain = (text: string) => text.replaceAll(";", ",").replaceAll("#", "№");
  return [
    "sequenceDiagram",
    ...[...ids].map(([actor, id]) => `  participant ${id} as ${plain(actor)}`),
    "  participant k as kernel",
    ...counterexample.steps.map((step) => {
      const id = ids.get(step.actor);
      return `  ${id}->>${isCall(step) ? "k" : id}: ${plain(step.label + answer(step))}`;
    }),
    `  Note over k: ${plain(counterexample.failure.reason)}`,
  ].join("\n");
}

/** The Trace Event Format: one slice a step, one track an actor; a step is a microsecond. */
export function toPerfetto(counterexample: Counterexample): string {
  const lanes = new Map(actors(counterexample).map((actor, i) => [actor, i + 1]));
  const events = [
    { name: "process_name", ph: "M", pid: 1, tid: 0, args: { name: counterexample.program } },
    ...[...lanes].map(([actor, tid]) => ({
      name: "thread_name",
      ph: "M",
      pid: 1,
      tid,
      args: { name: actor },
    })),
    ...counterexample.steps.map((step, i) => ({
      name: step.label,
      ph: "X",
      pid: 1,
      tid: lanes.get(step.actor),
      ts: i,
      dur: 1,
      args: step.result === undefined ? {} : { result: step.result },
    })),
    { name: counterexample.failure.reason, ph: "i", pid: 1, tid: 0, ts: counterexample.steps.length, s: "g" },
  ];
  return JSON.stringify({ traceEvents: events, displayTimeUnit: "ns" });
}

/** One page: a column an actor, a row a step. */
export function toHtml(counterexample: Counterexample): string {
  const lanes = actors(counterexample);
  const marked = new Set(counterexample.deviations.map(({ step }) => step));
  const rows = counterexample.steps.map((step, i) => {
    const cells = lanes.map(
      (lane) => `<td>${lane === step.actor ? escapeHtml(step.label + answer(step)) : ""}</td>`,
    );
    return `<tr${marked.has(i) ? ' class="turn"' : ""}><th>${i + 1}</th>${cells.join("")}</tr>`;
  });
  const title = escapeHtml(`${counterexample.program}: ${counterexample.failure.reason}`);
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>${title}</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1a1a1a; }
  table { border-collapse: collapse; }
  th, td { padding: .35rem .8rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
  td { font-family: ui-monospace, monospace; font-size: 13px; max-width: 26rem; overflow-wrap: anywhere; }
  tbody th { color: #888; font-weight: normal; }
  .turn { background: #fff6d6; }
  .failure { margin-top: 1rem; padding: .6rem .9rem; background: #fde8e8; border-left: 4px solid #c0392b; }
</style>
<h1>${escapeHtml(counterexample.program)}</h1>
<p>A yellow row is where the order leaves the ordinary one.</p>
<table>
<thead><tr><th></th>${lanes.map((lane) => `<th>${escapeHtml(lane)}</th>`).join("")}</tr></thead>
<tbody>
${rows.join("\n")}
</tbody>
</table>
<p class="failure">${escapeHtml(counterexample.failure.reason)}</p>
</html>
`;
}

const escapeHtml = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
