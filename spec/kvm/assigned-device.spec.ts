import { describe, expect, test } from "vitest";
import {
  EBUSY,
  EEXIST,
  EFAULT,
  EINVAL,
  ENODEV,
  ENOMEM,
  ENOSPC,
  ENOTTY,
  ENXIO,
  EOPNOTSUPP,
  EPERM,
} from "../../lib/abi/errno.ts";
import type { Request } from "../../lib/abi/ioctl.ts";
import { KVM_CREATE_VM } from "../../lib/abi/kvm.ts";
import {
  __KVM_DEPRECATED_VM_R_0x70,
  KVM_ASSIGN_DEV_IRQ,
  KVM_ASSIGN_PCI_DEVICE,
  KVM_ASSIGN_SET_INTX_MASK,
  KVM_ASSIGN_SET_MSIX_ENTRY,
  KVM_ASSIGN_SET_MSIX_NR,
  KVM_DEASSIGN_DEV_IRQ,
  KVM_DEASSIGN_PCI_DEVICE,
  KVM_DEV_ASSIGN_PCI_2_3,
  KvmAssignedIrq,
  KvmAssignedMsixEntry,
  KvmAssignedMsixNr,
  KvmAssignedPciDev,
} from "../../lib/abi/kvm-legacy.ts";
import { AssignedHost, type AssignedHostOptions, DEVFN } from "../../lib/examples/assigned-host.ts";
import { line, programIoapic } from "../../lib/examples/irqchips.ts";
import { X86Vm } from "../../lib/examples/x86-vm.ts";
import { Receiver } from "../../lib/fuzz/explore/receiver.ts";
import { Machine } from "../../lib/machine/machine.ts";

const HOST_INTX = 1;
const HOST_MSIX = 4;
const GUEST_INTX = 0x100;
const GUEST_MSIX = 0x400;

function world(options: Partial<AssignedHostOptions> = {}) {
  const host = new AssignedHost({ release: "3.7", ...options });
  const { process } = host;
  const x86 = new X86Vm(process);
  const call = (request: Request, argument: Uint8Array, vm = x86.vm) => process.ioctl(vm, request, argument);
  return {
    host,
    x86,
    call,
    assign: (fields: Partial<Parameters<typeof KvmAssignedPciDev.encode>[0]> = {}, vm = x86.vm) =>
      call(
        KVM_ASSIGN_PCI_DEVICE,
        KvmAssignedPciDev.encode({ assigned_dev_id: 1, devfn: DEVFN, flags: 1, ...fields }),
        vm,
      ),
    irq: (flags: number, guest_irq = 0, assigned_dev_id = 1, vm = x86.vm) =>
      call(KVM_ASSIGN_DEV_IRQ, KvmAssignedIrq.encode({ assigned_dev_id, flags, guest_irq }), vm),
    unirq: (flags: number, assigned_dev_id = 1) =>
      call(KVM_DEASSIGN_DEV_IRQ, KvmAssignedIrq.encode({ assigned_dev_id, flags })),
    entries: (entry_nr: number) =>
      call(KVM_ASSIGN_SET_MSIX_NR, KvmAssignedMsixNr.encode({ assigned_dev_id: 1, entry_nr })),
    entry: (entry: number, gsi: number) =>
      call(KVM_ASSIGN_SET_MSIX_ENTRY, KvmAssignedMsixEntry.encode({ assigned_dev_id: 1, entry, gsi })),
  };
}

const requests = [
  KVM_ASSIGN_PCI_DEVICE,
  KVM_DEASSIGN_PCI_DEVICE,
  KVM_ASSIGN_DEV_IRQ,
  KVM_DEASSIGN_DEV_IRQ,
  KVM_ASSIGN_SET_MSIX_NR,
  KVM_ASSIGN_SET_MSIX_ENTRY,
  KVM_ASSIGN_SET_INTX_MASK,
];

