import { afterEach, describe, expect, test } from "vitest";
import { O_CLOEXEC, O_RDWR } from "../../lib/abi/fcntl.ts";
import {
  KVM_CREATE_DEVICE,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_DIRTY_LOG,
  KVM_IRQFD,
  KVM_RUN,
  KVM_SET_USER_MEMORY_REGION,
  KvmCreateDevice,
  KvmDirtyLog,
  KvmIrqfd,
  KvmUserspaceMemoryRegion,
} from "../../lib/abi/kvm.ts";
import {
  KVM_GET_CLOCK,
  KVM_GET_SREGS,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KvmClockData,
  KvmRegs,
  KvmSregs,
} from "../../lib/abi/kvm-x86.ts";
import { MAP_ANONYMOUS, MAP_SHARED } from "../../lib/abi/mman.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { profileFromHeader } from "../../lib/machine/profile.ts";
import { nativeKernel } from "../../lib/native/native.ts";
import { hostRelease } from "../../lib/trace/files.ts";
import { formatTrace, parseTrace, type TraceHeader, type TraceLine } from "../../lib/trace/format.ts";
import { hostHeader } from "../../lib/trace/host-header.ts";
import { type Recorder, record } from "../../lib/trace/record.ts";
import { NotRepeatable, recordTwice } from "../../lib/trace/record-twice.ts";
import { describe as inWords, replay } from "../../lib/trace/replay.ts";

const header: TraceHeader = {
  format: "kvm-vfio-trace",
  version: 1,
  kernel: "6.18",
  arch: "x86_64",
  kvm: "pvm",
  host: {},
  capabilities: { system: { "3": 1, "32": 1 }, vm: { "3": 1, "32": 1 } },
  vcpuMmapSize: 12288,
};
const native = nativeKernel();
const title = native.available ? "on the real kernel" : `on the real kernel: skipped, ${native.reason}`;

const processes: Syscalls[] = [];
afterEach(() => {
  for (const process of processes.splice(0)) process.exit();
});
const fake = (): Syscalls => {
  const process = new Machine(profileFromHeader(header)).process();
  processes.push(process);
  return process;
};
const real = () => {
  if (!native.available) throw new Error(native.reason);
  const process = native.process();
  processes.push(process);
  return process;
};
const linesOf = (body: (process: Recorder) => void): TraceLine[] => {
  const recorder = record(fake());
  body(recorder);
  return recorder.lines;
};

const PROT = 3;
const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);

