/**
 * Every request number of KVM's type in every encoding, on every kind of file, with arguments that reach no further
 * than the first checks: what is known at all, what wants a pointer, and in which order things are checked.
 */
import { describe } from "vitest";
import { requestNumber } from "../../lib/abi/ioctl.ts";
import { KVM_CREATE_DEVICE, KVM_DEV_TYPE_VFIO, KVM_RUN, KvmCreateDevice } from "../../lib/abi/kvm.ts";
import { requestList, requestsOf } from "../../lib/abi/requests.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import { type Answers, agreement, named } from "./contract.ts";
import { type IrqchipMode, makeVm, modes } from "./kvm-vm.ts";

const KVMIO = 0xae;
const NULL = 0;
/** an address that no process has mapped, and one in the kernel's half */
const UNMAPPED = 0x10;
const KERNEL = 0xffff_8000_0000_0000n;

/** Requests that run a guest, or make something out of nothing but their number. */
const leftOut = new Set([KVM_RUN.number]);

function files(process: Syscalls, mode: IrqchipMode): Record<string, number> {
  const { kvm, vm, vcpus } = makeVm(process, mode);
  const device = KvmCreateDevice.encode({ type: KVM_DEV_TYPE_VFIO });
  process.ioctl(vm, KVM_CREATE_DEVICE, device);
  return { system: kvm, vm, vcpu: vcpus[0], device: KvmCreateDevice.decode(device).fd };
}

/** A descriptor that a request made is closed again, so that the numbers stay. */
function ask(
  process: Syscalls,
  fd: number,
  request: number,
  argument: number | bigint | Uint8Array,
): number | string {
  const result = process.ioctl(fd, request, argument);
  return result > 2 && result < 100 && process.close(result) === 0 ? "a descriptor" : named(result);
}

describe.each(modes)("with irqchip mode %s", (mode) => {
  agreement("every number that the headers name, with bad pointers", (process) => {
    const answers: Answers = {};
    for (const [kind, fd] of Object.entries(files(process, mode)))
      for (const { name, number } of requestList("x86_64")) {
        if (leftOut.has(number) || ((number >>> 8) & 0xff) !== KVMIO) continue;
        answers[`${kind} ${name}`] = [NULL, UNMAPPED, KERNEL].map((argument) =>
          ask(process, fd, number, argument),
        );
      }
    return answers;
  });
});

agreement("numbers that nobody knows: every number in every direction, sizes 0 and 8", (process) => {
  const answers: Answers = {};
  const known = requestsOf("x86_64");
  for (const [kind, fd] of Object.entries(files(process, "kernel")))
    for (const direction of ["none", "read", "write", "read-write"] as const)
      for (const size of [0, 8])
        for (let nr = 0; nr < 256; nr++) {
          const number = requestNumber("generic", direction, KVMIO, nr, size);
          if (!known.has(number)) answers[`${kind} ${number.toString(16)}`] = ask(process, fd, number, NULL);
        }
  return answers;
});

agreement("requests of other subsystems", (process) => {
  const answers: Answers = {};
  for (const [kind, fd] of Object.entries(files(process, "kernel")))
    for (const type of [0, 0x12, 0x3b, 0x54, 0x89, 0xad, 0xaf])
      for (const nr of [0x01, 0x13, 0x64, 0x71, 0xff])
        answers[`${kind} ${type.toString(16)} ${nr.toString(16)}`] = ask(process, fd, (type << 8) | nr, NULL);
  return answers;
});
