import { describe, expect, test } from "vitest";
import { load32, loadNumber64, store32 } from "../../lib/abi/struct.ts";
import { SIGBUS } from "../../lib/kernel/address-space.ts";
import type { Argument } from "../../lib/kernel/argument.ts";
import { File } from "../../lib/kernel/file.ts";
import { Kernel } from "../../lib/kernel/kernel.ts";
import { Process } from "../../lib/kernel/process.ts";
import type { TraceHeader, TraceLine } from "../../lib/trace/format.ts";
import {
  describe as inWords,
  type KernelUnderTest,
  type ReplayResult,
  replay,
} from "../../lib/trace/replay.ts";

const header: TraceHeader = {
  format: "kvm-vfio-trace",
  version: 1,
  kernel: "6.18",
  arch: "x86_64",
  kvm: "pvm",
  host: {},
};

const ADD = "0x7001"; // {a, b} → b += a; answers b
const DEREF = "0x7002"; // {pointer} → increments the u32 there
const THROW = "0x7003";
const SCRIBBLE = "0x7004"; // {pointer} → writes over the pointer itself
const KVM_CREATE_VM = "0xae01";
const KVM_CREATE_VCPU = "0xae41";
const KVM_CREATE_DEVICE = "0xc00caee0";
const KVM_GET_DIRTY_LOG = "0x4010ae42";
const KVM_IRQFD = "0x4020ae76";

/** A device node with a few requests, so that every way of travelling is there. */
class TestFile extends File {
  readonly name = "/dev/test";
  override readonly stream = false;
  override ioctl(process: Process, request: number, user: Argument): number {
    switch (request) {
      case Number(ADD): {
        if (!user.writable(8)) return -14;
        const sum = load32(user.bytes, user.at) + load32(user.bytes, user.at + 4);
        store32(user.bytes, user.at + 4, sum);
        return sum;
      }
      case Number(DEREF): {
        if (!user.readable(8)) return -14;
        const behind = user.pointer(loadNumber64(user.bytes, user.at));
        if (!behind.writable(4)) return -14;
        store32(behind.bytes, behind.at, load32(behind.bytes, behind.at) + 1);
        return 0;
      }
      case Number(SCRIBBLE):
        if (!user.writable(8)) return -14;
        store32(user.bytes, user.at, 5);
        return 0;
      case Number(KVM_GET_DIRTY_LOG): {
        if (!user.readable(16)) return -14;
        return user.pointer(loadNumber64(user.bytes, user.at + 8)).writable(8) ? 0 : -14;
      }
      case Number(THROW):
      case Number(KVM_CREATE_VCPU):
        throw new RangeError("a bug of ours");
      case Number(KVM_CREATE_VM):
        return process.install(new TestFile(this.kernel, 2), true);
      case Number(KVM_CREATE_DEVICE): {
        if (!user.writable(12)) return -14;
        const fd = process.install(new TestFile(this.kernel, 2), true);
        store32(user.bytes, user.at + 4, fd);
        return 0;
      }
      case Number(KVM_IRQFD):
        return user.readable(32) && process.fds.get(load32(user.bytes, user.at)) !== undefined ? 0 : -9;
      default:
        return -25;
    }
  }
  override read(user: Argument, count: number, offset: number): number {
    if (!user.writable(count)) return -14;
    user.bytes.fill(0x40 + offset, user.at, user.at + count);
    return count;
  }
  override mmap(): { device: { load(): number | typeof SIGBUS; store(offset: number): 0 | typeof SIGBUS } } {
    return { device: { load: () => 0x11223344, store: (offset: number) => (offset === 0 ? 0 : SIGBUS) } };
  }
}

function testKernel(): KernelUnderTest & { writes: string[] } {
  const kernel = new Kernel();
  kernel.nodes.set("/dev/test", (_process, flags) => new TestFile(kernel, flags));
  const writes: string[] = [];
  return {
    writes,
    process: (options) => new Process(kernel, options),
    sysfs(path, value) {
      writes.push(`${path}=${value}`);
      return path === "/sys/good" ? value.length : -2;
    },
  };
}

