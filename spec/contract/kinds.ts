/** One descriptor of every kind of file that both kernels have. */
import { KVM_CREATE_IRQCHIP, KVM_CREATE_VCPU, KVM_CREATE_VM } from "../../lib/abi/kvm.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";

export const kinds = (process: Syscalls): Record<string, number> => {
  const kvm = process.open("/dev/kvm", 2);
  const vm = process.ioctl(kvm, KVM_CREATE_VM);
  process.ioctl(vm, KVM_CREATE_IRQCHIP);
  const vcpu = process.ioctl(vm, KVM_CREATE_VCPU, 0);
  const pair: number[] = [];
  process.pipe2(pair, 0);
  return {
    kvm,
    vm,
    vcpu,
    eventfd: process.eventfd2(1, 0),
    epoll: process.epoll_create1(0),
    reading: pair[0],
    writing: pair[1],
    path: process.open("/dev/kvm", 0x200000),
    readonly: process.open("/dev/kvm", 0),
    writeonly: process.open("/dev/kvm", 1),
    closed: 77,
  };
};
