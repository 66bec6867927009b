/**
 * Whole programs: the usual beginning (/dev/kvm, a VM, its controllers, vCPUs, eventfds), then operations of the groups
 * that this program's swarm has, with read-backs between them.
 */
import fc from "fast-check";
import { groupNames, groups } from "./groups.ts";
import { opensKvm } from "./interpreter.ts";
import type { Operation, Part, Program } from "./program.ts";
import { hexValue } from "./values.ts";

/** Which programs are drawn. */
export interface ProgramOptions {
  /** the groups to draw from; all by default */
  groups?: readonly string[];
  /** where the interrupt controllers of the first VM are; a VM without any is gone sooner */
  controllers?: Controllers;
  /** how many operations at most, the beginning aside */
  length?: number;
}

const DEFAULT_LENGTH = 60;
const everything: readonly Part[] = [
  "chips",
  "extensions",
  "lapic",
  "mp-state",
  "dirty-log",
  "counters",
  "registers",
];

/** A request of the first VM whose argument is a value. */
export const onVm = (request: string, value: number): Operation => ({
  op: "ioctl",
  on: { kind: "vm", index: 0 },
  request,
  value: `0x${value.toString(16)}`,
});

export const splitIrqchip: Operation = {
  op: "ioctl",
  on: { kind: "vm", index: 0 },
  request: "KVM_ENABLE_CAP",
  bytes: (hexValue(121, 4) + hexValue(0, 4) + hexValue(24, 8)).padEnd(208, "0"),
};
export const pit: Operation = {
  op: "ioctl",
  on: { kind: "vm", index: 0 },
  request: "KVM_CREATE_PIT2",
  bytes: "00".repeat(64),
};

/** Where the interrupt controllers of a VM are: in the kernel, split, or nowhere. */
export type Controllers = "kernel" | "split" | "none";
const someControllers = fc.oneof(
  { weight: 7, arbitrary: fc.constant<Controllers>("kernel") },
  { weight: 2, arbitrary: fc.constant<Controllers>("split") },
  { weight: 1, arbitrary: fc.constant<Controllers>("none") },
);

/** What most programs begin with. */
const beginning = (fixed?: Controllers): fc.Arbitrary<Program> =>
  fc
    .record({
      controllers: fixed === undefined ? someControllers : fc.constant(fixed),
      pit: fc.integer({ min: 0, max: 3 }),
      vcpus: fc.oneof(
        fc.constant([0]),
        fc.constant([0, 1]),
        fc.constant([0, 1, 2]),
        fc.constant([]),
        fc.constant([3, 0]),
        fc.constant([0, 5, 255]),
      ),
      eventfds: fc.integer({ min: 0, max: 4 }),
      cpuid: fc.integer({ min: 0, max: 2 }),
      vms: fc.oneof({ weight: 9, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: fc.constant(2) }),
    })
    .map(({ controllers, pit: withPit, vcpus, eventfds, vms, cpuid }) => {
      const operations: Operation[] = [opensKvm];
      for (let i = 0; i < vms; i++)
        operations.push({
          op: "ioctl",
          on: { kind: "system", index: 0 },
          request: "KVM_CREATE_VM",
          value: "0x0",
        });
      if (controllers === "kernel") operations.push(onVm("KVM_CREATE_IRQCHIP", 0));
      if (controllers === "split") operations.push(splitIrqchip);
      if (controllers === "kernel" && withPit === 0) operations.push(pit);
      for (const id of vcpus) operations.push(onVm("KVM_CREATE_VCPU", id));
      if (cpuid === 0)
        vcpus.forEach((_, index) => {
          operations.push({ op: "cpuid", on: { kind: "vcpu", index }, edits: [] });
        });
      for (let i = 0; i < eventfds; i++) operations.push({ op: "eventfd2", initval: 0, flags: 0x80800 });
      return operations;
    });

const readback: fc.Arbitrary<Operation> = fc.integer({ min: 0, max: 7 }).map((n) => ({
  op: "readback",
  parts:
    n === 0
      ? [...everything, "processor" as const]
      : n < 4
        ? everything
        : everything.filter((part) => part !== "counters"),
}));

/** Programs; each has a swarm of its own: some groups, with weights. */
export function programs(options: ProgramOptions = {}): fc.Arbitrary<Program> {
  const names = options.groups ?? groupNames;
  const length = options.length ?? DEFAULT_LENGTH;
  for (const name of names)
    if (groups[name] === undefined) throw new TypeError(`no group "${name}": ${groupNames.join(", ")}`);
  const swarm = fc.array(fc.constantFrom(0, 0, 0, 0, 0, 1, 1, 3, 8), {
    minLength: names.length,
    maxLength: names.length,
    size: "max",
  });
  const body = swarm.chain((weights) => {
    const chosen = names
      .map((name, i) => ({ weight: weights[i], arbitrary: groups[name] }))
      .filter(({ weight }) => weight !== 0);
    const drawn =
      chosen.length === 0 ? names.map((name) => ({ weight: 1, arbitrary: groups[name] })) : chosen;
    const total = drawn.reduce((sum, { weight }) => sum + weight, 0);
    return fc.array(fc.oneof(...drawn, { weight: Math.max(1, Math.round(total / 9)), arbitrary: readback }), {
      minLength: Math.ceil(length / 4),
      maxLength: length,
      size: "max",
    });
  });
  return fc
    .tuple(beginning(options.controllers), body)
    .map(([first, rest]) => [...first, ...rest, { op: "readback", parts: everything }]);
}
