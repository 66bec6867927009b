import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import picocolors from "picocolors";
import { afterAll, describe, expect, test } from "vitest";
import { architectures, requestsOf } from "../../lib/abi/requests.ts";
import { coverage } from "../../lib/cli/coverage.ts";
import { traceFiles } from "../../lib/cli/files.ts";
import { fit, type Output } from "../../lib/cli/output.ts";
import { run, VERSION } from "../../lib/cli/program.ts";
import { architectures as machines } from "../../lib/machine/machine.ts";
import { writeTrace } from "../../lib/trace/files.ts";
import type { TraceHeader, TraceLine } from "../../lib/trace/format.ts";

const folder = mkdtempSync(join(tmpdir(), "cli-"));
afterAll(() => rmSync(folder, { recursive: true }));

const header: TraceHeader = {
  format: "kvm-vfio-trace",
  version: 1,
  about: "a test",
  kernel: "6.18",
  arch: "x86_64",
  kvm: null,
  host: {},
};
const eventfd = (n: number, ret: number): TraceLine => ({
  n,
  call: "eventfd2",
  initval: 0,
  flags: "0x0",
  ret,
});
mkdirSync(join(folder, "set", "deep"), { recursive: true });
const same = join(folder, "set", "same.jsonl");
const other = join(folder, "set", "deep", "other.jsonl.gz");
const broken = join(folder, "broken.jsonl");
writeTrace(same, { header, lines: [eventfd(1, 3), { n: 2, call: "note", text: "x" }, eventfd(3, 4)] });
writeTrace(other, { header, lines: [eventfd(1, 3), eventfd(2, 9), eventfd(3, 8)] });
const object = join(folder, "object.json");
writeFileSync(object, "{}");
writeFileSync(broken, `${JSON.stringify(header)}\n{"n":1,"call":"clone"}\n`);

/** Runs a command line with a sink: exit code, what it printed, what it warned. */
function fakeKvm(args: string[], width = Number.POSITIVE_INFINITY) {
  const out: string[] = [];
  const err: string[] = [];
  const output: Output = {
    print: (text) => void out.push(text),
    warn: (text) => void err.push(text),
    width,
    interactive: false,
    colors: picocolors.createColors(false),
  };
  const code = run(args, output);
  return { code, out: out.join("\n"), err: err.join("\n"), last: out.at(-1) };
}

test("--version is that of the package", () => {
  const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
  expect(VERSION).toBe(version);
  expect(fakeKvm(["--version"])).toMatchObject({ code: 0, out: version });
});

describe("example", () => {
  test("without a name: which there are", () => {
    const { code, out } = fakeKvm(["example"]);
    expect(code).toBe(0);
    expect(out.split("\n").map((line) => line.split(":")[0])).toEqual(["resampling", "vmm"]);
  });

  test("resampling: five steps; its system calls", () => {
    expect(fakeKvm(["example", "resampling"]).out.split("\n").length).toBe(5);
    const { out } = fakeKvm(["example", "resampling", "--strace"]);
    const runs = out.split("\n").filter((line) => line.includes("KVM_RUN"));
    expect(runs.map((line) => line.split(" = ")[1])).toEqual(["-1 EINTR", "0", "-1 EINTR", "-1 EINTR"]);
  });

  test("another name", () => {
    expect(fakeKvm(["example", "qemu"])).toMatchObject({
      code: 2,
      err: 'fake-kvm: no example "qemu": resampling, vmm',
    });
  });
});

