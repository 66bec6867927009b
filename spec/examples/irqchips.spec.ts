import { describe, expect, test } from "vitest";
import { EBUSY, EEXIST, EFAULT, EINTR, EINVAL, ENODEV, ENOTTY, ENXIO } from "../../lib/abi/errno.ts";
import { KVM_DEV_TYPE_VFIO, KVM_DEV_TYPE_XICS, KVM_RUN } from "../../lib/abi/kvm.ts";
import { store32 } from "../../lib/abi/struct.ts";
import {
  announced,
  announcedWhileRunning,
  connectLate,
  connectLateMpic,
  connectSecond,
  hotPlugged,
  inject,
  jumpsToHandler,
  lapicFirst,
  lineAfterPulse,
  type Mode,
  modes,
  oneLineTwoSides,
  raiseTimer,
  search,
  sharedGsi,
  tell,
  type Way,
  ways,
} from "../../lib/examples/irqchips.ts";
import { PowerVm } from "../../lib/examples/power-vm.ts";
import { explore } from "../../lib/fuzz/explore/explore.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import { KVM_SET_IRQCHIP_TYPE } from "../../lib/kvm/irqchip-type.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { nativeKernel } from "../../lib/native/native.ts";

const cells: Record<Mode, Record<Way, string>> = {
  none: { KVM_INTERRUPT: "0: vCPU 0x41", KVM_IRQ_LINE: "ENXIO", irqfd: "EINVAL", KVM_SIGNAL_MSI: "EINVAL" },
  split: {
    KVM_INTERRUPT: "0",
    KVM_IRQ_LINE: "0: LAPIC 0x41",
    irqfd: "0: LAPIC 0x41",
    KVM_SIGNAL_MSI: "1: LAPIC 0x41",
  },
  full: {
    KVM_INTERRUPT: "ENXIO",
    KVM_IRQ_LINE: "0: LAPIC 0x41",
    irqfd: "0: LAPIC 0x41",
    KVM_SIGNAL_MSI: "1: LAPIC 0x41",
  },
};

const native = nativeKernel();
const kernels: [name: string, process: (() => Syscalls) | undefined][] = [
  ["the fake", () => new Machine().process()],
  ["the kernel of this host", native.available ? () => native.process() : undefined],
];

describe.each(kernels)("%s", (_, process) => {
  const on = <T>(code: (kernel: Syscalls) => T): T => {
    const kernel = process!();
    const result = code(kernel);
    kernel.exit();
    return result;
  };
  for (const mode of modes)
    test.skipIf(process === undefined).each(ways)(`controllers: ${mode}, %s`, (way) => {
      expect(on((kernel) => tell(inject(kernel, mode, way)))).toBe(cells[mode][way]);
    });

  test.skipIf(process === undefined)("one GSI, two chips; late and early local APICs", () => {
    expect(on(raiseTimer)).toEqual({ pic: 1, lapic: [0x52] });
    expect(on(hotPlugged)).toEqual([0x59]);
    expect(on(lapicFirst)).toBe(-EINVAL);
    expect(on(lineAfterPulse)).toBe(false);
    expect(on(jumpsToHandler)).toBe(5);
  });
});

describe("POWER: a vCPU is connected by KVM_ENABLE_CAP", () => {
  test.each([
    ["before the source", { setUp: 0, came: true }],
    ["after the source", { setUp: -EINVAL, came: false }],
    ["after the interrupt", { setUp: -EINVAL, came: false }],
  ] as const)("%s", (when, outcome) => {
    expect(connectLate(when)).toEqual(outcome);
  });

  test.each([
    ["before the source", { setUp: 0, came: true }],
    ["after the source", { setUp: 0, came: false }],
    ["after the interrupt", { setUp: 0, came: false }],
  ] as const)("MPIC, %s", (when, outcome) => {
    expect(connectLateMpic(when)).toEqual(outcome);
  });

  test("while another is at work", () => {
    expect(connectSecond()).toBe(true);
  });
});

describe("a controller that is announced", () => {
  test.each([
    ["run", [-EINTR, -EINTR, -EINTR]],
    ["refuse", [-ENXIO, -EINTR, -EINTR]],
    ["refuse unconnected", [-ENXIO, -ENXIO, -EINTR]],
  ] as const)("KVM_RUN at once, with the controller, connected to it: %s", (proposal, answers) => {
    expect(announced(proposal)).toEqual(answers);
  });

  const type = (value: number) => {
    const bytes = new Uint8Array(4);
    store32(bytes, 0, value);
    return bytes;
  };

  test("its errnos", () => {
    const set = (vm: PowerVm, argument: Uint8Array) =>
      vm.process.ioctl(vm.vm, KVM_SET_IRQCHIP_TYPE, argument);
    expect(set(new PowerVm(), type(KVM_DEV_TYPE_XICS))).toBe(-ENOTTY);
    const vm = new PowerVm({ irqchipProposal: "refuse", controller: false });
    expect(set(vm, new Uint8Array(3))).toBe(-EFAULT);
    expect(set(vm, type(77))).toBe(-ENODEV);
    expect(set(vm, type(KVM_DEV_TYPE_XICS))).toBe(0);
    expect(set(vm, type(KVM_DEV_TYPE_XICS))).toBe(-EEXIST);
    expect(set(new PowerVm({ irqchipProposal: "refuse" }), type(KVM_DEV_TYPE_VFIO))).toBe(-EBUSY);
  });

  test("nothing is refused where nothing was announced", () => {
    const vm = new PowerVm({ irqchipProposal: "refuse unconnected", controller: false });
    expect(vm.process.ioctl(vm.vcpu, KVM_RUN, 0)).toBe(-EINTR);
  });
});

describe("exploration", () => {
  const all = { strategy: { exhaustive: {} } } as const;

  test("one input driven from both sides loses an interrupt, one turn away from the ordinary order", () => {
    const { counterexample } = explore(oneLineTwoSides(true), all);
    expect(counterexample?.failure.reason).toBe("the guest handled 0x1000; wanted: 0x1000, user");
    expect(counterexample?.deviations.length).toBe(1);
  });

  test("one GSI of x86, a held line and a pulse: the line is forgotten; with resampling it is not", () => {
    const { counterexample } = explore(sharedGsi(false), search);
    expect(counterexample?.failure.reason).toBe("the first device holds the line up, and nobody serves it");
    expect(explore(sharedGsi(true), { strategy: { exhaustive: { preemptions: 2 } } })).toMatchObject({
      exhausted: true,
      counterexample: undefined,
    });
  });

  test("driven from one side it loses none in any order", () => {
    expect(explore(oneLineTwoSides(false), all)).toMatchObject({
      exhausted: true,
      counterexample: undefined,
    });
  });

  test.each(["run", "refuse"] as const)(
    "announced first: %s leaves the guest without interrupts",
    (proposal) => {
      const { counterexample } = explore(announcedWhileRunning(proposal), all);
      expect(counterexample?.failure.reason).toBe(
        "the interrupt never came; hypercalls that found no controller: 1",
      );
      expect(counterexample?.deviations.length).toBe(1);
    },
  );

  test("refused until it is connected, a vCPU gets its interrupt in every order", () => {
    expect(explore(announcedWhileRunning("refuse unconnected"), all)).toMatchObject({
      exhausted: true,
      counterexample: undefined,
    });
  });
});
