/**
 * Hostile programs as plain data: random requests, random bytes, random descriptors and addresses, against every kind
 * of file. Two things must hold whatever they do: a system call answers a number, and after an error everything that
 * can be read back is as it was.
 */
import fc from "fast-check";
import { errnoName } from "../../lib/abi/errno.ts";
import * as kvm from "../../lib/abi/kvm.ts";
import * as x86 from "../../lib/abi/kvm-x86.ts";
import { requestList } from "../../lib/abi/requests.ts";
import type { Process } from "../../lib/kernel/process.ts";
import type { PollFd } from "../../lib/kernel/syscalls.ts";
import { Machine } from "../../lib/machine/machine.ts";

/** What an argument is made of. `end`: so many bytes before the end of a mapping. */
export type HostileArgument =
  | { value: number | bigint }
  | { bytes: Uint8Array }
  | { end: number; of: "memory" | "read-only" | "vcpu" };

/** A descriptor: one of those that the world has (by place), or any number. */
export type HostileFd = { open: number } | { raw: number };

export type HostileCall =
  | { call: "ioctl"; fd: HostileFd; request: number; argument: HostileArgument }
  | { call: "read" | "write"; fd: HostileFd; argument: HostileArgument; count: number }
  | {
      call: "pread" | "pwrite";
      fd: HostileFd;
      argument: HostileArgument;
      count: number;
      offset: number | bigint;
    }
  | {
      call: "mmap";
      fd: HostileFd;
      address: number;
      length: number;
      prot: number;
      flags: number;
      offset: number;
    }
  | { call: "munmap"; address: number; length: number }
  | { call: "open"; path: string; flags: number }
  | { call: "eventfd2"; initval: number; flags: number }
  | { call: "dup"; fd: HostileFd }
  | { call: "fcntl"; fd: HostileFd; command: number; argument: number }
  | { call: "poll"; fds: { fd: number; events: number }[] }
  | { call: "epoll_ctl"; fd: HostileFd; operation: number; target: HostileFd; events: number }
  | { call: "close"; fd: HostileFd };

const word = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.constantFrom(0, 1, 2, 3, 4, 5, 7, 8, 0x10, 0x20, 0xff, 0x100, 0xfff, 0x1000, 0x10000),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom(0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0xfee00000, 0xfec00000),
  },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 24 }) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffffffff }) },
);

/** Bytes made of words, cut to `length`. */
const words = (length: number): fc.Arbitrary<Uint8Array> =>
  fc
    .array(word, { minLength: Math.ceil(length / 4), maxLength: Math.ceil(length / 4), size: "max" })
    .map((values) => {
      const bytes = new Uint8Array(Uint32Array.from(values).buffer);
      return bytes.slice(0, length);
    });

const value = fc.oneof(
  fc.constantFrom<number | bigint>(
    0,
    1,
    2,
    -1,
    0x1000,
    2 ** 31,
    2 ** 32,
    2 ** 47,
    2 ** 53,
    (1n << 64n) - 1n,
    1n << 63n,
    -1n,
  ),
  fc.integer({ min: -16, max: 5000 }),
  fc.double(),
);

const requests = requestList("x86_64");
const numbers = requests.map(({ number }) => number);

/** How large the argument of a request is, as far as its number or struct says; large enough for a tail. */
const sizes = new Map(
  requests.map(({ number, request }) => [number, Math.max(request.struct?.size ?? 0, request.size)]),
);

const at = fc.record({
  end: fc.integer({ min: 0, max: 64 }),
  of: fc.constantFrom("memory", "read-only", "vcpu"),
});

const argumentFor = (request: number): fc.Arbitrary<HostileArgument> => {
  const size = Math.min(sizes.get(request) ?? 8, 4096);
  return fc.oneof(
    { weight: 6, arbitrary: fc.oneof(words(size), words(size + 96)).map((bytes) => ({ bytes })) },
    {
      weight: 1,
      arbitrary: fc
        .integer({ min: 0, max: size })
        .chain(words)
        .map((bytes) => ({ bytes })),
    },
    { weight: 2, arbitrary: value.map((value) => ({ value })) },
    { weight: 1, arbitrary: at as fc.Arbitrary<HostileArgument> },
  );
};

const fd: fc.Arbitrary<HostileFd> = fc.oneof(
  { weight: 9, arbitrary: fc.integer({ min: 0, max: 30 }).map((open) => ({ open })) },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom(-1, 0, 3, 999, 2 ** 31 - 1, -(2 ** 31), 1.5, Number.NaN)
      .map((raw) => ({ raw })),
  },
);

