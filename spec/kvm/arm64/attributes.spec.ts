/**
 * Attributes of arm64's vCPUs and VMs, enumerated: arch/arm64/kvm/pmu-emul.c:kvm_arm_pmu_v3_set_attr,
 * arch_timer.c:kvm_arm_timer_set_attr, pvtime.c:kvm_arm_pvtime_set_attr, guest.c, hypercalls.c (6.12).
 */
import { describe, expect, test } from "vitest";
import {
  KVM_CAP_ARM_INJECT_SERROR_ESR,
  KVM_CREATE_DEVICE,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_DEVICE_ATTR,
  KVM_HAS_DEVICE_ATTR,
  KVM_SET_DEVICE_ATTR,
  KVM_SET_USER_MEMORY_REGION,
  KvmCreateDevice,
  KvmDeviceAttr,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_ARM_PREFERRED_TARGET,
  KVM_ARM_VCPU_INIT,
  KVM_GET_VCPU_EVENTS,
  KVM_SET_VCPU_EVENTS,
  KvmVcpuEvents,
  KvmVcpuInit,
} from "../../../lib/abi/kvm-arm64.ts";
import { load32, load64, store32, store64 } from "../../../lib/abi/struct.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { profileFromHeader } from "../../../lib/machine/profile.ts";
import { readTrace } from "../../../lib/trace/files.ts";
import { named } from "../ppc/world.ts";

const traces = new URL("../../../fixtures/traces/arm64-kvm-6.12/", import.meta.url).pathname;
const { header } = readTrace(`${traces}before-vgic.jsonl.gz`);

const PSCI_0_2 = 1 << 2;
const PMU_V3 = 1 << 3;
const [PMU, TIMER, PVTIME] = [0, 1, 2];
const VGIC_V3 = 7;

/** Two vCPUs with these features; `vgic` with a controller. */
function world({ features = PSCI_0_2, vgic = false, host = header } = {}) {
  const process = new Machine(profileFromHeader(host)).process();
  const vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
  const vcpus = [0, 1].map((id) => process.ioctl(vm, KVM_CREATE_VCPU, id));
  const init = new Uint8Array(KvmVcpuInit.size);
  process.ioctl(vm, KVM_ARM_PREFERRED_TARGET, init);
  init[4] = features;
  for (const vcpu of vcpus) expect(process.ioctl(vcpu, KVM_ARM_VCPU_INIT, init)).toBe(0);
  if (vgic) expect(process.ioctl(vm, KVM_CREATE_DEVICE, KvmCreateDevice.encode({ type: VGIC_V3 }))).toBe(0);
  const page = process.mmap(0, 0x1000, 3, 0x22, -1, 0);
  const bytes = process.memory(page, 0x1000)!;
  const ask = (request: typeof KVM_SET_DEVICE_ATTR, fd: number, group: number, attr: number, addr = page) =>
    named(
      process.ioctl(fd, request, KvmDeviceAttr.encode({ group, attr: BigInt(attr), addr: BigInt(addr) })),
    );
  const set32 = (fd: number, group: number, attr: number, value: number) => {
    store32(bytes, 0, value);
    return ask(KVM_SET_DEVICE_ATTR, fd, group, attr);
  };
  const get32 = (fd: number, group: number, attr: number) => {
    store32(bytes, 0, 0);
    const answer = ask(KVM_GET_DEVICE_ATTR, fd, group, attr);
    return answer === 0 ? load32(bytes, 0) : answer;
  };
  return { process, vm, vcpus, page, bytes, ask, set32, get32 };
}

