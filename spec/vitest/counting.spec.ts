/** Interrupts of GICs and of POWER's controllers: how many were delivered, and which still wait. */
import { describe, expect, test } from "vitest";
import { EINTR } from "../../lib/abi/errno.ts";
import {
  KVM_CAP_IRQ_XICS,
  KVM_CAP_PPC_PAPR,
  KVM_CREATE_DEVICE,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_DEV_TYPE_ARM_VGIC_V2,
  KVM_DEV_TYPE_XICS,
  KVM_ENABLE_CAP,
  KVM_IRQ_LINE,
  KVM_IRQFD,
  KVM_RUN,
  KVM_SET_DEVICE_ATTR,
  KvmCreateDevice,
  KvmDeviceAttr,
  KvmEnableCap,
  KvmIrqfd,
  KvmIrqLevel,
} from "../../lib/abi/kvm.ts";
import {
  KVM_ARM_PREFERRED_TARGET,
  KVM_ARM_VCPU_INIT,
  KVM_DEV_ARM_VGIC_CTRL_INIT,
  KVM_DEV_ARM_VGIC_GRP_ADDR,
  KVM_DEV_ARM_VGIC_GRP_CTRL,
  KvmVcpuInit,
} from "../../lib/abi/kvm-arm64.ts";
import { KVM_DEV_XICS_GRP_SOURCES } from "../../lib/abi/kvm-ppc.ts";
import { store32, store64 } from "../../lib/abi/struct.ts";
import { SPURIOUS } from "../../lib/hardware/gic-cpu-interface.ts";
import type { Process } from "../../lib/kernel/process.ts";
import { byHand } from "../../lib/kernel/work-queue.ts";
import * as arm from "../../lib/kvm/arm64/guest.ts";
import type { Arm64Vcpu } from "../../lib/kvm/arm64/vcpu.ts";
import * as power from "../../lib/kvm/ppc/guest.ts";
import { H_CPPR, H_EOI, H_XIRR } from "../../lib/kvm/ppc/hypercalls.ts";
import type { PpcVcpu } from "../../lib/kvm/ppc/vcpu.ts";
import type { VcpuFile } from "../../lib/kvm/vcpu.ts";
import { builtinHosts } from "../../lib/machine/builtin.ts";
import { profileFromHeader } from "../../lib/machine/profile.ts";
import { TestHost, toHaveDelivered } from "../../lib/vitest/index.ts";

const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);

class Vm {
  readonly host: TestHost;
  readonly linux: Process;
  readonly vm: number;

  constructor(name: string) {
    this.host = new TestHost(profileFromHeader(builtinHosts[name]));
    this.linux = this.host.process();
    this.vm = this.linux.ioctl(this.linux.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
  }

  /** A device and its descriptor. */
  device(type: number): number {
    const create = KvmCreateDevice.encode({ type });
    expect(this.linux.ioctl(this.vm, KVM_CREATE_DEVICE, create)).toBe(0);
    return KvmCreateDevice.decode(create).fd;
  }

  set(fd: number, group: number, attr: number, bytes: Uint8Array): void {
    const addr = BigInt(this.linux.addressOf(bytes));
    const attribute = KvmDeviceAttr.encode({ group, attr: BigInt(attr), addr });
    expect(this.linux.ioctl(fd, KVM_SET_DEVICE_ATTR, attribute)).toBe(0);
  }

  line(irq: number, level: number): void {
    expect(this.linux.ioctl(this.vm, KVM_IRQ_LINE, KvmIrqLevel.encode({ irq, level }))).toBe(0);
  }

  irqfd(gsi: number): number {
    const fd = this.linux.eventfd2(0, 0);
    expect(this.linux.ioctl(this.vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi }))).toBe(0);
    return fd;
  }

  arch(vcpu: number): unknown {
    return (this.linux.fds.get(vcpu) as VcpuFile).vcpu.arch;
  }

  /** What is left behind, descriptors aside. */
  problems(): string[] {
    this.host.ignore("descriptors");
    return this.host.problems();
  }
}

const delivered = (vm: Vm, number: number): number | undefined =>
  [0, 1, 2, 3].find((count) => toHaveDelivered(vm.host, number, count).pass);

