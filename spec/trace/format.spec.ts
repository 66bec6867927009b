import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { afterAll, describe, expect, test } from "vitest";
import { readTrace, writeTrace } from "../../lib/trace/files.ts";
import {
  formatTrace,
  fromHexNumber,
  parseTrace,
  TraceError,
  type TraceHeader,
  type TraceLine,
} from "../../lib/trace/format.ts";

const header: TraceHeader = {
  format: "kvm-vfio-trace",
  version: 1,
  kernel: "6.18",
  arch: "x86_64",
  kvm: null,
  host: { iommu: "intel" },
  somethingElse: [1],
};

/** One line of every kind, with every key. */
const lines: TraceLine[] = [
  { n: 1, tid: 2, call: "open", path: "/dev/kvm", flags: "0x80002", ret: 3 },
  { n: 2, call: "open", path: "/dev/none", flags: "0x0", ret: -1, errno: "ENOENT" },
  { n: 3, call: "close", fd: 3, ret: 0 },
  { n: 4, call: "dup", fd: 3, ret: 4 },
  { n: 5, call: "ioctl", fd: 3, request: "0xae01", name: "KVM_CREATE_VM", arg: "0x0", ret: 4 },
  { n: 6, call: "ioctl", fd: 3, request: "0xae01", argmap: { map: "m1", offset: 8 }, ret: 4 },
  {
    n: 7,
    call: "ioctl",
    fd: 3,
    request: "0x1",
    in: "0000000000000000ff00000000000000",
    out: "0000000000000000fe00000000000000",
    pointers: [{ at: 0, map: "m1", offset: 16 }],
    deref: [{ at: 8, in: "00", out: "01" }],
    volatile: [[8, 1]],
    ret: 0,
    signal: true,
    kicked: true,
    thread: true,
    process: "child",
  },
  { n: 8, call: "read", fd: 3, count: 8, out: "0100000000000000", volatile: [[0, 8]], ret: 8 },
  { n: 9, call: "pread", fd: 3, count: 8, offset: "0x70000000000", ret: -1, errno: "EIO" },
  { n: 10, call: "write", fd: 3, in: "00", ret: 1 },
  { n: 11, call: "pwrite", fd: 3, in: "00", offset: "0x1", ret: 1 },
  { n: 12, call: "mmap", length: 4096, prot: 3, flags: "0x22", fd: -1, offset: "0x0", map: "m1", ret: 0 },
  { n: 13, call: "munmap", map: "m1", ret: 0 },
  { n: 14, call: "peek", map: "m1", offset: 0, bytes: "00", width: 1, volatile: [[0, 1]] },
  { n: 15, call: "peek", map: "m1", offset: 0, count: 4, width: 4, signal: "SIGBUS" },
  { n: 16, call: "poke", map: "m1", offset: 0, bytes: "00", width: 1, signal: "SIGSEGV" },
  { n: 17, call: "eventfd2", initval: 0, flags: "0x800", ret: 5 },
  { n: 18, call: "poll", fds: [{ fd: 5, events: 1, revents: 0 }], timeout: 0, ret: 0 },
  { n: 19, call: "fcntl", fd: 5, cmd: 3, arg: "0x0", ret: 2 },
  {
    n: 20,
    call: "setrlimit",
    resource: "RLIMIT_MEMLOCK",
    limit: 65536,
    without_cap_ipc_lock: true,
    ret: 0,
  },
  { n: 21, call: "settle" },
  { n: 22, call: "note", text: "a comment" },
  { n: 23, call: "event", what: "sysfs", writes: [{ path: "/sys/x", value: "Y" }] },
];

const folder = mkdtempSync(join(tmpdir(), "trace-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("round trip", () => {
  test("text: every kind of line comes back as it was", () => {
    const text = formatTrace({ header, lines });
    expect(text.split("\n")).toHaveLength(lines.length + 2);
    const trace = parseTrace(text, "t");
    expect(trace).toEqual({ name: "t", header, lines });
    expect(formatTrace(trace)).toBe(text);
  });

  test.each(["t.jsonl", "t.jsonl.gz"])("file: %s", (name) => {
    const path = join(folder, name);
    writeTrace(path, { header, lines });
    expect(readTrace(path)).toEqual({ name, header, lines });
  });

  test("compressed files of the same trace are the same bytes", () => {
    const [a, b] = ["a.jsonl.gz", "b.jsonl.gz"].map((name) => {
      writeTrace(join(folder, name), { header, lines });
      return readFileSync(join(folder, name));
    });
    expect(a.equals(b)).toBe(true);
    expect(gunzipSync(a).toString()).toBe(formatTrace({ header, lines }));
  });

  test("every trace of the fixtures is read, and comes back equal", () => {
    const root = new URL("../../fixtures/traces", import.meta.url).pathname;
    const files = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) =>
      name.endsWith(".jsonl.gz"),
    );
    expect(files.length).toBeGreaterThanOrEqual(196);
    for (const file of files) {
      const trace = readTrace(join(root, file), file);
      expect(parseTrace(formatTrace(trace), file)).toEqual(trace);
    }
  });
});

