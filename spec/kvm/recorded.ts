/** What specs of arm64 and POWER do with recordings: replay them, with scripts where machine code ran. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import type { Process } from "../../lib/kernel/process.ts";
import { VcpuFile } from "../../lib/kvm/vcpu.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { profileFromHeader } from "../../lib/machine/profile.ts";
import { readTrace } from "../../lib/trace/files.ts";
import { describe as inWords, type KernelFactory, replay } from "../../lib/trace/replay.ts";

const fixtures = new URL("../../fixtures/", import.meta.url).pathname;

/** The traces of a folder, those of VFIO left out. */
export const namesIn = (folder: string): string[] =>
  readdirSync(join(fixtures, folder))
    .filter((name) => name.endsWith(".jsonl.gz") && !name.includes("vfio"))
    .sort();

/** The calls of a trace, all of them identical. */
export function identical(path: string, kernel?: KernelFactory): number {
  const result = replay(readTrace(join(fixtures, path)), kernel === undefined ? {} : { kernel });
  expect(result.differences.map(inWords)).toEqual([]);
  return result.calls;
}

/** A folder that has so many traces: their calls, all of them identical. */
export function identicalFolder(folder: string, traces: number, kernel?: KernelFactory): number {
  const names = namesIn(folder);
  expect(names).toHaveLength(traces);
  return names.reduce((sum, name) => sum + identical(join(folder, name), kernel), 0);
}

/** The vCPU behind a descriptor, as its architecture has it. */
export function archOf<Vcpu>(process: Process, fd: number): Vcpu {
  const file = process.fds.get(fd);
  if (!(file instanceof VcpuFile)) throw new Error(`descriptor ${fd} is no vCPU`);
  return file.vcpu.arch as Vcpu;
}

/** A machine as the header describes it, whose vCPUs run guests from the first KVM_RUN on, which has this number. */
export const runningGuests =
  <Vcpu extends { load(guest: Guest): void }, Guest>(
    request: number,
    guestOf: (vcpu: Vcpu) => Guest,
  ): KernelFactory =>
  (header) => {
    const machine = new Machine(profileFromHeader(header));
    const loaded = new Set<Vcpu>();
    return {
      process: (options) => machine.process(options),
      run(syscalls, fd) {
        const process = syscalls as Process;
        const vcpu = archOf<Vcpu>(process, fd);
        if (!loaded.has(vcpu)) vcpu.load(guestOf(vcpu));
        loaded.add(vcpu);
        return process.ioctl(fd, request, 0);
      },
    };
  };