describe("a GICv2", () => {
  const [GICD, GICC] = [0x0800_0000, 0x0801_0000];
  const SPI = 35;
  const SPI_LINE = (1 << 24) | SPI;

  function gic(): { vm: Vm; vcpu: number } {
    const vm = new Vm("arm64_6_12_gicv2");
    const { linux } = vm;
    const vcpu = linux.ioctl(vm.vm, KVM_CREATE_VCPU, 0);
    const init = new Uint8Array(KvmVcpuInit.size);
    linux.ioctl(vm.vm, KVM_ARM_PREFERRED_TARGET, init);
    linux.ioctl(vcpu, KVM_ARM_VCPU_INIT, init);
    const device = vm.device(KVM_DEV_TYPE_ARM_VGIC_V2);
    for (const [attr, address] of [GICD, GICC].entries()) {
      const bytes = new Uint8Array(8);
      store64(bytes, 0, address);
      vm.set(device, KVM_DEV_ARM_VGIC_GRP_ADDR, attr, bytes);
    }
    vm.set(device, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, new Uint8Array(8));
    return { vm, vcpu };
  }

  const guests = {
    /** the controller on, the SPI edge or level */
    *configure(edge: boolean): arm.Guest {
      yield* arm.store(GICD, 4, 1);
      yield* arm.store(GICD + 0xc00 + 4 * (SPI >>> 4), 4, edge ? 2 << (2 * (SPI & 15)) : 0);
      yield* arm.store(GICD + 0x800 + SPI, 1, 1);
      yield* arm.store(GICC + 4, 4, 0xff);
      yield* arm.store(GICC, 4, 1);
    },
    *enable(): arm.Guest {
      yield* arm.store(GICD + 0x104, 4, 1 << (SPI & 31));
    },
    *take(): arm.Guest {
      const intid = Number(yield* arm.load(GICC + 0xc, 4)) & 0x3ff;
      if (intid !== SPURIOUS) yield* arm.store(GICC + 0x10, 4, intid);
    },
  };
  const run = (vm: Vm, vcpu: number, guest: arm.Guest): void => {
    (vm.arch(vcpu) as Arm64Vcpu).load(guest);
    vm.linux.ioctl(vcpu, KVM_RUN, 0);
  };

  test("edges: each is a delivery; disabled ones are none until they are enabled", () => {
    const { vm, vcpu } = gic();
    run(vm, vcpu, guests.configure(true));
    vm.line(SPI_LINE, 1);
    expect(delivered(vm, SPI)).toBe(0);
    run(vm, vcpu, guests.enable());
    vm.line(SPI_LINE, 0);
    expect(delivered(vm, SPI)).toBe(1);
    vm.line(SPI_LINE, 1);
    vm.line(SPI_LINE, 1);
    expect(delivered(vm, SPI)).toBe(3);
    expect(vm.problems()).toEqual([]);
  });

  test("a level that stays up is one, and waits until the guest takes it or the test expects it", () => {
    const { vm, vcpu } = gic();
    run(vm, vcpu, guests.configure(false));
    run(vm, vcpu, guests.enable());
    vm.line(SPI_LINE, 1);
    vm.line(SPI_LINE, 1);
    const waits = ["vCPU 0: INTID 35 waits, and neither did the guest take it nor the test expect it"];
    expect(vm.problems()).toEqual(waits);
    vm.line(SPI_LINE, 0);
    expect(vm.problems()).toEqual([]);
    vm.line(SPI_LINE, 1);
    expect(vm.problems()).toEqual(waits);
    expect(toHaveDelivered(vm.host.vcpu(vm.linux, vcpu), SPI, 2).pass).toBe(true);
    expect(vm.problems()).toEqual([]);
  });

  test("a guest that spins on an interrupt which it does not take is interrupted", () => {
    const { vm, vcpu } = gic();
    run(vm, vcpu, guests.configure(true));
    run(vm, vcpu, guests.enable());
    vm.line(SPI_LINE, 1);
    const spins = (function* (): arm.Guest {
      for (;;) yield* arm.wfi();
    })();
    (vm.arch(vcpu) as Arm64Vcpu).load(spins);
    expect(vm.linux.ioctl(vcpu, KVM_RUN, 0)).toBe(-EINTR);
  });

  test("an irqfd, and a guest that takes it", () => {
    const { vm, vcpu } = gic();
    run(vm, vcpu, guests.configure(true));
    run(vm, vcpu, guests.enable());
    const fd = vm.irqfd(SPI - 32);
    vm.linux.write(fd, one);
    expect(vm.problems().length).toBe(1);
    run(vm, vcpu, guests.take());
    expect(vm.problems()).toEqual([]);
    expect(delivered(vm, SPI)).toBe(1);
    expect(toHaveDelivered(vm.host, SPI, 2).message()).toBe(
      "expected INTID 35 to be delivered 2×, it was 1×; delivered: INTID 35 1× to vCPU 0",
    );
  });
});