describe("PMU", () => {
  test("which interrupts it may have: PPIs and SPIs", () => {
    const taken: number[] = [];
    for (let irq = 0; irq < 1030; irq++) {
      const { vcpus, set32, get32 } = world({ features: PSCI_0_2 | PMU_V3, vgic: true });
      const answer = set32(vcpus[0], PMU, 0, irq);
      expect(answer).toBe(irq >= 16 && irq < 1020 ? 0 : "EINVAL");
      if (answer !== 0) continue;
      taken.push(irq);
      if (irq % 100 === 0) expect(get32(vcpus[0], PMU, 0)).toBe(irq);
    }
    expect(taken.length).toBe(1004);
  });

  test("a PPI is the same in every vCPU, an SPI another in each; once", () => {
    for (const first of [16, 23, 31, 32, 100])
      for (const second of [16, 23, 31, 32, 100]) {
        const { vcpus, set32 } = world({ features: PSCI_0_2 | PMU_V3, vgic: true });
        expect(set32(vcpus[0], PMU, 0, first)).toBe(0);
        const fits = second < 32 ? first === second : first >= 32 && first !== second;
        // a PPI asks for the same of all, an SPI that nobody has it
        const alone = second >= 32 && first < 32;
        expect([first, second, set32(vcpus[1], PMU, 0, second)]).toEqual([
          first,
          second,
          fits || alone ? 0 : "EINVAL",
        ]);
      }
    const { vcpus, set32 } = world({ features: PSCI_0_2 | PMU_V3, vgic: true });
    expect([set32(vcpus[0], PMU, 0, 20), set32(vcpus[0], PMU, 0, 20)]).toEqual([0, "EBUSY"]);
  });

  test("without the feature ENODEV, without a controller EINVAL, nothing set ENXIO; attributes", () => {
    const none = world({ vgic: true });
    const bare = world({ features: PSCI_0_2 | PMU_V3 });
    const whole = world({ features: PSCI_0_2 | PMU_V3, vgic: true });
    const answers = ({ vcpus: [vcpu], ask, set32, get32 }: ReturnType<typeof world>) => [
      ...[0, 1, 2, 3, 4].map((attr) => ask(KVM_HAS_DEVICE_ATTR, vcpu, PMU, attr)),
      get32(vcpu, PMU, 0),
      get32(vcpu, PMU, 1),
      set32(vcpu, PMU, 0, 20),
      ask(KVM_SET_DEVICE_ATTR, vcpu, PMU, 0, 8),
      ask(KVM_GET_DEVICE_ATTR, vcpu, PMU, 0, 8),
    ];
    expect(answers(none)).toEqual([
      ...Array(5).fill("ENXIO"),
      "ENODEV",
      "ENXIO",
      "ENODEV",
      "ENODEV",
      "ENODEV",
    ]);
    expect(answers(bare)).toEqual([0, 0, 0, 0, "ENXIO", "EINVAL", "ENXIO", "EINVAL", "EINVAL", "EINVAL"]);
    expect(answers(whole)).toEqual([0, 0, 0, 0, "ENXIO", "ENXIO", "ENXIO", 0, "EFAULT", "EFAULT"]);
  });
});

describe("timers", () => {
  test("PPIs only; each of four keeps its own", () => {
    const { vcpus, set32, get32, ask } = world({ vgic: true });
    for (let irq = 0; irq < 64; irq++)
      expect([irq, set32(vcpus[0], TIMER, 0, irq)]).toEqual([irq, irq >= 16 && irq < 32 ? 0 : "EINVAL"]);
    for (const timer of [0, 1, 2, 3]) {
      expect(ask(KVM_HAS_DEVICE_ATTR, vcpus[0], TIMER, timer)).toBe(0);
      expect(set32(vcpus[0], TIMER, timer, 20 + timer)).toBe(0);
    }
    // the same for all vCPUs
    expect([0, 1, 2, 3].map((timer) => get32(vcpus[1], TIMER, timer))).toEqual([20, 21, 22, 23]);
    expect(ask(KVM_HAS_DEVICE_ATTR, vcpus[0], TIMER, 4)).toBe("ENXIO");
    expect([set32(vcpus[0], TIMER, 4, 20), get32(vcpus[0], TIMER, 4)]).toEqual(["ENXIO", "ENXIO"]);
    expect(ask(KVM_GET_DEVICE_ATTR, vcpus[0], TIMER, 0, 8)).toBe("EFAULT");
    expect(ask(KVM_SET_DEVICE_ATTR, vcpus[0], TIMER, 0, 8)).toBe("EFAULT");
  });

  test("without a controller EINVAL", () => {
    const { vcpus, set32 } = world();
    expect(set32(vcpus[0], TIMER, 0, 20)).toBe("EINVAL");
  });
});

