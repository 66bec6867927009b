/** The MPIC as a device. No recording of an e500 host stands behind it; from the source of KVM (6.1). */
import { describe, expect, test } from "vitest";
import {
  KVM_CAP_IRQ_MPIC,
  KVM_CAP_IRQ_ROUTING,
  KVM_CREATE_DEVICE,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_DEV_TYPE_FSL_MPIC_20,
  KVM_DEV_TYPE_FSL_MPIC_42,
  KVM_DEV_TYPE_XICS,
  KVM_ENABLE_CAP,
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQFD,
  KVM_RUN,
  KVM_SET_DEVICE_ATTR,
  KVM_SET_GSI_ROUTING,
  KVM_SIGNAL_MSI,
  KvmCreateDevice,
  KvmDeviceAttr,
  KvmEnableCap,
  KvmIrqfd,
  KvmMsi,
} from "../../../lib/abi/kvm.ts";
import { store32, store64 } from "../../../lib/abi/struct.ts";
import { load, store } from "../../../lib/kvm/ppc/guest.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { profileFromHeader } from "../../../lib/machine/profile.ts";
import { vcpuOf } from "./guests.ts";
import { named } from "./world.ts";

const BASE = 0xf000_0000;
const capabilities = { 32: 1, [KVM_CAP_IRQ_ROUTING]: 4096, 66: 4, [KVM_CAP_IRQ_MPIC]: 1, 128: 4 };

function e500() {
  const machine = new Machine(
    profileFromHeader({
      arch: "ppc64le",
      kernel: "6.1",
      kvm: "e500mc",
      capabilities: { system: capabilities, vm: capabilities },
    }),
  );
  const process = machine.process();
  const kvm = process.open("/dev/kvm", 2);
  const vm = process.ioctl(kvm, KVM_CREATE_VM.powerpc, 0);
  const device = (type: number) => {
    const argument = KvmCreateDevice.encode({ type });
    const result = process.ioctl(vm, KVM_CREATE_DEVICE.powerpc, argument);
    return result < 0 ? result : KvmCreateDevice.at(argument).fd;
  };
  const connect = (vcpu: number, fd: number, cpu: number) => {
    const args = [BigInt(fd), BigInt(cpu), 0n, 0n];
    return process.ioctl(vcpu, KVM_ENABLE_CAP.powerpc, KvmEnableCap.encode({ cap: KVM_CAP_IRQ_MPIC, args }));
  };
  const set = (fd: number, group: number, attr: number, value: Uint8Array) => {
    const addr = BigInt(process.mm.addressOf(value));
    return process.ioctl(
      fd,
      KVM_SET_DEVICE_ATTR.powerpc,
      KvmDeviceAttr.encode({ group, attr: BigInt(attr), addr }),
    );
  };
  return { process, vm, device, connect, set };
}

const word = (value: number) => {
  const bytes = new Uint8Array(4);
  store32(bytes, 0, value);
  return bytes;
};
const doubleword = (value: number) => {
  const bytes = new Uint8Array(8);
  store64(bytes, 0, value);
  return bytes;
};

describe("a host with an MPIC", () => {
  test("one controller a VM, and no XICS", () => {
    const { device } = e500();
    expect(named(device(KVM_DEV_TYPE_XICS))).toBe("ENODEV");
    expect(device(KVM_DEV_TYPE_FSL_MPIC_42)).toBeGreaterThan(0);
    expect(named(device(KVM_DEV_TYPE_FSL_MPIC_20))).toBe("EINVAL");
  });

  test("CPU numbers: EPERM from 32 on, EEXIST in use, EBUSY for a vCPU that has one", () => {
    const { process, vm, device, connect } = e500();
    const mpic = device(KVM_DEV_TYPE_FSL_MPIC_20);
    const [first, second] = [0, 1].map((id) => process.ioctl(vm, KVM_CREATE_VCPU.powerpc, id));
    expect(named(connect(first, mpic, 32))).toBe("EPERM");
    expect(connect(first, mpic, 3)).toBe(0);
    expect(named(connect(second, mpic, 3))).toBe("EEXIST");
    expect(named(connect(first, mpic, 4))).toBe("EBUSY");
  });

  test("an irqfd on a routed pin reaches a guest that polls IACK through its own view", () => {
    const { process, vm, device, connect, set } = e500();
    const mpic = device(KVM_DEV_TYPE_FSL_MPIC_20);
    const vcpu = process.ioctl(vm, KVM_CREATE_VCPU.powerpc, 0);
    expect(connect(vcpu, mpic, 0)).toBe(0);
    expect(named(set(mpic, 1, 0, doubleword(BASE + 4)))).toBe("EINVAL");
    expect(set(mpic, 1, 0, doubleword(BASE))).toBe(0);
    expect(set(mpic, 2, 0x10000 + 3 * 0x20, word((5 << 16) | 0x33))).toBe(0);
    expect(set(mpic, 2, 0x10000 + 3 * 0x20 + 0x10, word(1))).toBe(0);

    const routing = new Uint8Array(8 + 48);
    [1, 0, 7, KVM_IRQ_ROUTING_IRQCHIP, 0, 0, 0, 3].forEach((value, i) => {
      store32(routing, i * 4, value);
    });
    expect(process.ioctl(vm, KVM_SET_GSI_ROUTING.powerpc, routing)).toBe(0);
    const fd = process.eventfd2(0, 0x800);
    expect(process.ioctl(vm, KVM_IRQFD.powerpc, KvmIrqfd.encode({ fd, gsi: 7 }))).toBe(0);
    process.write(fd, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));

    const vectors: number[] = [];
    vcpuOf(process, vcpu).load(
      (function* () {
        yield* store(BASE + 0x80, 4, 0);
        for (let i = 0; i < 2; i++) {
          vectors.push(yield* load(BASE + 0xa0, 4));
          yield* store(BASE + 0xb0, 4, 0);
        }
      })(),
    );
    expect(named(process.ioctl(vcpu, KVM_RUN.powerpc, 0))).toBe("EINTR");
    expect(vectors).toEqual([0x33, 0xffff]);
  });

  test("KVM_SIGNAL_MSI: EINVAL before the controller and for flags, else 0", () => {
    const { process, vm, device } = e500();
    const signal = (flags: number) =>
      named(process.ioctl(vm, KVM_SIGNAL_MSI.powerpc, KvmMsi.encode({ data: 0x2400_0000, flags })));
    expect(signal(0)).toBe("EINVAL");
    device(KVM_DEV_TYPE_FSL_MPIC_20);
    expect([signal(0), signal(1)]).toEqual([0, "EINVAL"]);
  });
});
