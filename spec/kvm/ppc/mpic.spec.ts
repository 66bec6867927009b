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
  KVM_GET_DEVICE_ATTR,
  KVM_HAS_DEVICE_ATTR,
  KVM_IRQ_LINE,
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
import { load32, load64, store32, store64 } from "../../../lib/abi/struct.ts";
import { type Guest, load, store } from "../../../lib/kvm/ppc/guest.ts";
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
  const ask = (request: { powerpc: number }, fd: number, group: number, attr: number, value?: Uint8Array) =>
    named(
      process.ioctl(
        fd,
        request.powerpc,
        KvmDeviceAttr.encode({
          group,
          attr: BigInt(attr),
          addr: value === undefined ? 0n : BigInt(process.mm.addressOf(value)),
        }),
      ),
    );
  return { process, vm, device, connect, set, ask };
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

  test("every group and attribute: has, get and set", () => {
    const { device, ask } = e500();
    const mpic = device(KVM_DEV_TYPE_FSL_MPIC_20);
    const answers = (group: number, attr: number, value: Uint8Array | undefined) => [
      ask(KVM_HAS_DEVICE_ATTR, mpic, group, attr, value),
      ask(KVM_GET_DEVICE_ATTR, mpic, group, attr, value),
      ask(KVM_SET_DEVICE_ATTR, mpic, group, attr, value),
    ];
    const none = ["ENXIO", "ENXIO", "ENXIO"];
    expect(answers(0, 0, doubleword(0))).toEqual(none);
    expect(answers(4, 0, doubleword(0))).toEqual(none);
    expect(answers(1, 1, doubleword(0))).toEqual(none);
    expect(answers(1, 0, doubleword(0))).toEqual([0, 0, 0]);
    expect(answers(1, 0, undefined)).toEqual([0, "EFAULT", "EFAULT"]);
    // a register that is there, one between two words, and a hole
    expect(answers(2, 0x1020, word(0))).toEqual([0, 0, 0]);
    expect(answers(2, 0x1020, undefined)).toEqual([0, "EFAULT", "EFAULT"]);
    for (const within of [0x1021, 0x1022, 0x1023])
      expect(answers(2, within, word(0))).toEqual([0, "ENXIO", "ENXIO"]);
    expect(answers(2, 0x3f100, word(0))).toEqual([0, "ENXIO", "ENXIO"]);
    expect(answers(3, 256, word(0))).toEqual([0, 0, 0]);
    expect(answers(3, 256, undefined)).toEqual([0, "EFAULT", "EFAULT"]);
    expect(answers(3, 257, word(0))).toEqual(["ENXIO", "EINVAL", "EINVAL"]);
    expect(answers(3, 5, word(2))).toEqual([0, 0, 0]); // what get wrote is set again
    expect(ask(KVM_SET_DEVICE_ATTR, mpic, 3, 5, word(2))).toBe("EINVAL");
  });

  test("the base is read back, and a line shows as pending", () => {
    const { device, ask } = e500();
    const mpic = device(KVM_DEV_TYPE_FSL_MPIC_20);
    for (const base of [BASE, BASE + 0x4_0000, 0]) {
      expect(ask(KVM_SET_DEVICE_ATTR, mpic, 1, 0, doubleword(base))).toBe(0);
      const read = doubleword(1);
      expect(ask(KVM_GET_DEVICE_ATTR, mpic, 1, 0, read)).toBe(0);
      expect(load64(read, 0)).toBe(BigInt(base));
    }
    for (const wrong of [1, 4, 0x1_0000, BASE + 0x2_0000])
      expect(ask(KVM_SET_DEVICE_ATTR, mpic, 1, 0, doubleword(wrong))).toBe("EINVAL");
    const level = word(7);
    for (const up of [1, 0, 1]) {
      // a level-triggered source
      expect(ask(KVM_SET_DEVICE_ATTR, mpic, 2, 0x10000 + 3 * 0x20, word((1 << 22) | 0x33))).toBe(0);
      expect(ask(KVM_SET_DEVICE_ATTR, mpic, 3, 3, word(up))).toBe(0);
      expect(ask(KVM_GET_DEVICE_ATTR, mpic, 3, 3, level)).toBe(0);
      expect(load32(level, 0)).toBe(up);
    }
    expect(ask(KVM_GET_DEVICE_ATTR, mpic, 3, 4, level)).toBe(0);
    expect(load32(level, 0)).toBe(0);
  });

  test("a guest reads words and bytes, and writes words; nowhere, it does not", () => {
    const { process, vm, device, connect, ask } = e500();
    const mpic = device(KVM_DEV_TYPE_FSL_MPIC_20);
    const vcpu = process.ioctl(vm, KVM_CREATE_VCPU.powerpc, 0);
    expect(connect(vcpu, mpic, 0)).toBe(0);
    expect(ask(KVM_SET_DEVICE_ATTR, mpic, 1, 0, doubleword(BASE))).toBe(0);
    const run = process.memory(process.mmap(0, 4096, 3, 1, vcpu, 0), 4096)!;
    const read: number[] = [];
    const enter = (guest: Guest) => {
      vcpuOf(process, vcpu).load(guest);
      const answer = named(process.ioctl(vcpu, KVM_RUN.powerpc, 0));
      return answer === 0 ? load32(run, 8) : answer;
    };
    const MMIO = 6;
    // the revision; at a byte within a register there is none (arch/powerpc/kvm/mpic.c:openpic_gbl_read, 6.1)
    expect(
      enter(
        (function* () {
          read.push(yield* load(BASE, 4));
          for (let i = 0; i < 4; i++) read.push(yield* load(BASE + i, 1));
          yield* store(BASE + 0x80, 4, 9);
          read.push(yield* load(BASE + 0x80, 4));
        })(),
      ),
    ).toBe("EINTR");
    expect(read).toEqual([0x0040_0200, 0x00, 0xff, 0xff, 0xff, 9]);
    for (const width of [2, 8] as const)
      expect(
        enter(
          (function* () {
            yield* load(BASE, width);
          })(),
        ),
      ).toBe(MMIO);
    expect(
      enter(
        (function* () {
          yield* store(BASE + 0x80, 1, 9);
        })(),
      ),
    ).toBe(MMIO);
    expect(ask(KVM_SET_DEVICE_ATTR, mpic, 1, 0, doubleword(0))).toBe(0);
    expect(
      enter(
        (function* () {
          yield* load(BASE, 4);
        })(),
      ),
    ).toBe(MMIO);
  });

  test("a route is a pin below 256 of the one controller, or a message, which counts at any level", () => {
    const { process, vm, device, ask } = e500();
    const mpic = device(KVM_DEV_TYPE_FSL_MPIC_20);
    const route = (type: number, ...rest: number[]) => {
      const routing = new Uint8Array(8 + 48);
      [1, 0, 7, type, 0, 0, ...rest].forEach((value, i) => {
        store32(routing, i * 4, value);
      });
      return named(process.ioctl(vm, KVM_SET_GSI_ROUTING.powerpc, routing));
    };
    expect([route(1, 0, 255), route(1, 0, 256), route(1, 1, 0), route(2, 0, 0), route(3, 0, 0)]).toEqual([
      0,
      "EINVAL",
      "EINVAL",
      0,
      "EINVAL",
    ]);
    // bits 31:29 of the data are the register, 28:24 the bit
    expect(route(2, 0, 0, 0x0300_0000)).toBe(0);
    const shared = () => {
      const value = word(0);
      expect(ask(KVM_GET_DEVICE_ATTR, mpic, 2, 0x1600, value)).toBe(0);
      return load32(value, 0);
    };
    expect(shared()).toBe(0);
    expect(process.ioctl(vm, KVM_IRQ_LINE.powerpc, Uint8Array.of(7, 0, 0, 0, 0, 0, 0, 0))).toBe(0);
    expect(shared()).toBe(8);
  });

  test("user space is no CPU: a write to a CPU's own view changes no CPU's CTPR (get_current_cpu)", () => {
    const { process, vm, device, connect, ask } = e500();
    const mpic = device(KVM_DEV_TYPE_FSL_MPIC_20);
    const cpus = [0, 1];
    for (const id of cpus) connect(process.ioctl(vm, KVM_CREATE_VCPU.powerpc, id), mpic, id);
    expect(ask(KVM_SET_DEVICE_ATTR, mpic, 2, 0x80, word(3))).toBe(0);
    const read = cpus.map((id) => {
      const value = word(0);
      expect(ask(KVM_GET_DEVICE_ATTR, mpic, 2, 0x20080 + id * 0x1000, value)).toBe(0);
      return load32(value, 0);
    });
    expect(read).toEqual([15, 15]);
  });

  test.each(["guest", "user space"])("a resampling irqfd is told when a source is ended by the %s", (by) => {
    const { process, vm, device, connect, ask, set } = e500();
    const mpic = device(KVM_DEV_TYPE_FSL_MPIC_20);
    const vcpu = process.ioctl(vm, KVM_CREATE_VCPU.powerpc, 0);
    connect(vcpu, mpic, 0);
    expect(set(mpic, 1, 0, doubleword(BASE))).toBe(0);
    expect(set(mpic, 2, 0x10000 + 3 * 0x20, word((1 << 22) | (5 << 16) | 0x33))).toBe(0);
    expect(set(mpic, 2, 0x10000 + 3 * 0x20 + 0x10, word(1))).toBe(0);
    expect(set(mpic, 2, 0x20080, word(0))).toBe(0);
    const routing = new Uint8Array(8 + 48);
    [1, 0, 7, KVM_IRQ_ROUTING_IRQCHIP, 0, 0, 0, 3].forEach((value, i) => {
      store32(routing, i * 4, value);
    });
    expect(process.ioctl(vm, KVM_SET_GSI_ROUTING.powerpc, routing)).toBe(0);
    const [fd, resamplefd] = [0, 1].map(() => process.eventfd2(0, 0x800));
    expect(process.ioctl(vm, KVM_IRQFD.powerpc, KvmIrqfd.encode({ fd, gsi: 7, flags: 2, resamplefd }))).toBe(
      0,
    );
    const told = () => {
      const count = new Uint8Array(8);
      return process.read(resamplefd, count) < 0 ? 0n : load64(count, 0);
    };
    for (let round = 0; round < 2; round++) {
      process.write(fd, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
      const vector = word(0);
      expect(ask(KVM_GET_DEVICE_ATTR, mpic, 2, 0x200a0, vector)).toBe(0);
      expect([load32(vector, 0), told()]).toEqual([0x33, 0n]);
      if (by === "user space") expect(set(mpic, 2, 0x200b0, word(0))).toBe(0);
      else {
        vcpuOf(process, vcpu).load(
          (function* () {
            yield* store(BASE + 0xb0, 4, 0);
          })(),
        );
        process.ioctl(vcpu, KVM_RUN.powerpc, 0);
      }
      expect(told()).toBe(1n);
      // the line went down with it
      expect(ask(KVM_GET_DEVICE_ATTR, mpic, 2, 0x200a0, vector)).toBe(0);
      expect([load32(vector, 0), told()]).toEqual([0xffff, 0n]);
    }
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
