/** Irqfds that share an eventfd or a GSI, and the clock's pin (virt/kvm/eventfd.c, arch/x86/kvm/ioapic.c). */
import { describe, expect, test } from "vitest";
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VM,
  KVM_IRQ_LINE_STATUS,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_IRQFD_FLAG_RESAMPLE,
  KvmIrqfd,
  KvmIrqLevel,
} from "../../lib/abi/kvm.ts";
import { KVM_GET_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_SET_IRQCHIP, KvmIrqchip } from "../../lib/abi/kvm-x86.ts";
import { load32, load64, store32, store64 } from "../../lib/abi/struct.ts";
import { AssignedHost } from "../../lib/examples/assigned-host.ts";
import { X86Vm } from "../../lib/examples/x86-vm.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import type { VmFile } from "../../lib/kvm/vm.ts";
import { contract } from "../contract/contract.ts";
import { testVm } from "./vm.ts";

const CLOCK = 8;
/** where the IOAPIC's entries begin in struct kvm_irqchip */
const ENTRIES = 8 + 24;
const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);

function line(process: Syscalls, vm: number, irq: number, level: number): number {
  const argument = KvmIrqLevel.encode({ irq, level });
  expect(process.ioctl(vm, KVM_IRQ_LINE_STATUS, argument)).toBe(0);
  return load32(argument, 0) | 0;
}

/** Opens the clock's pin: vector 0x48, edge, to LAPIC 0. */
function openClock(process: Syscalls, vm: number): void {
  const chip = new Uint8Array(KvmIrqchip.size);
  store32(chip, 0, KVM_IRQCHIP_IOAPIC);
  process.ioctl(vm, KVM_GET_IRQCHIP, chip);
  store64(chip, ENTRIES + 8 * CLOCK, 0x48n);
  expect(process.ioctl(vm, KVM_SET_IRQCHIP, chip)).toBe(0);
}

contract(
  "the clock's interrupt is coalesced until its EOI where its line brought it, not where an irqfd did",
  (process) => {
    for (const first of ["line", "irqfd"])
      for (const second of ["line", "irqfd"]) {
        const { vm } = new X86Vm(process);
        openClock(process, vm);
        const fd = process.eventfd2(0, 0);
        const irqfd = (flags: number) =>
          process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: CLOCK, flags }));
        // taking the irqfd away waits for what it has to bring
        const byIrqfd = () =>
          expect([irqfd(0), process.write(fd, one), irqfd(KVM_IRQFD_FLAG_DEASSIGN)]).toEqual([0, 8, 0]);
        // the slave PIC takes the first one too, and keeps it
        if (first === "irqfd") byIrqfd();
        else expect(line(process, vm, CLOCK, 1)).toBe(2);
        if (first === "line") line(process, vm, CLOCK, 0);
        // an irqfd's interrupt passes the tracking, and a line's is held back by a line's only
        if (second === "irqfd") byIrqfd();
        else expect([first, line(process, vm, CLOCK, 1)]).toEqual([first, first === "line" ? 0 : 1]);
      }
  },
);

describe("an eventfd that is closed", () => {
  test("takes the irqfds of all VMs along", () => {
    const { process } = new AssignedHost({ release: "6.12" });
    const fd = process.eventfd2(0, 0);
    const vms = [0, 1, 2].map(() => {
      const vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
      process.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
      expect(process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: 5 }))).toBe(0);
      return (process.fds.get(vm) as VmFile).vm;
    });
    expect(vms.map(({ irqfds }) => [...irqfds.values()].length)).toEqual([1, 1, 1]);
    expect(process.close(fd)).toBe(0);
    expect(vms.map(({ irqfds }) => [...irqfds.values()].length)).toEqual([0, 0, 0]);
  });

  test("of several that wait on it the first is told of a signal, and only that one", () => {
    const { process } = new AssignedHost({ release: "6.12" });
    const fd = process.eventfd2(0, 0);
    const vms = [0, 1].map(() => {
      const made = new X86Vm(process);
      openClock(process, made.vm);
      expect(process.ioctl(made.vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: CLOCK }))).toBe(0);
      return made;
    });
    process.write(fd, one);
    expect(vms.map(({ requested }) => requested)).toEqual([[0x48], []]);
  });
});

test("who listens to acknowledgements of a pin: a resampling irqfd, as long as it is there", () => {
  const { process, vm } = testVm();
  process.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
  const { routing } = (process.fds.get(vm) as VmFile).vm;
  const listeners = () =>
    Array.from({ length: 24 }, (_, pin) => pin).filter((pin) => routing.hasNotifier(KVM_IRQCHIP_IOAPIC, pin));
  const [fd, resamplefd] = [0, 1].map(() => process.eventfd2(0, 0x800));
  const irqfd = (gsi: number, flags: number) =>
    process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi, flags, resamplefd }));
  for (const gsi of [5, 17, 5]) {
    expect(listeners()).toEqual([]);
    expect(irqfd(gsi, KVM_IRQFD_FLAG_RESAMPLE)).toBe(0);
    expect(listeners()).toEqual([gsi]);
    routing.notifyAcked(KVM_IRQCHIP_IOAPIC, gsi);
    const told = new Uint8Array(8);
    expect([process.read(resamplefd, told), load64(told, 0)]).toEqual([8, 1n]);
    expect(irqfd(gsi, KVM_IRQFD_FLAG_DEASSIGN)).toBe(0);
  }
  expect(listeners()).toEqual([]);
});
