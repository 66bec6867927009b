/** Where a guest is run: on the fake in both flavours, and on the real kernel, which there may not be. */
import type { Syscalls } from "../../../lib/kernel/syscalls.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { nativeKernel } from "../../../lib/native/native.ts";
import { mainline } from "./vm.ts";

const native = nativeKernel();

/** By name; undefined: it is skipped. */
export const kernels: [name: string, start: (() => Syscalls) | undefined][] = [
  ["pvm", () => new Machine().process()],
  ["mainline", () => new Machine(mainline).process()],
  [
    native.available ? "the real kernel" : `the real kernel: skipped, ${native.reason}`,
    native.available ? () => native.process() : undefined,
  ],
];
