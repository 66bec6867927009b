/**
 * What the interrupt controller of one vCPU was given, by number: vectors of a local APIC, INTIDs of a GIC, sources of a
 * XICS or XIVE (its interrupts from other processors are number 2). What counts as a delivery is the controller's matter
 * (`watch-….ts`).
 */

export abstract class WatchedVcpu {
  readonly id: number;
  readonly #delivered = new Map<number, number>();
  /** deliveries that the test knew of, by number */
  readonly #expected = new Map<number, number>();

  constructor(id: number) {
    this.id = id;
  }

  /** What a number is called: "vector 0x41", "INTID 35". */
  abstract nameOf(number: number): string;

  /** Whether the guest has yet to take it. */
  protected abstract waits(number: number): boolean;

  protected add(number: number): void {
    this.#delivered.set(number, this.delivered(number) + 1);
  }

  /** How often a number was delivered. */
  delivered(number: number): number {
    return this.#delivered.get(number) ?? 0;
  }

  /** The test knows of all deliveries of a number up to now. */
  expected(number: number): void {
    this.#expected.set(number, this.delivered(number));
  }

  /** Every number that was delivered, and how often. */
  get deliveries(): ReadonlyMap<number, number> {
    return this.#delivered;
  }

  /** What is wrong, in words. */
  *problems(): Generator<string> {
    for (const [number, times] of this.#delivered)
      if (this.waits(number) && times > (this.#expected.get(number) ?? 0))
        yield `vCPU ${this.id}: ${this.nameOf(number)} waits, and neither did the guest take it nor the test expect it`;
  }
}

export const hex = (value: number): string => `0x${value.toString(16)}`;
export const times = (count: number): string => (count === 1 ? "once" : `${count} times`);
