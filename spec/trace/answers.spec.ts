/** Questions are recorded lines without their answers; the answers are the lines that the kernel's were. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type ServeOptions, serveCommand } from "../../lib/cli/serve.ts";
import { Answers } from "../../lib/trace/answers.ts";
import { readTrace, writeTrace } from "../../lib/trace/files.ts";
import {
  fromHex,
  type TraceHeader,
  type TraceLine,
  toHex,
  type VolatileRange,
} from "../../lib/trace/format.ts";

const header: TraceHeader = {
  format: "kvm-vfio-trace",
  version: 1,
  kernel: "6.18",
  arch: "x86_64",
  kvm: "pvm",
  host: {},
};

/** what an answer tells, and who made the call in which way */
const notAsked = ["ret", "errno", "out", "volatile", "signal", "kicked", "thread"];

/** What a program would ask. */
function question(line: TraceLine): string {
  const rest: Record<string, unknown> = { ...line };
  for (const key of notAsked) delete rest[key];
  if (line.call === "peek") {
    delete rest.bytes;
    rest.count = line.bytes === undefined ? line.count : line.bytes.length / 2;
  }
  if (line.call === "poll") rest.fds = line.fds.map(({ fd, events }) => ({ fd, events }));
  if (line.call === "ioctl" && line.deref !== undefined)
    rest.deref = line.deref.map(({ at, in: given }) => ({ at, in: given }));
  return JSON.stringify(rest);
}

const blank = (hex: string, ranges: readonly VolatileRange[] = []): string => {
  const bytes = fromHex(hex);
  for (const [at, length] of ranges) bytes.fill(0, at, at + length);
  return toHex(bytes);
};

/** A line whose bytes that differ from run to run are zero; one that has none of its own shows those that went in. */
function comparable(line: TraceLine, { volatile }: { volatile?: VolatileRange[] }): object {
  const rest: Record<string, unknown> = { ...line };
  for (const key of ["volatile", "name", "kicked", "thread"]) delete rest[key];
  if (line.call === "ioctl") delete rest.signal;
  if (line.call === "ioctl" && line.in !== undefined) rest.out = blank(line.out ?? line.in, volatile);
  if (line.call === "read" && line.out !== undefined) rest.out = blank(line.out, volatile);
  if (line.call === "peek" && line.bytes !== undefined) rest.bytes = blank(line.bytes, volatile);
  return rest;
}

const folder = "fixtures/traces/x86_64-kvm-6.18";
// Children and threads do not ask.
const untold = ["memslots", "qemu_pc"];
const names = [
  ...readdirSync(folder)
    .filter((name) => !untold.includes(name.replace(".jsonl.gz", "")))
    .map((name) => `${folder}/${name}`),
  "fixtures/traces/x86_64-vfio-6.12/A_lifecycle-intel.jsonl.gz",
  "fixtures/traces/arm64-kvm-6.12/its.jsonl.gz",
  "fixtures/traces/ppc64le-kvm-6.12/xics-sources.jsonl.gz",
];

describe("the questions of a recorded program", () => {
  test.each(names)("%s", (name) => {
    const trace = readTrace(name);
    const answers = new Answers(trace.header);
    for (const line of trace.lines) {
      const answer = answers.answer(question(line));
      expect("error" in answer ? answer : comparable(answer, line as never)).toEqual(
        comparable(line, line as never),
      );
    }
  });
});

describe("what is no question", () => {
  test("is told, and the next one is answered", () => {
    const answers = new Answers(header);
    expect(answers.answer("{")).toMatchObject({ error: expect.stringContaining("question 1: not JSON") });
    expect(answers.answer("[]")).toEqual({ error: "question 2: not an object" });
    expect(answers.answer('{"call":"clone"}')).toMatchObject({ error: expect.stringContaining('"call" is') });
    expect(answers.answer('{"call":"close"}')).toMatchObject({
      error: expect.stringContaining('"fd" is missing'),
    });
    expect(
      answers.answer('{"call":"ioctl","fd":3,"request":"0xae80","arg":"0x0","thread":true}'),
    ).toMatchObject({
      error: expect.stringContaining("one thread"),
    });
    expect(answers.answer('{"call":"munmap","map":"m9"}')).toEqual({
      error: "question 6: no mapping is called m9",
    });
    expect(answers.answer('{"call":"read","fd":3,"count":1e15}')).toMatchObject({
      error: expect.stringContaining("too many"),
    });
    expect(answers.answer('{"call":"open","path":"/dev/kvm","flags":"0x2"}')).toMatchObject({ ret: 3 });
  });
});

describe("fake-kvm serve", () => {
  async function served(questions: string[], options: ServeOptions = { host: "x86_64_6_18_pvm" }) {
    const out: string[] = [];
    const output = { print: (text: string) => void out.push(text), warn: () => {} } as never;
    const input = (async function* () {
      yield* questions;
    })();
    return { code: await serveCommand(options, output, input), out };
  }

  test("a header, then a line for each question: a trace", async () => {
    const open = '{"call":"open","path":"/dev/kvm","flags":"0x2"}';
    const { code, out } = await served([
      open,
      "",
      '{"call":"mmap","length":4096,"prot":3,"flags":"0x22","fd":-1,"offset":"0x0"}',
      '{"call":"close","fd":7}',
    ]);
    expect(code).toBe(0);
    expect(out.length).toBe(4);
    expect(JSON.parse(out[0])).toMatchObject({ format: "kvm-vfio-trace", arch: "x86_64", kvm: "pvm" });
    expect(out.slice(1).map((line) => JSON.parse(line))).toEqual([
      { n: 1, call: "open", path: "/dev/kvm", flags: "0x2", ret: 3 },
      { n: 2, call: "mmap", length: 4096, prot: 3, flags: "0x22", fd: -1, offset: "0x0", ret: 0, map: "m1" },
      { n: 3, call: "close", fd: 7, ret: -1, errno: "EBADF" },
    ]);
  });

  test("only answers; the host of a trace", async () => {
    const folder = mkdtempSync(join(tmpdir(), "serve-"));
    const like = join(folder, "host.jsonl.gz");
    writeTrace(like, { header: { ...header, kvm: null }, lines: [{ n: 1, call: "settle" }] });
    const { out } = await served(['{"call":"open","path":"/dev/kvm","flags":"0x2"}'], {
      host: "",
      like,
      bare: true,
    });
    rmSync(folder, { recursive: true });
    expect(out.map((line) => JSON.parse(line).errno)).toEqual(["ENOENT"]);
  });

  test("the header of no host", async () => {
    const folder = mkdtempSync(join(tmpdir(), "serve-"));
    const like = join(folder, "host.jsonl");
    const pci = [{ bdf: "0000:00:01.0", class: 5 }] as never; // a class is text
    writeTrace(like, { header: { ...header, host: { modules: ["vfio"] }, pci, devices: [] }, lines: [] });
    await expect(served([], { host: "", like })).rejects.toThrow(`${like}: no host can be built from it: `);
    rmSync(folder, { recursive: true });
  });

  test("what is no question: exit code 1; a host that there is not: refused", async () => {
    expect((await served(["?"])).code).toBe(1);
    await expect(served([], { host: "vax" })).rejects.toThrow('no host "vax": x86_64_6_18_pvm');
  });
});
