/** A bare VM to put questions to, and shorthands for what specs ask most. */
import { KVM_CREATE_VM } from "../../lib/abi/kvm.ts";
import type { Process } from "../../lib/kernel/process.ts";
import { Machine } from "../../lib/machine/machine.ts";

export interface TestVm {
  machine: Machine;
  process: Process;
  kvm: number;
  vm: number;
}

export function testVm(machine = new Machine()): TestVm {
  const process = machine.process();
  const kvm = process.open("/dev/kvm", 2);
  return { machine, process, kvm, vm: process.ioctl(kvm, KVM_CREATE_VM, 0) };
}