describe("stolen time", () => {
  test("an aligned address in memory, once; read back, all ones before", () => {
    const { process, vm, vcpus, bytes, ask } = world();
    const memory = process.mmap(0, 0x1_0000, 3, 0x22, -1, 0);
    const region = new Uint8Array(32);
    store64(region, 8, 0x4000_0000);
    store64(region, 16, 0x1_0000);
    store64(region, 24, memory);
    expect(process.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region)).toBe(0);
    const set = (address: number) => {
      store64(bytes, 0, address);
      return ask(KVM_SET_DEVICE_ATTR, vcpus[0], PVTIME, 0);
    };
    const get = () => {
      expect(ask(KVM_GET_DEVICE_ATTR, vcpus[0], PVTIME, 0)).toBe(0);
      return load64(bytes, 0);
    };
    expect([ask(KVM_HAS_DEVICE_ATTR, vcpus[0], PVTIME, 0), get()]).toEqual([0, 2n ** 64n - 1n]);
    for (const request of [KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR])
      expect(ask(request, vcpus[0], PVTIME, 1)).toBe("ENXIO");
    for (let low = 1; low < 64; low++) expect(set(0x4000_0000 + low)).toBe("EINVAL");
    expect([set(0x3fff_ffc0), set(0x4001_0000), set(0)]).toEqual(["EINVAL", "EINVAL", "EINVAL"]);
    expect([
      ask(KVM_GET_DEVICE_ATTR, vcpus[0], PVTIME, 0, 8),
      ask(KVM_SET_DEVICE_ATTR, vcpus[0], PVTIME, 0, 8),
    ]).toEqual(["EFAULT", "EFAULT"]);
    expect([set(0x4000_ffc0), get()]).toEqual([0, 0x4000_ffc0n]);
    expect([set(0x4000_0000), set(0x3fff_ffc0), set(1)]).toEqual(["EEXIST", "EEXIST", "EINVAL"]);
  });
});

test("there are three groups of a vCPU, and one of a VM with one attribute that is only set", () => {
  const { vm, vcpus, ask, bytes } = world();
  for (let group = 3; group < 8; group++)
    for (const request of [KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR])
      expect(ask(request, vcpus[0], group, 0)).toBe("ENXIO");
  const has = [0, 1, 2].flatMap((group) => [0, 1].map((attr) => ask(KVM_HAS_DEVICE_ATTR, vm, group, attr)));
  expect(has).toEqual([0, ...Array(5).fill("ENXIO")]);
  const filter = (base: number, count: number, action: number) => {
    bytes.fill(0, 0, 24);
    store32(bytes, 0, base);
    store32(bytes, 4, count);
    bytes[8] = action;
    return ask(KVM_SET_DEVICE_ATTR, vm, 0, 0);
  };
  expect([0, 1, 2, 3, 4].map((action) => filter(0xc400_0000 + action, 1, action))).toEqual([
    0,
    0,
    0,
    "EINVAL",
    "EINVAL",
  ]);
  for (let at = 9; at < 24; at++) {
    bytes.fill(0, 0, 24);
    store32(bytes, 0, 0xc500_0000);
    store32(bytes, 4, 1);
    bytes[at] = 1;
    expect(ask(KVM_SET_DEVICE_ATTR, vm, 0, 0)).toBe("EINVAL");
  }
  expect([filter(0xc500_0000, 0, 0), filter(0xffff_fff0, 17, 0), filter(0xffff_fff0, 16, 0)]).toEqual([
    "EINVAL",
    "EINVAL",
    0,
  ]);
  expect(ask(KVM_SET_DEVICE_ATTR, vm, 0, 0, 8)).toBe("EFAULT");
});

describe("a pending SError", () => {
  const capability = String(KVM_CAP_ARM_INJECT_SERROR_ESR);
  const { system = {}, vm } = header.capabilities!;
  const host = { ...header, capabilities: { system, vm: { ...vm, [capability]: 1 } } };
  const events = (pending: number, has: number, esr: bigint) =>
    KvmVcpuEvents.encode({ exception: { serror_pending: pending, serror_has_esr: has, serror_esr: esr } });
  const shown = (given: Uint8Array, profile: typeof header) => {
    const { process, vcpus } = world({ host: profile });
    expect(process.ioctl(vcpus[0], KVM_SET_VCPU_EVENTS, given)).toBe(0);
    const bytes = new Uint8Array(KvmVcpuEvents.size);
    expect(process.ioctl(vcpus[0], KVM_GET_VCPU_EVENTS, bytes)).toBe(0);
    const { serror_pending, serror_has_esr, serror_esr } = KvmVcpuEvents.decode(bytes).exception;
    return [serror_pending, serror_has_esr, serror_esr];
  };

  test("with a syndrome, and without one: then it is the implementation's own (inject_fault.c:kvm_inject_vabt, 6.1)", () => {
    expect(shown(events(1, 1, 0x123n), host)).toEqual([1, 1, 0x123n]);
    expect(shown(events(1, 0, 0x123n), host)).toEqual([1, 1, 0x100_0000n]);
    expect(shown(events(0, 1, 0x123n), host)).toEqual([0, 1, 0n]);
    const without = { ...header, capabilities: { system, vm: { ...vm, [capability]: 0 } } };
    expect(shown(events(1, 0, 0x123n), without)).toEqual([1, 0, 0n]);
  });
});
