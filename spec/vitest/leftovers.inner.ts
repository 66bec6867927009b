/** Run by `vitest.spec.ts` in a vitest of its own: what fails here has to fail. The titles say how. */
import { afterEach, describe } from "vitest";
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_LAPIC,
  KVM_IRQFD,
  KVM_SET_LAPIC,
  KVM_SIGNAL_MSI,
  KvmIrqfd,
  KvmMsi,
} from "../../lib/abi/index.ts";
import { store32 } from "../../lib/abi/struct.ts";
import type { Process } from "../../lib/kernel/process.ts";
import { byHand } from "../../lib/kernel/work-queue.ts";
import { expect, type TestHost, test } from "../../lib/vitest/index.ts";

const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);
const msi = KvmMsi.encode({ address_lo: 0xfee00000, data: 0x41 });

function vmWithVcpu(linux: Process, on = true): { vm: number; vcpu: number; close(): void } {
  const kvm = linux.open("/dev/kvm", 2);
  const vm = linux.ioctl(kvm, KVM_CREATE_VM, 0);
  linux.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
  const vcpu = linux.ioctl(vm, KVM_CREATE_VCPU, 0);
  const lapic = new Uint8Array(1024);
  linux.ioctl(vcpu, KVM_GET_LAPIC, lapic);
  store32(lapic, 0xf0, on ? 0x1ff : 0xff);
  linux.ioctl(vcpu, KVM_SET_LAPIC, lapic);
  const close = (): void => {
    for (const fd of [vcpu, vm, kvm]) linux.close(fd);
  };
  return { vm, vcpu, close };
}

test("passes: nothing happens", ({ linux }) => {
  expect(linux.open("/dev/nothing", 0)).toFailWith("ENOENT");
});

test("passes: every test has its own host", ({ linux, host }) => {
  expect(linux.eventfd2(0, 0)).toBe(3);
  expect(host.machine.kernel.work.pending).toBe(0);
  linux.exit();
});

test("fails: descriptor 3 is still open: anon_inode:[eventfd]", ({ linux }) => {
  linux.eventfd2(0, 0);
});

test("fails: process 1: descriptor 3 is still open: anon_inode:[eventfd]", ({ linux }) => {
  linux.eventfd2(0, 0);
  linux.fork();
  linux.exit();
});

test("passes: a descriptor that is ignored", ({ linux, host }) => {
  linux.eventfd2(0, 0);
  host.ignore("descriptors");
});

describe("by hand", () => {
  test.override({ options: { policy: byHand } });

  const signal = (linux: Process): (() => void) => {
    const { vm, close } = vmWithVcpu(linux);
    const fd = linux.eventfd2(0, 0);
    linux.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: 5 }));
    linux.write(fd, one);
    return () => {
      linux.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: 5, flags: 1 }));
      linux.close(fd);
      close();
    };
  };

  test('fails: deferred work "irqfd-inject" has not run', ({ linux, host }) => {
    signal(linux);
    host.ignore("descriptors");
  });

  test("passes: deferred work that ran", ({ linux }) => {
    const close = signal(linux);
    linux.settle();
    close();
  });
});

test("fails: vCPU 0: vector 0x41 waits, and neither did the guest take it nor the test expect it", ({
  linux,
}) => {
  const { vm, close } = vmWithVcpu(linux);
  linux.ioctl(vm, KVM_SIGNAL_MSI, msi);
  close();
});

test("fails: vCPU 0: vector 0x41 waits, and neither did the guest take it nor the test expect it: a later one", ({
  linux,
  host,
}) => {
  const { vm, close } = vmWithVcpu(linux);
  linux.ioctl(vm, KVM_SIGNAL_MSI, msi);
  expect(host).toHaveDelivered(0x41);
  linux.ioctl(vm, KVM_SIGNAL_MSI, msi);
  close();
});

test("fails: vCPU 0: vector 0x41 was sent once to a local APIC that is off, and lost", ({ linux, host }) => {
  const { vm, close } = vmWithVcpu(linux, false);
  linux.ioctl(vm, KVM_SIGNAL_MSI, msi);
  expect(host).not.toHaveDelivered(0x41);
  close();
});

const delivered = (linux: Process, host: TestHost, times: number): void => {
  const { vm, vcpu, close } = vmWithVcpu(linux);
  for (let i = 0; i < 2; i++) linux.ioctl(vm, KVM_SIGNAL_MSI, msi);
  expect(host.vcpu(linux, vcpu)).toHaveDelivered(0x41, times);
  close();
};

test("passes: vector 0x41 twice", ({ linux, host }) => delivered(linux, host, 2));

test("fails: expected vector 0x41 to be delivered 1×, it was 2×; delivered: vector 0x41 2× to vCPU 0", ({
  linux,
  host,
}) => delivered(linux, host, 1));

test("fails: expected the call to fail with EBUSY: it failed with ENOENT", ({ linux }) => {
  expect(linux.open("/dev/nothing", 0)).toFailWith("EBUSY");
});

test("fails: expected the call to fail with EBUSY: it answered 3", ({ linux, host }) => {
  host.ignore("descriptors");
  expect(linux.eventfd2(0, 0)).toFailWith("EBUSY");
});

test("fails: only what went wrong first", ({ linux }) => {
  linux.eventfd2(0, 0);
  throw new Error("only what went wrong first");
});

describe("endings", () => {
  const leak = "descriptor 3 is still open: anon_inode:[eventfd]";
  const attempts = new Map<string, number>();
  /** Which attempt of a test this is, from 1. */
  const attempt = (name: string): number => {
    attempts.set(name, (attempts.get(name) ?? 0) + 1);
    return attempts.get(name)!;
  };

  test(`fails: ${leak} (at each attempt)`, { retry: 1 }, ({ linux }) => {
    linux.eventfd2(0, 0);
  });

  test("passes: only the first attempt leaks", { retry: 1 }, ({ linux }) => {
    const fd = linux.eventfd2(0, 0);
    if (attempt("leaks first") === 2) linux.close(fd);
  });

  test("passes: the first attempt throws and leaks", { retry: 1 }, ({ linux }) => {
    const fd = linux.eventfd2(0, 0);
    if (attempt("throws first") === 1) throw new Error("the first attempt");
    linux.close(fd);
  });

  test(`fails: ${leak} (after a while)`, async ({ linux }) => {
    await new Promise((resolve) => setTimeout(resolve));
    linux.eventfd2(0, 0);
  });

  test.concurrent(`fails: ${leak} (beside another)`, async ({ linux }) => {
    await null;
    linux.eventfd2(0, 0);
  });

  test.concurrent("passes: beside another", async ({ linux }) => {
    await null;
    linux.close(linux.eventfd2(0, 0));
  });

  const withEventfd = test.extend<{ eventfd: number }>({
    eventfd: async ({ linux }, use) => {
      const fd = linux.eventfd2(0, 0);
      await use(fd);
      linux.close(fd);
    },
  });

  withEventfd("passes: a fixture closes after the test", ({ eventfd }) => expect(eventfd).toBe(3));

  withEventfd(
    "fails: descriptor 4 is still open: anon_inode:[eventfd] (beside a fixture)",
    ({ linux, eventfd }) => {
      expect(linux.dup(eventfd)).toBe(4);
    },
  );

  describe("a hook", () => {
    let close = (): void => {};
    afterEach(() => close());

    test("passes: a hook closes after the test", ({ linux }) => {
      const fd = linux.eventfd2(0, 0);
      close = () => linux.close(fd);
    });
  });
});