describe("replay", () => {
  test("identical: exit code 0, the sum in the last line", () => {
    const { code, last, err } = fakeKvm(["replay", same]);
    expect(code).toBe(0);
    expect(last).toBe("1 trace, 2 calls, 2 identical, 0 different");
    expect(err).toBe("");
  });

  test("different: exit code 1, the first difference of each trace", () => {
    const { code, out, last } = fakeKvm(["replay", join(folder, "set")]);
    expect(code).toBe(1);
    expect(last).toBe("2 traces, 5 calls, 3 identical, 2 different");
    const rows = out.split("\n").map((row) => row.split("│").map((cell) => cell.trim()));
    expect(rows.find((row) => row[1] === "same")?.slice(2, 7)).toEqual(["6.18", "2", "2", "0", ""]);
    expect(rows.find((row) => row[1] === "deep/other")?.slice(2, 7)).toEqual([
      "6.18",
      "3",
      "1",
      "2",
      "call 2 eventfd2: answered 4, the kernel answered 9",
    ]);
  });

  test("--verbose: every difference with its line", () => {
    const { out } = fakeKvm(["replay", "--verbose", other]);
    expect(out.split("\n").filter((row) => row.startsWith("  line"))).toEqual([
      "  line 3: call 2 eventfd2: answered 4, the kernel answered 9",
      "  line 4: call 3 eventfd2: answered 4, the kernel answered 8",
    ]);
  });

  test("--json: one document", () => {
    const { code, out } = fakeKvm(["replay", "--json", join(folder, "set")]);
    expect(code).toBe(1);
    const document = JSON.parse(out);
    expect(document).toMatchObject({ traces: 2, calls: 5, identical: 3, different: 2 });
    expect(document.results.map((result: { name: string }) => result.name)).toEqual(["deep/other", "same"]);
  });

  const long = join(folder, "long", "x86_64-vfio-6.12-and-then-some", "E3_sequences-intel-noir+unsafe.jsonl");
  mkdirSync(dirname(long), { recursive: true });
  writeTrace(long, { header: { ...header, kernel: "6.12.107+deb13-powerpc64le" }, lines: [eventfd(1, 9)] });
  test.each([80, 100, 135, 200])("the table fits a terminal of %i columns", (width) => {
    const { out } = fakeKvm(["replay", join(folder, "long")], width);
    const widest = Math.max(...out.split("\n").map((row) => row.length));
    expect(widest).toBeLessThanOrEqual(width);
  });
});

test.each([80, 100])("the coverage table fits a terminal of %i columns", (width) => {
  const rows = fakeKvm(["coverage"], width)
    .out.split("\n")
    .filter((row) => /^[│┌└]/.test(row));
  expect(rows.length).toBe(coverage().length + 3);
  expect(Math.max(...rows.map((row) => row.length))).toBeLessThanOrEqual(width);
});

describe("what cannot be done: exit code 2 and one message", () => {
  const cases: [what: string, args: string[], message: string][] = [
    [
      "no file",
      ["replay", join(folder, "none")],
      `fake-kvm: ${join(folder, "none")}: no such file or folder`,
    ],
    ["no trace in it", ["replay", tmpEmpty()], "no trace (*.jsonl, *.jsonl.gz) in this folder"],
    ["broken trace", ["replay", broken], `fake-kvm: ${broken}:2: "call" is "clone"`],
    ["broken trace, explained", ["explain", broken], `fake-kvm: ${broken}:2: "call" is "clone"`],
    ["a folder, explained", ["explain", folder], `${folder}: cannot be read`],
    [
      "no list of known differences",
      ["replay", same, "--known", join(folder, "none")],
      "none: cannot be read: no such file",
    ],
    ["a broken one", ["replay", same, "--known", broken], `fake-kvm: ${broken}: `],
    [
      "one that is no list",
      ["replay", same, "--known", object],
      `${object}: known differences are a list of objects`,
    ],
    [
      "a page in no folder",
      ["conformance", folder + "/set", "--page", join(folder, "none", "x.md")],
      "x.md: cannot be written: no such file",
    ],
    [
      "a page that is a folder",
      ["conformance", folder + "/set", "--page", folder],
      `${folder}: cannot be written: it is a folder`,
    ],
    [
      "no file for the table",
      ["conformance", folder + "/set", "--write", join(folder, "none.md")],
      "none.md: cannot be read: no such file",
    ],
    ["no markers for it", ["conformance", folder + "/set", "--write", object], "no markers <!-- conformance"],
    [
      "no group is left",
      ["fuzz", "--group", "irqfd", "--without", "irqfd"],
      "no group of operations is left",
    ],
    ["too large a seed", ["fuzz", "--seed", "9".repeat(20)], `${"9".repeat(20)} is too large a number`],
    ["no argument", ["replay"], "missing required argument"],
    ["unknown option", ["replay", "--nonsense", same], "unknown option '--nonsense'"],
    ["unknown command", ["nonsense"], "unknown command 'nonsense'"],
  ];
  test.each(cases)("%s", (_what, args, message) => {
    const { code, out, err } = fakeKvm(args);
    expect(code).toBe(2);
    expect(out).toBe("");
    expect(err).toContain(message);
    expect(err).not.toContain("    at ");
  });

  function tmpEmpty(): string {
    const empty = join(folder, "empty");
    mkdirSync(empty, { recursive: true });
    return empty;
  }
});