describe("which hosts have it", () => {
  test("releases from 4.12 on answer ENOTTY to all of it, whatever the argument", () => {
    for (const { process } of [
      new AssignedHost({ release: "6.1" }),
      new AssignedHost({ release: "6.12" }),
      { process: new Machine().process() },
    ]) {
      const vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
      for (const request of [...requests, __KVM_DEPRECATED_VM_R_0x70])
        expect(process.ioctl(vm, request, 0)).toBe(-ENOTTY);
    }
  });

  test("older ones look at the argument first", () => {
    const { call } = world();
    for (const request of requests) expect(call(request, new Uint8Array(3))).toBe(-EFAULT);
    expect(call(__KVM_DEPRECATED_VM_R_0x70, new Uint8Array(64))).toBe(-EOPNOTSUPP);
  });
});

describe("KVM_ASSIGN_PCI_DEVICE", () => {
  test("its errnos", () => {
    const { assign, call, host } = world();
    expect(assign({ flags: 0 })).toBe(-EINVAL);
    expect(assign({ devfn: 0x40 })).toBe(-EINVAL);
    expect(assign({ segnr: 1 })).toBe(-EINVAL);
    host.machine.kernel.faults.failNth("allocation", 1);
    expect(assign()).toBe(-ENOMEM);
    expect(assign()).toBe(0);
    expect(assign()).toBe(-EEXIST);
    expect(assign({ assigned_dev_id: 2 })).toBe(-EBUSY);
    const other = new X86Vm(host.process);
    expect(assign({}, other.vm)).toBe(-EBUSY);
    const one = KvmAssignedPciDev.encode({ assigned_dev_id: 1 });
    expect(call(KVM_DEASSIGN_PCI_DEVICE, one, other.vm)).toBe(-EINVAL);
    expect(call(KVM_DEASSIGN_PCI_DEVICE, one)).toBe(0);
    expect(call(KVM_DEASSIGN_PCI_DEVICE, one)).toBe(-EINVAL);
    expect(assign({}, other.vm)).toBe(0);
  });

  test("ENODEV without an IOMMU", () => {
    expect(world({ iommu: null }).assign()).toBe(-ENODEV);
  });

  test("a VM that goes gives its devices back", () => {
    const { assign, host, x86, entries, entry, irq } = world();
    assign();
    entries(1);
    entry(0, 5);
    expect(irq(HOST_MSIX | GUEST_MSIX)).toBe(0);
    host.process.close(x86.vcpu);
    host.process.close(x86.vm);
    expect(host.device.msix!.enabled).toBe(false);
    expect(world().assign()).toBe(0);
    expect(assign({}, new X86Vm(host.process).vm)).toBe(0);
  });
});

