/**
 * Which EOIs a local APIC reports to an IOAPIC, in the kernel or in user space (`ioapic_handled_vectors` of struct
 * kvm_vcpu_arch; arch/x86/kvm/x86.c:vcpu_scan_ioapic, arch/x86/kvm/ioapic.c:kvm_ioapic_scan_entry, 6.1 and 6.18).
 *
 * They are worked out as the vCPU next enters its guest after something changed: what is in flight by then counts, and
 * what has been ended by then does not.
 */
import { newWords } from "../abi/slab.ts";
import type { ApicSystem } from "./apic-system.ts";

export class EoiReports {
  readonly #system: ApicSystem;
  /** a set of 256 vectors */
  readonly #vectors = newWords(8);
  /** the change that was looked at last; −1: nothing was */
  #scan = -1;
  /** the highest vector that is reported only because it was in flight */
  #stale = -1;

  constructor(system: ApicSystem) {
    this.#system = system;
  }

  /** They have to be worked out anew (KVM_REQ_SCAN_IOAPIC). */
  get due(): boolean {
    return this.#scan !== this.#system.scans;
  }

  /** Of this local APIC alone. */
  request(): void {
    this.#scan = -1;
  }

  /** The request is taken; what was reported stays as it was. */
  taken(): void {
    this.#scan = this.#system.scans;
  }

  /** The request is taken; `add` for each pin follows. */
  begin(): void {
    this.taken();
    this.#vectors.fill(0);
    this.#stale = -1;
  }

  /** A pin has this vector: does it lead here, does the vector wait or is it in service here? */
  add(vector: number, leadsHere: boolean, inFlight: boolean): void {
    if (!leadsHere && !inFlight) return;
    this.#vectors[vector >> 5] |= 1 << (vector & 31);
    if (!leadsHere && vector > this.#stale) this.#stale = vector;
  }

  /** Whether the EOI of a vector is reported. */
  has(vector: number): boolean {
    return (this.#vectors[vector >> 5] & (1 << (vector & 31))) !== 0;
  }

  /** It was: once what was in flight is over, the vector is looked at again (6.15). */
  reported(vector: number): void {
    if (vector === this.#stale) this.request();
  }
}