type Call = TraceLine extends infer L ? (L extends TraceLine ? Omit<L, "n"> : never) : never;

function run(calls: readonly Call[], more: Partial<TraceHeader> = {}, kernel = testKernel): ReplayResult {
  const lines = calls.map((call, index) => ({ n: index + 1, ...call }) as TraceLine);
  const result = replay({ name: "t", header: { ...header, ...more }, lines }, { kernel });
  expect(result.identical + result.different).toBe(result.calls);
  expect(result.differences).toHaveLength(result.different);
  return result;
}

/** The differences of a replay, in words. */
const differences = (calls: readonly Call[], more: Partial<TraceHeader> = {}): string[] =>
  run(calls, more).differences.map(inWords);

const open: Call = { call: "open", path: "/dev/test", flags: "0x2", ret: 3 };
const eventfd = (ret: number): Call => ({ call: "eventfd2", initval: 0, flags: "0x800", ret });
const anonymous: Call = {
  call: "mmap",
  length: 4096,
  prot: 3,
  flags: "0x22",
  fd: -1,
  offset: "0x0",
  map: "m1",
  ret: 0,
};
const device: Call = { ...anonymous, flags: "0x1", fd: 3, map: "d1" } as Call;

test("a trace that is answered as recorded is identical throughout", () => {
  const result = run([
    { call: "note", text: "notes and settles are no calls" },
    open,
    { call: "ioctl", fd: 3, request: ADD, in: "0100000002000000", out: "0100000003000000", ret: 3 },
    { call: "ioctl", fd: 3, request: ADD, in: "0000000002000000", ret: 2 },
    { call: "ioctl", fd: 3, request: ADD, in: "01", ret: -1, errno: "EFAULT" },
    { call: "ioctl", fd: 3, request: "0x99", arg: "0x0", ret: -1, errno: "ENOTTY" },
    {
      call: "ioctl",
      fd: 3,
      request: DEREF,
      in: "0000000000000000",
      deref: [{ at: 0, in: "07000000", out: "08000000" }],
      ret: 0,
    },
    { call: "settle" },
    anonymous,
    { call: "poke", map: "m1", offset: 8, bytes: "ff000000" },
    {
      call: "ioctl",
      fd: 3,
      request: DEREF,
      in: "0000000000000000",
      pointers: [{ at: 0, map: "m1", offset: 8 }],
      ret: 0,
    },
    { call: "peek", map: "m1", offset: 7, bytes: "000001" },
    { call: "ioctl", fd: 3, request: ADD, argmap: { map: "m1", offset: 8 }, ret: 256 },
    { call: "munmap", map: "m1", ret: 0 },
    device,
    { call: "peek", map: "d1", offset: 0, bytes: "4433221144332211", width: 4 },
    { call: "peek", map: "d1", offset: 1, bytes: "44" },
    { call: "poke", map: "d1", offset: 0, bytes: "01000000", width: 4 },
    { call: "poke", map: "d1", offset: 4, bytes: "01000000", width: 4, signal: "SIGBUS" },
    eventfd(4),
    { call: "write", fd: 4, in: "0500000000000000", ret: 8 },
    { call: "poll", fds: [{ fd: 4, events: 1, revents: 1 }], timeout: 0, ret: 1 },
    { call: "read", fd: 4, count: 8, out: "0500000000000000", ret: 8 },
    { call: "read", fd: 4, count: 8, ret: -1, errno: "EAGAIN" },
    { call: "pread", fd: 3, count: 2, offset: "0x1", out: "4141", ret: 2 },
    { call: "pwrite", fd: 4, in: "0500000000000000", offset: "0x0", ret: -1, errno: "ESPIPE" },
    { call: "dup", fd: 4, ret: 5 },
    { call: "fcntl", fd: 5, cmd: 3, arg: "0x0", ret: 0x802 },
    { call: "fcntl", fd: 5, cmd: 0, arg: "0x9", ret: 9 },
    { call: "setrlimit", resource: "RLIMIT_NOFILE", limit: 7, ret: 0 },
    { call: "event", what: "sysfs", writes: [{ path: "/sys/good", value: "Y" }] },
    { call: "close", fd: 5, ret: 0 },
  ]);
  expect(result.differences).toEqual([]);
  expect(result).toMatchObject({ name: "t", kernel: "6.18", arch: "x86_64", calls: 29, identical: 29 });
});

