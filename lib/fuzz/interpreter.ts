/**
 * Runs a program on any kernel, one step at a time: after each system call it tells what was called and everything that
 * the kernel answered, addresses left out. Two kernels that get the same program can be compared step by step.
 *
 * A call that would sleep for ever on a real kernel is not made: an eventfd is asked by poll first. After a call that
 * left work to the kernel's own threads (an irqfd's injection, its removal) the program waits until that has run.
 *
 * KVM_RUN is an operation of its own (guest-run.ts): as a plain request it is not made.
 */
import { F_GETFL, O_NONBLOCK, O_RDWR } from "../abi/fcntl.ts";
import { fromHex } from "../abi/hex.ts";
import {
  KVM_CREATE_DEVICE,
  KVM_IRQFD,
  KVM_RUN,
  KVM_SET_USER_MEMORY_REGION,
  KVM_SET_USER_MEMORY_REGION2,
  KvmCreateDevice,
} from "../abi/kvm.ts";
import { KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2, KvmCpuid2, KvmCpuidEntry2 } from "../abi/kvm-x86.ts";
import { POLLIN, POLLOUT } from "../abi/poll.ts";
import { findRequest } from "../abi/requests.ts";
import { load32, store32, store64 } from "../abi/struct.ts";
import type { Syscalls } from "../kernel/syscalls.ts";
import { guestMemory, runGuest } from "./guest-run.ts";
import {
  type Edit,
  type Kind,
  nameOf,
  numberOf,
  type Operation,
  type Patch,
  type Program,
  type Ref,
} from "./program.ts";
import { readBack } from "./read-back.ts";
import { tame, volatileBytes } from "./rules.ts";

/** One system call and its answer. */
export interface Step {
  readonly call: string;
  /** of an ioctl */
  readonly request?: number;
  readonly result: number;
  /** the bytes after the call: the argument, then the buffers behind it */
  readonly bytes: readonly Uint8Array[];
  /** which operation of the program it belongs to */
  readonly operation: number;
  /** a guest ran until it was stopped: the last step of its program */
  readonly over?: boolean;
}

/** What the caller does for a program. */
export interface RunOptions {
  /** waits until the kernel has nothing deferred left */
  settle?: (process: Syscalls) => void;
  /** called with the name of a taming rule that changed an argument */
  tamed?: (rule: string) => void;
  /** KVM_RUN that comes back, whatever the guest does: −EINTR after some time */
  enter?: (process: Syscalls, vcpu: number) => number;
}

/** The one mapping of a program: the memory of its guests. */
export const GUEST_MEMORY = 0x40_0000;
/** Bytes behind a pointer: more than any answer needs (a dirty bitmap of the largest slot), so that nothing is overrun. */
const BUFFER = 0x2000;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const none: readonly Uint8Array[] = [];

interface Opened {
  readonly kind: Exclude<Kind, "any">;
  readonly fd: number;
}

/** What a program has open, and where its memory is. */
export class Run {
  readonly process: Syscalls;
  readonly #options: RunOptions;
  readonly #open: Opened[] = [];
  #guest = -1;
  /** memory slots that were set, by VM */
  readonly slots = new Map<number, Set<number>>();
  /** whether an irqfd was ever bound: then an eventfd's write leaves work behind */
  #irqfds = false;
  /** the pages that vCPUs share, by descriptor */
  readonly pages = new Map<number, Uint8Array>();
  /** a guest ran until it was stopped: where it was then is a matter of speed, and the program ends */
  over = false;

  constructor(process: Syscalls, options: RunOptions) {
    this.process = process;
    this.#options = options;
  }

  /** The descriptor that a reference means; undefined where nothing of the kind is open. */
  fd(ref: Ref): number | undefined {
    if ("fd" in ref) return ref.fd;
    const matching = ref.kind === "any" ? this.#open : this.#open.filter(({ kind }) => kind === ref.kind);
    return matching.length === 0 ? undefined : matching[ref.index % matching.length].fd;
  }

