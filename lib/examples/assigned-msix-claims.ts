/** What was said in thread 002, each with the run that decides. */
import { EINVAL } from "../abi/errno.ts";
import {
  KVM_ASSIGN_PCI_DEVICE,
  KVM_ASSIGN_SET_MSIX_NR,
  KVM_DEASSIGN_PCI_DEVICE,
  KVM_DEV_ASSIGN_ENABLE_IOMMU,
  KvmAssignedMsixNr,
  KvmAssignedPciDev,
} from "../abi/kvm-legacy.ts";
import { now } from "../vmm/co.ts";
import type { MsixPolicy } from "../vmm/pci-assign.ts";
import { AssignedHost, DEVFN, VECTORS } from "./assigned-host.ts";
import {
  AssignedWorld,
  type Device,
  type Guest,
  message,
  strayMessages,
  type Trouble,
  troublesOf,
} from "./assigned-msix.ts";
import type { Claim } from "./claims.ts";
import { X86Vm } from "./x86-vm.ts";

const has = (trouble: Trouble, policy: MsixPolicy, guest: Guest, device: Device): boolean =>
  troublesOf(policy, guest, device).includes(trouble);
const works = (policy: MsixPolicy, guest: Guest, device: Device): boolean =>
  troublesOf(policy, guest, device).length === 0;

/** A Linux-like guest has turned MSI-X on and requested nothing. */
function enabledByGuest(policy: MsixPolicy): AssignedWorld {
  const world = new AssignedWorld(policy);
  for (let vector = 0; vector < VECTORS; vector++) world.msix.program(vector, message(vector));
  now(world.msix.setEnabled(true));
  return world;
}

const hostVectors = ({ host, device }: AssignedWorld): number => host.machine.pci!.irqs.countOf(device);
const isOn = ({ device }: AssignedWorld): boolean => device.msix!.enabled;

