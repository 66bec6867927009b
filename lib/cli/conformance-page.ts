/**
 * The page behind the table of the README: for each recorded kernel, by area, how many answers were compared, how many
 * are identical, and what differs with its reason. Every number, name and list in it comes from the fixtures and from the
 * code that compares.
 */
import fc from "fast-check";
import { requestList } from "../abi/requests.ts";
import { groupNames, groups } from "../fuzz/groups.ts";
import type { Operation } from "../fuzz/program.ts";
import { tamingRules, volatileRules } from "../fuzz/rules.ts";
import { type Area, Areas, areas } from "../trace/areas.ts";
import { readTrace } from "../trace/files.ts";
import type { Trace, TraceLine } from "../trace/format.ts";
import type { KnownCall } from "../trace/known.ts";
import { isCall, replay } from "../trace/replay.ts";
import { type TraceFile, traceFiles } from "./files.ts";

interface Counts {
  calls: number;
  identical: number;
  known: number;
}

/** What was recorded on one kernel. */
interface Recorded {
  readonly arch: string;
  /** "6.18" */
  readonly release: string;
  /** "pvm"; without KVM: null */
  readonly flavour: string | null;
  traces: number;
  readonly byArea: Map<Area, Counts>;
}

interface GuestTraces {
  traces: number;
  calls: number;
  identical: number;
}

interface Found {
  readonly kernels: Map<string, Recorded>;
  /** by folder */
  readonly guests: Map<string, GuestTraces>;
  /** by reason: where */
  readonly known: Map<string, string[]>;
  volatileBytes: number;
  volatileCalls: number;
  excludedBytes: number;
}

const zero = (): Counts => ({ calls: 0, identical: 0, known: 0 });

/** The page, from folders of traces. */
export function conformancePage(folders: readonly string[], known: readonly KnownCall[]): string {
  const found: Found = {
    kernels: new Map(),
    guests: new Map(),
    known: new Map(),
    volatileBytes: 0,
    volatileCalls: 0,
    excludedBytes: 0,
  };
  for (const folder of folders) for (const file of traceFiles([folder])) compared(file, known, found);
  return [
    introduction,
    kernelsOf(found),
    differences(found),
    guestsOf(found),
    leftOut(found),
    fuzzed(),
    "",
  ].join("\n\n");
}

function compared({ path, name }: TraceFile, known: readonly KnownCall[], found: Found): void {
  const trace = { ...readTrace(path, path), name };
  const result = replay(trace);
  const wrong = new Map(result.differences.map((difference) => [difference.line, difference]));
  found.excludedBytes += result.excludedBytes;
  if (name.includes("guest-code/")) {
    const folder = path.split("/").slice(-4, -2).join("/");
    const guests = found.guests.get(folder) ?? { traces: 0, calls: 0, identical: 0 };
    guests.traces++;
    guests.calls += result.calls;
    guests.identical += result.identical;
    found.guests.set(folder, guests);
    return;
  }
  const kernel = kernelOf(trace, found);
  kernel.traces++;
  const areasOf = new Areas(trace.header);
  trace.lines.forEach((line, index) => {
    const area = areasOf.of(line);
    if (!isCall(line)) return;
    let counts = kernel.byArea.get(area);
    if (counts === undefined) kernel.byArea.set(area, (counts = zero()));
    counts.calls++;
    countVolatile(line, found);
    if (!wrong.has(index + 2)) {
      counts.identical++;
      return;
    }
    const meant = known.find(
      ({ trace: scenario, call }) => scenario === trace.header.scenario && call === line.n,
    );
    if (meant === undefined) return;
    counts.known++;
    const where = found.known.get(meant.reason) ?? [];
    found.known.set(meant.reason, [...where, `${name}, call ${line.n}`]);
  });
}

/** By architecture, release and flavour, whatever folder the trace stands in. */
function kernelOf({ header }: Trace, found: Found): Recorded {
  const release = header.kernel.split(/[.\-+]/, 2).join(".");
  const key = [header.arch, release, header.kvm].join(" ");
  let kernel = found.kernels.get(key);
  if (kernel === undefined) {
    kernel = { arch: header.arch, release, flavour: header.kvm, traces: 0, byArea: new Map() };
    found.kernels.set(key, kernel);
  }
  return kernel;
}

function countVolatile(line: TraceLine, found: Found): void {
  if (!("volatile" in line) || line.volatile === undefined || line.volatile.length === 0) return;
  found.volatileCalls++;
  for (const [, length] of line.volatile) found.volatileBytes += length;
}

const introduction = `# Conformance

Made by \`npm run conformance\` from the traces under \`fixtures\`; a test fails where it is stale.

A call is one system call, or one access to mapped memory, of a recorded program. The fake is built from the header of the
trace and makes the same calls. An answer is identical if its result, errno, every byte that the kernel wrote and every poll
event are. A known difference is meant to be, and has a reason. What is neither is different.`;

function kernelsOf({ kernels }: Found): string {
  const sorted = [...kernels.values()].sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
  const total = zero();
  let traces = 0;
  const rows = sorted.map((kernel) => {
    const sum = sumOf(kernel.byArea.values());
    add(total, sum);
    traces += kernel.traces;
    return row(nameOf(kernel), kernel.traces, sum);
  });
  const architectures = [...new Set(sorted.map(({ arch }) => arch))];
  return [
    "## Kernels",
    table(
      ["recorded kernel", "traces", "calls", "identical", "known", "different"],
      [...rows, row("**all**", traces, total)],
    ),
    "## Areas",
    "How many calls were compared. All of them are identical where nothing else is said.",
    ...architectures.map(
      (arch) => `### ${arch}\n\n${areasOn(sorted.filter((kernel) => kernel.arch === arch))}`,
    ),
  ].join("\n\n");
}

