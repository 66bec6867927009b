/**
 * A host, put together from a profile: the kernel, its device nodes, and processes on it. This is what a test or a
 * VMM injects where the real kernel would be.
 */
import { ENOENT } from "../abi/errno.ts";
import type { Clock } from "../kernel/clock.ts";
import { Kernel } from "../kernel/kernel.ts";
import { addPlainFiles } from "../kernel/plain-files.ts";
import { Process, type ProcessOptions } from "../kernel/process.ts";
import type { Policy } from "../kernel/work-queue.ts";
import type { KvmArch } from "../kvm/arch.ts";
import { arm64 } from "../kvm/arm64/arch.ts";
import type { KvmHost } from "../kvm/host.ts";
import { ppc } from "../kvm/ppc/arch.ts";
import { KvmSystem } from "../kvm/system.ts";
import { x86 } from "../kvm/x86/arch.ts";
import type { VfioHost } from "../vfio/host.ts";
import { createAssignment } from "./assignment.ts";
import { behaviourOf } from "./behaviours.ts";
import { defaultProfile } from "./default-profile.ts";
import { knownHost } from "./known-hosts.ts";
import { MachinePci, type ModelFactory, pciModels } from "./pci.ts";
import type { ArchName, Profile } from "./profile.ts";
import { writeSysfs } from "./sysfs.ts";
import { createVfio, hasVfio } from "./vfio.ts";

/** What of a host is the test's matter, and not the profile's. */
export interface MachineOptions {
  /** who runs deferred work, and when: before a call returns (the default), by hand, … */
  policy?: Policy;
  clock?: Clock;
  /** called when a call would sleep for ever */
  onDeadlock?: (report: string) => void;
  /** called when every `Process.run` sleeps and no timer will wake one: what each of them waits for */
  onAsleep?: (reports: readonly string[]) => void;
  /** what PCI devices do, by "vendor:device"; they come before the models that are known here */
  models?: ReadonlyMap<string, ModelFactory>;
}

export const architectures: Partial<Record<ArchName, KvmArch>> = { x86_64: x86, arm64, ppc64le: ppc };

/** Where user space ends (arch/powerpc/include/asm/task_size_64.h, arch/arm64/include/asm/processor.h, 6.1). */
const taskSizes: Partial<Record<ArchName, { taskSize: number }>> = {
  ppc64le: { taskSize: 2 ** 52 },
  arm64: { taskSize: 2 ** 48 },
};

/** A host: made from a profile, it gives processes whose system calls it answers. */
export class Machine {
  readonly profile: Profile;
  readonly kernel: Kernel;
  readonly kvm: KvmHost | undefined;
  readonly vfio: VfioHost | undefined;
  /** its PCI devices as hardware, for a test to raise their interrupts */
  readonly pci: MachinePci | undefined;

  constructor(profile: Profile = defaultProfile, options: MachineOptions = {}) {
    this.profile = profile;
    const behaviour = behaviourOf(profile.release, profile.flavour);
    this.kernel = new Kernel({
      ...options,
      behaviour,
      pageSize: profile.pageSize,
      ...taskSizes[profile.arch],
    });
    addPlainFiles(this.kernel);
    const devices = knownHost(profile)?.devices ?? (hasVfio(profile) ? profile.devices : undefined);
    if (devices !== undefined) {
      const models = new Map([...pciModels, ...(options.models ?? [])]);
      this.pci = new MachinePci(profile, devices, this.kernel, behaviour, models);
    }
    const arch = architectures[profile.arch];
    if (arch !== undefined && profile.flavour !== null) {
      const { release, flavour, systemCapabilities, vmCapabilities, vcpuMmapSize, pageSize, facts } = profile;
      const host: KvmHost = {
        kernel: this.kernel,
        arch,
        release,
        flavour,
        systemCapabilities,
        vmCapabilities,
        vcpuMmapSize,
        pageSize,
        behaviour,
        assignment: this.pci && createAssignment(profile, this.pci),
        irqchipProposal: profile.irqchipProposal,
        facts,
        postedInterrupts: profile.host.posted_interrupts === true,
      };
      this.kvm = host;
      this.kernel.nodes.set("/dev/kvm", (_process, flags) => new KvmSystem(host, flags));
    }
    this.vfio = createVfio(profile, this.kernel, behaviour, this.pci);
  }

  /** A write to a file of sysfs, from outside the programs: ≥ 0, or −errno. */
  sysfs(path: string, value: string): number {
    return this.vfio === undefined ? -ENOENT : writeSysfs(this.vfio, path, value);
  }

  /** Bytes of device files that were read since the last call, and stand for registers that no model knows. */
  unmodelledReads(): { offset: number; length: number }[] {
    return this.pci?.unmodelled.splice(0) ?? [];
  }

  /** A process gives a capability up: `CAP_IPC_LOCK`, and RLIMIT_MEMLOCK counts for it. */
  dropCapability(process: Process, name: string): void {
    process.dropped.add(name);
  }

  /** A new process: descriptors from 3 on, empty memory. */
  process(options: Omit<ProcessOptions, "encoding"> = {}): Process {
    return new Process(this.kernel, {
      ...options,
      encoding: this.profile.arch === "ppc64le" ? "powerpc" : "generic",
    });
  }
}
