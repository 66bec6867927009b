/**
 * What the page runs: the example of irqfd resampling, and a replay of a recorded trace. Bundled for the browser by
 * `bundle.ts`, which puts the trace in.
 */
import { resampling } from "../../lib/examples/resampling.ts";
import { Machine } from "../../lib/index.ts";
import { parseTrace, replay, Strace } from "../../lib/trace/index.ts";

declare const TRACE: string;
declare const document: {
  getElementById(id: string): { textContent: string };
};

const show = (id: string, text: string): void => {
  document.getElementById(id).textContent = text;
};

show(
  "resampling",
  resampling(new Machine().process())
    .map((step, i) => `${i + 1}. ${step}`)
    .join("\n"),
);

const trace = parseTrace(TRACE, "memslots");
const { calls, identical, different } = replay(trace);
const strace = new Strace(trace.header);
show("verdict", `${calls} calls replayed: ${identical} identical, ${different} different`);
show("trace", trace.lines.map((line) => strace.line(line)).join("\n"));