const request = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom(...numbers) },
  {
    weight: 1,
    arbitrary: fc
      .tuple(fc.constantFrom(...numbers), fc.integer({ min: 0, max: 31 }))
      .map(([n, bit]) => (n ^ (1 << bit)) >>> 0),
  },
  {
    weight: 1,
    arbitrary: fc.oneof(
      fc.constantFrom(0x5421, 0x5450, 0x5451, 0x5452, 0x5460, 2),
      fc.integer({ min: 0, max: 0xffffffff }),
    ),
  },
);

const argument = argumentFor(0);
const count = fc.constantFrom(0, 1, 4, 7, 8, 9, 16, 4096, 2 ** 31 - 1);
const offset = fc.constantFrom<number | bigint>(0, 1, 8, 4096, -1, 2 ** 40, 1n << 62n, -1n);

const ioctl = request.chain((request) =>
  fc.record({
    call: fc.constant("ioctl" as const),
    fd,
    request: fc.constant(request),
    argument: argumentFor(request),
  }),
);

export const hostileCall: fc.Arbitrary<HostileCall> = fc.oneof(
  { weight: 30, arbitrary: ioctl },
  {
    weight: 3,
    arbitrary: fc.record({ call: fc.constantFrom("read" as const, "write" as const), fd, argument, count }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      call: fc.constantFrom("pread" as const, "pwrite" as const),
      fd,
      argument,
      count,
      offset,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      call: fc.constant("mmap" as const),
      fd,
      address: fc.constantFrom(0, 0x10000, 0x10001, 2 ** 47, -4096),
      length: fc.constantFrom(0, 1, 4096, 8192, 16384, 2 ** 47, -1),
      prot: fc.integer({ min: 0, max: 7 }),
      flags: fc.constantFrom(0, 1, 2, 3, 0x21, 0x22, 0x20),
      offset: fc.constantFrom(0, 1, 4096, 8192, 64 * 4096, -4096),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      call: fc.constant("munmap" as const),
      address: fc.constantFrom(0, 1, 0x10000, -4096, 2 ** 47),
      length: fc.constantFrom(0, 1, 4096, -1),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      call: fc.constant("open" as const),
      path: fc.constantFrom(
        "/dev/kvm",
        "/dev/vfio/vfio",
        "/dev/vfio/0",
        "/dev/iommu",
        "",
        "/",
        "dev/../dev/kvm",
        "/dev/kvm/",
      ),
      flags: fc.constantFrom(0, 1, 2, 3, 0x80002, 0x200000),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      call: fc.constant("eventfd2" as const),
      initval: word,
      flags: fc.constantFrom(0x800, 0x801, 0x80800, 2, 0x7fffffff),
    }),
  },
  { weight: 1, arbitrary: fc.record({ call: fc.constant("dup" as const), fd }) },
  {
    weight: 1,
    arbitrary: fc.record({
      call: fc.constant("fcntl" as const),
      fd,
      command: fc.constantFrom(0, 1, 2, 3, 4, 1030, 5, 1024),
      argument: fc.constantFrom(0, 1, 0x800, -1, 5000),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      call: fc.constant("poll" as const),
      fds: fc.array(
        fc.record({ fd: fc.integer({ min: -1, max: 40 }), events: fc.integer({ min: 0, max: 0xffff }) }),
        { maxLength: 4 },
      ),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      call: fc.constant("epoll_ctl" as const),
      fd,
      operation: fc.integer({ min: 0, max: 4 }),
      target: fd,
      events: word,
    }),
  },
  { weight: 1, arbitrary: fc.record({ call: fc.constant("close" as const), fd }) },
);

/** A machine with a file of every kind, and what can be read back of it. */
export class World {
  readonly process: Process;
  /** the descriptors that stay open, for read-back */
  readonly vm: number;
  readonly splitVm: number;
  readonly vcpu: number;
  readonly eventfds: number[];
  readonly #memory: number;
  readonly #readOnly: number;
  readonly #vcpuPages: number;
  /** descriptors that calls may name */
  readonly open: number[] = [];
  readonly #state: Uint8Array;