  /** Everything open of a kind, in the order of its making. */
  all(kind: Kind): readonly number[] {
    return this.#open.filter((opened) => opened.kind === kind).map(({ fd }) => fd);
  }

  opened(kind: Exclude<Kind, "any">, fd: number): void {
    if (fd >= 0) this.#open.push({ kind, fd });
  }

  closed(fd: number): void {
    const index = this.#open.findIndex((opened) => opened.fd === fd);
    if (index >= 0) this.#open.splice(index, 1);
    if (this.#irqfds) this.settle();
  }

  kindOf(fd: number): Exclude<Kind, "any"> | undefined {
    return this.#open.find((opened) => opened.fd === fd)?.kind;
  }

  /** The address of the guest memory, mapped at its first use. */
  guest(): number {
    if (this.#guest < 0)
      this.#guest = this.process.mmap(0, GUEST_MEMORY, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    return this.#guest;
  }

  /** KVM_RUN */
  enter(vcpu: number): number {
    const { process } = this;
    return this.#options.enter?.(process, vcpu) ?? process.ioctl(vcpu, KVM_RUN.number, 0);
  }

  settle(): void {
    (this.#options.settle ?? ((process) => process.settle()))(this.process);
  }

  signalled(): void {
    if (this.#irqfds) this.settle();
  }

  irqfd(): void {
    this.#irqfds = true;
    this.settle();
  }

  tamed(rules: readonly string[]): void {
    for (const rule of rules) this.#options.tamed?.(rule);
  }
}

/** Makes the calls of a program. The process is the caller's: nothing is closed at the end. */
export function* runProgram(
  program: Program,
  process: Syscalls,
  options: RunOptions = {},
): Generator<Step, void, void> {
  const run = new Run(process, options);
  for (let index = 0; index < program.length && !run.over; index++)
    for (const step of perform(run, program[index])) yield { ...step, operation: index };
}

type Answer = Omit<Step, "operation">;

function* perform(run: Run, operation: Operation): Generator<Answer, void, void> {
  const { process } = run;
  switch (operation.op) {
    case "open": {
      const result = process.open(operation.path, operation.flags);
      run.opened("system", result);
      yield { call: "open", result, bytes: none };
      return;
    }
    case "eventfd2": {
      const result = process.eventfd2(operation.initval, operation.flags);
      run.opened("eventfd", result);
      yield { call: "eventfd2", result, bytes: none };
      return;
    }
    case "repeat":
      for (let i = 0; i < operation.times; i++) yield* perform(run, operation.operation);
      return;
    case "readback":
      yield* readBack(run, operation.parts);
      return;
    case "poke":
      guestMemory(run).set(fromHex(operation.bytes), operation.at);
      return;
    case "code":
      guestMemory(run).set(fromHex(operation.instructions.join("")), operation.at);
      return;
    case "poll": {
      const fds = operation.on.flatMap((ref) => {
        const fd = run.fd(ref);
        return fd === undefined ? [] : [{ fd, events: operation.events, revents: 0 }];
      });
      const result = process.poll(fds, 0);
      yield {
        call: "poll",
        result,
        bytes: [Uint8Array.from(fds.flatMap(({ revents }) => [revents & 0xff, revents >> 8]))],
      };
      return;
    }
  }
  const fd = run.fd(operation.on);
  if (fd === undefined) return;
  switch (operation.op) {
    case "ioctl":
      yield ioctl(run, fd, operation);
      return;
    case "run":
      yield* runGuest(run, fd, operation);
      return;
    case "modify": {
      const bytes = new Uint8Array(operation.size);
      bytes.set(fromHex(operation.head));
      const head = bytes.slice();
      const result = process.ioctl(fd, numberOf(operation.get), bytes);
      yield { call: operation.get, request: numberOf(operation.get), result, bytes: [bytes.slice()] };
      if (result < 0) bytes.set(head);
      else
        for (const [at, length] of volatileBytes(numberOf(operation.get), bytes)?.ranges ?? [])
          bytes.fill(0, at, at + length);
      for (const edit of operation.edits)
        bytes.set(fromHex(edit.bytes).subarray(0, Math.max(0, bytes.length - edit.at)), edit.at);
      const request = numberOf(operation.set);
      run.tamed(tame(request, bytes, NOTHING));
      yield { call: operation.set, request, result: process.ioctl(fd, request, bytes), bytes: [bytes] };
      return;
    }
    case "cpuid":
      yield* cpuid(run, fd, operation.edits);
      return;
    case "read":
      if (!mayRead(run, fd)) return;
      yield read(run, fd, operation.count);
      return;
    case "write": {
      const bytes = fromHex(operation.bytes);
      if (!mayWrite(run, fd, bytes)) return;
      const result = process.write(fd, bytes);
      if (result >= 0) run.signalled();
      yield { call: "write", result, bytes: none };
      return;
    }
    case "close": {
      const result = process.close(fd);
      if (result >= 0) run.closed(fd);
      yield { call: "close", result, bytes: none };
      return;
    }
    case "dup": {
      const result = process.dup(fd);
      const kind = run.kindOf(fd);
      if (kind !== undefined) run.opened(kind, result);
      yield { call: "dup", result, bytes: none };
      return;
    }
    case "fcntl":
      yield { call: "fcntl", result: process.fcntl(fd, operation.command, operation.argument), bytes: none };
      return;
    case "mmap": {
      const result = process.mmap(0, operation.length, operation.prot, operation.flags, fd, operation.offset);
      if (result >= 0) process.munmap(result, operation.length);
      yield { call: "mmap", result: Math.min(result, 0), bytes: none };
      return;
    }
  }
}

function* cpuid(run: Run, fd: number, edits: readonly Edit[]): Generator<Answer, void, void> {
  const { process } = run;
  const system = run.all("system").at(0);
  if (system === undefined) return;
  const room = new Uint8Array(KvmCpuid2.size + CPUID_ENTRIES * KvmCpuidEntry2.size);
  store32(room, 0, CPUID_ENTRIES);
  const supported = process.ioctl(system, KVM_GET_SUPPORTED_CPUID.number, room);
  for (const [at, length] of volatileBytes(KVM_GET_SUPPORTED_CPUID.number, room)?.ranges ?? [])
    room.fill(0, at, at + length);
  yield {
    call: "KVM_GET_SUPPORTED_CPUID",
    request: KVM_GET_SUPPORTED_CPUID.number,
    result: supported,
    bytes: [room],
  };
  if (supported < 0) return;
  const table = room.slice(0, KvmCpuid2.size + load32(room, 0) * KvmCpuidEntry2.size);
  for (const edit of edits) if (edit.at + 4 <= table.length) table.set(fromHex(edit.bytes), edit.at);
  const result = process.ioctl(fd, KVM_SET_CPUID2.number, table);
  yield { call: "KVM_SET_CPUID2", request: KVM_SET_CPUID2.number, result, bytes: [table] };
}

const CPUID_ENTRIES = 100;
const NOTHING: ReadonlySet<number> = new Set();

function ioctl(run: Run, fd: number, operation: Extract<Operation, { op: "ioctl" }>): Answer {
  const { process } = run;
  const request = numberOf(operation.request);
  const call = nameOf(operation.request);
  if (request === KVM_RUN.number) return { call, request, result: 0, bytes: none };
  if (operation.bytes === undefined) {
    const result = process.ioctl(fd, request, BigInt(operation.value ?? "0x0"));
    remember(run, fd, request, result, undefined);
    return { call, request, result, bytes: none };
  }
  const bytes = fromHex(operation.bytes);
  const buffers: Uint8Array[] = [];
  const addresses: number[] = [];
  const patched = new Set<number>();
  for (const patch of operation.patches ?? []) {
    const address = put(run, bytes, patch, buffers);
    if (address) addresses.push(patch.at);
    patched.add(patch.at);
  }
  run.tamed(tame(request, bytes, patched));
  const result = process.ioctl(fd, request, bytes);
  remember(run, fd, request, result, bytes);
  for (const at of addresses) bytes.fill(0, at, at + 8);
  return { call, request, result, bytes: [bytes, ...buffers] };
}

/** Puts a descriptor or an address into the bytes; whether it was an address. */
function put(run: Run, bytes: Uint8Array, patch: Patch, buffers: Uint8Array[]): boolean {
  if ("file" in patch) {
    const fd = run.fd(patch.file);
    if (fd !== undefined && patch.at + 4 <= bytes.length) store32(bytes, patch.at, fd);
    return false;
  }
  if (patch.at + 8 > bytes.length) return false;
  if ("guest" in patch) {
    store64(bytes, patch.at, run.guest() + patch.guest);
    return true;
  }
  const buffer = new Uint8Array(BUFFER);
  buffer.set(fromHex(patch.buffer).subarray(0, BUFFER));
  buffers.push(buffer);
  store64(bytes, patch.at, run.process.addressOf(buffer));
  return true;
}

/** Keeps in mind what a call made: descriptors, slots, irqfds. */
function remember(
  run: Run,
  fd: number,
  request: number,
  result: number,
  bytes: Uint8Array | undefined,
): void {
  if (result < 0) return;
  if (request === KVM_CREATE_DEVICE.number && bytes !== undefined && bytes.length >= KvmCreateDevice.size) {
    const { flags, fd: device } = KvmCreateDevice.at(bytes);
    if ((flags & 1) === 0) run.opened("device", device);
    return;
  }
  if (request === KVM_IRQFD.number) run.irqfd();
  if (
    (request === KVM_SET_USER_MEMORY_REGION.number || request === KVM_SET_USER_MEMORY_REGION2.number) &&
    bytes !== undefined
  ) {
    const slots = run.slots.get(fd) ?? new Set();
    slots.add(load32(bytes, 0));
    run.slots.set(fd, slots);
  }
  const kind = run.kindOf(fd);
  const returns =
    kind === undefined || kind === "eventfd"
      ? undefined
      : findRequest("x86_64", request, kind)?.request.returns;
  if (returns === "vm" || returns === "vcpu") run.opened(returns, result);
  else if (returns !== undefined) run.opened("device", result);
}

export function read(run: Run, fd: number, count: number): Answer {
  const buffer = new Uint8Array(count);
  const result = run.process.read(fd, buffer, count);
  return { call: "read", result, bytes: [buffer] };
}

const nonBlocking = (run: Run, fd: number): boolean => (run.process.fcntl(fd, F_GETFL) & O_NONBLOCK) !== 0;

const ready = (run: Run, fd: number, events: number): boolean =>
  run.process.poll([{ fd, events, revents: 0 }], 0) === 1;

/** Whether a read returns at once. */
export const mayRead = (run: Run, fd: number): boolean =>
  run.kindOf(fd) !== "eventfd" || nonBlocking(run, fd) || ready(run, fd, POLLIN);

/** Whether a write returns at once: to an eventfd that may sleep, only one that surely fits. */
const mayWrite = (run: Run, fd: number, bytes: Uint8Array): boolean =>
  run.kindOf(fd) !== "eventfd" ||
  nonBlocking(run, fd) ||
  bytes.length !== 8 ||
  (ready(run, fd, POLLOUT) && bytes[0] <= 1 && bytes.subarray(1).every((byte) => byte === 0));

/** Whether a program begins with the usual: /dev/kvm. */
export const opensKvm: Operation = { op: "open", path: "/dev/kvm", flags: O_RDWR };