/** The areas of the kernels of one architecture. */
function areasOn(kernels: readonly Recorded[]): string {
  const rows = areas
    .filter((area) => kernels.some(({ byArea }) => byArea.has(area)))
    .map((area) => [area, ...kernels.map(({ byArea }) => cell(byArea.get(area)))]);
  return table(
    ["area", ...kernels.map(({ release, flavour }) => [release, flavour].filter(Boolean).join(" "))],
    rows,
  );
}

function cell(counts: Counts | undefined): string {
  if (counts === undefined) return "";
  const { calls, identical, known } = counts;
  const different = calls - identical - known;
  const parts = [known === 0 ? "" : `${known} known`, different === 0 ? "" : `${different} different`];
  const told = parts.filter((part) => part !== "").join(", ");
  return told === "" ? String(calls) : `${calls} (${told})`;
}

const nameOf = ({ arch, release, flavour }: Recorded): string =>
  `${arch}, Linux ${release}${flavour === null ? "" : `, ${flavour}`}`;

function add(sum: Counts, { calls, identical, known }: Counts): void {
  sum.calls += calls;
  sum.identical += identical;
  sum.known += known;
}

function sumOf(all: Iterable<Counts>): Counts {
  const sum = zero();
  for (const counts of all) add(sum, counts);
  return sum;
}

const row = (name: string, traces: number, { calls, identical, known }: Counts): readonly string[] =>
  [name, traces, calls, identical, known, calls - identical - known].map(String);

/** Text to the left, numbers to the right. */
const table = (headings: readonly string[], rows: readonly (readonly string[])[]): string =>
  [headings, headings.map((_, i) => (i === 0 ? "---" : "---:")), ...rows]
    .map((cells) => `| ${cells.join(" | ")} |`)
    .join("\n");

function differences({ known }: Found): string {
  const list = [...known].map(([reason, where]) => `- ${reason} (${where.join("; ")})`);
  return ["## Known differences", list.length === 0 ? "None." : list.join("\n")].join("\n\n");
}

function guestsOf({ guests }: Found): string {
  return [
    "## Guests in machine code of arm64 and POWER",
    `Here a guest of these architectures is a script, not machine code, so a replay of these recordings parts from the kernel
at the first answer that depends on what the guest did. The tests replay them with a script in the place of the code, and
there every answer is identical (\`spec/kvm/arm64/recorded.spec.ts\`, \`spec/kvm/ppc/recorded.spec.ts\`). Without it:`,
    table(
      ["recorded guests", "traces", "calls", "identical"],
      [...guests].map(([name, { traces, calls, identical }]) => [
        name,
        ...[traces, calls, identical].map(String),
      ]),
    ),
  ].join("\n\n");
}

const leftOut = ({ volatileBytes, volatileCalls, excludedBytes }: Found): string => `## What is not compared

- Bytes that differ from run to run on the recorded kernel itself, such as a timer's current count: ${volatileBytes} bytes in
  ${volatileCalls} answers, marked in the traces.
- Registers of devices that no model here knows, such as a network card's: ${excludedBytes} bytes.
- How long a call took.`;

/** how many operations of a group are drawn to see which requests it makes */
const DRAWN = 1500;

function fuzzed(): string {
  const made = new Set<string>();
  const rows = groupNames.map((name) => {
    const requests = new Set<string>();
    for (const operation of fc.sample(groups[name], { seed: 1, numRuns: DRAWN }))
      collect(operation, requests);
    if (name !== "misplaced" && name !== "hostile") for (const request of requests) made.add(request);
    const list = [...requests].sort();
    return `| ${name} | ${list.length > MANY ? `${list.length} requests` : list.join(", ")} |`;
  });
  const never = requestList("x86_64")
    .filter(({ name, on }) => name.startsWith("KVM_") && on.length > 0 && !made.has(name))
    .map(({ name }) => name)
    .sort();
  return `## Random programs

\`npx fake-kvm fuzz --against native\` compares random programs on the fake and on the \`/dev/kvm\` of its host, call by call, on
x86. What differed stands in \`fixtures/counterexamples\` as traces, which are identical now and are counted above. A program
draws from some of these groups:

| group | what it makes |
| --- | --- |
${rows.join("\n")}

No group is made for these requests (\`misplaced\` and \`hostile\` make most of them with random arguments):
${never.join(", ")}.

Other architectures and VFIO have no random programs against a live kernel: their recordings hold some.

Arguments that are changed before both kernels see them:

${tamingRules.map(({ name }) => `- ${name}`).join("\n")}

Bytes of answers that are not compared:

${volatileRules.map(({ name }) => `- ${name}`).join("\n")}`;
}

/** more requests than this are counted, not listed */
const MANY = 24;

/** The requests and system calls of an operation. */
function collect(operation: Operation, into: Set<string>): void {
  switch (operation.op) {
    case "ioctl":
      if (typeof operation.request === "string") into.add(operation.request);
      return;
    case "modify":
      into.add(operation.get);
      into.add(operation.set);
      return;
    case "cpuid":
      into.add("KVM_GET_SUPPORTED_CPUID");
      into.add("KVM_SET_CPUID2");
      return;
    case "run":
      into.add("KVM_RUN");
      return;
    case "repeat":
      collect(operation.operation, into);
      return;
    case "readback":
      return;
    default:
      into.add(operation.op);
  }
}