export const claims: readonly Claim[] = [
  {
    who: "Williamson",
    when: "2012-12-20",
    says: "when the guest turns MSI-X on, no vector is unmasked and the device is not switched",
    holds: () => !isOn(enabledByGuest("masked")),
    verdict: "confirmed",
    by: "policy 'masked': the device's enable bit after the guest set its own",
  },
  {
    who: "Williamson",
    when: "2012-12-20",
    says: "this generally works, as the device is switched once the guest unmasks a vector",
    holds: () => works("masked", "Linux", "patient") && works("masked", "FreeBSD", "patient"),
    verdict: "confirmed",
    by: "policy 'masked' with a device that keeps what it may not send, every order",
  },
  {
    who: "Williamson",
    when: "2012-12-20",
    says: "this generally works (with a device that forgets interrupts while MSI-X is off)",
    holds: () => works("masked", "Linux", "strict"),
    verdict: "contradicted",
    by: "its interrupts before the first unmask, and in every restart, are lost",
  },
  {
    who: "Williamson",
    when: "2012-12-20",
    says: "drivers that talk to their firmware in between break",
    holds: () => has("firmware breaks", "masked", "Linux", "firmware"),
    verdict: "confirmed",
    by: "policy 'masked', firmware device",
  },
  {
    who: "Williamson",
    when: "2012-12-20",
    says: "with the test of the data field the physical state tracks the guest's view",
    holds: () => isOn(enabledByGuest("data")) && !has("firmware breaks", "data", "Linux", "firmware"),
    verdict: "confirmed",
    by: "policy 'data', Linux",
  },
  {
    who: "Tsirkin",
    when: "2012-12-20",
    says: "MSI-X can be enabled and masked through sysfs, in user space",
    holds: () => works("sysfs", "Linux", "firmware") && works("sysfs", "FreeBSD", "firmware"),
    verdict: "confirmed",
    by: "policy 'sysfs', firmware device, both guests",
  },
  {
    who: "Williamson",
    when: "2012-12-20",
    says: "that is dangerous: the device is in a state that the host kernel knows nothing of",
    holds: () => {
      const world = new AssignedWorld("sysfs", { resets: [] });
      now(world.msix.setEnabled(true));
      const assigned = KvmAssignedPciDev.encode({ assigned_dev_id: 1 });
      return (
        hostVectors(world) === 0 &&
        world.host.process.ioctl(world.vm.vm, KVM_DEASSIGN_PCI_DEVICE, assigned) === 0 &&
        isOn(world)
      );
    },
    verdict: "confirmed",
    by: "a device that cannot be reset is given back with MSI-X on, and the host has no vectors for it",
  },
  {
    who: "Tsirkin",
    when: "2012-12-21",
    says: "the test of the data relies on what a guest happens to do",
    holds: () => has("firmware breaks", "data", "FreeBSD", "firmware"),
    verdict: "confirmed",
    by: "policy 'data' with a guest that programs its table later",
  },
  {
    who: "Williamson",
    when: "2013-01-02",
    says: "vectors can still be added, so FreeBSD stays supported",
    holds: () => works("data", "FreeBSD", "patient"),
    verdict: "confirmed",
    by: "policy 'data', FreeBSD, every order",
  },
  {
    who: "Williamson",
    when: "2013-01-06",
    says: "when only the data was looked at and nothing added, FreeBSD got no vectors",
    holds: () => has("lost interrupt", "data, fixed", "FreeBSD", "patient"),
    verdict: "confirmed",
    by: "policy 'data, fixed'",
  },
  {
    who: "Williamson",
    when: "2013-01-02",
    says: "the data does not tell how many vectors the guest is going to use",
    holds: () => hostVectors(enabledByGuest("data")) === VECTORS,
    verdict: "confirmed",
    by: "a guest that has requested none has three vectors of the host",
  },
  {
    who: "Williamson",
    when: "2013-01-02",
    says: "the host's MSI interface does not allow to enable MSI-X without vectors",
    holds: () => {
      const { host, vm } = new AssignedWorld("masked");
      const none = KvmAssignedMsixNr.encode({ assigned_dev_id: 1, entry_nr: 0 });
      return host.process.ioctl(vm.vm, KVM_ASSIGN_SET_MSIX_NR, none) === -EINVAL;
    },
    verdict: "confirmed",
    by: "KVM_ASSIGN_SET_MSIX_NR of 0 is EINVAL",
  },
  {
    who: "Williamson",
    when: "2013-01-02",
    says: "a single vector conserves the host's vectors, and lets spurious interrupts through",
    holds: () =>
      hostVectors(enabledByGuest("one")) === 1 && has("spurious interrupt", "one", "Linux", "patient"),
    verdict: "confirmed",
    by: "policy 'one': one vector of the host; vector 0 comes before its handler",
  },
  {
    who: "Tsirkin",
    when: "2013-01-06",
    says: "a single vector can lose an interrupt that is sent before there is a handler",
    holds: () => has("lost interrupt", "one", "Linux", "patient"),
    verdict: "confirmed",
    by: "policy 'one': the early interrupt is gone when the handler comes",
  },
  {
    who: "Tsirkin",
    when: "2013-01-06",
    says: "the test of the data only sends interrupts when there is a handler, so it is safe",
    holds: () => !has("spurious interrupt", "data", "Linux", "patient"),
    verdict: "contradicted",
    by: "policy 'data': all vectors are unmasked in the device before the guest has requested any",
  },
  {
    who: "Williamson",
    when: "2013-01-06",
    says: "interrupts before request_irq would be spurious with the test of the data, too",
    holds: () => has("spurious interrupt", "data", "Linux", "patient"),
    verdict: "confirmed",
    by: "policy 'data', Linux",
  },
  {
    who: "Tsirkin",
    when: "2013-01-07",
    says: "vectors that are masked are queued in the hardware",
    holds: () => {
      const world = enabledByGuest("sysfs");
      world.device.msix!.raise(1);
      const queued = world.device.msix!.isPending(1) && world.receiver.deliveries.length === 0;
      now(world.msix.setMask(1, false));
      return queued && world.receiver.count(message(1).data) === 1;
    },
    verdict: "confirmed",
    by: "policy 'sysfs': the pending bit, then exactly one interrupt",
  },
  {
    who: "Williamson",
    when: "2013-01-07",
    says: "they are not masked: the call of KVM enables MSI-X and requests the interrupts at once",
    holds: () => {
      const { device } = enabledByGuest("data");
      return Array.from({ length: VECTORS }, (_, vector) => device.msix!.masked(vector)).every((m) => !m);
    },
    verdict: "confirmed",
    by: "the device's mask bits after KVM_ASSIGN_DEV_IRQ",
  },
  {
    who: "Tsirkin",
    when: "2013-01-06",
    says: "masking by hand is not necessary, all vectors are masked after a reset",
    holds: () => (["flr", "pm", "bus"] as const).every((reset) => strayMessages(false, reset, false) === 0),
    verdict: "confirmed",
    by: "a stale table, three kinds of reset",
  },
  {
    who: "Williamson",
    when: "2013-01-06",
    says: "only if the device has a reset, and the host restores nothing",
    holds: () => strayMessages(false, "none", false) > 0 && strayMessages(false, "flr", true) > 0,
    verdict: "confirmed",
    by: "a stale table, without a reset, and restored after one",
  },
  {
    who: "Tsirkin",
    when: "2013-01-07",
    says: "a function level reset is more or less required for assignment",
    holds: () => {
      const host = new AssignedHost({ release: "3.7", resets: [] });
      const { vm } = new X86Vm(host.process);
      const assigned = { assigned_dev_id: 1, devfn: DEVFN, flags: KVM_DEV_ASSIGN_ENABLE_IOMMU };
      return host.process.ioctl(vm, KVM_ASSIGN_PCI_DEVICE, KvmAssignedPciDev.encode(assigned)) < 0;
    },
    verdict: "contradicted",
    by: "KVM_ASSIGN_PCI_DEVICE takes a device without any reset",
  },
  {
    who: "Tsirkin",
    when: "2013-01-06",
    says: "to split enabling MSI-X from its vectors is required to make it really robust",
    holds: () =>
      works("empty", "Linux", "strict") &&
      works("empty", "FreeBSD", "strict") &&
      (["masked", "data", "one", "sysfs"] as const).every((policy) => !works(policy, "Linux", "strict")),
    verdict: "confirmed",
    by: "of the policies on KVM's own assignment only 'empty' works with the strict device",
  },
  {
    who: "Williamson",
    when: "2013-01-06",
    says: "it takes the ability to add vectors without tearing MSI-X down and starting over",
    holds: () => has("lost interrupt", "vector 0", "Linux", "strict") && works("dynamic", "Linux", "strict"),
    verdict: "confirmed",
    by: "VFIO on 6.1, which starts over, and on 6.12, which adds",
  },
];