describe.each(["ppc64le_6_12_pseries", "ppc64le_6_12_powernv9"])("XICS: %s", (name) => {
  const SOURCE = 0x1100;

  function xics(): { vm: Vm; vcpus: number[] } {
    const vm = new Vm(name);
    const device = vm.device(KVM_DEV_TYPE_XICS);
    // Servers need not be the vCPUs' numbers.
    const vcpus = [0, 1].map((id) => {
      const vcpu = vm.linux.ioctl(vm.vm, KVM_CREATE_VCPU, id);
      vm.linux.ioctl(vcpu, KVM_ENABLE_CAP, KvmEnableCap.encode({ cap: KVM_CAP_PPC_PAPR }));
      const args = [BigInt(device), BigInt(8 + id), 0n, 0n];
      const connected = KvmEnableCap.encode({ cap: KVM_CAP_IRQ_XICS, args });
      expect(vm.linux.ioctl(vcpu, KVM_ENABLE_CAP, connected)).toBe(0);
      return vcpu;
    });
    const state = new Uint8Array(8);
    store32(state, 0, 9);
    store32(state, 4, 5);
    vm.set(device, KVM_DEV_XICS_GRP_SOURCES, SOURCE, state);
    return { vm, vcpus };
  }

  const run = (vm: Vm, vcpu: number, guest: power.Guest): void => {
    (vm.arch(vcpu) as PpcVcpu).load(guest);
    vm.linux.ioctl(vcpu, KVM_RUN, 0);
  };

  function* ready(): power.Guest {
    yield* power.hypercall(H_CPPR, 0xff);
  }

  function* take(): power.Guest {
    const [, xirr] = yield* power.hypercall(H_XIRR);
    yield* power.hypercall(H_EOI, xirr);
  }

  test("an irqfd: one delivery to the source's server, until the guest takes it", () => {
    const { vm, vcpus } = xics();
    run(vm, vcpus[1], ready());
    const fd = vm.irqfd(SOURCE);
    vm.linux.write(fd, one);
    expect(vm.problems()).toEqual([
      "vCPU 1: source 0x1100 waits, and neither did the guest take it nor the test expect it",
    ]);
    expect(toHaveDelivered(vm.host.vcpu(vm.linux, vcpus[0]), SOURCE, 0).pass).toBe(true);
    run(vm, vcpus[1], take());
    expect(vm.problems()).toEqual([]);
    vm.linux.write(fd, one);
    expect(delivered(vm, SOURCE)).toBe(2);
    expect(toHaveDelivered(vm.host.vcpu(vm.linux, vcpus[1]), SOURCE, 2).pass).toBe(true);
    expect(vm.problems()).toEqual([]);
  });

  test("an edge that comes before the last one is ended is delivered after that", () => {
    const { vm, vcpus } = xics();
    run(vm, vcpus[1], ready());
    vm.line(SOURCE, 1);
    vm.line(SOURCE, 1);
    expect(delivered(vm, SOURCE)).toBe(1);
    run(vm, vcpus[1], take());
    expect(delivered(vm, SOURCE)).toBe(2);
  });
});

describe("what is not counted", () => {
  test("a vCPU without a controller, a descriptor that is none", () => {
    const host = new TestHost();
    const linux = host.process();
    const kvm = linux.open("/dev/kvm", 2);
    const vcpu = linux.ioctl(linux.ioctl(kvm, KVM_CREATE_VM, 0), KVM_CREATE_VCPU, 0);
    expect(() => host.vcpu(linux, kvm)).toThrow("descriptor 3 is no vCPU");
    expect(() => host.vcpu(linux, vcpu)).toThrow("vCPU 0 has no interrupt controller in the kernel");
    expect(() => toHaveDelivered(host, 0x41, 0)).toThrow("no vCPU has an interrupt controller in the kernel");
  });

  test("work that waits is told, on every architecture", () => {
    const host = new TestHost(profileFromHeader(builtinHosts.arm64_6_12_gicv2), { policy: byHand });
    const linux = host.process();
    host.machine.kernel.work.schedule({ name: "irqfd-inject", run: () => {} });
    expect(host.problems()).toEqual(['deferred work "irqfd-inject" has not run']);
    linux.settle();
    expect(host.problems()).toEqual([]);
  });
});
