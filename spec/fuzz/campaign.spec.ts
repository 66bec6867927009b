/** The fuzzer finds what is planted, repeats itself, and agrees with the real kernel where there is one. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Request } from "../../lib/abi/ioctl.ts";
import * as kvm from "../../lib/abi/kvm.ts";
import * as x86 from "../../lib/abi/kvm-x86.ts";
import { load32 } from "../../lib/abi/struct.ts";
import { campaign, programAt } from "../../lib/fuzz/campaign.ts";
import { traceOf } from "../../lib/fuzz/counterexample.ts";
import { compareOn, type Kernel } from "../../lib/fuzz/differential.ts";
import { groupNames } from "../../lib/fuzz/groups.ts";
import { runProgram } from "../../lib/fuzz/interpreter.ts";
import { fakeSide, nativeSide } from "../../lib/fuzz/kernels.ts";
import { formatProgram, type Program, parseProgram } from "../../lib/fuzz/program.ts";
import { programs } from "../../lib/fuzz/programs.ts";
import { tame, volatileBytes } from "../../lib/fuzz/rules.ts";
import { shrink } from "../../lib/fuzz/shrink.ts";
import { headerOf } from "../../lib/fuzz/this-host.ts";
import type { UserArgument } from "../../lib/kernel/argument.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import { x86_64_6_18_pvm } from "../../lib/machine/profiles/x86_64-6.18-pvm.ts";
import { nativeKernel } from "../../lib/native/native.ts";
import type { TraceHeader } from "../../lib/trace/format.ts";
import { replay } from "../../lib/trace/replay.ts";

const header = { format: "kvm-vfio-trace", version: 1, host: {}, ...x86_64_6_18_pvm } as TraceHeader;
const fake = fakeSide(header);

/** The fake with a mistake in its ioctls. */
function broken(
  ioctl: (inner: Syscalls, fd: number, request: number, argument: UserArgument) => number,
): Kernel {
  return {
    process() {
      const inner = fake.process();
      return new Proxy(inner, {
        get(target, name) {
          if (name === "ioctl")
            return (fd: number, request: number | Request, argument: UserArgument = 0) =>
              ioctl(target, fd, typeof request === "number" ? request : request.number, argument);
          const value = Reflect.get(target, name, target) as unknown;
          return typeof value === "function" ? value.bind(target) : value;
        },
      });
    },
    settle: fake.settle,
  };
}

const isBytes = (argument: UserArgument): argument is Uint8Array => typeof argument === "object";

/** Mistakes, and a group whose programs must find them. */
const mistakes: readonly { name: string; group: string; ioctl: Parameters<typeof broken>[0] }[] = [
  {
    name: "an irqfd on GSI 4 is forgotten",
    group: "irqfd",
    ioctl(inner, fd, request, argument) {
      const forgotten =
        request === kvm.KVM_IRQFD.number &&
        isBytes(argument) &&
        argument.length >= 32 &&
        load32(argument, 4) === 4;
      return forgotten && load32(argument, 8) === 0 ? 0 : inner.ioctl(fd, request, argument);
    },
  },
  {
    name: "one bit of KVM_GET_IRQCHIP",
    group: "irqchip",
    ioctl(inner, fd, request, argument) {
      const result = inner.ioctl(fd, request, argument);
      if (request === x86.KVM_GET_IRQCHIP.number && result === 0 && isBytes(argument) && argument[0] === 2)
        argument[8 + 24 + 8 * 9 + 1] ^= 0x40;
      return result;
    },
  },
  {
    name: "a resampling irqfd is taken where the controllers are split",
    group: "resample",
    ioctl(inner, fd, request, argument) {
      const result = inner.ioctl(fd, request, argument);
      return request === kvm.KVM_IRQFD.number &&
        result === -22 &&
        isBytes(argument) &&
        load32(argument, 8) === 2
        ? 0
        : result;
    },
  },
  {
    name: "the second dirty log of a slot",
    group: "memory",
    ioctl(inner, fd, request, argument) {
      const result = inner.ioctl(fd, request, argument);
      return request === kvm.KVM_CLEAR_DIRTY_LOG.number && result === 0 ? -22 : result;
    },
  },
  {
    name: "an ioeventfd of 8 bytes collides with none",
    group: "ioeventfd",
    ioctl(inner, fd, request, argument) {
      const result = inner.ioctl(fd, request, argument);
      return request === kvm.KVM_IOEVENTFD.number && result === -17 ? 0 : result;
    },
  },
  {
    name: "TPR is lost",
    group: "lapic",
    ioctl(inner, fd, request, argument) {
      if (request === x86.KVM_SET_LAPIC.number && isBytes(argument) && argument.length === 0x400)
        argument[0x80] = 0;
      return inner.ioctl(fd, request, argument);
    },
  },
];