describe("KVM_ASSIGN_DEV_IRQ", () => {
  test("one type of each side at most, each side once, and back", () => {
    const { assign, irq, unirq } = world();
    expect(irq(HOST_INTX)).toBe(-ENODEV);
    expect(unirq(HOST_INTX)).toBe(-ENODEV);
    assign();
    expect(unirq(HOST_INTX)).toBe(-ENXIO);
    for (const flags of [0, 3, 0x300, 0x503, 1 << 16]) expect(irq(flags)).toBe(-EINVAL);
    for (const flags of [8, 0x800]) expect(irq(flags)).toBe(-EINVAL);
    expect(irq(HOST_INTX)).toBe(0);
    expect(irq(HOST_INTX)).toBe(-EEXIST);
    expect(irq(HOST_INTX | GUEST_INTX)).toBe(-EEXIST);
    expect(irq(GUEST_INTX, 5)).toBe(0);
    expect(irq(GUEST_MSIX)).toBe(-EEXIST);
    expect(unirq(HOST_INTX | GUEST_INTX)).toBe(0);
    expect(unirq(HOST_INTX)).toBe(-ENXIO);
  });

  test("EINVAL without controllers in the kernel, before the device is looked for", () => {
    const { host, irq } = world();
    const vm = host.process.ioctl(host.process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    expect(irq(HOST_INTX, 0, 1, vm)).toBe(-EINVAL);
  });
});

describe("MSI-X entries", () => {
  test("a number once, then so many entries; nothing on the host's side without them", () => {
    const { assign, entries, entry, irq, unirq } = world();
    expect(entries(1)).toBe(-EINVAL);
    expect(entry(0, 5)).toBe(-EINVAL);
    assign();
    expect(entry(0, 5)).toBe(-ENOSPC);
    expect(irq(HOST_MSIX)).toBe(-EINVAL);
    for (const count of [0, 257]) expect(entries(count)).toBe(-EINVAL);
    expect(entries(2)).toBe(0);
    expect(entries(2)).toBe(-EINVAL);
    expect([entry(2, 5), entry(2, 6), entry(0, 7), entry(1, 8)]).toEqual([0, 0, 0, -ENOSPC]);
    expect(irq(HOST_MSIX | GUEST_MSIX)).toBe(0);
    expect(unirq(HOST_MSIX)).toBe(0);
    expect(entries(1)).toBe(0);
  });

  test("exactly the entries that were named are unmasked in the device", () => {
    const { assign, entries, entry, irq, host } = world();
    assign();
    entries(2);
    entry(2, 5);
    entry(0, 6);
    irq(HOST_MSIX | GUEST_MSIX);
    expect([0, 1, 2].map((vector) => host.device.msix!.masked(vector))).toEqual([false, true, false]);
  });
});

describe("INTx", () => {
  /** GSI 5 leads to pin 5 of the IOAPIC: vector 0x55, level. */
  function intx(flags: number) {
    const made = world();
    const { host, x86, assign, irq } = made;
    programIoapic(host.process, x86.vm, 0, true);
    const receiver = new Receiver(host.process, [x86.vcpu]);
    assign({ flags: 1 | flags });
    irq(HOST_INTX | GUEST_INTX, 5);
    const raise = (level: boolean) => {
      host.device.setIntx(level);
      host.machine.kernel.work.drain();
    };
    return { ...made, receiver, raise };
  }

  test.each([
    ["masked in the device", KVM_DEV_ASSIGN_PCI_2_3],
    ["masked at the host's pin", 0],
  ])("%s: one interrupt for a line that stays up, until it is acknowledged", (_, flags) => {
    const { host, receiver, raise } = intx(flags);
    raise(true);
    expect(receiver.count(0x55)).toBe(1);
    expect(host.device.intxHigh).toBe(flags === 0);
    raise(false);
    raise(true);
    expect(receiver.count(0x55)).toBe(1);
  });

  test("KVM_ASSIGN_SET_INTX_MASK: the guest has masked it, nothing comes", () => {
    const { raise, receiver, call } = intx(KVM_DEV_ASSIGN_PCI_2_3);
    const mask = (flags: number, assigned_dev_id = 1) =>
      call(KVM_ASSIGN_SET_INTX_MASK, KvmAssignedPciDev.encode({ assigned_dev_id, flags }));
    expect(mask(4, 2)).toBe(-ENODEV);
    expect(mask(4)).toBe(0);
    raise(true);
    expect(receiver.count(0x55)).toBe(0);
  });

  test("a GSI's line is the OR of its sources: user space cannot take the device's line down", () => {
    const { host, x86, receiver, raise } = intx(KVM_DEV_ASSIGN_PCI_2_3);
    raise(true);
    line(host.process, x86.vm, 5, 1);
    line(host.process, x86.vm, 5, 0);
    expect(receiver.count(0x55)).toBe(1);
  });
});

test("EPERM where the host does not remap interrupts", () => {
  const host = new AssignedHost({ release: "3.7", iommu: "intel", remapping: false });
  const { vm } = new X86Vm(host.process);
  const assigned = KvmAssignedPciDev.encode({ assigned_dev_id: 1, devfn: DEVFN, flags: 1 });
  expect(host.process.ioctl(vm, KVM_ASSIGN_PCI_DEVICE, assigned)).toBe(-EPERM);
});