describe("a line for each call", () => {
  test("eventfd, read, write, poll, fcntl, dup, close, settle", () => {
    const lines = linesOf((process) => {
      const fd = process.eventfd2(0, 0x800);
      process.write(fd, one);
      process.poll([{ fd, events: 5, revents: 0 }], 0);
      process.read(fd, new Uint8Array(8));
      process.read(fd, new Uint8Array(8));
      process.fcntl(fd, 3);
      process.dup(fd);
      process.close(99);
      process.settle();
      process.setrlimit(7, 100);
      process.note("the end");
    });
    expect(lines).toEqual([
      { n: 1, call: "eventfd2", initval: 0, flags: "0x800", ret: 3 },
      { n: 2, call: "write", fd: 3, in: "0100000000000000", ret: 8 },
      { n: 3, call: "poll", timeout: 0, fds: [{ fd: 3, events: 5, revents: 5 }], ret: 1 },
      { n: 4, call: "read", fd: 3, count: 8, out: "0100000000000000", ret: 8 },
      { n: 5, call: "read", fd: 3, count: 8, ret: -1, errno: "EAGAIN" },
      { n: 6, call: "fcntl", fd: 3, cmd: 3, arg: "0x0", ret: 0x802 },
      { n: 7, call: "dup", fd: 3, ret: 4 },
      { n: 8, call: "close", fd: 99, ret: -1, errno: "EBADF" },
      { n: 9, call: "settle" },
      { n: 10, call: "setrlimit", resource: "RLIMIT_NOFILE", limit: 100, ret: 0 },
      { n: 11, call: "note", text: "the end" },
    ]);
  });

  test("ioctls: values, bytes before and after", () => {
    const lines = linesOf((process) => {
      const kvm = process.open("/dev/kvm", O_RDWR | O_CLOEXEC);
      const vm = process.ioctl(kvm, KVM_CREATE_VM, 0);
      process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd: 99 }));
      process.ioctl(vm, 0xdead, new Uint8Array(2));
    });
    expect(lines).toEqual([
      { n: 1, call: "open", path: "/dev/kvm", flags: "0x80002", ret: 3 },
      { n: 2, call: "ioctl", fd: 3, request: "0xae01", name: "KVM_CREATE_VM", arg: "0x0", ret: 4 },
      expect.objectContaining({ n: 3, name: "KVM_IRQFD", in: `63${"00".repeat(31)}`, ret: -1 }),
      { n: 4, call: "ioctl", fd: 4, request: "0xdead", in: "0000", ret: -1, errno: "ENOTTY" },
    ]);
  });

  test("pointers into mappings and to buffers, arguments in mappings", () => {
    const lines = linesOf((process) => {
      const vm = process.ioctl(process.open("/dev/kvm", O_RDWR), KVM_CREATE_VM, 0);
      const memory = process.mmap(0, 8192, PROT, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
      const region = { flags: 1, memory_size: 4096, userspace_addr: memory + 4096 };
      process.ioctl(vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(region));
      const bitmap = process.addressOf(new Uint8Array(8));
      process.ioctl(vm, KVM_GET_DIRTY_LOG, KvmDirtyLog.encode({ dirty_bitmap: bitmap }));
      process.ioctl(vm, KVM_IRQFD, memory + 8);
      // no interrupt controller is there: EINVAL comes first
      process.ioctl(vm, KVM_IRQFD, process.addressOf(KvmIrqfd.encode({ fd: 77 })));
      process.munmap(memory, 8192);
    });
    expect(lines.slice(2)).toMatchObject([
      { call: "mmap", length: 8192, prot: 3, flags: "0x21", fd: -1, offset: "0x0", map: "m1", ret: 0 },
      { name: "KVM_SET_USER_MEMORY_REGION", pointers: [{ at: 24, map: "m1", offset: 4096 }], ret: 0 },
      { name: "KVM_GET_DIRTY_LOG", in: "00".repeat(16), deref: [{ at: 8, in: "00".repeat(8) }], ret: 0 },
      { name: "KVM_IRQFD", argmap: { map: "m1", offset: 8 } },
      { name: "KVM_IRQFD", in: `4d${"00".repeat(31)}`, errno: "EINVAL" },
      { call: "munmap", map: "m1", ret: 0 },
    ]);
  });

  test("memory: accesses, and what program and kernel change in bytes", () => {
    const lines = linesOf((process) => {
      const memory = process.mmap(0, 4096, PROT, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
      process.store(memory + 4, 4, 0x1234);
      process.load(memory + 4, 2);
      process.load(memory + 4094, 4);
      process.memory(memory, 64)!.set([1, 2], 10);
      const fd = process.eventfd2(7, 0);
      process.read(fd, memory + 16, 8);
    });
    expect(lines.slice(1)).toEqual([
      { n: 2, call: "poke", map: "m1", offset: 4, width: 4, bytes: "34120000" },
      { n: 3, call: "peek", map: "m1", offset: 4, width: 2, bytes: "3412" },
      { n: 4, call: "peek", map: "m1", offset: 4094, width: 4, count: 4, signal: "SIGSEGV" },
      { n: 5, call: "poke", map: "m1", offset: 10, bytes: "0102" },
      { n: 6, call: "eventfd2", initval: 7, flags: "0x0", ret: 3 },
      { n: 7, call: "read", fd: 3, count: 8, out: "0700000000000000", ret: 8 },
      { n: 8, call: "poke", map: "m1", offset: 16, bytes: "0700000000000000" },
    ]);
  });

  test("what the format has no line for is noted", () => {
    const lines = linesOf((process) => {
      process.epoll_create1(0);
      process.dup3(3, 3, 0);
    });
    expect(lines).toEqual([
      { n: 1, call: "note", text: "epoll_create1: 3" },
      { n: 2, call: "note", text: "dup3 of 3 to 3: EINVAL" },
    ]);
  });
});