describe("the generator is not blind", () => {
  test.each(mistakes)("$name", ({ group, ioctl }) => {
    const result = campaign(broken(ioctl), fake, {
      programs: 150,
      seed: 11,
      groups: [group, "eventfd", "irq-line"],
      length: 30,
      shrink: false,
      atMost: 1,
    });
    expect(result.findings).toHaveLength(1);
  });

  test("and finds nothing where there is nothing", () => {
    const result = campaign(fake, fake, { programs: 60, seed: 12 });
    expect(result.findings).toEqual([]);
    expect(result.unstable).toBe(0);
    expect(result.programs).toBe(60);
  });

  test("every group has operations that succeed", () => {
    for (const group of groupNames.filter((name) => name !== "misplaced")) {
      const arbitrary = programs({ groups: [group], length: 40 });
      let good = 0;
      for (let index = 0; index < 12 && good === 0; index++)
        for (const step of runProgram(programAt(arbitrary, 13, index), fake.process()))
          if (step.result >= 0 && step.operation > 12) good++;
      expect(good, group).toBeGreaterThan(0);
    }
  });
});

describe("programs", () => {
  test("are data: text and back, and the same answers", () => {
    fc.assert(
      fc.property(programs({ length: 20 }), (program) => {
        const again = parseProgram(formatProgram(program));
        expect(again).toEqual(program);
        const steps = (p: Program) =>
          [...runProgram(p, fake.process())].map(({ call, result }) => `${call} ${result}`);
        expect(steps(again)).toEqual(steps(program));
      }),
      { numRuns: 20 },
    );
  });

  test("of a seed and a number are the same again, of another number another", () => {
    const arbitrary = programs();
    expect(programAt(arbitrary, 5, 7)).toEqual(programAt(programs(), 5, 7));
    expect(programAt(arbitrary, 5, 7)).not.toEqual(programAt(arbitrary, 5, 8));
    expect(programAt(arbitrary, 5, 7)).not.toEqual(programAt(arbitrary, 6, 7));
  });

  test("shrink to what shows the difference", () => {
    const lapic = mistakes.find(({ group }) => group === "lapic")!;
    const twin = broken(lapic.ioctl);
    const result = campaign(twin, fake, {
      programs: 150,
      seed: 14,
      groups: ["lapic"],
      length: 30,
      atMost: 1,
    });
    const [finding] = result.findings;
    const names = finding.program.map((operation) => operation.op);
    expect(names.filter((name) => name === "modify" || name === "ioctl").length).toBeLessThanOrEqual(6);
    expect(compareOn(finding.program, twin, fake)).toBeDefined();
    expect(compareOn(finding.program, fake, fake)).toBeUndefined();
  });

  test("shrinking keeps what is needed and nothing else", () => {
    const program: Program = Array.from({ length: 40 }, (_, i) => ({ op: "eventfd2", initval: i, flags: 0 }));
    const needed = (candidate: Program): boolean =>
      [3, 17, 18].every((value) =>
        candidate.some((operation) => "initval" in operation && operation.initval === value),
      );
    expect(shrink(program, needed).map((operation) => "initval" in operation && operation.initval)).toEqual([
      3, 17, 18,
    ]);
  });

  test("become traces that replay identically on the kernel that made them", () => {
    const arbitrary = programs({ length: 25 });
    for (let index = 0; index < 15; index++) {
      const trace = traceOf(programAt(arbitrary, 15, index), fake, header, "test", "of the kernel");
      const result = replay({ name: "test", ...trace });
      expect(result.differences.slice(0, 2)).toEqual([]);
      expect(result.calls).toBeGreaterThan(5);
    }
  });
});

describe("rules", () => {
  test("what follows the clock is named, and nothing else", () => {
    const page = new Uint8Array(0x400);
    expect(volatileBytes(x86.KVM_GET_LAPIC.number, page)?.ranges).toEqual([[0x390, 4]]);
    expect(volatileBytes(x86.KVM_GET_LAPIC.number, page.subarray(0, 0x392))?.ranges).toEqual([[0x390, 2]]);
    expect(volatileBytes(x86.KVM_GET_REGS.number, page)).toBeUndefined();
  });

  test("timers are slow, pointers are the program's", () => {
    const page = new Uint8Array(0x400);
    page[0x380] = 5;
    expect(tame(x86.KVM_SET_LAPIC.number, page, new Set())).toHaveLength(1);
    expect(load32(page, 0x380)).toBeGreaterThanOrEqual(0x4000_0000);
    const log = kvm.KvmDirtyLog.encode({ slot: 1 });
    log[8 + 5] = 0x7f;
    expect(tame(kvm.KVM_GET_DIRTY_LOG.number, log, new Set([8]))).toHaveLength(0);
    expect(tame(kvm.KVM_GET_DIRTY_LOG.number, log, new Set())).toHaveLength(1);
    expect(log.every((byte, i) => byte === (i === 0 ? 1 : 0))).toBe(true);
  });
});

const native = nativeKernel();

describe.skipIf(!native.available)(
  native.available ? "on the real kernel" : `on the real kernel: skipped, ${native.reason}`,
  () => {
    test("a small campaign finds no difference", { timeout: 60_000 }, () => {
      if (!native.available) return;
      const result = campaign(fakeSide(headerOf(native)), nativeSide(native), {
        programs: 40,
        seed: 16,
        length: 30,
      });
      expect(result.findings.map(({ difference }) => `${difference.call}: ${difference.what}`)).toEqual([]);
      expect(result.programs).toBe(40);
    });
  },
);