test("help is no error", () => {
  const { code, out } = fakeKvm(["--help"]);
  expect(code).toBe(0);
  for (const command of ["replay", "explain", "coverage"]) expect(out).toContain(command);
});

test("explain prints a line a call", () => {
  const { code, out } = fakeKvm(["explain", same]);
  expect(code).toBe(0);
  expect(out.split("\n")).toEqual([
    "# a test",
    "# x86_64, Linux 6.18",
    "1  eventfd2(0, 0) = 3",
    "2  /* x */",
    "3  eventfd2(0, 0) = 4",
  ]);
});

describe("coverage", () => {
  test("a request is implemented exactly where a dispatch table answers it", () => {
    const rows = coverage();
    const state = (name: string, on: string) =>
      rows.filter((row) => row.name === name && row.on === on).map((row) => row.states.x86_64);
    expect(state("KVM_GET_API_VERSION", "system")).toEqual(["implemented"]);
    expect(state("KVM_IOEVENTFD", "vm")).toEqual(["implemented"]);
    expect(state("KVM_ASSIGN_PCI_DEVICE", "vm")).toEqual(["answered as absent"]);
  });

  test("nothing that the headers declare is left out, nothing is listed twice", () => {
    const rows = coverage();
    const listed = new Set(rows.map((row) => row.name));
    for (const arch of architectures)
      for (const { name } of [...requestsOf(arch).values()].flat()) expect(listed).toContain(name);
    expect(new Set(rows.map((row) => `${row.name} ${row.on}`)).size).toBe(rows.length);
  });

  test("an architecture without a machine answers nothing", () => {
    for (const arch of architectures.filter((name) => machines[name] === undefined))
      expect(new Set(coverage().map((row) => row.states[arch]))).toEqual(new Set(["not yet"]));
  });

  test("the sums of the table are those of the list", () => {
    const states = coverage().map((row) => row.states.x86_64);
    const implemented = states.filter((state) => state === "implemented").length;
    const { out } = fakeKvm(["coverage"]);
    expect(out).toContain(`x86_64: ${states.length} request–file pairs, ${implemented} implemented, `);
    expect(JSON.parse(fakeKvm(["coverage", "--json"]).out)).toEqual(coverage());
  });
});

test("the table of conformance: a row a folder, and nothing is said of no calls", () => {
  const none = join(folder, "none", "header.jsonl");
  mkdirSync(dirname(none), { recursive: true });
  writeTrace(none, { header, lines: [] });
  expect(fakeKvm(["conformance", same, none]).out.split("\n").slice(2)).toEqual([
    "| none | 1 | 0 | 0 |  |",
    "| set | 1 | 2 | 2 | 100 % |",
    "| **all** | 2 | 2 | 2 | 100 % |",
  ]);
});

test("files stay as they are, folders are searched in order", () => {
  expect(traceFiles([same, join(folder, "set")]).map(({ name }) => name)).toEqual([
    "same",
    "deep/other",
    "same",
  ]);
});

test("text is cut with an ellipsis", () => {
  expect(fit("abcdef", 6)).toBe("abcdef");
  expect(fit("abcdef", 5)).toBe("abcd…");
});