describe("the reader says what is wrong, and where", () => {
  const good = JSON.stringify(header);
  const close = '{"n":1,"call":"close","fd":3,"ret":0}';
  const wrong: [what: string, text: string, message: string][] = [
    ["nothing", "", "t: empty: a trace starts with a header"],
    ["no JSON", "{", "t:1: not JSON"],
    ["no object", "[]", "t:1: [] is not an object"],
    ["no header", close, 't:1: not the header of a trace: "format" is missing'],
    ["version", good.replace('"version":1', '"version":2'), '"version" is 1, the only version'],
    [
      "architecture",
      good.replace("x86_64", "mips"),
      '"arch" is x86_64, arm64, ppc64le, riscv64 (it is "mips")',
    ],
    ["release", good.replace("6.18", "new"), '"kernel" is a release such as "6.18" (it is "new")'],
    ["kind", `${good}\n{"n":1,"call":"clone"}`, 't:2: "call" is "clone", not one of open'],
    ["prototype", `${good}\n{"n":1,"call":"toString"}`, 't:2: "call" is "toString", not one of'],
    ["no JSON later", `${good}\n${close}\nx`, "t:3: not JSON"],
    ["empty line", `${good}\n\n${close}`, "t:2: not JSON"],
    ["missing key", `${good}\n{"n":1,"call":"close","ret":0}`, 't:2: close: "fd" is missing'],
    [
      "unknown key",
      `${good}\n{"n":1,"call":"close","fd":3,"ret":0,"x":1}`,
      't:2: close: "x" is not a key that is known here',
    ],
    [
      "kind of a key",
      `${good}\n{"n":1,"call":"close","fd":"3","ret":0}`,
      't:2: close: "fd" is a whole number (it is "3")',
    ],
    [
      "no errno",
      `${good}\n{"n":1,"call":"close","fd":3,"ret":-1}`,
      '"ret" is negative but "errno" is missing',
    ],
    [
      "errno",
      `${good}\n{"n":1,"call":"close","fd":3,"ret":0,"errno":"EBADF"}`,
      '"errno" stands beside a "ret" ≥ 0',
    ],
    ["hex", `${good}\n{"n":1,"call":"write","fd":3,"in":"0G","ret":1}`, '"in" is lower-case hex'],
    ["half a byte", `${good}\n{"n":1,"call":"write","fd":3,"in":"0","ret":1}`, '"in" is lower-case hex'],
    [
      "two arguments",
      `${good}\n{"n":1,"call":"ioctl","fd":3,"request":"0x1","arg":"0x0","in":"","ret":0}`,
      'exactly one of "arg", "argmap" and "in"',
    ],
    [
      "lengths",
      `${good}\n{"n":1,"call":"ioctl","fd":3,"request":"0x1","in":"00","out":"0000","ret":0}`,
      '"out" is as long as "in"',
    ],
    [
      "pointer outside",
      `${good}\n{"n":1,"call":"ioctl","fd":3,"request":"0x1","in":"00","pointers":[{"at":0,"map":"m1","offset":0}],"ret":0}`,
      "the pointer at 0 does not fit into 1 bytes",
    ],
    [
      "inside a list",
      `${good}\n{"n":1,"call":"poll","fds":[{"fd":3,"events":1}],"timeout":0,"ret":0}`,
      '"fds" is an array whose entry 0 is an object in which "revents" is missing',
    ],
    [
      "map",
      `${good}\n{"n":1,"call":"mmap","length":1,"prot":1,"flags":"0x1","fd":-1,"offset":"0x0","ret":0}`,
      '"map" is missing',
    ],
    ["peek", `${good}\n{"n":1,"call":"peek","map":"m1","offset":0}`, 'exactly one of "bytes" and "signal"'],
    ["read", `${good}\n{"n":1,"call":"read","fd":1,"count":1,"ret":1}`, '"out" is missing'],
  ];
  test.each(wrong)("%s", (_what, text, message) => {
    expect(() => parseTrace(text, "t")).toThrow(TraceError);
    expect(() => parseTrace(text, "t")).toThrow(message);
  });

  test("a file that is not there, and one that is cut", () => {
    expect(() => readTrace(join(folder, "none.jsonl"))).toThrow(TraceError);
    const path = join(folder, "cut.jsonl.gz");
    writeFileSync(path, gzipSync(good).subarray(0, -9));
    expect(() => readTrace(path)).toThrow(`${path}: cannot be read`);
  });

  test("what a file holds counts, not its name", () => {
    for (const [name, bytes] of [
      ["plain.jsonl.gz", good],
      ["compressed.jsonl", gzipSync(good)],
    ] as const) {
      writeFileSync(join(folder, name), bytes);
      expect(readTrace(join(folder, name), "t")).toEqual(parseTrace(good, "t"));
    }
  });
});

test("numbers above 2^53 are bigints", () => {
  expect(fromHexNumber("0x20000000000000")).toBe(0x20000000000000n);
  expect(fromHexNumber("0x1fffffffffffff")).toBe(0x1fffffffffffff);
  expect(fromHexNumber("0xfffffffffffff000")).toBe(0xfffffffffffff000n);
});
