/** A local APIC: every vector that it is given counts, coalesced ones included. */
import type { Lapic } from "../hardware/lapic.ts";
import { hex, times, WatchedVcpu } from "./watched.ts";

/** Delivery modes that carry a vector: fixed and lowest priority. */
const VECTOR_MODES = new Set([0x000, 0x100]);
const APIC_IRR = 0x200;

export class WatchedLapic extends WatchedVcpu {
  readonly #lapic: Lapic;
  /** sent while it was off, by vector */
  readonly #lost = new Map<number, number>();

  constructor(id: number, lapic: Lapic) {
    super(id);
    this.#lapic = lapic;
    const accept = lapic.acceptIrq.bind(lapic);
    lapic.acceptIrq = (mode, vector, level, trigger, destMap) => {
      const taken = accept(mode, vector, level, trigger, destMap);
      const asserted = trigger === 0 || level !== 0;
      if (!VECTOR_MODES.has(mode) || !asserted) return taken;
      if (taken === 0) this.#lost.set(vector, (this.#lost.get(vector) ?? 0) + 1);
      else this.add(vector);
      return taken;
    };
  }

  override nameOf(vector: number): string {
    return `vector ${hex(vector)}`;
  }

  protected override waits(vector: number): boolean {
    const word = this.#lapic.regs[(APIC_IRR >> 2) + 4 * (vector >> 5)];
    return (word & (1 << (vector & 31))) !== 0;
  }

  override *problems(): Generator<string> {
    yield* super.problems();
    for (const [vector, count] of this.#lost)
      yield `vCPU ${this.id}: ${this.nameOf(vector)} was sent ${times(count)} to a local APIC that is off, and lost`;
  }
}
