import { describe, expect, test } from "vitest";
import type { TraceHeader, TraceLine } from "../../lib/trace/format.ts";
import { Strace } from "../../lib/trace/strace.ts";

const header: TraceHeader = {
  format: "kvm-vfio-trace",
  version: 1,
  kernel: "6.18",
  arch: "x86_64",
  kvm: "pvm",
  host: {},
};

const print = (line: TraceLine, options = {}): string => new Strace(header, options).line(line);
const ioctl = (more: object): TraceLine =>
  ({ n: 1, call: "ioctl", fd: 4, request: "0x0", ret: 0, ...more }) as TraceLine;

const routing = (type: string, u: string): string =>
  `0100000000000000${"03000000"}${type}${"00".repeat(8)}${u.padEnd(64, "0")}`;

describe("a line prints as strace prints it", () => {
  const lines: [text: string, line: TraceLine][] = [
    [
      'open("/dev/kvm", O_RDWR|O_CLOEXEC) = 3',
      { n: 1, call: "open", path: "/dev/kvm", flags: "0x80002", ret: 3 },
    ],
    [
      'open("/x", O_RDONLY) = -1 ENOENT',
      { n: 1, call: "open", path: "/x", flags: "0x0", ret: -1, errno: "ENOENT" },
    ],
    ["close(3) = 0", { n: 1, call: "close", fd: 3, ret: 0 }],
    [
      "eventfd2(1, EFD_NONBLOCK|EFD_CLOEXEC) = 5",
      { n: 1, call: "eventfd2", initval: 1, flags: "0x80800", ret: 5 },
    ],
    ["eventfd2(0, EFD_SEMAPHORE|0x100) = 5", { n: 1, call: "eventfd2", initval: 0, flags: "0x101", ret: 5 }],
    ['write(5, "0100", 2) = 2', { n: 1, call: "write", fd: 5, in: "0100", ret: 2 }],
    [
      'pread(5, "0a~0b~", 2, 0x70) = 2',
      { n: 1, call: "pread", fd: 5, count: 2, offset: "0x70", out: "0a0b", volatile: [[1, 1]], ret: 2 },
    ],
    [
      "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0x0) = m1",
      { n: 1, call: "mmap", length: 4096, prot: 3, flags: "0x22", fd: -1, offset: "0x0", map: "m1", ret: 0 },
    ],
    ["munmap(m1) = 0", { n: 1, call: "munmap", map: "m1", ret: 0 }],
    ['m1[8]/4 -> "00000000"', { n: 1, call: "peek", map: "m1", offset: 8, width: 4, bytes: "00000000" }],
    ["m1[8]/4 -> SIGBUS", { n: 1, call: "peek", map: "m1", offset: 8, width: 4, count: 4, signal: "SIGBUS" }],
    ['m1[8] <- "ff"', { n: 1, call: "poke", map: "m1", offset: 8, bytes: "ff" }],
    [
      "poll([{fd=5, events=POLLIN}], 1, 0) = 1 ([{fd=5, revents=POLLIN}])",
      { n: 1, call: "poll", fds: [{ fd: 5, events: 1, revents: 1 }], timeout: 0, ret: 1 },
    ],
    ["fcntl(5, F_GETFL, 0x0) = 2", { n: 1, call: "fcntl", fd: 5, cmd: 3, arg: "0x0", ret: 2 }],
    ["/* a comment */", { n: 1, call: "note", text: "a comment" }],
    ['echo "Y" > /sys/x', { n: 1, call: "event", what: "sysfs", writes: [{ path: "/sys/x", value: "Y" }] }],
    ["ioctl(4, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) = 1", ioctl({ request: "0xae03", arg: "0x0", ret: 1 })],
    [
      "ioctl(4, KVM_CREATE_VCPU, 0x3) = -1 EEXIST",
      ioctl({ request: "0xae41", arg: "0x3", ret: -1, errno: "EEXIST" }),
    ],
    [
      "[child] ioctl(4, KVM_RUN) = -1 EIO",
      ioctl({ request: "0xae80", arg: "0x0", process: "child", ret: -1, errno: "EIO" }),
    ],
    [
      "ioctl(4, KVM_RUN) = -1 EINTR /* ended by a signal */",
      ioctl({ request: "0xae80", arg: "0x0", kicked: true, ret: -1, errno: "EINTR" }),
    ],
    ["ioctl(4, 0xdead, 0x1) = -1 ENOTTY", ioctl({ request: "0xdead", arg: "0x1", ret: -1, errno: "ENOTTY" })],
    [
      "ioctl(4, KVM_IRQFD, {fd=5, gsi=9, flags=KVM_IRQFD_FLAG_RESAMPLE, resamplefd=6}) = 0",
      ioctl({ request: "0x4020ae76", in: `05000000090000000200000006000000${"00".repeat(16)}` }),
    ],
    [
      "ioctl(4, KVM_CREATE_DEVICE, {type=KVM_DEV_TYPE_VFIO, fd=0, flags=0} => {fd=7}) = 0",
      ioctl({ request: "0xc00caee0", in: "040000000000000000000000", out: "040000000700000000000000" }),
    ],
    [
      "ioctl(4, KVM_SET_USER_MEMORY_REGION, {slot=0, flags=KVM_MEM_READONLY, guest_phys_addr=0, memory_size=0x10000, userspace_addr=m1+4096}) = 0",
      ioctl({
        request: "0x4020ae46",
        in: "0000000002000000000000000000000000000100000000000000000000000000",
        pointers: [{ at: 24, map: "m1", offset: 4096 }],
      }),
    ],
    [
      "ioctl(4, KVM_SET_GSI_ROUTING, {nr=1, flags=0} [{gsi=3, type=KVM_IRQ_ROUTING_IRQCHIP, flags=0, u={irqchip={irqchip=2, pin=3}}}]) = 0",
      ioctl({ request: "0x4008ae6a", in: routing("01000000", "0200000003000000") }),
    ],
    [
      "ioctl(4, KVM_SET_GSI_ROUTING, {nr=1, flags=0} [{gsi=3, type=KVM_IRQ_ROUTING_MSI, flags=0, u={msi={address_lo=0xfee00000, address_hi=0, data=67}}}]) = 0",
      ioctl({ request: "0x4008ae6a", in: routing("02000000", "0000e0fe0000000043000000") }),
    ],
    [
      'ioctl(4, KVM_GET_DEVICE_ATTR, {flags=0, group=2, attr=4, addr=["63000000" => "64000000"]}) = 0',
      ioctl({
        request: "0x4018aee2",
        in: "000000000200000004000000000000000000000000000000",
        deref: [{ at: 16, in: "63000000", out: "64000000" }],
      }),
    ],
    [
      "ioctl(4, KVM_GET_MP_STATE, {mp_state=KVM_MP_STATE_HALTED~}) = 0",
      ioctl({ request: "0x8004ae98", in: "00000000", out: "03000000", volatile: [[0, 4]] }),
    ],
    [
      'ioctl(4, VFIO_GROUP_GET_DEVICE_FD, "0000:00:0a.0") = 6',
      ioctl({
        request: "0x3b6a",
        name: "VFIO_GROUP_GET_DEVICE_FD",
        in: "303030303a30303a30612e3000",
        ret: 6,
      }),
    ],
  ];
  test.each(lines)("%s", (text, line) => {
    expect(print(line)).toBe(text);
  });
});

