/**
 * A host for one test, and what must not be left behind on it: open descriptors, deferred work, interrupts that nobody
 * looked at. An interrupt is accounted for once the guest has taken it or the test has expected it (`toHaveDelivered`).
 *
 * Missing: interrupts of other architectures than x86 are not watched.
 */
import { KVM_CREATE_VCPU } from "../abi/kvm.ts";
import type { Lapic } from "../hardware/lapic.ts";
import type { Process } from "../kernel/process.ts";
import { VcpuFile } from "../kvm/vcpu.ts";
import { X86Vcpu } from "../kvm/x86/vcpu.ts";
import { Machine, type MachineOptions } from "../machine/machine.ts";
import type { Profile } from "../machine/profile.ts";

/** Delivery modes that carry a vector: fixed and lowest priority. */
const VECTOR_MODES = new Set([0x000, 0x100]);
const APIC_IRR = 0x200;

export type Leftover = "descriptors" | "work" | "interrupts";

/** What the local APIC of one vCPU was given. */
export class WatchedVcpu {
  readonly id: number;
  readonly #lapic: Lapic;
  readonly #delivered = new Map<number, number>();
  readonly #discarded = new Map<number, number>();
  /** deliveries that the test knew of, by vector */
  readonly #expected = new Map<number, number>();

  constructor(id: number, lapic: Lapic) {
    this.id = id;
    this.#lapic = lapic;
    const accept = lapic.acceptIrq.bind(lapic);
    lapic.acceptIrq = (mode, vector, level, trigger, destMap) => {
      const taken = accept(mode, vector, level, trigger, destMap);
      const asserted = trigger === 0 || level !== 0;
      if (VECTOR_MODES.has(mode) && asserted) add(taken === 0 ? this.#discarded : this.#delivered, vector);
      return taken;
    };
  }

  /** How often a vector was delivered, coalesced ones included. */
  delivered(vector: number): number {
    return this.#delivered.get(vector) ?? 0;
  }

  /** The test knows of all deliveries of a vector up to now. */
  expected(vector: number): void {
    this.#expected.set(vector, this.delivered(vector));
  }

  /** Every vector that was delivered, and how often. */
  get vectors(): ReadonlyMap<number, number> {
    return this.#delivered;
  }

  /** What is wrong, in words. */
  *problems(): Generator<string> {
    for (const [vector, times] of this.#delivered)
      if (this.#waits(vector) && times > (this.#expected.get(vector) ?? 0))
        yield `vCPU ${this.id}: vector ${hex(vector)} waits, and neither did the guest take it nor the test expect it`;
    for (const [vector, times] of this.#discarded)
      yield `vCPU ${this.id}: vector ${hex(vector)} was sent ${count(times)} to a local APIC that is off, and lost`;
  }

  #waits(vector: number): boolean {
    const word = this.#lapic.regs[(APIC_IRR >> 2) + 4 * (vector >> 5)];
    return (word & (1 << (vector & 31))) !== 0;
  }
}

export class TestHost {
  readonly machine: Machine;
  readonly #processes: Process[] = [];
  /** what a new process has open: standard input, output and error */
  #standard: ReadonlySet<number> = new Set();
  /** every vCPU in the order of creation */
  readonly vcpus: WatchedVcpu[] = [];
  readonly #byFile = new WeakMap<VcpuFile, WatchedVcpu>();
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

  /** The vCPU behind a descriptor. */
  vcpu(process: Process, fd: number): WatchedVcpu {
    const file = process.fds.get(fd);
    const found = file instanceof VcpuFile ? this.#byFile.get(file) : undefined;
    if (found === undefined)
      throw new TypeError(`descriptor ${fd} is no vCPU with a local APIC in the kernel`);
    return found;
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
    const ioctl = process.ioctl.bind(process);
    process.ioctl = (fd, request, argument) => {
      const result = ioctl(fd, request, argument);
      const created = encoding === "powerpc" ? KVM_CREATE_VCPU.powerpc : KVM_CREATE_VCPU.number;
      if (result >= 0 && (request === KVM_CREATE_VCPU || request === created)) this.#created(process, result);
      return result;
    };
    const fork = process.fork.bind(process);
    process.fork = () => this.#watch(fork());
    return process;
  }

  #created(process: Process, fd: number): void {
    const file = process.fds.get(fd);
    if (!(file instanceof VcpuFile)) return;
    const { arch, id } = file.vcpu;
    if (!(arch instanceof X86Vcpu) || arch.lapic === undefined) return;
    const watched = new WatchedVcpu(id, arch.lapic);
    this.vcpus.push(watched);
    this.#byFile.set(file, watched);
  }
}

const add = (counts: Map<number, number>, vector: number): void =>
  void counts.set(vector, (counts.get(vector) ?? 0) + 1);
const hex = (vector: number): string => `0x${vector.toString(16)}`;
const count = (times: number): string => (times === 1 ? "once" : `${times} times`);
