/** How many vCPUs a VM takes, and a vCPU whose KVM_RUN is over (virt/kvm/kvm_main.c:kvm_vm_ioctl_create_vcpu). */
import { expect, test } from "vitest";
import { errnoName } from "../../lib/abi/errno.ts";
import {
  KVM_CAP_MAX_VCPU_ID,
  KVM_CAP_MAX_VCPUS,
  KVM_CHECK_EXTENSION,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_EXIT_HLT,
} from "../../lib/abi/kvm.ts";
import { builtinHosts } from "../../lib/machine/builtin.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { profileFromHeader } from "../../lib/machine/profile.ts";
import { testVm } from "./vm.ts";
import { Guest } from "./x86/guest.ts";

const named = (result: number) => (result < 0 ? errnoName(-result) : result);

test.each(["x86_64_6_18_pvm", "arm64_6_12_gicv3", "arm64_6_12_gicv2"])(
  "%s: KVM_CAP_MAX_VCPUS and no more",
  (host) => {
    const { process, vm } = testVm(new Machine(profileFromHeader(builtinHosts[host])));
    const limit = process.ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
    const highest = process.ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPU_ID);
    let made = 0;
    // a closed vCPU is still the VM's
    for (let fd = 0; made <= limit; made++) {
      fd = process.ioctl(vm, KVM_CREATE_VCPU, made);
      if (fd < 0) break;
      process.close(fd);
    }
    expect(made).toBe(limit);
    expect(named(process.ioctl(vm, KVM_CREATE_VCPU, made))).toBe("EINVAL");
    expect(named(process.ioctl(vm, KVM_CREATE_VCPU, highest))).toBe("EINVAL");
  },
);

test("ENOMEM where there is no memory for a vCPU: its id stays free", () => {
  const { machine, process, vm } = testVm();
  machine.kernel.faults.failNth("allocation", 1);
  expect(named(process.ioctl(vm, KVM_CREATE_VCPU, 0))).toBe("ENOMEM");
  expect(process.ioctl(vm, KVM_CREATE_VCPU, 0)).toBeGreaterThan(0);
});

test("after a KVM_RUN on a thread came back, the vCPU answers other calls at once", async () => {
  const machine = new Machine();
  const process = machine.process();
  expect(process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0)).toBeGreaterThan(0);
  const guest = new Guest(process, "real").code(0xf4);
  expect([await process.run(guest.vcpu), guest.exitReason]).toEqual([0, KVM_EXIT_HLT]);
  expect(guest.register("rip")).toBe(0x1001n);
  expect([...machine.kernel.deadlocks]).toEqual([]);
});