  constructor(machine = new Machine()) {
    const process = machine.process();
    this.process = process;
    const RDWR = 2;
    const system = process.open("/dev/kvm", RDWR);
    this.vm = process.ioctl(system, kvm.KVM_CREATE_VM, 0);
    process.ioctl(this.vm, kvm.KVM_CREATE_IRQCHIP, 0);
    process.ioctl(this.vm, x86.KVM_CREATE_PIT2, new Uint8Array(64));
    this.vcpu = process.ioctl(this.vm, kvm.KVM_CREATE_VCPU, 0);
    const second = process.ioctl(this.vm, kvm.KVM_CREATE_VCPU, 1);
    this.splitVm = process.ioctl(system, kvm.KVM_CREATE_VM, 0);
    process.ioctl(
      this.splitVm,
      kvm.KVM_ENABLE_CAP,
      kvm.KvmEnableCap.encode({ cap: kvm.KVM_CAP_SPLIT_IRQCHIP, args: [24n] }),
    );
    const splitVcpu = process.ioctl(this.splitVm, kvm.KVM_CREATE_VCPU, 0);
    const bareVm = process.ioctl(system, kvm.KVM_CREATE_VM, 0);
    const bareVcpu = process.ioctl(bareVm, kvm.KVM_CREATE_VCPU, 3);
    const device = kvm.KvmCreateDevice.encode({ type: kvm.KVM_DEV_TYPE_VFIO });
    process.ioctl(this.vm, kvm.KVM_CREATE_DEVICE, device);
    this.eventfds = [process.eventfd2(0, 0x800), process.eventfd2(3, 0x801), process.eventfd2(0, 0x800)];
    const pipe = [0, 0];
    process.pipe2(pipe, 0x800);
    this.open.push(system, this.vm, this.vcpu, second, this.splitVm, splitVcpu, bareVm, bareVcpu);
    this.open.push(
      kvm.KvmCreateDevice.decode(device).fd,
      ...this.eventfds,
      ...pipe,
      process.epoll_create1(0),
    );
    this.#memory = process.mmap(0, 8192, 3, 0x22, -1, 0);
    this.#readOnly = process.mmap(0, 4096, 1, 0x22, -1, 0);
    this.#vcpuPages = process.mmap(0, 12288, 3, 1, this.vcpu, 0);
    this.#state = new Uint8Array(readBackBytes);
  }

  fd(pick: HostileFd): number {
    return "raw" in pick ? pick.raw : this.open[pick.open % this.open.length];
  }

  /** The last `end` bytes of a mapping, as an address. */
  argument(pick: HostileArgument): number | bigint | Uint8Array {
    if ("value" in pick) return pick.value;
    if ("bytes" in pick) return pick.bytes.slice();
    if (pick.of === "memory") return this.#memory + 8192 - pick.end;
    if (pick.of === "read-only") return this.#readOnly + 4096 - pick.end;
    return this.#vcpuPages + 12288 - pick.end;
  }

  run(call: HostileCall): number {
    const { process } = this;
    switch (call.call) {
      case "ioctl":
        return process.ioctl(this.fd(call.fd), call.request, this.argument(call.argument));
      case "read":
      case "write":
        return process[call.call](this.fd(call.fd), buffer(this.argument(call.argument)), call.count);
      case "pread":
      case "pwrite":
        return process[call.call](
          this.fd(call.fd),
          buffer(this.argument(call.argument)),
          call.count,
          call.offset,
        );
      case "mmap":
        return process.mmap(call.address, call.length, call.prot, call.flags, this.fd(call.fd), call.offset);
      case "munmap":
        return process.munmap(call.address, call.length);
      case "open":
        return this.#opened(process.open(call.path, call.flags));
      case "eventfd2":
        return this.#opened(process.eventfd2(call.initval, call.flags));
      case "dup":
        return this.#opened(process.dup(this.fd(call.fd)));
      case "fcntl":
        return process.fcntl(this.fd(call.fd), call.command, call.argument);
      case "poll": {
        const fds: PollFd[] = call.fds.map((entry) => ({ ...entry, revents: 0 }));
        return process.poll(fds, 0);
      }
      case "epoll_ctl":
        return process.epoll_ctl(this.fd(call.fd), call.operation, this.fd(call.target), {
          events: call.events,
          data: 0n,
        });
      case "close": {
        const fd = this.fd(call.fd);
        // What is read back stays open.
        return this.open.indexOf(fd) < FIRST_CLOSABLE && this.open.includes(fd) ? 0 : process.close(fd);
      }
    }
  }

