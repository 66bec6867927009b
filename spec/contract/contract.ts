/**
 * One body, several kernels: the fake, and the real one where the host has it (reported as skipped with the reason where
 * it has not). The fake is built from what the real kernel tells about its host, as a trace's header does.
 *
 * `contract` runs a body that expects; `agreement` runs a body that answers, and compares the two kernels' answers: for
 * sweeps whose answers nobody wants to write down.
 */
import { isDeepStrictEqual } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { errnoName } from "../../lib/abi/errno.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import { defaultProfile } from "../../lib/machine/default-profile.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { type Profile, profileFromHeader } from "../../lib/machine/profile.ts";
import { nativeKernel } from "../../lib/native/native.ts";
import { hostRelease } from "../../lib/trace/files.ts";
import { hostHeader } from "../../lib/trace/host-header.ts";

/** A process of the kernel under test; it is gone when the test ends. */
export type Start = () => Syscalls;
/** The answers of a sweep: what was asked, and what came back. */
export type Answers = Record<string, unknown>;

const native = nativeKernel();
const realKernel = native.available ? "the real kernel" : `the real kernel: skipped, ${native.reason}`;

/** The profile of the host where its kernel can be asked, else the default one. */
const profile = ((): Profile => {
  if (!native.available) return defaultProfile;
  const process = native.process();
  try {
    return profileFromHeader(hostHeader(process, hostRelease()));
  } finally {
    process.exit();
  }
})();

const ended = <S extends Syscalls>(process: S): S => {
  onTestFinished(() => process.exit());
  return process;
};
const fake: Start = () => ended(new Machine(profile).process());
const real: Start = () => {
  if (!native.available) throw new Error(native.reason);
  return ended(native.process());
};

/** The same expectations on every kernel. */
export function contract(title: string, body: (process: Syscalls) => void | Promise<void>): void {
  test(`${title} (the fake)`, () => body(fake()));
  test.skipIf(!native.available)(`${title} (${realKernel})`, () => body(real()));
}

/** The same answers from every kernel. */
export function agreement(title: string, body: (process: Syscalls) => Answers): void {
  test.skipIf(!native.available)(`${title} (the fake agrees with ${realKernel})`, () => {
    const kernel = body(real());
    const ours = body(fake());
    expect(Object.keys(kernel)).not.toEqual([]);
    const different = Object.keys({ ...kernel, ...ours })
      .filter((question) => !isDeepStrictEqual(ours[question], kernel[question]))
      .map((question) => `${question}: ${show(ours[question])}, the kernel ${show(kernel[question])}`);
    expect(different).toEqual([]);
  });
}

const show = (answer: unknown): string =>
  JSON.stringify(answer, (_, value) => (typeof value === "bigint" ? `0x${value.toString(16)}` : value));

/** A result as people read it: a number, or the name of the error. */
export const named = (result: number): number | string => (result < 0 ? errnoName(-result) : result);

/** A counter as eventfd reads and writes it. */
export const counter = (value: bigint | number): Uint8Array => {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, BigInt(value)), true);
  return bytes;
};
export const counted = (bytes: Uint8Array): bigint =>
  new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
