/**
 * What an ITS looked up before: device and event of a message → LPI. A message that is found here is delivered at once,
 * whatever its flags say (arch/arm64/kvm/vgic/vgic-its.c:vgic_its_inject_cached_translation, 6.1).
 *
 * Until 6.9 all ITSes of a VM share 16 entries a processor, of which the one that was not used for the longest time
 * makes room; from 6.10 on there is no limit.
 */
import type { GicIrq } from "./gic.ts";

/** Entries that a processor adds to the shared cache (LPI_DEFAULT_PCPU_CACHE_SIZE, 6.1). */
export const ENTRIES_PER_CPU = 16;

/** Ids beyond 16 bits cannot be mapped, so they are never cached. */
const keyOf = (its: number, device: number, event: number): number =>
  device < 0x1_0000 && event < 0x1_0000 ? its * 0x1_0000_0000 + device * 0x1_0000 + event : -1;

export class TranslationCache {
  /** in the order of their use, the latest last */
  readonly #entries = new Map<number, GicIrq>();
  /** how many entries there may be */
  capacity = 0;

  find(its: number, device: number, event: number): GicIrq | undefined {
    const key = keyOf(its, device, event);
    const irq = this.#entries.get(key);
    if (irq !== undefined && this.capacity !== Number.POSITIVE_INFINITY) {
      this.#entries.delete(key);
      this.#entries.set(key, irq);
    }
    return irq;
  }

  add(its: number, device: number, event: number, irq: GicIrq): void {
    if (this.capacity === 0) return;
    const key = keyOf(its, device, event);
    if (key < 0 || this.#entries.has(key)) return;
    if (this.#entries.size >= this.capacity) {
      const [oldest] = this.#entries.keys();
      this.#entries.delete(oldest);
    }
    this.#entries.set(key, irq);
  }

  clear(): void {
    this.#entries.clear();
  }

  get size(): number {
    return this.#entries.size;
  }
}
