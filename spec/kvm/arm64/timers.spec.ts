/** The counters of a guest, as far as they are remembered: written until the VM has an offset of its own. */
import { expect, test } from "vitest";
import {
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_ONE_REG,
  KVM_SET_ONE_REG,
  KvmOneReg,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_ARM_PREFERRED_TARGET,
  KVM_ARM_SET_COUNTER_OFFSET,
  KVM_ARM_VCPU_INIT,
  KVM_REG_ARM_PTIMER_CNT,
  KVM_REG_ARM_TIMER_CNT,
  KvmArmCounterOffset,
  KvmVcpuInit,
} from "../../../lib/abi/kvm-arm64.ts";
import { load64, store64 } from "../../../lib/abi/struct.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { profileFromHeader } from "../../../lib/machine/profile.ts";
import { readTrace } from "../../../lib/trace/files.ts";

const traces = new URL("../../../fixtures/traces/arm64-kvm-6.12/", import.meta.url).pathname;
const { header } = readTrace(`${traces}before-vgic.jsonl.gz`);

// arch/arm64/kvm/arch_timer.c:kvm_arm_timer_set_reg (6.12); a recording cannot show it, since a real counter runs
test.each([KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_PTIMER_CNT])(
  "the counter %i is not written behind an offset",
  (id) => {
    const process = new Machine(profileFromHeader(header)).process();
    const vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    const vcpu = process.ioctl(vm, KVM_CREATE_VCPU, 0);
    const init = new Uint8Array(KvmVcpuInit.size);
    process.ioctl(vm, KVM_ARM_PREFERRED_TARGET, init);
    expect(process.ioctl(vcpu, KVM_ARM_VCPU_INIT, init)).toBe(0);
    const addr = process.mmap(0, 4096, 3, 0x22, -1, 0);
    const bytes = process.memory(addr, 8)!;
    const access = (request: typeof KVM_GET_ONE_REG) =>
      process.ioctl(vcpu, request, KvmOneReg.encode({ id, addr: BigInt(addr) }));
    const write = (value: bigint): bigint => {
      store64(bytes, 0, value);
      expect(access(KVM_SET_ONE_REG)).toBe(0);
      store64(bytes, 0, 0n);
      expect(access(KVM_GET_ONE_REG)).toBe(0);
      return load64(bytes, 0);
    };
    expect(write(5n)).toBe(5n);
    expect(process.ioctl(vm, KVM_ARM_SET_COUNTER_OFFSET, KvmArmCounterOffset.encode({}))).toBe(0);
    expect(write(7n)).toBe(5n);
  },
);
