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
import { KVM_GET_IRQCHIP, KVM_IRQCHIP_IOAPIC, KvmIrqchip } from "../../lib/abi/kvm-x86.ts";
import { load32, store32 } from "../../lib/abi/struct.ts";
import { AssignedHost, type AssignedHostOptions, DEVFN } from "../../lib/examples/assigned-host.ts";
import { line, programIoapic } from "../../lib/examples/irqchips.ts";
import { X86Vm } from "../../lib/examples/x86-vm.ts";
import { Receiver } from "../../lib/fuzz/explore/receiver.ts";
import { PciDevice } from "../../lib/hardware/pci-device.ts";
import { pciImage } from "../../lib/hardware/pci-image.ts";
import type { Process } from "../../lib/kernel/process.ts";
import type { VmFile } from "../../lib/kvm/vm.ts";
import type { X86Vcpu } from "../../lib/kvm/x86/vcpu.ts";
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

  test("back: the device is looked for first, then the controllers", () => {
    const { host, assign, call } = world();
    const vm = host.process.ioctl(host.process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    const back = () =>
      call(KVM_DEASSIGN_DEV_IRQ, KvmAssignedIrq.encode({ assigned_dev_id: 1, flags: 1 }), vm);
    expect(back()).toBe(-ENODEV);
    expect(assign({}, vm)).toBe(0);
    expect(back()).toBe(-EINVAL);
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

  test("ENOMEM where there is no memory for either list: none of them is there", () => {
    for (const nth of [1, 2]) {
      const { host, assign, entries, entry } = world();
      assign();
      host.machine.kernel.faults.failNth("allocation", nth);
      expect([entries(2), entry(0, 5), entries(2), entry(0, 5)]).toEqual([-ENOMEM, -ENOSPC, 0, 0]);
    }
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

  const DISABLED = 0x400;
  const acknowledge = ({ process, x86 }: { process: Process; x86: X86Vm }) => {
    const { routing, kernel, vcpus } = (process.fds.get(x86.vm) as VmFile).vm;
    const { lapic } = vcpus[0].arch as X86Vcpu;
    lapic!.takeInterrupt();
    lapic!.eoi();
    routing.notifyAcked(KVM_IRQCHIP_IOAPIC, 5);
    kernel.work.drain();
  };
  /** where struct kvm_ioapic_state keeps the lines that are up */
  const lineUp = ({ process, x86 }: { process: Process; x86: X86Vm }) => {
    const chip = new Uint8Array(KvmIrqchip.size);
    store32(chip, 0, KVM_IRQCHIP_IOAPIC);
    expect(process.ioctl(x86.vm, KVM_GET_IRQCHIP, chip)).toBe(0);
    return (load32(chip, 8 + 16) & (1 << 5)) !== 0;
  };

  test.each([
    ["masked in the device", KVM_DEV_ASSIGN_PCI_2_3],
    ["masked at the host's pin", 0],
  ])("%s: it comes again after each acknowledgement, once", (_, flags) => {
    const { host, x86, raise } = intx(flags);
    const world = { process: host.process, x86 };
    for (let round = 0; round < 3; round++) {
      raise(true);
      expect([lineUp(world), host.device.command & DISABLED]).toEqual([true, flags === 0 ? 0 : DISABLED]);
      raise(false);
      acknowledge(world);
      expect([lineUp(world), host.device.command & DISABLED]).toEqual([false, 0]);
    }
  });

  test("of devices that share a pin the one that does not assert it raises nothing", () => {
    const { host, x86, raise } = intx(KVM_DEV_ASSIGN_PCI_2_3);
    const world = { process: host.process, x86 };
    const { irqs } = host.machine.pci!;
    const other = new PciDevice({ address: "0000:00:06.0", config: pciImage({ pin: 1 }) });
    irqs.connect(other, irqs.pinOf(host.device));
    other.setIntx(true);
    host.machine.kernel.work.drain();
    expect([lineUp(world), host.device.command & DISABLED]).toEqual([false, 0]);
    raise(true);
    expect([lineUp(world), host.device.command & DISABLED]).toEqual([true, DISABLED]);
  });

  test("assigned again, the device may assert it again", () => {
    const { host, x86, irq, unirq, raise } = intx(KVM_DEV_ASSIGN_PCI_2_3);
    for (let round = 0; round < 2; round++) {
      expect(unirq(HOST_INTX | GUEST_INTX)).toBe(0);
      expect(host.device.command & DISABLED).toBe(DISABLED);
      expect(irq(HOST_INTX | GUEST_INTX, 5)).toBe(0);
      expect(host.device.command & DISABLED).toBe(0);
    }
    raise(true);
    expect(lineUp({ process: host.process, x86 })).toBe(true);
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
