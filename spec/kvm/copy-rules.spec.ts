/**
 * The copy rule that is declared beside a request is what its handler does: an argument that notes what is asked of it
 * is passed to every request of every table. Nothing is copied out that is declared "in", nothing in that is "out",
 * and a request whose argument is a value touches no memory.
 */
import { afterEach, describe, expect, test, vi } from "vitest";
import {
  KVM_CREATE_DEVICE,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_DEV_TYPE_VFIO,
  KvmCreateDevice,
} from "../../lib/abi/kvm.ts";
import { KVM_CREATE_PIT2 } from "../../lib/abi/kvm-x86.ts";
import { findRequest } from "../../lib/abi/requests.ts";
import { Argument, STACK_ADDRESS } from "../../lib/kernel/argument.ts";
import type { Process } from "../../lib/kernel/process.ts";
import { systemIoctls } from "../../lib/kvm/system.ts";
import { vcpuIoctls } from "../../lib/kvm/vcpu.ts";
import { vmIoctls } from "../../lib/kvm/vm-ioctls.ts";
import { x86 } from "../../lib/kvm/x86/arch.ts";
import { testVm } from "./vm.ts";

interface Access {
  copy: "in" | "out";
  start: number;
  end: number;
}

/** What a call asks of the memory that its argument points to; embedded pointers are other arguments. */
function accesses(process: Process, fd: number, request: number, bytes: Uint8Array): Access[] {
  const log: Access[] = [];
  const main = (argument: Argument) => argument.value === STACK_ADDRESS;
  const { readable, writable } = Argument.prototype;
  vi.spyOn(Argument.prototype, "readable").mockImplementation(function (this: Argument, size, skip = 0) {
    if (main(this)) log.push({ copy: "in", start: skip, end: size + skip });
    return readable.call(this, size, skip);
  });
  vi.spyOn(Argument.prototype, "writable").mockImplementation(function (this: Argument, size, skip = 0) {
    if (main(this)) log.push({ copy: "out", start: skip, end: size + skip });
    return writable.call(this, size, skip);
  });
  process.ioctl(fd, request, bytes);
  vi.restoreAllMocks();
  return log;
}

afterEach(() => void vi.restoreAllMocks());

const tables = {
  system: [...systemIoctls(x86).keys()],
  vm: [...vmIoctls(x86).keys()],
  vcpu: [...vcpuIoctls(x86).keys()],
} as const;

/** A table may know a request that the headers give to other kinds of file (to refuse it), or that was never merged. */
const named = (number: number, kind: string) =>
  findRequest("x86_64", number, kind as "vm") ?? findRequest("x86_64", number);

describe.each(Object.entries(tables))("requests on a %s file", (kind, numbers) => {
  test.each(
    numbers.flatMap((number) => named(number, kind) ?? []).map(({ name, number }) => [name, number] as const),
  )("%s", (_name, number) => {
    const { request } = named(number, kind)!;
    const { process, kvm, vm } = testVm();
    process.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
    process.ioctl(vm, KVM_CREATE_PIT2, new Uint8Array(64));
    const vcpu = process.ioctl(vm, KVM_CREATE_VCPU, 0);
    const fd = { system: kvm, vm, vcpu }[kind as "vm"];
    // A request may look for something that is not there and end early: several arguments are tried.
    const arguments_ = [0, 1, 2].map((first) => {
      const bytes = new Uint8Array(8192);
      bytes[0] = first;
      return bytes;
    });
    const seen = arguments_.flatMap((bytes) => accesses(process, fd, number, bytes));
    const head = request.struct?.size ?? request.size;
    // The head travels as declared; what follows it may have a rule of its own.
    const inHead = seen.filter(({ start }) => start < head || head === 0);
    const against: string[] = { value: ["in", "out"], in: ["out"], out: ["in"], inout: [] }[request.copy];
    expect(inHead.filter(({ copy }) => against.includes(copy))).toEqual([]);
    const hasTail = request.tail !== undefined || request.sized !== undefined;
    if (!hasTail) expect(seen.filter(({ end }) => end > head)).toEqual([]);
  });
});

test("an access that is not declared is noticed", () => {
  const { process, vm } = testVm();
  const device = KvmCreateDevice.encode({ type: KVM_DEV_TYPE_VFIO });
  expect(accesses(process, vm, KVM_CREATE_DEVICE.number, device)).toEqual([
    { copy: "in", start: 0, end: 12 },
    { copy: "out", start: 0, end: 12 },
  ]);
});