describe("each way to differ is told", () => {
  const ways: [what: string, before: Call[], call: Call, words: string][] = [
    [
      "a result",
      [open],
      { call: "ioctl", fd: 3, request: ADD, in: "0100000002000000", out: "0100000003000000", ret: 4 },
      "0x7001: answered 3, the kernel answered 4",
    ],
    [
      "an error for a result",
      [open],
      { call: "ioctl", fd: 3, request: "0x99", arg: "0x0", ret: 0 },
      "0x99: answered ENOTTY, the kernel answered 0",
    ],
    [
      "a result for an error",
      [open],
      { call: "close", fd: 3, ret: -1, errno: "EIO" },
      "close: answered 0, the kernel answered EIO",
    ],
    [
      "another error",
      [open],
      { call: "close", fd: 9, ret: -1, errno: "EIO" },
      "close: answered EBADF, the kernel answered EIO",
    ],
    [
      "an error that has no number here",
      [open],
      { call: "close", fd: 9, ret: -1, errno: "EKEYREJECTED" },
      "close: answered EBADF, the kernel answered EKEYREJECTED",
    ],
    [
      "bytes that come out",
      [open],
      { call: "ioctl", fd: 3, request: ADD, in: "0100000002000000", out: "0100000003000001", ret: 3 },
      "0x7001: out: at 7 is 00, the kernel says 01",
    ],
    [
      "bytes that should not change",
      [open],
      { call: "ioctl", fd: 3, request: ADD, in: "0100000002000000", ret: 3 },
      "0x7001: out: at 4 is 03, the kernel says 02",
    ],
    [
      "a field with a name",
      [open],
      {
        call: "ioctl",
        fd: 3,
        request: KVM_CREATE_DEVICE,
        name: "KVM_CREATE_DEVICE",
        in: "040000000000000000000000",
        out: "050000000400000000000000",
        ret: 0,
      },
      "KVM_CREATE_DEVICE: out: type is 4, the kernel says 5",
    ],
    [
      "bytes behind a pointer",
      [open],
      {
        call: "ioctl",
        fd: 3,
        request: DEREF,
        in: "0000000000000000",
        deref: [{ at: 0, in: "01000000" }],
        ret: 0,
      },
      "0x7002: the buffer behind offset 0: at 0 is 02, the kernel says 01",
    ],
    [
      "what is read",
      [eventfd(3), { call: "write", fd: 3, in: "0500000000000000", ret: 8 }],
      { call: "read", fd: 3, count: 8, out: "0600000000000000", ret: 8 },
      "read: out: at 0 is 05, the kernel says 06",
    ],
    [
      "what is read at a place",
      [open],
      { call: "pread", fd: 3, count: 2, offset: "0x0", out: "4041", ret: 2 },
      "pread: out: at 1 is 40, the kernel says 41",
    ],
    [
      "events",
      [eventfd(3)],
      { call: "poll", fds: [{ fd: 3, events: 5, revents: 5 }], timeout: 0, ret: 1 },
      "poll: revents of 3 are 4, the kernel's 5",
    ],
    [
      "memory",
      [anonymous],
      { call: "peek", map: "m1", offset: 0, bytes: "0001" },
      "peek: bytes: at 1 is 00, the kernel says 01",
    ],
    [
      "a signal that did not come",
      [anonymous],
      { call: "peek", map: "m1", offset: 0, count: 4, width: 4, signal: "SIGBUS" },
      "peek: read 4 bytes, the kernel took SIGBUS",
    ],
    [
      "a signal that came",
      [anonymous],
      { call: "peek", map: "m1", offset: 4096, bytes: "00000000", width: 4 },
      "peek: took SIGSEGV, the kernel read",
    ],
    [
      "another signal",
      [anonymous],
      { call: "peek", map: "m1", offset: 4096, width: 4, signal: "SIGBUS" },
      "peek: took SIGSEGV, the kernel took SIGBUS",
    ],
    [
      "a store that took a signal",
      [open, device],
      { call: "poke", map: "d1", offset: 4, bytes: "00", width: 1 },
      "poke: took SIGBUS, the kernel wrote",
    ],
    [
      "a store that took none",
      [anonymous],
      { call: "poke", map: "m1", offset: 4, bytes: "00", signal: "SIGBUS" },
      "poke: wrote, the kernel took SIGBUS",
    ],
    ["a mapping", [], { ...anonymous, length: 0 } as Call, "mmap: answered EINVAL, the kernel answered 0"],
    [
      "a mapping that should fail",
      [],
      { call: "mmap", length: 4096, prot: 3, flags: "0x22", fd: -1, offset: "0x0", ret: -1, errno: "ENOMEM" },
      "mmap: answered 0, the kernel answered ENOMEM",
    ],
    [
      "a mapping that never was",
      [],
      { call: "munmap", map: "m7", ret: 0 },
      "munmap: mapping m7 was never made",
    ],
    [
      "a limit",
      [],
      { call: "setrlimit", resource: "RLIMIT_WISHES", limit: 3, ret: 0 },
      "setrlimit: RLIMIT_WISHES is not a limit that is known here",
    ],
    ["a descriptor number", [], eventfd(4), "eventfd2: answered 3, the kernel answered 4"],
  ];
  test.each(ways)("%s", (_what, before, call, words) => {
    expect(differences([...before, call])).toEqual([`call ${before.length + 1} ${words}`]);
  });

  test("no sysfs at all", () => {
    const kernel = (): KernelUnderTest => ({ process: testKernel().process });
    const event: Call = { call: "event", what: "sysfs", writes: [{ path: "/sys/a", value: "Y" }] };
    const result = run([event], {}, kernel as typeof testKernel);
    expect(result.differences.map(inWords)).toEqual(["call 1 event: there is no sysfs here"]);
  });

  test("an exception is a difference, and the replay goes on", () => {
    const result = run([
      open,
      { call: "ioctl", fd: 3, request: THROW, arg: "0x0", ret: 0 },
      { call: "close", fd: 3, ret: 0 },
    ]);
    expect(result).toMatchObject({ calls: 3, identical: 2, different: 1 });
    expect(result.differences[0]).toMatchObject({ n: 2, line: 3, call: "0x7003", threw: true });
    expect(result.differences[0].what).toMatch(/^threw RangeError: a bug of ours \(at .*replay\.spec/);
  });

  test("a machine that cannot be built: every call differs", () => {
    const lines = [open, { call: "note", text: "" }, { call: "close", fd: 3, ret: 0 }].map(
      (call, n) => ({ n, ...call }) as TraceLine,
    );
    const kernel = (): never => {
      throw new Error("no such host");
    };
    const result = replay({ name: "t", header, lines }, { kernel });
    expect(result).toMatchObject({ calls: 2, identical: 0, different: 2 });
    expect(inWords(result.differences[0])).toMatch(
      /^call 0 open: the machine could not be built: threw Error: no such host/,
    );
  });
});

describe("after a difference later calls mean what they meant", () => {
  test("a descriptor that is missing: its number is taken, calls on it differ", () => {
    expect(
      differences([
        { call: "open", path: "/dev/none", flags: "0x2", ret: 3 },
        eventfd(4),
        { call: "ioctl", fd: 3, request: KVM_CREATE_VM, name: "KVM_CREATE_VM", arg: "0x0", ret: 5 },
        { call: "ioctl", fd: 5, request: "0x99", arg: "0x0", ret: -1, errno: "ENOTTY" },
        eventfd(6),
        { call: "close", fd: 3, ret: 0 },
        eventfd(3),
        { call: "write", fd: 3, in: "0500000000000000", ret: 8 },
      ]),
    ).toEqual([
      "call 1 open: answered ENOENT, the kernel answered 3",
      "call 3 KVM_CREATE_VM: descriptor 3 is missing here (call 1 open answered ENOENT, the kernel answered 3)",
      "call 4 0x99: descriptor 5 is missing here (it comes from descriptor 3)",
      "call 6 close: descriptor 3 is missing here (call 1 open answered ENOENT, the kernel answered 3)",
    ]);
  });

  test("a descriptor that should not be there is closed", () => {
    expect(
      differences([{ call: "open", path: "/dev/test", flags: "0x2", ret: -1, errno: "EACCES" }, eventfd(3)]),
    ).toEqual(["call 1 open: answered 3, the kernel answered EACCES"]);
  });

  test("a descriptor with another number is moved", () => {
    expect(
      differences([
        eventfd(7),
        eventfd(3),
        { call: "write", fd: 7, in: "0500000000000000", ret: 8 },
        { call: "read", fd: 7, count: 8, out: "0500000000000000", ret: 8 },
      ]),
    ).toEqual(["call 1 eventfd2: answered 3, the kernel answered 7"]);
  });

  test("a descriptor inside an answer", () => {
    const create = (out: string): Call => ({
      call: "ioctl",
      fd: 3,
      request: KVM_CREATE_DEVICE,
      name: "KVM_CREATE_DEVICE",
      in: "040000000000000000000000",
      out,
      ret: 0,
    });
    const use: Call = {
      call: "ioctl",
      fd: 8,
      request: ADD,
      in: "0100000000000000",
      out: "0100000001000000",
      ret: 1,
    };
    expect(differences([open, create("040000000800000000000000"), use, eventfd(4)])).toEqual([
      "call 2 KVM_CREATE_DEVICE: out: fd is 4, the kernel says 8",
    ]);
  });

  test("a call that threw leaves the descriptor it should have made", () => {
    const result = run([
      open,
      { call: "ioctl", fd: 3, request: KVM_CREATE_VCPU, name: "KVM_CREATE_VCPU", arg: "0x0", ret: 4 },
      eventfd(5),
    ]);
    expect(result.different).toBe(1);
    expect(result.differences[0].threw).toBe(true);
  });

  test("a mapping that is missing: pointers into it work, looking at it differs", () => {
    expect(
      differences([
        open,
        { ...anonymous, fd: 9, flags: "0x1" } as Call,
        {
          call: "ioctl",
          fd: 3,
          request: DEREF,
          in: "0000000000000000",
          pointers: [{ at: 0, map: "m1", offset: 8 }],
          ret: 0,
        },
        { call: "peek", map: "m1", offset: 8, bytes: "01" },
        { call: "poke", map: "m1", offset: 8, bytes: "01" },
      ]),
    ).toEqual([
      "call 2 mmap: answered EBADF, the kernel answered 0",
      "call 4 peek: mapping m1 is missing here (call 2 mmap answered EBADF, the kernel answered 0)",
      "call 5 poke: mapping m1 is missing here (call 2 mmap answered EBADF, the kernel answered 0)",
    ]);
  });
});

describe("volatile ranges", () => {
  const add = (out: string, volatile?: [number, number][]): Call => ({
    call: "ioctl",
    fd: 3,
    request: ADD,
    in: "0100000002000000",
    out,
    ...(volatile && { volatile }),
    ret: 3,
  });
  test("are not compared, the bytes around them are", () => {
    expect(differences([open, add("0100000099000000", [[4, 1]])])).toEqual([]);
    expect(differences([open, add("01000000990000ff", [[4, 1]])])).toEqual([
      "call 2 0x7001: out: at 7 is 00, the kernel says ff",
    ]);
    expect(differences([open, add("0100009903000000", [[4, 1]])])).toEqual([
      "call 2 0x7001: out: at 3 is 00, the kernel says 99",
    ]);
  });
  test("of memory and of what is read", () => {
    const peek: Call = { call: "peek", map: "m1", offset: 0, bytes: "ff00", volatile: [[0, 1]] };
    const read: Call = {
      call: "pread",
      fd: 3,
      count: 2,
      offset: "0x0",
      out: "4000",
      volatile: [[1, 1]],
      ret: 2,
    };
    expect(differences([open, anonymous, peek, read])).toEqual([]);
  });
});

describe("partial descriptors", () => {
  const partial = { descriptors: "partial" } as const;
  const irqfd = (fd: string, ret: number, errno?: string): Call => ({
    call: "ioctl",
    fd: 20,
    request: KVM_IRQFD,
    in: `${fd}${"00".repeat(28)}`,
    ret,
    ...(errno !== undefined && { errno }),
  });
  test("numbers are names, inside structs too", () => {
    expect(
      differences(
        [
          { ...open, ret: 20 } as Call,
          eventfd(11),
          irqfd("0b000000", 0),
          irqfd("04000000", 0),
          irqfd("63000000", -1, "EBADF"),
          { call: "close", fd: 11, ret: 0 },
          eventfd(5),
          irqfd("05000000", 0),
          { call: "close", fd: 77, ret: -1, errno: "EBADF" },
        ],
        partial,
      ),
    ).toEqual([]);
  });
  test("a name that is given again: the file it named is gone", () => {
    const write: Call = { call: "write", fd: 11, in: "0500000000000000", ret: 8 };
    const poll: Call = { call: "poll", fds: [{ fd: 11, events: 1, revents: 0 }], timeout: 0, ret: 0 };
    expect(differences([eventfd(11), write, eventfd(11), poll], partial)).toEqual([]);
  });
  test("pointers that were not followed lead to some memory, whether the recorder blanked them or not", () => {
    const dirtyLog = (pointer: string): Call => ({
      call: "ioctl",
      fd: 20,
      request: KVM_GET_DIRTY_LOG,
      in: `0000000000000000${pointer}`,
      ret: 0,
    });
    const calls = [{ ...open, ret: 20 } as Call, dirtyLog("0000000000000000"), dirtyLog("883d9203ff7f0000")];
    expect(differences(calls, partial)).toEqual([]);
  });
  test("a missing one is missing under its name", () => {
    expect(
      differences(
        [
          { call: "open", path: "/dev/none", flags: "0x0", ret: 20 },
          { call: "close", fd: 20, ret: 0 },
        ],
        partial,
      ),
    ).toHaveLength(2);
  });
});

test("calls of a forked child: the recorder's pipe takes two descriptors, the parent's table stays", () => {
  const create = (ret: number): Call => ({
    call: "ioctl",
    fd: 3,
    request: KVM_CREATE_VM,
    name: "KVM_CREATE_VM",
    arg: "0x0",
    process: "child",
    ret,
  });
  expect(
    differences([open, create(6), { call: "note", text: "" }, create(7), eventfd(4), create(7)]),
  ).toEqual([]);
});

test("a kernel that writes over a pointer field is told", () => {
  const scribble: Call = {
    call: "ioctl",
    fd: 3,
    request: SCRIBBLE,
    in: "0000000000000000",
    pointers: [{ at: 0, map: "m1", offset: 0 }],
    ret: 0,
  };
  const told = differences([open, anonymous, scribble]);
  expect(told).toHaveLength(1);
  expect(told[0]).toMatch(/^call 3 0x7004: out: at 0 is 05/);
});

test("firstDescriptor is the first number", () => {
  expect(differences([eventfd(9), eventfd(10)], { firstDescriptor: 9 })).toEqual([]);
});
