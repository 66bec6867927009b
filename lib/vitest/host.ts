/**
 * A host for one test, and what must not be left behind on it: open descriptors, deferred work, interrupts that nobody
 * looked at. An interrupt is accounted for once the guest has taken it or the test has expected it (`toHaveDelivered`).
 *
 * Missing: the interrupts of an MPIC, and of a vCPU whose controller is the VMM's.
 */
import { KVM_CREATE_VCPU } from "../abi/kvm.ts";
import type { Process } from "../kernel/process.ts";
import { Arm64Vcpu } from "../kvm/arm64/vcpu.ts";
import type { PpcController } from "../kvm/ppc/controller.ts";
import { PpcVcpu } from "../kvm/ppc/vcpu.ts";
import { KvmXics } from "../kvm/ppc/xics.ts";
import { XicsOnXive } from "../kvm/ppc/xics-on-xive.ts";
import { XiveNative } from "../kvm/ppc/xive.ts";
import { VcpuFile } from "../kvm/vcpu.ts";
import { X86Vcpu } from "../kvm/x86/vcpu.ts";
import { Machine, type MachineOptions } from "../machine/machine.ts";
import type { Profile } from "../machine/profile.ts";
import { WatchedGicCpu } from "./watch-gic.ts";
import { WatchedLapic } from "./watch-lapic.ts";
import { WatchedXics, WatchedXive } from "./watch-power.ts";
import type { WatchedVcpu } from "./watched.ts";

/** What a test can leave behind. */
export type Leftover = "descriptors" | "work" | "interrupts";

/** The host of one test, which knows what is left behind on it. */
export class TestHost {
  readonly machine: Machine;
  readonly #processes: Process[] = [];
  /** what a new process has open: standard input, output and error */
  #standard: ReadonlySet<number> = new Set();
  /** every vCPU whose interrupts are counted, in the order in which it got its controller */
  readonly vcpus: WatchedVcpu[] = [];
  /** by the architecture's part of the vCPU */
  readonly #watched = new WeakMap<object, WatchedVcpu>();
  readonly #controllers = new WeakSet<PpcController>();
  /** vCPUs, counted or not */
  #created = 0;
  readonly #ignored = new Set<Leftover>();

  constructor(profile?: Profile, options?: MachineOptions) {
    this.machine = new Machine(profile, options);
  }

  /** A new process on the host, whose descriptors are looked at in the end. */
  process(): Process {
    const process = this.machine.process();
    this.#standard = new Set(process.fds.open);
    return this.#watch(process);
  }

  /** The vCPU behind a descriptor. Throws where it is none, or has no controller whose interrupts are counted. */
  vcpu(process: Process, fd: number): WatchedVcpu {
    const file = process.fds.get(fd);
    if (!(file instanceof VcpuFile)) throw new TypeError(`descriptor ${fd} is no vCPU`);
    const { arch } = file.vcpu;
    const found = arch === undefined ? undefined : this.#watched.get(arch);
    if (found === undefined) throw new TypeError(`vCPU ${file.vcpu.id} has ${NOT_COUNTED}`);
    return found;
  }

  /** The vCPUs whose interrupts are counted. Throws where there are vCPUs and none of them has such a controller. */
  get counted(): readonly WatchedVcpu[] {
    if (this.vcpus.length === 0 && this.#created > 0) throw new TypeError(`no vCPU has ${COUNTED}`);
    return this.vcpus;
  }

  /** This test leaves such things behind on purpose. */
  ignore(...what: Leftover[]): void {
    for (const each of what) this.#ignored.add(each);
  }

  /** What is left behind, in words; empty where nothing is. */
  problems(): string[] {
    const found: string[] = [];
    if (!this.#ignored.has("descriptors"))
      this.#processes.forEach((process, i) => {
        const who = this.#processes.length === 1 ? "" : `process ${i}: `;
        for (const fd of process.fds.open.filter((fd) => !this.#standard.has(fd)))
          found.push(`${who}descriptor ${fd} is still open: ${process.fds.get(fd)!.name}`);
      });
    if (!this.#ignored.has("work"))
      for (const { name } of this.machine.kernel.work.items)
        found.push(`deferred work "${name}" has not run`);
    if (!this.#ignored.has("interrupts")) for (const vcpu of this.vcpus) found.push(...vcpu.problems());
    return found;
  }

  /** Throws where something is left behind. */
  verify(): void {
    const problems = this.problems();
    if (problems.length !== 0) throw new Error(`left behind:\n  ${problems.join("\n  ")}`);
  }

  #watch(process: Process): Process {
    this.#processes.push(process);
    const { encoding } = process;
    const create = encoding === "powerpc" ? KVM_CREATE_VCPU.powerpc : KVM_CREATE_VCPU.number;
    const ioctl = process.ioctl.bind(process);
    process.ioctl = (fd, request, argument) => {
      const file = process.fds.get(fd);
      if (file instanceof VcpuFile && file.vcpu.arch instanceof PpcVcpu)
        this.#connects(file.vcpu.arch.vm.controller);
      const result = ioctl(fd, request, argument);
      if (result >= 0 && (request === KVM_CREATE_VCPU || request === create)) {
        const made = process.fds.get(result);
        if (made instanceof VcpuFile) this.#made(made);
      }
      return result;
    };
    const fork = process.fork.bind(process);
    process.fork = () => this.#watch(fork());
    return process;
  }

  #made({ vcpu: { id, arch } }: VcpuFile): void {
    this.#created++;
    if (arch instanceof X86Vcpu && arch.lapic !== undefined)
      this.#count(arch, new WatchedLapic(id, arch.lapic));
    if (arch instanceof Arm64Vcpu) this.#count(arch, new WatchedGicCpu(id, arch.vm.vgic.gic, arch.cpu));
  }

  /** POWER: a vCPU is connected to the controller later. */
  #connects(controller: PpcController | undefined): void {
    if (controller === undefined || this.#controllers.has(controller)) return;
    this.#controllers.add(controller);
    const connect = controller.connect.bind(controller);
    controller.connect = (vcpu, server) => {
      const presenter = connect(vcpu, server);
      if (typeof presenter === "number") return presenter;
      const { id } = vcpu.vcpu;
      if (controller instanceof KvmXics)
        this.#count(vcpu, new WatchedXics(id, controller.chip, controller.chip.presenter(server)!));
      if (controller instanceof XicsOnXive || controller instanceof XiveNative)
        this.#count(vcpu, new WatchedXive(id, controller.base.processors.get(server)!));
      return presenter;
    };
  }

  #count(arch: object, watched: WatchedVcpu): void {
    this.vcpus.push(watched);
    this.#watched.set(arch, watched);
  }
}

const COUNTED = "an interrupt controller in the kernel that is counted: a local APIC, a GIC, a XICS or XIVE";
const NOT_COUNTED = COUNTED.replace("an ", "no ");
