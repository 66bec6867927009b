/**
 * Two kernels get the same program, step by step, until their answers differ. A difference counts only if it shows again
 * with more patience: a real kernel has threads of its own, and what depends on their speed is told apart, and counted.
 */
import { EINTR } from "../abi/errno.ts";
import { findRequest } from "../abi/requests.ts";
import type { Syscalls } from "../kernel/syscalls.ts";
import { answer, compareBytes } from "../trace/compare.ts";
import { layoutOf } from "../trace/layout.ts";
import { type RunOptions, runProgram, type Step } from "./interpreter.ts";
import type { Program } from "./program.ts";
import { SLOW_PIT, STORM, volatileBytes } from "./rules.ts";

/** A kernel that programs are run on: a new process for each. */
export interface Kernel {
  process(): Syscalls;
  /** waits until nothing deferred is left; `patience` 0 is the usual, each further one longer */
  settle(process: Syscalls, patience: number): void;
  /** whether a storm of interrupts is paused at present (see rules.ts) */
  paused?(process: Syscalls): boolean;
  /** KVM_RUN that answers −EINTR after some time, if the guest does not leave before */
  enter?(process: Syscalls, vcpu: number, patience: number): number;
}

/** The first step whose answers differ. */
export interface Difference {
  /** the operation of the program */
  readonly operation: number;
  readonly call: string;
  /** in words; the second kernel is "the kernel" */
  readonly what: string;
  /** the program ran for so long that a PIT may have ticked, or stood a storm: what differs is a matter of speed */
  readonly late: boolean;
  /** the guest of the second kernel was still running when it was stopped, the first kernel's was not */
  readonly stopped?: boolean;
}

/** What a comparison has seen. */
export interface Counts {
  calls: number;
  /** how often each call was answered how: "0" stands for every success */
  readonly answers: Map<string, Map<string, number>>;
  /** by the name of the rule */
  readonly volatile: Map<string, number>;
  readonly tamed: Map<string, number>;
}

export const newCounts = (): Counts => ({
  calls: 0,
  answers: new Map(),
  volatile: new Map(),
  tamed: new Map(),
});

const count = (map: Map<string, number>, name: string): void => void map.set(name, (map.get(name) ?? 0) + 1);

function countAnswer({ answers }: Counts, { call, result }: Step): void {
  let known = answers.get(call);
  if (known === undefined) answers.set(call, (known = new Map()));
  count(known, result < 0 ? answer(result) : "0");
}

/** A PIT ticks 18 times a second at its slowest. */
const PIT_PATIENCE_MS = 45;

/** Runs a program on both. What the first throws is a difference too. */
export function compareOn(
  program: Program,
  ours: Kernel,
  theirs: Kernel,
  counts: Counts = newCounts(),
  patience = 0,
): Difference | undefined {
  const tamed = new Set<string>();
  const started = performance.now();
  const differs = (operation: number, call: string, what: string): Difference => ({
    operation,
    call,
    what,
    late: tamed.has(STORM) || (tamed.has(SLOW_PIT) && performance.now() - started > PIT_PATIENCE_MS),
  });
  const here = ours.process();
  const there = theirs.process();
  try {
    const left = runProgram(program, here, optionsOf(ours, patience));
    const right = runProgram(program, there, {
      ...optionsOf(theirs, patience),
      tamed(rule) {
        tamed.add(rule);
        count(counts.tamed, rule);
      },
    });
    for (;;) {
      const expected = right.next();
      let given: IteratorResult<Step, void>;
      try {
        given = left.next();
      } catch (error) {
        const step = expected.value;
        const place =
          error instanceof Error
            ? `${error.message} ${error.stack?.split("\n")[1]?.trim() ?? ""}`
            : String(error);
        return differs(step?.operation ?? 0, step?.call ?? "?", `threw ${place}`);
      }
      if (expected.done || given.done) {
        if (expected.done && given.done) return undefined;
        const step = (expected.value ?? given.value)!;
        return differs(step.operation, step.call, "one kernel made a call that the other did not");
      }
      counts.calls++;
      countAnswer(counts, expected.value);
      if (!tamed.has(STORM) && ours.paused?.(here)) {
        tamed.add(STORM);
        count(counts.tamed, STORM);
      }
      if (given.value.over === true && expected.value.result === -EINTR) return undefined;
      if (expected.value.over === true && given.value.call === expected.value.call)
        return {
          ...differs(
            expected.value.operation,
            expected.value.call,
            `answered ${answer(given.value.result)}, the kernel ran on`,
          ),
          stopped: true,
        };
      const what = compareSteps(given.value, expected.value, counts);
      if (what !== undefined) return differs(expected.value.operation, expected.value.call, what);
    }
  } finally {
    there.exit();
    here.exit();
  }
}

/** How a program is run on a kernel. */
export const optionsOf = (kernel: Kernel, patience: number): RunOptions => ({
  settle: (process) => kernel.settle(process, patience),
  ...(kernel.enter !== undefined && {
    enter: (process: Syscalls, vcpu: number) => kernel.enter!(process, vcpu, patience),
  }),
});

function compareSteps(ours: Step, theirs: Step, counts: Counts): string | undefined {
  if (ours.over === true && ours.call === theirs.call)
    return `ran on, the kernel answered ${answer(theirs.result)}`;
  if (ours.call !== theirs.call || ours.bytes.length !== theirs.bytes.length)
    return `calls ${ours.call}, the other ${theirs.call}`;
  if (ours.result !== theirs.result)
    return `answered ${answer(ours.result)}, the kernel answered ${answer(theirs.result)}`;
  for (let i = 0; i < theirs.bytes.length; i++) {
    const [given, expected] = [ours.bytes[i], theirs.bytes[i]];
    const rule =
      i === 0 && theirs.request !== undefined ? volatileBytes(theirs.request, expected) : undefined;
    if (rule !== undefined) count(counts.volatile, rule.rule);
    if (same(given, expected)) continue;
    const layout =
      i === 0 && theirs.request !== undefined
        ? layoutOf(findRequest("x86_64", theirs.request)?.request)
        : undefined;
    const ranges = rule?.ranges.map(([at, length]): [number, number] => [at, length]);
    const what = compareBytes(
      i === 0 ? "out" : "the buffer behind a pointer",
      given,
      expected,
      ranges,
      layout,
    );
    if (what !== undefined) return what;
  }
  return undefined;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