  #opened(fd: number): number {
    if (fd >= 0) this.open.push(fd);
    return fd;
  }

  /** Everything that can be read back, as bytes; the same buffer each time. */
  readBack(): Uint8Array {
    const { process } = this;
    let at = 0;
    for (const vm of [this.vm, this.splitVm])
      for (const [request, size, head] of vmState) {
        const target = this.#state.subarray(at, at + size);
        target.fill(0);
        target[0] = head;
        target[size - 1] ^= process.ioctl(vm, request, target) & 0xff;
        at += size;
      }
    for (const [request, size] of vcpuState) {
      const target = this.#state.subarray(at, at + size);
      target.fill(0);
      target[size - 1] ^= process.ioctl(this.vcpu, request, target) & 0xff;
      at += size;
    }
    for (const fd of this.eventfds) {
      const file = process.fds.get(fd) as unknown as { lo: number; hi: number };
      new DataView(this.#state.buffer).setUint32(at, file.lo);
      new DataView(this.#state.buffer).setUint32(at + 4, file.hi);
      at += 8;
    }
    return this.#state;
  }
}

/** the descriptors before it are read back, or hold what is */
const FIRST_CLOSABLE = 12;

const vmState: readonly [request: number, size: number, head: number][] = [
  [x86.KVM_GET_IRQCHIP.number, 520, 0],
  [x86.KVM_GET_IRQCHIP.number, 520, 1],
  [x86.KVM_GET_IRQCHIP.number, 520, 2],
  [x86.KVM_GET_PIT2.number, 112, 0],
];

const vcpuState: readonly [request: number, size: number][] = [
  [x86.KVM_GET_LAPIC.number, 1024],
  [kvm.KVM_GET_MP_STATE.number, 4],
  [x86.KVM_GET_REGS.number, x86.KvmRegs.size],
  [x86.KVM_GET_SREGS.number, x86.KvmSregs.size],
  [x86.KVM_GET_FPU.number, x86.KvmFpu.size],
  [x86.KVM_GET_XCRS.number, x86.KvmXcrs.size],
  [x86.KVM_GET_DEBUGREGS.number, x86.KvmDebugregs.size],
  [x86.KVM_GET_VCPU_EVENTS.number, x86.KvmVcpuEvents.size],
];

const readBackBytes =
  2 * vmState.reduce((sum, [, size]) => sum + size, 0) +
  vcpuState.reduce((sum, [, size]) => sum + size, 0) +
  3 * 8;

const buffer = (argument: number | bigint | Uint8Array): Uint8Array | number =>
  typeof argument === "bigint" ? Number(argument) : argument;

/**
 * Errors after which something did change, as it does in Linux: the request's number, the errors, and why.
 */
export const changesInSpiteOfError: readonly { request: number; errors: string[]; why: string }[] = [
  {
    request: x86.KVM_SET_LAPIC.number,
    errors: ["EINVAL"],
    why: "SPIV is taken before the 32-bit id is refused (recorded on 6.18)",
  },
  {
    request: x86.KVM_SET_VCPU_EVENTS.number,
    errors: ["EINVAL"],
    why: "what stands before the SMM part is taken before that is refused (compared with the live 6.18)",
  },
  {
    request: x86.KVM_SET_IRQCHIP.number,
    errors: ["EINVAL"],
    why: "the PIC's output is worked out again for a chip that is none, too (recorded on 6.18: counterexamples/no-chip-updates-the-pic)",
  },
  {
    request: kvm.KVM_SIGNAL_MSI.number,
    errors: ["EPERM"],
    why: "−1 says that nobody took the message; arbitration priorities may have moved",
  },
  {
    request: kvm.KVM_IRQ_LINE_STATUS.number,
    errors: ["EFAULT"],
    why: "the line was set before the status is written",
  },
];

/** Runs calls on a world; what breaks a rule is told in words. */
export function runHostile(world: World, calls: readonly HostileCall[]): string | undefined {
  let before = world.readBack().slice();
  for (const call of calls) {
    let result: number;
    try {
      result = world.run(call);
    } catch (error) {
      return `${show(call)} threw ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
    }
    if (typeof result !== "number" || !Number.isInteger(result))
      return `${show(call)} answered ${String(result)}`;
    const after = world.readBack();
    if (result < 0 && !mayChange(call, result)) {
      const index = after.findIndex((byte, i) => byte !== before[i]);
      if (index >= 0)
        return `${show(call)} answered ${errnoName(-result)} and changed byte ${index} of what is read back`;
    }
    if (result >= 0 || mayChange(call, result)) before = after.slice();
  }
  return undefined;
}

function mayChange(call: HostileCall, result: number): boolean {
  // A read of an eventfd takes the counter, then finds that it cannot write it (fs/eventfd.c, 6.1).
  if (call.call === "read" && errnoName(-result) === "EFAULT") return true;
  return (
    call.call === "ioctl" &&
    changesInSpiteOfError.some(
      ({ request, errors }) => request === call.request && errors.includes(errnoName(-result)),
    )
  );
}

function show(call: HostileCall): string {
  const name =
    call.call === "ioctl" ? requests.find(({ number }) => number === call.request)?.name : undefined;
  return `${name ?? call.call} ${JSON.stringify(call, (_key, value) => (typeof value === "bigint" ? `${value}n` : value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value))}`;
}

/** A property over programs of up to `length` calls. */
export const hostileProperty = (length: number): fc.IProperty<[HostileCall[]]> =>
  fc.property(fc.array(hostileCall, { minLength: 1, maxLength: length, size: "max" }), (calls) => {
    const world = new World();
    const broken = runHostile(world, calls);
    world.process.exit();
    if (broken !== undefined) throw new Error(broken);
  });