/** A scenario of a little of everything, which both kernels can play. */
const scenario = (process: Recorder): void => {
  const kvm = process.open("/dev/kvm", O_RDWR | O_CLOEXEC);
  const vm = process.ioctl(kvm, KVM_CREATE_VM, 0);
  const memory = process.mmap(0, 8192, PROT, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  const region = { memory_size: 8192, userspace_addr: memory };
  process.ioctl(vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(region));
  process.ioctl(vm, KVM_CREATE_DEVICE, KvmCreateDevice.encode({ type: 4 }));
  const fd = process.eventfd2(1, 0x800);
  process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: 3 }));
  process.read(fd, memory + 8184, 8);
  process.load(memory + 8184, 8);
  process.munmap(memory, 8192);
};

test("a recorded trace can be written, read, and replayed without a difference", async () => {
  const trace = await recordTwice(fake, header, scenario);
  const read = parseTrace(formatTrace(trace), "recorded");
  expect(read.lines).toEqual(trace.lines);
  expect(read.lines.flatMap((line) => ("volatile" in line ? [line] : []))).toEqual([]);
  expect(replay(read).differences.map(inWords)).toEqual([]);
});

describe("twice", () => {
  test("what differs is marked", async () => {
    let run = 0;
    const trace = await recordTwice(fake, header, (process) => {
      const fd = process.eventfd2(0x1_0100 + ++run, 0);
      process.lines.length = 0; // the count is what differs, not the call
      process.read(fd, new Uint8Array(8));
    });
    expect(trace.lines).toEqual([
      { n: 1, call: "read", fd: 3, count: 8, out: "0101010000000000", ret: 8, volatile: [[0, 1]] },
    ]);
  });

  test("what differs behind a pointer is marked there", async () => {
    const start = () => {
      const process = fake();
      const ioctl = process.ioctl.bind(process);
      let behind: Uint8Array = new Uint8Array(8);
      // a kernel whose dirty log has a clock in its third byte
      process.addressOf = (bytes) => Object.getPrototypeOf(process).addressOf.call(process, (behind = bytes));
      process.ioctl = (fd, request, argument) => {
        const ret = ioctl(fd, request, argument);
        if (request === KVM_GET_DIRTY_LOG.number) behind[2] = ++clock;
        return ret;
      };
      return process;
    };
    let clock = 0;
    const trace = await recordTwice(start, header, (process) => {
      const vm = process.ioctl(process.open("/dev/kvm", O_RDWR), KVM_CREATE_VM, 0);
      const memory = process.mmap(0, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
      process.ioctl(
        vm,
        KVM_SET_USER_MEMORY_REGION,
        KvmUserspaceMemoryRegion.encode({ flags: 1, memory_size: 4096n, userspace_addr: BigInt(memory) }),
      );
      const log = new Uint8Array(8);
      const asked = KvmDirtyLog.encode({ dirty_bitmap: BigInt(process.addressOf(log)) });
      process.ioctl(vm, KVM_GET_DIRTY_LOG, asked);
    });
    const read = parseTrace(formatTrace(trace), "recorded");
    expect(read.lines.at(-1)).toMatchObject({
      deref: [{ in: "0000000000000000", out: "0000010000000000", volatile: [[2, 1]] }],
    });
    expect(replay(read).differences.map(inWords)).toEqual([]);
  });

  test("another answer is refused", async () => {
    let run = 0;
    const different = recordTwice(fake, header, (process) => {
      process.close(++run === 1 ? 0 : 99);
    });
    await expect(different).rejects.toThrow(NotRepeatable);
    const longer = recordTwice(fake, header, (process) => {
      for (let call = 0; call < run; call++) process.close(99);
      run++;
    });
    await expect(longer).rejects.toThrow("2 calls, then 3");
  });
});

describe.skipIf(!native.available)(title, () => {
  test("a trace of the real kernel replays on it", async () => {
    const trace = await recordTwice(real, hostHeader(real(), hostRelease()), scenario);
    const kernel = () => ({ process: real });
    expect(replay({ name: "recorded", ...trace }, { kernel }).differences.map(inWords)).toEqual([]);
  });

  test("the fake that is built from the host's header answers as the host", async () => {
    const own = hostHeader(real(), hostRelease());
    const machine = new Machine(profileFromHeader(own));
    expect(hostHeader(machine.process(), hostRelease())).toEqual(own);
    const trace = await recordTwice(real, own, scenario);
    expect(replay({ name: "recorded", ...trace }).differences.map(inWords)).toEqual([]);
  });

  test("a clock is volatile", async () => {
    const trace = await recordTwice(real, header, (process) => {
      const vm = process.ioctl(process.open("/dev/kvm", O_RDWR), KVM_CREATE_VM, 0);
      process.ioctl(vm, KVM_GET_CLOCK, new Uint8Array(KvmClockData.size));
    });
    const clock = trace.lines[2];
    expect("volatile" in clock && clock.volatile?.[0]?.[0]).toBe(0);
  });

  test("a guest that runs: the line of KVM_RUN, and what it wrote", async () => {
    const recorder = record(real());
    const vm = recorder.ioctl(recorder.open("/dev/kvm", O_RDWR), KVM_CREATE_VM, 0);
    const memory = recorder.mmap(0, 4096, PROT, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    // mov byte [0x800], 0x41; hlt
    recorder.memory(memory, 4096)!.set([0xc6, 0x06, 0x00, 0x08, 0x41, 0xf4]);
    const region = KvmUserspaceMemoryRegion.encode({ memory_size: 4096, userspace_addr: memory });
    recorder.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region);
    const vcpu = recorder.ioctl(vm, KVM_CREATE_VCPU, 0);
    const sregs = new Uint8Array(KvmSregs.size);
    recorder.ioctl(vcpu, KVM_GET_SREGS, sregs);
    KvmSregs.at(sregs).cs.base = 0n;
    KvmSregs.at(sregs).cs.selector = 0;
    recorder.ioctl(vcpu, KVM_SET_SREGS, sregs);
    recorder.ioctl(vcpu, KVM_SET_REGS, KvmRegs.encode({ rip: 0, rflags: 2 }));
    const before = recorder.lines.length;
    expect(await recorder.run(vcpu)).toBe(0);
    recorder.kick(vcpu);
    expect(await recorder.run(vcpu)).toBe(-4);
    const request = { request: "0xae80", name: "KVM_RUN", arg: "0x0" };
    expect(recorder.lines.slice(before)).toEqual([
      { n: before + 1, call: "ioctl", fd: vcpu, ...request, thread: true, ret: 0 },
      { n: before + 2, call: "peek", map: "m1", offset: 0x800, bytes: "41" },
      {
        n: before + 3,
        call: "ioctl",
        fd: vcpu,
        ...request,
        thread: true,
        ret: -1,
        errno: "EINTR",
        signal: true,
      },
    ]);
    expect(recorder.lines[3]).toEqual({ n: 4, call: "poke", map: "m1", offset: 0, bytes: "c606000841f4" });
    expect(recorder.ioctl(vcpu, KVM_RUN)).toBe(0);
  });
});
