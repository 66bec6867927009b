/**
 * KVM_IOEVENTFD: a guest's write to an address signals an eventfd and causes no exit
 * (virt/kvm/eventfd.c:kvm_ioeventfd, 6.1 and 6.18).
 *
 * `struct kvm_ioeventfd`, 64 bytes: datamatch u64 @0, addr u64 @8, len u32 @16, fd s32 @20, flags u32 @24, pad[36].
 * A datamatch is compared with the whole 64-bit value of the access: one that does not fit the width never matches.
 */
import { EBADF, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM } from "../abi/errno.ts";
import {
  KVM_IOEVENTFD_FLAG_DATAMATCH,
  KVM_IOEVENTFD_FLAG_DEASSIGN,
  KVM_IOEVENTFD_FLAG_PIO,
  KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY,
  KVM_IOEVENTFD_VALID_FLAG_MASK,
  KvmIoeventfd,
} from "../abi/kvm.ts";
import { load32 } from "../abi/struct.ts";
import type { Argument } from "../kernel/argument.ts";
import { EventFd } from "../kernel/eventfd.ts";
import type { Process } from "../kernel/process.ts";
import type { IoBus, IoDevice } from "./io-bus.ts";
import type { VmFile } from "./vm.ts";

/** Which bus an ioeventfd stands on (enum kvm_bus). */
export type Bus = "mmio" | "pio" | "virtio-ccw" | "fast-mmio";

export class IoEventFd implements IoDevice {
  readonly isIoeventfd = true;
  readonly bus: Bus;
  readonly address: number;
  readonly length: number;
  readonly eventfd: EventFd;
  /** the value that a write must have; undefined: any */
  readonly datamatch: bigint | undefined;
  readonly #addressExact: bigint;

  constructor(bus: Bus, address: bigint, length: number, eventfd: EventFd, datamatch: bigint | undefined) {
    this.bus = bus;
    this.address = Number(address);
    this.#addressExact = address;
    this.length = length;
    this.eventfd = eventfd;
    this.datamatch = datamatch;
  }

  write(address: number, length: number, data: Uint8Array, at: number): boolean {
    if (!this.#matches(address, length, data, at)) return false;
    this.eventfd.signal();
    return true;
  }

  #matches(address: number, length: number, data: Uint8Array, at: number): boolean {
    if (address !== this.address) return false;
    if (this.length === 0) return true;
    if (length !== this.length) return false;
    if (this.datamatch === undefined) return true;
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(data[at + i]);
    return value === this.datamatch;
  }

  /** Whether both would answer to one and the same write. */
  collides(other: IoEventFd): boolean {
    if (this.bus !== other.bus || this.#addressExact !== other.#addressExact) return false;
    if (this.length === 0 || other.length === 0) return true;
    if (this.length !== other.length) return false;
    return (
      this.datamatch === undefined || other.datamatch === undefined || this.datamatch === other.datamatch
    );
  }

  /** Whether a request to remove means this one. */
  same(bus: Bus, address: bigint, length: number, eventfd: EventFd, datamatch: bigint | undefined): boolean {
    return (
      this.bus === bus &&
      this.eventfd === eventfd &&
      this.#addressExact === address &&
      this.length === length &&
      this.datamatch === datamatch
    );
  }
}

/**
 * Registers or removes. EFAULT; EINVAL: a length other than 0, 1, 2, 4, 8, an address that wraps, an unknown flag, a
 * datamatch without length, a descriptor that is no eventfd; EBADF; EEXIST: another one would answer to the same
 * write; ENOENT: nothing to remove; ENOSPC; ENOMEM.
 */
export function ioeventfd(file: VmFile, user: Argument, process: Process): number {
  if (!user.readable(KvmIoeventfd.size)) return -EFAULT;
  const args = KvmIoeventfd.at(user.bytes, user.at);
  const flags = args.flags;
  const request: IoEventFdRequest = {
    bus:
      (flags & KVM_IOEVENTFD_FLAG_PIO) !== 0
        ? "pio"
        : (flags & KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY) !== 0
          ? "virtio-ccw"
          : "mmio",
    address: args.addr,
    length: load32(user.bytes, user.at + KvmIoeventfd.offsetOf.len),
    fd: args.fd,
    datamatch: (flags & KVM_IOEVENTFD_FLAG_DATAMATCH) !== 0 ? args.datamatch : undefined,
  };
  if ((flags & KVM_IOEVENTFD_FLAG_DEASSIGN) !== 0) return deassign(file, process, request);

  const { bus, address, length, datamatch } = request;
  if (length !== 0 && length !== 1 && length !== 2 && length !== 4 && length !== 8) return -EINVAL;
  if (address + BigInt(length) >= 1n << 64n) return -EINVAL;
  if ((flags & ~KVM_IOEVENTFD_VALID_FLAG_MASK) !== 0) return -EINVAL;
  if (length === 0 && datamatch !== undefined) return -EINVAL;
  const result = assign(file, process, request);
  if (result < 0 || length !== 0 || bus !== "mmio") return result;
  // A write of any length is looked up on a bus of its own first.
  const fast = assign(file, process, { ...request, bus: "fast-mmio" });
  if (fast < 0) remove(file, process, request);
  return fast;
}

interface IoEventFdRequest {
  bus: Bus;
  address: bigint;
  length: number;
  fd: number;
  datamatch: bigint | undefined;
}

function eventfdOf(process: Process, fd: number): EventFd | number {
  const file = process.fds.get(fd);
  if (file === undefined) return -EBADF;
  return file instanceof EventFd ? file : -EINVAL;
}

function assign(file: VmFile, process: Process, request: IoEventFdRequest): number {
  const eventfd = eventfdOf(process, request.fd);
  if (typeof eventfd === "number") return eventfd;
  const vm = file.vm;
  if (vm.kernel.faults.allocation("ioeventfd")) return -ENOMEM;
  const created = new IoEventFd(request.bus, request.address, request.length, eventfd, request.datamatch);
  if (vm.ioeventfds.some((other) => other.collides(created))) return -EEXIST;
  const registered = busOf(file, request.bus).register(created);
  if (registered < 0) return registered;
  vm.ioeventfds.push(created);
  return 0;
}

function remove(file: VmFile, process: Process, request: IoEventFdRequest): number {
  const eventfd = eventfdOf(process, request.fd);
  if (typeof eventfd === "number") return eventfd;
  const vm = file.vm;
  const index = vm.ioeventfds.findIndex((other) =>
    other.same(request.bus, request.address, request.length, eventfd, request.datamatch),
  );
  if (index < 0) return -ENOENT;
  const [gone] = vm.ioeventfds.splice(index, 1);
  busOf(file, request.bus).unregister(gone);
  return 0;
}

function deassign(file: VmFile, process: Process, request: IoEventFdRequest): number {
  const result = remove(file, process, request);
  if (request.length === 0 && request.bus === "mmio") remove(file, process, { ...request, bus: "fast-mmio" });
  return result;
}

const busOf = (file: VmFile, bus: Bus): IoBus => file.vm.buses[bus];