test("one number, several requests: the recorded name decides", () => {
  const names = ["VFIO_DEVICE_PCI_HOT_RESET", "VFIO_IOMMU_MAP_DMA"];
  for (const name of names)
    expect(print(ioctl({ request: "0x3b71", name, in: "00", ret: -1, errno: "EINVAL" }))).toBe(
      `ioctl(4, ${name}, "00") = -1 EINVAL`,
    );
});

test("long bytes are cut, unless everything is wanted", () => {
  const write: TraceLine = { n: 1, call: "write", fd: 5, in: "11".repeat(17), ret: 17 };
  expect(print(write)).toBe(`write(5, "${"11".repeat(16)}"…, 17) = 17`);
  expect(print(write, { full: true })).toBe(`write(5, "${"11".repeat(17)}", 17) = 17`);
});

test("descriptors are followed by what they are", () => {
  const strace = new Strace(header);
  const lines = (
    [
      { call: "open", path: "/dev/kvm", flags: "0x2", ret: 3 },
      { call: "ioctl", fd: 3, request: "0xae01", arg: "0x0", ret: 4 },
      { call: "ioctl", fd: 4, request: "0xae41", arg: "0x2", ret: 5 },
      { call: "dup", fd: 5, ret: 6 },
      { call: "close", fd: 6, ret: 0 },
      { call: "close", fd: 6, ret: -1, errno: "EBADF" },
    ] as object[]
  ).map((line, n) => strace.line({ n, ...line } as TraceLine));
  expect(lines).toEqual([
    'open("/dev/kvm", O_RDWR) = 3',
    "ioctl(3</dev/kvm>, KVM_CREATE_VM) = 4",
    "ioctl(4<anon_inode:kvm-vm>, KVM_CREATE_VCPU, 0x2) = 5",
    "dup(5<anon_inode:kvm-vcpu:2>) = 6",
    "close(6<anon_inode:kvm-vcpu:2>) = 0",
    "close(6) = -1 EBADF",
  ]);
});

test("POWER's numbers have POWER's names", () => {
  const strace = new Strace({ ...header, arch: "ppc64le", ioc: "powerpc" });
  expect(strace.line(ioctl({ request: "0x2000ae01", arg: "0x0", ret: 4 }))).toBe(
    "ioctl(4, KVM_CREATE_VM) = 4",
  );
});
