/**
 * Counts what a guest receives: every interrupt that a local APIC of a VM is given, coalesced ones included, with the
 * step of the run at which it came. Invariants are stated over these counts: "exactly one", never "at least
 * something".
 */
import type { Lapic } from "../../hardware/lapic.ts";
import type { Process } from "../../kernel/process.ts";
import { VcpuFile } from "../../kvm/vcpu.ts";
import type { X86Vcpu } from "../../kvm/x86/vcpu.ts";

/** One interrupt that came. */
export interface Delivery {
  readonly vector: number;
  /** as `now()` of the receiver says */
  readonly step: number;
}

/** Counts the interrupts that local APICs are given. */
export class Receiver {
  readonly deliveries: Delivery[] = [];
  /** counts the steps of the run: whoever owns the run moves it on */
  now = 0;

  /** Listens to the local APICs of these vCPU descriptors. */
  constructor(process: Process, vcpus: readonly number[]) {
    for (const fd of vcpus) {
      const file = process.fds.get(fd);
      const lapic = file instanceof VcpuFile ? (file.vcpu.arch as X86Vcpu).lapic : undefined;
      if (lapic !== undefined) this.#listen(lapic);
    }
  }

  #listen(lapic: Lapic): void {
    const accept = lapic.acceptIrq.bind(lapic);
    lapic.acceptIrq = (mode, vector, level, trigger, destMap) => {
      this.deliveries.push({ vector, step: this.now });
      return accept(mode, vector, level, trigger, destMap);
    };
  }

  /** How often a vector came, from a step on. */
  count(vector: number, since = 0): number {
    return this.deliveries.filter((delivery) => delivery.vector === vector && delivery.step >= since).length;
  }
}
